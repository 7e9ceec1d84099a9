"""Hours of training, generating, saving and loading in one process: is memory flat?

    python tests/benchmarks/soak.py --hours 2

Each round trains a tiny model for an epoch, generates along another list with another sampler, and
saves; every few rounds, what was saved is loaded and generates the same. What TensorFlow keeps for
ever of any Keras model stays out of it: the loaded ones are not trained (a graph of the step each)
and run eagerly (functions, 0.4 MiB each); and the session is cleared after each round, as Keras
advises where models are made in a loop (else saving leaves two kernels, 0.07 MiB).
Printed every so often: the memory of the process (resident, anonymous) and its open files; at the
end, whether both were flat: by how much the second half of the rounds was above the quarter before
it, after a first quarter in which caches fill.
"""

import argparse
import os
import pathlib
import re
import tempfile
import time

import keras
import numpy as np

import keras_ddim

SAMPLERS = "ddim", "ddpm", "heun", "unipc", "dpm++", "euler"
ROUNDS_BEFORE_LOADING = 5
MOST_GROWTH = 0.02  # of the memory, in the second half


def memory() -> float:
    """In MiB, without files mapped into memory, such as libraries: these may leave it."""
    status = pathlib.Path("/proc/self/status").read_text()
    return int(re.search(r"RssAnon:\s+(\d+) kB", status)[1]) / 2**10


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def play(model: keras_ddim.DiffusionModel, number: int, path: str) -> None:
    """A round."""
    rng = np.random.default_rng(number)
    model.fit(rng.random((16, 8, 8, 1), "float32"), batch_size=8, verbose=0)
    times = np.sort(rng.uniform(0.02, 1.0, size=rng.integers(1, 9)))[::-1]
    options = {"sampler": SAMPLERS[number % len(SAMPLERS)], "seed": number, "verbose": 0}
    count = int(rng.integers(1, 20))
    images = model.generate(count, times, **options)
    assert np.isfinite(images).all()
    model.save(path)
    if number % ROUNDS_BEFORE_LOADING == 0:
        loaded = keras.saving.load_model(path)
        loaded.run_eagerly = True
        np.testing.assert_allclose(loaded.generate(count, times, **options), images, atol=1e-4)
    keras.backend.clear_session(free_memory=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--hours", type=float, default=2.0, help="how long (%(default)s)")
    parser.add_argument("--log-every", type=float, default=60.0, help="seconds (%(default)s)")
    args = parser.parse_args()
    model = keras_ddim.recipe((8, 8, 1), num_steps=1_000_000, widths=(4, 4), seed=0)
    start = logged = time.monotonic()
    seen = []
    with tempfile.TemporaryDirectory() as folder:
        while time.monotonic() < start + 3600 * args.hours:
            play(model, len(seen), f"{folder}/model.keras")
            seen.append((memory(), open_files()))
            if time.monotonic() - logged > args.log_every or len(seen) == 1:
                logged = time.monotonic()
                minutes, (mib, files) = (logged - start) / 60, seen[-1]
                line = f"{minutes:7.1f} min {len(seen):6} rounds {mib:8.1f} MiB {files:4} files"
                print(line, flush=True)
    before, after = np.array_split(np.array(seen)[len(seen) // 4 :], [len(seen) // 4])
    growth, files = np.mean(after, axis=0) - np.mean(before, axis=0)
    share = growth / np.mean(before, axis=0)[0]
    is_flat = share < MOST_GROWTH and files < 1
    print(f"{len(seen)} rounds: {growth:+.1f} MiB ({share:+.1%}), {files:+.1f} files")
    print("flat" if is_flat else "not flat")


if __name__ == "__main__":
    main()
