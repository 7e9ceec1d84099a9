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
