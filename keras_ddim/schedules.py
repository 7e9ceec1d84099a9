"""Schedules: which noise level belongs to which diffusion time, and back.

The network is conditioned on a noise level, so any schedule can be put in front of a trained
model. The noise level travels through the package as its log signal-to-noise ratio, the one form
that keeps float32 digits at both ends.

Of a schedule that the literature defines by a table of T timesteps, timestep i = 0, …, T − 1 is
time i / (T − 1): time 0 is the least noisy level of the table, time 1 the noisiest.

An argument that is not as described raises a `ValueError`.
"""

import math
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_ddim.checks import LARGEST_LIST, check_array, check_count, check_flag, check_number
from keras_ddim.noise_levels import as_float, rates, times_to_timesteps, timesteps_to_times
from keras_ddim.parts import PACKAGE, Part, get_part

# Steps of the numerical inverse; each halves the error, 2e-12 remains.
BISECTIONS = 39
# Log-SNR at each end in which a formula that would become infinite is left for a straight line.
MARGIN = 1.0
# Below, powers of σ leave the range of float32.
SMALLEST_RHO = 0.1
# As Improved DDPM: a β that scaling would take to 1 or beyond stays below it.
MAX_BETA = 0.999


# What a schedule is


class Schedule(Part):
    """One strictly decreasing function, diffusion time -> log-SNR, and its inverse.

    Subclasses implement `log_snr`, and `diffusion_times` where its inverse has a closed form; they
    are saved inside the models that use them, as a `keras_ddim.parts.Part`.

    Example:

    ```python
    @keras.saving.register_keras_serializable("my_package")
    class StraightSchedule(keras_ddim.Schedule):
        def log_snr(self, diffusion_times):
            return 8.0 - 16.0 * diffusion_times
    ```
    """

    def log_snr(self, diffusion_times: Any) -> Any:
        """log(ᾱ / (1 − ᾱ)) at the given times in [0, 1] (0 is data, 1 is noise)."""
        raise NotImplementedError

    def diffusion_times(self, log_snr: Any) -> Any:
        """The times at which `log_snr` is reached, by bisection; an end where it never is."""
        log_snr = as_float(log_snr)
        low, high = ops.zeros_like(log_snr), ops.ones_like(log_snr)
        for _ in range(BISECTIONS):
            middle = (low + high) / 2
            is_cleaner = self.log_snr(middle) > log_snr
            low, high = ops.where(is_cleaner, middle, low), ops.where(is_cleaner, high, middle)
        return (low + high) / 2

    def rates(self, diffusion_times: Any) -> tuple[Any, Any]:
        """`(noise_rates, signal_rates)` at the given times, shaped as they are."""
        return rates(self.log_snr(as_float(diffusion_times)))

    @property
    def ends(self) -> tuple[float, float]:
        """Log-SNR at time 0 and at time 1, either of which may be infinite."""
        ends = self.log_snr(np.array([0.0, 1.0]))
        start, end = ops.convert_to_numpy(ends).astype("float64").tolist()
        return start, end

    def excess(self, log_snr: Any) -> np.ndarray:
        """How far noise levels are outside of the schedule: a NumPy array, 0 inside."""
        levels, (start, end) = np.asarray(log_snr, "float64"), self.ends
        with np.errstate(invalid="ignore"):  # equal infinities are no distance apart, not NaN
            too_clean = np.where(levels > start, levels - start, 0.0)
            too_noisy = np.where(levels < end, end - levels, 0.0)
        return np.maximum(too_clean, too_noisy)


# Schedules in closed form


