"""Conditioning: how the noise level becomes the number that the network is conditioned on.

The network embeds one number in [0, 1] (see `keras_ddim.SinusoidalEmbedding`). A function of the
noise level means the same under every schedule. A timestep means a noise level only under one
schedule, the one of training; `Timestep` remaps the levels of others to it. An argument that is not
as described raises a `ValueError`.
"""

from typing import Any

import keras
import numpy as np
from keras import ops

from keras_ddim import schedules
from keras_ddim.checks import check_count, check_flag, check_number
from keras_ddim.noise_levels import (
    LEVEL_TOLERANCE,
    as_float,
    times_to_timesteps,
    timesteps_to_times,
)
from keras_ddim.parts import PACKAGE, Part, get_part

# How far from a timestep, as a part of all, a level still is that timestep's: as coarse as float32
# levels, so that strided timesteps come out of the remapping as they went in.
SNAP = 5e-7


class Conditioning(Part):
    """One number in [0, 1] for each noise level.

    Subclasses implement `__call__`, and are saved as a `keras_ddim.parts.Part`.

    Attributes:
        num_timesteps: Number of timesteps that training draws from; None for all times in [0, 1).
    """

    num_timesteps: int | None = None

    def __call__(self, log_snr: Any) -> Any:
        """The number that the network embeds, a float tensor shaped as `log_snr`."""
        raise NotImplementedError

    def check(self, log_snr: Any) -> None:
        """Raises a `ValueError` if the network cannot be conditioned on a level."""

    def draw_times(self, shape: tuple, seed: Any = None) -> Any:
        """Random times to train at, float32 of `shape`, each uniform in [0, 1), those of a batch
        spread.

        `diffusion_times[i] = (start + i / batch) % 1` with a random start: every batch has all
        noise levels, so that its loss varies less than with independent times.

        Args:
            shape: Such as (batch, 1, 1, 1).
            seed: An integer, a `keras.random.SeedGenerator`, or None.

        Reference:
            [Kingma et al., 2021](https://arxiv.org/abs/2107.00630), appendix I.1
        """
        places = ops.arange(shape[0], dtype="float32") / ops.cast(shape[0], "float32")
        return ops.reshape((keras.random.uniform((), seed=seed) + places) % 1.0, shape)


@keras.saving.register_keras_serializable(PACKAGE)
class NoiseVariance(Conditioning):
    """`noise_variances = sigmoid(-log_snr)`, that is 1 − ᾱ.

    Example:

    >>> keras_ddim.conditioning.NoiseVariance()([-2.0, 0.0, 2.0])
    [0.8808, 0.5, 0.1192]
    """

    def __call__(self, log_snr: Any) -> Any:
        return ops.sigmoid(-as_float(log_snr))


@keras.saving.register_keras_serializable(PACKAGE)
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


@keras.saving.register_keras_serializable(PACKAGE)
class LogSNR(Conditioning):
    """`(max_log_snr - log_snr) / (max_log_snr - min_log_snr)`, clipped to [0, 1].

    All levels are resolved equally well, at both ends.

    Args:
        min_log_snr: The level that becomes 1, as do noisier ones. Defaults to -15.0.
        max_log_snr: The level that becomes 0, as do cleaner ones. Defaults to 15.0.

    Reference:
        [Kingma et al., 2021, Variational Diffusion Models](https://arxiv.org/abs/2107.00630)
    """

    def __init__(self, min_log_snr: float = -15.0, max_log_snr: float = 15.0) -> None:
        self.max_log_snr = check_number("max_log_snr", max_log_snr)
        self.min_log_snr = check_number("min_log_snr", min_log_snr, below=self.max_log_snr)

    def __call__(self, log_snr: Any) -> Any:
        spread = self.max_log_snr - self.min_log_snr
        return ops.clip((self.max_log_snr - as_float(log_snr)) / spread, 0, 1)


