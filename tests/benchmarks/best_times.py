"""Optimized sampling times for a trained model, beside hand-designed ones.

    python tests/benchmarks/best_times.py fashion.keras --data fashion_mnist --fit pad --output best

For each solver and number of evaluations: the root-mean-square difference of images from the
teacher's, on noise of no search, and the Fréchet distance to real images, in the features of a
small classifier. Both are means with the largest deviation from them over the seeds of search and
noise. "optimized, features" compares sets of images with the teacher's by the features of a second
classifier instead of pixels; "optimized, real images" compares with training images. Then the same
difference for each solver at the times optimized in pixel space for the others. Heun takes the most
times that cost no more. Writes `results.json` and `table.md` after each cell.
"""

import argparse
import functools
import pathlib
import time

import numpy as np
from solvers import SEED, load_and_train_encoder, make_distance, most_times

import keras_ddim
from keras_ddim import DDIM, DPMSolverPP, Heun, UniPC, evaluation, optimal_times

SOLVERS = {
    "DDIM()": DDIM(),
    "DPMSolverPP(2)": DPMSolverPP(2),
    "UniPC(2)": UniPC(2),
    "UniPC(3)": UniPC(3),
    "Heun()": Heun(),
}
MEASURES = {
    "difference": ("root-mean-square difference from the teacher", 4),
    "frechet_distance": ("Fréchet distance to real images", 2),
}
LONG_EVALUATIONS = 50


def text(values, digits):
    values = np.array(values)
    spread = abs(values - values.mean()).max()
    return f"{values.mean():.{digits}f}" + f" ± {spread:.{digits}f}" * (len(values) > 1)


def table(results):
    """A table for each measure as Markdown: a row for each solver and list."""
    numbers = results["settings"]["evaluations"]
    lines = []
    for measure, (title, digits) in MEASURES.items():
        rows = {}
        for cell in results["cells"]:
            row = rows.setdefault((cell["solver"], cell["list"]), {})
            row.setdefault(cell["evaluations"], []).append(cell[measure])
        lines += [
            f"**{title[0].upper()}{title[1:]}**\n",
            f"| solver | list | {' | '.join(map(str, numbers))} |",
            f"| --- | --- |{' ---: |' * len(numbers)}",
        ]
        for labels, row in rows.items():
            cells = [text(row[n], digits) if n in row else "" for n in numbers]
            lines.append(f"| {' | '.join([*labels, *cells])} |")
        lines.append("")
    lines += [
        "**Differences at the times optimized for another solver, by evaluations**\n",
        "| times for | run by | " + " | ".join(map(str, numbers)) + " |",
        "| --- | --- |" + " ---: |" * len(numbers),
    ]
    rows = {}
    for cell in results["others"]:
        row = rows.setdefault((cell["optimized_for"], cell["solver"]), {})
        row.setdefault(cell["evaluations"], []).append(cell["difference"])
    for labels, row in rows.items():
        cells = [text(row[n], 4) if n in row else "" for n in numbers]
        lines.append(f"| {' | '.join([*labels, *cells])} |")
    settings = results["settings"]
    ddim, teacher = (
        text([result[name] for result in results["long"]], 2) for name in ("ddim", "teacher")
    )
    lines.append(
        f"\nFréchet distances of {settings['num_images']} generated images to {results['real']}. "
        f"For comparison: {results['distance_of_real_images']:.2f} for as many training images, "
        f"{ddim} for DDIM at {LONG_EVALUATIONS} uniform times, {teacher} for the teacher. "
        f"Differences of {settings['compared_images']} images, with pixels in [0, 1]. ± is the "
        f"largest deviation from the mean of {len(settings['seeds'])} seeds."
    )
    return "\n".join(lines) + "\n"


