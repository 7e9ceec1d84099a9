"""Real images, inverted to noise and generated from it again: how much of them comes back.

    python tests/benchmarks/inversion.py fashion.keras --data fashion_mnist --fit pad

Measured is the peak signal-to-noise ratio, in dB, of images kept from training, against all
evaluations that both ways cost, refinement included: with none, where the sampler itself follows
the list backwards from the images, and with 1, 2 and 3 (`keras_ddim.sampling.Inversion`). Of each
number of evaluations, as many times as it is enough for are visited, uniform in time and in
log-SNR. Writes `results.json` and `table.md`.
"""

import argparse

import numpy as np

import keras_ddim
from keras_ddim import evaluation, samplers, times

LISTS = {
    "uniform time": lambda num_times, schedule: times.uniform(num_times),
    "uniform log-SNR": times.uniform_log_snr,
}
BUDGETS = 10, 20, 40, 100
REFINEMENTS = 0, 1, 2, 3
SEED = 0


def count_evaluations(sampler, num_times, refinements):
    """Of the way to noise and the way back."""
    back = sampler.count_evaluations(num_times)
    return back + (refinements * back if refinements else back)


def invert(model, images, listed, sampler, refinements):
    if refinements:
        return model.invert(images, listed, sampler=sampler, refinements=refinements, verbose=0)
    start = model.normalize(images)
    options = {"initial_noise": start, "return_trajectory": True, "verbose": 0}
    return model.generate(len(images), listed[::-1], sampler=sampler, **options).noisy_images[-1]


def measure(model, images, sampler, refinements, budget, make_list):
    """The PSNR of images that come back, and what it costs."""
    fitting = (n for n in range(1, budget) if count_evaluations(sampler, n, refinements) <= budget)
    num_times = max(fitting, default=0)
    if num_times < 2:
        return None
    listed = np.asarray(make_list(num_times, model.schedule))
    noise = invert(model, images, listed, sampler, refinements)
    options = {"sampler": sampler, "initial_noise": noise, "verbose": 0}
    received = model.generate(len(images), listed, **options)
    errors = np.mean((received - images) ** 2, axis=(1, 2, 3))
    return {
        "evaluations": count_evaluations(sampler, num_times, refinements),
        "times": num_times,
        "psnr": float(np.mean(-10 * np.log10(errors))),
        "noise_deviation": float(noise.std()),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--data", default="plain_flowers")
    parser.add_argument("--data-dir")
    parser.add_argument("--fit", default="crop")
    parser.add_argument("--num-images", type=int, default=64)
    parser.add_argument("--output", default="inversion")
    args = parser.parse_args()

    model = keras_ddim.DiffusionModel.from_preset(args.model)
    height, width, channels = model.image_shape
    _, real_images = keras_ddim.load_images(
        *(args.data, (height, width)),
        channels=channels,
        fit=args.fit,
        seed=SEED,
        data_dir=args.data_dir,
    )
    images = evaluation.take(real_images, args.num_images)
    rows = []
    for list_name, make_list in LISTS.items():
        for name, sampler in (("DDIM", samplers.DDIM()), ("Heun", samplers.Heun())):
            for refinements in REFINEMENTS:
                row = {"list": list_name, "sampler": name, "refinements": refinements}
                row["results"] = [
                    measure(model, images, sampler, refinements, budget, make_list)
                    for budget in BUDGETS
                ]
                rows.append(row)
                print(row, flush=True)
    lines = [
        f"| list | sampler | refinements |{' | '.join(map(str, BUDGETS))} |",
        f"| --- | --- | ---: |{' ---: |' * len(BUDGETS)}",
    ]
    for row in rows:
        cells = ["–" if r is None else f"{r['psnr']:.1f}" for r in row["results"]]
        names = f"{row['list']} | {row['sampler']} | {row['refinements']}"
        lines.append(f"| {names} | {' | '.join(cells)} |")
    table = "\n".join(lines)
    results = {"model": args.model, "data": args.data, "num_images": len(images), "rows": rows}
    evaluation.write_results(args.output, {**results, **evaluation.environment()}, table + "\n")
    print(table)


if __name__ == "__main__":
    main()
