"""Networks: the embedding of the noise level, and U-Nets conditioned on it."""

import itertools
import math
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from keras_ddim.checks import (
    brief,
    check_count,
    check_image_shape,
    check_integers,
    check_keras,
    check_number,
    check_seed,
)
from keras_ddim.parts import PACKAGE

# A file may ask for any network. Weights of 1 GiB, channels, a frequency with digits of its phase.
LARGEST_NETWORK = 2**28
LARGEST_WIDTH = 2**14
LARGEST_FREQUENCY = 1e6


@keras.saving.register_keras_serializable(PACKAGE)
class SinusoidalEmbedding(layers.Layer):
    """`[sin(2πf₁x), …, sin(2πfₙx), cos(2πf₁x), …, cos(2πfₙx)]`, the frequencies log-spaced.

    Turns one number (the noise level) into a vector in which both large and small changes of it
    are easy to read for a network. Always computed in float32: at frequency 1000 bfloat16 has no
    digits of the phase left.

    Args:
        embedding_dims: Size of the embedding, an even number of at least 4. Defaults to 32.
        min_frequency: Lowest frequency, positive. Defaults to 1.
        max_frequency: Highest frequency, above the lowest. Defaults to 1000.
        **kwargs: Keyword arguments of `keras.layers.Layer`.

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
        self.embedding_dims = check_count("embedding_dims", embedding_dims, 4, LARGEST_WIDTH)
        if embedding_dims % 2:
            raise ValueError(
                f"`embedding_dims` must be even. Received: embedding_dims={embedding_dims}"
            )
        self.max_frequency = check_number(
            "max_frequency", max_frequency, above=0, high=LARGEST_FREQUENCY
        )
        self.min_frequency = check_number(
            "min_frequency", min_frequency, above=0, below=self.max_frequency
        )
        frequencies = np.geomspace(self.min_frequency, self.max_frequency, self.embedding_dims // 2)
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


class UNet(keras.Model):
    """What the U-Nets share.

    They are saved as their arguments, so that a file does not depend on how a version of Keras
    describes its layers; subclasses hand these to `_keep`, once they are built. The last layer
    starts at zero and stays float32 under every dtype policy.

    On several devices, their batch normalization is Keras's: under `tf.distribute` each replica
    normalizes by the statistics of its own part of the batch, and keeps moving ones of its own, of
    which those of the first are saved; under `keras.distribution` on JAX, and on one device, it is
    the whole batch. So parts of a batch should not be very small.

    Args:
        image_shape: (height, width, channels); height and width divisible by
            `2 ** (len(widths) - 1)`, not necessarily equal.
        widths: Channels of each level, from full resolution down.
        block_depth: Residual blocks of each level and direction.
        num_classes: Number of classes of images, for a network with the labels as third input; the
            label `num_classes` stands for "any". Defaults to None: no labels.
        images_seen: Number of images that it is given to predict from, laid over each other as
            channels; 2 for `DiffusionModel(preconditioning="spectral")`. Defaults to 1.
        embedding_dims: Size of the noise level's embedding. Defaults to 32.
        max_frequency: Highest frequency of that embedding; the lowest is 1.
        seed: Integer that makes the initial weights reproducible, or None (Keras's global seed).
        dtype: Dtype policy of the body, such as "mixed_bfloat16"; None for Keras's global one.
        name: Name of the Keras model. Defaults to None: that of the class, numbered.

    Call arguments:
        inputs: `[noisy_images, noise_variances]`, of shapes (batch, height, width, channels) and
            (batch, 1, 1, 1); with `num_classes`, integers (batch,) as well.

    Returns:
        What is to be predicted, float32, shaped as `noisy_images`.

    Raises:
        ValueError: If the sizes do not fit together; the message says which do.
    """

    arguments: dict[str, Any]

    def _keep(self, **arguments: Any) -> None:
        self.arguments = {k: list(v) if isinstance(v, tuple) else v for k, v in arguments.items()}

    @property
    def num_classes(self) -> int | None:
        """Number of classes that labels name; None of a network that takes none."""
        return self.arguments["num_classes"]

    def get_config(self) -> dict:
        return {"name": self.name, **self.arguments}

    @classmethod
    def from_config(cls, config: dict, custom_objects: Any = None) -> "UNet":
        return cls(**config)


@keras.saving.register_keras_serializable(PACKAGE)
class ResidualUNet(UNet):
    """A residual U-Net taking `[noisy_images, noise_variances]` to the predicted noises.

    Each level has `block_depth` residual blocks on the way down and as many on the way up, with
    skip connections between them; the embeddings of the noise level and of labels are laid under
    the image as further channels. The defaults are the network of the Keras DDIM example: 1,953,507
    parameters at 64×64×3. For better pictures in the same time, see `ModulatedUNet`.

    Args:
        image_shape, num_classes, images_seen, embedding_dims, seed, dtype, name: See `UNet`.
        widths: Channels of each level. Defaults to (32, 64, 96, 128).
        block_depth: Residual blocks of each level and direction. Defaults to 2.
        max_frequency: Highest frequency of the embedding. Defaults to 1000.

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
        num_classes: int | None = None,
        images_seen: int = 1,
        embedding_dims: int = 32,
        max_frequency: float = 1000.0,
        *,
        seed: int | None = None,
        dtype: Any = None,
        name: str | None = None,
    ) -> None:
        image_shape, widths, num_classes = check_sizes(
            image_shape, widths, block_depth, num_classes
        )
        make = _Layers(seed, dtype)
        inputs = _make_inputs(image_shape, images_seen, num_classes)
        embedding = SinusoidalEmbedding(embedding_dims, max_frequency=max_frequency)
        embeddings = [embedding(inputs[1])]
        if num_classes is not None:
            label = make.embedding(num_classes + 1, embedding_dims)(inputs[2])
            embeddings.append(label[:, None, None])
        maps = [make.upsample(image_shape[:2], "nearest")(vector) for vector in embeddings]

        def block(x: Any, filters: int) -> Any:
            shortcut = x if x.shape[-1] == filters else make.conv(filters, 1)(x)
            x = make.normalization()(x)
            x = make.conv(filters, 3, activation=swish)(x)
            return make.conv(filters, 3)(x) + shortcut

        def upsample(x: Any, filters: int) -> Any:
            return make.upsample(2, "bilinear")(x)

        x = ops.concatenate([make.conv(widths[0], 1)(inputs[0]), *maps], axis=-1)
        x = _u_net(x, widths, block_depth, block, upsample)
        pred_noises = make.last_conv(image_shape[-1], 1)(x)
        super().__init__(inputs, pred_noises, name=name)
        self._keep(
            image_shape=image_shape,
            widths=widths,
            block_depth=block_depth,
            num_classes=num_classes,
            images_seen=images_seen,
            embedding_dims=embedding_dims,
            max_frequency=max_frequency,
            seed=make.seed,
            dtype=make.dtype,
        )


