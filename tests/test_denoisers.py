"""Denoisers: the network's, those around another, and the exact one of normal data."""

import keras
import numpy as np
import pytest
from keras import ops

import keras_ddim
from keras_ddim.denoisers import Clipped, NetworkDenoiser
from keras_ddim.noise_levels import PREDICTION_TYPES
from keras_ddim.sampling import Step, sample
from tests.conftest import tiny_network

pytestmark = pytest.mark.core


def numpy(tensors):
    return [ops.convert_to_numpy(tensor) for tensor in tensors]


def normalizer(mean, deviation):
    normalizer = keras_ddim.Normalizer(3)
    normalizer.set_weights([np.full(3, mean), np.full(3, deviation), np.array(1)])
    return normalizer


@pytest.fixture
def noisy_images():
    return np.random.default_rng(0).standard_normal((4, 8, 8, 3)).astype("float32")


@pytest.fixture
def network():
    """One that predicts something: its last layer starts at zeros."""
    network = tiny_network(seed=0)
    rng = np.random.default_rng(1)
    network.set_weights([w + 0.1 * rng.standard_normal(w.shape) for w in network.get_weights()])
    return network


@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
@pytest.mark.parametrize("log_snr", [-2.0, 1.5])
def test_components_add_up_to_the_noisy_images(network, noisy_images, prediction_type, log_snr):
    denoiser = NetworkDenoiser(network, prediction_type=prediction_type)
    noises, images = numpy(denoiser(noisy_images, log_snr))
    variance = 1 / (1 + np.exp(log_snr))
    mixed = np.sqrt(1 - variance) * images + np.sqrt(variance) * noises
    np.testing.assert_allclose(mixed, noisy_images, atol=1e-4)
    # The embedding's frequency of 1,000 shows the last digit.
    level = ops.broadcast_to(ops.sigmoid(ops.convert_to_tensor(-log_snr)), (4, 1, 1, 1))
    (prediction,) = numpy([network([ops.convert_to_tensor(noisy_images), level])])
    velocity = np.sqrt(1 - variance) * noises - np.sqrt(variance) * images
    types = {"noise": noises, "image": images, "velocity": velocity, "flow": noises - images}
    np.testing.assert_allclose(prediction, types[prediction_type], atol=1e-4)


def test_each_image_may_have_a_level_of_its_own(network, noisy_images):
    denoiser = NetworkDenoiser(network)
    levels = np.array([-2.0, -1.0, 0.0, 3.0], "float32")
    together = numpy(denoiser(noisy_images, levels.reshape(4, 1, 1, 1)))
    for i, level in enumerate(levels):
        alone = numpy(denoiser(noisy_images[i : i + 1], level))
        np.testing.assert_allclose(alone[1][0], together[1][i], atol=1e-4)


def test_labels_reach_a_network_that_takes_them(noisy_images):
    inputs = [keras.Input((8, 8, 3)), keras.Input((1, 1, 1)), keras.Input((), dtype="int32")]
    shifts = ops.reshape(ops.cast(inputs[2], "float32"), (-1, 1, 1, 1))
    outputs = inputs[0] + 0 * inputs[1] + shifts  # Keras 3.13 wants all inputs to be used
    denoiser = NetworkDenoiser(keras.Model(inputs, outputs), prediction_type="image")
    labels = np.array([0, 1, 2, 3])
    _, images = numpy(denoiser(noisy_images, 0.0, labels=labels))
    np.testing.assert_allclose(images - noisy_images, labels.reshape(4, 1, 1, 1) + 0 * images, 1e-5)
    # Through wrapper and loop, too: inputs per image are handed on.
    step = Step(Clipped(denoiser, normalizer(0.0, 100.0)))
    *_, (_, images) = sample(step, noisy_images, np.array([0.0, 9.0], "float32"), labels=labels)
    assert np.argsort(ops.convert_to_numpy(images).mean(axis=(1, 2, 3))).tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("method", ["static", "dynamic"])
def test_clipped(network, noisy_images, method):
    plain = NetworkDenoiser(network)
    _, images = numpy(plain(noisy_images, -3.0))
    assert np.abs(images).max() > 3  # beyond the range of pixels
    noises, clipped = numpy(Clipped(plain, normalizer(0.5, 0.25), method)(noisy_images, -3.0))
    pixels = 0.5 + 0.25 * clipped
    assert pixels.min() >= -1e-6 and pixels.max() <= 1 + 1e-6
    inside = np.mean((pixels > 1e-6) & (pixels < 1 - 1e-6))
    assert inside > 0.9 if method == "dynamic" else inside < 0.9
    if method == "static":
        np.testing.assert_allclose(pixels, np.clip(0.5 + 0.25 * images, 0, 1), atol=1e-5)
    variance = 1 / (1 + np.exp(-3.0))
    mixed = np.sqrt(1 - variance) * clipped + np.sqrt(variance) * noises
    np.testing.assert_allclose(mixed, noisy_images, atol=1e-4)


def test_half_precision_leaves_levels_alone(noisy_images):
    denoiser = NetworkDenoiser(tiny_network(seed=0, dtype="mixed_bfloat16"))
    noises, images = denoiser(noisy_images, np.float32(0.123))
    assert {keras.backend.standardize_dtype(x.dtype) for x in (noises, images)} == {"float32"}
    # An untrained network predicts no noise: the image is all there is, to the last digit.
    (images,) = numpy([images])
    np.testing.assert_allclose(images, noisy_images * np.sqrt(1 + np.exp(-0.123)), rtol=1e-6)
