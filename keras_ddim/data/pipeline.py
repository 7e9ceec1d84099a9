"""Storing, splitting, shuffling and batching of images from any source.

Images are brought to one shape once, and kept in memory or in a file. Only their indices are
shuffled, and pixels are looked up batch by batch: the shuffle is uniform and takes no memory.
"""

import os
import pathlib
import zlib
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from keras_ddim.checks import require
from keras_ddim.files import write_whole
from keras_ddim.progress import Progress

NO_LABEL = -1
_SHUFFLED_BYTES = 2**28

Pair = tuple[tf.Tensor, tf.Tensor]  # images and labels
Read = Callable[[tf.data.Dataset, int], tf.data.Dataset]


class Options(NamedTuple):
    """Arguments of `load_images` that concern more than one source."""

    image_size: tuple[int, int]
    channels: int | None
    fit: str
    labels: bool
    validation_split: float
    official_split: bool  # whether the split of a data set's authors, if any, comes first
    num_images: int | None
    seed: int
    cache: bool | str | os.PathLike[str]

    def shape_of(self, channels: int) -> tuple[int, int, int]:
        """The shape of the images from a source with that many channels."""
        return (*self.image_size, self.channels or channels)

    def held_out(self, count: int) -> int:
        """The number of images that are kept for validation."""
        return max(1, round(count * self.validation_split)) if self.validation_split else 0


class Part(NamedTuple):
    """Images for training or for validation."""

    items: tf.data.Dataset  # shuffled ones: indices of images, or else the images themselves
    read: Read  # (items, batch_size) -> dataset of batches (images, labels)


def store(elements: tf.data.Dataset, options: Options, *settings: Any) -> tuple[np.ndarray, ...]:
    """All elements (image, label) as two arrays, in memory or in a file named by the settings."""
    count, image = int(elements.cardinality()), elements.element_spec[0]
    shape = tuple(image.shape)
    kind = np.dtype([("image", image.dtype.as_numpy_dtype, shape), ("label", np.int64)])

    def fill(records: Any) -> Any:
        start, progress = 0, Progress(count, "image")
        for images, labels in elements.batch(64).prefetch(1):
            stop = start + len(labels)
            records["image"][start:stop], records["label"][start:stop] = images, labels
            start = stop
            progress.advance(len(labels))
        return records

    if options.cache is True:
        records = fill(np.empty(count, kind))
    else:
        digest = zlib.crc32(repr((settings, shape, options.fit)).encode())
        path = pathlib.Path(f"{options.cache}-{digest:08x}.npy")
        if not path.exists():
            with write_whole(path) as temporary_path:
                fill(np.lib.format.open_memmap(temporary_path, "w+", kind, (count,))).flush()
        records = np.load(path, mmap_mode="r")
    return records["image"], records["label"]


def look_up(*arrays: np.ndarray) -> Read:
    """Reads batches of images and labels from arrays, by their indices."""

    def find(indices: tf.Tensor) -> tuple[tf.Tensor, ...]:
        # NumPy rather than a tensor, so that nothing is copied to a GPU.
        return tuple(
            tf.ensure_shape(
                tf.numpy_function(array.__getitem__, [indices], array.dtype, stateful=False),
                (None, *array.shape[1:]),
            )
            for array in arrays
        )

    return lambda items, batch_size: items.batch(batch_size).map(find, tf.data.AUTOTUNE)


def split(indices: np.ndarray, read: Read, options: Options) -> tuple[Part, Part | None]:
    """Images for training and for validation, chosen at random, each in order."""
    count, held_out = len(indices), options.held_out(len(indices))
    allowed = f"small enough to leave some of the {count} images for training"
    require(held_out < count, "validation_split", allowed, options.validation_split)
    order = np.random.default_rng(options.seed).permutation(indices)
    train, validation = (
        Part(tf.data.Dataset.from_tensor_slices(np.sort(chosen)), read)
        for chosen in (order[held_out:], order[:held_out])
    )
    return train, validation if held_out else None


def numbers(seed: int | None, first: int | None) -> tf.data.Dataset:
    """The numbers from `first` on; if it is None, random ones, new in each epoch."""
    if first is None:
        return tf.data.Dataset.random(seed=seed, rerandomize_each_iteration=True)
    return tf.data.Dataset.range(first, tf.int64.max)


def passes(
    items: tf.data.Dataset, shuffle: bool, seed: int | None, repetitions: int, first: int | None
) -> tf.data.Dataset:
    """Some passes through the items, or endless ones that skip the `first` items.

    The order of a pass depends on its number and `seed` alone. Indices are shuffled uniformly,
    images too large for that within a buffer.
    """
    if not shuffle:
        return items.repeat(repetitions if first is None else -1).skip(first or 0)
    count, item = int(items.cardinality()), tf.nest.flatten(items.element_spec)[0]
    most = _SHUFFLED_BYTES // (item.shape.num_elements() * item.dtype.size)

    def one_pass(number: tf.Tensor) -> tf.data.Dataset:
        tf.random.set_seed(1)  # of this function's graph, independent of the seed elsewhere
        key = tf.stack([tf.constant(seed or 0, tf.int64), number])
        pass_seed = tf.random.stateless_uniform((), key, None, None, tf.int64)
        return items.shuffle(min(count, max(1, most)), pass_seed)

    if first is None:
        ordered = numbers(seed, None).take(repetitions).flat_map(one_pass)
        total = count * repetitions
    else:
        ordered = numbers(seed, first // count).flat_map(one_pass).skip(first % count)
        total = tf.data.INFINITE_CARDINALITY
    return ordered.apply(tf.data.experimental.assert_cardinality(total))


def flip(batches: tf.data.Dataset, seed: int | None, first: int | None) -> tf.data.Dataset:
    """Mirrors images at random; with the number of the first batch, always the same ones."""

    def flip_batch(batch: Pair, number: tf.Tensor) -> Pair:
        images, labels = batch
        key = [number, seed or 0]
        flipped = tf.random.stateless_uniform(tf.shape(images)[:1], seed=key) < 0.5
        return tf.where(flipped[:, None, None, None], tf.reverse(images, [2]), images), labels

    # Numbers drawn in order make flips reproducible although batches are flipped in parallel.
    return tf.data.Dataset.zip(batches, numbers(seed, first)).map(flip_batch, tf.data.AUTOTUNE)


def finish(
    batches: tf.data.Dataset, labels: bool, class_names: list[str] | None
) -> tf.data.Dataset:
    """Batches of float images in [0, 1], with or without their labels."""

    def finish_batch(images: tf.Tensor, classes: tf.Tensor) -> tf.Tensor | Pair:
        images = tf.image.convert_image_dtype(images, tf.float32)
        images = tf.clip_by_value(images, 0, 1)  # resizing leaves the range by rounding errors
        return (images, classes) if labels else images

    dataset = batches.map(finish_batch, tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE)
    dataset.class_names = class_names
    return dataset
