"""Reads image files by Pillow: upright pixels from every format and mode."""

import contextlib
import math
import os
import threading
from collections.abc import Iterator

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError
from PIL import PngImagePlugin as png

from keras_ddim.data.pixels import fit_images

FORMATS = ("PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF", "AVIF", "JPEG2000", "PPM", "TGA")
IMAGE_SUFFIXES = (
    *(".png", ".jpg", ".jpeg", ".gif", ".bmp", ".webp", ".tif", ".tiff", ".avif"),
    *(".jp2", ".ppm", ".pgm", ".pbm", ".tga"),
)
# Keys are EXIF's numbers for orientations.
UPRIGHT = dict(zip(range(2, 9), map(Image.Transpose, (0, 3, 1, 5, 4, 6, 2))))
LARGE_IMAGE = 2**22  # pixels; larger images are first averaged in blocks
LARGEST_IMAGE = 2**28  # pixels in memory, after JPEG has been decoded at a reduced size
ONE_AT_A_TIME, NO_LOCK = threading.Lock(), contextlib.nullcontext()
_LOCK, _readers = threading.Lock(), 0
_limits: tuple[int | None, int, int] = (None, 0, 0)


def read_pixels(path: str, image_shape: tuple[int, int, int], fit: str) -> np.ndarray:
    """An image file as uint8 pixels of `image_shape`, or a `ValueError` with name and reason."""
    try:
        pixels = _read(path, image_shape)
    except Exception as error:  # Pillow raises many
        reason = " ".join(str(error).split()) or type(error).__name__
        if isinstance(error, UnidentifiedImageError):
            reason = f"it is not one of {', '.join(FORMATS)}"
        raise ValueError(f"{path} cannot be read as an image: {reason}") from error
    return fit_images(pixels, image_shape, fit)


def is_grey(path: str) -> bool:
    """Whether an image file has no colours, by its header; True if that is unreadable."""
    try:
        with _open(path) as image:
            return image.mode in ("1", "L", "LA", "I", "F") or image.mode.startswith("I;16")
    except Exception:
        return True


@contextlib.contextmanager
def _open(path: str) -> Iterator[Image.Image]:
    """Opens an image file and reads its header."""
    if not os.path.isfile(path):  # reading from a pipe or a device may never end
        raise OSError("it is not a file" if os.path.exists(path) else "there is no such file")
    Image.init()
    formats = [name for name in FORMATS if name in Image.OPEN]
    # Given a path, Pillow 13 maps TIFF to memory, and then mixes up height and width.
    with _without_limits(), open(path, "rb") as file, Image.open(file, "r", formats) as image:
        yield image


def _read(path: str, image_shape: tuple[int, int, int]) -> np.ndarray:
    """Upright pixels of an image file, uint8 (height, width, 1, 3 or 4).

    Large images are averaged in blocks, and decoded one at a time.
    """
    with _open(path) as image:
        most = max(LARGE_IMAGE, 16 * image_shape[0] * image_shape[1])
        block = _block(image, most)
        with ONE_AT_A_TIME if block > 1 else NO_LOCK:
            image.draft(None, (image.width // block, image.height // block))  # JPEG only
            count, limit = image.width * image.height / 1e6, LARGEST_IMAGE / 1e6
            if count > limit:
                raise ValueError(f"it has {count:.3g} megapixels, more than {limit:.3g}")
            image.load()
            transpose = _transpose(image)
            image = _decode(image, _block(image, most))
    return np.atleast_3d(np.asarray(image if transpose is None else image.transpose(transpose)))


def _block(image: Image.Image, most: int) -> int:
    """Side of the blocks that leave at most `most` pixels."""
    return math.ceil(math.sqrt(image.width * image.height / most))


def _transpose(image: Image.Image) -> Image.Transpose | None:
    """The transpose that makes an image upright; None if EXIF has none or cannot be read."""
    try:
        value = image.getexif()[ExifTags.Base.Orientation]
        return UPRIGHT.get(int(value[0] if isinstance(value, (bytes, tuple)) else value))
    except Exception:
        return None


def _decode(image: Image.Image, block: int) -> Image.Image:
    """A loaded image as grey, RGB or RGBA, its blocks averaged."""
    # Mode I has 16 bits in PPM, 32 in TIFF.
    if image.mode.startswith("I;16") or (image.mode, image.format) == ("I", "PPM"):
        wide = np.asarray(image.convert("I").reduce(block))
        return Image.fromarray(np.rint(wide / 257).astype(np.uint8))
    if image.mode in ("I", "F"):
        kind = "floats" if image.mode == "F" else "signed or 32-bit integers"
        raise ValueError(f"its pixels are {kind}, of unknown range")
    mode = "L" if image.mode in ("1", "L") else "RGB"
    return image.convert("RGBA" if image.has_transparency_data else mode).reduce(block)


@contextlib.contextmanager
def _without_limits() -> Iterator[None]:
    """Lifts Pillow's limits on pixels and text, which are global, while any thread reads."""
    global _readers, _limits
    with _LOCK:
        if not _readers:
            _limits = Image.MAX_IMAGE_PIXELS, png.MAX_TEXT_CHUNK, png.MAX_TEXT_MEMORY
            Image.MAX_IMAGE_PIXELS, png.MAX_TEXT_CHUNK, png.MAX_TEXT_MEMORY = None, 2**26, 2**28
        _readers += 1
    try:
        yield
    finally:
        with _LOCK:
            _readers -= 1
            if not _readers:
                Image.MAX_IMAGE_PIXELS, png.MAX_TEXT_CHUNK, png.MAX_TEXT_MEMORY = _limits
