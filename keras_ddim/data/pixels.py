"""Resizes and recolours images in NumPy, the same for every source."""

import math
from fractions import Fraction

import numpy as np

GREY_WEIGHTS = np.array([0.2989, 0.5870, 0.1140], np.float32)


def fit_images(images: np.ndarray, image_shape: tuple[int, int, int], fit: str) -> np.ndarray:
    """Images (..., height, width, channels) in another shape, integers as uint8, floats as float32.

    Integers use the whole range of their dtype. Floats may leave their range by rounding errors.
    """
    given, size = images.shape[-3:-1], image_shape[:2]
    scales = [Fraction(*sides) for sides in zip(size, given)]
    scale = max(scales) if fit == "crop" else min(Fraction(1), *scales)
    used = [min(side, _round(wanted / scale)) for side, wanted in zip(given, size)]
    filled = [min(wanted, _round(side * scale)) for side, wanted in zip(given, size)]
    resized = _convert(images[_middle(given, used)], filled, image_shape[2])
    canvas = np.zeros((*images.shape[:-3], *image_shape), resized.dtype)
    canvas[_middle(size, filled)] = resized
    return canvas


def _round(side: Fraction) -> int:
    """The nearest integer, at least 1; halves are rounded up."""
    return max(1, math.floor(side + Fraction(1, 2)))


def _middle(size: tuple[int, ...], part: list[int]) -> tuple:
    """The index of a centred part of images."""
    starts = [(whole - side) // 2 for whole, side in zip(size, part)]
    return (..., *(slice(start, start + side) for start, side in zip(starts, part)), slice(None))


def _convert(images: np.ndarray, size: list[int], channels: int) -> np.ndarray:
    """Images with another size and other channels."""
    is_integer = images.dtype.kind in "ui"
    unit = 1 / np.iinfo(images.dtype).max if is_integer else 1
    images = _recolour(images * np.float32(unit), channels)
    if channels == 4:  # transparent pixels must not colour their neighbours
        images[..., :3] *= images[..., 3:]
    for axis, length in zip((-3, -2), size):
        if images.shape[axis] != length:
            weights = _resizing_weights(images.shape[axis], length)
            images = np.moveaxis(np.tensordot(weights, images, (1, axis)), 0, axis)
    if channels == 4:
        colours, alphas = images[..., :3], images[..., 3:]
        np.divide(colours, alphas, out=colours, where=alphas > 0)
    return np.rint(images * 255).astype(np.uint8) if is_integer else images


def _recolour(images: np.ndarray, channels: int) -> np.ndarray:
    """Float images with other channels; transparent ones are composited onto white."""
    given = images.shape[-1]
    if given == channels:
        return images
    if given == 4:
        colours, alphas = images[..., :3], images[..., 3:]
        return _recolour(colours * alphas + (1 - alphas), channels)
    if channels == 4:
        return np.concatenate([_recolour(images, 3), np.ones_like(images[..., :1])], axis=-1)
    return (images @ GREY_WEIGHTS)[..., None] if channels == 1 else images.repeat(3, axis=-1)


def _resizing_weights(given: int, wanted: int) -> np.ndarray:
    """Weights of the given pixels in each new one, (wanted, given): antialiased triangles."""
    scale = given / wanted
    centres = (np.arange(wanted) + 0.5) * scale
    distances = np.abs(np.arange(given) + 0.5 - centres[:, None])
    weights = np.maximum(1 - distances / max(scale, 1), 0)
    return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
