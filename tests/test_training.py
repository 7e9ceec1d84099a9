"""Training beyond the usual: half precision, foreign weights, data without end or of no rank."""

import keras
import numpy as np
import pytest

import keras_ddim
from tests.conftest import tiny_network

pytestmark = pytest.mark.core


@pytest.mark.parametrize("dtype", ["mixed_float16", "float16"])
def test_half_precision(images, dtype):
    """Loss scaling keeps small gradients; weights of three digits could not be averaged."""
    model = keras_ddim.DiffusionModel(network=tiny_network(dtype=dtype), seed=0)
    if dtype == "float16":
        with pytest.raises(ValueError, match="`network` must be of float32 weights"):
            model.compile()
        return
    model.compile(run_eagerly=True)
    assert isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
    assert np.isfinite(model.fit(images, batch_size=20, verbose=0).history["loss"]).all()


def test_weights_that_cannot_be_averaged(make_model, images):
    model = make_model()
    model.network.layers[-1].enable_lora(1)
    with pytest.raises(ValueError, match="LoRA"):
        model.fit(images, verbose=0)


def test_class_weights_without_classes(make_model, images):
    with pytest.raises(ValueError, match="`class_weight` must be None"):
        make_model().fit(images, class_weight={0: 1.0}, verbose=0)


def test_adapting_to_data_without_end(make_model, images):
    class Endless(keras.utils.PyDataset):
        num_batches = None

        def __getitem__(self, index):
            return images[:1]

    model = make_model()
    model.adapt(Endless())
    assert model.normalizer.num_images.numpy() == 1000


def test_images_of_unknown_rank(make_model, images):
    tf = pytest.importorskip("tensorflow")
    unknown = tf.data.Dataset.from_generator(lambda: iter([images]), output_types=tf.float32)
    with pytest.raises(ValueError, match="`x` must be batches of known rank"):
        make_model().fit(unknown, verbose=0)


def test_no_compiled_step_is_stale(images, tmp_path):
    """The network is one whose layers can all be quantized."""
    noisy_images, level = keras.Input((8, 8, 3)), keras.Input((1, 1, 1))
    hidden = keras.layers.Dense(4, "tanh")(noisy_images) + keras.layers.Dense(4)(level)
    network = keras.Model([noisy_images, level], keras.layers.Dense(3)(hidden))
    model = keras_ddim.DiffusionModel(network=network, seed=0)
    model.compile(jit_compile=False)
    model.adapt(images)

    def change_conditioning():
        model.conditioning = keras_ddim.conditioning.LogSNR()

    def change_network():
        other = type(network).from_config(network.get_config())
        other.set_weights([1.1 * weight for weight in model.ema_network.get_weights()])
        model.ema_network = other

    def quantize():
        model.quantize("int8")

    def generate():
        return model.generate(2, [1.0, 0.5], sampler="ddim", seed=0)

    for change in (change_conditioning, change_network, quantize):
        before = generate()
        change()
        changed = generate()
        model.compiled_steps.clear()
        np.testing.assert_array_equal(changed, generate())
        assert not np.array_equal(before, changed)
    with pytest.raises(ValueError, match="quantized"):
        model.fit(images, verbose=0)
    with pytest.raises(ValueError, match="quantized"):
        model.save(tmp_path / "m.keras")
