import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import keras_ddim

NETWORKS = keras_ddim.ResidualUNet, keras_ddim.ModulatedUNet


def test_default_network_is_the_examples():
    network = keras_ddim.ResidualUNet((64, 64, 3))
    assert network.count_params() == 1_953_507
    names = [type(layer).__name__ for layer in network.layers]
    assert "Lambda" not in names
    # 7 levels-and-directions of 2 blocks, each of one normalisation and two 3x3 convolutions.
    assert names.count("BatchNormalization") == 14
    assert [x.name for x in network.inputs] == ["noisy_images", "noise_variances"]


def test_embedding_is_log_spaced_sines_then_cosines():
    x = np.array([0.0, 0.1, 0.5, 1.0], "float32").reshape(4, 1, 1, 1)
    embedding = np.array(keras_ddim.SinusoidalEmbedding()(x))[:, 0, 0]
    frequencies = np.exp(np.linspace(np.log(1.0), np.log(1000.0), 16))
    angles = 2 * np.pi * frequencies * x.reshape(4, 1)
    expected = np.concatenate([np.sin(angles), np.cos(angles)], axis=1)
    assert embedding.shape == (4, 32)
    np.testing.assert_allclose(embedding, expected, atol=2e-3)  # phases up to 6283 in float32
    np.testing.assert_allclose(embedding[:, :8], expected[:, :8], atol=1e-4)


def test_embedding_stays_float32_under_half_precision():
    layer = keras_ddim.SinusoidalEmbedding(dtype="mixed_bfloat16")
    assert layer.compute_dtype == "float32"
    restored = keras_ddim.SinusoidalEmbedding.from_config(layer.get_config())
    assert restored.get_config() == layer.get_config()


@pytest.mark.parametrize(
    "kwargs", [{"embedding_dims": 5}, {"embedding_dims": 2}, {"min_frequency": 2000.0}]
)
def test_embedding_rejects(kwargs):
    with pytest.raises(ValueError, match=f"`{next(iter(kwargs))}`.*{next(iter(kwargs.values()))}"):
        keras_ddim.SinusoidalEmbedding(**kwargs)


@settings(max_examples=6)
@given(
    height=st.integers(1, 4),
    width=st.integers(1, 4),
    channels=st.sampled_from([1, 3, 4]),
    levels=st.integers(1, 3),
)
def test_any_divisible_shape(height, width, channels, levels):
    multiple = 2 ** (levels - 1)
    shape = (height * multiple, width * multiple, channels)
    for make in NETWORKS:
        network = make(shape, widths=(4, 8, 12)[:levels], block_depth=1)
        outputs = network([np.ones((2, *shape)), np.ones((2, 1, 1, 1))])
        assert outputs.shape == (2, *shape)
        # The last layer starts at zero: an untrained network finds no noise.
        assert not np.any(np.array(outputs))


@pytest.mark.core
def test_modulated_network_is_scaled_and_shifted_by_level_and_label():
    network = keras_ddim.ModulatedUNet((8, 8, 1), (4, 8), num_classes=3, seed=0)
    assert [x.name for x in network.inputs] == ["noisy_images", "noise_variances", "labels"]
    copy = type(network).from_config(network.get_config())
    copy.set_weights(network.get_weights())
    rng = np.random.default_rng(0)
    network.set_weights([w + rng.normal(size=w.shape) / 9 for w in network.get_weights()])
    images = rng.normal(size=(4, 8, 8, 1)).astype("float32")
    levels = np.full((4, 1, 1, 1), 0.5, "float32")

    def outputs(levels=levels, labels=(0, 1, 2, 3)):
        return keras.ops.convert_to_numpy(network([images, levels, np.array(labels, "int32")]))

    differs = np.abs(outputs() - outputs(labels=(0, 1, 3, 3))).max(axis=(1, 2, 3)) > 1e-4
    assert differs.tolist() == [False, False, True, False]
    assert np.abs(outputs() - outputs(levels=levels + 0.1)).max() > 1e-4
    # What is predicted before any training is nothing.
    assert not np.any(keras.ops.convert_to_numpy(copy([images, levels, np.zeros(4, "int32")])))


def test_default_modulated_network():
    assert keras_ddim.ModulatedUNet((32, 32, 3)).count_params() == 586_611


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((20, 64, 3), r"divisible by 8, .*nearest that fits is (16|24)x64.*\(20, 64, 3\)"),
        ((64, 3, 3), r"divisible by 8, .*64x8"),
        ((64, 64), r"\(height, width, channels\).*\(64, 64\)"),
        (64, r"\(height, width, channels\).*64"),
        ((64, 64.0, 3), r"integers of at least 1.*64\.0"),
        ((0, 64, 3), r"integers of at least 1"),
    ],
)
def test_shapes_that_do_not_fit(shape, message):
    with pytest.raises(ValueError, match=f"`image_shape`.*{message}"):
        keras_ddim.ResidualUNet(shape)


@pytest.mark.parametrize("kwargs", [{"widths": ()}, {"widths": 8}, {"block_depth": 0}])
def test_sizes_that_make_no_network(kwargs):
    with pytest.raises(ValueError, match=f"`{next(iter(kwargs))}`"):
        keras_ddim.ResidualUNet((8, 8, 3), **kwargs)


def test_seed_fixes_the_initial_weights():
    def weights(seed):
        return keras_ddim.ResidualUNet((8, 8, 1), (4, 8), seed=seed).get_weights()

    assert all(np.array_equal(a, b) for a, b in zip(weights(1), weights(1)))
    assert not all(np.array_equal(a, b) for a, b in zip(weights(1), weights(2)))
    # Layers of equal shape must not start alike.
    kernels = [w for w in weights(1) if w.shape == (3, 3, 4, 4)]
    assert len(kernels) > 1 and not np.array_equal(kernels[0], kernels[1])


def test_weights_are_named_alike_in_every_network():
    for make in NETWORKS:
        first, second = ([w.path for w in make((8, 8, 1), (4, 4), 1).weights] for _ in range(2))
        assert first == second
        assert len(set(first)) == len(first)


def test_half_precision_body_and_float32_ends():
    network = keras_ddim.ResidualUNet((8, 8, 3), (4, 8), dtype="mixed_bfloat16")
    convolutions = [layer for layer in network.layers if isinstance(layer, keras.layers.Conv2D)]
    assert {layer.compute_dtype for layer in convolutions[:-1]} == {"bfloat16"}
    assert network.layers[-1].compute_dtype == "float32"
    outputs = network([np.ones((1, 8, 8, 3)), np.ones((1, 1, 1, 1))])
    assert keras.backend.standardize_dtype(outputs.dtype) == "float32"
