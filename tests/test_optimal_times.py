"""Optimal times: as good as trying all lists, no worse than those made by hand, kept in files."""

import itertools
import subprocess
import sys

import keras
import numpy as np
import pytest

import keras_ddim
from keras_ddim import (
    GaussianDenoiser,
    encoders,
    explain_times,
    metrics,
    optimal_times,
    optimize_times,
    planning,
    sampling,
)
from tests.conftest import tiny_network

pytestmark = pytest.mark.core

SHAPE = (4, 4, 1)
# Of pixels on a common scale, so that directions differ in when they come out of the noise.
VARIANCES = np.geomspace(0.02, 4.0, 16)


class GaussianModel(keras_ddim.DiffusionModel):
    """A model whose denoiser is exact, for images whose best lists are known."""

    def __init__(self):
        super().__init__(network=tiny_network(SHAPE), seed=0)
        self.normalizer.adapt([0.5 + 0.1 * np.random.default_rng(0).standard_normal((9, *SHAPE))])
        self.exact = GaussianDenoiser(np.zeros(SHAPE), VARIANCES)
        self.compile()

    def make_denoiser(self, *args, **kwargs):
        return self.exact


@pytest.fixture(scope="module")
def gaussian_model():
    return GaussianModel()


# The best list


@pytest.mark.parametrize(("sampler", "num_times"), [("ddim", 2), ("unipc", 3), ("heun", 2)])
def test_as_good_as_trying_all_lists(gaussian_model, sampler, num_times):
    """Against the exact flow, and on other noise than it was found for."""
    model = gaussian_model
    optimizer = optimal_times.Optimizer(model, sampler, num_images=64, verbose=0)
    found = optimizer.find(num_times)
    noise = np.random.default_rng(5).standard_normal((64, *SHAPE)).astype("float32")
    start, end = (model.schedule.log_snr(np.float32(time)) for time in (1, 0))
    _, exact = model.exact(model.exact.follow(keras.ops.convert_to_tensor(noise), start, end), end)
    exact = model.denormalize(exact)

    def loss(times):
        options = {"sampler": sampler, "initial_noise": noise, "verbose": 0}
        images = model.generate(len(noise), times, **options)
        return np.sqrt(np.mean((images - exact) ** 2))

    grid = np.linspace(0, 1, {2: 41, 3: 21}[num_times])[-2::-1]
    lists = itertools.combinations(grid, num_times - 1)
    least = min(loss([1.0, *times]) for times in lists)
    assert found[0] == 1 and (np.diff(found) < 0).all() and found.dtype == "float64"
    assert loss(found) <= 1.01 * least


# Kept with the model


LIST = [1.0, 0.9, 0.55, 0.2]


