"""Optimal times: the best sampling times for a trained model, a sampler and a number of steps.

The weights do not change. The teacher is the same model with many steps. The search finds times at
which few steps lead to the teacher's images of the same noise. With an encoder, it compares sets of
images by their features, with the teacher's or with real images.

```python
diffusion_times = keras_ddim.optimize_times(model, 5, sampler="unipc")
images = model.generate(16, diffusion_times, sampler="unipc")
model.keep_times(diffusion_times, sampler="unipc")  # saved with the model as "best:5"
```
"""

import dataclasses
import functools
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from keras import ops

from keras_ddim import checks, encoders, metrics, samplers
from keras_ddim import times as lists
from keras_ddim.model import DiffusionModel
from keras_ddim.noise_levels import finite
from keras_ddim.progress import Progress

TEACHER = samplers.UniPC(order=3)
# Second numbers of seeds, so that searches and users never draw the same noise.
TRAINING, VALIDATION, TEST, COUNTERPARTS = 7_001, 7_002, 7_003, 7_004
MOST_REAL_IMAGES = 2000  # the teacher generates as many
SMALLEST_GAP = 0.01  # relative to the average gap between log-SNRs
SAME_LEVEL, SAME_TIME = 1e-3, 1e-6
# Levenberg and Marquardt's method, in logarithms of gaps.
MOST_STEPS, LEAST_GAIN = 20, 2e-3
DIFFERENCE, LONGEST_STEP, MOST_DAMPING = 0.02, 1.0, 100.0


