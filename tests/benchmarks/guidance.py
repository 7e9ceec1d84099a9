"""Guidance: how many images are of their class, and how close they are to real ones.

    python tests/benchmarks/guidance.py fashion.keras --data fashion_mnist --fit pad

Generates equally many images of every class, for each scale, with and without an interval, and
each number of evaluations: at the most times that cost no more, where a guided time takes two.
Measures the fraction of them that a classifier, trained on real images only, assigns to their
class, and the Fréchet distance to real images in its features. Writes `results.json`, `table.md`
and `scales.png`, a row of images at the most evaluations for each scale.
"""

import argparse
import pathlib

import keras
import numpy as np
from solvers import SEED, load_and_train_encoder

import keras_ddim
from keras_ddim import encoders, evaluation, metrics, plots
from keras_ddim.guidance import ClassifierFree

SCALES = 0, 1, 1.5, 2, 3
INTERVALS = (0, 1), (0.2, 0.8)
EVALUATIONS = 5, 8, 20


def make_classifier(model, args):
    """A function of images to their features and to their most likely classes; its accuracy; and
    the moments of real features."""
    *parts, encoder = load_and_train_encoder(model.image_shape, args)
    features, labels = [], []
    for part in parts:
        images, numbers = (np.concatenate(arrays) for arrays in zip(*part.as_numpy_iterator()))
        features.append(encoders.encode(encoder, images))
        labels.append(numbers)
    layer = keras.layers.Dense(model.num_classes)
    head = keras.Sequential([keras.layers.Normalization(), layer])
    head.layers[0].adapt(features[0])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    head.compile("adam", loss, metrics=["accuracy"])
    head.fit(features[0], labels[0], batch_size=256, epochs=10, verbose=0)
    _, accuracy = head.evaluate(features[1], labels[1], verbose=0)

    def classify(images):
        found = encoders.encode(encoder, images)
        return found, head.predict(found, verbose=0).argmax(axis=1)

    return classify, accuracy, metrics.Moments(features[1])


def most_times(model, evaluations, **guidance):
    """The largest number of times that cost no more than so many evaluations."""
    counts = {n: model.count_evaluations(n, **guidance) for n in range(1, evaluations + 1)}
    return max((n for n, count in counts.items() if count <= evaluations), default=None)


def table(results):
    """A row for each scale and interval, and a part of it for each number of evaluations."""
    lines = [
        "| scale | interval | " + " | ".join(f"at {n}" for n in EVALUATIONS) + " |",
        "| ---: | --- |" + " ---: |" * len(EVALUATIONS),
    ]
    rows = {}
    for cell in results["cells"]:
        text = f"{cell['share']:.1%}, {cell['distance']:.2f} ({cell['times']})"
        rows.setdefault((f"{cell['scale']:g}", str(tuple(cell["interval"]))), []).append(text)
    lines += [f"| {' | '.join([*labels, *row])} |" for labels, row in rows.items()]
    lines.append(
        f"\nColumns: evaluations; in each the share of {results['num_images']} images that the "
        f"classifier assigns to the class asked for, their Fréchet distance to real images, and in "
        f"brackets the number of times. Of real images it assigns {results['accuracy']:.1%}."
    )
    return "\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("model", help="a saved keras_ddim.DiffusionModel that takes labels, or a preset")
    add("--data", required=True, help="labelled images, as keras_ddim.load_images takes them")
    add("--data-dir", help="folder in which TensorFlow Datasets keeps its data")
    add("--fit", default="crop", help="as in keras_ddim.load_images (%(default)s)")
    add("--num-images", type=int, default=2000, help="for each cell (%(default)s)")
    add("--output", default="guidance", help="folder to write to (%(default)s)")
    args = parser.parse_args()

    model = keras_ddim.DiffusionModel.from_preset(args.model)
    classify, accuracy, real = make_classifier(model, args)
    results = {"model": args.model, "num_images": args.num_images, "accuracy": accuracy}
    results |= {"cells": [], **evaluation.environment()}
    labels = np.arange(args.num_images) % model.num_classes
    rows = {}
    for scale in SCALES:
        for interval in INTERVALS if scale not in (0, 1) else INTERVALS[:1]:
            guidance = {"guidance": ClassifierFree(scale, interval)}
            for evaluations in EVALUATIONS:
                num_times = most_times(model, evaluations, **guidance)
                images = model.generate(
                    args.num_images, num_times, labels=labels, seed=SEED, verbose=0, **guidance
                )
                features, classes = classify(images)
                cell = {"scale": scale, "interval": interval, "evaluations": evaluations}
                cell |= {"times": num_times, "share": float(np.mean(classes == labels))}
                cell["distance"] = float(metrics.frechet_distance(features, real))
                results["cells"].append(cell)
                print(cell, flush=True)
            rows[f"{scale:g}" + " in (0.2, 0.8)" * (interval != (0, 1))] = images[:10]
            evaluation.write_results(pathlib.Path(args.output), results, table(results))
    plots.plot_rows(rows, pathlib.Path(args.output, "scales.png"))
    print(f"\n{table(results)}\nWritten to {args.output}.")


if __name__ == "__main__":
    main()
