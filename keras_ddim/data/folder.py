"""Images from the files of a folder, decoded by Pillow; its sub-folders are the classes."""

import contextlib
import math
import os
import threading
import warnings

import numpy as np
import tensorflow as tf
from PIL import Image, ImageOps

from keras_ddim.data import pipeline
from keras_ddim.data.pipeline import NO_LABEL, Options, Pair, Part

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".gif", ".bmp", ".webp")
FORMATS = ("PNG", "JPEG", "GIF", "BMP", "WEBP")
# Images of more pixels than this are made smaller before they are resized.
LARGE_IMAGE = 2**22
ONE_AT_A_TIME, NO_LOCK = threading.Lock(), contextlib.nullcontext()
_UNREADABLE = -2  # in place of a label


def load(folder: str, options: Options) -> tuple[Part, Part | None, list[str] | None]:
    """Images for training and for validation, and the class names."""
    paths, classes, class_names = _list_images(folder, options.labels)
    # A random choice has some of every class; the first images would be of the first classes.
    order = np.random.default_rng(options.seed).permutation(len(paths))
    chosen = np.sort(order[: options.num_images])
    paths, classes = paths[chosen], classes[chosen]
    options = options.with_channels(1 if all(map(_is_grey, paths)) else 3)

    def decode(index: int) -> tuple[np.ndarray, np.int64]:
        try:
            return _read_rgba(paths[index], options), classes[index]
        except Exception:  # whatever Pillow raises, and it raises many, the file is of no use
            return np.zeros((1, 1, 4), np.uint8), np.int64(_UNREADABLE)

    def read(index: tf.Tensor) -> Pair:
        image, label = tf.numpy_function(decode, [index], (tf.uint8, tf.int64))
        image = tf.ensure_shape(image, (None, None, 4))
        return pipeline.prepare(image, options), tf.ensure_shape(label, ())

    elements = tf.data.Dataset.range(len(paths)).map(read, tf.data.AUTOTUNE)
    if options.cache is False:
        batches = pipeline.with_progress(elements.batch(64), len(paths))
        labels = np.concatenate([labels for _, labels in batches])
        read_batches = pipeline.read_each(read)
    else:
        times = [] if options.cache is True else [_modified(path) for path in paths]
        images, labels = pipeline.store(elements, options, paths.tolist(), times)
        read_batches = pipeline.look_up(images, labels)
    _report(paths[labels == _UNREADABLE], len(paths), folder)
    readable = np.flatnonzero(labels != _UNREADABLE)
    return *pipeline.split(readable, read_batches, options), class_names


def _report(unreadable: np.ndarray, count: int, folder: str) -> None:
    """Warns of files that are no images, or raises an error if all are such."""
    if len(unreadable) == count:
        raise ValueError(
            f"`source` must be a folder with readable images; none of its {count} is. "
            f"Received: source={folder!r}"
        )
    if len(unreadable):
        names = [os.path.relpath(path, folder) for path in unreadable[:5]]
        more = ", ..." if len(unreadable) > 5 else ""
        warnings.warn(
            f"{len(unreadable)} of {count} files in {folder!r} cannot be read as images and "
            f"are skipped: {', '.join(names)}{more}",
            stacklevel=4,  # the caller of `load_images`
        )


def _list_images(folder: str, labels: bool) -> tuple[np.ndarray, np.ndarray, list[str] | None]:
    """Paths of the image files in a folder, sorted, their classes, and the classes' names."""
    # However it is written, what is cached of it is found.
    root = os.path.abspath(os.path.expanduser(folder))
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
    folder_names = sorted({names[0] for names in steps if len(names) > 1})
    numbers = {name: number for number, name in enumerate(folder_names)}
    # Names that are not UTF-8 are none that could be printed.
    class_names = [os.fsencode(n).decode("utf-8", "backslashreplace") for n in folder_names]
    classes = np.array([numbers.get(names[0], NO_LABEL) for names in steps], np.int64)
    # Not as texts of NumPy, each of which is as long as the longest.
    return np.array(paths, object), classes, class_names or None


def _modified(path: str) -> int:
    """When a file was last changed; 0 of what is no file, such as a link to nowhere."""
    return os.stat(path).st_mtime_ns if os.path.isfile(path) else 0


def _open(path: str) -> Image.Image:
    if not os.path.isfile(path):  # to read from a pipe or a device may never end
        raise OSError(f"not a file: {path}")
    return Image.open(path, formats=FORMATS)


def _is_grey(path: str) -> bool:
    """Whether an image file has no colours, judging by its header; an unreadable one has none."""
    try:
        with _open(path) as image:
            return image.mode[0] in "1LI"
    except Exception:
        return True


def _read_rgba(path: str, options: Options) -> np.ndarray:
    """Pixels of an image file, upright, as integers of shape (height, width, 4).

    Of a large image, averages of blocks of pixels, which need less memory from there on; and of
    large images, one is decoded at a time.
    """
    with _open(path) as image, ONE_AT_A_TIME if _block(image, options) > 1 else NO_LOCK:
        block = _block(image, options)
        image.draft(None, (image.width // block, image.height // block))  # JPEG can do so itself
        block = _block(image, options)
        if block > 1:
            mode = {"P": "RGBA", "1": "L", "I;16": "I"}.get(image.mode)
            image = (image.convert(mode) if mode else image).reduce(block)
        ImageOps.exif_transpose(image, in_place=True)
        if image.mode.startswith("I"):
            # Pillow would cut 16 bits off at 255 rather than scale them.
            image = Image.fromarray((np.asarray(image) / 257).round().astype(np.uint8))
        return np.asarray(image.convert("RGBA"))


def _block(image: Image.Image, options: Options) -> int:
    """Side of the blocks of pixels that are averaged: 1 unless an image is large."""
    most = max(LARGE_IMAGE, 16 * options.height * options.width)
    return math.ceil(math.sqrt(image.width * image.height / most))
