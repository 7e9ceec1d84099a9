"""Never silently wrong: what is odd works, or ends in one sentence naming argument and value."""

import decimal
import fractions
import os
import warnings

import keras
import numpy as np
import pytest

import keras_ddim
from keras_ddim import (
    callbacks,
    checks,
    encoders,
    guidance,
    metrics,
    plots,
    sampling,
    schedules,
    times,
)
from tests.conftest import tiny_network

pytestmark = pytest.mark.core


@pytest.fixture
def untrained(make_model, images):
    model = make_model()
    model.adapt(images)
    return model


# Arguments


@pytest.mark.parametrize(
    "function, value, message",
    [
        (checks.check_diffusion_times, np.array([1 + 1j, 0.5]), "real numbers. Received: diff"),
        (checks.check_diffusion_times, np.ma.array([1, 0.5], mask=[0, 1]), "Received: masked"),
        (checks.check_diffusion_times, ["1.0", "0.5"], "real numbers"),
        (checks.check_diffusion_times, 10**9, "at most 100,000. Received: diffusion_times=1000000"),
        (lambda v: schedules.KarrasSchedule(rho=v), 1e-3, "`rho` must .* at least 0.1"),
        (lambda v: schedules.KarrasSchedule(rho=v), 1e300, "`rho`.*strictly decreasing"),
        (lambda v: schedules.SigmoidSchedule(end_log_snr=v), -20, "finite and strictly"),
        (lambda v: times.karras(4, "cosine", rho=v), 1e-3, "`rho` must .* at least 0.1"),
        (schedules.LinearBetaSchedule, 10**9, "`num_timesteps` must .* at most 100,000"),
        (keras_ddim.CosineSchedule, decimal.Decimal("0.1"), r"=Decimal\('0.1'\)"),
        (lambda v: schedules.TableSchedule(betas=v), [decimal.Decimal("0.1")] * 2, "real numbers"),
        (lambda v: keras_ddim.SinusoidalEmbedding(max_frequency=v), np.inf, "max_frequency=inf"),
        (keras_ddim.ResidualUNet, (10**6, 10**6, 3), "`image_shape` must be .* at most"),
        (lambda v: keras_ddim.ResidualUNet((8, 8, 3), v), (16_384,), "`widths` and .* weights"),
        (checks.check_metadata, {"a": {1}}, "`metadata` must be"),
        (keras_ddim.DDIM, [[[[[[[[[0.5]]]]]]]]], "`eta` must be"),
        (lambda v: schedules.LinearBetaSchedule(continuous=v), np.zeros(2), "`continuous` must be"),
        (lambda v: keras_ddim.draw_flowers(1, return_labels=v), [0], "`return_labels` must be"),
        (lambda v: keras_ddim.ResidualUNet((8, 8, 3), (4,), dtype=v), np.zeros(3), "`dtype` must"),
        (lambda v: keras_ddim.ResidualUNet((8, 8, 3), (4,), dtype=v), "odd", "Received: dtype='od"),
        (lambda v: callbacks.SampleGrid(path=v), np.zeros((50, 3)), "`path` must be a path"),
        (
            lambda v: keras_ddim.ResidualUNet((8, 8, 3), (4,), dtype=v),
            {"class_name": "a"},
            "`dtype`",
        ),
        (
            lambda v: metrics.frechet_distance(v, np.eye(3)),
            np.eye(2),
            "features`, 2. Received: .* 3",
        ),
        (
            lambda v: metrics.kernel_distance(v, np.eye(3)),
            np.eye(2),
            "features`, 2. Received: .* 3",
        ),
        (lambda v: metrics.covered(v, np.eye(3), 1), np.eye(2), "features`, 2. Received: .* 3"),
        (plots.image_grid, [[1], [1, 2]], "`images` must be an array"),
        (lambda v: plots.animate_walk(v, "a.gif"), [[1], [1, 2]], "`images` must be an array"),
        (keras_ddim.Normalizer(3).adapt, np.array(1.0), "`batches` must be iterable"),
        (lambda v: guidance.Guided(None, v, 3), np.zeros((50, 3)), "guide=ndarray of shape"),
        (lambda v: encoders.encode(lambda x: x, v), [[1], [1, 2]], "`images` must be an array"),
        (lambda v: keras_ddim.load_images(np.zeros((2, 8, 8)), 8, flip=v), "no", "`flip` must be"),
    ],
)
def test_arguments(function, value, message):
    with pytest.raises(ValueError, match=message):
        function(value)


