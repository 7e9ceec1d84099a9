"""Images from a folder: classes, formats, corrupt files, caches."""

import os
import re
import tracemalloc

import numpy as np
import pytest
from PIL import Image

from keras_ddim.data import load_images
from tests.test_data import gather

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def save(path, colour=RED, size=(6, 6), mode="RGB", **kwargs):
    """Saves an image of one colour; size is (width, height) as in Pillow."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, colour).save(path, **kwargs)


@pytest.fixture
def folder(tmp_path):
    """Three classes of ten images, each image of a shade of its own."""
    root = tmp_path / "photos"
    for label, name in enumerate(("ash", "birch", "cedar")):
        for i in range(10):
            save(root / name / f"{i}.png", (10 * (10 * label + i) // 2, 50 * label, 0))
    return root


def test_folder_with_classes(folder):
    train, validation = load_images(folder, 6, labels=True, batch_size=8)
    assert train.class_names == ["ash", "birch", "cedar"]
    images, labels = (np.concatenate(pair) for pair in zip(gather(train), gather(validation)))
    assert np.bincount(labels).tolist() == [10, 10, 10]
    np.testing.assert_array_equal(labels, np.round(images[:, 0, 0, 1] * 255 / 50))
    assert len(np.unique(images[:, 0, 0, 0])) == 30
    assert len(np.unique(gather(validation)[1])) > 1  # the classes are mixed


@pytest.mark.parametrize("cache", [False, "file"])
def test_caches_give_the_same_images(folder, tmp_path, cache):
    path = tmp_path / "caches" / "photos"
    options = {"labels": True, "shuffle": False, "batch_size": 4}
    expected = load_images(folder, (5, 7), **options)
    for _ in range(2):  # written, then read
        loaded = load_images(folder, (5, 7), cache=path if cache == "file" else cache, **options)
        for a, b in zip(loaded, expected):
            assert a.element_spec == b.element_spec
            for i in range(2):
                np.testing.assert_array_equal(gather(a)[i], gather(b)[i])
    assert path.parent.exists() == (cache == "file")


def test_a_cache_file_is_taken_up_only_by_the_same_settings_and_files(
    folder, tmp_path, monkeypatch
):
    path = str(tmp_path / "cache")
    load_images(folder, 6, cache=path)
    (file,) = tmp_path.glob("cache*")
    load_images(folder, 6, cache=path, batch_size=3, validation_split=0.5)
    assert list(tmp_path.glob("cache*")) == [file]
    load_images(folder, 4, cache=path)
    assert len(list(tmp_path.glob("cache*"))) == 2
    save(folder / "ash" / "new.png", WHITE)
    train, _ = load_images(folder, 6, cache=path, validation_split=0)
    assert len(gather(train)) == 31


def test_an_uncached_folder_is_shuffled_and_read_each_epoch(folder):
    train, _ = load_images(folder, 6, cache=False, seed=0, validation_split=0)
    first, second = gather(train)[:, 0, 0, 0], gather(train)[:, 0, 0, 0]
    assert sorted(first) == sorted(second) and not np.array_equal(first, second)
    for path in folder.rglob("*.png"):
        save(path, BLUE)
    assert (gather(train)[..., 2] == 1).all()


def test_flat_folder_and_nested_folders(tmp_path):
    save(tmp_path / "flat.png", RED)
    save(tmp_path / "a" / "b" / "deep.png", GREEN)
    train, _ = load_images(tmp_path, 6, validation_split=0)
    assert len(gather(train)) == 2
    with pytest.raises(ValueError, match=r"`source` must be .* if `labels=True`, .*flat.png"):
        load_images(tmp_path, 6, labels=True)
    (tmp_path / "flat.png").unlink()
    train, _ = load_images(tmp_path, 6, labels=True, validation_split=0)
    assert train.class_names == ["a"]


def test_links_to_folders_are_followed_but_not_upwards(tmp_path):
    for i, place in enumerate(("root/cat", "root/dog", "elsewhere/bird", "elsewhere/bird/more")):
        save(tmp_path / place / "0.png", (50 * i, 0, 0))
    root = tmp_path / "root"
    for link, target in {
        "bird": tmp_path / "elsewhere/bird",
        "kitten": root / "cat",
        "up": tmp_path,
        "self": root,
        "cat/dog": root / "dog",  # the two lead to each other
        "dog/cat": root / "cat",
        "knot": root / "knot",
        "nowhere": root / "missing",
    }.items():
        (root / link).symlink_to(target)
    train, _ = load_images(root, 6, labels=True, validation_split=0, shuffle=False)
    assert train.class_names == ["bird", "cat", "dog", "kitten"]
    images, labels = gather(train)
    shades = np.round(images[:, 0, 0, 0] * 255).astype(int).tolist()
    assert sorted(zip(labels.tolist(), shades)) == sorted(
        [(0, 100), (0, 150), (1, 0), (1, 50), (2, 0), (2, 50), (3, 0), (3, 50)]
    )


def test_hidden_files_and_thumbnails_are_not_training_images(folder):
    for place in ("@eaDir/0.png", "ash/@eaDir/0.png", "ash/.thumbnails", "#recycle", "__MACOSX"):
        save(folder / place / "thumbnail.png", WHITE)
    save(folder / "ash" / ".hidden.png", WHITE)
    train, _ = load_images(folder, 6, labels=True, validation_split=0)
    assert train.class_names == ["ash", "birch", "cedar"]
    assert len(gather(train)[0]) == 30


def test_a_folder_is_grey_only_if_all_files_are(tmp_path):
    save(tmp_path / "a.png", 7, mode="L")
    Image.fromarray(np.full((6, 6), 128 * 257, np.uint16)).save(tmp_path / "b.png")
    assert load_images(tmp_path, 4)[0].element_spec.shape == (None, 4, 4, 1)
    save(tmp_path / "c.png", RED)
    assert load_images(tmp_path, 4)[0].element_spec.shape == (None, 4, 4, 3)


@pytest.mark.parametrize("cache", [True, False])
def test_corrupt_files_are_skipped_named_and_counted_once(folder, cache):
    Image.effect_noise((30, 30), 50).save(folder / "whole.png")
    whole = (folder / "whole.png").read_bytes()
    (folder / "whole.png").unlink()
    for i in range(3):
        (folder / "birch" / f"torn{i}.png").write_bytes(whole[: 30 + 200 * i])
    (folder / "cedar" / "text.jpg").write_text("not an image")
    (folder / "cedar" / "empty.gif").write_bytes(b"")
    (folder / "notes.txt").write_text("ignored")
    (folder / "ash" / "._0.png").write_text("ignored")
    with pytest.warns(UserWarning) as caught:
        train, _ = load_images(folder, 6, labels=True, validation_split=0, cache=cache)
    (message,) = [str(warning.message) for warning in caught]
    assert message.startswith("5 of 35 files")
    for name in ("torn0.png", "torn1.png", "torn2.png"):
        assert re.search(f"{name} cannot be read as an image: [^;]+", message)
    for name in ("text.jpg", "empty.gif"):
        assert f"{name} cannot be read as an image: it is not one of PNG, JPEG" in message
    images, labels = gather(train)
    assert np.bincount(labels).tolist() == [10, 10, 10]
    np.testing.assert_array_equal(labels, np.round(images[:, 0, 0, 1] * 255 / 50))


def test_a_class_folder_of_other_files_is_named(folder):
    for name in ("dogwood/a.heic", "dogwood/raw/b.nef", "ash/c.heic", "list.txt"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("no image")
    message = "2 of 32 files in '.*photos' are skipped: .*dogwood has only files of other types"
    with pytest.warns(UserWarning, match=message):
        train, _ = load_images(folder, 6, labels=True)
    assert train.class_names == ["ash", "birch", "cedar"]


def test_of_many_unreadable_files_the_first_are_named(folder):
    for i in range(25):
        (folder / f"{i:02}.jpg").write_text("not an image")
    with pytest.warns(UserWarning, match="25 of 55 files .* are skipped: .*and 15 more") as caught:
        load_images(folder, 6)
    assert str(caught[0].message).count("cannot be read") == 10
    assert caught[0].filename == __file__


def test_num_images_of_a_folder(folder):
    train, validation = load_images(folder, 6, num_images=12, labels=True)
    assert len(gather(train)[0]) + len(gather(validation)[0]) == 12
    assert len(np.unique(gather(train)[1])) == 3


def test_folders_without_images(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"`source` must be .*, got '.*missing'"):
        load_images(tmp_path / "missing")
    with pytest.raises(ValueError, match="`source` must be a folder with image files"):
        load_images(tmp_path)
    (tmp_path / "a.png").write_text("x")
    with pytest.raises(
        ValueError, match=r"with readable images \(.*a.png cannot be read as an image: it"
    ):
        load_images(str(tmp_path))
    with pytest.raises(ValueError, match=r"must be a folder, not a file, got '.*a.png'"):
        load_images(tmp_path / "a.png")


def test_what_is_no_file_is_not_opened(tmp_path):
    """To read from a pipe would never end."""
    save(tmp_path / "ok.png")
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "nowhere.png").symlink_to("nothing")
    (tmp_path / "device.png").symlink_to("/dev/zero")
    (tmp_path / "loop").symlink_to(tmp_path)
    with pytest.warns(UserWarning, match="3 of 4 files"):
        train, _ = load_images(tmp_path, 4, validation_split=0)
    assert len(gather(train)) == 1


@pytest.mark.parametrize("name", ["RGB.png", "RGB.jpg", "P.png", "I;16.png"])
def test_large_images_are_made_smaller_first(tmp_path, monkeypatch, name):
    """Upright or not."""
    monkeypatch.setattr("keras_ddim.data.reading.LARGE_IMAGE", 32 * 32)
    pixels = np.kron(np.arange(16).reshape(4, 4) % 5, np.ones((40, 40), int)) * 60
    image = Image.fromarray(pixels.astype("uint8")).convert("RGB")
    if name == "I;16.png":
        image = Image.fromarray((pixels * 257).astype("uint16"))
    exif = Image.Exif()
    exif[0x0112] = 6
    image = image.convert("P") if name == "P.png" else image
    image.save(tmp_path / name, exif=exif, **{"quality": 95} if name == "RGB.jpg" else {})
    small, _ = load_images(tmp_path, 4, validation_split=0, shuffle=False)
    monkeypatch.setattr("keras_ddim.data.reading.LARGE_IMAGE", 2**22)
    whole, _ = load_images(tmp_path, 4, validation_split=0, shuffle=False)
    np.testing.assert_allclose(gather(small), gather(whole), atol=0.03)


def test_names_that_are_no_text(tmp_path):
    save(tmp_path / "\udcff" / "\udcfe.png")
    train, _ = load_images(tmp_path, 4, validation_split=0, cache=str(tmp_path / "cache"))
    assert train.class_names == ["\\xff"]


@pytest.mark.parametrize("mode", ["I;16", "P"])
def test_memory_that_a_large_image_takes(tmp_path, monkeypatch, mode):
    """It is made smaller before anything else, upright or not."""
    pixels = np.kron(np.arange(16).reshape(4, 4) % 5, np.ones((500, 500), int))
    image = Image.fromarray((pixels * 60).astype("uint8")).convert("L" if mode == "I;16" else mode)
    if mode == "I;16":
        image = Image.fromarray((pixels * 60 * 257).astype("uint16"))
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(tmp_path / "a.png", exif=exif)
    whole, _ = load_images(tmp_path, 4, validation_split=0)
    monkeypatch.setattr("keras_ddim.data.reading.LARGE_IMAGE", 300 * 300)
    tracemalloc.start()
    small, _ = load_images(tmp_path, 4, validation_split=0)
    assert tracemalloc.get_traced_memory()[1] < pixels.size  # bytes, of NumPy's arrays alone
    tracemalloc.stop()
    np.testing.assert_allclose(gather(small), gather(whole), atol=0.03)
