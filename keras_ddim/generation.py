"""Planning a generation: turns the arguments of `generate` into noise levels and steps."""

import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from keras import ops

from keras_ddim import checks, samplers, sampling, schedules, times
from keras_ddim import guidance as guidances
from keras_ddim.checks import require
from keras_ddim.degradations import Known
from keras_ddim.denoisers import CLIPPINGS, Clipped, Denoiser, NetworkDenoiser
from keras_ddim.guidance import Guidance
from keras_ddim.labels import check_labels
from keras_ddim.networks import takes_next_level
from keras_ddim.noise_levels import finite
from keras_ddim.progress import Progress

DEFAULT_SAMPLER = samplers.UniPC()
# The entry of a model's metadata for named times: log-SNRs by sampler and name, valid under any
# schedule.
NAMED_LEVELS = "log_snr_lists"


class Plan(NamedTuple):
    """Sampling times and the compiled steps between them.

    Attributes:
        diffusion_times: The times, float64 (steps,).
        levels: Their log-SNRs, (steps,).
        steps: The compiled step from each time.
        inputs: Inputs of the denoiser for each image, arrays (num_images, ...).
        evaluations: Network evaluations of each step.
    """

    diffusion_times: np.ndarray
    levels: list[Any]
    steps: list[sampling.Step]
    inputs: dict[str, np.ndarray]
    evaluations: list[int]


class Trajectory(NamedTuple):
    """All steps of `generate(return_trajectory=True)`, as NumPy arrays.

    Attributes:
        images: The generated images (num_images, height, width, channels), in [0, 1].
        noisy_images: (steps, num_images, height, width, channels), in the normalised space.
        pred_images: The image predicted at each time, as `noisy_images`, in [0, 1].
        diffusion_times: The times (steps,).
        evaluations: Network evaluations of each image.
    """

    images: np.ndarray
    noisy_images: np.ndarray
    pred_images: np.ndarray
    diffusion_times: np.ndarray
    evaluations: int


def default_sampler(model: Any) -> samplers.Sampler:
    """The default sampler for decreasing times: DDIM for networks that take the next level."""
    return samplers.DDIM() if takes_next_level(model.ema_network) else DEFAULT_SAMPLER


def default_times(model: Any, num_times: int, schedule: schedules.Schedule) -> np.ndarray:
    """The default sampling times; a few of Karras's would skip the middle."""
    if takes_next_level(model.ema_network):
        return times.uniform(num_times)
    return (times.karras if num_times > 3 else times.uniform_log_snr)(num_times, schedule)


def plan(
    model: Any,
    num_images: int,
    diffusion_times: Any,
    *,
    labels: Any = None,
    guidance_scale: float = 1.0,
    guidance: Any = (),
    known: Known | None = None,
    sampler: Any = None,
    schedule: Any = None,
    clip: bool | str = False,
    refinements: int = 0,
    **others: Any,
) -> Plan:
    """The plan for arguments of `DiffusionModel.generate`, and `refinements` of `invert`."""
    guidance = guidances.get(guidance_scale, guidance)
    for each in guidance:
        each.check(model, labels)
    is_possible = labels is not None or not model.class_names or model.label_dropout > 0
    allowed = "given for a model trained with `label_dropout=0`, which has learnt no null class"
    require(is_possible, "labels", allowed, labels)
    require(known is None or isinstance(known, Known), "known", "a `Known` or None", known)
    numbers = check_labels(labels, num_images, model.class_names)
    inputs = {} if numbers is None else {"labels": numbers}
    for each in guidance:
        inputs |= {k: np.full(num_images, v, "float32") for k, v in each.inputs().items()}
    if known is not None:
        inputs |= known.inputs(num_images, model.image_shape)
    sampler, visited, levels = resolve_times(model, diffusion_times, sampler, schedule)
    _check_levels(model, sampler, visited, levels)
    made: dict[tuple, sampling.Step] = {}
    steps = []
    for time in visited:
        covering = tuple(each for each in guidance if each.covers(time))
        if covering not in made:
            denoiser = wrap(model, covering, known, clip)
            step = sampling.Step(denoiser, sampler)
            if refinements:
                step = sampling.Inversion(denoiser, sampler, refinements=refinements)
            made[covering] = model.compile_step(step)
        steps.append(made[covering])
    levels = [*levels]
    return Plan(visited, levels, steps, inputs, sampling.count_evaluations(steps, levels))


