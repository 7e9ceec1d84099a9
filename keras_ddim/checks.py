"""What users hand in, checked: images, times, seeds, sizes.

Each check returns its argument in the form that the package works with, or raises a `ValueError`
that names the argument, the value received and what is allowed.
"""

import json
import math
import numbers
import reprlib
import sys
import types
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
from keras import ops

# Antialiased resizing may leave [0, 1] by rounding, never by this much.
RANGE_TOLERANCE = 1e-3
ALLOWED_IMAGES = "Images must be finite floats in [0, 1], or integers in 0..255"
# Files come from anybody, and a few bytes of them may ask for any size. Beyond all that is made:
LARGEST_COUNT = 10_000_000
LARGEST_SEED = 2**32 - 1  # of Keras
LARGEST_LIST = 100_000  # of times, of timesteps
LARGEST_IMAGE = 2**24  # values, such as of 2048×2048×4


# Values in messages


class _Brief(reprlib.Repr):
    """`repr` of anything, cut short: arrays by their shape, what is nested, long or endless."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel = 4
        self.maxstring = self.maxother = self.maxlong = 120
        self.maxlist = self.maxtuple = self.maxdict = 12

    def repr1(self, x: Any, level: int) -> str:
        if getattr(x, "shape", ()) and hasattr(x, "dtype"):
            return f"{type(x).__name__} of shape {tuple(x.shape)} and dtype {x.dtype}"
        return super().repr1(x, level)


def brief(value: Any) -> str:
    """What a message says that was received: one short line."""
    text = " ".join(_Brief().repr(value).split())
    return text if len(text) <= 200 else f"{text[:199]}…"


# Numbers and shapes


def check_integers(name: str, values: Any, most: int = LARGEST_COUNT) -> tuple[int, ...]:
    """`values` as a tuple of positive ints."""
    sequence = tuple(values) if isinstance(values, (tuple, list, np.ndarray)) else ()
    if not sequence or not all(_is_integer(value) and 1 <= value <= most for value in sequence):
        raise ValueError(
            f"`{name}` must be made of integers of at least 1, and at most {most:,}. "
            f"Received: {name}={brief(values)}"
        )
    return tuple(int(value) for value in sequence)


def check_count(name: str, value: Any, least: int = 1, most: int = LARGEST_COUNT) -> int:
    """`value` as an int of at least `least` and at most `most`."""
    if not _is_integer(value) or not least <= value <= most:
        is_too_large = _is_integer(value) and value > most
        allowed = f"at most {most:,}" if is_too_large else f"at least {least}"
        raise ValueError(
            f"`{name}` must be an integer of {allowed}. Received: {name}={brief(value)}"
        )
    return int(value)


def _is_integer(value: Any) -> bool:
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


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
    is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    # NaN, which compares as False, is refused, as are integers too large for a float.
    is_finite = is_number and abs(value) <= sys.float_info.max
    if is_finite and low <= value <= high and above < value < below:
        return float(value)
    bounds = {"of at least": low, "above": above, "of at most": high, "below": below}
    limits = [f" {word} {bound:.4g}" for word, bound in bounds.items() if math.isfinite(bound)]
    allowed = f"a finite number{' and'.join(limits)}"
    if math.isfinite(high - low):
        allowed = f"a number in [{low:.4g}, {high:.4g}]"
    raise ValueError(f"`{name}` must be {allowed}. Received: {name}={brief(value)}")


def check_array(name: str, values: Any, allowed: str = "an array") -> np.ndarray:
    """`values` as a NumPy array of real numbers, none of them masked.

    Args:
        name: Name of the argument.
        values: An array, a tensor of any backend, or nested lists.
        allowed: What they must be, for the message.
    """
    try:
        array = np.asanyarray(_to_numpy(values))
    except (TypeError, ValueError, RecursionError):  # lists of different lengths, or nested deeply
        array = np.array(None)
    if array.dtype.name == "bfloat16":  # which NumPy has no kind for
        array = array.astype("float32")
    if array.dtype.kind not in "biuf" or np.ma.is_masked(array):
        what = "masked values in " if np.ma.is_masked(array) else ""
        raise ValueError(
            f"`{name}` must be {allowed}, of real numbers. Received: {what}{name}={brief(values)}"
        )
    return np.asarray(array)


def check_mapping(name: str, value: Any) -> dict:
    """`value` as a dictionary that is not empty."""
    if not hasattr(value, "items") or not value:
        raise ValueError(
            f"`{name}` must hold at least one entry of a dictionary. "
            f"Received: {name}={brief(value)}"
        )
    return dict(value)


def check_choice(name: str, value: Any, allowed: Any) -> Any:
    """`value`, which must be one of `allowed`."""
    if not isinstance(value, (str, int, np.bool_, type(None))) or value not in allowed:
        raise ValueError(f"`{name}` must be one of {allowed}. Received: {name}={brief(value)}")
    return value


def check_flag(name: str, value: Any) -> bool:
    """`value` as a bool, which it must be, or 0 or 1."""
    return bool(check_choice(name, value, (False, True)))


def check_seed(seed: Any) -> int | None:
    """`seed` as an int of at least 0, or None."""
    return None if seed is None else check_count("seed", seed, 0, LARGEST_SEED)


def check_metadata(metadata: Any) -> dict:
    """`metadata` as a dictionary that JSON can hold; None is an empty one."""
    metadata = {} if metadata is None else metadata
    try:
        json.dumps(metadata, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(
            "`metadata` must be a dictionary that JSON can hold. "
            f"Received: metadata={brief(metadata)} ({brief(str(error))})"
        ) from None
    if not isinstance(metadata, dict) or not all(isinstance(key, str) for key in metadata):
        raise ValueError(
            "`metadata` must be a dictionary whose keys are texts. "
            f"Received: metadata={brief(metadata)}"
        )
    return metadata


def check_image_shape(image_shape: Any) -> tuple[int, int, int]:
    """`image_shape` as three positive ints (height, width, channels)."""
    if not isinstance(image_shape, (tuple, list)) or len(image_shape) != 3:
        raise ValueError(
            "`image_shape` must be (height, width, channels), such as (64, 64, 3). "
            f"Received: image_shape={brief(image_shape)}"
        )
    height, width, channels = check_integers("image_shape", image_shape)
    if height * width * channels > LARGEST_IMAGE or max(height, width) > 2**13:
        raise ValueError(
            f"`image_shape` must be of at most {LARGEST_IMAGE:,} values, and sides of at most "
            f"{2**13:,}. Received: image_shape={image_shape}"
        )
    return height, width, channels


def check_keras() -> None:
    """Raises unless Keras is set to the one kind of numbers and images that there is here."""
    settings = {
        "floatx": (keras.config.floatx(), "float32"),
        "image_data_format": (keras.config.image_data_format(), "channels_last"),
    }
    for name, (value, allowed) in settings.items():
        if value != allowed:
            raise ValueError(
                f"`keras.config.{name}()` must be {allowed!r}; for half precision, see the "
                f"argument `dtype`. Received: {name}={value!r}"
            )


def check_network(
    network: Any, image_shape: Any = None, images_seen: int = 1
) -> tuple[int, int, int]:
    """The image shape of `network`: `[noisy_images, noise level]` or with labels, to noises.

    Of `images_seen` images, laid over each other, the first input has the channels.
    """
    if not isinstance(network, keras.Model):
        raise ValueError(f"`network` must be a `keras.Model`. Received: network={brief(network)}")
    input_shapes = [tuple(x.shape[1:]) for x in getattr(network, "inputs", None) or ()]
    output_shapes = [tuple(x.shape[1:]) for x in getattr(network, "outputs", None) or ()]
    others = input_shapes[1:]
    seen = [(*shape[:2], shape[2] * images_seen) for shape in output_shapes if len(shape) == 3]
    if others not in ([(1, 1, 1)], [(1, 1, 1), ()]) or input_shapes[:1] != seen:
        channels = "channels" if images_seen == 1 else f"{images_seen} * channels"
        raise ValueError(
            "`network` must take [noisy_images, noise_variances], of shapes (batch, height, width, "
            f"{channels}) and (batch, 1, 1, 1), and perhaps labels, of shape (batch,), to the "
            "predicted noises, of shape (batch, height, width, channels). "
            f"Received: network with inputs {input_shapes} and outputs {output_shapes}, "
            "without the batch"
        )
    if image_shape is None:
        return check_image_shape(output_shapes[0])
    image_shape = check_image_shape(image_shape)
    if any(size not in (None, wanted) for size, wanted in zip(output_shapes[0], image_shape)):
        raise ValueError(
            f"`image_shape` must be that of `network`, {output_shapes[0]}. "
            f"Received: image_shape={image_shape}"
        )
    return image_shape


def check_model(name: str, model: Any) -> Any:
    """`model`, which must be a `DiffusionModel`, or another that makes denoisers."""
    if not hasattr(model, "make_denoiser") or isinstance(model, type):
        raise ValueError(
            f"`{name}` must be a `keras_ddim.DiffusionModel`. Received: {name}={brief(model)}"
        )
    return model


# Labels


def check_class_names(class_names: Any, network: Any = None) -> list[str] | None:
    """The names of the classes; their numbers, for a `network` that only knows how many."""
    if network is not None:
        num_classes = getattr(network, "num_classes", None)
        takes_labels = len(network.inputs) == 3
        if class_names is None and takes_labels and num_classes is not None:
            class_names = list(map(str, range(num_classes)))
        if takes_labels != (class_names is not None):
            raise ValueError(
                "`class_names` must be given where `network` takes labels, and only there. "
                f"Received: class_names={brief(class_names)}, network with {len(network.inputs)} "
                "inputs"
            )
        if num_classes is not None and len(class_names or ()) != num_classes:
            raise ValueError(
                f"`class_names` must be as many as the classes of `network`, {num_classes}. "
                f"Received: class_names={brief(class_names)}"
            )
    if class_names is None:
        return None
    names = list(class_names) if isinstance(class_names, (list, tuple)) else []
    if not names or not all(isinstance(n, str) for n in names) or len({*names}) < len(names):
        raise ValueError(
            "`class_names` must be a list of different texts, such as `class_names` of what "
            f"`load_images(..., labels=True)` returns. Received: class_names={brief(class_names)}"
        )
    return names


def check_labels(labels: Any, num_images: int, class_names: list[str] | None) -> np.ndarray | None:
    """The class of each image, int32 (num_images,); that behind the last, for None, is "any".

    Args:
        labels: None, the name or number of a class, or a list of them.
        num_images: Number of images.
        class_names: The names, or None where there are no classes.
    """
    if class_names is None:
        if labels is None:
            return None
        raise ValueError(
            "`labels` must be None for a model whose network takes none. "
            f"Received: labels={brief(labels)}"
        )
    if labels is None:
        return np.full(num_images, len(class_names), "int32")
    labels = _to_numpy(labels)
    labels = labels.item() if getattr(labels, "ndim", None) == 0 else labels
    is_list = isinstance(labels, (list, tuple, np.ndarray))
    given = list(labels) if is_list else [labels] * num_images
    numbers = {str(number): number for number in range(len(class_names))}
    numbers |= {name.casefold(): number for number, name in reversed([*enumerate(class_names)])}
    numbers |= {name: number for number, name in enumerate(class_names)}

    def number_of(label: Any) -> int:
        if isinstance(label, str):
            found = numbers.get(label, numbers.get(label.casefold()))
        else:
            is_integer = isinstance(label, (int, np.integer)) and not isinstance(label, bool)
            found = label if is_integer and 0 <= label < len(class_names) else None
        if found is None:
            listed = ", ".join(f"{number} {name!r}" for number, name in enumerate(class_names))
            raise ValueError(
                f"`labels` must be classes of the model, by number or name: {listed}. "
                f"Received: {brief(label)}"
            )
        return int(found)

    if len(given) != num_images:
        raise ValueError(
            f"`labels` must be one class, or one for each image, {num_images}. "
            f"Received: {len(given)} labels"
        )
    return np.array([number_of(label) for label in given], "int32")


def check_label_batch(name: str, labels: Any, num_images: int, class_names: list[str]) -> None:
    """Raises unless `labels` are the classes' numbers, (num_images,)."""
    labels = np.asarray(_to_numpy(labels))
    allowed = f"`{name}` must be one of the {len(class_names)} classes, from 0, for each image"
    if labels.shape not in ((num_images,), (num_images, 1)) or labels.dtype.kind not in "iuf":
        raise ValueError(
            f"{allowed}, {num_images}. Received: {name} of shape {labels.shape} and dtype "
            f"{labels.dtype}"
        )
    if not ((labels >= 0) & (labels < len(class_names)) & (labels % 1 == 0)).all():
        raise ValueError(f"{allowed}. Received: values from {labels.min():g} to {labels.max():g}")


