import math

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from keras import ops

from keras_ddim import times
from keras_ddim.conditioning import LogSNR, NoiseRate, NoiseVariance, Timestep
from keras_ddim.schedules import (
    CosineSchedule,
    LinearBetaSchedule,
    Schedule,
    TableSchedule,
)
from tests.conftest import in_float64

pytestmark = pytest.mark.core


class SteepSchedule(Schedule):
    def log_snr(self, diffusion_times):
        return 9.0 - 20.0 * diffusion_times


LINEAR = LinearBetaSchedule(num_timesteps=4000)
CONDITIONINGS = {
    "noise_variance": NoiseVariance(),
    "noise_rate": NoiseRate(),
    "log_snr": LogSNR(min_log_snr=-12, max_log_snr=12),
    "timestep": Timestep(LINEAR),
    "timestep_rounded": Timestep("cosine", num_timesteps=100, rounded=True),
    "timestep_zero_terminal": Timestep(LinearBetaSchedule(zero_terminal_snr=True), 1000),
    "timestep_table": Timestep(TableSchedule(sigmas=[0.1, 1.0, 20.0]), 3),
    "timestep_user": Timestep(SteepSchedule(), 500),
}
each = pytest.mark.parametrize("name", CONDITIONINGS)
levels = arrays("float32", 30, elements=st.floats(-100, 100, width=32) | st.just(-math.inf))


def numpy(values):
    return ops.convert_to_numpy(values)


@each
@settings(max_examples=10)
@given(log_snr=levels)
def test_numbers_are_in_range_and_grow_with_the_noise(name, log_snr):
    log_snr = np.sort(log_snr)[::-1].reshape(-1, 1, 1, 1)
    numbers = numpy(CONDITIONINGS[name](log_snr))
    assert numbers.dtype == np.float32 and numbers.shape == log_snr.shape
    assert numbers.min() >= 0 and numbers.max() <= 1
    # The bisection of a user's schedule may be off by its last digit.
    assert (np.diff(numbers.ravel()) >= -1e-6).all()


def test_formulas():
    log_snr = np.array([-3.0, 0.0, 3.0], "float32")
    variances = 1 / (1 + np.exp(log_snr))
    np.testing.assert_allclose(NoiseVariance()(log_snr), variances, rtol=1e-6)
    np.testing.assert_allclose(NoiseRate()(log_snr), np.sqrt(variances), rtol=1e-6)
    np.testing.assert_allclose(LogSNR()(log_snr), [0.6, 0.5, 0.4], rtol=1e-6)


# Timesteps


@pytest.mark.parametrize("spacing", times.SPACINGS)
@pytest.mark.parametrize("num_timesteps", [1000, 4000])
def test_strided_timesteps_are_exact(num_timesteps, spacing):
    schedule = LinearBetaSchedule(num_timesteps)
    for num_steps in (20, 200, num_timesteps):
        diffusion_times = times.timesteps(num_steps, num_timesteps, spacing)
        log_snr = numpy(schedule.log_snr(diffusion_times.astype("float32")))
        expected = np.round(diffusion_times * (num_timesteps - 1))
        timesteps = Timestep(schedule, num_timesteps).timesteps(log_snr)
        np.testing.assert_array_equal(numpy(timesteps), expected)


@in_float64
def test_every_timestep_comes_back_from_its_level():
    timesteps = np.arange(4000, dtype="float32")
    log_snr = LINEAR.levels.astype("float32")
    np.testing.assert_array_equal(Timestep(LINEAR).timesteps(log_snr), timesteps)
    np.testing.assert_array_equal(Timestep(LINEAR)(log_snr), timesteps / 4000)


def test_levels_of_another_schedule_are_remapped():
    """Under another schedule the same time is another level, and another timestep."""
    other, diffusion_times = CosineSchedule(), np.linspace(0, 1, 11, dtype="float32")
    log_snr = other.log_snr(diffusion_times)
    remapped = Timestep(LINEAR).timesteps(log_snr)
    np.testing.assert_allclose(LINEAR.log_snr(remapped / 3999), log_snr, rtol=0, atol=1e-2)
    not_remapped = Timestep(other).timesteps(log_snr)
    np.testing.assert_allclose(not_remapped, 3999 * diffusion_times, atol=5e-3)
    assert np.abs(numpy(remapped) - numpy(not_remapped)).max() > 500


def test_levels_beyond_the_table_are_clamped_in_the_network_and_refused_by_check():
    value = Timestep(LINEAR)
    np.testing.assert_array_equal(value.timesteps([40.0, -40.0, -math.inf]), [0, 3999, 3999])
    start, end = LINEAR.levels[[0, -1]]
    value.check(LINEAR.levels.astype("float32"))
    value.check(np.array([start, end, 0.0]).reshape(-1, 1, 1, 1))
    with pytest.raises(ValueError, match=r"range of .*Schedule, got -12\.0"):
        value.check(np.array([0.0, -12.0, -11.0]))
    with pytest.raises(ValueError, match="got -inf"):
        value.check([-math.inf])
    # A schedule without signal at its end has that level.
    CONDITIONINGS["timestep_zero_terminal"].check([-math.inf, 0.0])
    for name in ("noise_variance", "noise_rate", "log_snr"):
        CONDITIONINGS[name].check([-math.inf, 40.0])


@pytest.mark.parametrize("name", ["noise_variance", "timestep_table", "timestep"])
def test_times_to_train_at(name):
    value = CONDITIONINGS[name]
    drawn = numpy(value.draw_times((2000, 1, 1, 1), seed=0))
    assert drawn.shape == (2000, 1, 1, 1) and drawn.dtype == np.float32
    assert drawn.min() >= 0 and drawn.max() <= 1
    np.testing.assert_allclose(drawn.mean(), 0.5, atol=0.05)
    if isinstance(value, Timestep):
        timesteps = drawn * (value.num_timesteps - 1)
        np.testing.assert_allclose(timesteps, np.round(timesteps), rtol=0, atol=1e-3)
        if value.num_timesteps == 3:
            assert set(np.round(2 * drawn).ravel()) == {0, 1, 2}


def test_times_of_a_batch_are_evenly_spread():
    value = CONDITIONINGS["noise_variance"]
    seeds = keras.random.SeedGenerator(0)
    drawn = np.array(
        [numpy(value.draw_times((8, 1, 1, 1), seed=seeds)).ravel() for _ in range(500)]
    )
    np.testing.assert_allclose(np.diff(np.sort(drawn)), 1 / 8, atol=1e-6)
    # Each image's own times are uniform, in whatever order images come.
    np.testing.assert_allclose(
        np.quantile(drawn, [0.25, 0.5, 0.75], axis=0).T, [[0.25, 0.5, 0.75]] * 8, atol=0.08
    )
