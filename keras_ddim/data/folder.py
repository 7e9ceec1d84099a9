"""Images from the files of a folder; its sub-folders are the classes."""

import os
import pathlib
import warnings
from collections.abc import Iterator

import numpy as np
import tensorflow as tf

from keras_ddim.checks import require
from keras_ddim.data.pipeline import (
    NO_LABEL,
    Options,
    Pair,
    Part,
    look_up,
    split,
    store,
)
from keras_ddim.data.reading import IMAGE_SUFFIXES, is_grey, read_pixels
from keras_ddim.progress import Progress

# Thumbnails and bins that network drives and archives put beside pictures.
IGNORED_FOLDERS = ("@eaDir", "@__thumb", "@Recycle", "#recycle", "$RECYCLE.BIN", "__MACOSX")
MOST_REASONS = 10
_UNREADABLE = -2  # in place of a label


def load(folder: str, options: Options) -> tuple[Part, Part | None, list[str] | None]:
    """Images for training and for validation, and the class names."""
    paths, classes, class_names, unsupported = _list_images(folder, options.labels)
    # At random, to have images of every class.
    order = np.random.default_rng(options.seed).permutation(len(paths))
    chosen = np.sort(order[: options.num_images])
    paths, classes = [paths[i] for i in chosen], classes[chosen]
    has_channels = options.channels or not all(map(is_grey, paths))
    shape, reasons = options.shape_of(3 if has_channels else 1), {}

    def decode(index: int) -> tuple[np.ndarray, np.int64]:
        try:
            return read_pixels(paths[index], shape, options.fit), classes[index]
        except ValueError as error:
            reasons[index] = str(error)
            return np.zeros(shape, np.uint8), np.int64(_UNREADABLE)

    def read(index: tf.Tensor) -> Pair:
        image, label = tf.numpy_function(decode, [index], (tf.uint8, tf.int64))
        return tf.ensure_shape(image, shape), tf.ensure_shape(label, ())

    elements = tf.data.Dataset.range(len(paths)).map(read, tf.data.AUTOTUNE)
    if options.cache is False:
        progress, found = Progress(len(paths), "image"), []
        for _, batch_labels in elements.batch(64):
            found.append(batch_labels)
            progress.advance(len(batch_labels))
        labels = np.concatenate(found)

        def read_batches(items: tf.data.Dataset, batch_size: int) -> tf.data.Dataset:
            return items.map(read, tf.data.AUTOTUNE).batch(batch_size)
    else:
        # False for a broken link.
        times = [os.path.isfile(path) and os.stat(path).st_mtime_ns for path in paths]
        images, labels = store(elements, options, paths, times)
        read_batches = look_up(images, labels)  # type: ignore[assignment]
    unreadable = np.flatnonzero(labels == _UNREADABLE).tolist()
    for index in unreadable[:MOST_REASONS]:
        decode(index)  # once more, as a cache file keeps no reasons
    said = [reasons[index] for index in unreadable[:MOST_REASONS] if index in reasons]
    said += [f"and {len(unreadable) - MOST_REASONS} more"] if len(unreadable) > MOST_REASONS else []
    allowed = f"a folder with readable images ({'; '.join(said)})"
    require(len(unreadable) < len(paths), "source", allowed, folder)
    said += [f"{place} has only files of other types" for place in sorted(set(unsupported))]
    if said:
        skipped, total = len(unreadable) + len(unsupported), len(paths) + len(unsupported)
        warnings.warn(
            f"{skipped} of {total} files in {folder!r} are skipped: {'; '.join(said)}",
            stacklevel=3,  # the caller of `load_images`
        )
    readable = np.flatnonzero(labels != _UNREADABLE)
    return *split(readable, read_batches, options), class_names


def _list_images(
    folder: str, labels: bool
) -> tuple[list[str], np.ndarray, list[str] | None, list[str]]:
    """Paths of the images in a folder, their classes, the class names and unsupported sub-folders.

    The last are those without any supported file, each as often as it has files.
    """
    # Absolute, as caches are found again by their files' paths.
    root = os.path.abspath(os.path.expanduser(folder))
    if not os.path.exists(root):
        raise FileNotFoundError(f"`source` must be an existing folder, got {folder!r}")
    require(os.path.isdir(root), "source", "a folder, not a file", folder)
    places: dict[str, str] = {}  # each file's sub-folder, "" for none
    for path in _walk(root):
        places[path] = os.path.dirname(os.path.relpath(path, root)).split(os.sep)[0]
    paths = [path for path in places if path.lower().endswith(IMAGE_SUFFIXES)]
    allowed = f"a folder with image files ({', '.join(IMAGE_SUFFIXES)})"
    require(paths, "source", allowed, folder)
    classless = [path for path in paths if not places[path]]
    allowed = "a folder whose images are all in sub-folders, its classes, if `labels=True`"
    require(not (labels and classless), "source", allowed, classless[:1])
    names = sorted({places[path] for path in paths} - {""})
    numbers = {"": NO_LABEL, **{name: number for number, name in enumerate(names)}}
    classes = np.array([numbers[places[path]] for path in paths], np.int64)
    unsupported = [os.path.join(root, place) for place in places.values() if place not in numbers]
    # Names that are not UTF-8 cannot be printed.
    class_names = [os.fsencode(name).decode("utf-8", "backslashreplace") for name in names]
    return paths, classes, class_names or None, unsupported


def _walk(folder: str, above: frozenset[pathlib.Path] = frozenset()) -> Iterator[str]:
    """Paths of all files in a folder, in order; links are followed unless they lead up."""
    place = pathlib.Path(folder).resolve()
    above = above | {place, *place.parents}
    for name in sorted(os.listdir(folder)):
        path = os.path.join(folder, name)
        if name.startswith(".") or name in IGNORED_FOLDERS:
            continue
        if not os.path.isdir(path):
            yield path
        elif pathlib.Path(path).resolve() not in above:
            yield from _walk(path, above)
