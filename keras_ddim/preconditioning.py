"""Preconditioning: the part of a prediction that follows from the data's own Gaussian."""

from collections.abc import Iterable
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_ddim.checks import check_image_shape, require
from keras_ddim.noise_levels import rates, target
from keras_ddim.serialization import PACKAGE

# Pixels have a variance of 1: a coefficient with less than this is as good as constant.
SMALLEST_VARIANCE = 1e-5


@keras.saving.register_keras_serializable(PACKAGE)
class SpectralPreconditioning(keras.layers.Layer):
    """`prediction = E[target | noisy_images] + std[target | noisy_images] * network(seen)`.

    Expectation and standard deviation are those of normally distributed images with the mean and
    the spectrum of the data. The network learns only what the best linear denoiser leaves over, at
    unit variance whatever the noise level; while it still returns zeros, the model *is* the best
    linear denoiser. What it sees are two images: the noisy one, whitened, and what the best linear
    denoiser makes of it.

    The spectrum is the variance P of each coefficient of the images, less their mean µ, in an
    orthonormal basis B: the cosine transform along height and width, and the principal axes of the
    colours. Pictures are nearly uncorrelated there, and their coarse structure varies thousands of
    times more than fine detail. With signal rate α and noise rate σ the noisy images y have the
    variance V = α²P + σ², and for a target a·noises + b·images (the velocity: a = α, b = −σ),

        seen       = B⁻¹ [ B (y − αµ) / √V ],  B⁻¹ [ αP / V · B (y − αµ) ]
        prediction = bµ + B⁻¹ [ (aσ + bαP) / V · B (y − αµ) + (aα − bσ) √(P / V) · B network ].

    With one P for all coefficients it is the preconditioning of Karras et al. With µ = 0 and P = 1,
    as before `adapt`, it leaves the prediction of the velocity as it is.

    Args:
        image_shape: (height, width, channels).
        **kwargs: Keyword arguments of `keras.layers.Layer`.

    Attributes:
        mean: µ, (height, width, channels).
        images_seen: 2, the number of images that the network sees.
        variances: P, (channels, height, width): of the colour axes, from the one that varies least
            on, and of the frequencies, from 0 on.
        axes: The colour axes, as columns (channels, channels).

    Raises:
        ValueError: If `image_shape` is not three integers of at least 1.

    Example:

    >>> model = keras_ddim.DiffusionModel((32, 32, 3), preconditioning="spectral")
    >>> model.adapt(images)
    >>> keras.ops.shape(model.preconditioning.variances)  # of each frequency and colour
    (3, 32, 32)

    Reference:
        [Karras et al., 2022](https://arxiv.org/abs/2206.00364), section 5
    """

    images_seen = 2

    def __init__(self, image_shape: tuple[int, int, int], **kwargs: Any) -> None:
        super().__init__(**{**kwargs, "dtype": "float32", "autocast": False})
        self.image_shape = check_image_shape(image_shape)
        height, width, channels = self.image_shape
        self.rows, self.columns = _cosines(height), _cosines(width)
        self.mean = self._add_statistic("mean", self.image_shape, "zeros")
        self.variances = self._add_statistic("variances", (channels, height, width), "ones")
        self.axes = self._add_statistic("axes", (channels, channels), "identity")
        self.built = True

    def _add_statistic(self, name: str, shape: tuple, initializer: str) -> Any:
        # Read inside of models that compute in half precision, too.
        options = {"trainable": False, "autocast": False, "name": name}
        return self.add_weight(shape=shape, initializer=initializer, **options)

    def whiten(self, noisy_images: Any, log_snr: Any) -> tuple[Any, Any]:
        """What the network sees, (batch, height, width, 2 * channels), and B (y − αµ) / √V.

        Args:
            noisy_images: (batch, height, width, channels), in the normalised space.
            log_snr: Their noise level, (batch, 1, 1, 1).
        """
        _, signal_rates = rates(log_snr)
        deviations = self._deviations(log_snr)
        whitened = self._to_coefficients(noisy_images - signal_rates * self.mean) / deviations
        denoised = signal_rates * self.variances / deviations * whitened
        seen = [self._to_images(whitened), self._to_images(denoised)]
        return ops.concatenate(seen, axis=-1), whitened

    def predict(self, output: Any, whitened: Any, log_snr: Any, prediction_type: str) -> Any:
        """The prediction, (batch, height, width, channels).

        Args:
            output: What the network returned for what it saw.
            whitened: The second of what `whiten` returned.
            log_snr: As in `whiten`.
            prediction_type: One of `keras_ddim.noise_levels.PREDICTION_TYPES`.
        """
        noise_rates, signal_rates = levels = rates(log_snr)
        zero, one = ops.zeros_like(noise_rates), ops.ones_like(noise_rates)
        of_noises = target(zero, one, *levels, prediction_type)
        of_images = target(one, zero, *levels, prediction_type)
        deviations = self._deviations(log_snr)
        known = of_noises * noise_rates + of_images * signal_rates * self.variances
        left_over = (of_noises * signal_rates - of_images * noise_rates) * ops.sqrt(self.variances)
        known = known / deviations * whitened
        return of_images * self.mean + self._to_images(
            known + left_over / deviations * self._to_coefficients(output)
        )

    def _deviations(self, log_snr: Any) -> Any:
        """√V."""
        noise_rates, signal_rates = rates(log_snr)
        return ops.sqrt(signal_rates**2 * self.variances + noise_rates**2)

    def _to_coefficients(self, images: Any) -> Any:
        """Into the basis, (batch, channels, height, width)."""
        return _along(images, (3, ops.transpose(self.axes)), (1, self.rows), (1, self.columns))

    def _to_images(self, coefficients: Any) -> Any:
        return _along(coefficients, (2, self.rows.T), (2, self.columns.T), (1, self.axes))

    def adapt(self, batches: Iterable[Any]) -> None:
        """Sets mean, axes and variances to those of batches of normalised images, at least one."""
        height, width, channels = self.image_shape
        count, total = 0, np.zeros(self.image_shape)
        products = np.zeros((height, width, channels, channels))
        for batch in batches:
            images = ops.convert_to_numpy(batch).astype("float64")
            planes = np.moveaxis(images, 3, 1)
            coefficients = np.moveaxis(self.rows @ planes @ self.columns.T, 1, 3)
            products += np.einsum("nhwc,nhwd->hwcd", coefficients, coefficients)
            total += images.sum(axis=0)
            count += len(images)
        mean = total / count
        mean_coefficients = self.rows @ np.moveaxis(mean, 2, 0) @ self.columns.T
        mean_coefficients = np.moveaxis(mean_coefficients, 0, 2)
        covariances = products / count
        covariances -= mean_coefficients[..., None] * mean_coefficients[..., None, :]
        _, axes = np.linalg.eigh(covariances.sum(axis=(0, 1)))
        variances = np.einsum("ci,hwcd,di->ihw", axes, covariances, axes)
        self.mean.assign(mean)
        self.axes.assign(axes)
        self.variances.assign(np.maximum(variances, SMALLEST_VARIANCE))

    def get_config(self) -> dict:
        return {"name": self.name, "image_shape": list(self.image_shape)}


