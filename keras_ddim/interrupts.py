"""Ctrl-C in the command line: one line and exit code 130, at any moment.

An exception may come out of TensorFlow as another, or not at all. Hence the process ends where it
is, which harms nothing, as files are written whole or not at all.
"""

import contextlib
import os
import pathlib
import signal
import sys
from collections.abc import Callable, Iterator
from typing import Any

EXIT_CODE = 130


def only_say_so() -> str:
    return "Interrupted."


explain: Callable[[], str] = only_say_so  # what the line says; commands may replace it
received = False


def is_command() -> bool:
    """Whether this process is `keras-ddim` or `python -m keras_ddim`, imports included."""
    program = sys.argv[0] if sys.argv else ""
    is_module = program == "-m" and "keras_ddim" in sys.orig_argv
    return is_module or pathlib.Path(program).stem == "keras-ddim"


def end_by_them() -> None:
    """Lets Ctrl-C end the process, unless that ignores it, as what runs in the background does."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _end)


def _end(*_: Any) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Not imported above, for it imports Keras; where nobody has, there is nothing to remove.
    remove = getattr(sys.modules.get("keras_ddim.files"), "remove_unfinished", None)
    if remove is not None:
        remove()
    line = only_say_so()
    with contextlib.suppress(Exception):
        line = explain()
    with contextlib.suppress(Exception):  # it may be just in use
        sys.stdout.flush()
    os.write(2, f"\n{line}\n".encode())
    os._exit(EXIT_CODE)


@contextlib.contextmanager
def raised() -> Iterator[None]:
    """Context in which Ctrl-C raises a `KeyboardInterrupt` again, for who can do with it."""

    def note(*arguments: Any) -> None:
        global received
        received = True
        signal.default_int_handler(*arguments)

    handler = signal.getsignal(signal.SIGINT)
    if handler is _end:
        signal.signal(signal.SIGINT, note)
    try:
        yield
    finally:
        if handler is _end:
            signal.signal(signal.SIGINT, handler)
