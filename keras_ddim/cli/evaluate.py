"""Measures how good the images of a trained model are.

Compares generated images with real ones that were kept from training, and for scale, images of
training and noise. Leaves table.md, results.json (the same, and all that is needed to repeat it)
and nearest.png (generated images above those of training that come nearest) in a folder. A model
trained by `train` knows its data; of others, give --data.

examples:
  keras-ddim evaluate keras-ddim-output
  keras-ddim evaluate model.keras --data photos/ --times 2 20 --num-images 5000
  keras-ddim evaluate fashion.keras --label sneaker --guidance-scale 2
  keras-ddim evaluate model.keras --encoder inception_v3 --encoder-weights weights.h5
"""

import argparse
import pathlib
from typing import Any

from keras_ddim import checks, encoders, evaluation, load_images
from keras_ddim.cli import options, run_folder
from keras_ddim.guidance import check_guidance

CLASSIFIER_STEPS = 1000
ENCODERS = (
    "whose features are compared: 'classifier', a small one, trained on the labels of the data and "
    "kept as classifier.keras in the output folder; such a FILE.keras; or 'inception_v3'"
)


def add_options(parser: options.Parser) -> None:
    add = parser.add
    parser.add_data("to compare with, if not as in training", default=None)
    parser.add_sampling("a row each", (20,), nargs="+")
    fewest = options.whole(evaluation.FEWEST_IMAGES)
    add("--num-images", 2000, "how many to generate", type=fewest)
    add("--label", None, "class to generate and to compare with, by name or number, if not all")
    add("--seed", 0, "of the noise", type=options.seed)
    add("--encoder", "classifier", ENCODERS, type=options.encoder)
    weights = "file for inception_v3; imagenet is downloaded"
    add("--encoder-weights", "imagenet", weights, type=options.weights)
    size = "of images for inception_v3; 75 is faster"
    add("--encoder-size", 299, size, type=options.whole(75))
    add("--output", "evaluation", "output folder", type=options.folder)


def run(line: options.CommandLine) -> None:
    args = line.over({})
    model = run_folder.load_model(args.model, compile=False)
    args, data_options = options.data_of(model, line)
    if args.data is None:
        raise ValueError(f"{args.model} does not say what it was trained on; give its --data")
    how = options.generate_options(args, model)
    check_sampling(model, args, how)
    sampling = {"num_images": args.num_images, "seed": args.seed, **how}
    encoder = make_encoder(args, data_options)
    if args.label is None:
        images, real_images = load_images(args.data, **data_options)
    else:
        names: Any = model.class_names
        numbers: Any = checks.check_labels(args.label, 1, names)
        name, sampling["labels"] = names[numbers[0]], args.label
        both = load_images(args.data, **data_options, labels=True)
        images, real_images = (of_class(name, data, args.data) for data in both)
    results, pictures = evaluation.evaluate(
        model, images, real_images, encoder, args.times, **sampling
    )
    results = {"model": args.model, "data": args.data, "data_options": data_options, **results}
    evaluation.write(args.output, results, pictures)
    print(f"\n{evaluation.table(results)}")
    for name in ("table.md", "results.json", "nearest.png"):
        print(f"  {pathlib.Path(args.output) / name}")


def check_sampling(model: Any, args: argparse.Namespace, how: dict[str, Any]) -> None:
    """Raises where the model cannot sample so: now, not after a classifier has been trained."""
    scale = how.get("guidance_scale", 1.0)
    guidance = check_guidance(scale, how.get("guidance_interval", (0, 1)))
    # A model that takes labels generates images of classes at random.
    label = 0 if args.label is None and model.class_names else args.label
    for times in args.times:
        model.plan(1, times, args.sampler, args.schedule, False, label, guidance)


def of_class(name: str, data: Any, source: str) -> Any:
    """The images of one class."""
    if name not in (data.class_names or ()):
        raise ValueError(f"--label {name} is no class of {source}: {data.class_names}")
    number = data.class_names.index(name)
    of_class = data.unbatch().filter(lambda _, label: label == number)
    return of_class.map(lambda image, _: image).batch(64)


def make_encoder(args: argparse.Namespace, data_options: dict[str, Any]) -> Any:
    """The encoder that `--encoder` names, trained if need be."""
    if args.encoder == "inception_v3":
        return encoders.InceptionV3(args.encoder_size, args.encoder_weights)
    is_own = args.encoder == "classifier"
    path = pathlib.Path(args.output, "classifier.keras") if is_own else pathlib.Path(args.encoder)
    if is_own and not path.exists():
        return train_classifier(args.data, data_options, path)
    encoder = encoders.load_classifier(path)
    image_shape = *data_options["image_size"], data_options["channels"]
    wanted = run_folder.data_name(args.data), image_shape
    if is_own and (encoder.data, encoder.image_shape) != wanted:
        return train_classifier(args.data, data_options, path)
    print(f"Comparing by the features of {path}")
    return encoder


def train_classifier(name: str, data_options: dict[str, Any], path: pathlib.Path) -> Any:
    # Loaded for itself: how often it is read must not change how the others are shuffled.
    try:
        images, val_images = load_images(name, **data_options, labels=True)
    except ValueError as error:
        hint = "; or choose --encoder inception_v3, which needs no labels" * ("label" in str(error))
        raise ValueError(f"--encoder classifier: {error}{hint}") from error
    print(f"Training a small classifier, to compare by its features; it is kept as {path}")
    batches, num_classes = images.from_batch(0).take(CLASSIFIER_STEPS), len(images.class_names)
    classifier = encoders.train_classifier(batches, val_images, num_classes, seed=0)
    classifier.data = run_folder.data_name(name)
    classifier.save(path)
    return classifier
