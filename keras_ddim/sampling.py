"""Sampling: from noise to images, by a denoiser and a sampler along a list of noise levels.

`sample` is the one loop over levels; `generate` adds batches, noise from seeds, and watchers. Both
take a `Step`, through which gradients pass, or a `CompiledStep`. To sample another network:

```python
denoiser = keras_ddim.denoisers.NetworkDenoiser(network, prediction_type="velocity")
step = sampling.CompiledStep(sampling.Step(denoiser, keras_ddim.UniPC()))
levels = keras_ddim.CosineSchedule().log_snr(keras_ddim.times.uniform(8))
images = sampling.generate(step, levels, num_images=16, image_shape=(32, 32, 3), seed=0)
```
"""

import collections
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops

from keras_ddim import checks, degradations, samplers, schedules
from keras_ddim.denoisers import CLIPPINGS, Denoiser
from keras_ddim.guidance import check_guidance
from keras_ddim.noise_levels import mix, rates

BATCH_SIZE = 64
STEPS_KEPT = 8


class Step(keras.layers.Layer):
    """From one noise level to the next: a denoiser and a sampler. This is what gets compiled.

    Args:
        denoiser: A `keras_ddim.denoisers.Denoiser`.
        sampler: A `keras_ddim.Sampler` or a name. Defaults to None: DDIM.

    Call arguments:
        noisy_images, log_snr, state, noises: As in `Sampler.step`.
        next_log_snr: The level to go to. Defaults to None, that of clean images: the images are
            only denoised.
        **per_image: What else the denoiser takes, such as `labels` (batch,).

    Returns:
        `(next_noisy_images, pred_images, state)`.
    """

    def __init__(self, denoiser: Denoiser, sampler: Any = None) -> None:
        super().__init__(autocast=False)
        self.denoiser = denoiser
        self.sampler = samplers.get(sampler)
        self.built = True

    def init(self, noisy_images: Any) -> tuple:
        """The state before the first step."""
        return self.sampler.init(noisy_images)

    def count_evaluations(self, is_last: bool = False) -> int:
        """Network evaluations that a step costs, the last of a list or another."""
        steps = 1 if is_last else self.sampler.evaluations_per_step
        return steps * self.denoiser.evaluations_per_call

    def call(
        self,
        noisy_images: Any,
        log_snr: Any,
        next_log_snr: Any = None,
        state: tuple = (),
        noises: Any = None,
        **per_image: Any,
    ) -> tuple[Any, Any, tuple]:
        def denoise(noisy_images: Any, log_snr: Any) -> tuple[Any, Any]:
            return self.denoiser(noisy_images, log_snr, **per_image)

        if next_log_snr is None:
            _, pred_images = denoise(noisy_images, log_snr)
            return pred_images, pred_images, state
        return self.sampler.step(denoise, noisy_images, log_snr, next_log_snr, state, noises)


class Inversion(Step):
    """From a noise level to a noisier one: to where `Step` leads back from.

    Solves `step(x) = noisy_images` for x, by iterating `x += α'/α (noisy_images - step(x))`, from
    where the step before, continued, would lead. With DDIM, that is its implicit step. From the
    level of clean images, None, `step` is the denoiser.

    Args:
        denoiser: A `keras_ddim.denoisers.Denoiser`.
        sampler: A deterministic `keras_ddim.Sampler` whose steps do not depend on earlier ones, or
            its name. Defaults to None: DDIM.
        refinements: Number of iterations, each of which costs as much as a step.

    Call arguments:
        noisy_images, state, **per_image: As in `Step`.
        log_snr: The present noise level. Defaults to None, that of clean images.
        next_log_snr: The noisier level to go to, a scalar tensor.

    Returns:
        `(next_noisy_images, next_noisy_images, state)`.

    Raises:
        ValueError: If `sampler` is another.

    Reference:
        [Song et al., 2020](https://arxiv.org/abs/2010.02502), section 4.3;
        [Pan et al., 2023, Accelerated Iterative Diffusion
        Inversion](https://arxiv.org/abs/2309.04907)
    """

    def __init__(self, denoiser: Any, sampler: Any = None, refinements: int = 1) -> None:
        super().__init__(denoiser, sampler)
        self.refinements = checks.check_count("refinements", refinements)
        if self.sampler.is_stochastic or self.sampler.needs_decreasing:
            raise ValueError(
                "`sampler` must be deterministic, and no multistep solver, to be inverted: DDIM, "
                "Euler, Heun and DPMSolverPP(variant='singlestep') are. "
                f"Received: sampler={self.sampler}"
            )

    def init(self, noisy_images: Any) -> tuple:
        return (ops.zeros_like(noisy_images),)

    def count_evaluations(self, is_last: bool = False) -> int:
        return self.refinements * super().count_evaluations(is_last)

    def call(  # type: ignore[override]
        self,
        noisy_images: Any,
        log_snr: Any = None,
        next_log_snr: Any = None,
        state: tuple = (),
        **per_image: Any,
    ) -> tuple[Any, Any, tuple]:
        noise_rate, signal_rate = (0.0, 1.0) if log_snr is None else rates(log_snr)
        next_noise_rate, next_signal_rate = rates(next_log_snr)
        ratio = next_signal_rate / signal_rate
        start, added_rate = ratio * noisy_images, next_noise_rate - ratio * noise_rate
        # Along d(noisy_images / α) / dσ, which the step before has last seen.
        (slope,) = state
        next_noisy_images = start + added_rate * slope
        for _ in range(self.refinements):
            start_state = self.sampler.init(next_noisy_images)
            back, *_ = super().call(
                next_noisy_images, next_log_snr, log_snr, start_state, **per_image
            )
            next_noisy_images = next_noisy_images + ratio * (noisy_images - back)
        slope = (next_noisy_images - start) / added_rate
        return next_noisy_images, next_noisy_images, (slope,)


