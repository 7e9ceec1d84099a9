"""Sampling times: the diffusion times to visit, from noise to data, for `generate`.

Each function returns a float64 NumPy array (steps,). The network is evaluated once at each time;
the last evaluation gives the images, even if the last time is above 0.

`num_steps` is the number of times, at least 1; `schedule` is the `keras_ddim.schedules.Schedule`
for sampling, or its name. Infinite ends (zero terminal SNR) count as a log-SNR of ±12, which suits
every sampler. Noise levels must be in the range of the schedule; the times keep their order.

```python
model.generate(16, diffusion_times=keras_ddim.times.karras(20, model.schedule))
```
"""

import math
from typing import Any

import keras
import numpy as np

from keras_ddim import schedules
from keras_ddim.checks import (
    check_choice,
    check_count,
    check_diffusion_times,
    check_list,
    check_number,
)
from keras_ddim.noise_levels import finite

SPACINGS = ("leading", "trailing", "linspace")


def uniform(num_steps: int) -> np.ndarray:
    """`t = 1, 1 - 1/n, ..., 1/n`: equal steps in time.

    Example:

    >>> keras_ddim.times.uniform(4)
    [1.0, 0.75, 0.5, 0.25]
    """
    num_steps = check_count("num_steps", num_steps)
    return 1.0 - np.arange(num_steps) / num_steps


def quadratic(num_steps: int) -> np.ndarray:
    """`t = 1, (1 - 1/n)², ..., (1/n)²`: smaller steps towards the data.

    Example:

    >>> keras_ddim.times.quadratic(4)
    [1.0, 0.5625, 0.25, 0.0625]

    Reference:
        [Song et al., 2020](https://arxiv.org/abs/2010.02502), appendix D.2
    """
    return uniform(num_steps) ** 2


