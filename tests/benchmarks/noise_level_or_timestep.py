"""Noise level or timestep? Two models, three schedules, with timesteps remapped and not, measured.

    python tests/benchmarks/noise_level_or_timestep.py --data fashion_mnist --output results

Two networks that differ only in what they are conditioned on, the noise variance or the timestep of
the training schedule, are sampled under that schedule and under two others. Remapped, the timestep
is the one that has the image's noise level under the training schedule; not remapped, it is the one
that has it under the schedule in use, as in a loop over timesteps whose table of noise levels was
replaced.

The images of a cell start from the same noise in all cells. They are compared with real ones by
their Fréchet distance in the features of a small classifier, which is too large for few images: it
compares only because all cells have equally many. Writes `results.json`, `table.md` and
`pictures.png` after each seed. With the defaults it takes about an hour of processor time.
"""

import argparse
import itertools
import math
import pathlib
import time

import keras
import numpy as np

from keras_ddim import (
    CosineSchedule,
    DiffusionModel,
    ResidualUNet,
    conditioning,
    encoders,
    evaluation,
    load_images,
    metrics,
    plots,
    schedules,
    times,
)

NUM_TIMESTEPS = 4000
TRAINING = "linear-β (training)"
VARIANCE, NOT_REMAPPED, REMAPPED = CONDITIONS = (
    "noise variance",
    "timestep, without remapping",
    "timestep, with remapping",
)
NUM_PICTURES = 8


def make_schedules():
    """The training schedule and two others between the same two noise levels.

    No schedule leaves the range of training: they differ only in how fast they cross it.
    """
    training = schedules.LinearBetaSchedule(NUM_TIMESTEPS)
    ends = np.array([0.0, 1.0])
    _, signal_rates = training.rates(ends)
    max_log_snr, min_log_snr = keras.ops.convert_to_numpy(training.log_snr(ends)).tolist()
    max_signal_rate, min_signal_rate = keras.ops.convert_to_numpy(signal_rates).tolist()
    return {
        TRAINING: training,
        "cosine": CosineSchedule(min_signal_rate, max_signal_rate),
        "log-SNR linear": schedules.LogSNRLinearSchedule(max_log_snr, min_log_snr),
    }


def make_cells(args):
    """All `(schedule, number of times, condition)`, row by row."""
    return [
        (schedule, num_times, condition)
        for schedule, num_times, condition in itertools.product(
            make_schedules(), args.num_times, CONDITIONS
        )
        # All timesteps, being slow, only where they are needed: under the training schedule, where
        # remapping changes nothing, as the cells of fewer times show.
        if num_times < NUM_TIMESTEPS or (schedule == TRAINING and condition != REMAPPED)
    ]


def make_batches(data, steps, args, seed):
    """Shuffled batches of images, or of (images, labels), for so many steps."""
    labels = isinstance(data, tuple)
    repetitions = math.ceil(steps * args.batch_size / len(data[0] if labels else data))
    dataset, _ = load_images(
        data,
        args.image_size,
        batch_size=args.batch_size,
        labels=labels,
        validation_split=0,
        repetitions=repetitions,
        seed=seed,
    )
    return dataset.take(steps)


def train_pair(images, args, seed):
    """`(variance_model, timestep_model)`, alike but for their conditioning.

    Initial weights, images, their order and the noise on them are the same. The noise levels are
    not quite: the timestep model trains at those of timesteps only, the other in between, too.
    """
    schedule = make_schedules()[TRAINING]
    pair = []
    for rule in (conditioning.NoiseVariance(), conditioning.Timestep(schedule, NUM_TIMESTEPS)):
        network = ResidualUNet(images.shape[1:], args.widths, block_depth=1, seed=seed)
        model = DiffusionModel(network=network, schedule=schedule, seed=seed, conditioning=rule)
        model.compile()
        model.adapt(images)
        print(f"Seed {seed}: training a model conditioned on the {type(rule).__name__}")
        model.fit(make_batches(images, args.steps, args, seed), verbose=args.verbose)
        pair.append(model)
    return pair


def with_conditioning(model, rule):
    """A copy of a trained model with another conditioning."""
    config = {**model.get_config(), "conditioning": keras.saving.serialize_keras_object(rule)}
    copy = DiffusionModel.from_config(config)
    copy.set_weights(model.get_weights())
    return copy


def generate(variance_model, timestep_model, cell, args, seed):
    """The images of a cell.

    The timesteps are spread evenly from the last to the first, both included, so that sampling
    starts and ends at the same noise levels under every schedule.
    """
    schedule_name, num_times, condition = cell
    schedule = make_schedules()[schedule_name]
    model = variance_model if condition == VARIANCE else timestep_model
    if condition == NOT_REMAPPED:
        model = with_conditioning(model, conditioning.Timestep(schedule, NUM_TIMESTEPS))
    return model.generate(
        args.num_images,
        times.timesteps(num_times, NUM_TIMESTEPS, "linspace"),
        sampler="ddim",
        schedule=schedule,
        seed=seed,
        batch_size=256,
        verbose=args.verbose,
    )


