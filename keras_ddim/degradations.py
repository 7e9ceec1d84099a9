"""Degradations: what of an image is known, where it is less than the whole of it.

A degradation A is a linear map of pixel values, such as to a smaller or a grey image, with a
pseudo-inverse A⁺. Of images predicted on the way, `Known` replaces what A leaves of them by what is
known: `pred_images + A⁺ (known_images - A pred_images)`. A mask says where in `known_images`
something is known. To add one:

```python
@keras.saving.register_keras_serializable("my_package")
class LeftHalf(keras_ddim.degradations.Degradation):
    def degrade(self, images):
        return images[:, :, : images.shape[2] // 2]

    def restore(self, known):
        return keras.ops.concatenate([known, keras.ops.zeros_like(known)], axis=2)
```
"""

from typing import Any

import keras
import numpy as np
from keras import ops

from keras_ddim import checks
from keras_ddim.denoisers import Denoiser, Wrapper
from keras_ddim.noise_levels import rates, separate
from keras_ddim.normalizer import Normalizer
from keras_ddim.parts import PACKAGE, Part, get_part


class Degradation(Part):
    """A linear map A of images, and its pseudo-inverse A⁺: A A⁺ A = A.

    Subclasses implement `degrade` and `restore`, and are saved as a `keras_ddim.parts.Part`.
    """

    def degrade(self, images: Any) -> Any:
        """`A images`, of images (batch, height, width, channels); may raise a `ValueError`."""
        raise NotImplementedError

    def restore(self, known: Any) -> Any:
        """`A⁺ known`, the smallest images that A makes `known` of."""
        raise NotImplementedError

    def correct(self, images: Any, known_images: Any, known_mask: Any) -> Any:
        """`images + A⁺ known_mask (known_images - A images)`."""
        return images + self.restore(known_mask * (known_images - self.degrade(images)))


@keras.saving.register_keras_serializable(PACKAGE)
class Identity(Degradation):
    """`A images = images`: pixels are known as they are, for inpainting and outpainting."""

    def degrade(self, images: Any) -> Any:
        return images

    def restore(self, known: Any) -> Any:
        return known

    def correct(self, images: Any, known_images: Any, known_mask: Any) -> Any:
        return ops.where(known_mask > 0, known_images, images)  # to the last bit


@keras.saving.register_keras_serializable(PACKAGE)
class BlockAverage(Degradation):
    """`A images` = averages of blocks of pixels: a smaller image is known, for super-resolution.

    Args:
        factor: Side of a block. It divides the images' height and width. Defaults to 2.
    """

    def __init__(self, factor: int = 2) -> None:
        self.factor = checks.check_count("factor", factor)

    def degrade(self, images: Any) -> Any:
        height, width, channels = images.shape[1:]
        if height % self.factor or width % self.factor:
            raise ValueError(
                f"`factor` must divide the images' size, {(height, width)}. "
                f"Received: factor={self.factor}"
            )
        rows, columns = height // self.factor, width // self.factor
        blocks = ops.reshape(images, (-1, rows, self.factor, columns, self.factor, channels))
        return ops.mean(blocks, axis=(2, 4))

    def restore(self, known: Any) -> Any:
        return ops.repeat(ops.repeat(known, self.factor, axis=1), self.factor, axis=2)


@keras.saving.register_keras_serializable(PACKAGE)
class Grey(Degradation):
    """`A images = Σ weights * channels`: a grey image is known, for colourisation.

    Args:
        weights: Weight of each channel. Defaults to those of brightness, as `load_images` has them.
    """

    def __init__(self, weights: tuple[float, ...] = (0.2989, 0.587, 0.114)) -> None:
        self.weights = checks.check_list("weights", weights, 0, 1).tolist()

    def degrade(self, images: Any) -> Any:
        if images.shape[-1] != len(self.weights):
            raise ValueError(
                f"`weights` must be as many as the images' channels, {images.shape[-1]}. "
                f"Received: weights={self.weights}"
            )
        weights = ops.cast(self.weights, images.dtype)
        return ops.sum(images * weights, axis=-1, keepdims=True)

    def restore(self, known: Any) -> Any:
        weights = np.array(self.weights)
        return known * ops.cast(weights / np.sum(weights**2), known.dtype)


DEGRADATIONS = {"identity": Identity, "block_average": BlockAverage, "grey": Grey}


