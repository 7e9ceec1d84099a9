import pathlib
import subprocess
import sys
import zipfile

import keras
import numpy as np
import pytest

import keras_ddim
from keras_ddim import DiffusionModel, presets
from tests.benchmarks.shrink import shrink


@pytest.fixture(scope="module")
def trained():
    model = keras_ddim.recipe((8, 8, 3), 2, widths=(8,), seed=0)
    model.run_eagerly = True
    model.fit(keras_ddim.draw_flowers(32, 8, seed=0), batch_size=16, verbose=0)
    return model


@pytest.fixture(scope="module")
def preset_path(trained, tmp_path_factory):
    path = tmp_path_factory.mktemp("preset") / "preset.keras"
    shrink(trained, path)
    return path


@pytest.mark.core
def test_a_preset_makes_the_images_of_its_model(trained, preset_path):
    loaded = DiffusionModel.from_preset(preset_path)
    images = trained.generate(4, 5, seed=0)
    np.testing.assert_allclose(loaded.generate(4, 5, seed=0), images, atol=0.5 / 255)
    assert not loaded.compiled
    for kept, weight in zip(trained.normalizer.get_weights(), loaded.normalizer.get_weights()):
        np.testing.assert_array_equal(kept, weight)
    for averaged, weight in zip(loaded.ema_network.get_weights(), loaded.network.get_weights()):
        np.testing.assert_array_equal(averaged, weight)


def test_a_preset_is_small(trained, preset_path, tmp_path):
    trained.save(tmp_path / "all.keras")
    assert preset_path.stat().st_size < (tmp_path / "all.keras").stat().st_size / 3
    assert [path.name for path in preset_path.parent.iterdir()] == ["preset.keras"]


def test_from_preset_says_what_there_is(tmp_path):
    with pytest.raises(ValueError, match=r"`preset` must be .*flowers.*got 'fowlers'"):
        DiffusionModel.from_preset("fowlers")
    other = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    other.save(tmp_path / "other.keras")
    message = r"`preset` must be .*must be a DiffusionModel, got .*Sequential"
    with pytest.raises(ValueError, match=message):
        DiffusionModel.from_preset(tmp_path / "other.keras")


@pytest.fixture(scope="module")
def members(preset_path):
    with zipfile.ZipFile(preset_path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


@pytest.mark.parametrize(
    "name, content, reason",
    [
        ("config.json", b"[" * 100_000, "RecursionError"),
        ("config.json", b"{}", "Expected object"),
        ("model.weights.h5", b"", "OSError"),
    ],
)
def test_from_preset_says_what_is_wrong_in_a_file(members, tmp_path, name, content, reason):
    path = tmp_path / "odd.keras"
    with zipfile.ZipFile(path, "w") as archive:
        for each, data in members.items():
            archive.writestr(each, content if each == name else data)
    with pytest.raises(ValueError, match=rf"`preset` must .*odd.keras.*{reason}"):
        DiffusionModel.from_preset(path)


def test_from_preset_finds_damage_by_checksums(preset_path, tmp_path):
    data, path = preset_path.read_bytes(), tmp_path / "odd.keras"
    with zipfile.ZipFile(preset_path) as archive:
        place = archive.getinfo("model.weights.h5").header_offset + 1000
    damaged = data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]
    for content, reason in ((data[:-1000], "BadZipFile"), (damaged, "model.weights.h5|error")):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=rf"`preset` must .*odd.keras.*({reason})"):
            DiffusionModel.from_preset(path)


FAST = {"fashion_mnist_fast"}


@pytest.mark.parametrize("name", presets.names())
class TestEachPreset:
    def test_has_a_card_and_is_small(self, name):
        path = pathlib.Path(presets.path_of(name))
        assert path.stat().st_size <= 3e6
        card = path.with_suffix(".md").read_text(encoding="utf-8")
        command = "keras-ddim distill" if name in FAST else "keras-ddim train"
        for word in ("Data", "Licence", command, "Fréchet"):
            assert word in card

    def test_makes_images(self, name):
        model = DiffusionModel.from_preset(name)
        model.run_eagerly = True
        images = model.generate(4, 4, seed=0)
        assert np.isfinite(images).all() and images.std(axis=0).mean() > 0.05

    def test_carries_optimized_times(self, name):
        if name in FAST:
            pytest.skip("distilled models take uniform times")
        model = DiffusionModel.from_preset(name)
        card = pathlib.Path(presets.path_of(name)).with_suffix(".md").read_text(encoding="utf-8")
        for num_times in (3, 4, 5, 8):
            times = model.kept_times(f"best:{num_times}")
            assert len(times) == num_times
            assert ", ".join(f"{time:.4f}" for time in times[1:]) in card


@pytest.mark.slow
def test_a_picture_of_a_preset_takes_no_training(tmp_path):
    command = [sys.executable, "-m", "keras_ddim", "generate", "flowers", "--output", "a.png"]
    made = subprocess.run(
        command, cwd=tmp_path, check=True, timeout=120, capture_output=True, text=True
    )
    assert (tmp_path / "a.png").exists()
    said, again = made.stdout.splitlines()
    assert said.startswith("a.png: 16 images") and "UniPC, 20 steps, guidance scale 1.5" in said
    assert again.startswith("Again: keras-ddim generate flowers --seed ")
    assert not made.stderr  # no line of TensorFlow's log