@keras.saving.register_keras_serializable(PACKAGE)
class CosineSchedule(Schedule):
    """`signal_rates = cos(angle)`, `noise_rates = sin(angle)`, the angle linear in time.

    Args:
        min_signal_rate: Signal rate at time 1, in (0, 1). Defaults to 0.02.
        max_signal_rate: Signal rate at time 0, in (min_signal_rate, 1). Defaults to 0.95.

    Example:

    >>> keras_ddim.CosineSchedule().rates([0.0, 1.0])
    ([0.3122, 0.9998], [0.95, 0.02])

    Reference:
        [Nichol & Dhariwal, 2021](https://arxiv.org/abs/2102.09672), in the simplified form of the
        Keras DDIM example.
    """

    def __init__(self, min_signal_rate: float = 0.02, max_signal_rate: float = 0.95) -> None:
        self.max_signal_rate = check_number("max_signal_rate", max_signal_rate, above=0, below=1)
        self.min_signal_rate = check_number(
            "min_signal_rate", min_signal_rate, above=0, below=self.max_signal_rate
        )
        self.start_angle = math.acos(self.max_signal_rate)
        self.end_angle = math.acos(self.min_signal_rate)
        _check_falls(self)

    def log_snr(self, diffusion_times: Any) -> Any:
        times = as_float(diffusion_times)
        angles = (1 - times) * self.start_angle + times * self.end_angle
        # The cosine near π/2 has lost its digits, the sine of the complement has not.
        start, end = math.pi / 2 - self.start_angle, math.pi / 2 - self.end_angle
        complements = (1 - times) * start + times * end
        return 2 * (ops.log(ops.sin(complements)) - ops.log(ops.sin(angles)))

    def diffusion_times(self, log_snr: Any) -> Any:
        angles = ops.arctan(ops.exp(-as_float(log_snr) / 2))
        return ops.clip((angles - self.start_angle) / (self.end_angle - self.start_angle), 0, 1)


@keras.saving.register_keras_serializable(PACKAGE)
class LogSNRLinearSchedule(Schedule):
    """`log_snr = (1 - t) * start_log_snr + t * end_log_snr`.

    Args:
        start_log_snr: Log-SNR at time 0, finite. Defaults to 5.0.
        end_log_snr: Log-SNR at time 1, below `start_log_snr`. Defaults to -7.5.

    Reference:
        [Kingma et al., 2021, Variational Diffusion Models](https://arxiv.org/abs/2107.00630)
    """

    def __init__(self, start_log_snr: float = 5.0, end_log_snr: float = -7.5) -> None:
        self.start_log_snr = check_number("start_log_snr", start_log_snr)
        self.end_log_snr = check_number("end_log_snr", end_log_snr, below=self.start_log_snr)
        _check_falls(self)

    def log_snr(self, diffusion_times: Any) -> Any:
        times = as_float(diffusion_times)
        return (1 - times) * self.start_log_snr + times * self.end_log_snr

    def diffusion_times(self, log_snr: Any) -> Any:
        fall = self.start_log_snr - self.end_log_snr
        return ops.clip((self.start_log_snr - as_float(log_snr)) / fall, 0, 1)


@keras.saving.register_keras_serializable(PACKAGE)
class KarrasSchedule(Schedule):
    """`sigmas = ((1 - t) * sigma_min ** (1 / rho) + t * sigma_max ** (1 / rho)) ** rho`.

    EDM's noise levels for variance-preserving rates: σ is the ratio `noise_rates / signal_rates`,
    hence `log_snr = -2 * log(sigmas)`.

    Args:
        sigma_min: σ at time 0, positive, in units of the images' standard deviation (EDM's are of
            0.5: its levels are twice as noisy at the same σ). Defaults to 0.002.
        sigma_max: σ at time 1, above `sigma_min`. Defaults to 80.0.
        rho: Exponent, at least 0.1; the larger, the more of the time is spent at small σ. Defaults
            to 7.0.

    Example:

    >>> keras_ddim.schedules.KarrasSchedule().rates([0.0, 1.0])
    ([0.002, 0.9999], [1.0, 0.0125])

    Reference:
        [Karras et al., 2022, Elucidating the Design Space](https://arxiv.org/abs/2206.00364), eq. 5
    """

    def __init__(self, sigma_min: float = 0.002, sigma_max: float = 80.0, rho: float = 7.0) -> None:
        self.sigma_min = check_number("sigma_min", sigma_min, above=0)
        self.sigma_max = check_number("sigma_max", sigma_max, above=self.sigma_min)
        self.rho = check_number("rho", rho, SMALLEST_RHO)
        self.start = self.sigma_min ** (1 / self.rho)
        self.end = self.sigma_max ** (1 / self.rho)
        _check_falls(self)

    def log_snr(self, diffusion_times: Any) -> Any:
        times = as_float(diffusion_times)
        return -2 * self.rho * ops.log((1 - times) * self.start + times * self.end)

    def diffusion_times(self, log_snr: Any) -> Any:
        roots = ops.exp(as_float(log_snr) / (-2 * self.rho))
        return ops.clip((roots - self.start) / (self.end - self.start), 0, 1)


