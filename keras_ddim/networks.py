"""Networks: the embedding of the noise level, and the residual U-Net that is told it."""

import math

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

    def __init__(self, embedding_dims=32, min_frequency=1.0, max_frequency=1000.0, **kwargs):
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

    def call(self, inputs):
        angles = inputs * self.angular_speeds
        return ops.concatenate([ops.sin(angles), ops.cos(angles)], axis=-1)

    def compute_output_shape(self, input_shape):
        return (*input_shape[:-1], self.embedding_dims)

    def get_config(self):
        return {
            **super().get_config(),
            "embedding_dims": self.embedding_dims,
            "min_frequency": self.min_frequency,
            "max_frequency": self.max_frequency,
        }


def residual_unet(
    image_shape,
    widths=(32, 64, 96, 128),
    block_depth=2,
    embedding_dims=32,
    max_frequency=1000.0,
    *,
    seed=None,
    dtype=None,
    name="residual_unet",
):
    """A residual U-Net taking `[noisy_images, noise_variances]` to the predicted noises.

    Each level has `block_depth` residual blocks on the way down and as many on the way up, with
    skip connections between them; the noise level is embedded and laid under the image as further
    channels. The last layer starts at zero and stays float32 under every dtype policy. The
    defaults are the network of the Keras DDIM example: 1,953,507 parameters at 64×64×3.

    Args:
        image_shape: (height, width, channels); height and width divisible by
            `2 ** (len(widths) - 1)`, not necessarily equal; 1, 3 or 4 channels.
        widths: Channels of each level, from full resolution down. Defaults to (32, 64, 96, 128).
        block_depth: Residual blocks of each level and direction. Defaults to 2.
        embedding_dims: Size of the noise level's embedding. Defaults to 32.
        max_frequency: Highest frequency of that embedding; the lowest is 1. Defaults to 1000.
        seed: Integer that makes the initial weights reproducible, or None (Keras's global seed).
        dtype: Dtype policy of the body, such as "mixed_bfloat16"; None for Keras's global one.
        name: Name of the Keras model. Defaults to "residual_unet".

    Returns:
        A functional `keras.Model` with inputs `noisy_images` (batch, height, width, channels) and
        `noise_variances` (batch, 1, 1, 1), and an output shaped as `noisy_images`.

    Raises:
        ValueError: If the sizes do not fit together; the message says which do.

    Example:

    >>> network = keras_ddim.residual_unet((48, 96, 3), widths=(16, 32, 64))

    Reference:
        [Ronneberger et al., 2015](https://arxiv.org/abs/1505.04597),
        [Ho et al., 2020](https://arxiv.org/abs/2006.11239)
    """
    height, width, channels = check_image_shape(image_shape)
    widths = check_integers("widths", widths)
    block_depth = check_count("block_depth", block_depth)
    seed = check_seed(seed)
    multiple = 2 ** (len(widths) - 1)
    if height % multiple or width % multiple:
        fitting = [max(multiple, round(size / multiple) * multiple) for size in (height, width)]
        raise ValueError(
            f"`image_shape` must have a height and width divisible by {multiple}, as the network "
            f"has {len(widths)} levels (widths={widths}); the nearest that fits is "
            f"{fitting[0]}x{fitting[1]}. Received: image_shape={tuple(image_shape)}"
        )
    if channels not in (1, 3, 4):
        raise ValueError(
            "`image_shape` must have 1 (grey), 3 (RGB) or 4 (RGBA) channels. "
            f"Received: image_shape={tuple(image_shape)}"
        )

    seeds = iter(np.random.SeedSequence(seed).generate_state(1000)) if seed is not None else None

    def conv(filters, kernel_size, **kwargs):
        initializer = keras.initializers.GlorotUniform(None if seeds is None else int(next(seeds)))
        kwargs = {"kernel_initializer": initializer, "dtype": dtype, **kwargs}
        return layers.Conv2D(filters, kernel_size, padding="same", **kwargs)

    def residual_block(x, filters):
        shortcut = x if x.shape[-1] == filters else conv(filters, 1)(x)
        x = layers.BatchNormalization(center=False, scale=False, dtype=dtype)(x)
        x = conv(filters, 3, activation="swish")(x)
        x = conv(filters, 3)(x)
        return layers.Add(dtype=dtype)([x, shortcut])

    noisy_images = keras.Input((height, width, channels), dtype="float32", name="noisy_images")
    noise_variances = keras.Input((1, 1, 1), dtype="float32", name="noise_variances")

    embedding = SinusoidalEmbedding(embedding_dims, max_frequency=max_frequency)(noise_variances)
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
    pred_noises = conv(channels, 1, kernel_initializer="zeros", dtype="float32")(x)
    return keras.Model([noisy_images, noise_variances], pred_noises, name=name)
