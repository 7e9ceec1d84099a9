"""Images from TensorFlow Datasets."""

import os
from typing import Any

import tensorflow as tf
import tensorflow_datasets as tfds

from keras_ddim.checks import check_pixels, require
from keras_ddim.data.pipeline import NO_LABEL, Options, Pair, Part, look_up, store
from keras_ddim.data.pixels import fit_images

# Official splits that are usually pooled: "train" is an eighth of these images only.
POOLED_SPLITS: dict[str, tuple[str, ...]] = {"oxford_flowers102": ("train", "validation", "test")}


def load(
    name: str, options: Options, data_dir: str | os.PathLike[str] | None
) -> tuple[Part, Part | None, list[str] | None]:
    """Images for training and for validation, and the class names."""
    builder = _prepare(name, data_dir)
    features = builder.info.features

    def find(kind: type, usual: str) -> Any:
        keys = [key for key, feature in features.items() if isinstance(feature, kind)]
        return min(keys, key=lambda key: key != usual, default=None)

    image_key = find(tfds.features.Image, "image")
    label_key = find(tfds.features.ClassLabel, "label")
    got = f"{name} with the features {', '.join(features)}"
    require(image_key, "source", "a data set of images", got)
    require(
        label_key or not options.labels, "source", "a data set with labels if `labels=True`", got
    )
    given_shape = features[image_key].shape
    shape = options.shape_of(given_shape[-1])
    dtype = tf.as_dtype(features[image_key].np_dtype)
    dtype = tf.float32 if dtype.is_floating else tf.uint8

    def to_element(example: dict[str, tf.Tensor]) -> Pair:
        given = example[image_key]
        labels = example[label_key] if label_key else tf.fill(tf.shape(given)[:-3], NO_LABEL)
        images = tf.numpy_function(
            lambda images: fit_images(images, shape, options.fit), [given], dtype, stateful=False
        )
        return tf.ensure_shape(images, (*given.shape[:-3], *shape)), tf.cast(labels, tf.int64)

    def read(split: str, limit: int) -> Part:
        examples = builder.as_dataset(split=split, shuffle_files=False).take(limit)
        count = examples.cardinality()
        require(count, "source", f"a data set with images in {split!r}", name)
        if None in given_shape:
            elements = examples.map(to_element, tf.data.AUTOTUNE)
        else:  # many images at once are faster
            elements = examples.batch(256).map(to_element, tf.data.AUTOTUNE).unbatch()
            elements = elements.apply(tf.data.experimental.assert_cardinality(count))
        if options.cache is False:  # the first ones only, since reading takes long
            check_pixels("source", next(elements.batch(256).as_numpy_iterator())[0])
            return Part(elements, lambda items, batch_size: items.batch(batch_size))
        images, labels = store(elements, options, builder.info.full_name, data_dir, split, limit)
        check_pixels("source", images)
        return Part(tf.data.Dataset.range(len(images)), look_up(images, labels))

    train_split, validation_split = _choose_splits(builder, name, options)
    limits = -1, -1  # all
    if options.num_images is not None:
        held_out = options.held_out(options.num_images)
        limits = max(1, options.num_images - held_out), held_out
    train = read(train_split, limits[0])
    validation = None if validation_split is None else read(validation_split, limits[1])
    return train, validation, features[label_key].names if label_key else None


def _prepare(name: str, data_dir: str | os.PathLike[str] | None) -> Any:
    """The builder of a data set that is ready to be read."""
    if data_dir is not None and not os.path.isdir(data_dir):
        raise FileNotFoundError(f"`data_dir` must be an existing folder, got {str(data_dir)!r}")
    try:
        builder = tfds.builder(name, data_dir=data_dir)
        builder.download_and_prepare()
    except Exception as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0][:200]
        raise ValueError(
            '`source` must be "flowers", "plain_flowers", an existing folder or the name of a data '
            f"set in TensorFlow Datasets that can be read, got {name!r} ({reason})"
        ) from None
    return builder


def _choose_splits(builder: Any, name: str, options: Options) -> tuple[str, str | None]:
    """The splits for training and validation, in the notation of TensorFlow Datasets."""
    official = list(builder.info.splits)
    pooled = POOLED_SPLITS.get(builder.name, ("train",) if "train" in official else official)
    require(pooled, "source", "a data set with splits", name)
    if options.official_split and builder.name not in POOLED_SPLITS and "train" in official:
        for held_out in ("validation", "test"):
            if held_out in official:
                return "train", held_out
    if not options.validation_split:
        return "+".join(pooled), None
    percent = min(max(round(100 * (1 - options.validation_split)), 1), 99)
    cuts = f"[:{percent}%]", f"[{percent}%:]"
    train, validation = ("+".join(split + cut for split in pooled) for cut in cuts)
    return train, validation
