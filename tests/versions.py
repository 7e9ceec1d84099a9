"""Models saved under every version of Keras that the package allows, loaded under each of them.

```bash
python tests/versions.py                      # saves and loads with each version, prints a table
python tests/versions.py other/bin/python     # the packages of another interpreter, too
python tests/versions.py --keep tests/files   # saves with each version, for `test_saved_files.py`
```

Versions that are not installed come from `pip install --target` into a temporary folder.
"""

import argparse
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import tomllib
import zipfile
from concurrent.futures import ThreadPoolExecutor

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np

import keras_ddim
from keras_ddim import conditioning, schedules

ROOT = pathlib.Path(__file__).resolve().parent.parent
IMAGE_SHAPE = (8, 8, 1)
TIMES = [1.0, 0.7, 0.4, 0.1]
METADATA = {"data": "noise", "of_a_later_version": {"list": [1, None, 0.5], "text": "α"}}
# Keras writes its own layers as each of its versions describes them.
NEEDS_SAME_OR_NEWER = {"own_network"}
# bfloat16 has three digits; processors differ in how they round. Keras's LayerNormalization rounds
# otherwise in other versions and on other processors, by 3e-6 of a pixel.
TOLERANCES = {"bfloat16": 5e-3, "own_network": 1e-5}


def make_network(widths=(4,), **kwargs):
    return keras_ddim.ResidualUNet(IMAGE_SHAPE, widths, 1, embedding_dims=4, seed=0, **kwargs)


def make_default():
    network = make_network(widths=(4, 6))
    model = keras_ddim.DiffusionModel(network=network, seed=0, metadata=METADATA)
    model.compile()
    return model


def make_bfloat16():
    policy = "mixed_bfloat16"
    network = make_network(dtype=policy)
    model = keras_ddim.DiffusionModel(network=network, seed=0, dtype=policy, metadata=METADATA)
    model.compile()
    return model


def make_timestep():
    schedule = schedules.TableSchedule(betas=np.linspace(0.01, 0.4, 20))
    model = keras_ddim.DiffusionModel(
        network=make_network(),
        schedule=schedule,
        conditioning=conditioning.Timestep(schedule, num_timesteps=20),
        prediction_type="velocity",
        seed=0,
        metadata=METADATA,
    )
    model.compile("rmsprop")
    return model


def make_min_snr():
    model = keras_ddim.DiffusionModel(
        network=make_network(), loss_weighting="min_snr", seed=0, metadata=METADATA
    )
    rate = keras.optimizers.schedules.CosineDecay(1e-3, 100, warmup_target=1e-2, warmup_steps=5)
    optimizer = keras.optimizers.Adam(rate, clipnorm=1.0, use_ema=True)
    model.compile(optimizer, keras.losses.Huber())
    return model


def make_own_network():
    noisy_images = keras.Input(IMAGE_SHAPE)
    noise_variances = keras.Input((1, 1, 1))
    level = keras_ddim.SinusoidalEmbedding(8)(noise_variances)
    x = keras.layers.Conv2D(8, 3, padding="same")(noisy_images)
    x = keras.layers.BatchNormalization()(x)
    x = keras.layers.Activation("swish")(x + keras.layers.Dense(8)(level))
    x = keras.layers.LayerNormalization()(x)
    pred_noises = keras.layers.Conv2D(1, 3, padding="same")(x)
    network = keras.Model([noisy_images, noise_variances], pred_noises)
    model = keras_ddim.DiffusionModel(network=network, seed=0, metadata=METADATA)
    model.compile(keras.optimizers.SGD(1e-2, momentum=0.9))
    return model


MODELS = {
    "default": make_default,
    "bfloat16": make_bfloat16,
    "timestep": make_timestep,
    "min_snr": make_min_snr,
    "own_network": make_own_network,
}


def train(model):
    """The loss of one epoch of training, of four steps."""
    images = np.random.default_rng(0).random((32, *IMAGE_SHAPE))
    history = model.fit(images, batch_size=8, shuffle=False, verbose=0)
    return history.history["loss"][0]


def generate(model):
    return model.generate(2, TIMES, sampler="ddim", seed=0)


def optimizer_state(model):
    """The norm of each variable of the optimizer: few numbers, that hardly agree by chance."""
    arrays = [keras.ops.convert_to_numpy(variable) for variable in model.optimizer.variables]
    return np.array([np.linalg.norm(array.astype("float64")) for array in arrays])


def save(path):
    """Saves the model that `path` is named after, and beside it what a loaded one has to do."""
    for file in (path, path.with_suffix(".npz")):
        if file.exists():
            raise FileExistsError(f"Files that were saved once are kept: {file} exists.")
    keras.utils.set_random_seed(0)
    model = MODELS[path.stem]()
    train(model)
    path.parent.mkdir(parents=True, exist_ok=True)
    model.save(path)
    deflate(path)
    expected = {"images": generate(model), "optimizer": optimizer_state(model)}
    expected |= {"next_loss": train(model), "next_images": generate(model)}
    np.savez_compressed(path.with_suffix(".npz"), **expected)


