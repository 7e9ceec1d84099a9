"""Schedules: which noise level belongs to which diffusion time, and back.

The network is conditioned on a noise level, so a trained model works with any schedule. Noise
levels are log signal-to-noise ratios throughout, the one form that keeps float32 digits at both
ends.

In schedules with a table of T timesteps, timestep i = 0, …, T − 1 is time i / (T − 1). Time 0 is
the least noisy level of the table, time 1 the noisiest.
"""

import dataclasses
import functools
import math
from typing import Any

import numpy as np
from keras import ops

from keras_ddim import serialization
from keras_ddim.checks import check_choice, check_count, check_list, check_number, require
from keras_ddim.noise_levels import LEVEL_TOLERANCE, as_float, rates

# Steps of the numerical inverse; each halves the error, 2e-12 remains.
BISECTIONS = 39
# Length, in log-SNR, of the straight lines that replace the infinite ends of a formula.
MARGIN = 1.0
# Below, powers of σ leave the range of float32.
SMALLEST_RHO = 0.1
# Improved DDPM's limit of scaled betas.
MAX_BETA = 0.999


class Schedule(serialization.Serializable):
    """A strictly decreasing function from diffusion times to log-SNR, and its inverse.

    Subclasses declare their arguments as fields and implement `log_snr`. If the inverse has a
    closed form, they implement `diffusion_times`, too. Models save their schedule.

    Example:

    ```python
    class StraightSchedule(keras_ddim.Schedule):
        slope: float = 16.0

        def log_snr(self, diffusion_times):
            return self.slope * (0.5 - diffusion_times)
    ```
    """

    def log_snr(self, diffusion_times: Any) -> Any:
        """log(ᾱ / (1 − ᾱ)) at the given times in [0, 1] (0 is data, 1 is noise)."""
        raise NotImplementedError

    def diffusion_times(self, log_snr: Any) -> Any:
        """The times of noise levels, by bisection; beyond the range, those of the ends."""
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
        """Log-SNR at times 0 and 1, possibly infinite."""
        start, end = ops.convert_to_numpy(self.log_snr(np.array([0.0, 1.0])))
        return float(start), float(end)

    def find_outside(self, log_snr: Any) -> int | None:
        """Index of a noise level outside the schedule's range, the farthest; None if all fit."""
        levels = np.asarray(log_snr, "float64")
        start, end = self.ends
        with np.errstate(invalid="ignore"):  # the difference of equal infinities, NaN, is 0 here
            distances = np.nan_to_num(np.maximum(levels - start, end - levels), nan=0.0)
        i = int(np.argmax(distances))
        return i if distances[i] > LEVEL_TOLERANCE else None

    def check_levels(self, name: str, log_snr: Any, values: Any) -> None:
        """Raises a `ValueError` if levels, given as the `values` of `name`, are out of range."""
        i, (start, end) = self.find_outside(log_snr), self.ends
        allowed = f"of log-SNR in [{end:.6g}, {start:.6g}], the range of {type(self).__name__}"
        require(i is None, f"{name}[{i}]", allowed, None if i is None else float(values[i]))


# Schedules in closed form


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

    min_signal_rate: float = 0.02
    max_signal_rate: float = 0.95

    def __post_init__(self) -> None:
        self._check(check_number, "max_signal_rate", above=0, below=1)
        self._check(check_number, "min_signal_rate", above=0, below=self.max_signal_rate)

    def log_snr(self, diffusion_times: Any) -> Any:
        times = as_float(diffusion_times)
        start, end = math.acos(self.max_signal_rate), math.acos(self.min_signal_rate)
        angles = (1 - times) * start + times * end
        # Near π/2, the cosine loses its digits; the sine of the complement does not.
        complements = (1 - times) * (math.pi / 2 - start) + times * (math.pi / 2 - end)
        return 2 * (ops.log(ops.sin(complements)) - ops.log(ops.sin(angles)))

    def diffusion_times(self, log_snr: Any) -> Any:
        start, end = math.acos(self.max_signal_rate), math.acos(self.min_signal_rate)
        angles = ops.arctan(ops.exp(-as_float(log_snr) / 2))
        return ops.clip((angles - start) / (end - start), 0, 1)


