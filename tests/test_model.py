"""The model: training, its losses and averages, the normalizer, and generation."""

import concurrent.futures
import dataclasses
import subprocess
import sys
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import example, given, settings
from hypothesis import strategies as st
from keras import ops

import keras_ddim
from keras_ddim import model as models
from keras_ddim import sampling
from keras_ddim.degradations import Known
from keras_ddim.noise_levels import WEIGHTINGS, loss_weights
from tests.conftest import only_on, tiny_network


class TestTraining:
    def test_learns(self, make_model):
        """Images that are all black or all white: noise is whatever differs within one."""
        model = make_model((8, 8, 1), run_eagerly=False)
        model.compile(keras.optimizers.Adam(1e-2))
        images = np.arange(64).reshape(64, 1, 1, 1) % 2 * np.ones((64, 8, 8, 1))
        history = model.fit(images, batch_size=16, epochs=50, verbose=0).history
        assert history["n_loss"][-1] < 0.5 * history["n_loss"][0]
        model.run_eagerly = True
        untrained = make_model((8, 8, 1))
        untrained.adapt(images)
        noise, generated = (m.generate(16, 10, seed=0) for m in (untrained, model))
        assert generated.std(axis=(1, 2)).mean() < 0.7 * noise.std(axis=(1, 2)).mean()

    def test_logs(self, make_model, images):
        """At first the loss is that of predicting no noise: the mean of |noise| is sqrt(2/π)."""
        history = make_model().fit(images, validation_data=images, verbose=0).history
        losses = {"loss", "n_loss", "i_loss"}
        assert set(history) == losses | {f"val_{name}" for name in losses}
        assert history["n_loss"] == history["loss"]
        logs = make_model().evaluate(images, verbose=0, return_dict=True)
        assert set(logs) == losses
        assert logs["n_loss"] == pytest.approx(np.sqrt(2 / np.pi), abs=0.02)

    @pytest.mark.core
    def test_compiled_loss_is_used(self, make_model, images):
        model = make_model()
        model.compile(loss=keras.losses.MeanSquaredError(), metrics=["mse"], run_eagerly=True)
        logs = model.evaluate(images, verbose=0, return_dict=True)
        assert logs["n_loss"] == pytest.approx(1.0, abs=0.05)
        assert logs["mse"] == pytest.approx(logs["n_loss"], rel=1e-5)

    @pytest.mark.core
    def test_uint8_is_the_same_as_floats(self, make_model, images):
        bytes_ = np.round(images * 255).astype("uint8")
        histories = [
            make_model().fit(x, epochs=2, shuffle=False, verbose=0).history
            for x in (bytes_, bytes_ / 255.0)
        ]
        np.testing.assert_allclose(histories[0]["loss"], histories[1]["loss"], rtol=1e-5)

    def test_every_kind_of_data(self, make_model, images):
        model = make_model()
        images, labels = images[:16], np.arange(16)
        dataset = tf.data.Dataset.from_tensor_slices(images).batch(8)
        pairs = tf.data.Dataset.from_tensor_slices((images, labels)).batch(8)

        class Pairs(keras.utils.PyDataset):
            def __len__(self):
                return 2

            def __getitem__(self, index):
                return images[:8], labels[:8]

        for data in (images, images.astype("float64"), dataset, pairs, Pairs()):
            history = model.fit(data, epochs=1, verbose=0, validation_data=pairs).history
            assert np.isfinite(history["loss"] + history["val_loss"]).all()
        model.fit(images, labels, batch_size=8, validation_split=0.2, verbose=0)
        model.fit(dataset.repeat(), steps_per_epoch=2, epochs=2, verbose=0)
        model.fit((images[:4] for _ in range(5)), verbose=0)
        assert np.isfinite(model.train_on_batch(images[:3])).all()
        assert np.isfinite(model.test_on_batch(images[:3])).all()

    @pytest.mark.core
    def test_standard_callbacks(self, make_model, images, tmp_path):
        model = make_model()
        callbacks = [
            keras.callbacks.ModelCheckpoint(tmp_path / "best.keras", save_best_only=True),
            keras.callbacks.ModelCheckpoint(tmp_path / "w.weights.h5", save_weights_only=True),
            keras.callbacks.BackupAndRestore(tmp_path / "backup"),
            keras.callbacks.CSVLogger(tmp_path / "log.csv"),
            keras.callbacks.EarlyStopping(restore_best_weights=True),
            keras.callbacks.TerminateOnNaN(),
        ]
        model.fit(images, validation_data=images, epochs=2, verbose=0, callbacks=callbacks)
        assert (tmp_path / "best.keras").exists() and (tmp_path / "w.weights.h5").exists()
        assert (tmp_path / "log.csv").read_text().startswith("epoch,i_loss,loss,n_loss,")

    def test_mixed_precision(self, images):
        for dtype in ("mixed_bfloat16", "mixed_float16"):
            model = keras_ddim.DiffusionModel(network=tiny_network(dtype=dtype), dtype=dtype)
            model.compile(run_eagerly=True)
            history = model.fit(images, verbose=0).history
            assert np.isfinite(history["loss"]).all()
            generated = model.generate(2, 3, seed=0)
            assert generated.dtype == "float32" and np.isfinite(generated).all()
        assert isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)

    @pytest.mark.slow
    def test_xla(self, make_model, images):
        model = make_model(run_eagerly=False)
        model.compile(jit_compile=True)
        assert np.isfinite(model.fit(images, verbose=0).history["loss"]).all()
        assert np.isfinite(model.generate(2, [0.9, 0.3], seed=0)).all()

    def test_policy_reaches_the_default_network(self):
        model = keras_ddim.DiffusionModel((8, 8, 1), dtype="mixed_bfloat16")
        assert "bfloat16" in {layer.compute_dtype for layer in model.network.layers}

    @pytest.mark.core
    def test_equal_seeds_train_equally(self, make_model, images):
        first, second, other = (make_model(seed=seed) for seed in (3, 3, 4))
        losses = [m.fit(images, verbose=0, shuffle=False).history["loss"] for m in (first, second)]
        assert losses[0] == losses[1]
        assert other.fit(images, verbose=0, shuffle=False).history["loss"] != losses[0]

    def test_generating_in_a_callback_does_not_change_training(self, make_model, images):
        losses = []
        for generates in (False, True):
            model = make_model()
            watch = keras.callbacks.LambdaCallback(
                on_train_batch_end=lambda batch, logs, m=model: m.generate(1, 1, verbose=0)
            )
            history = model.fit(
                images, batch_size=8, verbose=0, shuffle=False, callbacks=[watch] * generates
            )
            losses.append(history.history["loss"])
        assert losses[0] == losses[1]