def sample(
    step: Any,
    noisy_images: Any,
    levels: Any,
    state: tuple | None = None,
    draw_noises: Callable[[], Any] | None = None,
    **per_image: Any,
) -> Iterator[tuple[Any, Any]]:
    """Visits a list of noise levels: a step from each to the next, denoised at the last.

    It can be traced, and gradients pass through it to `levels` if the sampler is deterministic.

    Args:
        step: A `Step` or a `CompiledStep`, or a list of one for each level, with one sampler.
        noisy_images: What to start from, at the level `levels[0]`.
        levels: log-SNRs, an array, a list or a tensor (steps,) of the dtype of `noisy_images`. The
            level of clean images, None, follows the last of them, unless it is the first.
        state: State of the sampler. Defaults to None: that before the first step.
        draw_noises: Callable that returns fresh standard normal noise, as `noisy_images`. Needed
            by stochastic samplers, and called once a step.
        **per_image: As in `Step`.

    Yields:
        `(noisy_images, pred_images)` at each level. The last `pred_images` are the result.
    """
    steps = _one_for_each(step, levels)
    if state is None:
        state = steps[0].init(noisy_images)
    if ops.is_tensor(levels):
        levels = ops.unstack(levels)
    else:  # JAX would compile the unstacking of each length
        as_tensor = ops.convert_to_tensor
        levels = [level if level is None else as_tensor(np.asarray(level)) for level in levels]
    for step, (log_snr, next_log_snr) in zip(steps, _pairs(levels)):
        inputs = {"log_snr": log_snr, "next_log_snr": next_log_snr, **per_image}
        inputs = {name: value for name, value in inputs.items() if value is not None}
        if next_log_snr is not None:
            inputs["state"] = state
            if step.sampler.is_stochastic and draw_noises is not None:
                inputs["noises"] = draw_noises()
        next_noisy_images, pred_images, state = step(noisy_images=noisy_images, **inputs)
        yield noisy_images, pred_images
        noisy_images = next_noisy_images


def _pairs(levels: Sequence[Any]) -> list[tuple[Any, Any]]:
    """The levels that each step starts from and goes to."""
    is_from_clean_images = levels[0] is None
    return list(itertools.pairwise(levels if is_from_clean_images else [*levels, None]))


def _one_for_each(step: Any, levels: Any) -> Sequence[Any]:
    return step if isinstance(step, (list, tuple)) else [step] * len(levels)


def count_evaluations(steps: Sequence[Any]) -> int:
    """Network evaluations that a list costs, given the step for each of its levels."""
    *others, last = steps
    return sum(step.count_evaluations() for step in others) + last.count_evaluations(is_last=True)


# Compiled steps