@pytest.mark.parametrize(
    "odd, message",
    [
        ({"seed": object()}, "`seed` must be an integer of at least 0. Received: seed=<object"),
        ({"seed": [3, -1]}, "Received: seed=-1"),
        ({"watchers": [3]}, r"`watchers` must be callables. Received: \[3\]"),
        ({"watchers": 3}, r"`watchers` must be callables. Received: \[3\]"),
    ],
)
def test_arguments_of_the_loop(untrained, odd, message):
    with pytest.raises(ValueError, match=message):
        sampling.generate(
            untrained.make_step(), [1.0, 0.0], num_images=1, image_shape=(8, 8, 3), **odd
        )


def test_frequencies_of_other_kinds():
    layer = keras_ddim.SinusoidalEmbedding(4, fractions.Fraction(1, 2), fractions.Fraction(8))
    assert (layer.min_frequency, layer.max_frequency) == (0.5, 8.0)


def test_numbers_of_other_kinds_are_saved(tmp_path):
    schedule = keras_ddim.CosineSchedule(np.float32(0.1), 0.9)
    assert type(schedule.min_signal_rate) is float


def test_messages_are_short():
    endless: list = []
    endless.append(endless)
    for value in (np.zeros((50, 50)), "x" * 10_000, [0.5] * 1000, endless, {"a": np.zeros(9)}):
        assert len(checks.brief(value)) < 250 and "\n" not in checks.brief(value)


# Images


@pytest.mark.parametrize(
    "odd, message",
    [
        (lambda x: x + 1j, "real numbers"),
        (lambda x: np.ma.masked_greater(x, 0.5), "Received: masked"),
        (lambda x: np.full(x.shape, 300), "values from 300 to 300"),
        (lambda x: [x, x], "Received: x=\\["),
        (lambda x: x.tolist(), "Received: x=\\["),
        (lambda x: 3, "Received: x=3"),
        (lambda x: (), r"Received: x=\(\)"),
        (lambda x: x.astype(object), "real numbers"),
    ],
)
def test_images(untrained, images, odd, message):
    with pytest.raises(ValueError, match=message):
        untrained.fit(odd(images), verbose=0)


def test_images_of_unknown_rank(untrained, images):
    tf = pytest.importorskip("tensorflow")
    unknown = tf.data.Dataset.from_generator(lambda: iter([images]), output_types=tf.float32)
    with pytest.raises(ValueError, match="number of dimensions"):
        untrained.fit(unknown, verbose=0)


def test_adapting_to_an_endless_dataset(make_model, images):
    class Endless(keras.utils.PyDataset):
        num_batches = None

        def __getitem__(self, index):
            return images[:1]

    model = make_model()
    model.adapt(Endless())
    assert model.normalizer.num_images.numpy() == 1000


# Training


def test_weights_of_images_count(make_model, images):
    losses = []
    for weights in (np.zeros(40), np.ones(40)):
        history = make_model().fit(images, sample_weight=weights, verbose=0).history
        losses.append(history["loss"][0])
    assert losses[0] == 0 < losses[1]
    assert make_model().train_on_batch(images, sample_weight=np.zeros(40))[0] == 0
    with pytest.raises(ValueError, match="`class_weight`"):
        make_model().fit(images, class_weight={0: 1.0}, verbose=0)


def test_the_average_is_never_trainable(make_model):
    model = make_model()
    before = len(model.trainable_variables)
    model.trainable = False
    assert not model.trainable_variables
    model.trainable = True
    assert len(model.trainable_variables) == before


