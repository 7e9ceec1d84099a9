"""Options that several commands share."""

import argparse
import json
import os
import pathlib
import shlex
from typing import Any, NoReturn

from keras_ddim import DiffusionModel, guidance, plots, presets, samplers, schedules
from keras_ddim.data.loading import DRAWN, is_path
from keras_ddim.generation import resolve_times
from keras_ddim.recipes import GUIDANCE_SCALE

MODEL = "model.keras"  # in the folder of a run
SCALE = "scale of classifier-free guidance; 1 is no guidance (default: "
SCALE += f"{GUIDANCE_SCALE}, or 1 for a model without classes)"


class Parser(argparse.ArgumentParser):
    """A parser that knows the defaults of its options and can write a command from their values."""

    def __init__(self, prog: str, **kwargs: Any) -> None:
        raw = argparse.RawDescriptionHelpFormatter
        kwargs |= {"formatter_class": raw, "argument_default": argparse.SUPPRESS}
        super().__init__(prog, allow_abbrev=False, **kwargs)
        self.group: Any = self  # of the help, for the next options
        self.defaults: dict[str, Any] = {}
        self.lists: set[str] = set()  # options of several words

    def add(self, flag: str, default: Any, help: str, **kwargs: Any) -> None:
        """Adds an option; an argument by position has the default `...`."""
        name = flag.removeprefix("--").replace("-", "_")
        self.defaults[name] = default
        if kwargs.get("nargs") in ("+", 2):
            self.lists.add(name)
        if default not in (None, ...) and not isinstance(default, bool):
            help += f" (default: {' '.join(self.written(name, default))})"
        self.group.add_argument(flag, help=help, **kwargs)

    def written(self, name: str, value: Any) -> list[str]:
        """A value as words of a command."""
        parts = value if name in self.lists else [value]
        return [",".join(map(str, p)) if isinstance(p, (tuple, list)) else str(p) for p in parts]

    def words(self, args: argparse.Namespace) -> str:
        """The command with these options."""
        words = self.prog.split()
        for name, default in self.defaults.items():
            value, flag = getattr(args, name), "--" + name.replace("_", "-")
            if default is ...:
                words += self.written(name, value)
            elif isinstance(value, bool):
                words += [flag if value else f"--no{flag[1:]}"] * (value != default)
            elif value is not None and json.dumps(value) != json.dumps(default):
                words += [flag, *self.written(name, value)]
        return shlex.join(words)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message}\n")


# Types of options; argparse reports invalid values by their names


def integers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))


def size(text: str) -> tuple[int, int]:
    """Height and width, of "48x96" or, for squares, "64"."""
    sides = integers(text.replace("x", ","))
    height, width = sides if len(sides) == 2 else sides * 2
    return height, width


def times(text: str) -> int | str | tuple[float, ...]:
    """A number of times, a list such as "1,0.8,0.5" or a name such as "best:5"."""
    if text[:1].isalpha():
        return text
    return int(text) if text.isdecimal() else tuple(float(t) for t in text.split(",") if t)


def source(text: str) -> str:
    """A name of data, or the absolute path of a folder, so that runs can be resumed anywhere."""
    return os.path.abspath(os.path.expanduser(text)) if is_path(text) else text


def add_data(parser: Parser, default: str | None = None) -> None:
    """Adds the options for training or reference images."""
    data = f"a folder, a name in TensorFlow Datasets, or drawn flowers ({', '.join(DRAWN)})"
    parser.add("--data", default, data + " (default: as in training)" * (not default), type=source)
    parser.add("--data-dir", None, "folder of TensorFlow Datasets")
    fit = default and "crop"
    parser.add("--fit", fit, "resize by centre crop or by padding", choices=("crop", "pad"))
    split = "fraction of images held out for validation (default: as in training or the data)"
    parser.add("--validation-split", None, split, type=float)


def add_model(parser: Parser) -> None:
    kinds = "a saved model, the folder of a training run, or a preset: "
    parser.add("model", ..., kinds + ", ".join(presets.names()), metavar="MODEL")


