"""Conditioning: the number that the network is conditioned on, as a function of the noise level.

The network embeds one number in [0, 1] (see `keras_ddim.SinusoidalEmbedding`). A function of the
noise level means the same under every schedule. A timestep stands for a noise level under the
training schedule only; `Timestep` finds it for the noise levels of any other schedule.
"""

from typing import Any

import keras
import numpy as np
from keras import ops

from keras_ddim import schedules, serialization
from keras_ddim.checks import check_choice, check_count, check_number, require
from keras_ddim.noise_levels import as_float

# Distance, as a fraction of T, within which float32 levels count as those of an integer timestep.
SNAP = 5e-7


class Conditioning(serialization.Serializable):
    """One number in [0, 1] for each noise level.

    Subclasses declare their arguments as fields and implement `__call__`.
    """

    def __call__(self, log_snr: Any) -> Any:
        """The number that the network embeds, a float tensor shaped as `log_snr`."""
        raise NotImplementedError

    def check(self, log_snr: Any) -> None:
        """Raises a `ValueError` if the network cannot be conditioned on a level of a list."""

    def draw_times(self, shape: tuple, seed: Any = None) -> Any:
        """Random times for training, each uniform in [0, 1), evenly spread over the batch.

        `diffusion_times[i] = (start + i / batch) % 1` with a random start. The loss varies less
        than with independent times, since each batch has all noise levels.

        Args:
            shape: Such as (batch, 1, 1, 1).
            seed: An integer, a `keras.random.SeedGenerator`, or None.

        Reference:
            [Kingma et al., 2021](https://arxiv.org/abs/2107.00630), appendix I.1
        """
        places = ops.arange(shape[0], dtype="float32") / ops.cast(shape[0], "float32")
        return ops.reshape((keras.random.uniform((), seed=seed) + places) % 1.0, shape)


class NoiseVariance(Conditioning):
    """`noise_variances = sigmoid(-log_snr)`, that is 1 − ᾱ.

    Example:

    >>> keras_ddim.conditioning.NoiseVariance()([-2.0, 0.0, 2.0])
    [0.8808, 0.5, 0.1192]
    """

    def __call__(self, log_snr: Any) -> Any:
        return ops.sigmoid(-as_float(log_snr))


class NoiseRate(Conditioning):
    """`noise_rates = sqrt(sigmoid(-log_snr))`, that is sqrt(1 − ᾱ).

    It resolves low noise better than the variance: near the data it falls as its square root.

    Example:

    >>> keras_ddim.conditioning.NoiseRate()([-2.0, 0.0, 2.0])
    [0.9385, 0.7071, 0.3452]

    Reference:
        [Chen et al., 2020, WaveGrad](https://arxiv.org/abs/2009.00713), which conditions on the
        signal rate
    """

    def __call__(self, log_snr: Any) -> Any:
        return ops.sqrt(ops.sigmoid(-as_float(log_snr)))


class LogSNR(Conditioning):
    """`(max_log_snr - log_snr) / (max_log_snr - min_log_snr)`, clipped to [0, 1].

    It resolves all levels equally well.

    Args:
        min_log_snr: The level that becomes 1, as do noisier ones. Defaults to -15.0.
        max_log_snr: The level that becomes 0, as do cleaner ones. Defaults to 15.0.

    Reference:
        [Kingma et al., 2021, Variational Diffusion Models](https://arxiv.org/abs/2107.00630)
    """

    min_log_snr: float = -15.0
    max_log_snr: float = 15.0

    def __post_init__(self) -> None:
        self._check(check_number, "max_log_snr")
        self._check(check_number, "min_log_snr", below=self.max_log_snr)

    def __call__(self, log_snr: Any) -> Any:
        spread = self.max_log_snr - self.min_log_snr
        return ops.clip((self.max_log_snr - as_float(log_snr)) / spread, 0, 1)


class Timestep(Conditioning):
    """`timesteps / num_timesteps`, the timesteps 0..T − 1 being those of the training schedule.

    `timesteps = (T - 1) * schedule.diffusion_times(log_snr)`. The timestep follows from the noise
    level alone, so these models can be sampled under any schedule within the range of their own.

    Args:
        schedule: The `keras_ddim.schedules.Schedule` of training, or its name.
        num_timesteps: T, at least 2, not necessarily that of `schedule`. Defaults to 4000.
        rounded: Whether to round to the nearest timestep. Defaults to False: only fractions within
            5e-7 T, the resolution of float32 noise levels, are rounded.

    Example:

    >>> schedule = keras_ddim.schedules.LogSNRLinearSchedule(start_log_snr=8, end_log_snr=-8)
    >>> keras_ddim.conditioning.Timestep(schedule, num_timesteps=1001).timesteps([8.0, 0.0, -8.0])
    [0.0, 500.0, 1000.0]

    Reference:
        [Ho et al., 2020](https://arxiv.org/abs/2006.11239); for the remapping
        [Karras et al., 2022](https://arxiv.org/abs/2206.00364), table 1, c_noise of "VP"
    """

    schedule: Any
    num_timesteps: int = 4000
    rounded: bool = False

    def __post_init__(self) -> None:
        require(self.schedule is not None, "schedule", "the training schedule", self.schedule)
        self._check(lambda name, schedule: schedules.get(schedule), "schedule")
        self._check(check_count, "num_timesteps", least=2)
        self._check(check_choice, "rounded", (False, True))

    def __call__(self, log_snr: Any) -> Any:
        return self.timesteps(log_snr) / self.num_timesteps

    def timesteps(self, log_snr: Any) -> Any:
        """The timesteps in 0..T − 1, as floats; levels beyond the ends give the nearest end."""
        times = ops.clip(self.schedule.diffusion_times(as_float(log_snr)), 0, 1)
        timesteps = times * (self.num_timesteps - 1)
        nearest = ops.round(timesteps)
        if self.rounded:
            return nearest
        is_near = ops.abs(timesteps - nearest) < SNAP * self.num_timesteps
        return ops.where(is_near, nearest, timesteps)

    def check(self, log_snr: Any) -> None:
        """Raises a `ValueError` if a level is outside the training schedule's range."""
        levels = np.ravel(log_snr)
        self.schedule.check_levels("log_snr", levels, levels)

    def draw_times(self, shape: tuple, seed: Any = None) -> Any:
        """Random times for training: the times of integer timesteps, each uniform in 0..T − 1."""
        timesteps = ops.floor(super().draw_times(shape, seed) * self.num_timesteps)
        return timesteps / (self.num_timesteps - 1)


CONDITIONINGS = {"log_snr": LogSNR, "noise_rate": NoiseRate, "noise_variance": NoiseVariance}


def get(identifier: Any) -> Conditioning:
    """A `Conditioning` for a name of `CONDITIONINGS`, a configuration (dict) or a `Conditioning`.

    None stands for `NoiseVariance()`.
    """
    return serialization.get("conditioning", identifier, Conditioning, CONDITIONINGS, NoiseVariance)
