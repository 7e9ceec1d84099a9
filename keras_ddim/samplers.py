"""Samplers: one step from a noise level to the next.

A sampler knows nothing of schedules, batches, progress bars or networks: it is handed a denoiser
and two noise levels. Every formula below holds for any two levels, so every list of times
works with every sampler; only multistep solvers, which learn from earlier steps, need the times to
decrease, and the first steps of a list, where there is little to learn from, are of lower order:
the orders named are reached from exact starting values, or where the first steps are short enough
for their error not to matter.

Notation of the formulas: at a noise level, α = `signal_rates`, s = `noise_rates`, σ = s / α, and
λ = log(α / s) = `log_snr` / 2. Levels without a mark are those a step starts from, marked ones
(α', s', σ', λ') those it goes to, and h = λ' − λ.

An argument that is not as described raises a `ValueError`.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops

from keras_ddim.checks import brief, check_choice, check_number
from keras_ddim.noise_levels import mix, rates
from keras_ddim.parts import PACKAGE, Part, get_part

# (noisy_images, log_snr) -> (pred_noises, pred_images)
Denoise = Callable[..., tuple[Any, Any]]
State = Any  # a tuple of tensors and of such tuples


class Sampler(Part):
    """One step from a noise level to the next.

    Subclasses implement `step`, `init` if a step depends on earlier ones, and are saved as a
    `keras_ddim.parts.Part`.

    Attributes:
        order: How fast the error falls with the number of steps: as `1 / steps ** order` (with
            the corrector of `UniPC`, which takes the order of its predictor, one faster).
        evaluations_per_step: Network evaluations that a step costs.
        is_stochastic: Whether a step needs fresh `noises`.
        needs_decreasing: Whether times must decrease strictly from step to step.
        accepts_infinite_levels: Whether a step may start or end where there is no signal or no
            noise at all; else `DiffusionModel.generate` has a log-SNR of ±12 there.
    """

    order = 1
    evaluations_per_step = 1
    is_stochastic = False
    needs_decreasing = False
    accepts_infinite_levels = False

    def init(self, noisy_images: Any) -> State:
        """The state before the first step: a tuple of tensors, its structure and shapes fixed.

        All that it holds is finite. Tensors of at least two dimensions have the batch as their
        first.
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
            next_log_snr: The noise level to go to, a scalar tensor.
            state: What the step before returned, or `init(noisy_images)` at the first.
            noises: Standard normal noise, as `noisy_images`; used if `is_stochastic`.

        Returns:
            `(next_noisy_images, pred_images, state)`.
        """
        raise NotImplementedError

    def count_evaluations(self, num_times: int) -> int:
        """Network evaluations that a list of `num_times` times costs: the last one costs one."""
        return (num_times - 1) * self.evaluations_per_step + 1

    def visited_levels(self, log_snr: Any) -> Any:
        """The levels that a list of levels has the network evaluated at, one for each of them."""
        return log_snr

    def _check_noises(self, noises: Any) -> Any:
        if noises is None:
            raise ValueError(f"`noises` must be given to {self}, which is stochastic.")
        return noises


# Solvers without a state


@keras.saving.register_keras_serializable(PACKAGE)
class DDIM(Sampler):
    """`next_noisy_images = α' pred_images + √(s'² − ς²) pred_noises + ς noises`.

    Separates the noisy images into their two components and mixes them again at the next noise
    level, with a part of the predicted noise replaced by fresh noise of standard deviation
    `ς = eta s' √(1 − σ'² / σ²)`. First order, one network evaluation a step. With `eta=0` it is
    deterministic, with `eta=1` it is ancestral sampling, as `DDPM`.

    Follows any list of times. Up to a higher noise level, σ and σ' change places in ς: with
    `eta=1`, the step then adds the noise that training would, whatever is predicted; with `eta=0`,
    it goes back the way that it came.

    Args:
        eta: Amount of fresh noise, in [0, 1]. Defaults to 0.
        variance: "small", as above, or "large": the fresh noise, but not what it replaces, is
            larger by σ / σ', which is the σ̂ of the paper if `eta=1`. Defaults to "small".

    Reference:
        [Song et al., 2020, Denoising Diffusion Implicit Models](https://arxiv.org/abs/2010.02502)
    """

    accepts_infinite_levels = True

    def __init__(self, eta: float = 0.0, variance: str = "small") -> None:
        self.eta = check_number("eta", eta, 0, 1)
        self.variance = check_choice("variance", variance, ("small", "large"))
        self.is_stochastic = self.eta > 0

    def step(
        self,
        denoiser: Denoise,
        noisy_images: Any,
        log_snr: Any,
        next_log_snr: Any,
        state: State,
        noises: Any = None,
    ) -> tuple[Any, Any, State]:
        pred_noises, pred_images = denoiser(noisy_images, log_snr)
        noise_rate, _ = rates(log_snr)
        next_noise_rate, next_signal_rate = rates(next_log_snr)
        if not self.is_stochastic:
            return mix(pred_images, pred_noises, next_noise_rate, next_signal_rate), pred_images, ()
        # σ'² / σ² from the levels themselves: in short steps, the rates have lost its digits.
        log_ratio = -ops.abs(log_snr - next_log_snr)
        kept_rate = next_noise_rate * ops.sqrt(1 - self.eta**2 + self.eta**2 * ops.exp(log_ratio))
        fresh_rate = next_noise_rate
        if self.variance == "large":
            fresh_rate = ops.maximum(noise_rate, next_noise_rate)
        fresh_rate = fresh_rate * self.eta * ops.sqrt(-ops.expm1(log_ratio))
        next_noisy_images = mix(pred_images, pred_noises, kept_rate, next_signal_rate)
        return next_noisy_images + fresh_rate * self._check_noises(noises), pred_images, ()


@keras.saving.register_keras_serializable(PACKAGE)
class DDPM(DDIM):
    """`next_noisy_images = α' pred_images + s' σ'/σ pred_noises + s' √(1 − σ'² / σ²) noises`.

    Ancestral sampling, the same as `DDIM(eta=1)`: as much of the predicted noise as training's
    mixing allows is replaced by fresh noise.

    Args:
        variance: That of the fresh noise: "small" (the β̃ of the paper) or "large" (β), which is
            larger by σ² / σ'². Defaults to "small".

    Reference:
        [Ho et al., 2020, Denoising Diffusion Probabilistic Models](https://arxiv.org/abs/2006.11239)
    """

    def __init__(self, variance: str = "small") -> None:
        super().__init__(eta=1.0, variance=variance)


@keras.saving.register_keras_serializable(PACKAGE)
class Euler(Sampler):
    """`next_noisy_images / α' = noisy_images / α + (σ' − σ) pred_noises`.

    Euler's method on the probability-flow equation d(noisy_images / α) / dσ = pred_noises, after
    an optional churn, which raises the noise level to σ (1 + churn) with fresh noise. First order,
    one network evaluation a step; without churn the same as `DDIM()`.

    Follows any list of times. Up to a higher noise level, the equation is followed backwards, which
    inverts images to noise; fresh noise comes from the churn alone. Churn at the noisiest level of
    training leaves the range of training; `churn_max_sigma` keeps it from doing so.

    Args:
        churn: How much of σ is added before each step, in [0, √2 − 1]: S_churn / steps in the
            paper. Defaults to 0, which is deterministic.
        churn_min_sigma: The lowest σ that is churned (S_min). Defaults to 0.
        churn_max_sigma: The highest (S_max), or None for no bound. Defaults to None.
        noise_scale: Standard deviation of the fresh noise (S_noise). Defaults to 1.

    Reference:
        [Karras et al., 2022, Elucidating the Design Space of Diffusion-Based Generative
        Models](https://arxiv.org/abs/2206.00364)
    """

    def __init__(
        self,
        churn: float = 0.0,
        churn_min_sigma: float = 0.0,
        churn_max_sigma: float | None = None,
        noise_scale: float = 1.0,
    ) -> None:
        self.churn = check_number("churn", churn, 0, math.sqrt(2) - 1)
        self.churn_min_sigma = check_number("churn_min_sigma", churn_min_sigma, 0)
        if churn_max_sigma is not None:
            churn_max_sigma = check_number(
                "churn_max_sigma", churn_max_sigma, self.churn_min_sigma, math.inf
            )
        self.churn_max_sigma = churn_max_sigma
        self.noise_scale = check_number("noise_scale", noise_scale, 0, math.inf)
        self.is_stochastic = self.churn > 0

    def step(
        self,
        denoiser: Denoise,
        noisy_images: Any,
        log_snr: Any,
        next_log_snr: Any,
        state: State,
        noises: Any = None,
    ) -> tuple[Any, Any, State]:
        noisy_images, log_snr = self._raise_noise(noisy_images, log_snr, noises)
        pred_noises, pred_images = denoiser(noisy_images, log_snr)
        next_noisy_images = _euler_step(noisy_images, log_snr, next_log_snr, pred_noises)
        if self.order == 2:
            next_pred_noises, _ = denoiser(next_noisy_images, next_log_snr)
            slope = (pred_noises + next_pred_noises) / 2
            next_noisy_images = _euler_step(noisy_images, log_snr, next_log_snr, slope)
        return next_noisy_images, pred_images, ()

    def _raise_noise(self, noisy_images: Any, log_snr: Any, noises: Any) -> tuple[Any, Any]:
        """Noisy images and their level, after the churn."""
        if not self.is_stochastic:
            return noisy_images, log_snr
        sigma, growth = ops.exp(-log_snr / 2), self._growth(log_snr)
        raised_log_snr = log_snr - 2 * ops.log(growth)
        _, signal_rate = rates(log_snr)
        _, raised_signal_rate = rates(raised_log_snr)
        added_sigma = self.noise_scale * sigma * ops.sqrt(growth**2 - 1)
        raised_images = noisy_images / signal_rate + added_sigma * self._check_noises(noises)
        return raised_signal_rate * raised_images, raised_log_snr

    def _growth(self, log_snr: Any) -> Any:
        """What the churn multiplies σ by."""
        sigma = ops.exp(-log_snr / 2)
        churned = sigma >= self.churn_min_sigma
        if self.churn_max_sigma is not None:
            churned = ops.logical_and(churned, sigma <= self.churn_max_sigma)
        return ops.where(churned, 1 + self.churn, ops.ones_like(sigma))

    def visited_levels(self, log_snr: Any) -> Any:
        # No step starts at the last one.
        growth = ops.convert_to_numpy(self._growth(ops.convert_to_tensor(log_snr)))
        return np.append((log_snr - 2 * np.log(growth))[:-1], log_snr[-1:])


@keras.saving.register_keras_serializable(PACKAGE)
class Heun(Euler):
    """`next_noisy_images / α' = noisy_images / α + (σ' − σ) (pred_noises + pred_noises') / 2`.

    Heun's method on the equation of `Euler`, whose arguments it takes and whose lists it follows:
    pred_noises' is the noise in the images that Euler's step ends at. Second order, two network
    evaluations a step; algorithms 1 and 2 of the paper.
    """

    order = 2
    evaluations_per_step = 2


# Solvers that fit a polynomial through several predictions


@keras.saving.register_keras_serializable(PACKAGE)
class AdamsBashforth(Sampler):
    """`next_noisy_images = α'/α noisy_images − α' ∫ exp(−l) P(l) dl` from λ to λ'.

    P is the polynomial in λ through the present and the `order - 1` last predicted noises, each at
    its own level; the integral, that of `P dσ`, is exact. This is the linear multistep method on
    the equation of `Euler` for any spacing, in the exponential form, which extrapolates better in
    long steps than a polynomial in σ. One network evaluation a step; `order=1` is `DDIM()`. In long
    steps, where curves overshoot, P is a straight line: those of step² / last step > 2, in log-SNR.

    Args:
        order: 1 to 5. Defaults to 4.

    Reference:
        [Liu et al., 2022, Pseudo Numerical Methods for Diffusion Models on
        Manifolds](https://arxiv.org/abs/2202.09778), whose linear multistep method this is, for
        any spacing and without the Runge-Kutta start;
        [Zhang & Chen, 2022, Fast Sampling of Diffusion Models with Exponential
        Integrator](https://arxiv.org/abs/2204.13902)
    """

    def __init__(self, order: int = 4) -> None:
        self.order = int(check_choice("order", order, (1, 2, 3, 4, 5)))
        self.needs_decreasing = self.order > 1

    def init(self, noisy_images: Any) -> State:
        return _empty_history(noisy_images, self.order - 1)

    def step(
        self,
        denoiser: Denoise,
        noisy_images: Any,
        log_snr: Any,
        next_log_snr: Any,
        state: State,
        noises: Any = None,
    ) -> tuple[Any, Any, State]:
        present_noises, pred_images = denoiser(noisy_images, log_snr)
        history = _remember(state, log_snr, present_noises)
        followed = _without_overshoot(history, log_snr, next_log_snr, LONGEST_FOR_NOISES)
        next_noisy_images = _integrate(
            noisy_images, log_snr, next_log_snr, followed, are_noises=True
        )
        return next_noisy_images, pred_images, _latest(history, self.order - 1)


@keras.saving.register_keras_serializable(PACKAGE)
class DPMSolverPP(Sampler):
    """`next_noisy_images = s'/s noisy_images + s' ∫ exp(l) P(l) dl` from λ to λ'.

    P is a polynomial in λ through predicted images: those of the present and the `order - 1` last
    steps ("multistep", one network evaluation a step), or the present one and one on the way from
    λ to λ' ("singlestep", `order` evaluations a step). `order=1` is `DDIM()`. The integral is
    exact, except that, as in the paper, a P of order 2 counts by its value half-way from λ to λ'.
    (Published code of multistep order 3 takes half of P's curvature, which makes it second order;
    here it is third.)

    `stochastic=True` integrates the reverse-time stochastic equation instead, `next_noisy_images =
    s'/s exp(−h) noisy_images + 2 s' exp(−λ') ∫ exp(2l) P(l) dl + s' √(1 − exp(−2h)) noises`, whose
    `order=1` is `DDPM()`.

    In long multistep steps, where parabolas overshoot, P is a straight line: those of
    step² / last step > 1, in log-SNR; it is a constant in those of step² / last step > 16, such as
    the last of lists of timesteps that end at 0.

    Args:
        order: 1, 2 or 3; 1 or 2 if `stochastic`. Defaults to 2.
        variant: "multistep" (2M, 3M) or "singlestep" (2S, 3S), which follows any list of times, up
            to a higher noise level as `Euler` without churn. Defaults to "multistep".
        stochastic: Whether to add fresh noise (SDE-DPM-Solver++); multistep only. Defaults to
            False.

    Reference:
        [Lu et al., 2022, DPM-Solver++: Fast Solver for Guided Sampling of Diffusion Probabilistic
        Models](https://arxiv.org/abs/2211.01095)
    """

    def __init__(
        self, order: int = 2, variant: str = "multistep", stochastic: bool = False
    ) -> None:
        self.order = int(check_choice("order", order, (1, 2, 3)))
        self.variant = check_choice("variant", variant, ("multistep", "singlestep"))
        self.stochastic = bool(check_choice("stochastic", stochastic, (False, True)))
        if self.stochastic and (self.variant == "singlestep" or self.order == 3):
            raise ValueError(
                "`stochastic` must be False, or `variant` 'multistep' and `order` 1 or 2. "
                f"Received: stochastic=True, variant={brief(variant)}, order={order}"
            )
        self.is_stochastic = self.stochastic
        self.evaluations_per_step = self.order if self.variant == "singlestep" else 1
        self.needs_decreasing = self.stochastic or (self.order > 1 and variant == "multistep")

    def init(self, noisy_images: Any) -> State:
        if self.variant == "singlestep":
            return ()
        return _empty_history(noisy_images, self.order - 1)

    def step(
        self,
        denoiser: Denoise,
        noisy_images: Any,
        log_snr: Any,
        next_log_snr: Any,
        state: State,
        noises: Any = None,
    ) -> tuple[Any, Any, State]:
        _, present_images = denoiser(noisy_images, log_snr)
        if self.variant == "singlestep":
            history, nodes = self._predict_between(
                denoiser, noisy_images, log_snr, next_log_snr, present_images
            )
        else:
            history, nodes = _remember(state, log_snr, present_images), None
            state = _latest(history, self.order - 1)
            history = _without_overshoot(history, log_snr, next_log_snr, LONGEST_FOR_IMAGES)
        rule = None if (self.order, self.variant) == (3, "singlestep") else "bh2"
        decay = 2 if self.stochastic else 1
        next_noisy_images = _integrate(
            noisy_images, log_snr, next_log_snr, history, nodes, slope_rule=rule, noise_decay=decay
        )
        if self.stochastic:
            next_noise_rate, _ = rates(next_log_snr)
            fresh_rate = next_noise_rate * ops.sqrt(-ops.expm1(log_snr - next_log_snr))
            next_noisy_images = next_noisy_images + fresh_rate * self._check_noises(noises)
        return next_noisy_images, present_images, state

    def _predict_between(
        self,
        denoiser: Denoise,
        noisy_images: Any,
        log_snr: Any,
        next_log_snr: Any,
        present_images: Any,
    ) -> tuple["History", Any]:
        """The present prediction and one on the way, and where they are in the step from 0 to 1."""
        first = _remember(_empty_history(noisy_images, 0), log_snr, present_images)
        history, nodes = first, np.zeros(1)
        for part in {1: (), 2: (1 / 2,), 3: (1 / 3, 2 / 3)}[self.order]:
            between_log_snr = log_snr + part * (next_log_snr - log_snr)
            between_images = _integrate(
                noisy_images, log_snr, between_log_snr, history, nodes / part
            )
            _, between_pred_images = denoiser(between_images, between_log_snr)
            # P goes through the last of them only: the earlier were less accurate.
            history = _remember(first, between_log_snr, between_pred_images)
            nodes = np.array([part, 0.0])
        return history, nodes


@keras.saving.register_keras_serializable(PACKAGE)
class UniPC(Sampler):
    """`next_noisy_images = s'/s noisy_images + s' ∫ exp(l) P(l) dl` from λ to λ', taken twice.

    P is the polynomial in λ through the present and the `order - 1` last predicted images: that is
    the predictor. Once the next step has predicted the image at λ', the corrector takes the step
    to λ' again, with P through that one, too, and the next step starts from where it ends. One
    network evaluation a step, and an error that falls with `order + 1`.

    The integral is exact, but for a straight line: its slope is weighed by B(h) / 2, as in the
    paper. (For more predictions, B(h) cancels.) In long steps, the predictor is of lower order, as
    in `DPMSolverPP`.

    Args:
        order: Order of the predictor: 1, 2 or 3. Defaults to 2.
        variant: B(h): "bh1" (h) or "bh2" (1 − exp(−h)). Defaults to "bh2".

    Reference:
        [Zhao et al., 2023, UniPC: A Unified Predictor-Corrector Framework for Fast Sampling of
        Diffusion Models](https://arxiv.org/abs/2302.04867)
    """

    needs_decreasing = True

    def __init__(self, order: int = 2, variant: str = "bh2") -> None:
        self.order = int(check_choice("order", order, (1, 2, 3)))
        self.variant = check_choice("variant", variant, ("bh1", "bh2"))

    def init(self, noisy_images: Any) -> State:
        return _empty_history(noisy_images, self.order), noisy_images

    def step(
        self,
        denoiser: Denoise,
        noisy_images: Any,
        log_snr: Any,
        next_log_snr: Any,
        state: State,
        noises: Any = None,
    ) -> tuple[Any, Any, State]:
        _, present_images = denoiser(noisy_images, log_snr)
        earlier, last_noisy_images = state
        history = _remember(earlier, log_snr, present_images)
        # Before there is a last step, a level that keeps finite what is then not used.
        is_first = earlier.count == 0
        last_log_snr = ops.where(is_first, log_snr - 1, earlier.levels[0])
        corrected_images = _integrate(
            last_noisy_images, last_log_snr, log_snr, history, slope_rule=self.variant
        )
        noisy_images = ops.where(is_first, noisy_images, corrected_images)
        history = _latest(history, self.order)
        followed = _without_overshoot(history, log_snr, next_log_snr, LONGEST_FOR_IMAGES)
        next_noisy_images = _integrate(
            noisy_images, log_snr, next_log_snr, followed, slope_rule=self.variant
        )
        return next_noisy_images, present_images, (history, noisy_images)


# The state of multistep solvers


class History(NamedTuple):
    """Predictions of the last steps and their levels, the latest first.

    Places for steps that have not been taken yet hold zeros, which polynomials leave out: they go
    through the first `count`. (Infinite levels in their place would make gradients NaN.)
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


# How long a step may be for a P of that degree: step² / last step, in log-SNR, which is the length
# of a step like the one before. Beyond it, extrapolating overshoots more than the degree below
# misses. Predicted noises count at the near end of a step, and may be extrapolated further than
# images, which count at the far one. Measured on mixtures of normal images.
LONGEST_FOR_IMAGES = {1: 16.0, 2: 1.0}
LONGEST_FOR_NOISES = {2: 2.0}


def _without_overshoot(history: History, log_snr: Any, next_log_snr: Any, longest: dict) -> History:
    """A history of as many predictions as may be extrapolated over a step of that length.

    Short steps may differ from each other by any ratio, so that the order of convergence is that
    of all predictions on lists of any spacing.
    """
    count = history.count
    for degree, most in longest.items():
        if len(history.predictions) > degree:
            is_long = (next_log_snr - log_snr) ** 2 > most * (log_snr - history.levels[1])
            count = ops.where(is_long, ops.minimum(count, degree), count)
    return history._replace(count=count)


# Integration


# Gauss's quadrature on [0, 1]. Closed forms of these integrals lose their digits in short steps.
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
        nodes: Where the predictions are in a step from 0 to 1. Defaults to None: as their levels
            say, which a step of length 0 cannot.
        are_noises: Whether they are predicted noises instead of images. In the formula, images and
            noises then change places, and λ its sign.
        slope_rule: "bh1" or "bh2" to weigh the slope of a P through no more than two nodes by
            UniPC's B(h) / 2. Defaults to None: the exact integral.
        noise_decay: 1 for the probability-flow equation, 2 for the reverse-time stochastic one, in
            which what is left of the noise decays twice as fast.
    """
    present, following = rates(log_snr), rates(next_log_snr)
    h = noise_decay * (next_log_snr - log_snr) / 2
    if are_noises:
        h, present, following = -h, present[::-1], following[::-1]
    (noise_rate, _), (next_noise_rate, next_signal_rate) = present, following
    if nodes is None:
        nodes = (history.levels - log_snr) / (next_log_snr - log_snr)
    nodes = ops.cast(nodes, noisy_images.dtype)
    total = -ops.expm1(-h)
    points = ops.cast(POINTS, nodes.dtype)
    point_weights = ops.cast(POINT_WEIGHTS, nodes.dtype) * h * ops.exp(h * (points - 1))
    if slope_rule:
        # A line whose slope is weighed so counts by its value at a single point.
        point = h / (2 * total) if slope_rule == "bh1" else ops.full_like(h, 0.5)
        points = ops.concatenate([points, ops.reshape(point, (1,))])
        is_line = ops.cast(history.count <= 2, nodes.dtype)
        line_weight = ops.reshape(is_line * total, (1,))
        point_weights = ops.concatenate([(1 - is_line) * point_weights, line_weight])
    weights = ops.matmul(point_weights, _lagrange(nodes, history.count, points))
    noise_ratio = next_noise_rate / noise_rate * ops.exp((1 / noise_decay - 1) * h)
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
    """The sampler that `identifier` names: one of `SAMPLERS`, a serialized sampler (dict), a
    `Sampler`, or None for `DDIM()`, which follows any list.
    """
    return get_part("sampler", identifier, Sampler, SAMPLERS, DDIM)