# Schedules in closed form whose formula starts at ᾱ = 1 and ends at ᾱ = 0


class BoundedSchedule(Schedule):
    """A formula from ᾱ = 1 to ᾱ = 0, kept finite at its very ends.

    Log-SNR follows the formula, but for a straight line through its last unit at either end.
    Subclasses implement `formula` and `inverse_formula`, strictly decreasing functions between
    (0, 1) and all log-SNR.

    Args:
        start_log_snr: Log-SNR at time 0, finite. Defaults to 10.0.
        end_log_snr: Log-SNR at time 1, more than 2 below `start_log_snr`. Defaults to -10.0.
    """

    def __init__(self, start_log_snr: float = 10.0, end_log_snr: float = -10.0) -> None:
        self.start_log_snr = check_number("start_log_snr", start_log_snr)
        self.end_log_snr = check_number(
            "end_log_snr", end_log_snr, below=self.start_log_snr - 2 * MARGIN
        )

    def formula(self, times: Any) -> Any:
        raise NotImplementedError

    def inverse_formula(self, log_snr: Any) -> Any:
        raise NotImplementedError

    def log_snr(self, diffusion_times: Any) -> Any:
        times = as_float(diffusion_times)
        first, last = self._joints(times.dtype)
        log_snr = self.formula(ops.clip(times, first, last))
        start_line = self.start_log_snr - MARGIN * times / first
        end_line = self.end_log_snr + MARGIN * (1 - times) / (1 - last)
        log_snr = ops.where(times < first, start_line, log_snr)
        return ops.where(times > last, end_line, log_snr)

    def diffusion_times(self, log_snr: Any) -> Any:
        log_snr = as_float(log_snr)
        first, last = self._joints(log_snr.dtype)
        inner = ops.clip(log_snr, self.end_log_snr + MARGIN, self.start_log_snr - MARGIN)
        into_start = ops.relu(log_snr - inner) / MARGIN
        into_end = ops.relu(inner - log_snr) / MARGIN
        times = self.inverse_formula(inner) - into_start * first + into_end * (1 - last)
        return ops.clip(times, 0, 1)

    def _joints(self, dtype: Any) -> tuple[Any, Any]:
        """The times at which the formula takes over from the first line and gives way again."""
        levels = [self.start_log_snr - MARGIN, self.end_log_snr + MARGIN]
        times = self.inverse_formula(ops.convert_to_tensor(levels, dtype))
        return times[0], times[1]


@keras.saving.register_keras_serializable(PACKAGE)
class ImprovedCosineSchedule(BoundedSchedule):
    """`ᾱ = cos²(angle) / cos²(angle at time 0)`, `angle = π/2 * (t + offset) / (1 + offset)`.

    The offset keeps the first steps from being too small. The ends are those of a
    `BoundedSchedule`, where the paper caps β; for its table, give its betas to `TableSchedule`.

    Args:
        offset: The paper's s, at least 0. Defaults to 0.008.
        start_log_snr, end_log_snr: See `BoundedSchedule`. Default to 10.0 and -10.0.

    Reference:
        [Nichol & Dhariwal, 2021](https://arxiv.org/abs/2102.09672), eq. 17
    """

    def __init__(
        self, offset: float = 0.008, start_log_snr: float = 10.0, end_log_snr: float = -10.0
    ) -> None:
        super().__init__(start_log_snr, end_log_snr)
        self.offset = check_number("offset", offset, 0)
        self.speed = math.pi / 2 / (1 + self.offset)
        self.start_angle = self.speed * self.offset
        _check_falls(self)

    def formula(self, times: Any) -> Any:
        # 1 − ᾱ as a product, for the difference of two nearly equal cosines has no digits left.
        turns = self.speed * times
        signals = 2 * ops.log(ops.sin(self.speed * (1 - times)))
        return signals - ops.log(ops.sin(turns)) - ops.log(ops.sin(turns + 2 * self.start_angle))

    def inverse_formula(self, log_snr: Any) -> Any:
        start_cosine, start_sine = math.cos(self.start_angle), math.sin(self.start_angle)
        cosines = start_cosine * ops.sqrt(ops.sigmoid(log_snr))
        sines = ops.sqrt(start_sine**2 + start_cosine**2 * ops.sigmoid(-log_snr))
        return (ops.arctan2(sines, cosines) - self.start_angle) / self.speed


