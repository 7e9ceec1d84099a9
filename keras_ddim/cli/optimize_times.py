"""Finds the best lists of diffusion times for a trained model, and keeps them in its file.

Compares with the images that the same model makes of the same noise with many more evaluations,
guided as `generate` guides them; with --encoder, sets of images with real ones. Prints a table of
root-mean-square differences (with --encoder, at least the roots of Fréchet distances), on noise
that no list was chosen by, and draws the lists beside those made by hand. The file is written after
each list: Ctrl-C keeps what there is.

examples:
  keras-ddim optimize-times keras-ddim-output/model.keras --num-times 3 4 5 8
  keras-ddim optimize-times flowers --sampler ddim --num-times 4 --output my-flowers.keras
  keras-ddim optimize-times photos-model/model.keras --encoder evaluation/classifier.keras
  keras-ddim generate my-flowers.keras --sampler ddim --times best:4
"""

from typing import Any

import numpy as np

from keras_ddim import evaluation, interrupts, load_images, optimal_times, plots, presets, samplers
from keras_ddim.cli import options
from keras_ddim.cli.run_folder import load_model
from keras_ddim.files import write_whole


def add_options(parser: options.Parser) -> None:
    add = parser.add
    parser.add_model()
    names = sorted(n for n, sampler in samplers.SAMPLERS.items() if not sampler().is_stochastic)
    add("--sampler", "unipc", "how to step from time to time", choices=names)
    add("--num-times", (3, 4, 5, 8), "a list each", type=options.count, nargs="+")
    how = "how they are found: by the loss, over paths, or by trying"
    add("--method", "gradient", how, choices=optimal_times.METHODS)
    compared = "compare sets of images by its features: the classifier.keras that `evaluate` leaves"
    add("--encoder", None, compared, type=options.classifier)
    parser.add_data("to leave out, if not as in training", default=None)
    add("--num-images", 64, "images compared", type=options.count)
    add("--batch-size", 64, "images generated together", type=options.count)
    add("--teacher-times", 40, "evaluations of the images compared with", type=options.count)
    parser.add_guidance_scale()
    add("--seed", 0, "of the noise", type=options.seed)
    add(
        "--output",
        None,
        "file for the model with its lists, if not its own",
        type=options.model_file,
    )
    add("--picture", "best_times.png", "file of the drawing of the lists", type=options.picture)


def run(line: options.CommandLine) -> None:
    args = line.over({})
    if args.model in presets.names() and not args.output:
        raise ValueError(f"{args.model} is a preset: --output must name another file")
    output = args.output or args.model
    model = load_model(args.model)
    names = "encoder", "num_images", "batch_size", "teacher_times", "seed", "guidance_scale"
    given = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    given = {**options.guidance_of(model), **given}
    if args.encoder is not None or args.data is not None:
        given["images"] = real_images(model, line)
    optimizer = optimal_times.Optimizer(model, args.sampler, verbose=1, **given)
    lists: dict[str, np.ndarray] = {}
    rows = []
    for num_times in args.num_times:
        print(f"{num_times} times for {optimizer.sampler}")
        with interrupts.raised():
            found = optimizer.find(num_times, args.method)
        model.keep_times(found, optimizer.sampler)
        with write_whole(output) as temporary_path:
            model.save(temporary_path)
        candidates = {**optimizer.hand_made(num_times), "found": found}
        lists |= {f"{num_times}: {name}": times for name, times in candidates.items()}
        rows.append((num_times, found, [optimizer.distance(t) for t in candidates.values()]))
        if optimizer.interrupted:
            break
    print(f"\n{table(rows)}")
    plots.plot_times(lists, model.schedule, args.picture)
    print(f"  {output}\n  {args.picture}")
    if optimizer.interrupted:
        interrupts.explain = lambda: f"Interrupted: {output} has the lists above."
        raise KeyboardInterrupt
    print(f"Next: keras-ddim generate {output} --sampler {args.sampler} --times best:{num_times}")


def real_images(model: Any, line: options.CommandLine) -> np.ndarray | None:
    """Images that the model was trained on; None, for the teacher's, where those are not known."""
    args, data_options = options.data_of(model, line)
    if args.data is None:
        print(f"{args.model} does not say what it was trained on: without --data, no real images")
        return None
    images, _ = load_images(args.data, **data_options)
    return evaluation.take(images, optimal_times.MOST_REAL_IMAGES)


def table(rows: list) -> str:
    """Differences from the teacher's images as Markdown, and the lists found."""
    names = [*optimal_times.HAND_MADE, "found"]
    lines = [f"| times | {' | '.join(names)} | list |", f"| ---: |{' ---: |' * len(names)} --- |"]
    for num_times, found, distances in rows:
        cells = " | ".join(f"{distance:.4f}" for distance in distances)
        lines.append(f"| {num_times} | {cells} | {','.join(f'{time:.4f}' for time in found)} |")
    return "\n".join(lines) + "\n"
