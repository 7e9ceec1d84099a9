"""Trains a model on images.

After each epoch, it writes model.keras, history.csv and samples/ (images from the same noise) to
the output folder. At the end, it draws samples.png (64 images), times.png (the same noise at
several sampling times) and history.png.

examples:
  keras-ddim train
  keras-ddim train --data fashion_mnist --fit pad --steps-per-epoch 500 --epochs 6
  keras-ddim train --data photos/ --image-size 48x96 --flip --output photos-model
  keras-ddim train --data photos/ --from-preset flowers --output fine-tuned
  keras-ddim train --output photos-model --resume --epochs 40

An interrupted run that is resumed gives the same result as an uninterrupted one. The learning rate
falls to zero in the last epoch; more --epochs stretch its decay.
"""

import argparse
import json
import pathlib
import shlex
from typing import Any

import numpy as np

from keras_ddim import callbacks, checks, load_images, noise_levels, plots, presets, recipes
from keras_ddim.cli import options

MOST_ROWS = 12  # of classes, in a picture
PICTURES = "samples.png", "times.png", "history.png"
OF_THE_DATA = (
    "batch_size labels channels validation_split fit repetitions flip seed num_images data_dir"
)
OF_THE_RECIPE = "widths block_depth learning_rate seed ema prediction_type"
# Options that are fixed by a trained model.
OF_THE_MODEL = "image_size channels widths block_depth ema prediction_type dtype_policy"


def add_options(parser: options.Parser) -> None:
    # The defaults give flowers in some minutes on two CPU cores.
    add, on_or_off = parser.add, argparse.BooleanOptionalAction
    parser.group = parser.add_argument_group("images")
    options.add_data(parser, "plain_flowers")
    add("--image-size", (32, 32), "pixels: 64, or height x width such as 48x96", type=options.size)
    channels = "number of channels (default: as in the data)"
    add("--channels", None, channels, type=int, choices=(1, 3, 4))
    classes = "train with class labels, such as sub-folders (default: for drawn flowers only)"
    add("--labels", None, classes, action=on_or_off)
    add("--flip", False, "mirror images at random", action=on_or_off)
    add("--repetitions", 1, "passes through the data in an epoch", type=int)
    add("--num-images", None, "images to use (default: all, or 20000 flowers)", type=int)
    add("--cache", "memory", "where to keep prepared images: memory, none or a path")
    parser.group = parser.add_argument_group("model")
    preset = "model or preset to fine-tune; sets image size and network. Presets: "
    add("--from-preset", None, preset + ", ".join(presets.names()), metavar="MODEL")
    add("--widths", (16, 32, 64, 128), "channels of each level", type=options.integers)
    add("--block-depth", 1, "residual blocks of each level", type=int)
    add("--ema", 1.0, "largest decay of the averaged weights", type=float)
    types = noise_levels.PREDICTION_TYPES
    add("--prediction-type", "velocity", "prediction of the network", choices=types)
    policies = "float32", "mixed_float16", "mixed_bfloat16"
    add("--dtype-policy", "float32", "precision; mixed ones are faster on GPUs", choices=policies)
    parser.group = parser.add_argument_group("training")
    add("--epochs", 2, "epochs in total, also with --resume", type=int)
    add("--steps-per-epoch", None, "steps in an epoch (default: a pass through the data)", type=int)
    add("--batch-size", 16, "images in a step", type=int)
    rate = "peak learning rate (warm-up, then cosine decay to zero)"
    add("--learning-rate", recipes.LEARNING_RATE, rate, type=float)
    add("--seed", 0, "random seed of weights, data and noise", type=int)
    parser.group = parser.add_argument_group("output")
    add("--output", "keras-ddim-output", "folder of the run")
    lists = [1, 3, 5, (1.0, 0.8, 0.5, 0.2), 20, 50]
    rows = "sampling times, one row of times.png each"
    add("--times", lists, rows, type=options.times, nargs="+")
    add("--pictures", True, "draw pictures at the end", action=on_or_off)
    add("--resume", False, "continue the run in that folder", action="store_true")
    add("--overwrite", False, "replace the run in that folder", action="store_true")


