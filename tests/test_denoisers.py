"""Denoisers: the network's, those around another, and the exact one of normal data."""

import json

import keras
import numpy as np
import pytest
from keras import ops

import keras_ddim
from keras_ddim.denoisers import Clipped, GaussianDenoiser, NetworkDenoiser
from keras_ddim.noise_levels import PREDICTION_TYPES
from keras_ddim.sampling import Step, sample
from tests.conftest import in_float64, only_on, tiny_network

pytestmark = pytest.mark.core


def numpy(tensors):
    return [ops.convert_to_numpy(tensor) for tensor in tensors]


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
    if prediction_type == "velocity":
        expected = np.sqrt(1 - variance) * noises - np.sqrt(variance) * images
    else:
        expected = {"noise": noises, "image": images, "flow": noises - images}[prediction_type]
    np.testing.assert_allclose(prediction, expected, atol=1e-4)


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
    # Through wrapper and loop, too: per-image inputs travel as arguments.
    normalizer = keras_ddim.Normalizer(3)
    normalizer.set_weights([np.zeros(3), np.full(3, 100.0), np.array(1)])
    step = Step(Clipped(denoiser, normalizer))
    *_, (_, images) = sample(step, noisy_images, np.array([0.0, 9.0], "float32"), labels=labels)
    assert np.argsort(ops.convert_to_numpy(images).mean(axis=(1, 2, 3))).tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("method", ["static", "dynamic"])
def test_clipped(network, noisy_images, method):
    normalizer = keras_ddim.Normalizer(3)
    normalizer.set_weights([np.full(3, 0.5), np.full(3, 0.25), np.array(1)])
    plain = NetworkDenoiser(network)
    _, images = numpy(plain(noisy_images, -3.0))
    assert np.abs(images).max() > 3  # beyond what pixels can be
    noises, clipped = numpy(Clipped(plain, normalizer, method)(noisy_images, -3.0))
    pixels = 0.5 + 0.25 * clipped
    assert pixels.min() >= -1e-6 and pixels.max() <= 1 + 1e-6
    if method == "static":
        np.testing.assert_allclose(pixels, np.clip(0.5 + 0.25 * images, 0, 1), atol=1e-5)
    variance = 1 / (1 + np.exp(-3.0))
    mixed = np.sqrt(1 - variance) * clipped + np.sqrt(variance) * noises
    np.testing.assert_allclose(mixed, noisy_images, atol=1e-4)


def test_half_precision_leaves_levels_alone(noisy_images):
    network = tiny_network(seed=0, dtype="mixed_bfloat16")
    denoiser = NetworkDenoiser(network, dtype="mixed_bfloat16")
    noises, images = denoiser(noisy_images, np.float32(0.123))
    assert {keras.backend.standardize_dtype(x.dtype) for x in (noises, images)} == {"float32"}
    # An untrained network predicts no noise: the image is all there is, to the last digit.
    (images,) = numpy([images])
    np.testing.assert_allclose(images, noisy_images * np.sqrt(1 + np.exp(-0.123)), rtol=1e-6)


class TestGaussianDenoiser:
    mean = np.random.default_rng(2).standard_normal((2, 1, 2))
    factor = np.random.default_rng(3).standard_normal((4, 4))

    @pytest.mark.parametrize("log_snr", [-2.0, 0.0, 3.0])
    def test_is_the_conditional_mean(self, log_snr):
        """Against the textbook formula for the mean of one normal vector given another."""
        covariance = self.factor @ self.factor.T
        noisy = np.random.default_rng(4).standard_normal((5, 2, 1, 2)).astype("float32")
        variance = 1 / (1 + np.exp(log_snr))
        signal = np.sqrt(1 - variance)
        of_noisy = signal**2 * covariance + variance * np.eye(4)
        gain = signal * covariance @ np.linalg.inv(of_noisy)
        flat = (noisy - signal * self.mean).reshape(5, 4)
        expected = self.mean + (flat @ gain.T).reshape(noisy.shape)
        _, images = numpy(GaussianDenoiser(self.mean, covariance)(noisy, log_snr))
        np.testing.assert_allclose(images, expected, atol=1e-4)

    def test_variances_alone(self):
        variances = np.array([1.0, 4.0, 0.0, 2.0])
        noisy = np.ones((1, 2, 1, 2), "float32")
        for first, second in zip(
            *(
                numpy(GaussianDenoiser(self.mean, covariance)(noisy, 0.7))
                for covariance in (variances, np.diag(variances))
            )
        ):
            np.testing.assert_allclose(first, second, atol=1e-5)

    @only_on("tensorflow", "jax", reason="torch does not compute with arrays of NumPy")
    def test_follow_keeps_the_distribution(self):
        denoiser = GaussianDenoiser(self.mean, self.factor @ self.factor.T)
        noisy = np.random.default_rng(5).standard_normal((3, 2, 1, 2)).astype("float32")
        there = denoiser.follow(noisy, -1.0, 2.0)
        np.testing.assert_allclose(denoiser.follow(there, 2.0, -1.0), noisy, atol=1e-4)

    @in_float64
    @pytest.mark.parametrize("dtype", ["float32", "float64"])
    @pytest.mark.parametrize("level_dtype", ["float32", "float64"])
    def test_images_and_levels_of_any_precision(self, dtype, level_dtype):
        denoiser = GaussianDenoiser(self.mean, self.factor @ self.factor.T)
        noisy = ops.ones((1, 2, 1, 2), dtype)
        levels = [ops.cast(level, level_dtype) for level in (0.7, 2.0)]
        expected = numpy([*denoiser(ops.ones((1, 2, 1, 2)), 0.7)])
        images = [*denoiser(noisy, levels[0]), denoiser.follow(noisy, *levels)]
        assert {x.dtype for x in images} == {noisy.dtype}
        for one, other in zip(numpy(images), expected):
            np.testing.assert_allclose(one, other, atol=1e-5)

    def test_errors(self):
        with pytest.raises(ValueError, match=r"`covariance` must be of shape \(4,\) or \(4, 4\)"):
            GaussianDenoiser(self.mean, np.eye(3))
        with pytest.raises(ValueError, match="no negative eigenvalue"):
            GaussianDenoiser(self.mean, [1.0, -1.0, 1.0, 1.0])


def test_serialization(network, noisy_images):
    for denoiser in (
        NetworkDenoiser(network, "log_snr", "velocity"),
        Clipped(NetworkDenoiser(network), keras_ddim.Normalizer(3), "dynamic"),
        GaussianDenoiser(np.zeros((8, 8, 3)), np.ones(192)),
    ):
        config = json.loads(json.dumps(keras.saving.serialize_keras_object(denoiser)))
        copy = keras.saving.deserialize_keras_object(config)
        assert type(copy) is type(denoiser) and copy.get_config() == denoiser.get_config()
        copy.set_weights(denoiser.get_weights())
        received, expected = (numpy(each(noisy_images, 0.3)) for each in (copy, denoiser))
        np.testing.assert_allclose(received, expected, atol=1e-5)


def test_errors(network):
    with pytest.raises(ValueError, match=r"`prediction_type` must be one of .*Received.*'score'"):
        NetworkDenoiser(network, prediction_type="score")
    with pytest.raises(ValueError, match=r"`conditioning` must be .*Received.*'time'"):
        NetworkDenoiser(network, "time")
    with pytest.raises(ValueError, match=r"`method` must be one of .*Received.*'hard'"):
        Clipped(NetworkDenoiser(network), keras_ddim.Normalizer(3), "hard")
