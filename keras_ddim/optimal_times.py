"""Optimal times: the best list for a trained model, a sampler and a number of times; and why.

The model's weights stay as they are: what is looked for is the list along which a sampler's images
come nearest to those that the same model makes of the same noise with many more evaluations (the
teacher's) or, as sets and by their features, to real ones. An argument that is not as described, or
a model that has not been trained, raises a `ValueError`.

```python
diffusion_times = keras_ddim.optimize_times(model, 5, sampler="unipc")
images = model.generate(16, diffusion_times, sampler="unipc")
model.keep_times(diffusion_times, sampler="unipc")  # from now on, and in its file, "best:5"
```
"""

import functools
import itertools
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from keras import ops

from keras_ddim import checks, encoders, metrics, sampling
from keras_ddim import samplers as samplers_by_name
from keras_ddim import times as lists
from keras_ddim.guidance import check_guidance
from keras_ddim.noise_levels import finite, mix, rates
from keras_ddim.planning import DEFAULT_SAMPLER
from keras_ddim.progress import Progress

HAND_MADE: dict[str, Callable[[int, Any], np.ndarray]] = {
    "uniform": lambda num_times, schedule: lists.uniform(num_times),
    "uniform log-SNR": lists.uniform_log_snr,
    "Karras": lists.karras,
}
TEACHER = samplers_by_name.UniPC(order=3)
# Seeds are lists, whose second number keeps these apart from each other and from users' images.
TRAINING, VALIDATION, TEST, COUNTERPARTS = 7_001, 7_002, 7_003, 7_004
PATH_IMAGES = 16
# The teacher, with its many evaluations, makes as many.
MOST_REAL_IMAGES = 2000
ENTROPY_LEVELS = 33
# The smallest part of the range of log-SNR that a gap may be, times the number of gaps.
FLOOR = 0.01
SAME_LEVEL = 1e-5
SAME_TIME = 1e-9
# Of a descent: iterations, what of the cost an iteration must save to be followed by another; in
# logarithms of gaps, the shift that derivatives are differences over and the longest step.
MOST_ITERATIONS, LEAST_GAIN = 15, 2e-3
DIFFERENCE, LONGEST_STEP, MOST_DAMPING = 0.02, 1.0, 100.0
MOST_CANDIDATES = {"entropic": 4, "path": 4, "gradient": 5 * (1 + MOST_ITERATIONS)}


