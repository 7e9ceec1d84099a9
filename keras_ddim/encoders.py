"""Encoders: images to the features by which metrics compare them.

An encoder is anything that takes a batch of images, float32 (batch, height, width, channels) with
values in [0, 1], to features (batch, features): a Keras model, any callable, or one of these.
"""

import os
import pathlib
import zlib

import keras
import numpy as np
from keras import ops

from keras_ddim import checks
from keras_ddim.files import write_whole
from keras_ddim.parts import PACKAGE, Part, get_part

ENCODING_BATCH = 128
CLASSIFIER_FEATURES = 64


@keras.saving.register_keras_serializable(PACKAGE)
class InceptionV3(Part):
    """The 2,048 features that InceptionV3, trained on ImageNet, averages before its last layer.

    Images are made RGB (transparent ones laid on white), resized bilinearly to `image_size`, with
    antialiasing where that shrinks them, and scaled to [-1, 1].

    These are the weights of `keras.applications`. The numbers in the literature come from an
    earlier InceptionV3 (2015-12-05, in TensorFlow 1), trained differently, with a maximum instead
    of an average in the pooling branch of its last block and with other resizing. So distances
    are comparable in spirit, and rank models alike, but must not be set beside published ones;
    those at 75 pixels, as in the Keras example, not even beside those at 299.

    Args:
        image_size: Side of the square that images are resized to, at least 75. Defaults to 299.
        weights: "imagenet", which is downloaded once (88 MB), or the path of a file with the
            weights of `keras.applications.InceptionV3(include_top=False)`. Defaults to
            "imagenet".

    Raises:
        ValueError: If an argument is not as described, or the weights can't be had.

    Example:

    >>> InceptionV3(75)(np.zeros((10, 32, 32, 3))).shape
    (10, 2048)

    Reference:
        [Szegedy et al., 2015](https://arxiv.org/abs/1512.00567)
    """

    def __init__(self, image_size=299, weights="imagenet"):
        self.image_size = checks.check_count("image_size", image_size)
        if self.image_size < 75:
            raise ValueError(f"`image_size` must be at least 75. Received: image_size={image_size}")
        self.weights = os.fspath(weights)
        if self.weights != "imagenet" and not pathlib.Path(self.weights).is_file():
            raise ValueError(
                "`weights` must be 'imagenet' or the path of a weights file. "
                f"Received: weights={self.weights!r}, which is not a file"
            )
        self.network = None

    def __str__(self):
        return f"InceptionV3 at {self.image_size}x{self.image_size}"

    def get_config(self):
        return {"image_size": self.image_size, "weights": self.weights}

    def __call__(self, images):
        if self.network is None:  # no sooner, so that it can be named without a download
            self.network = self._load()
        images = ops.convert_to_tensor(images, "float32")
        if images.shape[-1] == 4:
            images = images[..., :3] * images[..., 3:] + (1 - images[..., 3:])
        elif images.shape[-1] == 1:
            images = ops.repeat(images, 3, axis=-1)
        size = (self.image_size, self.image_size)
        images = ops.image.resize(images, size, interpolation="bilinear", antialias=True)
        return self.network(2 * ops.clip(images, 0.0, 1.0) - 1, training=False)

    def _load(self):
        options = {"include_top": False, "pooling": "avg"}
        shape = (self.image_size, self.image_size, 3)
        try:
            return keras.applications.InceptionV3(
                weights=self.weights, input_shape=shape, **options
            )
        except Exception as error:  # whatever a missing network or a foreign file may lead to
            reason = " ".join(str(error).split())[:200]
            if self.weights == "imagenet":
                raise ValueError(
                    "The ImageNet weights of InceptionV3 can't be downloaded: give the path of a "
                    "file that has them, InceptionV3(weights=...), or use another encoder, such "
                    f"as `keras_ddim.encoders.train_classifier`. ({reason})"
                ) from error
            raise ValueError(
                "`weights` must be those of `keras.applications.InceptionV3(include_top=False)`. "
                f"Received: weights={self.weights!r} ({reason})"
            ) from error


class Classifier:
    """The features of a small classifier, those before its last layer; see `train_classifier`.

    Attributes:
        network: `keras.Model` from images to the score of each class.
        accuracy: Part of held-out images of which it is right, or None where none were held out.
    """

    def __init__(self, network, accuracy=None):
        self.network, self.accuracy = network, accuracy
        self.extractor = keras.Model(network.inputs[0], network.layers[-2].output)

    def __str__(self):
        right = (
            "" if self.accuracy is None else f", right on {self.accuracy:.1%} of held-out images"
        )
        return f"a small classifier trained on these data{right}"

    def __call__(self, images):
        return self.extractor(images, training=False)


