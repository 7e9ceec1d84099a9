"""The recipe: network, schedule, loss and optimizer for the best images in a given time."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import layers

from keras_ddim.checks import check_count, check_number, require
from keras_ddim.distillation import DistilledModel, Trajectories
from keras_ddim.labels import check_class_names
from keras_ddim.model import DiffusionModel
from keras_ddim.networks import ModulatedUNet
from keras_ddim.optimizers import Muon
from keras_ddim.preconditioning import SpectralPreconditioning
from keras_ddim.schedules import CosineSchedule

LEARNING_RATE = 2e-3
DISTILLATION_RATE = 1e-3
# For images by class: makes them typical of their class and keeps their variety.
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
    """A compiled `DiffusionModel` with settings chosen for image quality per training time.

    `keras-ddim train` trains this model: a `ModulatedUNet` that predicts velocities, a cosine
    schedule down to a noise rate of 0.1, the squared error, `Muon` with clipped gradients and the
    `learning_rate_schedule`, and an average of the weights over the last tenth of the training. At
    a batch size of 16 its images are far better than those of `DiffusionModel(image_shape)` after
    the same time. Start from the latter to compare with the published Keras example.

    Args:
        image_shape: (height, width, channels) of the images.
        num_steps: Number of batches of the whole training; it sets the learning rate's decay.
        widths: Channels of the network's levels; twice as many need about ten times the training.
            Defaults to (16, 32, 64, 128).
        block_depth: Residual blocks of each level and direction. Defaults to 1.
        class_names: Names of the classes, for a model with labels. Defaults to None.
        learning_rate: Peak of `learning_rate_schedule`. Defaults to 2e-3.
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
    if "network" not in kwargs:
        kwargs["network"] = ModulatedUNet(
            image_shape,
            widths,
            block_depth,
            num_classes=None if class_names is None else len(class_names),
            images_seen=1 if preconditioning is None else SpectralPreconditioning.images_seen,
            seed=seed,
            dtype=kwargs.get("dtype"),
        )
    kwargs = {
        "class_names": class_names,
        "preconditioning": preconditioning,
        "seed": seed,
        **kwargs,
    }
    ours = {"schedule": CosineSchedule(0.02, 0.995), "ema": 1.0, "prediction_type": "velocity"}
    model = DiffusionModel(image_shape, **{**ours, **kwargs})
    rate = learning_rate_schedule(num_steps, learning_rate)
    model.compile(Muon(rate, global_clipnorm=1.0), loss="mean_squared_error")
    return model


def fine_tune(
    model: DiffusionModel,
    num_steps: int,
    *,
    class_names: Sequence[str] | None = None,
    learning_rate: float = LEARNING_RATE,
) -> DiffusionModel:
    """A compiled copy of a trained model, such as a preset, to train on other images.

    It starts from the averaged weights, with a new average. If the classes differ, which takes a
    `ModulatedUNet`, the new ones start as unconditional images.

    Args:
        model: The trained model, which stays as it is.
        class_names: Names of the classes of the other images. Defaults to None: no labels.
        num_steps, learning_rate: As in `recipe`, for the copy.

    Example:

    ```python
    model = keras_ddim.DiffusionModel.from_preset("flowers")
    model = keras_ddim.recipes.fine_tune(model, num_steps=1000)
    model.fit(photos, batch_size=16, epochs=50)
    ```
    """
    old = _averaged(model)
    class_names = check_class_names(class_names)
    network = old
    if class_names != model.class_names:
        allowed = f"{model.class_names}, except for a `ModulatedUNet`"
        require(isinstance(old, ModulatedUNet), "class_names", allowed, class_names)
        network = _with_classes(old, len(class_names) if class_names else None)
    copy = _copy(model, type(model), network, class_names=class_names)
    _compile_copy(copy, num_steps, learning_rate)
    return copy


