"""`DiffusionModel`, a `keras.Model` that trains a denoising network and generates images."""

import inspect
import itertools
import json
import math
import os
import threading
import types
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, ClassVar

import keras
import numpy as np
from keras import ops

from keras_ddim import checks, generation, presets, samplers, sampling, schedules, training
from keras_ddim import conditioning as conditionings
from keras_ddim import export as exports
from keras_ddim import preconditioning as preconditionings
from keras_ddim.checks import check_count, check_number, require
from keras_ddim.denoisers import Denoiser, predict
from keras_ddim.guidance import Guidance
from keras_ddim.labels import check_class_names, check_label_batch, check_labelled
from keras_ddim.networks import ResidualUNet, check_network
from keras_ddim.noise_levels import (
    PREDICTION_TYPES,
    WEIGHTINGS,
    finite,
    loss_weights,
    mix,
    rates,
    separate,
    target,
)
from keras_ddim.normalizer import Normalizer
from keras_ddim.serialization import PACKAGE, without_unused
from keras_ddim.times import from_log_snr

# Enough for mean and variance of the pixels; these bound the delay of the first `fit`.
IMAGES_TO_ADAPT = 100_000
BATCHES_TO_ADAPT = 1000  # of a data set without end
BATCHES_TO_ADAPT_FROM_GENERATOR = 16
STEPS_KEPT = 8
# Two unseeded generations in parallel must not get the same seed.
SEED_LOCK = threading.Lock()


