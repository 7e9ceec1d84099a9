import math

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from keras import ops

from keras_ddim import schedules
from keras_ddim.schedules import (
    CosineSchedule,
    ImprovedCosineSchedule,
    KarrasSchedule,
    LinearBetaSchedule,
    LinearVarianceSchedule,
    LogSNRLinearSchedule,
    RectifiedFlowSchedule,
    ScaledLinearBetaSchedule,
    Schedule,
    SigmoidSchedule,
    TableSchedule,
)
from tests.conftest import in_float64

pytestmark = pytest.mark.core


class StraightSchedule(Schedule):
    def log_snr(self, diffusion_times):
        return 8.0 - 16.0 * diffusion_times


class InfiniteSchedule(Schedule):
    """Noise variance linear in time, infinite at both ends, its inverse left to bisection."""

    def log_snr(self, diffusion_times):
        return ops.log(1 - diffusion_times) - ops.log(diffusion_times)


BETAS = np.linspace(1e-4, 0.02, 1000)
ALL = {
    **{name: schedule() for name, schedule in schedules.SCHEDULES.items()},
    "user": StraightSchedule(),
    "user_infinite": InfiniteSchedule(),
    "improved_cosine_without_offset": ImprovedCosineSchedule(
        0.0, start_log_snr=15.0, end_log_snr=-15.0
    ),
    "sigmoid_sudden": SigmoidSchedule(start=0.0, tau=0.2),
    "linear_beta_2": LinearBetaSchedule(2, zero_terminal_snr=True),
    "linear_beta_10": LinearBetaSchedule(10),
    "linear_beta_4000": LinearBetaSchedule(4000),
    "linear_beta_zero_terminal": LinearBetaSchedule(zero_terminal_snr=True),
    "linear_beta_continuous": LinearBetaSchedule(continuous=True),
    "linear_beta_continuous_10": LinearBetaSchedule(10, continuous=True),
    "scaled_linear_beta_continuous": ScaledLinearBetaSchedule(continuous=True),
    "scaled_linear_beta_zero_terminal": ScaledLinearBetaSchedule(zero_terminal_snr=True),
    "table_betas": TableSchedule(betas=BETAS, zero_terminal_snr=True),
    "table_alphas_cumprod": TableSchedule(alphas_cumprod=[0.99, 0.6, 0.1, 0.0]),
    "table_sigmas": TableSchedule(sigmas=np.geomspace(0.002, 80, 30)),
}
each = pytest.mark.parametrize("name", ALL)
times_in_float32 = arrays("float32", 30, elements=st.floats(0, 1, width=32))


def numpy(values):
    return ops.convert_to_numpy(values)


# What every schedule must do


@each
@settings(max_examples=10)
@given(times=times_in_float32)
def test_inverse_and_rates(name, times):
    schedule = ALL[name]
    log_snr = schedule.log_snr(times)
    back = numpy(schedule.diffusion_times(log_snr))
    assert back.dtype == np.float32
    np.testing.assert_allclose(back, times, rtol=0, atol=1e-5)
    noise_rates, signal_rates = map(numpy, schedule.rates(times))
    np.testing.assert_allclose(noise_rates**2 + signal_rates**2, 1, rtol=0, atol=1e-6)


@in_float64
@each
def test_inverse_on_a_fine_grid_to_the_very_ends(name):
    near = np.geomspace(1e-12, 0.1, 300)
    times = np.concatenate([np.linspace(0, 1, 4001), near, 1 - near])
    for dtype, tolerance in (("float32", 1e-5), ("float64", 1e-11)):
        log_snr = ALL[name].log_snr(times.astype(dtype))
        back = numpy(ALL[name].diffusion_times(log_snr))
        assert back.dtype == dtype
        np.testing.assert_allclose(back, times.astype(dtype), rtol=0, atol=tolerance)


@each
def test_strictly_decreasing(name):
    log_snr = numpy(ALL[name].log_snr(np.linspace(0, 1, 20_001, dtype="float32")))
    assert not np.isnan(log_snr).any()
    assert (log_snr[1:] < log_snr[:-1]).all()