def distill(
    model: DiffusionModel,
    num_steps: int,
    *,
    guidance_scale: float = GUIDANCE_SCALE,
    next_level: bool = True,
    batch_size: int = 16,
    learning_rate: float = DISTILLATION_RATE,
    seed: int | None = 0,
) -> tuple[DistilledModel, Trajectories]:
    """A compiled student that generates in one to eight steps, and the data to train it on.

    The student starts as a copy of a trained model, the teacher. It is also conditioned on the next
    noise level, and learns steps between any two points of the teacher's trajectories. It learns
    guidance, too, so a step costs one evaluation. `generate` uses `DDIM` along any times, and
    refuses further guidance.

    Args:
        model: The teacher, whose network is a `ModulatedUNet`.
        num_steps: Number of batches of the whole training.
        guidance_scale: Scale of classifier-free guidance to learn; 1 for a model without labels.
            Defaults to 1.5.
        next_level: Whether to learn longer steps. If not, the student takes as many steps as the
            teacher, with any network and sampler. Defaults to True.
        batch_size: Number of pairs of points in a batch. Defaults to 16.
        learning_rate: Peak of `learning_rate_schedule`. Defaults to 1e-3.
        seed: Integer that makes the data reproducible. Defaults to 0.

    Returns:
        `(student, trajectories)`, a `DistilledModel` and its `Trajectories`.

    Example:

    ```python
    teacher = keras_ddim.DiffusionModel.from_preset("fashion_mnist")
    student, trajectories = keras_ddim.recipes.distill(teacher, num_steps=6000)
    save = keras_ddim.callbacks.SaveModel("fast.keras")
    student.fit(trajectories, epochs=6, steps_per_epoch=1000, callbacks=[save])
    images = student.generate(16, 2)
    ```

    To resume after three epochs:

    ```python
    student = keras.saving.load_model("fast.keras")
    rest = trajectories.from_batch(3000)
    student.fit(rest, initial_epoch=3, epochs=6, steps_per_epoch=1000, callbacks=[save])
    ```

    Reference:
        [Boffi et al., 2024, Flow Map Matching](https://arxiv.org/abs/2406.07507);
        [Kim et al., 2023, Consistency Trajectory Models](https://arxiv.org/abs/2310.02279);
        guidance: [Meng et al., 2022](https://arxiv.org/abs/2210.03142)
    """
    network = _averaged(model)
    check_count("num_steps", num_steps)
    require(model.normalizer.is_adapted, "model", "trained, to be distilled", model.name)
    trajectories = Trajectories(
        model,
        num_steps,
        guidance_scale=guidance_scale,
        next_level=next_level,
        batch_size=batch_size,
        seed=seed,
    )
    if next_level:
        allowed = "a model of a `ModulatedUNet`, or `next_level` False"
        require(isinstance(network, ModulatedUNet), "model", allowed, type(network))
        network = _with_next_level(network)
    metadata = {n: model.metadata[n] for n in ("settings",) if n in model.metadata}
    metadata["distilled_guidance_scale"] = guidance_scale
    # It learns no null class, which guidance would need.
    student = _copy(model, DistilledModel, network, label_dropout=0.0, metadata=metadata)
    _compile_copy(student, num_steps, learning_rate)
    return student, trajectories


def _averaged(model: DiffusionModel) -> keras.Model:
    """The averaged weights of a model in a network that can be trained."""
    require(isinstance(model, DiffusionModel), "model", "a `keras_ddim.DiffusionModel`", model)
    network = type(model.network).from_config(model.network.get_config())
    network.set_weights(model.ema_network.get_weights())
    return network


def _copy(
    model: DiffusionModel, kind: type[DiffusionModel], network: keras.Model, **changes: Any
) -> Any:
    """A copy of a model with another network."""
    config = {**model.get_config(), "network": keras.saving.serialize_keras_object(network)}
    # Without metadata: sampling times optimized for these weights do not suit others.
    copy = kind.from_config({**config, "metadata": None, **changes})
    for copied in (copy.network, copy.ema_network):
        copied.set_weights(network.get_weights())
    copy.normalizer.set_weights(model.normalizer.get_weights())
    if model.preconditioning is not None and copy.preconditioning is not None:
        copy.preconditioning.set_weights(model.preconditioning.get_weights())
    return copy


def _with_next_level(old: ModulatedUNet) -> ModulatedUNet:
    """A copy of a network, also conditioned on the next level, at first without effect."""
    new = type(old).from_config({**old.get_config(), "next_level": True})
    for layer in old.layers:
        if layer.weights:
            new.get_layer(layer.name).set_weights(layer.get_weights())
    return new


def _with_classes(old: ModulatedUNet, num_classes: int | None) -> ModulatedUNet:
    """A copy of a network for other classes, each of which starts as the old null class."""
    new = type(old).from_config({**old.get_config(), "num_classes": num_classes})
    # In order, kind by kind: the labels' layers shift the positions of the others.
    for kind in {type(layer) for layer in old.layers if layer.weights}:
        pairs = ([x for x in network.layers if type(x) is kind] for network in (old, new))
        for source, copy in zip(*pairs):
            weights = source.get_weights()
            if kind is layers.Embedding:  # of the labels; the last one is the null class
                weights = [np.repeat(weights[0][-1:], copy.input_dim, axis=0)]
            copy.set_weights(weights)
    return new


def _compile_copy(
    model: DiffusionModel, num_steps: int, learning_rate: float = LEARNING_RATE
) -> None:
    """Compiles a copy of a trained model: as in `recipe`, but with Adam for trained weights."""
    # Without weight decay, which is slow: Keras computes the schedule anew for each weight.
    optimizer = keras.optimizers.Adam(
        learning_rate_schedule(num_steps, learning_rate), beta_2=0.99, global_clipnorm=1.0
    )
    model.compile(optimizer, loss="mean_squared_error")


def learning_rate_schedule(
    num_steps: int, learning_rate: float = LEARNING_RATE
) -> keras.optimizers.schedules.CosineDecay:
    """Linear warm-up in the first 5 % of the steps, then a cosine decay to zero.

    A saved model goes on where it was. To train it for longer than planned, set
    `model.optimizer.learning_rate` to the schedule of the longer training.

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
