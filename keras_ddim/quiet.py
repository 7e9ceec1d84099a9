"""Imports without TensorFlow's greetings."""

import contextlib
import os
import sys


@contextlib.contextmanager
def quietly():
    """Discards what is written to standard error inside, exceptions apart.

    On import TensorFlow tells about the processor and about missing GPUs, past Python and, from
    2.21 on, past TF_CPP_MIN_LOG_LEVEL, the variable meant to stop it. Who sets the variable wants
    to see.
    """
    if "TF_CPP_MIN_LOG_LEVEL" in os.environ:
        yield
        return
    try:
        stderr = os.dup(2)
    except OSError:  # closed, as under some services
        yield
        return
    sys.stderr.flush()
    try:
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
