import concurrent.futures
import importlib.util
import itertools
import subprocess
import sys
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import ops

import keras_ddim
from keras_ddim import sampling
from tests.conftest import only_on, tiny_network


class TestTraining:
    def test_learns(self, make_model):
        """Images that are all black or all white: noise is whatever differs within one."""
        model = make_model((8, 8, 1), run_eagerly=False)
        model.compile(keras.optimizers.Adam(1e-2))
        images = np.arange(64).reshape(64, 1, 1, 1) % 2 * np.ones((64, 8, 8, 1))
        history = model.fit(images, batch_size=16, epochs=50, verbose=0).history
        assert history["n_loss"][-1] < 0.5 * history["n_loss"][0]
        untrained = make_model((8, 8, 1))
        untrained.adapt(images)
        noise, generated = (m.generate(16, 10, seed=0) for m in (untrained, model))
        assert generated.std(axis=(1, 2)).mean() < 0.7 * noise.std(axis=(1, 2)).mean()

    def test_logs(self, make_model, images):
        history = make_model().fit(images, validation_data=images, verbose=0).history
        losses = {"loss", "n_loss", "i_loss"}
        assert set(history) == losses | {f"val_{name}" for name in losses}
        assert history["n_loss"] == history["loss"]

    def test_first_loss_is_that_of_predicting_no_noise(self, make_model, images):
        """The mean absolute value of standard normal noise is sqrt(2/π)."""
        model = make_model()
        logs = model.evaluate(images, verbose=0, return_dict=True)
        assert logs["n_loss"] == pytest.approx(np.sqrt(2 / np.pi), abs=0.02)

    @pytest.mark.core
    def test_compiled_loss_is_used(self, make_model, images):
        model = make_model()
        model.compile(loss=keras.losses.MeanSquaredError(), metrics=["mse"], run_eagerly=True)
        logs = model.evaluate(images, verbose=0, return_dict=True)
        assert logs["n_loss"] == pytest.approx(1.0, abs=0.05)
        assert logs["mse"] == pytest.approx(logs["n_loss"], rel=1e-5)

    def test_loss_matches_its_definition(self, model, images):
        """n_loss and i_loss, from the drawn example, in NumPy."""
        prediction = model(images)
        noisy_images, log_snr, noises = map(np.array, prediction[:3])
        signal_rates = np.sqrt(1 / (1 + np.exp(-log_snr)))
        noise_rates = np.sqrt(1 - signal_rates**2)
        clean = (noisy_images - noise_rates * noises) / signal_rates
        mean, variance = images.mean((0, 1, 2)), images.var((0, 1, 2))
        np.testing.assert_allclose(clean, (images - mean) / np.sqrt(variance), atol=1e-3)

        pred_noises = np.array(model.ema_network([noisy_images, noise_rates**2]))
        pred_images = (noisy_images - noise_rates * pred_noises) / signal_rates
        model.reset_metrics()
        logs = model.compute_metrics(images, None, prediction)
        assert float(logs["n_loss"]) == pytest.approx(np.abs(noises - pred_noises).mean(), rel=1e-4)
        assert float(logs["i_loss"]) == pytest.approx(np.abs(clean - pred_images).mean(), rel=1e-3)

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
        assert set(model.evaluate(pairs, verbose=0, return_dict=True)) == {
            "loss",
            "n_loss",
            "i_loss",
        }

    @pytest.mark.core
    def test_sample_weights_scale_the_loss(self, model, images):
        labels, weights = np.arange(40), np.zeros(40)
        logs = model.evaluate(images, labels, sample_weight=weights, verbose=0, return_dict=True)
        assert logs["loss"] == 0 and logs["n_loss"] > 0.1

    @pytest.mark.core
    def test_standard_callbacks(self, make_model, images, tmp_path):
        model = make_model()
        callbacks = [
            keras.callbacks.ModelCheckpoint(tmp_path / "best.keras", save_best_only=True),
            keras.callbacks.ModelCheckpoint(tmp_path / "w.weights.h5", save_weights_only=True),
            keras.callbacks.BackupAndRestore(tmp_path / "backup"),
            keras.callbacks.CSVLogger(tmp_path / "log.csv"),
            keras.callbacks.EarlyStopping(restore_best_weights=True),
            keras.callbacks.ReduceLROnPlateau(),
            keras.callbacks.TerminateOnNaN(),
        ]
        if importlib.util.find_spec("tensorboard"):
            callbacks.append(keras.callbacks.TensorBoard(tmp_path / "logs"))
        model.fit(images, validation_data=images, epochs=2, verbose=0, callbacks=callbacks)
        assert (tmp_path / "best.keras").exists() and (tmp_path / "w.weights.h5").exists()
        assert (tmp_path / "log.csv").read_text().startswith("epoch,i_loss,loss,n_loss,")

    def test_mixed_precision(self, images):
        for dtype in ("mixed_bfloat16", "mixed_float16"):
            model = keras_ddim.DiffusionModel(network=tiny_network(dtype=dtype), dtype=dtype)
            model.compile(run_eagerly=dtype == "mixed_bfloat16")
            history = model.fit(images, epochs=2, verbose=0).history
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
        with pytest.raises(ValueError, match=r"\[0, 1\].*Received.*2\d\d"):
            model.fit(images * 255, verbose=0)

    def test_policy_reaches_the_default_network(self):
        model = keras_ddim.DiffusionModel((8, 8, 1), dtype="mixed_bfloat16")
        assert "bfloat16" in {layer.compute_dtype for layer in model.network.layers}

    @pytest.mark.core
    def test_equal_seeds_train_equally(self, make_model, images):
        first, second, other = (make_model(seed=seed) for seed in (3, 3, 4))
        losses = [m.fit(images, verbose=0, shuffle=False).history["loss"] for m in (first, second)]
        assert losses[0] == losses[1]
        assert other.fit(images, verbose=0, shuffle=False).history["loss"] != losses[0]

    @pytest.mark.core
    def test_calling_uses_the_averaged_network(self, model, images):
        prediction = model(images)
        noise_variances = ops.sigmoid(-prediction.log_snr)
        expected = model.ema_network([prediction.noisy_images, noise_variances])
        np.testing.assert_allclose(prediction.prediction, expected, atol=1e-5)

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
        for adapt in ("normalizer", "model", "dataset"):
            model = make_model()
            if adapt == "normalizer":
                model.normalizer.adapt([images[:13], images[13:]])
            elif adapt == "model":
                model.adapt(images)
            else:
                pairs = tf.data.Dataset.from_tensor_slices((images, np.arange(40)))
                model.adapt(pairs.batch(7).repeat(), steps=6)
            expected = images.mean((0, 1, 2))
            np.testing.assert_allclose(model.normalizer.mean, expected, rtol=1e-4)
            mean = np.array(model.normalizer.mean)
            model.fit(images * 0.5, verbose=0)
            np.testing.assert_array_equal(model.normalizer.mean, mean)

    def test_adapting_anew_reaches_the_compiled_step(self, make_model, images):
        model = make_model(run_eagerly=False)
        model.compile(loss="mse")
        for weight in model.ema_network.weights[-2:]:
            weight.assign(np.ones(weight.shape))
        before = model.evaluate(images, verbose=0, return_dict=True)["loss"]
        model.adapt(images * 1e-3)  # so that normalised images are a thousand times as large
        assert model.evaluate(images, verbose=0, return_dict=True)["loss"] > 100 * before

    def test_generator_keeps_all_its_batches(self, make_model, images):
        seen = []

        class Count(keras.callbacks.Callback):
            def on_train_batch_end(self, batch, logs=None):
                seen.append(batch)

        make_model().fit(
            (images[i : i + 8] for i in range(0, 40, 8)), verbose=0, callbacks=[Count()]
        )
        assert len(seen) == 5

    def test_generated_images_have_the_statistics_of_the_data(self, make_model, images):
        """A network that finds no noise leaves `initial_noise / signal_rate`: denormalised."""
        model = make_model()
        model.adapt(images)
        noise = np.full((1, 8, 8, 3), 0.01, "float32")
        generated = model.generate(1, [0.0], initial_noise=noise)
        expected = images.mean((0, 1, 2)) + 0.01 / 0.95 * images.std((0, 1, 2))
        np.testing.assert_allclose(generated, np.broadcast_to(expected, (1, 8, 8, 3)), rtol=1e-4)


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

    @pytest.mark.core
    def test_is_bounded_by_ema(self, make_model, images):
        model = make_model(ema=0.0)
        model.fit(images, batch_size=8, verbose=0)
        for average, weight in zip(model.ema_network.get_weights(), model.network.get_weights()):
            np.testing.assert_array_equal(average, weight)

    def test_early_average_has_forgotten_the_initial_weights(self, make_model):
        """After 1,000 steps the constant decay would still hold 0.999**1000 = 37 % of them."""
        model = make_model()
        initial = [np.full(w.shape, 1e3, "float32") for w in model.network.get_weights()]
        model.ema_network.set_weights(initial)

        @tf.function(autograph=False)
        def update():
            for variable, value in model.averaged_weights(1):
                variable.assign(value)

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


