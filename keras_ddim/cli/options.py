"""Options: how they are written, what stands in for those not given, and what mistakes mean."""

import argparse
import contextlib
import difflib
import math
import os
import pathlib
import re
import warnings
from argparse import ArgumentTypeError as Wrong
from collections.abc import Callable, Iterable, Iterator, Sequence
from types import ModuleType
from typing import Any, NamedTuple, NoReturn

import keras_ddim
from keras_ddim import checks, plots, presets, samplers, schedules
from keras_ddim.cli import run_folder
from keras_ddim.data.loading import DRAWN, is_path
from keras_ddim.guidance import LARGEST_SCALE
from keras_ddim.recipes import GUIDANCE_SCALE

EXAMPLES = """examples:
  keras-ddim generate flowers
  keras-ddim train
  keras-ddim generate keras-ddim-output --times 1,0.8,0.5,0.2"""
# Commands of other programs, and the arguments of functions that are options of another name.
COMMANDS = {"sample": "generate", "fit": "train", "eval": "evaluate", "test": "evaluate"}
ARGUMENTS = {
    **{"source": "data", "path": "output", "image_shape": "image_size", "labels": "label"},
    **{"diffusion_times": "times", "preset": "from_preset", "weights": "encoder_weights"},
}


class CommandLine(NamedTuple):
    """The options given, and the defaults of all."""

    given: dict[str, Any]
    defaults: dict[str, Any]

    def over(self, settings: dict[str, Any]) -> argparse.Namespace:
        """All options: those given, else those of `settings`, else the defaults."""
        return argparse.Namespace(**{**self.defaults, **settings, **self.given})

    def message(self, error: Exception) -> str:
        """What an error says of arguments, on one line, by the names of the options."""

        def option(name: str) -> str | None:
            names = [name for name in (name, ARGUMENTS.get(name)) if name in self.defaults]
            return flag(names[0]) if names else None

        def is_required(match: re.Match) -> str:
            return option(match[1]) or match[0]

        def was_received(match: re.Match) -> str:
            named = option(match[2])
            return f"{match[1]}{named} " if named else match[0]

        text = re.sub(r"`(\w+)(?:=True)?`", is_required, " ".join(str(error).split()))
        return re.sub(r"(Received: |, )(\w+)=", was_received, text)


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

    def add(self, flag: str, default: Any, help: str, choices: Any = None, **kwargs: Any) -> None:
        """Adds an option and its default; of `choices`, case does not matter."""
        name = flag.removeprefix("--").replace("-", "_")
        self.defaults[name] = default
        if default is not None and not isinstance(default, bool):
            help += f" (default: {text(name, default)})"
        if choices:
            kwargs |= {"type": choice(choices), "metavar": f"{{{','.join(map(str, choices))}}}"}
        self.group.add_argument(flag, help=help, **kwargs)

    def add_data(self, part: str, default: str | None = DRAWN[0]) -> None:
        """Adds the options for the images that a model is trained on or compared with."""
        data = "'plain_flowers', 'flowers', a folder, or a TensorFlow Datasets name"
        self.add("--data", default, data)
        self.add("--data-dir", None, "folder where TensorFlow Datasets keeps its data")
        self.add("--fit", "crop", "how images get their shape", choices=("crop", "pad"))
        self.add("--validation-split", None, f"part of the images {part}", type=fraction)

    def add_model(self) -> None:
        saved = "a model saved by `train` or `model.save`, the folder of a run, or a preset: "
        saved += ", ".join(presets.names())
        self.add_argument("model", metavar="MODEL", help=saved, type=model)

    def add_sampling(self, which: str, default_times: Any, **kwargs: Any) -> None:
        """Adds the model, and the options for how it generates; see `generate_options`."""
        self.add_model()
        which += ": how many, a list such as 1,0.8,0.5,0.2, or one "
        which += "that `optimize-times` has found for the sampler, such as best:5"
        self.add("--times", default_times, which, type=times_or_name, **kwargs)
        names = sorted(samplers.SAMPLERS)
        how = "how to step from time to time (default: unipc, or ddim if times do not decrease)"
        self.add("--sampler", None, how, choices=names)
        names = sorted(schedules.SCHEDULES)
        self.add("--schedule", None, "noise schedule (default: that of training)", choices=names)
        clips = "none", "static", "dynamic"
        self.add("--clip", "none", "how predicted images are clipped at each time", choices=clips)
        self.add_guidance_scale()
        interval = "diffusion times at which to guide, such as 0.2,0.8 (default: all)"
        self.add("--guidance-interval", None, interval, type=interval_of_times)
        self.add("--batch-size", 64, "images generated together", type=count)

    def add_guidance_scale(self) -> None:
        scale = "of classifier-free guidance; 1 is without (default: "
        scale += f"{GUIDANCE_SCALE}, of a model without classes 1)"
        self.add("--guidance-scale", None, scale, type=between(0, LARGEST_SCALE))

    def error(self, message: str) -> NoReturn:
        is_short = message.startswith("the following") or "expected" in message  # argparse's own
        message = message.removeprefix("argument ") + " (see --help)" * is_short
        self.exit(2, f"{self.prog}: error: {message}\n")


