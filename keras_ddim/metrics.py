"""Metrics: distances between generated and real images, by the features of an encoder.

Functions compare features; metrics collect the features of images, batch by batch. All computation
is in float64 NumPy, since products of features would lose digits in float32.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import numpy as np

from keras_ddim import checks, encoders

CHUNK = 512  # rows of a matrix of products of features


# Distances between features: arrays (points, dimensions)


class Moments:
    """Number, mean and covariance of points, from batches (points, dimensions), in bounded memory.

    It holds a root of the covariance, since the covariance would have half the digits.
    """

    def __init__(self, *batches: np.ndarray) -> None:
        self._count = 0
        self.mean: np.ndarray | float = 0.0
        self._rows: list[np.ndarray] = []
        for features in batches:
            self.extend(features)

    def __len__(self) -> int:
        return self._count

    def extend(self, features: np.ndarray) -> None:
        """Adds a batch (points, dimensions)."""
        total = len(self) + len(features)
        batch_mean = features.mean(axis=0)
        change = batch_mean - self.mean
        between = change * np.sqrt(len(self) * len(features) / total)
        self._rows += [features - batch_mean, between[None]]
        if sum(map(len, self._rows)) > 2 * len(batch_mean):
            self._rows = [self._compressed_rows()]
        self.mean = self.mean + change * (len(features) / total)
        self._count = total

    @property
    def root(self) -> np.ndarray:
        """A matrix R (rows, dimensions) whose RᵀR is the covariance."""
        return self._compressed_rows() / np.sqrt(len(self) - 1)

    def _compressed_rows(self) -> Any:
        rows = np.concatenate(self._rows)
        return np.linalg.qr(rows, mode="r") if len(rows) > rows.shape[1] else rows


def frechet_distance(features: np.ndarray | Moments, other_features: np.ndarray | Moments) -> float:
    """`|μ − μ'|² + tr(C + C' − 2 (C^½ C' C^½)^½)`, the Fréchet distance of two clouds of points.

    The squared Wasserstein distance between normal distributions with the clouds' means μ and
    covariances C. It is biased upwards, in inverse proportion to the number of points.

    Args:
        features, other_features: Arrays of at least two points, or their `Moments`.

    Reference:
        [Heusel et al., 2017](https://arxiv.org/abs/1706.08500)
    """
    one, other = (
        points if isinstance(points, Moments) else Moments(*_check_features((points, 2)))
        for points in (features, other_features)
    )
    root, other_root = one.root, other.root
    _check_features((root, 0), (other_root, 0))
    # With RᵀR = C and R'ᵀR' = C', the trace of the last root is the nuclear norm of R R'ᵀ.
    overlap = np.linalg.norm(root @ other_root.T, "nuc")
    traces = np.sum(root**2) + np.sum(other_root**2)
    return max(float(np.sum((one.mean - other.mean) ** 2) + traces - 2 * overlap), 0.0)


def kernel_distance(features: np.ndarray, other_features: np.ndarray) -> float:
    """`mean k(x, x̃) + mean k(y, ỹ) − 2 mean k(x, y)`, with `k(x, y) = (x·y / dimensions + 1)³`.

    The squared maximum mean discrepancy of two clouds of at least two points each. No point is
    paired with itself, so it is unbiased, and often below 0 for equal distributions.

    Reference:
        [Bińkowski et al., 2018](https://arxiv.org/abs/1801.01401)
    """

    def kernel_sum(x: np.ndarray, y: np.ndarray) -> float:
        return sum(np.sum((chunk @ y.T / x.shape[1] + 1) ** 3) for chunk in _chunks(x))

    def mean_within(x: np.ndarray) -> float:
        own = np.sum((np.sum(x**2, axis=1) / x.shape[1] + 1) ** 3)
        return (kernel_sum(x, x) - own) / (len(x) * (len(x) - 1))

    x, y = _check_features((features, 2), (other_features, 2))
    return float(mean_within(x) + mean_within(y) - 2 * kernel_sum(x, y) / (len(x) * len(y)))


def covered(features: np.ndarray, other_features: np.ndarray, neighbors: int = 3) -> float:
    """Fraction of `other_features` within the k-th neighbour's distance of some point.

    Args:
        features: Array of more points than `neighbors`.
        other_features: Array of at least one point.
        neighbors: k. Defaults to 3.

    Reference:
        [Kynkäänniemi et al., 2019](https://arxiv.org/abs/1904.06991)
    """
    neighbors = checks.check_count("neighbors", neighbors)
    x, y = _check_features((features, neighbors + 1), (other_features, 1))
    # Index 0 is the point itself.
    nearest = [np.partition(d, neighbors)[:, neighbors] for d in squared_distances(x, x)]
    radii = np.concatenate(nearest)
    inside = [np.any(d <= radii, axis=1) for d in squared_distances(y, x)]
    return float(np.mean(np.concatenate(inside)))


def _check_features(*clouds: tuple[Any, int]) -> list[np.ndarray]:
    """Float64 arrays (points, dimensions) for pairs of features and their fewest points."""
    arrays: list[np.ndarray] = []
    for features, fewest in clouds:
        array = checks.check_array("features", features).astype("float64")
        allowed = f"at least {fewest} points, an array (points, dimensions)"
        checks.require(array.ndim == 2 and len(array) >= fewest, "features", allowed, array)
        arrays.append(array)
    dimensions = arrays[0].shape[1]
    is_same = arrays[-1].shape[1] == dimensions
    checks.require(is_same, "features", f"points of {dimensions} dimensions each", arrays[-1])
    return arrays


def _chunks(x: np.ndarray) -> Iterator[np.ndarray]:
    return (x[start : start + CHUNK] for start in range(0, len(x), CHUNK))


def squared_distances(x: np.ndarray, y: np.ndarray) -> Iterator[np.ndarray]:
    """Squared distances between a chunk of `x` and `y`, matrix by matrix."""
    squares = np.sum(y**2, axis=1)
    for chunk in _chunks(x):
        yield np.sum(chunk**2, axis=1)[:, None] + squares - 2 * chunk @ y.T


# Metrics of images


@dataclasses.dataclass(eq=False)
class ImageMetric:
    """Compares generated images with real ones, both in batches of any sizes.

    Subclasses implement `compute`, and choose the form of their features, `kept`: a list of points,
    which grows with their number, or `Moments`.

    Args:
        encoder: As in `keras_ddim.encoders.get`. Defaults to "inception_v3".
        name: Name in logs. Defaults to None: that of the class in lower case.
    """

    encoder: encoders.Encoder | str = "inception_v3"
    _: dataclasses.KW_ONLY
    name: str | None = None
    kept: ClassVar[type] = list

    def __post_init__(self) -> None:
        self.encoder = encoders.get(self.encoder)
        self.name = self.name or type(self).__name__.lower()
        self.reset_state()

    def reset_state(self, keep_real: bool = False) -> None:
        """Forgets the generated images and, unless `keep_real`, the real ones."""
        self.generated = self.kept()
        if not keep_real:
            self.real = self.kept()

    def update_state(self, real_images: Any = None, generated_images: Any = None) -> None:
        """Adds images. `update` is faster for several metrics of one encoder."""
        update([self], real_images, generated_images)

    def result(self) -> float:
        """The metric of all images so far, at least two of either kind."""
        for kind in ("real", "generated"):
            count = len(getattr(self, kind))
            checks.require(
                count >= 2, f"{kind}_images", f"at least 2 images for {self.name}", count
            )
        return self.compute(self.real, self.generated)

    def compute(self, real: Any, generated: Any) -> float:
        """The metric of the features that were kept, of at least two images of either kind."""
        raise NotImplementedError


class FID(ImageMetric):
    """The Fréchet inception distance: `frechet_distance`, in bounded memory.

    It is biased: compare equal numbers of images only. Values differ from those in the literature,
    see `keras_ddim.encoders.InceptionV3`.

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

    It is unbiased: 0 on average for images of the same distribution. (Published code draws
    overlapping subsets, whose spread is no standard error.) Memory grows with the number of images.

    Args:
        encoder, name: As in `ImageMetric`.
        num_subsets: Number of random parts, of at least two images each. Defaults to 10.
    """

    num_subsets: int = 10

    def __post_init__(self) -> None:
        super().__post_init__()
        self.num_subsets = checks.check_count("num_subsets", self.num_subsets)

    def standard_error(self) -> float | None:
        """Standard error of `result`, from the spread over the parts; None for a single part."""
        distances = self._subset_distances(self.real, self.generated)
        if len(distances) == 1:
            return None
        return float(np.std(distances, ddof=1) / np.sqrt(len(distances)))

    def compute(self, real: Any, generated: Any) -> float:
        return float(np.mean(self._subset_distances(real, generated)))

    def _subset_distances(self, *both: Any) -> list[float]:
        parts = min(self.num_subsets, *(len(points) // 2 for points in both))
        # Always the same order, so that results repeat.
        shuffled = (np.random.default_rng(0).permutation(points) for points in both)
        return list(map(kernel_distance, *(np.array_split(points, parts) for points in shuffled)))


@dataclasses.dataclass(eq=False)
class Precision(ImageMetric):
    """The fraction of generated images `covered` by real ones. Memory grows with their number.

    Args:
        encoder, name: As in `ImageMetric`.
        neighbors: k. Defaults to 3.
    """

    neighbors: int = 3

    def __post_init__(self) -> None:
        super().__post_init__()
        self.neighbors = checks.check_count("neighbors", self.neighbors)

    def compute(self, real: Any, generated: Any) -> float:
        return covered(real, generated, self.neighbors)


class Recall(Precision):
    """The fraction of real images `covered` by generated ones; arguments as in `Precision`."""

    def compute(self, real: Any, generated: Any) -> float:
        return super().compute(generated, real)


def update(
    metrics: Sequence[ImageMetric],
    real_images: Any,
    generated_images: Any,
    verbose: int | str = 0,
) -> None:
    """Adds images to several metrics; metrics that share an encoder share its features.

    Args:
        metrics: List of `ImageMetric`s.
        real_images, generated_images: Images as in `keras_ddim.encoders.encode`, or None.
        verbose: As in `keras_ddim.encoders.encode`. Defaults to 0.
    """
    check_metrics(metrics)
    for encoder in {id(metric.encoder): metric.encoder for metric in metrics}.values():
        for kind, images in (("real", real_images), ("generated", generated_images)):
            if images is not None:
                features = encoders.encode(encoder, images, verbose)
                for metric in metrics:
                    if metric.encoder is encoder:
                        getattr(metric, kind).extend(features)


def check_metrics(metrics: Any) -> Any:
    """`metrics`, which must be a list of `ImageMetric`s."""
    is_list = isinstance(metrics, (list, tuple)) and len(metrics)
    are_metrics = is_list and all(isinstance(metric, ImageMetric) for metric in metrics)
    checks.require(are_metrics, "metrics", "a list of metrics, such as [keras_ddim.KID()]", metrics)
    return metrics
