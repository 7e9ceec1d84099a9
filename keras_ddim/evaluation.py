"""Evaluation of a trained model: distances to real images, and how near to those of training."""

import json
import os
import pathlib
import platform
import time

import keras
import numpy as np

from keras_ddim import checks, encoders, metrics, plots, samplers, schedules
from keras_ddim.files import write_text

FEWEST_IMAGES = 4  # of which a third nearest neighbour can be told
NUM_PROBES = 256  # images whose nearest training images are looked for
NUM_NEAREST = 3
COLUMNS = 8


def evaluate(
    model,
    train_images,
    real_images,
    encoder,
    diffusion_times=(20,),
    *,
    num_images=2000,
    sampler=None,
    schedule=None,
    seed=0,
    batch_size=64,
    verbose=1,
):
    """Measures images generated at several lists of times, and for scale, real ones and noise.

    The metrics are called FID and KID only where the encoder is InceptionV3; with any other they
    are the Fréchet distance and the kernel distance in its features.

    Args:
        model: A `keras_ddim.DiffusionModel`.
        train_images: `tf.data.Dataset` of batches of the images of training.
        real_images: Another of images to compare with, best not those of training. Of both, only
            the first `num_images` count, except that the nearest training image is looked for
            among all.
        encoder: See `keras_ddim.encoders.get`.
        diffusion_times: List of what `model.generate` takes. Defaults to (20,).
        num_images: Number of images generated. Defaults to 2000.
        sampler: See `model.generate`.
        schedule: See `model.generate`.
        seed: Integer. Defaults to 0.
        batch_size: See `model.generate`.
        verbose: 1 for progress bars, 0 for none.

    Returns:
        `(results, pictures)`: a dictionary that can be written as JSON, with all that is needed to
        repeat the evaluation but the data; and those of the first generated images that came
        nearest to one of training, above their nearest training images, nearest first, as an
        array (rows, columns, height, width, channels).

    Raises:
        ValueError: If an argument is not as described.
    """
    start = time.monotonic()
    encoder = encoders.get(encoder)
    sampler = samplers.get(sampler)
    schedule = model.schedule if schedule is None else schedules.get(schedule)
    num_images = checks.check_count("num_images", num_images)
    lists = plots.label_each(
        "diffusion_times", diffusion_times, plots.times_label, "numbers of times and lists of times"
    )
    real = take(real_images, num_images)
    if min(len(real), num_images) < FEWEST_IMAGES:
        raise ValueError(
            f"`num_images` and the number of `real_images` must be at least {FEWEST_IMAGES}. "
            f"Received: num_images={num_images} and {len(real)} real_images"
        )
    names = names_of_metrics(encoder)
    kinds = metrics.FID, metrics.KID, metrics.Precision, metrics.Recall
    measures = [kind(encoder, name=name) for kind, name in zip(kinds, names)]
    real_features = encoders.encode(encoder, real, verbose)

    def measure(label, images, evaluations=None):
        features = encoders.encode(encoder, images, verbose)
        for metric in measures:
            metric.reset_state()
            metric.add_real(real_features)
            metric.add_generated(features)
        values = {metric.name: metric.result() for metric in measures}
        error = measures[1].standard_error()
        rows.append(
            {
                "images": label,
                "evaluations": evaluations,
                "count": len(images),
                **values,
                f"{names[1]} standard error": error,
            }
        )

    rows = []
    measure("real images of training", take(train_images, num_images))
    for label, listed in lists:
        label = f"generated, {label}"
        if verbose:
            print(label)
        generated = model.generate(
            num_images,
            listed,
            sampler=sampler,
            schedule=schedule,
            seed=seed,
            batch_size=batch_size,
            verbose=verbose,
        )
        steps = len(checks.check_diffusion_times(listed))
        measure(label, generated, sampler.count_evaluations(steps))
    noise = np.random.default_rng(seed).standard_normal(generated.shape, "float32")
    measure("noise", model.denormalize(noise))

    probes = generated[:NUM_PROBES], real[:NUM_PROBES]
    nearest, distances = nearest_images(np.concatenate(probes), train_images)
    of_generated, of_real = np.split(distances, [len(probes[0])])
    order = np.argsort(of_generated[:, 0])[:COLUMNS]
    pictures = np.stack([probes[0][order], *np.moveaxis(nearest[order], 1, 0)])

    results = {
        "metrics": names,
        "rows": rows,
        "distance_to_nearest_training_image": {
            "of": listed,
            "generated": float(np.median(of_generated[:, 0])),
            "real": float(np.median(of_real[:, 0])),
            "count": len(of_generated),
        },
        "encoder": encoders.name_of(encoder),
        "real_images": len(real),
        "num_images": num_images,
        "diffusion_times": [listed for _, listed in lists],
        "sampler": keras.saving.serialize_keras_object(sampler),
        "schedule": keras.saving.serialize_keras_object(schedule),
        "seed": seed,
        "batch_size": batch_size,
        "seconds": round(time.monotonic() - start, 1),
        **environment(),
    }
    return results, pictures