class TestErrors:
    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda x: x * 255, r"\[0, 1\].*Received.*2\d\d"),
            (lambda x: x - 0.5, r"\[0, 1\].*Received.*-0\.[45]"),
            (lambda x: np.where(x > 0.9, np.nan, x), r"finite.*Received.*nan"),
            (lambda x: x[:, :4], r"\(batch, 8, 8, 3\).*\((40|None), 4, 8, 3\)"),
            (lambda x: x[..., :1], r"\(batch, 8, 8, 3\).*\((40|None), 8, 8, 1\)"),
            (lambda x: x[0], r"\(batch, 8, 8, 3\).*\((8|None), 8, 3\)"),
        ],
    )
    @pytest.mark.parametrize("adapted", [False, True])
    @pytest.mark.parametrize("as_dataset", [False, True])
    def test_images(self, trained_model, make_model, images, change, message, adapted, as_dataset):
        """Found on adapting in the one case, and in the compiled step in the other."""
        model = trained_model if adapted else make_model()
        x = change(images)
        if as_dataset:
            x = tf.data.Dataset.from_tensor_slices(x).batch(8)
        before = model.get_weights()
        with pytest.raises(ValueError, match=message):
            model.evaluate(x, verbose=0)
        if not adapted:
            with pytest.raises(ValueError, match=message):
                model.fit(x, verbose=0)
        for weight, weight_before in zip(model.get_weights(), before):
            np.testing.assert_array_equal(weight, weight_before)

    def test_training_stops_at_bad_images(self, make_model, images):
        model = make_model(run_eagerly=False)
        model.adapt(images)
        with pytest.raises(ValueError, match=r"\[0, 1\].*Received.*2\d\d"):
            model.fit(images * 255, verbose=0)
        with pytest.raises(ValueError, match=r"finite.*Received.*nan"):
            model.train_on_batch(images * np.nan)

    def test_bad_validation_data(self, model, images):
        with pytest.raises(ValueError, match=r"validation_data.*40, 4, 8, 3"):
            model.fit(images, validation_data=images[:, :4], verbose=0)
        with pytest.raises(ValueError, match=r"\[0, 1\].*Received.*2\d\d"):
            model.fit(images, validation_data=(images * 255, None), verbose=0)

    def test_what_is_no_images(self, make_model, images):
        model = make_model()
        with pytest.raises(ValueError, match="`x` must be images"):
            model.fit()
        examples = tf.data.Dataset.from_tensor_slices({"image": images}).batch(8)
        for data in (examples, {"image": images}, "flowers"):
            with pytest.raises(ValueError, match=r"`x` must be images or \(images, labels\)"):
                model.fit(data)
        with pytest.raises(ValueError, match=r"`model\.generate"):
            model.predict(images, verbose=0)

    def test_no_images(self, make_model, images):
        with pytest.raises(ValueError, match="at least one image"):
            make_model().fit(images[:0], verbose=0)

    @pytest.mark.parametrize(
        "kwargs",
        [
            {"image_shape": (8, 8, 3), "ema": 1.1},
            {"image_shape": (8, 8, 3), "ema": "high"},
            {"image_shape": (8, 8, 3), "seed": -1},
            {"image_shape": (8, 8, 3), "seed": 0.5},
            {"image_shape": (8, 8, 3), "schedule": "square"},
            {"image_shape": (8, 8, 3), "network": "unet"},
            {"image_shape": None},
        ],
    )
    def test_constructor(self, kwargs):
        name, value = list(kwargs.items())[-1]
        with pytest.raises(ValueError, match=f"`{name}`.*{'' if value is None else value}"):
            keras_ddim.DiffusionModel(**kwargs)

    def test_network_that_does_not_fit(self):
        with pytest.raises(ValueError, match=r"`image_shape`.*\(8, 8, 3\).*\(16, 16, 3\)"):
            keras_ddim.DiffusionModel((16, 16, 3), network=tiny_network())
        classifier = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Flatten()])
        with pytest.raises(ValueError, match=r"`network` must take \[noisy_images"):
            keras_ddim.DiffusionModel(network=classifier)

    def test_no_loss(self, make_model):
        with pytest.raises(ValueError, match="`loss`"):
            make_model().compile(loss=None)


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

    @pytest.mark.parametrize(
        ("number", "find"), [(3, keras_ddim.times.uniform_log_snr), (4, keras_ddim.times.karras)]
    )
    def test_a_number_without_a_sampler_is_unipc_along_a_good_list(
        self, trained_model, number, find
    ):
        for schedule in (None, "log_snr_linear"):
            times = find(number, schedule or trained_model.schedule)
            with warnings.catch_warnings(action="ignore"):  # another schedule, another range
                plain = trained_model.generate(2, number, schedule=schedule, seed=0)
                expected = trained_model.generate(
                    2, times, sampler="unipc", schedule=schedule, seed=0
                )
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

    @pytest.mark.parametrize("sampler", sorted(set(keras_ddim.samplers.SAMPLERS) - {"dpm++"}))
    @pytest.mark.filterwarnings("ignore:diffusion_times.*outside the range")
    def test_every_sampler_starts_where_there_is_no_signal(self, trained_model, sampler):
        for times in (
            5,
            keras_ddim.times.karras(5, ZERO_TERMINAL),
            keras_ddim.times.uniform_log_snr(5, ZERO_TERMINAL),
            keras_ddim.times.timesteps(5, 1000, "trailing"),
        ):
            images = trained_model.generate(
                2, times, sampler=sampler, schedule=ZERO_TERMINAL, seed=0
            )
            assert np.isfinite(images).all()

    def test_rising_lists_are_followed_with_a_warning(self, trained_model):
        with pytest.warns(UserWarning, match="diffusion_times rise, from 0.1 to 0.9"):
            assert np.isfinite(trained_model.generate(1, [0.1, 0.5, 0.9])).all()
        with warnings.catch_warnings(action="error", category=UserWarning):
            trained_model.generate(1, [0.5, 0.9, 0.1])

    def test_churn_out_of_the_range_of_training(self, trained_model):
        churned = keras_ddim.Heun(churn=0.3)
        with pytest.warns(UserWarning, match=r"\[0\]=1 .* with what Heun.* adds, 0.525 outside"):
            trained_model.generate(1, [1.0, 0.5], sampler=churned)
        with warnings.catch_warnings(action="error", category=UserWarning):
            trained_model.generate(1, [0.9, 0.5], sampler=churned)
            limited = keras_ddim.Heun(churn=0.3, churn_max_sigma=40.0)
            trained_model.generate(1, [1.0, 0.5], sampler=limited)

    @settings(max_examples=25)
    @given(times=st.lists(st.floats(0, 1, width=32), min_size=1, max_size=6))
    @pytest.mark.filterwarnings("ignore:diffusion_times rise")
    def test_any_list(self, trained_model, times):
        generated = trained_model.generate(2, times, seed=1)
        assert generated.shape == (2, 8, 8, 3) and generated.dtype == "float32"
        assert np.isfinite(generated).all() and generated.min() >= 0 and generated.max() <= 1
        assert np.array_equal(generated, trained_model.generate(2, np.array(times), seed=1))

    @pytest.mark.parametrize("convert", [tuple, np.array, tf.constant, ops.convert_to_tensor])
    def test_any_container(self, trained_model, convert):
        times = [0.9, 0.5, 0.5, 0.7]
        expected = trained_model.generate(2, times, seed=0)
        np.testing.assert_allclose(
            trained_model.generate(2, convert(times), seed=0), expected, atol=1e-5
        )

    def test_repeated_time_changes_nothing(self, trained_model):
        """Separated and mixed again at the same level, an image is what it was."""
        once, twice = (
            trained_model.generate(2, times, seed=0) for times in ([0.7, 0.3], [0.7, 0.7, 0.3])
        )
        np.testing.assert_allclose(once, twice, atol=1e-4)

    def test_one_evaluation_for_each_time(self, make_model, images):
        model = make_model()
        model.adapt(images)
        calls = []
        network = model.ema_network

        class Counting(keras.Model):
            def call(self, inputs, training=False):
                calls.append(float(inputs[1][0, 0, 0, 0]))
                return network(inputs, training=training)

        model.ema_network = Counting()
        model.compile(run_eagerly=True)
        times = [1.0, 0.3, 0.6, 0.0]
        model.generate(2, times, seed=0)
        noise_rates, _ = model.schedule.rates(times)
        np.testing.assert_allclose(calls, np.array(noise_rates) ** 2, rtol=1e-5)

    @only_on("tensorflow", reason="JAX traces anew for each shape, torch does not trace")
    @pytest.mark.parametrize("sampler", ["ddim", "ddpm", "heun", "dpm_solver_pp", "unipc"])
    def test_is_compiled_once(self, trained_model, monkeypatch, sampler):
        traces = []
        call = sampling.Step.call
        monkeypatch.setattr(
            sampling.Step, "call", lambda *args, **kwargs: traces.append(0) or call(*args, **kwargs)
        )
        trained_model.compiled_steps.clear()
        trained_model.generate(2, 2, sampler=sampler)
        assert len(traces) == 2  # the step, and the last one, which only denoises
        for num_images, times, batch_size in [(2, 5, None), (7, [0.3], 3), (1, (0.9, 0.1), 64)]:
            trained_model.generate(num_images, times, sampler=sampler, batch_size=batch_size)
        # Another schedule is no more than other noise levels.
        trained_model.generate(2, 2, sampler=sampler, schedule=keras_ddim.CosineSchedule(0.1, 0.9))
        assert len(traces) == 2

    def test_compiled_steps_are_forgotten(self, trained_model):
        for eta in np.linspace(0, 1, sampling.STEPS_KEPT + 2):
            trained_model.generate(1, 1, sampler=keras_ddim.DDIM(eta=eta))
        assert len(trained_model.compiled_steps.steps) == sampling.STEPS_KEPT

    def test_seeds(self, trained_model):
        images = trained_model.generate(5, 3, seed=7)
        assert np.array_equal(images, trained_model.generate(5, 3, seed=7))
        assert not np.array_equal(images, trained_model.generate(5, 3, seed=8))
        assert not np.array_equal(images[0], images[1])
        # An image belongs to its seed and number, however many are generated beside it.
        np.testing.assert_allclose(images[:2], trained_model.generate(2, 3, seed=7), atol=1e-5)
        np.testing.assert_allclose(
            images, trained_model.generate(5, 3, seed=7, batch_size=2), atol=1e-5
        )
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
        with pytest.raises(
            ValueError, match=r"The model .* must make finite values.*Received: NaN"
        ):
            model.generate(1, 2)

    def test_batches_without_a_seed_of_a_model_that_has_one(self):
        model = keras_ddim.DiffusionModel(network=tiny_network(), seed=5)
        first, second = ([*model.generate_batches(3, 2, batch_size=2)] for _ in range(2))
        assert [len(batch) for batch in first] == [2, 1]
        assert not np.array_equal(first[0], second[0])

    def test_images_come_in_batches_that_depend_on_nothing_else(self, trained_model):
        def images(num_images, **options):
            options = {"seed": 5, "batch_size": 4, "sampler": "ddpm", **options}
            return [*trained_model.generate_batches(num_images, 3, **options)]

        batches = images(10)
        assert [len(batch) for batch in batches] == [4, 4, 2]
        whole = np.concatenate(batches)
        np.testing.assert_array_equal(np.concatenate(images(7)), whole[:7])
        for first in (2, 4, 9):
            np.testing.assert_array_equal(np.concatenate(images(10, first=first)), whole[first:])
        assert images(10, first=10) == []
        at_once = trained_model.generate(3, 3, seed=5, first=6, sampler="ddpm")
        np.testing.assert_allclose(at_once, whole[6:9], atol=1e-5)
        one, other = (np.concatenate(images(5, seed=None)) for _ in range(2))
        assert not np.array_equal(one, other) and not np.array_equal(one[:4], one[1:])

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

    def test_schedule_can_be_replaced(self, trained_model):
        before = trained_model.generate(2, 3, sampler="ddim", seed=0)
        trained_model.schedule = keras_ddim.CosineSchedule(0.1, 0.9)
        after = trained_model.generate(2, 3, sampler="ddim", seed=0)
        assert not np.allclose(before, after)
        log_snr = np.array(trained_model.schedule.log_snr([1.0, 2 / 3, 1 / 3]))
        times = np.array(keras_ddim.CosineSchedule().diffusion_times(log_snr))
        trained_model.schedule = keras_ddim.CosineSchedule()
        translated = trained_model.generate(2, times, sampler="ddim", seed=0)
        np.testing.assert_allclose(translated, after, atol=1e-4)

    @pytest.fixture(scope="class")
    def fine(self, trained_model):
        return trained_model.generate(2, 200, seed=0)

    @pytest.mark.parametrize("sampler", sorted(set(keras_ddim.samplers.SAMPLERS) - {"dpm++"}))
    def test_samplers(self, trained_model, fine, sampler):
        """Solvers of one equation come to the same image, the nearer the more steps they take."""
        for times in (1, 2, [1.0, 0.5, 0.2]):
            images = trained_model.generate(2, times, sampler=sampler, seed=0)
            assert np.isfinite(images).all() and images.shape == (2, 8, 8, 3)
        if not keras_ddim.samplers.get(sampler).is_stochastic:
            np.testing.assert_allclose(
                trained_model.generate(2, 100, sampler=sampler, seed=0), fine, atol=0.1
            )

    def test_stochastic_samplers_and_seeds(self, trained_model):
        images = trained_model.generate(5, 4, sampler="ddpm", seed=3)
        few = trained_model.generate(2, 4, sampler="ddpm", seed=3, batch_size=1)
        np.testing.assert_allclose(images[:2], few, atol=1e-5)
        noise = np.zeros((1, 8, 8, 3))
        one, other = (
            trained_model.generate(1, 4, sampler="ddpm", seed=seed, initial_noise=noise)
            for seed in (1, 2)
        )
        assert not np.array_equal(one, other)

    def test_trajectory(self, trained_model):
        times, seen = [1.0, 0.7, 0.2], []
        trajectory = trained_model.generate(
            3,
            times,
            sampler="heun",
            seed=0,
            batch_size=2,
            return_trajectory=True,
            callback=lambda *visit: seen.append(visit),
        )
        np.testing.assert_array_equal(trajectory.images, trajectory.pred_images[-1])
        plain = trained_model.generate(3, times, sampler="heun", seed=0)
        np.testing.assert_allclose(trajectory.images, plain, atol=1e-5)
        assert trajectory.noisy_images.shape == trajectory.pred_images.shape == (3, 3, 8, 8, 3)
        assert trajectory.noisy_images[0].std() == pytest.approx(1, abs=0.1)
        assert trajectory.evaluations == 5
        np.testing.assert_array_equal(trajectory.diffusion_times, times)
        assert [(step, time) for step, time, _, _ in seen] == list(enumerate(times)) * 2
        np.testing.assert_array_equal(seen[0][2], trajectory.noisy_images[0, :2])
        np.testing.assert_array_equal(seen[-1][3], trajectory.images[2:])

    @pytest.mark.parametrize("clip", [True, "dynamic"])
    def test_clip(self, make_model, clip):
        """An untrained network leaves all noise in the image; clipped, it stays in range."""
        model = make_model()
        model.normalizer.set_weights([np.full(3, 0.5), np.full(3, 0.5), np.array(1)])
        noise = np.random.default_rng(0).standard_normal((2, 8, 8, 3))
        noisy_images, level = ops.convert_to_tensor(noise.astype("float32")), np.float32(-3)
        pred_noises, pred_images = model.make_denoiser(clip)(noisy_images, level)
        pixels = 0.5 + 0.5 * np.array(pred_images)
        assert pixels.min() >= -1e-6 and pixels.max() <= 1 + 1e-6
        inside = np.mean((pixels > 1e-6) & (pixels < 1 - 1e-6))
        assert inside > 0.9 if clip == "dynamic" else inside < 0.9
        signal_rate = np.sqrt(1 / (1 + np.exp(3)))
        mixed = signal_rate * pred_images + np.sqrt(1 - signal_rate**2) * pred_noises
        np.testing.assert_allclose(mixed, noise, atol=1e-5)

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

    @pytest.mark.parametrize(
        ("times", "received"),
        [
            ([], r"=\[\]"),
            (0, "=0"),
            (-3, "=-3"),
            (True, "=True"),
            (0.5, "=0.5"),
            (None, "=None"),
            ("fast", "='fast'"),
            ([[0.5]], r"=\[\[0.5\]\]"),
            ([0.5, "x"], "x"),
            ([0.5, float("nan")], r"\[1\]=nan"),
            ([float("inf")], r"\[0\]=inf"),
            ([0.9, 0.5, 1.5], r"\[2\]=1.5"),
            ([-0.1], r"\[0\]=-0.1"),
        ],
    )
    def test_bad_times(self, trained_model, times, received):
        with pytest.raises(ValueError, match=f"`diffusion_times` must.*Received.*{received}"):
            trained_model.generate(1, times)

    @pytest.mark.parametrize(
        "kwargs",
        [
            {"num_images": 0},
            {"num_images": 2.5},
            {"num_images": 1, "batch_size": 0},
            {"num_images": 1, "seed": -1},
            {"num_images": 1, "initial_noise": np.zeros((2, 8, 8, 3))},
            {"num_images": 1, "initial_noise": np.full((1, 8, 8, 3), np.nan)},
            {"num_images": 1, "sampler": "fastest"},
            {"num_images": 1, "schedule": "square"},
            {"num_images": 1, "clip": "hard"},
            {"num_images": 1, "diffusion_times": [0.5, 0.7], "sampler": "unipc"},
        ],
    )
    def test_bad_arguments(self, trained_model, kwargs):
        name = "diffusion_times" if "diffusion_times" in kwargs else list(kwargs)[-1]
        with pytest.raises(ValueError, match=f"`{name}` must .*Received"):
            trained_model.generate(**kwargs)


