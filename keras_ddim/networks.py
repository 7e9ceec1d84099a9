"""Networks: the embedding of the noise level, and U-Nets conditioned on it."""

import itertools
import math
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import layers, ops
from keras.initializers import GlorotUniform

from keras_ddim.checks import (
    check_choice,
    check_count,
    check_image_shape,
    check_number,
    check_seed,
    require,
)
from keras_ddim.serialization import PACKAGE

# A file may ask for any network; 1 GiB of weights is the limit.
LARGEST_NETWORK = 2**28


@keras.saving.register_keras_serializable(PACKAGE)
class SinusoidalEmbedding(layers.Layer):
    """`[sin(2πf₁x), …, sin(2πfₙx), cos(2πf₁x), …, cos(2πfₙx)]`, the frequencies log-spaced.

    Turns a number (the noise level) into a vector in which both large and small changes show.
    Computed in float32, since bfloat16 has no digits of the phase left at frequency 1000.

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
        self.embedding_dims = check_count("embedding_dims", embedding_dims, 4)
        require(embedding_dims % 2 == 0, "embedding_dims", "even", embedding_dims)
        self.max_frequency = check_number("max_frequency", max_frequency, above=0)
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
    """The common part of the U-Nets; subclasses implement `_begin`.

    They are saved as their arguments and the names of frozen layers, so files load under other
    versions of Keras. The last layer starts at zero and stays float32 under every dtype policy.

    Under `tf.distribute`, batch normalization uses the statistics of each replica's part of the
    batch and saves the first replica's. Under `keras.distribution` on JAX, it uses the statistics
    of the whole batch.

    Args:
        image_shape: (height, width, channels); height and width divisible by
            `2 ** (len(widths) - 1)`, not necessarily equal.
        widths: Channels of each level, from full resolution down.
        block_depth: Residual blocks of each level and direction.
        num_classes: Number of classes of images, for a network with the labels as third input. The
            label `num_classes` stands for the null class. Defaults to None: no labels.
        max_frequency: Highest frequency of the noise level's embedding; the lowest is 1.
        images_seen: Number of images to predict from, concatenated along channels; 2 for
            `DiffusionModel(preconditioning="spectral")`. Defaults to 1.
        embedding_dims: Size of the noise level's embedding. Defaults to 32.
        next_level: Whether the network is also conditioned on the noise level that a step goes to,
            by one more input after the present one. Defaults to False.
        seed: Integer that makes the initial weights reproducible, or None (Keras's global seed).
        dtype: Dtype policy of the body, such as "mixed_bfloat16"; None for Keras's global one.
        name: Name of the Keras model. Defaults to None: that of the class, numbered.

    Call arguments:
        inputs: `[noisy_images, noise_variances]`, of shapes (batch, height, width, channels) and
            (batch, 1, 1, 1); with `next_level`, the next noise variances, and with `num_classes`,
            integers (batch,) as well.

    Returns:
        The prediction, float32, shaped as `noisy_images`.

    Raises:
        ValueError: If the sizes do not fit together; the message says which do.
    """

    last_kernel_size = 3

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        widths: tuple[int, ...],
        block_depth: int,
        num_classes: int | None,
        max_frequency: float,
        *,
        images_seen: int = 1,
        embedding_dims: int = 32,
        next_level: bool = False,
        seed: int | None = None,
        dtype: Any = None,
        name: str | None = None,
        **own: Any,
    ) -> None:
        height, width, channels = check_sizes(image_shape, widths, block_depth, num_classes)
        make = _Layers(seed, dtype, num_classes)
        inputs = [
            keras.Input((height, width, channels * images_seen), name="noisy_images"),
            keras.Input((1, 1, 1), name="noise_variances"),
        ]
        if check_choice("next_level", next_level, (False, True)):
            inputs.append(keras.Input((1, 1, 1), name="next_noise_variances"))
        embed = SinusoidalEmbedding(embedding_dims, max_frequency=max_frequency)
        levels = [embed(x) for x in inputs[1:]]
        labels = []
        if num_classes is not None:
            labels.append(keras.Input((), dtype="int32", name="labels"))
        x, block, upsample = self._begin(make, inputs[0], levels, labels, widths[0], **own)
        x = _u_net(x, widths, block_depth, block, upsample)
        # Zero at first: training starts from no prediction instead of a random one.
        zeros = {"kernel_initializer": "zeros", "dtype": "float32"}
        outputs = make.conv(channels, self.last_kernel_size, **zeros)(x)
        super().__init__([*inputs, *labels], outputs, name=name)
        self.arguments = {
            "image_shape": [height, width, channels],
            "widths": [int(width) for width in widths],
            "block_depth": block_depth,
            "num_classes": num_classes,
            "max_frequency": max_frequency,
            "images_seen": images_seen,
            "embedding_dims": embedding_dims,
            "next_level": next_level,
            "seed": make.seed,
            "dtype": make.dtype,
            **own,
        }

    def _begin(
        self, make: "_Layers", noisy_images: Any, levels: list, labels: list, width: int
    ) -> tuple:
        """`(x, block, upsample)`: the output of the first layer, and functions that add layers.

        `levels` are embedded, the present one and maybe the next; `labels` hold one tensor or none.
        """
        raise NotImplementedError

    @property
    def num_classes(self) -> int | None:
        """Number of classes that labels name, or None."""
        return self.arguments["num_classes"]

    def get_config(self) -> dict:
        frozen = [layer.name for layer in self.layers if layer.weights and not layer.trainable]
        frozen = frozen if self.trainable else [self.name]
        return {"name": self.name, **self.arguments, "frozen": frozen}

    @classmethod
    def from_config(cls, config: dict, custom_objects: Any = None) -> "UNet":
        config = dict(config)
        frozen = config.pop("frozen", [])
        # Blocks have two convolutions of 3×3, and are there on the way down and on the way up.
        blocks = 45 * config.get("block_depth", 2) * sum(w**2 for w in config.get("widths", ()))
        dims = max(config.get("embedding_dims", 32), config.get("modulation_dims", 128))
        weights = blocks + dims * (dims + (config.get("num_classes") or 0))
        require(weights <= LARGEST_NETWORK, "config", "of a smaller network", config)
        network = cls(**config)
        for layer in [network, *network.layers]:
            if layer.name in frozen:
                layer.trainable = False
        return network


@keras.saving.register_keras_serializable(PACKAGE)
class ResidualUNet(UNet):
    """A residual U-Net from `[noisy_images, noise_variances]` to the prediction.

    Each level has `block_depth` residual blocks on the way down and as many on the way up, with
    skip connections between them. The embeddings of the noise level and of labels are concatenated
    to the image as further channels. The defaults are the network of the Keras DDIM example, with
    1,953,507 parameters at 64×64×3. For better pictures in the same time, see `ModulatedUNet`.

    Args:
        image_shape, num_classes: See `UNet`.
        widths: Channels of each level. Defaults to (32, 64, 96, 128).
        block_depth: Residual blocks of each level and direction. Defaults to 2.
        max_frequency: Highest frequency of the embedding. Defaults to 1000.
        **kwargs: `images_seen`, `embedding_dims`, `seed`, `dtype` and `name`; see `UNet`.

    Example:

    >>> network = keras_ddim.ResidualUNet((48, 96, 3), widths=(16, 32, 64))

    Reference:
        [Ronneberger et al., 2015](https://arxiv.org/abs/1505.04597),
        [Ho et al., 2020](https://arxiv.org/abs/2006.11239)
    """

    last_kernel_size = 1

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        widths: tuple[int, ...] = (32, 64, 96, 128),
        block_depth: int = 2,
        num_classes: int | None = None,
        max_frequency: float = 1000.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(image_shape, widths, block_depth, num_classes, max_frequency, **kwargs)

    def _begin(
        self, make: "_Layers", noisy_images: Any, levels: list, labels: list, width: int
    ) -> tuple:
        vectors = [label[:, None, None] for label in make.embed(labels, levels[0].shape[-1])]
        size = noisy_images.shape[1:3]
        maps = [make.upsample(size, "nearest")(vector) for vector in (*levels, *vectors)]

        def block(x: Any, filters: int) -> Any:
            shortcut = x if x.shape[-1] == filters else make.conv(filters, 1)(x)
            x = make.normalization()(x)
            x = make.conv(filters, 3, activation=swish)(x)
            return make.conv(filters, 3)(x) + shortcut

        def upsample(x: Any, filters: int) -> Any:
            return make.upsample(2, "bilinear")(x)

        x = ops.concatenate([make.conv(width, 1)(noisy_images), *maps], axis=-1)
        return x, block, upsample


@keras.saving.register_keras_serializable(PACKAGE)
class ModulatedUNet(UNet):
    """A residual U-Net that is scaled and shifted by the noise level in every block.

    `block(x) = shortcut(x) + conv(swish(scale * conv(normalize(x)) + shift))`. Two dense layers
    compute the scale and shift of each channel from the noise level. Images are better than those
    of `ResidualUNet` after the same time. With its defaults, it is the network of
    `keras_ddim.recipe`.

    Args:
        image_shape, num_classes: See `UNet`.
        widths: Channels of each level. Defaults to (16, 32, 64, 128).
        block_depth: Residual blocks of each level and direction. Defaults to 1.
        max_frequency: Highest frequency of the embedding. Defaults to 32.
        modulation_dims: Width of the dense layers. Defaults to 128.
        **kwargs: `images_seen`, `embedding_dims`, `next_level`, `seed`, `dtype` and `name`; see
            `UNet`. The next level enters by a layer of zeros, so that it has no effect before
            training.

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
        max_frequency: float = 32.0,
        modulation_dims: int = 128,
        **kwargs: Any,
    ) -> None:
        kwargs["modulation_dims"] = check_count("modulation_dims", modulation_dims)
        super().__init__(image_shape, widths, block_depth, num_classes, max_frequency, **kwargs)

    def _begin(  # type: ignore[override]
        self,
        make: "_Layers",
        noisy_images: Any,
        levels: list,
        labels: list,
        width: int,
        modulation_dims: int,
    ) -> tuple:
        here, *there = map(layers.Flatten(), levels)
        level = make.dense(modulation_dims, activation=swish)(here)
        for label in make.embed(labels, modulation_dims):
            level = level + label
        level = make.dense(modulation_dims, activation=swish)(level)
        for following in there:
            way = ops.concatenate([following - here, here], axis=-1)
            way = make.dense(modulation_dims, activation=swish, name="way")(way)
            zeros = {"kernel_initializer": "zeros", "use_bias": False, "name": "next_level"}
            level = level + make.dense(modulation_dims, **zeros)(way)

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

        return make.conv(width, 3)(noisy_images), block, upsample


def swish(x: Any) -> Any:
    """`x * sigmoid(x)`; TensorFlow's own leaks traced graphs."""
    return x * ops.sigmoid(x)


def check_sizes(
    image_shape: Any, widths: Any, block_depth: Any, num_classes: Any
) -> tuple[int, int, int]:
    """The image shape, if a U-Net of these sizes can be built for it."""
    settings = keras.config.floatx(), keras.config.image_data_format()
    is_usual = settings == ("float32", "channels_last")
    require(is_usual, "keras.config", "set to float32 and channels_last", settings)
    height, width, channels = check_image_shape(image_shape)
    require(isinstance(widths, (tuple, list)) and widths, "widths", "a list of integers", widths)
    for size in widths:
        check_count("widths", size)
    check_count("block_depth", block_depth)
    if num_classes is not None:
        check_count("num_classes", num_classes)
    multiple = 2 ** (len(widths) - 1)
    allowed = f"divisible by {multiple} in height and width, for {len(widths)} levels of `widths`"
    require(height % multiple == width % multiple == 0, "image_shape", allowed, image_shape)
    return height, width, channels


def takes_next_level(network: keras.Model) -> bool:
    """Whether a network is also conditioned on the noise level that a step goes to."""
    return len(network.inputs) > 2 and len(network.inputs[2].shape) == 4


def check_network(
    network: Any, image_shape: Any = None, images_seen: int = 1
) -> tuple[int, int, int]:
    """The image shape of a network: `[noisy_images, noise level]`, and more, to a prediction.

    The next noise level may follow, and labels. The first input holds `images_seen` images,
    concatenated along channels.
    """
    require(isinstance(network, keras.Model), "network", "a `keras.Model`", network)
    inputs = [tuple(x.shape[1:]) for x in getattr(network, "inputs", None) or ()]
    outputs = [tuple(x.shape[1:]) for x in getattr(network, "outputs", None) or ()]
    fitting = [(*shape[:2], shape[2] * images_seen) for shape in outputs if len(shape) == 3]
    levels = [shape for shape in inputs[1:] if shape == (1, 1, 1)]
    takes_level = len(levels) in (1, 2) and inputs[1:] in (levels, [*levels, ()])
    if len(fitting) != 1 or inputs[:1] != fitting or not takes_level:
        channels = "channels" if images_seen == 1 else f"{images_seen} * channels"
        raise ValueError(
            f"`network` must take inputs of shapes (height, width, {channels}), (1, 1, 1) and, for "
            "the next level and labels, (1, 1, 1) and (), to one output of shape (height, width, "
            f"channels), got inputs of shapes {inputs} and outputs of shapes {outputs}"
        )
    image_shape = check_image_shape(outputs[0] if image_shape is None else image_shape)
    is_fitting = all(size in (None, given) for size, given in zip(outputs[0], image_shape))
    require(is_fitting, "image_shape", f"that of `network`, {outputs[0]}", image_shape)
    return image_shape


class _Layers:
    """Makes the layers of one network, of its dtype policy and reproducible if it has a seed.

    They are numbered within the network, because TensorFlow keeps some kilobytes for ever for each
    new name of a variable, such as Keras's numbers make.
    """

    def __init__(self, seed: int | None, dtype: Any, num_classes: int | None) -> None:
        self.num_classes = num_classes
        self.seed = check_seed(seed)
        self.dtype = keras.dtype_policies.get(dtype).name
        # None for None: Keras's global seed.
        states = None if seed is None else np.random.SeedSequence(self.seed).generate_state(1000)
        self.seeds = itertools.repeat(None) if states is None else map(int, states)
        self.numbers = itertools.count(1)

    def _common(self, kind: str, **kwargs: Any) -> dict[str, Any]:
        if kind in ("conv", "dense"):
            kwargs = {"kernel_initializer": GlorotUniform(next(self.seeds)), **kwargs}
        name = kwargs.pop("name", None) or f"{kind}_{next(self.numbers)}"
        return {"name": name, "dtype": self.dtype, **kwargs}

    def conv(self, filters: int, size: int, **kwargs: Any) -> Any:
        return layers.Conv2D(filters, size, padding="same", **self._common("conv", **kwargs))

    def dense(self, units: int, **kwargs: Any) -> Any:
        return layers.Dense(units, **self._common("dense", **kwargs))

    def embed(self, labels: list, units: int) -> list:
        """One embedding for each input of labels, of which there may be none."""
        size, common = (self.num_classes or 0) + 1, self._common
        return [layers.Embedding(size, units, "zeros", **common("embedding"))(x) for x in labels]

    def normalization(self, momentum: float = 0.99) -> Any:
        common = self._common("normalization", center=False, scale=False)
        return layers.BatchNormalization(momentum=momentum, **common)

    def upsample(self, size: Any, interpolation: str) -> Any:
        return layers.UpSampling2D(size, **self._common("upsampling", interpolation=interpolation))


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