@keras.saving.register_keras_serializable(PACKAGE)
class SigmoidSchedule(BoundedSchedule):
    """`ᾱ = (σ(end / tau) - σ(x / tau)) / (σ(end / tau) - σ(start / tau))`, x linear in time.

    σ is the logistic function. The ends are those of a `BoundedSchedule`.

    Args:
        start: x at time 0. Defaults to -3.0.
        end: x at time 1, above `start`. Defaults to 3.0.
        tau: Temperature, positive; the smaller, the more sudden the noise. Defaults to 1.0.
        start_log_snr, end_log_snr: See `BoundedSchedule`. Default to 10.0 and -10.0.

    Reference:
        [Jabri et al., 2022](https://arxiv.org/abs/2212.11972),
        [Chen, 2023, On the Importance of Noise Scheduling](https://arxiv.org/abs/2301.10972)
    """

    def __init__(
        self,
        start: float = -3.0,
        end: float = 3.0,
        tau: float = 1.0,
        start_log_snr: float = 10.0,
        end_log_snr: float = -10.0,
    ) -> None:
        super().__init__(start_log_snr, end_log_snr)
        self.start = check_number("start", start)
        self.end = check_number("end", end, above=self.start)
        self.tau = check_number("tau", tau, above=0)
        # SNR is a ratio of two differences of σ; σ(a) − σ(b) = sinh((a − b) / 2) / (2 cosh(a / 2)
        # cosh(b / 2)) turns it into `exp(shift) * sinh(span * (1 - t)) / sinh(span * t)`.
        self.span = (self.end - self.start) / (2 * self.tau)
        start_softplus, end_softplus = np.logaddexp([self.start / self.tau, self.end / self.tau], 0)
        self.shift = float(start_softplus - end_softplus) + self.span
        _check_falls(self)

    def formula(self, times: Any) -> Any:
        # log(sinh(x)) = x + log(1 - exp(-2x)) - log(2), which does not overflow.
        return (
            self.shift
            + self.span * (1 - 2 * times)
            + ops.log(-ops.expm1(-2 * self.span * (1 - times)))
            - ops.log(-ops.expm1(-2 * self.span * times))
        )

    def inverse_formula(self, log_snr: Any) -> Any:
        log_ratios = log_snr - self.shift
        rise = ops.logaddexp(log_ratios, self.span) - ops.logaddexp(log_ratios, -self.span)
        return rise / (2 * self.span)


@keras.saving.register_keras_serializable(PACKAGE)
class LinearVarianceSchedule(BoundedSchedule):
    """`noise_variances = t`; ends and arguments are those of `BoundedSchedule`.

    Reference:
        [Chen, 2023](https://arxiv.org/abs/2301.10972), "1 - t";
        [Sohl-Dickstein et al., 2015](https://arxiv.org/abs/1503.03585), β = 1 / (T − t + 1)
    """

    def formula(self, times: Any) -> Any:
        return ops.log(1 - times) - ops.log(times)

    def inverse_formula(self, log_snr: Any) -> Any:
        return ops.sigmoid(-log_snr)


