import csv
import errno
import io
import json
import os
import pathlib
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

TINY = [
    *("--num-images", "64", "--image-size", "8", "--batch-size", "16"),
    *("--widths", "8", "--block-depth", "1", "--no-labels"),
]
TIMES = ["--times", "2", "1,0.5", "1"]


def train(output, *arguments):
    return cli.main(["train", *TINY, *TIMES, "--output", str(output), *arguments])


def resume(output, *arguments):
    return cli.main(["train", "--output", str(output), "--resume", *arguments])


def history_of(output):
    with open(output / "history.csv", newline="") as file:
        return list(csv.DictReader(file))


def size_of(path):
    with PIL.Image.open(path) as image:
        image.load()
        return image.size


def error_of(capsys, status):
    """The message on the screen, which must be one line."""
    message = capsys.readouterr().err
    assert status == 2
    assert message.startswith("keras-ddim") and message.count("\n") == 1 and message[-1] == "\n"
    return message


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder of a run of two epochs."""
    output = tmp_path_factory.mktemp("trained") / "new" / "folder"
    assert train(output, "--epochs", "2", "--flip") == 0
    return output


@pytest.fixture
def run(trained, tmp_path):
    """A copy of it, to change."""
    return shutil.copytree(trained, tmp_path / "run")


# train


def test_training_leaves_its_files(trained):
    assert {path.name for path in trained.iterdir()} == {
        *("model.keras", "history.csv"),
        *("samples", "samples.png", "times.png", "history.png"),
    }
    assert sorted(os.listdir(trained / "samples")) == ["epoch_001.png", "epoch_002.png"]
    rows = history_of(trained)
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert all(np.isfinite(float(value)) for row in rows for value in row.values())
    assert {"loss", "n_loss", "i_loss", "val_n_loss"} <= rows[0].keys()


def test_its_pictures_have_their_sizes(trained):
    def grid(images_a_side):
        side = 9 * images_a_side + 1  # images of 8 + 1 pixels, and a margin of 1
        return (side * (1024 // side),) * 2

    assert size_of(trained / "samples.png") == grid(8)
    assert size_of(trained / "samples" / "epoch_001.png") == grid(4)
    width, height = size_of(trained / "times.png")
    assert width / height > (9 * 8 + 1) / (9 * 3 + 1)  # there are labels beside the images
    # Versions of Matplotlib round differently.
    assert size_of(trained / "history.png") == pytest.approx((900, 350), abs=1)


def test_the_model_is_the_one_described(trained):
    model = keras.saving.load_model(trained / "model.keras")
    network = keras_ddim.ModulatedUNet((8, 8, 3), widths=(8,), block_depth=1)
    assert model.image_shape == (8, 8, 3)
    assert model.network.count_params() == network.count_params()
    assert model.ema == 1
    assert float(model.optimizer.learning_rate) < 1e-6  # at the end of the run


def test_a_run_is_not_replaced_by_accident(run, capsys):
    before = (run / "model.keras").read_bytes()
    assert "--resume" in error_of(capsys, train(run, "--epochs", "1"))
    assert (run / "model.keras").read_bytes() == before


def test_resuming_continues_as_before(run, capsys):
    before = history_of(run)
    steps = int(keras.saving.load_model(run / "model.keras").optimizer.iterations)
    assert resume(run, "--epochs", "4", "--learning-rate", "5e-4") == 0
    rows = history_of(run)
    assert rows[:2] == before and [row["epoch"] for row in rows] == ["1", "2", "3", "4"]
    # Knows more than a network does after its first epoch.
    assert float(rows[3]["val_loss"]) < float(rows[0]["val_loss"])
    model = keras.saving.load_model(run / "model.keras")
    assert int(model.optimizer.iterations) == 2 * steps
    schedule = model.optimizer._learning_rate
    assert float(schedule(steps)) == pytest.approx(2.5e-4, rel=0.1)  # halfway
    assert float(schedule(2 * steps)) < 1e-9
    assert (run / "samples" / "epoch_003.png").exists()
    output = capsys.readouterr().out
    assert "epochs 3 to 4" in output and str(run / "samples.png") in output
    assert f"Next: keras-ddim generate {run} --num-images 64 --seed 0\n" in output


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--epochs", "1"], "2 epochs already"),
        (["--image-size", "16", "--epochs", "3"], "--image-size"),
        (["--widths", "8,16", "--epochs", "3"], "--widths"),
        (["--ema", "0.9", "--epochs", "3"], "--ema is that of the model when resuming, 1.0"),
        # Although it is what would be the default of a new run.
        (["--image-size", "32", "--epochs", "3"], "8x8, not 32x32"),
    ],
)
def test_resuming_refuses_contradictions(run, capsys, arguments, message):
    assert message in error_of(capsys, resume(run, *arguments))


def test_resuming_refuses_images_of_another_shape(run, capsys, tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (40, 8, 8), "uint8")
    (tmp_path / "grey").mkdir()
    for index, image in enumerate(images):
        PIL.Image.fromarray(image).save(tmp_path / "grey" / f"{index}.png")
    status = resume(run, "--data", str(tmp_path / "grey"), "--epochs", "3")
    assert "1 channel" in error_of(capsys, status)


def test_nothing_to_resume(capsys, tmp_path):
    message = error_of(capsys, resume(tmp_path / "none"))
    assert "model.keras" in message
    assert not (tmp_path / "none").exists()


def test_how_long_it_will_take(monkeypatch, capsys):
    time_left = cli.train.TimeLeft(610)
    monkeypatch.setattr(cli.train.time, "monotonic", lambda: time_left.done)  # a second each
    for batch in range(40):
        time_left.on_train_batch_end(batch)
    said = capsys.readouterr().out
    assert said.count("time") == 1 and "about 10 minutes" in said


def test_a_model_that_was_not_trained_by_a_run_is_not_resumed(run, capsys):
    path = run / "model.keras"
    keras_ddim.DiffusionModel((8, 8, 3), keras_ddim.ResidualUNet((8, 8, 3), (8,), 1)).save(path)
    assert "--from-preset" in error_of(capsys, resume(run, "--epochs", "3"))
    path.write_bytes(b"no model")
    assert str(path) in error_of(capsys, resume(run, "--epochs", "3"))


# A model is never lost


def contents(path):
    """All that is in the file of a model, but when it was written."""
    with zipfile.ZipFile(path) as file:
        weights = h5py.File(io.BytesIO(file.read("model.weights.h5")))
        arrays = {}
        weights.visititems(lambda name, a: hasattr(a, "dtype") and arrays.update({name: a[()]}))
        return json.loads(file.read("config.json")), arrays


def assert_same_run(folder, other):
    names = [sorted(path.relative_to(f) for path in f.rglob("*")) for f in (folder, other)]
    assert names[0] == names[1]
    (config, arrays), (other_config, other_arrays) = (
        contents(f / "model.keras") for f in (folder, other)
    )
    assert config["config"]["metadata"] == other_config["config"]["metadata"]
    assert arrays.keys() == other_arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(array, other_arrays[name], err_msg=name)
    for name in names[0]:
        if (folder / name).is_file() and name.name != "model.keras":
            assert (folder / name).read_bytes() == (other / name).read_bytes(), name


def test_a_run_stopped_behind_its_model_ends_as_if_it_had_not_been(
    trained, tmp_path, monkeypatch, capsys
):
    """Once in the midst, and once behind the last epoch."""

    def stop(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    arguments = ["--epochs", "2", "--flip"]
    for run, callback in ((train, callbacks.SaveHistory), (resume, callbacks.SampleGrid)):
        with monkeypatch.context() as patch:
            patch.setattr(callback, "on_epoch_end", stop)
            assert "No space" in error_of(capsys, run(tmp_path / "run", *arguments))
        arguments = []
    assert resume(tmp_path / "run") == 0
    assert_same_run(trained, tmp_path / "run")


@pytest.mark.usefixtures("eagerly")
def test_a_full_disk_leaves_the_model_of_before_and_names_the_file(run, capsys, monkeypatch):
    def save(self, path):
        pathlib.Path(path).write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    before = (run / "model.keras").read_bytes()
    monkeypatch.setattr(keras_ddim.DiffusionModel, "save", save)
    message = error_of(capsys, resume(run, "--epochs", "3"))
    assert "No space" in message and str(run / "model.keras") in message
    assert (run / "model.keras").read_bytes() == before
    assert not hidden_files(run)


@pytest.mark.usefixtures("eagerly")
def test_a_run_that_diverges_leaves_the_model_of_before(run, capsys):
    files = run / "model.keras", run / "history.csv"
    before = [path.read_bytes() for path in files]
    arguments = ["--epochs", "3", "--learning-rate", "1e12"]
    assert "lower learning rate" in error_of(capsys, resume(run, *arguments))
    assert [path.read_bytes() for path in files] == before


def test_weights_that_are_not_finite_are_named_by_their_file(run, capsys):
    model = keras.saving.load_model(run / "model.keras")
    weights = model.ema_network.get_weights()
    model.ema_network.set_weights([np.nan * weights[0], *weights[1:]])
    model.save(run / "model.keras")
    assert str(run / "model.keras") in error_of(capsys, generate(run))
    assert "model.keras" in error_of(capsys, resume(run, "--epochs", "3"))


# Ctrl-C


def interrupt(*args, **kwargs):
    raise KeyboardInterrupt


def hidden_files(folder):
    return [path for path in folder.iterdir() if path.name.startswith(".")]


@pytest.mark.usefixtures("eagerly")
def test_overwriting_and_an_interrupt_after_its_first_epoch(run, capsys, monkeypatch):
    monkeypatch.setattr(callbacks.SampleGrid, "on_epoch_end", interrupt)
    assert train(run, "--overwrite", "--epochs", "3", "--steps-per-epoch", "7") == 130
    screen = capsys.readouterr()
    assert "7 steps" in screen.out
    assert "epoch 1" in screen.err and "--resume" in screen.err
    assert screen.err.strip().count("\n") == 0
    model = keras.saving.load_model(run / "model.keras")
    assert int(model.optimizer.iterations) == 7
    assert len(history_of(run)) == 1
    # Nothing is left that might be taken for this run's.
    assert not os.listdir(run / "samples") and not (run / "samples.png").exists()
    assert not hidden_files(run)


def test_interrupt_before_there_is_a_model(run, tmp_path, capsys, monkeypatch):
    before = contents_of(run)
    monkeypatch.setattr(keras_ddim.DiffusionModel, "fit", interrupt)
    assert train(run, "--overwrite") == 130
    assert f"{run / 'model.keras'} is as it was" in capsys.readouterr().err
    assert contents_of(run) == before
    assert train(tmp_path / "new") == 130
    assert "no model yet" in capsys.readouterr().err


def contents_of(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_overwriting_that_fails_leaves_the_run_as_it_was(run, capsys, monkeypatch):
    def fail(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    before = contents_of(run)
    assert "--validation-split" in error_of(
        capsys, train(run, "--overwrite", "--num-images", "1", "--validation-split", "0.5")
    )
    monkeypatch.setattr(keras_ddim.DiffusionModel, "fit", fail)
    assert "No space" in error_of(capsys, train(run, "--overwrite"))
    assert contents_of(run) == before


@pytest.mark.slow
def test_interrupt_from_the_keyboard(tmp_path):
    command = [sys.executable, "-m", "keras_ddim", "train", *TINY, "--epochs", "10000"]
    process = subprocess.Popen(
        [*command, "--output", str(tmp_path)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        # Shells start what runs in the background with Ctrl-C ignored, and children inherit it.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        deadline = time.monotonic() + 120
        while not (tmp_path / "samples" / "epoch_001.png").exists():
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        message = process.communicate(timeout=60)[1].decode()
    finally:
        process.kill()
    assert process.returncode == 130
    assert "Traceback" not in message and "Interrupted" in message.splitlines()[-1]
    model = keras.saving.load_model(tmp_path / "model.keras")
    assert np.isfinite(model.generate(2, 2)).all()
    assert not hidden_files(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [0.0, 0.5, 1.0, 2.0, 4.0, 8.0])
def test_interrupt_at_any_moment(tmp_path, seconds):
    """From the first of the imports that take long."""
    command = [sys.executable, "-m", "keras_ddim", "generate", "flowers", "--num-images", "9999"]
    process = subprocess.Popen(
        command,
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    maps = pathlib.Path(f"/proc/{process.pid}/maps")
    while "numpy" not in maps.read_text():
        time.sleep(0.001)
    time.sleep(seconds)
    process.send_signal(signal.SIGINT)
    lines = process.communicate(timeout=120)[1].decode().splitlines()
    assert process.returncode == 130
    assert lines[-1].startswith("Interrupted") and "Traceback" not in "".join(lines)
    assert not os.listdir(tmp_path)


@pytest.mark.slow
def test_killed_runs_end_as_if_nothing_had_been():
    script = pathlib.Path(__file__).parent / "benchmarks" / "kills.py"
    subprocess.run([sys.executable, script, "--kills", "3"], check=True, timeout=1200)


# generate


def generate(trained, *arguments):
    return cli.main(["generate", str(trained / "model.keras"), *arguments])


@pytest.mark.usefixtures("eagerly")
def test_generating_writes_a_picture(trained, tmp_path, capsys):
    path = tmp_path / "pictures" / "generated.png"
    arguments = ["--times", "1,0.8,0.5,0.2", "--num-images", "6", "--columns", "6", "--seed", "3"]
    assert generate(trained, *arguments, "--output", str(path)) == 0
    assert size_of(path) == (55 * (1024 // 55), 10 * (1024 // 55))
    assert str(path) in capsys.readouterr().out
    first = path.read_bytes()
    assert generate(trained, *arguments, "--batch-size", "4", "--output", str(path)) == 0
    assert path.read_bytes() == first
    assert generate(trained, *arguments[:-1], "4", "--output", str(path)) == 0
    assert path.read_bytes() != first


def test_generating_uses_the_times(trained, tmp_path, monkeypatch):
    received = []

    def record(self, num_images, diffusion_times, **kwargs):
        received.append(diffusion_times)
        return np.zeros((num_images, 8, 8, 3), "float32")

    monkeypatch.setattr(keras_ddim.DiffusionModel, "generate", record)
    for times in ("1", "20", "1.0", "0.5,", "0.9, 0.1,1"):
        assert generate(trained, "--times", times, "--output", str(tmp_path / "x.png")) == 0
    assert received == [1, 20, (1.0,), (0.5,), (0.9, 0.1, 1.0)]


@pytest.mark.usefixtures("eagerly")
def test_generating_separate_files(trained, tmp_path, capsys, monkeypatch):
    def images(name, *arguments):
        shared = ["--times", "2", "--batch-size", "4", "--separate", str(tmp_path / name)]
        return generate(trained, *shared, *arguments)

    def stop_after(count):
        numbers = iter(range(count))

        def save(image, path, original=plots.save_image):
            if next(numbers, None) is None:
                raise KeyboardInterrupt
            original(image, path)

        monkeypatch.setattr(plots, "save_image", save)

    def written(name):
        return {path.name: path.read_bytes() for path in (tmp_path / name).iterdir()}

    assert images("all", "--num-images", "10", "--seed", "3") == 0
    assert sorted(written("all"))[:-1] == [f"{number:05d}.png" for number in range(10)]
    assert size_of(tmp_path / "all" / "00009.png") == (8, 8)
    with monkeypatch.context():
        stop_after(5)
        assert images("some", "--num-images", "7", "--seed", "3") == 130
        monkeypatch.undo()
    assert "goes on" in capsys.readouterr().err
    assert len(written("some")) == 6
    made = []
    original = keras_ddim.DiffusionModel.generate
    monkeypatch.setattr(
        keras_ddim.DiffusionModel,
        "generate",
        lambda self, n, *args, **kwargs: made.append(n) or original(self, n, *args, **kwargs),
    )
    # Without a seed, too: with that of the images there.
    assert images("some", "--num-images", "10") == 0
    assert "5 of them were there already" in capsys.readouterr().out
    assert made == [4, 4]  # batch by batch, from that which was not complete
    assert written("some") == written("all")
    assert images("some", "--num-images", "10") == 0 and made == [4, 4]
    assert "other settings" in error_of(capsys, images("some", "--seed", "4"))
    (tmp_path / "some" / "settings.json").write_text("{")
    assert "settings.json" in error_of(capsys, images("some"))
    (tmp_path / "some" / "settings.json").unlink()
    assert "name another" in error_of(capsys, images("some"))
    assert {**written("some"), "settings.json": b""} == {**written("all"), "settings.json": b""}


@pytest.mark.usefixtures("eagerly")
def test_generating_an_animation(trained, tmp_path):
    path = tmp_path / "way.gif"
    arguments = ["--num-images", "2", "--times", "3", "--output", str(tmp_path / "grid.png")]
    assert generate(trained, *arguments, "--animation", str(path)) == 0
    with PIL.Image.open(path) as image:
        assert image.n_frames == 4


@pytest.mark.usefixtures("eagerly")
def test_the_animation_shows_the_images_of_the_picture(trained, tmp_path, monkeypatch):
    received, animated = [], []
    original = keras_ddim.DiffusionModel.generate

    def record(self, num_images, diffusion_times, **kwargs):
        received.append((diffusion_times, *map(kwargs.get, ("sampler", "schedule", "seed"))))
        generated = original(self, num_images, diffusion_times, **kwargs)
        animated.append((self.denormalize(generated.noisy_images), generated.pred_images))
        return generated

    drawn = []
    monkeypatch.setattr(keras_ddim.DiffusionModel, "generate", record)
    monkeypatch.setattr(plots, "animate", lambda *args: drawn.append(args[:2]))
    arguments = ["--times", "2", "--sampler", "heun", "--schedule", "log_snr_linear"]
    files = ["--output", str(tmp_path / "grid.png"), "--animation", str(tmp_path / "way.gif")]
    for _ in range(2):
        assert generate(trained, *arguments, *files, "--num-images", "18") == 0
    assert len(received) == len(drawn) == 2  # generated once each time
    for shown, generated in zip(drawn, animated):
        for shown_images, images in zip(shown, generated):
            np.testing.assert_array_equal(shown_images, images[:, :16])
    assert received[0][:3] == (2, "heun", "log_snr_linear")
    assert received[0][3] != received[1][3]  # new images each time


@pytest.mark.parametrize("clip, passed", [("none", False), ("static", "static"), (None, False)])
def test_generating_with_clipping(trained, tmp_path, monkeypatch, clip, passed):
    received = []

    def record(self, num_images, diffusion_times, **kwargs):
        received.append(kwargs["clip"])
        return np.zeros((num_images, 8, 8, 3), "float32")

    monkeypatch.setattr(keras_ddim.DiffusionModel, "generate", record)
    arguments = [] if clip is None else ["--clip", clip]
    assert generate(trained, *arguments, "--output", str(tmp_path / "x.png")) == 0
    assert received == [passed]


# evaluate


@pytest.fixture
def evaluate(trained, tmp_path, monkeypatch):
    """Evaluates the trained model into a folder."""
    monkeypatch.setattr(cli.evaluate, "CLASSIFIER_STEPS", 3)

    def run(*arguments):
        command = ["evaluate", str(trained / "model.keras"), "--num-images", "8", *arguments]
        return cli.main([*command, "--output", str(tmp_path / "evaluation")])

    return run


def test_evaluating_leaves_its_files(evaluate, tmp_path, capsys):
    assert evaluate("--times", "1", "1,0.5", "--sampler", "heun", "--seed", "3") == 0
    output = capsys.readouterr().out
    folder = tmp_path / "evaluation"
    files = ["classifier.keras", "nearest.png", "results.json", "table.md"]
    assert sorted(os.listdir(folder)) == files
    assert (folder / "table.md").read_text() in output
    assert "features: a small classifier" in output and "FID" not in output
    results = json.loads((folder / "results.json").read_text())
    assert [row["evaluations"] for row in results["rows"]] == [None, 1, 3, None]
    assert '"class_name": "Heun"' in (folder / "results.json").read_text()
    assert results["seed"] == 3
    # The data are those of training, and so are those kept from it.
    assert results["data"] == "plain_flowers"
    assert results["data_options"]["num_images"] == 64
    assert results["real_images"] == 8
    # The classifier of the first time is that of the second.
    kept = (folder / "classifier.keras").read_bytes()
    assert evaluate("--times", "1", "1,0.5", "--sampler", "heun", "--seed", "3") == 0
    assert "Training a small classifier" not in capsys.readouterr().out
    assert (folder / "classifier.keras").read_bytes() == kept
    assert json.loads((folder / "results.json").read_text())["rows"] == results["rows"]
    # Of other data, there is another.
    assert evaluate("--times", "1", "--data", "flowers") == 0
    assert "Training a small classifier" in capsys.readouterr().out
    assert encoders.load_classifier(folder / "classifier.keras").data == "flowers"


def test_evaluating_leaves_random_numbers_alone(evaluate, monkeypatch):
    monkeypatch.setattr(cli.evaluate, "CLASSIFIER_STEPS", 1)
    np.random.seed(3)
    state = np.random.get_state()[1].copy()
    assert evaluate("--times", "1") == 0
    np.testing.assert_array_equal(np.random.get_state()[1], state)


@pytest.mark.usefixtures("eagerly")
def test_evaluating_with_the_classifier_of_another_evaluation(evaluate, tmp_path, capsys):
    assert evaluate("--times", "1") == 0
    rows = json.loads((tmp_path / "evaluation" / "results.json").read_text())["rows"]
    classifier = str(tmp_path / "flowers.keras")
    (tmp_path / "evaluation").rename(tmp_path / "first")
    (tmp_path / "first" / "classifier.keras").rename(classifier)
    assert evaluate("--times", "1", "--encoder", classifier) == 0
    assert f"Comparing by the features of {classifier}" in capsys.readouterr().out
    assert not (tmp_path / "evaluation" / "classifier.keras").exists()
    assert json.loads((tmp_path / "evaluation" / "results.json").read_text())["rows"] == rows


@pytest.mark.usefixtures("eagerly")
def test_evaluating_with_inception(evaluate, monkeypatch, tmp_path, capsys):
    class Flat(encoders.InceptionV3):
        def __call__(self, images):
            return images[:, ::4, ::4, 0].reshape(-1, 4)

    monkeypatch.setattr(encoders, "InceptionV3", Flat)
    arguments = ["--encoder", "inception_v3", "--encoder-size", "75", "--times", "1"]
    assert evaluate(*arguments) == 0
    assert "| FID | KID |" in capsys.readouterr().out
    results = json.loads((tmp_path / "evaluation" / "results.json").read_text())
    assert results["encoder"] == "InceptionV3 at 75x75"


def test_evaluating_what_cannot_be(evaluate, capsys, tmp_path):
    weights = str(tmp_path / "missing.h5")
    arguments = ["--encoder", "inception_v3", "--encoder-weights", weights]
    assert "missing.h5" in error_of(capsys, evaluate(*arguments))
    (tmp_path / "photos").mkdir()
    for name in "abcde":
        PIL.Image.new("RGB", (8, 8)).save(tmp_path / "photos" / f"{name}.png")
    message = error_of(capsys, evaluate("--data", str(tmp_path / "photos") + "/"))
    assert "sub-folders" in message and "--encoder inception_v3" in message
    assert not (tmp_path / "evaluation").exists()


# Errors


def test_output_that_cannot_be_written(trained, capsys, tmp_path):
    file = tmp_path / "file"
    file.write_text("mine")
    assert str(file) in error_of(capsys, train(file))
    arguments = ["--times", "1", "--output"]
    assert str(file) in error_of(capsys, generate(trained, *arguments, str(file / "x.png")))
    assert ".xyz" in error_of(capsys, generate(trained, *arguments, str(tmp_path / "x.xyz")))
    assert file.read_text() == "mine"


def test_files_that_are_no_models(trained, capsys, tmp_path):
    text = tmp_path / "text.keras"
    text.write_text("not a model")
    assert "text.keras cannot be loaded: BadZipFile" in error_of(
        capsys, cli.main(["generate", str(text)])
    )

    half = tmp_path / "half.keras"
    half.write_bytes((trained / "model.keras").read_bytes()[:1000])
    assert "half.keras" in error_of(capsys, cli.main(["generate", str(half)]))

    other = tmp_path / "other.keras"
    keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)]).save(other)
    assert "Sequential" in error_of(capsys, cli.main(["generate", str(other)]))

    assert str(tmp_path) in error_of(capsys, cli.main(["generate", str(tmp_path)]))


@pytest.mark.usefixtures("eagerly")
def test_fine_tuning_goes_on_from_a_preset(trained, tmp_path, capsys):
    output = tmp_path / "fine-tuned"
    arguments = ["--from-preset", str(trained / "model.keras"), "--num-images", "32"]
    arguments += ["--no-labels", "--no-pictures"]
    arguments += ["--epochs", "1", "--learning-rate", "1e-9", *TIMES, "--output", str(output)]
    assert cli.main(["train", *arguments]) == 0
    assert [row["epoch"] for row in history_of(output)] == ["1"]
    before, after = (keras.saving.load_model(f / "model.keras") for f in (trained, output))
    for old, new in zip(before.ema_network.get_weights(), after.network.get_weights()):
        if old.ndim > 1:  # not what batch normalization keeps of the data
            np.testing.assert_allclose(new, old, atol=1e-6)
    # Its images are those of the model, whatever the default of new ones is.
    model = keras.saving.load_model(output / "model.keras")
    assert model.metadata["settings"]["image_size"] == [8, 8]
    assert "32x32" in error_of(capsys, resume(output, "--epochs", "2", "--image-size", "32"))


# The program


def test_help_and_version(capsys):
    for arguments, default in (
        ([], ""),
        (
            ["train"],
            "--times TIMES [TIMES ...] times for the rows of times.png "
            "(default: 1 3 5 1.0,0.8,0.5,0.2 20 50)",
        ),
        (["generate"], "(default: generated.png)"),
        (["evaluate"], "(default: classifier)"),
    ):
        assert cli.main([*arguments, "--help"]) == 0
        output = capsys.readouterr().out
        assert "examples:" in output and default in " ".join(output.split())
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out.strip() == keras_ddim.__version__


def test_module_runs_as_a_program():
    command = [sys.executable, "-m", "keras_ddim", "generate", "none.keras"]
    wrong = subprocess.run(command, capture_output=True, text=True)
    assert wrong.returncode == 2
    names = ", ".join(keras_ddim.presets.names())
    missing = f"there is no file none.keras, and no preset but {names}"
    assert wrong.stderr.splitlines()[-1] == f"keras-ddim generate: error: MODEL: {missing}"


# optimize-times


def test_best_times_are_written_into_the_file(run, capsys, monkeypatch):
    monkeypatch.chdir(run)
    few = ["--num-images", "4", "--teacher-times", "8"]
    before = keras.saving.load_model("model.keras")
    arguments = ["model.keras", "--sampler", "ddim", "--num-times", "2", "3", *few]
    assert cli.main(["optimize-times", *arguments]) == 0
    assert "| 3 |" in capsys.readouterr().out
    assert size_of(run / "best_times.png")[0] > 800
    model = keras.saving.load_model("model.keras")
    assert [len(model.kept_times(f"best:{n}", "ddim")) for n in (2, 3)] == [2, 3]
    for value, old_value in zip(model.optimizer.variables, before.optimizer.variables):
        np.testing.assert_array_equal(value, old_value)
    use = ["model.keras", "--sampler", "ddim", "--times", "best:3", "--num-images", "2"]
    assert cli.main(["generate", *use]) == 0
    assert "times: best:3" in capsys.readouterr().out
    status = cli.main(["generate", *use[:-3], "best:9", "--num-images", "2"])
    assert "'best:2', 'best:3' for DDIM" in error_of(capsys, status)


@pytest.mark.usefixtures("eagerly")
def test_interrupted_best_times_are_written(run, capsys, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.chdir(run)
    monkeypatch.setattr(optimal_times.Optimizer, "_descend", interrupt)
    few = ["--num-times", "2", "3", "--num-images", "4", "--teacher-times", "8"]
    with pytest.warns(UserWarning, match="best so far"):
        assert cli.main(["optimize-times", "model.keras", *few]) == 130
    assert "model.keras has the lists above" in capsys.readouterr().err
    assert len(keras.saving.load_model("model.keras").kept_times("best:2")) == 2


@pytest.mark.usefixtures("eagerly")
def test_best_times_by_features(run, capsys, monkeypatch):
    monkeypatch.chdir(run)
    keras.utils.set_random_seed(0)
    encoders.Classifier((8, 8, 3)).save("classifier.keras")
    few = ["--num-times", "2", "--num-images", "4", "--teacher-times", "8"]
    compared = []
    encode = encoders.encode
    monkeypatch.setattr(encoders, "encode", lambda *args: compared.append(args[0]) or encode(*args))
    arguments = ["optimize-times", "model.keras", *few, "--encoder", "classifier.keras"]
    assert cli.main(arguments) == 0
    assert {type(encoder) for encoder in compared} == {encoders.Classifier}
    assert "plain_flowers, as in training" in capsys.readouterr().out
    model = keras.saving.load_model("model.keras")
    del model.metadata["settings"]
    model.save("other.keras")
    others = ["optimize-times", "other.keras", *few, "--encoder", "classifier.keras"]
    assert cli.main([*others, "--method", "path"]) == 0
    assert "without --data, no real images" in capsys.readouterr().out
    encoders.Classifier((4, 4, 3)).save("classifier.keras")
    message = error_of(capsys, cli.main(arguments))
    assert "must be of the shape (4, 4, 3) of the classifier's" in message


def test_presets_stay_as_they_are(capsys):
    assert "--output" in error_of(capsys, cli.main(["optimize-times", "flowers"]))
