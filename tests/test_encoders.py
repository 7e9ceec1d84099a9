"""Encoders: images of any size and colours to features; the classifier; InceptionV3's ways out."""

import keras
import numpy as np
import pytest

import keras_ddim
from keras_ddim import encoders


@pytest.fixture(scope="module")
def inception_weights(tmp_path_factory):
    """A file of weights for InceptionV3, random ones."""
    path = tmp_path_factory.mktemp("weights") / "inception.weights.h5"
    keras.utils.set_random_seed(0)
    keras.applications.InceptionV3(weights=None, include_top=False).save_weights(path)
    return path


@pytest.fixture
def labelled_images():
    """Black and white images, which are the two classes, for training and validation."""
    labels = np.arange(300) % 2
    images = np.ones((300, 8, 8, 1)) * labels[:, None, None, None]
    datasets = keras_ddim.load_images((images, labels), 8, labels=True, batch_size=16, seed=0)
    return datasets


def train(labelled_images, **kwargs):
    train_images, val_images = labelled_images
    return encoders.train_classifier(train_images, val_images, 2, verbose=0, **kwargs)


class TestInceptionV3:
    @pytest.mark.slow
    def test_takes_images_of_any_size_and_colours(self, inception_weights):
        encoder = encoders.InceptionV3(75, inception_weights)
        rng = np.random.default_rng(0)
        grey = rng.random((2, 20, 30, 1), "float32")
        features = encoders.encode(encoder, grey)
        assert features.shape == (2, 2048)
        colours = np.repeat(grey, 3, axis=-1)
        np.testing.assert_allclose(encoders.encode(encoder, colours), features, rtol=1e-5)
        # What is transparent is white, whatever its colour.
        transparent = np.concatenate([colours, np.zeros_like(grey)], axis=-1)
        white = np.ones_like(colours)
        np.testing.assert_allclose(
            encoders.encode(encoder, transparent), encoders.encode(encoder, white), rtol=1e-5
        )
        assert np.abs(features - encoders.encode(encoder, white)).max() > 1e-3
        assert str(encoder) == "InceptionV3 at 75x75"

    def test_sees_pixels_from_minus_one_to_one(self, monkeypatch):
        seen = []

        def network(images, training):
            seen.append(np.array(images))

        monkeypatch.setattr(keras.applications, "InceptionV3", lambda **options: network)
        encoders.InceptionV3(75)(np.linspace(0, 1, 12).reshape(1, 2, 2, 3))
        assert seen[0].shape == (1, 75, 75, 3)
        assert (seen[0].min(), seen[0].max()) == pytest.approx((-1, 1))

    def test_says_what_to_do_without_a_download(self, monkeypatch):
        def fail(**kwargs):
            raise OSError("URL fetch failure on https://…: Name or service not known")

        monkeypatch.setattr(keras.applications, "InceptionV3", fail)
        with pytest.raises(ValueError) as caught:
            encoders.encode(encoders.InceptionV3(), np.zeros((2, 8, 8, 3)))
        message = str(caught.value)
        assert "'imagenet', if that can be downloaded" in message and "\n" not in message
        assert "train_classifier" in message and "URL fetch failure" in message

    @pytest.mark.slow
    def test_foreign_weights(self, tmp_path):
        foreign = tmp_path / "foreign.weights.h5"
        keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)]).save_weights(foreign)
        for path in (foreign, tmp_path / "missing.weights.h5"):
            with pytest.raises(ValueError, match=rf"`weights` must be.*{path.name}"):
                encoders.InceptionV3(75, path)(np.zeros((1, 8, 8, 3)))


class TestClassifier:
    def test_learns_and_gives_features(self, labelled_images):
        encoder = train(labelled_images)
        assert encoder.accuracy > 0.95
        assert "classifier" in str(encoder) and f"{encoder.accuracy:.1%}" in str(encoder)
        images = np.concatenate([images for images, _ in labelled_images[1]])
        features = encoders.encode(encoder, images)
        assert features.shape == (len(images), 64)
        # They tell the classes apart.
        labels = np.concatenate([labels for _, labels in labelled_images[1]])
        black, white = features[labels == 0], features[labels == 1]
        assert np.ptp(black, axis=0).max() < 0.1 < np.abs(black[0] - white[0]).max()

    def test_is_saved(self, labelled_images, tmp_path):
        path = tmp_path / "classifier.keras"
        encoder = train(labelled_images)
        encoder.save(path)
        images = np.random.default_rng(0).random((5, 8, 8, 1))
        features = encoders.encode(encoder, images)
        for again in (encoders.load_classifier(path), encoders.get(str(path))):
            np.testing.assert_allclose(encoders.encode(again, images), features, rtol=1e-5)
            assert str(again) == str(encoder)
        with pytest.raises(ValueError, match=r"images of shape \(batch, 8, 8, 1\)"):
            encoders.encode(again, np.zeros((2, 9, 9, 1)))

    def test_other_files_are_errors(self, tmp_path):
        foreign = tmp_path / "foreign.keras"
        keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)]).save(foreign)
        for path, reason in {
            foreign: "must be a Classifier",
            tmp_path / "no.keras": "no.keras",
        }.items():
            with pytest.raises(ValueError, match=reason):
                encoders.get(path)

    def test_errors(self, labelled_images):
        with pytest.raises(ValueError, match=r"batches \(images, labels\)"):
            encoders.train_classifier(np.zeros((2, 8, 8, 1)))
        with pytest.raises(ValueError, match=r"`num_classes`.* got 0"):
            encoders.train_classifier(labelled_images[0])


def test_encoders_by_name_are_shared():
    assert encoders.get("inception_v3") is encoders.get("inception_v3")
    assert str(encoders.get("inception_v3")) == "InceptionV3 at 299x299"
    for wrong in ("weights.h5", None, encoders.InceptionV3):
        with pytest.raises(ValueError, match=r"`encoder` must be 'inception_v3'.* got "):
            encoders.get(wrong)


class TestEncode:
    def test_any_callable_few_images_at_a_time(self, monkeypatch):
        monkeypatch.setattr(encoders, "ENCODING_BATCH", 3)
        sizes = []

        def encoder(images):
            sizes.append(len(images))
            assert images.dtype == "float32"
            return images.mean(axis=(1, 2))

        images = np.random.default_rng(0).integers(0, 256, (7, 4, 4, 2), "uint8")
        features = encoders.encode(encoder, images)
        assert sizes == [3, 3, 1] and features.dtype == "float64"
        np.testing.assert_allclose(features, images.mean(axis=(1, 2)) / 255, rtol=1e-5)

    def test_keras_models(self):
        model = keras.Sequential([keras.Input((4, 4, 1)), keras.layers.Flatten()], name="flat")
        images = np.random.default_rng(0).random((3, 4, 4, 1))
        np.testing.assert_allclose(encoders.encode(model, images), images.reshape(3, 16), rtol=1e-6)

    def test_errors(self):
        images = np.ones((5, 4, 4, 1))
        with pytest.raises(ValueError, match="`images` must be at least one"):
            encoders.encode(np.asarray, images[:0])
        for wrong in (
            np.asarray,
            lambda images: images[:2, 0, 0],
            lambda images: images[:, 0, 0] / 0,
        ):
            with pytest.raises(ValueError, match="a function of 5 images to finite"):
                encoders.encode(wrong, images)