def test_kept_in_the_file_for_another_process(trained_model, tmp_path):
    trained_model.keep_times(LIST)
    trained_model.keep_times([1.0, 0.3], "ddim", "quick")
    trained_model.save(tmp_path / "m.keras")
    code = (
        "import keras, keras_ddim, numpy as np\n"
        "model = keras.saving.load_model('m.keras')\n"
        "images = [model.generate(2, 'best:4', seed=1)]\n"
        "images += [model.generate(2, 'quick', sampler='ddim', seed=1)]\n"
        "np.save('images.npy', images)\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, capture_output=True)
    expected = [
        trained_model.generate(2, LIST, sampler="unipc", seed=1),
        trained_model.generate(2, [1.0, 0.3], sampler="ddim", seed=1),
    ]
    np.testing.assert_allclose(np.load(tmp_path / "images.npy"), expected, atol=1e-5)
    del trained_model.metadata[planning.KEPT_LISTS]


def test_an_unknown_name_lists_what_there_is(model):
    with pytest.raises(ValueError, match=r"there are none yet.*'best:4'"):
        model.generate(2, "best:4")
    model.keep_times(LIST)
    with pytest.raises(ValueError, match=r"'best:4' for UniPC\(order=2.*'best:5' for DDIM"):
        model.generate(2, "best:5", sampler="ddim")
    assert model.count_evaluations("best:4") == 4


def test_a_kept_list_has_its_levels_under_any_schedule(model):
    model.keep_times(LIST)
    levels = model.schedule.log_snr(np.array(LIST))
    for schedule in ("sigmoid", "karras"):
        schedule = keras_ddim.schedules.get(schedule)
        times = model.kept_times("best:4", schedule=schedule)
        np.testing.assert_allclose(schedule.log_snr(times), levels, atol=1e-3)


@pytest.mark.parametrize(
    ("times", "name", "message"),
    [([0.5, 1.0], None, "decrease strictly"), (LIST, "5", "begin with a letter")],
)
def test_what_cannot_be_kept(model, times, name, message):
    with pytest.raises(ValueError, match=message):
        model.keep_times(times, name=name)
    assert planning.KEPT_LISTS not in model.metadata


# What comes out, and bad input


@pytest.mark.parametrize("method", optimal_times.METHODS)
@pytest.mark.parametrize("ends", [(1.0, None), (None, 0.1)])
def test_no_worse_than_lists_made_by_hand(gaussian_model, method, ends):
    options = {"ends": ends, "num_images": 8, "seed": 3, "verbose": 0}
    optimizer = optimal_times.Optimizer(gaussian_model, "ddim", **options)
    found = optimizer.find(3, method)
    assert (np.diff(found) < 0).all() and len(found) == 3
    assert all(time == end for time, end in zip(found[[0, -1]], ends) if end is not None)
    by_hand = [
        optimizer.distance(times, optimal_times.VALIDATION)
        for times in optimizer.hand_made(3).values()
    ]
    assert optimizer.distance(found, optimal_times.VALIDATION) <= min(by_hand)
    again = optimize_times(gaussian_model, 3, "ddim", method, **options)
    np.testing.assert_array_equal(again, found)


def test_steps_over_the_path_cost_what_the_sampler_would_miss(gaussian_model):
    """DDIM from the first point of the path to another lands as far from it as the cost says."""
    optimizer = optimal_times.Optimizer(gaussian_model, "ddim", num_images=8, verbose=0)
    costs, starts = optimizer.step_costs()
    assert starts[0] == 0 and np.isinf(costs[5, :6]).all() and (costs[:-1, -1] > 0).all()
    times = optimizer.teacher_times[[0, 20]]
    options = {"noises": optimal_times.TRAINING, "num_images": 8}
    followed, teacher = sampling.Recorder(), sampling.Recorder()
    optimizer.follow(times, **options, watchers=[followed])
    optimizer.follow(
        optimizer.teacher_times, sampler=optimal_times.TEACHER, **options, watchers=[teacher]
    )
    difference = followed.arrays()[0][1] - teacher.arrays()[0][20]
    np.testing.assert_allclose(costs[0, 20], np.sqrt(np.mean(difference**2)), rtol=1e-3)


@pytest.mark.parametrize("num_features", [1, 6])
def test_with_an_encoder_sets_of_images_are_compared(gaussian_model, num_features):
    """Their distance is the root of Fréchet's, or up to √2 of it where axes differ."""

    def encoder(images):
        return keras.ops.reshape(images, (len(images), -1))[:, :num_features]

    options = {"encoder": encoder, "num_images": 24, "verbose": 0}
    optimizer = optimal_times.Optimizer(gaussian_model, "ddim", **options)
    times = [1.0, 0.8, 0.4]
    features = [
        encoders.encode(encoder, gaussian_model.denormalize(optimizer.follow(*asked)))
        for asked in [
            (times, optimal_times.TEST),
            (optimizer.teacher_times, optimal_times.TEST, optimal_times.TEACHER),
        ]
    ]
    frechet = np.sqrt(metrics.frechet_distance(*features))
    most = np.sqrt(2) if num_features > 1 else 1.0
    assert frechet > 0.001
    assert 0.999 * frechet <= optimizer.distance(times) <= 1.001 * most * frechet
    found = optimizer.find(3)
    assert optimizer.distance(found) < 0.7 * optimizer.distance(optimizer.hand_made(3)["uniform"])


def test_lists_come_near_to_real_images(gaussian_model):
    """Images that were made along a list are nearest along it, not where the teacher's are."""
    made_along = [1.0, 0.2, 0.1]

    def encoder(images):
        return keras.ops.reshape(images, (-1, 16))

    options = {"encoder": encoder, "num_images": 256, "verbose": 0}
    optimizer = optimal_times.Optimizer(gaussian_model, "ddim", **options)
    like_the_teacher = optimizer.find(3)
    # Of the noise of the teacher's images that they are compared with, and so alike by no chance.
    images = optimizer.follow(made_along, optimal_times.COUNTERPARTS, num_images=1024)
    images = gaussian_model.denormalize(images)
    optimizer = optimal_times.Optimizer(gaussian_model, "ddim", images=images, **options)
    assert optimizer.distance(made_along) < 0.3 * optimizer.distance(like_the_teacher)
    np.testing.assert_allclose(optimizer.find(3), made_along, atol=0.05)


def test_the_bar_counts_iterations_that_a_descent_did_without(gaussian_model, monkeypatch):
    advances = []

    class Recorded(optimal_times.Progress):
        def advance(self, units=1):
            advances.append(units)
            super().advance(units)

    monkeypatch.setattr(optimal_times, "Progress", Recorded)
    optimize_times(gaussian_model, 2, num_images=8, verbose=0)
    assert sum(advances) == optimal_times.MOST_CANDIDATES["gradient"]
    assert max(advances) == 1  # no leap at the end


def test_an_interrupted_search_has_the_best_list_so_far(gaussian_model, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    options = {"num_images": 8, "verbose": 0}
    monkeypatch.setattr(optimal_times.Optimizer, "path", interrupt)
    with pytest.warns(UserWarning, match="Interrupted"):
        found = optimize_times(gaussian_model, 3, **options)
    optimizer = optimal_times.Optimizer(gaussian_model, **options)
    by_hand = optimizer.hand_made(3).values()
    best = min(by_hand, key=lambda times: optimizer.distance(times, optimal_times.VALIDATION))
    np.testing.assert_array_equal(found, best)
    monkeypatch.setattr(optimal_times.Optimizer, "follow", interrupt)
    with pytest.raises(KeyboardInterrupt):
        optimize_times(gaussian_model, 3, **options)


def test_schedules_that_end_without_signal(gaussian_model):
    model = GaussianModel()
    model.schedule = keras_ddim.schedules.LinearBetaSchedule(zero_terminal_snr=True)
    found = optimize_times(model, 3, num_images=4, verbose=0)
    assert np.isfinite(model.generate(2, found, verbose=0)).all()
    assert found[0] < 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sampler": "ddpm"}, "`sampler` must be deterministic"),
        ({"num_times": 41}, "`num_times` must be from 1 to those of the teacher, 40"),
        ({"num_times": 0}, "`num_times` must be an integer"),
        ({"method": "best"}, "`method` must be one of"),
        ({"ends": (0.2, 0.5)}, "`ends` must be two times"),
        ({"ends": (1.0, 0.0), "num_times": 1}, "`num_times` must be from 2"),
        ({"model": None}, "`model` must be a `keras_ddim.DiffusionModel`"),
        ({"teacher_times": 1}, "`teacher_times` must be"),
        ({"num_images": 1, "encoder": np.asarray}, "`num_images` must be an integer of at least 2"),
    ],
)
def test_bad_input_is_one_sentence(gaussian_model, arguments, message):
    with pytest.raises(ValueError, match=message) as error:
        optimize_times(**{"model": gaussian_model, "num_times": 3, "verbose": 0, **arguments})
    assert "\n" not in str(error.value)


def test_models_that_cannot_be_optimized(make_model):
    model = make_model()
    with pytest.raises(ValueError, match="must have been trained"):
        optimize_times(model, 3)
    model.normalizer.adapt([np.random.default_rng(0).random((4, 8, 8, 3))])
    model.ema_network.set_weights([w * np.nan for w in model.ema_network.get_weights()])
    with pytest.raises(ValueError, match="must make finite values"):
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
    with pytest.raises(ValueError, match="must decrease strictly"):
        explain_times(gaussian_model, [0.5, 1.0])


def test_lists_that_all_but_end_at_0_are_explained(trained_model):
    options = {"num_images": 2, "teacher_times": 6, "verbose": 0}
    explanation = keras_ddim.explain_times(trained_model, [1.0, 0.5, 1e-17], "dpm++", **options)
    assert np.isfinite(explanation.errors).all()