RNG = np.random.default_rng(0)
IMAGES = RNG.random((6, 4, 4, 2)).astype("float32")
LABELS = np.array([0, 1, 1, 0, 1, 0])
SAMPLE_WEIGHT = np.array([1.0, 0.0, 2.0, 0.5, 3.0, 1.0])
CLASS_WEIGHT = {0: 0.5, 1: 3.0}
NOISES = RNG.standard_normal(IMAGES.shape).astype("float32")
TIMES = np.linspace(0.1, 0.9, 6, dtype="float32").reshape(6, 1, 1, 1)


@keras.saving.register_keras_serializable("tests")
class Drawn(keras_ddim.DiffusionModel):
    """Draws known noises and times, these up to `latest`."""

    def __init__(self, *args, latest=1.0, **kwargs):
        super().__init__(*args, **kwargs)
        self.latest = latest

    def draw(self, images):
        return ops.convert_to_tensor(NOISES), ops.convert_to_tensor(self.latest * TIMES)

    def get_config(self):
        return {**super().get_config(), "latest": self.latest}


def drawn_model(**kwargs):
    """`pred_noises = 0.5 * noisy_images + variance + shift of the class`, not trained further."""
    inputs = [keras.Input((4, 4, 2)), keras.Input((1, 1, 1)), keras.Input((), dtype="int32")]
    shifts = keras.layers.Embedding(3, 1, embeddings_initializer="ones")(inputs[2])
    outputs = 0.5 * inputs[0] + inputs[1] + shifts[:, None, None]
    network = keras.Model(inputs, outputs)
    kwargs = {"label_dropout": 0.0, "class_names": ["a", "b"], **kwargs}
    model = Drawn(network=network, **kwargs)
    model.normalizer.adapt([IMAGES])
    return model


def square(true, prediction):
    return (true - prediction) ** 2


def of_rank(rank, loss=square):
    return lambda *both: ops.mean(loss(*both), axis=tuple(range(rank or -4, 0))[: 4 - rank])


class OwnLoss(keras.losses.Loss):
    """A Keras loss of any rank, before Keras reduces it."""

    def __init__(self, rank, loss=square):
        super().__init__()
        self.function = of_rank(rank, loss)

    def call(self, y_true, y_pred):
        return self.function(y_true, y_pred)


def loss_by_hand(model, power=2, weights=1.0):
    """The mean over images of weight, factor of the weighting and mean error, in float64."""
    log_snr = ops.convert_to_numpy(model.schedule.log_snr(model.latest * TIMES)).astype("float64")
    variances = 1 / (1 + np.exp(log_snr))
    images = (IMAGES - IMAGES.mean((0, 1, 2), "float64")) / IMAGES.std((0, 1, 2), "float64")
    noisy_images = np.sqrt(1 - variances) * images + np.sqrt(variances) * NOISES
    inputs = noisy_images.astype("float32"), variances.astype("float32"), LABELS
    prediction = model.network([ops.convert_to_tensor(x) for x in inputs])
    errors = np.abs(NOISES - ops.convert_to_numpy(prediction).astype("float64")) ** power
    factors = ops.convert_to_numpy(loss_weights(log_snr, "noise", model.loss_weighting))
    return np.mean(weights * factors.ravel() ** (power / 2) * errors.mean((1, 2, 3)))


def loss_of_fit(model, **options):
    options = {"batch_size": 6, "shuffle": False, "verbose": 0, **options}
    return model.fit(IMAGES, LABELS, **options).history["loss"][0]


