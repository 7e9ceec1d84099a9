"""The command line, in this process: tiny networks and images."""

import csv
import errno
import io
import json
import os
import pathlib
import shlex
import shutil
import signal
import subprocess
import sys
import time
import zipfile

import h5py
import keras
import numpy as np
import PIL.Image
import pytest

import keras_ddim
from keras_ddim import callbacks, cli, encoders, optimal_times, plots

NAMES = ["Boot", "Sandal", "Sneaker"]
TINY = ["--image-size", "8", "--widths", "8", "--times", "2", "1,0.5", "1"]


def run(command, *arguments):
    return cli.main([command, *map(str, arguments)])


def train(output, *arguments):
    plain = ["--num-images", "64", "--no-labels"]
    return run("train", *TINY, *plain, "--output", output, *arguments)


def resume(output, *arguments):
    return run("train", "--output", output, "--resume", *arguments)


def size_of(path):
    with PIL.Image.open(path) as image:
        image.load()
        return image.size


def error_of(capsys, status):
    """The message on the screen, which must be one line."""
    message = capsys.readouterr().err
    assert status == 1
    assert message.startswith("keras-ddim: error: ") and message.count("\n") == 1
    return message


def interrupt(*args, **kwargs):
    raise KeyboardInterrupt


def files_of(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.fixture(scope="module", autouse=True)
def eagerly_throughout():
    """Compiles nothing, which takes longer than the few steps of these tests."""
    with pytest.MonkeyPatch.context() as patch:
        always = property(lambda model: True, lambda model, value: None)
        patch.setattr(keras_ddim.DiffusionModel, "run_eagerly", always)
        yield


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder of a run of two epochs."""
    output = tmp_path_factory.mktemp("trained") / "new" / "folder"
    assert train(output, "--epochs", "2", "--flip") == 0
    return output


@pytest.fixture
def folder(trained, tmp_path):
    """A copy of it, to change."""
    return shutil.copytree(trained, tmp_path / "run")


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for name in NAMES:
        for index in range(12):
            plots.save_image(rng.random((8, 8, 3)), folder / name / f"{index}.png")
    return folder


@pytest.fixture(scope="module")
def of_classes(photos, tmp_path_factory):
    """The folder of a run on three classes."""
    output = tmp_path_factory.mktemp("classes")
    data = ["--data", photos, "--labels", "--epochs", "1"]
    assert run("train", *TINY, *data, "--output", output) == 0
    return output


# train


def test_training_leaves_its_files(trained):
    names = {"model.keras", "history.csv", "samples", "samples.png", "times.png", "history.png"}
    assert {path.name for path in trained.iterdir()} == names
    assert sorted(os.listdir(trained / "samples")) == ["epoch_001.png", "epoch_002.png"]
    with open(trained / "history.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert all(np.isfinite(float(value)) for row in rows for value in row.values())
    side = 9 * 8 + 1  # images of 8 + 1 pixels, and a margin of 1
    assert size_of(trained / "samples.png") == (side * (1024 // side),) * 2
    model = keras.saving.load_model(trained / "model.keras")
    assert model.image_shape == (8, 8, 3) and model.ema == 1
    assert float(model.optimizer.learning_rate) < 1e-6  # at the end of the run


def test_a_run_is_not_replaced_by_accident(folder, capsys):
    before = files_of(folder)
    assert "--resume" in error_of(capsys, train(folder, "--epochs", "1"))
    assert files_of(folder) == before


def test_resuming_continues_as_before(folder, capsys):
    steps = int(keras.saving.load_model(folder / "model.keras").optimizer.iterations)
    capsys.readouterr()
    assert resume(folder, "--epochs", "4", "--learning-rate", "5e-4") == 0
    said = capsys.readouterr().out
    assert "2 of 4 epochs" in said and str(folder / "samples.png") in said
    *_, again = said.strip().splitlines()
    words = "--num-images 64 --no-labels --flip --learning-rate 0.0005 --widths 8"
    assert all(word in again for word in words.split()) and "--resume" not in again
    model = keras.saving.load_model(folder / "model.keras")
    assert [row["epoch"] for row in model.metadata["history"]] == [1, 2, 3, 4]
    assert int(model.optimizer.iterations) == 2 * steps
    assert float(model.optimizer.learning_rate) < 1e-6  # as if four had been planned
    assert (folder / "samples" / "epoch_003.png").exists()


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--epochs", "1"], "2 epochs already"),
        (["--image-size", "16", "--epochs", "3"], "--image-size cannot be changed"),
        (["--image-size", "32", "--epochs", "3"], "--image-size cannot be changed"),
        (["--ema", "0.9", "--epochs", "3"], "--ema cannot be changed"),
        (["--labels", "--epochs", "3"], "the data have classes"),
    ],
)
def test_resuming_refuses_contradictions(folder, capsys, arguments, message):
    assert message in error_of(capsys, resume(folder, *arguments))


def contents(path):
    """All that is in the file of a model, except when it was written."""
    with zipfile.ZipFile(path) as file:
        weights = h5py.File(io.BytesIO(file.read("model.weights.h5")))
        arrays = {}
        weights.visititems(lambda name, a: hasattr(a, "dtype") and arrays.update({name: a[()]}))
        return json.loads(file.read("config.json"))["config"]["metadata"], arrays


def test_a_run_stopped_behind_its_model_ends_as_if_it_had_not_been(
    trained, tmp_path, monkeypatch, capsys
):
    """Once after the first epoch, and once after the last."""

    def stop(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    output = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(callbacks.SaveHistory, "on_epoch_end", stop)
        assert "No space" in error_of(capsys, train(output, "--epochs", "2", "--flip"))
    with monkeypatch.context() as patch:
        patch.setattr(callbacks.SampleGrid, "on_epoch_end", interrupt)
        assert resume(output) == 130
    message = capsys.readouterr().err.strip()
    assert message == f"Interrupted. To resume: keras-ddim train --resume --output {output}"
    assert resume(output) == 0
    (metadata, arrays), (metadata_of_run, arrays_of_run) = (
        contents(f / "model.keras") for f in (trained, output)
    )
    assert metadata == metadata_of_run
    assert arrays.keys() == arrays_of_run.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(array, arrays_of_run[name], err_msg=name)
    files, files_of_run = files_of(trained), files_of(output)
    assert files.keys() == files_of_run.keys()
    assert [name for name in files if files[name] != files_of_run[name]] in ([], ["model.keras"])


def test_a_run_that_diverges_leaves_the_model_of_before(folder, capsys):
    before = files_of(folder)
    error_of(capsys, resume(folder, "--epochs", "3", "--learning-rate", "1e12"))
    assert files_of(folder) == before


def test_overwriting_keeps_the_model_until_there_is_another(folder, capsys, monkeypatch):
    before = (folder / "model.keras").read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(keras_ddim.DiffusionModel, "fit", interrupt)
        assert train(folder, "--overwrite") == 130
    assert "No epoch was finished" in capsys.readouterr().err
    assert (folder / "model.keras").read_bytes() == before
    monkeypatch.setattr(callbacks.SampleGrid, "on_epoch_end", interrupt)
    assert train(folder, "--overwrite", "--epochs", "3", "--steps-per-epoch", "7") == 130
    model = keras.saving.load_model(folder / "model.keras")
    assert int(model.optimizer.iterations) == 7
    assert sorted(files_of(folder)) == ["history.csv", "model.keras"]


def test_fine_tuning_starts_from_a_model(trained, of_classes, tmp_path):
    options = ["--epochs", "1", "--learning-rate", "1e-9", "--no-pictures", "--num-images", "32"]
    for start, output in ((trained, tmp_path / "same"), (of_classes, tmp_path / "classes")):
        tuning = ["--from-preset", start, *options, "--no-labels", "--output", output]
        assert run("train", *tuning) == 0
        assert keras.saving.load_model(output / "model.keras").class_names is None
    before, after = (
        keras.saving.load_model(f / "model.keras") for f in (trained, tmp_path / "same")
    )
    for old, new in zip(before.ema_network.get_weights(), after.network.get_weights()):
        if old.ndim > 1:  # not the statistics of batch normalization
            np.testing.assert_allclose(new, old, atol=1e-6)
    assert after.metadata["settings"]["image_size"] == [8, 8]


@pytest.mark.slow
def test_interrupt_from_the_keyboard(tmp_path):
    command = [sys.executable, "-m", "keras_ddim", "train", *TINY, "--no-labels"]
    options = ["--num-images", "64", "--epochs", "10000", "--output", str(tmp_path)]
    process = subprocess.Popen(
        [*command, *options],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        # Shells start what runs in the background with Ctrl-C ignored, and children inherit it.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        deadline = time.monotonic() + 120
        while not (tmp_path / "samples" / "epoch_001.png").exists():
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        message = process.communicate(timeout=60)[1]
    finally:
        process.kill()
    assert process.returncode == 130
    assert message.strip().startswith("Interrupted. To resume: keras-ddim train --resume")
    assert np.isfinite(keras.saving.load_model(tmp_path / "model.keras").generate(2, 2)).all()
    assert not [name for name in files_of(tmp_path) if name.startswith(".")]


@pytest.mark.slow
def test_killed_runs_end_as_if_nothing_had_been():
    script = pathlib.Path(__file__).parent / "benchmarks" / "kills.py"
    subprocess.run([sys.executable, script, "--kills", "3"], check=True, timeout=1200)


# generate


def test_generating_draws_a_picture_and_says_how(trained, tmp_path, capsys):
    path = tmp_path / "pictures" / "generated.png"
    arguments = ["--times", "1,0.8,0.5,0.2", "--num-images", "6", "--columns", "6"]
    assert run("generate", trained, *arguments, "--output", path) == 0
    assert size_of(path) == (55 * (1024 // 55), 10 * (1024 // 55))
    said, again = capsys.readouterr().out.splitlines()
    assert said.startswith(f"{path}: 6 images of 8x8x3, seed ")
    assert said.endswith(", UniPC, 4 steps (1, 0.8, 0.5, 0.2), no guidance")
    first = path.read_bytes()
    assert cli.main(shlex.split(again.removeprefix("Again: keras-ddim "))) == 0
    assert path.read_bytes() == first
    assert run("generate", trained, *arguments, "--seed", "4", "--output", path) == 0
    assert path.read_bytes() != first


def test_generating_separate_files(trained, tmp_path, capsys, monkeypatch):
    def images(name, *arguments):
        shared = ["--times", "2", "--batch-size", "4", "--separate", tmp_path / name]
        return run("generate", trained, *shared, *arguments)

    assert images("all", "--num-images", "10", "--seed", "3") == 0
    assert sorted(files_of(tmp_path / "all"))[:-1] == [f"{i:05d}.png" for i in range(10)]
    assert size_of(tmp_path / "all" / "00009.png") == (8, 8)
    with monkeypatch.context() as patch:
        save, numbers = plots.save_image, iter(range(5))
        patch.setattr(
            plots,
            "save_image",
            lambda image, path: interrupt() if next(numbers, 9) == 9 else save(image, path),
        )
        assert images("some", "--num-images", "7", "--seed", "3") == 130
    assert capsys.readouterr().err == "\nInterrupted.\n"
    assert len(files_of(tmp_path / "some")) == 6
    # Without a seed, too: with that of the images there.
    assert images("some", "--num-images", "10") == 0
    assert "seed 3" in capsys.readouterr().out
    assert files_of(tmp_path / "some") == files_of(tmp_path / "all")
    assert "other settings" in error_of(capsys, images("some", "--seed", "4"))


def test_generating_an_animation(trained, tmp_path):
    path = tmp_path / "way.gif"
    arguments = ["--num-images", "2", "--times", "3", "--output", tmp_path / "grid.png"]
    assert run("generate", trained, *arguments, "--animation", path) == 0
    with PIL.Image.open(path) as image:
        assert image.n_frames == 4


def test_generating_by_label(of_classes, tmp_path, capsys):
    assert keras.saving.load_model(of_classes / "model.keras").class_names == NAMES
    picture, several = tmp_path / "one.png", tmp_path / "several.png"
    options = ["--num-images", "4", "--times", "2", "--seed", "0"]
    one = ["--label", "sneaker", "--guidance-scale", "2", "--guidance-interval", "0.1", "0.9"]
    assert run("generate", of_classes, *options, *one, "--output", picture) == 0
    assert "guidance scale 2 at times from 0.1 to 0.9" in capsys.readouterr().out
    labels = ["--label", "boot", "2"]
    assert run("generate", of_classes, *options, *labels, "--output", several) == 0
    assert "8 images" in capsys.readouterr().out
    assert size_of(several)[0] > 1.5 * size_of(several)[1]
    message = error_of(capsys, run("generate", of_classes, "--label", "hat"))
    assert "0 'Boot', 1 'Sandal', 2 'Sneaker'" in message


# edit


@pytest.fixture
def files(tmp_path):
    """Two images and a mask, whose upper half is white."""
    pixels = np.random.default_rng(1).integers(0, 256, (2, 8, 8, 3), "uint8")
    for name, image in zip("ab", pixels):
        PIL.Image.fromarray(image).save(tmp_path / f"{name}.png")
    mask = np.repeat([255, 0], 4).astype("uint8")[:, None] * np.ones((1, 8), "uint8")
    PIL.Image.fromarray(mask).save(tmp_path / "mask.png")
    return tmp_path, pixels


def test_editing(of_classes, files, capsys):
    folder, pixels = files
    options = ["--times", "0.6,0.3", "--label", "boot", "--guidance-scale", "2", "--seed", "0"]
    images = [folder / "a.png", folder / "b.png"]
    assert run("edit", of_classes, *images, *options, "--output", folder / "edited") == 0
    assert "seed 0, UniPC, 2 steps (0.6, 0.3), guidance scale 2" in capsys.readouterr().out
    assert sorted(files_of(folder / "edited")) == ["a.png", "b.png"]
    with PIL.Image.open(folder / "edited" / "a.png") as image:
        edited = np.asarray(image)
    assert edited.shape == (8, 8, 3) and (edited != pixels[0]).any()


def test_editing_with_a_mask(of_classes, files):
    folder, pixels = files
    options = ["--mask", folder / "mask.png", "--times", "1,0.5", "--output", folder / "new"]
    assert run("edit", of_classes, folder / "a.png", *options) == 0
    with PIL.Image.open(folder / "new" / "a.png") as image:
        edited = np.asarray(image)
    np.testing.assert_array_equal(edited[:4], pixels[0, :4])
    assert (edited[4:] != pixels[0, 4:]).any()


# evaluate


@pytest.fixture
def evaluate(tmp_path, monkeypatch):
    """Evaluates a model into a folder, and returns the results."""
    monkeypatch.setattr(cli.evaluate, "CLASSIFIER_STEPS", 3)

    def evaluate(model, *arguments):
        output = tmp_path / "evaluation"
        assert run("evaluate", model, "--num-images", "8", *arguments, "--output", output) == 0
        return json.loads((output / "results.json").read_text())

    return evaluate


def test_evaluating_leaves_its_files(evaluate, trained, tmp_path, capsys):
    options = ["--times", "1", "1,0.5", "--sampler", "heun", "--seed", "3"]
    results = evaluate(trained, *options)
    said = capsys.readouterr().out
    folder = tmp_path / "evaluation"
    names = ["classifier.keras", "nearest.png", "results.json", "table.md"]
    assert sorted(os.listdir(folder)) == names
    assert (folder / "table.md").read_text() in said
    assert [row["evaluations"] for row in results["rows"]] == [None, 1, 3, None]
    # The data are those of training, and so are those kept from it.
    assert results["data_options"]["source"] == "plain_flowers"
    assert results["data_options"]["num_images"] == 64
    assert results["real_images"] == 8
    # The classifier is trained once for the same data.
    kept = (folder / "classifier.keras").read_bytes()
    assert evaluate(trained, *options)["rows"] == results["rows"]
    assert (folder / "classifier.keras").read_bytes() == kept
    classifier = folder / "classifier.keras"
    assert evaluate(trained, *options, "--encoder", classifier)["rows"] == results["rows"]
    evaluate(trained, "--times", "1", "--data", "flowers")
    assert encoders.load_classifier(classifier).data == "flowers"


def test_evaluating_classes(evaluate, of_classes, photos, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)  # the images are found from anywhere
    options = ["--times", "1", "--guidance-scale", "2"]
    results = evaluate(of_classes, *options)
    assert results["data_options"]["source"] == str(photos)
    assert [row["evaluations"] for row in results["rows"]] == [None, 2, None]
    data = ["--data", photos, "--validation-split", "0.5"]
    results = evaluate(of_classes, *options, *data, "--label", "sandal")
    assert 4 <= results["real_images"] <= 8  # of about six


def test_evaluating_with_inception(evaluate, trained, monkeypatch, capsys):
    class Flat(encoders.InceptionV3):
        def __call__(self, images):
            return images[:, ::4, ::4, 0].reshape(-1, 4)

    monkeypatch.setattr(encoders, "InceptionV3", Flat)
    inception = ["--encoder", "inception_v3", "--encoder-size", "75"]
    assert evaluate(trained, *inception, "--times", "1")["encoder"] == "InceptionV3 at 75x75"
    assert "| FID | KID |" in capsys.readouterr().out


# optimize-times


FEW = ["--num-images", "4", "--teacher-times", "8"]


def test_optimized_times_are_written_into_the_file(folder, capsys, monkeypatch):
    monkeypatch.chdir(folder)
    before = keras.saving.load_model("model.keras")
    assert run("optimize-times", ".", "--sampler", "ddim", "--times", "2", *FEW) == 0
    assert "| 2 |" in capsys.readouterr().out
    assert size_of(folder / "best_times.png")[0] > 800
    model = keras.saving.load_model("model.keras")
    assert len(model.kept_times("best:2", "ddim")) == 2
    for value, old_value in zip(model.optimizer.variables, before.optimizer.variables):
        np.testing.assert_array_equal(value, old_value)
    use = ["--sampler", "ddim", "--num-images", "2"]
    assert run("generate", ".", *use, "--times", "best:2") == 0
    assert "DDIM, 2 steps (best:2)" in capsys.readouterr().out
    message = error_of(capsys, run("generate", ".", *use, "--times", "best:9"))
    assert "'best:2' for DDIM" in message


def test_interrupted_times_are_written(folder, capsys, monkeypatch):
    monkeypatch.chdir(folder)

    def find_once(self, num_times):
        return np.array([1.0, 0.5]) if num_times == 2 else interrupt()

    monkeypatch.setattr(optimal_times.Optimizer, "find", find_once)
    assert run("optimize-times", "model.keras", "--times", "2", "3", *FEW) == 130
    assert "Interrupted." in capsys.readouterr().err
    assert len(keras.saving.load_model("model.keras").kept_times("best:2")) == 2


def test_optimized_times_by_features(folder, capsys, monkeypatch):
    monkeypatch.chdir(folder)
    monkeypatch.setattr(optimal_times.Optimizer, "find", lambda self, n: np.array([1.0, 0.5]))
    encoders.Classifier((8, 8, 3)).save("classifier.keras")
    arguments = ["--times", "2", *FEW, "--encoder", "classifier.keras"]
    assert run("optimize-times", "model.keras", *arguments) == 0
    assert "data      plain_flowers" in capsys.readouterr().out
    model = keras.saving.load_model("model.keras")
    del model.metadata["settings"]
    model.save("other.keras")
    assert run("optimize-times", "other.keras", *arguments) == 0
    assert "comparing with its own images" in capsys.readouterr().out


# distill


def test_distilling_is_resumed(folder, capsys, monkeypatch):
    monkeypatch.chdir(folder)
    monkeypatch.setattr(keras_ddim.distillation, "NUM_TRAJECTORIES", 4)
    monkeypatch.setattr(cli.distill, "STEPS_PER_SAVE", 2)
    command = ["distill", "model.keras", "--steps"]
    assert run(*command, 2, "--batch-size", 4, "--seed", 1) == 0
    assert "training  2 of 2 steps" in capsys.readouterr().out
    assert size_of(folder / "few_steps.png")[1] > 300
    assert "either --resume its training" in error_of(capsys, run(*command, 4))
    assert run(*command, 4, "--resume") == 0
    assert "training  2 of 4 steps" in capsys.readouterr().out
    student = keras.saving.load_model("fast.keras")
    assert int(student.optimizer.iterations) == 4
    settings = {"guidance_scale": 1.0, "batch_size": 4, "seed": 1}
    assert student.metadata["distillation"] == settings
    assert "more --steps in total" in error_of(capsys, run(*command, 2, "--resume"))
    assert run("generate", "fast.keras", "--times", "2", "--num-images", "2") == 0
    assert "DDIM, 2 steps" in capsys.readouterr().out


# The program


def test_help_and_version(capsys):
    for arguments, default in (
        ([], ""),
        (["train"], "(default: 1 3 5 1.0,0.8,0.5,0.2 20 50)"),
        (["generate"], "(default: generated.png)"),
        (["edit"], "(default: 0.6,0.4,0.2)"),
        (["evaluate"], "(default: classifier)"),
        (["optimize-times"], "(default: 3 4 5 8)"),
        (["distill"], "(default: fast.keras)"),
    ):
        assert cli.main([*arguments, "--help"]) == 0
        output = capsys.readouterr().out
        assert "examples:" in output and default in " ".join(output.split())
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out.strip() == keras_ddim.__version__


def test_module_runs_as_a_program_without_tensorflows_log():
    command = [sys.executable, "-m", "keras_ddim", "generate", "none.keras"]
    wrong = subprocess.run(command, capture_output=True, text=True)
    assert wrong.returncode == 1
    assert wrong.stderr.startswith("keras-ddim: error: `preset` must be a saved `DiffusionModel`")
    assert wrong.stderr.count("\n") == 1
