"""What the command line answers to mistakes: at once, on one line, by the names of the options."""

import functools
import os
import pathlib
import zipfile

import keras
import pytest

import keras_ddim
from keras_ddim import cli, plots

MISTAKES = [
    # commands and options
    ("", "COMMAND"),
    ("paint", "COMMAND must be one of train, generate, edit, evaluate, optimize-times"),
    ("sample flowers", "did you mean generate?"),
    ("optimise-times flowers", "did you mean optimize-times?"),
    (
        "train --batchsize 8",
        "there is no --batchsize. Received: --batchsize 8; did you mean --",
    ),
    ("train --steps 100 --unknown", "--unknown"),
    ("train --epochs", "--epochs: expected one argument"),
    ("generate", "MODEL"),
    # numbers and lists
    ("train --epochs ten", "--epochs: must be an integer of at least 1. Received: 'ten'"),
    ("train --epochs -1", "--epochs: must be an integer of at least 1"),
    ("train --image-size 48x96x3", "such as 48x96. Received: '48x96x3'"),
    ("train --image-size 48,96", "did you mean 48x96?"),
    ("train --image-size 0", "--image-size: must be"),
    ("train --widths 16-32", "--widths: must be a list of integers of at least 1, such as 16,32"),
    ("train --widths 16-32", "did you mean 16,32?"),
    ("train --widths 32,,64", "did you mean 32,64?"),
    ("train --learning-rate nan", "--learning-rate: must be a number above 0"),
    ("train --validation-split 20", "--validation-split: must be a part of all, from 0 to below 1"),
    ("train --ema 1.1", "--ema: must be a number from 0 to 1"),
    ("train --channels 2", "--channels: must be one of 1, 3, 4"),
    ("train --times 20 0", "--times: must be a number of times"),
    ("generate flowers --times 1;0.8;0.5", "did you mean 1,0.8,0.5?"),
    ("generate flowers --times 1 0.8 0.5", "a list is written 1,0.8,0.5"),
    ("generate flowers --times 1,0.5,1.5", "Received: '1,0.5,1.5'"),
    ("generate flowers --times 1,nan", "Received: '1,nan'"),
    ("generate flowers --times=", "--times: must be"),
    ("generate flowers --times 0.2,0.5 --sampler unipc", "--times must decrease strictly with"),
    (
        "generate flowers --times best:6",
        "--times must be a number of times, a list of them",
    ),
    ("generate flowers --seed -1", "--seed: must be an integer of at least 0"),
    ("generate flowers --guidance-interval 0.9,0.1", "the lower first, such as 0.2,0.8"),
    (
        "generate mine.keras --guidance-scale 2",
        "--guidance-scale must be 1 where there are neither",
    ),
    # names
    ("generate flowers --sampler DDIMM", "did you mean ddim?"),
    ("generate flowers --sampler euler_a", "--sampler: must be one of adams_bashforth, ddim"),
    ("generate flowers --clip true", "--clip: must be one of none, static, dynamic"),
    (
        "generate mine.keras --label rose",
        "--label must be None for a model whose network takes none",
    ),
    ("generate flower", "no preset but fashion_mnist, flowers; did you mean flowers?"),
    (
        "generate modle.keras",
        "there is no file modle.keras, and no preset but ",
    ),
    ("generate empty", "must be a file, or a folder with model.keras in it. Received: 'empty'"),
    ("generate text.keras", "text.keras cannot be loaded: BadZipFile: File is not a zip file"),
    ("train --from-preset fowlers", "did you mean flowers?"),
    ("train --data fashion-mnist", "did you mean fashion_mnist?"),
    ("train --data CIFAR-10", "did you mean cifar10?"),
    ("train --data no_such_data_set", "no folder, and no name in TensorFlow Datasets"),
    ("train --data pohtos/", "there is no such folder; did you mean photos?"),
    ("train --data empty/", "--data must be a folder with image files"),
    ("train --data text.keras", "--data must be a folder, not a file"),
    (
        "train --data photos --labels",
        "--labels needs --data to be a folder whose images are",
    ),
    # files and folders
    ("train --output model.keras", "--output: must be a folder, not a file"),
    ("train --output runs/flowers.keras", "did you mean runs/flowers?"),
    ("edit flowers photos/a.png --output b.png", "did you mean b?"),
    ("generate flowers --output empty", "did you mean empty/picture.png?"),
    ("generate flowers --output out.bmp", "must be the file of a picture, ending in .png"),
    ("generate flowers --output text.keras/x.png", "must be in a folder to write to"),
    ("generate flowers --animation way.mp4", "--animation: must be the file of an animation"),
    # what does not go together
    (
        "train --image-size 9 --widths 8,16",
        "--image-size must have a height and width",
    ),
    ("train --from-preset flowers --widths 8", "--widths is that of the model with --from-preset"),
    ("train --resume --overwrite", "--resume and --overwrite exclude each other"),
    ("train --resume", "model.keras"),
    ("optimize-times mine.keras --encoder a.png", "--encoder: must be the .keras file of a"),
    ("optimize-times flowers", "--output must name another file"),
    # evaluation, which would train a classifier first
    ("evaluate mine.keras", "mine.keras does not say what it was trained on; give its --data"),
    ("evaluate flowers --data flowers --times 0.2,0.5 --sampler unipc", "--times must decrease"),
    ("evaluate mine.keras --data flowers --guidance-scale 2", "--guidance-scale must be 1 where"),
    ("evaluate mine.keras --data flowers --label rose", "--label must be None for a model"),
    ("evaluate flowers --data flowers --num-images 3", "an integer of at least 4"),
    ("evaluate flowers --encoder vgg", "must be classifier, inception_v3, or the .keras file"),
    ("evaluate flowers --encoder inception-v3", "did you mean inception_v3?"),
    ("evaluate flowers --encoder-weights w.h5", "--encoder-weights: must be imagenet or a file"),
    ("evaluate flowers --output results.json", "did you mean results?"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with what newcomers have in theirs."""
    path = tmp_path_factory.mktemp("folder")
    (path / "empty").mkdir()
    plots.save_image([[[0.5, 0.2, 0.1]]], path / "photos" / "a.png")
    (path / "text.keras").write_text("no model")
    with zipfile.ZipFile(path / "model.keras", "w"):
        pass
    keras_ddim.recipe((8, 8, 3), 10, widths=(4,)).save(path / "mine.keras")
    return path


@pytest.fixture(scope="module", autouse=True)
def load_once():
    """Loads each model once, which takes longer than all the rest."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(keras.saving, "load_model", functools.cache(keras.saving.load_model))
        yield


@pytest.mark.parametrize("typed, answer", MISTAKES)
def test_mistakes(typed, answer, folder, capsys, monkeypatch):
    monkeypatch.chdir(folder)
    before = sorted(pathlib.Path().rglob("*"))
    assert cli.main(typed.split()) == 2
    error = capsys.readouterr().err
    assert error.startswith("keras-ddim") and error.count("\n") == 1 and error[-1] == "\n"
    assert answer in error
    assert not any(name in error for name in ("`source`", "`diffusion_times`", "Traceback"))
    assert sorted(pathlib.Path().rglob("*")) == before


@pytest.mark.parametrize(
    "typed, option, value",
    [
        ("generate flowers --times 1, 0.8, 0.5", "times", (1.0, 0.8, 0.5)),
        ("generate flowers --times 1,0.8, 0.5", "times", (1.0, 0.8, 0.5)),
        ("train --times 0.5, --widths 8, 16", "times", [(0.5,)]),
        ("train --times 0.5, --widths 8, 16", "widths", (8, 16)),
        ("generate flowers --sampler DDIM", "sampler", "ddim"),
        ("generate flowers --schedule Log-SNR-Linear", "schedule", "log_snr_linear"),
        ("train --dtype-policy Mixed_Float16", "dtype_policy", "mixed_float16"),
        ("train --channels 3", "channels", 3),
        ("generate run", "model", os.path.join("run", "model.keras")),
    ],
)
def test_what_is_understood(typed, option, value, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "model.keras").touch()
    assert cli.options.parse(cli.COMMANDS, typed.split())[1].given[option] == value


def test_a_folder_named_as_the_drawn_flowers(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "flowers").mkdir()
    with pytest.warns(UserWarning, match="means the drawn ones; the folder is ./flowers"):
        cli.options.check_data("flowers", None)
    with cli.options.plain_warnings():
        assert cli.options.warnings.formatwarning("Careful", None, None, 1) == (
            "keras-ddim: warning: Careful\n"
        )