@keras.saving.register_keras_serializable(PACKAGE)
class RectifiedFlowSchedule(BoundedSchedule):
    """`noise_rates / signal_rates = shift * t / (1 - t)`: rectified flow, as in SD3 and Flux.

    Rectified flow mixes by `(1 - t) * images + t * noises` and predicts `noises - images`. That is
    nothing but a schedule and a scaling: divided by `sqrt((1 - t)² + t²)`, its mixture is that of
    this schedule, of the same signal-to-noise ratio; what it predicts is `prediction_type="flow"`;
    and its Euler steps are those of `keras_ddim.DDIM`. A network from elsewhere is to be handed
    `noisy_images / (signal_rates + noise_rates)`, at `t = noise_rates / (signal_rates +
    noise_rates)`.

    A larger image needs more noise to hide as much. Of m pixels, where `shift=1` fits n, it has
    `shift = sqrt(m / n)`, which lowers log-SNR by log(m / n) at all times.

    Args:
        shift: Positive; t becomes `shift * t / (1 + (shift - 1) * t)`. Flux's μ is its logarithm.
            Defaults to 1.0.
        start_log_snr, end_log_snr: See `BoundedSchedule`. Default to 10.0 and -10.0.

    Reference:
        [Liu et al., 2022, Flow Straight and Fast](https://arxiv.org/abs/2209.03003); the shift:
        [Esser et al., 2024, Scaling Rectified Flow Transformers](https://arxiv.org/abs/2403.03206),
        eq. 23
    """

    def __init__(
        self, shift: float = 1.0, start_log_snr: float = 10.0, end_log_snr: float = -10.0
    ) -> None:
        super().__init__(start_log_snr, end_log_snr)
        self.shift = check_number("shift", shift, above=0)
        _check_falls(self)

    def formula(self, times: Any) -> Any:
        return 2 * (ops.log(1 - times) - ops.log(times) - math.log(self.shift))

    def inverse_formula(self, log_snr: Any) -> Any:
        return ops.sigmoid(-log_snr / 2 - math.log(self.shift))


# Schedules of timesteps


class TimestepSchedule(Schedule):
    """The log-SNR of T timesteps, interpolated linearly in time between them.

    Args:
        log_alphas_cumprod: log(ᾱ) of the timesteps, strictly decreasing; the last may be −∞.
        zero_terminal_snr: Whether to shift and scale the signal rates such that the last is 0
            and the first stays. Log-SNR is then −∞ at time 1, and SNR falls as (1 − w)² in the
            last interval, w from 0 to 1. Defaults to False.

    Attributes:
        num_timesteps: T.
        alphas_cumprod: ᾱ of the timesteps, float64 (T,).

    Reference:
        [Lin et al., 2023, Common Diffusion Noise Schedules and Sample Steps Are
        Flawed](https://arxiv.org/abs/2305.08891)
    """

    def __init__(self, log_alphas_cumprod: np.ndarray, zero_terminal_snr: bool = False) -> None:
        self.zero_terminal_snr = check_flag("zero_terminal_snr", zero_terminal_snr)
        self.num_timesteps = len(log_alphas_cumprod)
        with np.errstate(divide="ignore"):  # log(0) = -inf is meant
            if self.zero_terminal_snr:
                signal_rates = np.exp(log_alphas_cumprod / 2)
                start, end = signal_rates[0], signal_rates[-1]
                signal_rates = start * ((signal_rates - end) / (start - end))
                log_alphas_cumprod = 2 * np.log(signal_rates)
            # log(1 − ᾱ) without the cancellation in 1 − ᾱ.
            self.levels = log_alphas_cumprod - np.log(-np.expm1(log_alphas_cumprod))
        self.alphas_cumprod = np.exp(log_alphas_cumprod)
        self.ends_without_signal = bool(np.isneginf(self.levels[-1]))

    def log_snr(self, diffusion_times: Any) -> Any:
        times = as_float(diffusion_times)
        timesteps = times_to_timesteps(times, self.num_timesteps)
        before = ops.clip(ops.cast(ops.floor(timesteps), "int32"), 0, self.num_timesteps - 2)
        weights = timesteps - ops.cast(before, times.dtype)
        start, end = self._levels_around(before, times.dtype)
        log_snr = (1 - weights) * start + weights * end
        if self.ends_without_signal:
            falling = start + 2 * ops.log1p(-weights)
            log_snr = ops.where(before == self.num_timesteps - 2, falling, log_snr)
        return log_snr

    def diffusion_times(self, log_snr: Any) -> Any:
        log_snr = as_float(log_snr)
        levels = ops.convert_to_tensor(self.levels[:-1], log_snr.dtype)
        # The backends agree on the search in increasing sequences of one dimension.
        after = ops.searchsorted(-levels, ops.reshape(-log_snr, (-1,)), side="right")
        after = ops.reshape(ops.cast(after, "int32"), ops.shape(log_snr))
        before = ops.clip(after - 1, 0, self.num_timesteps - 2)
        start, end = self._levels_around(before, log_snr.dtype)
        weights = (start - log_snr) / (start - end)
        if self.ends_without_signal:
            falling = -ops.expm1((log_snr - start) / 2)
            weights = ops.where(before == self.num_timesteps - 2, falling, weights)
        timesteps = ops.cast(before, log_snr.dtype) + weights
        return ops.clip(timesteps_to_times(timesteps, self.num_timesteps), 0, 1)

    def _levels_around(self, before: Any, dtype: Any) -> tuple[Any, Any]:
        """Log-SNR of the timesteps `before` and of those after them, all finite."""
        levels = self.levels.copy()
        if self.ends_without_signal:
            levels[-1] = levels[-2] - 1  # never used, but −∞ times 0 would be NaN
        levels = ops.convert_to_tensor(levels, dtype)
        return ops.take(levels, before), ops.take(levels, before + 1)