@pytest.mark.core
class TestWeights:
    @pytest.mark.parametrize(
        ("make", "rank"), [(of_rank, 0), (of_rank, 1), (of_rank, 4), (OwnLoss, 2), (OwnLoss, 3)]
    )
    def test_losses_of_any_rank_are_weighted_image_by_image(self, make, rank):
        def compiled():
            model = drawn_model()
            model.compile(keras.optimizers.SGD(0.0), make(rank), run_eagerly=True)
            return model

        model = compiled()
        assert loss_of_fit(model) == pytest.approx(loss_by_hand(model), rel=1e-5)
        of_class = np.take([*CLASS_WEIGHT.values()], LABELS)
        cases = [({"sample_weight": SAMPLE_WEIGHT}, SAMPLE_WEIGHT, None)]
        cases += [({"class_weight": CLASS_WEIGHT}, of_class, None)]
        weightings = WEIGHTINGS if rank == 3 else ["min_snr"]
        cases += [({"sample_weight": SAMPLE_WEIGHT}, SAMPLE_WEIGHT, each) for each in weightings]
        for options, weights, weighting in cases:
            if rank == 0:  # on JAX, an error within a step leaves Keras's model without its weights
                model = compiled()
            model.loss_weighting = weighting
            if rank == 0:
                with pytest.raises(ValueError, match="`loss` must be a loss with a value for each"):
                    loss_of_fit(model, **options)
            else:
                expected = loss_by_hand(model, weights=weights)
                assert loss_of_fit(model, **options) == pytest.approx(expected, rel=1e-5)

    @pytest.mark.parametrize("run_eagerly", [True, False])
    def test_weighting_acts_as_the_loss_that_it_names(self, run_eagerly):
        """Absolute errors of the noise, weighted as the image's, are those of the image."""
        for loss, power in (("mean_absolute_error", 1), (keras.losses.MeanSquaredError(), 2)):
            model = drawn_model(loss_weighting="image")
            model.compile(keras.optimizers.SGD(0.0), loss, run_eagerly=run_eagerly)
            loss = loss_of_fit(model)
            assert loss == pytest.approx(loss_by_hand(model, power), rel=1e-5)
            assert loss == pytest.approx(float(model.i_loss_tracker.result()), rel=1e-4)

    def test_images_without_labels_may_have_weights(self, model, images):
        weights = np.zeros(40)
        for y in (None, np.arange(40)):
            logs = model.evaluate(images, y, sample_weight=weights, verbose=0, return_dict=True)
            assert logs["loss"] == 0 and logs["n_loss"] > 0.1


@pytest.mark.core
class TestSettings:
    """Attributes that are set after `compile` and a first `fit` act from then on."""

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("loss_weighting", "image"),
            ("schedule", keras_ddim.CosineSchedule(0.1, 0.9)),
            ("conditioning", "log_snr"),
            ("prediction_type", "velocity"),
            ("label_dropout", 1.0),
            ("ema", 0.0),
        ],
    )
    def test_act_from_then_on(self, name, value):
        model, expected = (drawn_model(**extra) for extra in ({}, {name: value}))
        model.compile(keras.optimizers.SGD(0.1), "mse")
        expected.compile(keras.optimizers.SGD(0.1), "mse", run_eagerly=True)
        before = loss_of_fit(model)
        for network in (model.network, model.ema_network):
            network.set_weights(expected.network.get_weights())
        model.ema_steps.assign(0)
        setattr(model, name, value)
        after = loss_of_fit(model)
        assert after == pytest.approx(loss_of_fit(expected), rel=1e-5)
        if name not in ("ema", "label_dropout"):
            assert after != pytest.approx(before, rel=1e-3)
        for weight, other in zip(model.get_weights(), expected.get_weights()):
            np.testing.assert_allclose(weight, other, rtol=1e-4, atol=1e-6)

    def test_errors(self, trained_model):
        for name, value in (
            ("prediction_type", "score"),
            ("loss_weighting", "snr"),
            ("conditioning", "time"),
            ("schedule", "square"),
            ("ema", 1.1),
            ("label_dropout", "high"),
        ):
            with pytest.raises(ValueError, match=f"`{name}` must be .*{value}"):
                setattr(trained_model, name, value)


@pytest.mark.core
def test_a_sub_class_stays_one(tmp_path):
    model = drawn_model(latest=0.5)
    model.compile(keras.optimizers.SGD(0.0), "mse", run_eagerly=True)
    loss = loss_of_fit(model)
    assert loss == pytest.approx(loss_by_hand(model), rel=1e-5)
    model.save(tmp_path / "model.keras")
    copies = [
        keras.saving.load_model(tmp_path / "model.keras"),
        keras_ddim.DiffusionModel.from_preset(tmp_path / "model.keras"),
        keras.models.clone_model(model),
        keras_ddim.recipes.fine_tune(model, 10, class_names=["a", "b"]),
    ]
    for copy in copies:
        assert type(copy) is Drawn and copy.latest == 0.5
        copy.compile(keras.optimizers.SGD(0.0), "mse", run_eagerly=True)
        assert loss_of_fit(copy) == pytest.approx(loss, rel=1e-5)


class TestMovingAverage:
    @pytest.mark.core
    def test_ramp(self, make_model, images):
        """ema_weights after each step, against the formula."""
        model = make_model()
        model.adapt(images)
        expected = model.network.get_weights()
        for step in range(1, 4):
            model.train_on_batch(images[:8])
            decay = min(0.999, (1 + step) / (10 + step))
            pairs = zip(expected, model.network.get_weights())
            expected = [decay * average + (1 - decay) * weight for average, weight in pairs]
            for average, weight in zip(expected, model.ema_network.get_weights()):
                np.testing.assert_allclose(weight, average, rtol=1e-4, atol=1e-6)

    def test_early_average_has_forgotten_the_initial_weights(self, make_model):
        """After 1,000 steps the constant decay would still hold 0.999**1000 = 37 % of them."""
        model = make_model()
        initial = [np.full(w.shape, 1e3, "float32") for w in model.network.get_weights()]
        model.ema_network.set_weights(initial)
        update = tf.function(lambda: model.update_average(1, 0.5), autograph=False)
        for _ in range(1000):
            update()
        rest = (model.ema_network.get_weights()[0] - model.network.get_weights()[0]) / 1e3
        assert np.abs(rest).max() < 1e-3

    def test_counts_optimizer_steps_not_batches(self, make_model, images):
        model = make_model()
        model.compile(keras.optimizers.SGD(gradient_accumulation_steps=4), run_eagerly=True)
        model.fit(images, batch_size=5, verbose=0)
        assert int(model.optimizer.iterations) == int(model.ema_steps) == 2

    @pytest.mark.core
    def test_compiling_anew_does_not_restart_it(self, model):
        model.compile()
        assert int(model.ema_steps) == 2


