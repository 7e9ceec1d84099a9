"""A bad step changes nothing: images out of range, NaN, a loss that is not finite."""

import warnings

import keras
import numpy as np
import pytest
from keras import ops

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
