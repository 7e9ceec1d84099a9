"""The folder of a run: what training leaves there, and how it is read.

All that a run is continued from is in its model's metadata, "settings" and "history", so that it
is written with the weights, whole or not at all. The other files are for people.
"""

import json
import pathlib
import textwrap
import zipfile
from typing import Any

import keras
import numpy as np

from keras_ddim import DiffusionModel, presets
from keras_ddim.files import Path

MODEL, HISTORY = "model.keras", "history.csv"


def settings_of(metadata: dict[str, Any]) -> dict[str, Any]:
    """The options of the run; none of a model that `train` has not trained."""
    settings = metadata.get("settings", {})
    return {name: tuple(v) if isinstance(v, list) else v for name, v in settings.items()}


def count_epochs(metadata: dict[str, Any]) -> int:
    """How many epochs the run has been trained for."""
    return metadata["history"][-1]["epoch"] if metadata.get("history") else 0


def read_metadata(path: pathlib.Path) -> dict[str, Any]:
    """The metadata of a model, which is not loaded."""
    with zipfile.ZipFile(path) as file:
        return json.loads(file.read("config.json"))["config"]["metadata"]


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
    if not all(np.isfinite(weights).all() for weights in model.get_weights()):
        raise ValueError(f"{path} has weights that are not finite: its training has diverged")
    return model


def shape_text(image_shape: tuple[int, ...]) -> str:
    height, width, channels = image_shape
    return f"{height}x{width} pixels with {channels} channel{'s' if channels > 1 else ''}"
