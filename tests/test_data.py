"""Data: every source, its geometry, colours, splits and order."""

import pathlib
import re
import warnings

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from keras_ddim import data, flowers
from keras_ddim.data import load_images
from keras_ddim.flowers import FAMILIES, draw_flowers

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def gather(dataset):
    """All images of a dataset, one after the other (with labels: a tuple of both)."""
    batches = list(dataset.as_numpy_iterator())
    if isinstance(batches[0], tuple):
        return tuple(np.concatenate(parts) for parts in zip(*batches))
    return np.concatenate(batches)


def load_one(pixels, size, **kwargs):
    """One array image after loading; uint8 in, 0..255 out."""
    train, validation = load_images(np.asarray(pixels)[None], size, validation_split=0, **kwargs)
    assert validation is None
    return gather(train)[0] * 255


def numbered(count, size=4):
    """Images whose every pixel is the image's number, so that each can be recognised."""
    return np.broadcast_to(
        np.arange(count, dtype=np.uint8)[:, None, None, None], (count, size, size, 3)
    )


def numbers_of(images):
    return np.round(images[:, 0, 0, 0] * 255).astype(int)


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


# Arrays and the shared pipeline


def test_batches_are_float_images_of_static_shape():
    train, validation = load_images(numbered(23), 4, batch_size=5, validation_split=3 / 23)
    for dataset in (train, validation):
        assert dataset.element_spec == tf.TensorSpec((None, 4, 4, 3), tf.float32)
    assert [len(batch) for batch in train] == [5, 5, 5, 5]
    assert [len(batch) for batch in validation] == [3]
    images = gather(train)
    assert images.min() >= 0 and images.max() == pytest.approx(22 / 255, abs=0.1)


def test_train_and_validation_share_no_image_and_miss_none():
    train, validation = load_images(numbered(50), 4, validation_split=0.3)
    train, validation = numbers_of(gather(train)), numbers_of(gather(validation))
    assert len(validation) == 15
    assert sorted([*train, *validation]) == list(range(50))
    assert not np.array_equal(validation, np.arange(35, 50))  # mixed, not the end


def test_the_split_is_the_same_in_each_run_and_another_with_another_seed():
    def held_out(**kwargs):
        return numbers_of(gather(load_images(numbered(50), 4, **kwargs)[1]))

    np.testing.assert_array_equal(held_out(), held_out())
    np.testing.assert_array_equal(held_out(seed=5), held_out(seed=5))
    assert not np.array_equal(held_out(), held_out(seed=5))
    np.testing.assert_array_equal(held_out(), held_out(shuffle=False, flip=True, repetitions=2))


def test_train_is_shuffled_anew_in_each_epoch_and_validation_never():
    train, validation = load_images(numbered(60), 4, seed=1)
    first, second = numbers_of(gather(train)), numbers_of(gather(train))
    assert sorted(first) == sorted(second)
    assert not np.array_equal(first, second)
    assert not np.array_equal(first, np.sort(first))
    held_out = numbers_of(gather(validation))
    np.testing.assert_array_equal(held_out, np.sort(held_out))
    np.testing.assert_array_equal(held_out, numbers_of(gather(validation)))

    again, _ = load_images(numbered(60), 4, seed=1)
    np.testing.assert_array_equal(numbers_of(gather(again)), first)
    np.testing.assert_array_equal(numbers_of(gather(again)), second)


def test_without_shuffling_images_come_in_order():
    train, _ = load_images(numbered(30), 4, shuffle=False)
    numbers = numbers_of(gather(train))
    np.testing.assert_array_equal(numbers, np.sort(numbers))


def test_repetitions_repeat_training_images_only():
    train, validation = load_images(numbered(10), 4, batch_size=4, repetitions=3)
    assert int(train.cardinality()) == 6
    assert np.unique(numbers_of(gather(train)), return_counts=True)[1].tolist() == [3] * 8
    assert len(gather(validation)) == 2


