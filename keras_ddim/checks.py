"""Checks of users' arguments.

A check returns the argument in the form that the package works with. Or it raises a `ValueError`
with the argument's name, the allowed values and the given value.
"""

import itertools
import math
import numbers
import types
from collections.abc import Iterable, Iterator
from typing import Any

import keras
import numpy as np
from keras import ops

# Rounding errors of antialiased resizing stay below.
RANGE_TOLERANCE = 1e-3
PIXELS = "finite floats in [0, 1], or integers in 0..255"
LARGEST_SEED = 2**32 - 1  # Keras's
LARGEST_IMAGE = 2**24  # values, such as 2048×2048×4


def require(condition: Any, name: str, allowed: str, value: Any) -> None:
    """Raises "`name` must be `allowed`, got `value`" unless `condition` holds."""
    if not condition:
        raise ValueError(f"`{name}` must be {allowed}, got {brief(value)}")


def brief(value: Any) -> str:
    """A value as one short line; an array as its shape."""
    if getattr(value, "shape", ()) and hasattr(value, "dtype"):
        return f"{type(value).__name__} of shape {tuple(value.shape)} and dtype {value.dtype}"
    text = " ".join(repr(value).split())
    return text if len(text) <= 200 else f"{text[:199]}…"


def check_count(name: str, value: Any, least: int = 1, most: float = math.inf) -> int:
    """`value` as an int of at least `least` and at most `most`."""
    is_integer = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    limit = f" and at most {most:,}" if math.isfinite(most) else ""
    allowed = f"an integer of at least {least}{limit}"
    require(is_integer and least <= value <= most, name, allowed, value)
    return int(value)


def check_seed(seed: Any) -> int | None:
    """`seed` as an int of at least 0, or None."""
    return None if seed is None else check_count("seed", seed, 0, LARGEST_SEED)


def check_number(
    name: str,
    value: Any,
    low: float = -math.inf,
    high: float = math.inf,
    *,
    above: float = -math.inf,
    below: float = math.inf,
) -> float:
    """`value` as a finite float in [low, high] that is above `above` and below `below`."""
    bounds = {"of at least": low, "above": above, "of at most": high, "below": below}
    limits = [f" {word} {bound:.4g}" for word, bound in bounds.items() if math.isfinite(bound)]
    allowed = f"a finite number{' and'.join(limits)}"
    if math.isfinite(high - low):
        allowed = f"a number in [{low:.4g}, {high:.4g}]"
    is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    is_finite = is_number and abs(value) < math.inf  # False for NaN
    require(is_finite and low <= value <= high and above < value < below, name, allowed, value)
    return float(value)


def check_choice(name: str, value: Any, allowed: Any) -> Any:
    """`value`, which must be one of `allowed`."""
    is_plain = isinstance(value, (str, int, np.bool_, type(None)))
    require(is_plain and value in allowed, name, f"one of {', '.join(map(repr, allowed))}", value)
    return value


def check_array(name: str, values: Any, allowed: str = "an array of numbers") -> np.ndarray:
    """`values`, an array, a tensor or nested lists, as a NumPy array of real numbers."""
    try:
        array = np.asarray(ops.convert_to_numpy(values) if ops.is_tensor(values) else values)
    except (TypeError, ValueError):  # lists of different lengths
        array = np.array(None)
    array = array.astype("float32") if array.dtype.name == "bfloat16" else array
    require(array.dtype.kind in "biuf", name, allowed, values)
    return array


def check_list(
    name: str, values: Any, low: float, high: float, allowed: str = "a list of numbers"
) -> np.ndarray:
    """`values` as a one-dimensional float64 array of numbers in [low, high]."""
    array = check_array(name, values, allowed)
    require(array.ndim == 1 and array.size and array.dtype.kind != "b", name, allowed, values)
    array = array.astype("float64")
    is_valid = (array >= low) & (array <= high)  # False for NaN
    i = np.argmin(is_valid)
    require(is_valid[i], f"{name}[{i}]", f"in [{low}, {high}]", float(array[i]))
    return array


