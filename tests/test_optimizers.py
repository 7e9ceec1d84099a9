import keras
import numpy as np
import pytest
from keras import ops

import keras_ddim

pytestmark = pytest.mark.core

SHAPES = {"tall": (3, 3, 32, 16), "wide": (1, 1, 16, 32), "matrix": (24, 40)}


def step(shape, gradient, **options):
    """The update of a variable of zeros, as a matrix."""
    variable = keras.Variable(np.zeros(shape, "float32"))
    optimizer = keras_ddim.Muon(1.0, **options)
    optimizer.apply([ops.convert_to_tensor(gradient)], [variable])
    return ops.convert_to_numpy(variable).reshape(-1, shape[-1])


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_updates_of_kernels_are_nearly_orthogonal(shape):
    gradient = np.random.default_rng(0).standard_normal(shape).astype("float32")
    update = step(shape, gradient)
    left, singular_values, right = np.linalg.svd(gradient.reshape(-1, shape[-1]), False)
    np.testing.assert_allclose(np.sqrt(np.mean(update**2)), 0.6, rtol=0.3)
    # The gradient's own directions, all about equally long.
    received = np.diag(left.T @ -update @ right.T) / (0.6 * np.sqrt(max(update.shape)))
    assert received.min() > 0.6 and received.max() < 1.3 < singular_values.max()


@pytest.mark.parametrize("shape", [(3, 3, 3, 16), (3, 3, 16, 3), (16,), (2, 3, 4)])
def test_all_else_is_adam(shape):
    gradient = np.random.default_rng(0).standard_normal(shape).astype("float32")
    np.testing.assert_allclose(
        step(shape, gradient), -np.sign(gradient).reshape(-1, shape[-1]), rtol=0.01
    )


def test_configuration():
    optimizer = keras_ddim.Muon(keras.optimizers.schedules.CosineDecay(0.1, 5), rms_rate=0.3)
    config = keras.saving.serialize_keras_object(optimizer)
    copy = keras.saving.deserialize_keras_object(config)
    assert type(copy) is keras_ddim.Muon and copy.rms_rate == 0.3 and copy.weight_decay is None
    assert copy.get_config() == optimizer.get_config()
