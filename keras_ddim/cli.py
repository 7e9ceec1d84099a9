"""The command line, `keras-ddim` or `python -m keras_ddim`: parses, calls, prints."""

import argparse
import contextlib
import json
import pathlib
import random
import sys
import textwrap
import zipfile

import keras

import keras_ddim
from keras_ddim import (
    DiffusionModel,
    ResidualUNet,
    callbacks,
    data,
    encoders,
    evaluation,
    noise_levels,
    plots,
    samplers,
    schedules,
)
from keras_ddim.files import check_suffix, write_whole
from keras_ddim.quiet import quietly

# The run without arguments: recognisable flowers in less than five minutes on two CPU cores.
DATA = "flowers"
IMAGE_SIZE = "32"
EPOCHS = 8
BATCH_SIZE = 32
WIDTHS = "16,32,64,128"
BLOCK_DEPTH = 1
LEARNING_RATE = 2e-3
EMA = 0.999
PREDICTION = "velocity"
OUTPUT = "keras-ddim-output"

TIMES = "1 3 5 1,0.8,0.5,0.2 20 50"
NUM_SAMPLES = 64
# Fresh noise in each step mends what a network that has seen little of the data gets wrong.
SAMPLES_TIMES, SAMPLES_SAMPLER = 50, "ddpm"
NUM_SAMPLES_EACH_EPOCH = 16
SAMPLING_TIMES = 20
NUM_ANIMATED = 16
NUM_EVALUATED = 2000
CLASSIFIER_STEPS = 1000

# What a trained model cannot change any more.
SETTINGS_OF_THE_MODEL = (
    "image_size",
    "channels",
    "widths",
    "block_depth",
    "ema",
    "prediction_type",
    "dtype_policy",
)


class UserError(Exception):
    """What the user can put right: one line, no traceback, exit code 2."""


def main(argv=None):
    """Runs a command.

    Args:
        argv: List of arguments. Defaults to None: those of the process.

    Returns:
        The exit code: 0; 2 if the user has to put something right; 130 after Ctrl-C.

    Example:

    >>> main(["generate", "flowers.keras", "--times", "1,0.8,0.5,0.2"])
    0
    """
    try:
        args = parse(argv)
        args.command(args)
    except SystemExit as end:
        # argparse's own: after --help and --version, or a wrong argument.
        return end.code
    except KeyboardInterrupt as interrupt:
        print(f"\n{interrupt}" if interrupt.args else "\nInterrupted.", file=sys.stderr)
        return 130
    except (UserError, OSError) as error:
        print("keras-ddim: error:", " ".join(str(error).split()), file=sys.stderr)
        return 2
    return 0


# Commands


def train(args):
    """Trains a model on images and leaves it, with pictures and its history, in a folder."""
    output = pathlib.Path(args.output)
    model_path, history_path = output / "model.keras", output / "history.csv"
    if model_path.exists() and not (args.resume or args.overwrite):
        raise UserError(
            f"{model_path} exists: continue with --resume, choose another --output, or replace "
            "it with --overwrite"
        )
    start_devices()

    epochs_done = count_epochs(history_path) if args.resume else 0
    if epochs_done >= args.epochs:
        raise UserError(
            f"{model_path} has been trained for {epochs_done} epochs already: --epochs is their "
            f"total and must be larger, received {args.epochs}"
        )
    with user_errors():
        train_images, val_images = data.load_images(
            args.data,
            args.image_size,
            batch_size=args.batch_size,
            channels=args.channels,
            validation_split=args.validation_split,
            fit=args.fit,
            repetitions=args.repetitions,
            flip=args.flip,
            cache={"memory": True, "none": False}.get(args.cache, args.cache),
            seed=args.seed,
            num_images=args.num_images,
            data_dir=args.data_dir,
        )
        image_shape = tuple(train_images.element_spec.shape[1:])
        model = load_model(model_path) if args.resume else new_model(args, image_shape)
        if model.image_shape != image_shape:
            raise UserError(
                f"{model_path} makes images of {shape_text(model.image_shape)}, but those of "
                f"--data {args.data} are {shape_text(image_shape)}"
            )
        model.optimizer.learning_rate = args.learning_rate
        # The model first: whatever comes after it may be interrupted without harm.
        watchers = [
            callbacks.SaveModel(model_path),
            callbacks.SaveHistory(history_path, append=args.resume),
            callbacks.SampleGrid(
                NUM_SAMPLES_EACH_EPOCH, SAMPLING_TIMES, output / "samples" / "epoch_{epoch:03d}.png"
            ),
        ]
    if args.overwrite:
        remove_earlier_run(output)
    write_settings(args)
    print_summary(args, model, train_images, epochs_done)
    try:
        model.fit(
            train_images if args.steps_per_epoch is None else train_images.repeat(),
            validation_data=val_images,
            initial_epoch=epochs_done,
            epochs=args.epochs,
            steps_per_epoch=args.steps_per_epoch,
            shuffle=False,  # the data set does it
            callbacks=watchers,
        )
        samples = model.generate(
            NUM_SAMPLES, SAMPLES_TIMES, sampler=SAMPLES_SAMPLER, clip=True, seed=args.seed
        )
        plots.plot_images(samples, path=output / "samples.png")
        plots.plot_generations(model, args.times, seed=args.seed, path=output / "times.png")
        plots.plot_history(history_path, path=output / "history.png")
    except KeyboardInterrupt:
        raise KeyboardInterrupt(interruption_text(model_path, history_path)) from None
    print_files_of_training(output)


