"""An ordinary wrong argument ends in a `ValueError` of one sentence that names it."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import keras_ddim
from keras_ddim import conditioning, degradations, guidance, metrics, plots, schedules, times
from keras_ddim.noise_levels import loss_weights

pytestmark = pytest.mark.core

NOISE = np.random.default_rng(0).standard_normal((2, 8, 8, 3)).astype("float32")
IMAGES = np.clip(0.5 + 0.1 * NOISE, 0, 1)

words = st.text("abcxyz_", min_size=9, max_size=12)  # longer than any name that is known
no_number = st.one_of(words, st.just(math.nan), st.just(math.inf), st.lists(st.floats(0, 1)))
no_count = st.one_of(
    words, st.integers(max_value=0), st.floats(0.1, 0.9), st.just(math.nan), st.just([2])
)
no_fraction = st.one_of(no_number, st.floats(max_value=-0.01), st.floats(min_value=1.01))
no_name = st.one_of(words, st.integers(), st.floats())
no_times = st.one_of(
    words,
    st.integers(max_value=0),
    st.lists(st.floats(1.01, 9), min_size=1),
    st.just([]),
    st.just([[1.0, 0.5]]),
    st.just([1.0, math.nan]),
)
no_images = st.sampled_from(
    [
        *(IMAGES[0, 0], IMAGES[..., :1], IMAGES[:, :4], 10 * IMAGES, IMAGES - 1, np.nan * IMAGES),
        *(np.full((2, 8, 8, 3), 300), IMAGES.astype(str), "images", 3),
    ]
)
no_pictures = st.sampled_from([IMAGES[:0], IMAGES[..., :2], 10 * IMAGES])
no_noise = st.sampled_from([NOISE[0], NOISE[..., :1], np.nan * NOISE, "noise", 3])

CALLS = [
    ("eta", lambda model, x: keras_ddim.DDIM(eta=x), no_fraction),
    ("order", lambda model, x: keras_ddim.UniPC(x), no_count),
    ("variant", lambda model, x: keras_ddim.UniPC(variant=x), no_name),
    ("variance", lambda model, x: keras_ddim.DDPM(variance=x), no_name),
    ("churn", lambda model, x: keras_ddim.Heun(churn=x), no_fraction),
    ("min_signal_rate", lambda model, x: keras_ddim.CosineSchedule(x), no_fraction),
    ("num_timesteps", lambda model, x: schedules.LinearBetaSchedule(x), no_count),
    ("schedule", lambda model, x: schedules.get(x), no_name),
    ("sampler", lambda model, x: keras_ddim.samplers.get(x), no_name),
    ("conditioning", lambda model, x: conditioning.get(x), no_name),
    ("num_timesteps", lambda model, x: conditioning.Timestep("cosine", x), no_count),
    ("min_log_snr", lambda model, x: conditioning.LogSNR(x, 2.0), no_number),
    ("num_steps", lambda model, x: times.uniform(x), no_count),
    ("rho", lambda model, x: times.karras(4, "cosine", x), no_number),
    ("spacing", lambda model, x: times.timesteps(5, 10, x), no_name),
    ("stretch", lambda model, x: times.renoised([1.0, 0.5], x), no_count),
    ("log_snr", lambda model, x: times.from_log_snr(x, "cosine"), words),
    ("sigmas", lambda model, x: times.from_sigmas([x], "karras"), st.floats(max_value=0.001)),
    ("weighting", lambda model, x: loss_weights(0.0, "noise", x), words),
    ("factor", lambda model, x: degradations.BlockAverage(x), no_count),
    ("rescale", lambda model, x: guidance.ClassifierFree(2.0, rescale=x), no_fraction),
    ("interval", lambda model, x: guidance.ClassifierFree(2.0, interval=(0.5, x)), no_fraction),
    ("guidance_scale", lambda model, x: guidance.ClassifierFree(x), no_number),
    ("model", lambda model, x: guidance.Autoguidance(x), no_name),
    ("loss", lambda model, x: guidance.LossGuidance(x), no_name),
    ("num_steps", lambda model, x: keras_ddim.interpolate(*NOISE, x), no_count),
    ("num_images", lambda model, x: keras_ddim.draw_flowers(x), no_count),
    ("image_size", lambda model, x: keras_ddim.draw_flowers(1, x), no_count),
    ("dtype", lambda model, x: keras_ddim.draw_flowers(1, dtype=x), words),
    ("columns", lambda model, x: plots.image_grid(IMAGES, x), no_count),
    ("images", lambda model, x: plots.image_grid(x), no_pictures),
    ("num_steps", lambda model, x: keras_ddim.recipe((8, 8, 3), x, widths=(4,)), no_count),
    ("widths", lambda model, x: keras_ddim.ResidualUNet((8, 8, 3), [x]), no_count),
    ("image_shape", lambda model, x: keras_ddim.ResidualUNet((8, x, 3)), no_count),
    ("image_shape", lambda model, x: keras_ddim.ModulatedUNet((8, 8 * x + 4, 3)), st.integers(0)),
    ("block_depth", lambda model, x: keras_ddim.ModulatedUNet((8, 8, 3), (4,), x), no_count),
    ("embedding_dims", lambda model, x: keras_ddim.SinusoidalEmbedding(x), no_count),
    ("network", lambda model, x: keras_ddim.DiffusionModel(network=x), no_name),
    ("image_shape", lambda model, x: of_model(model, image_shape=x), st.just((16, 16, 3))),
    ("ema", lambda model, x: of_model(model, ema=x), no_fraction),
    ("label_dropout", lambda model, x: of_model(model, label_dropout=x), no_fraction),
    ("prediction_type", lambda model, x: of_model(model, prediction_type=x), no_name),
    ("loss_weighting", lambda model, x: of_model(model, loss_weighting=x), no_name),
    ("seed", lambda model, x: of_model(model, seed=x), st.one_of(words, st.integers(max_value=-1))),
    ("class_names", lambda model, x: of_model(model, class_names=x), no_name),
    ("num_images", lambda model, x: model.generate(x, 2), no_count),
    ("diffusion_times", lambda model, x: model.generate(1, x), no_times),
    ("labels", lambda model, x: model.generate(1, 2, labels=x), no_name),
    ("guidance_scale", lambda model, x: model.generate(1, 2, guidance_scale=x), no_number),
    ("guidance", lambda model, x: model.generate(1, 2, guidance=x), words),
    ("known", lambda model, x: model.generate(1, 2, known=x), no_name),
    ("sampler", lambda model, x: model.generate(1, 2, sampler=x), no_name),
    ("schedule", lambda model, x: model.generate(1, 2, schedule=x), no_name),
    ("clip", lambda model, x: model.generate(1, 2, clip=x), words),
    ("seed", lambda model, x: model.generate(1, 2, seed=x), st.integers(max_value=-1)),
    ("first", lambda model, x: model.generate(1, 2, first=x), st.integers(max_value=-1)),
    ("batch_size", lambda model, x: model.generate(1, 2, batch_size=x), no_count),
    ("callback", lambda model, x: model.generate(1, 2, callback=x), no_name),
    ("initial_noise", lambda model, x: model.generate(2, 2, initial_noise=x), no_noise),
    ("initial_images", lambda model, x: model.generate(2, 2, initial_images=x), no_images),
    ("images", lambda model, x: model.edit(x), no_images),
    ("images", lambda model, x: model.invert(x, [0.5]), no_images),
    ("refinements", lambda model, x: model.invert(IMAGES, [0.5], refinements=x), no_count),
    ("images", lambda model, x: model.generate(3, 2, known=degradations.Known(x)), no_images),
    ("x", lambda model, x: model.fit(x, verbose=0), no_images),
    ("x", lambda model, x: model.evaluate(x, verbose=0), no_images),
    ("x", lambda model, x: model.adapt(x), no_images),
    ("preset", lambda model, x: keras_ddim.DiffusionModel.from_preset(x), words),
    ("features", lambda model, x: metrics.frechet_distance(x, np.eye(3)), no_noise),
]


def of_model(model, **kwargs):
    return keras_ddim.DiffusionModel(network=model.network, **kwargs)


@pytest.mark.parametrize(
    ("name", "call", "wrong"), CALLS, ids=lambda x: x if type(x) is str else ""
)
@settings(max_examples=10)
@given(data=st.data())
def test_wrong_arguments(trained_model, name, call, wrong, data):
    value = data.draw(wrong)
    with pytest.raises(ValueError) as error:
        call(trained_model, value)
    message = str(error.value)
    assert message.startswith(f"`{name}") and "\n" not in message and ". " not in message, message
