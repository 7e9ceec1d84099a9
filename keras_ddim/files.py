"""Files: written whole or not at all."""

import contextlib
import os
import pathlib
from collections.abc import Iterator, Sequence

from keras_ddim.checks import require

Path = str | os.PathLike[str]


@contextlib.contextmanager
def write_whole(path: Path) -> Iterator[pathlib.Path]:
    """Yields a temporary path in the same folder, and moves the file written there to `path`."""
    path = pathlib.Path(os.path.realpath(path))  # a link stays a link
    # Always the same name, so that the next write replaces a killed process's file.
    temporary_path = path.with_name(f".{path.stem}.partial{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary_path
        os.replace(temporary_path, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary_path.unlink()
        if isinstance(error, OSError):  # Keras and HDF5 do not name the file
            raise OSError(f"{path} cannot be written: {error.strerror or error}") from error
        raise


def write_text(path: Path, text: str) -> None:
    with write_whole(path) as temporary_path:
        temporary_path.write_text(text, encoding="utf-8")


def check_suffix(path: Path, suffixes: Sequence[str]) -> None:
    """Raises a `ValueError` unless `path` ends in one of `suffixes`."""
    is_one = pathlib.Path(path).suffix.lower() in suffixes
    require(is_one, "path", f"a path that ends in {' or '.join(suffixes)}", path)