def names_of_metrics(encoder):
    """What distances in the features of an encoder may be called, and precision and recall."""
    if isinstance(encoder, encoders.InceptionV3):
        return ["FID", "KID", "precision", "recall"]
    return ["Fréchet distance", "kernel distance", "precision", "recall"]


def take(dataset, num_images):
    """The first images of a dataset of batches, or all if there are fewer, as one array."""
    taken, count = [], 0
    for batch in dataset:
        images = keras.ops.convert_to_numpy(checks.images_of(batch))
        taken.append(images[: num_images - count])
        count += len(taken[-1])
        if count == num_images:
            break
    return np.concatenate(taken)


def nearest_images(images, dataset, count=NUM_NEAREST):
    """The images of a dataset that differ least from given ones, pixel by pixel.

    Args:
        images: Array (images, height, width, channels), floats in [0, 1].
        dataset: Iterable of batches of images, or of (images, labels).
        count: How many to find for each. Defaults to 3.

    Returns:
        `(nearest_images, distances)`, nearest first: arrays (images, count, height, width,
        channels) and (images, count); a distance is the root-mean-square difference of pixels.
    """
    shape = images.shape
    flat = images.reshape(len(images), -1)
    nearest = np.zeros((len(images), 0, flat.shape[1]), "float32")
    distances = np.zeros((len(images), 0))
    for batch in dataset:
        others = keras.ops.convert_to_numpy(checks.images_of(batch)).reshape(-1, flat.shape[1])
        squares = np.sum(flat**2, axis=1)[:, None] + np.sum(others**2, axis=1)
        differences = np.maximum(squares - 2 * flat @ others.T, 0.0) / flat.shape[1]
        distances = np.concatenate([distances, np.sqrt(differences)], axis=1)
        order = np.argsort(distances, axis=1)[:, :count]
        known = nearest.shape[1]
        new = np.zeros((len(images), order.shape[1], flat.shape[1]), "float32")
        rows, columns = np.nonzero(order < known)
        new[rows, columns] = nearest[rows, order[rows, columns]]
        rows, columns = np.nonzero(order >= known)
        new[rows, columns] = others[order[rows, columns] - known]
        nearest, distances = new, np.take_along_axis(distances, order, axis=1)
    return nearest.reshape(shape[0], -1, *shape[1:]), distances


def table(results):
    """The rows of `evaluate` as Markdown."""
    columns = results["metrics"]
    lines = [
        "| images | evaluations each | " + " | ".join(columns) + " |",
        "| --- | ---: |" + " ---: |" * len(columns),
    ]
    for row in results["rows"]:
        error = row[f"{columns[1]} standard error"]
        values = [_number(row[column], 4) for column in columns]
        if error is not None:
            values[1] += f" ± {_number(error, 2)}"
        lines.append(
            f"| {row['images']} | {row['evaluations'] or ''} | " + " | ".join(values) + " |"
        )
    nearest = results["distance_to_nearest_training_image"]
    lines += [
        "",
        f"{results['num_images']} generated images against {results['real_images']} real ones; "
        f"features: {results['encoder']}. The {columns[1]} ± its standard error. Less is better, "
        "but of precision and recall, more.",
        "",
        f"Root-mean-square difference from the nearest training image, median of "
        f"{nearest['count']}: {nearest['generated']:.3g} of generated images, "
        f"{nearest['real']:.3g} of real ones. Far smaller ones would mean that the model "
        "has learnt training images by heart.",
    ]
    return "\n".join(lines) + "\n"


def _number(value, digits):
    """As many digits as given, but no exponents of large numbers."""
    return f"{value:,.0f}" if abs(value) >= 10 ** (digits - 1) else f"{value:.{digits}g}"


def write(output, results, pictures):
    """Writes `results.json`, `table.md` and `nearest.png` to a folder."""
    write_results(output, results, table(results))
    rows, columns = pictures.shape[:2]
    plots.plot_images(
        pictures.reshape(-1, *pictures.shape[2:]),
        columns,
        pathlib.Path(output) / "nearest.png",
        row_labels=["generated", *(f"{n} nearest in training" for n in ("", "2nd", "3rd"))][:rows],
    )


def write_results(output, results, table):
    """Writes a dictionary as `results.json`, and Markdown as `table.md`, to a folder."""
    output = pathlib.Path(output)
    write_text(output / "results.json", json.dumps(results, indent=1, ensure_ascii=False) + "\n")
    write_text(output / "table.md", table)


def environment():
    """Versions and machine, which numbers must be reported with."""
    import tensorflow

    import keras_ddim

    return {
        "versions": {
            "python": platform.python_version(),
            "tensorflow": tensorflow.__version__,
            "keras": keras.__version__,
            "numpy": np.__version__,
            "keras_ddim": keras_ddim.__version__,
        },
        "processor": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
        "system": platform.platform(),
    }
