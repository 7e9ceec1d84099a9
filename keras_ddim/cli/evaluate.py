"""Evaluates the images of a trained model against held-out images.

Training images and noise are scored for reference. Writes table.md, results.json (with all settings
of the evaluation) and nearest.png (generated images above the most similar training images).

examples:
  keras-ddim evaluate keras-ddim-output
  keras-ddim evaluate model.keras --data photos/ --times 2 20 --num-images 5000
  keras-ddim evaluate fashion_mnist --label sneaker --guidance-scale 2
  keras-ddim evaluate model.keras --encoder inception_v3 --encoder-weights weights.h5
"""

import argparse
import pathlib
from typing import Any

from keras_ddim import encoders, evaluation, load_images
from keras_ddim.cli import options
from keras_ddim.files import write_whole
from keras_ddim.labels import check_labels

CLASSIFIER_STEPS = 1000
ENCODERS = "compare features of 'classifier' (small, trained on the labels of the data, kept in "
ENCODERS += "the output folder), of such a FILE.keras, or of 'inception_v3'"


def add_options(parser: options.Parser) -> None:
    add = parser.add
    options.add_model(parser)
    add("--num-images", 2000, "number of images to generate", type=int)
    add("--label", None, "class to generate and compare with, by name or number (default: all)")
    add("--seed", 0, "random seed", type=int)
    add("--encoder", "classifier", ENCODERS)
    add("--encoder-weights", "imagenet", "weights of inception_v3: a file, or imagenet to download")
    add("--encoder-size", 299, "image size for inception_v3; 75 is faster", type=int)
    add("--output", "evaluation", "folder for the results")
    options.add_data(parser)
    options.add_sampling(parser, [20], "sampling times, one table row each", nargs="+")


def run(args: argparse.Namespace) -> None:
    model = options.load_model(args.model)
    data_options = options.data_options(args, model)
    sampling: dict[str, Any] = {"num_images": args.num_images, "seed": args.seed}
    sampling.update(options.generate_options(args, model))
    if args.label is not None:
        sampling["labels"] = args.label
    for times in args.times:  # raises now, not after a classifier has been trained
        model.check_generate(diffusion_times=times, **sampling)
    folder = pathlib.Path(args.output)
    encoder = make_encoder(args, data_options)
    if args.label is None:
        images, real_images = load_images(**data_options)
    else:
        names: Any = model.class_names
        numbers: Any = check_labels(args.label, 1, names)
        both = load_images(**data_options, labels=True)
        images, real_images = (of_class(names[numbers[0]], data) for data in both)
    results, pictures = evaluation.evaluate(
        model, images, real_images, encoder, args.times, **sampling
    )
    results = {"model": args.model, "data_options": data_options, **results}
    evaluation.write(folder, results, pictures)
    print(f"\n{evaluation.table(results)}")
    print(*(folder / name for name in ("table.md", "results.json", "nearest.png")), sep="\n")


def of_class(name: str, data: Any) -> Any:
    """The images of one class."""
    if name not in (data.class_names or ()):
        raise ValueError(f"--label {name} is not a class of the data: {data.class_names}")
    number = data.class_names.index(name)
    of_class = data.unbatch().filter(lambda _, label: label == number)
    return of_class.map(lambda image, _: image).batch(64)


def make_encoder(args: argparse.Namespace, data_options: dict[str, Any]) -> Any:
    """The encoder for `--encoder`; a classifier is trained unless it is in the output folder."""
    if args.encoder == "inception_v3":
        return encoders.InceptionV3(args.encoder_size, args.encoder_weights)
    if args.encoder != "classifier":
        return encoders.load_classifier(args.encoder)
    path = pathlib.Path(args.output, "classifier.keras")
    # Not the whole path, since the file may be passed on.
    data = pathlib.Path(data_options["source"]).name
    image_shape = (*data_options["image_size"], data_options["channels"])
    if path.exists():
        encoder = encoders.load_classifier(path)
        if (encoder.data, encoder.image_shape) == (data, image_shape):
            print(f"features  {path}")
            return encoder
    try:
        images, val_images = load_images(**data_options, labels=True)
    except ValueError as error:
        hint = "`--encoder inception_v3` needs no labels" if "label" in str(error) else ""
        raise ValueError(f"the classifier cannot be trained: {error}. {hint}") from error
    path.parent.mkdir(parents=True, exist_ok=True)  # raises before training
    print(f"features  a small classifier, which is trained and kept as {path}")
    batches = images.from_batch(0).take(CLASSIFIER_STEPS)
    encoder = encoders.train_classifier(batches, val_images, len(images.class_names), seed=0)
    encoder.data = data
    with write_whole(path) as temporary_path:
        encoder.save(temporary_path)
    return encoder
