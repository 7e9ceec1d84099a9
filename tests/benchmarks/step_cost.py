"""What the package costs beside the bare network, on TensorFlow, in processor time.

    python tests/benchmarks/step_cost.py train       # a step of `fit` to the network's own step
    python tests/benchmarks/step_cost.py generate    # 16 images × 20 to 20 evaluations
    python tests/benchmarks/step_cost.py samplers    # a step of each sampler, without a network
    python tests/benchmarks/step_cost.py memory      # peak of training; growth of generating

Two sides that are compared take turns in one process, in random order. Printed are medians of the
paired ratios with their quartiles. Processor time counts all threads of the process, so a busy
machine changes it little. The bare training step is the network's forward pass and backward pass
with the model's own loss and optimizer, on noisy images that were mixed before.
"""

import argparse
import functools
import gc
import os
import pathlib
import resource
import subprocess
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf

import keras_ddim

BATCH = 16
STEPS = 20
SAMPLERS = {
    "DDIM()": keras_ddim.DDIM(),
    "DDIM(eta=0.5)": keras_ddim.DDIM(eta=0.5),
    "DDPM()": keras_ddim.DDPM(),
    "Euler()": keras_ddim.Euler(),
    "Heun()": keras_ddim.Heun(),
    **{f"AdamsBashforth({n})": keras_ddim.AdamsBashforth(n) for n in (1, 2, 3, 5)},
    **{f"DPMSolverPP({n})": keras_ddim.DPMSolverPP(n) for n in (1, 2, 3)},
    "DPMSolverPP(2, singlestep)": keras_ddim.DPMSolverPP(2, "singlestep"),
    "DPMSolverPP(2, stochastic)": keras_ddim.DPMSolverPP(2, stochastic=True),
    **{f"UniPC({n})": keras_ddim.UniPC(n) for n in (1, 2, 3)},
}


def make_recipe():
    return keras_ddim.recipe((32, 32, 3), 10_000, seed=0)


def make_default():
    model = keras_ddim.DiffusionModel((64, 64, 3), seed=0)
    model.compile()
    return model


MODELS = {"recipe's network, 32×32": make_recipe, "default network, 64×64": make_default}


def paired(functions, rounds):
    """Processor seconds of each function, (rounds, functions), in random order each round."""
    rng = np.random.default_rng(0)
    for function in functions:
        function()  # compiles
    seconds = np.zeros((rounds, len(functions)))
    for turn in range(rounds):
        for index in rng.permutation(len(functions)):
            start = time.process_time()
            functions[index]()
            seconds[turn, index] = time.process_time() - start
    return seconds


def print_ratio(label, seconds):
    low, median, high = np.percentile(seconds[:, 0] / seconds[:, 1], [25, 50, 75])
    bare = 1000 * np.median(seconds[:, 1])
    print(f"| {label} | {bare:.1f} ms | {median:.3f} | {low:.3f} to {high:.3f} |", flush=True)


def make_step(model, images):
    """A compiled step of `fit`."""
    model.adapt(images)
    model.jit_compile = False
    model.make_train_function()
    batches = iter(tf.data.Dataset.from_tensors((images,)).repeat())
    return lambda: model.train_function(batches)["loss"].numpy()


def make_bare_step(model, images):
    """The network's own step: forward, backward, optimizer."""
    noises = np.random.default_rng(1).standard_normal(images.shape).astype("float32")
    inputs = images + noises, np.full((BATCH, 1, 1, 1), 0.5, "float32"), noises
    batches = iter(tf.data.Dataset.from_tensors(inputs).repeat())
    network, loss, optimizer = model.network, keras.losses.get(model.loss), model.optimizer
    weights = network.trainable_variables
    optimizer.build(weights)

    @tf.function(autograph=False)
    def step(iterator):
        noisy_images, variances, target = next(iterator)
        with tf.GradientTape() as tape:
            prediction = network([noisy_images, variances], training=True)
            value = tf.reduce_mean(loss(target, prediction))
        optimizer.apply(tape.gradient(value, [weight.value for weight in weights]), weights)
        return value

    return lambda: step(batches).numpy()


