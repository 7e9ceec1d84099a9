"""What Keras calls to train on images: they are checked, and the normalizer adapted, first."""

import itertools
import math
import types
import warnings
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras.optimizers.schedules import LearningRateSchedule

from keras_ddim import checks
from keras_ddim.files import check_path
from keras_ddim.guard import (
    StopWhereLossIsNotFinite,
    check_loss,
    guarded_step,
    logs_for_workers,
)
from keras_ddim.parts import without_unused

# Mean and variance of the pixels are known long before this; it bounds the delay of the first fit.
IMAGES_TO_ADAPT = 100_000
BATCHES_TO_ADAPT_FROM_GENERATOR = 16
BATCHES_TO_ADAPT_FROM_ENDLESS = 1000


class ImageTrainer(keras.Model):
    """A Keras model that is trained on images, with an `image_shape` and a `normalizer`.

    With `class_names`, it is trained on images and their labels.

    Attributes:
        learning_rate: The optimizer's, a number or a schedule, which may be set at any time,
            whichever of the two it was. (Keras's own, `model.optimizer.learning_rate`, cannot be
            set to a number where it is a schedule.)
    """

    class_names: list[str] | None
    compiled_steps: Any

    @property
    def trainable(self) -> bool:
        return keras.Model.trainable.fget(self)

    @trainable.setter
    def trainable(self, value: bool) -> None:
        keras.Model.trainable.fset(self, value)
        if hasattr(self, "ema_network"):
            self.ema_network.trainable = False

    def compile(
        self, optimizer: Any = None, loss: Any = "mean_absolute_error", **kwargs: Any
    ) -> None:
        """Configures training; the arguments are those of `keras.Model.compile`.

        Args:
            optimizer: Defaults to `keras.optimizers.AdamW(1e-3, weight_decay=1e-4)`.
            loss: Loss between noises (or what else the network predicts) and their prediction.
                Defaults to "mean_absolute_error".
            **kwargs: As in `keras.Model.compile`.

        Raises:
            ValueError: If `loss` is None.
        """
        check_trainable(self.network)
        if optimizer is None:
            optimizer = keras.optimizers.AdamW(learning_rate=1e-3, weight_decay=1e-4)
        self.loss_function = check_part("loss", loss, keras.losses.get)
        optimizer = check_part("optimizer", optimizer, keras.optimizers.get)
        if kwargs.get("auto_scale_loss", True) and any(
            layer.compute_dtype == "float16" for layer in self.network._flatten_layers()
        ):  # Keras looks at the policy of the model alone
            is_scaled = isinstance(optimizer, keras.optimizers.LossScaleOptimizer)
            optimizer = optimizer if is_scaled else keras.optimizers.LossScaleOptimizer(optimizer)
        super().compile(optimizer, loss, **kwargs)
        self._jit_compile_given = kwargs.get("jit_compile", "auto")

    @property
    def learning_rate(self) -> Any:
        return self.optimizer.learning_rate

    @learning_rate.setter
    def learning_rate(self, learning_rate: Any) -> None:
        optimizer: Any = getattr(self.optimizer, "inner_optimizer", self.optimizer)
        is_schedule = isinstance(learning_rate, LearningRateSchedule)
        if not is_schedule:
            learning_rate = checks.check_number("learning_rate", learning_rate, 0, math.inf)
        if not is_schedule and isinstance(optimizer._learning_rate, LearningRateSchedule):
            # Keras replaces a schedule by another alone.
            learning_rate = keras.optimizers.schedules.ExponentialDecay(learning_rate, 1, 1.0)
        optimizer.learning_rate = learning_rate
        self.train_function = None  # was traced with the one before

    def get_compile_config(self) -> dict:
        config = super().get_compile_config()
        if config:
            # Not what "auto" came to mean on this machine: the file may be used on another.
            config["jit_compile"] = self._jit_compile_given
        return without_unused(config)

    def compile_from_config(self, config: dict) -> None:
        # Keras leaves this to classes with a `compile` of their own.
        self.compile(**keras.saving.deserialize_keras_object(config))
        self.optimizer.build(self.trainable_variables)

    def train_step(self, *args: Any) -> Any:
        """Keras's: `call`, `compute_loss`, gradients, update; then the average. Or nothing.

        Args:
            *args: `data`, a batch as `fit` takes it; on JAX `state` and `data`.

        Returns:
            The logs; on JAX, the logs and the next state.
        """
        return logs_for_workers(guarded_step(self, super().train_step, *self._labelled(*args)))

    def test_step(self, *args: Any) -> Any:
        """Keras's: `call` and `compute_loss`; arguments and results are those of `train_step`."""
        return logs_for_workers(super().test_step(*self._labelled(*args)))

    def _labelled(self, *args: Any) -> tuple:
        """The arguments of a step; labels, which Keras holds for targets, join the images."""
        *state, data = args
        if self.class_names:
            x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
            data = (x, y), y, sample_weight
        return *state, data

    def fit(self, x: Any = None, y: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Trains on images; the arguments are those of `keras.Model.fit`.

        Args:
            x: Images, (batch, height, width, channels): floats in [0, 1] or integers in 0..255,
                as an array, a `tf.data.Dataset`, a `keras.utils.PyDataset` or a generator of
                batches; or (images, labels) pairs of them.
            y: Labels (batch,), numbers of classes, of images in an array. Labels, here or there,
                are ignored if the network takes none, and needed if it does.
            *args: As in `keras.Model.fit`.
            **kwargs: As in `keras.Model.fit`.

        Returns:
            The `keras.callbacks.History`, with `loss`, `n_loss` and `i_loss`.

        Raises:
            ValueError: If the images are not of `image_shape`, or out of range, or not finite; if
                labels are out of range, or missing for a network that takes them; or if the loss,
                or a weight after the step, is not finite. The model is then as it was before that
                step.
        """
        x = self._prepare(x, y, kwargs.get("steps_per_epoch"), kwargs.get("verbose", "auto"))
        y = self._targets(x, y, **kwargs)
        validation_data = kwargs.get("validation_data")
        if validation_data is not None:
            checks.check_images("validation_data", validation_data, self.image_shape)
            if self.class_names:
                checks.check_labelled("validation_data", validation_data)
        if hasattr(x, "element_spec") or isinstance(x, types.GeneratorType):
            # Keras warns of its own default where it can't shuffle.
            kwargs.setdefault("shuffle", False)
        kwargs["callbacks"] = _guarded(kwargs.get("callbacks"))
        return super().fit(x, y, *args, **kwargs)

    def evaluate(self, x: Any = None, y: Any = None, *args: Any, **kwargs: Any) -> Any:
        """`loss`, `n_loss` and `i_loss` of the averaged network on images.

        Args:
            x: Images, as in `fit`.
            y: Labels, as in `fit`.
            *args: As in `keras.Model.evaluate`.
            **kwargs: As in `keras.Model.evaluate`.

        Returns:
            A list of the losses; or a dictionary of them, with `return_dict=True`.

        Raises:
            ValueError: As `fit`.
        """
        x = self._prepare(x, y, kwargs.get("steps"), kwargs.get("verbose", "auto"))
        y = self._targets(x, y, **kwargs)
        if "_use_cached_eval_dataset" not in kwargs:  # else as part of `fit`, which is guarded
            kwargs["callbacks"] = _guarded(kwargs.get("callbacks"))
        return super().evaluate(x, y, *args, **kwargs)

    def train_on_batch(self, x: Any, y: Any = None, *args: Any, **kwargs: Any) -> Any:
        """One training step on a batch of images; see `keras.Model.train_on_batch`."""
        return self._on_batch(super().train_on_batch, x, y, *args, **kwargs)

    def test_on_batch(self, x: Any, y: Any = None, *args: Any, **kwargs: Any) -> Any:
        """The losses on a batch of images; see `keras.Model.test_on_batch`."""
        return self._on_batch(super().test_on_batch, x, y, *args, **kwargs)

    def _on_batch(self, step: Callable, x: Any, y: Any, *args: Any, **kwargs: Any) -> Any:
        if not hasattr(x, "shape"):  # else its values are checked below, once
            checks.check_array("x", x)
        x = self._prepare(x, y, verbose=0)
        logs = step(x, self._targets(x, y, *args, **kwargs), *args, **kwargs)
        check_loss(self, self._loss_tracker.result())
        return logs

    def predict(self, *args: Any, **kwargs: Any) -> None:
        """Raises: there is nothing to predict of images. See `generate`."""
        raise ValueError(
            "`predict` has no meaning for a diffusion model; to make images, call "
            "`model.generate(num_images)`."
        )

    def save(self, filepath: Any, *args: Any, **kwargs: Any) -> None:
        """Saves the model in one file, ending in ".keras"; see `keras.Model.save`."""
        if str(filepath).lower().endswith((".h5", ".hdf5")):
            raise ValueError(
                "`filepath` must end in .keras; from .h5, the model could not be loaded. "
                f"Received: filepath={checks.brief(filepath)}"
            )
        if quantized_layers(self):
            raise ValueError(
                "`save` must come before `quantize`: what is quantized, files do not say. "
                f"Received: {self.name} with quantized layers"
            )
        check_path(filepath, "filepath")
        super().save(filepath, *args, **kwargs)

    def export(self, filepath: Any, *args: Any, **kwargs: Any) -> None:
        """Raises: what training calls is nothing to serve. `ema_network` can be exported."""
        raise ValueError(
            "`export` has no meaning for a diffusion model; export its network by "
            f"`model.ema_network.export(...)`. Received: filepath={checks.brief(filepath)}"
        )

    def quantize(self, *args: Any, **kwargs: Any) -> None:
        """Quantizes weights, to generate with; see `keras.Model.quantize`."""
        super().quantize(*args, **kwargs)
        self.compiled_steps.clear()

    def adapt(self, x: Any, steps: int | None = None) -> None:
        """Sets the normalizer, and the preconditioning if any, to what the images are like.

        Args:
            x: Images in any form that `fit` takes.
            steps: Number of batches to look at. Defaults to None: as many as hold 100,000 images,
                and of an endless dataset 1,000 at most.

        Raises:
            ValueError: If the images are not of `image_shape`, or out of range, or not finite.
        """
        checks.check_images("x", x, self.image_shape)
        if steps is not None:
            steps = checks.check_count("steps", steps)
        elif checks.is_endless(x):
            steps = BATCHES_TO_ADAPT_FROM_ENDLESS
        if isinstance(x, types.GeneratorType) and self.preconditioning is not None:
            x = list(itertools.islice(x, steps))  # is looked at twice
        self._adapt(x, steps)

    def _adapt(self, x: Any, steps: int | None = None) -> None:
        def first_batches() -> Any:
            count = 0
            for batch in itertools.islice(checks.batches(x), steps):
                images = checks.images_of(batch)
                yield checks.check_image_batch("x", images, self.image_shape)
                count += len(images)
                if count >= IMAGES_TO_ADAPT:
                    return

        try:
            self.normalizer.adapt(first_batches())
            if self.preconditioning is not None:
                self.preconditioning.adapt(map(self.normalizer, first_batches()))
        except ValueError as error:
            raise ValueError(str(error).replace("`batches`", "`x`")) from None

    def _prepare(self, x: Any, y: Any, steps: int | None = None, verbose: Any = "auto") -> Any:
        """Checks `x` and `y`, adapts the normalizer if nobody has, and returns `x` for use."""
        if x is None:
            raise ValueError("`x` must be images, such as an array. Received: x=None")
        check_trainable(self.network, self.ema_network)
        checks.check_images("x", x, self.image_shape)
        if hasattr(x, "shape"):
            # An array can be checked before the first step; what is not, while it is read.
            for batch in checks.batches(x):
                checks.check_image_batch("x", batch, self.image_shape)
        if self.class_names and hasattr(x, "shape") and y is not None:
            checks.check_label_batch("y", y, len(x), self.class_names)
        elif self.class_names and not isinstance(x, types.GeneratorType):
            checks.check_labelled("x", x)
        if not self.normalizer.is_adapted:
            if isinstance(x, types.GeneratorType):
                # It gives each batch only once: look at the first few, then hand them back.
                images = list(itertools.islice(x, BATCHES_TO_ADAPT_FROM_GENERATOR))
                x = itertools.chain(images, x)
                self._adapt(images)
            else:
                self.adapt(x, steps)
            if verbose != 0:
                count = int(self.normalizer.num_images.numpy())
                print(f"Adapted the normalizer to the mean and variance of {count} images.")
        if isinstance(x, (types.GeneratorType, itertools.chain)):
            # Keras takes only generators, and those only of tuples.
            x = (self._checked(batch if isinstance(batch, tuple) else (batch,)) for batch in x)
        return x

    def _targets(
        self, x: Any, y: Any, sample_weight: Any = None, class_weight: Any = None, **kwargs: Any
    ) -> Any:
        """What Keras is to hold for the targets of arrays: labels, or something in their place.

        Where there are none, it would drop the weights of images.
        """
        if self.class_names or not hasattr(x, "shape"):
            return y
        if class_weight is not None:
            raise ValueError(
                "`class_weight` must be None for a model whose network takes no labels. "
                f"Received: class_weight={checks.brief(class_weight)}"
            )
        return None if sample_weight is None else np.zeros(len(x), "float32")

    def _checked(self, batch: tuple) -> tuple:
        """A generator's batch, which may turn out to lack labels."""
        if self.class_names:
            checks.check_labelled("x", batch)
        return batch


def check_part(name: str, identifier: Any, get: Callable) -> Any:
    """The loss or optimizer that Keras knows by `identifier`, or a function."""
    try:
        part = get(identifier)
    except (TypeError, ValueError):
        part = None
    if part is None:
        raise ValueError(
            f"`{name}` must be a single {name} of Keras or its name, or a function. "
            f"Received: {name}={checks.brief(identifier)}"
        )
    is_function = isinstance(part, types.FunctionType) and not part.__module__.startswith("keras.")
    if is_function and keras.saving.get_registered_name(part) == part.__name__:
        warnings.warn(
            f"`{name}` is a function that saved models do not load with; register it by "
            "`keras.saving.register_keras_serializable`. "
            f"Received: {name}={checks.brief(identifier)}",
            stacklevel=3,
        )
    return part


def quantized_layers(network: keras.Model) -> list:
    return [x for x in network._flatten_layers() if getattr(x, "quantization_mode", None)]


def check_trainable(network: keras.Model, ema_network: keras.Model | None = None) -> None:
    """Raises unless `network` can be trained, and its weights averaged in `ema_network`."""
    halves = [layer.name for layer in network._flatten_layers() if layer.dtype == "float16"]
    if halves:
        raise ValueError(
            "`network` must have weights of more digits than float16 to be trained, such as by "
            f'`dtype="mixed_float16"`. Received: network with {checks.brief(halves)} in float16'
        )
    if ema_network is None:
        return
    quantized = quantized_layers(network)
    shapes = [[tuple(weight.shape) for weight in n.weights] for n in (network, ema_network)]
    if quantized or shapes[0] != shapes[1]:
        raise ValueError(
            "`network` must have the weights that the averaged one has, neither quantized nor with "
            f"LoRA, to be trained. Received: network with {len(shapes[0])} weights, for "
            f"{len(shapes[1])}, of {len(quantized)} quantized layers"
        )


def _guarded(callbacks: Any) -> Any:
    """Callbacks, behind the one that stops where the loss is not finite."""
    guard = StopWhereLossIsNotFinite()
    if isinstance(callbacks, keras.callbacks.CallbackList):
        callbacks.callbacks.insert(0, guard)
        guard.set_model(callbacks._model)
        return callbacks
    callbacks = [] if callbacks is None else callbacks
    return [guard, *(callbacks if isinstance(callbacks, (list, tuple)) else [callbacks])]