def generate(args):
    """Generates images with a saved model and writes a picture of them."""
    check_model_file(args.model)
    start_devices()

    with user_errors():
        check_suffix(args.output, plots.FORMATS)
        if args.animation:
            check_suffix(args.animation, [".gif"])
    model = load_model(args.model, compile=False)
    # Drawn here rather than by `generate`: the animation is to show the same images.
    seed = random.randrange(2**31) if args.seed is None else args.seed
    with user_errors():
        images = model.generate(
            args.num_images,
            args.times,
            sampler=args.sampler,
            schedule=args.schedule,
            seed=seed,
            batch_size=args.batch_size,
        )
        plots.plot_images(images, args.columns, args.output)
        for index, image in enumerate(images if args.separate else ()):
            plots.save_image(image, pathlib.Path(args.separate) / f"{index:05d}.png")
        if args.animation:
            plots.animate_generation(
                model,
                args.animation,
                args.times,
                min(args.num_images, NUM_ANIMATED),
                sampler=args.sampler,
                schedule=args.schedule,
                seed=seed,
            )
    size = shape_text(model.image_shape)
    print(f"{args.num_images} images of {size}, times: {plots.times_label(args.times)}")
    print(f"  {args.output}")
    if args.separate:
        print(f"  {pathlib.Path(args.separate) / '*.png'}")
    if args.animation:
        print(f"  {args.animation}")


def evaluate(args):
    """Measures images of a saved model against real ones; leaves table and pictures in a folder."""
    check_model_file(args.model)
    start_devices()

    model = load_model(args.model, compile=False)
    with user_errors():
        options = {
            "image_size": model.image_shape[:2],
            "channels": model.image_shape[-1],
            # None for 0: where none were kept from training, those that the data suggests.
            "validation_split": args.validation_split or None,
            "fit": args.fit,
            "seed": args.data_seed,
            "num_images": args.data_num_images,
            "data_dir": args.data_dir,
        }
        encoder = make_encoder(args, options)
        train_images, real_images = data.load_images(args.data, **options)
        results, pictures = evaluation.evaluate(
            model,
            train_images,
            real_images,
            encoder,
            args.times,
            num_images=args.num_images,
            sampler=args.sampler,
            schedule=args.schedule,
            seed=args.seed,
            batch_size=args.batch_size,
        )
        described = {"model": args.model, "data": args.data, "data_options": options, **results}
        evaluation.write(args.output, described, pictures)
    print(f"\n{evaluation.table(results)}")
    files = {
        "table.md": "the table above",
        "results.json": "the same, and all that is needed to repeat it",
        "nearest.png": "generated images above those of training that come nearest",
    }
    print_files(args.output, files)


