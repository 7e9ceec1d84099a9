"""How good pictures are for the processor time that training takes: recipes beside each other.

    python tests/benchmarks/quality_for_time.py --data flowers --seconds 490 --output quality
    python tests/benchmarks/quality_for_time.py --recipes recipe published --seeds 0 1 2

Every recipe trains from nothing for the same processor time, in turns of a hundredth of it, so that
whatever else the machine does hits all alike; 490 seconds are five minutes of two quiet cores. Then
it is scored: the Fréchet distance of 2,000 generated images to 2,000 held-out ones at 5, 8 and 20
evaluations, in the features of the classifier that lies beside this file (of other data: one that
is trained and kept in the output folder); and, at several noise levels, the squared error of the
velocity on held-out images, which varies far less. Writes `results.jsonl`, a line for each run, and
a grid of 64 images each; what is there already is not run again. Runs so far are kept in
`quality_for_time.jsonl`, of which `--table` prints a table. The recipe is trained with labels, and
its images are of classes at random; their distances with guidance, which doubles the evaluations,
are `guided`.
"""

import argparse
import functools
import json
import pathlib
import time

import keras
import numpy as np

import keras_ddim
from keras_ddim import (
    DiffusionModel,
    ModulatedUNet,
    encoders,
    evaluation,
    metrics,
    noise_levels,
    plots,
    recipes,
)

HERE = pathlib.Path(__file__).parent
EVALUATIONS = 5, 8, 20
GUIDED_TIMES = 4, 10
LOG_SNR = 6, 4, 2, 0, -2, -4
NUM_IMAGES = 2000
WARM_UP_STEPS, TIMED_STEPS, TURNS = 5, 30, 100


def published(image_shape, num_steps, seed, class_names):
    """The Keras DDIM example: its network, loss, schedule, average and constant learning rate."""
    model = DiffusionModel(image_shape, seed=seed)
    model.compile()
    return model


def first_command_of_before(image_shape, num_steps, seed, class_names):
    """What `keras-ddim train` was before the recipe."""
    network = keras_ddim.ResidualUNet(image_shape, (16, 32, 64, 128), 1, seed=seed)
    model = DiffusionModel(network=network, prediction_type="velocity", seed=seed)
    model.compile(keras.optimizers.AdamW(2e-3, weight_decay=1e-4))
    return model


def fine_tuned(image_shape, num_steps, seed, class_names):
    """The flowers that come with the package, trained on."""
    model = keras_ddim.DiffusionModel.from_preset("flowers")
    return recipes.fine_tune(model, num_steps, class_names=class_names)


def adam(rates):
    return keras.optimizers.Adam(rates, beta_2=0.99, global_clipnorm=1.0)


def changed(loss=None, optimizer=None, network=None, labels=True, **arguments):
    """The recipe with something else in one place."""

    def make(image_shape, num_steps, seed, class_names):
        class_names = class_names if labels else None
        if network:
            num_classes = len(class_names) if labels else None
            arguments["network"] = network(image_shape, seed=seed, num_classes=num_classes)
        options = {"seed": seed, "class_names": class_names, **arguments}
        model = keras_ddim.recipe(image_shape, num_steps, **options)
        if loss or optimizer:
            rates = recipes.learning_rate_schedule(num_steps)
            model.compile(optimizer(rates) if optimizer else model.optimizer, loss or model.loss)
        return model

    return make


RECIPES = {
    "published": (published, 64),
    "first command of before": (first_command_of_before, 32),
    "recipe": (changed(), 16),
    "fine-tuned flowers": (fine_tuned, 16),
    "recipe, batches of 8": (changed(), 8),
    "recipe, batches of 32": (changed(), 32),
    "recipe, wider": (changed(widths=(16, 48, 96, 128)), 16),
    "recipe, two blocks": (changed(block_depth=2), 16),
    "recipe, rate 4e-3": (changed(learning_rate=4e-3), 16),
    "recipe, rate 1e-3": (changed(learning_rate=1e-3), 16),
    "recipe, absolute error": (changed("mean_absolute_error"), 16),
    "recipe, predicting noise": (changed(prediction_type="noise"), 16),
    "recipe, no labels": (changed(labels=False), 16),
    "recipe, spectral preconditioning": (changed(preconditioning="spectral"), 16),
    "recipe, spectral preconditioning, no labels": (
        changed(preconditioning="spectral", labels=False),
        16,
    ),
    "recipe, schedule of the example": (changed(schedule="cosine"), 16),
    "recipe, min-SNR": (changed(loss_weighting="min_snr"), 16),
    "recipe, average of 0.999": (changed(ema=0.999), 16),
    "recipe, constant rate": (
        changed(
            optimizer=lambda _: keras.optimizers.AdamW(
                2e-3, weight_decay=1e-4, beta_2=0.99, global_clipnorm=1.0
            )
        ),
        16,
    ),
    "recipe, Adam": (changed(optimizer=adam), 16),
    "recipe, Adam, spectral preconditioning": (
        changed(optimizer=adam, preconditioning="spectral"),
        16,
    ),
    "recipe, Muon of Keras": (
        changed(optimizer=lambda rates: keras.optimizers.Muon(rates, adam_weight_decay=1e-4)),
        16,
    ),
    "recipe, published network": (
        changed(network=keras_ddim.ResidualUNet),
        16,
    ),
    "recipe, higher frequencies": (
        changed(network=functools.partial(ModulatedUNet, max_frequency=1000.0)),
        16,
    ),
}


