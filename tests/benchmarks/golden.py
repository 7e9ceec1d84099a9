"""Records what a version of the package generates and learns, and compares two such records.

    python tests/benchmarks/golden.py --package PATH record before.npz
    python tests/benchmarks/golden.py compare before.npz after.npz

A record holds images of both presets in many ways (samplers, lists, schedules, guidance, edits,
known pixels, inversion), a seeded trace of 20 training steps, and what the models in `tests/files`
generate and learn next. With `--compiled`, images come from compiled steps instead of eager ones.
`compare` prints the largest difference of each entry, and fails if one is above the limit.
"""

import argparse
import functools
import os
import pathlib
import sys
import time
import traceback

import numpy as np

FILES = pathlib.Path(__file__).parents[1] / "files"
NUM_IMAGES = 4
STEPS = 20
LIMITS = {"image": 1e-5, "trace": 1e-6, "file": 1e-5}


def darkness(images):
    """A loss for each image, which guidance lowers."""
    from keras import ops

    return 10 * ops.mean(images, axis=(1, 2, 3))


def block_images(count, size, channels):
    """Images of 4×4 squares, the same for every version of the package."""
    squares = np.random.default_rng(0).random((count, 4, 4, channels)).astype("float32")
    return squares.repeat(size // 4, axis=1).repeat(size // 4, axis=2)


# Options of `generate` in a form that both versions can be given; see `style_of`.
KINDS = {
    "ddim": {"diffusion_times": 5, "sampler": "ddim"},
    "ddpm": {"diffusion_times": 5, "sampler": "ddpm"},
    "unipc": {"diffusion_times": 5},
    "heun": {"diffusion_times": 3, "sampler": "heun"},
    "dpm++": {"diffusion_times": 5, "sampler": "dpm++"},
    "euler": {"diffusion_times": 5, "sampler": "euler"},
    "adams_bashforth": {"diffusion_times": 5, "sampler": "adams_bashforth"},
    "list": {"diffusion_times": [1.0, 0.93, 0.5, 0.45, 0.1]},
    "rising list": {"diffusion_times": [0.9, 0.4, 0.6, 0.2], "sampler": "ddim"},
    "best:5": {"diffusion_times": "best:5"},
    "linear schedule": {"diffusion_times": 4, "schedule": "linear_beta"},
    "rectified flow": {"diffusion_times": [0.95, 0.6, 0.2], "schedule": "rectified_flow"},
    "clipped": {"diffusion_times": 4, "clip": "dynamic"},
    "one label": {"diffusion_times": 4, "labels": 3},
    "from noise": {"diffusion_times": 4, "initial_noise": True},
    "second half": {"diffusion_times": 4, "first": 2},
    "classifier-free": {"diffusion_times": 4, "guidance_scale": 2.0},
    "classifier-free, interval": {
        "diffusion_times": 5,
        "labels": [0, 1, 2, 3],
        "guidance": ("ClassifierFree", 3.0, (0.2, 0.8), 0.7),
    },
    "autoguidance": {"diffusion_times": 4, "guidance": ("Autoguidance", 2.0, (0.1, 0.9), 0.5)},
    "gradient": {"diffusion_times": 4, "guidance": ("LossGuidance",)},
    "edited": {"diffusion_times": (0.6, 0.4, 0.2), "initial_images": True, "labels": 1},
    "inpainting": {"diffusion_times": 4, "sampler": "ddpm", "known": "mask"},
    "super-resolution": {"diffusion_times": 4, "sampler": "ddpm", "known": "block_average"},
    "colourisation": {"diffusion_times": 4, "known": "grey"},
}


def style_of(package):
    """Turns an entry of `KINDS` into arguments of `generate` of either version."""
    is_new = hasattr(package.guidance, "ClassifierFree")

    def guided(options, guide):
        kind, *rest = options.pop("guidance")
        if is_new:
            if kind == "LossGuidance":
                return {"guidance": package.guidance.LossGuidance(darkness)}
            names = dict(zip(("scale", "interval", "rescale"), rest))
            model = {"model": guide} if kind == "Autoguidance" else {}
            return {"guidance": getattr(package.guidance, kind)(**model, **names)}
        if kind == "LossGuidance":
            return {"guidance_fn": darkness}
        names = "guidance_scale", "guidance_interval", "guidance_rescale"
        model = {"guide_model": guide} if kind == "Autoguidance" else {}
        return {**dict(zip(names, rest)), **model}

    def known(options, images):
        kind = options.pop("known")
        mask = np.zeros(images.shape[1:3])
        mask[:, : mask.shape[1] // 2] = 1
        if kind == "mask":
            arguments = {"known_images": images, "known_mask": mask}
        else:
            degradation = {
                "block_average": package.degradations.BlockAverage(4),
                "grey": package.degradations.Grey(),
            }[kind]
            small = np.asarray(degradation.degrade(images))
            arguments = {"known_images": small, "degradation": degradation}
        if not is_new:
            return arguments
        names = {"known_images": "images", "known_mask": "mask"}
        arguments = {names.get(name, name): value for name, value in arguments.items()}
        return {"known": package.degradations.Known(**arguments)}

    def arguments(options, guide, images):
        options = {"seed": 7, "verbose": 0, **options}
        if "guidance" in options:
            options |= guided(options, guide)
        if "known" in options:
            options |= known(options, images)
        if "initial_images" in options:
            options["initial_images"] = images
        if "initial_noise" in options:
            noise = np.random.default_rng(1).standard_normal(images.shape)
            options["initial_noise"] = noise.astype("float32")
        return options

    return arguments


def record_images(package, presets, compiled, keep):
    for path in sorted(presets.glob("*.keras")):
        model, guide = (package.DiffusionModel.from_preset(path) for _ in range(2))
        for each in (model, guide):
            each.run_eagerly, each.jit_compile = not compiled, False
        weights = guide.ema_network.get_weights()
        guide.ema_network.set_weights([0.97 * weight for weight in weights])
        for name, make in jobs_of(package, model, guide):
            keep(f"image/{path.stem}/{name}", make)


def jobs_of(package, model, guide):
    """Names and functions: images by each of `KINDS`, and what else is made of images."""
    arguments = style_of(package)
    size, _, channels = model.image_shape
    images = block_images(NUM_IMAGES, size, channels)
    for kind, options in KINDS.items():
        if kind != "colourisation" or channels == 3:
            options = arguments(options, guide, images)
            yield kind, functools.partial(model.generate, NUM_IMAGES, **options)

    def invert():
        return model.invert(images, [0.9, 0.6, 0.3], labels=2, verbose=0)

    def go_back():
        options = {"sampler": "ddim", "labels": 2, "initial_noise": invert(), "verbose": 0}
        return model.generate(NUM_IMAGES, [0.9, 0.6, 0.3], **options)

    def interpolate():
        ends = np.random.default_rng(2).standard_normal((2, *model.image_shape))
        noises = package.interpolate(*ends.astype("float32"), NUM_IMAGES)
        options = {"sampler": "ddim", "labels": 2, "seed": 0, "verbose": 0}
        return model.generate(NUM_IMAGES, 4, initial_noise=noises, **options)

    def follow():
        trajectory = model.generate(2, 3, seed=1, return_trajectory=True, verbose=0)
        return np.stack([trajectory.noisy_images, trajectory.pred_images])

    yield "inversion", invert
    yield "inversion and back", go_back
    yield "edit", lambda: model.edit(images, seed=3, verbose=0)
    yield "interpolation", interpolate
    yield "trajectory", follow


def record_traces(package, keep):
    """Losses of 20 seeded steps and weights after them, of the recipe's network and the default."""
    import keras

    images = block_images(8 * STEPS, 16, 3)
    labels = np.arange(len(images)) % 3

    def trace(name, model, *data):
        rows = []
        watch = keras.callbacks.LambdaCallback(
            on_train_batch_end=lambda batch, logs: rows.append(
                [logs[key] for key in ("loss", "n_loss", "i_loss")]
            )
        )
        options = {"batch_size": 8, "shuffle": False, "verbose": 0}
        model.fit(*data, callbacks=[watch], **options)
        weights = {
            "network": model.network.get_weights(),
            "average": model.ema_network.get_weights(),
        }
        keep(f"trace/{name}/losses", lambda: np.array(rows))
        for key, arrays in weights.items():
            flat = np.concatenate([array.ravel() for array in arrays])
            keep(f"trace/{name}/{key}", lambda flat=flat: flat)
        data = [part[:16] for part in data]
        keep(f"trace/{name}/evaluate", lambda: np.array(model.evaluate(*data, verbose=0)[:3]))

    def by_recipe():
        names = ["a", "b", "c"]
        model = package.recipe((16, 16, 3), STEPS, class_names=names, seed=0)
        rate = package.recipes.learning_rate_schedule(STEPS)
        adam = keras.optimizers.Adam(rate, beta_2=0.99, global_clipnorm=1.0)
        model.compile(adam, "mean_squared_error")
        return model, images, labels

    def default():
        network = package.ResidualUNet((16, 16, 3), (16, 32, 64), seed=0)
        model = package.DiffusionModel(network=network, seed=0)
        model.compile()
        return model, images

    for name, make in (("recipe", by_recipe), ("default", default)):
        try:
            model, *data = make()
            model.jit_compile = False
            trace(name, model, *data)
        except Exception:
            traceback.print_exc()


def record_files(keep):
    """What each saved model generates, and the loss of its next epoch."""
    import keras

    images = np.random.default_rng(0).random((32, 8, 8, 1))
    options = {"sampler": "ddim", "seed": 0, "verbose": 0}
    for path in sorted(FILES.glob("*/*.keras")):
        name = f"file/{path.parent.name.removeprefix('0.1.0-')}/{path.stem}"

        def go_on(path=path, name=name):
            model = keras.saving.load_model(path)
            model.run_eagerly = True
            keep(name, lambda: model.generate(2, [1.0, 0.7, 0.4, 0.1], **options))
            history = model.fit(images, batch_size=8, shuffle=False, verbose=0)
            return np.array(history.history["loss"])

        keep(f"{name}, next loss", go_on)


def record(path, package_path, presets, compiled):
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    sys.path.insert(0, package_path)
    import keras

    import keras_ddim as package

    print(f"{package.__file__}, Keras {keras.__version__}, {keras.backend.backend()}")
    keras.utils.set_random_seed(0)
    results = {}

    def keep(name, make):
        start = time.perf_counter()
        try:
            results[name] = np.asarray(make())
        except Exception as error:
            message = f"{type(error).__name__}: {' '.join(str(error).split())}"
            results[name] = np.array(message[:200])
            traceback.print_tb(error.__traceback__, limit=-3)
            print(f"{name}: {message[:200]}")
        print(f"{time.perf_counter() - start:6.1f} s  {name}", flush=True)

    record_images(package, pathlib.Path(presets or package.presets.__path__[0]), compiled, keep)
    record_traces(package, keep)
    record_files(keep)
    np.savez_compressed(path, **results)


def compare(before, after):
    """Prints a table of largest differences; returns the number of entries above their limit."""
    before, after = np.load(before), np.load(after)
    failures = 0
    print("| entry | largest difference | |\n| --- | ---: | --- |")
    for name in sorted({*before.files, *after.files}):
        one, two = (each[name] if name in each.files else None for each in (before, after))
        if one is None or two is None:
            difference, note = np.nan, "before only" if two is None else "after only"
        elif "U" in one.dtype.kind + two.dtype.kind:
            difference, note = np.nan, str(two if two.dtype.kind == "U" else one)
        elif one.shape != two.shape:
            difference, note = np.nan, f"shapes {one.shape}, {two.shape}"
        else:
            difference, note = float(np.abs(one - two).max()), ""
        is_within = difference <= LIMITS[name.split("/")[0]]
        failures += not is_within
        print(f"| {name} | {difference:.1e} | {note if is_within else f'**above** {note}'} |")
    return failures


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--package", default=".", help="folder of `keras_ddim` (%(default)s)")
    parser.add_argument("--presets", help="folder of the presets, if not the package's")
    parser.add_argument("--compiled", action="store_true", help="compile steps that generate")
    parser.add_argument("command", choices=["record", "compare"])
    parser.add_argument("files", nargs="+", help="one to record, two to compare")
    args = parser.parse_args()
    if args.command == "compare":
        return compare(*args.files)
    return record(*args.files, args.package, args.presets, args.compiled)


if __name__ == "__main__":
    sys.exit(main())