@keras.saving.register_keras_serializable(PACKAGE)
class ModulatedUNet(UNet):
    """A residual U-Net that is scaled and shifted by the noise level in every block.

    `block(x) = shortcut(x) + conv(swish(scale * conv(normalize(x)) + shift))`: scale and shift, one
    of each for every channel, come from the noise level by two dense layers. It makes better
    pictures than `ResidualUNet` in the same time, in which the level only enters with the image;
    with its defaults it is the network of `keras_ddim.recipe`.

    Args:
        image_shape, num_classes, images_seen, embedding_dims, seed, dtype, name: See `UNet`.
        widths: Channels of each level. Defaults to (16, 32, 64, 128).
        block_depth: Residual blocks of each level and direction. Defaults to 1.
        max_frequency: Highest frequency of the embedding. Defaults to 32.
        modulation_dims: Width of the dense layers. Defaults to 128.

    Example:

    >>> network = keras_ddim.ModulatedUNet((48, 96, 3), widths=(16, 32, 64))

    Reference:
        [Perez et al., 2017, FiLM](https://arxiv.org/abs/1709.07871),
        [Dhariwal & Nichol, 2021](https://arxiv.org/abs/2105.05233)
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        widths: tuple[int, ...] = (16, 32, 64, 128),
        block_depth: int = 1,
        num_classes: int | None = None,
        images_seen: int = 1,
        embedding_dims: int = 32,
        max_frequency: float = 32.0,
        modulation_dims: int = 128,
        *,
        seed: int | None = None,
        dtype: Any = None,
        name: str | None = None,
    ) -> None:
        image_shape, widths, num_classes = check_sizes(
            image_shape, widths, block_depth, num_classes
        )
        make = _Layers(seed, dtype)
        inputs = _make_inputs(image_shape, images_seen, num_classes)
        embedding = SinusoidalEmbedding(embedding_dims, max_frequency=max_frequency)
        level = layers.Flatten()(embedding(inputs[1]))
        check_count("modulation_dims", modulation_dims, most=LARGEST_WIDTH)
        level = make.dense(modulation_dims, activation=swish)(level)
        if num_classes is not None:
            level = level + make.embedding(num_classes + 1, modulation_dims)(inputs[2])
        level = make.dense(modulation_dims, activation=swish)(level)

        def block(x: Any, filters: int) -> Any:
            shortcut = x if x.shape[-1] == filters else make.conv(filters, 1)(x)
            x = make.conv(filters, 3)(make.normalization(momentum=0.95)(x))
            scale, shift = (
                make.dense(filters, kernel_initializer="zeros", bias_initializer=start)(level)
                for start in ("ones", "zeros")
            )
            x = swish(x * scale[:, None, None] + shift[:, None, None])
            return make.conv(filters, 3)(x) + shortcut

        def upsample(x: Any, filters: int) -> Any:
            return make.upsample(2, "bilinear")(make.conv(filters, 1)(x))

        x = make.conv(widths[0], 3)(inputs[0])
        x = _u_net(x, widths, block_depth, block, upsample)
        super().__init__(inputs, make.last_conv(image_shape[-1], 3)(x), name=name)
        self._keep(
            image_shape=image_shape,
            widths=widths,
            block_depth=block_depth,
            num_classes=num_classes,
            images_seen=images_seen,
            embedding_dims=embedding_dims,
            max_frequency=max_frequency,
            modulation_dims=modulation_dims,
            seed=make.seed,
            dtype=make.dtype,
        )


def swish(x: Any) -> Any:
    """`x * sigmoid(x)`. TensorFlow's own keeps each graph that it was traced in for ever."""
    return x * ops.sigmoid(x)


