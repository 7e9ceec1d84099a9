"""Generation: what a model that can denoise does to make images along a list of times."""

import math
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_ddim import checks, degradations, sampling
from keras_ddim.degradations import check_known
from keras_ddim.guidance import check_guidance
from keras_ddim.planning import Plan, Planner
from keras_ddim.progress import Progress

# Two unseeded generations at once must not get the same seed.
SEED_LOCK = threading.Lock()


class Generator(Planner):
    """The half of a `DiffusionModel` that generates; the other half trains.

    Attributes:
        generation_seed_generator: Where unseeded generations get their seeds from; one of its own,
            for generating must not change what training draws.
    """

    generation_seed_generator: keras.random.SeedGenerator
    name: str

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
        first: int = 0,
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
        With the default sampler a list of k times costs k evaluations of the network; see
        `count_evaluations` of the others.

        Without a sampler, `generate(16, 20)` is near the best that 20 evaluations can do. With
        `sampler="ddim"`, it is the 20 uniform steps of the published example.

        Args:
            num_images: Number of images.
            diffusion_times: Number of times, or any list, tuple, array or tensor of times in
                [0, 1], in any order and spacing that the sampler can follow; see
                `keras_ddim.times` for lists. A number n stands for Karras's list of n times (of up
                to 3, for times uniform in log-SNR); where a sampler is given, for 1, 1 − 1/n, …,
                1/n. A name, such as "best:5", stands for a list kept with the model for that
                sampler (see `keep_times`). Defaults to 20.
            labels: Class of the images: its name (in capitals or not) or number, or a list of
                these, one for each image. Defaults to None: classes drawn at random, by `seed`; for
                images that begin with, or hold, some that are given, none in particular.
            guidance_scale: How far predictions go beyond those without the label (or those of
                `guide_model`): `without + guidance_scale * (with - without)`. 1 is no guidance, the
                default; 0 is without the label; 2 goes as far again. Others than 0 and 1 cost two
                evaluations of the network instead of one, in a batch of twice the size.
            guidance_interval: The lowest and the highest diffusion time at which to guide; steps
                from other times cost no more than without guidance. Defaults to (0, 1).
            guidance_rescale: Part, in [0, 1], to which guided predictions of images get back the
                standard deviation of unguided ones (Lin et al., 2023). Defaults to 0.
            guide_model: A weaker `DiffusionModel` of the same images to be guided away from instead
                (autoguidance, Karras et al., 2024), which needs no labels. Defaults to None.
            guidance_fn: Function of predicted images to a loss for each, whose gradient images are
                guided down; see `keras_ddim.guidance.GuidedByGradient`. Defaults to None.
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
            first: Number of the first image, where others of the seed are there already. Defaults
                to 0.
            initial_noise: Standard normal noise to start from instead, (num_images, height,
                width, channels), in the model's normalised space.
            initial_images: Images to start from, mixed with noise to the level of the first time;
                see `edit`. Defaults to None: from noise alone.
            batch_size: Number of images generated together; it bounds the memory needed.
                Defaults to 64.
            clip: Whether to clip the predicted images at each step: False, True or "static" (to
                pixel values in [0, 1]), or "dynamic" (see `keras_ddim.denoisers.Clipped`). Defaults
                to False.
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
        (4, 32, 32, 3)
        """
        num_images = checks.check_count("num_images", num_images)
        if batch_size is not None:
            batch_size = checks.check_count("batch_size", batch_size)
        if initial_images is not None:
            initial_images = self.normalize("initial_images", initial_images, num_images)
        seed = self._next_seed() if seed is None else checks.check_seed(seed)
        first = checks.check_count("first", first, 0)
        guidance = check_guidance(
            guidance_scale, guidance_interval, guidance_rescale, guide_model, guidance_fn
        )
        known = check_known(known_images, known_mask, degradation, num_images, self.image_shape)
        degradation = degradations.get(degradation) if known else None
        if labels is None and initial_noise is initial_images is None and not known:
            labels = self.draw_classes(first + num_images, seed)
            labels = labels if labels is None else labels[first:]
        plan = self.plan(
            num_images, diffusion_times, sampler, schedule, clip, labels, guidance, degradation
        )
        plan.inputs.update(known)
        recorder = sampling.Recorder()
        return_trajectory = checks.check_flag("return_trajectory", return_trajectory)
        watchers: list[Callable] = [recorder] if return_trajectory else []
        if callback is not None:
            if not callable(callback):
                raise ValueError(
                    f"`callback` must be callable. Received: callback={checks.brief(callback)}"
                )
            watchers.append(self._watcher(callback, plan.times))
        start = {"initial_noise": initial_noise, "initial_images": initial_images}
        images = self.follow(
            plan, num_images, verbose, batch_size, watchers, seed=seed, first=first, **start
        )
        images = self.denormalize(images)
        if degradation is not None:  # once more, free of what normalising rounds
            tensors = map(ops.convert_to_tensor, (images, *known.values()))
            images = ops.convert_to_numpy(degradation.correct(*tensors)).clip(0.0, 1.0)
        if not return_trajectory:
            return images
        noisy_images, pred_images = recorder.arrays()
        pred_images = self.denormalize(pred_images)
        return sampling.Trajectory(images, noisy_images, pred_images, plan.times, plan.evaluations)

    def draw_classes(self, num_images: int, seed: Any) -> np.ndarray | None:
        """Classes at random, (num_images,), as many as asked for the first ones of all; or None."""
        if self.class_names is None:
            return None
        return np.random.default_rng(seed).integers(self.num_classes, size=num_images)

    def generate_batches(
        self,
        num_images: int,
        diffusion_times: Any = 20,
        *,
        labels: Any = None,
        seed: int | None = None,
        first: int = 0,
        batch_size: int | None = None,
        verbose: int | str = "auto",
        **options: Any,
    ) -> Iterator[np.ndarray]:
        """Generates images batch by batch, however many, in the memory that one batch takes.

        To the last bit, image i depends on the seed, i and the batch size alone: not on
        `num_images`, and not on where it begins.

        Args:
            num_images: Number of images, those before `first` included.
            diffusion_times, labels, seed, first, batch_size, verbose: As in `generate`.
            **options: Further arguments of `generate`, with nothing in them that is of one image.

        Yields:
            float32 NumPy arrays (batch, height, width, channels) of values in [0, 1].

        Example:

        ```python
        number = 0
        for images in model.generate_batches(50_000, 5, seed=0):
            for image in images:
                keras_ddim.plots.save_image(image, f"generated/{number:05d}.png")
                number += 1
        ```
        """
        num_images = checks.check_count("num_images", num_images)
        size = checks.check_count("batch_size", batch_size or sampling.BATCH_SIZE)
        if seed is None:  # one that could have been asked for
            seed = int(np.random.SeedSequence(self._next_seed()).generate_state(1)[0])
        numbers = checks.check_labels(labels, num_images, self.class_names)
        if first >= num_images:
            return
        progress = Progress(num_images - first, "image", verbose)
        options.update(seed=seed, batch_size=size, verbose=0)
        # From where a batch begins, and filled up, so that each image is always in the same place.
        for start in range(first - first % size, num_images, size):
            if labels is not None:
                options["labels"] = sampling.rows(numbers, range(start, start + size))
            images = self.generate(size, diffusion_times, first=start, **options)
            images = images[max(0, first - start) : num_images - start]
            progress.advance(len(images))
            yield images

    def _next_seed(self) -> int:
        with SEED_LOCK:
            high, low = (int(part) & 0xFFFFFFFF for part in self.generation_seed_generator.next())
        return (high << 32) + low

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
        watchers = [lambda visit: progress.advance(visit.evaluations), *watchers]
        options = {"batch_size": batch_size, "watchers": watchers, **options, **plan.inputs}
        images = sampling.generate(plan.steps, plan.levels, num_images, self.image_shape, **options)
        if not np.isfinite(ops.convert_to_numpy(self.normalizer.denormalize(images))).all():
            raise ValueError(
                f"The model {self.name!r} must make finite values of noise; its weights, or its "
                "noise levels, do not let it. Received: NaN or infinite images"
            )
        return images

    def _watcher(self, callback: Callable, times: np.ndarray) -> Callable[[sampling.Visit], None]:
        def watch(visit: sampling.Visit) -> None:
            noisy_images, pred_images = visit.arrays()
            time = float(times[visit.step])
            callback(visit.step, time, noisy_images, self.denormalize(pred_images))

        return watch
