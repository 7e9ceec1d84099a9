"""Images from TensorFlow Datasets: splits, features, caches."""

import numpy as np
import pytest
import tensorflow as tf

from keras_ddim.data import load_images
from tests.test_data import gather, numbers_of


@pytest.fixture(scope="module")
def tfds():
    return pytest.importorskip("tensorflow_datasets")


@pytest.fixture(scope="module")
def shapes_dir(tfds, tmp_path_factory):
    """Two tiny data sets, prepared: one with a test split and one without, all sizes different."""

    image = tfds.features.Image

    class Shapes(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")
        counts = {"train": 20, "test": 7}  # noqa: RUF012
        features = {  # noqa: RUF012
            "image": image(shape=(None, None, 3)),
            "label": tfds.features.ClassLabel(names=["even", "odd"]),
        }

        def example(self, i):
            return {"image": np.full((4 + i, 9, 3), i, np.uint8), "label": i % 2}

        def _info(self):
            features = tfds.features.FeaturesDict(self.features)
            return tfds.core.DatasetInfo(builder=self, features=features)

        def _split_generators(self, manager):
            starts = np.cumsum([0, *self.counts.values()])
            return {
                name: self._generate_examples(range(start, start + count))
                for (name, count), start in zip(self.counts.items(), starts)
            }

        def _generate_examples(self, numbers):
            for i in numbers:
                yield i, self.example(i)

    class Tripled(Shapes):
        counts = {"train": 10, "validation": 10, "test": 10}  # noqa: RUF012

    class Nameless(Shapes):
        counts, dtype, unit = {"train": 10}, np.uint8, 1
        features = {"picture": image(shape=(4, 4, 1))}  # noqa: RUF012

        def example(self, i):
            return {key: np.full((4, 4, 1), i * self.unit, self.dtype) for key in self.features}

    class Words(Nameless):
        features = {"word": tfds.features.Text()}  # noqa: RUF012

        def example(self, i):
            return {"word": str(i)}

    class Fractions(Nameless):
        dtype, unit = np.float32, np.float32(1 / 9)
        features = {"image": image(shape=(4, 4, 1), dtype=np.float32)}  # noqa: RUF012

    class SixteenBits(Nameless):
        dtype, unit = np.uint16, 65535 // 9
        features = {"image": image(shape=(4, 4, 1), dtype=np.uint16)}  # noqa: RUF012

    class Bytes(Fractions):  # floats in 0..255
        unit = np.float32(255 / 9)

    data_dir = tmp_path_factory.mktemp("tfds")
    for builder in (Shapes, Tripled, Nameless, Words, Fractions, SixteenBits, Bytes):
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
    train, validation = load_images("shapes", 6, num_images=10, data_dir=shapes_dir)
    assert len(gather(train)) == 8 and len(gather(validation)) == 2


def test_some_data_sets_are_pooled(shapes_dir, monkeypatch):
    from keras_ddim.data.tfds import POOLED_SPLITS

    names = ("train", "validation", "test")
    assert POOLED_SPLITS["oxford_flowers102"] == names
    monkeypatch.setitem(POOLED_SPLITS, "tripled", names)
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
    with pytest.raises(ValueError, match=r"`labels=True`, got 'nameless with .*picture'"):
        load_images("nameless", labels=True, data_dir=shapes_dir)


@pytest.mark.parametrize("cache", [True, "file"])
@pytest.mark.parametrize(("name", "tolerance"), [("fractions", 1e-6), ("sixteen_bits", 0.5 / 255)])
def test_features_of_other_types(shapes_dir, tmp_path, name, tolerance, cache):
    """Floats in [0, 1] stay floats, integers are fractions of their largest."""
    cache = tmp_path / "cache" if cache == "file" else cache
    for size in (4, 7):
        options = {"data_dir": shapes_dir, "cache": cache, "validation_split": 0}
        images = gather(load_images(name, size, **options)[0])
        expected = np.broadcast_to(np.arange(10)[:, None, None, None] / 9, (10, size, size, 1))
        images = images[np.argsort(images[:, 0, 0, 0])]
        np.testing.assert_allclose(images, expected, rtol=0, atol=tolerance)
        assert images.max() <= 1


def test_floats_outside_of_the_range_are_refused(shapes_dir):
    with pytest.raises(ValueError, match=r"finite floats in \[0, 1\], .* from 0 to 255"):
        load_images("bytes", 4, data_dir=shapes_dir, validation_split=0)


def test_data_set_errors(shapes_dir, tmp_path, monkeypatch, tfds):
    with pytest.raises(ValueError, match=r"`source` must be .*, got 'no_such_set'"):
        load_images("no_such_set")
    with pytest.raises(FileNotFoundError, match=r"`data_dir` must be .*, got '.*missing'"):
        load_images("fashion_mnist", data_dir=tmp_path / "missing")
    with pytest.raises(ValueError, match=r"a data set of images, got 'words with .*word'"):
        load_images("words", data_dir=shapes_dir)

    def fail(self, **kwargs):
        raise ConnectionError("no network\nand a long story")

    monkeypatch.setattr(tfds.core.DatasetBuilder, "download_and_prepare", fail)
    with pytest.raises(ValueError, match=r"got 'fashion_mnist' .*no network") as error:
        load_images("fashion_mnist", data_dir=tmp_path)
    assert "\n" not in str(error.value)