def make_bare_evaluations(network, image_shape):
    """As many evaluations of the network alone as `generate` takes."""
    shapes = (BATCH, *image_shape), (BATCH, 1, 1, 1)
    function = tf.function(
        lambda images, level: network([images, level], training=False), autograph=False
    ).get_concrete_function(*map(tf.TensorSpec, shapes))
    noise, level = tf.random.normal(shapes[0], seed=0), tf.fill(shapes[1], 0.5)

    def evaluate():
        for _ in range(STEPS):
            outputs = function(noise, level)
        return outputs.numpy()

    return evaluate


def train(rounds):
    print(
        "| training step, batches of 16 | bare | ratio | quartiles |\n| --- | ---: | ---: | --- |"
    )
    for label, make in MODELS.items():
        model, bare = make(), make()
        images = np.random.default_rng(0).random((BATCH, *model.image_shape), "float32")
        steps = [make_step(model, images), make_bare_step(bare, images)]
        print_ratio(label, paired(steps, rounds))


def generate(rounds):
    print("| 16 images × 20 | bare | ratio | quartiles |\n| --- | ---: | ---: | --- |")
    for label, make in MODELS.items():
        model = make()
        run = functools.partial(model.generate, BATCH, STEPS, seed=0, verbose=0)
        evaluate = make_bare_evaluations(model.ema_network, model.image_shape)
        print_ratio(label, paired([run, evaluate], max(5, rounds // 10)))


def samplers(rounds):
    """A step is 20 steps more, of a network that returns its noisy images, by 20."""
    noise = np.random.default_rng(0).standard_normal((BATCH, 64, 64, 3)).astype("float32")
    options = {"seed": 0, "initial_noise": noise, "verbose": 0}
    functions = []
    for sampler in SAMPLERS.values():
        noisy_images, level = keras.Input((64, 64, 3)), keras.Input((1, 1, 1))
        network = keras.Model([noisy_images, level], keras.layers.Identity()(noisy_images))
        model = keras_ddim.DiffusionModel(network=network, seed=0)
        for steps in (STEPS + 1, 1):
            functions.append(
                lambda model=model, steps=steps, sampler=sampler: model.generate(
                    BATCH, steps, sampler=sampler, **options
                )
            )
    seconds = paired(functions, max(5, rounds // 10))
    costs = 1000 * (seconds[:, ::2] - seconds[:, 1::2]) / STEPS
    print("| sampler | evaluations a step | ms a step |\n| --- | ---: | ---: |")
    for label, cost in zip(SAMPLERS, np.median(costs, axis=0)):
        print(f"| {label} | {SAMPLERS[label].evaluations_per_step} | {cost:.2f} |")


def memory(rounds):
    """Peaks are of processes of their own: this script again, for each model."""
    print("| peak memory | MB |\n| --- | ---: |")
    for label in MODELS:
        command = [sys.executable, __file__, "peak", "--model", label]
        output = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
        print(f"| 10 training steps, {label} | {output.strip()} |", flush=True)
    network = keras_ddim.ResidualUNet((16, 16, 3), (16, 32), block_depth=1, seed=0)
    model = keras_ddim.DiffusionModel(network=network, seed=0)
    rng, names = np.random.default_rng(0), ["ddim", "ddpm", "heun", "unipc", "dpm++"]
    for call in range(3 * rounds + 1):
        if call % rounds == 0:
            gc.collect()
            pages = pathlib.Path("/proc/self/statm").read_text().split()[1]
            resident = int(pages) * resource.getpagesize() / 2**20
            print(f"| resident after {call} calls of `generate`, all different | {resident:.0f} |")
        times = np.sort(rng.random(rng.integers(1, 6)))[::-1]
        sampler = names[call % 5] if call % 2 else keras_ddim.DDIM(eta=rng.random())
        model.generate(int(rng.integers(1, 9)), times, sampler=sampler, verbose=0)


def peak(label):
    model = MODELS[label]()
    images = np.random.default_rng(0).random((10 * BATCH, *model.image_shape), "float32")
    model.fit(images, batch_size=BATCH, verbose=0)
    print(round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parts = {"train": train, "generate": generate, "samplers": samplers, "memory": memory}
    parser.add_argument("part", choices=[*parts, "peak"])
    parser.add_argument("--rounds", type=int, default=100, help="turns of each (%(default)s)")
    parser.add_argument("--model", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.part == "peak":
        return peak(args.model)
    parts[args.part](args.rounds)


if __name__ == "__main__":
    main()
