"""A bad step changes nothing: images out of range, NaN, a loss that is not finite."""

import itertools
import warnings

import keras
import numpy as np
import pytest
from keras import layers, ops

import keras_ddim
from tests.conftest import tiny_network

pytestmark = pytest.mark.core

BATCH = 8
MODES = [{"run_eagerly": True}, {}]
if keras.backend.backend() != "torch":  # where it needs a compiler of C++
    MODES.append(pytest.param({"jit_compile": True}, marks=pytest.mark.slow))


def make_model(images, optimizer=None, **options):
    model = keras_ddim.DiffusionModel(network=tiny_network(widths=(4,), seed=0), seed=0)
    model.compile(optimizer, **options)
    model.adapt(images)
    model.fit(images[: 2 * BATCH], batch_size=BATCH, shuffle=False, verbose=0)
    return model


def numbers(model):
    """All that a step may change, but the random numbers that it draws."""
    variables = [*model.network.weights, *model.ema_network.weights, *model.optimizer.variables]
    tensors = [ops.convert_to_tensor(variable) for variable in [*variables, model.ema_steps]]
    return [np.array(ops.convert_to_numpy(tensor)) for tensor in tensors]


def spoil(images, value):
    """The third batch has one image of this value."""
    images = images.copy()
    images[2 * BATCH + 3] = value
    return images


def as_generator(images):
    return ((images[i : i + BATCH],) for i in range(0, len(images), BATCH))


def as_dataset(images):
    tf = pytest.importorskip("tensorflow")
    return tf.data.Dataset.from_tensor_slices(images).batch(BATCH)


@pytest.mark.parametrize("mode", MODES, ids=str)
@pytest.mark.parametrize("value", [np.nan, 200.0])
@pytest.mark.parametrize("form", [as_generator, as_dataset])
def test_bad_image_in_a_stream(images, mode, value, form):
    model = make_model(images, **mode)
    good = make_model(images, **mode)
    good.fit(images[: 2 * BATCH], batch_size=BATCH, shuffle=False, verbose=0)
    with pytest.raises(ValueError, match=r"Images must be finite floats .* Received: values from"):
        # With the number of steps: Keras counts one more of a stream whose end it runs into.
        model.fit(form(spoil(images, value)), steps_per_epoch=5, verbose=0)
    # As after the two good batches before it; what comes after it is not applied either.
    for received, expected in zip(numbers(model), numbers(good), strict=True):
        np.testing.assert_allclose(received, expected, rtol=1e-4, atol=1e-6)
    history = model.fit(images, batch_size=BATCH, verbose=0).history
    assert np.isfinite(history["loss"]).all()


def test_bad_image_in_an_array_is_found_before_the_first_step(images):
    model = make_model(images, run_eagerly=True)
    before = numbers(model)
    for value in (np.nan, 200.0):
        with pytest.raises(ValueError, match="Images must be finite"):
            model.fit(spoil(images, value), batch_size=BATCH, verbose=0)
    for received, expected in zip(numbers(model), before, strict=True):
        np.testing.assert_array_equal(received, expected)


@pytest.mark.parametrize("mode", MODES, ids=str)
def test_bad_batch_by_itself(images, mode):
    model = make_model(images, **mode)
    before = numbers(model)
    for change in (lambda x: x * np.nan, lambda x: x * 255):
        with pytest.raises(ValueError, match="Images must be finite"):
            model.train_on_batch(change(images[:BATCH]))
    for received, expected in zip(numbers(model), before, strict=True):
        np.testing.assert_array_equal(received, expected)
    assert np.isfinite(model.train_on_batch(images[:BATCH])).all()


@pytest.mark.parametrize("mode", MODES, ids=str)
def test_diverging_learning_rate(images, mode):
    optimizer = keras.optimizers.Adam(1e-3)
    model = make_model(images, optimizer, **mode)
    optimizer.learning_rate = 1e30
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of overflow
        with pytest.raises(ValueError, match=r"not finite: training diverged.*learning rate"):
            model.fit(as_generator(np.tile(images, (4, 1, 1, 1))), verbose=0)
    assert all(np.isfinite(values).all() for values in numbers(model))


@pytest.mark.parametrize("mode", MODES, ids=str)
def test_weights_of_a_diverging_rate_are_those_before_the_step_that_is_refused(images, mode):
    """Without batch normalization, three convolutions at 1e12 leave the range of float32."""
    model = make_plain_model(images, "adam", **mode)
    model.optimizer.learning_rate = 1e12
    batches = itertools.cycle(np.split(images, 5))
    with pytest.raises(ValueError, match=r"not finite: training diverged.*learning rate"):
        for batch in itertools.islice(batches, 20):
            before = numbers(model)
            model.train_on_batch(batch)
    for received, expected in zip(numbers(model), before, strict=True):
        assert np.isfinite(received).all()
        np.testing.assert_array_equal(received, expected)


