"""Few steps: networks conditioned on the level that they go to, and students that learn it."""

import keras
import numpy as np
import pytest
from keras import ops

import keras_ddim
from keras_ddim import distillation, recipes, sampling
from keras_ddim.denoisers import NetworkDenoiser
from keras_ddim.distillation import Trajectories
from keras_ddim.noise_levels import mix, rates, separate
from keras_ddim.sampling import CLEAN, Step
from tests.conftest import tiny_network
from tests.gaussian import GaussianDenoiser

pytestmark = pytest.mark.core

MEAN = np.array([[[0.3], [-0.5]], [[0.0], [1.0]]])
FACTOR = np.array([[1, 0, 0, 0], [0.5, 0.7, 0, 0], [0, -0.4, 0.3, 0], [0.2, 0, 0.1, 1.5]])
NOISES = np.random.default_rng(0).standard_normal((5, 2, 2, 1)).astype("float32")
NAMES = ["cat", "dog", "cow"]


class Secants(GaussianDenoiser):
    """The exact secants of normal images, between any two levels."""

    def __init__(self):
        super().__init__(MEAN, FACTOR @ FACTOR.T)
        self.aims = []

    def __call__(self, noisy_images, log_snr, next_log_snr=None, **per_image):
        self.aims.append(next_log_snr)
        if next_log_snr is None:
            return super().__call__(noisy_images, log_snr)
        noisy_images = ops.convert_to_tensor(noisy_images)
        next_log_snr = next_log_snr[0, 0, 0, 0]  # one for each image, all of them alike
        next_images = self.follow(noisy_images, log_snr, next_log_snr)
        noise_rate, signal_rate = rates(log_snr)
        next_noise_rate, next_signal_rate = rates(next_log_snr)
        sine = noise_rate * next_signal_rate - signal_rate * next_noise_rate
        cosine = noise_rate * next_noise_rate + signal_rate * next_signal_rate
        secants = (cosine * noisy_images - next_images) / sine
        return separate(noisy_images, secants, noise_rate, signal_rate, "velocity")


def numpy(tensor):
    return ops.convert_to_numpy(tensor)


# Steps by secants


@pytest.mark.parametrize(
    "levels", [[-5.0], [-5.0, 1.0], [-5.0, -4.5, 2.0], np.linspace(-5, 5, 50), [-3.0, 3.0]]
)
def test_exact_secants_give_the_exact_flow_along_any_list(levels):
    denoiser, levels = Secants(), np.array(levels, "float32")
    images = sampling.generate(Step(denoiser), levels, 5, (2, 2, 1), initial_noise=NOISES)
    expected = numpy(denoiser.follow(NOISES, levels[0], CLEAN))
    np.testing.assert_allclose(images, expected, atol=1e-5)
    assert len(denoiser.aims) == len(levels)
    if len(levels) > 1:  # each step lands on the path, too
        *_, (noisy_images, _) = sampling.sample(Step(denoiser), NOISES, levels)
        expected = numpy(denoiser.follow(NOISES, levels[0], levels[-1]))
        np.testing.assert_allclose(numpy(noisy_images), expected, atol=1e-5)


def test_secants_become_the_velocity_as_the_levels_meet():
    denoiser = Secants()
    velocity = numpy(denoiser(NOISES, 0.5)[1])
    differences = []
    for gap in (0.2, 0.1):
        level = np.full((5, 1, 1, 1), 0.5 + gap, "float32")
        differences.append(np.abs(numpy(denoiser(NOISES, 0.5, level)[1]) - velocity).max())
    assert 1.8 < differences[0] / differences[1] < 2.2


@pytest.mark.parametrize("sampler", ["ddpm", keras_ddim.DDIM(0.5)])
def test_stochastic_steps_by_exact_secants_have_the_distribution_of_the_data(sampler):
    denoiser, levels = Secants(), np.array([-8.0, -0.5, 1.0], "float32")
    images = sampling.generate(
        Step(denoiser, sampler), levels, 6000, (2, 2, 1), seed=0, batch_size=6000
    )
    np.testing.assert_allclose(images.mean(axis=0), MEAN, atol=0.1)
    covariance = np.cov(images.reshape(6000, 4).T)
    np.testing.assert_allclose(covariance, FACTOR @ FACTOR.T, atol=0.12)


def test_only_ddim_aims_at_cleaner_levels():
    levels = np.array([-3.0, 1.0, 0.0, 3.0], "float32")
    for sampler, expected in (("ddim", [1, 1, 3, CLEAN]), ("euler", [None] * 4)):
        denoiser = Secants()
        # Of a step to a noisier level, the present one: a secant that no model learns.
        denoiser.follow = lambda noisy_images, *levels: noisy_images
        sampling.generate(Step(denoiser, sampler), levels, 5, (2, 2, 1), seed=0)
        aims = [aim if aim is None else float(numpy(aim)[0, 0, 0, 0]) for aim in denoiser.aims]
        assert aims == expected


