"""Distillation: a student learns steps between any two points of a teacher's trajectories.

With the angle φ = atan2(noise rate, signal rate), DDIM's step from φ to φ' is `next_noisy_images =
cos Δ noisy_images − sin Δ velocity`, Δ = φ − φ'. A network that is conditioned on both levels can
predict the *secant* `(cos Δ noisy_images − next_noisy_images) / sin Δ` instead, the velocity if the
levels are equal. DDIM's step of any length then ends exactly at `next_noisy_images`. See
`keras_ddim.recipes.distill`.
"""

from typing import Any

import keras
import numpy as np
from keras import ops

from keras_ddim import generation
from keras_ddim.checks import check_choice, check_count, check_seed, require
from keras_ddim.denoisers import predict
from keras_ddim.model import DiffusionModel
from keras_ddim.noise_levels import finite, rates, target
from keras_ddim.sampling import CLEAN
from keras_ddim.serialization import PACKAGE
from keras_ddim.times import from_log_snr

NUM_TIMES = 16  # of a trajectory
NUM_TRAJECTORIES = 128  # held in memory
USES = 2  # of each point, on average
# Fractions of pairs that begin at pure noise (at least), stay at one level, and end at images.
FROM_NOISE, AT_ONE_LEVEL, TO_IMAGES = 0.2, 0.25, 0.25
SHORTEST = 0.03  # sin Δ below which rounding blurs the secant, and the velocity replaces it


