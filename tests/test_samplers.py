"""The samplers, on Gaussian images, for which all that they approximate is known exactly."""

import contextlib
import functools
import itertools
import math

import keras
import numpy as np
import pytest
from keras import ops

from keras_ddim import times
from keras_ddim.noise_levels import rates
from keras_ddim.samplers import DDIM, DDPM, AdamsBashforth, DPMSolverPP, Euler, Heun, UniPC
from keras_ddim.sampling import Step, compile_step, sample
from keras_ddim.schedules import CosineSchedule, LinearBetaSchedule, ScaledLinearBetaSchedule
from tests.conftest import only_on
from tests.gaussian import GaussianDenoiser
from tests.mixture import MixtureDenoiser

pytestmark = pytest.mark.core
in_float64 = only_on(
    "tensorflow", "jax", reason="Keras on torch makes float32 of float64 and a Python number"
)

# The images are single pixels of three correlated channels: independent ones, turned.
MEANS = np.array([0.5, -1.0, 0.2])
VARIANCES = np.array([0.25, 0.5, 2.0])
TURN = np.linalg.qr([[1.0, 2.0, 3.0], [0.0, 1.0, 2.0], [1.0, 0.0, 1.0]])[0]
IMAGES = np.random.default_rng(0).standard_normal((8, 1, 1, 3))

DETERMINISTIC = [
    DDIM(),
    Euler(),
    Heun(),
    *(DPMSolverPP(order) for order in (1, 2, 3)),
    *(DPMSolverPP(order, "singlestep") for order in (2, 3)),
    *(UniPC(order, "bh1") for order in (1, 2)),
    *(UniPC(order, "bh2") for order in (1, 2, 3)),
    *(AdamsBashforth(order) for order in (2, 3, 4, 5)),
]
STOCHASTIC = [
    DDIM(eta=0.3),
    DDIM(eta=0.7),
    DDIM(eta=1.0),
    DDIM(eta=0.5, variance="large"),
    DDPM(),
    DDPM(variance="large"),
    Euler(churn=0.05),
    Heun(churn=0.05, churn_min_sigma=0.1, churn_max_sigma=10.0),
    DPMSolverPP(1, stochastic=True),
    DPMSolverPP(2, stochastic=True),
]
SAMPLERS = DETERMINISTIC + STOCHASTIC
ANY_LIST = [sampler for sampler in SAMPLERS if not sampler.needs_decreasing]


COVARIANCE = TURN * VARIANCES @ TURN.T
DENOISER = GaussianDenoiser(MEANS.reshape(1, 1, 3), COVARIANCE)


@pytest.fixture(autouse=True, scope="module")
def float64():
    """JAX has no float64 unless asked."""
    with contextlib.ExitStack() as stack:
        if keras.backend.backend() == "jax":
            import jax

            stack.enter_context(jax.enable_x64(True))
        yield


def tensor(value, dtype="float64"):
    return ops.convert_to_tensor(np.asarray(value, dtype))


def numpy(values):
    return ops.convert_to_numpy(values)


def denoise(noisy_images, log_snr):
    return DENOISER(tensor(noisy_images), tensor(log_snr))


@functools.cache
def compiled_step(sampler):
    return compile_step(Step(DENOISER, sampler))


def noise_source(shape, dtype="float64"):
    rng = np.random.default_rng(0)
    return lambda: tensor(rng.standard_normal(shape), dtype)


def solve(sampler, start_images, levels, exact_steps=0):
    """Noisy images at the last level.

    The first `exact_steps` are replaced by the exact solution, so that what the state of a
    multistep solver holds of them is exact, too.
    """
    step, dtype = compiled_step(sampler), start_images.dtype
    levels = np.asarray(levels, dtype)
    start_images = noisy_images = tensor(start_images, dtype)
    state = sampler.init(noisy_images)
    for i in range(exact_steps):
        _, _, state = step(
            noisy_images=noisy_images, log_snr=levels[i], next_log_snr=levels[i + 1], state=state
        )
        if isinstance(sampler, UniPC):
            state = (state[0], noisy_images)  # instead of the corrected ones
        noisy_images = DENOISER.follow(start_images, levels[0], levels[i + 1])
    draw_noises = noise_source(noisy_images.shape, dtype)
    visits = sample(step, noisy_images, levels[exact_steps:], state, draw_noises)
    *_, (noisy_images, _) = visits
    return numpy(noisy_images)


