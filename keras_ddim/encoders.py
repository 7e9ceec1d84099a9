"""Encoders: images to the features by which metrics compare them.

An encoder is anything that takes a batch of images, float32 (batch, height, width, channels) with
values in [0, 1], to features (batch, features): a Keras model, any callable, or one of these.
An argument that is not as described raises a `ValueError`.
"""

import functools
import os
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_ddim import checks, presets
from keras_ddim.files import check_suffix, write_whole
from keras_ddim.parts import PACKAGE

ENCODING_BATCH = 128

Encoder = Callable[[Any], Any]


class InceptionV3:
    """The 2,048 features that InceptionV3, trained on ImageNet, averages before its last layer.

    Images are made RGB (transparent ones laid on white), resized bilinearly to `image_size`, with
    antialiasing where that shrinks them, and scaled to [-1, 1].

    The numbers in the literature come from an earlier InceptionV3 (2015-12-05), trained and pooled
    differently and with other resizing: distances rank models alike, but must not be set beside
    published ones; those at 75 pixels, as in the Keras example, not even beside those at 299.

    Args:
        image_size: Side of the square that images are resized to, at least 75. Defaults to 299.
        weights: "imagenet", the default, which is downloaded once (88 MB), or the path of a file
            of `keras.applications.InceptionV3(include_top=False)`. Read when first used.

    Example:

    >>> InceptionV3(75)(np.zeros((10, 32, 32, 3))).shape
    (10, 2048)

    Reference:
        [Szegedy et al., 2015](https://arxiv.org/abs/1512.00567)
    """

    def __init__(self, image_size: int = 299, weights: str | os.PathLike = "imagenet") -> None:
        self.image_size = checks.check_count("image_size", image_size)
        if self.image_size < 75:
            raise ValueError(f"`image_size` must be at least 75. Received: image_size={image_size}")
        self.weights = os.fspath(weights)

    def __str__(self) -> str:
        return f"InceptionV3 at {self.image_size}x{self.image_size}"

    def __call__(self, images: Any) -> Any:
        images = ops.convert_to_tensor(images, "float32")
        if images.shape[-1] == 4:
            images = images[..., :3] * images[..., 3:] + (1 - images[..., 3:])
        elif images.shape[-1] == 1:
            images = ops.repeat(images, 3, axis=-1)
        size = (self.image_size, self.image_size)
        images = ops.image.resize(images, size, interpolation="bilinear", antialias=True)
        return self.network(2 * ops.clip(images, 0.0, 1.0) - 1, training=False)

    @functools.cached_property
    def network(self) -> Any:
        """The `keras.Model`, loaded when first used."""
        shape = (self.image_size, self.image_size, 3)
        options = {"include_top": False, "input_shape": shape, "pooling": "avg"}
        try:
            return keras.applications.InceptionV3(weights=self.weights, **options)
        except Exception as error:  # whatever a missing network or a foreign file may lead to
            reason = " ".join(str(error).split())[:200]
            raise ValueError(
                "`weights` must be 'imagenet', if that can be downloaded, or a file of the weights "
                "of `keras.applications.InceptionV3(include_top=False)`. Without them, use another "
                "encoder, such as `keras_ddim.encoders.train_classifier`. Received: "
                f"weights={self.weights!r} ({reason})"
            ) from error


@keras.saving.register_keras_serializable(PACKAGE)
class Classifier(keras.Model):
    """The 64 features that a small classifier computes before its last layer.

    Args:
        image_shape: (height, width, channels) of the images.
        accuracy: Part of held-out images that it classified correctly. Defaults to None: unknown.
        data: Name of the images that it was trained on. Defaults to None: unknown.
    """

    def __init__(
        self,
        image_shape: tuple[int, ...],
        accuracy: float | None = None,
        data: str | None = None,
    ) -> None:
        image_shape = checks.check_image_shape(image_shape)
        if accuracy is not None:
            accuracy = checks.check_number("accuracy", accuracy, 0, 1)
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

    def save(self, path: str | os.PathLike) -> None:
        """Writes the classifier to a ".keras" file, for `load_classifier`."""
        check_suffix(path, [".keras"])
        with write_whole(path) as temporary_path:
            super().save(temporary_path)