class Trajectories(keras.utils.PyDataset):
    """Batches of pairs of points on a teacher's trajectories, and the predictions that join them.

    The teacher generates 128 guided trajectories of 16 times together, at randomly shifted levels.
    Each point is used about twice. Two arrays of 128 × 17 images are in memory: 18 MB for images
    of 32×32×1. Batch i depends on the seed and i alone.

    Args:
        teacher: A trained `keras_ddim.DiffusionModel`.
        num_batches: Number of batches.
        guidance_scale: The teacher's, as in `DiffusionModel.generate`. Defaults to 1.
        next_level: Whether the points of a pair may have different levels. Defaults to True.
        batch_size: Number of pairs in a batch. Defaults to 16.
        seed: Integer. Defaults to 0.
        first: Number of the first batch. Defaults to 0.

    Raises:
        ValueError: If the teacher cannot be guided at this scale.
    """

    def __init__(
        self,
        teacher: DiffusionModel,
        num_batches: int,
        *,
        guidance_scale: float = 1.0,
        next_level: bool = True,
        batch_size: int = 16,
        seed: int | None = 0,
        first: int = 0,
    ) -> None:
        super().__init__()
        teacher.check_generate(guidance_scale=guidance_scale)
        self.teacher, self.guidance_scale = teacher, guidance_scale
        self.next_level = check_choice("next_level", next_level, (False, True))
        self.batch_size = check_count("batch_size", batch_size)
        self.last = check_count("num_batches", num_batches)
        self.seed = check_seed(seed) or 0
        self.first = check_count("first", first, 0, self.last)
        self.batches_at_once = max(1, USES * NUM_TRAJECTORIES * NUM_TIMES // batch_size)
        self.made: tuple[int | None, tuple] = (None, ())

    def from_batch(self, number: int) -> "Trajectories":
        """The batches from this number on, to resume training."""
        options = {n: getattr(self, n) for n in ("guidance_scale", "next_level", "batch_size")}
        return type(self)(self.teacher, self.last, seed=self.seed, first=number, **options)

    def __len__(self) -> int:
        return self.last - self.first

    def __getitem__(self, index: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
        number = self.first + index
        which = number // self.batches_at_once
        if self.made[0] != which:
            self.made = which, self._make(which)
        return self._draw(np.random.default_rng([self.seed, 1, number]), *self.made[1])

    def _make(self, which: int) -> tuple:
        """Levels (times,), points (times + 1, ...), predicted images and labels of trajectories."""
        model, seed = self.teacher, [self.seed, 0, which]
        start, end = finite(model.schedule.ends)
        shift = np.random.default_rng(seed).random() - 0.5
        parts = np.append(0, (np.arange(1, NUM_TIMES) + shift) / (NUM_TIMES - 0.5))
        labels = model.draw_classes(NUM_TRAJECTORIES, seed)
        plan = generation.plan(
            model,
            NUM_TRAJECTORIES,
            from_log_snr(end + (start - end) * parts, model.schedule),
            labels=labels,
            guidance_scale=self.guidance_scale,
            sampler=generation.DEFAULT_SAMPLER,
        )
        points = np.empty((NUM_TIMES + 1, NUM_TRAJECTORIES, *model.image_shape), "float32")
        pred_images = np.empty_like(points[:-1])

        def watch(position: int, numbers: range, *images: Any) -> None:
            for array, values in zip((points, pred_images), images):
                values = ops.convert_to_numpy(values)[: len(numbers)]
                array[position, numbers.start : numbers.stop] = values

        points[-1] = generation.follow(model, plan, NUM_TRAJECTORIES, watch, seed=seed)
        return np.array(plan.levels, "float32"), points, pred_images, labels

    def _draw(
        self, rng: np.random.Generator, levels: Any, points: Any, pred_images: Any, labels: Any
    ) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """A batch of pairs of points: inputs of `predict`, and the prediction."""
        size, last = self.batch_size, len(levels)
        here = rng.integers(last, size=size) * (rng.random(size) > FROM_NOISE)
        there, chance = rng.integers(here + 1, last + 1), rng.random(size)
        there = np.where(chance < TO_IMAGES, last, there)
        there = np.where((chance > 1 - AT_ONE_LEVEL) | (not self.next_level), here, there)
        which = rng.integers(points.shape[1], size=size)
        noisy_images, next_noisy_images = points[here, which], points[there, which]
        levels = np.append(levels, np.float32(CLEAN)).reshape(-1, 1, 1, 1)
        noise_rates, signal_rates = map(ops.convert_to_numpy, rates(levels))
        noise_rates[last], signal_rates[last] = 0, 1
        noise, signal, next_noise = noise_rates[here], signal_rates[here], noise_rates[there]
        # Images and noises that mix to both points; their velocity is the secant.
        sine = noise * signal_rates[there] - signal * next_noise
        images = noise * next_noisy_images - next_noise * noisy_images
        images = np.where(
            sine < SHORTEST,
            pred_images[np.minimum(here, last - 1), which],
            images / np.maximum(sine, SHORTEST),
        )
        noises = (noisy_images - signal * images) / noise
        inputs = {
            "noisy_images": noisy_images,
            "log_snr": levels[here],
            "next_log_snr": levels[there],
        }
        if labels is not None:
            inputs["labels"] = labels[which].astype("int32")
        return inputs, target(images, noises, noise, signal, self.teacher.prediction_type)


@keras.saving.register_keras_serializable(PACKAGE)
class DistilledModel(DiffusionModel):
    """A `DiffusionModel` that is trained on `Trajectories`; see `keras_ddim.recipes.distill`."""

    @property
    def metrics(self) -> list:
        return [m for m in super().metrics if m not in (self.n_loss_tracker, self.i_loss_tracker)]

    def call(self, inputs: dict, training: bool = False) -> Any:  # type: ignore[override]
        """The prediction for inputs of `keras_ddim.denoisers.predict`."""
        return predict(
            self.network if training else self.ema_network,
            **{name: ops.convert_to_tensor(values) for name, values in inputs.items()},
            conditioning=self.conditioning,
            preconditioning=self.preconditioning,
            prediction_type=self.prediction_type,
            training=False,  # batch statistics stay the teacher's
        )

    def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
        """The compiled loss between predictions: Keras's."""
        return keras.Model.compute_loss(self, *args, **kwargs)

    def compute_metrics(self, *args: Any, **kwargs: Any) -> dict:
        return keras.Model.compute_metrics(self, *args, **kwargs)

    def _check_data(self, name: str, data: Any, *args: Any, **kwargs: Any) -> None:
        allowed = "`keras_ddim.distillation.Trajectories` for a distilled model"
        require(isinstance(data, Trajectories), name, allowed, data)