@each
def test_levels_beyond_the_ends_are_the_ends(name):
    beyond = numpy(ALL[name].diffusion_times(np.array([np.inf, 50, -50, -np.inf], "float32")))
    np.testing.assert_allclose(beyond, [0, 0, 1, 1], rtol=0, atol=1e-6)


@pytest.mark.parametrize("shape", [(), (0, 1), (3, 1, 1, 1)])
@pytest.mark.parametrize("name", ["user", "table_betas", "sigmoid"])
def test_any_shape_also_compiled(name, shape):
    schedule = ALL[name]
    times = np.linspace(0.1, 0.9, math.prod(shape), dtype="float32").reshape(shape)

    def there_and_back(times):
        return schedule.diffusion_times(schedule.log_snr(times))

    functions = [there_and_back]
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        spec = tf.TensorSpec([None] * len(shape), "float32")
        functions += [tf.function(there_and_back, input_signature=[spec])]
    for function in functions:
        np.testing.assert_allclose(numpy(function(times)), times, atol=1e-6, strict=True)


# The formulas


@pytest.mark.parametrize("num_timesteps", [10, 1000, 4000])
@pytest.mark.parametrize("betas", [(1e-4, 0.02), None])
def test_linear_beta_is_the_product(num_timesteps, betas):
    schedule = LinearBetaSchedule(num_timesteps, *(betas or ()))
    scale = 1 if betas else 1000 / num_timesteps
    betas = np.linspace(1e-4 * scale, 0.02 * scale, num_timesteps)
    expected = np.cumprod(1 - np.minimum(betas, 0.999))
    times = np.linspace(0, 1, num_timesteps, dtype="float32")
    alphas_cumprod = numpy(schedule.rates(times)[1]).astype("float64") ** 2
    np.testing.assert_allclose(alphas_cumprod, expected, rtol=0, atol=1e-6)
    np.testing.assert_allclose(np.exp(schedule.log_alphas_cumprod), expected, rtol=1e-9)
    np.testing.assert_allclose(np.cumprod(1 - schedule.betas), expected, rtol=1e-9)


def test_scaled_linear_beta_is_the_product():
    expected = np.cumprod(1 - np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2)
    schedule = ScaledLinearBetaSchedule()
    np.testing.assert_allclose(np.exp(schedule.log_alphas_cumprod), expected, rtol=1e-9)


@pytest.mark.parametrize(
    ("schedule_class", "power", "betas"),
    [(LinearBetaSchedule, 1, (1e-4, 0.02)), (ScaledLinearBetaSchedule, 2, (0.00085, 0.012))],
)
def test_continuous_betas_are_the_integral(schedule_class, power, betas):
    start, end = (beta ** (1 / power) for beta in betas)
    for time in (0.0, 0.3, 1.0):
        position = (1 + 999 * time) / 1000
        midpoints = (np.arange(100_000) + 0.5) / 100_000 * position
        integral = 1000 * position * np.mean((start + (end - start) * midpoints) ** power)
        signal_rate = schedule_class(continuous=True).rates(np.array(time))[1]
        np.testing.assert_allclose(float(signal_rate) ** 2, math.exp(-integral), rtol=1e-6)
    # Its limit: the more timesteps, the closer the product.
    times = np.linspace(0, 1, 11)
    distances = []
    for num_timesteps in (100, 1000, 10_000):
        product = schedule_class(num_timesteps).rates(times)[1]
        integral = schedule_class(num_timesteps, continuous=True).rates(times)[1]
        distances.append(np.abs(numpy(product) - numpy(integral)).max())
    assert distances[0] > 5 * distances[1] > 25 * distances[2]


@in_float64
def test_improved_cosine_is_the_formula():
    times = np.linspace(0.005, 0.99, 100)
    curve = np.cos((times + 0.008) / 1.008 * np.pi / 2) ** 2
    expected = curve / np.cos(0.008 / 1.008 * np.pi / 2) ** 2
    signal_rates = numpy(ImprovedCosineSchedule().rates(times)[1])
    np.testing.assert_allclose(signal_rates**2, expected, rtol=0, atol=1e-9)


