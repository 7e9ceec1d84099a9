"""The folder of a run: what training leaves there, and how it is read."""

import json
import pathlib
import textwrap
import zipfile
from typing import Any

import keras

from keras_ddim import DiffusionModel, plots, presets
from keras_ddim.files import Path

MODEL, HISTORY, SETTINGS = "model.keras", "history.csv", "settings.json"
DATA = "training_data"  # where a model's metadata says what it was trained on


def read_settings(folder: pathlib.Path) -> dict[str, Any]:
    """The options of the run."""
    settings = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
    return {name: tuple(v) if isinstance(v, list) else v for name, v in settings.items()}


def count_epochs(folder: pathlib.Path) -> int:
    """How many epochs the run has been trained for."""
    path = folder / HISTORY
    rows = plots.read_history(path) if path.exists() else []
    return int(rows[-1]["epoch"]) if rows else 0


def load_model(path: Path, compile: bool = True) -> DiffusionModel:
    """The `DiffusionModel` saved at `path`, or the preset of that name."""
    path = presets.path_of(path)
    if not pathlib.Path(path).is_file():
        raise ValueError(f"there is no file {path}, and no preset but {', '.join(presets.names())}")
    if not str(path).endswith(".keras") or not zipfile.is_zipfile(path):
        raise ValueError(f"{path} is not a .keras file, as saved by `train` or `model.save`")
    try:
        model = keras.saving.load_model(path, compile=compile)
    except Exception as error:  # whatever a foreign or damaged file may lead to
        reason = textwrap.shorten(str(error), 200, placeholder=" …")
        raise ValueError(f"{path} cannot be loaded by Keras: {reason}") from error
    if not isinstance(model, DiffusionModel):
        raise ValueError(f"{path} holds a {type(model).__name__}, not a DiffusionModel")
    return model


def shape_text(image_shape: tuple[int, ...]) -> str:
    height, width, channels = image_shape
    return f"{height}x{width} pixels with {channels} channel{'s' if channels > 1 else ''}"
