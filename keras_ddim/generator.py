"""Generation: what a model that can denoise does to make images along a list of times."""

import math
import threading
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops

from keras_ddim import checks, degradations, sampling, schedules
from keras_ddim import samplers as samplers_by_name
from keras_ddim import times as lists
from keras_ddim.conditioning import Conditioning
from keras_ddim.degradations import Degradation, Known, check_known
from keras_ddim.denoisers import Clipped, Denoiser, NetworkDenoiser
from keras_ddim.guidance import Guidance, check_guidance, check_guided
from keras_ddim.noise_levels import LEVEL_TOLERANCE, finite
from keras_ddim.normalizer import Normalizer
from keras_ddim.preconditioning import SpectralPreconditioning
from keras_ddim.progress import Progress

# What a number of times stands for, and the sampler, where none is given. It must decrease.
DEFAULT_TIMES = lists.uniform_log_snr
DEFAULT_SAMPLER = samplers_by_name.UniPC()

# Two unseeded generations at once must not get the same seed.
SEED_LOCK = threading.Lock()


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


class Generator:
    """The half of a `DiffusionModel` that generates; the other half trains.

    Attributes:
        compiled_steps: The last few steps that were compiled.
        generation_seed_generator: Where unseeded generations get their seeds from; one of its own,
            for generating must not change what training draws.
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
    generation_seed_generator: keras.random.SeedGenerator
    name: str
    run_eagerly: bool
    jit_compile: bool

    @property
    def num_classes(self) -> int:
        """Number of classes, which is the label for "any", too; 0 of a model without labels."""
        return len(self.class_names or ())

    def make_denoiser(
        self,
        clip: bool | str = False,
        guidance: Guidance | None = None,
        degradation: Degradation | None = None,
    ) -> Denoiser:
        """The averaged network as a `keras_ddim.denoisers.Denoiser`.

        Args:
            clip: As in `generate`. Defaults to False.
            guidance: How it is guided. Defaults to None: not at all.
            degradation: What is known of the images. Defaults to None: nothing.
        """
        denoiser: Denoiser = self._denoise_with(self.ema_network)
        if guidance is not None:
            denoiser = guidance.wrap(denoiser, self.num_classes, self.normalizer)
        method = sampling.check_clip(clip)
        denoiser = Clipped(denoiser, self.normalizer, method) if method else denoiser
        return Known(denoiser, self.normalizer, degradation) if degradation else denoiser

    def _denoise_with(self, network: keras.Model) -> NetworkDenoiser:
        return NetworkDenoiser(
            network, self.conditioning, self.prediction_type, self.preconditioning
        )

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
            clip: As in `generate`. Defaults to False.
            guidance: How the network is guided. Defaults to None: not at all.
            degradation: What is known of the images. Defaults to None: nothing.
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

        parts = sampler, clip, guidance.key, degradation, refinements
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

        Args:
            diffusion_times: As in `generate`, as are all others.
            sampler: See there.
            schedule: See there.
            guidance_scale: See there.
            guidance_interval: See there.
            guide_model: See there.
            **options: Others, which cost nothing.
        """
        sampler, times, _ = self._times(diffusion_times, sampler, schedule)
        guidance = check_guidance(guidance_scale, guidance_interval, model=guide_model)
        denoisers = [self.make_denoiser(guidance=guidance.at(time)) for time in times]
        return sampling.count_evaluations([sampling.Step(d, sampler) for d in denoisers])

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

    def generate(
        self,
        num_images: int,
        diffusion_times: Any = 20,
        *,
        labels: Any = None,
        guidance_scale: float = 1.0,
        guidance_interval: tuple[float, float] = (0.0, 1.0),
        guidance_rescale: float = 0.0,
        guide_model: Any = None,
        guidance_fn: Callable | None = None,
        known_images: Any = None,
        known_mask: Any = None,
        degradation: Any = None,
        sampler: Any = None,
        schedule: Any = None,
        seed: int | None = None,
        initial_noise: Any = None,
        initial_images: Any = None,
        batch_size: int | None = None,
        clip: bool | str = False,
        return_trajectory: bool = False,
        callback: Callable | None = None,
        verbose: int | str = "auto",
    ) -> Any:
        """Generates images from noise, visiting the given diffusion times in order.

        At each time the network separates the images into noise and image; the sampler mixes them
        again at the next time's noise level, and the image predicted at the last time is returned.
        With the default sampler the network is evaluated once at each time, so a list of k times
        costs k evaluations of it; see `count_evaluations` of the others.

        Without a sampler, `generate(16, 20)` is near the best that 20 evaluations can do. With
        `sampler="ddim"`, it is the 20 uniform steps of the published example.

        Args:
            num_images: Number of images.
            diffusion_times: Number of times, or any list, tuple, array or tensor of times in
                [0, 1], in any order and spacing that the sampler can follow; see
                `keras_ddim.times` for lists. A number n stands for n times uniform in log-SNR
                (`keras_ddim.times.uniform_log_snr`); where a sampler is given, for 1, 1 − 1/n, …,
                1/n. Defaults to 20.
            labels: Class of the images: its name (in capitals or not) or number, or a list of
                these, one for each image. Defaults to None: none in particular.
            guidance_scale: How far predictions are led beyond those without the label (or those of
                `guide_model`): `without + guidance_scale * (with - without)`. 1 is no guidance, the
                default; 0 is without the label; 2 leads as far again. Others than 0 and 1 cost two
                evaluations of the network instead of one, in a batch of twice the size.
            guidance_interval: The lowest and the highest diffusion time at which to guide; steps
                from other times are not guided, and cost no more than without guidance. Defaults
                to (0, 1).
            guidance_rescale: Part, in [0, 1], to which guided predictions of images get back the
                standard deviation of unguided ones (Lin et al., 2023). Defaults to 0.
            guide_model: A weaker `DiffusionModel` of the same images to be led away from instead
                (autoguidance, Karras et al., 2024), which needs no labels. Defaults to None.
            guidance_fn: Function of predicted images, a tensor (batch, height, width, channels) of
                pixel values, to a loss for each, (batch,): images are led down its gradient, as
                far as the loss is large; see `keras_ddim.guidance.GuidedByGradient`. Defaults to
                None.
            known_images: What is known of the images: an image, or one for each, pixel values in
                [0, 1] or 0..255. Known pixels come out exactly as they are. Defaults to None:
                nothing. A stochastic sampler, or `keras_ddim.times.renoised`, avoids seams.
            known_mask: 1 where `known_images` are known, 0 where they are not: (height, width) or
                (num_images, height, width, 1). Defaults to None: everywhere.
            degradation: What `known_images` are of the images: a
                `keras_ddim.degradations.Degradation`, such as `BlockAverage(4)` for images four
                times as large, or "grey". Defaults to None: they are the images.
            sampler: How to step from a noise level to the next: a `keras_ddim.samplers.Sampler`
                or a name, such as "ddim", "ddpm", "heun", "unipc". Defaults to None:
                `keras_ddim.UniPC()` where the times decrease strictly and all their noise levels
                are finite, and `keras_ddim.DDIM()`, which follows any list, where not.
            schedule: The schedule to which the times belong: a `keras_ddim.schedules.Schedule` or
                a name. Defaults to the one of training.
            seed: Integer of at least 0; image i depends on it and i alone, whatever
                `num_images` and `batch_size` are. Defaults to None: the next of the model's own.
            initial_noise: Standard normal noise to start from instead, (num_images, height,
                width, channels), in the model's normalised space.
            initial_images: Images to start from, mixed with noise to the level of the first time;
                see `edit`. Defaults to None: from noise alone.
            batch_size: Number of images generated together; it bounds the memory needed.
                Defaults to 64.
            clip: Whether to clip the predicted images at each step: False, True or "static" (to
                pixel values in [0, 1]), or "dynamic" (each image is first scaled down until
                99.5 % of its pixels are within; Saharia et al., 2022). Defaults to False.
            return_trajectory: Whether to return a `Trajectory` instead of the images alone.
                Defaults to False.
            callback: Callable `(step, time, noisy_images, pred_images)` called at each time, for
                each batch: noisy images in the normalised space, predicted ones in [0, 1], NumPy
                arrays both. Defaults to None.
            verbose: 0 for silence, 1 for a progress bar, "auto" for one if it takes over 2
                seconds. Defaults to "auto".

        Returns:
            float32 NumPy array (num_images, height, width, channels) of values in [0, 1]; or a
            `Trajectory`, which has it as `images`.

        Raises:
            ValueError: If an argument is not as described, if the sampler can't follow the list,
                if the network can't be conditioned on a noise level (times are named with their
                position), or if the network makes values that are not finite.

        Warns:
            UserWarning: If a time under `schedule` means a noise level outside the range of
                training, the sampler's own noise included, or if all times rise.

        Example:

        >>> model.generate(4, diffusion_times=[1.0, 0.9, 0.5, 0.1], seed=0).shape
        (4, 64, 64, 3)
        """
        num_images = checks.check_count("num_images", num_images)
        if batch_size is not None:
            batch_size = checks.check_count("batch_size", batch_size)
        if initial_noise is not None:
            initial_noise = checks.check_noise(initial_noise, (num_images, *self.image_shape))
        if initial_images is not None:
            initial_images = self.normalize("initial_images", initial_images, num_images)
        entropy: Any = checks.check_seed(seed)
        if entropy is None:
            with SEED_LOCK:
                entropy = [int(part) & 0xFFFFFFFF for part in self.generation_seed_generator.next()]
        guidance = check_guidance(
            guidance_scale, guidance_interval, guidance_rescale, guide_model, guidance_fn
        )
        known = check_known(known_images, known_mask, degradation, num_images, self.image_shape)
        degradation = degradations.get(degradation) if known else None
        plan = self.plan(
            num_images, diffusion_times, sampler, schedule, clip, labels, guidance, degradation
        )
        plan.inputs.update(known)
        recorder = sampling.Recorder()
        watchers: list[Callable] = [recorder] if return_trajectory else []
        if callback is not None:
            watchers.append(self._watcher(callback, plan.times))
        images = self.denormalize(
            self.follow(
                plan,
                num_images,
                verbose,
                seed=entropy,
                initial_noise=initial_noise,
                initial_images=initial_images,
                batch_size=batch_size,
                watchers=watchers,
            )
        )
        if degradation is not None:  # once more, free of what normalising rounds
            images = ops.convert_to_numpy(degradation.correct(images, **known)).clip(0.0, 1.0)
        if not return_trajectory:
            return images
        noisy_images, pred_images = recorder.arrays()
        pred_images = self.denormalize(pred_images)
        return sampling.Trajectory(images, noisy_images, pred_images, plan.times, plan.evaluations)

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

    def follow(
        self,
        plan: Plan,
        num_images: int,
        verbose: int | str,
        batch_size: int | None,
        watchers: Sequence[Callable] = (),
        **options: Any,
    ) -> np.ndarray:
        """`keras_ddim.sampling.generate`, with a progress bar, and finite."""
        num_batches = math.ceil(num_images / (batch_size or sampling.BATCH_SIZE))
        progress = Progress(num_batches * plan.evaluations, "evaluation", verbose)
        images = sampling.generate(
            plan.steps,
            plan.levels,
            num_images,
            self.image_shape,
            batch_size=batch_size,
            watchers=[lambda visit: progress.advance(visit.evaluations), *watchers],
            **options,
            **plan.inputs,
        )
        if not np.isfinite(images).all():
            raise ValueError(
                "The model's network must make finite values of noise; its weights, or its noise "
                f"levels, do not let it. Received: NaN or infinite images of {self.name!r}"
            )
        return images

    def _times(
        self, diffusion_times: Any, sampler: Any, schedule: Any
    ) -> tuple[samplers_by_name.Sampler, np.ndarray, np.ndarray]:
        """The sampler, the times and their log-SNRs, that arguments of `generate` stand for."""
        times = checks.check_diffusion_times(diffusion_times)
        schedule = self.schedule if schedule is None else schedules.get(schedule)
        if sampler is None and isinstance(diffusion_times, (int, np.integer)):
            times = DEFAULT_TIMES(len(times), schedule)
        levels = ops.convert_to_numpy(schedule.log_snr(times.astype("float32")))
        if sampler is None and np.isfinite(levels).all() and sampling.decrease(levels):
            sampler = DEFAULT_SAMPLER
        sampler = samplers_by_name.get(sampler)
        return sampler, times, levels if sampler.accepts_infinite_levels else finite(levels)

    def _watcher(self, callback: Callable, times: np.ndarray) -> Callable[[sampling.Visit], None]:
        def watch(visit: sampling.Visit) -> None:
            noisy_images, pred_images = visit.arrays()
            time = float(times[visit.step])
            callback(visit.step, time, noisy_images, self.denormalize(pred_images))

        return watch

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
                stacklevel=3,
            )
        if len(levels) > 1 and (np.diff(levels) < 0).all():
            warnings.warn(
                f"diffusion_times rise, from {times[0]:g} to {times[-1]:g}: images come out of "
                "noise, time 1, where they decrease",
                stacklevel=3,
            )
