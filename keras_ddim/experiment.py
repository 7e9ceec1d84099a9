"""Noise level or timestep? Two models, three schedules, with translation and without, measured.

Two networks that differ in nothing but what they are told, the noise variance or the timestep of
the training schedule, are sampled under the training schedule and under others:

    python -m keras_ddim.experiment --data fashion_mnist --output results

The functions here are the steps of that, in order; `run` takes them all. The notebook
`noise_level_or_timestep.ipynb` takes them one by one.
"""

import argparse
import dataclasses
import math
import pathlib
import time
import typing

import keras
import numpy as np

from keras_ddim import conditioning, encoders, metrics, plots, schedules, times
from keras_ddim.data import load_images
from keras_ddim.evaluation import environment, write_results
from keras_ddim.model import DiffusionModel
from keras_ddim.networks import ResidualUNet

NUM_TIMESTEPS = 4000

TRAINING, COSINE, LOG_SNR_LINEAR = "linear-β (training)", "cosine", "log-SNR linear"
VARIANCE, UNTRANSLATED, TRANSLATED = "noise variance", "timestep", "timestep, translated"

PICTURES = 8
GENERATION_BATCH = 256


@dataclasses.dataclass(frozen=True)
class Settings:
    """The sizes of the experiment. With the defaults it takes about an hour of processor time.

    Attributes:
        data: Labelled images, as `keras_ddim.load_images` takes them.
        data_dir: Folder in which TensorFlow Datasets keeps its data, or None for its default.
        image_size: Height and width that the images are resized to.
        widths: Of the network, as in `keras_ddim.ResidualUNet`.
        block_depth: Of the network.
        batch_size: Of the training of all models.
        steps: Training steps of each of the two models.
        classifier_steps: Training steps of the classifier whose features are compared.
        num_images: Images generated in each cell of the table. The Fréchet distance of few images
            comes out too large, the more so the fewer they are: cells can only be compared because
            this number is the same in all, those of 4,000 evaluations and the references included.
        num_times: How many of the timesteps are visited. All of them, being so slow, only under
            the training schedule.
        seeds: A pair of models is trained with each.
    """

    data: str = "flowers"
    data_dir: str | None = None
    image_size: int = 16
    widths: tuple = (16, 32, 64)
    block_depth: int = 1
    batch_size: int = 64
    steps: int = 2000
    classifier_steps: int = 1000
    num_images: int = 128
    num_times: tuple = (NUM_TIMESTEPS, 200, 20)
    seeds: tuple = (0, 1, 2)


# About two minutes. Much smaller networks or much shorter training would not get far enough for
# a wrong noise level to matter; small differences are left to the full form.
SHORT = {
    "image_size": 12,
    "widths": (16, 32),
    "steps": 1000,
    "classifier_steps": 500,
    "num_times": (100, 20),
    "seeds": (0,),
}


class Cell(typing.NamedTuple):
    """One way to sample: a cell of the table."""

    schedule: str
    num_times: int
    told: str

    def __str__(self):
        return f"{self.schedule}, {self.num_times} times, told: {self.told}"


class Data(typing.NamedTuple):
    """Labelled images as arrays, (images, height, width, channels), in [0, 1]."""

    images: np.ndarray
    labels: np.ndarray
    validation_images: np.ndarray
    validation_labels: np.ndarray


# The parts


def load_data(settings):
    """Loads the images once, to be shuffled and batched by seed for each model."""
    datasets = load_images(
        settings.data,
        settings.image_size,
        batch_size=1000,
        labels=True,
        shuffle=False,
        seed=0,
        data_dir=settings.data_dir,
    )
    return Data(*(np.concatenate(part) for dataset in datasets for part in zip(*dataset)))


