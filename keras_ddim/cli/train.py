"""Trains a model on images.

Leaves in the output folder, after each epoch: model.keras (which holds the options and the history,
too, for --resume), history.csv and samples/ (images from the same noise); at the end: samples.png
(64 images), times.png (the same noise at several lists of diffusion times) and history.png. Where
options are paths, paths.json has them: of a folder of images, model.keras tells the name alone.

examples:
  keras-ddim train
  keras-ddim train --data fashion_mnist --fit pad --steps-per-epoch 500 --epochs 6
  keras-ddim train --data photos/ --image-size 48x96 --flip --output photos-model
  keras-ddim train --data photos/ --labels --output classes-of-photos
  keras-ddim train --data photos/ --from-preset flowers --output fine-tuned
  keras-ddim train --output photos-model --resume --epochs 40

Stopped at any moment, and resumed, a run ends as it would have without. The learning rate falls to
zero in the last epoch; resumed with more --epochs, as if so many had been planned.
"""

import argparse
import functools
import json
import pathlib
import shlex
import time
from typing import Any

import keras
import numpy as np

from keras_ddim import (
    DiffusionModel,
    callbacks,
    checks,
    interrupts,
    load_images,
    noise_levels,
    plots,
    presets,
    recipes,
)
from keras_ddim.cli import options, run_folder
from keras_ddim.cli.run_folder import HISTORY, MODEL, PATHS
from keras_ddim.files import write_text
from keras_ddim.networks import check_sizes

MOST_ROWS = 12  # of classes, in a picture
WARM_UP, SECONDS_TIMED = 5, 3  # steps before timing, and how long to time
RESULTS = MODEL, HISTORY, "samples/epoch_*.png", "samples.png", "times.png", "history.png"
OF_THE_DATA = (
    "batch_size labels channels validation_split fit repetitions flip seed num_images data_dir"
)
# What a trained model cannot change any more.
OF_THE_MODEL = (
    "image_size labels channels widths block_depth ema prediction_type preconditioning dtype_policy"
)


def add_options(parser: options.Parser) -> None:
    # The defaults give flowers in less than five minutes on two CPU cores.
    add = parser.add
    parser.section("images")
    parser.add_data("kept for validation, if not as the data suggests")
    add("--image-size", (32, 32), "pixels: 64, or height x width such as 48x96", type=options.size)
    add("--channels", None, "number of channels (default: as in the data)", choices=(1, 3, 4))
    classes = "train on classes, too: those of the data, or of a folder the sub-folders (default: "
    classes += "of the flowers that are drawn)"
    add("--labels", None, classes, action=argparse.BooleanOptionalAction)
    add("--flip", False, "mirror at random", action=argparse.BooleanOptionalAction)
    add("--repetitions", 1, "passes through the data in an epoch", type=options.count)
    add("--num-images", None, "to use (default: all, or 20000 flowers)", type=options.count)
    add("--cache", "memory", "where prepared images are kept: memory, none, or a path")

    parser.section("model")
    preset = "model or preset to begin with; it decides on size and network: "
    add("--from-preset", None, preset + ", ".join(presets.names()), type=options.model)
    add("--widths", (16, 32, 64, 128), "channels of the network's levels", type=options.widths)
    add("--block-depth", 1, "residual blocks of a level", type=options.count)
    add("--ema", 1.0, "largest decay of the averaged weights", type=options.between(0, 1))
    types = noise_levels.PREDICTION_TYPES
    add("--prediction-type", "velocity", "what the network predicts", choices=types)
    known = "what the network need not learn"
    add("--preconditioning", "none", known, choices=("none", "spectral"))
    policies = "float32", "mixed_float16", "mixed_bfloat16"
    add("--dtype-policy", "float32", "precision; mixed ones are faster on GPUs", choices=policies)

    parser.section("training")
    add("--epochs", 4, "in total, also with --resume", type=options.count)
    add("--steps-per-epoch", None, "(default: once through the data)", type=options.count)
    add("--batch-size", 16, "images in a step", type=options.count)
    rate = "at its highest; it falls to zero in the last epoch"
    add("--learning-rate", recipes.LEARNING_RATE, rate, type=options.positive_number)
    add("--seed", 0, "makes the run reproducible", type=options.seed)

    parser.section("output")
    add("--output", "keras-ddim-output", "output folder", type=options.folder)
    lists = 1, 3, 5, (1.0, 0.8, 0.5, 0.2), 20, 50
    add("--times", lists, "times for the rows of times.png", type=options.times, nargs="+")
    pictures = "draw samples.png, times.png and history.png at the end"
    add("--pictures", True, pictures, action=argparse.BooleanOptionalAction)
    add("--resume", False, "continue the run in that folder, as it was", action="store_true")
    add("--overwrite", False, "replace the run in that folder", action="store_true")


