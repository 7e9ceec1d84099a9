# mypy: allow-untyped-defs, check-untyped-defs, disable-error-code="override"
# The types of each `step` are those of `Sampler.step`; what depends on arguments is a property.
"""Samplers: one step from a noise level to the next.

A sampler takes a denoiser and two noise levels; it knows nothing of schedules, batches or networks.
Single-step samplers follow any sampling times. Multistep solvers, which use predictions of earlier
steps, need decreasing times. Their first steps have a lower order, so they reach their full order
from exact starting values, or if the first steps are short.

Notation: at a noise level, α = `signal_rates`, s = `noise_rates`, σ = s / α, and λ = log(α / s) =
`log_snr` / 2. A step leads from a level (α, s, σ, λ) to a level (α', s', σ', λ'), and h = λ' − λ.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from keras import ops

from keras_ddim import serialization
from keras_ddim.checks import check_choice, check_number, require
from keras_ddim.noise_levels import mix, rates

# (noisy_images, log_snr) -> (pred_noises, pred_images)
Denoise = Callable[..., tuple[Any, Any]]
State = Any  # a tuple of tensors and of such tuples


class Sampler(serialization.Serializable):
    """One step from a noise level to the next.

    Subclasses declare their arguments as fields and implement `step`, and `init` if a step depends
    on earlier ones.

    Attributes:
        order: The error falls as `1 / steps ** order`. `UniPC` takes the order of its predictor;
            with its corrector, the error falls by one order more.
        accepts_infinite_levels: Whether a step may start without signal or end without noise. If
            not, `DiffusionModel.generate` replaces these levels by a log-SNR of ±12.
        evaluations_per_step: Network evaluations of one step.
        is_stochastic: Whether a step needs fresh `noises`.
        needs_decreasing: Whether times must decrease strictly.
    """

    order = 1
    accepts_infinite_levels = False
    evaluations_per_step = 1
    is_stochastic = False
    needs_decreasing = False

    def init(self, noisy_images: Any) -> State:
        """The state before the first step: finite tensors in tuples of a fixed structure.

        The first dimension of tensors of rank 2 or more is the batch.
        """
        return ()

    def step(
        self,
        denoiser: Denoise,
        noisy_images: Any,
        log_snr: Any,
        next_log_snr: Any,
        state: State,
        noises: Any = None,
    ) -> tuple[Any, Any, State]:
        """Takes `noisy_images` from one noise level to the next.

        Args:
            denoiser: Callable `(noisy_images, log_snr) -> (pred_noises, pred_images)`.
            noisy_images: Tensor (batch, height, width, channels) at the level `log_snr`.
            log_snr: The present noise level, a scalar tensor.
            next_log_snr: The next noise level, a scalar tensor.
            state: The state from the last step, or `init(noisy_images)`.
            noises: Standard normal noise, shaped as `noisy_images`, if `is_stochastic`.

        Returns:
            `(next_noisy_images, pred_images, state)`.
        """
        raise NotImplementedError

    def aim(self, log_snr: Any, next_log_snr: Any) -> Any:
        """The next level for networks that take it; None for the present one.

        With the present level, they predict the velocity, which all solvers integrate.
        """
        return None

    def count_evaluations(self, num_times: int) -> int:
        """Network evaluations for `num_times` times; the last takes one."""
        return (num_times - 1) * self.evaluations_per_step + 1

    def visited_levels(self, log_snr: Any) -> Any:
        """The levels at which steps from these levels evaluate the network."""
        return log_snr


# Solvers without a state


class DDIM(Sampler):
    """`next_noisy_images = α' pred_images + √(s'² − ς²) pred_noises + ς noises`.

    Separates the noisy images into their components and mixes them again at the next noise level.
    Fresh noise of standard deviation `ς = eta s' √(1 − σ'² / σ²)` replaces some of the predicted
    noise. First order, one network evaluation a step. `eta=0` is deterministic; `eta=1` is `DDPM`.

    Follows any times. In a step to a higher noise level, σ and σ' change places in ς. With `eta=1`,
    such a step adds noise as training does; with `eta=0`, it retraces the step down.

    Args:
        eta: Amount of fresh noise, in [0, 1]. Defaults to 0.
        variance: "small" for the formula above. "large" scales the fresh noise, not the noise that
            it replaces, by σ / σ'; with `eta=1`, this is the σ̂ of the paper. Defaults to "small".

    Reference:
        [Song et al., 2020, Denoising Diffusion Implicit Models](https://arxiv.org/abs/2010.02502)
    """

    eta: float = 0.0
    variance: str = "small"

    accepts_infinite_levels = True

    def __post_init__(self) -> None:
        self._check(check_number, "eta", 0, 1)
        self._check(check_choice, "variance", ("small", "large"))

    @property
    def is_stochastic(self) -> bool:
        return self.eta > 0

    def step(self, denoiser, noisy_images, log_snr, next_log_snr, state, noises=None):
        pred_noises, pred_images = denoiser(noisy_images, log_snr)
        noise_rate, _ = rates(log_snr)
        next_noise_rate, next_signal_rate = rates(next_log_snr)
        if not self.is_stochastic:
            return mix(pred_images, pred_noises, next_noise_rate, next_signal_rate), pred_images, ()
        # log(σ'² / σ²) from the levels, since rates lose its digits in short steps.
        log_ratio = -ops.abs(log_snr - next_log_snr)
        kept_rate = next_noise_rate * ops.sqrt(self._kept_variance(log_ratio))
        fresh_rate = next_noise_rate
        if self.variance == "large":
            fresh_rate = ops.maximum(noise_rate, next_noise_rate)
        fresh_rate = fresh_rate * self.eta * ops.sqrt(-ops.expm1(log_ratio))
        next_noisy_images = mix(pred_images, pred_noises, kept_rate, next_signal_rate)
        return next_noisy_images + fresh_rate * noises, pred_images, ()

    def _kept_variance(self, log_ratio: Any) -> Any:
        """The fraction 1 − ς² / s'² of the noise that is not fresh."""
        return 1 - self.eta**2 + self.eta**2 * ops.exp(log_ratio)

    def aim(self, log_snr, next_log_snr):
        """The level without the fresh noise; in steps to noisier levels, the present one."""
        if self.is_stochastic:
            log_ratio = -ops.abs(log_snr - next_log_snr)
            next_log_snr = next_log_snr - ops.log(self._kept_variance(log_ratio))
        return ops.maximum(log_snr, next_log_snr)


class DDPM(DDIM):
    """`next_noisy_images = α' pred_images + s' σ'/σ pred_noises + s' √(1 − σ'² / σ²) noises`.

    Ancestral sampling, the same as `DDIM(eta=1)`: fresh noise replaces as much of the predicted
    noise as possible.

    Args:
        variance: Variance of the fresh noise: "small" (the paper's β̃) or "large" (β), which is
            larger by σ² / σ'². Defaults to "small".

    Reference:
        [Ho et al., 2020, Denoising Diffusion Probabilistic Models](https://arxiv.org/abs/2006.11239)
    """

    eta: float = dataclasses.field(default=1.0, init=False, repr=False)


class Euler(Sampler):
    """`next_noisy_images / α' = noisy_images / α + (σ' − σ) pred_noises`.

    Euler's method on the probability-flow equation d(noisy_images / α) / dσ = pred_noises. An
    optional churn first raises the noise level to σ (1 + churn) with fresh noise. First order, one
    network evaluation a step; without churn the same as `DDIM()`.

    Follows any times; steps to higher noise levels invert images to noise. Churn at the highest
    noise level leaves the range of training, unless `churn_max_sigma` excludes that level.

    Args:
        churn: Increase of σ before each step, a fraction in [0, √2 − 1]: S_churn / steps in the
            paper. Defaults to 0, which is deterministic.
        churn_min_sigma: The lowest σ with churn (S_min). Defaults to 0.
        churn_max_sigma: The highest σ with churn (S_max). Defaults to None: no bound.
        noise_scale: Standard deviation of the fresh noise (S_noise). Defaults to 1.

    Reference:
        [Karras et al., 2022, Elucidating the Design Space of Diffusion-Based Generative
        Models](https://arxiv.org/abs/2206.00364)
    """

    churn: float = 0.0
    churn_min_sigma: float = 0.0
    churn_max_sigma: float | None = None
    noise_scale: float = 1.0

    def __post_init__(self) -> None:
        self._check(check_number, "churn", 0, math.sqrt(2) - 1)
        self._check(check_number, "churn_min_sigma", 0)
        self._check(check_number, "churn_max_sigma", self.churn_min_sigma)
        self._check(check_number, "noise_scale", 0)

    @property
    def is_stochastic(self) -> bool:
        return self.churn > 0

    def step(self, denoiser, noisy_images, log_snr, next_log_snr, state, noises=None):
        if self.is_stochastic:
            growth = self._growth(log_snr)
            added_sigma = self.noise_scale * ops.exp(-log_snr / 2) * ops.sqrt(growth**2 - 1)
            raised_images = noisy_images / rates(log_snr)[1] + added_sigma * noises
            log_snr = log_snr - 2 * ops.log(growth)
            noisy_images = rates(log_snr)[1] * raised_images
        pred_noises, pred_images = denoiser(noisy_images, log_snr)
        next_noisy_images = _euler_step(noisy_images, log_snr, next_log_snr, pred_noises)
        if self.order == 2:
            next_pred_noises, _ = denoiser(next_noisy_images, next_log_snr)
            slope = (pred_noises + next_pred_noises) / 2
            next_noisy_images = _euler_step(noisy_images, log_snr, next_log_snr, slope)
        return next_noisy_images, pred_images, ()

    def _growth(self, log_snr: Any) -> Any:
        """The factor by which the churn raises σ."""
        sigma = ops.exp(-log_snr / 2)
        is_churned = sigma >= self.churn_min_sigma
        if self.churn_max_sigma is not None:
            is_churned = ops.logical_and(is_churned, sigma <= self.churn_max_sigma)
        return ops.where(is_churned, 1 + self.churn, ops.ones_like(sigma))

    def visited_levels(self, log_snr: Any) -> Any:
        # No step starts at the last level.
        growth = ops.convert_to_numpy(self._growth(ops.convert_to_tensor(log_snr)))
        return np.append((log_snr - 2 * np.log(growth))[:-1], log_snr[-1:])


class Heun(Euler):
    """`next_noisy_images / α' = noisy_images / α + (σ' − σ) (pred_noises + pred_noises') / 2`.

    Heun's method on the equation of `Euler`, with the same arguments and times. pred_noises' is the
    noise predicted where Euler's step ends. Second order, two network evaluations a step;
    algorithms 1 and 2 of the paper.
    """

    order = 2
    evaluations_per_step = 2


# Solvers that fit a polynomial through several predictions


class AdamsBashforth(Sampler):
    """`next_noisy_images = α'/α noisy_images − α' ∫ exp(−l) P(l) dl` from λ to λ'.

    P is the polynomial in λ through the present and the `order - 1` last predicted noises; the
    integral, that of `P dσ`, is exact. This is the linear multistep method on the equation of
    `Euler` for any spacing, in the exponential form, which extrapolates better in long steps. One
    network evaluation a step; `order=1` is `DDIM()`.

    In long steps, if step² / last step > 2 in log-SNR, P is a straight line, since curves
    overshoot.

    Args:
        order: 1 to 5. Defaults to 4.

    Reference:
        [Liu et al., 2022, Pseudo Numerical Methods for Diffusion Models on
        Manifolds](https://arxiv.org/abs/2202.09778): here for any spacing, without the Runge-Kutta
        start;
        [Zhang & Chen, 2022, Fast Sampling of Diffusion Models with Exponential
        Integrator](https://arxiv.org/abs/2204.13902)
    """

    order: int = 4

    def __post_init__(self) -> None:
        self._check(check_choice, "order", (1, 2, 3, 4, 5))

    @property
    def needs_decreasing(self) -> bool:
        return self.order > 1

    def init(self, noisy_images: Any) -> State:
        return _empty_history(noisy_images, self.order - 1)

    def step(self, denoiser, noisy_images, log_snr, next_log_snr, state, noises=None):
        present_noises, pred_images = denoiser(noisy_images, log_snr)
        history = _remember(state, log_snr, present_noises)
        followed = _without_overshoot(history, log_snr, next_log_snr, LONGEST_FOR_NOISES)
        step = noisy_images, log_snr, next_log_snr, followed
        next_noisy_images = _integrate(*step, are_noises=True)
        return next_noisy_images, pred_images, _latest(history, self.order - 1)


class DPMSolverPP(Sampler):
    """`next_noisy_images = s'/s noisy_images + s' ∫ exp(l) P(l) dl` from λ to λ'.

    P is a polynomial in λ through predicted images. "multistep" takes those of the present and the
    `order - 1` last steps, one network evaluation a step; "singlestep" takes the present one and
    one between λ and λ', `order` evaluations a step. `order=1` is `DDIM()`. The integral is exact,
    except that a P of order 2 counts by its value half-way from λ to λ', as in the paper.
    (Published code of multistep order 3 takes half of P's curvature, which makes it second order;
    here it is third.)

    `stochastic=True` integrates the reverse-time stochastic equation instead, `next_noisy_images =
    s'/s exp(−h) noisy_images + 2 s' exp(−λ') ∫ exp(2l) P(l) dl + s' √(1 − exp(−2h)) noises`, whose
    `order=1` is `DDPM()`.

    In long multistep steps, P has a lower degree, since extrapolation overshoots. It is a straight
    line if step² / last step > 1 in log-SNR, and a constant if that is > 16.

    Args:
        order: 1, 2 or 3; 1 or 2 if `stochastic`. Defaults to 2.
        variant: "multistep" (2M, 3M) or "singlestep" (2S, 3S), which follows any times as `Euler`
            without churn does. Defaults to "multistep".
        stochastic: Whether to add fresh noise (SDE-DPM-Solver++); multistep only. Defaults to
            False.

    Reference:
        [Lu et al., 2022, DPM-Solver++: Fast Solver for Guided Sampling of Diffusion Probabilistic
        Models](https://arxiv.org/abs/2211.01095)
    """

    order: int = 2
    variant: str = "multistep"
    stochastic: bool = False

    def __post_init__(self) -> None:
        self._check(check_choice, "order", (1, 2, 3))
        self._check(check_choice, "variant", ("multistep", "singlestep"))
        self._check(check_choice, "stochastic", (False, True))
        can_be_stochastic = self.variant == "multistep" and self.order < 3
        allowed = "False, or `variant` 'multistep' and `order` 1 or 2"
        require(not self.stochastic or can_be_stochastic, "stochastic", allowed, self.stochastic)

    @property
    def evaluations_per_step(self) -> int:
        return self.order if self.variant == "singlestep" else 1

    @property
    def is_stochastic(self) -> bool:
        return self.stochastic

    @property
    def needs_decreasing(self) -> bool:
        return self.stochastic or (self.order > 1 and self.variant == "multistep")

    def init(self, noisy_images: Any) -> State:
        if self.variant == "singlestep":
            return ()
        return _empty_history(noisy_images, self.order - 1)

    def step(self, denoiser, noisy_images, log_snr, next_log_snr, state, noises=None):
        _, present_images = denoiser(noisy_images, log_snr)
        step, nodes = (noisy_images, log_snr, next_log_snr), None
        if self.variant == "singlestep":
            history, nodes = self._predict_between(denoiser, *step, present_images)
        else:
            history = _remember(state, log_snr, present_images)
            state = _latest(history, self.order - 1)
            history = _without_overshoot(history, log_snr, next_log_snr, LONGEST_FOR_IMAGES)
        rule = None if (self.order, self.variant) == (3, "singlestep") else "bh2"
        decay = 2 if self.stochastic else 1
        next_noisy_images = _integrate(*step, history, nodes, slope_rule=rule, noise_decay=decay)
        if self.stochastic:
            next_noise_rate, _ = rates(next_log_snr)
            fresh_rate = next_noise_rate * ops.sqrt(-ops.expm1(log_snr - next_log_snr))
            next_noisy_images = next_noisy_images + fresh_rate * noises
        return next_noisy_images, present_images, state

    def _predict_between(self, denoiser, noisy_images, log_snr, next_log_snr, present_images):
        """The present prediction and one within the step, and their places in it, 0 to 1."""
        first = _remember(_empty_history(noisy_images, 0), log_snr, present_images)
        history, nodes = first, np.zeros(1)
        for part in {1: (), 2: (1 / 2,), 3: (1 / 3, 2 / 3)}[self.order]:
            between_log_snr = log_snr + part * (next_log_snr - log_snr)
            step = noisy_images, log_snr, between_log_snr, history
            _, between_pred_images = denoiser(_integrate(*step, nodes / part), between_log_snr)
            # P goes through the last of them only, which is the most accurate.
            history = _remember(first, between_log_snr, between_pred_images)
            nodes = np.array([part, 0.0])
        return history, nodes


class UniPC(Sampler):
    """`next_noisy_images = s'/s noisy_images + s' ∫ exp(l) P(l) dl` from λ to λ', taken twice.

    For the predictor, P is the polynomial in λ through the present and the `order - 1` last
    predicted images. The next step predicts the image at λ'. The corrector then repeats the step
    to λ' with P through that image, too, and the next step starts there. One network evaluation a
    step; the error falls with order `order + 1`.

    The integral is exact, except that the slope of a straight line is weighted by B(h) / 2, as in
    the paper. (For higher degrees, B(h) cancels.) In long steps, the predictor has a lower order,
    as in `DPMSolverPP`.

    Args:
        order: Order of the predictor: 1, 2 or 3. Defaults to 2.
        variant: B(h): "bh1" (h) or "bh2" (1 − exp(−h)). Defaults to "bh2".

    Reference:
        [Zhao et al., 2023, UniPC: A Unified Predictor-Corrector Framework for Fast Sampling of
        Diffusion Models](https://arxiv.org/abs/2302.04867)
    """

    order: int = 2
    variant: str = "bh2"

    needs_decreasing = True

    def __post_init__(self) -> None:
        self._check(check_choice, "order", (1, 2, 3))
        self._check(check_choice, "variant", ("bh1", "bh2"))

    def init(self, noisy_images: Any) -> State:
        return _empty_history(noisy_images, self.order), noisy_images

    def step(self, denoiser, noisy_images, log_snr, next_log_snr, state, noises=None):
        _, present_images = denoiser(noisy_images, log_snr)
        earlier, last_noisy_images = state
        history = _remember(earlier, log_snr, present_images)
        # In the first step, any finite level, since the result is unused.
        is_first = earlier.count == 0
        last_log_snr = ops.where(is_first, log_snr - 1, earlier.levels[0])
        last_step = last_noisy_images, last_log_snr, log_snr, history
        corrected_images = _integrate(*last_step, slope_rule=self.variant)
        noisy_images = ops.where(is_first, noisy_images, corrected_images)
        history = _latest(history, self.order)
        followed = _without_overshoot(history, log_snr, next_log_snr, LONGEST_FOR_IMAGES)
        next_step = noisy_images, log_snr, next_log_snr, followed
        next_noisy_images = _integrate(*next_step, slope_rule=self.variant)
        return next_noisy_images, present_images, (history, noisy_images)


# The state of multistep solvers


class History(NamedTuple):
    """Predictions of the last steps and their levels, the latest first.

    Polynomials go through the first `count`; the others hold zeros, for finite gradients.
    """

    count: Any
    levels: Any
    predictions: tuple


def _empty_history(noisy_images: Any, size: int) -> History:
    levels = ops.zeros((size,), dtype=noisy_images.dtype)
    return History(ops.zeros((), "int32"), levels, (ops.zeros_like(noisy_images),) * size)


def _remember(history: History, log_snr: Any, prediction: Any) -> History:
    """A history with one more prediction."""
    levels = ops.concatenate([ops.reshape(log_snr, (1,)), history.levels])
    return History(history.count + 1, levels, (prediction, *history.predictions))


def _latest(history: History, size: int) -> History:
    """A history of no more than `size` predictions."""
    count = ops.minimum(history.count, size)
    return History(count, history.levels[:size], history.predictions[:size])


# Largest step² / last step, in log-SNR, beyond which a P of lower degree is more accurate. Measured
# on mixtures of Gaussian images. Predicted noises matter most at the near end of a step, predicted
# images at the far end, so noises may be extrapolated further.
LONGEST_FOR_IMAGES = {1: 16.0, 2: 1.0}
LONGEST_FOR_NOISES = {2: 2.0}


def _without_overshoot(history: History, log_snr: Any, next_log_snr: Any, longest: dict) -> History:
    """The part of a history that can be extrapolated over the step; all of it in short steps."""
    count = history.count
    for degree, most in longest.items():
        if len(history.predictions) > degree:
            is_long = (next_log_snr - log_snr) ** 2 > most * (log_snr - history.levels[1])
            count = ops.where(is_long, ops.minimum(count, degree), count)
    return history._replace(count=count)


# Integration


# Gauss's quadrature on [0, 1], since closed forms of the integrals lose digits in short steps.
POINTS, POINT_WEIGHTS = np.polynomial.legendre.leggauss(16)
POINTS, POINT_WEIGHTS = (POINTS + 1) / 2, POINT_WEIGHTS / 2


def _euler_step(noisy_images: Any, log_snr: Any, next_log_snr: Any, slope: Any) -> Any:
    """`α' (noisy_images / α + (σ' − σ) slope)`."""
    _, signal_rate = rates(log_snr)
    _, next_signal_rate = rates(next_log_snr)
    sigma_change = ops.exp(-next_log_snr / 2) - ops.exp(-log_snr / 2)
    return next_signal_rate * (noisy_images / signal_rate + sigma_change * slope)


def _integrate(
    noisy_images: Any,
    log_snr: Any,
    next_log_snr: Any,
    history: History,
    nodes: Any = None,
    are_noises: bool = False,
    slope_rule: str | None = None,
    noise_decay: int = 1,
) -> Any:
    """`s'/s noisy_images + s' ∫ exp(l) P(l) dl` from λ to λ', P going through `history`.

    Args:
        nodes: Places of the predictions in the step, from 0 to 1. Defaults to None: computed from
            their levels, for steps of a length other than 0.
        are_noises: Whether the predictions are noises instead of images. In the formula, images
            and noises then change places, and λ its sign.
        slope_rule: "bh1" or "bh2" to weight the slope of a P through at most two nodes by UniPC's
            B(h) / 2. Defaults to None: the exact integral.
        noise_decay: 1 for the probability-flow equation, 2 for the reverse-time stochastic
            equation.
    """
    present, following = rates(log_snr), rates(next_log_snr)
    h = noise_decay * (next_log_snr - log_snr) / 2
    if are_noises:
        h, present, following = -h, present[::-1], following[::-1]
    next_noise_rate, next_signal_rate = following
    if nodes is None:
        nodes = (history.levels - log_snr) / (next_log_snr - log_snr)
    nodes = ops.cast(nodes, noisy_images.dtype)
    total = -ops.expm1(-h)
    points = ops.cast(POINTS, nodes.dtype)
    point_weights = ops.cast(POINT_WEIGHTS, nodes.dtype) * h * ops.exp(h * (points - 1))
    if slope_rule:
        # A line with its slope weighted so counts by its value at a single point.
        point = h / (2 * total) if slope_rule == "bh1" else ops.full_like(h, 0.5)
        points = ops.concatenate([points, ops.reshape(point, (1,))])
        is_line = ops.cast(history.count <= 2, nodes.dtype)
        line_weight = ops.reshape(is_line * total, (1,))
        point_weights = ops.concatenate([(1 - is_line) * point_weights, line_weight])
    weights = ops.matmul(point_weights, _lagrange(nodes, history.count, points))
    noise_ratio = next_noise_rate / present[0] * ops.exp((1 / noise_decay - 1) * h)
    integral = sum(weights[i] * prediction for i, prediction in enumerate(history.predictions))
    return noise_ratio * noisy_images + next_signal_rate * integral


def _lagrange(nodes: Any, count: Any, points: Any) -> Any:
    """Matrix L with `P(points) = L f(nodes)`, P the polynomial through the first `count` nodes."""
    # factors[i, j, m] = (points[i] − nodes[m]) / (nodes[j] − nodes[m])
    indices = np.arange(nodes.shape[0])
    is_used = ops.less(indices, count)
    is_factor = ops.logical_and(
        ops.logical_and(ops.expand_dims(is_used, 1), is_used), indices[:, None] != indices
    )
    gaps = ops.where(is_factor, ops.expand_dims(nodes, 1) - nodes, 1.0)
    factors = (ops.reshape(points, (-1, 1, 1)) - nodes) / gaps
    products = ops.prod(ops.where(is_factor, factors, 1.0), axis=-1)
    return ops.where(is_used, products, 0.0)


# Names


SAMPLERS = {
    "ddim": DDIM,
    "ddpm": DDPM,
    "euler": Euler,
    "heun": Heun,
    "dpm_solver_pp": DPMSolverPP,
    "dpm++": DPMSolverPP,
    "unipc": UniPC,
    "adams_bashforth": AdamsBashforth,
}


def get(identifier: Any) -> Sampler:
    """A `Sampler` for one of the names of `SAMPLERS`, a configuration (dict) or a `Sampler`.

    None stands for `DDIM()`, which follows any times.
    """
    return serialization.get("sampler", identifier, Sampler, SAMPLERS, DDIM)
