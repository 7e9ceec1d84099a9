"""Guidance: towards a class, away from a weaker model, or down the gradient of a loss.

A guidance wraps a model's denoiser; pass it to `generate` as `guidance=`. Scales are those of
Imagen and of most libraries: 0 is the guide alone, 1 is no guidance, larger scales extrapolate.
(They are `1 + ω` in papers with an ω.) A guidance of your own is one class:

```python
class Brighter(keras_ddim.guidance.Guidance):
    amount: float = 0.1

    def wrap(self, denoiser, model):
        return BrighterDenoiser(denoiser, self.amount)  # a keras_ddim.denoisers.Wrapper
```
"""

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_ddim.checks import check_list, check_number, require
from keras_ddim.denoisers import Denoiser, Wrapper
from keras_ddim.noise_levels import as_float, rates, separate
from keras_ddim.normalizer import Normalizer
from keras_ddim.serialization import Serializable

LARGEST_SCALE = 1000


class Guidance(Serializable):
    """Changes a model's predictions by a denoiser around its own.

    Subclasses declare their arguments as fields and implement `wrap`.

    Args:
        interval: The lowest and the highest diffusion time to guide at; other steps cost nothing
            extra. Defaults to (0, 1).
    """

    interval: tuple[float, float] = dataclasses.field(default=(0.0, 1.0), kw_only=True)

    def __post_init__(self) -> None:
        allowed = "two diffusion times in [0, 1], the lower one first"
        ends = check_list("interval", self.interval, 0, 1, allowed).tolist()
        require(len(ends) == 2 and ends[0] <= ends[1], "interval", allowed, self.interval)
        object.__setattr__(self, "interval", tuple(ends))

    def covers(self, diffusion_time: float) -> bool:
        """Whether this guides at a diffusion time."""
        low, high = self.interval
        return low <= diffusion_time <= high

    def wrap(self, denoiser: Denoiser, model: Any) -> Denoiser:
        """The `DiffusionModel`'s `denoiser`, guided."""
        raise NotImplementedError

    def inputs(self) -> dict[str, float]:
        """Numbers that the guided denoiser takes as inputs, not compiled in."""
        return {}

    def check(self, model: Any, labels: Any) -> None:
        """Raises a `ValueError` unless this can guide the model to images of these labels."""


class ClassifierFree(Guidance):
    """`unlabelled + scale * (labelled - unlabelled)`: classifier-free guidance.

    It makes images more typical of their class. A step costs two evaluations, in one batch of twice
    the size, except with a scale of 0 (unconditional) or 1 (no guidance).

    Args:
        scale: 0 to 1000. Defaults to 1.5.
        rescale: Fraction, in [0, 1], by which predicted images get back their standard deviation
            without guidance, which large scales increase. Defaults to 0.
        interval: See `Guidance`.

    Reference:
        [Ho & Salimans, 2022](https://arxiv.org/abs/2207.12598);
        interval: [Kynkäänniemi et al., 2024](https://arxiv.org/abs/2404.07724);
        `rescale`: [Lin et al., 2023](https://arxiv.org/abs/2305.08891), section 3.4, of the
        predicted images
    """

    scale: float = 1.5
    rescale: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("guidance_scale", self.scale, 0, LARGEST_SCALE)
        check_number("rescale", self.rescale, 0, 1)

    def wrap(self, denoiser: Denoiser, model: Any) -> Denoiser:
        if self.scale == 0:
            return Unlabelled(denoiser, model.num_classes)
        return LabelGuided(denoiser, model.num_classes, self.rescale)

    def inputs(self) -> dict[str, float]:
        return {"guidance_scale": self.scale}

    def check(self, model: Any, labels: Any) -> None:
        require(labels is not None, "guidance_scale", "1 without `labels`", self.scale)
        allowed = "1 for a model trained with `label_dropout=0`, which has learnt no null class"
        learnt = model.metadata.get("distilled_guidance_scale")
        if learnt is not None:
            allowed = f"1 for a model that has learnt a scale of {learnt:g}"
        require(model.label_dropout, "guidance_scale", allowed, self.scale)


