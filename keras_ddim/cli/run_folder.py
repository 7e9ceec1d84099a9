"""The folder of a run: what training leaves there, and how it is read.

All that a run is continued from is in its model's metadata, "settings" and "history", so that it
is written with the weights, whole or not at all. Only the paths among the settings, which a model
should not tell to whoever it is handed to, are in a file of their own. The rest is for people.
"""

import contextlib
import json
import os
import pathlib
import zipfile
from typing import Any

from keras_ddim import DiffusionModel, presets
from keras_ddim.data.loading import is_path
from keras_ddim.files import Path

MODEL, HISTORY, PATHS = "model.keras", "history.csv", "paths.json"


def settings_of(path: Path, model: DiffusionModel, given: dict[str, Any]) -> dict[str, Any]:
    """The options of the run that the model at `path` is of; none where `train` has not made it.

    Its paths are those of the run's folder. Where data were in a folder that is not known, they
    must be among the options `given`.
    """
    settings = model.metadata.get("settings")
    if not isinstance(settings, dict) or not isinstance(settings.get("data"), str):
        return {}
    settings = {name: tuple(v) if isinstance(v, list) else v for name, v in settings.items()}
    with contextlib.suppress(OSError, ValueError, TypeError):
        paths = json.loads(pathlib.Path(path).with_name(PATHS).read_text(encoding="utf-8"))
        if without_paths({**settings, **paths})[0] == settings:  # else they are another run's
            settings |= paths
    if settings["data"].endswith("/") and "data" not in given:
        folder = settings["data"]
        raise ValueError(f"{path} does not say where its data are, a folder {folder}: give --data")
    return settings


def without_paths(settings: dict[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """The settings that a model tells to whoever has its file, and the paths that it does not."""
    are_none: dict[str, list] = {"data_dir": [None], "cache": ["memory", "none"]}
    are_none["from_preset"] = [None, *presets.names()]
    names = [name for name, none in are_none.items() if settings.get(name, none[0]) not in none]
    names += ["data"] if is_path(settings["data"]) else []
    paths = {name: os.path.abspath(os.path.expanduser(settings[name])) for name in names}
    shared = {name: value for name, value in settings.items() if name not in names}
    return {**shared, "data": data_name(settings["data"])}, paths


def data_name(data: str | None) -> str | None:
    """The name of a data set; of a folder only its own, with a slash."""
    if data is None or not is_path(data):
        return data
    return os.path.basename(os.path.abspath(os.path.expanduser(data))) + "/"


def count_epochs(metadata: dict[str, Any]) -> int:
    """How many epochs the run has been trained for."""
    return metadata["history"][-1]["epoch"] if metadata.get("history") else 0


def read_metadata(path: pathlib.Path) -> dict[str, Any]:
    """The metadata of a model, which is not loaded."""
    with zipfile.ZipFile(path) as file:
        return json.loads(file.read("config.json"))["config"]["metadata"]


def load_model(path: Path, compile: bool = True) -> DiffusionModel:
    """The `DiffusionModel` saved at `path`, or the preset of that name."""
    try:
        return presets.load(path, DiffusionModel, compile)
    except ValueError as error:
        raise ValueError(f"{path} cannot be loaded: {error}") from error


def shape_text(image_shape: tuple[int, ...]) -> str:
    height, width, channels = image_shape
    return f"{height}x{width} pixels with {channels} channel{'s' if channels > 1 else ''}"