def batches(images, steps, settings, seed):
    """Shuffled batches for so many steps, the same whenever the seed is the same."""
    labelled = isinstance(images, tuple)
    num_images = len(images[0] if labelled else images)
    dataset, _ = load_images(
        images,
        settings.image_size,
        batch_size=settings.batch_size,
        labels=labelled,
        validation_split=0,
        repetitions=math.ceil(steps * settings.batch_size / num_images),
        seed=seed,
    )
    return dataset.take(steps)


def make_schedules():
    """The training schedule and two others between the same two noise levels.

    No schedule leads out of what the models were trained on, so that all that differs is how fast
    it gets from the noisiest level to the cleanest.
    """
    training = schedules.LinearBetaSchedule(NUM_TIMESTEPS)
    ends = np.array([0.0, 1.0])
    max_log_snr, min_log_snr = keras.ops.convert_to_numpy(training.log_snr(ends)).tolist()
    _, signal_rates = training.rates(ends)
    max_signal_rate, min_signal_rate = keras.ops.convert_to_numpy(signal_rates).tolist()
    return {
        TRAINING: training,
        COSINE: schedules.CosineSchedule(min_signal_rate, max_signal_rate),
        LOG_SNR_LINEAR: schedules.LogSNRLinearSchedule(max_log_snr, min_log_snr),
    }


def train_pair(images, settings, seed, verbose=1):
    """Trains two models that differ only in what their network is told.

    Initial weights, images, their order and the noise on them are the same. The noise levels are
    not quite: a model told of timesteps trains at those only, the other in between, too.

    Args:
        images: Array of images.
        settings: The `Settings`.
        seed: Integer.
        verbose: 1 for progress bars, 0 for none.

    Returns:
        `(variance_model, timestep_model)`, both a `keras_ddim.DiffusionModel`.
    """
    schedule = make_schedules()[TRAINING]
    pair = []
    for told in (conditioning.NoiseVariance(), conditioning.Timestep(schedule, NUM_TIMESTEPS)):
        network = ResidualUNet(images.shape[1:], settings.widths, settings.block_depth, seed=seed)
        model = DiffusionModel(network=network, schedule=schedule, seed=seed, conditioning=told)
        model.compile()
        model.adapt(images)
        print(f"Training with seed {seed}, told the {type(told).__name__}")
        model.fit(batches(images, settings.steps, settings, seed), verbose=verbose)
        pair.append(model)
    return tuple(pair)


def told_otherwise(model, told):
    """A copy of a trained model, weights and all, with another conditioning."""
    config = {**model.get_config(), "conditioning": keras.saving.serialize_keras_object(told)}
    copy = DiffusionModel.from_config(config)
    copy.set_weights(model.get_weights())
    copy.normalizer.finalize_state()
    return copy


def forms(variance_model, timestep_model):
    """What is sampled: the one model, and the other without translation and with it."""
    told = timestep_model.conditioning
    untranslated = conditioning.Timestep(told.schedule, told.num_timesteps, translate=False)
    return {
        VARIANCE: variance_model,
        UNTRANSLATED: told_otherwise(timestep_model, untranslated),
        TRANSLATED: timestep_model,
    }


def cells(settings):
    """All cells of the table, row by row."""
    rows = [(name, num) for name in make_schedules() for num in settings.num_times]
    every = [Cell(*row, told) for row in rows for told in (VARIANCE, UNTRANSLATED, TRANSLATED)]
    # All timesteps are for the training schedule, where translation changes nothing, as the cells
    # of fewer show: once is enough.
    slow = [cell for cell in every if cell.num_times == NUM_TIMESTEPS]
    left_out = {cell for cell in slow if cell.schedule != TRAINING or cell.told == TRANSLATED}
    return [cell for cell in every if cell not in left_out]