def test_flips_mirror_about_half_of_the_training_images_only():
    images = np.zeros((200, 2, 4, 1), np.float32)
    images[:, :, 0] = 1.0
    train, validation = load_images(images, (2, 4), flip=True, seed=0)
    loaded = gather(train)
    left, right = loaded[:, :, 0] == 1, loaded[:, :, 3] == 1
    assert (left ^ right).all()  # whole images are mirrored
    assert 0.3 < right.all(axis=(1, 2)).mean() < 0.7
    np.testing.assert_array_equal(gather(validation), images[:40])
    # Another epoch flips others; the same seed the same.
    assert not np.array_equal(gather(train), loaded)
    np.testing.assert_array_equal(gather(load_images(images, (2, 4), flip=True, seed=0)[0]), loaded)


def test_labels_stay_with_their_images():
    labels = np.arange(40) * 2 + 1
    for dataset in load_images((numbered(40), labels), 4, labels=True, batch_size=7):
        images, loaded = gather(dataset)
        np.testing.assert_array_equal(loaded, labels[numbers_of(images)])
        assert dataset.class_names is None


def test_labels_may_be_left_out():
    train, _ = load_images((numbered(10), np.arange(10)), 4)
    assert isinstance(train.element_spec, tf.TensorSpec)


def test_num_images():
    train, validation = load_images(numbered(40), 4, num_images=10, validation_split=0.5)
    assert sorted([*numbers_of(gather(train)), *numbers_of(gather(validation))]) == list(range(10))


def test_float_images_keep_their_values():
    images = np.random.default_rng(0).random((10, 5, 7, 3))
    train, _ = load_images(images, (5, 7), validation_split=0, shuffle=False)
    np.testing.assert_array_equal(gather(train), images.astype(np.float32))


def test_arrays_without_channels_and_of_other_integers():
    images = np.random.default_rng(0).integers(0, 256, (6, 8, 8))
    train, _ = load_images(images, 8, validation_split=0, shuffle=False)
    np.testing.assert_allclose(gather(train)[..., 0] * 255, images, atol=1e-4)


