import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import keras_ddim
from keras_ddim.networks import check_network

NETWORKS = keras_ddim.ResidualUNet, keras_ddim.ModulatedUNet


def test_default_network_is_the_examples():
    network = keras_ddim.ResidualUNet((64, 64, 3))
    assert network.count_params() == 1_953_507
    assert keras_ddim.ModulatedUNet((32, 32, 3)).count_params() == 586_611
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


@settings(max_examples=4)
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


def test_file_that_asks_for_a_gigantic_network():
    config = keras_ddim.ModulatedUNet((8, 8, 3), (4,)).get_config()
    with pytest.raises(ValueError, match="smaller network"):
        keras_ddim.ModulatedUNet.from_config({**config, "widths": [2**14]})


@pytest.mark.parametrize(("make", "is_whole"), [(NETWORKS[0], False), (NETWORKS[1], True)])
def test_frozen_layers_stay_frozen(tmp_path, make, is_whole):
    network = make((8, 8, 3), (4, 8), block_depth=1)
    part = network if is_whole else network.layers[-1]
    part.trainable = False
    model = keras_ddim.DiffusionModel(network=network)
    model.compile()
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    trainable = [w.path for w in network.trainable_weights]
    assert [w.path for w in loaded.network.trainable_weights] == trainable
    assert is_whole == (not trainable) == (not loaded.network.trainable)
    assert loaded.network.layers[-1].trainable is False
    assert not loaded.ema_network.trainable_weights
    # The copy is all frozen, and the network that it is a copy of is not.
    assert network.layers[-2].trainable is not is_whole


@pytest.mark.parametrize(
    ("inputs", "output", "message"),
    [
        ([(8, 8, 3), (1,)], (8, 8, 3), "to one output"),
        ([(8, 8, 3), (1, 1, 1)], (8, 8, 1), r"got inputs of shapes \[\(8, 8, 3\)"),
    ],
)
def test_networks_of_other_shapes(inputs, output, message):
    inputs = [keras.Input(shape) for shape in inputs]
    outputs = keras.layers.Conv2D(output[-1], 1)(inputs[0])
    with pytest.raises(ValueError, match=message):
        check_network(keras.Model(inputs, outputs))


def test_networks_of_the_right_shapes():
    network = keras_ddim.ModulatedUNet((8, 8, 1), (4,), num_classes=2, images_seen=2)
    assert check_network(network, images_seen=2) == (8, 8, 1)
    assert check_network(network, (8, 8, 1), 2) == (8, 8, 1)
    with pytest.raises(ValueError, match=r"`image_shape` must be that of `network`"):
        check_network(network, (16, 8, 1), 2)
    with pytest.raises(ValueError, match="got inputs of shapes"):
        check_network(network)
    with pytest.raises(ValueError, match=r"`network` must be a `keras\.Model`, got 3"):
        check_network(3)


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