class LogSNRLinearSchedule(Schedule):
    """`log_snr = (1 - t) * start_log_snr + t * end_log_snr`.

    Args:
        start_log_snr: Log-SNR at time 0, finite. Defaults to 5.0.
        end_log_snr: Log-SNR at time 1, below `start_log_snr`. Defaults to -7.5.

    Reference:
        [Kingma et al., 2021, Variational Diffusion Models](https://arxiv.org/abs/2107.00630)
    """

    start_log_snr: float = 5.0
    end_log_snr: float = -7.5

    def __post_init__(self) -> None:
        self._check(check_number, "start_log_snr")
        self._check(check_number, "end_log_snr", below=self.start_log_snr)

    def log_snr(self, diffusion_times: Any) -> Any:
        times = as_float(diffusion_times)
        return (1 - times) * self.start_log_snr + times * self.end_log_snr

    def diffusion_times(self, log_snr: Any) -> Any:
        fall = self.start_log_snr - self.end_log_snr
        return ops.clip((self.start_log_snr - as_float(log_snr)) / fall, 0, 1)


class KarrasSchedule(Schedule):
    """`sigmas = ((1 - t) * sigma_min ** (1 / rho) + t * sigma_max ** (1 / rho)) ** rho`.

    EDM's noise levels for variance-preserving rates: σ is the ratio `noise_rates / signal_rates`,
    hence `log_snr = -2 * log(sigmas)`.

    Args:
        sigma_min: σ at time 0, positive, in units of the images' standard deviation. (EDM's is
            0.5, so its levels are twice as noisy at the same σ.) Defaults to 0.002.
        sigma_max: σ at time 1, above `sigma_min`. Defaults to 80.0.
        rho: Exponent, at least 0.1; larger ones spend more of the time at small σ. Defaults to 7.0.

    Example:

    >>> keras_ddim.schedules.KarrasSchedule().rates([0.0, 1.0])
    ([0.002, 0.9999], [1.0, 0.0125])

    Reference:
        [Karras et al., 2022, Elucidating the Design Space](https://arxiv.org/abs/2206.00364), eq. 5
    """

    sigma_min: float = 0.002
    sigma_max: float = 80.0
    rho: float = 7.0

    def __post_init__(self) -> None:
        self._check(check_number, "sigma_min", above=0)
        self._check(check_number, "sigma_max", above=self.sigma_min)
        self._check(check_number, "rho", SMALLEST_RHO)

    @property
    def _end_roots(self) -> tuple[float, float]:
        return self.sigma_min ** (1 / self.rho), self.sigma_max ** (1 / self.rho)

    def log_snr(self, diffusion_times: Any) -> Any:
        times = as_float(diffusion_times)
        start, end = self._end_roots
        return -2 * self.rho * ops.log((1 - times) * start + times * end)

    def diffusion_times(self, log_snr: Any) -> Any:
        start, end = self._end_roots
        roots = ops.exp(as_float(log_snr) / (-2 * self.rho))
        return ops.clip((roots - start) / (end - start), 0, 1)


# Schedules in closed form whose formula starts at ᾱ = 1 and ends at ᾱ = 0


