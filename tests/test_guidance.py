"""Guidance: against its formula, exact at scales 0 and 1, and no dearer than it says."""

import json

import keras
import numpy as np
import pytest
from keras import layers, ops

import keras_ddim
from keras_ddim import sampling
from keras_ddim.denoisers import NetworkDenoiser
from keras_ddim.guidance import Guidance, Guided, GuidedByGradient, Unconditional
from keras_ddim.sampling import CompiledStep, Step
from tests.conftest import tiny_network

pytestmark = pytest.mark.core

SAMPLERS = ["ddim", "heun", keras_ddim.DPMSolverPP(2, "singlestep"), "unipc", "adams_bashforth"]


def randomise(model, seed):
    """Networks predict nothing at first; this one does."""
    rng = np.random.default_rng(seed)
    for network in (model.network, model.ema_network):
        network.set_weights([w + 0.1 * rng.standard_normal(w.shape) for w in network.get_weights()])
    return model


def make_model(seed=0, num_classes=3, compiled=True, **kwargs):
    network = keras_ddim.ModulatedUNet((8, 8, 1), (4,), num_classes=num_classes, seed=0)
    model = keras_ddim.DiffusionModel(network=network, seed=0, **kwargs)
    model.compile(run_eagerly=not compiled)
    return randomise(model, seed)


@pytest.fixture(scope="module")
def model():
    return make_model()


@pytest.fixture(scope="module")
def weaker():
    return make_model(seed=1)


def generate(model, sampler="ddim", diffusion_times=(1.0, 0.7, 0.3), **kwargs):
    return model.generate(3, diffusion_times, sampler=sampler, seed=0, **kwargs)


@pytest.mark.parametrize("sampler", SAMPLERS, ids=str)
def test_scales_0_and_1_are_the_unconditional_and_the_conditional_model(model, sampler):
    # Images that begin with others are, without labels, of no class in particular.
    start = {
        "initial_images": np.full((3, *model.image_shape), 0.5),
        "diffusion_times": (0.3, 0.2, 0.1),
    }
    unconditional = generate(model, sampler, **start)
    conditional = generate(model, sampler, labels=2, **start)
    assert not np.allclose(conditional, unconditional, atol=1e-3)
    guided = {
        s: generate(model, sampler, labels=2, guidance_scale=s, **start) for s in (0, 1, 1.0, 2)
    }
    np.testing.assert_array_equal(guided[1], conditional)
    np.testing.assert_array_equal(guided[0], unconditional)
    assert not np.allclose(guided[2], conditional, atol=1e-3)


def test_a_guide_model_at_scales_0_and_1(model, weaker):
    options = {"labels": 1, "guide_model": weaker}
    for scale, expected in ((1, model), (0, weaker)):
        received = generate(model, guidance_scale=scale, **options)
        np.testing.assert_array_equal(received, generate(expected, labels=1))


def numpy(tensors):
    return [ops.convert_to_numpy(tensor) for tensor in tensors]


class TestFormula:
    noisy_images = np.random.default_rng(0).standard_normal((4, 8, 8, 1)).astype("float32")
    labels = np.array([0, 1, 2, 0], "int32")
    scales = np.array([1.5, 3.0, 0.5, 0.0], "float32")

    def expected(self, given, free):
        scales = self.scales.reshape(4, 1, 1, 1)
        return [f + scales * (g - f) for g, f in zip(numpy(given), numpy(free))]

    @pytest.mark.parametrize("per_image_levels", [False, True])
    def test_one_batch_of_both(self, model, per_image_levels):
        level = np.linspace(-2, 2, 4, dtype="float32").reshape(4, 1, 1, 1)
        level = level if per_image_levels else 0.5
        plain = model.make_denoiser()
        guided = Guided(plain, num_classes=3)
        received = guided(self.noisy_images, level, labels=self.labels, guidance_scale=self.scales)
        expected = self.expected(
            plain(self.noisy_images, level, labels=self.labels),
            Unconditional(plain, 3)(self.noisy_images, level, labels=self.labels),
        )
        for a, b in zip(numpy(received), expected):
            np.testing.assert_allclose(a, b, atol=1e-4)

    def test_autoguidance(self, model, weaker):
        plain, guide = model.make_denoiser(), weaker.make_denoiser()
        inputs = {"labels": self.labels}
        received = Guided(plain, guide)(
            self.noisy_images, 0.5, guidance_scale=self.scales, **inputs
        )
        expected = self.expected(
            plain(self.noisy_images, 0.5, **inputs), guide(self.noisy_images, 0.5, **inputs)
        )
        for a, b in zip(numpy(received), expected):
            np.testing.assert_allclose(a, b, atol=1e-4)

    @pytest.mark.parametrize("rescale", [0.5, 1.0])
    def test_rescaling(self, model, rescale):
        plain = model.make_denoiser()
        inputs = {"labels": self.labels, "guidance_scale": np.full(4, 4.0, "float32")}
        (_, before), (noises, images), (_, unguided) = (
            numpy(denoiser(self.noisy_images, 0.5, **inputs))
            for denoiser in (Guided(plain, None, 3), Guided(plain, None, 3, rescale), plain)
        )
        axes = (1, 2, 3)
        wanted = (1 - rescale) * before.std(axes) + rescale * unguided.std(axes)
        np.testing.assert_allclose(images.std(axes), wanted, rtol=1e-3)
        variance = 1 / (1 + np.exp(0.5))
        mixed = np.sqrt(1 - variance) * images + np.sqrt(variance) * noises
        np.testing.assert_allclose(mixed, self.noisy_images, atol=1e-4)