def run(line: options.CommandLine) -> None:
    args, model, epochs_done = start(line)
    folder = pathlib.Path(args.output)
    interrupts.explain = functools.partial(kept, folder, not args.resume)
    options.check_data(args.data, args.data_dir)
    if model is None:
        check_sizes((*args.image_size, args.channels or 3), args.widths, args.block_depth, None)
    train_images, val_images = load_images(
        args.data,
        args.image_size,
        cache={"memory": True, "none": False}.get(args.cache, args.cache),
        **{name: getattr(args, name) for name in OF_THE_DATA.split()},
    )
    image_shape = tuple(checks.images_of(train_images.element_spec).shape[1:])
    class_names = train_images.class_names if args.labels else None
    steps = args.steps_per_epoch or len(train_images)
    if model is None:
        model = new_model(image_shape, class_names, args.epochs * steps, args)
    elif model.image_shape != image_shape:
        sizes = [run_folder.shape_text(shape) for shape in (image_shape, model.image_shape)]
        raise ValueError(f"--data {args.data} has images of {sizes[0]}, the model of {sizes[1]}")
    elif not args.resume:
        model = recipes.fine_tune(
            model, args.epochs * steps, class_names=class_names, learning_rate=args.learning_rate
        )
    elif model.class_names != class_names:
        classes = f"classes {class_names}, the model {model.class_names}"
        raise ValueError(f"--data {args.data} has {classes}")
    else:  # as if so many epochs had been planned from the beginning
        schedule = recipes.learning_rate_schedule(args.epochs * steps, args.learning_rate)
        model.learning_rate = schedule

    settings = {k: v for k, v in vars(args).items() if k not in ("output", "resume", "overwrite")}
    model.metadata["settings"], paths = run_folder.without_paths(settings)
    # Keras lists no devices of torch.
    on_torch = keras.backend.backend() == "torch"
    devices = "torch" if on_torch else ", ".join(keras.distribution.list_devices())
    size = run_folder.shape_text(image_shape)
    print(f"data      {args.data}: {size}, batches of {args.batch_size}")
    print(f"model     {model.network.count_params():,} parameters, {args.dtype_policy}, {devices}")
    if epochs_done < args.epochs:
        print(f"training  epochs {epochs_done + 1} to {args.epochs}, {steps} steps each")
    else:
        print(f"training  all {epochs_done} epochs are done: --epochs trains for more in total")
    print(f"output    {folder}")
    train_images = train_images.from_batch(epochs_done * steps)
    fit(model, train_images, val_images, epochs_done, steps, args, paths)
    if args.pictures:
        draw(model, args)
    results = RESULTS if args.pictures else RESULTS[:3]
    print("Done:", *(f"  {folder / name}" for name in results), sep="\n")
    print(f"Next: {same_samples(args)}")


def start(line: options.CommandLine) -> tuple[argparse.Namespace, DiffusionModel | None, int]:
    """Options, the model that is continued or fine-tuned if any, and the epochs it has had."""
    args = line.over({})
    folder = pathlib.Path(args.output)
    path, model, epochs_done = folder / MODEL, None, 0
    if args.resume and args.overwrite:
        raise ValueError("--resume and --overwrite exclude each other")
    if args.resume:
        if not path.exists():
            raise ValueError(f"there is no model yet to resume, {path}: leave out --resume")
        model = run_folder.load_model(path)
        epochs_done = run_folder.count_epochs(model.metadata)
        settings = run_folder.settings_of(path, model, line.given)
        if not epochs_done or not settings:
            hint = f"--from-preset {path} begins a new run with it"
            raise ValueError(f"{path} does not know of a run of `train` to resume: {hint}")
        args = resumed(line, settings)
    elif path.exists() and not args.overwrite:
        raise ValueError(f"{path} exists: --resume continues its training, --overwrite replaces it")
    elif args.from_preset:
        for name in (set(OF_THE_MODEL.split()) - {"labels"}) & set(line.given):
            option = options.flag(name)
            raise ValueError(f"{option} is that of the model with --from-preset; leave it out")
        model = run_folder.load_model(args.from_preset, compile=False)
        *args.image_size, args.channels = model.image_shape
        args.dtype_policy = model.network.dtype_policy.name
    if args.labels is None:
        args.labels = args.data in options.DRAWN
    if epochs_done > args.epochs:
        done = f"{path} has been trained for {epochs_done} epochs already"
        raise ValueError(f"{done}: --epochs is the total, received {args.epochs}")
    return args, model, epochs_done


def kept(folder: pathlib.Path, is_new: bool = False) -> str:
    """What an interrupt leaves, for the message; of a new run, before its first epoch is done."""
    path = folder / MODEL
    if is_new or not path.exists():
        left = f"{path} is as it was" if path.exists() else "there is no model yet"
        return f"Interrupted: before the first epoch was finished: {left}."
    epochs = run_folder.count_epochs(run_folder.read_metadata(path))
    return f"Interrupted: {path} is the model of epoch {epochs}; --resume continues from there."


