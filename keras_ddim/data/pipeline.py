"""What all sources share: images are resized, recoloured, stored, split, shuffled and batched.

Images are brought to one size once, and kept as small integers in memory or in a file. Only their
indices are then shuffled and repeated, and pixels are looked up batch by batch: the shuffle is
uniform, and takes no memory.
"""

import pathlib
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from keras_ddim.files import write_whole

NO_LABEL = -1
_SHUFFLED_BYTES = 2**28

Pair = tuple[tf.Tensor, tf.Tensor]  # images and labels
Read = Callable[[tf.data.Dataset, int], tf.data.Dataset]


class Options(NamedTuple):
    """Arguments of `load_images` that concern more than one source."""

    height: int
    width: int
    channels: int | None  # None: what the source has
    fit: str
    labels: bool
    validation_split: float
    official_split: bool  # whether the split of a data set's authors, if any, comes first
    num_images: int | None
    seed: int
    cache: bool | str

    def held_out(self, count: int) -> int:
        """How many of the images are kept for validation."""
        return max(1, round(count * self.validation_split)) if self.validation_split else 0

    def with_channels(self, channels: int) -> "Options":
        """These options, with the number of channels of the source if none was asked for."""
        return self._replace(channels=self.channels or channels)


class Part(NamedTuple):
    """Images for training or for validation."""

    items: tf.data.Dataset  # what is shuffled: indices of images, or else the images themselves
    read: Read  # (items, batch_size) -> dataset of batches (images, labels)


# Size and colours


def prepare(images: tf.Tensor, options: Options) -> tf.Tensor:
    """Images (..., height, width, channels) as asked for; integers as uint8, floats as float32."""
    integers = images.dtype.is_integer
    images = _recolour(tf.image.convert_image_dtype(images, tf.float32), options.channels)
    if options.channels == 4:
        # What is transparent must not colour its surroundings when it is averaged with them.
        colours, alphas = images[..., :3], images[..., 3:]
        images = _resize(tf.concat([colours * alphas, alphas], axis=-1), options)
        colours, alphas = images[..., :3], images[..., 3:]
        images = tf.concat([tf.math.divide_no_nan(colours, alphas), alphas], axis=-1)
    else:
        images = _resize(images, options)
    images = tf.clip_by_value(images, 0.0, 1.0)
    images = tf.ensure_shape(images, [*images.shape[:-3], *options[:3]])
    return tf.cast(tf.round(images * 255.0), tf.uint8) if integers else images


