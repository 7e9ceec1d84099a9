"""The command line with labels, and edits."""

import json
import pathlib
import shutil
import zipfile

import keras
import numpy as np
import PIL.Image
import pytest

from keras_ddim import cli, plots, recipes
from tests.test_cli import error_of, size_of

NAMES = ["Boot", "Sandal", "Sneaker"]


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for name in NAMES:
        for index in range(12):
            plots.save_image(rng.random((8, 8, 3)), folder / name / f"{index}.png")
    return folder


@pytest.fixture(scope="module")
def trained(photos, tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    tiny = ["--image-size", "8", "--widths", "4", "--epochs", "1", "--times", "1"]
    command = ["train", "--data", str(photos), "--labels", *tiny, "--output", str(folder)]
    assert cli.main(command) == 0
    return folder


def run(command, trained, *arguments):
    return cli.main([command, str(trained / "model.keras"), *map(str, arguments)])


def test_training_on_classes(trained, photos, capsys):
    model = keras.saving.load_model(trained / "model.keras")
    assert model.class_names == NAMES
    width, height = size_of(trained / "samples/epoch_001.png")
    assert width > 2 * height  # rows of 8, one for each of three classes
    width, height = size_of(trained / "samples.png")
    assert width == height  # 64 of all classes
    resume = ["train", "--resume", "--output", str(trained), "--epochs", "2"]
    assert "--labels is that of the model" in error_of(capsys, cli.main([*resume, "--no-labels"]))
    fine_tune = ["train", "--from-preset", str(trained / "model.keras"), "--output"]
    fine_tune += [str(trained / "tuned"), "--epochs", "1", "--num-images", "8"]
    fine_tune += ["--steps-per-epoch", "1", "--times", "1", "--data", "plain_flowers"]
    assert cli.main([*fine_tune, "--no-labels"]) == 0
    assert keras.saving.load_model(trained / "tuned" / "model.keras").class_names is None


def test_a_model_does_not_tell_where_its_data_are(trained, photos, tmp_path, monkeypatch, capsys):
    """The run's folder does, from wherever it is looked at; a copy of the model asks."""
    with zipfile.ZipFile(trained / "model.keras") as archive:
        texts = [archive.read(name) for name in archive.namelist()]
    assert not any(bytes(photos.parent) in text for text in texts)
    assert f'"data": "{photos.name}/"'.encode() in texts[0] + texts[1]
    monkeypatch.setattr(cli.evaluate, "make_encoder", lambda *_: lambda images: images[:, 0, :, 0])
    monkeypatch.chdir(tmp_path)
    pathlib.Path(photos.name).mkdir()  # another folder of that name
    options = ["--num-images", "4", "--times", "1"]
    assert run("evaluate", trained, *options) == 0
    results = json.loads(pathlib.Path("evaluation", "results.json").read_text())
    assert results["data"] == str(photos)

    shutil.copytree(trained, "copy", ignore=lambda *_: ["paths.json", "tuned"])
    resume = ["train", "--resume", "--output", "copy", "--epochs", "2", "--no-pictures"]
    for command in (["evaluate", "copy", *options], resume):
        assert f"a folder {photos.name}/: give --data" in error_of(capsys, cli.main(command))
    # What it is handed is split as in training.
    assert run("evaluate", pathlib.Path("copy"), *options, "--data", photos) == 0
    again = json.loads(pathlib.Path("evaluation", "results.json").read_text())
    assert again["rows"] == results["rows"]
    assert cli.main([*resume, "--data", str(photos)]) == 0
    assert cli.main([*resume[:-2], "3", "--no-pictures"]) == 0
    assert f"data      {photos}" in capsys.readouterr().out


def test_training_on_images_without_classes(photos, tmp_path, capsys):
    command = ["train", "--data", str(photos / NAMES[0]), "--labels", "--image-size", "8"]
    message = error_of(capsys, cli.main([*command, "--output", str(tmp_path / "x")]))
    assert "--labels needs --data to be a folder whose images are all in" in message


def test_generating_by_label(trained, tmp_path, capsys):
    picture, several = tmp_path / "one.png", tmp_path / "several.png"
    options = ["--num-images", "4", "--times", "2", "--seed", "0"]
    one = ["--label", "sneaker", "--guidance-scale", "2", "--guidance-interval", "0.1,0.9"]
    assert run("generate", trained, *options, *one, "--output", picture) == 0
    assert "4 images" in capsys.readouterr().out
    assert run("generate", trained, *options, "--label", "boot", "2", "--output", several) == 0
    assert "8 images" in capsys.readouterr().out
    assert size_of(several)[0] > 1.5 * size_of(several)[1]
    message = error_of(capsys, run("generate", trained, "--label", "hat", "--output", picture))
    assert "0 'Boot', 1 'Sandal', 2 'Sneaker'. Received: 'hat'" in message
    wrong = ["--label", "boot", "--guidance-interval", "0.9,0.1"]
    assert "--guidance-interval" in error_of(capsys, run("generate", trained, *wrong))


def test_evaluating_a_class(trained, photos, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(cli.evaluate, "CLASSIFIER_STEPS", 3)
    options = ["--num-images", "8", "--times", "1", "--guidance-scale", "2"]
    options += ["--data", photos, "--validation-split", "0.5", "--output", tmp_path / "evaluation"]
    assert run("evaluate", trained, *options, "--label", "sandal") == 0
    results = json.loads((tmp_path / "evaluation" / "results.json").read_text())
    assert [row["evaluations"] for row in results["rows"]] == [None, 2, None]
    assert 4 <= results["real_images"] <= 8  # of about six
    assert "classes of the model" in error_of(
        capsys, run("evaluate", trained, *options, "--label", "hat")
    )


@pytest.mark.slow
def test_evaluating_all_classes(trained, photos, tmp_path, monkeypatch):
    monkeypatch.setattr(cli.evaluate, "CLASSIFIER_STEPS", 3)
    options = ["--num-images", "8", "--times", "1", "--guidance-scale", "2", "--data", photos]
    assert run("evaluate", trained, *options, "--output", tmp_path / "evaluation") == 0
    results = json.loads((tmp_path / "evaluation" / "results.json").read_text())
    assert [row["evaluations"] for row in results["rows"]] == [None, 2, None]


class TestEdit:
    @pytest.fixture
    def files(self, tmp_path):
        """Two images and a mask, whose upper half is white."""
        rng = np.random.default_rng(1)
        pixels = rng.integers(0, 256, (2, 8, 8, 3), "uint8")
        for name, image in zip("ab", pixels):
            PIL.Image.fromarray(image).save(tmp_path / f"{name}.png")
        mask = np.repeat([255, 0], 4).astype("uint8")[:, None] * np.ones((1, 8), "uint8")
        PIL.Image.fromarray(mask).save(tmp_path / "mask.png")
        return tmp_path, pixels

    def test_writes_images(self, trained, files, capsys):
        folder, pixels = files
        options = ["--times", "0.6,0.3", "--label", "boot", "--guidance-scale", "2", "--seed", "0"]
        images = [folder / "a.png", folder / "b.png"]
        assert run("edit", trained, *images, *options, "--output", folder / "edited") == 0
        assert "2 images, times: 0.6, 0.3" in capsys.readouterr().out
        assert sorted(p.name for p in (folder / "edited").iterdir()) == ["a.png", "b.png"]
        with PIL.Image.open(folder / "edited" / "a.png") as image:
            edited = np.asarray(image)
        assert edited.shape == (8, 8, 3) and (edited != pixels[0]).any()

    def test_keeps_what_is_known(self, trained, files):
        folder, pixels = files
        options = ["--mask", folder / "mask.png", "--times", "1,0.5", "--output", folder / "new"]
        assert run("edit", trained, folder / "a.png", *options) == 0
        with PIL.Image.open(folder / "new" / "a.png") as image:
            edited = np.asarray(image)
        np.testing.assert_array_equal(edited[:4], pixels[0, :4])
        assert (edited[4:] != pixels[0, 4:]).any()

    def test_errors(self, trained, files, capsys):
        folder, _ = files
        PIL.Image.new("RGB", (9, 8)).save(folder / "large.png")
        (folder / "text.png").write_text("no image")
        twin = folder / "twin" / "a.png"
        twin.parent.mkdir()
        PIL.Image.new("RGB", (8, 8)).save(twin)
        a = folder / "a.png"
        for arguments, message in (
            ([folder / "large.png"], "large.png is of 8x9 pixels, the model's are of 8x8"),
            ([folder / "none.png"], "No such file"),
            ([folder / "text.png"], "cannot identify image file"),
            ([a, twin], "two of the images are of one name"),
            ([a, "--mask", a], "a.png must be black and white, with nothing between"),
            ([a, "--mask", folder / "large.png"], "large.png is of 8x9 pixels"),
            ([a, "--label", "hat"], "Received: 'hat'"),
            ([a, "--times", "2.0"], "--times: must be a number of times"),
        ):
            output = ["--output", folder / "wrong"]
            assert message in error_of(capsys, run("edit", trained, *arguments, *output))
        assert not (folder / "wrong").exists()


def test_best_times_are_found_for_images_guided_as_generate_guides_them(trained, monkeypatch):
    seen = []

    def observe(model, sampler, *, guidance_scale, **_):
        seen.append(guidance_scale)
        raise ValueError("`seen` enough. Received: seen")

    monkeypatch.setattr(cli.optimize_times.optimal_times, "Optimizer", observe)
    for options in ([], ["--guidance-scale", "3"]):
        run("optimize-times", trained, *options)
    assert seen == [recipes.GUIDANCE_SCALE, 3]