def resumed(line: options.CommandLine, settings: dict[str, Any]) -> argparse.Namespace:
    """The options of a run that is continued."""
    args = line.over(settings)
    for name in OF_THE_MODEL.split():
        given, trained = (options.text(name, value) for value in (vars(args)[name], settings[name]))
        if given != trained:
            option = options.flag(name)
            raise ValueError(f"{option} is that of the model when resuming, {trained}, not {given}")
    return args


def new_model(
    image_shape: tuple[int, int, int],
    class_names: list[str] | None,
    num_steps: int,
    args: argparse.Namespace,
) -> DiffusionModel:
    return recipes.recipe(
        image_shape,
        num_steps,
        class_names=class_names,
        widths=args.widths,
        block_depth=args.block_depth,
        learning_rate=args.learning_rate,
        seed=args.seed,
        ema=args.ema,
        prediction_type=args.prediction_type,
        preconditioning=None if args.preconditioning == "none" else args.preconditioning,
        dtype=args.dtype_policy,
    )


def fit(
    model: DiffusionModel,
    images: Any,
    val_images: Any,
    epochs_done: int,
    steps: int,
    args: argparse.Namespace,
    paths: dict[str, str],
) -> None:
    folder = pathlib.Path(args.output)
    by_class = 0 < model.num_classes <= MOST_ROWS
    path = folder / "samples" / "epoch_{epoch:03d}.png"
    others: list[keras.callbacks.Callback] = [
        callbacks.SaveHistory(folder / HISTORY),
        callbacks.SampleGrid(
            8 if by_class else 16,
            path,
            by_class=by_class,
            seed=args.seed,
            **options.guidance_of(model),
        ),
    ]
    if epochs_done:  # which a kill may have kept from following the model
        for callback in others:
            callback.set_model(model)
            callback.on_epoch_end(epochs_done - 1, model.metadata["history"][-1])
    if epochs_done == args.epochs:
        return
    model.fit(
        images,
        validation_data=val_images,
        initial_epoch=epochs_done,
        epochs=args.epochs,
        steps_per_epoch=steps,
        shuffle=False,  # the data set does it
        # The model first: whatever comes after it may be interrupted without harm.
        callbacks=[
            SaveRun(folder, args.overwrite, paths),
            *others,
            TimeLeft((args.epochs - epochs_done) * steps),
        ],
    )


class SaveRun(callbacks.SaveModel):
    """Saves the model; the first one takes the place of a run that was in the folder."""

    def __init__(self, folder: pathlib.Path, overwrite: bool, paths: dict[str, str]) -> None:
        super().__init__(folder / MODEL)
        self.folder, self.overwrite, self.paths = folder, overwrite, paths
        self.is_new = True

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        is_new, self.is_new = self.is_new, False
        if is_new and self.overwrite:  # what would otherwise be taken for this run's
            for path in [path for name in (*RESULTS[1:], PATHS) for path in self.folder.glob(name)]:
                path.unlink()
        if is_new and self.paths:  # before the model, which is never without them then
            write_text(self.folder / PATHS, json.dumps(self.paths, indent=1) + "\n")
        super().on_epoch_end(epoch, logs)
        interrupts.explain = functools.partial(kept, self.folder)


class TimeLeft(keras.callbacks.Callback):
    """Says once, when the first steps have shown it, how long so many steps take."""

    def __init__(self, num_steps: int) -> None:
        super().__init__()
        self.num_steps, self.done, self.start = num_steps, 0, 0.0

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.done += 1
        if self.done == WARM_UP:
            self.start = time.monotonic()
        seconds = time.monotonic() - self.start
        if self.done > WARM_UP and seconds > SECONDS_TIMED and self.num_steps:
            left = seconds / (self.done - WARM_UP) * (self.num_steps - self.done)
            text = f"{left / 60:.0f} minutes" if left > 90 else f"{left:.0f} seconds"
            print(f"\ntime      about {text} to go, and a little for validation and pictures")
            self.num_steps = 0


def same_samples(args: argparse.Namespace) -> str:
    """The command that makes the images of samples.png."""
    command = ["keras-ddim", "generate", args.output, "--num-images", "64"]
    return shlex.join([*command, "--seed", str(args.seed)])


def draw(model: DiffusionModel, args: argparse.Namespace) -> None:
    folder = pathlib.Path(args.output)
    how = {"seed": args.seed, **options.guidance_of(model)}
    plots.plot_images(model.generate(64, **how), 8, folder / "samples.png")
    rows = [model.generate(8, times, verbose=0, **how) for times in args.times]
    labels = [plots.times_label(times) for times in args.times]
    plots.plot_images(np.concatenate(rows), 8, folder / "times.png", row_labels=labels)
    plots.plot_history(folder / HISTORY, folder / "history.png")
