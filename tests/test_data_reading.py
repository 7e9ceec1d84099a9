"""`read_image`: every format, mode and orientation as the right pixels, or a reason."""

import struct
import warnings

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from keras_ddim.data import load_images, read_image
from keras_ddim.data.reading import FORMATS, IMAGE_SUFFIXES
from tests.test_data import gather

Image.init()
MODES = "1", "L", "LA", "P", "P with transparency", "RGB", "RGBA", "CMYK", "YCbCr", "I;16", "I", "F"
WITH_EXIF = {"AVIF", "JPEG", "MPO", "PNG", "TIFF", "WEBP"}
# How a picture is stored for each orientation, from the EXIF standard.
STORED = dict(zip(range(2, 9), map(Image.Transpose, (0, 3, 1, 5, 2, 6, 4))))


def picture(mode):
    """Six squares in a mode, their right pixels, and these with a transparent square on white."""
    square = np.ones((16, 16), np.uint8)
    grey = np.kron(np.array([[255, 0, 90], [128, 64, 200]], np.uint8), square)
    colours = np.stack([grey, grey // 2 + 20, 255 - grey], axis=-1)
    opaque = np.kron(np.array([[1, 1, 0], [1, 1, 1]], bool), square).astype(bool)
    alpha = Image.fromarray(255 * opaque.astype(np.uint8))
    rgb = Image.fromarray(colours)
    if mode == "1":
        grey = np.where(grey >= 128, 255, 0).astype(np.uint8)
        image = Image.fromarray(grey).convert("1")
    elif mode.startswith("P"):
        image = rgb.quantize(6)
        if mode != "P":
            image.info["transparency"] = image.getpixel((40, 8))
    elif mode in ("L", "LA"):
        image = Image.fromarray(grey)
    elif mode in ("I;16", "I", "F"):
        image = Image.fromarray(grey.astype({"I;16": "u2", "I": "i4", "F": "f4"}[mode]) * 257)
    else:
        image = rgb.convert(mode)
    pixels = colours if mode[0] in "PRCY" else np.stack([grey] * 3, axis=-1)
    if mode in ("LA", "RGBA"):
        image.putalpha(alpha)
    return image, pixels / 255, np.where(opaque[..., None], pixels, 255) / 255


@pytest.mark.parametrize("name", sorted({*Image.SAVE} - {"EPS", "PDF"}))
@pytest.mark.filterwarnings("ignore:.*are skipped")
def test_every_format_mode_and_orientation(name, tmp_path):
    suffixes = [suffix for suffix in IMAGE_SUFFIXES if Image.EXTENSION.get(suffix) == name]
    suffix = suffixes[0] if suffixes else f".{name.lower()}"
    lossy = {"quality": 100} if name in ("AVIF", "JPEG", "MPO", "WEBP") else {}
    read = {}
    for mode in MODES:
        if mode in ("I;16", "I", "F") and name not in ("JPEG2000", "PNG", "PPM", "TIFF"):
            continue  # their writers clip at 255
        for orientation in range(1, 9 if name in WITH_EXIF else 2):
            image, opaque, transparent = picture(mode)
            if orientation > 1:
                image = image.transpose(STORED[orientation])
            exif = Image.Exif()
            exif[0x0112] = orientation
            path = tmp_path / f"{mode} {orientation}{suffix}"
            try:
                image.save(path, name, exif=exif, **lossy)
            except Exception:  # a mode that the format does not have
                path.unlink(missing_ok=True)
                continue
            try:
                pixels = read[path] = read_image(path, (32, 48, 3))
            except ValueError as error:
                assert str(error).startswith(f"{path} cannot be read as an image: it")
                assert name not in FORMATS or mode in "IF"
                continue
            with Image.open(path) as stored:  # some formats have no transparency
                expected = transparent if stored.has_transparency_data else opaque
            error = np.abs(pixels - expected).max(axis=-1)
            assert np.median(error) <= 4 / 255 and error.mean() < 12 / 255, path
    if name in FORMATS:
        assert len(read) >= 3
        loaded, _ = load_images(tmp_path, (32, 48), channels=3, validation_split=0, shuffle=False)
        np.testing.assert_array_equal(gather(loaded), [read[path] for path in sorted(read)])


def test_sizes_and_first_frames(tmp_path):
    frames = [Image.new("RGB", (20, 10), colour) for colour in ("red", "blue")]
    for name in ("a.gif", "a.png", "a.tif", "a.webp"):
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:])
        cropped = read_image(tmp_path / name, (5, 5, 3))
        np.testing.assert_allclose(cropped, np.broadcast_to([1, 0, 0], (5, 5, 3)), atol=0.01)
        padded = read_image(tmp_path / name, (40, 40, 3), fit="pad")
        np.testing.assert_allclose(padded.sum(axis=(0, 1)), [200, 0, 0], atol=2)