def make_encoder(args, options):
    """The encoder that the arguments of `evaluate` name."""
    if args.encoder == "inception_v3":
        return encoders.InceptionV3(args.encoder_size, args.encoder_weights)
    # Loaded for itself: how often it is read must not change how the others are shuffled.
    try:
        train_images, val_images = data.load_images(args.data, **options, labels=True)
    except ValueError as error:
        hint = "; or choose --encoder inception_v3, which needs no labels" * ("label" in str(error))
        raise UserError(f"--encoder classifier: {error}{hint}") from error
    cache = encoders.classifier_path(args.data, options, train_images.class_names)
    if cache.exists():
        print(f"Comparing by the features of {cache}")
    else:
        print(f"Training a small classifier, to compare by its features; it is kept as {cache}")
    keras.utils.set_random_seed(0)
    batches = train_images.repeat().take(CLASSIFIER_STEPS)
    num_classes = len(train_images.class_names)
    return encoders.train_classifier(batches, val_images, num_classes, cache=cache)


# Parsing


def parse(argv=None):
    """The arguments; those of a run that is resumed stand in for those not given."""
    args = make_parser().parse_args(argv)
    if args.command is evaluate:
        return make_parser(settings_of_data=read_settings_of_data(args.model)).parse_args(argv)
    if not getattr(args, "resume", False):
        return args
    settings = read_settings(args.output)
    args = make_parser(settings).parse_args(argv)
    for name in SETTINGS_OF_THE_MODEL:
        if name in settings and getattr(args, name) != settings[name]:
            option = "--" + name.replace("_", "-")
            raise UserError(
                f"{option} is that of the model when resuming, "
                f"{option_text(settings[name])}; received {option_text(getattr(args, name))}"
            )
    return args