def wrap(
    model: Any, guidance: Sequence[Guidance] = (), known: Known | None = None, clip: Any = False
) -> Denoiser:
    """The denoiser of a model: its averaged network, guided, clipped, and with known pixels."""
    checks.check_choice("clip", clip, (False, True, *CLIPPINGS))
    denoiser: Denoiser = NetworkDenoiser(
        model.ema_network, model.conditioning, model.prediction_type, model.preconditioning
    )
    for each in guidance:
        denoiser = each.wrap(denoiser, model)
    if clip:
        denoiser = Clipped(denoiser, model.normalizer, "static" if clip is True else clip)
    return known.wrap(denoiser, model) if known else denoiser


def resolve_times(
    model: Any, diffusion_times: Any, sampler: Any = None, schedule: Any = None
) -> tuple[samplers.Sampler, np.ndarray, Any]:
    """The sampler, the times and their log-SNRs, for arguments of `generate`."""
    if isinstance(diffusion_times, str):
        diffusion_times = model.kept_times(diffusion_times, sampler, schedule)
    visited = checks.check_diffusion_times(diffusion_times)
    schedule = model.schedule if schedule is None else schedules.get(schedule)
    if sampler is None and np.ndim(diffusion_times) == 0:
        visited = default_times(model, len(visited), schedule)
    levels = ops.convert_to_numpy(schedule.log_snr(visited.astype("float32")))
    if sampler is None and np.isfinite(levels).all() and decrease(levels):
        sampler = default_sampler(model)
    sampler = samplers.get(sampler)
    return sampler, visited, levels if sampler.accepts_infinite_levels else finite(levels)


def decrease(levels: Any) -> bool:
    """Whether the times of these log-SNRs decrease strictly."""
    return bool((np.diff(levels) > 0).all())


def _check_levels(
    model: Any, sampler: samplers.Sampler, visited: np.ndarray, levels: np.ndarray
) -> None:
    """Raises if sampler or network cannot work at `levels`; warns outside of the training range."""
    if sampler.needs_decreasing and not decrease(levels):
        i = 1 + np.argmin(np.diff(levels) > 0)
        allowed = (
            f"strictly decreasing with {sampler} (DDIM, DDPM, Euler, Heun and the deterministic "
            "DPMSolverPP(variant='singlestep') follow any list)"
        )
        require(False, "diffusion_times", allowed, visited[i - 1 : i + 1].tolist())
    evaluated = sampler.visited_levels(levels)
    model.conditioning.check(evaluated)
    i = model.schedule.find_outside(evaluated)
    if i is not None:
        start, end = model.schedule.ends
        churn = "" if evaluated[i] == levels[i] else f" after the churn of {sampler}"
        warnings.warn(
            f"diffusion_times[{i}]={visited[i]:g} is a log-SNR of {evaluated[i]:.4g}{churn}, "
            f"outside the range of training, {end:.4g} to {start:.4g}",
            stacklevel=4,
        )
    if len(levels) > 1 and (np.diff(levels) < 0).all():
        warnings.warn(
            f"diffusion_times rise, from {visited[0]:g} to {visited[-1]:g}; to generate from "
            "noise, they decrease from 1",
            stacklevel=4,
        )


