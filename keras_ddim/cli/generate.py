"""Generates images with a trained model and writes a picture of them.

examples:
  keras-ddim generate model.keras
  keras-ddim generate model.keras --times 1,0.8,0.5,0.2 --num-images 64 --seed 1
  keras-ddim generate fashion.keras --label sneaker --guidance-scale 2
  keras-ddim generate fashion.keras --label sneaker bag coat --num-images 8
"""

import pathlib
import random

from keras_ddim import plots
from keras_ddim.cli import options
from keras_ddim.cli.run_folder import load_model, shape_text

NUM_ANIMATED = 16


def add_options(parser: options.Parser) -> None:
    add = parser.add
    parser.add_sampling("diffusion times", 20)
    add("--num-images", 16, "how many, of each label", type=options.count)
    add("--label", None, "class, by name or number; of several, a row each", nargs="+")
    add("--seed", None, "for the same images each time, instead of new ones", type=options.seed)
    add("--output", "generated.png", "file of the picture", type=options.picture)
    add("--columns", None, "of the picture, if not a square", type=options.count)
    add("--separate", None, "folder for each image as a file of its own, too", type=options.folder)
    add(
        "--animation",
        None,
        "file of a GIF of the way from noise to images, too",
        type=options.animation,
    )


def run(line: options.CommandLine) -> None:
    args = line.over({})
    model = load_model(args.model, compile=False)
    names = args.label or []
    generated = model.generate(
        args.num_images * max(1, len(names)),
        args.times,
        labels=[name for name in names for _ in range(args.num_images)] or None,
        # A loaded model's own seeds would be the same in each process.
        seed=random.randrange(2**31) if args.seed is None else args.seed,
        return_trajectory=bool(args.animation),
        **options.generate_options(args, model),
    )
    images = generated.images if args.animation else generated
    if len(names) > 1:
        plots.plot_images(images, args.num_images, args.output, row_labels=names)
    else:
        plots.plot_images(images, args.columns, args.output)
    size, times = (
        shape_text(model.image_shape),
        plots.times_label(args.times).removesuffix(" times"),
    )
    print(f"{len(images)} images of {size}, times: {times}\n  {args.output}")
    if args.separate:
        folder = pathlib.Path(args.separate)
        for index, image in enumerate(images):
            plots.save_image(image, folder / f"{index:05d}.png")
        print(f"  {folder / '*.png'}")
    if args.animation:
        noisy_images = model.denormalize(generated.noisy_images[:, :NUM_ANIMATED])
        plots.animate(noisy_images, generated.pred_images[:, :NUM_ANIMATED], args.animation)
        print(f"  {args.animation}")