@keras.saving.register_keras_serializable(PACKAGE)
class DiffusionModel(keras.Model):
    """A diffusion model: mixes images with noise and learns to separate them.

    Training mixes images with noise, `noisy_images = signal_rates * images + noise_rates * noises`,
    at random diffusion times. `network` learns to predict the noise, conditioned on the noise level
    (`noise_variances`), not the time. So `generate` accepts any list of diffusion times.

    Args:
        image_shape: (height, width, channels) of the images. Defaults to None: that of `network`.
        network: A `keras.Model` from `[noisy_images, noise_variances]` to the predicted noise, or
            from `[noisy_images, noise_variances, labels]`, where the label `num_classes` is the
            null class. A second noise variance, of the next level, may precede the labels.
            Defaults to `keras_ddim.ResidualUNet(image_shape)`. Files with the package's
            U-Nets load under every allowed version of Keras, files with other networks from the
            version that saved them on.
        schedule: Noise level of each diffusion time: a `keras_ddim.schedules.Schedule` or its name.
            Defaults to `keras_ddim.CosineSchedule()`.
        ema: Largest decay of the moving average of the weights, in [0, 1]. The decay grows with
            the optimizer's steps, `min(ema, (1 + step) / (10 + step))`, so that the average forgets
            the random initial weights. With 1, the average always spans about the last tenth of
            the run (Karras et al., 2024; γ = 8). Defaults to 0.999.
        seed: Integer that makes the initial weights of the default network, training and
            generation reproducible. Defaults to None: a random one.
        conditioning: The number that the network is conditioned on: a
            `keras_ddim.conditioning.Conditioning`, "noise_variance", "noise_rate" or "log_snr".
            Defaults to the noise variance.
        prediction_type: The network's prediction: "noise", "image", "velocity" or "flow" (see
            `keras_ddim.noise_levels.separate`). Defaults to "noise".
        loss_weighting: Weights the compiled loss to act as another one (see
            `keras_ddim.noise_levels.loss_weights`). Defaults to None: no weights.
        class_names: Names of the classes, for a network with labels. Defaults to None: no labels,
            or "0", "1", … for a network that knows the number of its classes.
        label_dropout: Fraction of the labels that training replaces by the null class, in [0, 1],
            for generation without a label and for guidance. Defaults to 0.1.
        preconditioning: "spectral", a `keras_ddim.preconditioning.SpectralPreconditioning`, or
            None. `network` must then have been made with `images_seen=2`. Defaults to None.
        metadata: Dictionary of further information, saved with the model as JSON. Defaults to
            None: an empty one.
        **kwargs: Keyword arguments of `keras.Model`, such as `name` and `dtype`. The default
            network shares the dtype policy, such as "mixed_bfloat16".

    Attributes:
        network: The trained network.
        ema_network: Its copy with averaged weights, used for everything except training.
        normalizer: The `keras_ddim.Normalizer`, adapted by the first `fit`.

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

    # Attributes that compiled functions read, with their checks: setting one compiles anew.
    _traced: ClassVar[dict[str, Callable]] = {
        "schedule": schedules.get,
        "conditioning": conditionings.get,
        "prediction_type": partial(
            checks.check_choice, "prediction_type", allowed=PREDICTION_TYPES
        ),
        "loss_weighting": partial(checks.check_choice, "loss_weighting", allowed=WEIGHTINGS),
        "label_dropout": partial(check_number, "label_dropout", low=0, high=1),
        "ema": partial(check_number, "ema", low=0, high=1),
    }

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
        # Half precision would lose digits of noise levels; the network casts for itself.
        super().__init__(autocast=False, **kwargs)
        class_names = check_class_names(class_names)
        images_seen = 1 if preconditioning is None else 2
        if network is None:
            if image_shape is None:
                raise ValueError("`image_shape` must be given without a `network`, got None")
            network = ResidualUNet(
                image_shape,
                num_classes=len(class_names) if class_names else None,
                images_seen=images_seen,
                seed=seed,
                dtype=self.dtype_policy,
            )
        self.image_shape = check_network(network, image_shape, images_seen)
        self.class_names = check_class_names(class_names, network)
        self.schedule = schedule
        self.conditioning = conditioning
        self.prediction_type = prediction_type
        self.loss_weighting = loss_weighting
        self.label_dropout = label_dropout
        self.ema = ema
        self.seed = checks.check_seed(seed)
        require(isinstance(metadata, (dict, type(None))), "metadata", "a dictionary", metadata)
        self.metadata = json.loads(json.dumps(metadata or {}))

        self.network = network
        # `clone_model` would make plain functional models of sub-classes.
        self.ema_network = type(network).from_config(network.get_config())
        self.ema_network.name = f"ema_{network.name}"
        self.ema_network.set_weights(network.get_weights())
        self.ema_network.trainable = False
        self.normalizer = Normalizer(self.image_shape[-1], name="normalizer")
        self.preconditioning = preconditionings.get(preconditioning, self.image_shape)
        self.seed_generator = training.ReplicaSeedGenerator(seed, name="seeds")
        # Its own, since generating must not change the draws of training.
        self.generation_seed_generator = keras.random.SeedGenerator(seed, name="generation_seeds")
        # The optimizer's count would restart with each `compile`.
        self.ema_steps = self.add_weight(
            shape=(), initializer="zeros", dtype="int32", trainable=False, name="ema_steps"
        )
        self.n_loss_tracker = keras.metrics.Mean(name="n_loss")
        self.i_loss_tracker = keras.metrics.Mean(name="i_loss")
        self.compiled_steps: dict[tuple, sampling.Step] = {}
        self.built = True

    def __setattr__(self, name: str, value: Any) -> None:
        if name in self._traced:
            value = self._traced[name](value)
            self.train_function = self.test_function = None
        super().__setattr__(name, value)

    @property
    def num_classes(self) -> int:
        """Number of classes, which is also the label of the null class; 0 without labels."""
        return len(self.class_names or ())

    # Training

    def compile(
        self, optimizer: Any = None, loss: Any = "mean_absolute_error", **kwargs: Any
    ) -> None:
        """Configures training; the arguments are those of `keras.Model.compile`.

        Args:
            optimizer: Defaults to `keras.optimizers.AdamW(1e-3, weight_decay=1e-4)`.
            loss: Loss between the target (noises by default) and its prediction: a name, a function
                or a `keras.losses.Loss`. Defaults to "mean_absolute_error".
            **kwargs: As in `keras.Model.compile`. Metrics compare target and prediction, too.
        """
        halves = [x.name for x in self.network.layers if x.variable_dtype == "float16"]
        require(not halves, "network", 'of float32 weights ("mixed_float16") to be trained', halves)
        if optimizer is None:
            optimizer = keras.optimizers.AdamW(learning_rate=1e-3, weight_decay=1e-4)
        optimizer = keras.optimizers.get(optimizer)
        is_half = any(layer.compute_dtype == "float16" for layer in self.network.layers)
        is_scaled = isinstance(optimizer, keras.optimizers.LossScaleOptimizer)
        if is_half and not is_scaled and kwargs.get("auto_scale_loss", True):
            # Keras looks at the policy of the model alone.
            optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
        self.loss_function = keras.losses.get(loss)
        require(callable(self.loss_function), "loss", "a loss of Keras or a function", loss)
        super().compile(optimizer, loss, **kwargs)
        self._jit_compile_given = kwargs.get("jit_compile", "auto")
        self.ema_network.trainable = False
        self.compiled_steps.clear()

    def call(self, images: Any, training: bool = False) -> Any:
        """Pixel values, floats in [0, 1] or integers in 0..255, to normalised images."""
        return self.normalizer(checks.to_float(images))

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> Any:
        """The noise-prediction loss (of the noise, the image or a velocity).

        Args:
            x: Images (batch, height, width, channels), pixel values.
            y: Labels (batch,), for a network with labels.
            y_pred: The normalised images.
            sample_weight: Weight of each image, (batch,), or None.
            training: Whether to use `network` in training mode instead of `ema_network`.

        Returns:
            The loss, a scalar. If an image or a label is invalid: NaN, with a gradient of zero.
        """
        is_valid = ops.all(checks.in_range(checks.to_float(x)), axis=(1, 2, 3), keepdims=True)
        images = ops.where(is_valid, y_pred, 0.0)  # nothing invalid reaches the network
        noises, diffusion_times = self.draw(images)
        log_snr = self.schedule.log_snr(diffusion_times)
        noisy_images = mix(images, noises, *rates(log_snr))
        labels, are_classes = self.draw_labels(y, training)
        prediction = predict(
            self.network if training else self.ema_network,
            noisy_images,
            log_snr,
            labels,
            conditioning=self.conditioning,
            preconditioning=self.preconditioning,
            prediction_type=self.prediction_type,
            training=training,
        )
        true = target(images, noises, *rates(log_snr), self.prediction_type)
        weights = self.image_weights(true, prediction, log_snr, sample_weight)
        loss = super().compute_loss(x, true, prediction, weights, training)
        pred_noises, pred_images = separate(
            noisy_images, prediction, *rates(log_snr), self.prediction_type
        )
        batch_size = ops.shape(images)[0]
        for tracker, ours, theirs in (
            (self.n_loss_tracker, noises, pred_noises),
            (self.i_loss_tracker, images, pred_images),
        ):
            tracker.update_state(ops.mean(self.loss_function(ours, theirs)), batch_size)
        super().compute_metrics(x, true, prediction, weights)
        return ops.where(ops.logical_and(ops.all(is_valid), are_classes), loss, math.nan)

    def draw(self, images: Any) -> tuple[Any, Any]:
        """Noises, shaped as `images`, and diffusion times (batch, 1, 1, 1), for training."""
        noises = keras.random.normal(ops.shape(images), seed=self.seed_generator)
        shape = (ops.shape(images)[0], 1, 1, 1)
        return noises, self.conditioning.draw_times(shape, seed=self.seed_generator)

    def draw_labels(self, labels: Any, training: bool) -> tuple[Any, Any]:
        """Labels, int32 (batch,), some dropped in training, and whether all are valid."""
        if not self.class_names:
            return None, True
        require(labels is not None, "y", "labels, for a network with labels", labels)
        check_label_batch("y", labels, self.num_classes)
        labels = ops.cast(ops.reshape(labels, (-1,)), "float32")
        are_classes = (labels >= 0) & (labels < self.num_classes) & (labels % 1 == 0)
        labels = ops.cast(ops.where(are_classes, labels, 0), "int32")
        if training and self.label_dropout:
            numbers = keras.random.uniform(ops.shape(labels), seed=self.seed_generator)
            labels = ops.where(numbers < self.label_dropout, self.num_classes, labels)
        return labels, ops.all(are_classes)

    def image_weights(self, true: Any, prediction: Any, log_snr: Any, sample_weight: Any) -> Any:
        """Weights of the images, of the rank of the loss's values; None if all are 1."""
        if sample_weight is None and self.loss_weighting is None:
            return None
        rank = len(_unreduced(self.loss_function, true, prediction).shape)
        allowed = "a loss with a value for each image, to be weighted"
        require(rank > 0, "loss", allowed, self.loss_function)
        weights = ops.ones(ops.shape(true)[:1])
        if sample_weight is not None:
            weights = weights * ops.cast(ops.reshape(sample_weight, (-1,)), weights.dtype)
        if self.loss_weighting is not None:
            factors = loss_weights(log_snr, self.prediction_type, self.loss_weighting)
            weights = weights * ops.reshape(factors, (-1,)) ** (self._loss_power() / 2)
        return ops.reshape(weights, (-1, *[1] * (rank - 1)))

    def _loss_power(self) -> Any:
        """The power p of a loss that grows as error ** p, for small errors: 2 for squares."""
        zeros = ops.zeros((1, *self.image_shape))
        small, large = (
            ops.mean(_unreduced(self.loss_function, zeros, zeros + error)) for error in (0.01, 0.02)
        )
        return ops.round(1000 * ops.log2(large / small)) / 1000  # without rounding errors

    def compute_metrics(self, x: Any, y: Any, y_pred: Any, sample_weight: Any = None) -> dict:
        """The logs, whose metrics `compute_loss` has updated."""
        try:
            return self.get_metrics_result()
        except ValueError:  # torch and JAX have Keras build the metrics before the first loss
            self.compute_loss(x, y, y_pred, sample_weight, training=False)
            return self.get_metrics_result()

    def train_step(self, *args: Any) -> Any:
        """Keras's step on `compute_loss`; then the averaged weights follow."""
        return training.step_then_average(self, super().train_step, *args)

    def test_step(self, *args: Any) -> Any:
        """Keras's step on `compute_loss`, with `ema_network`."""
        return training.logs_for_workers(super().test_step(*args))

    def update_average(self, steps: Any, loss: Any) -> None:
        """`ema_weights = decay * ema_weights + (1 - decay) * weights`; finite weights only.

        Args:
            steps: Number of optimizer steps since the last time, 0 or 1 (a scalar).
            loss: The mean loss of the epoch so far. If it is not finite, the average stays.
        """
        has_moved = ops.logical_and(steps > 0, ops.isfinite(loss))
        ema_steps = self.ema_steps + ops.cast(has_moved, "int32")
        step = ops.cast(ema_steps, "float32")
        decay = ops.where(has_moved, ops.minimum(self.ema, (1 + step) / (10 + step)), 1.0)
        for average, weight in zip(self.ema_network.weights, self.network.weights):
            value, last = ops.convert_to_tensor(weight), ops.convert_to_tensor(average)
            if keras.backend.is_float_dtype(weight.dtype):
                value = decay * last + (1 - decay) * value
                value = ops.where(ops.isfinite(value), value, last)
            average.assign(value)
        self.ema_steps.assign(ema_steps)

    def fit(self, x: Any = None, y: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Trains on images; the arguments are those of `keras.Model.fit`.

        Args:
            x: Images (batch, height, width, channels), floats in [0, 1] or integers in 0..255: an
                array, or batches from a `tf.data.Dataset`, a `keras.utils.PyDataset` or a
                generator. Batches are images or (images, labels).
            y: Numbers of classes, (batch,), if `x` is an array. A network without labels ignores
                them.
            *args, **kwargs: As in `keras.Model.fit`.

        Returns:
            The `keras.callbacks.History`, with `loss`, `n_loss` and `i_loss`.

        Raises:
            ValueError: If images are out of range or not of `image_shape`, if labels are missing or
                invalid, or if the loss is not finite. The network then has its averaged weights,
                which no invalid batch has changed.
        """
        arguments = inspect.signature(super().fit).bind(x, y, *args, **kwargs).arguments
        self._prepare(arguments)
        validation_data = arguments.get("validation_data")
        if validation_data is not None:
            self._check_data("validation_data", validation_data)
        if not hasattr(x, "shape"):
            arguments.setdefault("shuffle", False)  # Keras warns where it cannot
        callbacks = keras.tree.flatten(arguments.get("callbacks") or [])
        arguments["callbacks"] = [training.StopOnNonFiniteLoss(), *callbacks]
        return super().fit(**arguments)

    def evaluate(self, x: Any = None, y: Any = None, *args: Any, **kwargs: Any) -> Any:
        """`loss`, `n_loss` and `i_loss` of the averaged network on images.

        Args:
            x, y: Images and labels, as in `fit`.
            *args, **kwargs: As in `keras.Model.evaluate`.

        Returns:
            A list of the losses; a dictionary of them with `return_dict=True`.

        Raises:
            ValueError: If images or labels are not as in `fit`.
        """
        inner = {name: kwargs.pop(name) for name in [*kwargs] if name.startswith("_")}
        arguments = inspect.signature(super().evaluate).bind(x, y, *args, **kwargs).arguments
        if not inner:  # `fit` has checked its validation data
            self._prepare(arguments)
        losses = super().evaluate(**arguments, **inner)
        values = [*losses.values()] if isinstance(losses, dict) else np.atleast_1d(losses)
        if not np.isfinite(values).all():
            raise ValueError(
                f"The loss of `evaluate` is not finite: images must be {checks.PIXELS}, and labels "
                "numbers of classes"
            )
        return losses

    def adapt(self, x: Any, steps: int | None = None) -> None:
        """Sets the normalizer to the mean and the deviation of images.

        Args:
            x: Images, as in `fit`.
            steps: Largest number of batches. Defaults to None: batches of 100,000 images, and at
                most 1,000.

        Raises:
            ValueError: If the images are not of `image_shape`, or out of range.
        """
        self._check_data("x", x, needs_labels=False)
        steps = BATCHES_TO_ADAPT if steps is None else check_count("steps", steps)
        batches: Callable = partial(checks.batches, x)
        # Read twice for the preconditioning; a generator gives its batches once.
        if isinstance(x, types.GeneratorType) and self.preconditioning is not None:
            batches = list(itertools.islice(x, steps)).__iter__

        def images() -> Iterator[np.ndarray]:
            count = 0
            for batch in itertools.islice(batches(), steps):
                yield checks.check_image_batch("x", checks.first_of(batch), self.image_shape)
                count += len(checks.first_of(batch))
                if count >= IMAGES_TO_ADAPT:
                    return

        self.normalizer.adapt(images())
        if self.preconditioning is not None:
            self.preconditioning.adapt(map(self.normalizer, images()))

    def _prepare(self, arguments: dict) -> None:
        """Checks images and labels, and adapts the normalizer if that has not been done."""
        x: Any = arguments["x"]
        y = arguments["y"]
        self._check_unquantized()
        shapes = [[tuple(w.shape) for w in n.weights] for n in (self.network, self.ema_network)]
        allowed = "of the averaged network's weights (without LoRA)"
        require(shapes[0] == shapes[1], "network", allowed, self.network.name)
        self._check_data("x", x, y)
        if hasattr(x, "shape") and y is None and arguments.get("sample_weight") is not None:
            arguments["y"] = np.zeros(len(x))  # Keras drops the weights of images without targets
        if not self.class_names:
            allowed = "None for a network without labels"
            given = arguments.get("class_weight")
            require(given is None, "class_weight", allowed, given)
        is_generator = isinstance(x, types.GeneratorType)
        if not self.normalizer.is_adapted:
            if is_generator:  # its first batches are read, then handed back
                first = list(itertools.islice(x, BATCHES_TO_ADAPT_FROM_GENERATOR))
                self.adapt(batch for batch in first)
                x = itertools.chain(first, x)
            else:
                self.adapt(x)
            if arguments.get("verbose", "auto") != 0:
                count = int(self.normalizer.num_images.numpy())
                print(f"Adapted the normalizer to the mean and variance of {count} images.")
        if is_generator:  # Keras takes generators of tuples only
            arguments["x"] = (b if isinstance(b, tuple) else (b,) for b in x)

    def _check_data(self, name: str, data: Any, y: Any = None, needs_labels: bool = True) -> None:
        """Raises unless images, and labels for a network with labels, are as in `fit`."""
        if name == "validation_data" and isinstance(data, (tuple, list)):
            data, y = data[0], data[1] if len(data) > 1 else None
        checks.check_data(name, data, self.image_shape)
        if hasattr(data, "shape"):
            checks.check_pixels(name, data)
        if not self.class_names or not needs_labels or isinstance(data, types.GeneratorType):
            return
        if hasattr(data, "shape"):
            require(y is not None, "y", "labels, for a network with labels", y)
            check_label_batch("y", np.asarray(y), self.num_classes)
        else:
            check_labelled(name, data, self.num_classes)

    # Generation

    def generate(
        self,
        num_images: int,
        diffusion_times: Any = 20,
        *,
        labels: Any = None,
        guidance_scale: float = 1.0,
        guidance: Guidance | Sequence[Guidance] = (),
        known: Any = None,
        sampler: Any = None,
        schedule: Any = None,
        clip: bool | str = False,
        seed: Any = None,
        first: int = 0,
        initial_noise: Any = None,
        initial_images: Any = None,
        batch_size: int = sampling.BATCH_SIZE,
        return_trajectory: bool = False,
        callback: Callable | None = None,
        verbose: int | str = "auto",
    ) -> Any:
        """Generates images from noise, visiting the given diffusion times in order.

        At each time, the network separates the images into noise and image, and the sampler mixes
        them again at the next noise level. The image predicted at the last time is the result. With
        the default sampler, k times cost k evaluations of the network (see `count_evaluations`).

        More steps follow the learnt distribution more closely, which may not look better.
        `generate(16, 20, sampler="ddim")` takes the 20 uniform steps of the Keras DDIM example.

        Args:
            num_images: Number of images.
            diffusion_times: Sampling times: a number, a list or array of times in [0, 1], or a
                name such as "best:5" (see `keep_times`). Any order and spacing will do that the
                sampler can follow; see `keras_ddim.times`. A number n stands for Karras's n times
                (n ≤ 3: uniform in log-SNR). With a `sampler`, or if the network takes the next
                noise level, it stands for 1, 1 − 1/n, …, 1/n. Defaults to 20.
            labels: Class of the images, a name (in any letter case) or number, or a list of one for
                each image. Defaults to None: random classes; unconditional with
                `initial_images`, `initial_noise` or `known`.
            guidance_scale: Scale of classifier-free guidance, `unlabelled + guidance_scale *
                (labelled - unlabelled)`. 1, the default, is no guidance and 0 unconditional. Other
                scales cost two evaluations of the network, in a batch of twice the size.
            guidance: A `keras_ddim.guidance.Guidance` or a list of them, the innermost first:
                `ClassifierFree`, `Autoguidance` or `LossGuidance`. Defaults to none.
            known: Known pixels, which the images keep exactly: a `keras_ddim.degradations.Known`.
                Defaults to None.
            sampler: A `keras_ddim.samplers.Sampler` or its name, such as "ddim", "ddpm", "heun" or
                "unipc". Defaults to None: `keras_ddim.UniPC()` if the times decrease strictly and
                their noise levels are finite, else, and for distilled models,
                `keras_ddim.DDIM()`, which follows any times.
            schedule: The schedule of the times: a `keras_ddim.schedules.Schedule` or its name.
                Defaults to that of training.
            clip: Whether to clip the predicted images at each step: False, the default, True or
                "static" (to [0, 1]), or "dynamic" (see `keras_ddim.denoisers.Clipped`).
            seed: Integer of at least 0, or a list of them. Image i depends on it and i alone, not
                on `num_images` or `batch_size`. Defaults to None: the model's next seed.
            first: Index of the first image, to continue an earlier run. Defaults to 0.
            initial_noise: Noise to start from, (num_images, height, width, channels), in the
                model's normalised space. Defaults to None: drawn by `seed`.
            initial_images: Images to start from, mixed with noise to the level of the first time;
                see `edit`. Defaults to None.
            batch_size: Number of images generated together, which bounds the memory. Defaults to
                64.
            return_trajectory: Whether to return a `keras_ddim.generation.Trajectory` of all steps
                instead of the images. Defaults to False.
            callback: Callable `(step, time, noisy_images, pred_images)`, called at each time with
                NumPy arrays for each batch: noisy images in the normalised space, predicted images
                in [0, 1]. Defaults to None.
            verbose: 0 for silence, 1 for a progress bar, "auto" for one after 2 seconds. Defaults
                to "auto".

        Returns:
            float32 NumPy array (num_images, height, width, channels) of values in [0, 1]; or a
            `Trajectory`, which has it as `images`.

        Raises:
            ValueError: If an argument is not as described, if sampler or network cannot use the
                times, or if the images are not finite.

        Warns:
            UserWarning: If a noise level is outside the range of training, or if all times rise.

        Example:

        >>> model.generate(4, diffusion_times=[1.0, 0.9, 0.5, 0.1], seed=0).shape
        (4, 32, 32, 3)
        """
        num_images = check_count("num_images", num_images)
        batch_size = check_count("batch_size", batch_size)
        if initial_images is not None:
            initial_images = self.normalize(initial_images, "initial_images")
        seed = self._next_seed() if seed is None else seed
        if labels is None and initial_noise is initial_images is None and known is None:
            labels = self.draw_classes(check_count("first", first, 0) + num_images, seed)
            labels = labels if labels is None else labels[first:]
        plan = generation.plan(
            self,
            num_images,
            diffusion_times,
            labels=labels,
            guidance_scale=guidance_scale,
            guidance=guidance,
            known=known,
            sampler=sampler,
            schedule=schedule,
            clip=clip,
        )
        num_batches = math.ceil(num_images / batch_size)
        watch = generation.Watch(self, plan, num_batches, callback, verbose, return_trajectory)
        images = generation.follow(
            self,
            plan,
            num_images,
            watch,
            seed=seed,
            first=first,
            initial_noise=initial_noise,
            initial_images=initial_images,
            batch_size=batch_size,
        )
        images = self.denormalize(images)
        if known is not None:
            images = known.restore(images, plan.inputs)
        return watch.trajectory(images) if return_trajectory else images

    def edit(self, images: Any, diffusion_times: Any = (0.6, 0.4, 0.2), **options: Any) -> Any:
        """Edits images: adds noise to them and removes it again.

        The first time decides how much is kept. Near 0 the images are unchanged; at 0.6 colours and
        places stay, while objects may change; at 1 nothing of the images remains.

        Args:
            images: (num_images, height, width, channels), floats in [0, 1] or integers in 0..255.
            diffusion_times: As in `generate`; noise is added to the level of the first time.
                Defaults to (0.6, 0.4, 0.2).
            **options: Further arguments of `generate`, such as `labels` and `known`.

        Example:

        ```python
        boots = model.edit(sneakers, [0.7, 0.5, 0.3, 0.1], labels="ankle boot", seed=0)
        ```

        Reference:
            [Meng et al., 2021, SDEdit](https://arxiv.org/abs/2108.01073)
        """
        num_images = len(self.normalize(images))
        return self.generate(num_images, diffusion_times, initial_images=images, **options)

    def invert(
        self,
        images: Any,
        diffusion_times: Any,
        *,
        refinements: int = 2,
        labels: Any = None,
        guidance_scale: float = 1.0,
        sampler: Any = "ddim",
        schedule: Any = None,
        batch_size: int = sampling.BATCH_SIZE,
        verbose: int | str = "auto",
    ) -> np.ndarray:
        """Finds the noise from which `generate` makes given images.

        Follows the times backwards and inverts each step; see `keras_ddim.sampling.Inversion`. More
        times and refinements reconstruct better, and times uniform in log-SNR much better than
        uniform times.

        Args:
            images: As in `edit`.
            diffusion_times: As in `generate`; strictly decreasing.
            refinements: Evaluations at each time (twice as many with Heun). Defaults to 2.
            labels: As in `generate`. Defaults to None: unconditional.
            guidance_scale: As in `generate`. Scales above 1 are hard to invert.
            sampler: "ddim", the default, "euler", "heun" or `DPMSolverPP(variant="singlestep")`.
            schedule, batch_size, verbose: As in `generate`.

        Returns:
            float32 NumPy array, shaped as `images`: the `initial_noise` for `generate` with the
            same times, labels, scale, sampler and schedule.

        Raises:
            ValueError: If the times do not decrease or the sampler cannot be inverted.

        Example:

        ```python
        times = keras_ddim.times.uniform_log_snr(13, model.schedule)
        noise = model.invert(images, times)
        same_images = model.generate(len(images), times, sampler="ddim", initial_noise=noise)
        ```
        """
        clean_images = self.normalize(images)
        plan = generation.plan(
            self,
            len(clean_images),
            diffusion_times,
            labels=labels,
            guidance_scale=guidance_scale,
            sampler=sampler,
            schedule=schedule,
            refinements=check_count("refinements", refinements),
        )
        is_decreasing = generation.decrease(plan.levels)
        allowed = "strictly decreasing to be inverted"
        require(is_decreasing, "diffusion_times", allowed, diffusion_times)
        levels = [None, *plan.levels[::-1]]
        steps = plan.steps[::-1]
        plan = plan._replace(
            levels=levels, steps=steps, evaluations=sampling.count_evaluations(steps, levels)
        )
        num_batches = math.ceil(len(clean_images) / check_count("batch_size", batch_size))
        watch = generation.Watch(self, plan, num_batches, verbose=verbose)
        options = {"initial_images": clean_images, "batch_size": batch_size, "seed": 0}
        return generation.follow(self, plan, len(clean_images), watch, **options)

    def count_evaluations(self, diffusion_times: Any = 20, **options: Any) -> int:
        """Number of network evaluations for an image, those of a guiding network included.

        Args:
            diffusion_times, **options: Arguments of `generate`.
        """
        return sum(self.check_generate(1, diffusion_times, **options).evaluations)

    def check_generate(
        self, num_images: int = 1, diffusion_times: Any = 20, **options: Any
    ) -> generation.Plan:
        """The plan of `generate` for these arguments, or the error that it would raise."""
        signature = inspect.signature(self.generate)
        arguments = signature.bind(num_images, diffusion_times, **options).arguments
        if self.class_names and arguments.get("labels") is None:
            arguments["labels"] = 0  # any class stands for those drawn at random
        return generation.plan(self, **arguments)

    def keep_times(
        self, diffusion_times: Any, sampler: Any = None, name: str | None = None
    ) -> None:
        """Keeps sampling times by name, in this model and in its files.

        Args:
            diffusion_times: Strictly decreasing times, such as of `keras_ddim.optimize_times`.
            sampler: The sampler of these times. Defaults to None: that of `generate`.
            name: The name, for `generate` with that sampler; it replaces earlier times of this
                name. Defaults to None: "best:5" for five times.

        Example:

        ```python
        model.keep_times(keras_ddim.optimize_times(model, 5))
        model.save("flowers.keras")
        images = keras.saving.load_model("flowers.keras").generate(16, "best:5")
        ```
        """
        sampler = samplers.get(sampler or generation.default_sampler(self))
        times = checks.check_diffusion_times(diffusion_times)
        levels = finite(ops.convert_to_numpy(self.schedule.log_snr(times))).astype("float64")
        is_decreasing = generation.decrease(levels)
        require(is_decreasing, "diffusion_times", "strictly decreasing to be kept", diffusion_times)
        name = f"best:{len(times)}" if name is None else name
        is_name = isinstance(name, str) and name[:1].isalpha()
        require(is_name, "name", "a string that begins with a letter", name)
        kept = self.metadata.setdefault(generation.NAMED_LEVELS, {})
        kept.setdefault(repr(sampler), {})[name] = levels.tolist()

    def kept_times(self, name: str, sampler: Any = None, schedule: Any = None) -> np.ndarray:
        """Times kept with `keep_times`, float64 (steps,), or a `ValueError` with their names.

        Args:
            name, sampler: As in `keep_times`.
            schedule: The schedule of the times. Defaults to None: the model's.
        """
        sampler = samplers.get(sampler or generation.default_sampler(self))
        kept = self.metadata.get(generation.NAMED_LEVELS, {})
        levels = kept.get(repr(sampler), {}).get(name)
        if levels is None:
            names = (f"{', '.join(map(repr, named))} for {each}" for each, named in kept.items())
            raise ValueError(
                "`diffusion_times` must be a number of times, a list of them, or a name kept with "
                f"the model ({'; '.join(names) or 'none yet'}), got {name!r} for {sampler}"
            )
        return from_log_snr(levels, self.schedule if schedule is None else schedule)

    def make_denoiser(self) -> Denoiser:
        """The averaged network, a `keras_ddim.denoisers.Denoiser`."""
        return generation.wrap(self)

    def compile_step(self, step: sampling.Step) -> sampling.Step:
        """An equal step, compiled as the model is; cached if all of it is of this package.

        Other steps are compiled anew each time, since their code may read values that change.
        """
        key = step, bool(self.run_eagerly), bool(self.jit_compile)
        if not sampling.is_of_package(step):
            return sampling.compile_step(*key)
        compiled = self.compiled_steps.pop(key, None)
        self.compiled_steps[key] = compiled or sampling.compile_step(*key)
        if len(self.compiled_steps) > STEPS_KEPT:
            del self.compiled_steps[next(iter(self.compiled_steps))]
        return self.compiled_steps[key]

    def draw_classes(self, num_images: int, seed: Any) -> np.ndarray | None:
        """Random class labels, (num_images,); None for a model without labels."""
        if self.class_names is None:
            return None
        return np.random.default_rng(seed).integers(self.num_classes, size=num_images)

    def _next_seed(self) -> int:
        with SEED_LOCK:
            high, low = (int(part) & 0xFFFFFFFF for part in self.generation_seed_generator.next())
        return (high << 32) + low

    def normalize(self, images: Any, name: str = "images") -> np.ndarray:
        """At least one image, checked, in the normalised space, float32."""
        pixels = checks.check_image_batch(name, images, self.image_shape)
        require(len(pixels), name, "at least one image", pixels)
        return ops.convert_to_numpy(self.normalizer(pixels))

    def denormalize(self, images: Any) -> np.ndarray:
        """From the normalised space back to pixel values, clipped to [0, 1]."""
        return np.clip(ops.convert_to_numpy(self.normalizer.denormalize(images)), 0.0, 1.0)

    # Saving

    @classmethod
    def from_preset(cls, preset: str | os.PathLike[str], compile: bool = True) -> Any:
        """Loads a trained model that comes with the package, or any saved one.

        Args:
            preset: One of `keras_ddim.presets.names()`, such as "flowers", or a path or address
                that `keras.saving.load_model` takes, such as "my_model.keras" or "hf://...".
            compile: Whether to compile the model as it was when saved. Defaults to True.

        Returns:
            The `DiffusionModel`. To train it on other images, see `keras_ddim.recipes.fine_tune`.

        Raises:
            ValueError: If the file is missing, damaged or no `DiffusionModel`, or its weights are
                not finite.

        Example:

        >>> images = keras_ddim.DiffusionModel.from_preset("flowers").generate(16)
        """
        return presets.load(preset, cls, compile)

    def get_config(self) -> dict:
        # Keras's own entries differ between its versions.
        names = [
            *("network", "schedule", "ema", "seed", "conditioning", "prediction_type"),
            *("preconditioning", "loss_weighting", "class_names", "label_dropout", "metadata"),
        ]
        values = {name: keras.saving.serialize_keras_object(getattr(self, name)) for name in names}
        shape = list(self.image_shape)
        return {"name": self.name, "dtype": self.dtype_policy.name, "image_shape": shape, **values}

    @classmethod
    def from_config(cls, config: dict, custom_objects: Any = None) -> "DiffusionModel":
        network = keras.saving.deserialize_keras_object(config["network"])
        return cls(**{**config, "network": network})

    def save(self, filepath: Any, *args: Any, **kwargs: Any) -> None:
        """Saves the model in one file, ending in ".keras"; see `keras.Model.save`."""
        is_keras = str(filepath).lower().endswith(".keras")
        require(is_keras, "filepath", "a path that ends in .keras", filepath)
        self._check_unquantized()
        super().save(filepath, *args, **kwargs)

    def export(self, path: Any, format: str = "tf_saved_model", **options: Any) -> None:
        """Writes the model for runtimes without Keras; see `keras_ddim.export.export`."""
        exports.export(self, path, format, **options)

    def quantize(self, *args: Any, **kwargs: Any) -> None:
        """Quantizes weights, to generate with; see `keras.Model.quantize`."""
        super().quantize(*args, **kwargs)
        self.compiled_steps.clear()

    def _check_unquantized(self) -> None:
        layers = [*self.network.layers, *self.ema_network.layers]
        quantized = [x.name for x in layers if getattr(x, "quantization_mode", None)]
        require(not quantized, "network", "trained and saved before it is quantized", quantized)

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

    def get_compile_config(self) -> dict:
        config = super().get_compile_config()
        if config:
            # As given, since "auto" means other things on other machines.
            config["jit_compile"] = self._jit_compile_given
        return without_unused(config)

    def compile_from_config(self, config: dict) -> None:
        # Keras leaves this to classes with a `compile` of their own.
        self.compile(**keras.saving.deserialize_keras_object(config))
        self.optimizer.build(self.trainable_variables)


def _unreduced(loss: Callable, true: Any, prediction: Any) -> Any:
    """The values of a loss before any reduction by Keras, of any rank."""
    call = loss.call if isinstance(loss, keras.losses.Loss) else loss
    return ops.convert_to_tensor(call(true, prediction))
