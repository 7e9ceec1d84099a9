"""Optimal times: as good as trying all of them, no worse than hand-designed ones, kept in files."""

import itertools

import keras
import numpy as np
import pytest
import scipy.optimize

import keras_ddim
from keras_ddim import encoders, explain_times, metrics, optimal_times, optimize_times
from keras_ddim.noise_levels import rates

pytestmark = pytest.mark.core

SHAPE = (4, 4, 1)
# Pixels of different variances come out of the noise at different times.
VARIANCES = np.geomspace(0.02, 4.0, 16)


@keras.saving.register_keras_serializable("tests")
class ExactNoise(keras.layers.Layer):
    """The exact prediction of noises in images of independent normal pixels."""

    def call(self, inputs):
        noisy_images, noise_variances = inputs
        variances = keras.ops.reshape(keras.ops.cast(VARIANCES, noisy_images.dtype), SHAPE)
        noisy_variances = (1 - noise_variances) * variances + noise_variances
        return keras.ops.sqrt(noise_variances) / noisy_variances * noisy_images


@pytest.fixture(scope="module")
def gaussian_model():
    """A model whose network is exact, for images whose best times are known."""
    inputs = [keras.Input(SHAPE), keras.Input((1, 1, 1))]
    network = keras.Model(inputs, ExactNoise()(inputs))
    model = keras_ddim.DiffusionModel(network=network, seed=0)
    model.normalizer.adapt([0.5 + 0.1 * np.random.default_rng(0).standard_normal((9, *SHAPE))])
    model.compile()
    return model


def exact_images(model, noise):
    """The images at the end of the exact flow, predicted without noise."""
    levels = model.schedule.log_snr(np.float32([1, 0]))
    (start_noise, end_noise), (start_signal, end_signal) = map(np.asarray, rates(levels))
    variances = VARIANCES.reshape(SHAPE)
    start, end = (
        signal**2 * variances + noise**2
        for signal, noise in ((start_signal, start_noise), (end_signal, end_noise))
    )
    return model.denormalize(noise * end_signal * variances / np.sqrt(start * end))


# The best times


@pytest.mark.parametrize(("sampler", "num_times"), [("ddim", 2), ("unipc", 3), ("heun", 2)])
def test_as_good_as_the_best_of_all_lists(gaussian_model, sampler, num_times):
    """Against the exact flow, by another search, from the best list of a coarse grid."""
    found = optimize_times(gaussian_model, num_times, sampler, verbose=0)
    assert found[0] == 1 and (np.diff(found) < 0).all() and found.dtype == "float64"
    # Each pixel is a multiple of its noise, so that ones stand for the mean over all noise.
    noise = np.ones((1, *SHAPE), "float32")
    exact = exact_images(gaussian_model, noise)

    def loss(times):
        if times[0] >= 1 or times[-1] < 0 or (np.diff(times) >= 0).any():
            return np.inf
        options = {"sampler": sampler, "initial_noise": noise, "verbose": 0}
        images = gaussian_model.generate(1, [1.0, *times], **options)
        return np.sqrt(np.mean((images - exact) ** 2))

    start = min(itertools.combinations(np.linspace(0.9, 0.1, 5), num_times - 1), key=loss)
    best = scipy.optimize.minimize(loss, start, method="Nelder-Mead", options={"fatol": 1e-6})
    assert loss(found[1:]) <= 1.01 * best.fun <= 1.01 * loss(start)


# Kept with the model


LIST = [1.0, 0.9, 0.55, 0.2]


