"""Saved models: whole in one file, loaded by a process that only imports the package."""

import subprocess
import sys

import keras
import numpy as np
import pytest

import keras_ddim
from tests.conftest import tiny_network

pytestmark = pytest.mark.core


def assert_equal_weights(first, second):
    for a, b in zip(first.get_weights(), second.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_loads_in_a_new_process(trained_model, tmp_path):
    trained_model.save(tmp_path / "m.keras")
    expected = trained_model.generate(3, [1.0, 0.6, 0.2], seed=1)
    code = (
        "import keras, keras_ddim, numpy as np\n"
        "model = keras.saving.load_model('m.keras')\n"
        "np.save('images.npy', model.generate(3, [1.0, 0.6, 0.2], seed=1))\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, capture_output=True)
    np.testing.assert_allclose(np.load(tmp_path / "images.npy"), expected, atol=1e-6)


def test_training_continues_where_it_stopped(make_model, images, tmp_path):
    """Optimizer, average, random numbers: three epochs are one, saved, loaded, and two more."""
    histories = []
    for interrupted in (False, True):
        model = make_model()
        model.fit(images, batch_size=20, shuffle=False, verbose=0)
        if interrupted:
            model.save(tmp_path / "m.keras")
            model = keras.saving.load_model(tmp_path / "m.keras")
            assert model.optimizer.iterations == 2
        histories.append(model.fit(images, batch_size=20, epochs=2, shuffle=False, verbose=0))
        weights = model.get_weights()
        if not interrupted:
            expected = weights
    np.testing.assert_allclose(histories[0].history["loss"], histories[1].history["loss"], 1e-5)
    for weight, expected_weight in zip(weights, expected, strict=True):
        np.testing.assert_allclose(weight, expected_weight, rtol=1e-3, atol=1e-5)


def test_untrained_models(tmp_path, images):
    for compiled in (False, True):
        model = keras_ddim.DiffusionModel(network=tiny_network(), ema=0.9, seed=3, name="mine")
        if compiled:
            model.compile(keras.optimizers.Adam(1e-2), loss="mse")
        model.save(tmp_path / "m.keras")
        loaded = keras.saving.load_model(tmp_path / "m.keras")
        assert_equal_weights(model, loaded)
        assert (loaded.ema, loaded.seed, loaded.name) == (0.9, 3, "mine")
        assert loaded.compiled == compiled and not loaded.normalizer.is_adapted
    assert float(loaded.optimizer.learning_rate) == pytest.approx(1e-2)
    assert loaded.loss == "mse"
    assert np.isfinite(loaded.fit(images, verbose=0).history["loss"]).all()


def test_saved_is_what_was_chosen_for_training(tmp_path):
    """What is off, older versions of Keras may not know; "auto" depends on the machine."""
    model = keras_ddim.DiffusionModel(network=tiny_network())
    rate = keras.optimizers.schedules.CosineDecay(0.1, 100)
    # `nesterov` is True by default: that it is not must be kept.
    optimizer = keras.optimizers.Muon(rate, nesterov=False, clipnorm=1.0)
    model.compile(optimizer)
    config = model.get_compile_config()
    assert config["jit_compile"] == "auto"
    written = config["optimizer"]["config"]
    assert {"use_ema", "global_clipnorm"}.isdisjoint(written)
    assert (written["nesterov"], written["clipnorm"], written["momentum"]) == (False, 1.0, 0.95)
    assert "warmup_target" not in written["learning_rate"]["config"]
    model.save(tmp_path / "m.keras")
    loaded = keras.saving.load_model(tmp_path / "m.keras")
    assert loaded.optimizer.get_config() == optimizer.get_config()
    model.compile(jit_compile=False)
    assert model.get_compile_config()["jit_compile"] is False


def test_parts_are_saved(tmp_path):
    schedule = keras_ddim.CosineSchedule(0.1, 0.8)
    network = tiny_network((8, 16, 1), dtype="mixed_bfloat16")
    model = keras_ddim.DiffusionModel(network=network, schedule=schedule, dtype="mixed_bfloat16")
    model.save(tmp_path / "m.keras")
    loaded = keras.saving.load_model(tmp_path / "m.keras")
    assert loaded.image_shape == (8, 16, 1)
    assert loaded.schedule.get_config() == schedule.get_config()
    assert loaded.dtype_policy.name == "mixed_bfloat16"
    policies = [[x.dtype_policy.name for x in m.network.layers] for m in (model, loaded)]
    assert policies[0] == policies[1]
    images = [m.generate(2, 2, seed=0) for m in (model, loaded)]
    np.testing.assert_array_equal(*images)


def test_weights_files(trained_model, tmp_path):
    trained_model.save_weights(tmp_path / "m.weights.h5")
    fresh = keras_ddim.DiffusionModel(network=tiny_network(seed=9), seed=9)
    fresh.load_weights(tmp_path / "m.weights.h5")
    assert_equal_weights(trained_model, fresh)
    assert fresh.normalizer.is_adapted
    np.testing.assert_allclose(
        fresh.generate(2, 3, seed=0), trained_model.generate(2, 3, seed=0), atol=1e-6
    )


def test_unseeded_images_go_on_after_loading(make_model, images, tmp_path):
    model = make_model()
    model.adapt(images)
    model.save(tmp_path / "m.keras")
    loaded = keras.saving.load_model(tmp_path / "m.keras")
    np.testing.assert_array_equal(model.generate(2, 2), loaded.generate(2, 2))


@pytest.mark.parametrize("name", ["m.h5", "m.weights.h5", "m"])
def test_what_could_not_be_loaded_is_not_saved(make_model, tmp_path, name):
    with pytest.raises(ValueError, match=r"`filepath` must be a path that ends in \.keras"):
        make_model().save(tmp_path / name)
    assert not any(tmp_path.iterdir())
