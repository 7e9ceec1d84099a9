"""Generates images with a trained model and draws them in one picture.

With --separate, each image is written to its own file at once, for any number of images. After an
interruption, the same command continues.

examples:
  keras-ddim generate flowers
  keras-ddim generate model.keras --times 1,0.8,0.5,0.2 --num-images 64 --seed 1
  keras-ddim generate fashion_mnist --label sneaker --guidance-scale 2
  keras-ddim generate fashion_mnist --label sneaker bag coat --num-images 8
  keras-ddim generate model.keras --num-images 50000 --separate images
"""

import argparse
import json
import pathlib
import random
import sys
from typing import Any

from keras_ddim import DiffusionModel, plots
from keras_ddim.cli import options
from keras_ddim.files import write_text

NUM_ANIMATED = 16
OF_THE_PICTURE = "given", "output", "columns", "animation", "separate"


def add_options(parser: options.Parser) -> None:
    add = parser.add
    options.add_model(parser)
    add("--num-images", 16, "images per label", type=int)
    add("--label", None, "classes by name or number, a row each (default: random)", nargs="+")
    add("--seed", None, "random seed (default: random, printed)", type=int)
    add("--output", "generated.png", "file of the picture")
    add("--columns", None, "grid columns (default: as square as possible)", type=int)
    folder = "write each image to its own file in this folder instead (default: generated)"
    add("--separate", None, folder, metavar="FOLDER", nargs="?", const="generated")
    add("--animation", None, "also draw the denoising as a GIF", metavar="FILE")
    options.add_sampling(parser, 20, "sampling times")


def run(args: argparse.Namespace) -> None:
    model = options.load_model(args.model)
    labels = args.label or []
    num_images = args.num_images * max(1, len(labels))
    generate_options = {
        "diffusion_times": args.times,
        "labels": [label for label in labels for _ in range(args.num_images)] or None,
        "verbose": "auto" if sys.stdout.isatty() else 0,
        **options.generate_options(args, model),
    }
    path: Any = args.output
    if args.separate:
        path = write_separately(model, num_images, generate_options, args)
    else:
        args.seed = random.randrange(2**31) if args.seed is None else args.seed
        generate_options["return_trajectory"] = bool(args.animation)
        made = model.generate(num_images, seed=args.seed, **generate_options)
        images = made.images if args.animation else made
        rows = {"columns": args.num_images, "row_labels": labels}
        rows = rows if len(labels) > 1 else {"columns": args.columns}
        plots.plot_images(images, path=path, **rows)
    how = f"seed {args.seed}, {options.sampling_text(args, model)}"
    print(f"{path}: {num_images} images of {options.shape_text(model)}, {how}")
    if args.animation and not args.separate:
        noisy_images = model.denormalize(made.noisy_images[:, :NUM_ANIMATED])
        plots.animate(noisy_images, made.pred_images[:, :NUM_ANIMATED], args.animation)
        print(f"{args.animation}: the denoising of {noisy_images.shape[1]} of them")


def write_separately(
    model: DiffusionModel, num_images: int, how: dict[str, Any], args: argparse.Namespace
) -> pathlib.Path:
    """Writes the images that the folder lacks; returns the pattern of their paths."""
    folder = pathlib.Path(args.separate)
    path = folder / "settings.json"
    known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    if args.seed is None:
        args.seed = known.get("seed", random.randrange(2**31))
    settings = {name: value for name, value in vars(args).items() if name not in OF_THE_PICTURE}
    if len(args.label or ()) < 2:
        del settings["num_images"]  # there may be more of them later
    settings = json.loads(json.dumps(settings))
    if known != settings and (known or any(folder.glob("*.png"))):
        raise ValueError(f"{folder} holds images with other settings; choose another folder")
    write_text(path, json.dumps(settings, indent=1) + "\n")
    labels, size = how.pop("labels"), args.batch_size
    for first in range(0, num_images, size):
        numbers = range(first, min(first + size, num_images))
        paths = [folder / f"{number:05d}.png" for number in numbers]
        if not all(path.exists() for path in paths):
            how["labels"] = labels and labels[first : first + size]
            images = model.generate(len(paths), seed=args.seed, first=first, **how)
            for image, path in zip(images, paths):
                plots.save_image(image, path)
    return folder / "*.png"
