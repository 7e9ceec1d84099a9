"""Noise levels: their forms, and mixing and separating images and noises at a level.

Pure functions on tensors, for use inside compiled functions. A network may predict the image, the
noise, or a blend of both, a velocity. `separate` turns any prediction into both components, and
`loss_weights` turns any loss into another.
"""

import math
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_ddim.checks import check_choice, check_number

PREDICTION_TYPES = ("noise", "image", "velocity", "flow")
WEIGHTINGS = (None, "noise", "image", "velocity", "flow", "truncated_snr", "min_snr")

# Distance, in log-SNR, within which a level beyond an end of a schedule counts as that end.
LEVEL_TOLERANCE = 0.01
# The resolution of float32; a mixture has none of a component with a lower rate.
SMALLEST_RATE = 2.0**-23
# Beyond, float32 images have one component only, and loss weights stay constant.
LARGEST_LOG_SNR = 30.0
# Replaces infinity for samplers that need finite levels: one component is 1/400 of the other.
INFINITE_LOG_SNR = 12.0


def rates(log_snr: Any) -> tuple[Any, Any]:
    """`noise_rates = sqrt(sigmoid(-log_snr))`, `signal_rates = sqrt(sigmoid(log_snr))`.

    Args:
        log_snr: log(ᾱ / (1 − ᾱ)), a tensor or number, possibly infinite.

    Returns:
        `(noise_rates, signal_rates)`, shaped as `log_snr`; their squares sum to 1.
    """
    log_snr = ops.convert_to_tensor(log_snr)
    return ops.sqrt(ops.sigmoid(-log_snr)), ops.sqrt(ops.sigmoid(log_snr))


def finite(log_snr: Any) -> np.ndarray:
    """`log_snr` as a NumPy array with ±12 (`INFINITE_LOG_SNR`) for infinities."""
    return np.nan_to_num(log_snr, nan=np.nan, posinf=INFINITE_LOG_SNR, neginf=-INFINITE_LOG_SNR)


def as_float(values: Any) -> Any:
    """`values` as a tensor: float64 if they are, else float32."""
    if not isinstance(values, keras.KerasTensor):
        # Python's numbers would become float64 on some backends.
        values = ops.convert_to_tensor(values, None if hasattr(values, "dtype") else "float32")
    is_double = keras.backend.standardize_dtype(values.dtype) == "float64"
    return values if is_double else ops.cast(values, "float32")


def mix(images: Any, noises: Any, noise_rates: Any, signal_rates: Any) -> Any:
    """`noisy_images = signal_rates * images + noise_rates * noises`.

    Args:
        images: Normalised images (batch, height, width, channels).
        noises: Standard normal noise, as `images`.
        noise_rates, signal_rates: Tensors that broadcast to `images`, such as (batch, 1, 1, 1).
    """
    return signal_rates * images + noise_rates * noises


def separate(
    noisy_images: Any,
    prediction: Any,
    noise_rates: Any,
    signal_rates: Any,
    prediction_type: str = "noise",
) -> tuple[Any, Any]:
    """Undoes `mix`, given the network's prediction: `(pred_noises, pred_images)`.

    - "noise": `pred_images = (noisy_images - noise_rates * pred_noises) / signal_rates`
    - "image": `pred_noises = (noisy_images - signal_rates * pred_images) / noise_rates`
    - "velocity": `pred_images = signal_rates * noisy_images - noise_rates * velocities`,
      `pred_noises = noise_rates * noisy_images + signal_rates * velocities`
    - "flow": `pred_images = (noisy_images - noise_rates * velocities) / (signal_rates +
      noise_rates)`, `pred_noises = pred_images + velocities`

    "velocity" is EDM's preconditioning: for data of unit variance, such as normalised images, EDM's
    network predicts minus the velocity. "flow" is the velocity of rectified flow (see
    `keras_ddim.schedules.RectifiedFlowSchedule`).

    Components whose divisor is below 2⁻²³ become 0, their mean, as the mixture does not contain
    them.

    Args:
        noisy_images, noise_rates, signal_rates: As in `mix`.
        prediction: The network's output, shaped as `noisy_images`.
        prediction_type: Its meaning, one of the four above. Defaults to "noise".

    Reference:
        "velocity": [Salimans & Ho, 2022, Progressive
        Distillation](https://arxiv.org/abs/2202.00512), [Karras et al.,
        2022](https://arxiv.org/abs/2206.00364), eq. 7; "flow": [Liu et al., 2022, Flow Straight
        and Fast](https://arxiv.org/abs/2209.03003)
    """
    check_choice("prediction_type", prediction_type, PREDICTION_TYPES)
    if prediction_type == "noise":
        pred_images = _divide(noisy_images - noise_rates * prediction, signal_rates)
        return prediction, pred_images
    if prediction_type == "image":
        pred_noises = _divide(noisy_images - signal_rates * prediction, noise_rates)
        return pred_noises, prediction
    if prediction_type == "flow":
        pred_images = (noisy_images - noise_rates * prediction) / (signal_rates + noise_rates)
        return pred_images + prediction, pred_images
    pred_noises = noise_rates * noisy_images + signal_rates * prediction
    return pred_noises, signal_rates * noisy_images - noise_rates * prediction