@pytest.mark.core
class TestNormalizer:
    def test_first_fit_adapts_and_says_so(self, make_model, images, capsys):
        model = make_model()
        assert not model.normalizer.is_adapted
        model.fit(images, verbose=2)
        assert "Adapted the normalizer" in capsys.readouterr().out
        np.testing.assert_allclose(model.normalizer.mean, images.mean((0, 1, 2)), 1e-4)
        np.testing.assert_allclose(model.normalizer.deviation, images.std((0, 1, 2)), 1e-3)
        model.fit(images * 0.1, verbose=2)
        assert "Adapted" not in capsys.readouterr().out
        np.testing.assert_allclose(model.normalizer.mean, images.mean((0, 1, 2)), 1e-4)

    def test_adapt_by_hand(self, make_model, images):
        pairs = tf.data.Dataset.from_tensor_slices((images, np.arange(40))).batch(7).repeat()
        for adapt in (
            lambda model: model.normalizer.adapt([images[:13], images[13:]]),
            lambda model: model.adapt(images),
            lambda model: model.adapt(pairs, steps=6),
        ):
            model = make_model()
            adapt(model)
            expected = images.mean((0, 1, 2))
            np.testing.assert_allclose(model.normalizer.mean, expected, rtol=1e-4)
        mean = np.array(model.normalizer.mean)
        model.fit(images * 0.5, verbose=0)
        np.testing.assert_array_equal(model.normalizer.mean, mean)

    def test_of_a_repeated_sorted_data_set_and_of_generators(self, make_model, images):
        """Not of the few batches of the first epoch: of 100,000 images, or 16 given batches.

        These are kept for training.
        """
        images = np.sort(images, axis=0)  # the first batch is black
        dataset = tf.data.Dataset.from_tensor_slices(images).batch(4)
        for data, options, steps in (
            (dataset.repeat(100), {"steps_per_epoch": 2}, 2),
            ((images[i : i + 4] for i in range(0, 40, 4)), {"steps_per_epoch": 2}, 2),
            (((images[i : i + 4],) for i in range(0, 40, 4)), {}, 10),
        ):
            model = make_model()
            model.fit(data, verbose=0, **options)
            assert int(model.optimizer.iterations) == steps
            np.testing.assert_allclose(model.normalizer.mean, images.mean((0, 1, 2)), 1e-3)
            np.testing.assert_allclose(model.normalizer.deviation, images.std((0, 1, 2)), 1e-2)

    def test_bounds(self, make_model, monkeypatch):
        """A data set without end: of `IMAGES_TO_ADAPT` images, or of `BATCHES_TO_ADAPT`."""
        images = tf.data.Dataset.from_tensors(np.ones((2, 8, 8, 3), "float32")).repeat()
        for name, value, expected in (("IMAGES_TO_ADAPT", 5, 6), ("BATCHES_TO_ADAPT", 2, 4)):
            monkeypatch.setattr(models, name, value)
            model = make_model()
            model.adapt(images)
            assert int(model.normalizer.num_images) == expected

    def test_adapting_anew_reaches_the_compiled_step(self, make_model, images):
        model = make_model(run_eagerly=False)
        model.compile(loss="mse")
        for weight in model.ema_network.weights[-2:]:
            weight.assign(np.ones(weight.shape))
        before = model.evaluate(images, verbose=0, return_dict=True)["loss"]
        model.adapt(images * 1e-3)  # so that normalised images are a thousand times as large
        assert model.evaluate(images, verbose=0, return_dict=True)["loss"] > 100 * before

    def test_generated_images_have_the_statistics_of_the_data(self, make_model, images):
        """A network that finds no noise leaves `initial_noise / signal_rate`: denormalised."""
        model = make_model()
        model.adapt(images)
        noise = np.full((1, 8, 8, 3), 0.01, "float32")
        generated = model.generate(1, [0.0], initial_noise=noise)
        expected = images.mean((0, 1, 2)) + 0.01 / 0.95 * images.std((0, 1, 2))
        np.testing.assert_allclose(generated, np.broadcast_to(expected, (1, 8, 8, 3)), rtol=1e-4)


class TestErrors:
    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda x: x * 255, r"\[0, 1\].*got values from 0.* to 2\d\d"),
            (lambda x: np.where(x > 0.9, np.nan, x), r"finite.*got values from nan"),
            (lambda x: x[:, :4], r"\(batch, 8, 8, 3\), got \((40|None), 4, 8, 3\)"),
            (lambda x: x[..., :1], r"\(batch, 8, 8, 3\), got \((40|None), 8, 8, 1\)"),
            (lambda x: x[0], r"\(batch, 8, 8, 3\), got \((8|None), 8, 3\)"),
            (lambda x: x[:0], "at least one image"),
        ],
    )
    @pytest.mark.parametrize("as_dataset", [False, True])
    def test_images(self, make_model, images, change, message, as_dataset):
        model, x = make_model(), change(images)
        x = tf.data.Dataset.from_tensor_slices(x).batch(8) if as_dataset else x
        before = model.get_weights()
        for method in (model.fit, model.evaluate):
            with pytest.raises(ValueError, match=message):
                method(x, verbose=0)
        for weight, weight_before in zip(model.get_weights(), before):
            np.testing.assert_array_equal(weight, weight_before)

    def test_validation_data(self, model, images):
        with pytest.raises(ValueError, match=r"`validation_data` must be .*40, 4, 8, 3"):
            model.fit(images, validation_data=images[:, :4], verbose=0)
        with pytest.raises(ValueError, match=r"`validation_data` must be .*\[0, 1\].*2\d\d"):
            model.fit(images, validation_data=(images * 255, None), verbose=0)


