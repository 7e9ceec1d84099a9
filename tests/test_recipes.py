import keras
import numpy as np
import pytest

import keras_ddim
from keras_ddim import recipes


def rates(schedule, steps):
    return [float(keras.ops.convert_to_numpy(schedule(step))) for step in steps]


@pytest.mark.core
def test_learning_rate_rises_and_falls_to_zero():
    schedule = recipes.learning_rate_schedule(200, learning_rate=0.5)
    start, warm, middle, end = rates(schedule, [0, 10, 105, 200])
    assert start == 0 and end < 1e-6
    np.testing.assert_allclose([warm, middle], [0.5, 0.25], rtol=1e-3)
    # Of a run too short for a warm-up.
    np.testing.assert_allclose(rates(recipes.learning_rate_schedule(2, 0.5), [0, 1]), [0.5, 0.25])


@pytest.mark.core
def test_recipe_is_compiled_trained_and_saved(tmp_path):
    # Four of them, again and again: they are soon memorised.
    flowers = np.tile(keras_ddim.draw_flowers(4, 8, seed=0), (40, 1, 1, 1))
    model = keras_ddim.recipe((8, 8, 3), num_steps=120, widths=(8,), seed=0, name="small")
    many = np.tile(flowers, (4, 1, 1, 1))  # with noise of their own each, so that the loss is sure
    before = model.evaluate(many, batch_size=320, verbose=0)[0]
    model.fit(flowers, batch_size=16, epochs=12, verbose=0)
    assert model.evaluate(many, batch_size=320, verbose=0)[0] < 0.97 * before
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.name == "small" and isinstance(loaded.network, keras_ddim.ModulatedUNet)
    np.testing.assert_allclose(
        loaded.generate(2, 3, seed=0), model.generate(2, 3, seed=0), atol=1e-5
    )
    # Trained to the end; a schedule of more steps goes on as if planned from the beginning.
    assert float(keras.ops.convert_to_numpy(loaded.optimizer.learning_rate)) < 1e-6
    loaded.optimizer.learning_rate = recipes.learning_rate_schedule(240, learning_rate=0.5)
    rate = float(keras.ops.convert_to_numpy(loaded.optimizer.learning_rate))
    np.testing.assert_allclose(rate, 0.26, atol=0.03)


def test_arguments_of_the_model_replace_those_of_the_recipe():
    model = keras_ddim.recipe((8, 8, 1), 5, widths=(8,), prediction_type="noise", ema=0.5)
    assert model.prediction_type == "noise" and model.ema == 0.5
    with pytest.raises(ValueError, match="`num_steps` must be an integer"):
        keras_ddim.recipe((8, 8, 3), 0, widths=(8,))


def test_fine_tuning_goes_on_from_the_averaged_weights(trained_model, images):
    model = recipes.fine_tune(trained_model, num_steps=8)
    options = {"diffusion_times": 2, "seed": 0, "verbose": 0}
    np.testing.assert_array_equal(
        model.generate(2, **options), trained_model.generate(2, **options)
    )
    for averaged, weight in zip(trained_model.ema_network.weights, model.network.weights):
        np.testing.assert_array_equal(averaged.numpy(), weight.numpy())
    model.run_eagerly = True
    model.fit(images, batch_size=8, verbose=0)
    assert int(model.ema_steps.numpy()) == 5
    pairs = zip(trained_model.ema_network.weights, model.network.weights)
    assert not all(np.array_equal(averaged.numpy(), weight.numpy()) for averaged, weight in pairs)


@pytest.mark.usefixtures("eagerly")
def test_fine_tuning_on_other_classes(trained_model):
    names = ["daisy", "poppy", "tulip"]
    options = {"class_names": names, "preconditioning": "spectral", "seed": 0}
    model = keras_ddim.recipe((8, 8, 3), 10, widths=(8,), **options)
    rng = np.random.default_rng(0)
    for weight in model.ema_network.weights:  # positive, since variances are among them
        weight.assign(weight + 0.3 * rng.random(weight.shape))
    model.preconditioning.variances.assign(rng.uniform(0.1, 2, (3, 8, 8)))
    noise = rng.standard_normal((2, 8, 8, 3))
    options = {"diffusion_times": [0.9, 0.5], "initial_noise": noise, "verbose": 0}
    without_label = model.generate(2, **options)
    more = recipes.fine_tune(model, 10, class_names=["cat", "dog", "cow", "hen"])
    for labels in ("dog", None):
        received = more.generate(2, labels=labels, **options)
        np.testing.assert_allclose(received, without_label, atol=1e-5)
    fewer = recipes.fine_tune(model, 10)
    assert fewer.class_names is None and len(fewer.network.inputs) == 2
    pairs = zip(fewer.network.get_weights(), fewer.ema_network.get_weights(), strict=True)
    assert all(np.array_equal(weight, averaged) for weight, averaged in pairs)
    again = recipes.fine_tune(fewer, 10, class_names=names)
    received = again.generate(2, labels=[0, 2], **options)
    np.testing.assert_allclose(received, fewer.generate(2, **options), atol=1e-5)
    with pytest.raises(ValueError, match="must be None, except for a `ModulatedUNet`"):
        recipes.fine_tune(trained_model, 10, class_names=names)


@keras.saving.register_keras_serializable("tests")
class Subclass(keras_ddim.DiffusionModel):
    """What a user may derive."""


@pytest.mark.usefixtures("eagerly")
def test_same_seed_same_model_of_any_class(images):
    models = [keras_ddim.recipe((8, 8, 3), 5, widths=(8,), seed=3) for _ in range(2)]
    for model in models:
        model.fit(images, batch_size=20, shuffle=False, verbose=0)
    for one, other in zip(*(model.get_weights() for model in models)):
        np.testing.assert_allclose(one, other, atol=1e-6)
    model = Subclass(network=models[0].network, seed=0)
    assert type(recipes.fine_tune(model, 10)) is Subclass