def parse(commands: dict[str, ModuleType], argv: list[str]) -> tuple[str, CommandLine]:
    """The name of the command and its options; a command's help is its module's docstring."""
    parser = Parser(prog="keras-ddim", description=keras_ddim.__doc__, epilog=EXAMPLES)
    parser.add_argument("--version", action="version", version=keras_ddim.__version__)
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    parsers = {}
    for name, module in commands.items():
        doc = str(module.__doc__)
        parsers[name] = subparsers.add_parser(name, help=doc.splitlines()[0], description=doc)
        module.add_options(parsers[name])
    if argv and argv[0][:1] != "-" and argv[0] not in commands:
        meant = did_you_mean(COMMANDS.get(argv[0].lower(), argv[0]), commands)
        parser.error(f"COMMAND must be one of {', '.join(commands)}. Received: {argv[0]!r}{meant}")
    namespace, unknown = parser.parse_known_args(joined(argv))
    given = vars(namespace)
    name = given.pop("command")
    if unknown:
        meant = did_you_mean(unknown[0], map(flag, parsers[name].defaults))
        if re.fullmatch(r"[\d.,]+", unknown[0]):
            meant = "; a list is written 1,0.8,0.5"
        parsers[name].error(f"there is no {unknown[0]}. Received: {' '.join(unknown)}{meant}")
    return name, CommandLine(given, parsers[name].defaults)


def joined(argv: Sequence[str]) -> list[str]:
    """The arguments, with lists in one piece that were written with spaces, as `1, 0.8, 0.5`."""
    arguments: list[str] = []
    for argument in argv:
        goes_on = bool(arguments) and re.fullmatch(r"[\d.,]*\d,", arguments[-1])
        if goes_on and re.match(r"[\d.]", argument):
            arguments[-1] += argument
        else:
            arguments.append(argument)
    return arguments


@contextlib.contextmanager
def plain_warnings() -> Iterator[None]:
    """Shows warnings in one line each, without the line of source that they come from."""
    before = warnings.formatwarning
    warnings.formatwarning = lambda message, *_, **__: f"keras-ddim: warning: {message}\n"
    try:
        yield
    finally:
        warnings.formatwarning = before


def guidance_of(model: Any) -> dict[str, Any]:
    """How a model's pictures are guided unless something else is asked for."""
    is_guided = model.class_names and model.label_dropout
    return {"guidance_scale": GUIDANCE_SCALE} if is_guided else {}


def generate_options(args: argparse.Namespace, model: Any) -> dict[str, Any]:
    """The options of `Parser.add_sampling` as keyword arguments of `DiffusionModel.generate`."""
    names = "sampler", "schedule", "batch_size", "guidance_scale", "guidance_interval"
    options = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    return {**guidance_of(model), **options, "clip": args.clip != "none" and args.clip}


def data_of(model: Any, line: CommandLine) -> tuple[argparse.Namespace, dict[str, Any]]:
    """All options, and those of `load_images`, for the images that a model was trained on.

    Or for others, if such are given; `data` is None where neither is known.
    """
    args = line.over({})
    training = run_folder.settings_of(args.model, model, line.given)
    data = line.given.get("data", training.get("data"))
    if run_folder.data_name(data) != run_folder.data_name(training.get("data")):
        training = {}  # of other images
    shared = "data", "data_dir", "fit", "validation_split"
    args = line.over({name: training[name] for name in shared if name in training})
    if args.data is not None:
        check_data(args.data, args.data_dir)
        print(f"data      {args.data}{', as in training' * bool(training)}")
    return args, {
        "image_size": model.image_shape[:2],
        "channels": model.image_shape[-1],
        # None for 0: where none were kept from training, those that the data suggests.
        "validation_split": args.validation_split or None,
        "fit": args.fit,
        "data_dir": args.data_dir,
        "seed": training.get("seed", 0),
        "num_images": training.get("num_images"),
    }


