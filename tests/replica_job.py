"""Trains one model on one device or two, for `test_backends.py` to compare.

    python tests/replica_job.py COLUMN

prints the weights after a hundred steps of 64 images, whose noise and times follow from each image
alone, the noise that two replicas draw by themselves, and the averaged weights that a step
with a bad image changes on any replica. COLUMN is one of `backend_table.COLUMNS`.
"""

import json
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parent))

from backend_table import start

STEPS, BATCH = 100, 64


def main(column):
    scope = start(column)
    import keras
    import numpy as np
    from keras import layers, ops

    import keras_ddim

    class NoiseOfTheImage(keras_ddim.DiffusionModel):
        def draw(self, images):
            noises = np.sqrt(2) * ops.sin(1000.0 * images)
            times = ops.mean(ops.cos(300.0 * images), axis=(1, 2, 3), keepdims=True)
            return noises, (times + 1) / 2

    def make(cls):
        noisy_images, noise_variances = keras.Input((8, 8, 3)), keras.Input((1, 1, 1))
        x = layers.Concatenate()([noisy_images, layers.UpSampling2D(8)(noise_variances)])
        for index in range(2):
            initializer = keras.initializers.GlorotUniform(seed=index)
            x = layers.Conv2D(
                8, 3, padding="same", activation="tanh", kernel_initializer=initializer
            )(x)
        x = layers.Conv2D(3, 1, kernel_initializer="zeros")(x)
        with scope():
            model = cls(network=keras.Model([noisy_images, noise_variances], x), seed=0)
            model.compile(keras.optimizers.SGD(0.05))
        return model

    images = np.random.default_rng(0).random((STEPS * BATCH, 8, 8, 3)).astype("float32")
    with scope():
        model = make(NoiseOfTheImage)
    model.fit(images, batch_size=BATCH, shuffle=False, verbose=0)
    weights = np.concatenate([np.array(w).ravel() for w in model.ema_network.get_weights()])
    results = {"weights": weights.tolist(), "steps": int(model.ema_steps.numpy())}
    results["bad step"] = after_bad_step(model, images[: 2 * BATCH])
    if column.startswith("Mirrored"):
        import tensorflow as tf

        with scope():
            strategy = tf.distribute.get_strategy()
            drawing = make(keras_ddim.DiffusionModel)
        same = tf.zeros((2, 8, 8, 3))
        drawn = strategy.run(tf.function(drawing.draw, autograph=False), args=(same,))
        results["drawn"] = [
            [
                tensor.numpy().ravel().tolist()
                for tensor in strategy.experimental_local_results(part)
            ]
            for part in drawn
        ]
    print(json.dumps(results))


def after_bad_step(model, images):
    """Averaged weights that differ, on any replica, after two batches of which the first has a bad
    image; and weights that are not finite.
    """
    import keras
    import numpy as np

    def numbers(network):
        variables = [variable.value for variable in network.weights]
        if keras.backend.backend() == "tensorflow":
            strategy = model.distribute_strategy
            variables = [v for each in variables for v in strategy.experimental_local_results(each)]
        return [np.array(variable) for variable in variables]

    before, bad_images = numbers(model.ema_network), images.copy()
    bad_images[3] = np.nan
    try:
        batches = (batch for batch in np.split(bad_images, 2))
        model.fit(batches, steps_per_epoch=2, verbose=0)
    except ValueError as error:
        assert "not finite" in str(error), error
    else:
        raise AssertionError("nothing was raised")
    averages, weights = numbers(model.ema_network), numbers(model.network)
    changed = sum(not np.array_equal(*pair) for pair in zip(before, averages, strict=True))
    return {"changed": changed, "not finite": sum(not np.isfinite(w).all() for w in weights)}


if __name__ == "__main__":
    main(*sys.argv[1:])
