"""Presets: small trained models that come with the package, and how such files are made."""

import pathlib
import shutil
import tempfile
import textwrap
import zipfile
from typing import Any

import h5py
import keras
import numpy as np

from keras_ddim.checks import check_model
from keras_ddim.files import Path, check_path, check_suffix, write_whole

FOLDER = pathlib.Path(__file__).parent
WEIGHTS = "model.weights.h5"  # of Keras's archives


def names() -> list[str]:
    """The presets that come with the package; each has a card, a text file beside it.

    Example:

    >>> keras_ddim.presets.names()
    ['fashion_mnist', 'flowers']
    """
    return sorted(path.stem for path in FOLDER.glob("*.keras"))


def path_of(preset: Path) -> str:
    """The path of a preset's file; what is no preset's name is returned as it is.

    Args:
        preset: One of `names()`, or a path or address that `keras.saving.load_model` takes.
    """
    name = str(check_path(preset, "preset"))
    return str(FOLDER / f"{name}.keras") if name in names() else name


def load(preset: Path, kind: type[keras.Model], compile: bool = True) -> Any:
    """The model of class `kind` that is a preset, or that a file holds.

    Args:
        preset: As in `path_of`.
        kind: A subclass of `keras.Model`.
        compile: Whether to compile it as it was when saved. Defaults to True.

    Raises:
        ValueError: If there is none. It says why, to those who know what the argument was called.
    """
    path = path_of(preset)
    try:
        if "://" not in path:
            with zipfile.ZipFile(path) as archive:
                damaged = archive.testzip()
            if damaged:
                raise ValueError(f"it is damaged, in {damaged}")
        model = keras.saving.load_model(path, compile=compile)
        if not isinstance(model, kind):
            raise ValueError(f"it holds a {type(model).__name__}, not a {kind.__name__}")
        if not all(np.isfinite(weight).all() for weight in model.get_weights()):
            raise ValueError("it has weights that are not finite: its training has diverged")
    except Exception as error:
        # Loading calls whatever is named in the file, with any arguments: no list of errors is long
        # enough.
        name = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
        reason = textwrap.shorten(f"{name}{error}", 200, placeholder=" …")
        raise ValueError(reason) from error
    return model


def save_preset(model: Any, path: Path) -> None:
    """Saves what generating needs of a model, in about a sixth of the bytes.

    The file is one of Keras's, which `keras.saving.load_model` loads, with the averaged weights in
    place of the trained ones, without an optimizer, and with 16 bits for each weight. Its images
    differ from the model's by less than one step of 8-bit pixels, as a rule; training it further
    is fine-tuning, not resuming.

    Args:
        model: A `keras_ddim.DiffusionModel`.
        path: Of the file to write, ending in ".keras".

    Raises:
        ValueError: If `path` does not end so.
    """
    check_suffix(path, [".keras"])
    check_model("model", model)
    # Made anew, for what is compiled is saved with its optimizer.
    copy = type(model).from_config(model.get_config())
    copy.set_weights(model.get_weights())
    copy.network.set_weights(model.ema_network.get_weights())
    with write_whole(path) as temporary_path:
        copy.save(temporary_path)
        _shrink(temporary_path)


def _shrink(path: pathlib.Path) -> None:
    """Rewrites an archive of Keras: matrices in 16 bits, what is equal only once, compressed."""
    with tempfile.TemporaryDirectory() as folder:
        archive, weights = pathlib.Path(folder, "archive"), pathlib.Path(folder, "weights")
        with (
            zipfile.ZipFile(path) as old,
            zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as new,
        ):
            for name in old.namelist():
                if name == WEIGHTS:
                    with old.open(name) as file, h5py.File(file) as source:
                        _shrink_weights(source, weights)
                    new.write(weights, name)
                else:
                    new.writestr(name, old.read(name))
        shutil.copyfile(archive, path)


def _shrink_weights(source: h5py.File, path: pathlib.Path) -> None:
    written: dict[bytes, h5py.Dataset] = {}

    def copy(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset):
            value = item[()]
            # What the data are like is few bytes, and of numbers that 16 bits can't hold.
            is_statistic = value.ndim < 2 or "preconditioning" in name
            value = value if is_statistic else value.astype("float16")
            key = repr((value.shape, value.dtype)).encode() + value.tobytes()
            target[name] = written.get(key, value)  # of a data set it makes a link
            written.setdefault(key, target[name])
        else:
            target.require_group(name)
        target[name].attrs.update(item.attrs)

    with h5py.File(path, "w") as target:
        source.visititems(copy)
