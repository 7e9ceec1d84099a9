"""Guidance: towards a class, away from a weaker model, or down the gradient of a loss.

Denoisers around another one, as in `keras_ddim.denoisers`. The scale is that of Imagen and of most
libraries: 0 is the guide alone, 1 the denoiser without guidance, above 1 extrapolates. (Papers
that write `1 + ω` have an ω of 0 where this is 1.) An argument that is not as described raises a
`ValueError`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops

from keras_ddim import checks
from keras_ddim.denoisers import Denoiser, Wrapper
from keras_ddim.noise_levels import rates, separate
from keras_ddim.normalizer import Normalizer
from keras_ddim.parts import PACKAGE

LARGEST_SCALE = 1000


class Guidance(NamedTuple):
    """How predictions are guided, by the arguments of `DiffusionModel.generate`: `guidance_scale`,
    `guidance_interval`, `guidance_rescale`, `guide_model` and `guidance_fn`.
    """

    scale: float = 1.0
    interval: tuple[float, float] = (0.0, 1.0)
    rescale: float = 0.0
    model: Any = None
    loss: Callable | None = None

    @property
    def is_choice(self) -> bool:
        """Whether the scale is no number to compute with, but the choice of one denoiser."""
        return self.scale in (0, 1)

    @property
    def key(self) -> tuple:
        """What identifies denoisers guided so; not the scale, where that is an input."""
        # Of parts that the denoiser keeps, so that no other gets their place in memory.
        loss = None if self.loss is None else id(self.loss)
        if self.scale == 1:
            return (loss,)
        network = None if self.model is None else id(self.model.ema_network)
        return loss, self.is_choice, self.rescale, network

    def at(self, diffusion_time: float) -> "Guidance":
        """This one in its interval, none outside."""
        low, high = self.interval
        return self if low <= diffusion_time <= high else Guidance()

    def wrap(self, denoiser: Denoiser, num_classes: int, normalizer: Normalizer) -> Denoiser:
        """A model's denoiser, guided."""
        denoiser = self._scaled(denoiser, num_classes)
        if self.loss is None:
            return denoiser
        return GuidedByGradient(denoiser, normalizer, self.loss)

    def _scaled(self, denoiser: Denoiser, num_classes: int) -> Denoiser:
        if self.scale == 1:
            return denoiser
        if self.model is None:
            if self.scale == 0:
                return Unconditional(denoiser, num_classes)
            return Guided(denoiser, num_classes=num_classes, rescale=self.rescale)
        guide = self.model.make_denoiser()
        return guide if self.scale == 0 else Guided(denoiser, guide, rescale=self.rescale)


def check_guidance(
    scale: Any = 1.0,
    interval: Any = (0.0, 1.0),
    rescale: Any = 0.0,
    model: Any = None,
    loss: Any = None,
) -> Guidance:
    """The `Guidance` of the arguments of `DiffusionModel.generate` that these are, checked."""
    scale = checks.check_number("guidance_scale", scale, 0, LARGEST_SCALE)
    rescale = checks.check_number("guidance_rescale", rescale, 0, 1)
    try:
        low, high = (checks.check_number("guidance_interval", end, 0, 1) for end in interval)
    except (TypeError, ValueError):
        low, high = 1, 0
    if low > high:
        raise ValueError(
            "`guidance_interval` must be two diffusion times in [0, 1], the lower one first. "
            f"Received: guidance_interval={checks.brief(interval)}"
        )
    if model is not None:
        checks.check_model("guide_model", model)
    if loss is not None and not callable(loss):
        raise ValueError(
            "`guidance_fn` must be a function of predicted images that returns a loss for each. "
            f"Received: guidance_fn={checks.brief(loss)}"
        )
    return Guidance(scale, (low, high), rescale, model, loss)


def check_guided(model: Any, guidance: Guidance, labels: Any) -> None:
    """Raises a `ValueError` unless `model` can be guided so to images of these labels."""
    if guidance.model is not None:
        check_guide(model, guidance.model)
    elif guidance.scale != 1 and labels is None:
        raise ValueError(
            "`guidance_scale` must be 1 where there are neither `labels` nor a `guide_model`. "
            f"Received: guidance_scale={guidance.scale}"
        )
    is_without_label = labels is None or (guidance.scale != 1 and guidance.model is None)
    if model.class_names and not model.label_dropout and is_without_label:
        raise ValueError(
            "`labels` must be given, and `guidance_scale` be 1, for a model trained with "
            "`label_dropout=0`, which knows no images without label. "
            f"Received: labels={checks.brief(labels)}, guidance_scale={guidance.scale}"
        )