def get(identifier: Any) -> Degradation:
    """The degradation that `identifier` names: one of `DEGRADATIONS`, a serialized degradation
    (dict), a `Degradation`, or None for `Identity()`.
    """
    return get_part("degradation", identifier, Degradation, DEGRADATIONS, Identity)


@keras.saving.register_keras_serializable(PACKAGE)
class Known(Wrapper):
    """`pred_images + A⁺ known_mask (known_images - A pred_images)`, and the noises left over.

    An approximation: unknown pixels are predicted before the known ones have their full effect. Of
    correlated normal images, the mean of unknown pixels comes half to two thirds of the way from
    where it is without the known ones to where it should be, however many steps there are; along
    a list that `keras_ddim.times.renoised` repeats 8 times, more than four fifths of it.

    Args:
        denoiser: The `Denoiser` whose predictions are corrected.
        normalizer: The `keras_ddim.Normalizer` from pixel values to its space.
        degradation: What `known_images` are of an image. Defaults to None: `Identity()`.
        **kwargs: Keyword arguments of `keras.layers.Layer`.

    Call arguments:
        known_images: What is known, of the shape of degraded images, in pixel values.
        known_mask: 1 where it is known, 0 elsewhere, (batch, height, width, 1).

    Reference:
        [Wang et al., 2022, Zero-Shot Image Restoration Using Denoising Diffusion Null-Space
        Model](https://arxiv.org/abs/2212.00490)
    """

    def __init__(
        self, denoiser: Denoiser, normalizer: Normalizer, degradation: Any = None, **kwargs: Any
    ) -> None:
        super().__init__(denoiser, **kwargs)
        self.normalizer = normalizer
        self.degradation = get(degradation)

    def call(  # type: ignore[override]
        self, noisy_images: Any, log_snr: Any, known_images: Any, known_mask: Any, **per_image: Any
    ) -> tuple[Any, Any]:
        pred_noises, pred_images = self.denoiser(noisy_images, log_snr, **per_image)
        pixels = self.normalizer.denormalize(pred_images)
        corrected = self.degradation.correct(pixels, known_images, known_mask)
        # Exactly nothing where nothing is known. What is added to the image, the noise must lack.
        more = (corrected - pixels) / self.normalizer.deviation
        more_noises, more_images = separate(
            ops.zeros_like(noisy_images), more, *rates(log_snr), "image"
        )
        return pred_noises + more_noises, pred_images + more_images


def check_known(
    known_images: Any, known_mask: Any, degradation: Any, num_images: int, image_shape: Any
) -> dict[str, np.ndarray]:
    """The per-image inputs of `Known`, from arguments of `DiffusionModel.generate`, checked."""
    if known_images is None:
        for name, value in (("known_mask", known_mask), ("degradation", degradation)):
            if value is not None:
                raise ValueError(
                    f"`{name}` must be None where there are no `known_images`. "
                    f"Received: {name}, and known_images=None"
                )
        return {}
    empty = ops.zeros((1, *image_shape), "float32")
    shape = tuple(get(degradation).degrade(empty).shape)[1:]
    known_images = ops.convert_to_numpy(known_images)
    if known_images.ndim == len(shape):
        known_images = known_images[None]
    images = checks.check_image_batch("known_images", known_images, shape)
    mask = np.ones((1, *shape[:2], 1)) if known_mask is None else ops.convert_to_numpy(known_mask)
    if mask.shape in (shape[:2], (*shape[:2], 1)):
        mask = mask.reshape(1, *shape[:2], 1)
    allowed = 1, num_images
    if mask.shape not in [(n, *shape[:2], 1) for n in allowed] or not np.isin(mask, (0, 1)).all():
        raise ValueError(
            f"`known_mask` must be 1 where `known_images` are known and 0 elsewhere, of shape "
            f"{shape[:2]} or ({num_images}, {shape[0]}, {shape[1]}, 1). "
            f"Received: known_mask of shape {mask.shape} and values {np.unique(mask)[:5]}"
        )
    if len(images) not in allowed:
        raise ValueError(
            f"`known_images` must be one image, or one for each, {num_images}. "
            f"Received: {len(images)} images"
        )
    known = {"known_images": images, "known_mask": mask}
    return {
        name: np.repeat(values.astype("float32"), num_images // len(values), axis=0)
        for name, values in known.items()
    }
