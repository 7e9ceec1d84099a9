"""Schedules: which noise level belongs to which diffusion time, and back.

A schedule is bookkeeping around the network, never part of it: the network is told a noise level,
so any schedule can be put in front of a trained model. The noise level travels through the package
as its log signal-to-noise ratio, the one form that keeps float32 precision at both ends.
"""

import math

import keras
from keras import ops

PACKAGE = "keras_ddim"


def rates(log_snr):
    """`noise_rates = sqrt(sigmoid(-log_snr))`, `signal_rates = sqrt(sigmoid(log_snr))`.

    Args:
        log_snr: log(ᾱ / (1 − ᾱ)), a tensor or number; infinities are the noiseless and the
            signalless limit.

    Returns:
        `(noise_rates, signal_rates)`, shaped as `log_snr`; their squares sum to 1.

    Reference:
        [Kingma et al., 2021, Variational Diffusion Models](https://arxiv.org/abs/2107.00630)
    """
    log_snr = ops.convert_to_tensor(log_snr)
    return ops.sqrt(ops.sigmoid(-log_snr)), ops.sqrt(ops.sigmoid(log_snr))


class Schedule:
    """One strictly decreasing function, diffusion time -> log-SNR, and its inverse.

    Subclasses implement `log_snr` and `diffusion_times`, and `get_config` if their constructor
    takes arguments; registered with `keras.saving.register_keras_serializable` they are saved
    inside the models that use them.
    """

    def log_snr(self, diffusion_times):
        """log(ᾱ / (1 − ᾱ)) at the given times in [0, 1] (0 is data, 1 is noise)."""
        raise NotImplementedError

    def diffusion_times(self, log_snr):
        """The times at which `log_snr` is reached: the inverse of `log_snr`."""
        raise NotImplementedError

    def rates(self, diffusion_times):
        """`(noise_rates, signal_rates)` at the given times, shaped as they are."""
        return rates(self.log_snr(diffusion_times))

    def get_config(self):
        return {}

    @classmethod
    def from_config(cls, config):
        return cls(**config)


@keras.saving.register_keras_serializable(PACKAGE)
class CosineSchedule(Schedule):
    """`signal_rates = cos(angle)`, `noise_rates = sin(angle)`, the angle linear in time.

    The angle runs from `acos(max_signal_rate)` at time 0 to `acos(min_signal_rate)` at time 1:
    the rates walk along the unit circle at constant speed.

    Args:
        min_signal_rate: Signal rate at time 1, in (0, 1). Defaults to 0.02.
        max_signal_rate: Signal rate at time 0, above `min_signal_rate` and below 1. Defaults to
            0.95.

    Raises:
        ValueError: If not `0 < min_signal_rate < max_signal_rate < 1`.

    Example:

    >>> noise_rates, signal_rates = keras_ddim.CosineSchedule().rates([0.0, 1.0])
    >>> signal_rates
    [0.95, 0.02]

    Reference:
        [Nichol & Dhariwal, 2021](https://arxiv.org/abs/2102.09672), in the simplified form of the
        Keras DDIM example.
    """

    def __init__(self, min_signal_rate=0.02, max_signal_rate=0.95):
        if not 0 < min_signal_rate < max_signal_rate < 1:
            raise ValueError(
                "`min_signal_rate` and `max_signal_rate` must satisfy 0 < min_signal_rate < "
                f"max_signal_rate < 1. Received: min_signal_rate={min_signal_rate}, "
                f"max_signal_rate={max_signal_rate}"
            )
        self.min_signal_rate = min_signal_rate
        self.max_signal_rate = max_signal_rate
        self.start_angle = math.acos(max_signal_rate)
        self.end_angle = math.acos(min_signal_rate)

    def log_snr(self, diffusion_times):
        times = as_float(diffusion_times)
        angles = (1 - times) * self.start_angle + times * self.end_angle
        # The cosine near π/2 has lost its digits; the sine of the complement has all of them.
        complements = (1 - times) * (math.pi / 2 - self.start_angle) + times * (
            math.pi / 2 - self.end_angle
        )
        return 2 * (ops.log(ops.sin(complements)) - ops.log(ops.sin(angles)))

    def diffusion_times(self, log_snr):
        angles = ops.arctan(ops.exp(-as_float(log_snr) / 2))
        return (angles - self.start_angle) / (self.end_angle - self.start_angle)

    def get_config(self):
        return {
            "min_signal_rate": self.min_signal_rate,
            "max_signal_rate": self.max_signal_rate,
        }


def as_float(values):
    """A floating-point tensor of `values`: float32, or their own precision if that is higher."""
    values = ops.convert_to_tensor(values)
    if keras.backend.standardize_dtype(values.dtype) == "float64":
        return values
    return ops.cast(values, "float32")


SCHEDULES = {"cosine": CosineSchedule}


def get(identifier):
    """The schedule that `identifier` names: a name, a config, a `Schedule` or None (the default).

    Args:
        identifier: `None` (`CosineSchedule()`), one of the names in `SCHEDULES`, a serialized
            schedule (dict) or a `Schedule`.

    Raises:
        ValueError: If it is none of these.
    """
    if identifier is None:
        return CosineSchedule()
    if isinstance(identifier, dict):
        identifier = keras.saving.deserialize_keras_object(identifier)
    if isinstance(identifier, str) and identifier in SCHEDULES:
        return SCHEDULES[identifier]()
    if isinstance(identifier, Schedule):
        return identifier
    raise ValueError(
        f"`schedule` must be a `keras_ddim.schedules.Schedule` or one of {sorted(SCHEDULES)}. "
        f"Received: schedule={identifier!r}"
    )