def check_guide(model: Any, guide: Any) -> None:
    """Raises a `ValueError` unless predictions of one model can be compared with the other's."""
    classes = None if guide.class_names is None else model.class_names
    if (guide.image_shape, guide.class_names) != (model.image_shape, classes):
        raise ValueError(
            "`guide_model` must be of the same image shape and classes, or without labels. "
            f"Received: guide_model of {guide.image_shape}, {guide.class_names}, for "
            f"{model.image_shape}, {model.class_names}"
        )
    for name in ("mean", "deviation"):
        ours, theirs = (ops.convert_to_numpy(getattr(m.normalizer, name)) for m in (model, guide))
        if not np.allclose(ours, theirs, rtol=0.01, atol=0.01):
            raise ValueError(
                "`guide_model` must be trained on the same images: the same normalizer. "
                f"Received: a {name} of {theirs}, for one of {ours}"
            )


@keras.saving.register_keras_serializable(PACKAGE)
class Unconditional(Wrapper):
    """Predictions for the label "any", the number of classes, whatever the labels are."""

    def __init__(self, denoiser: Denoiser, num_classes: int, **kwargs: Any) -> None:
        super().__init__(denoiser, **kwargs)
        self.num_classes = num_classes

    def call(self, noisy_images: Any, log_snr: Any, **per_image: Any) -> tuple[Any, Any]:
        labels = ops.full((ops.shape(noisy_images)[0],), self.num_classes, "int32")
        return self.denoiser(noisy_images, log_snr, **{**per_image, "labels": labels})


