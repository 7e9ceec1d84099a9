"""Data: arrays and flowers, and what all sources share: geometry, colours, splits and order."""

import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_ddim import data
from keras_ddim.data import FAMILIES, PLAIN_FAMILIES, draw_flowers, load_images


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


# Arrays and the shared pipeline


def test_batches_are_float_images_of_static_shape():
    train, validation = load_images(numbered(23), 4, batch_size=5, validation_split=3 / 23)
    for dataset in (train, validation):
        assert dataset.element_spec == tf.TensorSpec((None, 4, 4, 3), tf.float32)
    assert [len(batch) for batch in train] == [5, 5, 5, 5]
    assert [len(batch) for batch in validation] == [3]
    images = gather(train)
    assert images.min() >= 0 and images.max() == pytest.approx(22 / 255, abs=0.1)


@pytest.mark.parametrize("shuffle", [True, False])
def test_train_and_validation_share_no_image_and_miss_none(shuffle):
    options = {"validation_split": 0.3, "num_images": 50, "shuffle": shuffle}
    train, validation = load_images(numbered(60), 4, **options)
    train, validation = numbers_of(gather(train)), numbers_of(gather(validation))
    assert len(validation) == 15
    assert sorted([*train, *validation]) == list(range(50))
    assert not np.array_equal(validation, np.arange(35, 50))  # mixed, not the end
    assert np.array_equal(train, np.sort(train)) != shuffle


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


@pytest.mark.parametrize("shuffle", [True, False])
def test_training_resumes_with_the_batches_that_would_have_followed(shuffle):
    options = {"batch_size": 4, "validation_split": 0, "seed": 3, "flip": True, "shuffle": shuffle}
    images = np.arange(10)[:, None, None, None] / 10 + np.linspace(0, 0.1, 4)[:, None]
    train, _ = load_images(np.broadcast_to(images, (10, 4, 4, 1)), 4, **options)
    batches = gather(train.from_batch(0).take(12)).reshape(12, 4, 4, 4, 1)
    gather(train)  # changes nothing
    for first in (0, 1, 5, 10):
        tf.random.set_seed(first)  # nor does this
        rest = gather(train.from_batch(first).take(12 - first))
        np.testing.assert_array_equal(rest.reshape(-1, 4, 4, 4, 1), batches[first:])
    passes = np.round(batches.mean(axis=(2, 3, 4)) * 10 - 0.5).astype(int).ravel()[:40]
    passes = passes.reshape(4, 10)
    np.testing.assert_array_equal(np.sort(passes), [range(10)] * 4)
    assert (passes[0] == passes[1]).all() != shuffle


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


@pytest.mark.parametrize("shape", [(40,), (40, 1)])
def test_labels_stay_with_their_images(shape):
    labels = np.arange(40) * 2 + 1
    source = numbered(40), labels.reshape(shape)
    for dataset in load_images(source, 4, labels=True, batch_size=7):
        images, loaded = gather(dataset)
        np.testing.assert_array_equal(loaded, labels[numbers_of(images)])
        assert dataset.class_names is None
    assert isinstance(load_images(source, 4)[0].element_spec, tf.TensorSpec)


def test_images_keep_their_values():
    images = np.random.default_rng(0).random((10, 5, 7, 3)).astype(np.float32)
    grey = np.rint(255 * images[..., 0]).astype(int)
    for source, expected in ((images, images), (grey, grey[..., None] / 255)):
        train, _ = load_images(source, (5, 7), validation_split=0, shuffle=False)
        np.testing.assert_allclose(gather(train), expected, rtol=0, atol=1e-7)


# Geometry


def test_crop_takes_the_middle():
    # Columns 0..11 of value 10 * column; a square of 4 is columns 4..7.
    wide = np.broadcast_to((np.arange(12, dtype=np.uint8) * 10)[None, :, None], (4, 12, 1))
    np.testing.assert_allclose(load_one(wide, 4)[0, :, 0], [40, 50, 60, 70], atol=0.01)
    tall = wide.transpose(1, 0, 2)
    np.testing.assert_allclose(load_one(tall, 4)[:, 0, 0], [40, 50, 60, 70], atol=0.01)


def test_shrinking_is_antialiased():
    # Stripes finer than the new pixels turn grey; picking pixels would keep black or white.
    stripes = np.tile(np.array([0, 255], np.uint8)[None, :, None], (64, 32, 1))
    assert np.abs(load_one(stripes, 8)[:, 1:-1] - 127.5).max() < 8


def test_pad_centres_without_enlarging():
    image = np.random.default_rng(0).integers(1, 256, (28, 28, 1), dtype=np.uint8)
    padded = load_one(image, 32, fit="pad")
    np.testing.assert_allclose(padded[2:-2, 2:-2], image, atol=1e-4)
    padded[2:-2, 2:-2] = 0
    assert (padded == 0).all()