def deflate(path):
    """Makes an archive smaller, of which HDF5 leaves most as zeros."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name, content in members.items():
            archive.writestr(name, content)


def check(path, tolerance=1e-6, run_eagerly=False):
    """Loads what `save` saved; raises an `AssertionError` unless it goes on as it did.

    Args:
        path: Path of the saved model.
        tolerance: Largest allowed difference of an image's pixels.
        run_eagerly: Whether to do without compiling, which is faster.

    Returns:
        The largest difference of a pixel.
    """
    expected = np.load(path.with_suffix(".npz"))
    tolerance = max(tolerance, TOLERANCES.get(path.stem, 0))
    model = keras.saving.load_model(path)
    model.run_eagerly = run_eagerly
    images = generate(model)
    np.testing.assert_allclose(images, expected["images"], rtol=0, atol=tolerance)
    assert model.metadata == METADATA, f"metadata={model.metadata}"
    np.testing.assert_allclose(optimizer_state(model), expected["optimizer"], rtol=1e-6)
    if keras.backend.backend() == "tensorflow":  # others draw other noises for the next steps
        np.testing.assert_allclose(train(model), expected["next_loss"], rtol=10 * tolerance)
        next_images = generate(model)
        np.testing.assert_allclose(next_images, expected["next_images"], atol=10 * tolerance)
    return float(abs(images - expected["images"]).max())


# What follows starts a process of its own for each version.


def environments(folder, pythons):
    """Name -> (interpreter, folder of a Keras to be imported instead of its own, or None)."""
    dependencies = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    lowest = re.search(r"keras>=(\d+)\.(\d+)", " ".join(dependencies)).groups()
    major, newest = keras.__version__.split(".")[:2]
    assert lowest[0] == major, f"There is Keras {major}, and which minor versions are before it?"
    found = {}
    for minor in range(int(lowest[1]), int(newest)):
        target = folder / f"keras-{major}.{minor}"
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"]
        command += ["--target", str(target), f"keras=={major}.{minor}.*"]
        subprocess.run(command, check=True)
        found[target.name] = (sys.executable, target)
    found[f"keras-{major}.{newest}"] = (sys.executable, None)
    for number, python in enumerate(pythons, 1):
        found[f"python-{number}"] = (python, None)
    return found


def run(environment, *arguments):
    """What a process of this file prints as JSON, run in an environment."""
    python, target = environment
    paths = [str(target)] if target else []
    paths += [path for path in [os.environ.get("PYTHONPATH")] if path]
    variables = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    command = [python, str(pathlib.Path(__file__).resolve()), *map(str, arguments)]
    result = subprocess.run(command, env=variables, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(result.stdout.splitlines()[-1])


def describe():
    backend = keras.backend.backend()
    version = __import__(backend).__version__
    return f"Keras {keras.__version__}, {backend} {version}"


def save_all(folder):
    for name in MODELS:
        save(folder / f"{name}.keras")
    return describe()


def check_all(folder):
    """Of each saved model the largest difference of a pixel, or how it goes wrong."""
    results = {}
    for path in sorted(folder.glob("*/*.keras")):
        name = f"{path.parent.name.split('-', 1)[1]}/{path.stem}"
        try:
            results[name] = check(path)
        except Exception as error:
            text = " ".join(str(error).split())
            results[name] = f"{type(error).__name__}: {text[-200:]}"
    return results


def print_table(names, results):
    """Prints who loads what from whom, and returns what does not go as promised."""
    print("| saved by | model |", *(f"{name} |" for name in names.values()))
    print("| --- | --- |" + " ---: |" * len(names))
    failures = []
    for saver in names:
        for model in MODELS:
            cells = []
            for loader in names:
                result = results[loader][f"{saver}/{model}"]
                promised = model not in NEEDS_SAME_OR_NEWER or (
                    minor_version(names[loader]) >= minor_version(names[saver])
                )
                if promised and isinstance(result, str):
                    failures.append(f"{names[loader]} of {names[saver]}, {model}: {result}")
                text = "fails" if isinstance(result, str) else f"{result:.0e}"
                cells.append(text if promised else f"({text})")
            print(f"| {names[saver]} | {model} |", *(f"{cell} |" for cell in cells))
    print("Largest difference of a pixel; in brackets, where nothing is promised.")
    return failures


def minor_version(name):
    return [int(number) for number in re.findall(r"\d+", name)[:2]]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pythons", nargs="*", help="Interpreters that take part, too.")
    parser.add_argument("--keep", type=pathlib.Path, help="Folder to save in; loads nothing.")
    parser.add_argument("--save", type=pathlib.Path, help=argparse.SUPPRESS)
    parser.add_argument("--check", type=pathlib.Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.save:
        print(json.dumps(save_all(arguments.save)))
        return 0
    if arguments.check:
        print(json.dumps(check_all(arguments.check)))
        return 0
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(os.cpu_count()) as pool:
        found = environments(pathlib.Path(folder), arguments.pythons)
        saved = arguments.keep or pathlib.Path(folder) / "saved"

        def save_with(name):
            return run(found[name], "--save", saved / f"{keras_ddim.__version__}-{name}")

        def check_with(name):
            return run(found[name], "--check", saved)

        names = dict(zip(found, pool.map(save_with, found)))
        if arguments.keep:
            print(*names.values(), sep="\n")
            return 0
        results = dict(zip(found, pool.map(check_with, found)))
    failures = print_table(names, results)
    print(*failures, sep="\n")
    return len(failures)


if __name__ == "__main__":
    sys.exit(main())