@keras.saving.register_keras_serializable(PACKAGE)
class Guided(Wrapper):
    """`guide + guidance_scale * (denoiser - guide)`, of predicted noises as of predicted images.

    With a weaker `guide`, such as a smaller or less trained model, this is autoguidance. Without,
    the guide is the denoiser itself for the label "any": classifier-free guidance, for which both
    are computed in one batch of twice the size. Either way it costs two evaluations.

    Args:
        denoiser: The `Denoiser` that is guided.
        guide: Another one, for the same images. Defaults to None: `denoiser` for any label.
        num_classes: The number of classes, which is that label; needed without `guide`.
        rescale: Part, in [0, 1], to which the predicted images get back the standard deviation that
            they have without guidance, which large scales exaggerate. Defaults to 0.

    Call arguments:
        guidance_scale: One for each image, (batch,).

    Reference:
        [Ho & Salimans, 2022, Classifier-Free Diffusion Guidance](https://arxiv.org/abs/2207.12598);
        `guide`: [Karras et al., 2024](https://arxiv.org/abs/2406.02507);
        `rescale`: [Lin et al., 2023](https://arxiv.org/abs/2305.08891), section 3.4, here of the
        predicted images
    """

    def __init__(
        self,
        denoiser: Denoiser,
        guide: Denoiser | None = None,
        num_classes: int | None = None,
        rescale: float = 0.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(denoiser, **kwargs)
        self.guide = guide
        self.num_classes = num_classes
        self.rescale = checks.check_number("rescale", rescale, 0, 1)
        if (guide is None) == (num_classes is None):
            raise ValueError(
                "`guide` or `num_classes` must be given, and not both. "
                f"Received: guide={checks.brief(guide)}, num_classes={checks.brief(num_classes)}"
            )

    @property
    def evaluations_per_call(self) -> int:
        guide = self.guide or self.denoiser
        return self.denoiser.evaluations_per_call + guide.evaluations_per_call

    def call(  # type: ignore[override]
        self, noisy_images: Any, log_snr: Any, guidance_scale: Any, **per_image: Any
    ) -> tuple[Any, Any]:
        if self.guide is None:
            unguided, guide = self._in_one_batch(noisy_images, log_snr, **per_image)
        else:
            unguided = self.denoiser(noisy_images, log_snr, **per_image)
            guide = self.guide(noisy_images, log_snr, **per_image)
        scale = ops.cast(ops.reshape(guidance_scale, (-1, 1, 1, 1)), noisy_images.dtype)
        pred_noises, pred_images = (g + scale * (u - g) for u, g in zip(unguided, guide))
        if not self.rescale:
            return pred_noises, pred_images
        deviation, wanted = (
            ops.std(images, axis=(1, 2, 3), keepdims=True) for images in (pred_images, unguided[1])
        )
        ratio = wanted / ops.maximum(deviation, keras.config.epsilon())
        pred_images = (1 + self.rescale * (ratio - 1)) * pred_images
        return separate(noisy_images, pred_images, *rates(log_snr), "image")

    def _in_one_batch(
        self, noisy_images: Any, log_snr: Any, labels: Any, **per_image: Any
    ) -> tuple[Any, Any]:
        """The predictions for the labels and for "any"."""

        def twice(values: Any) -> Any:
            return ops.concatenate([values, values])

        if len(log_snr.shape):
            log_snr = twice(log_snr)
        both = self.denoiser(
            twice(noisy_images),
            log_snr,
            labels=ops.concatenate([labels, ops.full_like(labels, self.num_classes)]),
            **{name: twice(values) for name, values in per_image.items()},
        )
        size = ops.shape(noisy_images)[0]
        return [values[:size] for values in both], [values[size:] for values in both]


@keras.saving.register_keras_serializable(PACKAGE)
class GuidedByGradient(Wrapper):
    """`pred_noises + s ∇ loss(pred_images)`, and the images that this leaves over.

    The gradient, with respect to the noisy images, passes through the denoiser. The loss is that of
    an image as the negative log-likelihood is that of a measurement: a larger one guides more. It
    is one evaluation, with its gradient about three times as long.

    An approximation: what is predicted is taken for the image itself. For a loss of
    `(measured - image)² / (2 r²)` it is near to the exact one where r is large beside the
    uncertainty of what is predicted.

    Args:
        denoiser: The `Denoiser` that is guided.
        normalizer: The `keras_ddim.Normalizer` from pixel values to its space.
        loss: Function of predicted images, a tensor (batch, height, width, channels) of pixel
            values, mostly in [0, 1], to a loss for each, (batch,), by `keras.ops` or the backend's
            own functions. Those of Keras models need none of their weights' gradients.
        **kwargs: Keyword arguments of `keras.layers.Layer`.

    Example:

    ```python
    def darkness(images):
        return 100 * keras.ops.mean(images, axis=(1, 2, 3))

    images = model.generate(16, guidance_fn=darkness)
    ```

    Reference:
        [Chung et al., 2022, Diffusion Posterior Sampling](https://arxiv.org/abs/2209.14687);
        [Bansal et al., 2023, Universal Guidance](https://arxiv.org/abs/2302.07121)
    """

    def __init__(
        self, denoiser: Denoiser, normalizer: Normalizer, loss: Callable, **kwargs: Any
    ) -> None:
        super().__init__(denoiser, **kwargs)
        self.normalizer = normalizer
        self.loss = loss

    def call(self, noisy_images: Any, log_snr: Any, **per_image: Any) -> tuple[Any, Any]:
        def total_loss(noisy_images: Any) -> tuple[Any, tuple[Any, Any]]:
            components = self.denoiser(noisy_images, log_snr, **per_image)
            losses = ops.convert_to_tensor(self.loss(self.normalizer.denormalize(components[1])))
            if len(losses.shape) != 1:
                raise ValueError(
                    "`guidance_fn` must return one loss for each image, of shape (batch,). "
                    f"Received: shape {tuple(losses.shape)}"
                )
            return ops.sum(losses), components

        (pred_noises, pred_images), gradients = with_gradient(total_loss, noisy_images)
        noise_rate, signal_rate = rates(log_snr)
        # What is added to the noise is taken from the image: together, they add nothing.
        more_noises, more_images = separate(
            ops.zeros_like(noisy_images), noise_rate * gradients, noise_rate, signal_rate, "noise"
        )
        return pred_noises + more_noises, pred_images + more_images


def with_gradient(function: Callable[[Any], tuple[Any, Any]], values: Any) -> tuple[Any, Any]:
    """`(others, gradient)` of a `function(values) -> (scalar, others)`, the gradient that of the
    scalar.
    """
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
