"""Class labels: in training, in the saved model, in generation and in pictures."""

import keras
import numpy as np
import pytest
from keras import ops

import keras_ddim
from keras_ddim.callbacks import SampleGrid
from tests.conftest import only_on

pytestmark = pytest.mark.core

NAMES = ["Coat", "Sandal", "Sneaker"]
RNG = np.random.default_rng(0)
LABELS = np.arange(48) % 3
# The class is the brightness: 0.2, 0.5 or 0.8.
IMAGES = (0.2 + 0.3 * LABELS.reshape(48, 1, 1, 1) + 0.02 * RNG.random((48, 8, 8, 1))).astype("f4")
BRIGHTNESS = [0.21, 0.51, 0.81]


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

    def test_dropped_labels_are_the_part_asked_for(self):
        model = make_model(label_dropout=0.25)
        labels = ops.convert_to_tensor(np.zeros(4000, "int32"))
        dropped = ops.convert_to_numpy(model.draw_labels(labels, True)) == 3
        assert dropped.mean() == pytest.approx(0.25, abs=0.03)
        assert not np.any(ops.convert_to_numpy(model.draw_labels(labels, False)))

    def test_every_kind_of_data(self):
        model = make_model()

        class Pairs(keras.utils.PyDataset):
            def __len__(self):
                return 2

            def __getitem__(self, index):
                return IMAGES[:8], LABELS[:8]

        history = model.fit(Pairs(), validation_data=(IMAGES, LABELS), verbose=0).history
        assert np.isfinite(history["loss"] + history["val_loss"]).all()
        model.fit(((IMAGES[:8], LABELS[:8]) for _ in range(3)), steps_per_epoch=3, verbose=0)
        model.fit(IMAGES, LABELS[:, None], validation_split=0.25, verbose=0)
        assert np.isfinite(model.evaluate(IMAGES, LABELS, verbose=0)).all()
        assert np.isfinite(model.train_on_batch(IMAGES, LABELS)).all()
        assert np.isfinite(model.test_on_batch(IMAGES, LABELS)).all()
        assert np.isfinite(ops.convert_to_numpy(model(IMAGES).prediction)).all()

    @only_on("tensorflow", reason="tf.data is that of TensorFlow")
    def test_loaded_images(self, tmp_path):
        for name in NAMES:
            for index in range(4):
                image = np.full((8, 8, 1), BRIGHTNESS[NAMES.index(name)])
                keras_ddim.plots.save_image(image, tmp_path / name / f"{index}.png")
        train, validation = keras_ddim.load_images(tmp_path, 8, channels=1, labels=True)
        model = keras_ddim.DiffusionModel((8, 8, 1), class_names=train.class_names)
        model.compile(run_eagerly=True)
        assert model.class_names == NAMES and model.network.num_classes == 3
        model.fit(train, validation_data=validation, verbose=0)

    def test_a_network_without_labels_ignores_them(self, make_model, images):
        first, second = make_model(), make_model()
        losses = [
            first.fit(images, verbose=0, shuffle=False).history["loss"],
            second.fit(images, np.arange(40), verbose=0, shuffle=False).history["loss"],
        ]
        assert losses[0] == losses[1] and first.class_names is None

    def test_missing_and_wrong_labels(self):
        model = make_model()
        before = model.network.get_weights()
        batches = (batch for batch in [(IMAGES, LABELS - 1)])
        wrong = (
            ((IMAGES,), {}, r"`x` must hold pairs \(images, labels\)"),
            (((IMAGES[:8] for _ in range(2)),), {}, r"`x` must hold pairs \(images, labels\)"),
            ((IMAGES, LABELS), {"validation_data": IMAGES}, "`validation_data` must hold pairs"),
            ((IMAGES, LABELS + 1), {}, "`y` must be one of the 3 classes.*from 1 to 3"),
            ((IMAGES, LABELS + 0.5), {}, "`y` must be one of the 3 classes"),
            ((IMAGES, np.eye(3)[LABELS]), {}, r"`y` must be .*shape \(48, 3\)"),
            ((batches,), {}, "Labels must be integers from 0 to 2.*-1"),
        )
        for arguments, options, message in wrong:
            with pytest.raises(ValueError, match=message) as error:
                model.fit(*arguments, **options, verbose=0)
            assert "\n" not in str(error.value)
        after = model.network.get_weights()
        assert all(np.array_equal(a, b) for a, b in zip(before, after))