def test_keras_trains_on_it():
    import keras

    model = keras.Sequential([keras.layers.Flatten(), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    train, validation = load_images((numbered(10), np.arange(10) / 10), 4, labels=True)
    model.fit(train, validation_data=validation, verbose=0)


# Geometry


def test_crop_takes_the_middle():
    # Columns 0..11 of value 10 * column; a square of 4 is columns 4..7.
    wide = np.broadcast_to((np.arange(12, dtype=np.uint8) * 10)[None, :, None], (4, 12, 1))
    np.testing.assert_allclose(load_one(wide, 4)[0, :, 0], [40, 50, 60, 70], atol=0.01)
    tall = wide.transpose(1, 0, 2)
    np.testing.assert_allclose(load_one(tall, 4)[:, 0, 0], [40, 50, 60, 70], atol=0.01)


def test_crop_to_another_aspect_ratio():
    rows = np.broadcast_to((np.arange(8, dtype=np.uint8) * 10)[:, None, None], (8, 8, 1))
    np.testing.assert_allclose(load_one(rows, (4, 8))[:, 0, 0], [20, 30, 40, 50], atol=0.01)


def test_shrinking_is_antialiased():
    # Stripes finer than the new pixels turn grey; picking pixels would keep black or white.
    stripes = np.tile(np.array([0, 255], np.uint8)[None, :, None], (64, 32, 1))
    assert np.abs(load_one(stripes, 8)[:, 1:-1] - 127.5).max() < 8


def test_enlarging_fills_the_image():
    assert np.allclose(load_one(np.full((3, 3, 3), 200, np.uint8), 16), 200)


def test_pad_centres_without_enlarging():
    image = np.random.default_rng(0).integers(1, 256, (28, 28, 1), dtype=np.uint8)
    padded = load_one(image, 32, fit="pad")
    np.testing.assert_allclose(padded[2:-2, 2:-2], image, atol=1e-4)
    padded[2:-2, 2:-2] = 0
    assert (padded == 0).all()


def test_pad_shrinks_what_is_too_large():
    padded = load_one(np.full((10, 40, 3), 100, np.uint8), (8, 16), fit="pad")
    np.testing.assert_allclose(padded[2:6], 100, atol=1e-4)
    assert (padded[:2] == 0).all() and (padded[6:] == 0).all()


@settings(max_examples=15, deadline=None)
@given(
    st.tuples(*[st.integers(1, 50)] * 2),
    st.tuples(*[st.integers(1, 20)] * 2),
    st.sampled_from([1, 3, 4]),
    st.sampled_from([None, 1, 3, 4]),
    st.sampled_from(["crop", "pad"]),
)
def test_any_size_is_brought_to_any_size(given_size, size, given_channels, channels, fit):
    image = np.full((*given_size, given_channels), 255, np.uint8)
    loaded = load_one(image, size, channels=channels, fit=fit)
    assert loaded.shape == (*size, channels or given_channels)
    if fit == "crop":
        np.testing.assert_allclose(loaded, 255, atol=1e-3)
    else:
        # All white in the middle, black around it, nothing between.
        assert loaded[size[0] // 2 - (size[0] % 2 == 0), (size[1] - 1) // 2].min() > 254
        assert np.all((loaded < 1) | (loaded > 254))


# Channels


@pytest.mark.parametrize(
    ("pixel", "channels", "expected"),
    [
        ([100], None, [100]),
        ([100], 3, [100, 100, 100]),
        ([100], 4, [100, 100, 100, 255]),
        ([255, 0, 0], None, [255, 0, 0]),
        ([255, 0, 0], 1, [76]),
        ([90, 90, 90], 1, [90]),
        ([255, 0, 0], 4, [255, 0, 0, 255]),
        ([255, 0, 0, 0], 3, [255, 255, 255]),
        ([255, 0, 0, 255], 3, [255, 0, 0]),
        ([0, 0, 0, 51], 3, [204, 204, 204]),
        ([0, 0, 0, 0], 1, [255]),
        ([10, 20, 30, 40], None, [10, 20, 30, 40]),
    ],
)
def test_channels(pixel, channels, expected):
    image = np.broadcast_to(np.array(pixel, np.uint8), (4, 4, len(pixel)))
    np.testing.assert_allclose(load_one(image, 4, channels=channels)[0, 0], expected, atol=1.01)


def test_transparent_pixels_do_not_colour_their_neighbours():
    # A red half next to a transparent, black half: what is visible after shrinking is pure red.
    image = np.zeros((16, 16, 4), np.uint8)
    image[:, :7] = (255, 0, 0, 255)
    loaded = load_one(image, 4, channels=4)
    visible = loaded[loaded[..., 3] > 2]
    assert len(visible) > 4 and (visible[:, 3] < 254).any()
    assert visible[:, 0].min() > 250 and visible[:, 1:3].max() == 0


# Flowers


def test_flowers_are_the_default():
    train, validation = load_images(image_size=16, num_images=50, labels=True, shuffle=False)
    assert train.class_names == validation.class_names == list(FAMILIES)
    images = np.concatenate([gather(train)[0], gather(validation)[0]])
    drawn, labels = draw_flowers(50, 16, seed=0, return_labels=True)
    order = np.argsort(images.sum(axis=(1, 2, 3)))
    np.testing.assert_allclose(
        images[order], drawn[np.argsort(drawn.sum(axis=(1, 2, 3)))], atol=0.003
    )
    found = np.concatenate([gather(train)[1], gather(validation)[1]])
    assert np.bincount(found, minlength=8).tolist() == np.bincount(labels, minlength=8).tolist()


def test_flowers_of_another_size_and_channels():
    train, _ = load_images("flowers", (8, 16), num_images=5, channels=1)
    assert train.element_spec.shape == (None, 8, 16, 1)


# Folders


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
    with pytest.raises(ValueError, match=r"`labels=True`.*'flat.png'.*Received: source="):
        load_images(tmp_path, 6, labels=True)
    (tmp_path / "flat.png").unlink()
    train, _ = load_images(tmp_path, 6, labels=True, validation_split=0)
    assert train.class_names == ["a"]


def palette_with_transparency(path):
    image = Image.new("P", (6, 6), 1)
    image.putpalette([0, 0, 0, 255, 0, 0])
    image.save(path, transparency=1)


def sixteen_bits(path):
    Image.fromarray(np.full((6, 6), 128 * 257, np.uint16)).save(path)


def animation(path):
    frames = [Image.new("RGB", (6, 6), colour) for colour in (RED, GREEN)]
    frames[0].save(path, save_all=True, append_images=frames[1:])


def rotated(path):
    # Left half red, right half blue, to be turned clockwise: red ends at the top.
    image = Image.new("RGB", (8, 8), BLUE)
    image.paste(RED, (0, 0, 4, 8))
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(path, exif=exif)


@pytest.mark.parametrize(
    ("name", "make", "expected"),
    [
        ("a.png", lambda path: save(path, RED), RED),
        ("a.JPG", lambda path: save(path, (200, 100, 50), quality=95), (200, 100, 50)),
        ("a.jpeg", lambda path: save(path, (0, 0, 0, 0), mode="CMYK"), WHITE),
        ("a.gif", animation, RED),
        ("a.bmp", lambda path: save(path, BLUE), BLUE),
        ("a.webp", lambda path: save(path, GREEN, lossless=True), GREEN),
        ("a.png", lambda path: save(path, 77, mode="L"), (77, 77, 77)),
        ("a.png", lambda path: save(path, 1, mode="1"), WHITE),
        ("a.png", lambda path: save(path, (0, 51), mode="LA"), (204, 204, 204)),
        ("a.png", lambda path: save(path, (0, 0, 0, 0), mode="RGBA"), WHITE),
        ("a.png", lambda path: save(path, (255, 0, 0, 51), mode="RGBA"), (255, 204, 204)),
        ("a.png", palette_with_transparency, WHITE),
        ("a.png", sixteen_bits, (128, 128, 128)),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_formats_and_modes(tmp_path, name, make, expected):
    make(tmp_path / name)
    train, _ = load_images(tmp_path, 4, channels=3, validation_split=0)
    loaded = gather(train)[0] * 255
    np.testing.assert_allclose(loaded, np.broadcast_to(expected, (4, 4, 3)), atol=3)


def test_files_are_turned_upright(tmp_path):
    rotated(tmp_path / "a.png")
    image = gather(load_images(tmp_path, 8, validation_split=0)[0])[0] * 255
    np.testing.assert_allclose(image[0], [RED] * 8, atol=1)
    np.testing.assert_allclose(image[-1], [BLUE] * 8, atol=1)


def test_alpha_is_kept_on_request(tmp_path):
    save(tmp_path / "a.png", (255, 0, 0, 51), mode="RGBA")
    save(tmp_path / "b.png", GREEN)
    train, _ = load_images(tmp_path, 4, channels=4, validation_split=0, shuffle=False)
    pixels = gather(train)[:, 0, 0] * 255
    np.testing.assert_allclose(pixels, [[255, 0, 0, 51], [0, 255, 0, 255]], atol=1)


def test_a_folder_is_grey_only_if_all_files_are(tmp_path):
    save(tmp_path / "a.png", 7, mode="L")
    sixteen_bits(tmp_path / "b.png")
    assert load_images(tmp_path, 4)[0].element_spec.shape == (None, 4, 4, 1)
    save(tmp_path / "c.png", RED)
    assert load_images(tmp_path, 4)[0].element_spec.shape == (None, 4, 4, 3)


def test_images_of_different_sizes(tmp_path):
    for i, size in enumerate([(5, 9), (40, 3), (1, 1), (17, 17)]):
        save(tmp_path / f"{i}.png", GREEN, size)
    images = gather(load_images(tmp_path, (6, 5), validation_split=0)[0])
    np.testing.assert_array_equal(images, np.broadcast_to([0.0, 1.0, 0.0], (4, 6, 5, 3)))


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
    for name in ("torn0.png", "torn1.png", "torn2.png", "text.jpg", "empty.gif"):
        assert name in message
    images, labels = gather(train)
    assert np.bincount(labels).tolist() == [10, 10, 10]
    np.testing.assert_array_equal(labels, np.round(images[:, 0, 0, 1] * 255 / 50))


def test_a_sound_folder_is_loaded_without_a_word(folder, capfd):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_images(folder, 6)
    assert capfd.readouterr().out == ""


def test_long_work_shows_progress(folder, capsys, monkeypatch):
    batches = [(np.zeros(10),)] * 5
    assert len(list(data._with_progress(iter(batches), 50, patience=0.0))) == 5
    assert "50/50" in capsys.readouterr().out


def test_num_images_of_a_folder(folder):
    train, validation = load_images(folder, 6, num_images=12, labels=True)
    assert len(gather(train)[0]) + len(gather(validation)[0]) == 12
    assert len(np.unique(gather(train)[1])) == 3


def test_folders_without_images(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"`source` .*Received: source='.*missing'"):
        load_images(tmp_path / "missing")
    with pytest.raises(ValueError, match=r"`source` .* has none. Received: source="):
        load_images(tmp_path)
    (tmp_path / "a.png").write_text("x")
    with pytest.raises(ValueError, match=r"none of its 1 is. Received: source="):
        load_images(str(tmp_path))
    with pytest.raises(ValueError, match=r"must be a folder, not a file. Received: source="):
        load_images(tmp_path / "a.png")


# TensorFlow Datasets


@pytest.fixture(scope="module")
def tfds():
    return pytest.importorskip("tensorflow_datasets")


@pytest.fixture(scope="module")
def shapes_dir(tfds, tmp_path_factory):
    """Two tiny data sets, prepared: one with a test split and one without, all sizes different."""

    class Shapes(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")
        counts = {"train": 20, "test": 7}  # noqa: RUF012

        def _info(self):
            features = {
                "image": tfds.features.Image(shape=(None, None, 3)),
                "label": tfds.features.ClassLabel(names=["even", "odd"]),
            }
            return tfds.core.DatasetInfo(
                builder=self, features=tfds.features.FeaturesDict(features)
            )

        def _split_generators(self, manager):
            starts = np.cumsum([0, *self.counts.values()])
            return {
                name: self._generate_examples(range(start, start + count))
                for (name, count), start in zip(self.counts.items(), starts)
            }

        def _generate_examples(self, numbers):
            for i in numbers:
                yield i, {"image": np.full((4 + i, 9, 3), i, np.uint8), "label": i % 2}

    class Tripled(Shapes):
        counts = {"train": 10, "validation": 10, "test": 10}  # noqa: RUF012

    class Nameless(Shapes):
        counts = {"train": 10}  # noqa: RUF012

        def _info(self):
            features = tfds.features.FeaturesDict({"picture": tfds.features.Image(shape=(4, 4, 1))})
            return tfds.core.DatasetInfo(builder=self, features=features)

        def _generate_examples(self, numbers):
            for i in numbers:
                yield i, {"picture": np.full((4, 4, 1), i, np.uint8)}

    class Words(Nameless):
        def _info(self):
            features = tfds.features.FeaturesDict({"word": tfds.features.Text()})
            return tfds.core.DatasetInfo(builder=self, features=features)

        def _generate_examples(self, numbers):
            for i in numbers:
                yield i, {"word": str(i)}

    data_dir = tmp_path_factory.mktemp("tfds")
    for builder in (Shapes, Tripled, Nameless, Words):
        builder(data_dir=data_dir).download_and_prepare()
    return str(data_dir)


@pytest.mark.parametrize("cache", [True, False, "file"])
def test_official_test_images_are_for_validation(shapes_dir, tmp_path, cache):
    cache = tmp_path / "cache" if cache == "file" else cache
    train, validation = load_images(
        "shapes", 6, labels=True, data_dir=shapes_dir, cache=cache, batch_size=6
    )
    assert train.class_names == ["even", "odd"]
    assert train.element_spec[0] == tf.TensorSpec((None, 6, 6, 3), tf.float32)
    for dataset, expected in ((train, range(20)), (validation, range(20, 27))):
        images, labels = gather(dataset)
        numbers = numbers_of(images)
        assert sorted(numbers) == list(expected)
        np.testing.assert_array_equal(labels, numbers % 2)
    first, second = (numbers_of(gather(train)[0]) for _ in range(2))
    assert not np.array_equal(first, second)


def test_a_validation_split_leaves_official_test_images_alone(shapes_dir):
    train, validation = load_images("shapes", 6, validation_split=0.25, data_dir=shapes_dir)
    numbers = numbers_of(gather(train)), numbers_of(gather(validation))
    assert [len(part) for part in numbers] == [15, 5]
    assert sorted(np.concatenate(numbers)) == list(range(20))
    train, validation = load_images("shapes", 6, validation_split=0, data_dir=shapes_dir)
    assert sorted(numbers_of(gather(train))) == list(range(20)) and validation is None


def test_some_data_sets_are_pooled(shapes_dir, monkeypatch):
    names = ("train", "validation", "test")
    assert data._POOLED_SPLITS["oxford_flowers102"] == names
    monkeypatch.setitem(data._POOLED_SPLITS, "tripled", names)
    train, validation = load_images("tripled", 6, data_dir=shapes_dir)
    train, validation = sorted(numbers_of(gather(train))), sorted(numbers_of(gather(validation)))
    assert len(train) == 24
    assert sorted(train + validation) == list(range(30))
    # A fifth of each of the three.
    assert np.bincount(np.array(validation) // 10).tolist() == [2, 2, 2]


def test_unlabelled_grey_data_set(shapes_dir):
    train, validation = load_images("nameless", 6, fit="pad", data_dir=shapes_dir)
    assert train.element_spec.shape == (None, 6, 6, 1)
    assert len(gather(train)) == 8 and len(gather(validation)) == 2
    assert train.class_names is None
    with pytest.raises(ValueError, match=r"`labels=True` .*picture. Received: source='nameless'"):
        load_images("nameless", labels=True, data_dir=shapes_dir)


def test_num_images_of_a_data_set(shapes_dir):
    train, validation = load_images("shapes", 6, num_images=10, data_dir=shapes_dir)
    assert len(gather(train)) == 8 and len(gather(validation)) == 2


def test_oxford_flowers_has_the_splits_of_the_keras_example(tfds):
    read = []

    def as_dataset(self, split, **kwargs):
        read.append(split)
        examples = {
            "image": np.full((3, 50, 40, 3), 255, np.uint8),
            "label": np.arange(3),
            "file_name": np.array(["a", "b", "c"]),
        }
        return tf.data.Dataset.from_tensor_slices(examples)

    with tfds.testing.mock_data(as_dataset_fn=as_dataset):
        train, _ = load_images("oxford_flowers102", 16, labels=True)
    assert read == [
        "train[:80%]+validation[:80%]+test[:80%]",
        "train[80%:]+validation[80%:]+test[80%:]",
    ]
    assert len(train.class_names) == 102
    images, labels = gather(train)
    assert images.shape == (3, 16, 16, 3) and images.min() == 1
    assert sorted(labels) == [0, 1, 2]


def test_data_set_errors(shapes_dir, tmp_path, monkeypatch, tfds):
    with pytest.raises(ValueError, match=r"`source` .* Received: source='no_such_set'"):
        load_images("no_such_set")
    with pytest.raises(FileNotFoundError, match=r"`data_dir` .* Received: data_dir='.*missing'"):
        load_images("fashion_mnist", data_dir=tmp_path / "missing")
    with pytest.raises(ValueError, match=r"data set of images; .*word. Received: source='words'"):
        load_images("words", data_dir=shapes_dir)

    def fail(self, **kwargs):
        raise ConnectionError("no network\nand a long story")

    monkeypatch.setattr(tfds.core.DatasetBuilder, "download_and_prepare", fail)
    with pytest.raises(ValueError, match=r"source='fashion_mnist', .*no network") as error:
        load_images("fashion_mnist", data_dir=tmp_path)
    assert "\n" not in str(error.value)


# Arguments


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"image_size": 0}, "`image_size` .* Received: image_size=0"),
        ({"image_size": (8, 8, 8)}, r"`image_size` .* Received: image_size=\(8, 8, 8\)"),
        ({"batch_size": 0}, "`batch_size` .* Received: batch_size=0"),
        ({"channels": 2}, "`channels` .* 1, 3 or 4. Received: channels=2"),
        ({"validation_split": 1}, "`validation_split` .* Received: validation_split=1"),
        ({"validation_split": -0.1}, "`validation_split` .* Received: validation_split=-0.1"),
        ({"validation_split": "0.2"}, "`validation_split` .* Received: validation_split='0.2'"),
        ({"fit": "stretch"}, "`fit` .* Received: fit='stretch'"),
        ({"repetitions": -1}, "`repetitions` .* Received: repetitions=-1"),
        ({"cache": None}, "`cache` .* Received: cache=None"),
        ({"seed": 1.5}, "`seed` .* Received: seed=1.5"),
        ({"num_images": 0}, "`num_images` .* Received: num_images=0"),
        ({"labels": True}, "`labels=True` needs `source` to be a tuple"),
        ({"source": 3}, "`source` must .* Received: source of type int"),
        ({"source": tf.data.Dataset.range(3)}, "`source` must .* Received: source of type _Range"),
        ({"source": np.zeros((5, 4))}, r"`source` must .* Received: source of shape \(5, 4\)"),
        ({"source": np.zeros((0, 4, 4, 3))}, r"Received: source of shape \(0, 4, 4, 3\)"),
        ({"source": np.zeros((5, 4, 4, 2))}, r"Received: source of shape \(5, 4, 4, 2\)"),
        ({"source": np.full((5, 4, 4, 3), 2.0)}, "finite floats .* values from 2.0 to 2.0"),
        ({"source": np.full((5, 4, 4, 3), np.nan)}, "finite floats .* values from nan to nan"),
        ({"source": np.full((5, 4, 4, 3), 256)}, "integers in 0..255. .* from 256 to 256"),
        ({"source": np.full((5, 4, 4, 3), "a")}, "finite floats .* source of dtype <U1"),
        (
            {"source": (np.zeros((5, 4, 4, 3)), np.zeros(4)), "labels": True},
            r"labels in `source` .* 5 images. Received: labels of shape \(4,\)",
        ),
        ({"source": np.zeros((1, 4, 4, 3))}, "`validation_split` .* has 1. Received: .*=0.2"),
    ],
)
def test_errors_name_the_argument_and_the_value(arguments, message):
    with pytest.raises(ValueError, match=message):
        load_images(**{"source": np.zeros((5, 4, 4, 3), np.uint8), "image_size": 4, **arguments})


@pytest.mark.parametrize("module", [data, flowers])
def test_importing_is_light(module):
    # Read rather than run: TensorFlow itself may import Matplotlib.
    heavy = "matplotlib|tensorflow_datasets|PIL"
    source = pathlib.Path(module.__file__).read_text()
    assert not re.search(rf"^(import|from) ({heavy})", source, re.MULTILINE)