@keras.saving.register_keras_serializable(PACKAGE)
class Timestep(Conditioning):
    """`timesteps / num_timesteps`, of the timesteps 0..T − 1 that have the level in training.

    `timesteps = (T - 1) * schedule.diffusion_times(log_snr)`, the schedule being that of training:
    the timestep follows from the noise level alone, so that a model trained with timesteps can be
    sampled under any schedule within the range of its own.

    Args:
        schedule: The `keras_ddim.schedules.Schedule` of training, or its name.
        num_timesteps: T, at least 2, whatever that of `schedule` itself is. Defaults to 4000.
        rounded: Whether to round to the nearest timestep. Defaults to False: fractions stay, but
            for those closer to a timestep than float32 noise levels resolve, 5e-7 T.

    Example:

    >>> schedule = keras_ddim.schedules.LogSNRLinearSchedule(start_log_snr=8, end_log_snr=-8)
    >>> keras_ddim.conditioning.Timestep(schedule, num_timesteps=1001).timesteps([8.0, 0.0, -8.0])
    [0.0, 500.0, 1000.0]

    Reference:
        [Ho et al., 2020](https://arxiv.org/abs/2006.11239); for the remapping
        [Karras et al., 2022](https://arxiv.org/abs/2206.00364), table 1, c_noise of "VP"
    """

    def __init__(self, schedule: Any, num_timesteps: int = 4000, rounded: bool = False) -> None:
        if schedule is None:
            raise ValueError("`schedule` must be the training schedule. Received: schedule=None")
        self.schedule = schedules.get(schedule)
        self.num_timesteps: int = check_count("num_timesteps", num_timesteps, least=2)
        self.rounded = check_flag("rounded", rounded)

    def __call__(self, log_snr: Any) -> Any:
        return self.timesteps(log_snr) / self.num_timesteps

    def timesteps(self, log_snr: Any) -> Any:
        """The timesteps in 0..T − 1, as floats; levels beyond the ends give the nearest end."""
        times = ops.clip(self.schedule.diffusion_times(as_float(log_snr)), 0, 1)
        timesteps = times_to_timesteps(times, self.num_timesteps)
        nearest = ops.round(timesteps)
        if self.rounded:
            return nearest
        is_near = ops.abs(timesteps - nearest) < SNAP * self.num_timesteps
        return ops.where(is_near, nearest, timesteps)

    def check(self, log_snr: Any) -> None:
        """Raises a `ValueError` if a level is one that no timestep has, and says how far it is."""
        levels = np.asarray(ops.convert_to_numpy(log_snr), "float64").ravel()
        excess = self.schedule.excess(levels)
        worst = np.argmax(excess)
        if excess[worst] <= LEVEL_TOLERANCE:
            return
        start, end = self.schedule.ends
        if levels[worst] > start:
            side = "cleaner than timestep 0, the first of"
        else:
            side = f"noisier than timestep {self.num_timesteps - 1}, the last of"
        raise ValueError(
            "`log_snr` must be noise levels that the timesteps have under the training schedule, "
            f"{type(self.schedule).__name__}, from {end:.4g} to {start:.4g}. Received: "
            f"{levels[worst]:.4g}, by {excess[worst]:.3g} {side} {self.num_timesteps}"
        )

    def draw_times(self, shape: tuple, seed: Any = None) -> Any:
        """Random times to train at: those of integer timesteps, each uniform in 0..T − 1."""
        timesteps = ops.floor(super().draw_times(shape, seed) * self.num_timesteps)
        return timesteps_to_times(timesteps, self.num_timesteps)

    def get_config(self) -> dict:
        schedule = keras.saving.serialize_keras_object(self.schedule)
        return {**super().get_config(), "schedule": schedule}


CONDITIONINGS = {"log_snr": LogSNR, "noise_rate": NoiseRate, "noise_variance": NoiseVariance}


def get(identifier: Any) -> Conditioning:
    """The conditioning that `identifier` names: one of `CONDITIONINGS`, a serialized conditioning
    (dict), a `Conditioning`, or None for the default, `NoiseVariance()`.
    """
    return get_part("conditioning", identifier, Conditioning, CONDITIONINGS, NoiseVariance)
