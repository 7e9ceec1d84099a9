"""`load_images`, one function for all sources of images, and `read_image` for one file."""

import os
from typing import Any

import numpy as np

from keras_ddim.checks import (
    check_choice,
    check_count,
    check_image_shape,
    check_number,
    check_seed,
    require,
)
from keras_ddim.data.flowers import FAMILIES, PLAIN_FAMILIES, check_image_size, draw_flowers

DRAWN = "plain_flowers", "flowers"
FITS = "crop", "pad"


def load_images(
    source: Any = "flowers",
    image_size: int | tuple[int, int] = 64,
    *,
    batch_size: int = 64,
    channels: int | None = None,
    labels: bool = False,
    validation_split: float | None = None,
    fit: str = "crop",
    repetitions: int = 1,
    flip: bool = False,
    cache: bool | str | os.PathLike[str] = True,
    shuffle: bool = True,
    seed: int | None = None,
    num_images: int | None = None,
    data_dir: str | os.PathLike[str] | None = None,
) -> tuple[Any, Any]:
    """Loads images for training and validation, all of one size, with values in [0, 1].

    Args:
        source: Where the images come from:
            - `"flowers"`, the default: pictures drawn by `keras_ddim.draw_flowers`, labelled with
              their family. (Write `"./flowers"` for a folder of that name.)
            - `"plain_flowers"`: the same with `plain=True`, learnt in a few minutes on two CPU
              cores.
            - a path: a folder of PNG, JPEG, GIF, BMP, WebP, TIFF, AVIF, JPEG 2000, PPM or TGA
              files. Its sub-folders are the classes. Of animations, the first frame is read.
              Hidden files are ignored. Unreadable files are skipped with one warning that gives
              the reasons.
            - any other string: a name in TensorFlow Datasets, such as `"oxford_flowers102"`.
            - an array (images, height, width, channels) or (images, height, width), or a tuple
              `(images, labels)` of arrays. Images are floats in [0, 1] or integers in 0..255.
        image_size: Size of the images in pixels, an integer or (height, width). Defaults to 64.
        batch_size: Images in a batch; the last one of an epoch may be smaller. Defaults to 64.
        channels: 1 (grey), 3 (RGB) or 4 (RGBA). `None`, the default, takes the source's (1 or 3 for
            a folder). Transparent images are composited onto white, unless `channels=4`.
        labels: Whether to give pairs (images, labels) instead of images. Defaults to `False`.
        validation_split: Fraction of the images, in [0, 1), to hold out for validation. TensorFlow
            Datasets hold out whole percents of the official training images (Oxford Flowers 102: of
            all images). `None`, the default, takes official validation or test images if there are
            any, else 0.2.
        fit: How images of another shape are fitted. `"crop"`, the default, resizes the largest
            centred part of the right shape. `"pad"` shrinks large images and centres them on black
            (transparent with `channels=4`).
        repetitions: Number of passes through the training images in an epoch. Defaults to 1.
        flip: Whether to mirror half of the training images, at random. Defaults to `False`.
        cache: Where prepared images of a folder or of TensorFlow Datasets are kept. `True`, the
            default, is memory. A path begins the names of files, which later runs with the same
            settings read. `False` prepares the images in every epoch.
        shuffle: Whether to shuffle the training images anew in each epoch. Defaults to `True`.
        seed: Integer for drawing flowers, splitting, shuffling and flipping reproducibly. With
            `None`, the default, only shuffling and flipping differ between runs.
        num_images: Number of images to use, for training and validation together. `None`, the
            default, is all of them; 20,000 flowers.
        data_dir: Folder in which TensorFlow Datasets keeps its data. Defaults to `None`: its own.

    Returns:
        Tuple `(train_dataset, validation_dataset)` of `tf.data.Dataset`s of batches of float32
        images (batch, height, width, channels), or of pairs of these and labels (batch,).
        Validation images come in order, once and unflipped; `validation_dataset` is `None` if
        `validation_split=0`. Both have the attribute `class_names`: a list, or `None`.
        `train_dataset.from_batch(n)` is an endless dataset of full batches from the n-th on. Given
        a `seed`, it repeats the same batches, so that training can resume exactly.

    Raises:
        ValueError: If an argument is not as described, or the source has no readable image.
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
    check_choice("channels", channels, (None, 1, 3, 4))
    check_choice("fit", fit, FITS)
    require(isinstance(cache, (bool, str, os.PathLike)), "cache", "True, False or a path", cache)
    if validation_split is not None:
        validation_split = check_number("validation_split", validation_split, 0, below=1)
    # Here, and not at the top, since these modules import TensorFlow.
    from keras_ddim.data import arrays, pipeline

    options = pipeline.Options(
        (height, width),
        channels,
        fit,
        labels,
        validation_split=0.2 if validation_split is None else validation_split,
        official_split=validation_split is None,
        num_images=num_images,
        seed=seed or 0,
        cache=cache,
    )
    class_names = None
    if isinstance(source, str) and source in DRAWN:
        plain, count = source == "plain_flowers", num_images or 20_000
        source = draw_flowers(count, (height, width), seed or 0, True, "uint8", plain)
        class_names = list(PLAIN_FAMILIES if plain else FAMILIES)
    if not isinstance(source, (str, os.PathLike)):
        train, validation = arrays.load(source, options)
    elif isinstance(source, os.PathLike) or is_path(source):
        from keras_ddim.data import folder

        train, validation, class_names = folder.load(os.fspath(source), options)
    else:
        from keras_ddim.data import tfds

        train, validation, class_names = tfds.load(source, options, data_dir)

    def from_batch(first: int | None) -> Any:
        skipped = None if first is None else first * batch_size
        items = pipeline.passes(train.items, shuffle, seed, repetitions, skipped)
        batches = train.read(items, batch_size)
        batches = pipeline.flip(batches, seed, first) if flip else batches
        return pipeline.finish(batches, labels, class_names)

    train_dataset = from_batch(None)
    train_dataset.from_batch = from_batch
    if validation is None:
        return train_dataset, None
    batches = validation.read(validation.items, batch_size)
    return train_dataset, pipeline.finish(batches, labels, class_names)


def read_image(
    path: str | os.PathLike[str], image_shape: tuple[int, int, int], fit: str = "crop"
) -> np.ndarray:
    """Reads one image file as `load_images` reads those of a folder.

    Args:
        path: An image file in one of the formats of `load_images`, of any size.
        image_shape: The shape to return, (height, width, channels), with 1 (grey), 3 (RGB) or 4
            (RGBA) channels. With 1 or 3, transparent images are composited onto white.
        fit: `"crop"` or `"pad"`, as in `load_images`. Defaults to `"crop"`.

    Returns:
        Array of shape `image_shape`, float32 values in [0, 1].

    Raises:
        ValueError: If an argument is not as described, or the file cannot be read. The message
            has the file's name and the reason.

    Example:

    ```python
    image = keras_ddim.data.read_image("photo.jpg", model.image_shape)
    ```
    """
    image_shape = check_image_shape(image_shape)
    check_choice("image_shape[2]", image_shape[2], (1, 3, 4))
    check_choice("fit", fit, FITS)
    from keras_ddim.data import reading  # imports Pillow

    return reading.read_pixels(os.fspath(path), image_shape, fit) * np.float32(1 / 255)


def is_path(source: str) -> bool:
    """Whether `source` names a folder, not a data set; names of data sets may have slashes."""
    looks_so = source.startswith((".", "~", os.sep)) or source.endswith(("/", os.sep))
    return source not in DRAWN and (looks_so or os.path.exists(source))