class Optimizer:
    """Finds lists of times for a model and a sampler; see `optimize_times` for its arguments.

    Attributes:
        interrupted: Whether Ctrl-C has ended a search early.
    """

    def __init__(
        self,
        model: Any,
        sampler: Any = None,
        *,
        ends: tuple[float | None, float | None] = (1.0, None),
        images: Any = None,
        encoder: Any = None,
        labels: Any = None,
        guidance_scale: float = 1.0,
        clip: bool | str = False,
        teacher_times: int = 40,
        num_images: int = 64,
        batch_size: int | None = None,
        seed: int = 0,
        verbose: int | str = "auto",
    ) -> None:
        self.model = check_model(model)
        self.sampler = DEFAULT_SAMPLER if sampler is None else samplers_by_name.get(sampler)
        if self.sampler.is_stochastic:
            raise ValueError(
                "`sampler` must be deterministic, for its images to be compared with others of the "
                f"same noise. Received: sampler={self.sampler}"
            )
        self.ends = check_ends(ends)
        least = 1 if encoder is None else 2
        self.num_images = checks.check_count("num_images", num_images, least=least)
        self.images = images
        if images is not None:
            self.images = model.normalize("images", images[:MOST_REAL_IMAGES])
        self.encoder = None if encoder is None else encoders.get(encoder)
        self.options = {"labels": labels, "clip": clip, "guidance": check_guidance(guidance_scale)}
        self.batch_size = batch_size and checks.check_count("batch_size", batch_size)
        self.seed = checks.check_seed(seed) or 0
        self.verbose = verbose
        self.interrupted = False
        # Between the noisiest and the cleanest level that lists may visit.
        start, end = (
            self._levels([default if time is None else time])[0]
            for time, default in zip(self.ends, (1.0, 0.0))
        )
        self.start, self.span = start, end - start
        checks.check_count("teacher_times", teacher_times, least=2)
        # Down to time 0 in any case: that is where the images are that a perfect solver makes.
        noisiest, cleanest = (float(level) for level in self._levels([1.0, 0.0]))
        self.teacher_levels = np.linspace(noisiest, cleanest, teacher_times)
        for level in (start, end):
            if abs(self.teacher_levels - level).min() > SAME_LEVEL:
                self.teacher_levels = np.sort(np.append(self.teacher_levels, level))
        self.teacher_times = self._times(self.teacher_levels)
        self.targets: dict[int, np.ndarray] = {}

    # Levels and times

    def _levels(self, diffusion_times: Any) -> np.ndarray:
        times = np.asarray(diffusion_times, "float64")
        return finite(ops.convert_to_numpy(self.model.schedule.log_snr(times))).astype("float64")

    def _times(self, levels: Any) -> np.ndarray:
        times = lists.from_log_snr(levels, self.model.schedule)
        # Ends that are not infinite, which the inverse may miss by a digit.
        ends = zip((0.0, 1.0), self.model.schedule.ends)
        exact = [time for time, level in ends if np.isfinite(level)]
        for time in exact + [end for end in self.ends if end not in (0, 1, None)]:
            times[abs(levels - self._levels([time])) < SAME_LEVEL] = time
        return times

    def _num_gaps(self, num_times: int) -> int:
        """Gaps in log-SNR, those before and behind a list whose ends are free included."""
        return num_times - 1 + self.ends.count(None)

    def _visited(self, points: np.ndarray) -> np.ndarray:
        """The levels of a list, of the points between which the gaps are."""
        first_is_free, last_is_free = (end is None for end in self.ends)
        return points[int(first_is_free) : len(points) - int(last_is_free)]

    def _points(self, levels: np.ndarray) -> np.ndarray:
        """The points between which the gaps of a list are."""
        first_is_free, last_is_free = (end is None for end in self.ends)
        ends = self.start, self.start + self.span
        return np.concatenate([ends[:1] * first_is_free, levels, ends[1:] * last_is_free])

    # The shared description of cost

    def follow(
        self,
        diffusion_times: Any,
        noises: int,
        sampler: Any = None,
        num_images: int | None = None,
        verbose: int | str = 0,
        **options: Any,
    ) -> np.ndarray:
        """Images, in the normalised space, along a list: of training, validation or test noise."""
        num_images = self.num_images if num_images is None else num_images
        labels = self.options["labels"]
        if labels is None:
            labels = self.model.draw_classes(num_images, [self.seed, noises])
        elif isinstance(labels, (list, tuple, np.ndarray)):
            labels = np.resize(labels, num_images)
        sampler = self.sampler if sampler is None else sampler
        asked = {**self.options, "labels": labels}
        plan = self.model.plan(num_images, diffusion_times, sampler, None, **asked)
        seed = [self.seed, noises]
        return self.model.follow(plan, num_images, verbose, self.batch_size, seed=seed, **options)

    def target(self, noises: int) -> np.ndarray:
        """What images are compared with: the teacher's of that noise or, if given, real ones.

        Moments of so few images are off by chance, of a list's and the teacher's by nearly the
        same. The target is therefore not the real images' moments, but the teacher's and what those
        of many real images and of as many of the teacher's differ by.
        """
        if noises not in self.targets:
            images = self.follow(self.teacher_times, noises, TEACHER)
            self.targets[noises] = self._compared(images) + self.shift
        return self.targets[noises]

    @functools.cached_property
    def shift(self) -> np.ndarray | float:
        """What real images' moments differ by from those of as many of the teacher's, or 0."""
        if self.encoder is None or self.images is None:
            return 0.0
        num_images = len(self.images)
        images = self.follow(self.teacher_times, COUNTERPARTS, TEACHER, num_images, self.verbose)
        return self._compared(self.images) - self._compared(images)

    def residuals(self, diffusion_times: Any, noises: int) -> np.ndarray:
        """What images along a list differ by from their target, an array of any shape."""
        return self._compared(self.follow(diffusion_times, noises)) - self.target(noises)

    def _compared(self, images: np.ndarray) -> np.ndarray:
        """Pixels; with an encoder, the mean of the features and the root of their covariance.

        Squares of what these differ by add up to the Fréchet distance of two sets of images, or to
        more where covariances do not commute.
        """
        pixels = self.model.denormalize(images)
        if self.encoder is None:
            return pixels
        moments = metrics.Moments(encoders.encode(self.encoder, pixels))
        _, scales, axes = np.linalg.svd(moments.root, full_matrices=False)
        compared = np.vstack([moments.mean, axes.T * scales @ axes])
        # For the mean of squares, which is taken of pixels, to be their sum.
        return compared * np.sqrt(compared.size)

    def distance(self, diffusion_times: Any, noises: int = TEST) -> float:
        """Root-mean-square difference from the teacher's images, by default of test noise.

        With an encoder, at least the root of the Fréchet distance from them, or from real ones.
        """
        return _distance(self.residuals(diffusion_times, noises), np.zeros(1))

    def hand_made(self, num_times: int) -> dict[str, np.ndarray]:
        """The lists to begin from, with the ends asked for, as far as they then decrease."""
        starts = {}
        for name, make in HAND_MADE.items():
            times = make(num_times, self.model.schedule)
            for position, end in zip((0, -1), self.ends):
                times[position] = times[position] if end is None else end
            if sampling.decrease(self._levels(times)):
                starts[name] = times
        return starts

    # The methods

    def find(self, num_times: int, method: str = "gradient") -> np.ndarray:
        """The best list of `num_times` times; arguments and result as of `optimize_times`."""
        checks.check_choice("method", method, METHODS)
        num_times = checks.check_count("num_times", num_times)
        fewest = 2 if None not in self.ends else 1
        if not fewest <= num_times <= len(self.teacher_times):
            raise ValueError(
                f"`num_times` must be from {fewest} to those of the teacher, "
                f"{len(self.teacher_times)}. Received: num_times={num_times}"
            )
        best, least = None, np.inf
        self.target(VALIDATION)  # before the search's bar: the counterparts have one of their own
        progress = Progress(MOST_CANDIDATES[method], "list", self.verbose)
        try:
            for times in self._candidates(num_times, method):
                if times is not None:
                    distance = self.distance(times, VALIDATION)
                    if best is None or distance < least:
                        best, least = times, distance
                progress.advance()
        except KeyboardInterrupt:
            if best is None:
                raise
            self.interrupted = True
            warnings.warn("Interrupted: the list is the best so far.", stacklevel=3)
        progress.advance(progress.target - progress.done)
        return np.asarray(best)

    def _candidates(self, num_times: int, method: str) -> Iterator[np.ndarray | None]:
        """Lists to choose from by validation: those made by hand, then what is found.

        None, for each iteration that a descent did without, keeps the progress bar's estimate.
        """
        starts = [*self.hand_made(num_times).values()]
        yield from starts
        for name, find in (("path", self.path), ("entropic", self.entropic)):
            if method in (name, "gradient"):
                starts.append(find(num_times))
                yield starts[-1]
        if method == "gradient":
            # From all: by features, the nearest one is often not where the best descent begins.
            for times in starts:
                iterations = 0
                for better in self._descend(times):
                    iterations += 1
                    yield better
                yield from itertools.repeat(None, MOST_ITERATIONS - iterations)

    def _descend(self, diffusion_times: np.ndarray) -> Iterator[np.ndarray]:
        """Levenberg and Marquardt's method on the logarithms of the gaps."""
        num_gaps = self._num_gaps(len(diffusion_times))
        floor = FLOOR / num_gaps

        def times_of(log_gaps: np.ndarray) -> np.ndarray:
            parts = np.exp(np.append(0.0, log_gaps) - max(0.0, *log_gaps))
            parts = floor + (1 - FLOOR) * parts / np.sum(parts)
            points = self.start + self.span * np.append(0.0, np.cumsum(parts))
            return self._times(self._visited(points))

        def residuals_of(log_gaps: np.ndarray) -> np.ndarray:
            return self.residuals(times_of(log_gaps), TRAINING).ravel()

        gaps = np.diff(self._points(self._levels(diffusion_times))) / self.span
        logs = np.log(np.maximum(gaps - floor, floor))
        log_gaps = logs[1:] - logs[0]
        if not len(log_gaps):
            return
        residuals = residuals_of(log_gaps)
        damping = 0.1
        for _ in range(MOST_ITERATIONS):
            shifts = DIFFERENCE * np.eye(len(log_gaps))
            changes = [residuals_of(log_gaps + shift) - residuals for shift in shifts]
            jacobian = np.stack(changes, axis=1) / DIFFERENCE
            matrix, slopes = jacobian.T @ jacobian, jacobian.T @ residuals
            scale = np.diag(np.diag(matrix) + np.finfo("float32").eps * np.trace(matrix))
            cost, new_cost = np.sum(residuals**2), np.inf
            while new_cost >= cost and damping < MOST_DAMPING:
                step = np.linalg.lstsq(matrix + damping * scale, slopes)[0]
                step *= min(1.0, LONGEST_STEP / max(abs(step).max(), LONGEST_STEP))
                new_residuals = residuals_of(log_gaps - step)
                new_cost = np.sum(new_residuals**2)
                damping *= 4 if new_cost >= cost else 1 / 4
            if new_cost >= cost:
                return
            log_gaps, residuals = log_gaps - step, new_residuals
            yield times_of(log_gaps)
            if new_cost > (1 - LEAST_GAIN) * cost:
                return

    def entropic(self, num_times: int) -> np.ndarray:
        """Quantiles over log-SNR of the noises' squared error, times σ: the rescaled entropy's."""
        if self.images is None:
            images = self.follow(self.teacher_times, TRAINING, TEACHER)
        else:
            images = self.images[: self.num_images]
        levels = self.start + self.span * np.linspace(0, 1, ENTROPY_LEVELS)
        losses = []
        for time, level in zip(self._times(levels), levels):
            pred_images = self.follow(
                [time], TRAINING, "ddim", num_images=len(images), initial_images=images
            )
            # σ times the squared error of the noises, which is that of the images over σ².
            losses.append(np.exp(level / 2) * np.mean((pred_images - images) ** 2))
        areas = np.diff(levels) * (np.array(losses[1:]) + losses[:-1]) / 2
        entropies = np.append(0.0, np.cumsum(areas))
        # As many quantiles as there are gaps, and one; a free end is left out.
        quantiles = np.linspace(0, entropies[-1], self._num_gaps(num_times) + 1)
        return self._times(self._visited(np.interp(quantiles, entropies, levels)))

    def path(self, num_times: int) -> np.ndarray:
        """The way over the teacher's points that is cheapest in single steps."""
        costs, starts = self.step_costs()
        # least[i]: the cost of the rest of the way, from point i with so many points to visit.
        least, choices = costs[:, -1].copy(), []
        for free, end, level in zip(
            (starts, least), self.ends, (self.start, self.start + self.span)
        ):
            if end is not None:
                free[abs(self.teacher_levels - level) > SAME_LEVEL] = np.inf
        for _ in range(num_times - 1):
            totals = costs[:, :-1] + least
            choices.append(np.argmin(totals, axis=1))
            least = np.min(totals, axis=1)
        point = int(np.argmin(starts + least))
        points = [point]
        for choice in reversed(choices):
            point = int(choice[point])
            points.append(point)
        return self.teacher_times[points]

    def step_costs(self) -> tuple[np.ndarray, np.ndarray]:
        """Errors of single steps of DDIM from each point of teacher paths to each later one.

        `(costs, starts)`: `costs[i, j]`, from the i-th to the j-th point, the last of which are the
        images; root-mean-square differences in the normalised space, infinite where j is no later
        than i; and `starts[i]`, how far plain noise is from the i-th point.
        """
        recorder = sampling.Recorder()
        num_images = min(PATH_IMAGES, self.num_images)
        images = self.follow(
            self.teacher_times, TRAINING, TEACHER, num_images=num_images, watchers=[recorder]
        )
        noisy_images, pred_images = recorder.arrays()
        points = [*noisy_images, images]
        noise_rates, signal_rates = map(ops.convert_to_numpy, rates(self.teacher_levels))
        noise_rates, signal_rates = np.append(noise_rates, 0.0), np.append(signal_rates, 1.0)
        costs = np.full((len(pred_images), len(points)), np.inf)
        for i, pred in enumerate(pred_images):
            noises = (noisy_images[i] - signal_rates[i] * pred) / noise_rates[i]
            for j in range(i + 1, len(points)):
                step = mix(pred, noises, noise_rates[j], signal_rates[j])
                costs[i, j] = np.sqrt(np.mean((step - points[j]) ** 2))
        starts = np.sqrt(np.mean((noisy_images - noisy_images[0]) ** 2, axis=(1, 2, 3, 4)))
        return costs, starts.astype("float64")


