"""Labels: names and numbers of classes."""

from typing import Any

import keras
import numpy as np
from keras import ops

from keras_ddim.checks import brief, require


def check_class_names(class_names: Any, network: Any = None) -> list[str] | None:
    """The names of the classes; "0", "1", … for a `network` that knows their number only."""
    if network is not None:
        num_classes = getattr(network, "num_classes", None)
        takes_labels = len(network.inputs[-1].shape) < 4
        if class_names is None and takes_labels and num_classes is not None:
            class_names = list(map(str, range(num_classes)))
        allowed = "given if `network` takes labels, and only then"
        require(takes_labels == (class_names is not None), "class_names", allowed, class_names)
        is_fitting = num_classes in (None, len(class_names or ()))
        allowed = f"the names of the {num_classes} classes of `network`"
        require(is_fitting, "class_names", allowed, class_names)
    if class_names is None:
        return None
    names = list(class_names) if isinstance(class_names, (list, tuple)) else []
    are_names = names and all(isinstance(n, str) for n in names) and len({*names}) == len(names)
    require(are_names, "class_names", "a list of different strings", class_names)
    return names


def check_labels(labels: Any, num_images: int, class_names: list[str] | None) -> np.ndarray | None:
    """The class of each image, int32 (num_images,); None stands for the null class.

    Args:
        labels: None, the name or number of a class, or a list of them.
        num_images: Number of images.
        class_names: The names, or None for a model without labels.
    """
    if class_names is None:
        require(labels is None, "labels", "None for a model without labels", labels)
        return None
    if labels is None:
        return np.full(num_images, len(class_names), "int32")
    labels = ops.convert_to_numpy(labels) if ops.is_tensor(labels) else labels
    labels = labels.item() if getattr(labels, "ndim", None) == 0 else labels
    is_list = isinstance(labels, (list, tuple, np.ndarray))
    given = list(labels) if is_list else [labels] * num_images
    allowed = f"one class, or one for each of the {num_images} images"
    require(len(given) == num_images, "labels", allowed, labels)
    # Exact names precede names in other letter cases, and these precede numbers as strings.
    numbers: dict[Any, int] = {str(number): number for number in range(len(class_names))}
    numbers |= {name.casefold(): number for number, name in reversed([*enumerate(class_names)])}
    numbers |= {name: number for number, name in enumerate(class_names)}

    def number_of(label: Any) -> int:
        if isinstance(label, str):
            number = numbers.get(label, numbers.get(label.casefold()))
        else:
            is_integer = isinstance(label, (int, np.integer)) and not isinstance(label, bool)
            number = int(label) if is_integer and 0 <= label < len(class_names) else None
        if number is None:
            listed = ", ".join(f"{number} {name!r}" for number, name in enumerate(class_names))
            raise ValueError(
                f"`labels` must be classes of the model by number or name ({listed}), "
                f"got {brief(label)}"
            )
        return number

    return np.array([number_of(label) for label in given], "int32")


def check_label_batch(name: str, labels: Any, num_classes: int) -> None:
    """Raises unless labels, or their `TensorSpec`, are numbers of classes, (batch,)."""
    shape = getattr(labels, "shape", ())
    shape = () if getattr(shape, "rank", 0) is None else tuple(shape)  # () for an unknown rank
    allowed = f"numbers of classes, from 0 to {num_classes - 1}, of shape (batch,)"
    is_flat = len(shape) == 1 or (len(shape) == 2 and shape[1] == 1)
    require(is_flat, name, f"{allowed} (not one-hot)", labels)
    if isinstance(labels, np.ndarray):
        require(labels.dtype.kind in "iuf", name, allowed, labels)
        are_classes = (labels >= 0) & (labels < num_classes) & (labels % 1 == 0)
        require(are_classes.all(), name, allowed, labels[~are_classes][:1].tolist())


def check_labelled(name: str, data: Any, num_classes: int) -> None:
    """Raises unless a data set, or one of its batches, holds images and their labels."""
    batch = data[0] if isinstance(data, keras.utils.PyDataset) else data
    batch = getattr(batch, "element_spec", batch)
    is_pair = isinstance(batch, (tuple, list)) and len(batch) > 1 and batch[1] is not None
    allowed = "pairs (images, labels), as from `load_images(..., labels=True)`"
    require(is_pair, name, allowed, batch)
    check_label_batch(f"labels of {name}", batch[1], num_classes)
