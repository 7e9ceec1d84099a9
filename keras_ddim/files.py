"""Files: written whole or not at all."""

import contextlib
import functools
import os
import pathlib
import uuid
from collections.abc import Iterator, Sequence
from typing import Any

from keras_ddim.checks import brief

Path = str | os.PathLike[str]
PREFIX = ".keras-ddim-"  # of temporary files, before the number of the process
_unfinished: set[pathlib.Path] = set()


@contextlib.contextmanager
def write_whole(path: Path) -> Iterator[pathlib.Path]:
    """Context that gives a temporary path to write to, and moves the file to `path` at its end.

    If anything goes wrong, a Ctrl-C included, a file that was there before stays as it was, and the
    temporary one is removed. What a killed process has left in the folder is removed, too.

    Args:
        path: Path of the file to write. Missing folders are made; an existing file is replaced.

    Yields:
        `pathlib.Path` of a hidden file that does not exist yet, in the same folder (moving is only
        atomic within one file system) and with the same suffix (by which writers such as
        `model.save` choose the format).

    Raises:
        OSError: If the folder cannot be made or written to, the disk is full, or `path` is a
            folder. It names `path`.

    Example:

    ```python
    with write_whole("results/flowers.keras") as temporary_path:
        model.save(temporary_path)
    ```
    """
    check_path(path)
    # A link stays a link: what it points to is replaced.
    path = pathlib.Path(os.path.realpath(path))
    if path.is_dir():  # said before the work rather than after it
        raise IsADirectoryError(f"`path` must be a file, not a folder. Received: path={path}")
    with contextlib.suppress(FileExistsError):  # said better by the one who writes
        path.parent.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(path.parent)
    temporary_path = path.with_name(f"{PREFIX}{os.getpid()}-{uuid.uuid4().hex}{path.suffix}")
    _unfinished.add(temporary_path)
    try:
        yield temporary_path
        # Without this, a power failure just after may leave an empty file under the final name.
        with open(temporary_path, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary_path, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary_path.unlink()
        if isinstance(error, OSError) and error.filename in (None, str(temporary_path)):
            if error.errno is None:  # as those of h5py
                raise OSError(f"{path} cannot be written: {error}") from error
            error.filename = str(path)  # the name that its reader knows
        raise
    finally:
        _unfinished.discard(temporary_path)


def remove_unfinished() -> None:
    """Removes what this process is writing, before it ends at once."""
    for temporary_path in [*_unfinished]:
        with contextlib.suppress(OSError):
            temporary_path.unlink()


@functools.cache
def _remove_leftovers(folder: pathlib.Path) -> None:
    """Removes the temporary files of processes that run no more, once in each folder."""
    for path in folder.glob(f"{PREFIX}*-*"):
        process = path.name.removeprefix(PREFIX).split("-")[0]
        if path not in _unfinished and process.isdecimal() and not _is_running(int(process)):
            with contextlib.suppress(OSError):
                path.unlink()


def _is_running(process: int) -> bool:
    """Whether another process of that number runs."""
    if process == os.getpid() or os.name == "nt":  # there, what is open cannot be removed
        return False
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # it is another user's
        return True
    return True


def write_text(path: Path, text: str) -> None:
    """Writes a text file, whole or not at all."""
    with write_whole(path) as temporary_path:
        temporary_path.write_text(text, encoding="utf-8")


def check_suffix(path: Path, suffixes: Sequence[str]) -> None:
    """Raises a `ValueError` unless `path` ends in one of `suffixes`."""
    if pathlib.Path(check_path(path)).suffix.lower() not in suffixes:
        raise ValueError(
            f"`path` must end in {' or '.join(suffixes)}. Received: path={brief(path)}"
        )


def check_path(path: Any, name: str = "path") -> Any:
    """`path`, which must be a text or a `pathlib.Path` that a file system can have."""
    if not isinstance(path, (str, os.PathLike)) or "\0" in str(path) or not str(path):
        raise ValueError(f"`{name}` must be a path. Received: {name}={brief(path)}")
    return path