class CompiledStep:
    """A `Step` compiled by the backend, for any noise levels and numbers of images.

    TensorFlow traces it once, with the batch left open; JAX compiles it anew for each batch size;
    torch runs it as it is, without recording gradients, unless `jit_compile`. Its weights are
    arguments, so that what changes them needs no new compilation.

    Args:
        step: The `Step`.
        run_eagerly: Whether to leave it as it is. Defaults to False.
        jit_compile: Whether to use XLA on TensorFlow, `torch.compile` on torch; JAX always
            compiles. Defaults to False.
    """

    def __init__(self, step: Step, run_eagerly: bool = False, jit_compile: bool = False) -> None:
        self.step = step
        self.sampler = step.sampler
        self.init, self.count_evaluations = step.init, step.count_evaluations
        make = {"tensorflow": _for_tensorflow, "jax": _for_jax, "torch": _for_torch}
        self.function = make[keras.backend.backend()](step, run_eagerly, jit_compile)

    def __call__(self, **inputs: Any) -> tuple[Any, Any, tuple]:
        return self.function(inputs)


def _for_tensorflow(step: Step, run_eagerly: bool, jit_compile: bool) -> Callable:
    if run_eagerly:
        return lambda inputs: step(**inputs)
    import tensorflow as tf

    class Trace:
        """Not a function, whose code TensorFlow would take for that of all other steps."""

        def __init__(self, inputs: dict) -> None:
            self.structure = tf.nest.map_structure(lambda _: 0, inputs)

        def __call__(self, *tensors: Any) -> tuple:
            return step(**tf.nest.pack_sequence_as(self.structure, tensors))

    def of_any_batch(name: str, tensor: Any) -> tf.TensorSpec:
        # The batch is the first dimension of all that has one; in states, of all that has several.
        shape, smallest_rank = tensor.shape, 2 if name == "state" else 1
        has_batch = shape.rank >= smallest_rank
        return tf.TensorSpec([None, *shape[1:]] if has_batch else shape, tensor.dtype)

    functions: dict[tuple, Callable] = {}

    def call(inputs: dict) -> tuple:
        # As `tf.nest` flattens a dictionary: sorted by name.
        leaves = [(name, x) for name in sorted(inputs) for x in tf.nest.flatten(inputs[name])]
        tensors = [tf.convert_to_tensor(leaf) for _, leaf in leaves]
        kind = tuple(inputs), tensors[0].dtype
        if kind not in functions:
            # Without AutoGraph: there is no control flow on tensors for it to rewrite.
            function = tf.function(Trace(inputs), autograph=False, jit_compile=jit_compile)
            # One trace, called as it is: finding it anew by the types of all inputs takes longer
            # than many a step.
            specs = [of_any_batch(name, tensor) for (name, _), tensor in zip(leaves, tensors)]
            functions[kind] = function.get_concrete_function(*specs)
        return functions[kind](*tensors)

    return call


def _for_jax(step: Step, run_eagerly: bool, jit_compile: bool) -> Callable:
    if run_eagerly:
        return lambda inputs: step(**inputs)
    import jax

    @jax.jit
    def function(trainable: list, non_trainable: list, inputs: dict) -> tuple:
        outputs, _ = step.stateless_call(trainable, non_trainable, **inputs)
        return outputs

    def call(inputs: dict) -> tuple:
        variables = step.trainable_variables, step.non_trainable_variables
        return function(*([v.value for v in several] for several in variables), inputs)

    return call


def _for_torch(step: Step, run_eagerly: bool, jit_compile: bool) -> Callable:
    import torch

    function = torch.compile(step) if jit_compile and not run_eagerly else step

    def call(inputs: dict) -> tuple:
        with torch.no_grad():
            return function(**inputs)

    return call


class CompiledSteps:
    """The last few compiled steps, found again by what they are made of."""

    def __init__(self) -> None:
        self.steps: collections.OrderedDict[str, CompiledStep] = collections.OrderedDict()

    def get(self, make_step: Callable[[], CompiledStep], *parts: Any) -> CompiledStep:
        """The step of these parts (a sampler, numbers, texts), made where it is not kept."""
        # Not as Keras would serialize them, which imports TensorFlow whatever the backend.
        key = str([(type(part), repr(part)) for part in parts])
        step = self.steps.pop(key, None) or make_step()
        self.steps[key] = step
        while len(self.steps) > STEPS_KEPT:
            self.steps.popitem(last=False)
        return step

    def clear(self) -> None:
        self.steps.clear()


# Generation