@keras.saving.register_keras_serializable(PACKAGE)
class TableSchedule(TimestepSchedule):
    """`ᾱᵢ = Π (1 - βⱼ), j <= i` or `ᾱᵢ = 1 / (1 + σᵢ²)`, for a table of your own.

    Args:
        betas: Noise variances added by each timestep, at least two, each between 0 and 1.
        alphas_cumprod: ᾱ, strictly decreasing between 1 and 0; only the last may be 0.
        sigmas: `noise_rates / signal_rates`, positive, strictly increasing. Exactly one of the
            three tables is to be given, the least noisy timestep first.
        zero_terminal_snr: See `TimestepSchedule`. Defaults to False.

    Example:

    >>> keras_ddim.schedules.TableSchedule(betas=np.linspace(1e-4, 0.02, 1000)).rates(1.0)
    (0.99998, 0.00635)
    """

    def __init__(
        self,
        *,
        betas: Any = None,
        alphas_cumprod: Any = None,
        sigmas: Any = None,
        zero_terminal_snr: bool = False,
    ) -> None:
        tables = {"betas": betas, "alphas_cumprod": alphas_cumprod, "sigmas": sigmas}
        given = [name for name, table in tables.items() if table is not None]
        if len(given) != 1:
            raise ValueError(
                "Exactly one of `betas`, `alphas_cumprod` and `sigmas` must be given. "
                f"Received: {' and '.join(given) or 'none'}"
            )
        self.name = given[0]
        self.table = _check_table(self.name, tables[self.name])
        with np.errstate(divide="ignore"):
            if self.name == "betas":
                log_alphas_cumprod = np.cumsum(np.log1p(-self.table))
            elif self.name == "alphas_cumprod":
                log_alphas_cumprod = np.log(self.table)
            else:
                log_alphas_cumprod = -np.logaddexp(0, 2 * np.log(self.table))
        super().__init__(log_alphas_cumprod, zero_terminal_snr)
        _check_apart(self.name, self.levels)

    def get_config(self) -> dict:
        return {self.name: self.table.tolist(), "zero_terminal_snr": self.zero_terminal_snr}