def train_classifier(images, validation_images=None, num_classes=None, *, cache=None, verbose=1):
    """Trains a small classifier, by whose features images like those it was trained on compare.

    It needs no download, and suits grey images and drawings better than a network that has seen
    photographs. But distances in its features are *not* the FID and KID of the literature, and
    compare only with others of the same classifier. Its initial weights follow from
    `keras.utils.set_random_seed`.

    Args:
        images: `tf.data.Dataset` of batches (images, labels), labels counted from 0; all of it
            is trained on, once.
        validation_images: Another, to measure its accuracy. Defaults to None.
        num_classes: Number of classes. Defaults to None: as many as `images.class_names` names.
        cache: File ending in ".keras" that keeps the classifier: read if it is there, else
            written. Defaults to None.
        verbose: 1 for a progress bar, 0 for none.

    Returns:
        A `Classifier`, an encoder with 64 features.

    Raises:
        ValueError: If `images` are not labelled batches, or the number of classes is unknown.

    Example:

    ```python
    train_images, val_images = keras_ddim.load_images("fashion_mnist", 32, labels=True)
    encoder = keras_ddim.encoders.train_classifier(train_images, val_images)
    kid = keras_ddim.KID(encoder)
    ```
    """
    if not isinstance(getattr(images, "element_spec", None), tuple):
        raise ValueError(
            "`images` must be a `tf.data.Dataset` of batches (images, labels). "
            f"Received: images={images!r}"
        )
    if num_classes is None:
        num_classes = len(getattr(images, "class_names", None) or ())
    num_classes = checks.check_count("num_classes", num_classes)
    if cache is not None and pathlib.Path(cache).is_file():
        network = keras.saving.load_model(cache)
    else:
        network = _classifier_network(images.element_spec[0].shape[1:], num_classes)
        network.fit(images, shuffle=False, verbose=verbose)
        if cache is not None:
            with write_whole(cache) as temporary_path:
                network.save(temporary_path)
    accuracy = None
    if validation_images is not None:
        _, accuracy = network.evaluate(validation_images, verbose=0)
    return Classifier(network, accuracy)


def classifier_path(*settings):
    """File in Keras's folder for the classifier of data that these settings describe."""
    home = os.environ.get("KERAS_HOME") or os.path.expanduser("~/.keras")
    digest = zlib.crc32(repr(settings).encode())
    return pathlib.Path(home) / PACKAGE / f"classifier-{digest:08x}.keras"


def _classifier_network(image_shape, num_classes):
    x = images = keras.Input(image_shape)
    for filters in (32, 64):
        x = keras.layers.Conv2D(filters, 3, padding="same", activation="relu")(x)
        x = keras.layers.MaxPooling2D(padding="same")(x)
    x = keras.layers.Flatten()(x)
    x = keras.layers.Dense(CLASSIFIER_FEATURES, activation="relu")(x)
    network = keras.Model(images, keras.layers.Dense(num_classes)(x))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    network.compile("adam", loss, metrics=["accuracy"])
    return network


ENCODERS = {"inception_v3": InceptionV3}


def get(identifier):
    """The encoder that `identifier` names: "inception_v3", None (the same), or any callable.

    Raises:
        ValueError: If it is none of these.
    """
    if callable(identifier) and not isinstance(identifier, type):
        return identifier
    return get_part("encoder", identifier, InceptionV3, ENCODERS, InceptionV3)


def name_of(encoder):
    """What an encoder is called in results; the same in every process."""
    if isinstance(encoder, (InceptionV3, Classifier)):
        return str(encoder)
    names = (getattr(encoder, key, None) for key in ("__qualname__", "name"))
    return next((name for name in names if name), type(encoder).__name__)


def encode(encoder, images, verbose=0):
    """Features of images, few at a time so that memory stays bounded.

    Args:
        encoder: See `get`.
        images: Array or tensor (images, height, width, channels): floats in [0, 1] or integers in
            0..255.
        verbose: 1 for a progress bar, 0 for none. Defaults to 0.

    Returns:
        float64 NumPy array (images, features).

    Raises:
        ValueError: If the images are not as described, or what `encoder` makes of them is not
            finite or not of that shape.
    """
    encoder = get(encoder)
    images = ops.convert_to_numpy(images)
    if images.ndim != 4 or not len(images):
        raise ValueError(
            "`images` must be at least one image, (images, height, width, channels). "
            f"Received: images of shape {images.shape}"
        )
    features = []
    bar = keras.utils.Progbar(len(images), unit_name="image") if verbose else None
    for start in range(0, len(images), ENCODING_BATCH):
        batch = images[start : start + ENCODING_BATCH]
        batch = checks.check_image_batch("images", batch, images.shape[1:]).astype("float32")
        batch_features = ops.convert_to_numpy(encoder(batch)).astype("float64")
        if batch_features.ndim != 2 or len(batch_features) != len(batch):
            raise ValueError(
                "`encoder` must take images to features of shape (images, features). Received: "
                f"features of shape {batch_features.shape} for {len(batch)} images"
            )
        features.append(batch_features)
        if bar is not None:
            bar.add(len(batch))
    features = np.concatenate(features)
    if not np.isfinite(features).all():
        name = name_of(encoder)
        raise ValueError(f"`encoder` must make finite features. Received: encoder={name}")
    return features