ZERO_TERMINAL = keras_ddim.schedules.LinearBetaSchedule(zero_terminal_snr=True)


def reference_uniform_sampling(model, noise, steps):
    """The Keras example's reverse diffusion, written out in NumPy around the bare network."""
    start_angle, end_angle = np.arccos(0.95), np.arccos(0.02)
    noisy = noise.astype("float64")
    for step in range(steps):
        time = 1.0 - step / steps
        angle = start_angle + time * (end_angle - start_angle)
        variances = np.full((len(noise), 1, 1, 1), np.sin(angle) ** 2, "float32")
        pred_noises = np.array(model.ema_network([noisy.astype("float32"), variances]))
        pred_images = (noisy - np.sin(angle) * pred_noises) / np.cos(angle)
        next_angle = start_angle + (time - 1.0 / steps) * (end_angle - start_angle)
        noisy = np.cos(next_angle) * pred_images + np.sin(next_angle) * pred_noises
    mean, variance = np.array(model.normalizer.mean), np.array(model.normalizer.deviation) ** 2
    return np.clip(mean + pred_images * np.sqrt(variance), 0, 1)


@pytest.mark.core
class TestGenerate:
    @pytest.mark.parametrize("steps", [1, 3, 20])
    def test_uniform_steps_are_the_examples(self, trained_model, steps):
        noise = np.random.default_rng(0).standard_normal((4, 8, 8, 3))
        generated = trained_model.generate(4, steps, sampler="ddim", initial_noise=noise)
        expected = reference_uniform_sampling(trained_model, noise, steps)
        assert expected.std() > 0.02
        np.testing.assert_allclose(generated, expected, atol=2e-4)
        listed = trained_model.generate(
            4, [1 - i / steps for i in range(steps)], sampler="ddim", initial_noise=noise
        )
        np.testing.assert_array_equal(generated, listed)

    @pytest.mark.parametrize(("number", "find"), [(3, "uniform_log_snr"), (4, "karras")])
    @pytest.mark.parametrize("schedule", [None, "log_snr_linear"])
    @pytest.mark.filterwarnings("ignore:diffusion_times.*outside the range")
    def test_a_number_without_a_sampler(self, trained_model, number, find, schedule):
        """It stands for UniPC along hand-designed times."""
        times = getattr(keras_ddim.times, find)(number, schedule or trained_model.schedule)
        options = {"schedule": schedule, "seed": 0}
        plain = trained_model.generate(2, number, **options)
        expected = trained_model.generate(2, times, sampler="unipc", **options)
        np.testing.assert_array_equal(plain, expected)

    @pytest.mark.parametrize(
        ("times", "schedule", "sampler"),
        [
            ([0.9, 0.6, 0.2], None, "unipc"),
            ([0.9], None, "unipc"),
            ([0.9, 0.6, 0.6, 0.2], None, "ddim"),
            ([0.5, 0.9, 0.1], None, "ddim"),
            ([1.0, 0.5, 0.2], ZERO_TERMINAL, "ddim"),  # no signal at all at time 1
            ([0.9, 0.5, 0.2], ZERO_TERMINAL, "unipc"),
        ],
    )
    @pytest.mark.filterwarnings("ignore:diffusion_times.*outside the range")
    def test_lists_without_a_sampler(self, trained_model, times, schedule, sampler):
        options = {"schedule": schedule, "seed": 0}
        plain = trained_model.generate(2, times, **options)
        expected = trained_model.generate(2, times, sampler=sampler, **options)
        np.testing.assert_array_equal(plain, expected)

    def test_rising_lists_are_followed_with_a_warning(self, trained_model):
        with pytest.warns(UserWarning, match="diffusion_times rise, from 0.1 to 0.9"):
            assert np.isfinite(trained_model.generate(1, [0.1, 0.5, 0.9])).all()
        with warnings.catch_warnings(action="error", category=UserWarning):
            trained_model.generate(1, [0.5, 0.9, 0.1])

    def test_churn_out_of_the_range_of_training(self, trained_model):
        churned = keras_ddim.Heun(churn=0.3)
        with pytest.warns(UserWarning, match=r"\[0\]=1 .* churn of Heun.*, outside"):
            trained_model.generate(1, [1.0, 0.5], sampler=churned)
        with warnings.catch_warnings(action="error", category=UserWarning):
            trained_model.generate(1, [0.9, 0.5], sampler=churned)
            limited = keras_ddim.Heun(churn=0.3, churn_max_sigma=40.0)
            trained_model.generate(1, [1.0, 0.5], sampler=limited)

    @settings(max_examples=10)
    @given(times=st.lists(st.floats(0, 1, width=32), min_size=1, max_size=6))
    @pytest.mark.filterwarnings("ignore:diffusion_times rise")
    def test_any_list(self, trained_model, times):
        generated = trained_model.generate(2, times, seed=1)
        assert generated.shape == (2, 8, 8, 3) and generated.dtype == "float32"
        assert np.isfinite(generated).all() and generated.min() >= 0 and generated.max() <= 1
        assert np.array_equal(generated, trained_model.generate(2, np.array(times), seed=1))

    @only_on("tensorflow", reason="JAX traces anew for each shape, torch does not trace")
    @pytest.mark.parametrize("sampler", ["ddpm", "unipc"])
    def test_is_compiled_once(self, trained_model, monkeypatch, sampler):
        traces = []
        call = sampling.Step.call
        monkeypatch.setattr(
            sampling.Step, "call", lambda *args, **kwargs: traces.append(0) or call(*args, **kwargs)
        )
        trained_model.compiled_steps.clear()
        trained_model.generate(2, 2, sampler=sampler)
        assert len(traces) == 2  # the step, and the last one, which only denoises
        for num_images, times, batch_size in [(2, 5, 64), (7, [0.3], 3), (1, (0.9, 0.1), 64)]:
            trained_model.generate(num_images, times, sampler=sampler, batch_size=batch_size)
        # Another schedule is no more than other noise levels.
        trained_model.generate(2, 2, sampler=sampler, schedule=keras_ddim.CosineSchedule(0.1, 0.9))
        assert len(traces) == 2

    def test_compiled_steps_are_forgotten(self, make_model, monkeypatch):
        monkeypatch.setattr(models, "STEPS_KEPT", 2)
        model = make_model()
        for eta in (0, 0.3, 0.6, 1):
            model.generate(1, 1, sampler=keras_ddim.DDIM(eta=eta))
        assert len(model.compiled_steps) == 2

    def test_seeds(self, trained_model):
        images = trained_model.generate(5, 3, seed=7)
        assert np.array_equal(images, trained_model.generate(5, 3, seed=7))
        assert not np.array_equal(images, trained_model.generate(5, 3, seed=8))
        assert not np.array_equal(images[0], images[1])
        # An image belongs to its seed and number, however many are generated beside it.
        for num_images, first in ((2, 0), (3, 2), (1, 4)):
            some = trained_model.generate(num_images, 3, seed=7, first=first, batch_size=2)
            np.testing.assert_allclose(some, images[first : first + num_images], atol=1e-5)
        assert not np.array_equal(trained_model.generate(2, 3), trained_model.generate(2, 3))

    def test_threads_make_different_images(self, trained_model):
        trained_model.generate(1, 2)  # compiles
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            futures = [pool.submit(trained_model.generate, 1, 2, verbose=0) for _ in range(16)]
            images = np.concatenate([future.result() for future in futures])
        assert len(np.unique(images.reshape(16, -1), axis=0)) == 16

    def test_nan_weights_are_named(self, make_model, images):
        model = make_model()
        model.adapt(images)
        model.ema_network.set_weights([w * np.nan for w in model.ema_network.get_weights()])
        with pytest.raises(ValueError, match=r"The images of .* are not finite"):
            model.generate(1, 2)

    def test_model_seed_fixes_unseeded_images(self, make_model, images):
        first, second = make_model(seed=5), make_model(seed=5)
        for model in (first, second):
            model.adapt(images)
        for _ in range(2):
            np.testing.assert_array_equal(first.generate(2, 2), second.generate(2, 2))

    def test_noise_is_standard_normal(self, make_model):
        model = make_model()
        model.normalizer.set_weights([np.full(3, 0.5), np.full(3, 0.1), np.array(1)])
        # An untrained network returns the noise itself, over the signal rate.
        noise = (model.generate(200, [0.0], seed=0) - 0.5) * 10 * 0.95
        assert noise.mean() == pytest.approx(0, abs=0.02)
        assert noise.std() == pytest.approx(1, abs=0.02)

    def test_progress_bar(self, trained_model, capsys):
        trained_model.generate(3, 4, verbose=1, batch_size=2)
        assert "8/8" in capsys.readouterr().out
        trained_model.generate(3, 4, verbose=0)
        trained_model.generate(3, 4)
        assert capsys.readouterr().out == ""

    @pytest.fixture(scope="class")
    def fine(self, trained_model):
        return trained_model.generate(2, 200, seed=0)

    @pytest.mark.parametrize("sampler", sorted(set(keras_ddim.samplers.SAMPLERS) - {"dpm++"}))
    @pytest.mark.filterwarnings("ignore:diffusion_times.*outside the range")
    def test_samplers(self, trained_model, fine, sampler):
        """Solvers of one equation come to the same image, the nearer the more steps they take."""
        for times in (1, 2, [1.0, 0.5, 0.2]):
            images = trained_model.generate(2, times, sampler=sampler, seed=0)
            assert np.isfinite(images).all() and images.shape == (2, 8, 8, 3)
        for times in (5, keras_ddim.times.karras(5, ZERO_TERMINAL)):  # from no signal at all
            options = {"sampler": sampler, "schedule": ZERO_TERMINAL}
            assert np.isfinite(trained_model.generate(2, times, **options)).all()
        if not keras_ddim.samplers.get(sampler).is_stochastic:
            np.testing.assert_allclose(
                trained_model.generate(2, 100, sampler=sampler, seed=0), fine, atol=0.1
            )

    def test_trajectory(self, trained_model):
        times, seen = [1.0, 0.7, 0.2], []
        options = {"sampler": "heun", "seed": 0}
        watching = {"return_trajectory": True, "callback": lambda *visit: seen.append(visit)}
        trajectory = trained_model.generate(3, times, batch_size=2, **options, **watching)
        np.testing.assert_array_equal(trajectory.images, trajectory.pred_images[-1])
        plain = trained_model.generate(3, times, **options)
        np.testing.assert_allclose(trajectory.images, plain, atol=1e-5)
        assert trajectory.noisy_images.shape == trajectory.pred_images.shape == (3, 3, 8, 8, 3)
        assert trajectory.noisy_images[0].std() == pytest.approx(1, abs=0.1)
        assert trajectory.evaluations == 5
        np.testing.assert_array_equal(trajectory.diffusion_times, times)
        assert [(step, time) for step, time, _, _ in seen] == list(enumerate(times)) * 2
        np.testing.assert_array_equal(seen[0][2], trajectory.noisy_images[0, :2])
        np.testing.assert_array_equal(seen[-1][3], trajectory.images[2:])

    def test_clip(self, make_model):
        """An untrained network leaves all noise in the image; clipped, it stays in range."""
        model = make_model()
        model.normalizer.set_weights([np.full(3, 0.5), np.full(3, 0.5), np.array(1)])
        options = {"seed": 0, "sampler": "ddim", "return_trajectory": True}
        ways = [model.generate(2, [1.0, 0.5], clip=c, **options) for c in (False, True, "dynamic")]
        plain, static, dynamic = (np.abs(way.noisy_images[1]).mean() for way in ways)
        assert static < 0.5 * plain and dynamic < 0.5 * plain and static != dynamic

    def test_schedule_of_generation(self, trained_model):
        """Times under another schedule are the noise levels that they mean there."""
        other = keras_ddim.schedules.LogSNRLinearSchedule(2.0, -7.0)
        times = [1.0, 0.6, 0.1]
        translated = np.array(trained_model.schedule.diffusion_times(other.log_snr(times)))
        np.testing.assert_allclose(
            trained_model.generate(2, times, schedule=other, seed=0),
            trained_model.generate(2, translated, seed=0),
            atol=1e-4,
        )
        with pytest.warns(UserWarning, match=r"diffusion_times\[1\]=0.1 .* outside the range"):
            trained_model.generate(1, [0.9, 0.1], schedule="log_snr_linear")


