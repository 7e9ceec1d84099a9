"""Sampling: from noise to images, by a denoiser and a sampler along a list of noise levels.

`sample` is the one loop over levels; `generate` adds batches, noise from seeds, and watchers. To
sample a network of your own:

```python
denoiser = keras_ddim.denoisers.NetworkDenoiser(network, prediction_type="velocity")
step = sampling.compile_step(sampling.Step(denoiser, keras_ddim.UniPC()))
levels = keras_ddim.CosineSchedule().log_snr(keras_ddim.times.uniform(8))
images = sampling.generate(step, levels, num_images=16, image_shape=(32, 32, 3), seed=0)
```
"""

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_ddim import samplers
from keras_ddim.checks import check_array, check_count, require
from keras_ddim.denoisers import Denoiser
from keras_ddim.noise_levels import LARGEST_LOG_SNR, mix, rates

BATCH_SIZE = 64
CLEAN = LARGEST_LOG_SNR  # a finite level of clean images, to aim at


@dataclasses.dataclass(frozen=True)
class Step:
    """From one noise level to the next: a denoiser and a sampler, the unit that gets compiled.

    Args:
        denoiser: A `keras_ddim.denoisers.Denoiser`.
        sampler: A `keras_ddim.Sampler` or its name. Defaults to None: DDIM.

    Call arguments:
        noisy_images, log_snr, state, noises: As in `Sampler.step`.
        next_log_snr: The level to go to. Defaults to None, that of clean images: the images are
            only denoised.
        **per_image: Further inputs of the denoiser, such as `labels` (batch,).

    Returns:
        `(next_noisy_images, pred_images, state)`.
    """

    denoiser: Denoiser
    sampler: Any = None
    # Runs `call`, compiled: see `compile_step`.
    compiled: Callable | None = dataclasses.field(
        default=None, kw_only=True, repr=False, compare=False
    )

    def __post_init__(self) -> None:
        object.__setattr__(self, "sampler", samplers.get(self.sampler))

    def init(self, noisy_images: Any) -> tuple:
        """The state before the first step."""
        return self.sampler.init(noisy_images)

    def count_evaluations(self, is_last: bool = False) -> int:
        """Network evaluations of a step, the last one of a list or another."""
        steps = 1 if is_last else self.sampler.evaluations_per_step
        return steps * self.denoiser.evaluations_per_call

    def __call__(self, **inputs: Any) -> tuple[Any, Any, tuple]:
        return (self.compiled or self.call)(**inputs)

    def call(
        self,
        noisy_images: Any,
        log_snr: Any,
        next_log_snr: Any = None,
        state: tuple = (),
        noises: Any = None,
        **per_image: Any,
    ) -> tuple[Any, Any, tuple]:
        aim = self.sampler.aim(log_snr, CLEAN if next_log_snr is None else next_log_snr)
        if aim is not None:
            shape = ops.shape(noisy_images)[0], 1, 1, 1
            per_image["next_log_snr"] = ops.broadcast_to(aim, shape)

        def denoise(noisy_images: Any, log_snr: Any) -> tuple[Any, Any]:
            return self.denoiser(noisy_images, log_snr, **per_image)

        if next_log_snr is None:
            _, pred_images = denoise(noisy_images, log_snr)
            return pred_images, pred_images, state
        return self.sampler.step(denoise, noisy_images, log_snr, next_log_snr, state, noises)


@dataclasses.dataclass(frozen=True)
class Inversion(Step):
    """Inverts a `Step`: from a noise level to a noisier one, from which the step leads back.

    Solves `step(x) = noisy_images` for x by iterating `x += α'/α (noisy_images - step(x))`. The
    iteration starts from a continuation of the last step. At the level of clean images, None,
    `step` is the denoiser.

    Args:
        denoiser: A `keras_ddim.denoisers.Denoiser`.
        sampler: A deterministic single-step `keras_ddim.Sampler` or its name. Defaults to None:
            DDIM.
        refinements: Number of iterations, each at the cost of a step. Defaults to 1.

    Reference:
        [Song et al., 2020](https://arxiv.org/abs/2010.02502), section 4.3;
        [Pan et al., 2023, Accelerated Iterative Diffusion
        Inversion](https://arxiv.org/abs/2309.04907)
    """

    refinements: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count("refinements", self.refinements)
        is_invertible = not (self.sampler.is_stochastic or self.sampler.needs_decreasing)
        allowed = (
            "DDIM, Euler, Heun or DPMSolverPP(variant='singlestep') to be inverted: deterministic, "
            "and no multistep solver"
        )
        require(is_invertible, "sampler", allowed, self.sampler)

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
        # Along d(noisy_images / α) / dσ of the last step.
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
    step: Step | Sequence[Step],
    noisy_images: Any,
    levels: Any,
    state: tuple | None = None,
    draw_noises: Callable[[], Any] | None = None,
    **per_image: Any,
) -> Iterator[tuple[Any, Any]]:
    """Follows noise levels: a step from each to the next, denoised at the last.

    It can be traced. With a deterministic sampler, gradients pass through it to `levels`.

    Args:
        step: A `Step`, or one for each level, with one sampler.
        noisy_images: Noisy images to start from, at the level `levels[0]`.
        levels: log-SNRs, an array, a list or a tensor (steps,) of the dtype of `noisy_images`. The
            last is followed by the level of clean images, None, unless that is the first.
        state: State of the sampler. Defaults to None: that before the first step.
        draw_noises: Callable that returns fresh standard normal noise, shaped as `noisy_images`,
            once a step. Needed by stochastic samplers.
        **per_image: As in `Step`.

    Yields:
        `(noisy_images, pred_images)` at each level. The last `pred_images` are the result.
    """
    steps = [step] * len(levels) if isinstance(step, Step) else step
    if state is None:
        state = steps[0].init(noisy_images)
    if ops.is_tensor(levels):
        levels = ops.unstack(levels)
    else:  # JAX would compile the unstacking of each length
        as_tensor = ops.convert_to_tensor
        levels = [level if level is None else as_tensor(np.asarray(level)) for level in levels]
    for current, (log_snr, next_log_snr) in zip(steps, _pairs(levels)):
        inputs = {"log_snr": log_snr, "next_log_snr": next_log_snr, **per_image}
        inputs = {name: value for name, value in inputs.items() if value is not None}
        if next_log_snr is not None:
            inputs["state"] = state
            if current.sampler.is_stochastic and draw_noises is not None:
                inputs["noises"] = draw_noises()
        next_noisy_images, pred_images, state = current(noisy_images=noisy_images, **inputs)
        yield noisy_images, pred_images
        noisy_images = next_noisy_images


