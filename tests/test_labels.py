"""Class labels: in training, in the saved model, in generation and in pictures."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops

import keras_ddim
from keras_ddim.callbacks import SampleGrid
from tests.conftest import only_on

pytestmark = pytest.mark.core

ONE_HOT = r"must be numbers of classes, from 0 to 2, of shape \(batch,\) \(not one-hot\), got"
NAMES = ["Coat", "Sandal", "Sneaker"]
RNG = np.random.default_rng(0)
LABELS = np.arange(48) % 3
# The class is the brightness: 0.2, 0.5 or 0.8.
IMAGES = (0.2 + 0.3 * LABELS.reshape(48, 1, 1, 1) + 0.02 * RNG.random((48, 8, 8, 1))).astype("f4")
BRIGHTNESS = [0.21, 0.51, 0.81]


class Pairs(keras.utils.PyDataset):
    """Batches of 8 images, with labels or without."""

    def __init__(self, labels):
        super().__init__()
        self.labels = labels

    def __len__(self):
        return 2

    def __getitem__(self, index):
        return (IMAGES[:8],) if self.labels is None else (IMAGES[:8], self.labels[:8])


def make_model(network="modulated", run_eagerly=True, **kwargs):
    kind = {"modulated": keras_ddim.ModulatedUNet, "residual": keras_ddim.ResidualUNet}[network]
    network = kind((8, 8, 1), (8,), 1, num_classes=3, seed=0)
    model = keras_ddim.DiffusionModel(network=network, class_names=NAMES, seed=0, **kwargs)
    model.compile(keras.optimizers.Adam(5e-3), run_eagerly=run_eagerly)
    return model


@pytest.fixture(scope="module")
def trained():
    """Shared, so tests may not change it."""
    model = make_model(run_eagerly=False, ema=0.9, prediction_type="velocity")
    data = np.tile(IMAGES, (20, 1, 1, 1)), np.tile(LABELS, 20)
    model.fit(*data, batch_size=48, epochs=12, verbose=0)
    return model


def brightness(images):
    return images.mean(axis=(1, 2, 3))


class TestTraining:
    @pytest.mark.parametrize("network", ["modulated", "residual"])
    def test_labels_are_learnt_and_so_is_their_absence(self, network):
        model = make_model(network)
        before = [np.array(ops.convert_to_numpy(w)) for w in model.network.weights]
        model.fit(IMAGES, LABELS, batch_size=16, epochs=2, verbose=0)
        tables = [i for i, w in enumerate(model.network.weights) if w.path.endswith("embeddings")]
        (table,) = tables
        change = ops.convert_to_numpy(model.network.weights[table]) - before[table]
        assert change.shape[0] == 4 and (np.abs(change).max(axis=1) > 0).all()

    def test_dropped_labels_are_the_fraction_asked_for(self):
        model = make_model(label_dropout=0.25)
        labels = ops.convert_to_tensor(np.zeros(4000, "int32"))
        dropped, kept = (ops.convert_to_numpy(model.draw_labels(labels, t)[0]) for t in (1, 0))
        assert (dropped == 3).mean() == pytest.approx(0.25, abs=0.03)
        assert not kept.any()

    def test_every_kind_of_data(self):
        model = make_model()
        history = model.fit(Pairs(LABELS), validation_data=(IMAGES, LABELS), verbose=0).history
        assert np.isfinite(history["loss"] + history["val_loss"]).all()
        model.fit(((IMAGES[:8], LABELS[:8]) for _ in range(3)), steps_per_epoch=3, verbose=0)
        model.fit(IMAGES, LABELS[:, None], validation_split=0.25, verbose=0)
        assert np.isfinite(model.evaluate(IMAGES, LABELS, verbose=0)).all()

    @only_on("tensorflow", reason="tf.data is that of TensorFlow")
    def test_loaded_images(self, tmp_path):
        for name in NAMES:
            for index in range(4):
                image = np.full((8, 8, 1), BRIGHTNESS[NAMES.index(name)])
                keras_ddim.plots.save_image(image, tmp_path / name / f"{index}.png")
        train, validation = keras_ddim.load_images(tmp_path, 8, channels=1, labels=True)
        model = keras_ddim.DiffusionModel((8, 8, 1), class_names=train.class_names)
        assert model.class_names == NAMES and model.network.num_classes == 3
        make_model().fit(train, validation_data=validation, verbose=0)

    def test_a_network_without_labels_ignores_them(self, make_model, images):
        first, second = make_model(), make_model()
        losses = [
            first.fit(images, verbose=0, shuffle=False).history["loss"],
            second.fit(images, np.arange(40), verbose=0, shuffle=False).history["loss"],
        ]
        assert losses[0] == losses[1] and first.class_names is None

    @pytest.mark.parametrize(
        ("data", "options", "message"),
        [
            ((IMAGES,), {}, "`y` must be labels"),
            ((Pairs(None),), {}, r"`x` must be pairs \(images, labels\)"),
            (((IMAGES[:8] for _ in range(2)),), {}, "`y` must be labels"),
            ((IMAGES, LABELS), {"validation_data": IMAGES}, "`y` must be labels"),
            ((IMAGES, LABELS + 1), {}, r"`y` must be numbers of classes, from 0 to 2.*got \[3\]"),
            ((IMAGES, LABELS + 0.5), {}, "`y` must be numbers of classes.*0.5"),
            (((b for b in [(IMAGES, LABELS - 1)]),), {}, "`fit` has stopped.*labels from 0 to 2"),
            ((IMAGES, np.eye(3)[LABELS]), {}, ONE_HOT),
            ((Pairs(np.eye(3)[LABELS]),), {}, ONE_HOT),
            (((b for b in [(IMAGES, np.eye(3)[LABELS])]),), {}, ONE_HOT),
            ((IMAGES, LABELS), {"validation_data": (IMAGES, np.eye(3)[LABELS])}, ONE_HOT),
        ],
    )
    def test_missing_and_wrong_labels(self, data, options, message):
        model = make_model(run_eagerly=False)
        model.adapt(IMAGES)
        before = model.network.get_weights()
        with pytest.raises(ValueError, match=message) as error:
            model.fit(*data, **options, verbose=0)
        assert "\n" not in str(error.value)
        after = model.network.get_weights()
        assert all(np.array_equal(a, b) for a, b in zip(before, after))

    @only_on("tensorflow", reason="tf.data is that of TensorFlow")
    @pytest.mark.parametrize("is_of_known_shape", [True, False])
    def test_one_hot_labels_in_a_data_set(self, is_of_known_shape):
        pairs = tf.data.Dataset.from_tensor_slices((IMAGES, np.eye(3)[LABELS])).batch(16)
        if not is_of_known_shape:

            def of_unknown_shape(images, labels):
                return images, tf.ensure_shape(
                    tf.py_function(lambda x: x, [labels], tf.float64), None
                )

            pairs = pairs.map(of_unknown_shape)
        with pytest.raises(ValueError, match=ONE_HOT) as error:
            make_model(run_eagerly=False).fit(pairs, verbose=0)
        assert "\n" not in str(error.value)


class TestModel:
    def test_names_are_saved(self, tmp_path):
        model = make_model(label_dropout=0.2)
        model.save(tmp_path / "model.keras")
        loaded = keras.saving.load_model(tmp_path / "model.keras")
        assert loaded.class_names == NAMES and loaded.label_dropout == 0.2
        labels = {"labels": "sandal", "diffusion_times": 2, "seed": 0}
        np.testing.assert_allclose(loaded.generate(2, **labels), model.generate(2, **labels), 1e-6)

    def test_networks_of_ones_own(self):
        inputs = [keras.Input((8, 8, 1)), keras.Input((1, 1, 1)), keras.Input((), dtype="int32")]
        shifts = keras.layers.Embedding(4, 1)(inputs[2])[:, None, None]
        network = keras.Model(inputs, inputs[0] + 0 * inputs[1] + shifts)
        with pytest.raises(ValueError, match="`class_names` must be given if `network` takes"):
            keras_ddim.DiffusionModel(network=network)
        model = keras_ddim.DiffusionModel(network=network, class_names=NAMES)
        assert model.generate(3, 2, labels=[0, 1, "coat"]).shape == (3, 8, 8, 1)

    def test_errors(self):
        network, plain = (
            keras_ddim.ModulatedUNet((8, 8, 1), (4,), num_classes=n) for n in (3, None)
        )
        for kwargs, message in (
            ({"class_names": ["a", "b"]}, "`class_names` must be the names of the 3"),
            ({"class_names": ["a", "a", "b"]}, "`class_names` must be a list of different strings"),
            ({"class_names": NAMES, "network": plain}, "`class_names` must be given if `network`"),
        ):
            with pytest.raises(ValueError, match=message):
                keras_ddim.DiffusionModel(**{"network": network, **kwargs})


class TestGenerating:
    def test_images_are_of_the_class(self, trained):
        received = brightness(
            trained.generate(6, 8, labels=["Coat", 1, 2, "SNEAKER", 0, 1], seed=0)
        )
        np.testing.assert_allclose(received, np.take(BRIGHTNESS, [0, 1, 2, 2, 0, 1]), atol=0.12)

    def test_by_name_or_number(self, trained):
        options = {"diffusion_times": 2, "seed": 0}
        expected = trained.generate(3, labels="Sneaker", **options)
        for labels in ("sneaker", np.int64(2), [2, 2, 2], np.array([2, 2, 2]), ("Sneaker",) * 3):
            np.testing.assert_array_equal(trained.generate(3, labels=labels, **options), expected)
        anything = trained.generate(3, **options)
        assert not np.allclose(anything, expected)
        in_batches = trained.generate(3, labels=[0, 1, 2], batch_size=2, **options)
        np.testing.assert_allclose(in_batches[2], expected[2], atol=1e-5)

    def test_names_default_to_numbers_and_beat_them(self):
        network = keras_ddim.ModulatedUNet((8, 8, 1), (4,), num_classes=2)
        assert keras_ddim.DiffusionModel(network=network).class_names == ["0", "1"]
        assert keras_ddim.labels.check_labels("1", 1, ["1", "0"]).tolist() == [0]

    def test_unknown_ones_are_listed(self, trained):
        listed = r"by number or name \(0 'Coat', 1 'Sandal', 2 'Sneaker'\), got "
        for labels in ("boot", 3, -1, 1.5, ["coat", "boot"]):
            with pytest.raises(ValueError, match=listed):
                trained.generate(2, labels=labels)
        with pytest.raises(
            ValueError, match="`labels` must be one class, or one for each of the 2"
        ):
            trained.generate(2, labels=[0, 1, 2])

    def test_models_that_cannot(self, trained_model):
        with pytest.raises(ValueError, match="`labels` must be None for a model without"):
            trained_model.generate(2, labels=0)
        with pytest.raises(ValueError, match="`labels` must be given for a model trained with"):
            make_model(label_dropout=0).edit(IMAGES[:2])

    def test_without_labels_classes_are_drawn(self, trained):
        options = {"diffusion_times": 2, "seed": 5, "verbose": 0}
        many = trained.generate(20, **options)
        classes = trained.draw_classes(20, 5)
        assert set(classes) == {0, 1, 2}
        np.testing.assert_array_equal(many, trained.generate(20, labels=classes, **options))
        np.testing.assert_allclose(trained.generate(3, **options), many[:3], atol=1e-6)


def test_grid_of_classes(trained, trained_model, tmp_path):
    path = tmp_path / "grid.png"
    grid = SampleGrid(4, path, by_class=True, diffusion_times=1)
    grid.set_model(trained)
    grid.on_train_begin()
    grid.on_epoch_end(0)
    assert path.stat().st_size > 0
    grid.set_model(trained_model)
    with pytest.raises(ValueError, match="`by_class` must be False"):
        grid.on_train_begin()