class Watch:
    """Watches a generation: for the progress bar, the user's callback and the trajectory."""

    def __init__(
        self,
        model: Any,
        plan: Plan,
        num_batches: int,
        callback: Callable | None = None,
        verbose: int | str = "auto",
        is_recording: bool = False,
    ) -> None:
        allowed = "a function (step, time, noisy_images, pred_images) or None"
        require(callback is None or callable(callback), "callback", allowed, callback)
        self.model, self.plan, self.callback = model, plan, callback
        self.progress = Progress(num_batches * sum(plan.evaluations), "evaluation", verbose)
        self.records: list[list] | None = [[] for _ in plan.steps] if is_recording else None

    def __call__(self, position: int, numbers: range, noisy_images: Any, pred_images: Any) -> None:
        if self.callback is not None or self.records is not None:
            noisy_images = ops.convert_to_numpy(noisy_images)[: len(numbers)]
            pred_images = self.model.denormalize(pred_images)[: len(numbers)]
        if self.records is not None:
            self.records[position].append((noisy_images, pred_images))
        if self.callback is not None:
            time = float(self.plan.diffusion_times[position])
            self.callback(position, time, noisy_images, pred_images)
        self.progress.advance(self.plan.evaluations[position])

    def trajectory(self, images: np.ndarray) -> Trajectory:
        batches = [[np.concatenate(parts) for parts in zip(*step)] for step in self.records or ()]
        noisy_images, pred_images = map(np.stack, zip(*batches))
        evaluations = sum(self.plan.evaluations)
        return Trajectory(images, noisy_images, pred_images, self.plan.diffusion_times, evaluations)


def follow(model: Any, plan: Plan, num_images: int, watch: Callable, **options: Any) -> np.ndarray:
    """Normalised images along a plan; options as of `keras_ddim.sampling.generate`."""
    options |= {"watchers": [watch], **plan.inputs}
    images = sampling.generate(plan.steps, plan.levels, num_images, model.image_shape, **options)
    if not np.isfinite(ops.convert_to_numpy(model.normalizer.denormalize(images))).all():
        raise ValueError(
            f"The images of {model.name!r} are not finite: its weights or the noise levels are out "
            "of range"
        )
    return images


def interpolate(first: Any, second: Any, num_steps: int = 8) -> np.ndarray:
    """`sin((1 - w) θ) / sin(θ) first + sin(w θ) / sin(θ) second`, w from 0 to 1: on the sphere.

    Spherical interpolation keeps the norm of noises, which a straight line does not; θ is the angle
    between them.

    Args:
        first: Noise (height, width, channels), or several (num_images, height, width, channels),
            such as from `DiffusionModel.invert`.
        second: As `first`.
        num_steps: Number of points, both ends included, at least 2. Defaults to 8.

    Returns:
        float32 NumPy array (num_steps, *shape of `first`).

    Raises:
        ValueError: If the two differ in shape or are not finite.

    Example:

    ```python
    times = keras_ddim.times.uniform_log_snr(20, model.schedule)
    noises = interpolate(*model.invert(two_images, times))
    walk = model.generate(8, times, sampler="ddim", initial_noise=noises)
    keras_ddim.plots.plot_images(walk, columns=8)
    ```

    Reference:
        [Shoemake, 1985](https://doi.org/10.1145/325165.325242)
    """
    first, second = (
        checks.check_array(name, noise).astype("float64")
        for name, noise in (("first", first), ("second", second))
    )
    are_alike = first.shape == second.shape and first.ndim >= 3
    require(are_alike, "second", f"of the shape of `first`, {first.shape}", second)
    are_finite = np.isfinite(first).all() and np.isfinite(second).all()
    require(are_finite, "first` and `second", "finite", "NaN or infinity")
    num_steps = checks.check_count("num_steps", num_steps, 2)

    def inner(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return np.sum(x * y, axis=(-3, -2, -1), keepdims=True)

    norms = np.sqrt(inner(first, first) * inner(second, second))
    cosines = np.clip(inner(first, second) / np.maximum(norms, 1e-9), -1, 1)
    angles = np.maximum(np.arccos(cosines), 1e-6)  # equal ones are a straight line apart
    weights = np.linspace(0, 1, num_steps).reshape(-1, *[1] * first.ndim)
    total = np.sin((1 - weights) * angles) * first + np.sin(weights * angles) * second
    return (total / np.sin(angles)).astype("float32")
