"""Generation: what a model that can denoise does to make images along a list of times."""

import math
import threading
import warnings
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_ddim import checks, sampling, schedules
from keras_ddim import samplers as samplers_by_name
from keras_ddim.conditioning import Conditioning
from keras_ddim.denoisers import Clipped, Denoiser, NetworkDenoiser
from keras_ddim.noise_levels import LEVEL_TOLERANCE
from keras_ddim.normalizer import Normalizer
from keras_ddim.preconditioning import SpectralPreconditioning
from keras_ddim.progress import Progress

# Two unseeded generations at once must not get the same seed.
SEED_LOCK = threading.Lock()


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

    def make_denoiser(self, clip: bool | str = False) -> Denoiser:
        """The averaged network as a `keras_ddim.denoisers.Denoiser`.

        Args:
            clip: As in `generate`. Defaults to False.
        """
        denoiser = self._denoise_with(self.ema_network)
        method = sampling.check_clip(clip)
        return Clipped(denoiser, self.normalizer, method) if method else denoiser

    def _denoise_with(self, network: keras.Model) -> NetworkDenoiser:
        return NetworkDenoiser(
            network, self.conditioning, self.prediction_type, self.preconditioning
        )

    def make_step(self, sampler: Any = None, clip: bool | str = False) -> sampling.CompiledStep:
        """A sampler's step on the averaged network, compiled; the last few are kept.

        Args:
            sampler: As in `generate`. Defaults to None: DDIM.
            clip: As in `generate`. Defaults to False.
        """
        sampler = samplers_by_name.get(sampler)
        options = bool(self.run_eagerly), bool(self.jit_compile)

        def make() -> sampling.CompiledStep:
            step = sampling.Step(self.make_denoiser(clip), sampler)
            return sampling.CompiledStep(step, *options)

        return self.compiled_steps.get(make, sampler, clip, *options)

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
        sampler: Any = None,
        schedule: Any = None,
        seed: int | None = None,
        initial_noise: Any = None,
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

        Args:
            num_images: Number of images.
            diffusion_times: Number of uniform steps (n gives 1, 1 − 1/n, …, 1/n), or any list,
                tuple, array or tensor of times in [0, 1], in any order and spacing that the
                sampler can follow; see `keras_ddim.times` for lists. Defaults to 20.
            labels: Class of the images: its name (in capitals or not) or number, or a list of
                these, one for each image. Defaults to None: none in particular.
            sampler: How to step from a noise level to the next: a `keras_ddim.samplers.Sampler`
                or a name, such as "ddim", "ddpm", "heun", "unipc". Defaults to
                `keras_ddim.DDIM()`, which follows any list; "unipc" comes as near to the images
                of many times with about half of them, if they decrease.
            schedule: The schedule to which the times belong: a `keras_ddim.schedules.Schedule` or
                a name. Defaults to the one of training.
            seed: Integer of at least 0; image i depends on it and i alone, whatever
                `num_images` and `batch_size` are. Defaults to None: the next of the model's own.
            initial_noise: Standard normal noise to start from instead, (num_images, height,
                width, channels), in the model's normalised space.
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
                training.

        Example:

        >>> model.generate(4, diffusion_times=[1.0, 0.9, 0.5, 0.1], seed=0).shape
        (4, 64, 64, 3)
        """
        num_images = checks.check_count("num_images", num_images)
        times = checks.check_diffusion_times(diffusion_times)
        if batch_size is not None:
            batch_size = checks.check_count("batch_size", batch_size)
        if initial_noise is not None:
            initial_noise = checks.check_noise(initial_noise, (num_images, *self.image_shape))
        entropy: Any = checks.check_seed(seed)
        if entropy is None:
            with SEED_LOCK:
                entropy = [int(part) & 0xFFFFFFFF for part in self.generation_seed_generator.next()]
        labels = self._check_labels(labels, num_images)
        sampler = samplers_by_name.get(sampler)
        schedule = self.schedule if schedule is None else schedules.get(schedule)
        levels = ops.convert_to_numpy(schedule.log_snr(times.astype("float32")))
        self._check_levels(sampler, times, levels)
        step = self.make_step(sampler, clip)

        evaluations = sampler.count_evaluations(len(times))
        num_batches = math.ceil(num_images / (batch_size or sampling.BATCH_SIZE))
        progress = Progress(num_batches * evaluations, "evaluation", verbose)
        watchers: list[Callable] = [lambda visit: progress.advance(visit.evaluations)]
        if callback is not None:
            watchers.append(self._watcher(callback, times))
        recorder = sampling.Recorder()
        images = sampling.generate(
            step,
            levels,
            num_images,
            self.image_shape,
            seed=entropy,
            initial_noise=initial_noise,
            batch_size=batch_size,
            watchers=[*watchers, recorder] if return_trajectory else watchers,
            **({} if labels is None else {"labels": labels}),
        )
        if not np.isfinite(images).all():
            raise ValueError(
                "The model's network must make finite values of noise; its weights, or its noise "
                f"levels, do not let it. Received: NaN or infinite images of {self.name!r}"
            )
        images = self.denormalize(images)
        if not return_trajectory:
            return images
        noisy_images, pred_images = recorder.arrays()
        pred_images = self.denormalize(pred_images)
        return sampling.Trajectory(images, noisy_images, pred_images, times, evaluations)

    def _watcher(self, callback: Callable, times: np.ndarray) -> Callable[[sampling.Visit], None]:
        def watch(visit: sampling.Visit) -> None:
            noisy_images, pred_images = visit.arrays()
            time = float(times[visit.step])
            callback(visit.step, time, noisy_images, self.denormalize(pred_images))

        return watch

    def _check_labels(self, labels: Any, num_images: int) -> np.ndarray | None:
        """The number of each image's class; None for a network that takes no labels."""
        if self.class_names and not self.label_dropout and labels is None:
            raise ValueError(
                "`labels` must be given to a model trained with `label_dropout=0`, which knows no "
                "images of any class. Received: labels=None"
            )
        return checks.check_labels(labels, num_images, self.class_names)

    def _check_levels(self, sampler: Any, times: np.ndarray, levels: np.ndarray) -> None:
        """Raises where sampler or network can't work at `levels`; warns where it never learnt."""
        sampling.check_levels(sampler, times, levels)
        self.conditioning.check(levels)
        excess = self.schedule.excess(levels)
        worst = np.argmax(excess)
        if excess[worst] > LEVEL_TOLERANCE:
            start, end = self.schedule.ends
            warnings.warn(
                f"diffusion_times[{worst}]={times[worst]:g} means a log-SNR of {levels[worst]:.4g},"
                f" {excess[worst]:.3g} outside the range of training, {end:.4g} to {start:.4g}",
                stacklevel=3,
            )
