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
from keras_ddim import times as lists
from keras_ddim.conditioning import Conditioning
from keras_ddim.denoisers import Clipped, Denoiser, NetworkDenoiser
from keras_ddim.noise_levels import LEVEL_TOLERANCE, finite
from keras_ddim.normalizer import Normalizer
from keras_ddim.progress import Progress

# What a number of times stands for, and the sampler, where none is given. It must decrease.
DEFAULT_TIMES = lists.uniform_log_snr
DEFAULT_SAMPLER = samplers_by_name.UniPC()

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
    ema_network: keras.Model
    normalizer: Normalizer
    compiled_steps: sampling.CompiledSteps
    generation_seed_generator: keras.random.SeedGenerator
    name: str
    run_eagerly: bool
    jit_compile: bool

    def make_denoiser(self, clip: bool | str = False) -> Denoiser:
        """The averaged network as a `keras_ddim.denoisers.Denoiser`.

        Args:
            clip: As in `generate`. Defaults to False.
        """
        denoiser = NetworkDenoiser(self.ema_network, self.conditioning, self.prediction_type)
        method = sampling.check_clip(clip)
        return Clipped(denoiser, self.normalizer, method) if method else denoiser

    def make_step(self, sampler: Any = None, clip: bool | str = False) -> sampling.CompiledStep:
        """A sampler's step on the averaged network, compiled; the last few are kept.

        Args:
            sampler: As in `generate`. Defaults to None: DDIM, which follows any list.
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

        Without a sampler, `generate(16, 20)` is near the best that 20 evaluations can do. With
        `sampler="ddim"`, it is the 20 uniform steps of the published example.

        Args:
            num_images: Number of images.
            diffusion_times: Number of times, or any list, tuple, array or tensor of times in
                [0, 1], in any order and spacing that the sampler can follow; see
                `keras_ddim.times` for lists. A number n stands for n times uniform in log-SNR
                (`keras_ddim.times.uniform_log_snr`); where a sampler is given, for 1, 1 − 1/n, …,
                1/n. Defaults to 20.
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
        entropy: Any = checks.check_seed(seed)
        if entropy is None:
            with SEED_LOCK:
                entropy = [int(part) & 0xFFFFFFFF for part in self.generation_seed_generator.next()]
        sampler, times, levels = self._plan(diffusion_times, sampler, schedule)
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

    def _plan(
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
