"""Encoders: from images to the features by which metrics compare them.

An encoder is a callable, such as a Keras model. It takes images, float32 (batch, height, width,
channels) in [0, 1], and returns features (batch, features).
"""

import functools
import os
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_ddim import checks, presets
from keras_ddim.progress import Progress
from keras_ddim.serialization import PACKAGE

ENCODING_BATCH = 128

Encoder = Callable[[Any], Any]


class InceptionV3:
    """The 2,048 pooled features before the last layer of InceptionV3, trained on ImageNet.

    Images become RGB, transparent ones composited onto white. They are resized bilinearly, with
    antialiasing, and scaled to [-1, 1].

    Published numbers use an earlier InceptionV3 (2015-12-05), with other training, pooling and
    resizing. Distances in these features rank models alike, but compare neither with published
    numbers nor between image sizes (the Keras example uses 75 pixels).

    Args:
        image_size: Side of the square that images are resized to, at least 75. Defaults to 299.
        weights: "imagenet", the default, downloaded at the first use (88 MB), or the path of a
            weights file of `keras.applications.InceptionV3(include_top=False)`.

    Example:

    >>> InceptionV3(75)(np.zeros((10, 32, 32, 3))).shape
    (10, 2048)

    Reference:
        [Szegedy et al., 2015](https://arxiv.org/abs/1512.00567)
    """

    def __init__(self, image_size: int = 299, weights: str | os.PathLike = "imagenet") -> None:
        self.image_size = checks.check_count("image_size", image_size, least=75)
        self.weights = os.fspath(weights)

    def __str__(self) -> str:
        return f"InceptionV3 at {self.image_size}x{self.image_size}"

    def __call__(self, images: Any) -> Any:
        images = ops.convert_to_tensor(images, "float32")
        if images.shape[-1] == 4:
            images = images[..., :3] * images[..., 3:] + (1 - images[..., 3:])
        elif images.shape[-1] == 1:
            images = ops.repeat(images, 3, axis=-1)
        size = self.image_size, self.image_size
        images = ops.image.resize(images, size, antialias=True)
        return self.network(2 * ops.clip(images, 0.0, 1.0) - 1, training=False)

    @functools.cached_property
    def network(self) -> Any:
        """The `keras.Model`, loaded when first used."""
        shape = (self.image_size, self.image_size, 3)
        options = {"include_top": False, "input_shape": shape, "pooling": "avg"}
        try:
            return keras.applications.InceptionV3(weights=self.weights, **options)
        except Exception as error:  # foreign files and missing networks raise errors of all kinds
            raise ValueError(
                "`weights` must be 'imagenet', if that can be downloaded, or a file of the weights "
                "of `keras.applications.InceptionV3(include_top=False)` (without either, use "
                f"`train_classifier`), got {self.weights!r} ({checks.brief(error)})"
            ) from error


@keras.saving.register_keras_serializable(PACKAGE)
class Classifier(keras.Model):
    """The 64 features before the last layer of a small classifier.

    Args:
        image_shape: (height, width, channels) of the images.
        accuracy: Fraction of held-out images classified correctly. Defaults to None: unknown.
        data: Name of the training images. Defaults to None: unknown.
    """

    def __init__(
        self,
        image_shape: tuple[int, ...],
        accuracy: float | None = None,
        data: str | None = None,
    ) -> None:
        image_shape = checks.check_image_shape(image_shape)
        x = images = keras.Input(image_shape)
        for filters in (32, 64):
            x = keras.layers.Conv2D(filters, 3, padding="same", activation="relu")(x)
            x = keras.layers.MaxPooling2D(padding="same")(x)
        x = keras.layers.Flatten()(x)
        super().__init__(images, keras.layers.Dense(64, activation="relu")(x))
        self.image_shape, self.accuracy, self.data = image_shape, accuracy, data

    def __str__(self) -> str:
        accuracy = "" if self.accuracy is None else f", accuracy {self.accuracy:.1%}"
        return f"a small classifier of {self.data or 'these data'}{accuracy}"

    def get_config(self) -> dict[str, Any]:
        return {"image_shape": self.image_shape, "accuracy": self.accuracy, "data": self.data}