def timesteps(num_steps: int, num_timesteps: int, spacing: str = "leading") -> np.ndarray:
    """`t = i / (T - 1)` for n strided timesteps i of 0, ..., T - 1, the noisiest first.

    - "leading": multiples of `T // n`, from 0 on, without the noisiest timestep (DDPM, DDIM).
    - "linspace": n evenly spaced timesteps, both ends included (Improved DDPM).
    - "trailing": multiples of `T / n` minus one, down from T - 1, without the cleanest (DPM).

    Args:
        num_steps: n, from 1 to `num_timesteps`.
        num_timesteps: T, the number of timesteps of the schedule, at least 2.
        spacing: One of the three. Defaults to "leading".

    Example:

    >>> 999 * keras_ddim.times.timesteps(5, num_timesteps=1000, spacing="trailing")
    [999.0, 799.0, 599.0, 399.0, 199.0]

    Reference:
        [Lin et al., 2023](https://arxiv.org/abs/2305.08891), table 2, whose timesteps count from 1
    """
    num_steps = check_count("num_steps", num_steps)
    num_timesteps = check_count("num_timesteps", num_timesteps, least=max(2, num_steps))
    check_choice("spacing", spacing, SPACINGS)
    # Quotients of integers, so that halves are halves.
    if spacing == "leading":
        indices: np.ndarray = np.arange(num_steps)[::-1] * (num_timesteps // num_steps)
    elif spacing == "linspace":
        gaps = max(num_steps - 1, 1)
        indices = np.round((num_timesteps - 1) * np.arange(gaps, gaps - num_steps, -1) / gaps)
    else:
        indices = np.round(num_timesteps * np.arange(num_steps, 0, -1) / num_steps) - 1
    return indices / (num_timesteps - 1)


def uniform_log_snr(num_steps: int, schedule: Any) -> np.ndarray:
    """Times evenly spaced in log-SNR, from time 1 to one step before time 0.

    Example:

    >>> keras_ddim.times.uniform_log_snr(4, "log_snr_linear")
    [1.0, 0.75, 0.5, 0.25]

    Reference:
        [Lu et al., 2022, DPM-Solver](https://arxiv.org/abs/2206.00927)
    """
    num_steps = check_count("num_steps", num_steps)
    schedule = schedules.get(schedule)
    start, end = finite(schedule.ends)
    return _times_from_start(np.linspace(end, start, num_steps + 1)[:-1], schedule)


def karras(num_steps: int, schedule: Any, rho: float = 7.0) -> np.ndarray:
    """Times of `σᵢ = (σ_max^(1/ρ) + i / (n - 1) * (σ_min^(1/ρ) - σ_max^(1/ρ)))^ρ`.

    σ is `noise_rates / signal_rates`; σ_max and σ_min are its values at times 1 and 0, both
    visited.

    Args:
        num_steps, schedule: See `keras_ddim.times`.
        rho: Exponent, at least 0.1; larger ones make the last steps smaller. Defaults to 7.0.

    Example:

    >>> keras_ddim.times.karras(5, keras_ddim.schedules.KarrasSchedule())
    [1.0, 0.75, 0.5, 0.25, 0.0]

    Reference:
        [Karras et al., 2022](https://arxiv.org/abs/2206.00364), eq. 5
    """
    num_steps = check_count("num_steps", num_steps)
    schedule = schedules.get(schedule)
    rho = check_number("rho", rho, schedules.SMALLEST_RHO)
    start_root, end_root = np.exp(finite(schedule.ends) / (-2 * rho))
    levels = -2 * rho * np.log(np.linspace(end_root, start_root, num_steps))
    return _times_from_start(levels, schedule)


def from_log_snr(log_snr: Any, schedule: Any) -> np.ndarray:
    """Times at which `schedule` has the given log-SNR, a list of log(ᾱ / (1 − ᾱ)).

    Example:

    >>> keras_ddim.times.from_log_snr([-7.5, 0.0, 5.0], "log_snr_linear")
    [1.0, 0.4, 0.0]
    """
    values = check_list("log_snr", log_snr, -math.inf, math.inf)
    return _times_of("log_snr", values, values, schedule)


def from_noise_variances(noise_variances: Any, schedule: Any) -> np.ndarray:
    """Times at which `schedule` has the given `noise_variances = 1 - ᾱ`, a list in [0, 1].

    Example:

    >>> keras_ddim.times.from_noise_variances([0.9, 0.5, 0.1], "linear_variance")
    [0.9, 0.5, 0.1]
    """
    values = check_list("noise_variances", noise_variances, 0.0, 1.0)
    with np.errstate(divide="ignore"):  # infinities are meant
        log_snr = np.log1p(-values) - np.log(values)
    return _times_of("noise_variances", values, log_snr, schedule)


def from_sigmas(sigmas: Any, schedule: Any) -> np.ndarray:
    """Times at which `schedule` has the given `sigmas = noise_rates / signal_rates`, a list.

    Example:

    >>> keras_ddim.times.from_sigmas([80.0, 0.002], "karras")
    [1.0, 0.0]
    """
    values = check_list("sigmas", sigmas, 0.0, math.inf)
    with np.errstate(divide="ignore"):  # infinities are meant
        log_snr = -2 * np.log(values)
    return _times_of("sigmas", values, log_snr, schedule)


def from_timesteps(timesteps: Any, num_timesteps: int) -> np.ndarray:
    """Times of a list of timesteps, numbers from 0 (the cleanest) to `num_timesteps - 1`.

    Example:

    >>> keras_ddim.times.from_timesteps([999, 500, 100], num_timesteps=1000)
    [1.0, 0.5005, 0.1001]
    """
    num_timesteps = check_count("num_timesteps", num_timesteps, least=2)
    values = check_list("timesteps", timesteps, 0, num_timesteps - 1)
    return values / (num_timesteps - 1)


def renoised(diffusion_times: Any, stretch: int = 4, repeats: int = 2) -> np.ndarray:
    """Repeats each stretch of sampling times, to erase errors and to inpaint without seams.

    Between repeats, samplers with fresh noise (`DDPM`, `DDIM(eta=1)`) add as much noise as training
    would. In inpainting, repeats let known pixels influence the others.

    Args:
        diffusion_times: A list of times, or a number of uniform ones.
        stretch: Number of times in a stretch, at least 2. Defaults to 4.
        repeats: Number of visits to each stretch, at least 1. Defaults to 2.

    Example:

    >>> keras_ddim.times.renoised([1.0, 0.75, 0.5, 0.25], stretch=2)
    [1.0, 0.75, 1.0, 0.75, 0.5, 0.25, 0.5, 0.25]

    Reference:
        [Lugmayr et al., 2022, RePaint](https://arxiv.org/abs/2201.09865);
        [Xu et al., 2023, Restart Sampling](https://arxiv.org/abs/2306.14878)
    """
    times = check_diffusion_times(diffusion_times)
    stretch = check_count("stretch", stretch, least=2)
    repeats = check_count("repeats", repeats)
    starts = range(0, len(times), stretch)
    return np.concatenate([np.tile(times[i : i + stretch], repeats) for i in starts])


def _times_of(name: str, values: Any, log_snr: Any, schedule: Any) -> np.ndarray:
    """Times of noise levels; messages call them by the `values` of `name`."""
    schedule = schedules.get(schedule)
    schedule.check_levels(name, log_snr, values)
    times = keras.ops.convert_to_numpy(schedule.diffusion_times(np.asarray(log_snr, "float64")))
    return np.clip(times.astype("float64"), 0.0, 1.0)


def _times_from_start(log_snr: Any, schedule: Any) -> np.ndarray:
    """Times of levels, the first of which is the noisiest of the schedule."""
    times = from_log_snr(log_snr, schedule)
    if math.isfinite(schedule.ends[1]):
        times[0] = 1.0  # the inverse may miss the last digit
    return times
