"""Evaluation of a trained model: distances to real images, and to the nearest ones of training."""

import json
import os
import pathlib
import platform
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np

import keras_ddim
from keras_ddim import checks, encoders, metrics, plots, samplers, sampling, schedules
from keras_ddim.files import write_text

FEWEST_IMAGES = 4  # of which each has a third nearest neighbour
NUM_PROBES = 256  # images whose nearest training images are looked for
NUM_NEAREST = 3
COLUMNS = 8


def evaluate(
    model: Any,
    train_images: Any,
    real_images: Any,
    encoder: encoders.Encoder | str,
    diffusion_times: Sequence[Any] = (20,),
    *,
    num_images: int = 2000,
    seed: int = 0,
    verbose: int = 1,
    **generate_options: Any,
) -> tuple[dict[str, Any], np.ndarray]:
    """Measures images generated at several lists of times and, for scale, real ones and noise.

    Args:
        model: A `keras_ddim.DiffusionModel`.
        train_images: Images of training, anything that `fit` takes.
        real_images: Images to compare with, best not those of training. Of both, the first
            `num_images` are used; nearest training images are sought among all.
        encoder: See `keras_ddim.encoders.get`.
        diffusion_times: List of what `model.generate` takes. Defaults to (20,).
        num_images: Number of images generated. Defaults to 2000.
        seed: Integer. Defaults to 0.
        verbose: 1 for progress bars, the default, 0 for none.
        **generate_options: Keyword arguments of `DiffusionModel.generate`. Without `labels`, a
            model that takes them generates as many images of each class.

    Returns:
        `(results, pictures)`: a dictionary that can be written as JSON, with all that is needed to
        repeat the evaluation but model and data; and the generated images nearest to one of
        training, above their nearest training images, nearest first, an array (rows, columns,
        height, width, channels).
    """
    start = time.monotonic()
    num_images = checks.check_count("num_images", num_images)
    options = sampling.check_generate_options(generate_options)
    sampler = options.get("sampler")
    options["sampler"] = None if sampler is None else samplers.get(sampler)
    options["schedule"] = schedules.get(options.get("schedule") or model.schedule)
    if not isinstance(diffusion_times, (list, tuple)) or not len(diffusion_times):
        raise ValueError(
            "`diffusion_times` must be a list of numbers of times and lists of times. "
            f"Received: diffusion_times={checks.brief(diffusion_times)}"
        )
    num_evaluations = [model.count_evaluations(times, **options) for times in diffusion_times]
    real = take(real_images, num_images)
    if min(len(real), num_images) < FEWEST_IMAGES:
        raise ValueError(
            f"`num_images` and the number of `real_images` must be at least {FEWEST_IMAGES}. "
            f"Received: num_images={num_images} and {len(real)} real_images"
        )
    measures = make_metrics(encoder)
    metrics.update(measures, real, None, verbose)

    def row(label: str, images: np.ndarray, evaluations: int | None = None) -> dict[str, Any]:
        for metric in measures:
            metric.reset_state(keep_real=True)
        metrics.update(measures, None, images, verbose)
        return {
            "images": label,
            "evaluations": evaluations,
            "count": len(images),
            **{metric.name: metric.result() for metric in measures},
            f"{measures[1].name} standard error": measures[1].standard_error(),
        }

    rows = [row("real images of training", take(train_images, num_images))]
    for times, evaluations in zip(diffusion_times, num_evaluations):
        label = f"generated, {plots.times_label(times)}"
        if verbose:
            print(label)
        generated = model.generate(
            num_images, times, **{"seed": seed, "verbose": verbose, **options}
        )
        rows.append(row(label, generated, evaluations))
    noise = np.random.default_rng(seed).standard_normal(generated.shape, "float32")
    rows.append(row("noise", model.denormalize(noise)))

    distances, pictures = _compare_with_training(generated, real, train_images)
    encoder = measures[0].encoder
    results = {
        "metrics": [metric.name for metric in measures],
        "rows": rows,
        "distance_to_nearest_training_image": {"of": label, **distances},
        "encoder": getattr(encoder, "__qualname__", None) or str(encoder),
        "real_images": len(real),
        "num_images": num_images,
        "diffusion_times": [np.asarray(times).tolist() for times in diffusion_times],
        "seed": seed,
        "generate_options": keras.saving.serialize_keras_object(options),
        "seconds": round(time.monotonic() - start, 1),
        **environment(),
    }
    return results, pictures


def make_metrics(encoder: encoders.Encoder | str) -> list[Any]:
    """FID, KID, precision and recall; only those in features of InceptionV3 are called so."""
    encoder = encoders.get(encoder)
    is_inception = isinstance(encoder, encoders.InceptionV3)
    return [
        metrics.FID(encoder, name="FID" if is_inception else "Fréchet distance"),
        metrics.KID(encoder, name="KID" if is_inception else "kernel distance"),
        metrics.Precision(encoder),
        metrics.Recall(encoder),
    ]


def take(data: Any, num_images: int) -> np.ndarray:
    """The first images of anything `fit` takes, or all if there are fewer, as one array."""
    taken, count = [], 0
    for images in _batches(data):
        taken.append(images[: num_images - count])
        count += len(taken[-1])
        if count == num_images:
            break
    return np.concatenate(taken)