def check_diffusion_times(diffusion_times: Any) -> np.ndarray:
    """The sampling times, float64 (steps,): uniform ones for an integer, else those listed."""
    if isinstance(diffusion_times, numbers.Integral) and not isinstance(diffusion_times, bool):
        steps = check_count("diffusion_times", diffusion_times)
        return 1.0 - np.arange(steps) / steps
    allowed = "a number of steps (an integer of at least 1) or a list of times in [0, 1]"
    return check_list("diffusion_times", diffusion_times, 0, 1, allowed)


def check_image_shape(image_shape: Any) -> tuple[int, int, int]:
    """`image_shape` as three positive ints (height, width, channels)."""
    is_shape = isinstance(image_shape, (tuple, list)) and len(image_shape) == 3
    require(is_shape, "image_shape", "(height, width, channels)", image_shape)
    height, width, channels = (check_count("image_shape", size) for size in image_shape)
    allowed = f"of at most {LARGEST_IMAGE:,} values"
    require(height * width * channels <= LARGEST_IMAGE, "image_shape", allowed, image_shape)
    return height, width, channels


def to_float(images: Any) -> Any:
    """Images as a float32 tensor; integers in 0..255 are divided by 255."""
    images = ops.convert_to_tensor(images)
    unit = 255.0 if keras.backend.is_int_dtype(images.dtype) else 1.0
    return ops.cast(images, "float32") / unit


def in_range(images: Any) -> Any:
    """Where float images are in [0, 1]; False where they are NaN."""
    return (images >= -RANGE_TOLERANCE) & (images <= 1.0 + RANGE_TOLERANCE)


def check_pixels(name: str, images: Any) -> np.ndarray:
    """`images` as an array, with pixel values in range."""
    images = check_array(name, images, "images")
    largest = 255 if images.dtype.kind in "iu" else 1
    low, high = (images.min(), images.max()) if images.size else (0, 0)
    if not (in_range(low / largest) and in_range(high / largest)):
        raise ValueError(f"`{name}` must be {PIXELS}, got values from {low:g} to {high:g}")
    return images


def check_image_batch(name: str, images: Any, image_shape: Any) -> np.ndarray:
    """A batch of images as a float32 array in [0, 1]."""
    images = check_pixels(name, images)
    check_batch_shape(name, images.shape, image_shape)
    largest = 255 if images.dtype.kind in "iu" else 1
    return images.astype("float32") / np.float32(largest)


def check_batch_shape(name: str, shape: Any, image_shape: Any) -> None:
    """Raises unless a batch's shape, in which None is unknown, fits `image_shape`."""
    is_fitting = len(shape) == 4 and all(
        size in (None, given) for size, given in zip(shape[1:], image_shape)
    )
    allowed = f"images of shape (batch, {', '.join(map(str, image_shape))})"
    require(is_fitting, name, allowed, tuple(shape))


def first_of(batch: Any) -> Any:
    """The images of a batch, which may be a tuple such as (images, labels)."""
    return batch[0] if isinstance(batch, (tuple, list)) and batch else batch


def check_data(name: str, data: Any, image_shape: Any) -> None:
    """Checks the form and the known shape of data for `fit`."""
    is_read = isinstance(data, (keras.utils.PyDataset, Iterable))
    is_container = isinstance(data, (list, dict, set, str))
    allowed = "an array, a `tf.data.Dataset`, a `keras.utils.PyDataset` or a generator of images"
    require(is_read and not is_container, name, allowed, data)
    spec = first_of(getattr(data, "element_spec", data))
    if hasattr(spec, "shape"):
        is_known = getattr(spec.shape, "rank", 4) is not None
        require(is_known, name, "batches of known rank (see `tf.ensure_shape`)", spec)
        check_batch_shape(name, tuple(spec.shape), image_shape)


def batches(data: Any, batch_size: int = 1024) -> Iterator:
    """The batches of data for `fit`."""
    if isinstance(data, keras.utils.PyDataset):
        count = data.num_batches
        return (data[i] for i in (itertools.count() if count is None else range(count)))
    images = first_of(data)
    if hasattr(images, "shape") and not isinstance(data, types.GeneratorType):
        return (images[i : i + batch_size] for i in range(0, len(images), batch_size))
    return iter(data)