METHODS = "entropic", "path", "gradient"


def optimize_times(
    model: Any, num_times: int, sampler: Any = None, method: str = "gradient", **options: Any
) -> np.ndarray:
    """The list of times along which a sampler's images come nearest to those of many evaluations.

    - "entropic": quantiles of the loss over noise levels. The squared error of predicted noises is
      the rate at which the entropy of the images, given the noisy ones, grows with log-SNR; it is
      rescaled by σ, without which nearly all times would be next to 0. In seconds.
    - "path": points of the teacher's paths, chosen by dynamic programming so that the errors of
      single steps between them, of DDIM, add up to the least. It needs no evaluations but the
      teacher's.
    - "gradient": the distance to the teacher's images itself made small, by Levenberg and
      Marquardt's method for least squares, from each of the lists above and of those made by hand.
      Unknown are the gaps in log-SNR, positive, and few: derivatives are differences of `num_times`
      lists followed, which needs no more memory than generating, and is exact about whatever the
      sampler does.

    Whatever the method, the result is the best, on noise of validation, of all lists that it
    came across, and the uniform, uniform log-SNR and Karras lists. Ctrl-C ends the search, with a
    warning, and the best list so far. Kept are, in bytes, about `4 * (num_times + 4)` for each
    value of `num_images` images (with an encoder of n features, twice that for each of n² + n), and
    of 16 images `8 * teacher_times` for the paths.

    Args:
        model: A trained `keras_ddim.DiffusionModel`.
        num_times: Number of times, at most `teacher_times`.
        sampler: As in `generate`, deterministic. Defaults to None: `keras_ddim.UniPC()`.
        method: "entropic", "path" or "gradient". Defaults to "gradient".
        **options: `ends`: the first and the last time, None where they are free. Defaults to
            (1.0, None).
            `images`: real images (images, height, width, channels), for "entropic" in place of the
            teacher's, and for `encoder`. Defaults to None: the teacher's.
            `encoder`: compare sets of images by their features' means and covariances, as the
            Fréchet distance does, see `keras_ddim.encoders.get`: with those of `images`, of which
            up to 2,000 are used, and the teacher makes as many once; else with the teacher's.
            Defaults to None: each image with the teacher's, by pixels.
            `labels`, `guidance_scale`, `clip`, `batch_size`, `verbose`: as in `generate`; a list of
            labels is repeated.
            `teacher_times`: how many evaluations the teacher has, UniPC of order 3 on times uniform
            in log-SNR. Defaults to 40.
            `num_images`: how many images are compared, and again for validation; with an encoder,
            best no fewer than it has features. Defaults to 64.
            `seed`: integer. Defaults to 0.

    Returns:
        float64 NumPy array (num_times,) of strictly decreasing times, for `generate`.

    Reference:
        "entropic": [Stancevic et al., 2025](https://arxiv.org/abs/2504.13612); "path": [Chen et
        al., 2024, GITS](https://arxiv.org/abs/2405.11326); the question: [Tong et al., 2024,
        LD3](https://arxiv.org/abs/2405.15506)
    """
    return Optimizer(model, sampler, **options).find(num_times, method)