def make_parser(settings=None, settings_of_data=None):
    """The parser; `settings` replace the defaults of `train`, the others those of `evaluate`."""
    parser = Parser(
        prog="keras-ddim",
        description="Diffusion models: train once, generate along any list of diffusion times.",
        epilog="examples:\n"
        "  keras-ddim train\n"
        f"  keras-ddim generate {OUTPUT}/model.keras --times 1,0.8,0.5,0.2",
        formatter_class=HelpFormatter,
    )
    parser.add_argument("--version", action="version", version=keras_ddim.__version__)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    command = commands.add_parser(
        "train",
        help="train a model on images",
        description="Trains a model on images. Leaves in the output folder, after each epoch: "
        "model.keras, history.csv and samples/; at the end: samples.png, times.png (the same "
        "noise at several lists of diffusion times) and history.png.",
        epilog="examples:\n"
        "  keras-ddim train\n"
        "  keras-ddim train --data fashion_mnist --fit pad --steps-per-epoch 500 --epochs 6\n"
        "  keras-ddim train --data photos/ --image-size 48x96 --flip --output photos-model\n"
        "  keras-ddim train --output photos-model --resume --epochs 40",
        formatter_class=HelpFormatter,
    )
    option = command.add_argument_group("images").add_argument
    option("--data", default=DATA, help="'flowers', a folder, or a TensorFlow Datasets name")
    option("--data-dir", metavar="DIR", help="where TensorFlow Datasets keeps its data")
    option(
        "--image-size",
        type=image_size,
        default=IMAGE_SIZE,
        metavar="SIZE",
        help="64, or height x width such as 48x96",
    )
    option(
        "--channels", type=int, choices=(1, 3, 4), help="of the images (default: as in the data)"
    )
    option("--fit", choices=("crop", "pad"), default="crop", help="how images get their shape")
    option("--flip", action=argparse.BooleanOptionalAction, default=False, help="mirror at random")
    option(
        "--repetitions",
        type=count,
        default=1,
        metavar="N",
        help="passes through the data in an epoch",
    )
    option(
        "--validation-split",
        type=float,
        metavar="PART",
        help="part of the images kept for validation (default: as the data suggests)",
    )
    option(
        "--num-images", type=count, metavar="N", help="images to use (default: all; 4000 flowers)"
    )
    option(
        "--cache",
        default="memory",
        metavar="WHERE",
        help="'memory', 'none', or the beginning of a file name: where prepared images are kept",
    )

    option = command.add_argument_group("model").add_argument
    option("--widths", type=widths, default=WIDTHS, help="channels of the network's levels")
    option("--block-depth", type=count, default=BLOCK_DEPTH, metavar="N", help="blocks of a level")
    option("--ema", type=float, default=EMA, help="decay of the averaged weights")
    option(
        "--prediction-type",
        choices=noise_levels.PREDICTION_TYPES,
        default=PREDICTION,
        help="what the network predicts; velocity learns colours and shapes soonest",
    )
    option(
        "--dtype-policy",
        choices=("float32", "mixed_bfloat16"),
        default="float32",
        help="mixed_bfloat16 is faster on recent GPUs",
    )

    option = command.add_argument_group("training").add_argument
    option("--epochs", type=count, default=EPOCHS, metavar="N", help="in total, also on --resume")
    option(
        "--steps-per-epoch",
        type=count,
        metavar="N",
        help="batches in an epoch (default: once through the data)",
    )
    option("--batch-size", type=count, default=BATCH_SIZE, metavar="N", help="images in a step")
    option("--learning-rate", type=positive, default=LEARNING_RATE, metavar="RATE", help="of AdamW")
    option("--seed", type=seed, default=0, help="makes the run reproducible")

    option = command.add_argument_group("output").add_argument
    option("--output", default=OUTPUT, metavar="DIR", help="folder for all that is written")
    either = command.add_mutually_exclusive_group()
    either.add_argument(
        "--resume", action="store_true", help="continue the run in the output folder, as it was"
    )
    either.add_argument(
        "--overwrite", action="store_true", help="replace the run in the output folder"
    )
    option(
        "--times",
        type=times,
        nargs="+",
        default=[times(text) for text in TIMES.split()],
        metavar="TIMES",
        help=f"rows of times.png, each as in `generate` (default: {TIMES})",
    )
    command.set_defaults(**(settings or {}), command=train)

    command = commands.add_parser(
        "generate",
        help="generate images with a trained model",
        description="Generates images with a trained model and writes a picture of them.",
        epilog="examples:\n"
        "  keras-ddim generate model.keras\n"
        "  keras-ddim generate model.keras --times 1,0.8,0.5,0.2 --num-images 64 --seed 1",
        formatter_class=HelpFormatter,
    )
    option = command.add_argument
    option("model", metavar="MODEL.keras", help="a model saved by `train` or `model.save`")
    option(
        "--times",
        type=times,
        default=str(SAMPLING_TIMES),
        help="diffusion times: how many (uniform from 1 down), or a list such as 1,0.8,0.5,0.2",
    )
    add_sampling_options(option)
    option("--num-images", type=count, default=16, metavar="N", help="how many images")
    option("--seed", type=seed, help="the same images each time (default: new ones)")
    option("--batch-size", type=count, default=64, metavar="N", help="images made together")
    option("--columns", type=count, metavar="N", help="of the picture (default: a square)")
    option("--output", default="generated.png", metavar="FILE", help="the picture")
    option("--separate", metavar="DIR", help="folder for each image as a file of its own, too")
    option("--animation", metavar="FILE", help="a GIF of the way from noise to images, too")
    command.set_defaults(command=generate)

    command = commands.add_parser(
        "evaluate",
        help="measure how good the images of a trained model are",
        description="Measures how far generated images are from real ones that were kept from "
        "training, and for scale, images of training and noise. Leaves table.md, results.json and "
        "nearest.png (the nearest images of training) in a folder. The data are those of the run "
        "that the model lies in the folder of, unless given.",
        epilog="examples:\n"
        f"  keras-ddim evaluate {OUTPUT}/model.keras\n"
        "  keras-ddim evaluate model.keras --data photos/ --times 2 20 --num-images 5000\n"
        "  keras-ddim evaluate model.keras --encoder inception_v3 --encoder-weights weights.h5",
        formatter_class=HelpFormatter,
    )
    option = command.add_argument
    option("model", metavar="MODEL.keras", help="a model saved by `train` or `model.save`")
    option("--data", default=DATA, help="'flowers', a folder, or a TensorFlow Datasets name")
    option("--data-dir", metavar="DIR", help="where TensorFlow Datasets keeps its data")
    option("--fit", choices=("crop", "pad"), default="crop", help="how images get their shape")
    option(
        "--validation-split",
        type=float,
        metavar="PART",
        help="part of the images to compare with (default: as in training, else as the data "
        "suggests)",
    )
    option(
        "--times",
        type=times,
        nargs="+",
        default=[SAMPLING_TIMES],
        metavar="TIMES",
        help=f"a row each: how many, or a list such as 1,0.8,0.5 (default: {SAMPLING_TIMES})",
    )
    add_sampling_options(option)
    option(
        "--num-images", type=count, default=NUM_EVALUATED, metavar="N", help="how many to generate"
    )
    option("--seed", type=seed, default=0, help="of their noise")
    option("--batch-size", type=count, default=64, metavar="N", help="images made together")
    option(
        "--encoder",
        choices=("classifier", "inception_v3"),
        default="classifier",
        help="whose features are compared: a small classifier trained on the labels of the data, "
        "or InceptionV3, for FID and KID",
    )
    option(
        "--encoder-weights",
        default="imagenet",
        metavar="FILE",
        help="of InceptionV3; 'imagenet' is downloaded",
    )
    option(
        "--encoder-size", type=count, default=299, metavar="N", help="299, or 75, which is faster"
    )
    option("--output", default="evaluation", metavar="DIR", help="folder for all that is written")
    command.set_defaults(
        **{"data_seed": 0, "data_num_images": None, **(settings_of_data or {})}, command=evaluate
    )
    return parser