def test_half_precision_is_trained_with_loss_scaling():
    model = keras_ddim.DiffusionModel(network=tiny_network(dtype="mixed_float16"))
    model.compile()
    assert isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
    model = keras_ddim.DiffusionModel(network=tiny_network(dtype="float16"))
    with pytest.raises(ValueError, match="float16 to be trained"):
        model.compile()


@pytest.mark.parametrize("loss", [["mse"], {"a": "mse"}, ("mse", "mae"), "nope", 3, None])
def test_losses(make_model, loss):
    with pytest.raises(ValueError, match="`loss` must be a single loss"):
        make_model().compile(loss=loss)


def test_a_loss_that_does_not_load(make_model):
    with pytest.warns(UserWarning, match="`loss` is a function that saved models do not load"):
        make_model().compile(loss=lambda true, pred: keras.ops.mean(true - pred))
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        make_model().compile(loss=keras.losses.mean_absolute_error)


def test_lora_is_refused(make_model, images):
    model = make_model()
    model.network.layers[-1].enable_lora(1)
    with pytest.raises(ValueError, match="LoRA"):
        model.fit(images, verbose=0)


@pytest.mark.parametrize(
    ("set_it", "wrong", "right", "message"),
    [
        (keras.config.set_floatx, "float16", "float32", "floatx"),
        (
            *(keras.config.set_image_data_format, "channels_first", "channels_last"),
            "channels_last",
        ),
    ],
)
def test_settings_of_keras(set_it, wrong, right, message):
    try:
        set_it(wrong)
        with pytest.raises(ValueError, match=message):
            keras_ddim.ResidualUNet((8, 8, 3))
    finally:
        set_it(right)


# Generating


def test_no_step_is_stale(images, tmp_path):
    """With a network of which all can be quantized, and that is traced in no time."""
    noisy_images, level = keras.Input((8, 8, 3)), keras.Input((1, 1, 1))
    hidden = keras.layers.Dense(4, "tanh")(noisy_images) + keras.layers.Dense(4)(level)
    network = keras.Model([noisy_images, level], keras.layers.Dense(3)(hidden))
    model = keras_ddim.DiffusionModel(network=network, seed=0)
    model.adapt(images)

    def change_conditioning():
        model.conditioning = keras_ddim.conditioning.LogSNR()

    def change_network():
        other = type(network).from_config(network.get_config())
        other.set_weights([1.1 * weight for weight in model.ema_network.get_weights()])
        model.ema_network = other

    def set_weights():
        model.set_weights([w * 1.1 if w.dtype.kind == "f" else w for w in model.get_weights()])

    def quantize():
        model.quantize("int8")

    def generate():
        return model.generate(2, [1.0, 0.5], sampler="ddim", seed=0)

    for change in (set_weights, change_conditioning, change_network, quantize):
        before = generate()
        change()
        changed = generate()
        model.compiled_steps.clear()
        np.testing.assert_array_equal(changed, generate())
        assert not np.array_equal(before, changed)
    with pytest.raises(ValueError, match="quantized"):
        model.fit(images, verbose=0)
    with pytest.raises(ValueError, match="quantized"):
        model.save(tmp_path / "m.keras")


def test_a_schedule_that_is_nowhere(untrained):
    class Nowhere(keras_ddim.Schedule):
        def log_snr(self, diffusion_times):
            return keras.ops.log(0.5 - keras.ops.convert_to_tensor(diffusion_times))

    with pytest.raises(ValueError, match=r"`schedule` must have .* NaN at 1"):
        untrained.generate(1, [1.0, 0.2], schedule=Nowhere())


# Files


def test_what_could_not_be_loaded_is_not_saved(untrained, tmp_path):
    with pytest.raises(ValueError, match=r"`filepath` must end in \.keras"):
        untrained.save(tmp_path / "m.h5")
    with pytest.raises(ValueError, match=r"ema_network\.export"):
        untrained.export(tmp_path / "m")
    assert not os.listdir(tmp_path)