def generate(models, cell, num_images, seed, verbose=1):
    """The images of a cell; image i starts from the same noise in all cells.

    The timesteps are spread evenly from the last to the first, both included, so that sampling
    starts and ends at the same noise levels under every schedule.

    Args:
        models: The dictionary that `forms` returns.
        cell: The `Cell`.
        num_images: Number of images.
        seed: Integer.
        verbose: 1 for a progress bar, 0 for none.

    Returns:
        Array (num_images, height, width, channels) of values in [0, 1].
    """
    return models[cell.told].generate(
        num_images,
        times.timesteps(cell.num_times, NUM_TIMESTEPS, "linspace"),
        schedule=make_schedules()[cell.schedule],
        seed=seed,
        batch_size=GENERATION_BATCH,
        verbose=verbose,
    )


# The measure


def train_encoder(data, settings, verbose=1):
    """Trains a small classifier of the images, by whose features they are compared.

    Args:
        data: The `Data`.
        settings: The `Settings`.
        verbose: 1 for a progress bar, 0 for none.

    Returns:
        A `keras_ddim.encoders.Classifier`, the same in every run and for all seeds.
    """
    keras.utils.set_random_seed(0)
    print("Training the classifier")
    labelled = batches((data.images, data.labels), settings.classifier_steps, settings, seed=0)
    validation, _ = load_images(
        (data.validation_images, data.validation_labels),
        settings.image_size,
        batch_size=1000,
        labels=True,
        validation_split=0,
        shuffle=False,
    )
    num_classes = int(data.labels.max()) + 1
    return encoders.train_classifier(labelled, validation, num_classes, verbose=verbose)


# The whole


def run(settings, output=None, verbose=1):
    """Trains, samples and measures; writes and returns the results.

    Args:
        settings: The `Settings`.
        output: Folder for `results.json`, `table.md` and `pictures.png`, written anew after each
            seed; or None.
        verbose: 1 for progress bars, 0 for a line of text each.

    Returns:
        `(results, pictures)`: what is in `results.json`, and a dictionary of arrays, the first few
        images of each cell and the first seed.
    """
    start = time.monotonic()
    data = load_data(settings)
    encoder = train_encoder(data, settings, verbose)
    real = metrics.Moments(encoders.encode(encoder, data.validation_images))
    distances, pictures, largest_difference = {}, {}, 0.0

    for seed in settings.seeds:

        def measure(name, images, seed=seed):
            distance = metrics.frechet_distance(encoders.encode(encoder, images), real)
            distances.setdefault(name, []).append(distance)
            if seed == settings.seeds[0]:
                pictures[name] = images[:PICTURES]

        pair = train_pair(data.images, settings, seed, verbose)
        models = forms(*pair)
        rng = np.random.default_rng(seed)
        chosen = rng.choice(len(data.images), settings.num_images, replace=False)
        noise = rng.standard_normal((settings.num_images, *data.images.shape[1:]), "float32")
        measure("real images", data.images[chosen])
        measure("pure noise", pair[0].denormalize(noise))
        images = {}
        for cell in cells(settings):
            print(f"Seed {seed}: {cell}")
            images[cell] = generate(models, cell, settings.num_images, seed, verbose)
            measure(cell, images[cell])
        for cell in images:
            if cell.schedule == TRAINING and cell.told == TRANSLATED:
                difference = np.abs(images[cell] - images[cell._replace(told=UNTRANSLATED)]).max()
                largest_difference = max(largest_difference, float(difference))

        results = {
            "settings": dataclasses.asdict(settings),
            "finished_seeds": len(distances["real images"]),
            "validation_images": len(data.validation_images),
            "classifier_accuracy": encoder.accuracy,
            "references": {name: distances[name] for name in ("real images", "pure noise")},
            "cells": [{**cell._asdict(), "distances": distances[cell]} for cell in images],
            "largest_pixel_difference_by_translation_under_training_schedule": largest_difference,
            "seconds": round(time.monotonic() - start, 1),
            **environment(),
        }
        if output is not None:
            _write(output, results, pictures)
    return results, pictures


def _write(output, results, pictures):
    write_results(output, results, table(results))
    plot_pictures(pictures, pathlib.Path(output) / "pictures.png")