@dataclasses.dataclass(eq=False, repr=False)
class Optimizer:
    """Optimizes sampling times for one model and sampler; arguments as in `optimize_times`.

    The teacher's images are generated once for all searches.

    Attributes:
        teacher_times: The teacher's times, an array.
        interrupted: Whether Ctrl-C has ended a search early.

    Example:

    ```python
    optimizer = keras_ddim.optimal_times.Optimizer(model, "dpm++", seed=1)
    best = {num_times: optimizer.find(num_times) for num_times in (3, 4, 5)}
    optimizer.distance(best[5])
    ```
    """

    model: DiffusionModel
    sampler: Any = None
    _: dataclasses.KW_ONLY
    images: Any = None
    encoder: Any = None
    labels: Any = None
    guidance_scale: float = 1.0
    clip: bool | str = False
    teacher_times: Any = 40
    num_images: int = 64
    batch_size: int = 64
    seed: int = 0
    verbose: int | str = "auto"
    interrupted: bool = dataclasses.field(default=False, init=False)

    def __post_init__(self) -> None:
        trained = isinstance(self.model, DiffusionModel) and self.model.normalizer.is_adapted
        checks.require(trained, "model", "a trained `keras_ddim.DiffusionModel`", self.model)
        self.sampler = samplers.get(self.sampler or "unipc")
        deterministic = "deterministic, to compare images of the same noise"
        checks.require(not self.sampler.is_stochastic, "sampler", deterministic, self.sampler)
        self.encoder = None if self.encoder is None else encoders.get(self.encoder)
        if self.images is not None:
            checks.require(self.encoder, "images", "None without an `encoder`", self.images)
            images = self.images[:MOST_REAL_IMAGES]
            self.images = checks.check_image_batch("images", images, self.model.image_shape)
        checks.check_count("num_images", self.num_images, 2 if self.encoder else 1)
        self.seed = checks.check_seed(self.seed) or 0
        checks.check_count("teacher_times", self.teacher_times, 2)
        self.start, self.end = self._levels([1.0, 0.0])
        self.teacher_levels = np.linspace(self.start, self.end, self.teacher_times)
        self.teacher_times = lists.from_log_snr(self.teacher_levels, self.model.schedule)
        self.targets: dict[int, np.ndarray] = {}

    # Times and the gaps between them

    def _levels(self, diffusion_times: Any) -> np.ndarray:
        """The log-SNR of each time, float64, infinities replaced."""
        levels = self.model.schedule.log_snr(np.asarray(diffusion_times, "float64"))
        return finite(ops.convert_to_numpy(levels)).astype("float64")

    def _gaps(self, diffusion_times: np.ndarray) -> np.ndarray:
        """The gaps in log-SNR after each time, the last one to time 0."""
        return np.diff(self._levels(diffusion_times), append=self.end)

    def _log_gaps(self, diffusion_times: np.ndarray) -> np.ndarray:
        """The logarithms of the gaps, relative to the first one."""
        gaps = self._gaps(diffusion_times) / (self.end - self.start)
        smallest = SMALLEST_GAP / len(gaps)
        logs = np.log(np.maximum(gaps - smallest, smallest))
        return logs[1:] - logs[0]

    def _times_of(self, log_gaps: np.ndarray) -> np.ndarray:
        """The times with these gaps between them."""
        gaps = np.exp(np.append(0.0, log_gaps) - max(0.0, *log_gaps))
        gaps = SMALLEST_GAP / len(gaps) + (1 - SMALLEST_GAP) * gaps / np.sum(gaps)
        levels = self.start + (self.end - self.start) * np.cumsum(gaps[:-1])
        return np.append(1.0, lists.from_log_snr(levels, self.model.schedule))

    def hand_designed(self, num_times: int) -> dict[str, np.ndarray]:
        """Hand-designed times, from 1 on, whose noise levels differ."""
        schedule = self.model.schedule
        starts = {
            "uniform": lists.uniform(num_times),
            "uniform log-SNR": lists.uniform_log_snr(num_times, schedule),
            "Karras": lists.karras(num_times, schedule),
        }
        starts = {name: np.append(1.0, times[1:]) for name, times in starts.items()}
        return {name: times for name, times in starts.items() if (self._gaps(times)[:-1] > 0).all()}

    # The cost of times

    def generate(
        self, diffusion_times: Any, noises: int, sampler: Any = None, **options: Any
    ) -> Any:
        """`model.generate` of training, validation or test noise."""
        seed, labels = [self.seed, noises], self.labels
        num_images = options.pop("num_images", self.num_images)
        if labels is None:
            labels = self.model.draw_classes(num_images, seed)
        elif isinstance(labels, (list, tuple, np.ndarray)):
            labels = np.resize(labels, num_images)
        options = {"sampler": sampler or self.sampler, "verbose": 0, **options}
        for name in ("guidance_scale", "clip", "batch_size"):
            options[name] = getattr(self, name)
        return self.model.generate(num_images, diffusion_times, labels=labels, seed=seed, **options)

    def _target(self, noises: int) -> np.ndarray:
        """The target features: the teacher's of that noise, shifted towards the real images'.

        Moments of few images have errors, nearly the same for all times. The shift, from many
        images, keeps these errors of the teacher's moments in the target, so that they cancel.
        """
        if noises not in self.targets:
            images = self.generate(self.teacher_times, noises, TEACHER)
            self.targets[noises] = self._features(images) + self._shift
        return self.targets[noises]

    @functools.cached_property
    def _shift(self) -> np.ndarray | float:
        """The difference of the real images' moments from the teacher's, or 0."""
        if self.images is None:
            return 0.0
        options = {"num_images": len(self.images), "verbose": self.verbose}
        images = self.generate(self.teacher_times, COUNTERPARTS, TEACHER, **options)
        return self._features(self.images) - self._features(images)

    def _features(self, images: np.ndarray) -> np.ndarray:
        """Pixels; with an encoder, the mean of the features and the root of their covariance.

        The sum of squared differences of these is at least the Fréchet distance, and equal to it if
        the covariances commute.
        """
        if self.encoder is None:
            return images
        moments = metrics.Moments(encoders.encode(self.encoder, images))
        _, scales, axes = np.linalg.svd(moments.root, full_matrices=False)
        features = np.vstack([moments.mean, axes.T * scales @ axes])
        return features * np.sqrt(features.size)  # turns the mean of squares into their sum

    def _residuals(self, diffusion_times: Any, noises: int) -> np.ndarray:
        """The difference of the images' features from their target."""
        return self._features(self.generate(diffusion_times, noises)) - self._target(noises)

    def distance(self, diffusion_times: Any, noises: int = TEST) -> float:
        """The root-mean-square difference from the teacher's images, by default of test noise.

        With an encoder: at least the root of the Fréchet distance from the teacher's or real
        images.
        """
        return _root_mean_square(self._residuals(diffusion_times, noises))

    # The search

    def find(self, num_times: int) -> np.ndarray:
        """The best `num_times` times, as from `optimize_times`."""
        num_times = checks.check_count("num_times", num_times, 1, len(self.teacher_times))
        starts = [*self.hand_designed(num_times).values()]
        self._target(VALIDATION)  # has a progress bar of its own
        most = 2 + MOST_STEPS * (num_times + 1)
        progress = Progress(most * len(starts), "candidate", self.verbose)

        def residuals(times: np.ndarray, noises: int = TRAINING) -> np.ndarray:
            progress.advance()
            return self._residuals(times, noises).ravel()

        def candidates() -> Iterator[np.ndarray]:
            yield from starts
            # From all, since the best descent often does not begin at the best start.
            for times in starts:
                path = _descend(lambda x: residuals(self._times_of(x)), self._log_gaps(times))
                yield from map(self._times_of, path)

        best, least = None, np.inf
        try:
            for times in candidates():
                distance = _root_mean_square(residuals(times, VALIDATION))
                if distance < least:
                    best, least = times, distance
        except KeyboardInterrupt:
            if best is None:
                raise
            self.interrupted = True
            warnings.warn("Interrupted: these are the best times so far.", stacklevel=3)
        progress.finish()
        return np.asarray(best)


