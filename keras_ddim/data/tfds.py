"""Images from TensorFlow Datasets."""

import os
from typing import Any

import tensorflow as tf
import tensorflow_datasets as tfds

from keras_ddim.data.pipeline import NO_LABEL, Options, Pair, Part, look_up, prepare, store

# Where it is usual to pool the official splits: this one's "train" is only an eighth of its images.
POOLED_SPLITS: dict[str, tuple[str, ...]] = {"oxford_flowers102": ("train", "validation", "test")}


def load(
    name: str, options: Options, data_dir: str | os.PathLike[str] | None
) -> tuple[Part, Part | None, list[str] | None]:
    """Images for training and for validation, and the class names."""
    builder = _make_builder(name, data_dir)
    image_key, label_key, class_names = _find_features(builder, name, options.labels)
    shape = builder.info.features[image_key].shape
    options = options.with_channels(shape[-1])

    def to_element(example: dict[str, tf.Tensor]) -> Pair:
        images = example[image_key]
        labels = example[label_key] if label_key else tf.fill(tf.shape(images)[:-3], NO_LABEL)
        return prepare(images, options), tf.cast(labels, tf.int64)

    def read(split: str, limit: int) -> Part:
        examples = builder.as_dataset(split=split, shuffle_files=False).take(limit)
        count = examples.cardinality()
        if count == 0:
            raise ValueError(
                f"`source` must have images in each split; {split!r} has none. "
                f"Received: source={name!r}"
            )
        if None in shape:
            elements = examples.map(to_element, tf.data.AUTOTUNE)
        else:  # many at once is faster
            elements = examples.batch(256).map(to_element, tf.data.AUTOTUNE).unbatch()
            elements = elements.apply(tf.data.experimental.assert_cardinality(count))
        if options.cache is False:
            return Part(elements, lambda items, batch_size: items.batch(batch_size))
        arrays = store(elements, options, builder.info.full_name, data_dir, split, limit)
        return Part(tf.data.Dataset.range(len(arrays[0])), look_up(*arrays))

    train_split, validation_split = _choose_splits(builder, name, options)
    limits = -1, -1  # all
    if options.num_images is not None:
        held_out = options.held_out(options.num_images)
        limits = max(1, options.num_images - held_out), held_out
    train = read(train_split, limits[0])
    validation = None if validation_split is None else read(validation_split, limits[1])
    return train, validation, class_names


def _make_builder(name: str, data_dir: str | os.PathLike[str] | None) -> Any:
    """The builder of a data set that is ready to be read."""
    if data_dir is not None and not os.path.isdir(data_dir):
        raise FileNotFoundError(
            f"`data_dir` must be an existing folder. Received: data_dir={str(data_dir)!r}"
        )
    try:
        builder = tfds.builder(name, data_dir=data_dir)
    except Exception as error:
        raise ValueError(
            '`source` must be "flowers", "plain_flowers", an existing folder, or a name in '
            "TensorFlow Datasets. "
            f"Received: source={name!r} ({_first_line(error)})"
        ) from None
    try:
        builder.download_and_prepare()
    except Exception as error:
        raise ValueError(
            "`source` must be a data set that is in `data_dir` or can be downloaded. Received: "
            f"source={name!r}, data_dir={data_dir and str(data_dir)!r} ({_first_line(error)})"
        ) from None
    return builder


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:200]


def _find_features(
    builder: Any, name: str, labels: bool
) -> tuple[str, str | None, list[str] | None]:
    """Names of the image and of the label in an example, and the classes' names."""
    features = builder.info.features

    def first(kind: type, usual: str) -> str | None:
        keys = [key for key, feature in features.items() if isinstance(feature, kind)]
        return usual if usual in keys else next(iter(keys), None)

    image_key = first(tfds.features.Image, "image")
    label_key = first(tfds.features.ClassLabel, "label")
    if image_key is None:
        raise ValueError(
            f"`source` must be a data set of images; its features are {', '.join(features)}. "
            f"Received: source={name!r}"
        )
    if labels and label_key is None:
        raise ValueError(
            f"`labels=True` needs `source` to have a class label; its features are "
            f"{', '.join(features)}. Received: source={name!r}"
        )
    return image_key, label_key, features[label_key].names if label_key else None


def _choose_splits(builder: Any, name: str, options: Options) -> tuple[str, str | None]:
    """What to read for training and for validation, as TensorFlow Datasets writes it."""
    official = list(builder.info.splits)
    pooled = POOLED_SPLITS.get(builder.name, ())
    if not pooled:
        for held_out in ("validation", "test"):
            if options.official_split and {"train", held_out} <= set(official):
                return "train", held_out
        pooled = ("train",) if "train" in official else tuple(official)
    if not pooled:
        raise ValueError(f"`source` must have splits. Received: source={name!r}")
    if not options.validation_split:
        return "+".join(pooled), None
    percent = min(max(round(100 * (1 - options.validation_split)), 1), 99)
    train, validation = (
        "+".join(f"{split}[{cut}]" for split in pooled) for cut in (f":{percent}%", f"{percent}%:")
    )
    return train, validation
