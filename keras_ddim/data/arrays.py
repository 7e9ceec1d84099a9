"""Images from arrays, which are checked and brought to their size in memory."""

from typing import Any

import numpy as np
import tensorflow as tf

from keras_ddim.checks import ALLOWED_IMAGES, RANGE_TOLERANCE, check_array
from keras_ddim.data.pipeline import NO_LABEL, Options, Part, look_up, prepare, split


def load(source: Any, options: Options) -> tuple[Part, Part | None]:
    """Images for training and for validation from an array, or a tuple (images, labels) of two."""
    images, labels = source if isinstance(source, tuple) and len(source) == 2 else (source, None)
    images = _check_images(images)[: options.num_images]
    if options.labels and labels is None:
        raise ValueError(
            "`labels=True` needs `source` to be a tuple (images, labels) of arrays. "
            "Received: source without labels"
        )
    labels = np.full(len(images), NO_LABEL) if labels is None else check_array("labels", labels)
    labels = labels[: options.num_images] if labels.ndim else labels
    if labels.dtype.kind not in "biuf" or labels.shape[:1] != images.shape[:1]:
        raise ValueError(
            f"The labels in `source` must be one number for each of its {len(images)} images. "
            f"Received: labels of shape {labels.shape} and dtype {labels.dtype}"
        )
    options = options.with_channels(images.shape[-1])
    if images.shape[1:] != options[:3]:
        batches = (images[start : start + 256] for start in range(0, len(images), 256))
        images = np.concatenate([prepare(tf.constant(batch), options) for batch in batches])
    return split(np.arange(len(images)), look_up(images, labels), options)


def _check_images(images: Any) -> np.ndarray:
    """Images as uint8 or float32 array of four dimensions."""
    allowed = (
        "`source` must be a string, a path, or an array of images of shape (images, height, "
        "width, channels), with 1, 3 or 4 channels, or (images, height, width)"
    )
    if not hasattr(images, "__array__") and not isinstance(images, list):
        raise ValueError(f"{allowed}. Received: source of type {type(images).__name__}")
    images = check_array("source", images, allowed.removeprefix("`source` must be "))
    shape = images.shape
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim != 4 or images.shape[-1] not in (1, 3, 4) or not images.size:
        raise ValueError(f"{allowed}. Received: source of shape {shape}")
    if images.dtype.kind not in "uif":
        raise ValueError(f"{ALLOWED_IMAGES}. Received: source of dtype {images.dtype}")
    floats = images.dtype.kind == "f"
    low, high = images.min(), images.max()
    tolerance, limit = (RANGE_TOLERANCE, 1) if floats else (0, 255)
    # Negated, so that NaN, which compares as False, is caught.
    if not (low >= -tolerance and high <= limit + tolerance):
        raise ValueError(f"{ALLOWED_IMAGES}. Received: source with values from {low} to {high}")
    if not floats:
        return images.astype(np.uint8, copy=False)
    return (images.clip(0, 1) if low < 0 or high > 1 else images).astype(np.float32, copy=False)
