"""Data: images from the built-in flowers, TensorFlow Datasets, a folder or arrays, as `tf.data`.

Every source is brought to one size once, as small integers in memory or in a file. What is then
shuffled, repeated and batched are only the images' numbers, and pixels are looked up batch by
batch: the shuffle is perfect, and costs no memory.
"""

import os
import pathlib
import time
import warnings
import zlib
from collections.abc import Callable
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

from keras_ddim.checks import (
    ALLOWED_IMAGES,
    RANGE_TOLERANCE,
    check_choice,
    check_count,
    check_seed,
)
from keras_ddim.files import write_whole
from keras_ddim.flowers import FAMILIES, check_image_size, draw_flowers

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".gif", ".bmp", ".webp")
DEFAULT_VALIDATION_SPLIT = 0.2

# Where it is usual to pool the official splits: this one's "train" is a mere eighth of its images.
_POOLED_SPLITS = {"oxford_flowers102": ("train", "validation", "test")}
_SHUFFLED_BYTES = 2**28
_NO_LABEL = -1


class _Part(NamedTuple):
    """Images for training or for validation."""

    items: tf.data.Dataset  # what is shuffled: numbers of images, or else the images themselves
    item_bytes: int
    read: Callable  # (items, batch_size) -> dataset of batches (images, labels)


def load_images(
    source="flowers",
    image_size=64,
    *,
    batch_size=64,
    channels=None,
    labels=False,
    validation_split=None,
    fit="crop",
    repetitions=1,
    flip=False,
    cache=True,
    shuffle=True,
    seed=None,
    num_images=None,
    data_dir=None,
):
    """Loads images for training and validation, all of one size, with values in [0, 1].

    Args:
        source: Where the images come from:
            - `"flowers"`, the default: pictures drawn by `keras_ddim.flowers.draw_flowers`, their
              family as label. They need no download. (A folder of that name is `"./flowers"`.)
            - a path: a folder of PNG, JPEG, GIF (the first frame), BMP or WebP files; its
              sub-folders are the classes. Unreadable files are skipped with one warning.
            - any other string: a name in TensorFlow Datasets, such as `"oxford_flowers102"`.
            - an array of shape (images, height, width, channels) or (images, height, width),
              floats in [0, 1] or integers in 0..255, or a tuple `(images, labels)` of arrays.
        image_size: Size of the images in pixels, an integer or (height, width). Defaults to 64.
        batch_size: Images in a batch; the last one of an epoch may be smaller. Defaults to 64.
        channels: 1 (grey), 3 (RGB) or 4 (RGBA); `None`, the default, for what the source has (of
            a folder 1 if all its files are grey, else 3). Transparent images are laid on white
            unless `channels=4`.
        labels: Whether to give pairs (images, labels) instead of images. Defaults to `False`.
        validation_split: Part of the images in [0, 1) that is kept for validation; of a data set
            of TensorFlow Datasets, in whole percents, of its official training images, or of all
            images of Oxford Flowers 102. `None`, the default, stands for the official validation
            or test images if there are any, else for 0.2; 0 for no validation.
        fit: How images of another shape are fitted. `"crop"`, the default, cuts the largest part
            of the right shape out of the middle and resizes it. `"pad"` shrinks what is too large
            and centres it on black (transparent with `channels=4`); it enlarges nothing.
        repetitions: How often each training image comes in an epoch. Defaults to 1.
        flip: Whether to mirror every other training image, at random. Defaults to `False`.
        cache: Where images of a folder or of TensorFlow Datasets are kept once decoded and
            resized: `True`, the default, for memory; a path for files that begin with it, which
            another run with the same settings takes up; `False` to decode them in every epoch.
        shuffle: Whether to shuffle the training images anew in each epoch. Defaults to `True`.
        seed: Integer for drawing flowers, splitting, shuffling and flipping reproducibly. With
            `None`, the default, only shuffling and flipping differ between runs, so that a run
            that is resumed never trains on what it was validated on.
        num_images: How many images to use, for training and validation together. `None`, the
            default, for all; 4,000 of the flowers.
        data_dir: Folder in which TensorFlow Datasets keeps its data, or `None` for its default.

    Returns:
        Tuple `(train_dataset, validation_dataset)` of `tf.data.Dataset`s of batches of float32
        images of shape (batch, height, width, channels), or of pairs of these and of labels of
        shape (batch,). Validation images come in order, once and unflipped;
        `validation_dataset` is `None` if `validation_split=0`. The datasets have an attribute
        `class_names`: a list of the names of the classes, or `None`.

    Raises:
        ValueError: If an argument is out of its range, or the source has no readable image.
        FileNotFoundError: If a folder does not exist.

    Example:

    >>> train_dataset, validation_dataset = load_images("flowers", 32, batch_size=100)
    >>> train_dataset.element_spec
    TensorSpec(shape=(None, 32, 32, 3), dtype=tf.float32, name=None)
    """
    height, width = check_image_size(image_size)
    batch_size = check_count("batch_size", batch_size)
    repetitions = check_count("repetitions", repetitions)
    seed = check_seed(seed)
    if num_images is not None:
        num_images = check_count("num_images", num_images)
    if channels not in (None, 1, 3, 4):
        raise ValueError(f"`channels` must be None, 1, 3 or 4. Received: channels={channels!r}")
    check_choice("fit", fit, ("crop", "pad"))
    if not isinstance(cache, (bool, str, os.PathLike)) or cache == "":
        raise ValueError(f"`cache` must be True, False or a path. Received: cache={cache!r}")
    if validation_split is not None and not (
        isinstance(validation_split, (int, float)) and 0 <= validation_split < 1
    ):
        raise ValueError(
            "`validation_split` must be None or a number of at least 0 and below 1. "
            f"Received: validation_split={validation_split!r}"
        )

    prepare = _Prepare(height, width, channels, fit)
    options = {"validation_split": validation_split, "num_images": num_images, "seed": seed or 0}
    if isinstance(source, (str, os.PathLike)):
        if source == "flowers":
            options["num_images"] = num_images or 4000
            drawn = draw_flowers(options["num_images"], (height, width), seed or 0, True, "uint8")
            *parts, class_names = _from_arrays(drawn, prepare, labels, **options)
            class_names = list(FAMILIES)
        elif _is_path(source):
            source = os.fspath(source)
            *parts, class_names = _from_folder(source, prepare, labels, cache, **options)
        else:
            *parts, class_names = _from_tfds(source, data_dir, prepare, labels, cache, **options)
    else:
        *parts, class_names = _from_arrays(source, prepare, labels, **options)

    datasets = []
    for part, training in zip(parts, (True, False)):
        dataset = part and _pipeline(
            part,
            batch_size,
            labels,
            shuffle=shuffle and training,
            repetitions=repetitions if training else 1,
            flip=flip and training,
            seed=seed,
        )
        if dataset is not None:
            dataset.class_names = class_names
        datasets.append(dataset)
    return tuple(datasets)


