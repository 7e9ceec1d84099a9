"""What the guard costs: a training step with it, against the same step that applies all.

    python tests/benchmarks/guard_cost.py --rounds 100

Two models are trained on the same batch, each step of the one next to a step of the other, in an
order that alternates, so that a busy machine slows both. Printed are the median step without the
guard, and the median of the pairs' differences as part of it, by the clock and by the time of the
processor, which other programs change less. Both follow the average.
"""

import argparse
import time
from typing import Any
from unittest import mock

import numpy as np
import tensorflow as tf

import keras_ddim
import keras_ddim.model

BATCH = 16
NETWORKS = {
    "64×64×3, the default network": ((64, 64, 3), {}),
    "32×32×3, widths=(16, 32, 64, 128), block_depth=1": (
        (32, 32, 3),
        {"widths": (16, 32, 64, 128), "block_depth": 1},
    ),
}


def unguarded_step(model: Any, train_step: Any, data: Any) -> dict:
    logs = train_step(data)
    for variable, value in model.averaged_weights(1):
        variable.assign(value)
    return logs


def make_step(image_shape: tuple[int, int, int], arguments: dict, guarded: bool) -> Any:
    """Callable that takes one compiled training step, and waits for it."""
    network = keras_ddim.ResidualUNet(image_shape, seed=0, **arguments)
    model = keras_ddim.DiffusionModel(network=network, seed=0)
    model.compile(jit_compile=False)
    images = np.random.default_rng(0).random((BATCH, *image_shape), "float32")
    model.adapt(images)
    model.make_train_function()
    batches = iter(tf.data.Dataset.from_tensors((images,)).repeat())

    def step() -> None:
        model.train_function(batches)["loss"].numpy()

    chosen = keras_ddim.model.guarded_step if guarded else unguarded_step
    with mock.patch.object(keras_ddim.model, "guarded_step", chosen):
        step()  # is traced
    return step


def seconds(step: Any) -> tuple[float, float]:
    """Of the clock, and of the processor."""
    clock, processor = time.perf_counter(), time.process_time()
    step()
    return time.perf_counter() - clock, time.process_time() - processor


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=100, help="pairs of steps (%(default)s)")
    rounds = parser.parse_args().rounds
    print(f"| network, batches of {BATCH} | step without | guard | its processor time |")
    print("| --- | ---: | ---: | ---: |")
    for label, (image_shape, arguments) in NETWORKS.items():
        steps = [make_step(image_shape, arguments, guarded) for guarded in (False, True)]
        times = np.zeros((rounds, 2, 2))
        for turn in range(-3, rounds):
            for which in (0, 1) if turn % 2 else (1, 0):
                times[turn, which] = seconds(steps[which])
        without, costs = times[:, 0], times[:, 1] - times[:, 0]
        # 1.25 deviations of the mean are one of the median.
        errors = 1.25 * costs.std(axis=0) / rounds**0.5
        shares = [
            f"{cost / step:.2%} ± {error / step:.2%}"
            for cost, error, step in zip(np.median(costs, 0), errors, np.median(without, 0))
        ]
        print(f"| {label} | {1000 * np.median(without[:, 0]):.1f} ms | {' | '.join(shares)} |")


if __name__ == "__main__":
    main()