def check_sizes(
    image_shape: Any, widths: Any, block_depth: Any, num_classes: Any
) -> tuple[tuple[int, int, int], tuple[int, ...], int | None]:
    check_keras()
    image_shape = check_image_shape(image_shape)
    widths = check_integers("widths", widths, most=LARGEST_WIDTH)
    block_depth = check_count("block_depth", block_depth, most=100)
    if num_classes is not None:
        num_classes = check_count("num_classes", num_classes, most=1_000_000)
    # A block has two convolutions of 3×3, and is there on the way down and on the way up.
    weights = 45 * block_depth * sum(width**2 for width in widths)
    if weights > LARGEST_NETWORK:
        raise ValueError(
            f"`widths` and `block_depth` must make at most {LARGEST_NETWORK:,} weights. "
            f"Received: widths={brief(widths)} and block_depth={block_depth}, about {weights:,}"
        )
    multiple = 2 ** (len(widths) - 1)
    height, width, _ = image_shape
    if height % multiple or width % multiple:
        fitting = [max(multiple, round(size / multiple) * multiple) for size in (height, width)]
        raise ValueError(
            f"`image_shape` must have a height and width divisible by {multiple}, as the network "
            f"has {len(widths)} levels (widths={widths}); the nearest that fits is "
            f"{fitting[0]}x{fitting[1]}. Received: image_shape={image_shape}"
        )
    return image_shape, widths, num_classes