class Run:
    """One recipe in training.

    Attributes:
        seconds: Processor time that its training has taken.
    """

    def __init__(self, name, seed, images, labels, class_names, budget):
        self.name, self.seed, self.images, self.labels = name, seed, images, labels
        make, self.batch_size = RECIPES[name]
        self.batches = self._batches()
        image_shape = images.shape[1:]
        trial = make(image_shape, 1000, seed, class_names)
        self._train(trial, WARM_UP_STEPS)
        step = self._train(trial, TIMED_STEPS) / TIMED_STEPS
        self.num_steps = max(TURNS, int(budget / step))
        self.model = make(image_shape, self.num_steps, seed, class_names)
        self.seconds, self.steps_done = 0.0, 0

    def _batches(self):
        rng = np.random.default_rng(self.seed)
        while True:
            order = rng.permutation(len(self.images))
            for start in range(0, len(order) - self.batch_size + 1, self.batch_size):
                yield order[start : start + self.batch_size]

    def _train(self, model, num_steps):
        chosen = np.concatenate([next(self.batches) for _ in range(num_steps)])
        data = self.images[chosen], self.labels[chosen]
        if not model.normalizer.is_adapted:
            model.adapt(self.images)
        start = time.process_time()
        model.fit(*data, batch_size=self.batch_size, shuffle=False, verbose=0)
        return time.process_time() - start

    def turn(self, number):
        """A hundredth of the training; the first one's tracing is not counted."""
        steps = self.num_steps * (number + 1) // TURNS - self.steps_done
        if not self.steps_done:
            self._train(self.model, min(WARM_UP_STEPS, steps))
            steps -= min(WARM_UP_STEPS, steps)
            self.steps_done += WARM_UP_STEPS
        if steps > 0:
            self.seconds += self._train(self.model, steps)
            self.steps_done += steps


def held_out_errors(model, images, labels):
    """The squared error of the velocity at fixed levels, the same noise for all models."""
    denoiser = model.make_denoiser()
    images = keras.ops.convert_to_numpy(model.normalizer(images))
    noises = np.random.default_rng(0).standard_normal(images.shape).astype("float32")
    errors = []
    for level in LOG_SNR:
        rates = noise_levels.rates(np.float32(level))
        batches = []
        for start in range(0, len(images), 100):
            batch = slice(start, start + 100)
            image, noise = images[batch], noises[batch]
            known = {"labels": labels[batch]} if model.class_names else {}
            noisy_images = noise_levels.mix(image, noise, *rates)
            pred_noises, pred_images = denoiser(noisy_images, level, **known)
            difference = noise_levels.target(
                image - pred_images, noise - pred_noises, *rates, "velocity"
            )
            batches.append(np.mean(np.square(keras.ops.convert_to_numpy(difference))))
        errors.append(round(float(np.mean(batches)), 4))
    return errors


def score(model, encoder, real, held_out, held_out_labels, picture):
    """Distances at each number of evaluations, errors at each level; draws a grid."""

    def distances(numbers_of_times, **options):
        found = {}
        for count in numbers_of_times:
            options |= {"seed": 0, "batch_size": 100, "verbose": 0}
            generated = model.generate(NUM_IMAGES, count, **options)
            features = encoders.encode(encoder, generated)
            evaluations = str(model.count_evaluations(count, **options))
            found[evaluations] = round(float(metrics.frechet_distance(features, real)), 2)
        plots.plot_images(generated[:64], path=picture)
        return found

    scores = {"distances": distances(EVALUATIONS)}
    if model.class_names:
        scores["guided"] = distances(GUIDED_TIMES, guidance_scale=recipes.GUIDANCE_SCALE)
    return {**scores, "errors": held_out_errors(model, held_out[:400], held_out_labels)}