@keras.saving.register_keras_serializable(PACKAGE)
class LinearBetaSchedule(TimestepSchedule):
    """`ᾱᵢ = Π (1 - βⱼ), j <= i`, with β linear in the timestep: the schedule of DDPM.

    The continuous form replaces the product by the integral of the variance-preserving SDE,
    `ᾱ(u) = exp(-T ∫₀ᵘ β(v) dv)`, at `u = (1 + i) / T`, and is smooth in time.

    Args:
        num_timesteps: T, at least 2. Defaults to 1000.
        start_beta: β of the first timestep, in (0, 1). Defaults to None: 1e-4 * 1000 / T, so that
            any T adds about the same noise in total.
        end_beta: β of the last timestep, above `start_beta` and below 1. Defaults to None:
            0.02 * 1000 / T, and no β is above 0.999 then.
        continuous: Whether to use the integral instead of the product. Defaults to False.
        zero_terminal_snr: See `TimestepSchedule`; not for the continuous form. Defaults to False.

    Attributes:
        betas: β of the timesteps, float64 (T,), before any rescaling.

    Example:

    >>> keras_ddim.schedules.LinearBetaSchedule(num_timesteps=4000).betas[[0, -1]]
    [2.5e-05, 0.005]

    Reference:
        [Ho et al., 2020](https://arxiv.org/abs/2006.11239); for T other than 1000
        [Nichol & Dhariwal, 2021](https://arxiv.org/abs/2102.09672); as an SDE
        [Song et al., 2020](https://arxiv.org/abs/2011.13456)
    """

    # β ** (1 / power) is what is linear; the two β are those for T = 1000.
    power = 1
    standard_betas = (1e-4, 0.02)

    def __init__(
        self,
        num_timesteps: int = 1000,
        start_beta: float | None = None,
        end_beta: float | None = None,
        continuous: bool = False,
        zero_terminal_snr: bool = False,
    ) -> None:
        num_timesteps = check_count("num_timesteps", num_timesteps, 2, LARGEST_LIST)
        self.continuous = check_flag("continuous", continuous)
        if self.continuous and check_flag("zero_terminal_snr", zero_terminal_snr):
            raise ValueError(
                "`zero_terminal_snr` is for timesteps and must be False where `continuous` is "
                "True. Received: zero_terminal_snr=True, continuous=True"
            )
        self.start_beta, self.end_beta = (
            None if beta is None else check_number(name, beta, above=0, below=1)
            for name, beta in (("start_beta", start_beta), ("end_beta", end_beta))
        )
        # The standard ones, as rates, may exceed 1 for few timesteps: the product caps them.
        standard_start, standard_end = (b * 1000 / num_timesteps for b in self.standard_betas)
        start_beta = standard_start if start_beta is None else start_beta
        end_beta = standard_end if end_beta is None else end_beta
        if not start_beta < end_beta:
            raise ValueError(
                "`start_beta` must be below `end_beta`. "
                f"Received: start_beta={start_beta}, end_beta={end_beta}"
            )
        self.start_root = start_beta ** (1 / self.power)
        self.end_root = end_beta ** (1 / self.power)
        betas = np.linspace(self.start_root, self.end_root, num_timesteps) ** self.power
        self.betas = np.minimum(betas, max(MAX_BETA, self.end_beta or 0))
        super().__init__(np.cumsum(np.log1p(-self.betas)), zero_terminal_snr)
        _check_apart("betas", self.levels)

    def log_snr(self, diffusion_times: Any) -> Any:
        if not self.continuous:
            return super().log_snr(diffusion_times)
        positions = times_to_timesteps(as_float(diffusion_times), self.num_timesteps) + 1
        roots = self.start_root + (self.end_root - self.start_root) / self.num_timesteps * positions
        # The mean of β so far, as the integral of root ** power divided by its length.
        terms = [self.start_root**k * roots ** (self.power - k) for k in range(self.power + 1)]
        exponents = positions * sum(terms) / len(terms)
        return -exponents - ops.log(-ops.expm1(-exponents))

    def diffusion_times(self, log_snr: Any) -> Any:
        if not self.continuous:
            return super().diffusion_times(log_snr)
        exponents = ops.softplus(-as_float(log_snr))
        rise, degree = (self.end_root - self.start_root) / self.num_timesteps, self.power + 1
        roots = (self.start_root**degree + degree * rise * exponents) ** (1 / degree)
        positions = (roots - self.start_root) / rise
        return ops.clip(timesteps_to_times(positions - 1, self.num_timesteps), 0, 1)


