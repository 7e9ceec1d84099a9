"""`fit` ends at the first loss that is not finite: nothing is saved, and all weights are finite."""

import itertools
import math
from unittest import mock

import keras
import numpy as np
import pytest
from keras import layers, ops

import keras_ddim
from keras_ddim import training

pytestmark = pytest.mark.core
BACKEND = keras.backend.backend()
MODES = {
    "eager": {"run_eagerly": BACKEND != "jax"},
    "compiled": {"jit_compile": BACKEND == "jax"},
    "jit": {"jit_compile": True},
}
SOURCES = ("array", "dataset", "generator")
BATCHES = np.random.default_rng(0).random((4, 8, 8, 8, 1)).astype("float32")
BAD = {
    name: np.concatenate([BATCHES[0][:7], np.full((1, 8, 8, 1), value, "float32")])
    for name, value in (("nan", np.nan), ("200", 200.0))
}


def make_model(optimizer="adam", **kwargs):
    """Four convolutions: at a learning rate of 1e12, their outputs are beyond float32."""
    noisy_images, noise_variances = keras.Input((8, 8, 1)), keras.Input((1, 1, 1))
    x = layers.Concatenate()([noisy_images, layers.UpSampling2D(8)(noise_variances)])
    for _ in range(3):
        x = layers.Conv2D(4, 3, padding="same", activation="swish")(x)
    x = layers.BatchNormalization()(x)
    network = keras.Model([noisy_images, noise_variances], layers.Conv2D(1, 3, padding="same")(x))
    model = keras_ddim.DiffusionModel(network=network, seed=0)
    model.compile(optimizer, **kwargs)
    fit(model, "array", BATCHES)
    return model


def fit(model, source, batches, **kwargs):
    """An epoch of batches of 8, in their order."""
    data = {"x": np.concatenate(batches), "batch_size": 8}
    if source == "dataset":
        tf = pytest.importorskip("tensorflow")
        data = {"x": tf.data.Dataset.from_tensor_slices(data["x"]).batch(8)}
    elif source == "generator":
        epochs = kwargs.get("epochs", 1)
        again = (batch for _ in range(epochs) for batch in batches)
        data = {"x": again, "steps_per_epoch": len(batches)}
    return model.fit(**data, shuffle=False, verbose=0, **kwargs)


def assert_stops(model, source, batches, folder, message="not finite", **kwargs):
    """`fit` raises one sentence, saves nothing, and leaves weights that are finite."""
    callbacks = [
        keras_ddim.callbacks.SaveModel(folder / "model.keras"),
        keras.callbacks.ModelCheckpoint(folder / "checkpoint.keras"),
    ]
    with pytest.raises(ValueError, match=message) as error:
        fit(model, source, batches, callbacks=callbacks, **kwargs)
    assert "\n" not in str(error.value) and ". " not in str(error.value)
    assert not any(folder.iterdir())
    for variable in [*model.weights, *model.optimizer.variables]:
        assert np.isfinite(ops.convert_to_numpy(variable)).all(), variable.path
    averages = model.ema_network.get_weights()
    for weight, average in zip(model.network.get_weights(), averages, strict=True):
        np.testing.assert_array_equal(weight, average)
    return averages


def assert_equal(arrays, others):
    for array, other in zip(arrays, others, strict=True):
        np.testing.assert_array_equal(array, other)


def check_bad_images(model, fault, source, folder):
    """The averaged weights follow the good batches before the bad one, and nothing after it."""
    good, bad = BATCHES[1:3], BAD[fault]
    before = model.ema_network.get_weights()
    message = "`x` must be finite" if source == "array" else "not finite"
    if source == "array":  # is looked at before the first step
        with pytest.raises(ValueError, match=message):
            fit(model, source, [*good, bad])
    else:
        assert_equal(assert_stops(model, source, [bad, *good], folder), before)
        steps = int(ops.convert_to_numpy(model.ema_steps))
        assert_stops(model, source, [good[0], bad, good[1]], folder)
        assert int(ops.convert_to_numpy(model.ema_steps)) == steps + 1
    assert_trains(model)