def _along(values: Any, *transforms: tuple[int, Any]) -> Any:
    """Each matrix along an axis, which becomes the last.

    As products of two matrices: of a batch and a matrix, `ops.matmul` before Keras 3.15 makes one
    that TensorFlow, with oneDNN and several threads, gets wrong or crashes in where channels are 1.
    """
    for axis, matrix in transforms:
        values = ops.tensordot(values, matrix, axes=[[axis], [1]])
    return values


def _cosines(size: int) -> np.ndarray:
    """The orthonormal cosine transform (DCT-II) of a vector of that size, as a matrix."""
    frequencies, places = np.arange(size)[:, None], np.arange(size)[None]
    matrix = np.sqrt(2 / size) * np.cos(np.pi * (places + 0.5) * frequencies / size)
    matrix[0] /= np.sqrt(2)
    return matrix.astype("float32")


def get(identifier: Any, image_shape: tuple[int, int, int]) -> SpectralPreconditioning | None:
    """The preconditioning for None, "spectral", a configuration (dict) or itself a layer."""
    if isinstance(identifier, dict):
        identifier = keras.saving.deserialize_keras_object(identifier)
    if identifier is None:
        return None
    if isinstance(identifier, str) and identifier == "spectral":
        return SpectralPreconditioning(image_shape)
    is_layer = isinstance(identifier, SpectralPreconditioning)
    is_fitting = is_layer and identifier.image_shape == image_shape
    allowed = f'None, "spectral" or a `SpectralPreconditioning({image_shape})`'
    require(is_fitting, "preconditioning", allowed, identifier)
    return identifier