def test_huge_photos_and_long_texts(tmp_path, monkeypatch):
    """Limits of Pillow do not apply, and do so again afterwards."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    monkeypatch.setattr("keras_ddim.data.reading.LARGE_IMAGE", 500)
    monkeypatch.setattr("keras_ddim.data.reading.LARGEST_IMAGE", 5000)
    Image.new("RGB", (120, 90), (60, 90, 120)).save(tmp_path / "photo.jpg", quality=95)
    Image.new("RGB", (60, 50), (60, 90, 120)).save(tmp_path / "scan.png")
    text = PngImagePlugin.PngInfo()
    text.add_text("raw", "x" * 3_000_000, zip=True)
    Image.new("RGB", (8, 8), (60, 90, 120)).save(tmp_path / "text.png", pnginfo=text)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name in ("photo.jpg", "scan.png", "text.png"):
            image = read_image(tmp_path / name, (8, 8, 3))
            np.testing.assert_allclose(image[4, 4] * 255, [60, 90, 120], atol=2)
        assert len(gather(load_images(tmp_path, 8, validation_split=0)[0])) == 3
    Image.new("RGB", (120, 90)).save(tmp_path / "huge.png")
    with pytest.raises(ValueError, match=r"huge.png cannot .*: it has 0.0108 megapixels, more"):
        read_image(tmp_path / "huge.png", (8, 8, 3))
    assert Image.MAX_IMAGE_PIXELS == 1000
    assert PngImagePlugin.MAX_TEXT_CHUNK < 3_000_000


def test_the_reason_is_given(tmp_path):
    Image.effect_noise((30, 30), 50).save(tmp_path / "torn.png")
    (tmp_path / "torn.png").write_bytes((tmp_path / "torn.png").read_bytes()[:300])
    (tmp_path / "text.jpg").write_text("not an image")
    (tmp_path / "folder.png").mkdir()
    for name, reason in {
        "torn.png": "image file is truncated",
        "text.jpg": "it is not one of PNG, JPEG",
        "folder.png": "it is not a file",
        "missing.png": "there is no such file",
    }.items():
        with pytest.raises(
            ValueError, match=f"{name} cannot be read as an image: {reason}"
        ) as error:
            read_image(tmp_path / name, (8, 8, 3))
        assert "\n" not in str(error.value)
    for arguments, message in [
        (((8, 8, 2),), r"`image_shape\[2\]` must be one of 1, 3, 4, got 2"),
        (((8, 8),), r"`image_shape` must be \(height, width, channels\), got \(8, 8\)"),
        (((8, 8, 3), "stretch"), "`fit` must be one of 'crop', 'pad', got 'stretch'"),
    ]:
        with pytest.raises(ValueError, match=message):
            read_image(tmp_path / "a.png", *arguments)


@pytest.mark.parametrize(
    "entry",
    [
        (296, 1, 1, b"\2"),  # a unit of resolution that is a byte
        (282, 2, 4, b"high"),  # a resolution that is text
        (282, 5, 1, b"\xff\xff\xff\xff"),  # a fraction that lies outside the file
        (34665, 4, 1, b"\xff\xff\xff\xff"),  # so does a table
        (271, 99, 1, b"\0"),  # a type that does not exist
    ],
)
def test_odd_tags_do_not_matter(tmp_path, entry):
    entries = sorted([(274, 3, 1, struct.pack("<HH", 6, 0)), entry])
    rows = b"".join(struct.pack("<HHI", *row[:3]) + row[3].ljust(4, b"\0") for row in entries)
    exif = b"Exif\0\0II*\0" + struct.pack("<IH", 8, len(entries)) + rows + b"\0\0\0\0"
    upright = np.kron(np.array([[128, 255], [64, 0]], np.uint8), np.ones((16, 16), np.uint8))
    for name in ("a.jpg", "a.png", "a.webp"):
        stored = Image.fromarray(np.rot90(upright))
        stored.save(tmp_path / name, quality=100, exif=exif)
        image = read_image(tmp_path / name, (32, 32, 1))
        np.testing.assert_allclose(image[..., 0] * 255, upright, atol=3)