def _resize(images: tf.Tensor, options: Options) -> tf.Tensor:
    size, target = tf.shape(images)[-3:-1], tf.constant(options[:2])
    if options.fit == "crop":
        # The other side's length at the target's shape, rounded.
        part = tf.minimum(size, _divide(size[::-1] * target, target[::-1]))
        corner = tf.unstack((size - part) // 2)
        images = tf.image.crop_to_bounding_box(images, *corner, *tf.unstack(part))
        return tf.image.resize(images, target, antialias=True)
    shrunk = tf.minimum(target, _divide(size * target[::-1], size[::-1]))
    smaller = tf.where(tf.reduce_all(size <= target), size, shrunk)
    images = tf.image.resize(images, smaller, antialias=True)
    corner = tf.unstack((target - smaller) // 2)
    return tf.image.pad_to_bounding_box(images, *corner, *options[:2])


def _divide(a: tf.Tensor, b: tf.Tensor) -> tf.Tensor:
    """a / b as an integer of at least 1, rounded."""
    return tf.maximum((2 * a + b) // (2 * b), 1)


def _recolour(images: tf.Tensor, channels: int | None) -> tf.Tensor:
    """Float images with another number of channels; transparent ones are laid on white."""
    given = images.shape[-1]
    if given == channels:
        return images
    if given == 4:
        colours, alphas = images[..., :3], images[..., 3:]
        return _recolour(colours * alphas + (1.0 - alphas), channels)
    if channels == 4:
        return tf.concat([_recolour(images, 3), tf.ones_like(images[..., :1])], axis=-1)
    convert = tf.image.rgb_to_grayscale if channels == 1 else tf.image.grayscale_to_rgb
    return convert(images)


# Storing


def store(elements: tf.data.Dataset, options: Options, *settings: Any) -> tuple[np.ndarray, ...]:
    """All elements (image, label) as two arrays, in memory or in a file named by the settings."""
    count, shape = int(elements.cardinality()), tuple(elements.element_spec[0].shape)
    kind = np.dtype([("image", np.uint8, shape), ("label", np.int64)])

    def fill(records: Any) -> Any:
        start = 0
        for images, labels in with_progress(elements.batch(64).prefetch(1), count):
            stop = start + len(labels)
            records["image"][start:stop], records["label"][start:stop] = images, labels
            start = stop
        return records

    if options.cache is True:
        records = fill(np.empty(count, kind))
    else:
        digest = zlib.crc32(repr((settings, options[:4])).encode())
        path = pathlib.Path(f"{options.cache}-{digest:08x}.npy")
        if not path.exists():
            with write_whole(path) as temporary_path:
                fill(np.lib.format.open_memmap(temporary_path, "w+", kind, (count,))).flush()
        records = np.load(path, mmap_mode="r")
    return records["image"], records["label"]


def with_progress(batches: Iterable[Any], count: int, patience: float = 3.0) -> Iterator[Any]:
    """Passes the batches on, with a progress bar once that has taken `patience` seconds."""
    start, done, bar = time.monotonic(), 0, None
    for batch in batches:
        yield batch
        done += len(batch[0])
        if bar is None and time.monotonic() - start > patience and done < count:
            bar = keras.utils.Progbar(count, unit_name="image")
        if bar is not None:
            bar.update(done)


def look_up(*arrays: np.ndarray) -> Read:
    """Reads batches of images and labels from arrays, by their indices."""

    def find(indices: tf.Tensor) -> tuple[tf.Tensor, ...]:
        # NumPy rather than a tensor: nothing is copied, to a GPU least of all.
        dtypes = [array.dtype for array in arrays]
        found = tf.numpy_function(
            lambda i: [array[i] for array in arrays], [indices], dtypes, stateful=False
        )
        shapes = [(None, *array.shape[1:]) for array in arrays]
        return tuple(tf.ensure_shape(values, shape) for values, shape in zip(found, shapes))

    return lambda items, batch_size: items.batch(batch_size).map(find, tf.data.AUTOTUNE)


def read_each(read: Callable[[tf.Tensor], Pair]) -> Read:
    """Reads images one by one, in each epoch anew."""
    return lambda items, batch_size: items.map(read, tf.data.AUTOTUNE).batch(batch_size)


# Splitting, shuffling, batching


def split(indices: np.ndarray, read: Read, options: Options) -> tuple[Part, Part | None]:
    """Images for training and for validation, chosen at random, each in order."""
    count, held_out = len(indices), options.held_out(len(indices))
    if held_out >= count:
        raise ValueError(
            f"`validation_split` must leave images to train on; `source` has {count}. "
            f"Received: validation_split={options.validation_split}"
        )
    order = indices[np.random.default_rng(options.seed).permutation(count)]
    train, validation = (
        Part(tf.data.Dataset.from_tensor_slices(np.sort(chosen)), read)
        for chosen in (order[held_out:], order[:held_out])
    )
    return train, validation if held_out else None


def shuffle(items: tf.data.Dataset, seed: int | None) -> tf.data.Dataset:
    """Shuffles anew in each epoch: indices uniformly, many images only locally."""
    return items.shuffle(_shuffle_buffer(items), seed=seed, reshuffle_each_iteration=True)


def _shuffle_buffer(items: tf.data.Dataset) -> int:
    item = tf.nest.flatten(items.element_spec)[0]
    most = _SHUFFLED_BYTES // (item.shape.num_elements() * item.dtype.size)
    return min(int(items.cardinality()), max(1, most))


def endless(items: tf.data.Dataset, seed: int, first: int) -> tf.data.Dataset:
    """Pass after pass through the items, from that number of items on.

    Each pass is shuffled by its own number and `seed` alone, not by what was read before.
    """
    count, buffer = int(items.cardinality()), _shuffle_buffer(items)

    def shuffled(number: tf.Tensor) -> tf.data.Dataset:
        tf.random.set_seed(1)  # of this function's graph, whatever it is elsewhere
        key = tf.stack([tf.constant(seed, tf.int64), number])
        return items.shuffle(buffer, tf.random.stateless_uniform((), key, None, None, tf.int64))

    passes = tf.data.Dataset.range(first // count, tf.int64.max)
    endless = passes.flat_map(shuffled).skip(first % count)
    return endless.apply(tf.data.experimental.assert_cardinality(tf.data.INFINITE_CARDINALITY))


def flip(batches: tf.data.Dataset, seed: int | None, first: int | None = None) -> tf.data.Dataset:
    """Mirrors images at random; the same ones each time from the batch of that number on."""
    # A random number for each batch, drawn in order, makes flips reproducible in parallel.
    numbers = tf.data.Dataset.random(seed=seed, rerandomize_each_iteration=True)
    if first is not None:
        numbers = tf.data.Dataset.range(first, tf.int64.max)

    def flip_batch(batch: Pair, number: tf.Tensor) -> Pair:
        images, labels = batch
        key = [number, seed or 0]
        flipped = tf.random.stateless_uniform(tf.shape(images)[:1], seed=key) < 0.5
        return tf.where(flipped[:, None, None, None], tf.reverse(images, [2]), images), labels

    return tf.data.Dataset.zip(batches, numbers).map(flip_batch, tf.data.AUTOTUNE)


def finish(
    batches: tf.data.Dataset, labels: bool, class_names: list[str] | None
) -> tf.data.Dataset:
    """Makes images floats in [0, 1], and leaves the labels out unless they are asked for."""

    def finish_batch(images: tf.Tensor, classes: tf.Tensor) -> tf.Tensor | Pair:
        images = tf.image.convert_image_dtype(images, tf.float32)
        return (images, classes) if labels else images

    dataset = batches.map(finish_batch, tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE)
    dataset.class_names = class_names
    return dataset
