"""DiffusionModel: trains a network to separate noisy images, and generates by doing so stepwise."""

import json
import math
import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import keras
from keras import ops

from keras_ddim import checks, presets, sampling, schedules
from keras_ddim import conditioning as conditionings
from keras_ddim import preconditioning as preconditionings
from keras_ddim.denoisers import predict
from keras_ddim.editing import Editor
from keras_ddim.guard import ReplicaSeedGenerator, image_range, label_range, range_of
from keras_ddim.networks import ResidualUNet
from keras_ddim.noise_levels import (
    PREDICTION_TYPES,
    WEIGHTINGS,
    loss_weights,
    mix,
    rates,
    separate,
    target,
)
from keras_ddim.normalizer import Normalizer
from keras_ddim.parts import PACKAGE
from keras_ddim.preconditioning import SpectralPreconditioning
from keras_ddim.trainer import ImageTrainer


class Prediction(NamedTuple):
    """What a `DiffusionModel` makes of a batch of images when it is called.

    Attributes:
        noisy_images: The normalised images mixed with noise, (batch, height, width, channels).
        log_snr: Their noise level, (batch, 1, 1, 1).
        target: What the network should predict of them, as `noisy_images`.
        prediction: What it does.
        ranges: Lowest and highest of the pixel values received, scalars, NaN if any of them is,
            and the value that stands for 1; and of the labels, if there are any.
    """

    noisy_images: Any
    log_snr: Any
    target: Any
    prediction: Any
    ranges: list[tuple[Any, Any, Any]]