class BoundedSchedule(Schedule):
    """Base class of formulas from ᾱ = 1 to ᾱ = 0, kept finite at their ends.

    Log-SNR follows the formula, except for the last unit at either end, a straight line.
    Subclasses implement `formula`, a strictly decreasing function from (0, 1) to all log-SNR, and
    its inverse, `inverse_formula`. The arguments are keyword-only.

    Args:
        start_log_snr: Log-SNR at time 0, finite. Defaults to 10.0.
        end_log_snr: Log-SNR at time 1, more than 2 below `start_log_snr`. Defaults to -10.0.
    """

    _: dataclasses.KW_ONLY
    start_log_snr: float = 10.0
    end_log_snr: float = -10.0

    def __post_init__(self) -> None:
        self._check(check_number, "start_log_snr")
        self._check(check_number, "end_log_snr", below=self.start_log_snr - 2 * MARGIN)

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
        """The times between which the formula holds."""
        levels = [self.start_log_snr - MARGIN, self.end_log_snr + MARGIN]
        times = self.inverse_formula(ops.convert_to_tensor(levels, dtype))
        return times[0], times[1]


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

    offset: float = 0.008

    def __post_init__(self) -> None:
        self._check(check_number, "offset", 0)
        super().__post_init__()

    @property
    def _speed(self) -> float:
        return math.pi / 2 / (1 + self.offset)

    def formula(self, times: Any) -> Any:
        # 1 − ᾱ as a product: the difference of two nearly equal cosines would lose its digits.
        turns, start_angle = self._speed * times, self._speed * self.offset
        signals = 2 * ops.log(ops.sin(self._speed * (1 - times)))
        return signals - ops.log(ops.sin(turns)) - ops.log(ops.sin(turns + 2 * start_angle))

    def inverse_formula(self, log_snr: Any) -> Any:
        start_angle = self._speed * self.offset
        start_cosine, start_sine = math.cos(start_angle), math.sin(start_angle)
        cosines = start_cosine * ops.sqrt(ops.sigmoid(log_snr))
        sines = ops.sqrt(start_sine**2 + start_cosine**2 * ops.sigmoid(-log_snr))
        return (ops.arctan2(sines, cosines) - start_angle) / self._speed


class SigmoidSchedule(BoundedSchedule):
    """`ᾱ = (σ(end / tau) - σ(x / tau)) / (σ(end / tau) - σ(start / tau))`, x linear in time.

    σ is the logistic function. The ends are those of a `BoundedSchedule`.

    Args:
        start: x at time 0. Defaults to -3.0.
        end: x at time 1, above `start`. Defaults to 3.0.
        tau: Temperature, positive; smaller ones add the noise more suddenly. Defaults to 1.0.
        start_log_snr, end_log_snr: See `BoundedSchedule`. Default to 10.0 and -10.0.

    Reference:
        [Jabri et al., 2022](https://arxiv.org/abs/2212.11972),
        [Chen, 2023, On the Importance of Noise Scheduling](https://arxiv.org/abs/2301.10972)
    """

    start: float = -3.0
    end: float = 3.0
    tau: float = 1.0

    def __post_init__(self) -> None:
        self._check(check_number, "start")
        self._check(check_number, "end", above=self.start)
        self._check(check_number, "tau", above=0)
        super().__post_init__()

    # SNR is a ratio of two differences of σ; σ(a) − σ(b) = sinh((a − b) / 2) / (2 cosh(a / 2)
    # cosh(b / 2)) turns it into `exp(shift) * sinh(span * (1 - t)) / sinh(span * t)`.

    @property
    def _shift_and_span(self) -> tuple[float, float]:
        span = (self.end - self.start) / (2 * self.tau)
        start_softplus, end_softplus = np.logaddexp([self.start / self.tau, self.end / self.tau], 0)
        return float(start_softplus - end_softplus) + span, span

    def formula(self, times: Any) -> Any:
        shift, span = self._shift_and_span
        # log(sinh(x)) = x + log(1 - exp(-2x)) - log(2), which does not overflow.
        start_term = ops.log(-ops.expm1(-2 * span * (1 - times)))
        end_term = ops.log(-ops.expm1(-2 * span * times))
        return shift + span * (1 - 2 * times) + start_term - end_term

    def inverse_formula(self, log_snr: Any) -> Any:
        shift, span = self._shift_and_span
        log_ratios = log_snr - shift
        rise = ops.logaddexp(log_ratios, span) - ops.logaddexp(log_ratios, -span)
        return rise / (2 * span)


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


