"""The command line, `keras-ddim` or `python -m keras_ddim`: parses, calls, prints."""

import sys

from keras_ddim import interrupts
from keras_ddim.cli import edit, evaluate, generate, optimize_times, options, train

COMMANDS = {
    "train": train,
    "generate": generate,
    "edit": edit,
    "evaluate": evaluate,
    "optimize-times": optimize_times,
}


def main(argv: list[str] | None = None) -> int:
    """Runs the command of `argv`, a list of arguments, by default those of the process.

    Returns:
        The exit code: 0; 2 if an argument or a file is wrong, which one line on standard error
        explains; 130 after Ctrl-C.

    Example:

    ```python
    exit_code = main(["generate", "flowers", "--times", "1,0.8,0.5,0.2"])
    ```
    """
    interrupts.explain = interrupts.only_say_so
    try:
        command, line = options.parse(COMMANDS, sys.argv[1:] if argv is None else argv)
    except SystemExit as end:  # argparse's own: after --help and --version, or a wrong option
        return int(end.code or 0)
    try:
        with options.plain_warnings():
            COMMANDS[command].run(line)
    except BaseException as error:
        if interrupts.received or isinstance(error, KeyboardInterrupt):
            print("", interrupts.explain(), sep="\n", file=sys.stderr)
            return interrupts.EXIT_CODE
        if not isinstance(error, (ValueError, OSError)):
            raise
        print("keras-ddim: error:", line.message(error), file=sys.stderr)
        return 2
    return 0