def define(kind, amount):
    """A class of one name, whose code holds `amount`, a list of one number."""

    class OwnSampler(keras_ddim.DDIM):
        strength: float = 1.0

        def step(self, *inputs):
            noisy_images, *others = super().step(*inputs)
            return amount[0] * self.strength * noisy_images, *others

    class OwnDegradation(keras_ddim.degradations.Identity):
        strength: float = 1.0

        def correct(self, images, known_images, known_mask):
            return amount[0] * self.strength * super().correct(images, known_images, known_mask)

    class OwnSchedule(keras_ddim.CosineSchedule):
        strength: float = 1.0

        def log_snr(self, diffusion_times):
            return amount[0] * self.strength * super().log_snr(diffusion_times)

    @dataclasses.dataclass(frozen=True)
    class OwnDenoiser(keras_ddim.denoisers.Wrapper):
        strength: float

        def __call__(self, *inputs, **per_image):
            pred_noises, pred_images = self.denoiser(*inputs, **per_image)
            return pred_noises, amount[0] * self.strength * pred_images

    class OwnGuidance(keras_ddim.guidance.Guidance):
        strength: float = 1.0

        def wrap(self, denoiser, model):
            return OwnDenoiser(denoiser, self.strength)

    own = OwnSampler, OwnDegradation, OwnSchedule, OwnGuidance
    return dict(zip(["sampler", "degradation", "schedule", "guidance"], own))[kind]


