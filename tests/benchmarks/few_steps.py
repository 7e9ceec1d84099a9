"""Few steps: a preset distilled, and its students beside the teacher at 1 to 20 evaluations.

    python tests/benchmarks/few_steps.py fashion_mnist --steps 20000 --seeds 0 1 2 --output few

Two students learn the teacher's images, guided by 1.5. "guidance" learns the velocity alone, as
many steps as `--guidance-steps`; "few steps" learns the way between any two levels. Measured are,
for each list of times and each seed of the noise,

- the Fréchet distance of generated images to held-out ones, and the recall, in the features of the
  classifier that lies beside this file (of other data: one that is trained in the output folder);
- the percentage of images of the class asked for, by a linear classifier of these features, and the
  largest deviation, in percent, of a class's share from its share of the labels;

then the root-mean-square difference of images of one noise at 1, 2, 4 and 8 evaluations from those
at 20, what training and an evaluation cost, and how much of real images inversion brings back.
Writes the students, `results.jsonl`, `table.md` and `one_noise.png`; what is there already is not
made again, so that the same command continues.
"""

import argparse
import json
import pathlib
import time

import keras
import numpy as np

import keras_ddim
from keras_ddim import callbacks, encoders, evaluation, metrics, plots, recipes, samplers, times

HERE = pathlib.Path(__file__).parent
DATA = {"flowers": {}, "fashion_mnist": {"fit": "pad"}}
EVALUATIONS = 1, 2, 4, 8, 20
STEPS_PER_SAVE = 250
LISTS = {
    "uniform": lambda count, schedule: times.uniform(count),
    "uniform log-SNR": times.uniform_log_snr,
    "Karras": times.karras,
}


class Clock(keras.callbacks.Callback):
    """Adds up the processor time of training, trajectories included, in the model's metadata."""

    def on_epoch_begin(self, epoch, logs=None):
        self.start = time.process_time()

    def on_epoch_end(self, epoch, logs=None):
        seconds = self.model.metadata.get("processor_seconds", 0)
        self.model.metadata["processor_seconds"] = seconds + time.process_time() - self.start


def train(teacher, path, num_steps, **options):
    """The student of a file, trained to its end."""
    student, trajectories = recipes.distill(teacher, num_steps, **options)
    if path.exists():
        student = keras_ddim.DiffusionModel.from_preset(path)
        learning_rate = options.get("learning_rate", recipes.DISTILLATION_RATE)
        student.optimizer.learning_rate = recipes.learning_rate_schedule(num_steps, learning_rate)
    done = int(student.optimizer.iterations)
    if done < num_steps:
        student.fit(
            trajectories.from_batch(done),
            initial_epoch=done // STEPS_PER_SAVE,
            epochs=num_steps // STEPS_PER_SAVE,
            steps_per_epoch=STEPS_PER_SAVE,
            callbacks=[Clock(), callbacks.SaveModel(path)],
            verbose=2,
        )
    return student


class Judge:
    """Compares images with held-out ones."""

    def __init__(self, args, output):
        data = keras_ddim.load_images(
            args.preset, 32, labels=True, data_dir=args.data_dir, seed=0, **DATA[args.preset]
        )
        path = HERE / f"{args.preset}.keras"
        path = path if path.exists() else output / "classifier.keras"
        if not path.exists():
            keras.utils.set_random_seed(0)
            repeated = data[0].repeat().take(2000)
            encoders.train_classifier(repeated, data[1], len(data[0].class_names)).save(path)
        self.encoder = encoders.load_classifier(path)
        train_data, held_out = (
            [np.concatenate(parts) for parts in zip(*part.take(count).as_numpy_iterator())]
            for part, count in zip(data, (200, 40))
        )
        self.images = held_out[0][: args.num_images]
        self.real = encoders.encode(self.encoder, self.images)
        self.num_classes = len(data[0].class_names)
        # The last layer, which the classifier's file lacks, by least squares.
        features, labels = encoders.encode(self.encoder, train_data[0]), train_data[1]
        self.head = np.linalg.lstsq(_with_ones(features), np.eye(self.num_classes)[labels])[0]
        self.of_real = self.judge(train_data[0][: args.num_images], labels[: args.num_images])

    def judge(self, images, labels):
        features = encoders.encode(self.encoder, images)
        classes = np.argmax(_with_ones(features) @ self.head, axis=1)
        counts = (np.bincount(c, minlength=self.num_classes) for c in (classes, labels))
        shares = [100 * count / len(images) for count in counts]
        return {
            "distance": float(metrics.frechet_distance(features, self.real)),
            "recall": float(metrics.covered(self.real, features)),
            "of class": 100 * float(np.mean(classes == labels)),
            "imbalance": float(np.abs(shares[0] - shares[1]).max()),
        }


