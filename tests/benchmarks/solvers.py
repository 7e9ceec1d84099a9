"""Distance against network evaluations on a trained model, for every deterministic solver.

    python tests/benchmarks/solvers.py fashion.keras --data fashion_mnist --fit pad --output solvers

Each solver visits hand-designed times, the most that cost no more than the evaluations, from the
same noise throughout. Measured are the Fréchet distance to real images, in the features of a small
classifier, and the root-mean-square pixel difference from the images of DDIM with 1,000
evaluations. Writes `results.json`, `table.md` and `plot.png` after each solver.
"""

import argparse
import pathlib
import time

import keras
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

import keras_ddim
from keras_ddim import (
    DDIM,
    AdamsBashforth,
    DPMSolverPP,
    Heun,
    UniPC,
    encoders,
    evaluation,
    metrics,
    times,
)
from keras_ddim.files import write_whole

SOLVERS = {
    "DDIM()": DDIM(),
    "Heun()": Heun(),
    "AdamsBashforth(2)": AdamsBashforth(2),
    "AdamsBashforth(4)": AdamsBashforth(4),
    "DPMSolverPP(2)": DPMSolverPP(2),
    "DPMSolverPP(3)": DPMSolverPP(3),
    "DPMSolverPP(2, singlestep)": DPMSolverPP(2, "singlestep"),
    "DPMSolverPP(3, singlestep)": DPMSolverPP(3, "singlestep"),
    "UniPC(2)": UniPC(2),
    "UniPC(3)": UniPC(3),
}
LISTS = {
    "uniform time": lambda num_times, schedule: times.uniform(num_times),
    "uniform log-SNR": times.uniform_log_snr,
    "quadratic time": lambda num_times, schedule: times.quadratic(num_times),
    "Karras": times.karras,
}
REFERENCE_TIMES = 1000
# Titles, and digits in the table.
MEASURES = {
    "frechet_distance": ("Fréchet distance to real images", 2),
    "difference": (f"root-mean-square difference from DDIM at {REFERENCE_TIMES:,} times", 4),
}
SEED = 0


def load_and_train_encoder(image_shape, args, seed=SEED):
    """Labelled images for training and held out, and a small classifier of them."""
    parts = keras_ddim.load_images(
        args.data,
        image_shape[:2],
        channels=image_shape[2],
        fit=args.fit,
        labels=True,
        seed=SEED,
        data_dir=args.data_dir,
    )
    keras.utils.set_random_seed(seed)
    return *parts, encoders.train_classifier(*parts, verbose=0)


def make_distance(image_shape, args):
    """The Fréchet distance of images to real ones, the same for real ones, and what it is of."""
    train_images, real_images, encoder = load_and_train_encoder(image_shape, args)
    features = [encoders.encode(encoder, images) for images, _ in real_images.as_numpy_iterator()]
    real = metrics.Moments(np.concatenate(features))

    def distance(images):
        return metrics.frechet_distance(encoders.encode(encoder, images), real)

    of_real_images = distance(evaluation.take(train_images, args.num_images))
    return distance, of_real_images, f"{len(real)} real images, in the features of {encoder}"


def most_times(sampler, evaluations):
    """The largest number of times that costs no more than so many evaluations."""
    return max(n for n in range(1, evaluations + 1) if sampler.count_evaluations(n) <= evaluations)


def table(results):
    """A table for each measure as Markdown: a row for each solver and list."""
    limits = results["settings"]["evaluations"]
    lines = []
    for measure, (title, digits) in MEASURES.items():
        lines += [
            f"**{title[0].upper()}{title[1:]}**\n",
            "| solver | list | " + " | ".join(map(str, limits)) + " |",
            "| --- | --- |" + " ---: |" * len(limits),
        ]
        rows = {}
        for cell in results["cells"]:
            fewer = "" if cell["evaluations"] == cell["limit"] else f" ({cell['evaluations']})"
            row = rows.setdefault((cell["solver"], cell["list"]), [])
            row.append(f"{cell[measure]:.{digits}f}{fewer}")
        lines += [f"| {' | '.join([*labels, *row])} |" for labels, row in rows.items()]
        lines.append("")
    settings = results["settings"]
    lines.append(
        f"Columns: network evaluations an image; in brackets where a solver took fewer. Less is "
        f"better. The distance is that of {settings['num_images']} images to {results['real']}; "
        f"that of as many real images of training is {results['distance_of_real_images']:.2f}. The "
        f"difference is that of the first {settings['reference_images']} images, with pixels in "
        "[0, 1]. All images come from the same noise. Without churn, Euler(), DPMSolverPP(1) and "
        "AdamsBashforth(1) are DDIM(), and therefore left out."
    )
    return "\n".join(lines) + "\n"


