"""Generates images with a trained model and writes a picture of them.

With --separate, each image becomes a file of its own, as soon as it is made: any number of them.
Stopped, the same command goes on where it was.

examples:
  keras-ddim generate model.keras
  keras-ddim generate model.keras --times 1,0.8,0.5,0.2 --num-images 64 --seed 1
  keras-ddim generate fashion.keras --label sneaker --guidance-scale 2
  keras-ddim generate fashion.keras --label sneaker bag coat --num-images 8
  keras-ddim generate model.keras --num-images 50000 --separate images
"""

import argparse
import json
import pathlib
import random
import zlib
from typing import Any

from keras_ddim import DiffusionModel, interrupts, plots, presets
from keras_ddim.cli import options
from keras_ddim.cli.run_folder import load_model, shape_text
from keras_ddim.files import write_text

NUM_ANIMATED = 16
SETTINGS = "settings.json"  # of separate images


def add_options(parser: options.Parser) -> None:
    add = parser.add
    parser.add_sampling("diffusion times", 20)
    add("--num-images", 16, "how many, of each label", type=options.count)
    add("--label", None, "class, by name or number; of several, a row each", nargs="+")
    add("--seed", None, "of the noise (default: new images each time)", type=options.seed)
    add("--output", "generated.png", "file of the picture", type=options.picture)
    add("--columns", None, "of the picture (default: as square as possible)", type=options.count)
    separate = "folder for each image as a file of its own, instead (default: generated)"
    add("--separate", None, separate, type=options.folder, nargs="?", const="generated")
    add("--animation", None, "GIF of the denoising to write, as well", type=options.animation)


def run(line: options.CommandLine) -> None:
    args = line.over({})
    for name in {"output", "columns", "animation"} & {*line.given} if args.separate else ():
        raise ValueError(f"--separate draws no picture: leave out --{name}")
    model = load_model(args.model, compile=False)
    names = args.label or []
    num_images = args.num_images * max(1, len(names))
    labels = [name for name in names for _ in range(args.num_images)] or None
    times = plots.times_label(args.times).removesuffix(" times")
    how = options.generate_options(args, model)
    description = f"images of {shape_text(model.image_shape)}, times: {times}"
    if args.separate:
        done = write_separately(model, num_images, labels, how, args)
        there = f"; {done} of them were there already" if done else ""
        print(f"{num_images} {description}{there}\n  {pathlib.Path(args.separate) / '*.png'}")
        return
    generated = model.generate(
        num_images,
        args.times,
        labels=labels,
        # A loaded model's own seeds would be the same in each process.
        seed=random.randrange(2**31) if args.seed is None else args.seed,
        return_trajectory=bool(args.animation),
        **how,
    )
    images = generated.images if args.animation else generated
    if len(names) > 1:
        plots.plot_images(images, args.num_images, args.output, row_labels=names)
    else:
        plots.plot_images(images, args.columns, args.output)
    print(f"{num_images} {description}\n  {args.output}")
    if args.animation:
        noisy_images = model.denormalize(generated.noisy_images[:, :NUM_ANIMATED])
        plots.animate(noisy_images, generated.pred_images[:, :NUM_ANIMATED], args.animation)
        print(f"  {args.animation}")


def write_separately(
    model: DiffusionModel,
    num_images: int,
    labels: list[str] | None,
    how: dict[str, Any],
    args: argparse.Namespace,
) -> int:
    """Writes the images that are not yet in the folder; returns how many were, in front."""
    folder = pathlib.Path(args.separate)
    paths = [folder / f"{number:05d}.png" for number in range(num_images)]
    known = read_settings(folder / SETTINGS)
    seed = known.get("seed") if args.seed is None else args.seed
    settings = {
        "model": zlib.crc32(pathlib.Path(presets.path_of(args.model)).read_bytes()),
        "seed": random.randrange(2**31) if seed is None else seed,
        "times": args.times,
        "labels": args.label,
        "images_per_label": args.num_images if len(args.label or ()) > 1 else None,
        **how,
    }
    settings = json.loads(json.dumps(settings))
    if known != settings:
        if known or any(path.exists() for path in paths):
            raise ValueError(f"{folder} has images of other settings: name another one")
        write_text(folder / SETTINGS, json.dumps(settings, indent=2) + "\n")
    interrupts.explain = lambda: "Interrupted: the same command goes on from where it was."
    done = next((number for number, path in enumerate(paths) if not path.exists()), num_images)
    remaining = iter(paths[done:])
    for images in model.generate_batches(
        num_images,
        args.times,
        labels=labels,
        seed=settings["seed"],
        first=done,
        **how,
    ):
        for image, path in zip(images, remaining):
            plots.save_image(image, path)
    return done


def read_settings(path: pathlib.Path) -> dict[str, Any]:
    """The settings of the images of a folder; none where there are no images yet."""
    if not path.exists():
        return {}
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} does not hold the settings of its images: {error}") from error