def check_data(source: str, data_dir: str | None) -> None:
    """Raises unless there are images of that name, before anything is read."""
    if source in DRAWN:
        if os.path.isdir(source):
            meant = f"--data {source} means the drawn ones; the folder is ./{source}"
            warnings.warn(meant, stacklevel=2)
    elif is_path(source):
        path = pathlib.Path(source).expanduser()
        if not path.exists():
            folders = map(str, path.parent.glob("*/"))
            meant = did_you_mean(source, folders)
            raise ValueError(f"--data {source}: there is no such folder{meant}")
    elif re.fullmatch(r"[\w-]+", source) and not os.path.isdir(f"{data_dir}/{source}"):
        import tensorflow_datasets as tfds

        names = tfds.list_builders(with_community_datasets=False)
        if source not in names:
            wrong = f"--data {source} is no folder, and no name in TensorFlow Datasets"
            raise ValueError(wrong + did_you_mean(source, [*DRAWN, *names]))


def text(name: str, value: Any) -> str:
    """The value of an option as it is written on the command line."""
    if not isinstance(value, (tuple, list)):
        return str(value)
    separator = {"image_size": "x", "times": " ", "num_times": " "}.get(name, ",")
    if all(isinstance(part, float) for part in value):  # one list, not several
        separator = ","
    return separator.join(text("", part) for part in value)


def flag(name: str) -> str:
    """An option as it is written, `--batch-size` of "batch_size"."""
    return "--" + name.replace("_", "-")


def did_you_mean(text: str, names: Iterable[str]) -> str:
    """A question for the most similar of `names`, if any is similar."""
    plain = {re.sub(r"[\W_]", "", name).casefold(): name for name in names}
    close = difflib.get_close_matches(re.sub(r"[\W_]", "", text).casefold(), plain, 1, 0.7)
    return f"; did you mean {plain[close[0]]}?" if close else ""


# Types of options


def option_type(parse: Callable[[str], Any], allowed: str, separator: str = "") -> Callable:
    """A function from text to a value, or to an error that says what is allowed.

    Where there is a `separator`, and the text is a list with others, the error says so.
    """

    def read(text: str) -> Any:
        try:
            return parse(text)
        except ValueError:
            meant = separator and separator.join(re.findall(r"\d*\.?\d+", text))
            with contextlib.suppress(ValueError):
                parse(meant)
                raise Wrong(
                    f"must be {allowed}. Received: {text!r}; did you mean {meant}?"
                ) from None
            raise Wrong(f"must be {allowed}. Received: {text!r}") from None

    return read


def choice(choices: Iterable) -> Callable:
    """One of several, in capitals or not."""
    names = {str(value).casefold(): value for value in choices}

    def read(text: str) -> Any:
        plain = text.casefold().replace("-", "_")
        if plain not in names:
            meant = did_you_mean(text, names)
            raise Wrong(f"must be one of {', '.join(names)}. Received: {text!r}{meant}")
        return names[plain]

    return read


def whole(low: int) -> Callable:
    """An integer of at least `low`."""

    def parse(text: str) -> int:
        return int(checks.check_number("option", int(text), low, math.inf))

    return option_type(parse, f"an integer of at least {low}")


def between(low: float, high: float) -> Callable:
    def parse(text: str) -> float:
        return checks.check_number("option", float(text), low, high)

    return option_type(parse, f"a number from {low:g} to {high:g}")


def _positive_number(text: str) -> float:
    return checks.check_number("option", float(text), above=0)


def _fraction(text: str) -> float:
    return checks.check_number("option", float(text), 0, below=1)


def _size(text: str) -> tuple[int, int]:
    sides = [checks.check_count("side", int(side)) for side in text.lower().split("x")]
    height, width = 2 * sides if len(sides) == 1 else sides
    return height, width


def _widths(text: str) -> tuple[int, ...]:
    return checks.check_integers("widths", [int(width) for width in text.split(",")])


