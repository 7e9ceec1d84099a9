"""The loop and what `generate` adds to it, without a `DiffusionModel` around."""

import itertools

import keras
import numpy as np
import pytest
from keras import ops

import keras_ddim
from keras_ddim import sampling, times
from keras_ddim.denoisers import NetworkDenoiser
from keras_ddim.sampling import Step, compile_step
from tests.conftest import tiny_network
from tests.gaussian import GaussianDenoiser

pytestmark = pytest.mark.core

DENOISER = GaussianDenoiser(np.full((2, 2, 1), 0.3), np.array([1.0, 0.5, 0.1, 2.0]))
LEVELS = np.linspace(-5.0, 5.0, 6).astype("float32")


def generate(num_images=5, sampler="ddim", levels=LEVELS, compiled=True, **kwargs):
    step = Step(DENOISER, sampler)
    step = compile_step(step) if compiled else step
    return sampling.generate(step, levels, num_images, (2, 2, 1), **{"seed": 3, **kwargs})


def test_a_network_of_ones_own():
    """As in the module's docstring."""
    denoiser = NetworkDenoiser(tiny_network(seed=0), prediction_type="velocity")
    step = compile_step(Step(denoiser, keras_ddim.UniPC()))
    levels = keras_ddim.CosineSchedule().log_snr(times.uniform(8))
    images = sampling.generate(step, levels, num_images=3, image_shape=(8, 8, 3), seed=0)
    assert images.shape == (3, 8, 8, 3) and np.isfinite(images).all()


def as_diffusion(flow_network):
    """A network of flow behind the scaling that turns this package's noisy images into its own."""
    noisy_images, variances = keras.Input((8, 8, 3)), keras.Input((1, 1, 1))
    rates_sum = ops.sqrt(variances) + ops.sqrt(1 - variances)
    velocities = flow_network([noisy_images / rates_sum, ops.sqrt(variances) / rates_sum])
    return keras.Model([noisy_images, variances], velocities)


def test_rectified_flow_is_diffusion_by_another_schedule_and_scaling():
    """A random network of rectified flow: [(1 - t) images + t noises, t] -> noises - images."""
    network = tiny_network((8, 8, 3), seed=3)
    weights = [w + 0.05 * np.cos(np.arange(w.size)).reshape(w.shape) for w in network.get_weights()]
    network.set_weights(weights)  # the last layer starts at zeros
    noises = np.random.default_rng(0).standard_normal((2, 8, 8, 3)).astype("float32")
    schedule = keras_ddim.schedules.RectifiedFlowSchedule(shift=3.0)
    diffusion_times = np.array([0.9, 0.7, 0.45, 0.1])
    levels = ops.convert_to_numpy(schedule.log_snr(diffusion_times))

    # As flow: Euler's method on d images / dt = velocity, from noise and down to t = 0.
    shifted = 3.0 * diffusion_times / (1 + 2.0 * diffusion_times)
    flow_images = noises * np.hypot(shifted[0], 1 - shifted[0])
    for t, next_t in itertools.pairwise([*shifted, 0.0]):
        t_of_each = np.full((2, 1, 1, 1), t, "float32")
        velocities = network([ops.convert_to_tensor(x) for x in (flow_images, t_of_each)])
        flow_images = flow_images + (next_t - t) * ops.convert_to_numpy(velocities)

    denoiser = NetworkDenoiser(as_diffusion(network), prediction_type="flow")
    images = sampling.generate(Step(denoiser, "ddim"), levels, 2, (8, 8, 3), initial_noise=noises)
    assert np.abs(images - noises).max() > 0.1
    np.testing.assert_allclose(images, flow_images, atol=2e-4)


def test_images_have_the_distribution_of_the_data():
    levels = np.linspace(-9.0, 9.0, 60).astype("float32")
    images = generate(4000, "unipc", levels, batch_size=4000)
    np.testing.assert_allclose(images.mean(axis=0), np.full((2, 2, 1), 0.3), atol=0.1)
    np.testing.assert_allclose(images.var(axis=0).ravel(), [1.0, 0.5, 0.1, 2.0], rtol=0.15)


@pytest.mark.parametrize("sampler", ["ddim", "ddpm", "unipc", "heun"])
def test_compiled_or_not_and_in_batches_of_any_size(sampler):
    expected = generate(5, sampler, compiled=False)
    for kwargs in ({}, {"batch_size": 2}, {"batch_size": 3}, {"batch_size": 1}):
        np.testing.assert_allclose(generate(5, sampler, **kwargs), expected, atol=1e-5)
    np.testing.assert_allclose(generate(2, sampler, first=3), expected[3:], atol=1e-5)


def test_watchers_see_every_level_and_every_image():
    visits = []
    images = generate(5, "heun", batch_size=2, watchers=[lambda *visit: visits.append(visit)])
    assert [position for position, *_ in visits] == list(range(6)) * 3
    assert [list(numbers) for _, numbers, *_ in visits[::6]] == [[0, 1], [2, 3], [4]]
    # Batches are of one size: the last is filled up.
    assert {len(x) for _, _, *both in visits for x in both} == {2}
    np.testing.assert_array_equal(ops.convert_to_numpy(visits[-1][-1])[:1], images[4:])


def test_seeds():
    np.testing.assert_array_equal(generate(seed=1), generate(seed=1))
    np.testing.assert_array_equal(generate(seed=[1, 2])[:2], generate(2, seed=[1, 2]))
    assert not np.allclose(generate(seed=1), generate(seed=2))
    assert not np.allclose(generate(seed=None), generate(seed=None))
    noise = np.zeros((5, 2, 2, 1))
    first, second = (generate(seed=seed, initial_noise=noise) for seed in (1, 2))
    np.testing.assert_array_equal(first, second)


def test_weights_are_not_baked_in():
    network = tiny_network(seed=0)
    step = compile_step(Step(NetworkDenoiser(network, prediction_type="image")))
    before = sampling.generate(step, LEVELS, 2, (8, 8, 3), seed=0)
    network.set_weights([weight + 0.5 for weight in network.get_weights()])
    assert not np.allclose(before, sampling.generate(step, LEVELS, 2, (8, 8, 3), seed=0))