def check_labelled(name: str, data: Any) -> None:
    """Raises unless what `fit` takes, other than an array, has labels, as far as can be seen."""
    spec = getattr(data, "element_spec", data)
    if isinstance(data, keras.utils.PyDataset):
        spec = data[0]
    if not isinstance(spec, (tuple, list)) or len(spec) < 2 or spec[1] is None:
        raise ValueError(
            f"`{name}` must hold pairs (images, labels) for a model whose network takes labels, as "
            "from `load_images(..., labels=True)`. Received: images without labels"
        )


# Generation


def check_diffusion_times(diffusion_times: Any) -> np.ndarray:
    """The times to visit, float64 (steps,): n uniform ones for an integer, else those listed."""
    if _is_integer(diffusion_times):
        steps = check_count("diffusion_times", diffusion_times, most=LARGEST_LIST)
        return 1.0 - np.arange(steps) / steps
    allowed = (
        "a number of steps (an integer of at least 1) or a one-dimensional list of at least one "
        "time in [0, 1]"
    )
    return check_list("diffusion_times", diffusion_times, 0, 1, allowed)


def check_list(
    name: str, values: Any, low: float, high: float, allowed: str = "a one-dimensional list"
) -> np.ndarray:
    """`values` as a float64 array of one dimension, all from `low` to `high`."""
    array = check_array(name, values, allowed)
    if array.ndim != 1 or not 1 <= array.size <= LARGEST_LIST or array.dtype.kind == "b":
        raise ValueError(
            f"`{name}` must be {allowed}, of 1 to {LARGEST_LIST:,} numbers. "
            f"Received: {name}={brief(values)}"
        )
    array = array.astype("float64")
    # Negated, so that NaN, which compares as False, is caught.
    wrong = np.flatnonzero(~((array >= low) & (array <= high)))
    if wrong.size:
        i = wrong[0]
        raise ValueError(f"`{name}` must be in [{low}, {high}]. Received: {name}[{i}]={array[i]}")
    return array