def run(args: argparse.Namespace) -> None:
    folder = pathlib.Path(args.output)
    model = start(args, folder / options.MODEL)
    if args.labels is None:
        args.labels = args.data in options.DRAWN
    train_images, val_images = load_images(
        args.data,
        tuple(args.image_size),
        cache={"memory": True, "none": False}.get(args.cache, args.cache),
        **{name: getattr(args, name) for name in OF_THE_DATA.split()},
    )
    class_names = train_images.class_names if args.labels else None
    steps = args.steps_per_epoch or len(train_images)
    num_steps, rate = args.epochs * steps, args.learning_rate
    if model is None:
        image_shape = tuple(checks.first_of(train_images.element_spec).shape[1:])
        how = {name: getattr(args, name) for name in OF_THE_RECIPE.split()}
        how |= {"class_names": class_names, "dtype": args.dtype_policy}
        model = recipes.recipe(image_shape, num_steps, **how)
    elif not args.resume:
        model = recipes.fine_tune(model, num_steps, class_names=class_names, learning_rate=rate)
    elif model.class_names == class_names:  # as if these epochs had been planned from the start
        model.optimizer.learning_rate = recipes.learning_rate_schedule(num_steps, rate)
    else:
        raise ValueError(f"the data have classes {class_names}, the model {model.class_names}")
    epochs_done = count_epochs(model)
    if epochs_done > args.epochs:
        raise ValueError(f"{folder} has {epochs_done} epochs already: give more --epochs in total")
    others = "given", "output", "resume", "overwrite"
    settings = {name: value for name, value in vars(args).items() if name not in others}
    model.metadata["settings"] = {**settings, **of_model(model)}
    print(f"data      {args.data}: {options.shape_text(model)}, batches of {args.batch_size}")
    precision = model.network.dtype_policy.name
    print(f"model     {model.network.count_params():,} parameters, {precision}")
    print(f"training  {args.epochs - epochs_done} of {args.epochs} epochs, {steps} steps each")
    try:
        fit(model, train_images.from_batch(epochs_done * steps), val_images, steps, args)
        if args.pictures:
            draw(model, args)
    except KeyboardInterrupt:
        resume = shlex.join(["keras-ddim", "train", "--resume", "--output", args.output])
        hint = f"To resume: {resume}" if count_epochs(model) else "No epoch was finished."
        raise KeyboardInterrupt(hint) from None
    for name in (options.MODEL, "history.csv", "samples", *PICTURES[: 3 * args.pictures]):
        print(folder / name)
    args.resume = False  # in the line that repeats the whole run


def start(args: argparse.Namespace, path: pathlib.Path) -> Any:
    """The model to continue or to start from, or None; `args` take over its settings."""
    if path.exists() and args.resume == args.overwrite:
        raise ValueError(f"{path} exists: either --resume its training or --overwrite it")
    if args.resume:
        model = options.load_model(str(path), compile=True)
        settings = model.metadata.get("settings")
        if not settings or not count_epochs(model):
            raise ValueError(f"{path} was not trained by a run; use it with --from-preset")
    elif args.from_preset:
        model = options.load_model(args.from_preset)
        settings = {**dict.fromkeys(OF_THE_MODEL.split()), **of_model(model)}
    else:
        return None
    for name, value in settings.items():
        given = args.given.get(name, value)
        if name in OF_THE_MODEL.split() and json.dumps(given) != json.dumps(value):
            option = "--" + name.replace("_", "-")
            raise ValueError(f"{option} cannot be changed for a trained model; leave it out")
        setattr(args, name, given)
    return model


def of_model(model: Any) -> dict[str, Any]:
    """The options that are read from a model."""
    *image_size, channels = model.image_shape
    dtype_policy = model.network.dtype_policy.name
    return {"image_size": image_size, "channels": channels, "dtype_policy": dtype_policy}


def count_epochs(model: Any) -> int:
    """The number of epochs that a run has finished."""
    history = model.metadata.get("history")
    return history[-1]["epoch"] if history else 0


def fit(model: Any, images: Any, val_images: Any, steps: int, args: argparse.Namespace) -> None:
    folder, epochs_done = pathlib.Path(args.output), count_epochs(model)
    by_class = 0 < model.num_classes <= MOST_ROWS
    samples = callbacks.SampleGrid(
        8 if by_class else 16,
        folder / "samples" / "epoch_{epoch:03d}.png",
        by_class=by_class,
        seed=args.seed,
        guidance_scale=options.scale_of(model),
    )
    followers: list[Any] = [callbacks.SaveHistory(folder / "history.csv"), samples]
    if args.overwrite:  # the pictures at once, the model only when there is a new one
        for pattern in ("samples/epoch_*.png", *PICTURES):
            for path in folder.glob(pattern):
                path.unlink()
    if epochs_done:  # after a kill, their files may lag behind the model
        for callback in followers:
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
        shuffle=False,  # the data set shuffles
        # The model first: later callbacks may be interrupted without harm.
        callbacks=[callbacks.SaveModel(folder / options.MODEL), *followers],
    )


def draw(model: Any, args: argparse.Namespace) -> None:
    folder = pathlib.Path(args.output)
    how = {"seed": args.seed, "guidance_scale": options.scale_of(model)}
    plots.plot_images(model.generate(64, **how), 8, folder / "samples.png")
    rows = [model.generate(8, times, verbose=0, **how) for times in args.times]
    labels = [plots.times_label(times) for times in args.times]
    plots.plot_images(np.concatenate(rows), 8, folder / "times.png", row_labels=labels)
    plots.plot_history(folder / "history.csv", folder / "history.png")
