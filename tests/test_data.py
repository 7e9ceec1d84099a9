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
from keras_ddim.data.pipeline import with_progress


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


def test_long_work_shows_progress(capsys):
    batches = [(np.zeros(10),)] * 5
    assert len(list(with_progress(iter(batches), 50, patience=0.0))) == 5
    assert "50/50" in capsys.readouterr().out


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


def test_plain_flowers():
    train, validation = load_images("plain_flowers", 16, num_images=40, labels=True, shuffle=False)
    assert train.class_names == validation.class_names == list(PLAIN_FAMILIES)
    drawn, _ = draw_flowers(40, 16, seed=0, return_labels=True, plain=True)
    images = np.concatenate([gather(train)[0], gather(validation)[0]])
    np.testing.assert_allclose(images.mean(), drawn.mean(), atol=1e-3)


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


# Arguments


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"image_size": 0}, "`image_size` .* Received: image_size=0"),
        ({"image_size": (8, 8, 8)}, r"`image_size` .* Received: image_size=\(8, 8, 8\)"),
        ({"batch_size": 0}, "`batch_size` .* Received: batch_size=0"),
        ({"channels": 2}, "`channels` must be one of .*. Received: channels=2"),
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
        ({"source": np.full((5, 4, 4, 3), "a")}, "real numbers. Received: source=.* <U1"),
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


# Imports


def run_python(code):
    """Runs code in a new process under JAX, without the imports of `keras_ddim/__init__.py`.

    Other modules of the package may import what `keras_ddim.data` must not.
    """
    pytest.importorskip("jax")
    package = str(pathlib.Path(data.__file__).parents[1])
    start = (
        "import sys, types\n"
        "package = types.ModuleType('keras_ddim')\n"
        f"package.__path__ = [{package!r}]\n"
        "sys.modules['keras_ddim'] = package\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", start + code],
        env={**os.environ, "KERAS_BACKEND": "jax"},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr


@pytest.mark.core
def test_importing_is_light():
    run_python(
        "import keras\n"
        "heavy = ('tensorflow', 'tensorflow_datasets', 'matplotlib', 'PIL')\n"
        # Keras imports some of them where they are installed; what counts is what we add.
        "for name in list(sys.modules):\n"
        "    if name.split('.')[0] in heavy: del sys.modules[name]\n"
        "import keras_ddim.data\n"
        "images = keras_ddim.data.draw_flowers(2, 8)\n"
        "assert images.shape == (2, 8, 8, 3)\n"
        "imported = [name for name in heavy if name in sys.modules]\n"
        "assert not imported, imported\n"
    )


@pytest.mark.core
def test_other_sources_do_not_import_tensorflow_datasets():
    run_python(
        "import keras_ddim.data\n"
        "keras_ddim.data.load_images('flowers', 8, num_images=5)\n"
        "assert 'tensorflow' in sys.modules\n"
        "assert 'tensorflow_datasets' not in sys.modules\n"
    )


def test_without_tensorflow_the_error_names_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    with pytest.raises(ImportError, match=r"`load_images` needs TensorFlow; .*install tensorflow"):
        load_images("flowers", 8)
    assert draw_flowers(1, 8).shape == (1, 8, 8, 3)
