"""DiffusionModel: trains a network to separate noisy images, and generates by doing so stepwise."""

import functools
import itertools
import json
import math
import time
import types
import typing
import warnings

import keras
import numpy as np
from keras import ops

from keras_ddim import checks, metrics, samplers, schedules
from keras_ddim import conditioning as conditionings
from keras_ddim.networks import residual_unet
from keras_ddim.noise_levels import (
    PREDICTION_TYPES,
    WEIGHTINGS,
    loss_weights,
    mix,
    rates,
    separate,
    target,
)
from keras_ddim.parts import PACKAGE

# Mean and variance of the pixels are known long before this; it bounds the delay of the first fit.
IMAGES_TO_ADAPT = 100_000
BATCHES_TO_ADAPT_FROM_GENERATOR = 16
SECONDS_BEFORE_PROGRESS = 2.0
# In log-SNR: how far float32 rounding takes a level out of the range of training, and no more.
LEVEL_TOLERANCE = 1e-3


class Trajectory(typing.NamedTuple):
    """What `generate(return_trajectory=True)` saw on its way, as NumPy arrays.

    Attributes:
        images: The generated images (num_images, height, width, channels), in [0, 1].
        noisy_images: (steps, num_images, height, width, channels), in the normalised space.
        pred_images: The image predicted at each time, as `noisy_images`, in [0, 1].
        diffusion_times: The times (steps,).
        evaluations: Network evaluations that each image cost.
    """

    images: np.ndarray
    noisy_images: np.ndarray
    pred_images: np.ndarray
    diffusion_times: np.ndarray
    evaluations: int