def _with_ones(features):
    return np.concatenate([features, np.ones((len(features), 1))], axis=1)


def generate(model, num_images, seed, labels, **options):
    options |= {"seed": seed, "labels": labels, "batch_size": 100, "verbose": 0}
    return model.generate(num_images, **options)


def runs(teacher, students):
    """`(name, list, model, arguments of generate)` of all that is measured."""
    for count in EVALUATIONS:
        yield "teacher, unguided", "its best", teacher, {"diffusion_times": best(teacher, count)}
        if count % 2 == 0:
            guided = {"guidance_scale": recipes.GUIDANCE_SCALE}
            guided["diffusion_times"] = best(teacher, count // 2)
            yield "teacher, guided", "its best", teacher, guided
    guided = {"guidance_scale": recipes.GUIDANCE_SCALE, "diffusion_times": 20}
    yield "teacher, guided", "its best", teacher, guided
    for name, student in students.items():
        if name == "guidance":
            for count in EVALUATIONS:
                yield name, "its best", student, {"diffusion_times": best(student, count)}
            continue
        for list_name, make_list in LISTS.items():
            for count in EVALUATIONS:
                visited = make_list(count, student.schedule)
                yield name, list_name, student, {"diffusion_times": visited}


def best(model, count):
    """The optimized times that are kept with a model, or those of a number."""
    name = f"best:{count}"
    kept = model.metadata.get("log_snr_lists", {})
    return name if any(name in lists for lists in kept.values()) else count


def one_noise(model, **options):
    """Images of one noise at each number of evaluations, and their difference from the last."""
    labels = np.arange(256) % model.num_classes
    images = [generate(model, 256, 7, labels, diffusion_times=n, **options) for n in EVALUATIONS]
    differences = [float(np.sqrt(np.mean((each - images[-1]) ** 2))) for each in images[:-1]]
    return images, differences


def seconds_of_evaluation(model):
    """Seconds of an evaluation of 100 images, the least of five."""
    options = {"diffusion_times": 20, "sampler": "ddim"}
    labels = np.zeros(100, int)
    generate(model, 100, 0, labels, **options)
    seconds = []
    for _ in range(5):
        start = time.process_time()
        generate(model, 100, 0, labels, **options)
        seconds.append((time.process_time() - start) / 20)
    return min(seconds)


def psnr(model, images):
    """Of images inverted and generated again by DDIM, in dB, 40 evaluations on both ways."""
    visited = times.uniform_log_snr(20, model.schedule)
    labels = np.zeros(len(images), int)
    options = {"labels": labels, "sampler": samplers.DDIM(), "verbose": 0}
    noise = model.invert(images, visited, refinements=1, **options)
    received = model.generate(len(images), visited, initial_noise=noise, **options)
    return float(np.mean(-10 * np.log10(np.mean((received - images) ** 2, axis=(1, 2, 3)))))


def table(results, extras):
    """Results as Markdown: means over the seeds, ± half the spread."""
    rows = {}
    for result in results:
        row = rows.setdefault((result["name"], result["list"]), {})
        row.setdefault(result["evaluations"], []).append(result)
    counts = sorted({result["evaluations"] for result in results})
    lines = []
    for measure in ("distance", "recall", "of class", "imbalance"):
        lines += [f"\n{measure}:\n", f"| model | times | {' | '.join(map(str, counts))} |"]
        lines.append(f"| --- | --- |{' ---: |' * len(counts)}")
        for (name, list_name), cells in rows.items():
            texts = []
            for count in counts:
                values = np.array([cell[measure] for cell in cells.get(count, ())])
                spread = f" ± {np.ptp(values) / 2:.2g}" if len(values) > 1 else ""
                texts.append(f"{values.mean():.3g}{spread}" if len(values) else "")
            lines.append(f"| {name} | {list_name} | {' | '.join(texts)} |")
    return "\n".join([*lines, "", *(f"- {name}: {value}" for name, value in extras.items())]) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("preset", choices=DATA)
    parser.add_argument("--teacher", help="file of the teacher (default: the preset)")
    parser.add_argument("--steps", type=int, default=10_000, help="of the student of few steps")
    parser.add_argument("--guidance-steps", type=int, default=0, help="of that of guidance alone")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--learning-rate", type=float, default=recipes.DISTILLATION_RATE)
    parser.add_argument("--num-images", type=int, default=2000)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--data-dir")
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path("few_steps"))
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)

    teacher = keras_ddim.DiffusionModel.from_preset(args.teacher or args.preset)
    how = {"batch_size": args.batch_size, "learning_rate": args.learning_rate}
    students = {}
    if args.guidance_steps:
        path = args.output / "guidance.keras"
        student = train(teacher, path, args.guidance_steps, next_level=False, **how)
        if best(student, 4) == 4:
            student.keep_times(keras_ddim.optimize_times(student, 4, verbose=0))
            student.save(path)
        students["guidance"] = student
    students["few steps"] = train(teacher, args.output / "few_steps.keras", args.steps, **how)

    judge = Judge(args, args.output)
    path = args.output / "results.jsonl"
    results = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    done = {(r["name"], r["list"], r["evaluations"], r["seed"], r["steps"]) for r in results}
    for seed in args.seeds:
        labels = np.random.default_rng(seed).integers(judge.num_classes, size=args.num_images)
        for name, list_name, model, options in runs(teacher, students):
            evaluations = model.count_evaluations(**options)
            steps = 0 if model is teacher else int(model.optimizer.iterations)
            key = name, list_name, evaluations, seed, steps
            if key in done:
                continue
            images = generate(model, args.num_images, seed, labels, **options)
            names = "name", "list", "evaluations", "seed", "steps"
            result = {**dict(zip(names, key)), **judge.judge(images, labels)}
            results.append(result)
            with open(path, "a") as file:
                file.write(json.dumps(result) + "\n")
            print(result, flush=True)

    student = students["few steps"]
    of_student, differences = one_noise(student)
    of_teacher, teachers = one_noise(teacher, guidance_scale=recipes.GUIDANCE_SCALE)
    rows = {}
    for name, images in (("teacher", of_teacher), ("student", of_student)):
        for n, each in zip(EVALUATIONS, images):
            rows[f"{name}, {n} step{'s' * (n > 1)}"] = each[: student.num_classes]
    plots.plot_rows(rows, args.output / "one_noise.png")
    cost = seconds_of_evaluation(student) / seconds_of_evaluation(teacher)
    extras = {
        "real images": {name: round(value, 3) for name, value in judge.of_real.items()},
        "difference from 20, student at 1, 2, 4, 8 times": np.round(differences, 4).tolist(),
        "difference from 20, guided teacher at 1, 2, 4, 8 times": np.round(teachers, 4).tolist(),
        "an evaluation of the student costs": f"{cost:.3f} of the teacher's",
        "PSNR of 64 real images inverted, student": round(psnr(student, judge.images[:64]), 2),
        "PSNR of 64 real images inverted, teacher": round(psnr(teacher, judge.images[:64]), 2),
        **{
            f"training of {name}": f"{int(each.optimizer.iterations)} steps of {args.batch_size}, "
            f"{each.metadata['processor_seconds']:.0f} s of processor time"
            for name, each in students.items()
        },
    }
    text = table(results, extras)
    results = {"results": results, "extras": extras, **evaluation.environment()}
    evaluation.write_results(args.output, results, text)
    print(text)


if __name__ == "__main__":
    main()
