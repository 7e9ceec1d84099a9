"""The samplers, on Gaussian images, for which all that they approximate is known exactly."""

import json
import math

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops

from keras_ddim import samplers
from keras_ddim.noise_levels import rates
from keras_ddim.samplers import DDIM, DDPM, AdamsBashforth, DPMSolverPP, Euler, Heun, UniPC
from keras_ddim.schedules import CosineSchedule

# The images are single pixels of three correlated channels: independent ones, turned.
MEANS = np.array([0.5, -1.0, 0.2])
VARIANCES = np.array([0.25, 0.5, 2.0])
TURN = np.linalg.qr([[1.0, 2.0, 3.0], [0.0, 1.0, 2.0], [1.0, 0.0, 1.0]])[0]
IMAGES = np.random.default_rng(0).standard_normal((8, 1, 1, 3))

DETERMINISTIC = [
    DDIM(),
    Euler(),
    Heun(),
    DPMSolverPP(1),
    DPMSolverPP(2),
    DPMSolverPP(3),
    DPMSolverPP(2, "singlestep"),
    DPMSolverPP(3, "singlestep"),
    UniPC(1, "bh1"),
    UniPC(2, "bh1"),
    UniPC(1, "bh2"),
    UniPC(2, "bh2"),
    UniPC(3, "bh2"),
    AdamsBashforth(2),
    AdamsBashforth(3),
    AdamsBashforth(4),
    AdamsBashforth(5),
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
DECREASING = [sampler for sampler in SAMPLERS if sampler.needs_decreasing]


def marginal_variances(log_snr):
    noise_rates, signal_rates = rates(log_snr)
    return signal_rates**2 * ops.cast(VARIANCES, signal_rates.dtype) + noise_rates**2


def denoise(noisy_images, log_snr):
    noise_rates, signal_rates = rates(log_snr)
    means, variances, turn = (ops.cast(x, noisy_images.dtype) for x in (MEANS, VARIANCES, TURN))
    scores = ops.matmul(noisy_images - signal_rates * means, turn) / marginal_variances(log_snr)
    pred_images = means + signal_rates * ops.matmul(variances * scores, ops.transpose(turn))
    return noise_rates * ops.matmul(scores, ops.transpose(turn)), pred_images


def follow_exactly(noisy_images, log_snr, next_log_snr):
    """The probability-flow equation's solution: from Gaussian to Gaussian by rescaling."""
    means, turn = ops.cast(MEANS, noisy_images.dtype), ops.cast(TURN, noisy_images.dtype)
    scale = ops.sqrt(marginal_variances(next_log_snr) / marginal_variances(log_snr))
    deviations = ops.matmul(noisy_images - rates(log_snr)[1] * means, turn)
    return rates(next_log_snr)[1] * means + ops.matmul(scale * deviations, ops.transpose(turn))


def make_solver(sampler, dtype="float64"):
    """Compiles `solve(noisy_images, levels, exact_steps) -> noisy images at the last level`.

    Up to `exact_steps`, the exact solution takes the place of what the sampler has reached, so that
    a multistep solver's memory of these steps is exact, too.
    """

    @tf.function(
        input_signature=[
            tf.TensorSpec((None, 1, 1, 3), dtype),
            tf.TensorSpec((None,), dtype),
            tf.TensorSpec((), "int32"),
        ],
        autograph=False,
    )
    def solve(start_images, levels, exact_steps):
        def step(i, noisy_images, memory):
            exact_images = follow_exactly(start_images, levels[0], levels[i])
            noisy_images = ops.where(i < exact_steps, exact_images, noisy_images)
            noises = tf.random.stateless_normal(ops.shape(noisy_images), [i, 0], dtype=dtype)
            noisy_images, _, memory = sampler.step(
                denoise, noisy_images, levels[i], levels[i + 1], memory, noises
            )
            if isinstance(sampler, UniPC):
                corrected_images = ops.where(i < exact_steps, exact_images, memory[-1])
                memory = (*memory[:-1], corrected_images)
            return i + 1, noisy_images, memory

        steps = ops.shape(levels)[0] - 1
        loop = (0, start_images, sampler.start(start_images))
        return ops.while_loop(lambda i, *_: i < steps, step, loop)[1]

    return solve


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


def measure_errors(solve, spacing, all_steps, exact_steps=0):
    """Root mean square errors of a solver where its list ends, for each number of steps."""
    errors = []
    for steps in all_steps:
        levels = spacing(steps)
        start, end = ops.convert_to_tensor(levels[0]), ops.convert_to_tensor(levels[-1])
        exact_images = follow_exactly(IMAGES, start, end)
        errors.append(np.sqrt(np.mean((solve(IMAGES, levels, exact_steps) - exact_images) ** 2)))
    return errors


def slope(all_steps, errors):
    return -np.polyfit(np.log(all_steps), np.log(errors), 1)[0]


def order_of_accuracy(sampler):
    # The corrector adds one.
    return sampler.order + isinstance(sampler, UniPC)


def steps_to_start(sampler):
    """Steps that must be exact for a multistep solver to have all that it remembers."""
    return order_of_accuracy(sampler) - 1 if sampler.needs_decreasing else 0


@pytest.mark.parametrize("sampler", DETERMINISTIC, ids=repr)
def test_order_of_convergence(sampler):
    solve = make_solver(sampler)
    order = order_of_accuracy(sampler)
    all_steps = (40, 80) if order <= 2 else (160, 320)
    for spacing in (cosine, log_snr_linear, random):
        errors = measure_errors(solve, spacing, all_steps, steps_to_start(sampler))
        assert slope(all_steps, errors) == pytest.approx(order, abs=0.25), spacing.__name__


@pytest.mark.parametrize(
    ("sampler", "order"), [(DPMSolverPP(3), 2), (AdamsBashforth(4), 2), (UniPC(2), 3)], ids=repr
)
def test_order_of_convergence_with_a_start_of_lower_order(sampler, order):
    # As in `sample`: the first steps know too little for the order of the formula.
    all_steps = (160, 320)
    errors = measure_errors(make_solver(sampler), cosine, all_steps)
    assert slope(all_steps, errors) == pytest.approx(order, abs=0.25)


# Mean and covariance of stochastic samplers


@pytest.mark.parametrize("sampler", STOCHASTIC, ids=repr)
def test_stochastic_samplers_end_at_the_right_mean_and_covariance(sampler):
    num_images, levels = 5_000, np.linspace(-4.0, 3.0, 201)
    start, end = ops.convert_to_tensor(levels[0]), ops.convert_to_tensor(levels[-1])
    noises = np.random.default_rng(0).standard_normal((num_images, 1, 1, 3))
    deviations = np.sqrt(marginal_variances(start)) * noises
    noisy_images = rates(start)[1] * MEANS + deviations @ TURN.T

    noisy_images = make_solver(sampler)(noisy_images, levels, 0)

    # In the basis in which the pixels' channels are independent, in units of the sampling error.
    variances = ops.convert_to_numpy(marginal_variances(end))
    turned = ops.convert_to_numpy(noisy_images - rates(end)[1] * MEANS).reshape(-1, 3) @ TURN
    mean_errors = turned.mean(axis=0) / np.sqrt(variances / num_images)
    covariance_errors = np.cov(turned.T) - np.diag(variances)
    covariance_errors /= np.sqrt(np.outer(variances, variances) * (1 + np.eye(3)) / num_images)
    assert np.abs(mean_errors).max() < 4
    assert np.abs(covariance_errors).max() < 4


def take_step(sampler, noisy_images, log_snr, next_log_snr, memory=None, noises=None, via=denoise):
    """One step, NumPy to NumPy."""
    noisy_images = ops.convert_to_tensor(noisy_images)
    next_noisy_images, pred_images, memory = sampler.step(
        via,
        noisy_images,
        ops.convert_to_tensor(np.float64(log_snr)),
        ops.convert_to_tensor(np.float64(next_log_snr)),
        sampler.start(noisy_images) if memory is None else memory,
        noises,
    )
    return ops.convert_to_numpy(next_noisy_images), ops.convert_to_numpy(pred_images), memory


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


def test_ddpm_is_ddim_of_eta_1_and_stochastic_dpm_solver_of_order_1():
    noises = np.random.default_rng(1).standard_normal(IMAGES.shape)
    received = [
        take_step(sampler, IMAGES, -1.3, 0.4, noises=noises)[0]
        for sampler in (DDPM(), DDIM(eta=1), DPMSolverPP(1, stochastic=True))
    ]
    np.testing.assert_array_equal(received[0], received[1])
    np.testing.assert_allclose(received[0], received[2], rtol=1e-10)


def test_churn_raises_the_noise_level_and_euler_steps_from_there():
    noises = np.random.default_rng(1).standard_normal(IMAGES.shape)
    sampler = Euler(churn=0.2, churn_min_sigma=0.5, churn_max_sigma=1.5, noise_scale=1.1)
    sigma, next_sigma, raised_sigma = 1.0, 0.7, 1.2

    def level(sigma):
        return -2 * np.log(sigma)

    # Karras et al., Algorithm 2, on x / α; α = 1 / √(1 + σ²).
    raised = IMAGES * np.sqrt(2) + 1.1 * np.sqrt(raised_sigma**2 - sigma**2) * noises
    pred_noises, _ = denoise(raised / np.sqrt(1 + raised_sigma**2), np.float64(level(raised_sigma)))
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


def predict(noisy_images, i):
    """The image predicted at the i-th level."""
    return np.tanh(noisy_images + 0.3 * UNEVEN_LEVELS[i])


def denoise_by_predict(noisy_images, log_snr):
    noise_rates, signal_rates = rates(log_snr)
    pred_images = ops.tanh(noisy_images + 0.3 * log_snr)
    return (noisy_images - signal_rates * pred_images) / noise_rates, pred_images


def visit_uneven_levels(sampler):
    """Noisy images at each level, the image predicted at the last one, and the last memory."""
    memory, all_noisy_images = None, [IMAGES]
    for level, next_level in zip(UNEVEN_LEVELS, [*UNEVEN_LEVELS[1:], 2.0]):
        noisy_images, pred_images, memory = take_step(
            sampler, all_noisy_images[-1], level, next_level, memory, via=denoise_by_predict
        )
        all_noisy_images.append(noisy_images)
    return all_noisy_images[:-1], pred_images, memory


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

    received, pred_images, memory = visit_uneven_levels(UniPC(2, variant))
    np.testing.assert_allclose(received, [x0, x1, x2], rtol=1e-10)
    np.testing.assert_allclose(pred_images, m2, rtol=1e-10)
    np.testing.assert_allclose(memory[-1], x2_corrected, rtol=1e-10)


@pytest.mark.parametrize(
    "sampler", [DPMSolverPP(1), DPMSolverPP(1, "singlestep"), Euler(), AdamsBashforth(1)], ids=repr
)
def test_solvers_of_order_1_are_ddim(sampler):
    received, _, _ = visit_uneven_levels(sampler)
    np.testing.assert_allclose(received, visit_uneven_levels(DDIM())[0], rtol=1e-10)


# Any list


def generate(sampler, levels, noisy_images=IMAGES, via=denoise):
    """The result of `sample`, uncompiled, and the number of network evaluations."""
    evaluations = []

    def counting_denoise(noisy_images, log_snr):
        evaluations.append(log_snr)
        return via(noisy_images, log_snr)

    def step(noisy_images, *rest):
        return sampler.step(counting_denoise, noisy_images, *rest)

    levels = [ops.convert_to_tensor(level) for level in np.asarray(levels, noisy_images.dtype)]
    rng = np.random.default_rng(0)
    trajectory = samplers.sample(
        sampler,
        step,
        counting_denoise,
        ops.convert_to_tensor(noisy_images),
        levels,
        lambda: ops.cast(rng.standard_normal(noisy_images.shape), noisy_images.dtype),
    )
    trajectory = [[ops.convert_to_numpy(x) for x in pair] for pair in trajectory]
    assert len(trajectory) == len(levels)
    return trajectory[-1][1], len(evaluations)


@pytest.mark.parametrize("sampler", SAMPLERS, ids=repr)
def test_short_lists(sampler):
    expected = ops.convert_to_numpy(denoise(IMAGES, ops.convert_to_tensor(np.float64(-3.0)))[1])
    for levels in ([-3.0], [-3.0, 1.0], [-3.0, 0.5, 1.0]):
        pred_images, evaluations = generate(sampler, levels)
        assert np.isfinite(pred_images).all()
        assert evaluations == sampler.count_evaluations(len(levels))
        assert evaluations == (len(levels) - 1) * sampler.evaluations_per_step + 1
        if len(levels) == 1:
            np.testing.assert_array_equal(pred_images, expected)


@pytest.mark.parametrize("sampler", ANY_LIST, ids=repr)
def test_increasing_and_repeated_times(sampler):
    samplers.check_levels(sampler, [0.9, 0.5, 0.5, 0.7, 0.3], [-4.0, -1.0, -1.0, -2.0, 2.0])
    pred_images, _ = generate(sampler, [-4.0, -1.0, -1.0, -2.0, 2.0])
    assert np.isfinite(pred_images).all()
    if not sampler.is_stochastic:
        still, _, _ = take_step(sampler, IMAGES, -1.0, -1.0)
        np.testing.assert_allclose(still, IMAGES, rtol=1e-10)
        there, _, _ = take_step(sampler, IMAGES, -1.0, -1.01)
        back, _, _ = take_step(sampler, there, -1.01, -1.0)
        np.testing.assert_allclose(back, IMAGES, atol=1e-4)


@pytest.mark.parametrize("sampler", DECREASING, ids=repr)
def test_times_that_do_not_decrease_are_named(sampler):
    for third_time, third_level in ((0.5, -1.0), (0.6, -1.5)):
        with pytest.raises(ValueError, match=rf"diffusion_times\[2\]={third_time} after 0.5") as e:
            samplers.check_levels(sampler, [0.9, 0.5, third_time], [-4.0, -1.0, third_level])
        assert repr(sampler) in str(e.value)
        assert "DDIM" in str(e.value)


@pytest.mark.parametrize("sampler", [DDIM(), DDIM(eta=0.5), DDPM(), DDPM("large")], ids=repr)
def test_no_signal_at_the_start_and_no_noise_at_the_end(sampler):
    levels = [-math.inf, -1.0, 2.0, math.inf]
    samplers.check_levels(sampler, [1.0, 0.6, 0.2, 0.0], levels)
    assert np.isfinite(generate(sampler, levels)[0]).all()
    assert np.isfinite(generate(sampler, levels[:1])[0]).all()


def test_infinite_levels_are_named_where_they_are_not_accepted():
    with pytest.raises(ValueError, match=r"diffusion_times\[0\]=1.0, of log-SNR -inf"):
        samplers.check_levels(Heun(), [1.0, 0.5], [-math.inf, 0.0])


@pytest.mark.parametrize("sampler", [DDIM(), DDPM(), Heun(), UniPC(3)], ids=repr)
def test_compiled_once_for_all_lists_and_lengths(sampler):
    step = tf.function(lambda *args: sampler.step(denoise, *args), autograph=False)
    compiled_denoise = tf.function(denoise, autograph=False)
    draw_noises = iter(np.random.default_rng(0).standard_normal((9, *IMAGES.shape))).__next__
    for levels in ([-3.0, 1.0], [-5.0, -2.0, 0.5, 0.9, 3.0], [0.0]):
        *_, (_, pred_images) = samplers.sample(
            sampler,
            step,
            compiled_denoise,
            tf.constant(IMAGES),
            [tf.constant(level, "float64") for level in levels],
            lambda: tf.constant(draw_noises()),
        )
        if not sampler.is_stochastic:
            np.testing.assert_allclose(pred_images, generate(sampler, levels)[0], rtol=1e-10)
    assert step.experimental_get_tracing_count() == 1
    assert compiled_denoise.experimental_get_tracing_count() == (
        sampler.evaluations_per_step > 1 or sampler.is_stochastic
    )


@pytest.mark.parametrize(
    "sampler",
    [DDIM(), Heun(), DPMSolverPP(3), DPMSolverPP(3, "singlestep"), UniPC(3), AdamsBashforth(5)],
    ids=repr,
)
def test_float32_is_accurate(sampler):
    solve, solve_exactly = make_solver(sampler, "float32"), make_solver(sampler)
    for steps in (3, 300):
        levels = np.linspace(-7.0, 5.0, steps + 1).astype("float32")
        received = solve(IMAGES.astype("float32"), levels, 0)
        assert received.dtype == "float32"
        expected = solve_exactly(IMAGES, levels.astype("float64"), 0)
        np.testing.assert_allclose(received, expected, atol=1e-4)


# As parts of a model


@pytest.mark.parametrize("sampler", SAMPLERS, ids=repr)
def test_serialization(sampler):
    config = json.loads(json.dumps(keras.saving.serialize_keras_object(sampler)))
    copy = samplers.get(config)
    assert type(copy) is type(sampler)
    assert copy.get_config() == sampler.get_config()
    assert repr(copy) == repr(sampler)
    assert copy.is_stochastic == sampler.is_stochastic


def test_repr_is_the_constructor_call():
    assert repr(DDIM()) == "DDIM(eta=0.0, variance='small')"
    assert repr(UniPC()) == "UniPC(order=2, variant='bh2')"


def test_get():
    assert isinstance(samplers.get(None), DDIM)
    assert isinstance(samplers.get("heun"), Heun)
    assert isinstance(samplers.get("dpm++"), DPMSolverPP)
    for name, sampler_class in samplers.SAMPLERS.items():
        assert type(samplers.get(name)) is sampler_class
    sampler = UniPC(3)
    assert samplers.get(sampler) is sampler
    for unknown in ("dopri5", 3, DDIM, ["ddim"]):
        with pytest.raises(ValueError, match=r"`sampler` must be .*'ddim'.*Received: sampler="):
            samplers.get(unknown)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DDIM(eta=1.5), r"`eta` must be a number in \[0, 1\]. Received: eta=1.5"),
        (lambda: DDIM(eta="1"), "Received: eta='1'"),
        (lambda: DDIM(variance="medium"), r"`variance` must be one of \('small', 'large'\)"),
        (lambda: DDPM(variance=0.1), "Received: variance=0.1"),
        (lambda: Euler(churn=0.5), r"`churn` must be a number in \[0, 0.4142\]"),
        (lambda: Euler(churn_min_sigma=math.nan), "Received: churn_min_sigma=nan"),
        (lambda: Heun(churn_min_sigma=2, churn_max_sigma=1), "Received: churn_max_sigma=1"),
        (lambda: Heun(noise_scale=-1), "Received: noise_scale=-1"),
        (lambda: AdamsBashforth(6), r"`order` must be one of \(1, 2, 3, 4, 5\). Received: order=6"),
        (lambda: UniPC("2"), "Received: order='2'"),
        (lambda: UniPC(variant="bh3"), r"`variant` must be one of \('bh1', 'bh2'\)"),
        (lambda: DPMSolverPP(4), r"`order` must be one of \(1, 2, 3\)"),
        (lambda: DPMSolverPP(variant="2m"), "Received: variant='2m'"),
        (lambda: DPMSolverPP(3, stochastic=True), "Received: stochastic=True, .*order=3"),
        (lambda: DPMSolverPP(2, "singlestep", True), "variant='singlestep'"),
    ],
)
def test_arguments_out_of_range_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_stochastic_steps_ask_for_noises():
    with pytest.raises(ValueError, match=r"`noises` must be given to DDPM\(variance='small'\)"):
        take_step(DDPM(), IMAGES, -1.0, 1.0)