def run(args):
    """Trains, samples and measures; writes the results and returns them."""
    start = time.monotonic()
    datasets = load_images(
        args.data,
        args.image_size,
        batch_size=1000,
        labels=True,
        shuffle=False,
        seed=0,
        data_dir=args.data_dir,
    )
    images, labels = (np.concatenate(part) for part in zip(*datasets[0]))
    keras.utils.set_random_seed(0)
    print("Training the classifier")
    batches = make_batches((images, labels), args.classifier_steps, args, seed=0)
    num_classes = int(labels.max()) + 1
    encoder = encoders.train_classifier(batches, datasets[1], num_classes, verbose=args.verbose)
    real = metrics.Moments(*(encoders.encode(encoder, batch) for batch, _ in datasets[1]))

    cells, distances, pictures, changes = make_cells(args), {}, {}, {}
    for seed in args.seeds:
        pair = train_pair(images, args, seed)
        rng = np.random.default_rng(seed)
        chosen = rng.choice(len(images), args.num_images, replace=False)
        noise = rng.standard_normal((args.num_images, *images.shape[1:]), "float32")
        made = {"real images": images[chosen], "noise": pair[0].denormalize(noise)}
        for cell in cells:
            print(f"Seed {seed}: {cell}")
            made[cell] = generate(*pair, cell, args, seed)
        for name, several in made.items():
            distance = metrics.frechet_distance(encoders.encode(encoder, several), real)
            distances.setdefault(name, []).append(distance)
            pictures.setdefault(name, several[:NUM_PICTURES])
        for schedule, num_times, condition in cells:
            if condition == REMAPPED:
                both = (made[schedule, num_times, c] for c in (REMAPPED, NOT_REMAPPED))
                change = float(np.abs(np.subtract(*both)).max())
                changes[schedule] = max(change, changes.get(schedule, 0.0))
        results = {
            "settings": vars(args),
            "finished_seeds": len(distances["noise"]),
            "real_images": len(real),
            "encoder": str(encoder),
            "references": {name: distances[name] for name in ("real images", "noise")},
            "cells": [
                {"schedule": a, "num_times": b, "condition": c, "distances": distances[a, b, c]}
                for a, b, c in cells
            ],
            "largest_pixel_change_by_remapping": changes,
            "seconds": round(time.monotonic() - start, 1),
            **evaluation.environment(),
        }
        evaluation.write_results(args.output, results, table(results))
        plots.plot_images(
            np.concatenate(list(pictures.values())),
            min(NUM_PICTURES, args.num_images),
            pathlib.Path(args.output) / "pictures.png",
            row_labels=[
                name if isinstance(name, str) else f"{name[0]}, {name[1]} times; {name[2]}"
                for name in pictures
            ],
        )
    return results


def table(results):
    """The distances as Markdown: mean ± standard deviation over the seeds."""

    def text(distances):
        spread = f" ± {np.std(distances, ddof=1):.2f}" if len(distances) > 1 else ""
        return f"{np.mean(distances):.2f}{spread}"

    lines = [
        f"| sampled under | times | {' | '.join(CONDITIONS)} |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    rows = {}
    for cell in results["cells"]:
        row = rows.setdefault((cell["schedule"], cell["num_times"]), dict.fromkeys(CONDITIONS, "—"))
        row[cell["condition"]] = text(cell["distances"])
    lines += [f"| {a} | {b} | {' | '.join(row.values())} |" for (a, b), row in rows.items()]
    lines += ["", "| for comparison | distance |", "| --- | ---: |"]
    lines += [f"| {name} | {text(values)} |" for name, values in results["references"].items()]
    lines += [
        "",
        f"Columns: what the model is conditioned on. Fréchet distance of "
        f"{results['settings']['num_images']} images each to {results['real_images']} real ones "
        f"(lower is better), in the features of {results['encoder']}; mean ± standard deviation "
        f"over the seeds, of which there are {results['finished_seeds']}.",
    ]
    return "\n".join(lines) + "\n"


def main():
    def integers(text):
        return [int(part) for part in text.split(",")]

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--data", default="flowers", help="labelled images, as keras_ddim.load_images takes them")
    add("--data-dir", help="folder in which TensorFlow Datasets keeps its data")
    add("--image-size", type=int, default=16, help="(%(default)s)")
    add("--widths", type=integers, default=[16, 32, 64], help="of the networks (16,32,64)")
    add("--batch-size", type=int, default=64, help="of training (%(default)s)")
    add("--steps", type=int, default=2000, help="training steps of each model (%(default)s)")
    add("--classifier-steps", type=int, default=1000, help="of the classifier (%(default)s)")
    add("--num-images", type=int, default=128, help="images in each cell (%(default)s)")
    add("--num-times", type=integers, default=[NUM_TIMESTEPS, 200, 20], help="how many timesteps "
        "to visit; all of them only under the training schedule (4000,200,20)")  # fmt: skip
    add("--seeds", type=integers, default=[0, 1, 2], help="a pair of models each (0,1,2)")
    add("--output", default="noise-level-or-timestep", help="folder to write to (%(default)s)")
    add("--verbose", type=int, default=1, help="1 for progress bars, 0 for none (%(default)s)")
    args = parser.parse_args()
    results = run(args)
    print(f"\n{table(results)}\nWritten to {args.output}; {results['seconds'] / 60:.0f} minutes.")


if __name__ == "__main__":
    main()