class Visit(NamedTuple):
    """What a watcher sees: a batch of images at one time of the list.

    Attributes:
        images: Which images these are, as a range of their numbers.
        step: Position of the time in the list, from 0.
        evaluations: Network evaluations of this step.
        noisy_images: Tensor, in the normalised space; rows beyond `images` only fill the batch.
        pred_images: The images predicted from them, as `noisy_images`.
    """

    images: range
    step: int
    evaluations: int
    noisy_images: Any
    pred_images: Any

    def arrays(self) -> tuple[np.ndarray, np.ndarray]:
        """`(noisy_images, pred_images)` as NumPy arrays, of `images` alone."""
        noisy_images, pred_images = (
            ops.convert_to_numpy(tensor)[: len(self.images)]
            for tensor in (self.noisy_images, self.pred_images)
        )
        return noisy_images, pred_images


def generate(
    step: Any,
    levels: Any,
    num_images: int,
    image_shape: tuple[int, int, int],
    *,
    seed: Any = None,
    first: int = 0,
    initial_noise: Any = None,
    initial_images: Any = None,
    batch_size: int | None = None,
    watchers: Iterable[Callable[[Visit], None]] = (),
    **per_image: Any,
) -> np.ndarray:
    """Generates images from noise along a list of noise levels, in the normalised space.

    Or goes on from other images, or from images to noise, if the levels begin with None.

    Args:
        step, levels: As in `sample`; a `Step` or a `CompiledStep`, and levels in float32.
        num_images: Number of images.
        image_shape: (height, width, channels).
        seed: Integer or list of integers of at least 0; image i depends on it and i alone. Defaults
            to None: a random one.
        first: Number of the first image. Defaults to 0.
        initial_noise: Standard normal noise to start from, (num_images, *image_shape).
            Defaults to None: from `seed`.
        initial_images: Images to start from, (num_images, *image_shape), mixed with that noise at
            the first level. Defaults to None: only the noise.
        batch_size: Number of images generated together at most. Defaults to 64.
        watchers: Callables that are handed each `Visit`.
        **per_image: What else the denoiser takes, arrays (num_images, ...).

    Returns:
        float32 NumPy array (num_images, *image_shape).
    """
    num_images = checks.check_count("num_images", num_images)
    first = checks.check_count("first", first, 0)
    batch_size = checks.check_count("batch_size", BATCH_SIZE if batch_size is None else batch_size)
    image_shape = checks.check_image_shape(image_shape)
    levels = (
        levels if isinstance(levels, list) else checks.check_list("levels", levels, -np.inf, np.inf)
    )
    levels = [level if level is None else np.float32(level) for level in levels]
    from_clean, pairs = levels[0] is None, _pairs(levels)
    steps = _one_for_each(step, levels)
    if not steps or not all(isinstance(each, (Step, CompiledStep)) for each in steps):
        raise ValueError(
            f"`step` must be a `Step` or a `CompiledStep`. Received: step={checks.brief(step)}"
        )
    shape = num_images, *image_shape
    if initial_noise is not None:
        initial_noise = checks.check_noise("initial_noise", initial_noise, shape)
    if initial_images is not None:
        initial_images = checks.check_noise("initial_images", initial_images, shape)
    watchers = list(watchers) if isinstance(watchers, Iterable) else [watchers]
    if not all(map(callable, watchers)):
        raise ValueError(f"`watchers` must be callables. Received: {checks.brief(watchers)}")
    seed = int(np.random.default_rng().integers(2**31)) if seed is None else seed
    entropy = [checks.check_count("seed", n, 0, 2**128) for n in np.atleast_1d(seed).tolist()]
    # Batches of one size, so that one shape is compiled: the last is filled up.
    num_batches = math.ceil(num_images / batch_size)
    size = math.ceil(num_images / num_batches)
    images = np.empty((num_images, *image_shape), "float32")
    for start in range(0, num_images, size):
        batch = range(start, start + size)
        numbers = range(first + start, first + start + size)
        draw_noises = _noise_source(entropy, numbers, image_shape)
        noises = draw_noises() if initial_noise is None else rows(initial_noise, batch)
        inputs: dict[str, Any] = {name: rows(values, batch) for name, values in per_image.items()}
        noisy_images = ops.convert_to_tensor(noises, "float32")
        if initial_images is not None:
            clean = ops.convert_to_tensor(rows(initial_images, batch), "float32")
            noisy_images = clean if from_clean else mix(clean, noisy_images, *rates(levels[0]))
        visits = sample(steps, noisy_images, levels, draw_noises=draw_noises, **inputs)
        shown = batch[: num_images - start]
        for i, (noisy_images, pred_images) in enumerate(visits):
            evaluations = steps[i].count_evaluations(is_last=None in pairs[i])
            visit = Visit(shown, i, evaluations, noisy_images, pred_images)
            for watch in watchers:
                watch(visit)
        images[start : start + size] = ops.convert_to_numpy(pred_images)[: len(shown)]
    return images