@pytest.mark.parametrize("mode", MODES, ids=str)
def test_weights_that_a_finite_loss_leaves_not_finite(images, mode):
    """The loss is the root of zero, 0; its gradient is 0 times infinity."""
    model = make_plain_model(images, "sgd", **mode)
    model.compile("sgd", lambda y, y_pred: ops.mean(ops.sqrt(0.0 * y_pred), axis=-1), **mode)
    assert model.evaluate(images, verbose=0, return_dict=True)["loss"] == 0
    before = numbers(model)
    with pytest.raises(ValueError, match="a weight after the step, is not finite"):
        model.fit(images, batch_size=BATCH, epochs=2, verbose=0)
    with pytest.raises(ValueError, match="a weight after the step, is not finite"):
        model.train_on_batch(images[:BATCH])
    for received, expected in zip(numbers(model), before, strict=True):
        np.testing.assert_array_equal(received, expected)


def make_plain_model(images, optimizer, **mode):
    noisy_images, noise_variances = keras.Input((8, 8, 3)), keras.Input((1, 1, 1))
    x = layers.Concatenate()([noisy_images, layers.UpSampling2D(8)(noise_variances)])
    for activation in ("swish", "swish", "swish", None):
        x = layers.Conv2D(3, 3, padding="same", activation=activation)(x)
    network = keras.Model([noisy_images, noise_variances], x)
    model = keras_ddim.DiffusionModel(network=network, seed=0)
    model.compile(optimizer, **mode)
    model.adapt(images)
    model.fit(images, batch_size=BATCH, verbose=0)
    return model


def test_gradients_that_wait_for_their_step_are_kept(images):
    """Those of a good batch wait for a second one, which is bad."""
    optimizer = keras.optimizers.Adam(gradient_accumulation_steps=2)
    model = make_plain_model(images, optimizer, run_eagerly=True)
    assert int(optimizer._iterations) == 5  # of which the last gradients wait
    before = numbers(model)
    bad = np.concatenate([images[2 * BATCH :], images]) * 255
    with pytest.raises(ValueError, match="Images must be finite"):
        model.fit(as_generator(bad), steps_per_epoch=5, verbose=0)
    for received, expected in zip(numbers(model), before, strict=True):
        np.testing.assert_array_equal(received, expected)
    model.train_on_batch(images[:BATCH])
    assert not np.array_equal(model.network.get_weights()[0], before[0])


@pytest.mark.parametrize("mode", MODES, ids=str)
def test_an_epoch_that_failed_is_cut_short(images, mode):
    """And no step is applied that is taken until then: Keras notes the loss in another thread."""
    model = make_model(images, **mode)
    before, count = numbers(model), itertools.count()
    batches = (images[:BATCH] * (255 if next(count) == 0 else 1) for _ in range(3000))
    with pytest.raises(ValueError, match="Images must be finite"):
        model.fit(batches, steps_per_epoch=3000, verbose=0)
    assert next(count) < 1000
    for received, expected in zip(numbers(model), before, strict=True):
        np.testing.assert_array_equal(received, expected)


def test_the_step_that_is_refused_leaves_all_as_it_was(images):
    """The loss of the very step, whatever makes it so: here, the weights."""
    model = make_model(images)
    weights = model.network.get_weights()
    model.network.set_weights([np.full_like(w, np.nan) if w.ndim == 4 else w for w in weights])
    before = numbers(model)
    with pytest.raises(ValueError, match="not finite: training diverged"):
        model.fit(as_generator(images), verbose=0)
    for received, expected in zip(numbers(model), before, strict=True):
        np.testing.assert_array_equal(received, expected)


@pytest.mark.skipif(keras.backend.backend() == "torch", reason="Keras has it not on torch")
def test_several_steps_in_one_execution(images):
    model = make_model(images, steps_per_execution=3)
    good = make_model(images)
    good.fit(images[: 2 * BATCH], batch_size=BATCH, shuffle=False, verbose=0)
    with pytest.raises(ValueError, match="Images must be finite"):
        model.fit(as_generator(spoil(images, np.nan)), steps_per_epoch=5, verbose=0)
    for received, expected in zip(numbers(model), numbers(good), strict=True):
        np.testing.assert_allclose(received, expected, rtol=1e-4, atol=1e-6)


def test_bad_validation_data(images):
    model = make_model(images)
    with pytest.raises(ValueError, match="Images must be finite"):
        model.fit(images, validation_data=as_dataset(spoil(images, 200.0)), verbose=0)
    with pytest.raises(ValueError, match="Images must be finite"):
        model.evaluate(as_dataset(spoil(images, np.nan)), verbose=0)
    assert np.isfinite(model.evaluate(images, verbose=0)).all()


def test_callbacks_of_the_user_never_see_a_model_that_failed(images, tmp_path):
    model = make_model(images)
    saver = keras_ddim.callbacks.SaveModel(tmp_path / "model.keras")
    with pytest.raises(ValueError, match="Images must be finite"):
        model.fit(as_generator(spoil(images, np.nan)), verbose=0, callbacks=[saver])
    assert not (tmp_path / "model.keras").exists()