def plot(results):
    """Figure of each measure against evaluations: a row for each, a column for each list."""
    figure = Figure(figsize=(20, 10), layout="constrained", facecolor="white")
    axes = figure.subplots(len(MEASURES), len(LISTS), sharex=True, sharey="row")
    limits = results["settings"]["evaluations"]
    for row, (measure, (title, _)) in zip(axes, MEASURES.items()):
        for ax, label, linestyle in zip(row, LISTS, ("-", "--", "-.", ":")):
            for i, (solver, sampler) in enumerate(SOLVERS.items()):
                points = [
                    (cell["evaluations"], cell[measure])
                    for cell in results["cells"]
                    if (cell["solver"], cell["list"]) == (solver, label)
                ]
                marker = "o" if sampler.evaluations_per_step == 1 else "s"
                style = {"color": f"C{i}", "linestyle": linestyle, "marker": marker}
                if points:
                    ax.plot(*zip(*points), label=solver, markersize=4, **style)
            if measure == "frechet_distance":
                real = results["distance_of_real_images"]
                ax.axhline(real, color="black", linestyle=":", label="real images")
            ax.set(xscale="log", yscale="log", title=label)
            ax.set_xticks(limits, limits)
            ax.xaxis.set_minor_locator(NullLocator())
            ax.grid(alpha=0.3, which="both")
        row[0].set_ylabel(title)
    for ax in axes[-1]:
        ax.set_xlabel("network evaluations an image")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return figure


def write(output, results):
    evaluation.write_results(output, results, table(results))
    with write_whole(output / "plot.png") as temporary_path:
        plot(results).savefig(temporary_path, dpi=120)


def main():
    def integers(text):
        return sorted({int(part) for part in text.split(",")})

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("model", help="a saved keras_ddim.DiffusionModel, or a preset")
    add("--data", required=True, help="labelled images, as keras_ddim.load_images takes them")
    add("--data-dir", help="folder in which TensorFlow Datasets keeps its data")
    add("--fit", default="crop", help="as in keras_ddim.load_images (%(default)s)")
    add("--num-images", type=int, default=2000, help="images in each cell (%(default)s)")
    add("--reference-images", type=int, default=64, help="how many of them are compared with those "
        "of 1,000 evaluations (%(default)s)")  # fmt: skip
    add("--evaluations", type=integers, default=[3, 5, 8, 12, 20, 50], help="(3,5,8,12,20,50)")
    add("--output", default="solvers-output", help="folder to write to (%(default)s)")
    args = parser.parse_args()
    if args.evaluations[0] < 1 or not 0 < args.reference_images <= args.num_images:
        parser.error("--evaluations must be at least 1, --reference-images 1 to --num-images")

    model = keras_ddim.DiffusionModel.from_preset(args.model)
    distance, distance_of_real_images, real = make_distance(model.image_shape, args)

    def generate(num_images, diffusion_times, sampler):
        return model.generate(num_images, diffusion_times, sampler=sampler, seed=SEED, verbose=0)

    print(f"reference: DDIM() at {REFERENCE_TIMES} times", flush=True)
    reference = generate(args.reference_images, REFERENCE_TIMES, DDIM())
    results = {
        "settings": vars(args),
        "seed": SEED,
        "schedule": repr(model.schedule),
        "real": real,
        "distance_of_real_images": distance_of_real_images,
        "cells": [],
        **evaluation.environment(),
    }
    for solver, sampler in SOLVERS.items():
        for label, make_times in LISTS.items():
            for limit in args.evaluations:
                start = time.monotonic()
                num_times = most_times(sampler, limit)
                diffusion_times = make_times(num_times, model.schedule)
                images = generate(args.num_images, diffusion_times, sampler)
                cell = {
                    "solver": solver,
                    "list": label,
                    "limit": limit,
                    "times": num_times,
                    "evaluations": sampler.count_evaluations(num_times),
                    "frechet_distance": distance(images),
                    "difference": float(
                        np.sqrt(np.mean((images[: args.reference_images] - reference) ** 2))
                    ),
                    "seconds": round(time.monotonic() - start, 1),
                }
                results["cells"].append(cell)
                print(
                    f"{solver}, {label}, {cell['evaluations']} evaluations: distance "
                    f"{cell['frechet_distance']:.4g}, difference {cell['difference']:.4g}, "
                    f"{cell['seconds']} s",
                    flush=True,
                )
        write(pathlib.Path(args.output), results)
    print(f"\n{table(results)}\nWritten to {args.output}.")


if __name__ == "__main__":
    main()