def _pairs(levels: Sequence[Any]) -> list[tuple[Any, Any]]:
    """The levels that each step starts from and goes to."""
    is_from_clean_images = levels[0] is None
    return list(itertools.pairwise(levels if is_from_clean_images else [*levels, None]))


def generate(
    step: Step | Sequence[Step],
    levels: Any,
    num_images: int,
    image_shape: tuple[int, int, int],
    *,
    seed: Any = None,
    first: int = 0,
    initial_noise: Any = None,
    initial_images: Any = None,
    batch_size: int = BATCH_SIZE,
    watchers: Iterable[Callable] = (),
    **per_image: Any,
) -> np.ndarray:
    """Generates images from noise along a list of noise levels, in the normalised space.

    With `initial_images`, it starts from images. If the levels begin with None, it leads from
    images to noise.

    Args:
        step, levels: As in `sample`, the levels in float32.
        num_images: Number of images.
        image_shape: (height, width, channels).
        seed: Integer or list of integers of at least 0; image i depends on it and i alone. Defaults
            to None: a random one.
        first: Number of the first image. Defaults to 0.
        initial_noise: Standard normal noise to start from, (num_images, *image_shape).
            Defaults to None: from `seed`.
        initial_images: Images to start from, (num_images, *image_shape), mixed with that noise at
            the first level. Defaults to None: noise only.
        batch_size: Largest number of images generated together. Defaults to 64.
        watchers: Callables `(position, numbers, noisy_images, pred_images)`, called at each level:
            its index, the range of the batch's image numbers, and tensors. Further rows of the
            tensors only fill the batch.
        **per_image: Further inputs of the denoiser, arrays (num_images, ...).

    Returns:
        float32 NumPy array (num_images, *image_shape).
    """
    num_images = check_count("num_images", num_images)
    first = check_count("first", first, 0)
    batch_size = check_count("batch_size", batch_size)
    levels = [level if level is None else np.float32(level) for level in levels]
    shape = num_images, *image_shape
    initial_noise = _check_start("initial_noise", initial_noise, shape)
    initial_images = _check_start("initial_images", initial_images, shape)
    seed = int(np.random.default_rng().integers(2**31)) if seed is None else seed
    entropy = [check_count("seed", number, 0) for number in np.atleast_1d(seed).tolist()]
    # Batches of one size, so that one shape is compiled: the last is filled up.
    size = math.ceil(num_images / math.ceil(num_images / batch_size))
    images = np.empty(shape, "float32")
    for start in range(0, num_images, size):
        batch = range(start, start + size)
        numbers = range(first + start, first + start + size)
        draw_noises = _noise_source(entropy, numbers, image_shape)
        noisy_images = draw_noises() if initial_noise is None else _rows(initial_noise, batch)
        inputs: dict[str, Any] = {name: _rows(values, batch) for name, values in per_image.items()}
        if initial_images is not None:
            clean = _rows(initial_images, batch)
            is_inversion = levels[0] is None
            noisy_images = clean if is_inversion else mix(clean, noisy_images, *rates(levels[0]))
        visits = sample(step, noisy_images, levels, draw_noises=draw_noises, **inputs)
        shown = batch[: num_images - start]
        for position, (noisy_images, pred_images) in enumerate(visits):
            for watch in watchers:
                watch(position, shown, noisy_images, pred_images)
        images[start : start + size] = ops.convert_to_numpy(pred_images)[: len(shown)]
    return images


def count_evaluations(steps: Sequence[Step], levels: Sequence[Any]) -> list[int]:
    """Network evaluations of each step along a list of levels."""
    return [step.count_evaluations(None in pair) for step, pair in zip(steps, _pairs(levels))]