def test_kept_in_the_file(model, tmp_path):
    with pytest.raises(ValueError, match=r"kept with the model \(none yet\), got 'best:4'"):
        model.generate(2, "best:4")
    model.keep_times(LIST)
    model.keep_times([1.0, 0.3], "ddim", "quick")
    with pytest.raises(ValueError, match=r"'best:4' for UniPC\(order=2.*'best:5' for DDIM"):
        model.generate(2, "best:5", sampler="ddim")
    assert model.count_evaluations("best:4") == 4
    model.save(tmp_path / "m.keras")
    loaded = keras.saving.load_model(tmp_path / "m.keras")
    for name, times, sampler in (("best:4", LIST, None), ("quick", [1.0, 0.3], "ddim")):
        images = loaded.generate(2, name, sampler=sampler, seed=1)
        expected = model.generate(2, times, sampler=sampler, seed=1)
        np.testing.assert_allclose(images, expected, atol=1e-5)


def test_a_kept_list_has_its_levels_under_any_schedule(model):
    model.keep_times(LIST)
    levels = model.schedule.log_snr(np.array(LIST))
    for schedule in ("sigmoid", "karras"):
        schedule = keras_ddim.schedules.get(schedule)
        times = model.kept_times("best:4", schedule=schedule)
        np.testing.assert_allclose(schedule.log_snr(times), levels, atol=1e-3)


@pytest.mark.parametrize(
    ("times", "name", "message"),
    [([0.5, 1.0], None, "strictly decreasing"), (LIST, "5", "begins with a letter")],
)
def test_what_cannot_be_kept(model, times, name, message):
    with pytest.raises(ValueError, match=message):
        model.keep_times(times, name=name)


# What comes out, and bad input


def test_no_worse_than_hand_designed_times(gaussian_model):
    options = {"num_images": 8, "seed": 3, "verbose": 0}
    optimizer = optimal_times.Optimizer(gaussian_model, "ddim", **options)
    found = optimizer.find(3)
    lists = optimizer.hand_designed(3).values()
    distances = [optimizer.distance(times, optimal_times.VALIDATION) for times in lists]
    assert optimizer.distance(found, optimal_times.VALIDATION) <= min(distances)
    np.testing.assert_array_equal(optimize_times(gaussian_model, 3, "ddim", **options), found)


@pytest.mark.parametrize("num_features", [1, 6])
def test_with_an_encoder_sets_of_images_are_compared(gaussian_model, num_features):
    """Their distance is the root of Fréchet's, or up to √2 of it where axes differ."""

    def encoder(images):
        return keras.ops.reshape(images, (len(images), -1))[:, :num_features]

    options = {"encoder": encoder, "num_images": 24, "verbose": 0}
    optimizer = optimal_times.Optimizer(gaussian_model, "ddim", **options)
    times = [1.0, 0.8, 0.4]
    teacher = optimizer.teacher_times, optimal_times.TEST, optimal_times.TEACHER
    images = optimizer.generate(times, optimal_times.TEST), optimizer.generate(*teacher)
    features = (encoders.encode(encoder, each) for each in images)
    frechet = np.sqrt(metrics.frechet_distance(*features))
    most = np.sqrt(2) if num_features > 1 else 1.0
    assert frechet > 0.001
    assert 0.999 * frechet <= optimizer.distance(times) <= 1.001 * most * frechet
    if num_features == 1:  # with more, found as surely, in three times the time
        found = optimizer.find(3)
        assert optimizer.distance(found) < 0.7 * optimizer.distance([1.0, 2 / 3, 1 / 3])


def test_times_are_optimized_for_real_images(gaussian_model):
    """Images generated at some times lead back to these times, not to the teacher's images."""
    made_along = [1.0, 0.2, 0.1]

    def encoder(images):
        return keras.ops.reshape(images, (-1, 16))

    options = {"encoder": encoder, "num_images": 256, "verbose": 0}
    optimizer = optimal_times.Optimizer(gaussian_model, "ddim", **options)
    like_the_teacher = optimizer.find(3)
    # From the noise of the teacher's images, so that the two differ by their times alone.
    images = optimizer.generate(made_along, optimal_times.COUNTERPARTS, num_images=1024)
    optimizer = optimal_times.Optimizer(gaussian_model, "ddim", images=images, **options)
    assert optimizer.distance(made_along) < 0.3 * optimizer.distance(like_the_teacher)
    np.testing.assert_allclose(optimizer.find(3), made_along, atol=0.05)