def load(args):
    """Images of training, labels and class names, held-out images and labels, and the encoder."""
    options = {"data_dir": args.data_dir, "fit": args.fit, "seed": 0}
    train, held_out = keras_ddim.load_images(
        args.data, args.image_size, labels=True, num_images=args.num_images, **options
    )
    kept = HERE / f"{args.data}.keras"
    path = kept if kept.exists() else pathlib.Path(args.output, "classifier.keras")
    if not path.exists():
        keras.utils.set_random_seed(0)
        path.parent.mkdir(parents=True, exist_ok=True)
        repeated = train.repeat().take(2000)
        encoders.train_classifier(repeated, held_out, len(train.class_names), verbose=0).save(path)

    def arrays(dataset):
        return [np.concatenate(parts) for parts in zip(*dataset.as_numpy_iterator())]

    images, labels = (array[: args.train_images] for array in arrays(train))
    return images, labels, train.class_names, *arrays(held_out), encoders.load_classifier(path)


def table(results):
    """Results as Markdown, the runs of one recipe with several seeds in a row."""
    cells = {}
    for result in results:
        row = tuple(result[name] for name in ("data", "images", "seconds", "recipe", "list"))
        cells.setdefault(row, []).append(result)

    def text(values):
        values = np.array(values)
        return f"{values.mean():.3g}" + f" ± {np.ptp(values) / 2:.2g}" * (len(values) > 1)

    lines = [
        "| images | s | recipe | list | steps | at 5 | at 8 | at 20 "
        "| guided, 8 | 20 | error at 0 | -4 |",
        "| --- | ---: | --- | --- |" + " ---: |" * 8,
    ]
    for (data, count, seconds, recipe, visited), runs in sorted(cells.items()):
        steps = f"{np.mean([run['steps'] for run in runs]):,.0f} × {runs[0]['batch_size']}"
        columns = [text([run["distances"][str(n)] for run in runs]) for n in EVALUATIONS]
        for n in ("8", "20"):
            guided = [run["guided"][n] for run in runs if n in run.get("guided", {})]
            columns.append(text(guided) if guided else "")
        for level in (0, -4):
            columns.append(text([run["errors"][LOG_SNR.index(level)] for run in runs]))
        lines.append(
            f"| {data}, {count:,} | {seconds:g} | {recipe} | {visited} | {steps} | "
            f"{' | '.join(columns)} |"
        )
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="flowers")
    parser.add_argument("--data-dir")
    parser.add_argument("--fit", default="crop")
    parser.add_argument("--image-size", type=int, default=32)
    parser.add_argument("--num-images", type=int)
    parser.add_argument("--train-images", type=int, help="fewer of them, the others as before")
    parser.add_argument("--seconds", type=float, default=490.0)
    parser.add_argument("--recipes", nargs="+", default=["recipe"], choices=RECIPES)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path("quality"))
    parser.add_argument("--table", action="store_true", help="print what was found, run nothing")
    args = parser.parse_args()
    if args.table:
        kept = (HERE / "quality_for_time.jsonl").read_text().splitlines()
        return print(table(map(json.loads, kept)))

    *data, held_out, held_out_labels, encoder = load(args)
    images = data[0]
    real = metrics.Moments(encoders.encode(encoder, held_out[:NUM_IMAGES]))
    of_real = metrics.frechet_distance(encoders.encode(encoder, images[:NUM_IMAGES]), real)
    print(f"{len(images)} images; of real ones the distance is {of_real:.2f}", flush=True)
    path = args.output / "results.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    done = {(r["recipe"], r["seed"], r["seconds"]) for r in map(json.loads, lines)}
    for seed in args.seeds:
        names = [name for name in args.recipes if (name, seed, args.seconds) not in done]
        runs = [Run(name, seed, *data, args.seconds) for name in names]
        for number in range(TURNS):
            for run in runs:
                run.turn(number)
        for run in runs:
            picture = args.output / f"{run.name.replace(' ', '_')}_{seed}_{args.seconds:g}.png"
            result = {
                "data": args.data,
                "images": len(images),
                "recipe": run.name,
                "list": "Karras",  # what a number of times means from 4 on
                "seed": seed,
                "seconds": args.seconds,
                "seconds_taken": round(run.seconds, 1),
                "steps": run.num_steps,
                "batch_size": run.batch_size,
                "parameters": run.model.network.count_params(),
                **score(run.model, encoder, real, held_out, held_out_labels, picture),
                "real": round(float(of_real), 2),
                "log_snr": LOG_SNR,
                **evaluation.environment(),
            }
            with open(path, "a") as file:
                file.write(json.dumps(result) + "\n")
            print(run.name, seed, result["distances"], result["errors"], flush=True)


if __name__ == "__main__":
    main()