def _check_start(name: str, values: Any, shape: tuple) -> np.ndarray | None:
    """Initial noise or images, checked, as a float32 array."""
    if values is None:
        return None
    values = check_array(name, values).astype("float32")
    require(values.shape == shape, name, f"of shape (num_images, ...) = {shape}", values)
    require(np.isfinite(values).all(), name, "finite", "NaN or infinity")
    return values


def _rows(values: np.ndarray, batch: range) -> Any:
    """The rows of a batch as a tensor, filled up with the last row."""
    return ops.convert_to_tensor(np.take(values, batch, axis=0, mode="clip"))


def _noise_source(entropy: list[int], batch: range, image_shape: tuple) -> Callable[[], Any]:
    """Callable that draws noise for the images of a batch, each from its own generator."""
    generators = [np.random.default_rng([*entropy, index]) for index in batch]

    def draw() -> Any:
        noises = [rng.standard_normal(image_shape, "float32") for rng in generators]
        return ops.convert_to_tensor(np.stack(noises))

    return draw


# Compiled steps


def compile_step(step: Step, run_eagerly: bool = False, jit_compile: bool = False) -> Step:
    """An equal `Step`, compiled by the backend, for any noise levels and numbers of images.

    TensorFlow traces it once for all batch sizes, JAX compiles it for each. Torch runs it without
    recording gradients, and compiles it only with `jit_compile`. Changed weights need no new
    compilation.

    Args:
        step: The `Step`.
        run_eagerly: Whether not to compile. Defaults to False.
        jit_compile: Whether to use XLA on TensorFlow, `torch.compile` on torch; JAX always
            compiles. Defaults to False.
    """
    compilers = {"tensorflow": _with_tensorflow, "jax": _with_jax, "torch": _with_torch}
    backend = keras.backend.backend()
    if run_eagerly and backend != "torch":
        return step
    compiled = compilers[backend](step, jit_compile and not run_eagerly)
    return dataclasses.replace(step, compiled=compiled)


def is_of_package(part: Any) -> bool:
    """Whether a step and everything in it are of this package."""
    if isinstance(part, keras.Layer) or not (dataclasses.is_dataclass(part) or callable(part)):
        return True
    if not dataclasses.is_dataclass(part):
        return False
    fields = (field for field in dataclasses.fields(part) if field.compare)
    values = (getattr(part, field.name) for field in fields)
    return type(part).__module__.startswith("keras_ddim.") and all(map(is_of_package, values))


def _with_tensorflow(step: Step, jit_compile: bool) -> Callable:
    import tensorflow as tf

    class Trace:
        """A class, because `tf.function` caches by code object, which all steps share."""

        def __init__(self, inputs: dict) -> None:
            self.structure = tf.nest.map_structure(lambda _: 0, inputs)

        def __call__(self, *tensors: Any) -> tuple:
            return step.call(**tf.nest.pack_sequence_as(self.structure, tensors))

    def spec_of(name: str, tensor: Any) -> tf.TensorSpec:
        # The batch is the first dimension; in states, of tensors of at least two.
        shape = tensor.shape
        has_batch = shape.rank >= (2 if name == "state" else 1)
        return tf.TensorSpec([None, *shape[1:]] if has_batch else shape, tensor.dtype)

    functions: dict[tuple, Callable] = {}

    def call(**inputs: Any) -> tuple:
        # In the order of `tf.nest`, which sorts a dictionary by name.
        leaves = [(name, x) for name in sorted(inputs) for x in tf.nest.flatten(inputs[name])]
        tensors = [tf.convert_to_tensor(leaf) for _, leaf in leaves]
        kind = frozenset(inputs), tensors[0].dtype
        if kind not in functions:
            # A concrete function, since looking a trace up takes longer than many a step.
            function = tf.function(Trace(inputs), autograph=False, jit_compile=jit_compile)
            specs = [spec_of(name, tensor) for (name, _), tensor in zip(leaves, tensors)]
            functions[kind] = function.get_concrete_function(*specs)
        return functions[kind](*tensors)

    return call


def _with_jax(step: Step, jit_compile: bool) -> Callable:
    import jax

    variables = _variables(step)

    @jax.jit
    def function(values: list, inputs: dict) -> tuple:
        with keras.StatelessScope(state_mapping=zip(variables, values)):
            return step.call(**inputs)

    return lambda **inputs: function([variable.value for variable in variables], inputs)


def _variables(part: Any) -> list:
    """The variables of all layers in a step, which JAX takes as arguments."""
    if isinstance(part, keras.Layer):
        return part.variables
    if not dataclasses.is_dataclass(part):
        return []
    values = (getattr(part, field.name) for field in dataclasses.fields(part))
    return [variable for value in values for variable in _variables(value)]


def _with_torch(step: Step, jit_compile: bool) -> Callable:
    import torch

    function = torch.compile(step.call) if jit_compile else step.call

    def call(**inputs: Any) -> tuple:
        with torch.no_grad():
            return function(**inputs)

    return call
