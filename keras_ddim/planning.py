"""Planning: from what is asked of a model to denoisers, compiled steps, and what follows a list."""

import warnings
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops

from keras_ddim import checks, sampling, schedules
from keras_ddim import samplers as samplers_by_name
from keras_ddim import times as lists
from keras_ddim.conditioning import Conditioning
from keras_ddim.degradations import Degradation, Known
from keras_ddim.denoisers import Clipped, Denoiser, NetworkDenoiser
from keras_ddim.guidance import Guidance, check_guidance, check_guided
from keras_ddim.noise_levels import LEVEL_TOLERANCE, finite
from keras_ddim.normalizer import Normalizer
from keras_ddim.preconditioning import SpectralPreconditioning

# Where none is given; see `default_times`, too.
DEFAULT_SAMPLER = samplers_by_name.UniPC()
# Where a model's metadata has the lists that are kept with it: of log-SNRs, which no change of
# schedule changes, by sampler and name.
KEPT_LISTS = "log_snr_lists"


def default_times(num_times: int, schedule: schedules.Schedule) -> np.ndarray:
    """What a number of times stands for where no sampler is given; it decreases.

    Karras's list leaves out the middle where times are very few.
    """
    return (lists.karras if num_times > 3 else lists.uniform_log_snr)(num_times, schedule)


class Plan(NamedTuple):
    """A list of times, and what follows it.

    Attributes:
        times: The times, float64 (steps,).
        levels: Their log-SNRs.
        steps: The compiled step from each.
        inputs: What the denoiser takes beside noisy images, arrays (num_images, ...).
        evaluations: Network evaluations that an image costs.
    """

    times: np.ndarray
    levels: list[Any]
    steps: list[sampling.CompiledStep]
    inputs: dict[str, np.ndarray]
    evaluations: int


