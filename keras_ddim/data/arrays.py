"""Images from arrays, brought to their shape in memory."""

from typing import Any

import numpy as np

from keras_ddim.checks import check_array, check_pixels, require
from keras_ddim.data.pipeline import NO_LABEL, Options, Part, look_up, split
from keras_ddim.data.pixels import fit_images

SOURCES = (
    "a string, a path, or an array of images of shape (images, height, width, channels), with 1, "
    "3 or 4 channels, or (images, height, width)"
)


def load(source: Any, options: Options) -> tuple[Part, Part | None]:
    """Images for training and for validation from an array, or a tuple (images, labels) of two."""
    given, labels = source if isinstance(source, tuple) and len(source) == 2 else (source, None)
    require(hasattr(given, "__array__") or isinstance(given, list), "source", SOURCES, given)
    images = check_array("source", given, SOURCES)
    images = images[..., None] if images.ndim == 3 else images
    is_shaped = images.ndim == 4 and images.shape[-1] in (1, 3, 4) and images.size
    require(is_shaped and images.dtype.kind in "uif", "source", SOURCES, given)
    check_pixels("source", images)
    images = images.astype(np.float32 if images.dtype.kind == "f" else np.uint8, copy=False)
    count = len(images)
    if labels is None:
        require(not options.labels, "source", "a tuple (images, labels) if `labels=True`", images)
        labels = np.full(count, NO_LABEL)
    allowed = f"one number for each of the {count} images"
    labels = check_array("labels", labels, allowed)
    require(labels.shape in ((count,), (count, 1)), "labels", allowed, labels)
    images, labels = images[: options.num_images], labels.reshape(count)[: options.num_images]
    shape = options.shape_of(images.shape[-1])
    if images.shape[1:] != shape:
        batches = np.split(images, range(256, len(images), 256))
        images = np.concatenate([fit_images(batch, shape, options.fit) for batch in batches])
    return split(np.arange(len(images)), look_up(images, labels), options)