def target(
    images: Any, noises: Any, noise_rates: Any, signal_rates: Any, prediction_type: str = "noise"
) -> Any:
    """The target of the prediction: `noises`, `images`, or a velocity.

    - "velocity": `signal_rates * noises - noise_rates * images`, the derivative of `noisy_images`
      by the angle whose cosine is the signal rate
    - "flow": `noises - images`, the derivative of `(1 - t) * images + t * noises` by t

    Arguments are those of `mix` and `separate`.
    """
    check_choice("prediction_type", prediction_type, PREDICTION_TYPES)
    if prediction_type == "noise":
        return noises
    if prediction_type == "image":
        return images
    if prediction_type == "flow":
        return noises - images
    return signal_rates * noises - noise_rates * images


def loss_weights(
    log_snr: Any, prediction_type: str = "noise", weighting: str | None = None, gamma: float = 5.0
) -> Any:
    """The factor that turns a squared error of the prediction into another squared error.

    It is `w(weighting) / w(prediction_type)`, where with `SNR = exp(log_snr)`

    - `w("image") = 1`
    - `w("noise") = SNR`
    - `w("velocity") = 1 + SNR`
    - `w("flow") = (1 + sqrt(SNR))²`
    - `w("truncated_snr") = max(SNR, 1)`: the larger of the image's and the noise's error
    - `w("min_snr") = min(SNR, gamma)`: the noise's error, limited at low noise

    Args:
        log_snr: Noise levels of any shape, clipped to ±30.
        prediction_type: As in `separate`.
        weighting: The loss to act as, one of the six above, or None for factors of 1.
        gamma: The limit of "min_snr", positive. Defaults to 5.0.

    Example:

    >>> loss_weights([-2.0, 0.0, 2.0], "noise", "image")
    [7.389, 1.0, 0.1353]

    Reference:
        "truncated_snr": [Salimans & Ho, 2022](https://arxiv.org/abs/2202.00512);
        "min_snr": [Hang et al., 2023](https://arxiv.org/abs/2303.09556)
    """
    check_choice("prediction_type", prediction_type, PREDICTION_TYPES)
    check_choice("weighting", weighting, WEIGHTINGS)
    gamma = check_number("gamma", gamma, above=0)
    log_snr = ops.clip(as_float(log_snr), -LARGEST_LOG_SNR, LARGEST_LOG_SNR)
    log_weights = {
        "image": ops.zeros_like(log_snr),
        "noise": log_snr,
        "velocity": ops.softplus(log_snr),
        "flow": 2 * ops.softplus(log_snr / 2),
        "truncated_snr": ops.maximum(log_snr, 0.0),
        "min_snr": ops.minimum(log_snr, math.log(gamma)),
    }
    return ops.exp(log_weights[weighting or prediction_type] - log_weights[prediction_type])


def _divide(values: Any, rates: Any) -> Any:
    """`values / rates`, and 0 where the rate is."""
    quotients = values / ops.maximum(rates, SMALLEST_RATE)
    return ops.where(ops.greater_equal(rates, SMALLEST_RATE), quotients, 0.0)