def _descend(
    residuals_of: Callable[[np.ndarray], np.ndarray], x: np.ndarray
) -> Iterator[np.ndarray]:
    """The descent of `x` by Levenberg and Marquardt's method: each `x` with smaller residuals."""
    if not len(x):
        return
    residuals, jacobian, damping = residuals_of(x), None, 0.1
    for _ in range(MOST_STEPS):
        if jacobian is None:
            shifts = DIFFERENCE * np.eye(len(x))
            changes = [residuals_of(x + shift) - residuals for shift in shifts]
            jacobian = np.stack(changes, axis=1) / DIFFERENCE
        matrix, slopes = jacobian.T @ jacobian, jacobian.T @ residuals
        scale = np.diag(np.diag(matrix) + np.finfo("float32").eps * np.trace(matrix))
        step = np.linalg.lstsq(matrix + damping * scale, slopes)[0]
        step *= min(1.0, LONGEST_STEP / max(abs(step).max(), LONGEST_STEP))
        new_residuals = residuals_of(x - step)
        cost, new_cost = np.sum(residuals**2), np.sum(new_residuals**2)
        damping *= 4 if new_cost >= cost else 1 / 4
        if new_cost < cost:
            x, residuals, jacobian = x - step, new_residuals, None
            yield x
        if (1 - LEAST_GAIN) * cost < new_cost < cost or damping > MOST_DAMPING:
            return


def optimize_times(
    model: DiffusionModel, num_times: int, sampler: Any = None, **options: Any
) -> np.ndarray:
    """Optimizes sampling times: few steps then come closest to the images of many.

    The search starts from uniform, uniform log-SNR and Karras's times. It optimizes the gaps in
    log-SNR by Levenberg and Marquardt's method for least squares, with finite differences, which
    suit every sampler. The result is the best of all times tried, on noise kept for validation.

    Ctrl-C ends the search with a warning and returns the best times so far. The search needs about
    `4 * (num_times + 4)` bytes for each value of `num_images` images. With an encoder of n
    features, it needs twice that for each of n² + n moments.

    Args:
        model: A trained `keras_ddim.DiffusionModel`.
        num_times: Number of times, at most `teacher_times`.
        sampler: As in `generate`, deterministic. Defaults to None: `keras_ddim.UniPC()`.
        **options:
            `encoder`: Compares sets of images by mean and covariance of their features, as the
            Fréchet distance does; see `keras_ddim.encoders.get`. Defaults to None: compares each
            image with the teacher's, in pixel space.
            `images`: Real images (images, height, width, channels) to compare with by the
            `encoder`; 2,000 at most are used. Defaults to None: the teacher's images.
            `labels`, `guidance_scale`, `clip`, `batch_size`, `verbose`: As in `generate`; a list of
            labels is repeated.
            `teacher_times`: Number of the teacher's times, uniform in log-SNR; its sampler is UniPC
            of order 3. Defaults to 40.
            `num_images`: Number of images to compare, and again for validation; with an encoder, at
            least the number of its features is best. Defaults to 64.
            `seed`: Integer. Defaults to 0.

    Returns:
        float64 NumPy array (num_times,) of strictly decreasing times from 1, for `generate`.

    Raises:
        ValueError: If an argument is not as described, or the model has not been trained.

    Reference:
        The question: [Tong et al., 2024, LD3](https://arxiv.org/abs/2405.15506)
    """
    return Optimizer(model, sampler, **options).find(num_times)