class TestModel:
    def test_names_are_saved(self, tmp_path):
        model = make_model(label_dropout=0.2)
        model.save(tmp_path / "model.keras")
        loaded = keras.saving.load_model(tmp_path / "model.keras")
        assert loaded.class_names == NAMES and loaded.label_dropout == 0.2
        labels = {"labels": "sandal", "diffusion_times": 2, "seed": 0}
        np.testing.assert_allclose(loaded.generate(2, **labels), model.generate(2, **labels), 1e-6)

    def test_names_default_to_numbers(self):
        network = keras_ddim.ModulatedUNet((8, 8, 1), (4,), num_classes=2)
        assert keras_ddim.DiffusionModel(network=network).class_names == ["0", "1"]

    def test_networks_of_ones_own(self):
        inputs = [keras.Input((8, 8, 1)), keras.Input((1, 1, 1)), keras.Input((), dtype="int32")]
        shifts = keras.layers.Embedding(4, 1)(inputs[2])[:, None, None]
        network = keras.Model(inputs, inputs[0] + 0 * inputs[1] + shifts)
        with pytest.raises(ValueError, match="`class_names` must be given where `network` takes"):
            keras_ddim.DiffusionModel(network=network)
        model = keras_ddim.DiffusionModel(network=network, class_names=NAMES)
        assert model.generate(3, 2, labels=[0, 1, "coat"]).shape == (3, 8, 8, 1)

    @pytest.mark.parametrize(
        ("kwargs", "message"),
        [
            ({"class_names": ["a", "b"]}, "`class_names` must be as many as the classes.* 3"),
            ({"class_names": 3}, "`class_names` must be a list of different texts.*=3"),
            ({"class_names": ["a", "a", "b"]}, "different texts"),
            ({"label_dropout": 2}, r"`label_dropout` must be a number in \[0, 1\]"),
        ],
    )
    def test_errors(self, kwargs, message):
        network = keras_ddim.ModulatedUNet((8, 8, 1), (4,), num_classes=3)
        with pytest.raises(ValueError, match=message):
            keras_ddim.DiffusionModel(network=network, **kwargs)

    def test_names_for_a_network_without_labels(self):
        network = keras_ddim.ModulatedUNet((8, 8, 1), (4,))
        with pytest.raises(ValueError, match="`class_names` must be given where"):
            keras_ddim.DiffusionModel(network=network, class_names=NAMES)


class TestGenerating:
    def test_images_are_of_the_class(self, trained):
        received = brightness(
            trained.generate(6, 8, labels=["Coat", 1, 2, "SNEAKER", 0, 1], seed=0)
        )
        np.testing.assert_allclose(received, np.take(BRIGHTNESS, [0, 1, 2, 2, 0, 1]), atol=0.12)

    def test_by_name_or_number(self, trained):
        options = {"diffusion_times": 2, "seed": 0}
        expected = trained.generate(3, labels="Sneaker", **options)
        for labels in ("sneaker", 2, np.int64(2), [2, 2, 2], np.array([2, 2, 2]), ("Sneaker",) * 3):
            np.testing.assert_array_equal(trained.generate(3, labels=labels, **options), expected)
        anything = trained.generate(3, **options)
        assert not np.allclose(anything, expected)
        in_batches = trained.generate(3, labels=2, batch_size=2, **options)
        of_several = trained.generate_batches(3, labels=[0, 1, 2], batch_size=2, **options)
        np.testing.assert_allclose(np.concatenate([*of_several])[2], expected[2], atol=1e-5)
        np.testing.assert_allclose(in_batches, expected, atol=1e-5)

    def test_a_name_beats_its_number(self):
        network = keras_ddim.ModulatedUNet((8, 8, 1), (4,), num_classes=2)
        model = keras_ddim.DiffusionModel(network=network, class_names=["1", "0"])
        assert keras_ddim.checks.check_labels("1", 1, model.class_names).tolist() == [0]

    def test_unknown_ones_are_listed(self, trained):
        listed = "by number or name: 0 'Coat', 1 'Sandal', 2 'Sneaker'. Received: "
        for labels in ("boot", 3, -1, 1.5, True, ["coat", "boot"], [0, None]):
            with pytest.raises(ValueError, match=listed):
                trained.generate(2, labels=labels)
        with pytest.raises(ValueError, match=r"one for each image, 2\. Received: 3 labels"):
            trained.generate(2, labels=[0, 1, 2])

    def test_models_that_cannot(self, trained_model):
        with pytest.raises(ValueError, match="`labels` must be None for a model whose network"):
            trained_model.generate(2, labels=0)
        with pytest.raises(
            ValueError, match="`labels` must be given, and `guidance_scale` be 1, for a model"
        ):
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