def add_sampling(parser: Parser, default_times: Any, purpose: str, **kwargs: Any) -> None:
    """Adds the options for `generate_options`."""
    which = f"{purpose}: a number of steps, a list such as 1,0.8,0.5,0.2, or a name such as best:5 "
    which += "for times kept by `optimize-times`"
    parser.add("--times", default_times, which, type=times, **kwargs)
    choices: Any = sorted(samplers.SAMPLERS)
    solver = "solver (default: unipc, or ddim for times that do not decrease)"
    parser.add("--sampler", None, solver, choices=choices)
    choices = sorted(schedules.SCHEDULES)
    parser.add("--schedule", None, "noise schedule (default: as in training)", choices=choices)
    choices = "static", "dynamic"
    parser.add("--clip", None, "clip the predicted images at each step", choices=choices)
    parser.add("--guidance-scale", None, SCALE, type=float)
    interval = {"type": float, "nargs": 2, "metavar": ("LOW", "HIGH")}
    parser.add("--guidance-interval", None, "times at which to guide (default: all)", **interval)
    parser.add("--batch-size", 64, "number of images to generate together", type=int)


def model_path(name: str) -> str:
    """The name of a preset, or the path of a model file, also for the folder of a run."""
    is_folder = name not in presets.names() and pathlib.Path(name).is_dir()
    return str(pathlib.Path(name, MODEL)) if is_folder else name


def load_model(name: str, compile: bool = False) -> DiffusionModel:
    return DiffusionModel.from_preset(model_path(name), compile=compile)


def scale_of(model: DiffusionModel, given: float | None = None) -> float:
    """The guidance scale, by default that for the model."""
    if given is not None:
        return given
    return GUIDANCE_SCALE if model.class_names and model.label_dropout else 1.0


def generate_options(args: argparse.Namespace, model: DiffusionModel) -> dict[str, Any]:
    """The options of `add_sampling`, without the times, as arguments of `generate`."""
    options = {name: getattr(args, name) for name in ("sampler", "schedule", "batch_size")}
    options["clip"] = args.clip or False
    scale = scale_of(model, args.guidance_scale)
    if args.guidance_interval is None or scale == 1:
        return {**options, "guidance_scale": scale}
    interval = tuple(args.guidance_interval)
    return {**options, "guidance": guidance.ClassifierFree(scale=scale, interval=interval)}


def data_options(args: argparse.Namespace, model: DiffusionModel) -> dict[str, Any]:
    """Arguments of `load_images` for `--data`, by default the training images.

    For the training images, options that are not given are those of training.
    """
    settings = model.metadata.get("settings") or {}
    if args.data not in (None, settings.get("data")):
        settings = {}
    names = {"data", "data_dir", "fit", "validation_split"} & args.given.keys()
    settings = {**settings, **{name: args.given[name] for name in names}}
    if "data" not in settings:
        raise ValueError(f"the training data of {args.model} are unknown; pass --data")
    print(f"data      {settings['data']}")
    return {
        "source": settings["data"],
        "data_dir": settings.get("data_dir"),
        "fit": settings.get("fit", "crop"),
        # None for 0: without held-out images, the default split.
        "validation_split": settings.get("validation_split") or None,
        "image_size": model.image_shape[:2],
        "channels": model.image_shape[-1],
        "seed": settings.get("seed", 0),
        "num_images": settings.get("num_images"),
    }


def shape_text(model: DiffusionModel) -> str:
    return "x".join(map(str, model.image_shape))


def sampling_text(args: argparse.Namespace, model: DiffusionModel) -> str:
    """Sampler, number of steps and guidance."""
    scale = scale_of(model, args.guidance_scale)
    total = model.metadata.get("distilled_guidance_scale", scale)
    guided = "no guidance" if total == 1 else f"guidance scale {total:g}"
    if scale != 1 and args.guidance_interval:
        guided += " at times from {:g} to {:g}".format(*args.guidance_interval)
    sampler, visited, _ = resolve_times(model, args.times, args.sampler, args.schedule)
    steps = f"{len(visited)} step{'s' if len(visited) > 1 else ''}"
    listed = "" if isinstance(args.times, int) else f" ({plots.times_label(args.times)})"
    return f"{type(sampler).__name__}, {steps}{listed}, {guided}"
