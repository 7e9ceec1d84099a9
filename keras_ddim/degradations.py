"""Degradations: known pixels, for inpainting, super-resolution and colourisation.

A degradation A is a linear map of pixel values with a pseudo-inverse A⁺. `Known` holds known
degraded images. At each step, predicted images are made consistent with them:
`pred_images + A⁺ (known_images - A pred_images)`. A degradation of your own is one class:

```python
class LeftHalf(keras_ddim.degradations.Degradation):
    def degrade(self, images):
        return images[:, :, : images.shape[2] // 2]

    def restore(self, known):
        return keras.ops.concatenate([known, keras.ops.zeros_like(known)], axis=2)
```
"""

import dataclasses
from typing import Any

import numpy as np
from keras import ops

from keras_ddim import serialization
from keras_ddim.checks import check_count, check_image_batch, check_list, require
from keras_ddim.denoisers import Denoiser, Wrapper
from keras_ddim.noise_levels import rates, separate
from keras_ddim.normalizer import Normalizer
from keras_ddim.serialization import Serializable


class Degradation(Serializable):
    """A linear map A of images, and its pseudo-inverse A⁺: A A⁺ A = A.

    Subclasses declare their arguments as fields, and implement `degrade` and `restore`.
    """

    def degrade(self, images: Any) -> Any:
        """`A images`, for images (batch, height, width, channels); may raise a `ValueError`."""
        raise NotImplementedError

    def restore(self, known: Any) -> Any:
        """`A⁺ known`, the smallest images that A maps to `known`."""
        raise NotImplementedError

    def correct(self, images: Any, known_images: Any, known_mask: Any) -> Any:
        """`images + A⁺ known_mask (known_images - A images)`."""
        return images + self.restore(known_mask * (known_images - self.degrade(images)))


class Identity(Degradation):
    """`A images = images`, for inpainting and outpainting."""

    def degrade(self, images: Any) -> Any:
        return images

    def restore(self, known: Any) -> Any:
        return known

    def correct(self, images: Any, known_images: Any, known_mask: Any) -> Any:
        return ops.where(known_mask > 0, known_images, images)  # without rounding


class BlockAverage(Degradation):
    """`A images` = averages of blocks of pixels, for super-resolution of a smaller image.

    Args:
        factor: Side of a block, a divisor of the images' height and width. Defaults to 2.
    """

    factor: int = 2

    def __post_init__(self) -> None:
        self._check(check_count, "factor")

    def degrade(self, images: Any) -> Any:
        height, width, channels = images.shape[1:]
        is_divisor = not (height % self.factor or width % self.factor)
        require(is_divisor, "factor", f"a divisor of the size, {height}×{width}", self.factor)
        rows, columns = height // self.factor, width // self.factor
        blocks = ops.reshape(images, (-1, rows, self.factor, columns, self.factor, channels))
        return ops.mean(blocks, axis=(2, 4))

    def restore(self, known: Any) -> Any:
        return ops.repeat(ops.repeat(known, self.factor, axis=1), self.factor, axis=2)


class Grey(Degradation):
    """`A images = Σ weights * channels`, for colourisation of a grey image.

    Args:
        weights: Weight of each channel. Defaults to those of brightness, as in `load_images`.
    """

    weights: tuple[float, ...] = (0.2989, 0.587, 0.114)

    def __post_init__(self) -> None:
        self._check(lambda *args: tuple(check_list(*args).tolist()), "weights", 0, 1)

    def degrade(self, images: Any) -> Any:
        channels = images.shape[-1]
        allowed = f"one weight for each of the {channels} channels"
        require(len(self.weights) == channels, "weights", allowed, self.weights)
        weights = ops.cast(self.weights, images.dtype)
        return ops.sum(images * weights, axis=-1, keepdims=True)

    def restore(self, known: Any) -> Any:
        weights = np.array(self.weights)
        return known * ops.cast(weights / np.sum(weights**2), known.dtype)


DEGRADATIONS = {"identity": Identity, "block_average": BlockAverage, "grey": Grey}


def get(identifier: Any) -> Degradation:
    """A `Degradation` for one of the names of `DEGRADATIONS`, a configuration or a `Degradation`.

    None stands for `Identity()`.
    """
    return serialization.get("degradation", identifier, Degradation, DEGRADATIONS, Identity)


