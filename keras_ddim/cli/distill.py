"""Distils a trained model into one that generates in one to eight steps.

The student starts as a copy of the model and learns long steps along its trajectories. It learns
guidance, too, so a step costs one evaluation of the network. It is saved after every 500 steps, so
--resume can continue after Ctrl-C. At the end, a picture compares both models from the same noise
in 1, 2, 4 and 8 steps.

examples:
  keras-ddim distill fashion_mnist
  keras-ddim distill flowers --guidance-scale 2 --steps 20000 --output fast-flowers.keras
  keras-ddim distill flowers --output fast-flowers.keras --resume
  keras-ddim generate fast-flowers.keras --times 2
"""

import argparse
import pathlib
import shlex
from typing import Any

from keras_ddim import callbacks, plots, recipes
from keras_ddim.cli import options
from keras_ddim.files import check_suffix

STEPS_PER_SAVE = 500
TIMES = 1, 2, 4, 8
NUM_SHOWN = 8
# Options that are fixed by a student.
SETTINGS = "guidance_scale", "batch_size", "seed"


def add_options(parser: options.Parser) -> None:
    add = parser.add
    options.add_model(parser)
    add("--guidance-scale", None, options.SCALE, type=float)
    add("--steps", 6000, "training steps in total, also with --resume", type=int)
    add("--batch-size", 16, "pairs of noise levels in a step", type=int)
    add("--learning-rate", recipes.DISTILLATION_RATE, "peak learning rate", type=float)
    add("--seed", 0, "random seed of the trajectories and the picture", type=int)
    add("--output", "fast.keras", "file for the student")
    add("--picture", "few_steps.png", "file of the picture")
    add("--resume", False, "continue the training of that file", action="store_true")
    add("--overwrite", False, "replace that file", action="store_true")


def run(args: argparse.Namespace) -> None:
    check_suffix(args.output, [".keras"])
    if pathlib.Path(args.output).exists() and args.resume == args.overwrite:
        raise ValueError(f"{args.output} exists: either --resume its training or --overwrite it")
    teacher, student = options.load_model(args.model), None
    if args.resume:
        student = options.load_model(args.output, compile=True)
        settings = student.metadata.get("distillation")
        if settings is None:
            raise ValueError(f"{args.output} was not distilled by this command")
        vars(args).update(settings)
    scale = args.guidance_scale = options.scale_of(teacher, args.guidance_scale)
    steps_per_epoch = min(STEPS_PER_SAVE, args.steps)
    epochs = args.steps // max(steps_per_epoch, 1)
    num_steps = epochs * steps_per_epoch
    made, trajectories = recipes.distill(
        teacher,
        num_steps,
        guidance_scale=scale,
        batch_size=args.batch_size,
        learning_rate=args.learning_rate,
        seed=args.seed,
    )
    if student is None:
        student = made
        student.metadata["distillation"] = {name: getattr(args, name) for name in SETTINGS}
    else:  # stretches the decay to these steps
        rate = recipes.learning_rate_schedule(num_steps, args.learning_rate)
        student.optimizer.learning_rate = rate
    done = int(student.optimizer.iterations.numpy())
    if done > num_steps:
        raise ValueError(f"{args.output} has {done} steps already: give more --steps in total")
    print(f"teacher   {args.model}: {options.shape_text(teacher)}, guidance scale {scale:g}")
    print(f"training  {num_steps - done} of {num_steps} steps")
    how = {"initial_epoch": done // steps_per_epoch, "epochs": epochs}
    how["callbacks"] = [callbacks.SaveModel(args.output)]
    try:
        if done < num_steps:
            rest = trajectories.from_batch(done)
            student.fit(rest, steps_per_epoch=steps_per_epoch, **how)
    except KeyboardInterrupt:
        words = ["keras-ddim", "distill", args.model, "--output", args.output, "--resume"]
        raise KeyboardInterrupt(f"To resume: {shlex.join(words)}") from None
    draw(teacher, student, args)
    print(args.output, args.picture, sep="\n")
    args.resume = False  # in the line that repeats the whole run


def draw(teacher: Any, student: Any, args: argparse.Namespace) -> None:
    """Draws rows of images from the same noise by both models, at each number of steps."""
    rows = {}
    for times in TIMES:
        for name, model, scale in (
            ("teacher", teacher, args.guidance_scale),
            ("student", student, 1.0),
        ):
            how = {"seed": args.seed, "guidance_scale": scale, "verbose": 0}
            label = f"{name}, {model.count_evaluations(times, guidance_scale=scale)}"
            rows[label] = model.generate(NUM_SHOWN, times, **how)
    print("Rows of the picture: model and evaluations of its network for each image")
    plots.plot_rows(rows, args.picture)
