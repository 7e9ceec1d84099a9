"""The normalizer: pixel values to the space of zero mean and unit variance, and back."""

from collections.abc import Iterable
from typing import Any

import keras
import numpy as np

from keras_ddim.checks import brief, check_array, check_count
from keras_ddim.parts import PACKAGE


@keras.saving.register_keras_serializable(PACKAGE)
class Normalizer(keras.layers.Layer):
    """`normalised = (images - mean) / deviation`, channel by channel.

    Mean and standard deviation are plain weights: what assigns weights (`set_weights`, loading,
    `tf.distribute`) leaves no function that was compiled before with the old ones. A channel that
    is constant has a deviation of Keras's epsilon, 1e-7.

    Example:

    >>> normalizer = keras_ddim.Normalizer(channels=3)
    >>> normalizer.adapt([images])
    >>> normalised_images = normalizer(images)
    """

    def __init__(self, channels: int, **kwargs: Any) -> None:
        super().__init__(**{**kwargs, "dtype": "float32", "autocast": False})
        self.channels = check_count("channels", channels, most=10_000)
        self.mean = self._add_moment("mean", "zeros")
        self.deviation = self._add_moment("deviation", "ones")
        self.num_images = self.add_weight(
            shape=(), initializer="zeros", trainable=False, name="num_images"
        )
        self.built = True

    def _add_moment(self, name: str, initializer: str) -> Any:
        return self.add_weight(
            shape=(self.channels,), initializer=initializer, trainable=False, name=name
        )

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
        """Sets mean and deviation to those of all images, of arrays (batch, height, width,
        channels).
        """
        if not hasattr(batches, "__iter__") or getattr(batches, "shape", None) == ():
            raise ValueError(f"`batches` must be iterable. Received: batches={brief(batches)}")
        count, mean, scatter = 0, np.zeros(self.channels), np.zeros(self.channels)
        num_images = 0
        for batch in batches:
            # Squares are those of differences from the batch's mean: in those of the values
            # themselves, the digits of a small variance are lost.
            batch = check_array("batches", batch, "arrays of images")
            if batch.ndim < 2 or batch.shape[-1] != self.channels or not np.isfinite(batch).all():
                raise ValueError(
                    f"`batches` must be finite, of {self.channels} channels. "
                    f"Received: batches with {brief(batch)}"
                )
            pixels = batch.astype("float64").reshape(-1, self.channels)
            batch_mean = pixels.mean(axis=0)
            change, total = batch_mean - mean, count + len(pixels)
            scatter += ((pixels - batch_mean) ** 2).sum(axis=0)
            scatter += change**2 * count * len(pixels) / total
            mean += change * len(pixels) / total
            count, num_images = total, num_images + len(batch)
        if not num_images:
            raise ValueError("`batches` must hold at least one image. Received none.")
        deviation = np.maximum(np.sqrt(scatter / count), keras.backend.epsilon())
        self.mean.assign(mean.astype("float32"))
        self.deviation.assign(deviation.astype("float32"))
        self.num_images.assign(num_images)

    def get_config(self) -> dict:
        return {"name": self.name, "channels": self.channels}