# Order of convergence


def cosine(steps):
    return ops.convert_to_numpy(CosineSchedule().log_snr(np.linspace(0.8, 0.2, steps + 1)))


def log_snr_linear(steps):
    return np.linspace(-4.0, 3.0, steps + 1)


def random(steps):
    """Random steps, up to three times as long as others, in a pattern that repeats.

    The pattern makes errors at different numbers of steps comparable; every step differs from the
    one before, so formulas for uniform steps fail here.
    """
    lengths = np.tile(np.random.default_rng(0).uniform(0.5, 1.5, 8), steps // 8)
    return -4.0 + 7.0 * np.append(0.0, np.cumsum(lengths) / np.sum(lengths))


def measure_errors(sampler, spacing, all_steps, exact_steps=0):
    """Root mean square errors of a solver where its list ends, for each number of steps."""
    errors = []
    for steps in all_steps:
        levels = spacing(steps)
        exact_images = numpy(DENOISER.follow(tensor(IMAGES), tensor(levels[0]), tensor(levels[-1])))
        images = solve(sampler, IMAGES, levels, exact_steps)
        errors.append(np.sqrt(np.mean((images - exact_images) ** 2)))
    return errors


def slope(all_steps, errors):
    return -np.polyfit(np.log(all_steps), np.log(errors), 1)[0]


def order_of_accuracy(sampler):
    # The corrector adds one.
    return sampler.order + isinstance(sampler, UniPC)


def steps_to_start(sampler):
    """Steps that must be exact for the state of a multistep solver to be complete."""
    return order_of_accuracy(sampler) - 1 if sampler.needs_decreasing else 0


@in_float64
@pytest.mark.parametrize("sampler", DETERMINISTIC, ids=repr)
def test_order_of_convergence(sampler):
    order = order_of_accuracy(sampler)
    all_steps = (40, 80) if order <= 2 else (80, 160) if order <= 4 else (160, 320)
    for spacing in (cosine, log_snr_linear, random):
        errors = measure_errors(sampler, spacing, all_steps, steps_to_start(sampler))
        assert slope(all_steps, errors) == pytest.approx(order, abs=0.25), spacing.__name__


@in_float64
@pytest.mark.parametrize(
    ("sampler", "order"), [(DPMSolverPP(3), 2), (AdamsBashforth(4), 2), (UniPC(2), 3)], ids=repr
)
def test_order_of_convergence_with_a_start_of_lower_order(sampler, order):
    # As in `sample`: the first steps know too little for the order of the formula.
    all_steps = (160, 320)
    errors = measure_errors(sampler, cosine, all_steps)
    assert slope(all_steps, errors) == pytest.approx(order, abs=0.25)


# Long steps


LISTS = {
    "leading": lambda n, schedule: times.timesteps(n, 1000),
    "linspace": lambda n, schedule: times.timesteps(n, 1000, "linspace"),  # down to time 0
    "uniform": lambda n, schedule: times.uniform(n),
    "uniform_log_snr": times.uniform_log_snr,
    "karras": times.karras,
}
SCHEDULES = {
    "linear": LinearBetaSchedule(),
    "scaled": ScaledLinearBetaSchedule(),
    "cosine": CosineSchedule(),
}
MIXTURE = MixtureDenoiser()


@functools.cache
def mixture_step(sampler):
    return compile_step(Step(MIXTURE, sampler))


def mixture_images(sampler, levels):
    noises = np.random.default_rng(0).standard_normal((16, *MIXTURE.image_shape))
    *_, (_, pred_images) = sample(mixture_step(sampler), tensor(noises), levels)
    return numpy(pred_images)


@functools.cache
def exact_mixture_images(start):
    return mixture_images(UniPC(2), np.linspace(start, 16.0, 120))


@functools.cache
def mixture_errors(sampler):
    """Root mean square errors of a solver's images for 30 lists, on images that are not normal.

    Errors are those against the exact images, with all that the last step of a list leaves over.
    """
    errors = {}
    for (name, schedule), list_name, n in itertools.product(SCHEDULES.items(), LISTS, (5, 20)):
        levels = numpy(schedule.log_snr(LISTS[list_name](n, schedule))).astype("float64")
        difference = mixture_images(sampler, levels) - exact_mixture_images(levels[0])
        errors[name, list_name, n] = np.sqrt(np.mean(difference**2))
    return errors


@in_float64
@pytest.mark.parametrize(
    ("sampler", "lower", "most"),
    [
        (DPMSolverPP(3), DPMSolverPP(2), 1.1),
        (UniPC(3), UniPC(2), 1.1),
        (AdamsBashforth(4), AdamsBashforth(2), 1.5),
        (DPMSolverPP(2), DDIM(), 1.0),
        (UniPC(2), UniPC(1), 1.0),
    ],
    ids=repr,
)
def test_high_orders_do_not_overshoot_in_long_steps(sampler, lower, most):
    errors, expected = mixture_errors(sampler), mixture_errors(lower)
    ratios = {case: errors[case] / expected[case] for case in errors}
    assert max(ratios.values()) < most, max(ratios, key=ratios.get)
    # That is not so because they are of lower order throughout.
    assert min(ratios.values()) < 0.7


# Mean and covariance of stochastic samplers


@pytest.mark.parametrize("sampler", STOCHASTIC, ids=repr)
def test_stochastic_samplers_end_at_the_right_mean_and_covariance(sampler):
    num_images, levels = 5_000, np.linspace(-4.0, 3.0, 201)

    def moments_at(log_snr):
        signal_variance = 1 / (1 + np.exp(-log_snr))
        variances = signal_variance * VARIANCES + 1 - signal_variance
        return np.sqrt(signal_variance) * MEANS, variances

    mean, variances = moments_at(levels[0])
    noises = np.random.default_rng(0).standard_normal((num_images, 1, 1, 3))
    noisy_images = mean + np.sqrt(variances) * noises @ TURN.T

    noisy_images = solve(sampler, noisy_images, levels)

    # In the basis in which the pixels' channels are independent, in units of the sampling error.
    mean, variances = moments_at(levels[-1])
    turned = (noisy_images - mean).reshape(-1, 3) @ TURN
    mean_errors = turned.mean(axis=0) / np.sqrt(variances / num_images)
    covariance_errors = np.cov(turned.T) - np.diag(variances)
    covariance_errors /= np.sqrt(np.outer(variances, variances) * (1 + np.eye(3)) / num_images)
    assert np.abs(mean_errors).max() < 4
    assert np.abs(covariance_errors).max() < 4


def take_step(sampler, noisy_images, log_snr, next_log_snr, state=None, noises=None, via=DENOISER):
    """One step, NumPy to NumPy."""
    noisy_images = tensor(noisy_images)
    next_noisy_images, pred_images, state = sampler.step(
        via,
        noisy_images,
        tensor(log_snr),
        tensor(next_log_snr),
        sampler.init(noisy_images) if state is None else state,
        None if noises is None else tensor(noises),
    )
    return numpy(next_noisy_images), numpy(pred_images), state


@in_float64
@pytest.mark.parametrize("variance", ["small", "large"])
def test_ddpm_samples_the_posterior_of_ho_et_al(variance):
    log_snr, next_log_snr = -1.3, 0.4
    noises = np.random.default_rng(1).standard_normal(IMAGES.shape)
    received, pred_images, _ = take_step(DDPM(variance), IMAGES, log_snr, next_log_snr, (), noises)

    alpha_bar, next_alpha_bar = 1 / (1 + np.exp(-log_snr)), 1 / (1 + np.exp(-next_log_snr))
    alpha = alpha_bar / next_alpha_bar
    mean = (
        np.sqrt(next_alpha_bar) * (1 - alpha) / (1 - alpha_bar) * pred_images
        + np.sqrt(alpha) * (1 - next_alpha_bar) / (1 - alpha_bar) * IMAGES
    )
    posterior_variance = (1 - next_alpha_bar) / (1 - alpha_bar) * (1 - alpha)
    deviation = np.sqrt(posterior_variance if variance == "small" else 1 - alpha)
    np.testing.assert_allclose(received, mean + deviation * noises, rtol=1e-10)


@in_float64
def test_ddpm_is_ddim_of_eta_1_and_stochastic_dpm_solver_of_order_1():
    noises = np.random.default_rng(1).standard_normal(IMAGES.shape)
    received = [
        take_step(sampler, IMAGES, -1.3, 0.4, noises=noises)[0]
        for sampler in (DDPM(), DDIM(eta=1), DPMSolverPP(1, stochastic=True))
    ]
    np.testing.assert_array_equal(received[0], received[1])
    np.testing.assert_allclose(received[0], received[2], rtol=1e-10)


@in_float64
def test_churn_raises_the_noise_level_and_euler_steps_from_there():
    noises = np.random.default_rng(1).standard_normal(IMAGES.shape)
    sampler = Euler(churn=0.2, churn_min_sigma=0.5, churn_max_sigma=1.5, noise_scale=1.1)
    sigma, next_sigma, raised_sigma = 1.0, 0.7, 1.2

    def level(sigma):
        return -2 * np.log(sigma)

    # Karras et al., Algorithm 2, on x / α; α = 1 / √(1 + σ²).
    raised = IMAGES * np.sqrt(2) + 1.1 * np.sqrt(raised_sigma**2 - sigma**2) * noises
    pred_noises, _ = denoise(raised / np.sqrt(1 + raised_sigma**2), level(raised_sigma))
    pred_noises = numpy(pred_noises)
    expected = (raised + (next_sigma - raised_sigma) * pred_noises) / np.sqrt(1 + next_sigma**2)
    received, _, _ = take_step(sampler, IMAGES, level(sigma), level(next_sigma), (), noises)
    np.testing.assert_allclose(received, expected, rtol=1e-10)

    for sigma in (0.4, 1.6):
        churned, _, _ = take_step(sampler, IMAGES, level(sigma), level(0.3), (), noises)
        still, _, _ = take_step(Euler(), IMAGES, level(sigma), level(0.3))
        np.testing.assert_allclose(churned, still, rtol=1e-10)


# Values worked out by hand, with a network of which nothing is special


UNEVEN_LEVELS = [-3.1, -0.7, 1.9]
LAMBDAS = [level / 2 for level in UNEVEN_LEVELS]
SIGNAL_RATES = [math.sqrt(1 / (1 + math.exp(-level))) for level in UNEVEN_LEVELS]
NOISE_RATES = [math.sqrt(1 / (1 + math.exp(level))) for level in UNEVEN_LEVELS]


def squash(x, library):
    return x / library.sqrt(1 + x**2)


def predict(noisy_images, i):
    """The image predicted at the i-th level."""
    return squash(noisy_images + 0.3 * UNEVEN_LEVELS[i], np)


def denoise_by_predict(noisy_images, log_snr):
    noise_rates, signal_rates = rates(log_snr)
    pred_images = squash(noisy_images + 0.3 * log_snr, ops)
    return (noisy_images - signal_rates * pred_images) / noise_rates, pred_images


def visit_uneven_levels(sampler):
    """Noisy images at each level, the image predicted at the last one, and the last state."""
    state, all_noisy_images = None, [IMAGES]
    for level, next_level in zip(UNEVEN_LEVELS, [*UNEVEN_LEVELS[1:], 2.0]):
        noisy_images, pred_images, state = take_step(
            sampler, all_noisy_images[-1], level, next_level, state, via=denoise_by_predict
        )
        all_noisy_images.append(noisy_images)
    return all_noisy_images[:-1], pred_images, state


def test_ddim_by_hand():
    x = [IMAGES]
    for i in range(2):
        # Song et al., Equation 12 with σ = 0: "predicted x0" and "direction pointing to x_t".
        pred_images = predict(x[i], i)
        pred_noises = (x[i] - SIGNAL_RATES[i] * pred_images) / NOISE_RATES[i]
        x.append(SIGNAL_RATES[i + 1] * pred_images + NOISE_RATES[i + 1] * pred_noises)
    received, pred_images, _ = visit_uneven_levels(DDIM())
    np.testing.assert_allclose(received, x, rtol=1e-10)
    np.testing.assert_allclose(pred_images, predict(x[2], 2), rtol=1e-10)


@in_float64
def test_dpm_solver_pp_2m_by_hand():
    h1, h2 = LAMBDAS[1] - LAMBDAS[0], LAMBDAS[2] - LAMBDAS[1]
    # Lu et al., Algorithm 2: the first step is of first order, the second one knows D.
    x0 = IMAGES
    x1 = NOISE_RATES[1] / NOISE_RATES[0] * x0 - SIGNAL_RATES[1] * np.expm1(-h1) * predict(x0, 0)
    r = h1 / h2
    d = (1 + 1 / (2 * r)) * predict(x1, 1) - 1 / (2 * r) * predict(x0, 0)
    x2 = NOISE_RATES[2] / NOISE_RATES[1] * x1 - SIGNAL_RATES[2] * np.expm1(-h2) * d
    received, pred_images, _ = visit_uneven_levels(DPMSolverPP(2))
    np.testing.assert_allclose(received, [x0, x1, x2], rtol=1e-10)
    np.testing.assert_allclose(pred_images, predict(x2, 2), rtol=1e-10)


@in_float64
@pytest.mark.parametrize("variant", ["bh1", "bh2"])
def test_unipc_by_hand(variant):
    h1, h2 = LAMBDAS[1] - LAMBDAS[0], LAMBDAS[2] - LAMBDAS[1]
    b1, b2 = (h1, h2) if variant == "bh1" else (1 - np.exp(-h1), 1 - np.exp(-h2))

    def first_order(x, i, pred_images):
        """The part that all of Zhao et al.'s formulas (data prediction) have in common."""
        h = LAMBDAS[i + 1] - LAMBDAS[i]
        noise_ratio = NOISE_RATES[i + 1] / NOISE_RATES[i]
        return noise_ratio * x - SIGNAL_RATES[i + 1] * np.expm1(-h) * pred_images

    # UniP-1, then UniC-1 with a = 1/2, once the image at the next level is predicted.
    x0 = IMAGES
    m0 = predict(x0, 0)
    x1 = first_order(x0, 0, m0)
    m1 = predict(x1, 1)
    x1_corrected = first_order(x0, 0, m0) + SIGNAL_RATES[1] * b1 * (m1 - m0) / 2

    # UniP-2 with a = 1/2.
    r = (LAMBDAS[0] - LAMBDAS[1]) / h2
    x2 = first_order(x1_corrected, 1, m1) + SIGNAL_RATES[2] * b2 * ((m0 - m1) / r) / 2
    m2 = predict(x2, 2)

    # UniC-2: a solves R a = g / B(h), with g_n = ∫ h exp(h (u − 1)) u^n du from 0 to 1, by parts.
    g1 = 1 - (1 - np.exp(-h2)) / h2
    g2 = 1 - 2 * g1 / h2
    a = np.linalg.solve([[1.0, 1.0], [r, 1.0]], [g1 / b2, g2 / b2])
    difference = a[0] * (m0 - m1) / r + a[1] * (m2 - m1)
    x2_corrected = first_order(x1_corrected, 1, m1) + SIGNAL_RATES[2] * b2 * difference

    received, pred_images, state = visit_uneven_levels(UniPC(2, variant))
    np.testing.assert_allclose(received, [x0, x1, x2], rtol=1e-10)
    np.testing.assert_allclose(pred_images, m2, rtol=1e-10)
    np.testing.assert_allclose(numpy(state[-1]), x2_corrected, rtol=1e-10)


@in_float64
@pytest.mark.parametrize(
    "sampler", [DPMSolverPP(1), DPMSolverPP(1, "singlestep"), Euler(), AdamsBashforth(1)], ids=repr
)
def test_solvers_of_order_1_are_ddim(sampler):
    received, _, _ = visit_uneven_levels(sampler)
    np.testing.assert_allclose(received, visit_uneven_levels(DDIM())[0], rtol=1e-10)


# Any list


class CountingDenoiser(GaussianDenoiser):
    """Counts how often it is called; uncompiled, that is how often it is evaluated."""

    evaluations = 0

    def __call__(self, noisy_images, log_snr, **per_image):
        self.evaluations += 1
        return super().__call__(noisy_images, log_snr)


def generate(sampler, levels):
    """The result of `sample`, uncompiled, and the number of network evaluations."""
    denoiser = CountingDenoiser(DENOISER.mean, COVARIANCE)
    levels = tensor(levels)
    visits = sample(
        Step(denoiser, sampler), tensor(IMAGES), levels, draw_noises=noise_source(IMAGES.shape)
    )
    trajectory = [[numpy(x) for x in pair] for pair in visits]
    assert len(trajectory) == len(levels)
    return trajectory[-1][1], denoiser.evaluations


@pytest.mark.parametrize("sampler", SAMPLERS, ids=repr)
def test_short_lists(sampler):
    expected = numpy(denoise(IMAGES, -3.0)[1])
    for levels in ([-3.0], [-3.0, 1.0], [-3.0, 0.5, 1.0]):
        pred_images, evaluations = generate(sampler, levels)
        assert np.isfinite(pred_images).all()
        assert evaluations == sampler.count_evaluations(len(levels))
        if len(levels) == 1:
            np.testing.assert_array_equal(pred_images, expected)


@in_float64
@pytest.mark.parametrize("sampler", ANY_LIST, ids=repr)
def test_increasing_and_repeated_times(sampler):
    pred_images, _ = generate(sampler, [-4.0, -1.0, -1.0, -2.0, 2.0])
    assert np.isfinite(pred_images).all()
    if not sampler.is_stochastic:
        still, _, _ = take_step(sampler, IMAGES, -1.0, -1.0)
        np.testing.assert_allclose(still, IMAGES, rtol=1e-10)
        there, _, _ = take_step(sampler, IMAGES, -1.0, -1.01)
        back, _, _ = take_step(sampler, there, -1.01, -1.0)
        np.testing.assert_allclose(back, IMAGES, atol=1e-4)


@pytest.mark.parametrize("sampler", [DDIM(), DDIM(eta=0.5), DDPM(), DDPM("large")], ids=repr)
def test_no_signal_at_the_start_and_no_noise_at_the_end(sampler):
    levels = [-math.inf, -1.0, 2.0, math.inf]
    assert np.isfinite(generate(sampler, levels)[0]).all()
    assert np.isfinite(generate(sampler, levels[:1])[0]).all()


def gradient(function, levels):
    """The derivative of a scalar with respect to levels, by the backend's own means."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        levels = tf.constant(levels)
        with tf.GradientTape() as tape:
            tape.watch(levels)
            value = function(levels)
        return tape.gradient(value, levels).numpy()
    if keras.backend.backend() == "jax":
        import jax

        return np.array(jax.grad(function)(tensor(levels)))
    levels = tensor(levels).requires_grad_()
    function(levels).backward()
    return levels.grad.numpy()


HIGHEST = [DDIM(), Heun(), DPMSolverPP(3), DPMSolverPP(3, "singlestep"), UniPC(3)]
HIGHEST += [AdamsBashforth(5)]


@in_float64
@pytest.mark.parametrize("sampler", HIGHEST, ids=repr)
def test_gradients_with_respect_to_the_levels(sampler):
    levels = np.array([-4.0, -2.3, -0.5, 0.9, 1.6, 3.0])
    weights = np.random.default_rng(3).standard_normal(IMAGES.shape)
    step = Step(DENOISER, sampler)

    def function(levels):
        *_, (_, pred_images) = sample(step, tensor(IMAGES), levels)
        return ops.sum(weights * pred_images)

    def difference(i, size=1e-4):
        change = size * (np.arange(len(levels)) == i)
        return float(function(tensor(levels + change)) - function(tensor(levels - change)))

    expected = [difference(i) / 2e-4 for i in range(len(levels))]
    received = gradient(function, levels)
    assert np.abs(expected).min() > 1e-5  # each level counts
    np.testing.assert_allclose(received, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("sampler", HIGHEST, ids=repr)
def test_float32_is_accurate(sampler):
    for steps in (3, 300):
        levels = np.linspace(-7.0, 5.0, steps + 1).astype("float32")
        received = solve(sampler, IMAGES.astype("float32"), levels)
        assert received.dtype == "float32"
        expected = solve(sampler, IMAGES, levels.astype("float64"))
        np.testing.assert_allclose(received, expected, atol=1e-4)


# As values