def add_sampling_options(option):
    """The options that `generate` and `evaluate` have in common."""
    option(
        "--sampler",
        choices=sorted(samplers.SAMPLERS),
        default="ddim",
        metavar="NAME",
        help=f"how to step from time to time: {', '.join(sorted(samplers.SAMPLERS))}",
    )
    option(
        "--schedule",
        choices=sorted(schedules.SCHEDULES),
        metavar="NAME",
        help="to which the times belong, if not to that of training: "
        + ", ".join(sorted(schedules.SCHEDULES)),
    )


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line."""

    def error(self, message):
        self.exit(2, f"{self.prog}: error: {message} (--help shows what is allowed)\n")


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Shows defaults that say something, and leaves the examples as they are."""

    def _get_help_string(self, action):
        if action.default in (None, False) or "(default:" in action.help:
            return action.help
        return super()._get_help_string(action)

    def _fill_text(self, text, width, indent):
        if text.startswith("examples:"):
            return super()._fill_text(text, width, indent)
        return argparse.HelpFormatter._fill_text(self, text, width, indent)


def integer_from(minimum, text):
    number = int(text) if text.strip().isdecimal() else minimum - 1
    if number < minimum:
        raise argparse.ArgumentTypeError(f"must be an integer of at least {minimum}: {text!r}")
    return number


def count(text):
    return integer_from(1, text)


def seed(text):
    return integer_from(0, text)


def positive(text):
    number = float_or_nan(text)
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"must be a positive number: {text!r}")
    return number


def image_size(text):
    """(height, width) from "64" or "48x96"."""
    sides = text.lower().split("x")
    if len(sides) > 2 or not all(side.isdecimal() and int(side) for side in sides):
        raise argparse.ArgumentTypeError(f"must be a size such as 64 or 48x96: {text!r}")
    return int(sides[0]), int(sides[-1])


def widths(text):
    return tuple(count(width) for width in text.split(","))


def times(text):
    """A number of uniform times from "20", a list of them from "1,0.8,0.5" or "0.5"."""
    if text.isdecimal() and int(text):
        return int(text)
    listed = tuple(float_or_nan(time) for time in text.rstrip(",").split(","))
    if text.isdecimal() or not all(0 <= time <= 1 for time in listed):
        raise argparse.ArgumentTypeError(
            "must be a number of times such as 20, or a list of times from 0 to 1 such as "
            f"1,0.8,0.5,0.2: {text!r}"
        )
    return listed


def float_or_nan(text):
    try:
        return float(text)
    except ValueError:
        return float("nan")


# Models


def new_model(args, image_shape):
    """A compiled model as the arguments describe it."""
    network = ResidualUNet(
        image_shape,
        widths=args.widths,
        block_depth=args.block_depth,
        seed=args.seed,
        dtype=args.dtype_policy,
    )
    model = DiffusionModel(
        network=network,
        ema=args.ema,
        seed=args.seed,
        prediction_type=args.prediction_type,
        dtype=args.dtype_policy,
    )
    model.compile()
    return model


def load_model(path, compile=True):
    """The `DiffusionModel` saved at `path`."""
    check_model_file(path)
    try:
        model = keras.saving.load_model(path, compile=compile)
    except Exception as error:  # whatever a foreign or damaged file may lead to
        reason = textwrap.shorten(str(error), 200, placeholder=" …")
        raise UserError(f"{path} cannot be loaded by Keras: {reason}") from error
    if not isinstance(model, DiffusionModel):
        raise UserError(f"{path} holds a {type(model).__name__}, not a DiffusionModel")
    return model


