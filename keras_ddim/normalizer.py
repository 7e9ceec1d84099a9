"""The normalizer: from pixel values to zero mean and unit variance, and back."""

from collections.abc import Iterable
from typing import Any

import keras
import numpy as np

from keras_ddim.checks import check_array, check_count, require
from keras_ddim.serialization import PACKAGE

# One grey level; a channel that is constant in training would blow up the slightest change.
SMALLEST_DEVIATION = 1 / 255


@keras.saving.register_keras_serializable(PACKAGE)
class Normalizer(keras.layers.Layer):
    """`normalised = (images - mean) / deviation`, channel by channel.

    Mean and standard deviation are weights, so compiled functions see later changes. The deviation
    is at least one grey level, 1/255.

    Example:

    >>> normalizer = keras_ddim.Normalizer(channels=3)
    >>> normalizer.adapt([images])
    >>> normalised_images = normalizer(images)
    """

    def __init__(self, channels: int, **kwargs: Any) -> None:
        super().__init__(**{**kwargs, "dtype": "float32", "autocast": False})
        self.channels = check_count("channels", channels)
        self.mean = self.add_weight((channels,), "zeros", trainable=False, name="mean")
        self.deviation = self.add_weight((channels,), "ones", trainable=False, name="deviation")
        self.num_images = self.add_weight((), "zeros", trainable=False, name="num_images")
        self.built = True

    @property
    def is_adapted(self) -> bool:
        """Whether mean and deviation are those of images."""
        return bool(self.num_images.numpy() > 0)

    def call(self, images: Any) -> Any:
        """Pixel values to the normalised space, float32."""
        return (images - self.mean) / self.deviation

    def denormalize(self, images: Any) -> Any:
        """From the normalised space back to pixel values, not clipped."""
        return self.mean + self.deviation * images

    def adapt(self, batches: Iterable[np.ndarray]) -> None:
        """Sets mean and deviation to those of batches of floats, channels last."""
        num_images, count = 0, 0
        mean, scatter = np.zeros(self.channels), np.zeros(self.channels)
        for batch in batches:
            images = check_array("batches", batch, "arrays of images")
            is_fitting = images.ndim > 1 and images.shape[-1] == self.channels
            allowed = f"finite images of {self.channels} channels"
            require(is_fitting and np.isfinite(images).all(), "batches", allowed, images)
            pixels = images.astype("float64").reshape(-1, self.channels)
            # Squares of differences from the mean, since squares of values lose small variances.
            batch_mean = pixels.mean(axis=0)
            change, total = batch_mean - mean, count + len(pixels)
            scatter += ((pixels - batch_mean) ** 2).sum(axis=0)
            scatter += change**2 * count * len(pixels) / total
            mean += change * len(pixels) / total
            count, num_images = total, num_images + len(images)
        require(num_images, "batches", "at least one image", num_images)
        deviation = np.maximum(np.sqrt(scatter / count), SMALLEST_DEVIATION)
        self.mean.assign(mean.astype("float32"))
        self.deviation.assign(deviation.astype("float32"))
        self.num_images.assign(num_images)

    def get_config(self) -> dict:
        return {"name": self.name, "channels": self.channels}