class RectifiedFlowSchedule(BoundedSchedule):
    """`noise_rates / signal_rates = shift * t / (1 - t)`: rectified flow, as in SD3 and Flux.

    Rectified flow mixes by `(1 - t) * images + t * noises` and predicts `noises - images`. Divided
    by `sqrt((1 - t)² + t²)`, its mixture is that of this schedule. Its predictions are
    `prediction_type="flow"`, and its Euler steps are those of `keras_ddim.DDIM`. Networks trained
    elsewhere take `noisy_images / (signal_rates + noise_rates)` at `t = noise_rates /
    (signal_rates + noise_rates)`.

    Larger images need more noise. If `shift=1` fits images of n pixels, `shift = sqrt(m / n)` fits
    images of m pixels: it lowers log-SNR by log(m / n) at all times.

    Args:
        shift: Positive; t becomes `shift * t / (1 + (shift - 1) * t)`. Flux's μ is its logarithm.
            Defaults to 1.0.
        start_log_snr, end_log_snr: See `BoundedSchedule`. Default to 10.0 and -10.0.

    Reference:
        [Liu et al., 2022, Flow Straight and Fast](https://arxiv.org/abs/2209.03003); the shift:
        [Esser et al., 2024, Scaling Rectified Flow Transformers](https://arxiv.org/abs/2403.03206),
        eq. 23
    """

    shift: float = 1.0

    def __post_init__(self) -> None:
        self._check(check_number, "shift", above=0)
        super().__post_init__()

    def formula(self, times: Any) -> Any:
        return 2 * (ops.log(1 - times) - ops.log(times) - math.log(self.shift))

    def inverse_formula(self, log_snr: Any) -> Any:
        return ops.sigmoid(-log_snr / 2 - math.log(self.shift))


# Schedules of timesteps


class TimestepSchedule(Schedule):
    """Base class of schedules with T timesteps, between which log-SNR is linear in time.

    Subclasses implement `log_alphas_cumprod`.

    Args:
        zero_terminal_snr: Whether to shift and scale the signal rates such that the last is 0 and
            the first stays. Log-SNR is then −∞ at time 1; in the last interval, SNR falls as
            (1 − w)², w from 0 to 1. Keyword-only. Defaults to False.

    Reference:
        [Lin et al., 2023, Common Diffusion Noise Schedules and Sample Steps Are
        Flawed](https://arxiv.org/abs/2305.08891)
    """

    _: dataclasses.KW_ONLY
    zero_terminal_snr: bool = False

    def __post_init__(self) -> None:
        self._check(check_choice, "zero_terminal_snr", (False, True))
        levels = self.levels.astype("float32")
        falls = np.isfinite(levels[:-1]).all() and (np.diff(levels) < 0).all()
        require(falls, "schedule", "of finite, strictly decreasing log-SNR in float32", self)

    @property
    def log_alphas_cumprod(self) -> np.ndarray:
        """log(ᾱ) before any rescaling, float64 (T,), strictly decreasing; the last may be −∞."""
        raise NotImplementedError

    @functools.cached_property
    def levels(self) -> np.ndarray:
        """Log-SNR of the timesteps, float64 (T,)."""
        log_alphas_cumprod = self.log_alphas_cumprod
        with np.errstate(divide="ignore"):  # log(0) = -inf is meant
            if self.zero_terminal_snr:
                signal_rates = np.exp(log_alphas_cumprod / 2)
                start, end = signal_rates[0], signal_rates[-1]
                log_alphas_cumprod = 2 * np.log(start * ((signal_rates - end) / (start - end)))
            # log(1 − ᾱ) without the cancellation in 1 − ᾱ.
            return log_alphas_cumprod - np.log(-np.expm1(log_alphas_cumprod))

    @property
    def num_timesteps(self) -> int:
        """T, the number of timesteps."""
        return len(self.levels)

    def log_snr(self, diffusion_times: Any) -> Any:
        times = as_float(diffusion_times)
        timesteps = times * (self.num_timesteps - 1)
        before = ops.clip(ops.cast(ops.floor(timesteps), "int32"), 0, self.num_timesteps - 2)
        weights = timesteps - ops.cast(before, times.dtype)
        start, end = self._levels_around(before, times.dtype)
        log_snr = (1 - weights) * start + weights * end
        if np.isinf(self.levels[-1]):
            falling = start + 2 * ops.log1p(-weights)
            log_snr = ops.where(before == self.num_timesteps - 2, falling, log_snr)
        return log_snr

    def diffusion_times(self, log_snr: Any) -> Any:
        log_snr = as_float(log_snr)
        levels = ops.convert_to_tensor(self.levels[:-1], log_snr.dtype)
        # All backends search increasing sequences of one dimension alike.
        after = ops.searchsorted(-levels, ops.reshape(-log_snr, (-1,)), side="right")
        after = ops.reshape(ops.cast(after, "int32"), ops.shape(log_snr))
        before = ops.clip(after - 1, 0, self.num_timesteps - 2)
        start, end = self._levels_around(before, log_snr.dtype)
        weights = (start - log_snr) / (start - end)
        if np.isinf(self.levels[-1]):
            falling = -ops.expm1((log_snr - start) / 2)
            weights = ops.where(before == self.num_timesteps - 2, falling, weights)
        timesteps = ops.cast(before, log_snr.dtype) + weights
        return ops.clip(timesteps / (self.num_timesteps - 1), 0, 1)

    def _levels_around(self, before: Any, dtype: Any) -> tuple[Any, Any]:
        """Log-SNR of the timesteps `before` and of those after them, all finite."""
        # The infinite end is unused, except in products with 0, which would be NaN.
        levels = np.nan_to_num(self.levels, neginf=self.levels[-2] - 1)
        levels = ops.convert_to_tensor(levels, dtype)
        return ops.take(levels, before), ops.take(levels, before + 1)


