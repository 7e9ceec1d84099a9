"""Generates images like given ones: adds noise to them, and follows a list of times.

The first of the times decides how much is kept: at 0.2 nearly all, at 0.6 colours and places, at 1
nothing. With a mask, what it shows in white is kept, and the rest is inpainted.

examples:
  keras-ddim edit model.keras photo.png
  keras-ddim edit model.keras photo1.png photo2.png --times 0.8,0.6,0.4,0.2 --seed 1
  keras-ddim edit model.keras photo.png --times 1,0.9,0.8,0.6,0.4,0.2 --sampler ddpm --mask mask.png
  keras-ddim edit fashion.keras sneaker.png --label "ankle boot" --guidance-scale 2
"""

import pathlib
import random
from typing import Any

import numpy as np

from keras_ddim import plots
from keras_ddim.cli import options
from keras_ddim.cli.run_folder import load_model, shape_text

MODES = {1: "L", 3: "RGB", 4: "RGBA"}


def add_options(parser: options.Parser) -> None:
    add = parser.add
    parser.add_sampling("diffusion times", (0.6, 0.4, 0.2))
    images = "files of images, of the model's size"
    parser.add_argument("images", metavar="IMAGE", nargs="+", help=images)
    mask = "file of an image of that size, white where images stay as they are, black elsewhere"
    add("--mask", None, mask)
    add("--label", None, "class to turn them into, by name or number")
    add("--seed", None, "of the noise (default: new images each time)", type=options.seed)
    add("--output", "edited", "folder for the images, which keep their names", type=options.folder)


def run(line: options.CommandLine) -> None:
    args = line.over({})
    model = load_model(args.model, compile=False)
    folder = pathlib.Path(args.output)
    paths = [folder / f"{pathlib.Path(path).stem}.png" for path in args.images]
    if len({*paths}) < len(paths):
        raise ValueError("two of the images are of one name, and would be written to one file")
    images = np.stack([read_image(path, model.image_shape) for path in args.images])
    known = {}
    if args.mask:
        mask = read_image(args.mask, (*model.image_shape[:2], 1))
        known = {"known_images": images, "known_mask": read_mask(args.mask, mask)}
    if args.label is None and args.guidance_scale is None:
        args.guidance_scale = 1.0  # of no class in particular, there is nothing to be guided by
    edited = model.edit(
        images,
        args.times,
        labels=args.label,
        seed=random.randrange(2**31) if args.seed is None else args.seed,
        **known,
        **options.generate_options(args, model),
    )
    for path, image in zip(paths, edited):
        plots.save_image(image, path)
    print(f"{len(edited)} images, times: {plots.times_label(args.times)}")
    print(*(f"  {path}" for path in paths), sep="\n")


def read_image(path: str, image_shape: tuple[int, int, int]) -> Any:
    """The pixels of a file, integers of that shape; transparent ones lie on white."""
    import PIL.Image
    import PIL.ImageOps

    with PIL.Image.open(path) as file:
        image = PIL.ImageOps.exif_transpose(file).convert("RGBA")
    height, width, channels = image_shape
    if image.size != (width, height):
        size = f"{image.height}x{image.width} pixels, the model's are of {shape_text(image_shape)}"
        raise ValueError(f"{path} is of {size}")
    if channels < 4:
        white = PIL.Image.new("RGBA", image.size, "white")
        image = PIL.Image.alpha_composite(white, image)
    return np.asarray(image.convert(MODES[channels])).reshape(image_shape)


def read_mask(path: str, pixels: np.ndarray) -> np.ndarray:
    """1 where a mask is white, 0 where it is black."""
    if not np.isin(pixels, (0, 255)).all():
        raise ValueError(f"{path} must be black and white, with nothing between, to be a mask")
    return pixels // 255