class Autoguidance(Guidance):
    """`weaker + scale * (strong - weaker)`: guidance away from the predictions of a weaker model.

    It needs no labels. A step costs an evaluation of each model.

    Args:
        model: A smaller or less trained `DiffusionModel` of the same images.
        scale: 0 to 1000. Defaults to 1.5.
        rescale: As in `ClassifierFree`.
        interval: See `Guidance`.

    Reference:
        [Karras et al., 2024](https://arxiv.org/abs/2406.02507)
    """

    model: Any
    scale: float = 1.5
    rescale: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        is_model = hasattr(self.model, "make_denoiser") and not isinstance(self.model, type)
        require(is_model, "model", "a `keras_ddim.DiffusionModel`", self.model)
        check_number("scale", self.scale, 0, LARGEST_SCALE)
        check_number("rescale", self.rescale, 0, 1)

    def wrap(self, denoiser: Denoiser, model: Any) -> Denoiser:
        guide = self.model.make_denoiser()
        return guide if self.scale == 0 else ModelGuided(denoiser, guide, self.rescale)

    def inputs(self) -> dict[str, float]:
        return {"autoguidance_scale": self.scale}

    def check(self, model: Any, labels: Any) -> None:
        guide = self.model
        is_alike = guide.image_shape == model.image_shape
        is_alike = is_alike and guide.class_names in (None, model.class_names)
        allowed = "a guide of the same image shape and classes, or without labels"
        require(is_alike, "model", allowed, (guide.image_shape, guide.class_names))
        for name in ("mean", "deviation"):
            own, other = (ops.convert_to_numpy(getattr(m.normalizer, name)) for m in (model, guide))
            allowed = f"a guide trained on the same images, of {name} {own}"
            require(np.allclose(own, other, rtol=0.01, atol=0.01), "model", allowed, other.tolist())


class LossGuidance(Guidance):
    """`pred_noises + noise_rates * ∇ loss(pred_images)`, and the images that follow.

    The loss acts like a negative log-likelihood: scale it up for stronger guidance. Its gradient
    with respect to the noisy images passes through the denoiser; a step takes about three times as
    long. Each call of `generate` compiles the step anew, since the loss may read variables.

    This takes the predicted image for the image itself. For a loss of `(measured - image)² /
    (2 r²)`, that is accurate if r is large compared with the uncertainty of the prediction.

    Args:
        loss: Function of predicted images, a tensor (batch, height, width, channels) of pixel
            values mostly in [0, 1]. It returns their losses, (batch,), by `keras.ops` or the
            backend.
        interval: See `Guidance`.

    Example:

    ```python
    def darkness(images):
        return 100 * keras.ops.mean(images, axis=(1, 2, 3))

    images = model.generate(16, guidance=LossGuidance(darkness))
    ```

    Reference:
        [Chung et al., 2022, Diffusion Posterior Sampling](https://arxiv.org/abs/2209.14687);
        [Bansal et al., 2023, Universal Guidance](https://arxiv.org/abs/2302.07121)
    """

    loss: Callable

    def __post_init__(self) -> None:
        super().__post_init__()
        allowed = "a function of predicted images that returns a loss for each"
        require(callable(self.loss), "loss", allowed, self.loss)

    def wrap(self, denoiser: Denoiser, model: Any) -> Denoiser:
        return GradientGuided(denoiser, model.normalizer, self.loss)


def get(guidance_scale: float, guidance: Any) -> list[Guidance]:
    """The guidances for arguments of `DiffusionModel.generate`, the innermost first."""
    several = guidance if isinstance(guidance, Iterable) else [guidance]
    allowed = "a `keras_ddim.guidance.Guidance` or a list of them"
    guidances = [ClassifierFree(guidance_scale), *several]
    require(all(isinstance(g, Guidance) for g in guidances), "guidance", allowed, guidance)
    guidances = [g for g in guidances if getattr(g, "scale", None) != 1]
    allowed = "of different classes (`guidance_scale` is a `ClassifierFree`)"
    require(len({*map(type, guidances)}) == len(guidances), "guidance", allowed, guidances)
    return guidances


@dataclasses.dataclass(frozen=True)
class Unlabelled(Wrapper):
    """Predictions for the null class, whatever the labels."""

    num_classes: int

    def __call__(self, noisy_images: Any, log_snr: Any, **per_image: Any) -> tuple[Any, Any]:
        labels = ops.full((ops.shape(noisy_images)[0],), self.num_classes, "int32")
        return self.denoiser(noisy_images, log_snr, **{**per_image, "labels": labels})