def _make_inputs(
    image_shape: tuple[int, int, int], images_seen: int, num_classes: int | None
) -> list[Any]:
    """Noisy images, their noise level and, where there are classes, their labels."""
    height, width, channels = image_shape
    seen = height, width, channels * check_count("images_seen", images_seen, most=100)
    inputs = [
        keras.Input(seen, dtype="float32", name="noisy_images"),
        keras.Input((1, 1, 1), dtype="float32", name="noise_variances"),
    ]
    if num_classes is not None:
        inputs.append(keras.Input((), dtype="int32", name="labels"))
    return inputs


class _Layers:
    """Makes the layers of one network: of its dtype policy, and reproducible if it has a seed.

    They are numbered within the network: of every further name of a variable, as Keras's numbers
    make them, TensorFlow keeps some kilobytes for ever.
    """

    def __init__(self, seed: int | None, dtype: Any) -> None:
        self.seed = check_seed(seed)
        self.dtype = _policy_name(dtype)
        # None for None: Keras's global seed.
        states = None if seed is None else np.random.SeedSequence(self.seed).generate_state(1000)
        self.seeds = itertools.repeat(None) if states is None else map(int, states)
        self.numbers = itertools.count(1)

    def _common(self, kind: str) -> dict[str, Any]:
        return {"name": f"{kind}_{next(self.numbers)}", "dtype": self.dtype}

    def _with_kernel(self, kind: str) -> dict[str, Any]:
        initializer = keras.initializers.GlorotUniform(next(self.seeds))
        return {"kernel_initializer": initializer, **self._common(kind)}

    def conv(self, filters: int, kernel_size: int, **kwargs: Any) -> Any:
        kwargs = {**self._with_kernel("conv"), **kwargs}
        return layers.Conv2D(filters, kernel_size, padding="same", **kwargs)

    def last_conv(self, filters: int, kernel_size: int) -> Any:
        # Zero at first, so that training starts from nothing predicted instead of a random guess.
        return self.conv(filters, kernel_size, kernel_initializer="zeros", dtype="float32")

    def dense(self, units: int, **kwargs: Any) -> Any:
        return layers.Dense(units, **{**self._with_kernel("dense"), **kwargs})

    def embedding(self, count: int, units: int) -> Any:
        return layers.Embedding(count, units, "zeros", **self._common("embedding"))

    def normalization(self, momentum: float = 0.99) -> Any:
        return layers.BatchNormalization(
            momentum=momentum, center=False, scale=False, **self._common("normalization")
        )

    def upsample(self, size: Any, interpolation: str) -> Any:
        return layers.UpSampling2D(size, interpolation=interpolation, **self._common("upsampling"))


def _policy_name(dtype: Any) -> str:
    try:
        policy = keras.config.dtype_policy() if dtype is None else keras.dtype_policies.get(dtype)
        return policy.name
    except (AttributeError, TypeError, ValueError) as error:
        raise ValueError(
            '`dtype` must be a dtype policy, such as "mixed_bfloat16". '
            f"Received: dtype={brief(dtype)}"
        ) from error


def _u_net(
    x: Any, widths: tuple[int, ...], block_depth: int, block: Callable, upsample: Callable
) -> Any:
    """Blocks on the way down and up, each of those up beside what its twin down returned."""
    skips = []
    for filters in widths[:-1]:
        for _ in range(block_depth):
            x = block(x, filters)
            skips.append(x)
        x = ops.average_pool(x, 2, 2)
    for _ in range(block_depth):
        x = block(x, widths[-1])
    for filters in reversed(widths[:-1]):
        x = upsample(x, filters)
        for _ in range(block_depth):
            x = block(ops.concatenate([x, skips.pop()], axis=-1), filters)
    return x