@keras.saving.register_keras_serializable("tests")
class Counting(layers.Layer):
    """Passes images on, and counts them."""

    count = 0

    def call(self, images):
        self.count += int(images.shape[0])
        return images

    def compute_output_shape(self, shape):
        return shape


def counting_model(num_classes=2):
    """An eager model, whose network counts the images that it is evaluated on."""
    inputs = [keras.Input((4, 4, 1)), keras.Input((1, 1, 1)), keras.Input((), dtype="int32")]
    counting = Counting()
    shifts = layers.Embedding(num_classes + 1, 1)(inputs[2])[:, None, None]
    outputs = counting(inputs[0]) * 0.5 + 0 * inputs[1] + shifts
    network = keras.Model(inputs, outputs)
    model = keras_ddim.DiffusionModel(network=network, class_names=list("ab")[:num_classes])
    model.compile(run_eagerly=True)
    counting = next(x for x in model.ema_network.layers if isinstance(x, Counting))
    return model, counting


TIMES = [1.0, 0.8, 0.6, 0.4, 0.2]


@pytest.mark.parametrize(
    ("options", "evaluations"),
    [
        ({}, 5),
        ({"guidance_scale": 1}, 5),
        ({"guidance_scale": 0}, 5),
        ({"guidance_scale": 2}, 10),
        ({"guidance_scale": 2, "guidance_interval": (0.0, 0.1)}, 5),
        ({"guidance_scale": 2, "guidance_interval": (0.3, 0.7)}, 7),
        ({"guidance_scale": 2, "guidance_interval": (0.4, 0.4)}, 6),
        ({"guidance_scale": 0, "guidance_interval": (0.3, 0.7)}, 5),
        ({"guidance_scale": 2, "sampler": "heun"}, 18),
        ({"guidance_scale": 2, "sampler": "heun", "guidance_interval": (0.3, 0.7)}, 13),
        ({"guidance_scale": 2, "sampler": "unipc", "guidance_interval": (0.3, 0.7)}, 7),
    ],
)
def test_evaluations_are_counted(options, evaluations):
    model, counting = counting_model()
    counting.count = 0
    way = model.generate(3, TIMES, labels=1, seed=0, return_trajectory=True, **options)
    assert counting.count == 3 * evaluations
    assert way.evaluations == evaluations
    assert model.count_evaluations(TIMES, **options) == evaluations


def test_a_guide_model_is_evaluated_only_in_the_interval():
    (model, counting), (guide, guide_counting) = counting_model(), counting_model()
    counting.count = guide_counting.count = 0
    options = {"guidance_scale": 2, "guidance_interval": (0.3, 0.7), "guide_model": guide}
    way = model.generate(3, TIMES, labels=1, seed=0, return_trajectory=True, **options)
    assert (counting.count, guide_counting.count, way.evaluations) == (15, 6, 7)


def test_outside_of_the_interval_nothing_is_guided(model):
    options = {"labels": 1, "return_trajectory": True}
    plain = generate(model, **options)
    none = generate(model, guidance_scale=3, guidance_interval=(0.5, 0.6), **options)
    np.testing.assert_array_equal(none.images, plain.images)
    late = generate(model, guidance_scale=3, guidance_interval=(0.0, 0.5), **options)
    np.testing.assert_allclose(late.pred_images[:2], plain.pred_images[:2], atol=1e-6)
    assert (np.abs(late.pred_images[2:] - plain.pred_images[2:]).max((1, 2, 3, 4)) > 1e-3).all()
    always = generate(model, guidance_scale=3, **options)
    everywhere = generate(model, guidance_scale=3, guidance_interval=(0.1, 1), **options)
    np.testing.assert_array_equal(always.images, everywhere.images)