@settings(max_examples=15)
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


@pytest.mark.parametrize("source", ["flowers", "plain_flowers"])
def test_flowers(source):
    plain = source == "plain_flowers"
    train, validation = load_images(source, 16, num_images=50, labels=True, shuffle=False)
    names = list(PLAIN_FAMILIES if plain else FAMILIES)
    assert train.class_names == validation.class_names == names
    images, found = (np.concatenate(pair) for pair in zip(gather(train), gather(validation)))
    drawn, labels = draw_flowers(50, 16, seed=0, return_labels=True, plain=plain)
    order, drawn_order = (np.argsort(x.sum(axis=(1, 2, 3))) for x in (images, drawn))
    np.testing.assert_allclose(images[order], drawn[drawn_order], atol=0.003)
    np.testing.assert_array_equal(np.bincount(found), np.bincount(labels))


# Arguments


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"image_size": 0}, "`image_size` must be an integer of at least 1, got 0"),
        ({"image_size": (8, 8, 8)}, r"`image_size` must be .*, got \(8, 8, 8\)"),
        ({"batch_size": 0}, "`batch_size` must be .*, got 0"),
        ({"channels": 2}, "`channels` must be one of .*, got 2"),
        ({"validation_split": 1}, "`validation_split` must be .*, got 1"),
        ({"validation_split": "0.2"}, "`validation_split` must be .*, got '0.2'"),
        ({"fit": "stretch"}, "`fit` must be .*, got 'stretch'"),
        ({"repetitions": -1}, "`repetitions` must be .*, got -1"),
        ({"cache": None}, "`cache` must be .*None"),
        ({"seed": 1.5}, "`seed` must be .*, got 1.5"),
        ({"num_images": 0}, "`num_images` must be .*, got 0"),
        ({"labels": True}, r"`source` must be a tuple \(images, labels\) if `labels=True`"),
        ({"source": 3}, "`source` must be a string, .*, got 3"),
        ({"source": tf.data.Dataset.range(3)}, "`source` must be .*, got <_Range"),
        ({"source": np.zeros((5, 4))}, r"`source` must be .* of shape \(5, 4\)"),
        ({"source": np.zeros((0, 4, 4, 3))}, r"of shape \(0, 4, 4, 3\)"),
        ({"source": np.zeros((5, 4, 4, 2))}, r"of shape \(5, 4, 4, 2\)"),
        ({"source": np.full((5, 4, 4, 3), 2.0)}, "finite floats .*, got values from 2 to 2"),
        ({"source": np.full((5, 4, 4, 3), np.nan)}, "finite floats .*values from nan to nan"),
        ({"source": np.full((5, 4, 4, 3), 256)}, r"integers in 0\.\.255, .*from 256 to 256"),
        ({"source": np.full((5, 4, 4, 3), "a")}, "`source` must be .*<U1"),
        (
            {"source": (np.zeros((5, 4, 4, 3)), np.zeros(4)), "labels": True},
            r"`labels` must be one number for each of the 5 images, got .* \(4,\)",
        ),
        (
            {"source": (np.zeros((5, 4, 4, 3)), np.eye(5)), "labels": True},
            r"`labels` must be one number for each of the 5 images, got .* \(5, 5\)",
        ),
        (
            {"source": np.zeros((1, 4, 4, 3))},
            "`validation_split` must be .* some of the 1 images .*, got 0.2",
        ),
    ],
)
def test_errors_name_the_argument_and_the_value(arguments, message):
    with pytest.raises(ValueError, match=message):
        load_images(**{"source": np.zeros((5, 4, 4, 3), np.uint8), "image_size": 4, **arguments})


# Imports


@pytest.mark.core
def test_importing_is_light():
    """Under JAX, without `keras_ddim/__init__.py`, which may import what `data` must not."""
    pytest.importorskip("jax")
    code = f"""
import sys, types, keras
sys.modules["keras_ddim"] = types.ModuleType("keras_ddim")
sys.modules["keras_ddim"].__path__ = [{str(pathlib.Path(data.__file__).parents[1])!r}]
heavy = {{"tensorflow", "tensorflow_datasets", "matplotlib", "PIL"}}
# Keras imports some of them where they are installed; what counts is what we add.
for name in list(sys.modules):
    if name.split(".")[0] in heavy: del sys.modules[name]
import keras_ddim.data
assert keras_ddim.data.draw_flowers(2, 8).shape == (2, 8, 8, 3)
assert not heavy & {{*sys.modules}}, heavy & {{*sys.modules}}
keras_ddim.data.load_images("flowers", 8, num_images=5)
assert "tensorflow" in sys.modules and "tensorflow_datasets" not in sys.modules
"""
    environment = {**os.environ, "KERAS_BACKEND": "jax"}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)
