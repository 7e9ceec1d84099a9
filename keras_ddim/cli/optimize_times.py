"""Optimizes the sampling times of a trained model and keeps them in its file.

With the best times, few steps come closest to the images of many steps from the same noise. With
--encoder, sets of images come closest to real ones. The model is saved after each number of times,
so Ctrl-C keeps earlier results.

Prints and draws optimized and hand-designed times with their errors on held-out noise (lower is
better): root-mean-square differences or, with --encoder, at least roots of Fréchet distances.

examples:
  keras-ddim optimize-times keras-ddim-output --times 3 4 5 8
  keras-ddim optimize-times flowers --sampler ddim --times 4 --output my-flowers.keras
  keras-ddim optimize-times photos-model --encoder evaluation/classifier.keras
  keras-ddim generate my-flowers.keras --sampler ddim --times best:4
"""

import argparse
from typing import Any

import numpy as np

from keras_ddim import evaluation, load_images, optimal_times, plots, presets, samplers
from keras_ddim.cli import options
from keras_ddim.files import check_suffix, write_whole

OF_THE_OPTIMIZER = "encoder", "teacher_times", "num_images", "batch_size", "seed"


def add_options(parser: options.Parser) -> None:
    add = parser.add
    options.add_model(parser)
    names = sorted(n for n, sampler in samplers.SAMPLERS.items() if not sampler().is_stochastic)
    add("--sampler", "unipc", "solver", choices=names)
    add("--times", [3, 4, 5, 8], "numbers of sampling times to optimize for", type=int, nargs="+")
    add("--encoder", None, "compare sets of images by the features of this classifier.keras")
    add("--num-images", 64, "number of images to compare", type=int)
    add("--batch-size", 64, "number of images to generate together", type=int)
    add("--teacher-times", 40, "number of steps of the reference images", type=int)
    add("--guidance-scale", None, options.SCALE, type=float)
    add("--seed", 0, "random seed", type=int)
    add("--output", None, "file for the model with its times (default: the model's own file)")
    add("--picture", "best_times.png", "file for the plot of the times")
    options.add_data(parser)


def run(args: argparse.Namespace) -> None:
    if args.model in presets.names() and not args.output:
        raise ValueError(f"{args.model} is a preset: give another file with --output")
    output = args.output or options.model_path(args.model)
    check_suffix(output, [".keras"])
    model = options.load_model(args.model, compile=True)  # its optimizer is saved again
    optimizer = optimal_times.Optimizer(
        model,
        args.sampler,
        images=real_images(args, model),
        guidance_scale=options.scale_of(model, args.guidance_scale),
        verbose=1,
        **{name: getattr(args, name) for name in OF_THE_OPTIMIZER},
    )
    lists: dict[str, np.ndarray] = {}
    rows: list[str] = []
    for num_times in args.times:
        print(f"{num_times} times for {args.sampler}")
        found = optimizer.find(num_times)
        model.keep_times(found, args.sampler)
        with write_whole(output) as temporary_path:
            model.save(temporary_path)
        candidates = {**optimizer.hand_designed(num_times), "optimized": found}
        lists |= {f"{num_times}: {name}": times for name, times in candidates.items()}
        distances = [f"{optimizer.distance(times):.4f}" for times in candidates.values()]
        text = ",".join(f"{time:.4f}" for time in found)
        rows.append(" | ".join(["", str(num_times), *distances, text, ""]).strip())
        if optimizer.interrupted:
            break
    names = ["steps", *candidates, "optimized times"]
    print(f"\n| {' | '.join(names)} |\n|{' ---: |' * (len(names) - 1)} --- |", *rows, "", sep="\n")
    plots.plot_times(lists, model.schedule, args.picture)
    print(f"{output}: use its times with `--sampler {args.sampler} --times best:{num_times}`")
    print(args.picture)
    if optimizer.interrupted:
        raise KeyboardInterrupt(f"{output} has the times above.")


def real_images(args: argparse.Namespace, model: Any) -> np.ndarray | None:
    """The training images, for --encoder; None if they are unknown, to use the teacher's."""
    if args.encoder is None:
        return None
    if args.data is None and not model.metadata.get("settings"):
        print(f"The training data of {args.model} are unknown: comparing with its own images.")
        return None
    images, _ = load_images(**options.data_options(args, model))
    return evaluation.take(images, optimal_times.MOST_REAL_IMAGES)