# Networks


def test_next_level_has_no_effect_at_first_and_reaches_a_trained_network():
    network = keras_ddim.ModulatedUNet((8, 8, 1), (4, 8), num_classes=3, next_level=True, seed=0)
    names = ["noisy_images", "noise_variances", "next_noise_variances", "labels"]
    assert [x.name for x in network.inputs] == names
    copy = type(network).from_config(network.get_config())
    assert copy.get_config() == network.get_config()
    rng = np.random.default_rng(0)
    layer = network.get_layer("next_level")
    for weight in network.trainable_variables:
        if weight is not layer.kernel:
            weight.assign(weight + 0.1 * rng.standard_normal(weight.shape))
    noisy_images = rng.standard_normal((2, 8, 8, 1)).astype("float32")
    denoiser = NetworkDenoiser(network)

    def predict(*level):
        return numpy(denoiser(noisy_images, 0.0, np.array([0, 1], "int32"), *level)[0])

    np.testing.assert_array_equal(predict(), predict(CLEAN))
    layer.set_weights([rng.standard_normal(w.shape) for w in layer.get_weights()])
    np.testing.assert_array_equal(predict(), predict(0.0))  # without one, the present level
    assert np.abs(predict() - predict(CLEAN)).max() > 1e-3


# Students


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Few trajectories of few times, uncompiled: tracing takes longer than they do."""
    monkeypatch.setattr(distillation, "NUM_TRAJECTORIES", 6)
    monkeypatch.setattr(distillation, "NUM_TIMES", 4)
    always = property(lambda model: True, lambda model, value: None)
    monkeypatch.setattr(keras_ddim.DiffusionModel, "run_eagerly", always)


def make_teacher(labels=True, network=None, **options):
    options |= {"class_names": NAMES if labels else None, "seed": 0}
    if network is not None:
        options["network"] = network
    model = keras_ddim.recipe((8, 8, 3), 10, widths=(4,), **options)
    rng = np.random.default_rng(0)
    model.adapt(rng.random((40, 8, 8, 3)) * [1.0, 0.5, 0.2])
    for weight, averaged in zip(model.network.weights, model.ema_network.weights):
        if weight.trainable:
            averaged.assign(weight + 0.1 * rng.standard_normal(weight.shape))
    return model


@pytest.fixture
def teacher():
    return make_teacher()


@pytest.mark.parametrize("options", [{}, {"preconditioning": "spectral"}, {"labels": False}])
def test_student_starts_as_the_teacher(options):
    teacher = make_teacher(**options)
    scale = 1.5 if options.get("labels", True) else 1.0
    student, _ = recipes.distill(teacher, 10, guidance_scale=scale)
    options = {"sampler": "ddim", "seed": 0, "verbose": 0}
    for times in (1, [1.0, 0.6, 0.3]):
        expected = teacher.generate(3, times, **options)
        np.testing.assert_array_equal(student.generate(3, times, **options), expected)
    assert student.count_evaluations(2) == 2
    expected = student.generate(3, [1.0, 0.75, 0.5, 0.25], **options)
    np.testing.assert_array_equal(student.generate(3, 4, seed=0, verbose=0), expected)
    trainable = [w.shape for w in student.network.trainable_variables]
    assert len(trainable) == len(teacher.network.trainable_variables) + 3


@pytest.mark.parametrize("prediction_type", ["velocity", "noise"])
def test_pairs_are_joined_by_what_is_learnt(prediction_type):
    teacher = make_teacher(prediction_type=prediction_type)
    trajectories = Trajectories(teacher, 3, guidance_scale=1.5, batch_size=40)
    inputs, prediction = trajectories[0]
    _, points, pred_images, _ = trajectories.made[1]
    noisy_images = inputs["noisy_images"]
    tensors = map(ops.convert_to_tensor, (noisy_images, prediction))
    noises, images = separate(*tensors, *rates(inputs["log_snr"]), prediction_type)
    landed = numpy(mix(images, noises, *rates(inputs["next_log_snr"])))
    images = numpy(images)
    known = points.reshape(-1, *points.shape[2:])
    is_same = (inputs["log_snr"] == inputs["next_log_snr"]).ravel()
    assert 0 < is_same.sum() < 40 and (inputs["next_log_snr"] >= inputs["log_snr"]).all()
    for i in range(40):
        np.testing.assert_allclose(np.abs(known - noisy_images[i]).max(axis=(1, 2, 3)).min(), 0)
        goal, others = (images, pred_images) if is_same[i] else (landed, known)
        others = others.reshape(-1, 8, 8, 3)
        assert np.abs(others - goal[i]).max(axis=(1, 2, 3)).min() < 2e-3
    # Batches depend on the seed and their number alone.
    np.testing.assert_array_equal(trajectories.from_batch(2)[0][1], trajectories[2][1])
    assert len(trajectories) == 3 and len(trajectories.from_batch(2)) == 1


def test_training_lowers_the_loss_and_is_resumed(teacher, tmp_path):
    student, trajectories = recipes.distill(teacher, 8, learning_rate=2e-3, batch_size=8)
    statistics = [w for w in student.network.weights if "moving" in w.path]
    statistics = [(weight, numpy(weight).copy()) for weight in statistics]
    held_out = Trajectories(teacher, 2, guidance_scale=1.5, batch_size=32, seed=1)
    before = student.evaluate(held_out, verbose=0)
    path = tmp_path / "student.keras"
    how = {"steps_per_epoch": 4, "verbose": 0}
    student.fit(trajectories, callbacks=[keras_ddim.callbacks.SaveModel(path)], **how)
    resumed = keras.saving.load_model(path)
    for model in (student, resumed):
        model.fit(trajectories.from_batch(4), initial_epoch=1, epochs=2, **how)
    assert student.evaluate(held_out, verbose=0) < before
    for ours, theirs in zip(student.ema_network.weights, resumed.ema_network.weights):
        np.testing.assert_allclose(numpy(ours), numpy(theirs), atol=1e-6)
    assert statistics
    for weight, value in statistics:  # of batches: the teacher's
        np.testing.assert_array_equal(numpy(weight), value)
    images = student.generate(3, 2, seed=0, verbose=0)
    np.testing.assert_allclose(resumed.generate(3, 2, seed=0, verbose=0), images, atol=1e-5)


def test_guidance_alone_is_learnt_for_any_network():
    network = tiny_network((8, 8, 3), num_classes=3, seed=0)
    teacher = make_teacher(network=network)
    student, trajectories = recipes.distill(teacher, 10, next_level=False)
    inputs, velocities = trajectories[0]
    np.testing.assert_array_equal(inputs["log_snr"], inputs["next_log_snr"])
    guided = teacher.generate(2, 3, guidance_scale=1.5, labels=[0, 1], seed=0, verbose=0)
    assert student.generate(2, 3, labels=[0, 1], seed=0, verbose=0).shape == guided.shape
    sampler, _, _ = keras_ddim.generation.resolve_times(student, 3)
    assert sampler == keras_ddim.UniPC()
    (denoiser,) = {step.denoiser for step in teacher.check_generate(guidance_scale=1.5).steps}
    labels, scales = inputs["labels"], np.full(16, 1.5, "float32")
    tensors = (ops.convert_to_tensor(inputs[name]) for name in ("noisy_images", "log_snr"))
    pair = denoiser(*tensors, labels=ops.convert_to_tensor(labels), guidance_scale=scales)
    noise_rates, signal_rates = map(numpy, rates(inputs["log_snr"]))
    expected = signal_rates * numpy(pair[0]) - noise_rates * numpy(pair[1])
    np.testing.assert_allclose(velocities, expected, atol=2e-3)


def test_students_edit_invert_and_keep_known_pixels(teacher):
    student, _ = recipes.distill(teacher, 10)
    images = student.generate(2, 2, seed=0, verbose=0)
    options = {"labels": [0, 1], "verbose": 0}
    assert student.edit(images, [0.6, 0.3], **options).shape == images.shape
    known = keras_ddim.degradations.Known(images, np.eye(8))
    kept = student.generate(2, 3, sampler="ddpm", known=known, **options)
    np.testing.assert_allclose(kept[:, np.eye(8) > 0], images[:, np.eye(8) > 0], atol=1e-6)
    assert np.isfinite(student.invert(images, [1.0, 0.6, 0.3], **options)).all()


def test_mistakes(teacher):
    student, _ = recipes.distill(teacher, 10)
    own = make_teacher(labels=False, network=tiny_network((8, 8, 3), seed=0))
    images = np.zeros((4, 8, 8, 3))
    for make, message in (
        (lambda: student.generate(2, guidance_scale=2.0), "1 for a model that has learnt .* 1.5,"),
        (lambda: student.fit(images, np.zeros(4)), "`x` must be `keras_ddim.distillation.Traj"),
        (lambda: student.edit(images), "`labels` must be given"),
        (lambda: recipes.distill(make_teacher(labels=False), 9), "`guidance_scale` must be 1 "),
        (lambda: recipes.distill(own, 9, guidance_scale=1.0), "`model` must be .*ModulatedUNet"),
        (lambda: recipes.distill(teacher, 0), "`num_steps`"),
        (lambda: recipes.distill(teacher, 9, batch_size=0), "`batch_size`"),
        (lambda: recipes.distill("flowers", 9), "`model` must be a `keras_ddim.DiffusionModel`"),
        (lambda: recipes.distill(keras_ddim.DiffusionModel((8, 8, 3)), 9), "`model` must be train"),
    ):
        with pytest.raises(ValueError, match=message):
            make()
