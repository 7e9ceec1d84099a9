"""Mistakes on the command line: exit code 2 or 1, one line, nothing written."""

import functools
import pathlib
import shlex
import zipfile

import keras
import pytest

import keras_ddim
from keras_ddim import cli, plots

WRONG_USE = [
    ("", "required: COMMAND"),
    ("paint", "invalid choice: 'paint'"),
    ("train --batchsize 8", "unrecognized arguments: --batchsize"),
    ("train --epochs", "--epochs: expected one argument"),
    ("generate", "required: MODEL"),
    ("train --epochs ten", "--epochs: invalid int value: 'ten'"),
    ("train --image-size 48x96x3", "--image-size: invalid size value: '48x96x3'"),
    ("train --widths 16-32", "--widths: invalid integers value: '16-32'"),
    ("train --channels 2", "--channels: invalid choice: 2"),
    ("generate flowers --times 1;0.8", "--times: invalid times value: '1;0.8'"),
    ("generate flowers --times 1 0.8 0.5", "unrecognized arguments: 0.8 0.5"),
    ("generate flowers --sampler euler_a", "--sampler: invalid choice: 'euler_a'"),
    ("generate flowers --guidance-interval 0.2", "--guidance-interval: expected 2 arguments"),
]
ERRORS = [
    # models
    ("generate flower", "one of fashion_mnist, fashion_mnist_fast, flowers, got 'flower'"),
    ("generate empty", "`preset` must be"),
    ("generate text.keras", "got 'text.keras' (BadZipFile"),
    ("generate other.keras", "`preset` must be"),
    ("optimize-times flowers", "flowers is a preset: give another file with --output"),
    ("optimize-times mine.keras --output mine.h5", "ends in .keras"),
    ("distill mine.keras --output mine.h5", "ends in .keras"),
    ("distill mine.keras --steps 0", "`num_steps` must be an integer of at least 1, got 0"),
    ("distill mine.keras", "`model` must be trained, to be distilled"),
    ("distill mine.keras --resume", "got 'fast.keras'"),
    ("evaluate mine.keras --data flowers --encoder photos/a.png", "`path` must be"),
    # what generates
    ("generate mine.keras --times 1,0.5,1.5", "`diffusion_times[2]` must be in [0"),
    ("generate mine.keras --times 1,nan", "`diffusion_times[1]` must be in [0"),
    ("generate mine.keras --times 0", "`diffusion_times` must be"),
    ("generate mine.keras --times 0.2,0.5 --sampler unipc", "strictly decreasing"),
    ("generate mine.keras --times best:6", "or a name kept with the model"),
    ("generate mine.keras --num-images 0", "`num_images` must be an integer of at least 1, got 0"),
    ("generate mine.keras --label rose", "`labels` must be None"),
    ("generate mine.keras --guidance-scale 2", "`guidance_scale` must be 1 "),
    ("generate mine.keras --output out.bmp", "ends in .png"),
    ("edit mine.keras none.png", "none.png"),
    ("edit mine.keras text.keras", "text.keras"),
    ("edit mine.keras photos/a.png a.png", "same name"),
    # data and training
    ("train --data empty/ --image-size 8", "folder"),
    ("train --data text.keras --image-size 8", "folder"),
    ("train --data photos --labels --image-size 8", "photos"),
    ("train --image-size 9 --num-images 9 --widths 8,16", "divisible"),
    ("train --image-size 8 --num-images 9 --widths 4 --epochs 0", "must be"),
    ("train --image-size 8 --num-images 9 --widths 4 --learning-rate nan", "`learning_rate` must"),
    ("train --from-preset mine.keras --widths 8", "--widths cannot be changed"),
    ("train --resume", "got 'keras-ddim-output/model.keras'"),
    ("train --output run", "either --resume its training or --overwrite it"),
    ("train --output run --resume --overwrite", "either --resume its training or --overwrite it"),
    # evaluation, which would train a classifier first
    ("evaluate mine.keras", "the training data of mine.keras are unknown; pass --data"),
    ("evaluate mine.keras --data flowers --times 0.2,0.5 --sampler unipc", "strictly decreasing"),
    ("evaluate mine.keras --data flowers --guidance-scale 2", "`guidance_scale` must be 1 "),
    ("evaluate mine.keras --data flowers --label rose", "`labels` must be None"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("folder")
    (path / "empty").mkdir()
    for name in ("photos/a.png", "a.png"):
        plots.save_image([[[0.5, 0.2, 0.1]]], path / name)
    (path / "text.keras").write_text("no model")
    with zipfile.ZipFile(path / "other.keras", "w"):
        pass
    model = keras_ddim.recipe((8, 8, 3), 10, widths=(4,))
    (path / "run").mkdir()
    for name in ("mine.keras", "run/model.keras"):
        model.save(path / name)
    return path


@pytest.fixture(scope="module", autouse=True)
def load_once():
    """Loads each model once, which takes longer than all the rest."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(keras.saving, "load_model", functools.cache(keras.saving.load_model))
        yield


@pytest.mark.parametrize(
    "typed, answer, status",
    [(*mistake, 2) for mistake in WRONG_USE] + [(*mistake, 1) for mistake in ERRORS],
)
def test_mistakes(typed, answer, status, folder, capsys, monkeypatch):
    monkeypatch.chdir(folder)
    before = sorted(pathlib.Path().rglob("*"))
    assert cli.main(typed.split()) == status
    error = capsys.readouterr().err
    assert error.startswith("keras-ddim") and error.count("\n") == 1 and error[-1] == "\n"
    assert answer in error
    assert sorted(pathlib.Path().rglob("*")) == before


@pytest.mark.parametrize(
    "typed, name, value",
    [
        ("generate x --times 20", "times", 20),
        ("generate x --times 1,0.8,", "times", (1.0, 0.8)),
        ("generate x --times best:5", "times", "best:5"),
        ("evaluate x --times 2 0.5,0.1 best:5", "times", [2, (0.5, 0.1), "best:5"]),
        ("train --image-size 48x96", "image_size", (48, 96)),
        ("train --image-size 64", "image_size", (64, 64)),
        ("train --widths 8,16", "widths", (8, 16)),
        ("train --no-pictures", "pictures", False),
        ("generate x --guidance-interval 0.2 0.8", "guidance_interval", [0.2, 0.8]),
        ("generate x --label 'ankle boot' 3", "label", ["ankle boot", "3"]),
    ],
)
def test_options_mean_and_are_repeated(typed, name, value, capsys, monkeypatch):
    """What is printed as "Again" means the same, and is the shortest that does."""
    seen = []
    command, *_ = typed.split()
    monkeypatch.setattr(getattr(cli, command), "run", seen.append)
    for _ in range(2):
        assert cli.main(shlex.split(typed)) == 0
        assert getattr(seen[-1], name) == value
        again = capsys.readouterr().out.removeprefix("Again: keras-ddim ").strip()
        typed = again
        del seen[-1].given
    assert seen[0] == seen[1]
