"""What a step of each solver costs beyond the network: milliseconds, and the ratio to DDIM's.

    python tests/benchmarks/sampler_cost.py --rounds 30

Measured is `generate` itself, with a network that returns the noisy images it is given: the time
at 21 times less the time at one, by 20. So all that a step does is included, except the network:
the compiled step, the separation of the network's prediction at each evaluation, calling both
from Python, and fresh noise. All solvers take turns in each round, in random order, so that a busy
machine slows all of them; medians over the rounds are printed as a Markdown table. For scale, each
round also evaluates the default network.
"""

import argparse
import time

import keras
import numpy as np

import keras_ddim
from keras_ddim import DDIM, DDPM, AdamsBashforth, DPMSolverPP, Euler, Heun, UniPC

BATCH = 16
STEPS = 20
SAMPLERS = {
    "DDIM()": DDIM(),
    "DDIM(eta=0.5)": DDIM(eta=0.5),
    "DDPM()": DDPM(),
    "Euler()": Euler(),
    "Heun()": Heun(),
    **{f"AdamsBashforth({order})": AdamsBashforth(order) for order in (1, 2, 3, 4, 5)},
    **{f"DPMSolverPP({order})": DPMSolverPP(order) for order in (1, 2, 3)},
    **{f"DPMSolverPP({order}, singlestep)": DPMSolverPP(order, "singlestep") for order in (2, 3)},
    **{
        f"DPMSolverPP({order}, stochastic)": DPMSolverPP(order, stochastic=True) for order in (1, 2)
    },
    **{f"UniPC({order})": UniPC(order) for order in (1, 2, 3)},
}


def make_identity_model(image_shape):
    noisy_images, noise_variances = keras.Input(image_shape), keras.Input((1, 1, 1))
    network = keras.Model([noisy_images, noise_variances], keras.layers.Identity()(noisy_images))
    return keras_ddim.DiffusionModel(network=network, seed=0)


def milliseconds(function, *args, **kwargs):
    start = time.perf_counter()
    function(*args, **kwargs)
    return 1000 * (time.perf_counter() - start)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=30, help="turns of each solver (%(default)s)")
    parser.add_argument("--size", type=int, default=64, help="of the images (%(default)s)")
    args = parser.parse_args()
    rounds, image_shape = args.rounds, (args.size, args.size, 3)

    noise = np.random.default_rng(0).standard_normal((BATCH, *image_shape), "float32")
    identity_model = make_identity_model(image_shape)
    default_step = keras_ddim.DiffusionModel(image_shape, seed=0).make_step()
    noisy_images = keras.ops.convert_to_tensor(noise)
    level = keras.ops.convert_to_tensor(np.float32(0.0))

    def time_step(sampler):
        many, one = (
            milliseconds(
                identity_model.generate,
                BATCH,
                num_times,
                sampler=sampler,
                seed=0,
                initial_noise=noise,
                verbose=0,
            )
            for num_times in (STEPS + 1, 1)
        )
        return (many - one) / STEPS

    def time_evaluation():
        return milliseconds(
            lambda: np.asarray(default_step(noisy_images=noisy_images, log_snr=level)[1])
        )

    # So many solvers taking turns would be compiled anew each time.
    keras_ddim.sampling.STEPS_KEPT = len(SAMPLERS)
    solvers = list(SAMPLERS.values())
    for sampler in solvers:
        time_step(sampler)  # compiles
    time_evaluation()
    steps, evaluations = np.zeros((rounds, len(SAMPLERS))), np.zeros(rounds)
    rng = np.random.default_rng(0)
    for turn in range(rounds):
        for index in rng.permutation(len(SAMPLERS)):
            steps[turn, index] = time_step(solvers[index])
        evaluations[turn] = time_evaluation()

    counts = np.array([sampler.evaluations_per_step for sampler in solvers])
    costs = np.median(steps, axis=0)
    ratios = np.median(steps / steps[:, :1], axis=0)
    shares = np.median(steps / evaluations[:, None] / counts, axis=0)
    print(
        "| solver | evaluations a step | ms a step | ratio to DDIM() | of the evaluations' time |"
    )
    print("| --- | ---: | ---: | ---: | ---: |")
    for label, count, cost, ratio, share in zip(SAMPLERS, counts, costs, ratios, shares):
        print(f"| {label} | {count} | {cost:.2f} | {ratio:.2f} | {share:.1%} |")
    print(
        f"\nMedians over {rounds} rounds, of {BATCH} images of {image_shape}. One evaluation of "
        f"the default network on them: {np.median(evaluations):.0f} ms."
    )


if __name__ == "__main__":
    main()
