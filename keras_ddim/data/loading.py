"""`load_images`: one function for all sources of images."""

import os
from typing import Any

from keras_ddim.checks import check_choice, check_count, check_flag, check_number, check_seed
from keras_ddim.data.flowers import FAMILIES, PLAIN_FAMILIES, check_image_size, draw_flowers
from keras_ddim.files import check_path

DRAWN = "plain_flowers", "flowers"


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
              their family. (A folder of that name is `"./flowers"`.)
            - `"plain_flowers"`: the same with `plain=True`, for which a few minutes of training on
              two CPU cores are enough.
            - a path: a folder of PNG, JPEG, GIF (the first frame), BMP or WebP files; its
              sub-folders are the classes. Unreadable files are skipped with one warning.
            - any other string: a name in TensorFlow Datasets, such as `"oxford_flowers102"`.
            - an array of shape (images, height, width, channels) or (images, height, width),
              floats in [0, 1] or integers in 0..255, or a tuple `(images, labels)` of arrays.
        image_size: Size of the images in pixels, an integer or (height, width). Defaults to 64.
        batch_size: Images in a batch; the last one of an epoch may be smaller. Defaults to 64.
        channels: 1 (grey), 3 (RGB) or 4 (RGBA); `None`, the default, for what the source has (of
            a folder 1 or 3). Transparent images are laid on white unless `channels=4`.
        labels: Whether to give pairs (images, labels) instead of images. Defaults to `False`.
        validation_split: Part of the images in [0, 1) that is kept for validation; of TensorFlow
            Datasets, in whole percents of the official training images (Oxford Flowers 102: of all
            images). `None`, the default, stands for the official validation or test images if
            there are any, else for 0.2; 0 for no validation.
        fit: How images of another shape are fitted. `"crop"`, the default, resizes the largest part
            of the right shape in the middle. `"pad"` shrinks what is too large and centres it on
            black (transparent with `channels=4`).
        repetitions: How often each training image is seen in an epoch. Defaults to 1.
        flip: Whether to mirror every other training image, at random. Defaults to `False`.
        cache: Where images of a folder or of TensorFlow Datasets are kept once prepared: `True`,
            the default, for memory; a path for files that begin with it, which later runs with the
            same settings read; `False` to prepare them in every epoch.
        shuffle: Whether to shuffle the training images anew in each epoch. Defaults to `True`.
        seed: Integer for drawing flowers, splitting, shuffling and flipping reproducibly. With
            `None`, the default, only shuffling and flipping differ between runs.
        num_images: How many images to use, for training and validation together. `None`, the
            default, for all; 20,000 of the flowers.
        data_dir: Folder in which TensorFlow Datasets keeps its data, or `None` for its default.

    Returns:
        Tuple `(train_dataset, validation_dataset)` of `tf.data.Dataset`s of batches of float32
        images (batch, height, width, channels), or of pairs of these and of labels (batch,).
        Validation images come in order, once and unflipped; `validation_dataset` is `None` if
        `validation_split=0`. Both have the attribute `class_names`: a list, or `None`. And
        `train_dataset.from_batch(n)` is an endless dataset, of full batches, behind its first n:
        given a `seed`, always the same ones, so that training can resume exactly.

    Raises:
        ValueError: If an argument is not as described, or the source has no readable image.
        FileNotFoundError: If a folder does not exist.
        ImportError: If TensorFlow is not installed.

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
    for name, flag in (("labels", labels), ("flip", flip), ("shuffle", shuffle)):
        check_flag(name, flag)
    check_choice("fit", fit, ("crop", "pad"))
    if not isinstance(cache, bool):
        cache = str(check_path(cache, "cache"))
    if data_dir is not None:
        check_path(data_dir, "data_dir")
    if isinstance(source, (str, os.PathLike)):
        check_path(source, "source")
    if validation_split is not None:
        validation_split = check_number("validation_split", validation_split, 0, below=1)
    try:
        import tensorflow  # noqa: F401
    except ModuleNotFoundError as error:
        raise ImportError(
            "`load_images` needs TensorFlow; install it with `pip install tensorflow`."
        ) from error
    # Not at the top of the file: these modules import TensorFlow and what reads their source.
    from keras_ddim.data import arrays, pipeline

    options = pipeline.Options(
        height,
        width,
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

    def train_batches(items: Any, first: int | None = None) -> Any:
        batches = train.read(items, batch_size)
        if flip:
            batches = pipeline.flip(batches, seed, first)
        return pipeline.finish(batches, labels, class_names)

    def from_batch(first: int) -> Any:
        skipped = first * batch_size
        if shuffle:
            return train_batches(pipeline.endless(train.items, options.seed, skipped), first)
        return train_batches(train.items.repeat().skip(skipped), first)

    items = pipeline.shuffle(train.items, seed) if shuffle else train.items
    train_dataset = train_batches(items.repeat(repetitions))
    train_dataset.from_batch = from_batch
    if validation is None:
        return train_dataset, None
    batches = validation.read(validation.items, batch_size)
    return train_dataset, pipeline.finish(batches, labels, class_names)


def is_path(source: str) -> bool:
    """Whether a folder is meant; names in TensorFlow Datasets may have slashes, too."""
    looks_so = source.startswith((".", "~")) or source.endswith(("/", os.sep))
    looks_so = looks_so or os.path.isabs(source) or os.path.exists(source)
    return looks_so and source not in DRAWN
