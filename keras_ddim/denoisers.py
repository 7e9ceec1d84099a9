"""Denoisers: layers that separate noisy images, given their noise level, into noise and image.

Whatever changes *what is predicted* is a denoiser around another one: the sampler does not know of
it. Layers, because a layer's weights are arguments of a compiled function instead of constants in
it, and because a layer is tracked, saved and exported.
"""

from typing import Any

import keras
import numpy as np
from keras import ops

from keras_ddim import conditioning as conditionings
from keras_ddim.checks import check_array, check_choice
from keras_ddim.noise_levels import PREDICTION_TYPES, as_float, rates, separate
from keras_ddim.normalizer import Normalizer
from keras_ddim.parts import PACKAGE, arguments_of

CLIPPINGS = ("static", "dynamic")
# Saharia et al.: images are scaled down until this part of their pixels is within the range.
DYNAMIC_QUANTILE = 0.995


class Denoiser(keras.layers.Layer):
    """`denoiser(noisy_images, log_snr, labels=None) -> (pred_noises, pred_images)`.

    Subclasses implement `call`, and keep their constructor's arguments as attributes of the same
    names. Of the per-image inputs, which may be meant for a `Wrapper`, they ignore those that they
    don't know.

    Call arguments:
        noisy_images: Tensor (batch, height, width, channels), in the normalised space.
        log_snr: Their noise level, a scalar or (batch, 1, 1, 1); float32 or float64, which no
            dtype policy changes.
        labels: Integers (batch,), for networks that take them.

    Returns:
        `(pred_noises, pred_images)`, both as `noisy_images`, which they add up to at that level.

    Attributes:
        evaluations_per_call: Network evaluations that a call costs.
    """

    @property
    def evaluations_per_call(self) -> int:
        return 1

    def __init__(self, **kwargs: Any) -> None:
        # Noise levels have no digits to lose in a half-precision policy.
        super().__init__(autocast=False, **kwargs)
        self.built = True  # what a denoiser is made of exists before it is called

    def __call__(self, noisy_images: Any, log_snr: Any, **per_image: Any) -> tuple[Any, Any]:
        # Keras refuses plain numbers, which levels often are.
        return super().__call__(noisy_images, as_float(log_snr), **per_image)

    def call(self, noisy_images: Any, log_snr: Any, **per_image: Any) -> tuple[Any, Any]:
        raise NotImplementedError

    def get_config(self) -> dict:
        """The constructor's arguments, the attributes of their names."""
        return {"name": self.name, **keras.saving.serialize_keras_object(arguments_of(self))}

    @classmethod
    def from_config(cls, config: dict) -> Any:
        parts = {
            name: keras.saving.deserialize_keras_object(value)
            for name, value in config.items()
            if isinstance(value, dict)
        }
        return cls(**{**config, **parts})