@keras.saving.register_keras_serializable(PACKAGE)
class ScaledLinearBetaSchedule(LinearBetaSchedule):
    """`ᾱᵢ = Π (1 - βⱼ), j <= i`, with the square root of β linear in the timestep.

    The schedule of Stable Diffusion: a `LinearBetaSchedule` whose default betas are 0.00085 and
    0.012 for T = 1000.

    Example:

    >>> keras_ddim.schedules.ScaledLinearBetaSchedule(zero_terminal_snr=True).rates(1.0)
    (1.0, 0.0)

    Reference:
        [Rombach et al., 2022](https://arxiv.org/abs/2112.10752)
    """

    power = 2
    standard_betas = (0.00085, 0.012)


SCHEDULES = {
    "cosine": CosineSchedule,
    "improved_cosine": ImprovedCosineSchedule,
    "karras": KarrasSchedule,
    "linear_beta": LinearBetaSchedule,
    "linear_variance": LinearVarianceSchedule,
    "log_snr_linear": LogSNRLinearSchedule,
    "rectified_flow": RectifiedFlowSchedule,
    "scaled_linear_beta": ScaledLinearBetaSchedule,
    "sigmoid": SigmoidSchedule,
}


def get(identifier: Any) -> Schedule:
    """The schedule that `identifier` names: one of `SCHEDULES`, a serialized schedule (dict), a
    `Schedule`, or None for the default, `CosineSchedule()`.
    """
    return get_part("schedule", identifier, Schedule, SCHEDULES, CosineSchedule)


# Arguments, checked


def _check_falls(schedule: Schedule) -> None:
    """Log-SNR must be finite and fall, in float32, or there would be no inverse."""
    levels = ops.convert_to_numpy(schedule.log_snr(np.linspace(0, 1, 5, dtype="float32")))
    if not (np.isfinite(levels).all() and (np.diff(levels) < 0).all()):
        arguments = " and ".join(f"`{name}`" for name in schedule.get_config())
        raise ValueError(
            f"{arguments} must make log-SNR finite and strictly decreasing in float32. "
            f"Received: {schedule}, of log-SNR {levels.tolist()}"
        )


def _check_table(name: str, table: Any) -> np.ndarray:
    """`table` as a float64 array whose entries are in range and in order."""
    table = check_array(name, table).astype("float64")
    if table.ndim != 1 or not 2 <= len(table) <= LARGEST_LIST:
        raise ValueError(
            f"`{name}` must be a one-dimensional list of 2 to {LARGEST_LIST:,} numbers. "
            f"Received: {name} of shape {table.shape}"
        )
    allowed = {
        "betas": "above 0 and below 1",
        "alphas_cumprod": "above 0 (the last may be 0) and below 1",
        "sigmas": "positive and finite",
    }[name]
    # Negated, so that NaN, which compares as False, is caught.
    wrong = ~((table > 0) & (table < (math.inf if name == "sigmas" else 1)))
    if name == "alphas_cumprod" and table[-1] == 0:
        wrong[-1] = False
    if wrong.any():
        i = np.flatnonzero(wrong)[0]
        raise ValueError(f"`{name}` must be {allowed}. Received: {name}[{i}]={table[i]}")
    steps = {"betas": 1, "alphas_cumprod": -1, "sigmas": 1}[name] * np.diff(table)
    if name != "betas" and (steps <= 0).any():
        i = np.flatnonzero(steps <= 0)[0]
        raise ValueError(
            f"`{name}` must be strictly {'increasing' if name == 'sigmas' else 'decreasing'}, from "
            f"the least to the most noisy timestep. Received: {name}[{i}]={table[i]}, "
            f"{name}[{i + 1}]={table[i + 1]}"
        )
    return table


def _check_apart(name: str, levels: np.ndarray) -> None:
    """Neighbours must have different log-SNR in float32, or there would be no inverse."""
    wrong = np.flatnonzero(~(np.diff(levels.astype("float32")) < 0))
    if wrong.size:
        i = wrong[0]
        raise ValueError(
            f"`{name}` must give each timestep a noise level of its own in float32. Received: "
            f"entries {i} and {i + 1}, both of log-SNR {levels[i]:g}"
        )