@keras.saving.register_keras_serializable(PACKAGE)
class DiffusionModel(keras.Model):
    """A diffusion model: `noisy_images = signal_rates * images + noise_rates * noises`, undone.

    Training mixes images with noise at random diffusion times and teaches `network` to predict
    the noise, told the noise level (`noise_variances`), not the time. That is why `generate`
    accepts any list of diffusion times, whatever the model was trained with.

    Called as a function, `model([noisy_images, log_snr])` predicts the noise, with `network` when
    training and with `ema_network` otherwise, in the normalised space in which images have zero
    mean and unit variance.

    Args:
        image_shape: (height, width, channels) of the images; may be left out if `network` is
            given.
        network: A `keras.Model` taking `[noisy_images, noise_variances]` to the predicted noise.
            Defaults to `keras_ddim.residual_unet(image_shape)`.
        schedule: Noise level of each diffusion time: a `keras_ddim.schedules.Schedule` or a name.
            Defaults to `keras_ddim.CosineSchedule()`.
        ema: Decay of the exponential moving average of the weights, in [0, 1). It is ramped up
            from the first step, `min(ema, (1 + step) / (10 + step))`, so that the average forgets
            the random initial weights. Defaults to 0.999.
        seed: Integer that makes the initial weights of the default network, training and
            generation reproducible. Defaults to None, a random one.
        conditioning: What number the network is told of the noise level: a
            `keras_ddim.conditioning.Conditioning`, "noise_variance", "noise_rate" or "log_snr".
            Defaults to the noise variance.
        prediction_type: What the network predicts: "noise", "image" or "velocity". Defaults to
            "noise".
        loss_weighting: The loss that the compiled one is weighted to act as: "noise", "image",
            "velocity", "truncated_snr", "min_snr" (see `keras_ddim.noise_levels.loss_weights`), or
            None. Defaults to None.
        **kwargs: Keyword arguments of `keras.Model`, such as `name` and `dtype`; a dtype policy
            given here ("mixed_bfloat16") is that of the default network, too.

    Attributes:
        network: The network being trained.
        ema_network: Its copy with averaged weights, used for everything but training.
        normalizer: `keras.layers.Normalization`, per channel. The first `fit` adapts it.
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
        image_shape=None,
        network=None,
        schedule=None,
        ema=0.999,
        seed=None,
        *,
        conditioning=None,
        prediction_type="noise",
        loss_weighting=None,
        **kwargs,
    ):
        # Noise levels lose their digits in a half-precision policy; the network casts for itself.
        super().__init__(autocast=False, **kwargs)
        if not isinstance(ema, (int, float)) or not 0 <= ema < 1:
            raise ValueError(f"`ema` must be a number in [0, 1). Received: ema={ema!r}")
        seed = checks.check_seed(seed)
        checks.check_choice("prediction_type", prediction_type, PREDICTION_TYPES)
        checks.check_choice("loss_weighting", loss_weighting, WEIGHTINGS)
        if network is None:
            if image_shape is None:
                raise ValueError("`image_shape` must be given where `network` is not.")
            network = residual_unet(image_shape, seed=seed, dtype=self.dtype_policy)
        self.image_shape = checks.check_network(network, image_shape)
        self.schedule = schedules.get(schedule)
        self.conditioning = conditionings.get(conditioning)
        self.prediction_type = prediction_type
        self.loss_weighting = loss_weighting
        self.ema = float(ema)
        self.seed = seed

        self.network = network
        self.ema_network = keras.models.clone_model(network)
        self.ema_network.name = f"ema_{network.name}"
        self.ema_network.set_weights(network.get_weights())
        self.ema_network.trainable = False
        self.normalizer = keras.layers.Normalization(axis=-1, dtype="float32")
        self.normalizer.build((None, *self.image_shape))
        self.seed_generator = keras.random.SeedGenerator(seed)
        # Not the optimizer's count of steps: compiling anew must not restart the average.
        self.ema_steps = self.add_weight(
            shape=(), initializer="zeros", dtype="int32", trainable=False, name="ema_steps"
        )
        self.n_loss_tracker = keras.metrics.Mean(name="n_loss")
        self.i_loss_tracker = keras.metrics.Mean(name="i_loss")
        self.generate_functions = {}
        self.measure_images = None
        self._traced_with = (None, None)
        self.built = True

    # The parts

    def call(self, noisy_images_and_level, training=False):
        """What the network (when training, else its average) predicts of `noisy_images`.

        Args:
            noisy_images_and_level: `[noisy_images, log_snr]`, of shapes (batch, height, width,
                channels), in the normalised space, and (batch, 1, 1, 1).
            training: Whether to use `network` in training mode, or `ema_network`.

        Returns:
            The predicted noises (or images, or velocities), float32, as `noisy_images`.
        """
        if not isinstance(noisy_images_and_level, (tuple, list)):
            raise ValueError(
                "The model must be called with [noisy_images, log_snr]; to make images, call "
                "`model.generate(num_images)`."
            )
        return self._predict(*noisy_images_and_level, self.schedule, training)

    def _predict(self, noisy_images, log_snr, schedule, training=False):
        network = self.network if training else self.ema_network
        told = self.conditioning(log_snr, schedule)
        return ops.cast(network([noisy_images, told], training=training), "float32")

    def denoise(self, noisy_images, log_snr, schedule=None):
        """Separates noisy images into their two components with the averaged network.

        Args:
            noisy_images: Tensor (batch, height, width, channels), in the normalised space.
            log_snr: Their noise level, a scalar or (batch, 1, 1, 1).
            schedule: The schedule in use, which only an untranslated `Timestep` conditioning
                looks at. Defaults to the model's.

        Returns:
            `(pred_noises, pred_images)`, both as `noisy_images`.
        """
        log_snr = ops.broadcast_to(log_snr, (ops.shape(noisy_images)[0], 1, 1, 1))
        prediction = self._predict(noisy_images, log_snr, schedule or self.schedule)
        return separate(noisy_images, prediction, *rates(log_snr), self.prediction_type)

    def denormalize(self, images):
        """Images from the normalised space back to pixel values, clipped to [0, 1] (NumPy)."""
        mean = ops.convert_to_numpy(self.normalizer.mean)
        deviation = np.sqrt(ops.convert_to_numpy(self.normalizer.variance))
        return np.clip(mean + deviation * ops.convert_to_numpy(images), 0.0, 1.0)

    # Training

    def compile(
        self,
        optimizer=None,
        loss="mean_absolute_error",
        *args,
        image_metrics=None,
        image_metrics_times=5,
        **kwargs,
    ):
        """Configures training; the arguments are those of `keras.Model.compile`, and two more.

        Image metrics are part of `evaluate`, and so of validation in `fit`: as many images as
        there are real ones are generated, from the same noise each time, and compared with them.
        That takes its time, in proportion to `image_metrics_times`. They are not saved with the
        model, being larger than it: compile anew after loading.

        Args:
            optimizer: Defaults to `keras.optimizers.AdamW(1e-3, weight_decay=1e-4)`.
            loss: Loss between noises (or what else the network predicts) and their prediction.
                Defaults to "mean_absolute_error".
            *args: As in `keras.Model.compile`.
            image_metrics: List of `keras_ddim.metrics.ImageMetric`s, such as `keras_ddim.KID()`,
                which leads to `val_kid` in the logs. Defaults to None.
            image_metrics_times: The diffusion times at which images are generated for them, as in
                `generate`. Defaults to 5.
            **kwargs: As in `keras.Model.compile`.

        Raises:
            ValueError: If an argument is not as described.
        """
        if loss is None:
            raise ValueError("`loss` must be a Keras loss or its name. Received: loss=None")
        image_metrics = metrics.check_image_metrics(image_metrics)
        checks.check_diffusion_times(image_metrics_times)
        if optimizer is None:
            optimizer = keras.optimizers.AdamW(learning_rate=1e-3, weight_decay=1e-4)
        super().compile(optimizer, loss, *args, **kwargs)
        self.loss_function = keras.losses.get(loss)
        self.generate_functions = {}
        # A function, out of sight of Keras, which would update and report them at each step.
        self.measure_images = None
        if image_metrics:
            self.measure_images = functools.partial(
                self._measure_images, image_metrics, image_metrics_times
            )

    def compile_from_config(self, config):
        # Keras leaves this to classes with a `compile` of their own.
        self.compile(**keras.saving.deserialize_keras_object(config))
        self.optimizer.build(self.trainable_variables)

    def train_step(self, data):
        logs = super().train_step(self._draw_noisy(data))
        self._update_ema()
        return logs

    def test_step(self, data):
        return super().test_step(self._draw_noisy(data))

    def _draw_noisy(self, data):
        """Images become a supervised example: noisy images and their level, and the target."""
        images, _, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        images = checks.scale(images)
        if not self.jit_compile:  # XLA knows no assertions
            checks.assert_in_range(images)
        images = self.normalizer(images)
        shape = ops.shape(images)
        noises = keras.random.normal(shape, seed=self.seed_generator)
        times = self.conditioning.draw_times((shape[0], 1, 1, 1), seed=self.seed_generator)
        log_snr = self.schedule.log_snr(times)
        noisy_images = mix(images, noises, *rates(log_snr))
        targets = target(images, noises, *rates(log_snr), self.prediction_type)
        if sample_weight is not None:
            sample_weight = ops.reshape(sample_weight, (-1, 1, 1))
        if self.loss_weighting is not None:
            weights = loss_weights(log_snr, self.prediction_type, self.loss_weighting)[..., 0]
            sample_weight = weights if sample_weight is None else weights * sample_weight
        return [noisy_images, log_snr], targets, sample_weight

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        """Adds `n_loss` and `i_loss`: the loss on the noises and on the images they leave."""
        noisy_images, log_snr = x
        components = separate(noisy_images, y, *rates(log_snr), self.prediction_type)
        pred_components = separate(noisy_images, y_pred, *rates(log_snr), self.prediction_type)
        trackers = self.n_loss_tracker, self.i_loss_tracker
        for tracker, true, pred in zip(trackers, components, pred_components):
            batch_size = ops.cast(ops.shape(true)[0], "float32")
            tracker.update_state(ops.mean(self.loss_function(true, pred)), batch_size)
        return super().compute_metrics(x, y, y_pred, sample_weight)

    def _update_ema(self):
        """`ema_weights = decay * ema_weights + (1 - decay) * weights`."""
        self.ema_steps.assign_add(1)
        step = ops.cast(self.ema_steps, "float32")
        decay = ops.minimum(self.ema, (1 + step) / (10 + step))
        for weight, ema_weight in zip(self.network.weights, self.ema_network.weights):
            if keras.backend.is_float_dtype(weight.dtype):
                weight = decay * ema_weight + (1 - decay) * weight
            ema_weight.assign(weight)

    # What Keras calls, with images checked and the normalizer adapted first

    def fit(self, x=None, y=None, *args, **kwargs):
        """Trains on images; the arguments are those of `keras.Model.fit`.

        Args:
            x: Images, (batch, height, width, channels): floats in [0, 1] or integers in 0..255,
                as an array, a `tf.data.Dataset`, a `keras.utils.PyDataset` or a generator of
                batches; or (images, labels) pairs of them. Labels are not used.
            y: Ignored, so that `fit(images, labels)` works.
            *args: As in `keras.Model.fit`.
            **kwargs: As in `keras.Model.fit`.

        Returns:
            The `keras.callbacks.History`, with `loss`, `n_loss` and `i_loss`.

        Raises:
            ValueError: If the images are not of `image_shape`, or out of range, or not finite.
        """
        x = self._prepare(x, kwargs.get("steps_per_epoch"), kwargs.get("verbose", "auto"))
        validation_data = kwargs.get("validation_data")
        checks.check_images("validation_data", validation_data, self.image_shape)
        self._check_for_image_metrics("validation_data", validation_data)
        if hasattr(x, "element_spec") or isinstance(x, types.GeneratorType):
            # Keras warns of its own default where it can't shuffle.
            kwargs.setdefault("shuffle", False)
        with checks.ImageErrors():
            return super().fit(x, y, *args, **kwargs)

    def evaluate(
        self,
        x=None,
        y=None,
        batch_size=None,
        verbose="auto",
        sample_weight=None,
        steps=None,
        **kwargs,
    ):
        """`loss`, `n_loss` and `i_loss` of the averaged network on images, and image metrics.

        Args:
            x: Images, as in `fit`; those for image metrics can't be a generator, being read twice.
            y: Ignored, so that `evaluate(images, labels)` works.
            batch_size: As in `keras.Model.evaluate`.
            verbose: As in `keras.Model.evaluate`.
            sample_weight: As in `keras.Model.evaluate`.
            steps: As in `keras.Model.evaluate`.
            **kwargs: As in `keras.Model.evaluate`.

        Returns:
            A list of the losses, then the compiled `image_metrics`; or a dictionary of them, with
            `return_dict=True`.

        Raises:
            ValueError: As `fit`.
        """
        self._check_for_image_metrics("x", x)
        x = self._prepare(x, steps, verbose)
        with checks.ImageErrors():
            results = super().evaluate(x, y, batch_size, verbose, sample_weight, steps, **kwargs)
        if not self.measure_images:
            return results
        in_fit = "_use_cached_eval_dataset" in kwargs  # which has a progress bar of its own
        image_results = self.measure_images(x, batch_size or 32, steps, 0 if in_fit else verbose)
        if isinstance(results, dict):
            return {**results, **image_results}
        return [*results, *image_results.values()]

    def _check_for_image_metrics(self, name, data):
        if self.measure_images and isinstance(data, types.GeneratorType):
            raise ValueError(
                f"`{name}` must be an array, a `tf.data.Dataset` or a `keras.utils.PyDataset` for "
                f"`image_metrics`, which read it once more. Received: {name}={data!r}"
            )

    def _measure_images(self, image_metrics, diffusion_times, x, batch_size, steps, verbose):
        """Results of image metrics on the images of `x` and on as many generated ones."""
        count = 0

        def real_batches():
            nonlocal count
            for batch in itertools.islice(checks.batches(x, batch_size), steps):
                images = checks.images_of(batch)
                count += len(images)
                yield images

        def generated_batches():
            # Begun when all real images have been counted.
            yield self.generate(count, diffusion_times, seed=0, verbose=verbose)

        return metrics.measure(image_metrics, real_batches(), generated_batches())

    def train_on_batch(self, x, *args, **kwargs):
        """One training step on a batch of images; see `keras.Model.train_on_batch`."""
        x = self._prepare(x, verbose=0)
        with checks.ImageErrors():
            return super().train_on_batch(x, *args, **kwargs)

    def test_on_batch(self, x, *args, **kwargs):
        """The losses on a batch of images; see `keras.Model.test_on_batch`."""
        x = self._prepare(x, verbose=0)
        with checks.ImageErrors():
            return super().test_on_batch(x, *args, **kwargs)

    def adapt(self, x, steps=None):
        """Sets the normalizer to the mean and variance of the images, for each channel.

        Args:
            x: Images in any form that `fit` takes.
            steps: Number of batches to look at, for endless datasets. Defaults to None: as many
                as hold 100,000 images.

        Raises:
            ValueError: If the images are not of `image_shape`, or out of range, or not finite.
        """
        checks.check_images("x", x, self.image_shape)
        count, total, total_of_squares = 0, 0.0, 0.0
        for batch in itertools.islice(checks.batches(x), steps):
            images = checks.check_image_batch("x", checks.images_of(batch), self.image_shape)
            count += len(images)
            total = total + images.mean(axis=(1, 2)).sum(axis=0)
            total_of_squares = total_of_squares + (images**2).mean(axis=(1, 2)).sum(axis=0)
            if count >= IMAGES_TO_ADAPT:
                break
        if not count:
            raise ValueError("`x` must hold at least one image. Received none.")
        mean = total / count
        self.normalizer.adapt_mean.assign(mean)
        self.normalizer.adapt_variance.assign(np.maximum(total_of_squares / count - mean**2, 0.0))
        self.normalizer.finalize_state()

    @property
    def is_adapted(self):
        """Whether the normalizer knows the images' mean and variance."""
        mean = ops.convert_to_numpy(self.normalizer.mean)
        variance = ops.convert_to_numpy(self.normalizer.variance)
        return bool(np.any(mean != 0) or np.any(variance != 1))

    def _prepare(self, x, steps=None, verbose="auto"):
        """Checks `x`, adapts the normalizer to it if nobody has, and returns it for use."""
        if x is None:
            raise ValueError("`x` must be images, such as an array or a `tf.data.Dataset`.")
        checks.check_images("x", x, self.image_shape)
        if hasattr(x, "shape"):
            # An array can be checked before the first step; what is not, while it is read.
            for batch in checks.batches(x):
                checks.check_image_batch("x", batch, self.image_shape)
        if not self.is_adapted:
            images = x
            if isinstance(x, types.GeneratorType):
                # It gives each batch only once: look at the first few, then hand them back.
                images = list(itertools.islice(x, BATCHES_TO_ADAPT_FROM_GENERATOR))
                x = itertools.chain(images, x)
            self.adapt(images, steps)
            if verbose != 0:
                print("Adapted the normalizer to the images' mean and variance.")
        if isinstance(x, (types.GeneratorType, itertools.chain)):
            # Keras takes only generators, and those only of tuples.
            x = (batch if isinstance(batch, tuple) else (batch,) for batch in x)
        # Compiled steps hold the parts they were traced with.
        parts = self.normalizer.mean, self.schedule
        if any(a is not b for a, b in zip(parts, self._traced_with)):
            self.train_function = self.test_function = None
        self._traced_with = parts
        return x

    # Generation

    def generate(
        self,
        num_images,
        diffusion_times=20,
        *,
        sampler=None,
        schedule=None,
        seed=None,
        initial_noise=None,
        batch_size=None,
        clip=False,
        return_trajectory=False,
        callback=None,
        verbose="auto",
    ):
        """Generates images from noise, visiting the given diffusion times in order.

        At each time the network separates the images into noise and image; the sampler mixes them
        again at the next time's noise level, and the image predicted at the last time is returned.
        With the default sampler the network is evaluated once at each time, so a list of k times
        costs k evaluations of it; see `count_evaluations` of the others.

        Args:
            num_images: Number of images.
            diffusion_times: Number of uniform steps (n gives 1, 1 − 1/n, …, 1/n), or any list,
                tuple, array or tensor of times in [0, 1], in any order and spacing that the
                sampler can follow; see `keras_ddim.times` for lists. Defaults to 20.
            sampler: How to step from a noise level to the next: a `keras_ddim.samplers.Sampler`
                or a name, such as "ddim", "ddpm", "heun", "unipc". Defaults to
                `keras_ddim.DDIM()`, which follows any list; "unipc" comes as near to the images
                of many times with about half of them, if they decrease.
            schedule: The schedule to which the times belong: a `keras_ddim.schedules.Schedule` or
                a name. Defaults to the one of training.
            seed: Integer of at least 0; image i depends on it and i alone, whatever
                `num_images` and `batch_size` are. Defaults to None: the next of the model's own.
            initial_noise: Standard normal noise to start from instead, (num_images, height,
                width, channels), in the model's normalised space.
            batch_size: Number of images generated together; it bounds the memory needed.
                Defaults to 64.
            clip: Whether to clip the predicted images at each step: False, True or "static" (to
                pixel values in [0, 1]), or "dynamic" (each image is first scaled down until
                99.5 % of its pixels are within; Saharia et al., 2022). Defaults to False.
            return_trajectory: Whether to return a `Trajectory` instead of the images alone.
                Defaults to False.
            callback: Callable `(step, time, noisy_images, pred_images)` called at each time, for
                each batch: noisy images in the normalised space, predicted ones in [0, 1], NumPy
                arrays both. Defaults to None.
            verbose: 0 for silence, 1 for a progress bar, "auto" for one if it takes over 2
                seconds. Defaults to "auto".

        Returns:
            float32 NumPy array (num_images, height, width, channels) of values in [0, 1]; or a
            `Trajectory`, which has it as `images`.

        Raises:
            ValueError: If an argument is not as described, if the sampler can't follow the list,
                or if the network can't be told of a noise level; times are named with their
                position.

        Warns:
            UserWarning: If a time under `schedule` means a noise level outside the range of
                training.

        Example:

        >>> model.generate(4, diffusion_times=[1.0, 0.9, 0.5, 0.1], seed=0).shape
        (4, 64, 64, 3)
        """
        num_images = checks.check_count("num_images", num_images)
        batch_size = checks.check_count("batch_size", 64 if batch_size is None else batch_size)
        times = checks.check_diffusion_times(diffusion_times)
        if initial_noise is not None:
            initial_noise = checks.check_noise(initial_noise, (num_images, *self.image_shape))
        if checks.check_seed(seed) is None:
            seed = [int(part) & 0xFFFFFFFF for part in self.seed_generator.next()]
        sampler = samplers.get(sampler)
        schedule = self.schedule if schedule is None else schedules.get(schedule)
        levels = ops.convert_to_numpy(schedule.log_snr(times.astype("float32")))
        self._check_levels(sampler, times, levels)
        step, denoise = self.make_generate_functions(sampler, schedule, clip)

        num_batches = math.ceil(num_images / batch_size)
        progress = _Progress(num_batches * sampler.count_evaluations(len(times)), verbose)
        images = np.empty((num_images, *self.image_shape), "float32")
        trajectory = []
        for start in range(0, num_images, batch_size):
            batch = range(start, min(start + batch_size, num_images))
            draw_noises = _noise_source(seed, batch, self.image_shape)
            noises = draw_noises() if initial_noise is None else initial_noise[start : batch.stop]
            noisy_images = ops.convert_to_tensor(noises)
            visits = samplers.sample(sampler, step, denoise, noisy_images, levels, draw_noises)
            visited = []
            for i, (noisy_images, pred_images) in enumerate(visits):
                last = i == len(times) - 1
                progress.advance(1 if last else sampler.evaluations_per_step)
                if last or return_trajectory or callback is not None:
                    noisy_images = ops.convert_to_numpy(noisy_images)
                    pred_images = self.denormalize(pred_images)
                if callback is not None:
                    callback(i, float(times[i]), noisy_images, pred_images)
                if return_trajectory:
                    visited.append((noisy_images, pred_images))
            trajectory.append(visited)
            images[start : batch.stop] = pred_images
        if not return_trajectory:
            return images
        noisy_images, pred_images = (
            np.concatenate([np.stack(arrays) for arrays in per_batch], axis=1)
            for per_batch in zip(*[zip(*visited) for visited in trajectory])
        )
        return Trajectory(
            images, noisy_images, pred_images, times, sampler.count_evaluations(len(times))
        )

    def make_generate_functions(self, sampler=None, schedule=None, clip=False):
        """A sampler's step on the averaged network, and the denoising alone: compiled and kept.

        Args:
            sampler: See `generate`.
            schedule: See `generate`.
            clip: See `generate`.

        Returns:
            `(step, denoise)` as `keras_ddim.samplers.sample` takes them, for any number of images
            and any noise levels without retracing.
        """
        checks.check_choice("clip", clip, (False, True, "static", "dynamic"))
        sampler = samplers.get(sampler)
        schedule = self.schedule if schedule is None else schedules.get(schedule)
        parts = [sampler, schedule if self.conditioning.depends_on_schedule else None]
        key = json.dumps([keras.saving.serialize_keras_object(part) for part in parts] + [clip])
        if key not in self.generate_functions:

            def denoise(noisy_images, log_snr):
                pred_noises, pred_images = self.denoise(noisy_images, log_snr, schedule)
                if clip:
                    pred_images = self._clip(pred_images, clip)
                    return separate(noisy_images, pred_images, *rates(log_snr), "image")
                return pred_noises, pred_images

            def step(noisy_images, log_snr, next_log_snr, memory, *noises):
                return sampler.step(denoise, noisy_images, log_snr, next_log_snr, memory, *noises)

            self.generate_functions[key] = self._compiled(sampler, step, denoise)
        return self.generate_functions[key]

    def _compiled(self, sampler, step, denoise):
        if keras.backend.backend() != "tensorflow" or self.run_eagerly:
            return step, denoise
        import tensorflow as tf

        images, level = tf.TensorSpec((None, *self.image_shape)), tf.TensorSpec(())
        # The batch is the first dimension of all but the remembered levels.
        memory = tuple(
            tf.TensorSpec((None, *tensor.shape[1:]) if len(tensor.shape) > 1 else tensor.shape)
            for tensor in sampler.start(ops.zeros((1, *self.image_shape)))
        )
        signature = [images, level, level, memory] + [images] * sampler.is_stochastic
        return tuple(
            # Without AutoGraph: there is no control flow on tensors for it to rewrite.
            tf.function(function, signature, autograph=False, jit_compile=self.jit_compile)
            for function, signature in ((step, signature), (denoise, [images, level]))
        )

    def _clip(self, pred_images, clip):
        """Predicted images, in the normalised space, within the pixel values [0, 1]."""
        deviation = ops.maximum(ops.sqrt(self.normalizer.adapt_variance), keras.backend.epsilon())
        pixels = self.normalizer.adapt_mean + deviation * pred_images
        if clip == "dynamic":
            extents = ops.quantile(ops.abs(2 * pixels - 1), 0.995, axis=(1, 2, 3), keepdims=True)
            pixels = (1 + (2 * pixels - 1) / ops.maximum(extents, 1.0)) / 2
        return (ops.clip(pixels, 0.0, 1.0) - self.normalizer.adapt_mean) / deviation

    def _check_levels(self, sampler, times, levels):
        """Raises where sampler or network can't work at `levels`; warns where it never learnt."""
        samplers.check_levels(sampler, times, levels)
        self.conditioning.check(levels)
        ends = ops.convert_to_numpy(self.schedule.log_snr(np.array([0, 1], "float32")))
        excess = np.maximum(levels - ends[0], ends[1] - levels)
        worst = np.argmax(excess)
        if excess[worst] > LEVEL_TOLERANCE:
            warnings.warn(
                f"diffusion_times[{worst}]={times[worst]:g} means a log-SNR of {levels[worst]:.4g},"
                f" {excess[worst]:.3g} outside the range of training, {ends[1]:.4g} to "
                f"{ends[0]:.4g}",
                stacklevel=3,
            )

    # Saving

    def get_config(self):
        return {
            **super().get_config(),
            "image_shape": self.image_shape,
            "network": keras.saving.serialize_keras_object(self.network),
            "schedule": keras.saving.serialize_keras_object(self.schedule),
            "ema": self.ema,
            "seed": self.seed,
            "conditioning": keras.saving.serialize_keras_object(self.conditioning),
            "prediction_type": self.prediction_type,
            "loss_weighting": self.loss_weighting,
        }

    @classmethod
    def from_config(cls, config):
        network = keras.saving.deserialize_keras_object(config["network"])
        return super().from_config({**config, "network": network})

    def save_own_variables(self, store):
        super().save_own_variables(store)
        # Keras leaves it out; with it, training resumes exactly where it stopped.
        store["seed_generator"] = ops.convert_to_numpy(self.seed_generator.state)

    def load_own_variables(self, store):
        own = {key: store[key] for key in list(store.keys()) if key != "seed_generator"}
        super().load_own_variables(own)
        self.seed_generator.state.assign(store["seed_generator"])


def _noise_source(seed, batch, image_shape):
    """Callable that draws noise for the images of a batch, each from a generator of its own."""
    entropy = np.atleast_1d(seed).tolist()
    generators = [np.random.default_rng([*entropy, index]) for index in batch]
    return lambda: np.stack([rng.standard_normal(image_shape, "float32") for rng in generators])


class _Progress:
    """Keras's progress bar, at once (verbose=1), once it takes long ("auto"), or never (0)."""

    def __init__(self, target, verbose):
        self.target, self.verbose = target, verbose
        self.done, self.start = 0, None
        self.bar = self._make_bar() if verbose == 1 else None

    def _make_bar(self):
        return keras.utils.Progbar(self.target, unit_name="evaluation")

    def advance(self, evaluations):
        self.done += evaluations
        # The first evaluation may have been compiled, which says nothing about the others.
        self.start = self.start or time.monotonic()
        waited = time.monotonic() - self.start
        if self.bar is None and self.verbose == "auto" and waited > SECONDS_BEFORE_PROGRESS:
            self.bar = self._make_bar()
        if self.bar is not None:
            self.bar.update(self.done)