@keras.saving.register_keras_serializable(PACKAGE)
class DiffusionModel(Editor, ImageTrainer):
    """A diffusion model: `noisy_images = signal_rates * images + noise_rates * noises`, undone.

    Training mixes images with noise at random diffusion times and teaches `network` to predict
    the noise, conditioned on the noise level (`noise_variances`), not the time. That is why
    `generate` accepts any list of diffusion times, whatever the model was trained with.

    Called on images, or on (images, labels), it mixes them with noise and predicts (a
    `Prediction`), with `network` when training and with `ema_network` otherwise.

    Args:
        image_shape: (height, width, channels) of the images; may be left out if `network` is
            given.
        network: A `keras.Model` taking `[noisy_images, noise_variances]` to the predicted noise,
            or `[noisy_images, noise_variances, labels]`, where a label is the number of a class or
            their count, for "any".
            Defaults to `keras_ddim.ResidualUNet(image_shape)`, which every version of Keras that
            this package allows loads from what any other has saved. Of other networks Keras
            describes the layers in its own way, which older versions may refuse: saved models
            that have one load with the Keras that saved them or a newer one.
        schedule: Noise level of each diffusion time: a `keras_ddim.schedules.Schedule` or a name.
            Defaults to `keras_ddim.CosineSchedule()`.
        ema: Largest decay of the moving average of the weights, in [0, 1]. The decay grows with
            the optimizer's steps, `min(ema, (1 + step) / (10 + step))`, so that the average forgets
            the random initial weights. With 1 it is a power function (Karras et al., 2024; γ = 8):
            always over about the last tenth of the run, however long it is. Defaults to 0.999.
        seed: Integer that makes the initial weights of the default network, training and
            generation reproducible. Defaults to None, a random one.
        conditioning: The number that the network is conditioned on: a
            `keras_ddim.conditioning.Conditioning`, "noise_variance", "noise_rate" or "log_snr".
            Defaults to the noise variance.
        prediction_type: What the network predicts: "noise", "image", "velocity" or "flow" (see
            `keras_ddim.noise_levels.separate`). Defaults to "noise".
        loss_weighting: The loss that the compiled one is weighted to act as (see
            `keras_ddim.noise_levels.loss_weights`), or None. Defaults to None.
        class_names: Names of the classes, for a network that takes labels: the model is trained on
            (images, labels) and generates images of a class. Defaults to None: no labels; or
            "0", "1", … for a network that knows the number of its classes.
        label_dropout: Part of the labels that training replaces by "any", in [0, 1], so that the
            model can generate without a label, too, and be guided. Defaults to 0.1.
        preconditioning: "spectral", to have the network predict only what the best linear denoiser
            leaves over (`keras_ddim.preconditioning.SpectralPreconditioning`), or None. `network`
            must then have been made with `images_seen=2`. Defaults to None.
        metadata: Dictionary of what else is to be known of the model, saved with it: anything that
            JSON can hold. Keys that a version of the package does not know are kept. Defaults to
            None: an empty one.
        **kwargs: Keyword arguments of `keras.Model`, such as `name` and `dtype`; a dtype policy
            given here ("mixed_bfloat16") is that of the default network, too.

    Attributes:
        network: The network being trained.
        ema_network: Its copy with averaged weights, used for everything but training.
        normalizer: The `keras_ddim.Normalizer`. The first `fit` adapts it, and with it
            `preconditioning`.
        schedule: The schedule, which may be replaced at any time.

    Raises:
        ValueError: If an argument is out of range or `network` does not fit `image_shape`.

    Example:

    ```python
    train_images, val_images = keras_ddim.load_images("flowers", image_size=32)
    model = keras_ddim.DiffusionModel(image_shape=(32, 32, 3))
    model.compile()
    model.fit(train_images, validation_data=val_images, epochs=10)
    images = model.generate(16, diffusion_times=[1.0, 0.8, 0.5, 0.2])
    model.save("flowers.keras")
    ```

    Reference:
        [Ho et al., 2020](https://arxiv.org/abs/2006.11239),
        [Song et al., 2020](https://arxiv.org/abs/2010.02502)
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int] | None = None,
        network: keras.Model | None = None,
        schedule: Any = None,
        ema: float = 0.999,
        seed: int | None = None,
        *,
        conditioning: Any = None,
        prediction_type: str = "noise",
        loss_weighting: str | None = None,
        class_names: Sequence[str] | None = None,
        label_dropout: float = 0.1,
        preconditioning: Any = None,
        metadata: dict | None = None,
        **kwargs: Any,
    ) -> None:
        # Noise levels lose their digits in a half-precision policy; the network casts for itself.
        super().__init__(autocast=False, **kwargs)
        seed = checks.check_seed(seed)
        class_names = checks.check_class_names(class_names)
        images_seen = 1 if preconditioning is None else SpectralPreconditioning.images_seen
        if network is None:
            if image_shape is None:
                raise ValueError("`image_shape` must be given where `network` is not.")
            network = ResidualUNet(
                image_shape,
                num_classes=len(class_names) if class_names else None,
                images_seen=images_seen,
                seed=seed,
                dtype=self.dtype_policy,
            )
        checks.check_keras()
        self.image_shape = checks.check_network(network, image_shape, images_seen)
        self.class_names = checks.check_class_names(class_names, network)
        self.label_dropout = checks.check_number("label_dropout", label_dropout, 0, 1)
        self.schedule = schedule
        self.conditioning = conditionings.get(conditioning)
        self.prediction_type = checks.check_choice(
            "prediction_type", prediction_type, PREDICTION_TYPES
        )
        self.loss_weighting = checks.check_choice("loss_weighting", loss_weighting, WEIGHTINGS)
        self.metadata = checks.check_metadata(metadata)
        self.ema = checks.check_number("ema", ema, 0, 1)
        self.seed = seed

        self.network = network
        # Not `clone_model`, which makes plain functional models of all that are functional.
        self.ema_network = type(network).from_config(network.get_config())
        self.ema_network.name = f"ema_{network.name}"
        self.ema_network.set_weights(network.get_weights())
        self.ema_network.trainable = False
        self.normalizer = Normalizer(self.image_shape[-1], name="normalizer")
        self.preconditioning = preconditionings.get(preconditioning, self.image_shape)
        self.seed_generator = ReplicaSeedGenerator(seed, name="seeds")
        self.generation_seed_generator = keras.random.SeedGenerator(seed, name="generation_seeds")
        # Not the optimizer's count of steps: compiling anew must not restart the average.
        self.ema_steps = self.add_weight(
            shape=(), initializer="zeros", dtype="int32", trainable=False, name="ema_steps"
        )
        self.n_loss_tracker = keras.metrics.Mean(name="n_loss")
        self.i_loss_tracker = keras.metrics.Mean(name="i_loss")
        self.value_ranges = [image_range()]
        if self.class_names:
            self.value_ranges.append(label_range(self.num_classes))
        self.compiled_steps = sampling.CompiledSteps()
        self.built = True

    @classmethod
    def from_preset(cls, preset: str | os.PathLike[str], compile: bool = True) -> Any:
        """Loads a trained model that comes with the package, or any saved one.

        Args:
            preset: One of `keras_ddim.presets.names()`, such as "flowers"; or a path or address
                that `keras.saving.load_model` takes, such as "my_model.keras" or "hf://...".
            compile: Whether to compile it as it was when saved. Defaults to True.

        Returns:
            The `DiffusionModel`. To train it on other images, compile it first, best with
            `keras_ddim.recipes.fine_tune`.

        Raises:
            ValueError: If there is no such preset or file, or it is damaged, or holds something
                else, or weights that are not finite.

        Example:

        >>> images = keras_ddim.DiffusionModel.from_preset("flowers").generate(16)
        """
        presets.path_of(preset)  # raises what needs no reason
        try:
            return presets.load(preset, cls, compile)
        except ValueError as error:
            raise ValueError(
                f"`preset` must be one of {presets.names()} or a saved `DiffusionModel`. "
                f"Received: preset={checks.brief(str(preset))} ({error})"
            ) from error

    @property
    def schedule(self) -> schedules.Schedule:
        return self._schedule

    @schedule.setter
    def schedule(self, schedule: Any) -> None:
        self._schedule = schedules.get(schedule)
        self.train_function = self.test_function = None  # were traced with the one before

    # Training

    def call(self, inputs: Any, training: bool = False) -> Prediction:
        """Mixes images with noise at random times, and predicts what was mixed: a `Prediction`.

        Args:
            inputs: Images (batch, height, width, channels), floats in [0, 1] or integers in
                0..255; or a tuple of these and of labels (batch,).
            training: Whether to use `network` in training mode, or `ema_network`.
        """
        pixels = ops.convert_to_tensor(checks.images_of(inputs))
        images = self.normalizer(checks.scale(pixels))
        noises, diffusion_times = self.draw(images)
        log_snr = self.schedule.log_snr(diffusion_times)
        noisy_images = mix(images, noises, *rates(log_snr))
        ranges = [range_of(pixels, checks.unit_of(pixels))]
        labels = None
        if self.class_names:
            if isinstance(inputs, (tuple, list)):
                labels = self.draw_labels(inputs[1], training)
                ranges.append(range_of(inputs[1]))
            else:
                labels = ops.full((ops.shape(images)[0],), self.num_classes, "int32")
        # Without a `NetworkDenoiser`: torch.compile can't trace code that makes layers.
        prediction = predict(
            self.network if training else self.ema_network,
            noisy_images,
            log_snr,
            labels,
            conditioning=self.conditioning,
            prediction_type=self.prediction_type,
            preconditioning=self.preconditioning,
            training=training,
        )
        wanted = target(images, noises, *rates(log_snr), self.prediction_type)
        return Prediction(noisy_images, log_snr, wanted, prediction, ranges)

    def draw(self, images: Any) -> tuple[Any, Any]:
        """The noises, as `images`, and the diffusion times (batch, 1, 1, 1) to train at."""
        noises = keras.random.normal(ops.shape(images), seed=self.seed_generator)
        shape = (ops.shape(images)[0], 1, 1, 1)
        return noises, self.conditioning.draw_times(shape, seed=self.seed_generator)

    def draw_labels(self, labels: Any, training: bool) -> Any:
        """Labels, int32 (batch,); in training, some of them are "any" instead."""
        # A label out of range is refused by the loss. Until then, it must not be looked up.
        labels = ops.clip(ops.cast(ops.reshape(labels, (-1,)), "int32"), 0, self.num_classes)
        if not training or not self.label_dropout:
            return labels
        numbers = keras.random.uniform(ops.shape(labels), seed=self.seed_generator)
        return ops.where(numbers < self.label_dropout, self.num_classes, labels)

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> Any:
        """The compiled loss of a `Prediction`, weighted; NaN if images were out of range."""
        if sample_weight is not None:
            sample_weight = ops.reshape(sample_weight, (-1, 1, 1))
        if self.loss_weighting is not None:
            weights = loss_weights(y_pred.log_snr, self.prediction_type, self.loss_weighting)
            weights = weights[..., 0]
            sample_weight = weights if sample_weight is None else weights * sample_weight
        loss = super().compute_loss(x, y_pred.target, y_pred.prediction, sample_weight, training)
        for value_range, ends in zip(self.value_ranges, y_pred.ranges):
            loss = ops.where(value_range.includes(*ends), loss, math.nan)
        return loss

    def compute_metrics(
        self, x: Any, y: Any, y_pred: Prediction, sample_weight: Any = None
    ) -> dict:
        """Adds `n_loss` and `i_loss`: the loss on the noises and on the images they leave."""
        for value_range, ends in zip(self.value_ranges, y_pred.ranges):
            value_range.update_state(*ends)
        components, pred_components = (
            separate(y_pred.noisy_images, values, *rates(y_pred.log_snr), self.prediction_type)
            for values in (y_pred.target, y_pred.prediction)
        )
        trackers = self.n_loss_tracker, self.i_loss_tracker
        for tracker, true, pred in zip(trackers, components, pred_components):
            batch_size = ops.cast(ops.shape(true)[0], "float32")
            tracker.update_state(ops.mean(self.loss_function(true, pred)), batch_size)
        return super().compute_metrics(x, y_pred.target, y_pred.prediction, sample_weight)

    def get_metrics_result(self) -> dict:
        logs = super().get_metrics_result()
        for value_range in self.value_ranges:  # for the message of `check_loss` alone
            logs.pop(value_range.name)
        return logs

    def averaged_weights(self, steps: Any) -> list[tuple[Any, Any]]:
        """`ema_weights = decay * ema_weights + (1 - decay) * weights`, as pairs to assign.

        `steps` is the number of optimizer steps since the last time, 0 or 1 (a scalar).
        """
        steps = ops.cast(steps, "int32")
        ema_steps = self.ema_steps + steps
        step = ops.cast(ema_steps, "float32")
        decay = ops.where(steps > 0, ops.minimum(self.ema, (1 + step) / (10 + step)), 1.0)
        pairs = [(self.ema_steps, ema_steps)]
        for weight, ema_weight in zip(self.network.weights, self.ema_network.weights):
            value = ops.convert_to_tensor(weight)
            if keras.backend.is_float_dtype(weight.dtype):
                value = decay * ema_weight + (1 - decay) * value
            pairs.append((ema_weight, value))
        return pairs

    # Saving

    def get_config(self) -> dict:
        # Words of this package alone: what Keras would add differs between its versions.
        return {
            "name": self.name,
            "dtype": self.dtype_policy.name,
            "image_shape": list(self.image_shape),
            "network": keras.saving.serialize_keras_object(self.network),
            "schedule": keras.saving.serialize_keras_object(self.schedule),
            "ema": self.ema,
            "seed": self.seed,
            "conditioning": keras.saving.serialize_keras_object(self.conditioning),
            "prediction_type": self.prediction_type,
            "preconditioning": keras.saving.serialize_keras_object(self.preconditioning),
            "loss_weighting": self.loss_weighting,
            "class_names": self.class_names,
            "label_dropout": self.label_dropout,
            "metadata": json.loads(json.dumps(checks.check_metadata(self.metadata))),
        }

    @classmethod
    def from_config(cls, config: dict, custom_objects: Any = None) -> "DiffusionModel":
        network = keras.saving.deserialize_keras_object(config["network"])
        return cls(**{**config, "network": network})

    def save_own_variables(self, store: Any) -> None:
        super().save_own_variables(store)
        # Keras leaves them out; with them, training resumes exactly where it stopped.
        for name in ("seed_generator", "generation_seed_generator"):
            store[name] = ops.convert_to_numpy(getattr(self, name).state)

    def load_own_variables(self, store: Any) -> None:
        own = dict(store.items()) if hasattr(store, "items") else dict(store)
        for name in ("seed_generator", "generation_seed_generator"):
            getattr(self, name).state.assign(own.pop(name))
        super().load_own_variables(own)