def table(results):
    """The distances of `run` as Markdown: mean ± standard deviation over the seeds."""
    entries = {
        (cell["schedule"], cell["num_times"], cell["told"]): _mean_and_spread(cell["distances"])
        for cell in results["cells"]
    }
    told = (VARIANCE, UNTRANSLATED, TRANSLATED)
    lines = [
        "| sampled under | times | " + " | ".join(f"told: {name}" for name in told) + " |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for schedule, num_times in dict.fromkeys(key[:2] for key in entries):
        row = [entries.get((schedule, num_times, name), "—") for name in told]
        lines.append(f"| {schedule} | {num_times} | " + " | ".join(row) + " |")
    references = results["references"].items()
    lines += ["", "| for comparison | distance |", "| --- | ---: |"]
    lines += [f"| {name} | {_mean_and_spread(values)} |" for name, values in references]
    num_images, num_seeds = results["settings"]["num_images"], results["finished_seeds"]
    seeds = "one seed" if num_seeds == 1 else f"mean ± standard deviation over {num_seeds} seeds"
    lines += [
        "",
        f"Fréchet distance to {results['validation_images']} real images (less is better), in the "
        f"{encoders.CLASSIFIER_FEATURES} features of a classifier that is right on "
        f"{results['classifier_accuracy']:.1%} of them; {seeds}. So few images look farther away "
        f"than they are: it is {num_images} in every entry, those for comparison included.",
    ]
    return "\n".join(lines) + "\n"


def _mean_and_spread(values):
    if len(values) == 1:
        return f"{values[0]:.2f}"
    return f"{np.mean(values):.2f} ± {np.std(values, ddof=1):.2f}"


def plot_pictures(pictures, path=None):
    """A row of images for each entry of a dictionary, in columns of the same initial noise.

    Args:
        pictures: Dictionary of equally many images each, such as `run` returns.
        path: File to write. Defaults to None: a figure is returned instead.

    Returns:
        A `matplotlib.figure.Figure`, or None where `path` is given.
    """
    rows = list(pictures.values())
    labels = [str(name) for name in pictures]
    return plots.plot_images(np.concatenate(rows), len(rows[0]), path, row_labels=labels)


# The command line


def main(argv=None):
    """Runs the experiment and prints its table.

    Args:
        argv: List of arguments. Defaults to None: those of the process.
    """

    def integers(text):
        return tuple(int(part) for part in text.split(","))

    parser = argparse.ArgumentParser(
        prog="python -m keras_ddim.experiment",
        description="Measures what a diffusion model told the noise level, and one told the "
        "timestep, make of schedules they were not trained with.",
        argument_default=argparse.SUPPRESS,
    )
    add = parser.add_argument
    add("--data", help="flowers (default), a folder with a sub-folder for each class, or a name "
        "in TensorFlow Datasets")  # fmt: skip
    add("--data-dir", help="folder in which TensorFlow Datasets keeps its data")
    add("--output", default="experiment-output", help="folder to write to (%(default)s)")
    add("--short", action="store_true", default=False, help="a taste of it, in about two minutes")
    add("--image-size", type=int, help=f"size of the images ({Settings.image_size})")
    add("--steps", type=int, help=f"training steps of each model ({Settings.steps})")
    add("--classifier-steps", type=int, help=f"of the classifier ({Settings.classifier_steps})")
    add("--num-images", type=int, help=f"images in each cell ({Settings.num_images})")
    add("--num-times", type=integers, help="how many timesteps to visit (4000,200,20)")
    add("--seeds", type=integers, help="seeds, one pair of models each (0,1,2)")
    given = vars(parser.parse_args(argv))

    output, short = given.pop("output"), given.pop("short")
    results, _ = run(Settings(**{**(SHORT if short else {}), **given}), output)
    print(f"\n{table(results)}\nWritten to {output} in {results['seconds'] / 60:.0f} minutes.")


if __name__ == "__main__":
    main()
