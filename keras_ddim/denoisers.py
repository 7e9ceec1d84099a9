"""Denoisers separate noisy images, given their noise level, into noise and image.

Guidance, clipping and known pixels are denoisers around another one, so samplers need not know
them.
"""

import dataclasses
from typing import Any

import keras
from keras import ops

from keras_ddim import conditioning as conditionings
from keras_ddim.checks import check_choice
from keras_ddim.networks import takes_next_level
from keras_ddim.noise_levels import PREDICTION_TYPES, as_float, rates, separate
from keras_ddim.normalizer import Normalizer

CLIPPINGS = ("static", "dynamic")
# Saharia et al. scale images down until this fraction of their pixels is within the range.
DYNAMIC_QUANTILE = 0.995


def predict(
    network: keras.Model,
    noisy_images: Any,
    log_snr: Any,
    labels: Any = None,
    next_log_snr: Any = None,
    *,
    conditioning: conditionings.Conditioning,
    preconditioning: Any = None,
    prediction_type: str,
    training: bool = False,
) -> Any:
    """A network's prediction, float32, as `noisy_images`; arguments as of `NetworkDenoiser`."""
    shape = ops.shape(noisy_images)[0], 1, 1, 1
    log_snr = ops.broadcast_to(as_float(log_snr), shape)
    seen, whitened = noisy_images, None
    if preconditioning is not None:
        seen, whitened = preconditioning.whiten(noisy_images, log_snr)
    inputs = [seen, conditioning(log_snr)]
    if takes_next_level(network):
        following = log_snr if next_log_snr is None else as_float(next_log_snr)
        inputs.append(conditioning(ops.broadcast_to(following, shape)))
    inputs += [] if labels is None else [labels]
    output = ops.cast(network(inputs, training=training), "float32")
    if preconditioning is None:
        return output
    return preconditioning.predict(output, whitened, log_snr, prediction_type)


@dataclasses.dataclass(frozen=True)
class Denoiser:
    """`denoiser(noisy_images, log_snr, **per_image) -> (pred_noises, pred_images)`.

    Subclasses are frozen dataclasses that implement `__call__`. They pass on or ignore unknown
    inputs per image.

    Call arguments:
        noisy_images: Tensor (batch, height, width, channels), in the normalised space.
        log_snr: Their noise level, a scalar or (batch, 1, 1, 1), float32 or float64.
        **per_image: Further inputs whose first dimension is the batch, such as `labels`.

    Returns:
        `(pred_noises, pred_images)`, which mix to `noisy_images` at that level.
    """

    @property
    def evaluations_per_call(self) -> int:
        """Number of network evaluations of a call."""
        return 1

    def __call__(
        self, noisy_images: Any, log_snr: Any, *args: Any, **per_image: Any
    ) -> tuple[Any, Any]:
        raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class Wrapper(Denoiser):
    """A denoiser around another one, whose predictions it changes."""

    denoiser: Denoiser

    @property
    def evaluations_per_call(self) -> int:
        return self.denoiser.evaluations_per_call


@dataclasses.dataclass(frozen=True)
class NetworkDenoiser(Denoiser):
    """Separates images by a network's prediction: the noise, the image, or a velocity.

    Args:
        network: `keras.Model` that takes `[noisy_images, number]`, or `[noisy_images, number,
            labels]`, to its prediction; `conditioning` makes the number from the noise level.
            A second number after the first is made from the level that a step goes to.
        conditioning: A `keras_ddim.conditioning.Conditioning` or its name. Defaults to None: the
            noise variance.
        prediction_type: "noise", "image", "velocity" or "flow" (see
            `keras_ddim.noise_levels.separate`). Defaults to "noise".
        preconditioning: A `keras_ddim.preconditioning.SpectralPreconditioning` around the network.
            Defaults to None.

    Call arguments:
        labels: (batch,), for a network that takes them.
        next_log_snr: The level that a step goes to, as `log_snr`, for a network that takes it.
            Defaults to None: the present one.

    Example:

    ```python
    denoiser = NetworkDenoiser(network, prediction_type="velocity")
    pred_noises, pred_images = denoiser(noisy_images, log_snr=0.0)
    ```

    Reference:
        [Ho et al., 2020](https://arxiv.org/abs/2006.11239)
    """

    network: keras.Model
    conditioning: Any = None
    prediction_type: str = "noise"
    preconditioning: Any = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "conditioning", conditionings.get(self.conditioning))
        check_choice("prediction_type", self.prediction_type, PREDICTION_TYPES)

    def __call__(
        self,
        noisy_images: Any,
        log_snr: Any,
        labels: Any = None,
        next_log_snr: Any = None,
        **per_image: Any,
    ) -> tuple[Any, Any]:
        noisy_images = ops.convert_to_tensor(noisy_images)  # Keras mixes no arrays with tensors
        takes_labels = labels is not None and len(self.network.inputs[-1].shape) < 4
        prediction = predict(
            self.network,
            noisy_images,
            log_snr,
            ops.convert_to_tensor(labels) if takes_labels else None,
            next_log_snr,
            conditioning=self.conditioning,
            preconditioning=self.preconditioning,
            prediction_type=self.prediction_type,
        )
        return separate(noisy_images, prediction, *rates(as_float(log_snr)), self.prediction_type)


@dataclasses.dataclass(frozen=True)
class Clipped(Wrapper):
    """Clips predicted images to the pixel values [0, 1]; the predicted noises follow.

    Args:
        denoiser: The `Denoiser` whose predictions are clipped.
        normalizer: The `keras_ddim.Normalizer` from pixel values to the denoiser's space.
        method: "static" clips; "dynamic" first scales each image towards grey until 99.5 % of its
            pixels are in range. Defaults to "static".

    Reference:
        [Saharia et al., 2022, Imagen](https://arxiv.org/abs/2205.11487), section 2.3
    """

    normalizer: Normalizer
    method: str = "static"

    def __post_init__(self) -> None:
        check_choice("method", self.method, CLIPPINGS)

    def __call__(self, noisy_images: Any, log_snr: Any, **per_image: Any) -> tuple[Any, Any]:
        _, pred_images = self.denoiser(noisy_images, log_snr, **per_image)
        pixels = self.normalizer.denormalize(pred_images)
        if self.method == "dynamic":
            magnitudes = ops.abs(2 * pixels - 1)
            extents = ops.quantile(magnitudes, DYNAMIC_QUANTILE, axis=(1, 2, 3), keepdims=True)
            pixels = (1 + (2 * pixels - 1) / ops.maximum(extents, 1.0)) / 2
        pred_images = self.normalizer(ops.clip(pixels, 0.0, 1.0))
        noisy_images = ops.convert_to_tensor(noisy_images)  # torch mixes no arrays with tensors
        return separate(noisy_images, pred_images, *rates(log_snr), "image")
