"""A step that fails changes nothing: no weight, not the average, nothing of the optimizer."""

import itertools

import keras
import numpy as np
import pytest
from keras import layers, ops

import keras_ddim

pytestmark = pytest.mark.core
BACKEND = keras.backend.backend()
MODES = {
    "eager": {"run_eagerly": True},
    "compiled": {"jit_compile": BACKEND == "jax"},
    "jit": {"jit_compile": True},
}
SOURCES = ("array", "dataset", "generator")
BATCHES = np.random.default_rng(0).random((4, 8, 8, 8, 1)).astype("float32")
BAD = {
    name: np.concatenate([BATCHES[0][:7], np.full((1, 8, 8, 1), value, "float32")])
    for name, value in (("nan", np.nan), ("200", 200.0))
}


def make_model(**kwargs):
    """Four convolutions: at a learning rate of 1e12, their outputs are beyond float32."""
    noisy_images, noise_variances = keras.Input((8, 8, 1)), keras.Input((1, 1, 1))
    x = layers.Concatenate()([noisy_images, layers.UpSampling2D(8)(noise_variances)])
    for _ in range(3):
        x = layers.Conv2D(4, 3, padding="same", activation="swish")(x)
    x = layers.BatchNormalization()(x)
    network = keras.Model([noisy_images, noise_variances], layers.Conv2D(1, 3, padding="same")(x))
    model = keras_ddim.DiffusionModel(network=network, seed=0)
    model.compile(**{"optimizer": "adam", **kwargs})
    model.adapt(BATCHES[3])
    return model


def kept(model):
    return [*model.weights, *model.optimizer.variables]


def state(model):
    return [value_of(variable) for variable in kept(model)]


def value_of(variable):
    """A copy: some backends' arrays are views of what the next step overwrites."""
    return np.array(ops.convert_to_numpy(variable.value))


def everything(model):
    """The state and that of the random numbers, to be put back with `restore`."""
    variables = [*kept(model), model.seed_generator.state]
    return [(variable, value_of(variable)) for variable in variables]


def restore(saved):
    for variable, value in saved:
        variable.assign(value.copy())  # what a backend is given, it may keep and overwrite


def assert_state(model, expected, rtol=0.0):
    for variable, value, wanted in zip(kept(model), state(model), expected, strict=True):
        assert np.isfinite(value).all(), variable.path
        np.testing.assert_allclose(value, wanted, rtol, rtol * 1e-2, err_msg=variable.path)


def fit(model, source, batches, epochs=2):
    """Training on batches, in their order."""
    data = {"x": np.concatenate(batches), "batch_size": 8}
    if source == "dataset":
        tf = pytest.importorskip("tensorflow")
        data = {"x": tf.data.Dataset.from_tensor_slices(data["x"]).batch(8)}
    elif source == "generator":
        epoch_after_epoch = (batch for _ in range(epochs) for batch in batches)
        data = {"x": epoch_after_epoch, "steps_per_epoch": len(batches)}
    return model.fit(**data, epochs=epochs, shuffle=False, verbose=0)


def assert_trains(model):
    before = model.network.get_weights()
    assert np.isfinite(fit(model, "array", BATCHES, epochs=1).history["loss"]).all()
    assert not np.array_equal(before[0], model.network.get_weights()[0])


def check_bad_images(model, fault, source):
    """Nothing of the bad batch is applied, and nothing after it; what came before it, is."""
    saved = everything(model)
    message = rf"^Images must be finite floats in \[0, 1\].* to {fault}"
    for good in (0, 1):
        if good and source != "array":  # of an array all images are looked at beforehand
            model.train_on_batch(BATCHES[0])
        expected = state(model)
        restore(saved)
        with pytest.raises(ValueError, match=message):
            fit(model, source, [*BATCHES[:good], BAD[fault], *BATCHES[1:3]])
        assert_state(model, expected, rtol=1e-4 if good else 0.0)
        restore(saved)
    assert_trains(model)


def check_diverging_rate(model, source):
    """Steps are applied until one can't be: the weights stay those before it, and finite."""
    saved = everything(model)
    model.optimizer.learning_rate = 1e12
    fast = everything(model)
    with pytest.raises(ValueError, match=r"^The loss, or a weight .* lower learning rate\.$"):
        for batch in itertools.islice(itertools.cycle(BATCHES), 40):
            before = state(model)
            model.train_on_batch(batch)
    assert_state(model, before)
    restore(fast)
    with pytest.raises(ValueError, match=r"^The loss, or a weight .* lower learning rate\.$"):
        fit(model, source, BATCHES, epochs=10)
    assert_state(model, before, rtol=1e-3)
    restore(saved)
    assert_trains(model)