def _to_numpy(values: Any) -> Any:
    """Tensors of any backend as NumPy arrays, anything else as it is."""
    return ops.convert_to_numpy(values) if ops.is_tensor(values) else values


def check_noise(name: str, noise: Any, shape: Any) -> np.ndarray:
    """Noise, or images to begin with, as a finite float32 array of `shape`."""
    noise = check_array(name, noise).astype("float32")
    if noise.shape != shape:
        raise ValueError(
            f"`{name}` must be of shape (num_images, height, width, channels) = {shape}. "
            f"Received: {name} of shape {noise.shape}"
        )
    if not np.isfinite(noise).all():
        place = tuple(int(index) for index in np.argwhere(~np.isfinite(noise))[0])
        raise ValueError(f"`{name}` must be finite. Received: {name}{list(place)}={noise[place]}")
    return noise


# Images


def images_of(batch: Any) -> Any:
    """The images of a batch: its only or first part, as in (images, labels)."""
    return batch[0] if isinstance(batch, (tuple, list)) and batch else batch


def unit_of(images: Any) -> float:
    """The pixel value of a tensor that stands for 1: 255 of integers."""
    return 255.0 if keras.backend.is_int_dtype(images.dtype) else 1.0


def scale(images: Any) -> Any:
    """Images as float32 tensor: integers in 0..255 become fractions, floats stay as they are."""
    images = ops.convert_to_tensor(images)
    return ops.cast(images, "float32") / unit_of(images)


