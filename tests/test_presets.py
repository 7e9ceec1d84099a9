import pathlib
import subprocess
import sys
import zipfile

import keras
import numpy as np
import pytest

import keras_ddim
from keras_ddim import DiffusionModel, presets


@pytest.fixture(scope="module")
def trained():
    """By the recipe, so that there are statistics of the data beside the weights."""
    model = keras_ddim.recipe((8, 8, 3), 10, widths=(8, 8), preconditioning="spectral", seed=0)
    model.run_eagerly = True
    model.fit(keras_ddim.draw_flowers(80, 8, seed=0), batch_size=16, epochs=2, verbose=0)
    return model


@pytest.fixture
def preset_path(trained, tmp_path):
    path = tmp_path / "preset.keras"
    presets.save_preset(trained, path)
    return path


@pytest.mark.core
def test_saved_preset_makes_the_same_images(trained, preset_path):
    loaded = keras.saving.load_model(preset_path)
    images = trained.generate(4, 5, seed=0)
    np.testing.assert_allclose(loaded.generate(4, 5, seed=0), images, atol=0.5 / 255)
    assert not loaded.compiled
    for name in ("normalizer", "preconditioning"):
        parts = [getattr(each, name) for each in (trained, loaded)]
        for kept, weight in zip(*(part.get_weights() for part in parts)):
            np.testing.assert_array_equal(kept, weight)
    for averaged, weight in zip(loaded.ema_network.weights, loaded.network.weights):
        np.testing.assert_array_equal(averaged.numpy(), weight.numpy())


@pytest.mark.usefixtures("eagerly")
def test_saved_preset_is_small(tmp_path):
    model = keras_ddim.recipe((16, 16, 3), 5, widths=(32, 64), seed=0)
    model.fit(keras_ddim.draw_flowers(16, 16, seed=0), verbose=0)
    model.save(tmp_path / "all.keras")
    presets.save_preset(model, tmp_path / "preset.keras")
    sizes = [(tmp_path / name).stat().st_size for name in ("preset.keras", "all.keras")]
    assert sizes[0] < sizes[1] / 5
    assert sorted(path.name for path in tmp_path.iterdir()) == ["all.keras", "preset.keras"]


def test_preset_of_another_kind_of_file_is_refused(trained_model, tmp_path):
    with pytest.raises(ValueError, match=r"`path` must end in \.keras"):
        presets.save_preset(trained_model, tmp_path / "preset.h5")
    assert not list(tmp_path.iterdir())


def test_from_preset_takes_any_saved_model(trained, preset_path):
    model = DiffusionModel.from_preset(preset_path)
    assert model.image_shape == trained.image_shape
    model = DiffusionModel.from_preset(str(preset_path))
    assert model.normalizer.is_adapted


def test_from_preset_says_what_there_is(tmp_path):
    with pytest.raises(
        ValueError, match=r"`preset` must be one of \['fashion_mnist', 'flowers.*preset='fowlers'"
    ):
        DiffusionModel.from_preset("fowlers")
    other = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    other.save(tmp_path / "other.keras")
    with pytest.raises(ValueError, match=r"`preset` must be .*holds a Sequential"):
        DiffusionModel.from_preset(tmp_path / "other.keras")


def test_from_preset_says_what_is_wrong_with_a_file(preset_path, tmp_path):
    """Damage is found by checksums, whatever Keras would make of it; all else has its reason."""
    data, path = preset_path.read_bytes(), tmp_path / "odd.keras"
    with zipfile.ZipFile(preset_path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
        place = archive.getinfo("model.weights.h5").header_offset + 1000

    def changed(name, content):
        with zipfile.ZipFile(path, "w") as archive:
            for each in members:
                archive.writestr(each, content if each == name else members[each])
        return path.read_bytes()

    for content, reason in (
        (data[:-1000], "BadZipFile: "),
        (data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :], "model.weights.h5|error: "),
        (changed("config.json", b"[" * 100_000), "RecursionError: "),
        (changed("config.json", b"{}"), "Expected object"),
        (changed("model.weights.h5", b""), "OSError: "),
    ):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=rf"`preset` must .*odd.keras.* \(.*({reason})"):
            DiffusionModel.from_preset(path)


@pytest.mark.parametrize("name", presets.names())
class TestEachPreset:
    def test_has_a_card_and_is_small(self, name):
        path = pathlib.Path(presets.path_of(name))
        assert path.stat().st_size <= 3e6
        card = path.with_suffix(".md").read_text(encoding="utf-8")
        for word in ("Data", "Licence", "keras-ddim train", "Fréchet"):
            assert word in card

    def test_carries_lists_of_times(self, name):
        model = DiffusionModel.from_preset(name)
        card = pathlib.Path(presets.path_of(name)).with_suffix(".md").read_text(encoding="utf-8")
        for num_times in (3, 4, 5, 8):
            times = model.kept_times(f"best:{num_times}")
            assert len(times) == num_times
            assert ", ".join(f"{time:.4f}" for time in times[1:]) in card

    def test_makes_images_that_differ(self, name):
        model = DiffusionModel.from_preset(name)
        images = model.generate(4, 4, seed=0)
        assert np.isfinite(images).all() and images.std(axis=0).mean() > 0.05


@pytest.mark.slow
def test_a_picture_of_a_preset_takes_no_training(tmp_path):
    command = [sys.executable, "-m", "keras_ddim", "generate", "flowers", "--output", "a.png"]
    subprocess.run(command, cwd=tmp_path, check=True, timeout=120)
    assert (tmp_path / "a.png").exists()