@dataclasses.dataclass(frozen=True, eq=False)
class Known:
    """Known pixels, which generated images keep exactly.

    Seams may remain, since known pixels influence the others only gradually. A stochastic sampler,
    with times by `keras_ddim.times.renoised`, reduces them.

    Args:
        images: The known images, one for all or one for each, floats in [0, 1] or integers in
            0..255; of the shape of degraded images.
        mask: 1 where `images` are known, 0 elsewhere: (height, width) or (num_images, height,
            width, 1). Defaults to None: known everywhere.
        degradation: A `Degradation` or its name, such as `BlockAverage(4)` to enlarge images four
            times, or "grey". Defaults to None: the images themselves.

    Example:

    ```python
    images = model.generate(4, 20, sampler="ddpm", known=Known(image, mask))
    large_images = model.generate(4, 20, known=Known(small_image, degradation=BlockAverage(2)))
    ```

    Reference:
        [Wang et al., 2022, Denoising Diffusion Null-Space
        Model](https://arxiv.org/abs/2212.00490)
    """

    images: Any
    mask: Any = None
    degradation: Any = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "degradation", get(self.degradation))

    def wrap(self, denoiser: Denoiser, model: Any) -> Denoiser:
        """The `DiffusionModel`'s `denoiser`, consistent with the known pixels."""
        return DataConsistent(denoiser, model.normalizer, self.degradation)

    def inputs(self, num_images: int, image_shape: tuple) -> dict[str, np.ndarray]:
        """The known images and their mask, float32 (num_images, ...), checked."""
        shape = tuple(self.degradation.degrade(ops.zeros((1, *image_shape))).shape)[1:]
        images = ops.convert_to_numpy(self.images)
        images = images[None] if images.ndim == len(shape) else images
        images = check_image_batch("images", images, shape)
        allowed = f"one image, or one for each of {num_images}"
        require(len(images) in (1, num_images), "images", allowed, images)
        mask_shape = (*shape[:2], 1)
        mask = np.ones(mask_shape) if self.mask is None else ops.convert_to_numpy(self.mask)
        allowed = f"of shape {shape[:2]} or {(num_images, *mask_shape)}"
        shapes = shape[:2], mask_shape, (1, *mask_shape), (num_images, *mask_shape)
        require(mask.shape in shapes, "mask", allowed, mask)
        mask = mask.reshape(-1, *mask_shape)
        values = np.unique(mask)
        require(np.isin(values, (0, 1)).all(), "mask", "1 or 0 at each pixel", values[:5].tolist())
        return {
            "known_images": np.broadcast_to(images, (num_images, *shape)).copy(),
            "known_mask": np.broadcast_to(mask, (num_images, *mask_shape)).astype("float32"),
        }

    def restore(self, images: np.ndarray, inputs: dict[str, np.ndarray]) -> np.ndarray:
        """Generated images with the known pixels once more, free of rounding by normalisation."""
        tensors = (ops.convert_to_tensor(inputs[name]) for name in ("known_images", "known_mask"))
        corrected = self.degradation.correct(ops.convert_to_tensor(images), *tensors)
        return ops.convert_to_numpy(corrected).clip(0.0, 1.0)


@dataclasses.dataclass(frozen=True)
class DataConsistent(Wrapper):
    """`pred_images + A⁺ known_mask (known_images - A pred_images)`, and the noises that follow.

    An approximation: for correlated Gaussian images, it corrects half to two thirds of the error of
    the unknown pixels' mean. With 8 repeats by `keras_ddim.times.renoised`, it corrects over 80 %.

    Call arguments:
        known_images: Known degraded images, in pixel values.
        known_mask: 1 where they are known, 0 elsewhere, (batch, height, width, 1).
    """

    normalizer: Normalizer
    degradation: Degradation

    def __call__(
        self, noisy_images: Any, log_snr: Any, known_images: Any, known_mask: Any, **per_image: Any
    ) -> tuple[Any, Any]:
        pred_noises, pred_images = self.denoiser(noisy_images, log_snr, **per_image)
        pixels = self.normalizer.denormalize(pred_images)
        corrected = self.degradation.correct(pixels, known_images, known_mask)
        # As a change, so that without known pixels nothing changes to the last bit.
        change = (corrected - pixels) / self.normalizer.deviation
        noise_change, image_change = separate(
            ops.zeros_like(noisy_images), change, *rates(log_snr), "image"
        )
        return pred_noises + noise_change, pred_images + image_change
