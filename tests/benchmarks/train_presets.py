"""Trains a preset, and resumes it: a killed run loses the steps since its last save.

    python tests/benchmarks/train_presets.py flowers --steps 60000
    python tests/benchmarks/train_presets.py fashion_mnist --steps 60000 --data-dir data

The learning rate stays constant, and falls to zero over the last fifth of the steps. A finished run
goes on when `--steps` is raised; to finish a run early, lower `--steps` to five quarters of the
steps done. Writes NAME.keras (the whole run) and NAME.npz (averaged weights, in the order of
`ema_network.weights`) into the output folder, every few minutes, each at once.
"""

import argparse
import os
import pathlib

import keras
import numpy as np

import keras_ddim
from keras_ddim import recipes
from keras_ddim.optimizers import Muon

STEPS_PER_SAVE = 250
WARM_UP = 500
DATA = {
    "flowers": {"num_images": 60_000},
    "fashion_mnist": {"fit": "pad"},
}


@keras.saving.register_keras_serializable("keras_ddim_benchmarks")
class Trapezoid(keras.optimizers.schedules.LearningRateSchedule):
    """Up from zero over the warm-up, constant, and linearly down over the last fifth."""

    def __init__(self, learning_rate, num_steps):
        self.learning_rate, self.num_steps = learning_rate, num_steps

    def __call__(self, step):
        step = keras.ops.cast(step, "float32")
        rise, fall = (step + 1) / WARM_UP, (self.num_steps - step) / (0.2 * self.num_steps)
        return self.learning_rate * keras.ops.clip(keras.ops.minimum(rise, fall), 0, 1)

    def get_config(self):
        return {"learning_rate": self.learning_rate, "num_steps": self.num_steps}


class Save(keras.callbacks.Callback):
    """Saves the run and the averaged weights; a reader never sees half a file."""

    def __init__(self, path):
        super().__init__()
        self.path = path

    def on_epoch_end(self, epoch, logs=None):
        temporary = self.path.with_name(f"partial_{self.path.name}")
        self.model.save(temporary)
        os.replace(temporary, self.path)
        temporary = temporary.with_suffix(".npz")
        np.savez(temporary, *self.model.ema_network.get_weights())
        os.replace(temporary, self.path.with_suffix(".npz"))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", choices=DATA)
    parser.add_argument("--steps", type=int, required=True, help="in all")
    parser.add_argument("--widths", type=int, nargs="+", default=[16, 48, 96, 128])
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--learning-rate", type=float, default=recipes.LEARNING_RATE)
    parser.add_argument("--data-dir")
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path("presets"))
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    path = args.output / f"{args.name}.keras"

    images, val_images = keras_ddim.load_images(
        args.name,
        32,
        batch_size=args.batch_size,
        labels=True,
        data_dir=args.data_dir,
        seed=0,
        **DATA[args.name],
    )
    if path.exists():
        model = keras_ddim.DiffusionModel.from_preset(path)
    else:
        image_shape = tuple(images.element_spec[0].shape[1:])
        model = keras_ddim.recipe(
            image_shape, args.steps, widths=args.widths, class_names=images.class_names, seed=0
        )
        model.compile(Muon(args.learning_rate, global_clipnorm=1.0), "mean_squared_error")
    model.optimizer.learning_rate = Trapezoid(args.learning_rate, args.steps)
    done = int(model.optimizer.iterations)
    model.fit(
        images.from_batch(done).repeat(),
        initial_epoch=done // STEPS_PER_SAVE,
        epochs=args.steps // STEPS_PER_SAVE,
        steps_per_epoch=STEPS_PER_SAVE,
        shuffle=False,
        callbacks=[Save(path)],
        verbose=2,
    )
    print(model.evaluate(val_images, return_dict=True, verbose=0))


if __name__ == "__main__":
    main()
