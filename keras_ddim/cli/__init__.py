"""The command line, `keras-ddim` or `python -m keras_ddim`: parses, calls, prints."""

import argparse
import importlib
import sys
import warnings

import keras_ddim
from keras_ddim.cli.options import Parser

# Modules of this package, each with `add_options`, `run`, and the help as its docstring.
COMMANDS = ("train", "generate", "edit", "evaluate", "optimize-times", "distill", "export")
EXAMPLES = """examples:
  keras-ddim generate flowers
  keras-ddim train
  keras-ddim generate keras-ddim-output --times 1,0.8,0.5,0.2"""


def main(argv: list[str] | None = None) -> int:
    """Runs the command of `argv`, by default that of the process, and returns its exit code.

    It is 0, 1 after an error, 2 after a wrong option (each with one line on standard error), or 130
    after Ctrl-C.
    """
    parser = Parser("keras-ddim", description=keras_ddim.__doc__, epilog=EXAMPLES)
    parser.add_argument("--version", action="version", version=keras_ddim.__version__)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    modules, parsers = {}, {}
    for name in COMMANDS:
        modules[name] = importlib.import_module(f"keras_ddim.cli.{name.replace('-', '_')}")
        doc = str(modules[name].__doc__)
        parsers[name] = commands.add_parser(name, help=doc.splitlines()[0], description=doc)
        modules[name].add_options(parsers[name])
    try:
        given = vars(parser.parse_args(argv))
        command = given.pop("command")
        args = argparse.Namespace(**{**parsers[command].defaults, **given}, given=given)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # for developers
            warnings.showwarning = lambda message, *_: print("Warning:", message, file=sys.stderr)
            modules[command].run(args)
        print(f"Again: {parsers[command].words(args)}")
    except SystemExit as end:  # argparse's, after --help or a wrong option
        return int(end.code or 0)
    except KeyboardInterrupt as interrupt:
        print("\nInterrupted.", *interrupt.args, file=sys.stderr)
        return 130
    except (ValueError, OSError) as error:
        print("keras-ddim: error:", " ".join(str(error).split()), file=sys.stderr)
        return 1
    return 0