def train_classifier(
    images: Any,
    validation_images: Any = None,
    num_classes: int | None = None,
    *,
    seed: int | None = None,
    verbose: int = 1,
) -> Classifier:
    """Trains a small classifier, by whose features images like those it was trained on compare.

    It needs no download. Distances in its features are *not* the FID and KID of the literature, and
    compare only with others of the same classifier.

    Args:
        images: `tf.data.Dataset` of batches (images, labels), labels counted from 0; read once.
        validation_images: Another, to measure its accuracy. Defaults to None.
        num_classes: Number of classes. Defaults to None: as many as `images.class_names` names.
        seed: Integer that makes the initial weights reproducible. Defaults to None, a random one.
        verbose: 1 for a progress bar, the default, 0 for none.

    Example:

    ```python
    train_images, val_images = keras_ddim.load_images("fashion_mnist", 32, labels=True)
    encoder = keras_ddim.encoders.train_classifier(train_images, val_images)
    encoder.save("fashion.keras")
    ```
    """
    if not isinstance(getattr(images, "element_spec", None), tuple):
        raise ValueError(
            "`images` must be a `tf.data.Dataset` of batches (images, labels). "
            f"Received: images={checks.brief(images)}"
        )
    if num_classes is None:
        num_classes = len(getattr(images, "class_names", None) or ())
    num_classes = checks.check_count("num_classes", num_classes)
    encoder = Classifier(tuple(images.element_spec[0].shape[1:]))
    network = keras.Sequential([encoder, keras.layers.Dense(num_classes)])
    seed = checks.check_seed(seed)
    if seed is not None:
        for i, weight in enumerate(network.trainable_weights):
            if len(weight.shape) > 1:
                weight.assign(keras.initializers.GlorotUniform(seed + i)(weight.shape))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    network.compile("adam", loss, metrics=["accuracy"])
    network.fit(images, shuffle=False, verbose=verbose)
    if validation_images is not None:
        _, encoder.accuracy = network.evaluate(validation_images, verbose=0)
    return encoder


def load_classifier(path: str | os.PathLike) -> Classifier:
    """Reads what `Classifier.save` wrote, or raises a `ValueError`."""
    try:
        return presets.load(path, Classifier, compile=False)
    except ValueError as error:
        raise ValueError(
            "`path` must be a '.keras' file that `Classifier.save` wrote. "
            f"Received: path={checks.brief(path)} ({error})"
        ) from error


# The same object each time, so that several metrics share its network and features.
_inception_v3 = functools.cache(InceptionV3)


def get(identifier: Encoder | str | os.PathLike) -> Encoder:
    """The encoder that `identifier` names: "inception_v3", a ".keras" file, or any callable."""
    if callable(identifier) and not isinstance(identifier, type):
        return identifier
    if isinstance(identifier, str) and identifier == "inception_v3":
        return _inception_v3()
    if isinstance(identifier, (str, os.PathLike)) and str(identifier).endswith(".keras"):
        return load_classifier(identifier)
    raise ValueError(
        "`encoder` must be 'inception_v3', the path of a '.keras' file that `Classifier.save` "
        f"wrote, or a callable. Received: encoder={checks.brief(identifier)}"
    )


def encode(encoder: Encoder | str, images: Any, verbose: int = 0) -> np.ndarray:
    """Features of images, float64 NumPy array, few at a time so that memory stays bounded.

    Args:
        encoder: See `get`.
        images: Array or tensor (images, height, width, channels): floats in [0, 1] or integers in
            0..255.
        verbose: 1 for a progress bar, 0 for none. Defaults to 0.
    """
    encoder = get(encoder)
    images = checks.check_array("images", images)
    if images.ndim != 4 or not len(images):
        raise ValueError(
            "`images` must be at least one image, (images, height, width, channels). "
            f"Received: images of shape {images.shape}"
        )
    if isinstance(encoder, Classifier) and encoder.image_shape != images.shape[1:]:
        raise ValueError(
            f"`images` must be of the shape {encoder.image_shape} of the classifier's. "
            f"Received: images of shape {images.shape}"
        )
    checks.check_choice("verbose", verbose, (0, 1))
    bar = keras.utils.Progbar(len(images), unit_name="image", verbose=verbose)
    features = []
    for start in range(0, len(images), ENCODING_BATCH):
        batch = images[start : start + ENCODING_BATCH]
        batch = checks.check_image_batch("images", batch, images.shape[1:]).astype("float32")
        encoded = ops.convert_to_numpy(encoder(batch)).astype("float64")
        if encoded.ndim != 2 or len(encoded) != len(batch) or not np.isfinite(encoded).all():
            raise ValueError(
                "`encoder` must take images to finite features (images, features). Received: "
                f"encoder={encoder} with features of shape {encoded.shape} for {len(batch)} images"
            )
        features.append(encoded)
        bar.add(len(batch))
    return np.concatenate(features)
