"""Presets: small trained models that come with the package, and the loading of model files."""

import pathlib
import textwrap
import zipfile
from typing import Any

import keras
import numpy as np

from keras_ddim.checks import require
from keras_ddim.files import Path

FOLDER = pathlib.Path(__file__).parent


def names() -> list[str]:
    """The names of the presets; each has a card, a text file.

    Example:

    >>> keras_ddim.presets.names()
    ['fashion_mnist', 'fashion_mnist_fast', 'flowers']
    """
    return sorted(path.stem for path in FOLDER.glob("*.keras"))


def path_of(preset: Path) -> str:
    """The path of a preset's file; other paths and addresses stay as they are."""
    return str(FOLDER / f"{preset}.keras") if str(preset) in names() else str(preset)


def load(preset: Path, kind: type[keras.Model], compile: bool = True, name: str = "preset") -> Any:
    """Loads a preset or a saved model of class `kind`.

    Args:
        preset: One of `names()`, or a path or address that `keras.saving.load_model` takes.
        kind: A subclass of `keras.Model`.
        compile: Whether to compile the model as it was when saved. Defaults to True.
        name: Name of `preset` in messages.

    Raises:
        ValueError: If the file is missing, damaged or of another class, or its weights are not
            finite.
    """
    path = path_of(preset)
    try:
        if "://" not in path:
            with zipfile.ZipFile(path) as archive:
                require(archive.testzip() is None, "file", "undamaged", archive.testzip())
        model = keras.saving.load_model(path, compile=compile)
        require(isinstance(model, kind), "file", f"a {kind.__name__}", type(model))
        are_finite = all(np.isfinite(weight).all() for weight in model.get_weights())
        require(are_finite, "weights", "finite", "others")
    except Exception as error:  # Keras raises many kinds
        reason = textwrap.shorten(f"{type(error).__name__}: {error}", 200, placeholder=" …")
        raise ValueError(
            f"`{name}` must be a saved `{kind.__name__}` or one of {', '.join(names())}, "
            f"got {str(preset)!r} ({reason.removeprefix('ValueError: ')})"
        ) from error
    return model