@in_float64
def test_sigmoid_is_the_formula():
    def logistic(x):
        return 1 / (1 + np.exp(-x))

    times = np.linspace(0.005, 0.99, 100)
    for start, end, tau in ((-3, 3, 1.0), (0, 3, 0.7), (-3, 3, 0.5)):
        x = start + times * (end - start)
        expected = logistic(end / tau) - logistic(x / tau)
        expected /= logistic(end / tau) - logistic(start / tau)
        schedule = SigmoidSchedule(start, end, tau, start_log_snr=15, end_log_snr=-15)
        signal_rates = numpy(schedule.rates(times)[1])
        np.testing.assert_allclose(signal_rates**2, expected, rtol=0, atol=1e-9)


@in_float64
@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_rectified_flow_is_the_formula(shift):
    times = np.linspace(0.02, 0.9, 12)
    schedule = RectifiedFlowSchedule(shift)
    noise_rates, signal_rates = map(numpy, schedule.rates(times))
    shifted = shift * times / (1 + (shift - 1) * times)  # Esser et al., eq. 23
    np.testing.assert_allclose(noise_rates / (signal_rates + noise_rates), shifted, rtol=1e-5)
    log_snr = numpy(schedule.log_snr(times))
    unshifted = numpy(RectifiedFlowSchedule().log_snr(times))
    np.testing.assert_allclose(log_snr, unshifted - 2 * np.log(shift), rtol=1e-5, atol=1e-5)


@in_float64
def test_linear_variance_is_linear():
    times = np.linspace(0.001, 0.999, 100)
    noise_rates = numpy(LinearVarianceSchedule().rates(times)[0])
    np.testing.assert_allclose(noise_rates**2, times, rtol=0, atol=1e-9)


@in_float64
def test_karras_sigmas():
    times = np.linspace(0, 1, 18)
    roots = 80 ** (1 / 7) + (1 - times) * (0.002 ** (1 / 7) - 80 ** (1 / 7))
    noise_rates, signal_rates = map(numpy, KarrasSchedule().rates(times))
    np.testing.assert_allclose(noise_rates / signal_rates, roots**7, rtol=1e-9)


@in_float64
@pytest.mark.parametrize(
    "schedule",
    [
        LogSNRLinearSchedule(6.0, -9.0),
        ImprovedCosineSchedule(start_log_snr=6.0, end_log_snr=-9.0),
        SigmoidSchedule(start_log_snr=6.0, end_log_snr=-9.0),
        LinearVarianceSchedule(start_log_snr=6.0, end_log_snr=-9.0),
        KarrasSchedule(sigma_min=math.exp(-3.0), sigma_max=math.exp(4.5)),
        TableSchedule(sigmas=[math.exp(-3.0), 1.0, math.exp(4.5)]),
    ],
    ids=lambda schedule: type(schedule).__name__,
)
def test_exact_at_the_ends(schedule):
    ends = numpy(schedule.log_snr(np.array([0.0, 1.0])))
    np.testing.assert_allclose(ends, [6, -9], rtol=1e-12)
    np.testing.assert_allclose(numpy(schedule.log_snr([0.0, 1.0])), [6, -9], rtol=5e-7)


def test_cosine_ends():
    noise_rates, signal_rates = map(numpy, CosineSchedule().rates([0.0, 1.0]))
    np.testing.assert_allclose(signal_rates, [0.95, 0.02], rtol=1e-6)
    np.testing.assert_allclose(noise_rates, np.sqrt(1 - np.square([0.95, 0.02])), rtol=1e-6)


# Tables