def test_an_interrupted_search_has_the_best_times_so_far(gaussian_model, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    options = {"num_images": 8, "verbose": 0}
    monkeypatch.setattr(optimal_times, "_descend", interrupt)
    with pytest.warns(UserWarning, match="Interrupted"):
        found = optimize_times(gaussian_model, 3, **options)
    optimizer = optimal_times.Optimizer(gaussian_model, **options)
    lists = optimizer.hand_designed(3).values()
    best = min(lists, key=lambda times: optimizer.distance(times, optimal_times.VALIDATION))
    np.testing.assert_array_equal(found, best)
    monkeypatch.setattr(gaussian_model, "generate", interrupt)
    with pytest.raises(KeyboardInterrupt):
        optimize_times(gaussian_model, 3, **options)


def test_schedules_that_end_without_signal(gaussian_model, monkeypatch):
    model = gaussian_model
    schedule = keras_ddim.schedules.LinearBetaSchedule(zero_terminal_snr=True)
    monkeypatch.setattr(model, "schedule", schedule)
    found = optimize_times(model, 2, num_images=2, verbose=0)
    assert np.isfinite(model.generate(2, found, sampler="unipc", verbose=0)).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sampler": "ddpm"}, "`sampler` must be deterministic"),
        ({"num_times": 41}, "`num_times` must be an integer of at least 1 and at most 40"),
        ({"model": None}, "`model` must be a trained `keras_ddim.DiffusionModel`"),
        ({"images": np.zeros((2, *SHAPE))}, "`images` must be None without an `encoder`"),
        ({"num_images": 1, "encoder": np.asarray}, "`num_images` must be an integer of at least 2"),
    ],
)
def test_bad_input_is_one_sentence(gaussian_model, arguments, message):
    with pytest.raises(ValueError, match=message) as error:
        optimize_times(**{"model": gaussian_model, "num_times": 3, "verbose": 0, **arguments})
    assert "\n" not in str(error.value)


def test_models_that_cannot_be_optimized(make_model):
    model = make_model()
    with pytest.raises(ValueError, match="must be a trained"):
        optimize_times(model, 3)
    model.normalizer.adapt([np.random.default_rng(0).random((4, 8, 8, 3))])
    model.ema_network.set_weights([w * np.nan for w in model.ema_network.get_weights()])
    with pytest.raises(ValueError, match="are not finite"):
        optimize_times(model, 3, num_images=2, verbose=0)


# Why


def test_errors_are_those_of_the_steps(gaussian_model):
    """They bound the whole, and where all of it is in one step, that step has it."""
    times = [1.0, 0.98, 0.95, 0.9, 0.1, 0.05]
    explained = explain_times(gaussian_model, times, "ddim")
    assert np.argmax(explained.errors) == 3
    assert 0 < explained.distance <= explained.errors.sum() + 1e-6
    optimizer = optimal_times.Optimizer(gaussian_model, "ddim", num_images=16)
    assert explained.distance == pytest.approx(optimizer.distance(times), rel=0.02)
    assert 0.1 < explained.best_added_time < 0.9
    assert explained.added_distances.min() < explained.distance
    exact = explain_times(gaussian_model, optimizer.teacher_times, optimal_times.TEACHER)
    assert exact.errors.max() < 0.1 * explained.distance
    with pytest.raises(ValueError, match="must be strictly decreasing"):
        explain_times(gaussian_model, [0.5, 1.0])


def test_times_that_all_but_end_at_0_are_explained(trained_model):
    options = {"num_images": 2, "teacher_times": 4, "verbose": 0}
    explanation = keras_ddim.explain_times(trained_model, [1.0, 0.5, 1e-17], "dpm++", **options)
    assert np.isfinite(explanation.errors).all()