@dataclasses.dataclass(frozen=True)
class LabelGuided(Wrapper):
    """The denoiser of `ClassifierFree`.

    Call arguments:
        labels: (batch,).
        guidance_scale: One for each image, (batch,).
    """

    num_classes: int
    rescale: float = 0.0

    @property
    def evaluations_per_call(self) -> int:
        return 2 * self.denoiser.evaluations_per_call

    def __call__(
        self, noisy_images: Any, log_snr: Any, labels: Any, guidance_scale: Any, **per_image: Any
    ) -> tuple[Any, Any]:
        def twice(values: Any) -> Any:
            return ops.concatenate([values, values])

        log_snr = as_float(log_snr)
        both = self.denoiser(
            twice(noisy_images),
            twice(log_snr) if len(log_snr.shape) else log_snr,
            labels=ops.concatenate([labels, ops.full_like(labels, self.num_classes)]),
            **{name: twice(values) for name, values in per_image.items()},
        )
        size = ops.shape(noisy_images)[0]
        labelled, unlabelled = zip(*((values[:size], values[size:]) for values in both))
        return _extrapolate(
            noisy_images, log_snr, unlabelled, labelled, guidance_scale, self.rescale
        )


@dataclasses.dataclass(frozen=True)
class ModelGuided(Wrapper):
    """The denoiser of `Autoguidance`.

    Call arguments:
        autoguidance_scale: One for each image, (batch,).
    """

    guide: Denoiser
    rescale: float = 0.0

    @property
    def evaluations_per_call(self) -> int:
        return self.denoiser.evaluations_per_call + self.guide.evaluations_per_call

    def __call__(
        self, noisy_images: Any, log_snr: Any, autoguidance_scale: Any, **per_image: Any
    ) -> tuple[Any, Any]:
        strong = self.denoiser(noisy_images, log_snr, **per_image)
        weaker = self.guide(noisy_images, log_snr, **per_image)
        return _extrapolate(noisy_images, log_snr, weaker, strong, autoguidance_scale, self.rescale)


def _extrapolate(
    noisy_images: Any, log_snr: Any, guide: Any, guided: Any, scale: Any, rescale: float
) -> tuple[Any, Any]:
    """`guide + scale * (guided - guide)`, for predicted noises and predicted images."""
    noisy_images = ops.convert_to_tensor(noisy_images)  # torch mixes no arrays with tensors
    scale = ops.cast(ops.reshape(scale, (-1, 1, 1, 1)), noisy_images.dtype)
    pred_noises, pred_images = (low + scale * (high - low) for low, high in zip(guide, guided))
    if not rescale:
        return pred_noises, pred_images
    deviation, unguided_deviation = (
        ops.std(images, axis=(1, 2, 3), keepdims=True) for images in (pred_images, guided[1])
    )
    ratio = unguided_deviation / ops.maximum(deviation, keras.config.epsilon())
    pred_images = (1 + rescale * (ratio - 1)) * pred_images
    return separate(noisy_images, pred_images, *rates(log_snr), "image")


@dataclasses.dataclass(frozen=True)
class GradientGuided(Wrapper):
    """The denoiser of `LossGuidance`."""

    normalizer: Normalizer
    loss: Callable

    def __call__(self, noisy_images: Any, log_snr: Any, **per_image: Any) -> tuple[Any, Any]:
        def total_loss(noisy_images: Any) -> tuple[Any, tuple[Any, Any]]:
            components = self.denoiser(noisy_images, log_snr, **per_image)
            losses = ops.convert_to_tensor(self.loss(self.normalizer.denormalize(components[1])))
            is_flat = len(losses.shape) == 1
            require(is_flat, "loss", "a function that returns one loss for each image", losses)
            return ops.sum(losses), components

        (pred_noises, pred_images), gradient = _with_gradient(total_loss, noisy_images)
        noise_rate, signal_rate = rates(log_snr)
        # Opposite changes, so that both components still mix to the noisy images.
        noise_change, image_change = separate(
            ops.zeros_like(noisy_images), noise_rate * gradient, noise_rate, signal_rate, "noise"
        )
        return pred_noises + noise_change, pred_images + image_change


def _with_gradient(function: Callable[[Any], tuple[Any, Any]], values: Any) -> tuple[Any, Any]:
    """`(others, gradient)` of `function(values) -> (scalar, others)`: the scalar's gradient."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        with tf.GradientTape() as tape:
            tape.watch(values)
            scalar, others = function(values)
        return others, tape.gradient(scalar, values)
    if keras.backend.backend() == "jax":
        import jax

        gradient, others = jax.grad(function, has_aux=True)(values)
        return others, gradient
    import torch

    with torch.enable_grad():
        values = values.detach().requires_grad_()
        scalar, others = function(values)
        (gradient,) = torch.autograd.grad(scalar, values)
    return [tensor.detach() for tensor in others], gradient