def check_diverging_rate(model, source, folder):
    variables = [*model.weights, *model.optimizer.variables]
    saved = [np.array(ops.convert_to_numpy(variable)) for variable in variables]
    model.optimizer.learning_rate = 1e12
    assert_stops(model, source, BATCHES, folder, epochs=10)
    for variable, value in zip(variables, saved):
        variable.assign(value)
    assert_trains(model)


def assert_trains(model):
    before = model.network.get_weights()
    assert np.isfinite(fit(model, "array", BATCHES).history["loss"]).all()
    assert not np.array_equal(before[0], model.network.get_weights()[0])


@pytest.fixture(
    scope="module", params=["eager", "compiled", pytest.param("jit", marks=pytest.mark.slow)]
)
def model(request):
    if BACKEND == "jax" and request.param == "jit":
        pytest.skip("JAX always compiles")
    return make_model(**MODES[request.param])


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("fault", BAD)
def test_bad_images(model, fault, source, tmp_path):
    check_bad_images(model, fault, source, tmp_path)


@pytest.mark.parametrize("source", SOURCES)
def test_diverging_rate(model, source, tmp_path):
    check_diverging_rate(model, source, tmp_path)


def test_a_gradient_that_is_not_finite(tmp_path):
    """The loss is that of zero, 0; its gradient is 0 · ∞."""

    def loss(true, pred):
        return ops.mean(ops.sqrt(0.0 * pred), axis=-1)

    model = make_model(run_eagerly=BACKEND != "jax")
    model.compile("sgd", loss, run_eagerly=BACKEND != "jax")
    before = model.ema_network.get_weights()
    # The loss of the first step is finite, and the kernels after it are not.
    averages = assert_stops(model, "array", BATCHES, tmp_path)
    np.testing.assert_array_equal(averages[0], before[0])


def test_several_steps_in_one_execution(tmp_path):
    if BACKEND == "torch":
        pytest.skip("Keras takes one step at a time on torch")
    model = make_model(steps_per_execution=3, jit_compile=False)
    for fault in BAD:
        check_bad_images(model, fault, "dataset", tmp_path)
    check_diverging_rate(model, "dataset", tmp_path)


def test_gradient_accumulation(tmp_path):
    """Each optimizer step takes the gradients of two batches, one of which is bad."""
    optimizer = keras.optimizers.Adam(gradient_accumulation_steps=2)
    model = make_model(optimizer, run_eagerly=BACKEND != "jax")
    before = model.ema_network.get_weights()
    for fault in BAD:
        batches = [BATCHES[0], BAD[fault]]
        assert_equal(assert_stops(model, "generator", batches, tmp_path), before)
    assert_trains(model)


def test_evaluation_leaves_the_model_as_it_was(model):
    before = model.get_weights()
    with pytest.raises(ValueError, match="not finite"):
        model.evaluate((batch for batch in [*BATCHES, BAD["200"]]), verbose=0)
    with pytest.raises(ValueError, match="`validation_data` must be finite"):
        model.fit(BATCHES[0], validation_data=(BAD["200"], None), verbose=0)
    for array, other in zip(before, model.get_weights(), strict=True):
        if array.dtype.kind == "f" and array.shape:  # neither seeds nor metrics
            np.testing.assert_array_equal(array, other)
    assert np.isfinite(model.evaluate(BATCHES[0], verbose=0)).all()


def test_the_step_beside_the_callback_keeps_its_weights():
    """Keras calls it from another thread, where JAX's weights may be those of the next step."""
    stop = training.StopOnNonFiniteLoss()
    stop.set_model(mock.Mock(stop_training=False))
    stop.on_train_batch_end(0, {"loss": math.nan})
    assert stop.stopped.stop_training and not stop.stopped.jax_state_sync.called


def test_an_epoch_is_cut_short(model):
    count = itertools.count()
    batches = (BAD["200"] if next(count) == 5 else BATCHES[0] for _ in range(3000))
    with pytest.raises(ValueError, match="not finite"):
        model.fit(batches, steps_per_epoch=3000, verbose=0)
    assert next(count) < 1000
