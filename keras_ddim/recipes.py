"""The recipe: network, schedule, loss and optimizer that make the best pictures in a given time.

An argument that is not as described raises a `ValueError`.
"""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import layers

from keras_ddim.checks import check_class_names, check_count, check_model, check_number
from keras_ddim.model import DiffusionModel
from keras_ddim.networks import ModulatedUNet
from keras_ddim.preconditioning import SpectralPreconditioning
from keras_ddim.schedules import CosineSchedule

LEARNING_RATE = 2e-3
# Of pictures by class: leads them out of what the classes have in common, and keeps their variety.
GUIDANCE_SCALE = 1.5


def recipe(
    image_shape: tuple[int, int, int],
    num_steps: int,
    *,
    widths: tuple[int, ...] = (16, 32, 64, 128),
    block_depth: int = 1,
    class_names: Sequence[str] | None = None,
    learning_rate: float = LEARNING_RATE,
    preconditioning: Any = None,
    seed: int | None = None,
    **kwargs: Any,
) -> DiffusionModel:
    """A compiled `DiffusionModel` by the recipe that won the comparison of many.

    It is what `keras-ddim train` trains: a `ModulatedUNet` that predicts velocities, a cosine
    schedule down to a noise rate of 0.1, the squared error, Adam with clipped gradients and the
    `learning_rate_schedule`, and an average of the weights over the last tenth of the run. With
    batches of 16 it makes far better pictures in the same time than `DiffusionModel(image_shape)`,
    which is the published example; start from that one where results are to compare with the
    example's.

    Args:
        image_shape: (height, width, channels) of the images.
        num_steps: Number of batches that it will be trained on, in all; from it follows when the
            learning rate falls.
        widths: Channels of the network's levels; twice as many want about ten times the training.
            Defaults to (16, 32, 64, 128).
        block_depth: Residual blocks of each level and direction. Defaults to 1.
        class_names: Names of the classes, for a model with labels. Defaults to None.
        learning_rate: The highest of the run. Defaults to 2e-3.
        preconditioning: As in `DiffusionModel`. Defaults to None.
        seed: Integer that makes initial weights, training and generation reproducible.
        **kwargs: Further arguments of `DiffusionModel`, which may replace those of the recipe.

    Example:

    ```python
    train_images, val_images = keras_ddim.load_images("photos", 32, batch_size=16, repetitions=100)
    epochs = 10
    model = keras_ddim.recipe((32, 32, 3), num_steps=epochs * len(train_images))
    model.fit(train_images, validation_data=val_images, epochs=epochs)
    ```
    """
    class_names = check_class_names(class_names)
    num_classes = None if class_names is None else len(class_names)
    if "network" not in kwargs:
        kwargs["network"] = ModulatedUNet(
            image_shape,
            widths,
            block_depth,
            num_classes,
            images_seen=1 if preconditioning is None else SpectralPreconditioning.images_seen,
            seed=seed,
            dtype=kwargs.get("dtype"),
        )
    arguments = {
        "class_names": class_names,
        "schedule": CosineSchedule(0.02, 0.995),
        "ema": 1.0,
        "prediction_type": "velocity",
        "preconditioning": preconditioning,
        **kwargs,
    }
    model = DiffusionModel(image_shape, seed=seed, **arguments)
    compile_for(model, num_steps, learning_rate)
    return model


def fine_tune(
    model: DiffusionModel,
    num_steps: int,
    *,
    class_names: Sequence[str] | None = None,
    learning_rate: float = LEARNING_RATE,
) -> DiffusionModel:
    """A compiled copy of a trained model, such as a preset, to be trained on other images.

    It begins with the averaged weights, and a new average. Where the classes differ, which only a
    `ModulatedUNet` allows, what was learnt of the old ones is left out: the new ones begin as
    images of no class in particular.

    Args:
        model: The trained model, which stays as it is.
        class_names: Names of the classes of the other images. Defaults to None: no labels.
        num_steps, learning_rate: As in `recipe`, of the copy.

    Example:

    ```python
    model = keras_ddim.DiffusionModel.from_preset("flowers")
    model = keras_ddim.recipes.fine_tune(model, num_steps=1000)
    model.fit(photos, batch_size=16, epochs=50)
    ```
    """
    check_model("model", model)
    old = model.ema_network
    class_names = check_class_names(class_names)
    if class_names == model.class_names:
        network = type(old).from_config(old.get_config())
        network.set_weights(old.get_weights())
    elif isinstance(old, ModulatedUNet):
        network = _with_classes(old, None if class_names is None else len(class_names))
    else:
        raise ValueError(
            "`class_names` must be those of the model, if its network is no `ModulatedUNet`. "
            f"Received: class_names={class_names}, for {model.class_names}"
        )
    # Without metadata: lists of times that were found for these weights are none for others.
    changed = {"network": network, "class_names": class_names, "metadata": None}
    copy = DiffusionModel(**{**model.get_config(), **changed})
    copy.normalizer.set_weights(model.normalizer.get_weights())
    if model.preconditioning is not None and copy.preconditioning is not None:
        copy.preconditioning.set_weights(model.preconditioning.get_weights())
    compile_for(copy, num_steps, learning_rate)
    return copy


def _with_classes(old: ModulatedUNet, num_classes: int | None) -> ModulatedUNet:
    """A network's copy, for another number of classes; each is what "any" was before."""
    new = type(old).from_config({**old.get_config(), "num_classes": num_classes})
    labels = [layer for layer in old.layers if isinstance(layer, layers.Embedding)]
    any_label = labels[0].get_weights()[0][-1:] if labels else None
    # In order, kind by kind: how many layers there are before one depends on whether there are
    # labels.
    kinds = {type(layer) for layer in old.layers if layer.weights}
    for kind in kinds - {layers.Embedding}:
        pairs = ([x for x in network.layers if type(x) is kind] for network in (old, new))
        for source, copy in zip(*pairs, strict=True):
            copy.set_weights(source.get_weights())
    for layer in new.layers:
        if isinstance(layer, layers.Embedding) and any_label is not None:
            layer.set_weights([np.repeat(any_label, layer.input_dim, axis=0)])
    return new


def compile_for(
    model: DiffusionModel, num_steps: int, learning_rate: float = LEARNING_RATE
) -> None:
    """Compiles a model with the recipe's loss and optimizer; other arguments as in `recipe`."""
    check_model("model", model)
    # Without weight decay, which decided nothing, and for which Keras computes the schedule anew
    # for each weight.
    optimizer = keras.optimizers.Adam(
        learning_rate_schedule(num_steps, learning_rate), beta_2=0.99, global_clipnorm=1.0
    )
    model.compile(optimizer, loss="mean_squared_error")


def learning_rate_schedule(
    num_steps: int, learning_rate: float = LEARNING_RATE
) -> keras.optimizers.schedules.CosineDecay:
    """Up from zero in the first twentieth of the steps, then down to zero along a cosine.

    A model that has done some of the `num_steps` goes on from there; to train it for longer than
    was planned, set `model.learning_rate` to the schedule of the longer run.

    Reference:
        [Loshchilov & Hutter, 2016](https://arxiv.org/abs/1608.03983)
    """
    num_steps = check_count("num_steps", num_steps)
    learning_rate = check_number("learning_rate", learning_rate, above=0)
    warm_up = num_steps // 20
    return keras.optimizers.schedules.CosineDecay(
        0.0 if warm_up else learning_rate,
        decay_steps=num_steps - warm_up,
        warmup_target=learning_rate if warm_up else None,
        warmup_steps=warm_up,
    )