def _pipeline(part, batch_size, labels, shuffle, repetitions, flip, seed):
    """What `load_images` returns, from one part of the images."""
    items = part.items
    if shuffle:
        buffer = min(int(items.cardinality()), max(1, _SHUFFLED_BYTES // part.item_bytes))
        items = items.shuffle(buffer, seed=seed, reshuffle_each_iteration=True)
    batches = part.read(items.repeat(repetitions), batch_size)
    # A random number for each batch, drawn in order, makes flips reproducible in parallel.
    numbers = tf.data.Dataset.random(seed=seed, rerandomize_each_iteration=True)

    def finish(batch, number):
        images, classes = batch
        images = tf.image.convert_image_dtype(images, tf.float32)
        if flip:
            flipped = tf.random.stateless_uniform(tf.shape(images)[:1], seed=[number, 0]) < 0.5
            images = tf.where(flipped[:, None, None, None], tf.reverse(images, [2]), images)
        return (images, classes) if labels else images

    dataset = tf.data.Dataset.zip(batches, numbers).map(finish, tf.data.AUTOTUNE)
    return dataset.prefetch(tf.data.AUTOTUNE)


# Geometry and colours


class _Prepare:
    """Brings images to one size and number of channels.

    Calling it takes images of shape (..., height, width, channels), the leading dimension being
    optional and the number of channels static. Integer images become uint8, float ones float32.
    """

    def __init__(self, height, width, channels, fit):
        self.height, self.width, self.channels, self.fit = height, width, channels, fit

    @property
    def shape(self):
        return (self.height, self.width, self.channels)

    def __call__(self, images):
        integers = images.dtype.is_integer
        images = _recolour(tf.image.convert_image_dtype(images, tf.float32), self.channels)
        if self.channels == 4:
            # What is transparent must not colour its surroundings when it is averaged with them.
            colours, alphas = images[..., :3], images[..., 3:]
            images = self._resize(tf.concat([colours * alphas, alphas], axis=-1))
            colours = tf.math.divide_no_nan(images[..., :3], images[..., 3:])
            images = tf.concat([colours, images[..., 3:]], axis=-1)
        else:
            images = self._resize(images)
        images = tf.clip_by_value(images, 0.0, 1.0)
        images = tf.ensure_shape(images, [None] * (len(images.shape) - 3) + list(self.shape))
        return tf.cast(tf.round(images * 255.0), tf.uint8) if integers else images

    def _resize(self, images):
        target = tf.constant([self.height, self.width])
        size = tf.shape(images)[-3:-1]
        if self.fit == "crop":
            # The other side's length at the target's shape, rounded.
            part = tf.minimum(size, _divide(size[::-1] * target, target[::-1]))
            images = tf.image.crop_to_bounding_box(images, *_both((size - part) // 2), *_both(part))
            return tf.image.resize(images, target, antialias=True)
        shrunk = tf.minimum(target, _divide(size * target[::-1], size[::-1]))
        smaller = tf.where(tf.reduce_all(size <= target), size, shrunk)
        images = tf.image.resize(images, smaller, antialias=True)
        margin = (target - smaller) // 2
        return tf.image.pad_to_bounding_box(images, *_both(margin), *_both(target))


def _both(pair):
    return pair[0], pair[1]


def _divide(a, b):
    """a / b as an integer of at least 1, rounded."""
    return tf.maximum((2 * a + b) // (2 * b), 1)


def _recolour(images, channels):
    """Float images with another number of channels."""
    given = images.shape[-1]
    if given == channels:
        return images
    if given == 4:
        colours, alphas = images[..., :3], images[..., 3:]
        images = colours * alphas + (1.0 - alphas)
    elif channels == 4:
        images = tf.concat([_recolour(images, 3), tf.ones_like(images[..., :1])], axis=-1)
    if channels == 1 and images.shape[-1] == 3:
        images = tf.image.rgb_to_grayscale(images)
    if channels == 3 and images.shape[-1] == 1:
        images = tf.image.grayscale_to_rgb(images)
    return images


# Splitting and storing


def _split(count, validation_split, seed):
    """Numbers of the images for training and for validation, each in order."""
    if validation_split is None:
        validation_split = DEFAULT_VALIDATION_SPLIT
    held_out = max(1, round(count * validation_split)) if validation_split else 0
    if held_out >= count:
        raise ValueError(
            f"`validation_split` must leave images to train on; `source` has {count}. "
            f"Received: validation_split={validation_split}"
        )
    order = np.random.default_rng(seed).permutation(count)
    return np.sort(order[held_out:]), np.sort(order[:held_out])


def _stored_part(images, labels, indices):
    """The images of these numbers, looked up in arrays."""
    if not len(indices):
        return None

    def look_up(array, numbers):
        # NumPy rather than a tensor: nothing is copied, to a GPU least of all.
        found = tf.numpy_function(lambda i: array[i], [numbers], array.dtype, stateful=False)
        found.set_shape((None, *array.shape[1:]))
        return found

    def read(items, batch_size):
        return items.batch(batch_size).map(
            lambda numbers: (look_up(images, numbers), look_up(labels, numbers)),
            tf.data.AUTOTUNE,
        )

    return _Part(tf.data.Dataset.from_tensor_slices(indices), indices.itemsize, read)


def _store(elements, shape, path=None):
    """Reads all elements (image, label, readable) into one array, in memory or in a file."""
    kind = np.dtype([("image", np.uint8, shape), ("label", np.int64), ("readable", bool)])
    count = int(elements.cardinality())

    def fill(records):
        start = 0
        for batch in _with_progress(elements.batch(64).prefetch(1), count):
            stop = start + len(batch[0])
            for field, values in zip(kind.names, batch):
                records[field][start:stop] = values
            start = stop
        return records

    if path is None:
        return fill(np.empty(count, kind))
    if not path.exists():
        with write_whole(path) as temporary_path:
            fill(np.lib.format.open_memmap(temporary_path, "w+", kind, (count,))).flush()
    return np.load(path, mmap_mode="r")


def _cache_path(cache, *settings):
    """File for images of these settings; `None` for memory."""
    if cache is True:
        return None
    digest = zlib.crc32(repr(settings).encode())
    return pathlib.Path(f"{os.fspath(cache)}-{digest:08x}.npy")


def _with_progress(batches, count, patience=3.0):
    """Passes the batches on, with a progress bar once that has taken `patience` seconds."""
    start, done, bar = time.monotonic(), 0, None
    for batch in batches:
        yield batch
        done += len(batch[0])
        if bar is None and time.monotonic() - start > patience and done < count:
            bar = keras.utils.Progbar(count, unit_name="image")
        if bar is not None:
            bar.update(done)


# Arrays


def _from_arrays(source, prepare, labels, validation_split, num_images, seed):
    """Parts for training and validation, and the class names (unknown here)."""
    images, classes = source if isinstance(source, tuple) and len(source) == 2 else (source, None)
    images = _check_arrays(images)[:num_images]
    if labels and classes is None:
        raise ValueError("`labels=True` needs `source` to be a tuple (images, labels) of arrays.")
    classes = np.full(len(images), _NO_LABEL) if classes is None else np.asarray(classes)
    classes = classes[:num_images] if classes.ndim else classes
    if classes.dtype.kind not in "biuf" or classes.shape[:1] != images.shape[:1]:
        raise ValueError(
            f"The labels in `source` must be one number for each of its {len(images)} images. "
            f"Received: labels of shape {classes.shape} and dtype {classes.dtype}"
        )
    prepare.channels = prepare.channels or images.shape[-1]
    if images.shape[1:] != prepare.shape:
        prepared = np.empty((len(images), *prepare.shape), images.dtype)
        for start in range(0, len(images), 256):
            batch = slice(start, start + 256)
            prepared[batch] = prepare(tf.convert_to_tensor(images[batch]))
        images = prepared
    train, validation = _split(len(images), validation_split, seed)
    return *(_stored_part(images, classes, part) for part in (train, validation)), None


def _check_arrays(images):
    """Images as uint8 or float32 array of four dimensions."""
    allowed = (
        "`source` must be a string, a path, or an array of images of shape (images, height, "
        "width, channels), with 1, 3 or 4 channels, or (images, height, width)"
    )
    if not hasattr(images, "__array__") and not isinstance(images, list):
        raise ValueError(f"{allowed}. Received: source of type {type(images).__name__}")
    try:
        images = np.asarray(images)
    except ValueError:
        raise ValueError(f"{allowed}. Received: a list of images of different shapes") from None
    shape = images.shape
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim != 4 or images.shape[-1] not in (1, 3, 4) or not images.size:
        raise ValueError(f"{allowed}. Received: source of shape {shape}")
    if images.dtype.kind not in "uif":
        raise ValueError(f"{ALLOWED_IMAGES}. Received: source of dtype {images.dtype}")
    low, high = images.min(), images.max()
    tolerance, limit = (RANGE_TOLERANCE, 1) if images.dtype.kind == "f" else (0, 255)
    # Negated, so that NaN, which compares as False, is caught.
    if not (low >= -tolerance and high <= limit + tolerance):
        raise ValueError(f"{ALLOWED_IMAGES}. Received: source with values from {low} to {high}")
    if images.dtype.kind != "f":
        return images.astype(np.uint8, copy=False)
    if low < 0 or high > 1:
        images = images.clip(0, 1)
    return images.astype(np.float32, copy=False)


# Folders


def _is_path(source):
    """Whether a folder is meant; names in TensorFlow Datasets may have slashes, too."""
    return (
        not isinstance(source, str)
        or os.path.exists(source)
        or os.path.isabs(source)
        or source.startswith((".", "~"))
        or source.endswith(("/", os.sep))
    )


def _from_folder(source, prepare, labels, cache, validation_split, num_images, seed):
    """Parts for training and validation, and the class names."""
    paths, classes, class_names = _list_images(source, labels)
    if num_images is not None and num_images < len(paths):
        # Some of every class, rather than the first classes.
        chosen = np.random.default_rng(seed).permutation(len(paths))[:num_images]
        paths, classes = paths[np.sort(chosen)], classes[np.sort(chosen)]
    prepare.channels = prepare.channels or (1 if all(map(_is_grey, paths)) else 3)

    def read_image(path):
        image, readable = tf.numpy_function(_read_rgba, [path], (tf.uint8, tf.bool))
        image.set_shape((None, None, 4))
        readable.set_shape(())
        return prepare(image), readable

    def read(number):
        image, readable = read_image(tf.gather(paths, number))
        return image, tf.gather(classes, number), readable

    elements = tf.data.Dataset.range(len(paths)).map(read, tf.data.AUTOTUNE)
    if cache is False:
        flags = elements.map(lambda image, label, readable: (readable,)).batch(64)
        flags = _with_progress(flags, len(paths))
        readable = np.concatenate([flag.numpy() for (flag,) in flags])
    else:
        modified = [os.stat(path).st_mtime_ns for path in paths] if cache is not True else []
        file = _cache_path(cache, *paths, modified, prepare.shape, prepare.fit)
        records = _store(elements, prepare.shape, file)
        readable = records["readable"]

    unreadable = [os.path.relpath(path, source) for path in paths[~readable]]
    if len(unreadable) == len(paths):
        raise ValueError(
            f"`source` must be a folder with readable images; none of its {len(paths)} is. "
            f"Received: source={source!r}"
        )
    if unreadable:
        more = ", ..." if len(unreadable) > 5 else ""
        warnings.warn(
            f"{len(unreadable)} of {len(paths)} files in {source!r} cannot be read as images and "
            f"are skipped: {', '.join(unreadable[:5])}{more}",
            stacklevel=3,
        )
    numbers = np.flatnonzero(readable)
    parts = [numbers[part] for part in _split(len(numbers), validation_split, seed)]
    if cache is not False:
        images, stored = records["image"], records["label"]
        return *(_stored_part(images, stored, part) for part in parts), class_names

    def read_batches(items, batch_size):
        decoded = items.map(read, tf.data.AUTOTUNE)
        return decoded.map(lambda image, label, readable: (image, label)).batch(batch_size)

    def part_of(numbers):
        items = tf.data.Dataset.from_tensor_slices(numbers)
        return _Part(items, numbers.itemsize, read_batches) if len(numbers) else None

    return *map(part_of, parts), class_names


def _list_images(folder, labels):
    """Paths of the image files in a folder, sorted, their classes, and the classes' names."""
    root = os.path.expanduser(folder)
    if not os.path.exists(root):
        raise FileNotFoundError(f"`source` must be an existing folder. Received: source={folder!r}")
    if not os.path.isdir(root):
        raise ValueError(f"`source` must be a folder, not a file. Received: source={folder!r}")
    paths = []
    for parent, folders, files in os.walk(root):
        # Hidden ones are thumbnails and the like.
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if name.lower().endswith(IMAGE_SUFFIXES) and not name.startswith("."):
                paths.append(os.path.join(parent, name))
    if not paths:
        raise ValueError(
            f"`source` must be a folder with image files ({', '.join(IMAGE_SUFFIXES)}); it has "
            f"none. Received: source={folder!r}"
        )
    steps = [os.path.relpath(path, root).split(os.sep) for path in paths]
    classless = [names[0] for names in steps if len(names) == 1]
    if labels and classless:
        raise ValueError(
            "`labels=True` needs `source` to be a folder whose images are all in sub-folders, one "
            f"for each class; {classless[0]!r} is not. Received: source={folder!r}"
        )
    class_names = sorted({names[0] for names in steps if len(names) > 1})
    numbers = {name: number for number, name in enumerate(class_names)}
    classes = np.array([numbers.get(names[0], _NO_LABEL) for names in steps], np.int64)
    return np.array(paths), classes, class_names or None


def _is_grey(path):
    """Whether an image file has no colours, judging by its header; an unreadable one has none."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            return image.mode[0] in "1LI"
    except Exception:
        return True


def _read_rgba(path):
    """Pixels of a file as array (height, width, 4) of integers, and whether it is readable."""
    from PIL import Image, ImageOps

    try:
        with Image.open(path.decode()) as image:
            image = ImageOps.exif_transpose(image)
            if image.mode.startswith("I"):
                # Pillow would cut 16 bits off at 255 rather than scale them.
                image = Image.fromarray((np.asarray(image) / 257).round().astype(np.uint8))
            return np.asarray(image.convert("RGBA")), np.True_
    except Exception:  # whatever Pillow raises, and it raises many, the file is of no use
        return np.zeros((1, 1, 4), np.uint8), np.False_


# TensorFlow Datasets


def _from_tfds(source, data_dir, prepare, labels, cache, validation_split, num_images, seed):
    """Parts for training and validation, and the class names."""
    builder = _make_builder(source, data_dir)
    image_key, label_key, class_names = _find_features(builder, source, labels)
    splits = _choose_splits(builder, source, validation_split)
    prepare.channels = prepare.channels or builder.info.features[image_key].shape[-1]

    fixed_size = None not in builder.info.features[image_key].shape

    def to_elements(example):
        images = example[image_key]
        count = tf.shape(images)[:1] if fixed_size else []
        labels = tf.cast(example[label_key], tf.int64) if label_key else tf.fill(count, _NO_LABEL)
        return prepare(images), tf.cast(labels, tf.int64), tf.fill(count, True)

    limits = [None, None]
    if num_images is not None:
        part = DEFAULT_VALIDATION_SPLIT if validation_split is None else validation_split
        held_out = max(1, round(num_images * part)) if part else 0
        limits = [max(1, num_images - held_out), held_out]

    parts = []
    for split, limit in zip(splits, limits):
        if split is None:
            parts.append(None)
            continue
        examples = builder.as_dataset(split=split, shuffle_files=False)
        examples = examples if limit is None else examples.take(limit)
        if examples.cardinality() == 0:
            raise ValueError(
                f"`source` must have images in each split; {split!r} has none. "
                f"Received: source={source!r}"
            )
        count = examples.cardinality()
        if fixed_size:  # many at once is faster
            elements = examples.batch(256).map(to_elements, tf.data.AUTOTUNE).unbatch()
            elements = elements.apply(tf.data.experimental.assert_cardinality(count))
        else:
            elements = examples.map(to_elements, tf.data.AUTOTUNE)
        if cache is False:
            parts.append(_Part(elements, int(np.prod(prepare.shape)), _batch_elements))
        else:
            name = builder.info.full_name
            file = _cache_path(cache, name, data_dir, split, limit, prepare.shape, prepare.fit)
            records = _store(elements, prepare.shape, file)
            indices = np.arange(len(records))
            parts.append(_stored_part(records["image"], records["label"], indices))
    return *parts, class_names


def _batch_elements(elements, batch_size):
    return elements.map(lambda image, label, readable: (image, label)).batch(batch_size)


def _make_builder(source, data_dir):
    """The builder of a data set that is ready to be read."""
    import tensorflow_datasets as tfds

    if data_dir is not None and not os.path.isdir(data_dir):
        raise FileNotFoundError(
            f"`data_dir` must be an existing folder. Received: data_dir={str(data_dir)!r}"
        )
    try:
        builder = tfds.builder(source, data_dir=data_dir)
    except Exception as error:
        raise ValueError(
            '`source` must be "flowers", an existing folder, or a name in TensorFlow Datasets. '
            f"Received: source={source!r} ({_first_line(error)})"
        ) from None
    try:
        builder.download_and_prepare()
    except Exception as error:
        raise ValueError(
            "`source` must be a data set that is in `data_dir` or can be downloaded. Received: "
            f"source={source!r}, data_dir={data_dir and str(data_dir)!r} ({_first_line(error)})"
        ) from None
    return builder


def _first_line(error):
    return f"{type(error).__name__}: {error}".splitlines()[0][:200]


def _find_features(builder, source, labels):
    """Names of the image and of the label in an example, and the classes' names."""
    import tensorflow_datasets as tfds

    features = builder.info.features

    def first(kind, usual):
        keys = [key for key, feature in features.items() if isinstance(feature, kind)]
        return usual if usual in keys else next(iter(keys), None)

    image_key = first(tfds.features.Image, "image")
    label_key = first(tfds.features.ClassLabel, "label")
    if image_key is None:
        raise ValueError(
            f"`source` must be a data set of images; its features are {', '.join(features)}. "
            f"Received: source={source!r}"
        )
    if labels and label_key is None:
        raise ValueError(
            f"`labels=True` needs `source` to have a class label; its features are "
            f"{', '.join(features)}. Received: source={source!r}"
        )
    return image_key, label_key, features[label_key].names if label_key else None


def _choose_splits(builder, source, validation_split):
    """What to read for training and for validation, as TensorFlow Datasets writes it."""
    official = list(builder.info.splits)
    pooled = _POOLED_SPLITS.get(builder.name)
    if pooled is None:
        for name in ("validation", "test"):
            if validation_split is None and {"train", name} <= set(official):
                return "train", name
        pooled = ["train"] if "train" in official else official
    if not pooled:
        raise ValueError(f"`source` must have splits. Received: source={source!r}")
    if validation_split is None:
        validation_split = DEFAULT_VALIDATION_SPLIT
    if not validation_split:
        return "+".join(pooled), None
    percent = min(max(round(100 * (1 - validation_split)), 1), 99)
    return tuple(
        "+".join(f"{name}[{cut}]" for name in pooled) for cut in (f":{percent}%", f"{percent}%:")
    )
