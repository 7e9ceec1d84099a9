"""Optimal times: as good as trying all lists, no worse than those made by hand, kept in files."""

import itertools

import numpy as np
import pytest

import keras_ddim
from keras_ddim import GaussianDenoiser, optimal_times
from tests.conftest import tiny_network

pytestmark = pytest.mark.core

SHAPE = (4, 4, 1)
# Of pixels on a common scale, so that directions differ in when they come out of the noise.
VARIANCES = np.geomspace(0.02, 4.0, 16)


class GaussianModel(keras_ddim.DiffusionModel):
    """A model whose denoiser is exact, for images whose best lists are known."""

    def __init__(self):
        super().__init__(network=tiny_network(SHAPE), seed=0)
        self.normalizer.adapt([0.5 + 0.1 * np.random.default_rng(0).standard_normal((9, *SHAPE))])
        self.exact = GaussianDenoiser(np.zeros(SHAPE), VARIANCES)
        self.compile()

    def make_denoiser(self, *args, **kwargs):
        return self.exact


@pytest.fixture(scope="module")
def gaussian_model():
    return GaussianModel()


# The best list


@pytest.mark.parametrize(("sampler", "num_times"), [("ddim", 2), ("unipc", 3), ("heun", 2)])
def test_as_good_as_trying_all_lists(gaussian_model, sampler, num_times):
    """Against the exact flow, and on other noise than it was found for."""
    model = gaussian_model
    optimizer = optimal_times.Optimizer(model, sampler, num_images=256, verbose=0)
    found = optimizer.find(num_times)
    noise = np.random.default_rng(5).standard_normal((256, *SHAPE)).astype("float32")
    start, end = (model.schedule.log_snr(np.float32(time)) for time in (1, 0))
    _, exact = model.exact(model.exact.follow(noise, start, end), end)
    exact = model.denormalize(exact)

    def loss(times):
        options = {"sampler": sampler, "initial_noise": noise, "batch_size": 256, "verbose": 0}
        images = model.generate(len(noise), times, **options)
        return np.sqrt(np.mean((images - exact) ** 2))

    grid = np.linspace(0, 1, {2: 81, 3: 25}[num_times])[-2::-1]
    lists = itertools.combinations(grid, num_times - 1)
    least = min(loss([1.0, *times]) for times in lists)
    assert found[0] == 1 and (np.diff(found) < 0).all() and found.dtype == "float64"
    assert loss(found) <= 1.01 * least