def train_classifier(
    images: Any,
    validation_images: Any = None,
    num_classes: int | None = None,
    *,
    seed: int | None = None,
    verbose: int = 1,
) -> Classifier:
    """Trains a small classifier, an encoder for images like its training images.

    It needs no download. Distances in its features compare with each other only; they are *not* the
    FID and KID of the literature.

    Args:
        images: `tf.data.Dataset` of batches (images, labels), labels counted from 0; read once.
        validation_images: A `tf.data.Dataset` to measure the accuracy. Defaults to None.
        num_classes: Number of classes. Defaults to None: that of `images.class_names`.
        seed: Integer that makes the initial weights reproducible. Defaults to None.
        verbose: 1 for a progress bar, the default, 0 for none.

    Example:

    ```python
    train_images, val_images = keras_ddim.load_images("fashion_mnist", 32, labels=True)
    encoder = keras_ddim.encoders.train_classifier(train_images, val_images)
    encoder.save("fashion.keras")
    ```
    """
    is_labelled = isinstance(getattr(images, "element_spec", None), tuple)
    allowed = "a `tf.data.Dataset` of batches (images, labels)"
    checks.require(is_labelled, "images", allowed, images)
    num_classes = num_classes or len(getattr(images, "class_names", None) or ())
    num_classes = checks.check_count("num_classes", num_classes)
    encoder = Classifier(tuple(images.element_spec[0].shape[1:]))
    network = keras.Sequential([encoder, keras.layers.Dense(num_classes)])
    seed = checks.check_seed(seed)
    if seed is not None:
        for i, weight in enumerate(network.trainable_weights[::2]):  # kernels; biases start at 0
            weight.assign(keras.initializers.GlorotUniform(seed + 2 * i)(weight.shape))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    network.compile("adam", loss, metrics=["accuracy"])
    network.fit(images, shuffle=False, verbose=verbose)
    if validation_images is not None:
        _, encoder.accuracy = network.evaluate(validation_images, verbose=0)
    return encoder


def load_classifier(path: str | os.PathLike) -> Classifier:
    """Loads a saved `Classifier`, or raises a `ValueError`."""
    return presets.load(path, Classifier, compile=False, name="path")


# One instance, so that several metrics share its network and features.
_inception_v3 = functools.cache(InceptionV3)


def get(identifier: Encoder | str | os.PathLike) -> Encoder:
    """The encoder that `identifier` names: "inception_v3", a ".keras" file, or any callable."""
    if callable(identifier) and not isinstance(identifier, type):
        return identifier
    if str(identifier) == "inception_v3":
        return _inception_v3()
    allowed = "'inception_v3', the '.keras' file of a `Classifier`, or a callable"
    checks.require(str(identifier).endswith(".keras"), "encoder", allowed, identifier)
    return load_classifier(str(identifier))


def encode(encoder: Encoder | str, images: Any, verbose: int | str = 0) -> np.ndarray:
    """Features of images, a float64 NumPy array (images, features), computed in batches.

    Args:
        encoder: As in `get`.
        images: Array or tensor (images, height, width, channels): floats in [0, 1] or integers in
            0..255.
        verbose: 1 for a progress bar, 0 for none, "auto" for one after 2 seconds. Defaults to 0.
    """
    encoder = get(encoder)
    images = checks.check_array("images", images)
    allowed = "at least one image, of shape (images, height, width, channels)"
    checks.require(images.ndim == 4 and len(images), "images", allowed, images)
    image_shape = getattr(encoder, "image_shape", images.shape[1:])
    progress = Progress(len(images), "image", verbose)
    features = []
    for start in range(0, len(images), ENCODING_BATCH):
        batch = images[start : start + ENCODING_BATCH]
        batch = checks.check_image_batch("images", batch, image_shape)
        encoded = ops.convert_to_numpy(encoder(batch)).astype("float64")
        is_valid = encoded.shape[:1] == batch.shape[:1] and encoded.ndim == 2
        allowed = f"a function of {len(batch)} images to finite features ({len(batch)}, features)"
        checks.require(is_valid and np.isfinite(encoded).all(), "encoder", allowed, encoder)
        features.append(encoded)
        progress.advance(len(batch))
    return np.concatenate(features)
