"""Turns a trained model into the file of a preset, in about a sixth of the bytes.

    python tests/benchmarks/shrink.py flowers/model.keras keras_ddim/presets/flowers.keras

The file is one of Keras's, with the averaged weights in place of the trained ones, without an
optimizer, with matrices in 16 bits, and compressed. Its images differ from the model's by less than
one step of 8-bit pixels, as a rule.
"""

import argparse
import pathlib
import shutil
import tempfile
import zipfile

import h5py

from keras_ddim import DiffusionModel
from keras_ddim.files import write_whole

WEIGHTS = "model.weights.h5"  # in Keras's archives


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model")
    parser.add_argument("output")
    args = parser.parse_args()
    shrink(DiffusionModel.from_preset(args.model, compile=False), args.output)


def shrink(model, path):
    # A copy, since a compiled model is saved with its optimizer.
    copy = type(model).from_config(model.get_config())
    copy.set_weights(model.get_weights())
    copy.network.set_weights(model.ema_network.get_weights())
    with tempfile.TemporaryDirectory() as folder, write_whole(path) as temporary_path:
        archive = pathlib.Path(folder, "archive.keras")
        copy.save(archive)
        rewrite(archive, temporary_path)


def rewrite(source, path):
    """Compresses an archive of Keras, and shrinks its weights."""
    with (
        tempfile.TemporaryFile() as weights,
        zipfile.ZipFile(source) as old,
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new,
    ):
        for name in old.namelist():
            if name == WEIGHTS:
                with old.open(name) as file, h5py.File(file) as values:
                    shrink_weights(values, weights)
                weights.seek(0)
                with new.open(name, "w") as target:
                    shutil.copyfileobj(weights, target)
            else:
                new.writestr(name, old.read(name))


def shrink_weights(source, file):
    """Copies weights: matrices in 16 bits, and equal ones once."""
    written = {}

    def copy(name, item):
        if isinstance(item, h5py.Dataset):
            value = item[()]
            # Statistics of the data are few bytes, and 16 bits may not hold them.
            is_statistic = value.ndim < 2 or "preconditioning" in name
            value = value if is_statistic else value.astype("float16")
            key = repr((value.shape, value.dtype)).encode() + value.tobytes()
            target[name] = written.get(key, value)  # a dataset becomes a link
            written.setdefault(key, target[name])
        else:
            target.require_group(name)
        target[name].attrs.update(item.attrs)

    with h5py.File(file, "w") as target:
        source.visititems(copy)


if __name__ == "__main__":
    main()
