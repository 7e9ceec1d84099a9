"""What a user does with a model, done for real on one backend or device layout, and timed.

    python tests/backend_table.py COLUMN FOLDER [MODEL.keras...]

prints a JSON object from row to seconds, or to the error of a row that failed, and what else the
tests in `test_backends.py` compare. `COLUMNS` says what the columns are. With models, all that is
done is to load them, and to generate from noise that is the same everywhere.
"""

import contextlib
import json
import os
import pathlib
import sys
import time

COLUMNS = {
    "TensorFlow": "tensorflow",
    "MirroredStrategy, 2 devices": "tensorflow",
    "MultiWorkerMirroredStrategy, 2 processes": "tensorflow",
    "JAX": "jax",
    "JAX DataParallel, 2 devices": "jax",
    "torch": "torch",
}
ROWS = ("fit", "evaluate", "image metrics", "generate", "save", "load", "resume")


def start(column):
    """Sets the devices up; returns the context in which models are made."""
    os.environ["KERAS_BACKEND"] = COLUMNS[column]
    if column.startswith("JAX Data"):
        # Devices wait for each other, however busy the machine is.
        timeout = "--xla_cpu_collective_call_terminate_timeout_seconds=600"
        os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count=2 {timeout}"
        import keras

        keras.distribution.set_distribution(keras.distribution.DataParallel())
    if column.startswith("Mirrored"):
        import tensorflow as tf

        (cpu,) = tf.config.list_physical_devices("CPU")
        tf.config.set_logical_device_configuration(
            cpu, [tf.config.LogicalDeviceConfiguration()] * 2
        )
        return tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]).scope
    if column.startswith("MultiWorker"):
        import tensorflow as tf

        return tf.distribute.MultiWorkerMirroredStrategy().scope
    return contextlib.nullcontext


def main(column, folder, *model_paths):
    scope = start(column)
    import keras
    import numpy as np

    import keras_ddim

    if model_paths:
        print(json.dumps([generate(keras.saving.load_model(path)) for path in model_paths]))
        return
    folder = pathlib.Path(folder)
    images = (np.random.default_rng(0).random((32, 8, 8, 3)) * [1.0, 0.5, 0.2]).astype("float32")
    with scope():
        network = keras_ddim.ResidualUNet((8, 8, 3), (8,), block_depth=1, seed=0)
        model = keras_ddim.DiffusionModel(network=network, seed=0)
        model.compile()
    model.keep_times([0.9, 0.5, 0.2])
    path, results = folder / "model.keras", {"devices": count_devices(column)}
    metrics = keras_ddim.callbacks.ImageMetrics([keras_ddim.FID(encode)], images[:8])

    def fit(model, **kwargs):
        # The whole set in each epoch, in one order: runs can be compared.
        return model.fit(images, batch_size=16, shuffle=False, verbose=0, **kwargs).history

    def load():
        with scope():
            results["model"] = keras.saving.load_model(path)

    def resume():
        """One epoch after loading is the next epoch of the model that was saved."""
        history = fit(results.pop("model"))["loss"]
        np.testing.assert_allclose(history, fit(model)["loss"], rtol=1e-3)

    jobs = {
        "fit": lambda: np.testing.assert_array_less(fit(model, epochs=2)["loss"], 2.0),
        "evaluate": lambda: np.testing.assert_array_less(model.evaluate(images, verbose=0)[0], 2.0),
        "image metrics": lambda: np.testing.assert_array_less(
            fit(model, callbacks=[metrics])["val_fid"], 1e6
        ),
        "generate": lambda: results.update(images=generate(model)),
        "save": lambda: model.save(path),
        "load": load,
        "resume": resume,
    }
    for row in ROWS:
        begin = time.perf_counter()
        try:
            jobs[row]()
            if row == "load":
                difference = np.abs(np.array(results["images"]) - generate(results["model"])).max()
                assert difference <= 1e-6, difference
            results[row] = round(time.perf_counter() - begin, 1)
            if row == "generate":  # Keras's own saving imports it, on every backend
                results["imports TensorFlow"] = "tensorflow" in sys.modules
        except Exception as error:  # one row must not keep the others from being run
            results[row] = f"{type(error).__name__}: {str(error)[:500]}"
    results.pop("model", None)
    print(json.dumps(results))


def count_devices(column):
    if COLUMNS[column] == "torch":
        return 1
    import keras

    return len(keras.distribution.list_devices())


def encode(images):
    """Features of images: their channels' means."""
    import keras

    return keras.ops.mean(images, axis=(1, 2))


def generate(model):
    import numpy as np

    noise = np.random.default_rng(1).standard_normal((3, 8, 8, 3))
    # The last is a list that is kept in the file.
    choices = (5, "ddim"), (5, "unipc"), (5, "heun"), ("best:3", None)
    return [
        model.generate(3, times, sampler=sampler, initial_noise=noise, verbose=0).tolist()
        for times, sampler in choices
    ]


if __name__ == "__main__":
    main(*sys.argv[1:])
