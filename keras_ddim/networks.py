"""Networks: the embedding of the noise level, and the residual U-Net conditioned on it."""

import math
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from keras_ddim.checks import check_count, check_image_shape, check_integers, check_seed
from keras_ddim.parts import PACKAGE


@keras.saving.register_keras_serializable(PACKAGE)
class SinusoidalEmbedding(layers.Layer):
    """`[sin(2πf₁x), …, sin(2πfₙx), cos(2πf₁x), …, cos(2πfₙx)]`, the frequencies log-spaced.

    Turns one number (the noise level) into a vector in which both large and small changes of it
    are easy to read for a network. Always computed in float32: at frequency 1000 bfloat16 has no
    digits of the phase left.

    Args:
        embedding_dims: Size of the embedding, an even number of at least 4. Defaults to 32.
        min_frequency: Lowest frequency. Defaults to 1.
        max_frequency: Highest frequency. Defaults to 1000.
        **kwargs: Keyword arguments of `keras.layers.Layer`.

    Input shape:
        (..., 1), such as (batch, 1, 1, 1).

    Output shape:
        (..., embedding_dims).

    Raises:
        ValueError: If `embedding_dims` is odd or below 4, or the frequencies are not increasing
            and positive.

    Example:

    >>> keras_ddim.SinusoidalEmbedding()(np.zeros((2, 1, 1, 1))).shape
    (2, 1, 1, 32)

    Reference:
        [Vaswani et al., 2017](https://arxiv.org/abs/1706.03762),
        [Ho et al., 2020](https://arxiv.org/abs/2006.11239)
    """

    def __init__(
        self,
        embedding_dims: int = 32,
        min_frequency: float = 1.0,
        max_frequency: float = 1000.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**{**kwargs, "dtype": "float32"})
        if embedding_dims < 4 or embedding_dims % 2:
            raise ValueError(
                "`embedding_dims` must be an even number of at least 4. "
                f"Received: embedding_dims={embedding_dims}"
            )
        if not 0 < min_frequency < max_frequency:
            raise ValueError(
                "`min_frequency` and `max_frequency` must satisfy 0 < min_frequency < "
                f"max_frequency. Received: min_frequency={min_frequency}, "
                f"max_frequency={max_frequency}"
            )
        self.embedding_dims = embedding_dims
        self.min_frequency = min_frequency
        self.max_frequency = max_frequency
        frequencies = np.geomspace(min_frequency, max_frequency, embedding_dims // 2)
        self.angular_speeds = (2 * math.pi * frequencies).astype("float32")

    def call(self, inputs: Any) -> Any:
        angles = inputs * self.angular_speeds
        return ops.concatenate([ops.sin(angles), ops.cos(angles)], axis=-1)

    def compute_output_shape(self, input_shape: tuple) -> tuple:
        return (*input_shape[:-1], self.embedding_dims)

    def get_config(self) -> dict:
        return {
            **super().get_config(),
            "embedding_dims": self.embedding_dims,
            "min_frequency": self.min_frequency,
            "max_frequency": self.max_frequency,
        }


@keras.saving.register_keras_serializable(PACKAGE)
class ResidualUNet(keras.Model):
    """A residual U-Net taking `[noisy_images, noise_variances]` to the predicted noises.

    Each level has `block_depth` residual blocks on the way down and as many on the way up, with
    skip connections between them; the noise level is embedded and laid under the image as further
    channels. The last layer starts at zero and stays float32 under every dtype policy. The
    defaults are the network of the Keras DDIM example: 1,953,507 parameters at 64×64×3.

    On several devices, its batch normalization is Keras's: under `tf.distribute` each replica
    normalizes by the statistics of its own part of the batch, and keeps moving ones of its own, of
    which those of the first are saved; under `keras.distribution` on JAX, and on one device, it is
    the whole batch. So parts of a batch should not be very small.

    It is saved as these arguments, so that a file does not depend on how a version of Keras
    describes its layers.

    Args:
        image_shape: (height, width, channels); height and width divisible by
            `2 ** (len(widths) - 1)`, not necessarily equal.
        widths: Channels of each level, from full resolution down. Defaults to (32, 64, 96, 128).
        block_depth: Residual blocks of each level and direction. Defaults to 2.
        embedding_dims: Size of the noise level's embedding. Defaults to 32.
        max_frequency: Highest frequency of that embedding; the lowest is 1. Defaults to 1000.
        seed: Integer that makes the initial weights reproducible, or None (Keras's global seed).
        dtype: Dtype policy of the body, such as "mixed_bfloat16"; None for Keras's global one.
        name: Name of the Keras model. Defaults to None: "residual_u_net", numbered.

    Call arguments:
        inputs: `[noisy_images, noise_variances]`, of shapes (batch, height, width, channels) and
            (batch, 1, 1, 1).

    Returns:
        The predicted noises, float32, shaped as `noisy_images`.

    Raises:
        ValueError: If the sizes do not fit together; the message says which do.

    Example:

    >>> network = keras_ddim.ResidualUNet((48, 96, 3), widths=(16, 32, 64))

    Reference:
        [Ronneberger et al., 2015](https://arxiv.org/abs/1505.04597),
        [Ho et al., 2020](https://arxiv.org/abs/2006.11239)
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        widths: tuple[int, ...] = (32, 64, 96, 128),
        block_depth: int = 2,
        embedding_dims: int = 32,
        max_frequency: float = 1000.0,
        *,
        seed: int | None = None,
        dtype: Any = None,
        name: str | None = None,
    ) -> None:
        image_shape = check_image_shape(image_shape)
        widths = check_integers("widths", widths)
        block_depth = check_count("block_depth", block_depth)
        seed = check_seed(seed)
        policy = keras.dtype_policies.get(dtype or keras.config.dtype_policy())
        _check_levels_fit(image_shape, widths)

        noisy_images = keras.Input(image_shape, dtype="float32", name="noisy_images")
        noise_variances = keras.Input((1, 1, 1), dtype="float32", name="noise_variances")
        embedding = SinusoidalEmbedding(embedding_dims, max_frequency=max_frequency)
        pred_noises = _residual_unet(
            noisy_images, embedding(noise_variances), widths, block_depth, seed, policy.name
        )
        super().__init__([noisy_images, noise_variances], pred_noises, name=name)
        self.arguments = {
            "image_shape": list(image_shape),
            "widths": list(widths),
            "block_depth": block_depth,
            "embedding_dims": embedding_dims,
            "max_frequency": max_frequency,
            "seed": seed,
            "dtype": policy.name,
        }

    def get_config(self) -> dict:
        return {"name": self.name, **self.arguments}

    @classmethod
    def from_config(cls, config: dict, custom_objects: Any = None) -> "ResidualUNet":
        return cls(**config)


def swish(x: Any) -> Any:
    """`x * sigmoid(x)`. TensorFlow's own keeps each graph that it was traced in for ever."""
    return x * ops.sigmoid(x)


def _check_levels_fit(image_shape: tuple[int, ...], widths: tuple[int, ...]) -> None:
    multiple = 2 ** (len(widths) - 1)
    height, width, _ = image_shape
    if height % multiple or width % multiple:
        fitting = [max(multiple, round(size / multiple) * multiple) for size in (height, width)]
        raise ValueError(
            f"`image_shape` must have a height and width divisible by {multiple}, as the network "
            f"has {len(widths)} levels (widths={widths}); the nearest that fits is "
            f"{fitting[0]}x{fitting[1]}. Received: image_shape={image_shape}"
        )


def _residual_unet(
    noisy_images: Any,
    embedding: Any,
    widths: tuple[int, ...],
    block_depth: int,
    seed: int | None,
    dtype: str,
) -> Any:
    """The predicted noises as a Keras tensor."""
    height, width, channels = noisy_images.shape[1:]
    seeds = iter(np.random.SeedSequence(seed).generate_state(1000)) if seed is not None else None

    def conv(filters: int, kernel_size: int, **kwargs: Any) -> Any:
        initializer = keras.initializers.GlorotUniform(None if seeds is None else int(next(seeds)))
        kwargs = {"kernel_initializer": initializer, "dtype": dtype, **kwargs}
        return layers.Conv2D(filters, kernel_size, padding="same", **kwargs)

    def residual_block(x: Any, filters: int) -> Any:
        shortcut = x if x.shape[-1] == filters else conv(filters, 1)(x)
        x = layers.BatchNormalization(center=False, scale=False, dtype=dtype)(x)
        x = conv(filters, 3, activation=swish)(x)
        x = conv(filters, 3)(x)
        return layers.Add(dtype=dtype)([x, shortcut])

    embedding = layers.UpSampling2D((height, width), interpolation="nearest", dtype=dtype)(
        embedding
    )
    x = conv(widths[0], 1)(noisy_images)
    x = layers.Concatenate(dtype=dtype)([x, embedding])

    skips = []
    for filters in widths[:-1]:
        for _ in range(block_depth):
            x = residual_block(x, filters)
            skips.append(x)
        x = layers.AveragePooling2D(2, dtype=dtype)(x)

    for _ in range(block_depth):
        x = residual_block(x, widths[-1])

    for filters in reversed(widths[:-1]):
        x = layers.UpSampling2D(2, interpolation="bilinear", dtype=dtype)(x)
        for _ in range(block_depth):
            x = layers.Concatenate(dtype=dtype)([x, skips.pop()])
            x = residual_block(x, filters)

    # Zero at first, so that training starts from "no noise found" instead of a random guess.
    return conv(channels, 1, kernel_initializer="zeros", dtype="float32")(x)
