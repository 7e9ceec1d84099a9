import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import ops

from keras_ddim import times
from keras_ddim.schedules import SCHEDULES, LinearBetaSchedule

ALL = {
    **{name: schedule() for name, schedule in SCHEDULES.items()},
    "zero_terminal": LinearBetaSchedule(zero_terminal_snr=True),
}
each = pytest.mark.parametrize("name", ALL)
counts = st.integers(1, 60)


def check_list(values, num_steps):
    assert isinstance(values, np.ndarray) and values.dtype == np.float64
    assert values.shape == (num_steps,)
    assert values.min() >= 0 and values.max() <= 1
    assert (np.diff(values) < 0).all()


def assert_starts_where_it_can(values, schedule):
    if np.isfinite(schedule.ends[1]):
        assert values[0] == 1
    else:
        np.testing.assert_allclose(log_snr_at(values[:1], schedule), -12.0)


def log_snr_at(values, schedule):
    return ops.convert_to_numpy(schedule.log_snr(values))


@settings(max_examples=30)
@given(num_steps=counts)
def test_uniform_and_quadratic(num_steps):
    uniform, quadratic = times.uniform(num_steps), times.quadratic(num_steps)
    check_list(uniform, num_steps)
    check_list(quadratic, num_steps)
    np.testing.assert_allclose(uniform, np.arange(num_steps, 0, -1) / num_steps, rtol=1e-12)
    np.testing.assert_allclose(np.sqrt(quadratic), uniform, rtol=1e-12)


@pytest.mark.parametrize(
    ("spacing", "expected"),
    # Lin et al., table 2, whose timesteps count from 1 and upwards.
    [
        ("leading", [1, 101, 201, 301, 401, 501, 601, 701, 801, 901]),
        ("linspace", [1, 112, 223, 334, 445, 556, 667, 778, 889, 1000]),
        ("trailing", [100, 200, 300, 400, 500, 600, 700, 800, 900, 1000]),
    ],
)
def test_timesteps_are_those_of_the_paper(spacing, expected):
    values = times.timesteps(10, num_timesteps=1000, spacing=spacing)
    check_list(values, 10)
    np.testing.assert_allclose(999 * values[::-1] + 1, expected, rtol=1e-12)


@pytest.mark.parametrize("num_timesteps", [20, 100, 1000])
def test_timesteps_are_rounded_exactly(num_timesteps):
    """To the nearest, and halves to even: not to where a digit of floating point leads."""
    last = num_timesteps - 1
    for n in range(1, num_timesteps + 1, 1 + num_timesteps // 200):
        trailing = [round(Fraction(num_timesteps * k, n)) - 1 for k in range(n, 0, -1)]
        linspace = [round(Fraction(last * k, max(n - 1, 1))) for k in range(n - 1, -1, -1)]
        for spacing, expected in (
            ("trailing", trailing),
            ("linspace", linspace if n > 1 else [last]),
        ):
            values = times.timesteps(n, num_timesteps, spacing)
            check_list(values, n)
            np.testing.assert_allclose(last * values, expected, rtol=0, atol=1e-9)


@each
@settings(max_examples=5)
@given(num_steps=counts)
def test_uniform_log_snr(name, num_steps):
    values = times.uniform_log_snr(num_steps, ALL[name])
    check_list(values, num_steps)
    assert_starts_where_it_can(values, ALL[name])
    assert values[-1] > 0
    steps = np.diff(log_snr_at(np.append(values, 0.0), ALL[name]))[1:]
    np.testing.assert_allclose(steps, steps[:1].repeat(len(steps)), rtol=1e-6)


@each
@settings(max_examples=5)
@given(num_steps=counts, rho=st.sampled_from([1.0, 3.0, 7.0]))
def test_karras(name, num_steps, rho):
    values = times.karras(num_steps, ALL[name], rho)
    check_list(values, num_steps)
    assert_starts_where_it_can(values, ALL[name])
    if num_steps > 1:
        np.testing.assert_allclose(values[-1], 0, atol=1e-9)
    roots = np.exp(log_snr_at(values, ALL[name]) / (-2 * rho))
    steps = np.diff(roots)[1:]
    np.testing.assert_allclose(steps, steps[:1].repeat(len(steps)), rtol=1e-4)


@each
@settings(max_examples=5)
@given(expected=st.lists(st.floats(0, 0.999), min_size=1, max_size=20))
def test_levels_become_the_times_that_have_them(name, expected):
    schedule = ALL[name]
    noise_rates, signal_rates = map(ops.convert_to_numpy, schedule.rates(np.array(expected)))
    log_snr = log_snr_at(np.array(expected), schedule)
    for values in (
        times.from_log_snr(log_snr, schedule),
        times.from_noise_variances(list(noise_rates**2), schedule),
        times.from_sigmas(noise_rates / signal_rates, schedule),
    ):
        assert values.dtype == np.float64
        np.testing.assert_allclose(values, expected, rtol=0, atol=1e-7)


def test_from_timesteps():
    values = times.from_timesteps([999, 500.5, 0], 1000)
    assert values.dtype == np.float64
    np.testing.assert_allclose(values, [1.0, 500.5 / 999, 0.0], rtol=1e-12)


def test_levels_without_any_signal_or_noise():
    schedule = LinearBetaSchedule(zero_terminal_snr=True)
    assert times.from_noise_variances([1.0, 0.5], schedule)[0] == 1
    assert times.from_sigmas([math.inf], schedule) == [1]
    assert times.from_log_snr([-math.inf], schedule) == [1]


def test_renoised():
    received = times.renoised([1.0, 0.75, 0.5, 0.25, 0.1], stretch=2, repeats=2)
    assert received.tolist() == [1.0, 0.75, 1.0, 0.75, 0.5, 0.25, 0.5, 0.25, 0.1, 0.1]