@pytest.mark.core
class TestConditioningAndPrediction:
    @pytest.mark.parametrize("prediction", ["noise", "image", "velocity", "flow"])
    @pytest.mark.parametrize("weighting", [None, "min_snr"])
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
        model = make_model(prediction_type="image")
        logs = model.evaluate(images, verbose=0, return_dict=True)
        assert logs["i_loss"] == pytest.approx(size, rel=0.02)
        assert logs["loss"] == pytest.approx(logs["i_loss"], rel=1e-4)

    def test_weighting_weights(self, make_model, images):
        """A squared error of the noise, weighted as one of the image, is one of the image."""
        model = make_model(loss_weighting="image")
        model.compile(loss="mse", run_eagerly=True)
        logs = model.evaluate(images, verbose=0, return_dict=True)
        assert logs["loss"] == pytest.approx(logs["i_loss"], rel=1e-3)

    @only_on("tensorflow", "torch", reason="JAX traces the network, which looks at its inputs")
    def test_network_is_conditioned_on_the_timestep(self, make_model, images):
        numbers = []

        class Network(keras.Model):
            def call(self, inputs, training=False):
                numbers.append(np.array(inputs[1])[:, 0, 0, 0])
                return 0.0 * inputs[0]

        schedule = keras_ddim.schedules.LinearBetaSchedule(4000)
        other = keras_ddim.schedules.CosineSchedule(0.1, 0.9)
        for remapped, of in ((True, schedule), (False, other)):
            conditioning = keras_ddim.conditioning.Timestep(of, 4000)
            model = make_model(schedule=schedule, conditioning=conditioning)
            model.adapt(images)
            model.network = model.ema_network = Network()
            times = keras_ddim.times.timesteps(4, 4000)
            if remapped:
                model.generate(1, times, seed=0)
                np.testing.assert_allclose([t[0] * 4000 for t in numbers], [3000, 2000, 1000, 0])
                numbers.clear()
            # 0.5 of another schedule's time is not the 2000th timestep's noise level.
            model.generate(1, [0.5], schedule=other, seed=0)
            noise_rate, _ = other.rates(0.5)
            expected_rate, _ = schedule.rates(numbers[0] * 4000 / 3999)
            assert np.allclose(noise_rate, expected_rate, atol=1e-3) == remapped
            numbers.clear()
        # Training draws whole timesteps.
        model = make_model(
            schedule=schedule, conditioning=keras_ddim.conditioning.Timestep(schedule)
        )
        model.adapt(images)
        model.network = model.ema_network = Network()
        model.test_on_batch(images)
        np.testing.assert_allclose(numbers[0] * 4000, np.round(numbers[0] * 4000), atol=2e-3)

    def test_level_that_no_timestep_has(self, make_model, images):
        conditioning = keras_ddim.conditioning.Timestep("linear_beta", 1000)
        model = make_model(schedule="linear_beta", conditioning=conditioning)
        with pytest.raises(ValueError, match=r"noise levels .* by \d.* noisier than timestep 999"):
            model.generate(1, [1.0], schedule=keras_ddim.CosineSchedule(1e-4, 0.9))

    @pytest.mark.parametrize("prediction", ["image", "velocity"])
    def test_zero_terminal_snr(self, make_model, images, prediction):
        schedule = keras_ddim.schedules.LinearBetaSchedule(1000, zero_terminal_snr=True)
        model = make_model(schedule=schedule, prediction_type=prediction)
        model.fit(images, verbose=0)
        assert np.isfinite(model.generate(2, 4, seed=0)).all()

    @pytest.mark.parametrize(
        ("name", "value"),
        [("prediction_type", "score"), ("loss_weighting", "snr"), ("conditioning", "time")],
    )
    def test_errors(self, name, value):
        with pytest.raises(ValueError, match=f"`{name}` must be .*{value}"):
            keras_ddim.DiffusionModel(network=tiny_network(), **{name: value})


@settings(max_examples=4)
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
    assert np.isfinite(model.fit(images, batch_size=4, verbose=0).history["loss"][0])
    assert model.generate(3, 2, seed=0).shape == (3, *shape)


@pytest.mark.core
def test_summary_names_the_parts(model):
    lines = []
    model.summary(print_fn=lambda line, **_: lines.append(line))
    text = "\n".join(map(str, lines))
    assert "residual_u_net" in text and "ema_residual_u_net" in text and "normalizer" in text


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


@pytest.mark.core
def test_times_in_the_docstring_example():
    """n uniform steps are 1, 1 - 1/n, …, 1/n."""
    from keras_ddim.checks import check_diffusion_times

    for steps in itertools.chain(range(1, 30), [1000]):
        expected = np.linspace(1, 1 / steps, steps)
        np.testing.assert_allclose(check_diffusion_times(steps), expected, atol=1e-12)