class Explanation(NamedTuple):
    """The error of each interval between sampling times; see `explain_times`.

    Attributes:
        diffusion_times: The times (steps,).
        errors: The root-mean-square difference of pixel values that each interval adds, (steps,);
            the last interval leads to time 0. With an encoder: about roots of Fréchet distances.
        distance: The difference after all intervals, at most the sum of `errors`.
        added_times: The middle of each interval, in log-SNR, (steps,).
        added_distances: `distance` with each of these times added, (steps,).
    """

    diffusion_times: np.ndarray
    errors: np.ndarray
    distance: float
    added_times: np.ndarray
    added_distances: np.ndarray

    @property
    def best_added_time(self) -> float:
        """The added time that helps most."""
        return float(self.added_times[np.argmin(self.added_distances)])


def explain_times(
    model: DiffusionModel,
    diffusion_times: Any,
    sampler: Any = None,
    *,
    num_images: int = 16,
    **options: Any,
) -> Explanation:
    """Measures the error of each interval between times, and where one more time helps most.

    From the noisy images at each time, the teacher of `optimize_times` follows the exact flow. Its
    images from one time and from the next differ by the error of the step between them.

    Args:
        model, sampler: As in `optimize_times`.
        diffusion_times: As in `generate`; strictly decreasing.
        num_images: Number of images to average over. Defaults to 16.
        **options: As in `optimize_times`.

    Raises:
        ValueError: If an argument is not as described, or the model has not been trained.

    Example:

    ```python
    explanation = keras_ddim.explain_times(model, [1.0, 0.8, 0.5, 0.2])
    keras_ddim.plots.plot_times({"mine": explanation.diffusion_times},
                                errors={"mine": explanation.errors})
    ```
    """
    optimizer = Optimizer(model, sampler, num_images=num_images, **options)
    if isinstance(diffusion_times, str):
        diffusion_times = model.kept_times(diffusion_times, optimizer.sampler)
    times = checks.check_diffusion_times(diffusion_times)
    levels, gaps = optimizer._levels(times), optimizer._gaps(times)
    checks.require((gaps[:-1] > 0).all(), "diffusion_times", "strictly decreasing", diffusion_times)
    trajectory = optimizer.generate(times, TEST, return_trajectory=True)
    ways = []
    for time, level, noisy_images in zip(times, levels, trajectory.noisy_images):
        rest = optimizer.teacher_times[optimizer.teacher_levels > level + SAME_LEVEL]
        rest = np.append(time, rest)
        exact = optimizer.generate(rest, TEST, TEACHER, initial_noise=noisy_images)
        ways.append(optimizer._features(exact))
    ways.append(optimizer._features(trajectory.images))
    added_times = lists.from_log_snr(levels + gaps / 2, model.schedule)
    # No time can be added after times that end at 0.
    added = [
        times if abs(times - time).min() < SAME_TIME else np.union1d(times, [time])[::-1]
        for time in added_times
    ]
    return Explanation(
        times,
        np.array([_root_mean_square(change) for change in np.diff(ways, axis=0)]),
        _root_mean_square(ways[0] - ways[-1]),
        added_times,
        np.array([optimizer.distance(longer) for longer in added]),
    )


def _root_mean_square(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(values**2)))