def half_network():
    noisy_images, variances = keras.Input((4, 4, 1)), keras.Input((1, 1, 1))
    return keras.Model([noisy_images, variances], 0.5 * noisy_images + 0 * variances)


@pytest.mark.core
@pytest.mark.parametrize("kind", ["sampler", "degradation", "guidance", "schedule"])
@given(
    changes=st.lists(
        st.tuples(st.booleans(), st.sampled_from([0.5, 0.8]), st.sampled_from([0.7, 1.0])),
        min_size=2,
        max_size=4,
    )
)
@example(changes=[(True, 0.8, 1.0), (False, 0.5, 1.0), (False, 0.5, 0.7), (True, 0.9, 0.7)])
@settings(max_examples=2)
def test_what_is_passed_is_what_runs(kind, changes):
    """Own parts, defined, changed and defined again under one name, as in a notebook."""
    model, fresh = (keras_ddim.DiffusionModel(network=half_network()) for _ in range(2))
    model.compile()
    own = None
    for is_defined_again, value, strength in changes:
        if own is None or is_defined_again:
            amount = [value]
            own = define(kind, amount)
        amount[0] = value  # in the code of the class
        part = own(strength=strength)
        options = {kind: part}
        if kind == "degradation":
            options = {"known": Known(np.full((4, 4, 1), 0.1), np.eye(4), part)}
        options |= {"diffusion_times": [0.9, 0.5, 0.1], "seed": 0, "verbose": 0}
        fresh.compile()
        np.testing.assert_array_equal(model.generate(1, **options), fresh.generate(1, **options))


