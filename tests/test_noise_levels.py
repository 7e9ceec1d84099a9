import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import ops

from keras_ddim.noise_levels import (
    PREDICTION_TYPES,
    WEIGHTINGS,
    loss_weights,
    mix,
    rates,
    separate,
    target,
)
from tests.conftest import only_on

pytestmark = pytest.mark.core

types = pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
each_level = st.floats(-15, 15)


def draw(seed, log_snr):
    generator = np.random.default_rng(seed)
    images, noises = generator.standard_normal((2, 3, 4, 4, 1)).astype("float32")
    return images, noises, [np.asarray(rate, "float32") for rate in rates(log_snr)]


@only_on("tensorflow", "jax", reason="torch does not compute with arrays of NumPy")
@types
@settings(max_examples=20)
@given(seed=st.integers(0, 2**31), log_snr=each_level)
def test_separate_undoes_mix(prediction_type, seed, log_snr):
    images, noises, (noise_rate, signal_rate) = draw(seed, log_snr)
    noisy_images = mix(images, noises, noise_rate, signal_rate)
    prediction = target(images, noises, noise_rate, signal_rate, prediction_type)
    pred_noises, pred_images = separate(
        noisy_images, prediction, noise_rate, signal_rate, prediction_type
    )
    # Rounding, in units of what there is of the component in the mixture.
    np.testing.assert_allclose(pred_images, images, rtol=0, atol=3e-6 / signal_rate)
    np.testing.assert_allclose(pred_noises, noises, rtol=0, atol=3e-6 / noise_rate)
    remixed = mix(pred_images, pred_noises, noise_rate, signal_rate)
    np.testing.assert_allclose(remixed, noisy_images, rtol=0, atol=1e-5)


@only_on("tensorflow", "jax", reason="torch does not compute with arrays of NumPy")
@types
@settings(max_examples=20)
@given(seed=st.integers(0, 2**31), log_snr=st.floats(-6, 6))
def test_all_predictions_say_the_same(prediction_type, seed, log_snr):
    """A wrong prediction, put in the words of either type, is the same wrong separation."""
    _, noisy_images, (noise_rate, signal_rate) = draw(seed, log_snr)
    prediction = np.random.default_rng(seed + 1).standard_normal(noisy_images.shape, "float32")
    expected = separate(noisy_images, prediction, noise_rate, signal_rate)
    restated = target(expected[1], expected[0], noise_rate, signal_rate, prediction_type)
    separated = separate(noisy_images, restated, noise_rate, signal_rate, prediction_type)
    for component, expected_component in zip(separated, expected):
        np.testing.assert_allclose(component, expected_component, rtol=1e-4, atol=1e-3)


@types
@pytest.mark.parametrize("log_snr", [-math.inf, -100.0, -33.0, 33.0, 100.0, math.inf])
def test_no_level_divides_by_zero(prediction_type, log_snr):
    images, noises, (noise_rate, signal_rate) = draw(0, log_snr)
    prediction = target(images, noises, noise_rate, signal_rate, prediction_type)
    noisy_images = mix(images, noises, noise_rate, signal_rate)
    # A network that is off, too.
    for off in (0.0, 0.5):
        components = separate(
            noisy_images, prediction + off, noise_rate, signal_rate, prediction_type
        )
        assert np.isfinite(np.asarray(components)).all()
        assert np.abs(np.asarray(components)).max() < 10
    # The component that is all there is comes back.
    known, component = (images, 1) if log_snr > 0 else (noises, 0)
    separated = separate(noisy_images, prediction, noise_rate, signal_rate, prediction_type)
    np.testing.assert_allclose(separated[component], known, atol=1e-6)


def test_components_without_a_rate_are_taken_for_their_mean():
    images, noises, _ = draw(2, 0.0)
    noise_rates = np.array([1.0, 0.6, 0.0], "float32").reshape(3, 1, 1, 1)
    signal_rates = np.array([0.0, 0.8, 1.0], "float32").reshape(3, 1, 1, 1)
    pred_images = np.asarray(separate(images, noises, noise_rates, signal_rates)[1])
    assert (pred_images[0] == 0).all() and (pred_images[1:] != 0).all()
    pred_noises = np.asarray(separate(images, noises, noise_rates, signal_rates, "image")[0])
    assert (pred_noises[2] == 0).all() and (pred_noises[:2] != 0).all()


# Loss weights


@types
@pytest.mark.parametrize("weighting", ["noise", "image", "velocity", "flow"])
@settings(max_examples=10)
@given(seed=st.integers(0, 2**31), log_snr=st.floats(-8, 8))
def test_weights_turn_one_squared_error_into_another(prediction_type, weighting, seed, log_snr):
    """Measured on random wrong separations, not taken from the formulas."""
    generator = np.random.default_rng(seed)
    images, pred_images, noisy_images = generator.standard_normal((3, 50))
    noise_rate, signal_rate = map(float, rates(np.array(log_snr)))

    def squared_error(quantity):
        stated = []
        for image in (images, pred_images):
            noise = (noisy_images - signal_rate * image) / noise_rate
            stated.append(np.asarray(target(image, noise, noise_rate, signal_rate, quantity)))
        return np.mean((stated[0] - stated[1]) ** 2)

    weight = float(loss_weights(log_snr, prediction_type, weighting))
    np.testing.assert_allclose(
        weight * squared_error(prediction_type), squared_error(weighting), rtol=1e-4
    )


@types
def test_truncated_and_min_snr(prediction_type):
    log_snr = np.array([-3.0, -0.5, 0.5, 3.0])
    snr = np.exp(log_snr)
    error = {
        "image": 1,
        "noise": snr,
        "velocity": 1 + snr,
        "flow": (1 + np.sqrt(snr)) ** 2,
    }[prediction_type]
    truncated = loss_weights(log_snr, prediction_type, "truncated_snr")
    np.testing.assert_allclose(truncated, np.maximum(snr, 1) / error, rtol=1e-6)
    for gamma in (5.0, 1.0):
        limited = loss_weights(log_snr, prediction_type, "min_snr", gamma)
        np.testing.assert_allclose(limited, np.minimum(snr, gamma) / error, rtol=1e-6)


@types
@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_weights_are_finite_and_shaped_as_the_levels(prediction_type, weighting):
    log_snr = np.array([-np.inf, -1e30, -100, -10, 0, 10, 100, 1e30, np.inf], "float32")
    log_snr = log_snr.reshape(-1, 1, 1, 1)
    weights = ops.convert_to_numpy(loss_weights(log_snr, prediction_type, weighting))
    assert weights.shape == log_snr.shape and weights.dtype == np.float32
    assert np.isfinite(weights).all() and (weights > 0).all()
    if weighting in (None, prediction_type):
        assert (weights == 1).all()


def test_the_velocity_is_the_prediction_of_edm_except_for_its_sign():
    """Karras et al., eq. 7 and table 1, where data have unit variance and x is not scaled."""
    noisy_images, network_output = np.random.default_rng(0).standard_normal((2, 1, 4, 4, 1))
    for sigma in (0.05, 1.0, 20.0):
        x = noisy_images * np.sqrt(1 + sigma**2)
        c_skip, c_out = 1 / (1 + sigma**2), sigma / np.sqrt(1 + sigma**2)
        noise_rate, signal_rate = sigma / np.sqrt(1 + sigma**2), 1 / np.sqrt(1 + sigma**2)
        _, pred_images = separate(
            noisy_images, -network_output, noise_rate, signal_rate, "velocity"
        )
        np.testing.assert_allclose(pred_images, c_skip * x + c_out * network_output, rtol=1e-12)