@in_float64
@settings(max_examples=10)
@given(
    betas=arrays("float64", st.sampled_from([2, 3, 40]), elements=st.floats(1e-3, 0.7)),
    zero_terminal_snr=st.booleans(),
)
def test_all_three_tables_agree_with_their_entries(betas, zero_terminal_snr):
    alphas_cumprod = np.cumprod(1 - betas)
    sigmas = np.sqrt((1 - alphas_cumprod) / alphas_cumprod)
    expected = alphas_cumprod
    if zero_terminal_snr:
        # Lin et al., algorithm 1.
        roots = np.sqrt(alphas_cumprod)
        expected = ((roots - roots[-1]) * roots[0] / (roots[0] - roots[-1])) ** 2
    times = np.linspace(0, 1, len(betas))
    for name, table in (("betas", betas), ("alphas_cumprod", alphas_cumprod), ("sigmas", sigmas)):
        schedule = TableSchedule(**{name: table}, zero_terminal_snr=zero_terminal_snr)
        assert schedule.num_timesteps == len(betas)
        signal_rates = numpy(schedule.rates(times)[1])
        np.testing.assert_allclose(signal_rates**2, expected, rtol=0, atol=1e-9)
        back = numpy(schedule.diffusion_times(schedule.log_snr(times.astype("float32"))))
        np.testing.assert_allclose(back, times, rtol=0, atol=1e-4)


def test_table_interpolates_log_snr_linearly():
    schedule = TableSchedule(sigmas=[0.1, 1.0, 5.0])
    expected = -2 * np.log([0.1, 0.1**0.5, 1.0, 5.0**0.5, 5.0])
    np.testing.assert_allclose(schedule.log_snr(np.linspace(0, 1, 5)), expected, atol=1e-12)


@pytest.mark.parametrize(
    "name", ["linear_beta_2", "scaled_linear_beta_zero_terminal", "table_alphas_cumprod"]
)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_zero_terminal_snr(name, dtype):
    schedule = ALL[name]
    assert numpy(schedule.log_snr(np.array(1.0, dtype))) == -np.inf
    noise_rates, signal_rates = map(numpy, schedule.rates(np.array([0.0, 1.0], dtype)))
    assert noise_rates[1] == 1 and signal_rates[1] == 0
    assert numpy(schedule.diffusion_times(np.array(-np.inf, dtype))) == 1
    close = numpy(schedule.log_snr(np.array([1 - 1e-4, 1 - 1e-6], dtype)))
    assert np.isfinite(close).all()


@pytest.mark.parametrize(
    ("schedule", "arguments", "message"),
    [
        (TableSchedule, {}, r"exactly one of `betas`, .*, got \[\]"),
        (TableSchedule, {"betas": [0.1, 1.2]}, r"`betas\[1\]` must be in \[0.0, 1.0\], got 1.2"),
        (TableSchedule, {"betas": [0.1]}, "`betas` must be at least two numbers"),
        (TableSchedule, {"alphas_cumprod": [0.9, 0.9]}, "strictly decreasing log-SNR"),
        (TableSchedule, {"sigmas": [0.0, 1.0]}, "of finite, strictly decreasing log-SNR"),
        (CosineSchedule, {"min_signal_rate": 0.99}, "`min_signal_rate` .*, got 0.99"),
        (LogSNRLinearSchedule, {"end_log_snr": 6}, "`end_log_snr` .* below 5, got 6"),
        (KarrasSchedule, {"sigma_max": 0.001}, "`sigma_max` .* above 0.002, got 0.001"),
        (ImprovedCosineSchedule, {"end_log_snr": 9}, "`end_log_snr` .*below 8, got 9"),
        (SigmoidSchedule, {"start": 4}, "`end` .*above 4, got 3.0"),
        (LinearBetaSchedule, {"num_timesteps": 1}, "`num_timesteps` .*at least 2, got 1"),
        (LinearBetaSchedule, {"start_beta": 0.02}, "`start_beta` must be below `end_beta`"),
        (LinearBetaSchedule, {"continuous": True, "zero_terminal_snr": True}, "`continuous`"),
    ],
)
def test_errors(schedule, arguments, message):
    with pytest.raises(ValueError, match=message):
        schedule(**arguments)