class TableSchedule(TimestepSchedule):
    """`ᾱᵢ = Π (1 - βⱼ), j <= i` or `ᾱᵢ = 1 / (1 + σᵢ²)`, for a table of your own.

    Args:
        betas: Noise variances added by each timestep, at least two, each between 0 and 1. Give
            exactly one of the three tables, with the least noisy timestep first.
        alphas_cumprod: ᾱ, strictly decreasing between 1 and 0; only the last may be 0.
        sigmas: `noise_rates / signal_rates`, positive, strictly increasing.
        zero_terminal_snr: See `TimestepSchedule`. Defaults to False.

    Example:

    >>> keras_ddim.schedules.TableSchedule(betas=np.linspace(1e-4, 0.02, 1000)).rates(1.0)
    (0.99998, 0.00635)
    """

    _: dataclasses.KW_ONLY
    betas: Any = None
    alphas_cumprod: Any = None
    sigmas: Any = None

    def __post_init__(self) -> None:
        largest = {"betas": 1.0, "alphas_cumprod": 1.0, "sigmas": math.inf}
        given = [name for name in largest if getattr(self, name) is not None]
        allowed = "given exactly one of `betas`, `alphas_cumprod` and `sigmas`"
        require(len(given) == 1, "TableSchedule", allowed, given)
        (name,) = given
        self._check(lambda *args: tuple(check_list(*args).tolist()), name, 0.0, largest[name])
        table = getattr(self, name)
        require(len(table) > 1, name, "at least two numbers", table)
        super().__post_init__()

    @property
    def log_alphas_cumprod(self) -> np.ndarray:
        with np.errstate(divide="ignore"):  # log(0) = -inf is meant
            if self.betas is not None:
                return np.cumsum(np.log1p(-np.array(self.betas)))
            if self.alphas_cumprod is not None:
                return np.log(np.array(self.alphas_cumprod))
            return -np.logaddexp(0, 2 * np.log(np.array(self.sigmas)))