def rows(values: Any, batch: range) -> np.ndarray:
    """The rows of a batch; where there are none any more, the last one again."""
    return np.take(ops.convert_to_numpy(values), batch, axis=0, mode="clip")


def _noise_source(entropy: list[int], batch: range, image_shape: tuple) -> Callable[[], np.ndarray]:
    """Callable that draws noise for the images of a batch, each from a generator of its own."""
    generators = [np.random.default_rng([*entropy, index]) for index in batch]
    return lambda: np.stack([rng.standard_normal(image_shape, "float32") for rng in generators])


class Trajectory(NamedTuple):
    """What `generate(return_trajectory=True)` saw on its way, as NumPy arrays.

    Attributes:
        images: The generated images (num_images, height, width, channels), in [0, 1].
        noisy_images: (steps, num_images, height, width, channels), in the normalised space.
        pred_images: The image predicted at each time, as `noisy_images`, in [0, 1].
        diffusion_times: The times (steps,).
        evaluations: Network evaluations that each image cost.
    """

    images: np.ndarray
    noisy_images: np.ndarray
    pred_images: np.ndarray
    diffusion_times: np.ndarray
    evaluations: int


class Recorder:
    """A watcher that keeps all it sees, for a `Trajectory`."""

    def __init__(self) -> None:
        self.visits: dict[int, list] = {}

    def __call__(self, visit: Visit) -> None:
        self.visits.setdefault(visit.step, []).append(visit.arrays())

    def arrays(self) -> tuple[np.ndarray, np.ndarray]:
        """`(noisy_images, pred_images)`, both (steps, num_images, ...), in the normalised space."""
        steps = [[np.concatenate(parts) for parts in zip(*v)] for v in self.visits.values()]
        noisy_images, pred_images = (np.stack(arrays) for arrays in zip(*steps))
        return noisy_images, pred_images


# What is asked for, checked


def check_levels(sampler: samplers.Sampler, diffusion_times: Any, levels: Any) -> None:
    """Raises a `ValueError` if `sampler` cannot follow a list of times.

    The levels are in the dtype that is computed in, where two times may be one.
    """
    if not sampler.needs_decreasing or decrease(levels):
        return
    i = 1 + np.argmin(np.diff(levels) > 0)
    raise ValueError(
        f"`diffusion_times` must decrease strictly with {sampler}; DDIM, DDPM, Euler, Heun and the "
        "deterministic DPMSolverPP(variant='singlestep') follow any list. "
        f"Received: diffusion_times[{i}]={diffusion_times[i]} after {diffusion_times[i - 1]}"
    )


def decrease(levels: Any) -> bool:
    """Whether the times of levels decrease strictly, as log-SNR rises."""
    return bool((np.diff(levels) > 0).all())


def check_clip(clip: Any) -> str | None:
    """The method of clipping that `clip` names, or None."""
    checks.check_choice("clip", clip, (False, True, *CLIPPINGS))
    return {False: None, True: "static"}.get(clip, clip)


GENERATE_CHECKS: dict[str, Callable[[Any], Any]] = {
    "diffusion_times": lambda v: v if isinstance(v, str) else checks.check_diffusion_times(v),
    "labels": lambda value: value,
    "guidance_scale": lambda value: check_guidance(scale=value),
    "guidance_interval": lambda value: check_guidance(interval=value),
    "guidance_rescale": lambda value: check_guidance(rescale=value),
    "guide_model": lambda value: check_guidance(model=value),
    "guidance_fn": lambda value: check_guidance(loss=value),
    "known_images": lambda value: value,
    "known_mask": lambda value: value,
    "degradation": degradations.get,
    "sampler": samplers.get,
    "schedule": schedules.get,
    "seed": checks.check_seed,
    "batch_size": lambda value: value is None or checks.check_count("batch_size", value),
    "clip": check_clip,
    "callback": lambda value: value,
    "verbose": lambda value: checks.check_choice("verbose", value, (0, 1, "auto")),
}


def check_generate_options(options: dict) -> dict:
    """`options`, keyword arguments of `DiffusionModel.generate`, checked as far as they can be."""
    for name, value in options.items():
        if name not in GENERATE_CHECKS:
            raise ValueError(
                f"`{name}` is no option of `generate`; these are {', '.join(GENERATE_CHECKS)}. "
                f"Received: {name}={checks.brief(value)}"
            )
        GENERATE_CHECKS[name](value)
    return options
