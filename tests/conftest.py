"""What several test files share: tiny networks and images that train in seconds."""

import keras
import numpy as np
import pytest
from hypothesis import HealthCheck, settings

import keras_ddim

# A busy machine fails no test, and the same examples are tried everywhere.
settings.register_profile(
    "tests", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("tests")


def only_on(*backends, reason):
    """Skips a test under other backends than these, and says why."""
    return pytest.mark.skipif(keras.backend.backend() not in backends, reason=reason)


in_float64 = only_on("tensorflow", reason="Keras keeps float64 throughout on TensorFlow only")


def tiny_network(image_shape=(8, 8, 3), widths=(8,), **kwargs):
    return keras_ddim.ResidualUNet(image_shape, widths, block_depth=1, **kwargs)


@pytest.fixture
def images():
    """Float images in [0, 1], (40, 8, 8, 3), with a mean and variance of their own per channel."""
    rng = np.random.default_rng(0)
    return (rng.random((40, 8, 8, 3)) * [1.0, 0.5, 0.2]).astype("float32")


@pytest.fixture
def make_model():
    """Makes a tiny model; keyword arguments are those of `DiffusionModel`.

    It runs eagerly unless asked otherwise: tracing takes longer than the few steps of a test.
    """

    def make(image_shape=(8, 8, 3), seed=0, run_eagerly=True, **kwargs):
        network = tiny_network(image_shape, seed=seed, dtype=kwargs.get("dtype"))
        model = keras_ddim.DiffusionModel(network=network, seed=seed, **kwargs)
        model.compile(run_eagerly=run_eagerly)
        return model

    return make


@pytest.fixture
def eagerly(monkeypatch):
    """Compiles nothing, which takes longer than the few steps of a test."""
    always = property(lambda model: True, lambda model, value: None)
    monkeypatch.setattr(keras_ddim.DiffusionModel, "run_eagerly", always)


@pytest.fixture(scope="session")
def trained_model():
    """A tiny compiled model after a few steps: its network no longer predicts plain zeros.

    Shared by the whole run, so tests may use it, but not change it.
    """
    model = keras_ddim.DiffusionModel(network=tiny_network(seed=0), seed=0)
    model.compile()
    images = np.random.default_rng(0).random((40, 8, 8, 3)) * [1.0, 0.5, 0.2]
    model.fit(images, batch_size=8, epochs=2, verbose=0)
    return model


@pytest.fixture
def model(make_model, images):
    """As `trained_model`, but the test's own."""
    model = make_model()
    model.fit(images, batch_size=20, verbose=0)
    return model
