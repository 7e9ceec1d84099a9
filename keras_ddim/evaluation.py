"""Evaluation of a trained model: distances to real images and to the nearest training images."""

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
from keras_ddim import checks, encoders, metrics, plots, samplers, schedules
from keras_ddim.files import write_text

FEWEST_IMAGES = 4  # each has a third nearest neighbour
NUM_PROBES = 256  # images whose nearest training images are searched
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
    """Compares generated images with real ones; training images and noise set the scale.

    Args:
        model: A `keras_ddim.DiffusionModel`.
        train_images: Training images, as in `fit`. The nearest ones are searched among all,
            distances computed with the first `num_images`.
        real_images: Held-out images, as in `fit`; the first `num_images` are used.
        encoder: As in `keras_ddim.encoders.get`.
        diffusion_times: List of sampling times to evaluate, each as in `model.generate`. Defaults
            to (20,).
        num_images: Number of generated images. Defaults to 2000.
        seed: Integer. Defaults to 0.
        verbose: 1 for progress bars, the default, 0 for none.
        **generate_options: Keyword arguments of `DiffusionModel.generate`. Without `labels`,
            classes are random.

    Returns:
        `(results, pictures)`. The results, a dictionary for JSON, say how to repeat the evaluation,
        given model and data. The pictures, an array (rows, columns, height, width, channels), show
        the generated images closest to training images, above their nearest training images.
    """
    start = time.monotonic()
    num_images = checks.check_count("num_images", num_images, FEWEST_IMAGES)
    is_list = isinstance(diffusion_times, (list, tuple)) and len(diffusion_times)
    checks.require(is_list, "diffusion_times", "a list, as `generate` takes each", diffusion_times)
    options = {"seed": seed, "verbose": verbose, **generate_options}
    if options.get("sampler") is not None:
        options["sampler"] = samplers.get(options["sampler"])
    options["schedule"] = schedules.get(options.get("schedule") or model.schedule)
    for times in diffusion_times:
        model.check_generate(num_images, times, **options)
    real = take(real_images, num_images)
    allowed = f"at least {FEWEST_IMAGES} images"
    checks.require(len(real) >= FEWEST_IMAGES, "real_images", allowed, real)
    measures = make_metrics(encoder)
    metrics.update(measures, real, None, verbose)

    rows: list[dict[str, Any]] = []

    def add_row(label: str, images: np.ndarray, evaluations: int | None = None) -> None:
        for metric in measures:
            metric.reset_state(keep_real=True)
        metrics.update(measures, None, images, verbose)
        row = {"images": label, "evaluations": evaluations, "count": len(images)}
        row |= {metric.name: metric.result() for metric in measures}
        rows.append({**row, f"{measures[1].name} standard error": measures[1].standard_error()})

    add_row("real images of training", take(train_images, num_images))
    for times in diffusion_times:
        label = f"generated, {plots.times_label(times)}"
        if verbose:
            print(label)
        generated = model.generate(num_images, times, **options)
        add_row(label, generated, model.count_evaluations(times, **options))
    noise = np.random.default_rng(seed).standard_normal(generated.shape, "float32")
    add_row("noise", model.denormalize(noise))

    # Real images for scale: copies of training images are far closer.
    probes = np.concatenate([generated[:NUM_PROBES], real[:NUM_PROBES]])
    nearest, distances = nearest_images(probes, train_images)
    of_generated, of_real = np.split(distances[:, 0], [len(generated[:NUM_PROBES])])
    order = np.argsort(of_generated)[:COLUMNS]
    pictures = np.stack([generated[order], *np.moveaxis(nearest[order], 1, 0)])
    encoder = measures[0].encoder
    results = {
        "metrics": [metric.name for metric in measures],
        "rows": rows,
        "distance_to_nearest_training_image": {
            "of": label,
            "generated": float(np.median(of_generated)),
            "real": float(np.median(of_real)),
            "count": len(of_generated),
        },
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
    """FID, KID, precision and recall; the first two have these names for InceptionV3 only."""
    encoder = encoders.get(encoder)
    names = "Fréchet distance", "kernel distance"
    if isinstance(encoder, encoders.InceptionV3):
        names = "FID", "KID"
    distances = metrics.FID(encoder, name=names[0]), metrics.KID(encoder, name=names[1])
    return [*distances, metrics.Precision(encoder), metrics.Recall(encoder)]


def take(data: Any, num_images: int) -> np.ndarray:
    """At most the first `num_images` images of data as in `fit`, as one array."""
    taken, count = [], 0
    for images in _batches(data):
        taken.append(images[: num_images - count])
        count += len(taken[-1])
        if count == num_images:
            break
    return np.concatenate(taken)


def nearest_images(images: np.ndarray, data: Any) -> tuple[np.ndarray, np.ndarray]:
    """The three images of `data`, as in `fit`, that are closest to each of `images`.

    Returns arrays (images, 3, height, width, channels), nearest first, and (images, 3), the
    root-mean-square differences of their pixels.
    """
    # In float64: small distances are differences of large squares.
    flat = images.reshape(len(images), -1).astype("float64")
    rows = np.arange(len(images))[:, None]
    nearest = np.zeros((len(images), 0, *images.shape[1:]), "float32")
    squares = np.zeros((len(images), 0))
    for others in _batches(data):
        flat_others = others.reshape(len(others), -1).astype("float64")
        new = np.concatenate([*metrics.squared_distances(flat, flat_others)])
        closest = np.argsort(new, axis=1)[:, :NUM_NEAREST]
        nearest = np.concatenate([nearest, others[closest]], axis=1)
        squares = np.concatenate([squares, new[rows, closest]], axis=1)
        order = np.argsort(squares, axis=1)[:, :NUM_NEAREST]
        nearest, squares = nearest[rows, order], squares[rows, order]
    return nearest, np.sqrt(np.maximum(squares, 0.0) / flat.shape[1])


def _batches(data: Any) -> Iterator[np.ndarray]:
    batches = map(checks.first_of, checks.batches(data))
    return (keras.ops.convert_to_numpy(checks.to_float(images)) for images in batches)


def table(results: dict[str, Any]) -> str:
    """The rows of `evaluate` as Markdown."""
    columns = results["metrics"]
    lines = [["images", "evaluations each", *columns], ["---", *["---:"] * (1 + len(columns))]]
    for row in results["rows"]:
        values = [_number(row[column], 4) for column in columns]
        error = row[f"{columns[1]} standard error"]
        values[1] += "" if error is None else f" ± {_number(error, 2)}"
        lines.append([row["images"], str(row["evaluations"] or ""), *values])
    nearest = results["distance_to_nearest_training_image"]
    text = "".join(f"| {' | '.join(line)} |\n" for line in lines)
    return f"""{text}
{results["num_images"]} generated images against {results["real_images"]} real ones, by the \
features of {results["encoder"]}. Lower distances are better, and higher precision and recall; \
± is the standard error of the {columns[1]}.

Root-mean-square difference from the nearest training image, median of {nearest["count"]}: \
{nearest["generated"]:.3g} for generated images, {nearest["real"]:.3g} for real ones. A far \
smaller one for generated images would mean that the model has memorised training images.
"""


def _number(value: float, digits: int) -> str:
    """`value` with that many digits; large numbers without exponents."""
    return f"{value:,.0f}" if abs(value) >= 10 ** (digits - 1) else f"{value:.{digits}g}"


def write(output: str | os.PathLike, results: dict[str, Any], pictures: np.ndarray) -> None:
    """Writes the results of `evaluate` to a folder: `results.json`, `table.md`, `nearest.png`."""
    write_results(output, results, table(results))
    places = "nearest", "2nd nearest", "3rd nearest"
    labels = ["generated", *(f"{place} in training" for place in places)]
    plots.plot_rows(dict(zip(labels, pictures)), pathlib.Path(output, "nearest.png"))


def write_results(output: str | os.PathLike, results: dict[str, Any], table: str) -> None:
    """Writes a dictionary as `results.json`, and Markdown as `table.md`, to a folder."""
    output = pathlib.Path(output)
    write_text(output / "results.json", json.dumps(results, indent=1, ensure_ascii=False) + "\n")
    write_text(output / "table.md", table)


def environment() -> dict[str, Any]:
    """Versions and machine, to report with numbers."""
    backend = keras.backend.backend()
    modules = sys.modules[backend], keras, np, keras_ddim  # Keras has imported its backend
    versions = {module.__name__: module.__version__ for module in modules}
    return {
        "backend": backend,
        "versions": {"python": platform.python_version(), **versions},
        "processor": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
        "system": platform.platform(),
    }