def nearest_images(images: np.ndarray, data: Any) -> tuple[np.ndarray, np.ndarray]:
    """The three images of `data`, anything `fit` takes, that differ least from each of `images`.

    Returns arrays (images, 3, height, width, channels), nearest first, and (images, 3): distances,
    root-mean-square differences of pixels.
    """
    # In float64: small distances are differences of large squares.
    flat = images.reshape(len(images), -1).astype("float64")
    nearest = np.zeros((len(images), 0, *images.shape[1:]), "float32")
    distances = np.zeros((len(images), 0))
    for others in _batches(data):
        flat_others = others.reshape(len(others), -1).astype("float64")
        squares = np.sum(flat**2, axis=1)[:, None] + np.sum(flat_others**2, axis=1)
        squares = np.maximum(squares - 2 * flat @ flat_others.T, 0.0)
        new = np.argsort(squares, axis=1)[:, :NUM_NEAREST]
        new_distances = np.sqrt(np.take_along_axis(squares, new, axis=1) / flat.shape[1])
        distances = np.concatenate([distances, new_distances], axis=1)
        order = np.argsort(distances, axis=1)[:, :NUM_NEAREST]
        distances = np.take_along_axis(distances, order, axis=1)
        nearest = np.concatenate([nearest, others[new]], axis=1)
        nearest = np.take_along_axis(nearest, order[..., None, None, None], axis=1)
    return nearest, distances


def _batches(data: Any) -> Iterator[np.ndarray]:
    batches = map(checks.images_of, checks.batches(data))
    return (keras.ops.convert_to_numpy(checks.scale(images)) for images in batches)


def _compare_with_training(
    generated: np.ndarray, real: np.ndarray, train_images: Any
) -> tuple[dict[str, Any], np.ndarray]:
    """Median distances to the nearest training image, and the nearest pairs as pictures."""
    generated, real = generated[:NUM_PROBES], real[:NUM_PROBES]
    nearest, distances = nearest_images(np.concatenate([generated, real]), train_images)
    of_generated, of_real = np.split(distances[:, 0], [len(generated)])
    order = np.argsort(of_generated)[:COLUMNS]
    pictures = np.stack([generated[order], *np.moveaxis(nearest[order], 1, 0)])
    medians = {"generated": float(np.median(of_generated)), "real": float(np.median(of_real))}
    return {**medians, "count": len(generated)}, pictures


def table(results: dict[str, Any]) -> str:
    """The rows of `evaluate` as Markdown."""
    columns = results["metrics"]
    lines = [
        f"| images | evaluations each | {' | '.join(columns)} |",
        f"| --- | ---: |{' ---: |' * len(columns)}",
    ]
    for row in results["rows"]:
        values = [_number(row[column], 4) for column in columns]
        error = row[f"{columns[1]} standard error"]
        if error is not None:
            values[1] += f" ± {_number(error, 2)}"
        lines.append(f"| {row['images']} | {row['evaluations'] or ''} | {' | '.join(values)} |")
    nearest = results["distance_to_nearest_training_image"]
    lines.append(
        f"""
{results["num_images"]} generated images against {results["real_images"]} real ones; features: \
{results["encoder"]}. The {columns[1]} ± its standard error. Lower is better; for precision and \
recall, higher.

Root-mean-square difference from the nearest training image, median of {nearest["count"]}: \
{nearest["generated"]:.3g} of generated images, {nearest["real"]:.3g} of real ones. Far smaller \
ones would mean that the model has memorised training images.
"""
    )
    return "\n".join(lines)


def _number(value: float, digits: int) -> str:
    """As many digits as given, but no exponents of large numbers."""
    return f"{value:,.0f}" if abs(value) >= 10 ** (digits - 1) else f"{value:.{digits}g}"


def write(output: str | os.PathLike, results: dict[str, Any], pictures: np.ndarray) -> None:
    """Writes what `evaluate` returned: `results.json`, `table.md` and `nearest.png` in a folder."""
    write_results(output, results, table(results))
    ranks = ["generated", *(f"{rank}nearest in training" for rank in ("", "2nd ", "3rd "))]
    plots.plot_images(
        pictures.reshape(-1, *pictures.shape[2:]),
        pictures.shape[1],
        pathlib.Path(output) / "nearest.png",
        row_labels=ranks[: len(pictures)],
    )


def write_results(output: str | os.PathLike, results: dict[str, Any], table: str) -> None:
    """Writes a dictionary as `results.json`, and Markdown as `table.md`, to a folder."""
    output = pathlib.Path(output)
    write_text(output / "results.json", json.dumps(results, indent=1, ensure_ascii=False) + "\n")
    write_text(output / "table.md", table)


def environment() -> dict[str, Any]:
    """Versions and machine, which numbers must be reported with."""
    backend = keras.backend.backend()
    return {
        "backend": backend,
        "versions": {
            "python": platform.python_version(),
            backend: sys.modules[backend].__version__,  # imported by Keras
            "keras": keras.__version__,
            "numpy": np.__version__,
            "keras_ddim": keras_ddim.__version__,
        },
        "processor": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
        "system": platform.platform(),
    }