class Explanation(NamedTuple):
    """Where a list of times goes wrong; see `explain_times`.

    Attributes:
        diffusion_times: The list (steps,).
        errors: What each interval, the last of which leads to time 0, adds to the difference of
            the images from the exact flow's: root-mean-square, in pixel values (with an encoder,
            about roots of Fréchet distances), (steps,).
        distance: The difference that the whole list leads to, at most the sum of `errors`.
        added_times: A time amid each interval, in log-SNR, (steps,).
        added_distances: `distance` with that time in the list, (steps,).
    """

    diffusion_times: np.ndarray
    errors: np.ndarray
    distance: float
    added_times: np.ndarray
    added_distances: np.ndarray

    @property
    def best_added_time(self) -> float:
        """The time that would help most if it was in the list, too."""
        return float(self.added_times[np.argmin(self.added_distances)])


def explain_times(
    model: Any, diffusion_times: Any, sampler: Any = None, *, num_images: int = 16, **options: Any
) -> Explanation:
    """What each interval of a list adds to the error, and where one more time would help most.

    From the noisy images at each time, the exact flow (the teacher of `optimize_times`, from there
    on) leads to images; those of one time differ from those of the next by what the step between
    them got wrong.

    Args:
        model, sampler: As in `optimize_times`.
        diffusion_times: As in `generate`; strictly decreasing.
        num_images: How many images it is the mean of. Defaults to 16.
        **options: As in `optimize_times`.

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
    levels = optimizer._levels(times)
    if not sampling.decrease(levels):
        raise ValueError(
            "`diffusion_times` must decrease strictly to be explained. "
            f"Received: diffusion_times={checks.brief(diffusion_times)}"
        )
    recorder = sampling.Recorder()
    images = optimizer.follow(times, TEST, watchers=[recorder])
    ways = []
    for level, noisy_images in zip(levels, recorder.arrays()[0]):
        rest = optimizer.teacher_levels[optimizer.teacher_levels > level + SAME_LEVEL]
        rest = optimizer._times(np.append(level, rest))
        exact = optimizer.follow(rest, TEST, TEACHER, initial_noise=noisy_images)
        ways.append(optimizer._compared(exact))
    ways.append(optimizer._compared(images))
    ends = np.append(levels[1:], optimizer.start + optimizer.span)
    added_times = optimizer._times((levels + ends) / 2)
    # Behind a list that ends at time 0, no time can be added.
    added = [
        times if abs(times - time).min() < SAME_TIME else np.union1d(times, [time])[::-1]
        for time in added_times
    ]
    return Explanation(
        times,
        np.array([_distance(one, other) for one, other in itertools.pairwise(ways)]),
        _distance(ways[0], ways[-1]),
        added_times,
        np.array([optimizer.distance(longer) for longer in added]),
    )


def _distance(first: np.ndarray, second: np.ndarray) -> float:
    return float(np.sqrt(np.mean((first - second) ** 2)))


def check_model(model: Any) -> Any:
    """`model`, which must be one that has learnt what images are like."""
    checks.check_model("model", model)
    if not model.normalizer.is_adapted:
        raise ValueError(
            "`model` must have been trained, or its normalizer adapted. "
            f"Received: model={model.name!r}, which has not"
        )
    return model


def check_ends(ends: Any) -> tuple[float | None, float | None]:
    """The first and the last time of a list, None where they are free."""
    try:
        first, last = (e if e is None else checks.check_number("ends", e, 0, 1) for e in ends)
        decreasing = (1.0 if first is None else first) > (0.0 if last is None else last)
    except (TypeError, ValueError):
        decreasing = False
    if not decreasing:
        raise ValueError(
            "`ends` must be two times in [0, 1], the larger one first, or None where free. "
            f"Received: ends={checks.brief(ends)}"
        )
    return first, last
