"""Metrics: how far generated images are from real ones, by the features of an encoder.

The distances are functions of features; the metrics collect the features of images, batch by batch.
All is computed by NumPy in float64, whatever the backend: products of features and their sums lose
their digits in less. Nothing here is differentiable. Whatever is not as described, such as fewer
points than needed, raises a `ValueError`.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import numpy as np

from keras_ddim import checks, encoders

CHUNK = 512  # rows of a matrix of products of features


# The distances: of features, arrays (points, dimensions), not necessarily of equally many points


class Moments:
    """Number, mean and covariance of points, from batches (points, dimensions), in bounded memory.

    The covariance is held as a root and never formed: small variances would lose half their digits.
    """

    def __init__(self, *batches: np.ndarray) -> None:
        self.count = 0
        self.mean: np.ndarray | float = 0.0
        self._rows: list[np.ndarray] = []
        for features in batches:
            self.add(features)

    def add(self, features: np.ndarray) -> None:
        """Adds a batch (points, dimensions)."""
        total = self.count + len(features)
        batch_mean = features.mean(axis=0)
        change = batch_mean - self.mean
        between = change * np.sqrt(self.count * len(features) / total)
        self._rows += [features - batch_mean, between[None]]
        if sum(map(len, self._rows)) > 2 * len(batch_mean):
            self._rows = [self._compressed_rows()]
        self.mean = self.mean + change * (len(features) / total)
        self.count = total

    @property
    def root(self) -> np.ndarray:
        """A matrix R (rows, dimensions), of which RᵀR is the covariance."""
        return self._compressed_rows() / np.sqrt(self.count - 1)

    def _compressed_rows(self) -> Any:
        rows = np.concatenate(self._rows)
        return np.linalg.qr(rows, mode="r") if len(rows) > rows.shape[1] else rows


def frechet_distance(features: np.ndarray | Moments, other_features: np.ndarray | Moments) -> float:
    """`|μ − μ'|² + tr(C + C' − 2 (C^½ C' C^½)^½)`, the Fréchet distance of two clouds of points.

    The squared Wasserstein distance of the normal distributions of the clouds' means μ and
    covariances C. It is biased: too large by an amount about proportional to 1 / points. Either is
    an array of at least two points, or their `Moments`.

    Reference:
        [Heusel et al., 2017](https://arxiv.org/abs/1706.08500)
    """
    one, other = (
        points if isinstance(points, Moments) else Moments(_check_features(points, 2))
        for points in (features, other_features)
    )
    root, other_root = one.root, other.root
    _check_same_dimensions(root, other_root)
    # Where RᵀR = C and R'ᵀR' = C', the trace of the last root is the nuclear norm of R R'ᵀ.
    # Eigenvalues of products of covariances would have half the digits.
    overlap = np.linalg.norm(root @ other_root.T, "nuc")
    traces = np.sum(root**2) + np.sum(other_root**2)
    return max(float(np.sum((one.mean - other.mean) ** 2) + traces - 2 * overlap), 0.0)


def kernel_distance(features: np.ndarray, other_features: np.ndarray) -> float:
    """`mean k(x, x̃) + mean k(y, ỹ) − 2 mean k(x, y)`, with `k(x, y) = (x·y / dimensions + 1)³`.

    The squared maximum mean discrepancy of two clouds of at least two points, over pairs of
    different points, which makes it unbiased: for clouds of one distribution it is often below 0.

    Reference:
        [Bińkowski et al., 2018](https://arxiv.org/abs/1801.01401)
    """

    def kernel_sum(x: np.ndarray, y: np.ndarray) -> float:
        return sum(np.sum((chunk @ y.T / x.shape[1] + 1) ** 3) for chunk in _chunks(x))

    def mean_within(x: np.ndarray) -> float:
        own = np.sum((np.sum(x**2, axis=1) / x.shape[1] + 1) ** 3)
        return (kernel_sum(x, x) - own) / (len(x) * (len(x) - 1))

    x, y = _check_features(features, 2), _check_features(other_features, 2)
    _check_same_dimensions(x, y)
    return float(mean_within(x) + mean_within(y) - 2 * kernel_sum(x, y) / (len(x) * len(y)))


def covered(features: np.ndarray, other_features: np.ndarray, neighbors: int = 3) -> float:
    """Part of `other_features` that lie as near to a point as its k-th nearest neighbour does.

    Args:
        features: Array of more points than `neighbors`.
        other_features: Array of at least one point.
        neighbors: k. Defaults to 3.

    Reference:
        [Kynkäänniemi et al., 2019](https://arxiv.org/abs/1904.06991)
    """
    neighbors = checks.check_count("neighbors", neighbors)
    features = _check_features(features, neighbors + 1)
    other_features = _check_features(other_features, 1)
    _check_same_dimensions(features, other_features)
    # The nearest of all is the point itself.
    radii = np.concatenate(
        [np.partition(d, neighbors)[:, neighbors] for d in _squared_distances(features, features)]
    )
    inside = [np.any(d <= radii, axis=1) for d in _squared_distances(other_features, features)]
    return float(np.mean(np.concatenate(inside)))


def _check_features(features: np.ndarray, fewest: int) -> np.ndarray:
    """`features` as float64 array (points, dimensions) of at least so many points."""
    features = checks.check_array("features", features).astype("float64")
    if features.ndim != 2 or len(features) < fewest:
        raise ValueError(
            f"`features` must be at least {fewest} points, an array (points, dimensions). "
            f"Received: features of shape {features.shape}"
        )
    return features


def _check_same_dimensions(features: np.ndarray, other_features: np.ndarray) -> None:
    dimensions, other_dimensions = features.shape[1], other_features.shape[1]
    if dimensions != other_dimensions:
        raise ValueError(
            f"`other_features` must have the dimensions of `features`, {dimensions}. "
            f"Received: other_features of {other_dimensions} dimensions"
        )


def _chunks(x: np.ndarray) -> Iterator[np.ndarray]:
    return (x[start : start + CHUNK] for start in range(0, len(x), CHUNK))


def _squared_distances(x: np.ndarray, y: np.ndarray) -> Iterator[np.ndarray]:
    """Matrices (a chunk of x, y), one after another."""
    squares = np.sum(y**2, axis=1)
    for chunk in _chunks(x):
        yield np.sum(chunk**2, axis=1)[:, None] + squares - 2 * chunk @ y.T


# The metrics, of images


class Points:
    """The features themselves: memory grows with their number."""

    def __init__(self) -> None:
        self._batches: list[np.ndarray] = []

    def add(self, features: np.ndarray) -> None:
        """Adds a batch (points, dimensions)."""
        self._batches.append(features)

    @property
    def count(self) -> int:
        return sum(map(len, self._batches))

    @property
    def features(self) -> np.ndarray:
        return np.concatenate(self._batches)


@dataclasses.dataclass(eq=False)
class ImageMetric:
    """Compares generated images with real ones, both in batches of any sizes.

    Subclasses choose what is kept of features (`Points` or `Moments`) and implement `compute`.

    Args:
        encoder: What makes features of images, see `keras_ddim.encoders.get`. Defaults to
            "inception_v3".
        name: Name in logs. Defaults to None: the lower-case name of the class.
    """

    encoder: encoders.Encoder | str = "inception_v3"
    _: dataclasses.KW_ONLY
    name: str | None = None
    kept: ClassVar[type] = Points

    def __post_init__(self) -> None:
        self.encoder = encoders.get(self.encoder)
        if self.name is not None and not isinstance(self.name, str):
            raise ValueError(f"`name` must be a text. Received: name={checks.brief(self.name)}")
        self.name = self.name or type(self).__name__.lower()
        self.reset_state()

    def reset_state(self, keep_real: bool = False) -> None:
        """Forgets the generated images and, unless they are to be kept, the real ones."""
        self.generated = self.kept()
        if not keep_real:
            self.real = self.kept()

    def update_state(self, real_images: Any = None, generated_images: Any = None) -> None:
        """Adds images, see `update`, which is faster for several metrics of one encoder."""
        update([self], real_images, generated_images)

    def result(self) -> float:
        """The metric of all images so far; a `ValueError` if they are too few."""
        for kind, kept in (("real", self.real), ("generated", self.generated)):
            if kept.count < 2:
                raise ValueError(
                    f"`{self.name}` needs at least 2 {kind} images. Received: {kept.count}"
                )
        return self.compute(self.real, self.generated)

    def compute(self, real: Any, generated: Any) -> float:
        """The metric of what was kept, of at least two images each."""
        raise NotImplementedError


class FID(ImageMetric):
    """The Fréchet inception distance: `frechet_distance`, in memory that does not grow.

    It is biased: compare only distances of equally many images. See
    `keras_ddim.encoders.InceptionV3` on how it differs from that of the literature.

    Example:

    ```python
    fid = keras_ddim.FID(encoder)
    for real_images in dataset:
        fid.update_state(real_images, model.generate(len(real_images)))
    fid.result()
    ```
    """

    kept = Moments

    def compute(self, real: Moments, generated: Moments) -> float:
        return frechet_distance(real, generated)


@dataclasses.dataclass(eq=False)
class KID(ImageMetric):
    """The kernel inception distance: the mean `kernel_distance` of disjoint parts of the images.

    It is unbiased: for images of one distribution it is 0 on average, however few they are.
    Published code draws subsets that overlap; the spread of those is no standard error. Memory
    grows with the number of images.

    Args:
        encoder, name: See `ImageMetric`.
        num_subsets: Number of random parts, of at least two images each. Defaults to 10.
    """

    num_subsets: int = 10

    def __post_init__(self) -> None:
        super().__post_init__()
        self.num_subsets = checks.check_count("num_subsets", self.num_subsets)

    def standard_error(self) -> float | None:
        """Standard error of `result`, from the spread over the parts; None if there is but one."""
        distances = self._subset_distances(self.real, self.generated)
        if len(distances) == 1:
            return None
        return float(np.std(distances, ddof=1) / np.sqrt(len(distances)))

    def compute(self, real: Points, generated: Points) -> float:
        return float(np.mean(self._subset_distances(real, generated)))

    def _subset_distances(self, *both: Points) -> list[float]:
        parts = min(self.num_subsets, *(points.count // 2 for points in both))
        # A random order, but the same each time.
        shuffled = (np.random.default_rng(0).permutation(points.features) for points in both)
        return list(map(kernel_distance, *(np.array_split(points, parts) for points in shuffled)))


@dataclasses.dataclass(eq=False)
class Precision(ImageMetric):
    """The part of generated images `covered` by real ones. Memory grows with their number.

    Args:
        encoder, name: See `ImageMetric`.
        neighbors: k. Defaults to 3.
    """

    neighbors: int = 3

    def __post_init__(self) -> None:
        super().__post_init__()
        self.neighbors = checks.check_count("neighbors", self.neighbors)

    def compute(self, real: Points, generated: Points) -> float:
        return covered(real.features, generated.features, self.neighbors)


class Recall(Precision):
    """The part of real images `covered` by generated ones; arguments as of `Precision`."""

    def compute(self, real: Points, generated: Points) -> float:
        return covered(generated.features, real.features, self.neighbors)


def update(
    metrics: Sequence[ImageMetric], real_images: Any, generated_images: Any, verbose: int = 0
) -> None:
    """Adds images to several metrics, encoded once for all metrics of one encoder.

    Args:
        metrics: List of `ImageMetric`s.
        real_images, generated_images: As in `keras_ddim.encoders.encode`, or None.
        verbose: 1 for progress bars, 0 for none. Defaults to 0.
    """
    if not isinstance(metrics, (list, tuple)) or not all(
        isinstance(m, ImageMetric) for m in metrics
    ):
        raise ValueError(
            "`metrics` must be a list of metrics, such as [keras_ddim.KID()]. "
            f"Received: metrics={checks.brief(metrics)}"
        )
    for encoder in {id(metric.encoder): metric.encoder for metric in metrics}.values():
        for kind, images in (("real", real_images), ("generated", generated_images)):
            if images is not None:
                features = encoders.encode(encoder, images, verbose)
                for metric in metrics:
                    if metric.encoder is encoder:
                        getattr(metric, kind).add(features)
