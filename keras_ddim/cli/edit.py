"""Edits images: adds noise and removes it again.

The first sampling time decides how much is kept: nearly all at 0.2, colours and places at 0.6,
nothing at 1. White pixels of a mask are kept exactly; black ones are inpainted.

examples:
  keras-ddim edit model.keras photo.png
  keras-ddim edit model.keras photo1.png photo2.png --times 0.8,0.6,0.4,0.2 --seed 1
  keras-ddim edit model.keras photo.png --times 1,0.9,0.8,0.6,0.4,0.2 --sampler ddpm --mask mask.png
  keras-ddim edit fashion_mnist sneaker.png --label "ankle boot" --guidance-scale 2
"""

import argparse
import pathlib
import random
import sys

import numpy as np

from keras_ddim import plots
from keras_ddim.cli import options
from keras_ddim.data import read_image
from keras_ddim.degradations import Known


def add_options(parser: options.Parser) -> None:
    add = parser.add
    options.add_model(parser)
    add("images", ..., "files of images", metavar="IMAGE", nargs="+")
    add("--fit", "crop", "resize by centre crop or by padding", choices=("crop", "pad"))
    add("--mask", None, "image file: white pixels are kept, black ones are inpainted")
    add("--label", None, "class of the edited images, by name or number")
    add("--seed", None, "random seed (default: random, printed)", type=int)
    add("--output", "edited", "folder for the edited images, which keep their names")
    purpose = "sampling times (a larger first one changes more)"
    options.add_sampling(parser, (0.6, 0.4, 0.2), purpose)


def run(args: argparse.Namespace) -> None:
    model = options.load_model(args.model)
    folder = pathlib.Path(args.output)
    paths = [folder / f"{pathlib.Path(path).stem}.png" for path in args.images]
    if len({*paths}) < len(paths):
        raise ValueError("two images have the same name, so one result would replace the other")
    images = np.stack([read_image(path, model.image_shape, args.fit) for path in args.images])
    known = None
    if args.mask:
        mask = read_image(args.mask, (*model.image_shape[:2], 1), args.fit)[..., 0]
        known = Known(images, mask=np.round(mask))
    if args.label is None and args.guidance_scale is None:
        args.guidance_scale = 1.0  # without a label, there is nothing to be guided by
    args.seed = random.randrange(2**31) if args.seed is None else args.seed
    edited = model.edit(
        images,
        args.times,
        labels=args.label,
        known=known,
        seed=args.seed,
        verbose="auto" if sys.stdout.isatty() else 0,
        **options.generate_options(args, model),
    )
    how = options.sampling_text(args, model)
    for path, image in zip(paths, edited):
        plots.save_image(image, path)
        print(f"{path}: seed {args.seed}, {how}")