class Wrapper(Denoiser):
    """A denoiser around another one, whose predictions it changes.

    Subclasses hand on the per-image inputs that they do not know.

    Args:
        denoiser: The `Denoiser`.
        **kwargs: Keyword arguments of `keras.layers.Layer`.
    """

    def __init__(self, denoiser: Denoiser, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.denoiser = denoiser

    @property
    def evaluations_per_call(self) -> int:
        return self.denoiser.evaluations_per_call


def predict(
    network: keras.Model,
    noisy_images: Any,
    log_snr: Any,
    labels: Any = None,
    *,
    conditioning: conditionings.Conditioning,
    prediction_type: str,
    preconditioning: Any,
    training: bool = False,
) -> Any:
    """What a network predicts, float32, as `noisy_images`; arguments as of `NetworkDenoiser`."""
    log_snr = ops.broadcast_to(as_float(log_snr), (ops.shape(noisy_images)[0], 1, 1, 1))
    seen, whitened = noisy_images, None
    if preconditioning is not None:
        seen, whitened = preconditioning.whiten(noisy_images, log_snr)
    inputs = [seen, conditioning(log_snr)] + ([] if labels is None else [labels])
    output = ops.cast(network(inputs, training=training), "float32")
    if preconditioning is None:
        return output
    return preconditioning.predict(output, whitened, log_snr, prediction_type)


@keras.saving.register_keras_serializable(PACKAGE)
class NetworkDenoiser(Denoiser):
    """Separates by what a network predicts: the noise, the image, or a velocity.

    Args:
        network: `keras.Model` that takes `[noisy_images, number]` to its prediction, the number
            being what `conditioning` makes of the noise level.
        conditioning: A `keras_ddim.conditioning.Conditioning` or a name. Defaults to None: the
            noise variance.
        prediction_type: What the network predicts: "noise", "image", "velocity" or "flow" (see
            `keras_ddim.noise_levels.separate`). Defaults to "noise".
        preconditioning: A `keras_ddim.preconditioning.SpectralPreconditioning`, between the
            network and what it predicts. Defaults to None.
        **kwargs: Keyword arguments of `keras.layers.Layer`.

    Raises:
        ValueError: If an argument is not as described.

    Example:

    ```python
    denoiser = NetworkDenoiser(network, prediction_type="velocity")
    pred_noises, pred_images = denoiser(noisy_images, log_snr=0.0)
    ```

    Reference:
        [Ho et al., 2020](https://arxiv.org/abs/2006.11239)
    """

    def __init__(
        self,
        network: keras.Model,
        conditioning: Any = None,
        prediction_type: str = "noise",
        preconditioning: Any = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.network = network
        self.preconditioning = preconditioning
        self.conditioning = conditionings.get(conditioning)
        self.prediction_type = check_choice("prediction_type", prediction_type, PREDICTION_TYPES)

    def call(  # type: ignore[override]
        self, noisy_images: Any, log_snr: Any, labels: Any = None, **per_image: Any
    ) -> tuple[Any, Any]:
        if labels is not None and len(self.network.inputs) < 3:
            labels = None
        prediction = predict(
            self.network,
            noisy_images,
            log_snr,
            labels,
            conditioning=self.conditioning,
            prediction_type=self.prediction_type,
            preconditioning=self.preconditioning,
        )
        return separate(noisy_images, prediction, *rates(log_snr), self.prediction_type)


@keras.saving.register_keras_serializable(PACKAGE)
class Clipped(Wrapper):
    """Predicted images within the pixel values [0, 1], and the noises that this leaves over.

    Args:
        denoiser: The `Denoiser` whose predictions are clipped.
        normalizer: The `keras_ddim.Normalizer` that leads from pixel values to the space of the
            denoiser.
        method: "static" clips; "dynamic" first scales each image towards grey until 99.5 % of its
            pixels are within. Defaults to "static".
        **kwargs: Keyword arguments of `keras.layers.Layer`.

    Raises:
        ValueError: If `method` is neither.

    Reference:
        [Saharia et al., 2022, Imagen](https://arxiv.org/abs/2205.11487), section 2.3
    """

    def __init__(
        self, denoiser: Denoiser, normalizer: Normalizer, method: str = "static", **kwargs: Any
    ) -> None:
        super().__init__(denoiser, **kwargs)
        self.normalizer = normalizer
        self.method = check_choice("method", method, CLIPPINGS)

    def call(self, noisy_images: Any, log_snr: Any, **per_image: Any) -> tuple[Any, Any]:
        _, pred_images = self.denoiser(noisy_images, log_snr, **per_image)
        pixels = self.normalizer.denormalize(pred_images)
        if self.method == "dynamic":
            magnitudes = ops.abs(2 * pixels - 1)
            extents = ops.quantile(magnitudes, DYNAMIC_QUANTILE, axis=(1, 2, 3), keepdims=True)
            pixels = (1 + (2 * pixels - 1) / ops.maximum(extents, 1.0)) / 2
        pred_images = self.normalizer(ops.clip(pixels, 0.0, 1.0))
        return separate(noisy_images, pred_images, *rates(log_snr), "image")


@keras.saving.register_keras_serializable(PACKAGE)
class GaussianDenoiser(Denoiser):
    """`pred_images = mean + α C (α² C + s² I)⁻¹ (noisy_images - α mean)`: exact for normal data.

    The best possible denoiser of images that are normally distributed with that mean and
    covariance; all that a sampler approximates is known for it, so that samplers can be tested,
    and compared, against the truth (`follow`).

    Args:
        mean: Mean of the images, an array of `image_shape`.
        covariance: Covariance of their values, flattened: a matrix (n, n), n being the product of
            `image_shape`; or an array (n,) of variances if the values are independent.
        **kwargs: Keyword arguments of `keras.layers.Layer`.

    Raises:
        ValueError: If `covariance` does not fit `mean`, or has a negative eigenvalue.

    Example:

    >>> denoiser = GaussianDenoiser(np.zeros((1, 1, 2)), covariance=[4.0, 1.0])
    >>> pred_noises, pred_images = denoiser(np.ones((1, 1, 1, 2), "float32"), log_snr=0.0)
    >>> pred_images
    [[[[1.1314, 0.7071]]]]
    """

    def __init__(self, mean: Any, covariance: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        # A list, as JSON has it; arrays of NumPy take on the dtype of the images.
        self.mean = check_array("mean", mean).astype("float64")
        self.covariance = check_array("covariance", covariance).astype("float64")
        if not (np.isfinite(self.mean).all() and np.isfinite(self.covariance).all()):
            raise ValueError("`mean` and `covariance` must be finite. Received: NaN or infinity")
        size = self.mean.size
        if self.covariance.shape not in ((size,), (size, size)):
            raise ValueError(
                f"`covariance` must be of shape {(size,)} or {(size, size)}, to fit `mean` of "
                f"shape {self.mean.shape}. Received: covariance of shape {self.covariance.shape}"
            )
        if self.covariance.ndim == 1:
            self.variances, self.axes = self.covariance, np.eye(size)
        else:
            self.variances, self.axes = np.linalg.eigh(self.covariance)
        if self.variances.min() < -1e-9 * abs(self.variances).max():
            raise ValueError(
                "`covariance` must have no negative eigenvalue. "
                f"Received: one of {self.variances.min():g}"
            )
        self.variances = np.maximum(self.variances, 0.0)

    def call(self, noisy_images: Any, log_snr: Any, **per_image: Any) -> tuple[Any, Any]:
        log_snr = ops.cast(log_snr, noisy_images.dtype)
        noise_rate, signal_rate = rates(log_snr)
        variances = ops.cast(self.variances, noisy_images.dtype)
        scores = self._to_axes(noisy_images, signal_rate) / self._variances_at(log_snr)
        pred_images = self._from_axes(signal_rate * variances * scores, noisy_images, 1.0)
        return self._from_axes(noise_rate * scores, noisy_images, 0.0), pred_images

    def follow(self, noisy_images: Any, log_snr: Any, next_log_snr: Any) -> Any:
        """The exact solution of the probability-flow equation from one noise level to another.

        Args:
            noisy_images: Tensor (batch, *image_shape) at the level `log_snr`.
            log_snr: Where to start, a scalar.
            next_log_snr: Where to end, a scalar.

        Returns:
            The noisy images at the level `next_log_snr`.
        """
        log_snr = ops.cast(log_snr, noisy_images.dtype)
        next_log_snr = ops.cast(next_log_snr, noisy_images.dtype)
        (_, signal_rate), (_, next_signal_rate) = rates(log_snr), rates(next_log_snr)
        scale = ops.sqrt(self._variances_at(next_log_snr) / self._variances_at(log_snr))
        deviations = self._to_axes(noisy_images, signal_rate)
        return self._from_axes(scale * deviations, noisy_images, next_signal_rate)

    def _variances_at(self, log_snr: Any) -> Any:
        noise_rate, signal_rate = rates(log_snr)
        return signal_rate**2 * ops.cast(self.variances, signal_rate.dtype) + noise_rate**2

    def _to_axes(self, noisy_images: Any, signal_rate: Any) -> Any:
        deviations = noisy_images - signal_rate * ops.cast(self.mean, noisy_images.dtype)
        flat = ops.reshape(deviations, (-1, self.mean.size))
        return ops.matmul(flat, ops.cast(self.axes, noisy_images.dtype))

    def _from_axes(self, values: Any, noisy_images: Any, signal_rate: Any) -> Any:
        flat = ops.matmul(values, ops.cast(self.axes.T, noisy_images.dtype))
        mean = signal_rate * ops.cast(self.mean, noisy_images.dtype)
        return mean + ops.reshape(flat, ops.shape(noisy_images))
