"""The normalizer: moments of any images, and nothing that outlives its weights."""

import keras
import numpy as np
import pytest

import keras_ddim
from keras_ddim import Normalizer

pytestmark = pytest.mark.core


def adapted(*batches):
    normalizer = Normalizer(batches[0].shape[-1])
    normalizer.adapt(batches)
    return normalizer


def test_moments_do_not_depend_on_the_batches():
    images = np.random.default_rng(0).random((40, 6, 4, 3)) * [1.0, 0.5, 0.2]
    for batches in ([images], [images[:1], images[1:7], images[7:]], list(images[:, None])):
        normalizer = adapted(*batches)
        np.testing.assert_allclose(normalizer.mean.numpy(), images.mean((0, 1, 2)), rtol=1e-6)
        np.testing.assert_allclose(normalizer.deviation.numpy(), images.std((0, 1, 2)), rtol=1e-6)
        assert normalizer.is_adapted and float(normalizer.num_images.numpy()) == 40


def test_small_variance_beside_a_large_mean():
    """In squares summed as they are, float64 would keep no digit of it."""
    images = 1e7 - np.random.default_rng(0).random((50, 8, 8, 1))
    assert adapted(images).deviation.numpy()[0] == pytest.approx(images.std(), rel=1e-6)


def test_sixteen_million_pixels_in_float32():
    """So many that a sum in float32 no longer grows."""
    batch = np.full((16, 256, 256, 1), 0.7, "float32")
    batch[:, ::2] = 0.3
    normalizer = adapted(*[batch] * 16)
    assert normalizer.mean.numpy()[0] == pytest.approx(0.5, rel=1e-6)
    assert normalizer.deviation.numpy()[0] == pytest.approx(0.2, rel=1e-6)


def test_constant_channel_has_a_deviation_of_one_grey_level():
    """Opaque alpha in training, then pictures of alpha 254 of 255."""
    images = np.random.default_rng(0).random((5, 4, 4, 2), "float32")
    images[..., 1] = 1.0
    normalizer = adapted(images)
    normalised = keras.ops.convert_to_numpy(normalizer(images))
    assert (normalised[..., 1] == 0).all()
    pixels = keras.ops.convert_to_numpy(normalizer.denormalize(normalised))
    np.testing.assert_allclose(pixels, images, atol=1e-6)
    less = keras.ops.convert_to_numpy(normalizer(images - np.float32(1 / 255)))
    np.testing.assert_allclose(less[..., 1], -1, rtol=1e-4)


def test_no_images():
    with pytest.raises(ValueError, match="at least one image"):
        Normalizer(3).adapt([])


def test_clone_with_the_same_weights_makes_the_same_images(trained_model):
    clone = keras.models.clone_model(trained_model)
    clone.generate(2, 2, seed=0)  # compiled before it has the weights
    clone.set_weights(trained_model.get_weights())
    np.testing.assert_array_equal(
        clone.generate(2, 3, seed=0), trained_model.generate(2, 3, seed=0)
    )
    assert isinstance(clone.ema_network, keras_ddim.ResidualUNet)