@pytest.mark.core
class TestConditioningAndPrediction:
    @pytest.mark.parametrize(
        ("prediction", "weighting"),
        [("noise", "min_snr"), ("image", None), ("velocity", "min_snr"), ("flow", None)],
    )
    def test_trains_saves_and_generates(self, make_model, images, tmp_path, prediction, weighting):
        model = make_model(
            schedule="linear_beta",
            conditioning=keras_ddim.conditioning.Timestep("linear_beta", 1000),
            prediction_type=prediction,
            loss_weighting=weighting,
        )
        logs = model.fit(images, epochs=1, verbose=0).history
        assert np.isfinite([logs[name][0] for name in ("loss", "n_loss", "i_loss")]).all()
        model.save(tmp_path / "m.keras")
        loaded = keras.saving.load_model(tmp_path / "m.keras")
        for name, value in model.get_config().items():
            assert name == "network" or loaded.get_config()[name] == value
        generated = [m.generate(2, 3, seed=0) for m in (model, loaded)]
        np.testing.assert_array_equal(*generated)

    def test_losses_are_of_noises_and_images_whatever_is_predicted(self, make_model, images):
        """An untrained network predicts zeros: of the images, that is an i_loss of their size."""
        size = np.abs((images - images.mean((0, 1, 2))) / images.std((0, 1, 2))).mean()
        logs = make_model(prediction_type="image").evaluate(images, verbose=0, return_dict=True)
        assert logs["i_loss"] == pytest.approx(size, rel=0.02)
        assert logs["loss"] == pytest.approx(logs["i_loss"], rel=1e-4)

    @only_on("tensorflow", "torch", reason="JAX traces the network, which looks at its inputs")
    def test_network_is_conditioned_on_the_timestep(self, make_model, images):
        numbers = []

        class Network(keras.Model):
            inputs = (None, None)  # neither labels nor the next level

            def call(self, inputs, training=False):
                numbers.append(np.array(inputs[1])[:, 0, 0, 0])
                return 0.0 * inputs[0]

        schedule = keras_ddim.schedules.LinearBetaSchedule(4000)
        other = keras_ddim.schedules.CosineSchedule(0.1, 0.9)
        for of in (schedule, other):
            conditioning = keras_ddim.conditioning.Timestep(of, 4000)
            model = make_model(schedule=schedule, conditioning=conditioning)
            model.adapt(images)
            model.network = model.ema_network = Network()
            # 0.5 of another schedule's time is not the 2000th timestep's noise level.
            model.generate(1, [0.5], schedule=other, seed=0)
            noise_rate, _ = other.rates(0.5)
            expected_rate, _ = schedule.rates(numbers.pop() * 4000 / 3999)
            assert np.allclose(noise_rate, expected_rate, atol=1e-3) == (of == schedule)
        model.conditioning = keras_ddim.conditioning.Timestep(schedule)
        model.generate(1, keras_ddim.times.timesteps(4, 4000), seed=0)
        np.testing.assert_allclose([t[0] * 4000 for t in numbers], [3000, 2000, 1000, 0])
        # Training draws whole timesteps.
        model.test_on_batch(images)
        drawn = numbers[-1] * 4000
        np.testing.assert_allclose(drawn, np.round(drawn), atol=2e-3)

    def test_level_that_no_timestep_has(self, make_model):
        conditioning = keras_ddim.conditioning.Timestep("linear_beta", 1000)
        model = make_model(schedule="linear_beta", conditioning=conditioning)
        with pytest.raises(ValueError, match=r"`log_snr\[0\]` must be of .*LinearBeta.*, got"):
            model.generate(1, [1.0], schedule=keras_ddim.CosineSchedule(1e-4, 0.9))

    @pytest.mark.parametrize("prediction", ["image", "velocity"])
    def test_zero_terminal_snr(self, make_model, images, prediction):
        schedule = keras_ddim.schedules.LinearBetaSchedule(1000, zero_terminal_snr=True)
        model = make_model(schedule=schedule, prediction_type=prediction)
        model.fit(images, verbose=0)
        assert np.isfinite(model.generate(2, 4, seed=0)).all()


@settings(max_examples=3)
@given(
    shape=st.tuples(
        st.sampled_from([4, 6, 8]), st.sampled_from([4, 6, 8]), st.sampled_from([1, 2, 4, 5])
    ),
    dtype=st.sampled_from(["uint8", "int32", "float16", "float32", "float64"]),
)
def test_shapes_and_dtypes(shape, dtype):
    images = np.random.default_rng(0).random((6, *shape))
    images = (images * 255).astype(dtype) if "int" in dtype else images.astype(dtype)
    model = keras_ddim.DiffusionModel(network=tiny_network(shape), seed=0)
    model.compile(run_eagerly=True)
    assert np.isfinite(model.fit(images, verbose=0).history["loss"][0])
    assert model.generate(3, 2, seed=0).shape == (3, *shape)


@pytest.mark.core
def test_gradients_reach_only_the_network(make_model):
    model = make_model()
    assert len(model.trainable_variables) == len(model.network.trainable_variables)
    assert not model.ema_network.trainable_variables


def test_no_warnings(make_model, images):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = make_model()
        model.fit(images, verbose=0)
        model.fit(tf.data.Dataset.from_tensor_slices(images).batch(40), verbose=0)
        model.generate(2, 2)


@pytest.mark.slow
def test_memory_is_bounded_by_the_batch_size():
    """Peak memory of 2,000 images, twenty times as many as in a batch, is that of one batch."""
    code = (
        "import resource, keras_ddim\n"
        "model = keras_ddim.DiffusionModel((32, 32, 3), seed=0)\n"
        "peaks = []\n"
        "for num_images in (100, 2000):\n"
        "    model.generate(num_images, 1, batch_size=100, verbose=0)\n"
        "    peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)\n"
        "print(*peaks)\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    first, second = map(float, result.stdout.split())
    assert second - first < 300, f"{first:.0f} MB for 100 images, {second:.0f} MB for 2,000"
