"""Options: how they are written, and what stands in for those that are not given."""

import argparse
import math
from types import ModuleType
from typing import Any, NamedTuple, NoReturn

import keras_ddim
from keras_ddim import checks, presets, samplers, schedules

EXAMPLES = """examples:
  keras-ddim generate flowers
  keras-ddim train
  keras-ddim generate keras-ddim-output/model.keras --times 1,0.8,0.5,0.2"""


class CommandLine(NamedTuple):
    """The options given, and the defaults of all."""

    given: dict[str, Any]
    defaults: dict[str, Any]

    def over(self, settings: dict[str, Any]) -> argparse.Namespace:
        """All options: those given, else those of `settings`, else the defaults."""
        return argparse.Namespace(**{**self.defaults, **settings, **self.given})


class Parser(argparse.ArgumentParser):
    """A parser that sets only the options given, and whose errors are one line."""

    def __init__(self, **kwargs: Any) -> None:
        raw = argparse.RawDescriptionHelpFormatter
        super().__init__(formatter_class=raw, argument_default=argparse.SUPPRESS, **kwargs)
        self.defaults: dict[str, Any] = {}
        self.group: Any = self

    def section(self, title: str) -> None:
        """Begins a section of the help."""
        self.group = self.add_argument_group(title)

    def add(self, flag: str, default: Any, help: str, **kwargs: Any) -> None:
        """Adds an option and its default."""
        name = flag.removeprefix("--").replace("-", "_")
        self.defaults[name] = default
        if default is not None and default is not False:
            help += f" (default: {text(name, default)})"
        self.group.add_argument(flag, help=help, **kwargs)

    def add_data(self, part: str) -> None:
        """Adds the options for the images that a model is trained on or compared with."""
        data = "'plain_flowers', 'flowers', a folder, or a TensorFlow Datasets name"
        self.add("--data", "plain_flowers", data)
        self.add("--data-dir", None, "folder where TensorFlow Datasets keeps its data")
        self.add("--fit", "crop", "how images get their shape", choices=("crop", "pad"))
        self.add("--validation-split", None, f"part of the images {part}", type=float)

    def add_sampling(self, which: str, default_times: Any, **kwargs: Any) -> None:
        """Adds the model, and the options for how it generates; see `generate_options`."""
        saved = "a model saved by `train` or `model.save`, or a preset: "
        self.add_argument("model", metavar="MODEL", help=saved + ", ".join(presets.names()))
        which += ": how many (evenly spaced from 1 down), a list such as 1,0.8,0.5,0.2, or one "
        which += "that `optimize-times` has found for the sampler, such as best:5"
        self.add("--times", default_times, which, type=times_or_name, **kwargs)
        names = sorted(samplers.SAMPLERS)
        how = "how to step from time to time (default: unipc, or ddim if times do not decrease)"
        self.add("--sampler", None, how, choices=names)
        names = sorted(schedules.SCHEDULES)
        self.add("--schedule", None, "of the times, if not that of training", choices=names)
        clips = "none", "static", "dynamic"
        self.add("--clip", "none", "of predicted images, at each time", choices=clips)
        scale = "how far to lead beyond images without the label; 1 is not at all"
        self.add("--guidance-scale", 1.0, scale, type=float)
        interval = "diffusion times at which to, such as 0.2,0.8 (default: all)"
        self.add("--guidance-interval", None, interval, type=interval_of_times)
        self.add("--batch-size", 64, "images generated together", type=count)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message} (--help shows what is allowed)\n")


def parse(commands: dict[str, ModuleType], argv: list[str] | None) -> tuple[str, CommandLine]:
    """The name of the command and its options; a command's help is its module's docstring."""
    parser = Parser(prog="keras-ddim", description=keras_ddim.__doc__, epilog=EXAMPLES)
    parser.add_argument("--version", action="version", version=keras_ddim.__version__)
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    parsers = {}
    for name, module in commands.items():
        doc = str(module.__doc__)
        parsers[name] = subparsers.add_parser(name, help=doc.splitlines()[0], description=doc)
        module.add_options(parsers[name])
    given = vars(parser.parse_args(argv))
    name = given.pop("command")
    return name, CommandLine(given, parsers[name].defaults)


def generate_options(args: argparse.Namespace) -> dict[str, Any]:
    """The options of `Parser.add_sampling` as keyword arguments of `DiffusionModel.generate`."""
    names = "sampler", "schedule", "batch_size", "guidance_scale", "guidance_interval"
    options = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    return {**options, "clip": args.clip != "none" and args.clip}


def text(name: str, value: Any) -> str:
    """The value of an option as it is written on the command line."""
    if not isinstance(value, (tuple, list)):
        return str(value)
    separator = {"image_size": "x", "times": " "}.get(name, ",")
    return separator.join(text("", part) for part in value)


# Types of options, named as in "invalid count value"


def count(text: str) -> int:
    return checks.check_count("count", int(text))


def seed(text: str) -> int | None:
    return checks.check_seed(int(text))


def positive_number(text: str) -> float:
    if not 0 < float(text) < math.inf:
        raise ValueError
    return float(text)


def size(text: str) -> tuple[int, int]:
    """(height, width) from "64" or "48x96"."""
    sides = [count(side) for side in text.lower().split("x")]
    height, width = 2 * sides if len(sides) == 1 else sides
    return height, width


def widths(text: str) -> tuple[int, ...]:
    return tuple(count(width) for width in text.split(","))


def times(text: str) -> int | tuple[float, ...]:
    """A number of uniform times from "20", a list of them from "1,0.8,0.5" or "0.5"."""
    if text.isdecimal():
        return count(text)
    listed = [float(time) for time in text.rstrip(",").split(",")]
    return tuple(checks.check_diffusion_times(listed).tolist())


def interval_of_times(text: str) -> tuple[float, float]:
    """The lowest and the highest of "0.2,0.8"."""
    low, high = (float(time) for time in text.split(","))
    return low, high


def times_or_name(text: str) -> int | str | tuple[float, ...]:
    """As `times`, or the name of a list that is kept with the model."""
    return text if text[:1].isalpha() and text not in ("nan", "inf") else times(text)


times_or_name.__name__ = "times"  # by which messages call it


def encoder(text: str) -> str:
    if text not in ("classifier", "inception_v3") and not text.endswith(".keras"):
        raise ValueError
    return text