@pytest.mark.parametrize("method", ["fit", "evaluate"])
def test_integers_out_of_range_are_named_as_they_were_received(eager_model, method):
    good, bad = np.full((8, 8, 8, 1), 255), np.full((8, 8, 8, 1), 1000)
    bad[0, 0, 0, 0] = -3
    count = {"fit": "steps_per_epoch", "evaluate": "steps"}[method]
    call, before = getattr(eager_model, method), state(eager_model)
    with pytest.raises(ValueError, match=r"0\.\.255\. Received: values from -3 to 1000\."):
        call((batch for batch in [bad, good]), **{count: 2}, verbose=0)
    assert_state(eager_model, before)
    call((batch for batch in [good]), **{count: 1}, verbose=0)


def test_a_batch_is_checked_once(eager_model, monkeypatch):
    check, names = keras_ddim.checks.check_array, []
    monkeypatch.setattr(
        keras_ddim.checks, "check_array", lambda name, *a: names.append(name) or check(name, *a)
    )
    eager_model.train_on_batch(BATCHES[0])
    eager_model.test_on_batch(BATCHES[0])
    assert names == ["x", "x"]


@pytest.fixture(scope="module")
def eager_model():
    model = make_model(run_eagerly=BACKEND != "jax")
    model.optimizer.build(model.trainable_variables)  # with what `state` compares
    return model


@pytest.fixture(
    scope="module", params=["eager", "compiled", pytest.param("jit", marks=pytest.mark.slow)]
)
def model(request):
    if request.param == "jit" and BACKEND == "jax":
        pytest.skip("JAX always compiles")
    model = make_model(**MODES[request.param])
    model.fit(BATCHES[3], batch_size=8, verbose=0)
    return model


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("fault", BAD)
def test_bad_images(model, fault, source):
    check_bad_images(model, fault, source)


@pytest.mark.parametrize("source", SOURCES)
def test_diverging_rate(model, source):
    check_diverging_rate(model, source)


def test_weights_that_a_finite_loss_leaves_not_finite(model):
    """The loss is that of zero, 0; its gradient is 0 · ∞."""

    def loss(true, pred):
        return ops.mean(ops.sqrt(0.0 * pred), axis=-1)

    how = {"run_eagerly": model.run_eagerly, "jit_compile": model.jit_compile}
    other = make_model(optimizer="sgd", loss=loss, **how)
    other.evaluate(BATCHES[0], verbose=0)
    before = state(other)
    with pytest.raises(ValueError, match="a weight after the step, is not finite"):
        fit(other, "array", BATCHES)
    assert_state(other, before)
    with pytest.raises(ValueError, match="a weight after the step, is not finite"):
        other.train_on_batch(BATCHES[0])
    assert_state(other, before)
    other.compile("sgd", **how)
    assert_trains(other)


def test_several_steps_in_one_execution():
    if BACKEND == "torch":
        pytest.skip("Keras takes one step at a time on torch")
    model = make_model(steps_per_execution=3)
    model.fit(BATCHES[3], batch_size=8, verbose=0)
    for fault in BAD:
        check_bad_images(model, fault, "dataset")
    check_diverging_rate(model, "dataset")


def test_gradients_are_kept_that_wait_for_their_step():
    """Those of a good batch wait for a second one, which is bad."""
    optimizer = keras.optimizers.Adam(gradient_accumulation_steps=2)
    model = make_model(optimizer=optimizer, run_eagerly=True)
    model.fit(BATCHES[3], batch_size=8, verbose=0)
    assert int(optimizer._iterations) == 1
    for fault in BAD:
        check_bad_images(model, fault, "generator")


def test_evaluation_of_bad_images_leaves_the_model_as_it_was(model):
    before = state(model)
    dataset = [*BATCHES[:2], BAD["200"], *BATCHES[2:]]
    for _ in range(2):
        with pytest.raises(ValueError, match="to 200"):
            model.evaluate((batch for batch in dataset), verbose=0)
        assert_state(model, before)
    with pytest.raises(ValueError, match="to 200"):
        model.fit(BATCHES[0], validation_data=(BAD["200"], None), verbose=0)
    assert np.isfinite(model.evaluate(BATCHES[0], verbose=0)).all()
    assert_trains(model)


def test_epoch_is_cut_short(model):
    count = itertools.count()
    batches = (BAD["200"] if next(count) == 5 else BATCHES[0] for _ in range(3000))
    with pytest.raises(ValueError, match="to 200"):
        model.fit(batches, steps_per_epoch=3000, verbose=0)
    assert next(count) < 1000
    assert_trains(model)


def test_callbacks_never_see_an_epoch_that_failed(model, tmp_path):
    saver = keras_ddim.callbacks.SaveModel(tmp_path / "model.keras")
    batches = (batch for batch in [BAD["nan"]])
    with pytest.raises(ValueError, match="to nan"):
        model.fit(batches, steps_per_epoch=1, verbose=0, callbacks=[saver])
    assert not (tmp_path / "model.keras").exists()