class LinearBetaSchedule(TimestepSchedule):
    """`ᾱᵢ = Π (1 - βⱼ), j <= i`, with β linear in the timestep: the schedule of DDPM.

    The continuous form, smooth in time, replaces the product by the integral of the
    variance-preserving SDE, `ᾱ(u) = exp(-T ∫₀ᵘ β(v) dv)`, at `u = (1 + i) / T`.

    Args:
        num_timesteps: T, at least 2. Defaults to 1000.
        start_beta: β of the first timestep, in (0, 1). Defaults to None: 1e-4 * 1000 / T, for
            about the same total noise at any T.
        end_beta: β of the last timestep, above `start_beta` and below 1. Defaults to None:
            0.02 * 1000 / T, with all betas limited to 0.999.
        continuous: Whether to use the integral instead of the product. Defaults to False.
        zero_terminal_snr: See `TimestepSchedule`; not for the continuous form. Defaults to False.

    Example:

    >>> keras_ddim.schedules.LinearBetaSchedule(num_timesteps=4000).betas[[0, -1]]
    [2.5e-05, 0.005]

    Reference:
        [Ho et al., 2020](https://arxiv.org/abs/2006.11239); for T other than 1000
        [Nichol & Dhariwal, 2021](https://arxiv.org/abs/2102.09672); as an SDE
        [Song et al., 2020](https://arxiv.org/abs/2011.13456)
    """

    # β ** (1 / power) is linear in the timestep; the two betas are those for T = 1000.
    power = 1
    standard_betas = (1e-4, 0.02)

    num_timesteps: int = 1000
    start_beta: float | None = None
    end_beta: float | None = None
    continuous: bool = False

    def __post_init__(self) -> None:
        self._check(check_count, "num_timesteps", 2)
        self._check(check_choice, "continuous", (False, True))
        self._check(check_number, "start_beta", above=0, below=1)
        self._check(check_number, "end_beta", above=0, below=1)
        start_root, end_root = self._roots
        require(start_root < end_root, "start_beta", "below `end_beta`", self.start_beta)
        is_possible = not (self.continuous and self.zero_terminal_snr)
        require(is_possible, "zero_terminal_snr", "False where `continuous` is True", True)
        super().__post_init__()

    @property
    def _roots(self) -> tuple[float, float]:
        """β ** (1 / power) of the first and the last timestep, before the limit."""
        standard_start, standard_end = (b * 1000 / self.num_timesteps for b in self.standard_betas)
        start_beta = standard_start if self.start_beta is None else self.start_beta
        end_beta = standard_end if self.end_beta is None else self.end_beta
        return start_beta ** (1 / self.power), end_beta ** (1 / self.power)

    @functools.cached_property
    def betas(self) -> np.ndarray:
        """β of the timesteps, float64 (T,), before any rescaling."""
        betas = np.linspace(*self._roots, self.num_timesteps) ** self.power
        return np.minimum(betas, max(MAX_BETA, self.end_beta or 0))

    @property
    def log_alphas_cumprod(self) -> np.ndarray:
        return np.cumsum(np.log1p(-self.betas))

    def log_snr(self, diffusion_times: Any) -> Any:
        if not self.continuous:
            return super().log_snr(diffusion_times)
        start_root, end_root = self._roots
        positions = as_float(diffusion_times) * (self.num_timesteps - 1) + 1
        roots = start_root + (end_root - start_root) / self.num_timesteps * positions
        # The mean of β so far, as the integral of root ** power divided by its length.
        terms = [start_root**k * roots ** (self.power - k) for k in range(self.power + 1)]
        exponents = positions * sum(terms) / len(terms)
        return -exponents - ops.log(-ops.expm1(-exponents))

    def diffusion_times(self, log_snr: Any) -> Any:
        if not self.continuous:
            return super().diffusion_times(log_snr)
        start_root, end_root = self._roots
        exponents = ops.softplus(-as_float(log_snr))
        rise, degree = (end_root - start_root) / self.num_timesteps, self.power + 1
        roots = (start_root**degree + degree * rise * exponents) ** (1 / degree)
        positions = (roots - start_root) / rise
        return ops.clip((positions - 1) / (self.num_timesteps - 1), 0, 1)


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
    """A `Schedule` for one of the names of `SCHEDULES`, a configuration (dict) or a `Schedule`.

    None stands for `CosineSchedule()`.
    """
    return serialization.get("schedule", identifier, Schedule, SCHEDULES, CosineSchedule)