def main():
    def integers(text):
        return sorted({int(part) for part in text.split(",")})

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("model", help="a saved keras_ddim.DiffusionModel, or a preset")
    add("--data", required=True, help="labelled images, as keras_ddim.load_images takes them")
    add("--data-dir", help="folder in which TensorFlow Datasets keeps its data")
    add("--fit", default="crop", help="as in keras_ddim.load_images (%(default)s)")
    add("--num-images", type=int, default=2000, help="for the distance (%(default)s)")
    add("--compared-images", type=int, default=64, help="with the teacher's (%(default)s)")
    add("--evaluations", type=integers, default=[3, 4, 5, 6, 8, 10], help="(3,4,5,6,8,10)")
    add("--solvers", nargs="+", choices=SOLVERS, default=list(SOLVERS), help="(all)")
    add("--seeds", type=integers, default=[0, 1, 2], help="(0,1,2)")
    add("--output", default="best-times-output", help="folder to write to (%(default)s)")
    args = parser.parse_args()

    model = keras_ddim.DiffusionModel.from_preset(args.model)
    distance, distance_of_real_images, real = make_distance(model.image_shape, args)
    results = {
        "settings": vars(args),
        "schedule": repr(model.schedule),
        "real": real,
        "distance_of_real_images": distance_of_real_images,
        **{"long": [], "cells": [], "others": []},
        **evaluation.environment(),
    }

    images, _, other_encoder = load_and_train_encoder(model.image_shape, args, seed=SEED + 1)
    images = evaluation.take(images, optimal_times.MOST_REAL_IMAGES)

    @functools.cache
    def distance_of(times, sampler, seed):
        images = model.generate(args.num_images, times, sampler=sampler, seed=seed, verbose=0)
        return float(distance(images))

    def make_optimizers(seed, **options):
        """One for each solver, which share the teacher's images."""
        options |= {"num_images": args.compared_images, "seed": seed, "verbose": 0}
        optimizers = {
            solver: optimal_times.Optimizer(model, SOLVERS[solver], **options)
            for solver in args.solvers
        }
        first, *others = optimizers.values()
        for other in others:
            other.targets, other._shift = first.targets, first._shift
        return optimizers

    def run(seed, evaluations, optimizers, found):
        by_pixels, by_features, by_real_images = optimizers
        for solver, optimizer in by_pixels.items():
            num_times = most_times(optimizer.sampler, evaluations)
            candidates = optimizer.hand_designed(num_times)
            searches = {
                "optimized": optimizer,
                "optimized, features": by_features[solver],
                "optimized, real images": by_real_images[solver],
            }
            for label, searching in searches.items():
                start = time.process_time()
                candidates[label] = searching.find(num_times)
                seconds = round(time.process_time() - start, 1)
                print(f"{solver}, {evaluations} evaluations, {label}: {seconds} s", flush=True)
            found[solver] = candidates["optimized"]
            for label, times in candidates.items():
                results["cells"].append(
                    {
                        "seed": seed,
                        "solver": solver,
                        "evaluations": evaluations,
                        "list": label,
                        "times": times.tolist(),
                        "difference": optimizer.distance(times),
                        "frechet_distance": distance_of(tuple(times), optimizer.sampler, seed),
                    }
                )
            evaluation.write_results(pathlib.Path(args.output), results, table(results))

    for seed in args.seeds:
        optimizers = [
            make_optimizers(seed),
            make_optimizers(seed, encoder=other_encoder),
            make_optimizers(seed, encoder=other_encoder, images=images),
        ]
        teacher_times = optimizers[0][args.solvers[0]].teacher_times
        long = {
            "ddim": distance_of(LONG_EVALUATIONS, "ddim", seed),
            "teacher": distance_of(tuple(teacher_times), optimal_times.TEACHER, seed),
        }
        results["long"].append({"seed": seed, **long})
        for evaluations in args.evaluations:
            found = {}
            run(seed, evaluations, optimizers, found)
            results["others"] += [
                {
                    "seed": seed,
                    "evaluations": evaluations,
                    "optimized_for": other,
                    "solver": solver,
                    "difference": optimizer.distance(times),
                }
                for other, times in found.items()
                for solver, optimizer in optimizers[0].items()
                if most_times(optimizer.sampler, evaluations) == len(times)
            ]
            evaluation.write_results(pathlib.Path(args.output), results, table(results))
    print(f"\n{table(results)}\nWritten to {args.output}.")


if __name__ == "__main__":
    main()