def test_a_new_scale_does_not_compile_anew():
    model = make_model()
    for scale in (1.5, 2.0, 7.0):
        generate(model, labels=1, guidance_scale=scale)
    assert len(model.compiled_steps.steps) == 1
    for scale in (0, 1):
        generate(model, labels=1, guidance_scale=scale)
    assert len(model.compiled_steps.steps) == 3


def test_in_batches(model):
    options = {"labels": [0, 1, 2], "guidance_scale": 2}
    expected = generate(model, **options)
    np.testing.assert_allclose(generate(model, batch_size=2, **options), expected, atol=1e-4)


def test_guides_of_models_without_labels(trained_model):
    guide = keras_ddim.DiffusionModel(network=tiny_network(seed=1))
    guide.normalizer.set_weights(trained_model.normalizer.get_weights())
    times = [0.9, 0.5, 0.1]
    plain = trained_model.generate(2, times, seed=0)
    guided = trained_model.generate(2, times, seed=0, guide_model=guide, guidance_scale=1.5)
    assert np.isfinite(guided).all() and not np.allclose(guided, plain, atol=1e-4)


def test_serialization(model, weaker):
    noisy_images = np.ones((2, 8, 8, 1), "float32")
    inputs = {"labels": np.array([0, 1], "int32"), "guidance_scale": np.full(2, 2.0, "float32")}
    plain = NetworkDenoiser(model.ema_network)
    for denoiser in (
        Unconditional(plain, 3),
        Guided(plain, num_classes=3, rescale=0.5),
        Guided(plain, NetworkDenoiser(weaker.ema_network)),
    ):
        config = json.loads(json.dumps(keras.saving.serialize_keras_object(denoiser)))
        copy = keras.saving.deserialize_keras_object(config)
        assert type(copy) is type(denoiser) and copy.get_config() == denoiser.get_config()
        assert copy.evaluations_per_call == denoiser.evaluations_per_call
        copy.set_weights(denoiser.get_weights())
        received, expected = (numpy(each(noisy_images, 0.3, **inputs)) for each in (copy, denoiser))
        np.testing.assert_allclose(received, expected, atol=1e-5)


class TestGradient:
    """A quadratic loss, of a measured image with deviation r, on normally distributed images."""

    rng = np.random.default_rng(0)
    factor = rng.standard_normal((4, 4)) / 2
    covariance = factor @ factor.T
    mean = rng.standard_normal((2, 1, 2))
    measured = rng.standard_normal((2, 1, 2)).astype("float32")

    def denoiser(self, deviation):
        def loss(images):
            squares = (images - ops.convert_to_tensor(self.measured)) ** 2
            return ops.sum(squares, axis=(1, 2, 3)) / (2 * deviation**2)

        exact = keras_ddim.GaussianDenoiser(self.mean, self.covariance)
        return GuidedByGradient(exact, keras_ddim.Normalizer(2), loss)

    @pytest.mark.parametrize("log_snr", [-3.0, 0.0, 2.0])
    def test_is_the_closed_form(self, log_snr):
        noisy = self.rng.standard_normal((5, 2, 1, 2)).astype("float32")
        variance = 1 / (1 + np.exp(log_snr))
        signal = np.sqrt(1 - variance)
        of_noisy = signal**2 * self.covariance + variance * np.eye(4)
        gain = signal * self.covariance @ np.linalg.inv(of_noisy)
        deviations = (noisy - signal * self.mean).reshape(5, 4)
        pred_images = self.mean.ravel() + deviations @ gain.T
        gradients = (pred_images - self.measured.ravel()) @ gain / 0.7**2
        noises, images = numpy(self.denoiser(0.7)(noisy, log_snr))
        expected = pred_images - variance / signal * gradients
        np.testing.assert_allclose(images.reshape(5, 4), expected, rtol=1e-3, atol=1e-3)
        mixed = signal * images + np.sqrt(variance) * noises
        np.testing.assert_allclose(mixed, noisy, atol=1e-3)

    def test_leads_to_the_mean_given_the_measurement(self):
        """Exactly, as the measurement becomes uncertain beside the images themselves."""
        levels = np.linspace(-9, 9, 60).astype("float32")

        def images(denoiser):
            step = CompiledStep(Step(denoiser, "unipc"))
            return sampling.generate(step, levels, 500, (2, 1, 2), seed=0, batch_size=500)

        unguided = images(keras_ddim.GaussianDenoiser(self.mean, self.covariance))
        errors = []
        for deviation in (2.0, 4.0, 8.0):
            gain = self.covariance @ np.linalg.inv(self.covariance + deviation**2 * np.eye(4))
            expected = gain @ (self.measured - self.mean).ravel()
            received = (images(self.denoiser(deviation)) - unguided).mean(axis=0).ravel()
            errors.append(np.linalg.norm(received - expected) / np.linalg.norm(expected))
        print(f"\nrelative errors at deviations 2, 4, 8: {errors}")
        assert errors[0] > 2 * errors[1] > 4 * errors[2] and errors[2] < 0.1

    def test_images_follow(self, model):
        def darkness(images):
            return 20 * ops.mean(images, axis=(1, 2, 3))

        plain, scaled = generate(model), generate(model, labels=1, guidance_scale=2)
        dark = generate(model, guidance_fn=darkness)
        both = generate(model, labels=1, guidance_scale=2, guidance_fn=darkness)
        assert (dark.mean((1, 2, 3)) < plain.mean((1, 2, 3))).all()
        assert (both.mean((1, 2, 3)) < scaled.mean((1, 2, 3))).all()
        np.testing.assert_array_equal(
            generate(model, guidance_fn=darkness, guidance_interval=(0, 0.1)), plain
        )
        in_batches = generate(model, guidance_fn=darkness, batch_size=2)
        np.testing.assert_allclose(in_batches, dark, atol=1e-4)

    def test_errors(self, model):
        with pytest.raises(ValueError, match=r"`guidance_fn` must be a function.*='dark'"):
            generate(model, guidance_fn="dark")
        with pytest.raises(ValueError, match="`guidance_fn` must return one loss for each image"):
            generate(model, guidance_fn=ops.mean)