class Planner:
    """What a model that can denoise makes of its network, before anything is generated.

    Attributes:
        compiled_steps: The last few steps that were compiled.
    """

    image_shape: tuple[int, int, int]
    schedule: Any
    conditioning: Conditioning
    prediction_type: str
    preconditioning: SpectralPreconditioning | None
    class_names: list[str] | None
    label_dropout: float
    ema_network: keras.Model
    normalizer: Normalizer
    compiled_steps: sampling.CompiledSteps
    metadata: dict
    run_eagerly: bool
    jit_compile: bool

    @property
    def num_classes(self) -> int:
        """Number of classes, which is the label for "any", too; 0 of a model without labels."""
        return len(self.class_names or ())

    @property
    def _denoiser_key(self) -> tuple:
        """What tells the denoiser from those before something of the model was replaced."""
        # Of parts that a compiled step keeps, so that no other gets their place in memory.
        parts = id(self.ema_network), id(self.normalizer), id(self.preconditioning)
        return *parts, repr(self.conditioning), self.prediction_type

    def make_denoiser(
        self,
        clip: bool | str = False,
        guidance: Guidance | None = None,
        degradation: Degradation | None = None,
    ) -> Denoiser:
        """The averaged network as a `keras_ddim.denoisers.Denoiser`, by default nothing around it.

        Args:
            clip: As in `generate`.
            guidance: How it is guided.
            degradation: What is known of the images.
        """
        denoiser: Denoiser = NetworkDenoiser(
            self.ema_network, self.conditioning, self.prediction_type, self.preconditioning
        )
        if guidance is not None:
            denoiser = guidance.wrap(denoiser, self.num_classes, self.normalizer)
        method = sampling.check_clip(clip)
        denoiser = Clipped(denoiser, self.normalizer, method) if method else denoiser
        return Known(denoiser, self.normalizer, degradation) if degradation else denoiser

    def make_step(
        self,
        sampler: Any = None,
        clip: bool | str = False,
        guidance: Guidance | None = None,
        degradation: Degradation | None = None,
        refinements: int = 0,
    ) -> sampling.CompiledStep:
        """A sampler's step on the averaged network, compiled; the last few are kept.

        Args:
            sampler: As in `generate`. Defaults to None: DDIM, which follows any list.
            clip, guidance, degradation: As in `make_denoiser`.
            refinements: For a `keras_ddim.sampling.Inversion` with so many, instead of a `Step`.
        """
        guidance = guidance or Guidance()
        sampler = samplers_by_name.get(sampler)
        options = bool(self.run_eagerly), bool(self.jit_compile)

        def make() -> sampling.CompiledStep:
            denoiser = self.make_denoiser(clip, guidance, degradation)
            step = sampling.Step(denoiser, sampler)
            if refinements:
                step = sampling.Inversion(denoiser, sampler, refinements)
            return sampling.CompiledStep(step, *options)

        parts = sampler, clip, guidance.key, degradation, refinements, *self._denoiser_key
        return self.compiled_steps.get(make, *parts, *options)

    def count_evaluations(
        self,
        diffusion_times: Any = 20,
        sampler: Any = None,
        schedule: Any = None,
        guidance_scale: float = 1.0,
        guidance_interval: tuple[float, float] = (0.0, 1.0),
        guide_model: Any = None,
        **options: Any,
    ) -> int:
        """Evaluations of the network (and of `guide_model`) that an image costs.

        Arguments are those of `generate`; `options`, those that cost nothing.
        """
        sampler, times, _ = self._times(diffusion_times, sampler, schedule)
        guidance = check_guidance(guidance_scale, guidance_interval, model=guide_model)
        denoisers = [self.make_denoiser(guidance=guidance.at(time)) for time in times]
        return sampling.count_evaluations([sampling.Step(d, sampler) for d in denoisers])

    def keep_times(
        self, diffusion_times: Any, sampler: Any = None, name: str | None = None
    ) -> None:
        """Keeps a list of times for a sampler by name, in this model and in the files of it.

        Args:
            diffusion_times: The list, strictly decreasing, such as of `keras_ddim.optimize_times`.
            sampler: The sampler it is for. Defaults to None: `keras_ddim.UniPC()`.
            name: What `generate` takes as `diffusion_times` from then on, given that sampler; a
                list that it named before is replaced. Defaults to None: "best:5" for five times.

        Example:

        ```python
        model.keep_times(keras_ddim.optimize_times(model, 5))
        model.save("flowers.keras")
        images = keras.saving.load_model("flowers.keras").generate(16, "best:5")
        ```
        """
        sampler = DEFAULT_SAMPLER if sampler is None else samplers_by_name.get(sampler)
        times = checks.check_diffusion_times(diffusion_times)
        levels = finite(ops.convert_to_numpy(self.schedule.log_snr(times))).astype("float64")
        if not sampling.decrease(levels):
            raise ValueError(
                "`diffusion_times` must decrease strictly to be kept. "
                f"Received: diffusion_times={checks.brief(diffusion_times)}"
            )
        name = f"best:{len(times)}" if name is None else name
        if not isinstance(name, str) or not name[:1].isalpha():
            raise ValueError(
                f"`name` must begin with a letter. Received: name={checks.brief(name)}"
            )
        of_sampler = self.metadata.setdefault(KEPT_LISTS, {}).setdefault(repr(sampler), {})
        of_sampler[name] = levels.tolist()

    def kept_times(self, name: str, sampler: Any = None, schedule: Any = None) -> np.ndarray:
        """A list that was kept with `keep_times`, float64 (steps,), or a `ValueError` with their
        names.

        Args:
            name, sampler: As in `keep_times`.
            schedule: What the times are to belong to. Defaults to None: the model's schedule.
        """
        sampler = DEFAULT_SAMPLER if sampler is None else samplers_by_name.get(sampler)
        kept = self.metadata.get(KEPT_LISTS, {})
        levels = kept.get(repr(sampler), {}).get(name) if isinstance(name, str) else None
        if levels is None:
            names = (f"{', '.join(map(repr, named))} for {each}" for each, named in kept.items())
            raise ValueError(
                "`diffusion_times` must be a number of times, a list of them, or the name of a "
                f"list kept with the model: {'; '.join(names) or 'there are none yet'}. "
                f"Received: diffusion_times={checks.brief(name)} for {sampler}"
            )
        return lists.from_log_snr(levels, self.schedule if schedule is None else schedule)

    def normalize(self, name: str, images: Any, num_images: int | None = None) -> np.ndarray:
        """Images as handed in, checked, to the normalised space, float32.

        Args:
            name: Name of the argument, for messages.
            images: (num_images, height, width, channels), in [0, 1] or 0..255.
            num_images: How many there must be. Defaults to None: any number, from 1 on.
        """
        pixels = checks.check_image_batch(name, images, self.image_shape)
        if len(pixels) != (num_images or max(len(pixels), 1)):
            raise ValueError(
                f"`{name}` must hold {num_images or 'at least one'} images. "
                f"Received: {len(pixels)} images"
            )
        return ops.convert_to_numpy(self.normalizer(pixels.astype("float32")))

    def denormalize(self, images: Any) -> np.ndarray:
        """Images from the normalised space back to pixel values, clipped to [0, 1]."""
        pixels = ops.convert_to_numpy(self.normalizer.denormalize(images))
        return np.clip(pixels, 0.0, 1.0)

    def plan(
        self,
        num_images: int,
        diffusion_times: Any,
        sampler: Any,
        schedule: Any,
        clip: bool | str,
        labels: Any,
        guidance: Guidance,
        degradation: Degradation | None = None,
        refinements: int = 0,
    ) -> Plan:
        """What follows a list of times, checked; arguments as in `generate` and `make_step`."""
        check_guided(self, guidance, labels)
        inputs: dict[str, np.ndarray] = {}
        numbers = checks.check_labels(labels, num_images, self.class_names)
        if numbers is not None:
            inputs["labels"] = numbers
        if not guidance.is_choice:
            inputs["guidance_scale"] = np.full(num_images, guidance.scale, "float32")
        sampler, times, levels = self._times(diffusion_times, sampler, schedule)
        self._check_levels(sampler, times, levels)
        steps = [
            self.make_step(sampler, clip, guidance.at(time), degradation, refinements)
            for time in times
        ]
        return Plan(times, list(levels), steps, inputs, sampling.count_evaluations(steps))

    def _times(
        self, diffusion_times: Any, sampler: Any, schedule: Any
    ) -> tuple[samplers_by_name.Sampler, np.ndarray, np.ndarray]:
        """The sampler, the times and their log-SNRs, that arguments of `generate` stand for."""
        if isinstance(diffusion_times, str):
            diffusion_times = self.kept_times(diffusion_times, sampler, schedule)
        times = checks.check_diffusion_times(diffusion_times)
        schedule = self.schedule if schedule is None else schedules.get(schedule)
        if sampler is None and isinstance(diffusion_times, (int, np.integer)):
            times = default_times(len(times), schedule)
        levels = ops.convert_to_numpy(schedule.log_snr(times.astype("float32")))
        if np.isnan(levels).any():
            raise ValueError(
                "`schedule` must have a log-SNR at each of the times. "
                f"Received: NaN at {times[np.isnan(levels)][0]:g} of schedule={schedule}"
            )
        if sampler is None and np.isfinite(levels).all() and sampling.decrease(levels):
            sampler = DEFAULT_SAMPLER
        sampler = samplers_by_name.get(sampler)
        return sampler, times, levels if sampler.accepts_infinite_levels else finite(levels)

    def _check_levels(self, sampler: Any, times: np.ndarray, levels: np.ndarray) -> None:
        """Raises where sampler or network can't work at `levels`; warns where it never learnt."""
        sampling.check_levels(sampler, times, levels)
        visited = sampler.visited_levels(levels)
        self.conditioning.check(visited)
        excess = self.schedule.excess(visited)
        worst = np.argmax(excess)
        if excess[worst] > LEVEL_TOLERANCE:
            start, end = self.schedule.ends
            added = "" if visited[worst] == levels[worst] else f", with what {sampler} adds"
            warnings.warn(
                f"diffusion_times[{worst}]={times[worst]:g} means a log-SNR of "
                f"{visited[worst]:.4g}{added}, {excess[worst]:.3g} outside the range of training, "
                f"{end:.4g} to {start:.4g}",
                stacklevel=4,
            )
        if len(levels) > 1 and (np.diff(levels) < 0).all():
            warnings.warn(
                f"diffusion_times rise, from {times[0]:g} to {times[-1]:g}: images come out of "
                "noise, time 1, where they decrease",
                stacklevel=4,
            )