def check_model_file(path):
    if not pathlib.Path(path).is_file():
        raise UserError(f"there is no file {path}")
    if not str(path).endswith(".keras") or not zipfile.is_zipfile(path):
        raise UserError(f"{path} is not a .keras file, as saved by `train` or `model.save`")


# The output folder


def write_settings(args):
    settings = {
        name: value
        for name, value in vars(args).items()
        if name not in ("command", "output", "resume", "overwrite")
    }
    with write_whole(pathlib.Path(args.output) / "settings.json") as temporary_path:
        temporary_path.write_text(json.dumps(settings, indent=2) + "\n")


def read_settings(output):
    """The arguments of the run in the folder `output`."""
    path = pathlib.Path(output) / "settings.json"
    check_model_file(path.with_name("model.keras"))
    with user_errors():
        settings = json.loads(path.read_text())
    return {name: tuple(v) if isinstance(v, list) else v for name, v in settings.items()}


def read_settings_of_data(model_path):
    """What the run in the model's folder says of its data, as defaults of `evaluate`."""
    if not pathlib.Path(model_path).with_name("settings.json").exists():
        return {}
    settings = read_settings(pathlib.Path(model_path).parent)
    names = {name: name for name in ("data", "data_dir", "fit", "validation_split")}
    names |= {"seed": "data_seed", "num_images": "data_num_images"}
    return {new: settings[name] for name, new in names.items() if name in settings}


def count_epochs(history_path):
    """How many epochs the history at `history_path` tells of."""
    rows = plots.read_history(history_path) if history_path.exists() else []
    return int(rows[-1]["epoch"]) if rows else 0


def remove_earlier_run(output):
    """Removes what would otherwise be taken for the results of the run about to begin."""
    names = ["model.keras", "history.csv", "samples.png", "times.png", "history.png"]
    for path in [*(output / name for name in names), *output.glob("samples/epoch_*.png")]:
        path.unlink(missing_ok=True)


# Printing


def print_summary(args, model, train_images, epochs_done):
    batches = args.steps_per_epoch or int(train_images.cardinality())
    steps = f", {batches} steps each" if batches > 0 else ""
    parameters = model.network.count_params()
    device = ", ".join(keras.distribution.list_devices())
    print(f"data      {args.data}: {shape_text(model.image_shape)}, batches of {args.batch_size}")
    print(f"model     {parameters:,} parameters, {args.dtype_policy}, on {device}")
    print(f"training  epochs {epochs_done + 1} to {args.epochs}{steps}")
    print(f"output    {args.output}")


def print_files_of_training(output):
    print("Done. These files are yours:")
    files = {
        "model.keras": "the model",
        "samples.png": f"{NUM_SAMPLES} images, {SAMPLES_SAMPLER} at {SAMPLES_TIMES} times",
        "times.png": "the same noise at several lists of diffusion times",
        "history.csv": "the losses of each epoch",
        "history.png": "the same, drawn",
        "samples": "images from the same noise after each epoch",
        "settings.json": "the arguments, for --resume",
    }
    print_files(output, files)
    print(f"Next: keras-ddim generate {output / 'model.keras'} --times 1,0.8,0.5,0.2")


def print_files(output, files):
    for name, text in files.items():
        print(f"  {pathlib.Path(output) / name!s:40} {text}")


def interruption_text(model_path, history_path):
    if not model_path.exists():
        return "Interrupted before the first epoch was finished: there is no model yet."
    return (
        f"Interrupted: {model_path} is the model of epoch {count_epochs(history_path)}; "
        "--resume continues from there."
    )


def shape_text(image_shape):
    height, width, channels = image_shape
    return f"{height}x{width} pixels with {channels} channel{'s' if channels > 1 else ''}"


def option_text(value):
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


# Errors and noise


@contextlib.contextmanager
def user_errors():
    """Context in which a `ValueError` tells the user what to put right."""
    try:
        yield
    except ValueError as error:
        raise UserError(str(error)) from error


def start_devices():
    """Has TensorFlow say now, unheard, what it says of the machine at its first computation."""
    with quietly():
        keras.ops.zeros(())