class TestErrors:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"guidance_scale": -1}, r"`guidance_scale` must be a number in \[0, 1000\].*=-1"),
            ({"guidance_scale": "2"}, "`guidance_scale` must be a number"),
            ({"guidance_rescale": 2}, r"`guidance_rescale` must be a number in \[0, 1\].*=2"),
            ({"guidance_interval": (0.7, 0.3)}, r"`guidance_interval` must be two.*\(0.7, 0.3\)"),
            ({"guidance_interval": 0.5}, "`guidance_interval` must be two diffusion times.*=0.5"),
            ({"guidance_interval": (0.5, 2)}, "`guidance_interval` must be two diffusion times"),
            ({"guide_model": "weak"}, "`guide_model` must be a `keras_ddim.DiffusionModel`.*weak"),
        ],
    )
    def test_arguments(self, model, options, message):
        with pytest.raises(ValueError, match=message) as error:
            generate(model, labels=1, **options)
        assert "\n" not in str(error.value)
        with pytest.raises(ValueError, match=message):
            keras_ddim.callbacks.SampleGrid(**options)

    def test_models_that_cannot_be_guided(self, model, trained_model):
        with pytest.raises(ValueError, match="`guidance_scale` must be 1 where there are neither"):
            model.edit(np.zeros((1, *model.image_shape)), guidance_scale=2)
        with pytest.raises(ValueError, match="`guidance_scale` must be 1 where there are neither"):
            generate(trained_model, guidance_scale=2)
        never_dropped = make_model(label_dropout=0)
        with pytest.raises(ValueError, match="`label_dropout=0`, which knows no images without"):
            generate(never_dropped, labels=1, guidance_scale=2)
        generate(never_dropped, labels=1)

    def test_guides_that_do_not_fit(self, model, trained_model):
        guided = {"labels": 1, "guidance_scale": 2}
        with pytest.raises(ValueError, match="`guide_model` must be of the same image shape"):
            generate(model, guide_model=trained_model, **guided)
        with pytest.raises(ValueError, match=r"`guide_model` must be of the same .*classes"):
            generate(model, guide_model=make_model(num_classes=2), **guided)
        other = make_model()
        other.normalizer.set_weights([np.full(1, 0.5), np.ones(1), np.array(1)])
        with pytest.raises(ValueError, match=r"the same normalizer\. Received: a mean"):
            generate(model, guide_model=other, **guided)

    def test_denoisers(self, model):
        with pytest.raises(ValueError, match="`guide` or `num_classes` must be given"):
            Guided(model.make_denoiser())
        assert Guidance().wrap(model.make_denoiser(), 3, model.normalizer).evaluations_per_call == 1
