"""What the model costs beside its bare network, and whether generating forever stays in memory.

    python tests/benchmarks/core_cost.py --rounds 10

In one process, taking turns in random order, medians of the paired ratios:

- a step of `DiffusionModel.fit` to a step of `fit` of its network alone, compiled with the same
  optimizer and loss, on noisy images that were mixed before;
- `generate` of 16 images along 20 times to 20 calls of the compiled network alone.

Then `generate` is called with changing lists, samplers and values of η, and the resident memory is
printed as it goes.
"""

import argparse
import gc
import time

import keras
import numpy as np

import keras_ddim


def seconds(function):
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def paired(functions, rounds, rng):
    """Times of each function, (rounds, functions), in random order within each round."""
    for function in functions:
        function()  # compiles
    times = np.zeros((rounds, len(functions)))
    for turn in range(rounds):
        for index in rng.permutation(len(functions)):
            times[turn, index] = seconds(functions[index])
    return times


def make_networks(image_shape):
    return [keras_ddim.ResidualUNet(image_shape, seed=0) for _ in range(2)]


def measure_fit(size, batch_size, steps, rounds, rng):
    """Ratio of a `fit` step of the model to one of the bare network."""
    network, bare = make_networks((size, size, 3))
    model = keras_ddim.DiffusionModel(network=network, seed=0)
    model.compile()
    bare.compile(keras.optimizers.AdamW(1e-3, weight_decay=1e-4), "mean_absolute_error")
    images = rng.random((steps * batch_size, size, size, 3)).astype("float32")
    noises = rng.standard_normal(images.shape).astype("float32")
    variances = rng.random((len(images), 1, 1, 1)).astype("float32")
    noisy_images = np.sqrt(1 - variances) * images + np.sqrt(variances) * noises
    options = {"batch_size": batch_size, "verbose": 0}
    return (
        paired(
            [
                lambda: model.fit(images, **options),
                lambda: bare.fit([noisy_images, variances], noises, **options),
            ],
            rounds,
            rng,
        )
        / steps
    )


def measure_generate(size, rounds, rng):
    """Ratio of `generate` to as many calls of the bare network."""
    network, bare = make_networks((size, size, 3))
    model = keras_ddim.DiffusionModel(network=network, seed=0)
    images = keras.ops.convert_to_tensor(rng.standard_normal((16, size, size, 3)).astype("float32"))
    variances = keras.ops.full((16, 1, 1, 1), 0.5)
    denoiser = keras_ddim.denoisers.NetworkDenoiser(bare)
    predict = keras_ddim.sampling.CompiledStep(Bare(denoiser))

    def call_bare():
        for _ in range(20):
            outputs = predict(noisy_images=images, log_snr=variances)
        np.asarray(outputs[1])

    return paired([lambda: model.generate(16, 20, seed=0, verbose=0), call_bare], rounds, rng)


class Bare(keras_ddim.sampling.Step):
    """The network alone, compiled in the same way."""

    def call(self, noisy_images, log_snr):
        prediction = self.denoiser.network([noisy_images, log_snr], training=False)
        return noisy_images, prediction, ()


def resident_megabytes():
    with open("/proc/self/status") as file:
        line = next(line for line in file if line.startswith("VmRSS"))
    return int(line.split()[1]) / 1024


def measure_memory(calls, rng):
    """Resident memory while `generate` is called with ever other lists, samplers and η."""
    network = keras_ddim.ResidualUNet((16, 16, 3), (16, 32), block_depth=1, seed=0)
    model = keras_ddim.DiffusionModel(network=network, seed=0)
    names = ["ddim", "ddpm", "heun", "euler", "unipc", "dpm++", "adams_bashforth"]
    print("| calls | resident memory, MB |\n| ---: | ---: |")
    for call in range(calls + 1):
        if call % max(1, calls // 10) == 0:
            gc.collect()
            print(f"| {call} | {resident_megabytes():.0f} |", flush=True)
        times = np.sort(rng.random(rng.integers(1, 6)))[::-1]
        sampler = names[call % len(names)] if call % 2 else keras_ddim.DDIM(eta=rng.random())
        model.generate(int(rng.integers(1, 9)), times, sampler=sampler, verbose=0)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=10, help="turns of each (%(default)s)")
    parser.add_argument("--size", type=int, default=64, help="of the images (%(default)s)")
    parser.add_argument("--calls", type=int, default=300, help="of generate (%(default)s)")
    args = parser.parse_args()
    rng = np.random.default_rng(0)
    for label, times in (
        ("fit step, batch 16", measure_fit(args.size, 16, 8, args.rounds, rng)),
        ("generate, 16 x 20", measure_generate(args.size, args.rounds, rng)),
    ):
        ratios = times[:, 0] / times[:, 1]
        low, median, high = np.percentile(ratios, [25, 50, 75])
        print(
            f"{label}: {median:.3f} times the bare network (quartiles {low:.3f} to {high:.3f}), "
            f"{np.median(times[:, 0]):.2f} s",
            flush=True,
        )
    measure_memory(args.calls, rng)


if __name__ == "__main__":
    main()