def in_range(images: Any) -> Any:
    """Where images are in [0, 1]; False where they are NaN."""
    return (images >= -RANGE_TOLERANCE) & (images <= 1.0 + RANGE_TOLERANCE)


def check_image_batch(name: str, images: Any, image_shape: Any) -> np.ndarray:
    """A batch of images as float64 array in [0, 1]."""
    images = check_array(name, images, "images")
    check_batch_shape(name, images.shape, image_shape)
    largest = 255 if images.dtype.kind in "iu" else 1
    if not in_range(images / largest).all():
        raise ValueError(
            f"{ALLOWED_IMAGES}. Received: {name} with values from {images.min():g} to "
            f"{images.max():g}"
        )
    return images.astype("float64") / largest


def check_batch_shape(name: str, shape: Any, image_shape: Any) -> None:
    """`shape` of a batch, None where it is unknown, must fit `image_shape`."""
    shape = tuple(shape)
    if len(shape) != 4 or any(a is not None and a != b for a, b in zip(shape[1:], image_shape)):
        raise ValueError(
            f"`{name}` must hold batches of images of shape (batch, "
            f"{', '.join(map(str, image_shape))}). Received: {name} of shape {shape}"
        )


COLLECTIONS = (tuple, list, dict, set)


def check_images(name: str, data: Any, image_shape: Any) -> None:
    """Checks the shape of the images in anything `fit` takes, as far as can be seen unread."""
    spec = getattr(data, "element_spec", data)
    first = images_of(spec)
    is_array = hasattr(first, "shape") and not isinstance(data, list)
    is_read = hasattr(data, "__iter__") or isinstance(data, keras.utils.PyDataset)
    if not is_array and (
        not is_read
        or isinstance(first, (str, bytes, *COLLECTIONS))
        or isinstance(data, COLLECTIONS)
    ):
        raise ValueError(
            f"`{name}` must be images or (images, labels): an array, a `tf.data.Dataset`, a "
            "`keras.utils.PyDataset` or a generator, not a list or dictionary. "
            f"Received: {name}={brief(data)}"
        )
    if is_array and getattr(first.shape, "rank", 0) is None:
        raise ValueError(
            f"`{name}` must hold batches of a known number of dimensions; see `tf.ensure_shape`. "
            f"Received: {name}={brief(data)} of {first}"
        )
    if is_array:
        check_batch_shape(name, first.shape, image_shape)


def is_endless(data: Any) -> bool:
    """Whether a dataset says that it has no end, or cannot say."""
    if isinstance(data, types.GeneratorType):
        return True
    if isinstance(data, keras.utils.PyDataset):
        return data.num_batches is None
    cardinality = getattr(data, "cardinality", None)
    return cardinality is not None and int(cardinality()) == -1  # tf.data.INFINITE_CARDINALITY


def batches(data: Any, batch_size: int = 1024) -> Iterator:
    """Iterates over the batches of anything `fit` takes."""
    if isinstance(data, keras.utils.PyDataset):
        endless = data.num_batches is None
        indices = iter(int, 1) if endless else range(data.num_batches)
        return (data[index] for index in indices)
    first = images_of(data)
    if not isinstance(data, types.GeneratorType) and hasattr(first, "shape"):
        steps = math.ceil(len(first) / batch_size)
        return (first[i * batch_size : (i + 1) * batch_size] for i in range(steps))
    return iter(data)