def _times(text: str) -> int | tuple[float, ...]:
    if text.isdecimal():
        return checks.check_count("times", int(text))
    listed = [float(time) for time in text.rstrip(",").split(",")]
    return tuple(checks.check_diffusion_times(listed).tolist())


def _times_or_name(text: str) -> int | str | tuple[float, ...]:
    is_name = text[:1].isalpha() and text not in ("nan", "inf")
    return text if is_name else _times(text)


def _interval(text: str) -> tuple[float, float]:
    low, high = (float(time) for time in text.split(","))
    if not 0 <= low < high <= 1:
        raise ValueError
    return low, high


count, seed = whole(1), whole(0)
positive_number = option_type(_positive_number, "a number above 0")
fraction = option_type(_fraction, "a part of all, from 0 to below 1, such as 0.2")
size = option_type(_size, "a number of pixels such as 64, or height x width such as 48x96", "x")
widths = option_type(_widths, "a list of integers of at least 1, such as 16,32", ",")
listed = "a number of times such as 20, or a list of times in [0, 1] such as 1,0.8,0.5"
times = option_type(_times, listed, ",")
times_or_name = option_type(_times_or_name, f"{listed}, or a name such as best:5", ",")
interval_of_times = option_type(_interval, "two times, the lower first, such as 0.2,0.8", ",")


def model(text: str) -> str:
    """A preset, or the file of a model, which may be named by the folder of its run."""
    path = pathlib.Path(text)
    if text in presets.names() or path.is_file():
        return text
    if (path / run_folder.MODEL).is_file():
        return str(path / run_folder.MODEL)
    if path.is_dir():
        raise Wrong(
            f"must be a file, or a folder with {run_folder.MODEL} in it. Received: {text!r}"
        )
    there = map(str, path.parent.glob("*.keras"))
    missing = f"there is no file {text}, and no preset but {', '.join(presets.names())}"
    raise Wrong(missing + did_you_mean(text, [*presets.names(), *there]))


def file_of(what: str, suffixes: Sequence[str]) -> Callable:
    """The path of a file to write, whose name ends in one of `suffixes`."""

    def read(text: str) -> str:
        allowed = f"must be the file of {what}, ending in {' or '.join(suffixes)}"
        if os.path.isdir(text) or text.endswith("/"):
            meant = f"did you mean {pathlib.Path(text) / what.split()[1]}{suffixes[0]}?"
            raise Wrong(f"{allowed}. Received a folder: {text!r}; {meant}")
        if pathlib.Path(text).suffix.lower() not in suffixes:
            raise Wrong(f"{allowed}. Received: {text!r}")
        return _writable(text)

    return read


picture = file_of("a picture", plots.FORMATS)
animation = file_of("an animation", [".gif"])
model_file = file_of("a model", [".keras"])


def folder(text: str) -> str:
    """The path of a folder to write to."""
    path = pathlib.Path(text)
    if path.is_file() or path.suffix in (".keras", ".json", ".md", *plots.FORMATS):
        meant = f"; did you mean {path.with_suffix('')}?" if path.suffix else ""
        raise Wrong(f"must be a folder, not a file. Received: {text!r}{meant}")
    return _writable(text)


def _writable(text: str) -> str:
    """The path, of whose parents the nearest that exists must be a folder to write to."""
    path = pathlib.Path(text)
    parent = next(parent for parent in path.absolute().parents if parent.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise Wrong(f"must be in a folder to write to. Received: {text!r}")
    return text


def encoder(text: str) -> str:
    """What evaluation compares features of: see `evaluate`."""
    if text in ("classifier", "inception_v3") or _is_classifier(text):
        return text
    wrong = "must be classifier, inception_v3, or the .keras file of a classifier"
    meant = did_you_mean(text, ("classifier", "inception_v3"))
    raise Wrong(f"{wrong}. Received: {text!r}{meant}")


def classifier(text: str) -> str:
    if not _is_classifier(text):
        raise Wrong(f"must be the .keras file of a classifier. Received: {text!r}")
    return text


def _is_classifier(text: str) -> bool:
    return text.endswith(".keras") and os.path.isfile(text)


def weights(text: str) -> str:
    if text != "imagenet" and not os.path.isfile(text):
        raise Wrong(f"must be imagenet or a file. Received: {text!r}")
    return text
