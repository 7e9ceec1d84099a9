"""Guidance: against its formula, exact at scales 0 and 1, and no dearer than it says."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import keras_ddim
from keras_ddim import sampling
from keras_ddim.guidance import (
    Autoguidance,
    ClassifierFree,
    GradientGuided,
    LabelGuided,
    LossGuidance,
    ModelGuided,
    Unlabelled,
)
from keras_ddim.sampling import Step, compile_step
from tests.conftest import tiny_network
from tests.gaussian import GaussianDenoiser

pytestmark = pytest.mark.core

SAMPLERS = ["ddim", keras_ddim.DPMSolverPP(2, "singlestep"), "unipc"]


def randomise(model, seed):
    """Networks predict nothing at first; this one does."""
    rng = np.random.default_rng(seed)
    for network in (model.network, model.ema_network):
        network.set_weights([w + 0.1 * rng.standard_normal(w.shape) for w in network.get_weights()])
    return model


def make_model(seed=0, num_classes=3, **kwargs):
    network = keras_ddim.ModulatedUNet((8, 8, 1), (4,), 1, num_classes=num_classes, seed=0)
    model = keras_ddim.DiffusionModel(network=network, seed=0, **kwargs)
    model.compile()
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
    # Images that begin with others are, without labels, unconditional.
    start = {
        "initial_images": np.full((3, *model.image_shape), 0.5),
        "diffusion_times": (0.3, 0.2, 0.1),
    }
    unconditional = generate(model, sampler, **start)
    conditional = generate(model, sampler, labels=2, **start)
    assert not np.allclose(conditional, unconditional, atol=1e-3)
    guided = {s: generate(model, sampler, labels=2, guidance_scale=s, **start) for s in (0, 1, 2)}
    np.testing.assert_array_equal(guided[1], conditional)
    np.testing.assert_array_equal(guided[0], unconditional)
    assert not np.allclose(guided[2], conditional, atol=1e-3)
    value = generate(model, sampler, labels=2, guidance=ClassifierFree(2), **start)
    np.testing.assert_array_equal(value, guided[2])


def test_autoguidance_at_scales_0_and_1(model, weaker):
    for scale, expected in ((1, model), (0, weaker)):
        received = generate(model, labels=1, guidance=Autoguidance(weaker, scale))
        np.testing.assert_array_equal(received, generate(expected, labels=1))


def numpy(tensors):
    return [ops.convert_to_numpy(tensor) for tensor in tensors]


class TestFormula:
    noisy_images = np.random.default_rng(0).standard_normal((4, 8, 8, 1)).astype("float32")
    labels = np.array([0, 1, 2, 0], "int32")
    scales = np.array([1.5, 3.0, 0.5, 0.0], "float32")

    @pytest.mark.parametrize("level", [0.5, np.linspace(-2, 2, 4, dtype="f4").reshape(4, 1, 1, 1)])
    @pytest.mark.parametrize("kind", ["labels", "model"])
    def test_extrapolation(self, model, weaker, level, kind):
        plain, inputs = model.make_denoiser(), {"labels": self.labels}
        if kind == "labels":
            guide, guided, name = Unlabelled(plain, 3), LabelGuided(plain, 3), "guidance_scale"
        else:
            guide, name = weaker.make_denoiser(), "autoguidance_scale"
            guided = ModelGuided(plain, guide)
        received = numpy(guided(self.noisy_images, level, **inputs, **{name: self.scales}))
        low, high = (numpy(each(self.noisy_images, level, **inputs)) for each in (guide, plain))
        for a, b, c in zip(received, low, high):
            expected = b + self.scales.reshape(4, 1, 1, 1) * (c - b)
            np.testing.assert_allclose(a, expected, atol=1e-4)

    @pytest.mark.parametrize("rescale", [0.5, 1.0])
    def test_rescaling(self, model, rescale):
        plain = model.make_denoiser()
        inputs = {"labels": self.labels, "guidance_scale": np.full(4, 4.0, "float32")}
        (_, before), (noises, images), (_, unguided) = (
            numpy(denoiser(self.noisy_images, 0.5, **inputs))
            for denoiser in (LabelGuided(plain, 3), LabelGuided(plain, 3, rescale), plain)
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
    shifts = layers.Embedding(num_classes + 1, 1)(inputs[2])[:, None, None]
    outputs = Counting()(inputs[0]) * 0.5 + 0 * inputs[1] + shifts
    network = keras.Model(inputs, outputs)
    model = keras_ddim.DiffusionModel(network=network, class_names=list("ab")[:num_classes])
    model.compile(run_eagerly=True)
    return model, next(x for x in model.ema_network.layers if isinstance(x, Counting))


TIMES = [1.0, 0.8, 0.6, 0.4, 0.2]


@pytest.mark.parametrize(
    ("options", "evaluations"),
    [
        ({}, 5),
        ({"guidance_scale": 0}, 5),
        ({"guidance_scale": 2}, 10),
        ({"guidance": ClassifierFree(2, interval=(0.3, 0.7))}, 7),
        ({"guidance": ClassifierFree(2, interval=(0.4, 0.4))}, 6),
        ({"guidance": ClassifierFree(0, interval=(0.3, 0.7))}, 5),
        ({"guidance_scale": 2, "sampler": "heun"}, 18),
        ({"guidance": [ClassifierFree(2, interval=(0.3, 0.7))], "sampler": "heun"}, 13),
        ({"guidance": [ClassifierFree(2, interval=(0.3, 0.7))], "sampler": "unipc"}, 7),
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
    options = {"guidance": Autoguidance(guide, 2, interval=(0.3, 0.7)), "return_trajectory": True}
    way = model.generate(3, TIMES, labels=1, seed=0, **options)
    assert (counting.count, guide_counting.count, way.evaluations) == (15, 6, 7)


def test_outside_of_the_interval_nothing_is_guided(model):
    def way(*interval):
        guidance = ClassifierFree(3, interval=interval) if interval else ()
        return generate(model, labels=1, return_trajectory=True, guidance=guidance)

    plain, late = way(), way(0.0, 0.5)
    np.testing.assert_array_equal(way(0.5, 0.6).images, plain.images)
    np.testing.assert_allclose(late.pred_images[:2], plain.pred_images[:2], atol=1e-6)
    assert (np.abs(late.pred_images[2:] - plain.pred_images[2:]).max((1, 2, 3, 4)) > 1e-3).all()
    np.testing.assert_array_equal(way(0, 1).images, way(0.1, 1).images)


def test_a_new_scale_does_not_compile_anew():
    model = make_model()
    for scale in (1.5, 2.0, 7.0):
        generate(model, labels=1, guidance_scale=scale)
    assert len(model.compiled_steps) == 1
    for scale in (0, 1):
        generate(model, labels=1, guidance_scale=scale)
    assert len(model.compiled_steps) == 3


def test_in_batches(model):
    options = {"labels": [0, 1, 2], "guidance_scale": 2}
    expected = generate(model, **options)
    np.testing.assert_allclose(generate(model, batch_size=2, **options), expected, atol=1e-4)


def test_guides_of_models_without_labels(trained_model):
    guide = keras_ddim.DiffusionModel(network=tiny_network(seed=1))
    guide.normalizer.set_weights(trained_model.normalizer.get_weights())
    times = [0.9, 0.5, 0.1]
    plain = trained_model.generate(2, times, seed=0)
    guided = trained_model.generate(2, times, seed=0, guidance=Autoguidance(guide))
    assert np.isfinite(guided).all() and not np.allclose(guided, plain, atol=1e-4)


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

        exact = GaussianDenoiser(self.mean, self.covariance)
        return GradientGuided(exact, keras_ddim.Normalizer(2), loss)

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
        noises, images = numpy(self.denoiser(0.7)(ops.convert_to_tensor(noisy), log_snr))
        expected = pred_images - variance / signal * gradients
        np.testing.assert_allclose(images.reshape(5, 4), expected, rtol=1e-3, atol=1e-3)
        mixed = signal * images + np.sqrt(variance) * noises
        np.testing.assert_allclose(mixed, noisy, atol=1e-3)

    def test_leads_to_the_mean_given_the_measurement(self):
        """Exactly, as the measurement becomes uncertain beside the images themselves."""
        levels = np.linspace(-9, 9, 60).astype("float32")

        def images(denoiser):
            step = compile_step(Step(denoiser, "unipc"))
            return sampling.generate(step, levels, 500, (2, 1, 2), seed=0, batch_size=500)

        unguided = images(GaussianDenoiser(self.mean, self.covariance))
        errors = []
        for deviation in (2.0, 4.0, 8.0):
            gain = self.covariance @ np.linalg.inv(self.covariance + deviation**2 * np.eye(4))
            expected = gain @ (self.measured - self.mean).ravel()
            received = (images(self.denoiser(deviation)) - unguided).mean(axis=0).ravel()
            errors.append(np.linalg.norm(received - expected) / np.linalg.norm(expected))
        assert errors[0] > 2 * errors[1] > 4 * errors[2] and errors[2] < 0.1

    def test_images_follow(self, model):
        def darkness(images):
            return 20 * ops.mean(images, axis=(1, 2, 3))

        guidance = LossGuidance(darkness)
        plain, scaled = generate(model), generate(model, labels=1, guidance_scale=2)
        dark = generate(model, guidance=guidance)
        both = generate(model, labels=1, guidance_scale=2, guidance=[guidance])
        assert (dark.mean((1, 2, 3)) < plain.mean((1, 2, 3))).all()
        assert (both.mean((1, 2, 3)) < scaled.mean((1, 2, 3))).all()
        late = generate(model, guidance=LossGuidance(darkness, interval=(0, 0.1)))
        np.testing.assert_array_equal(late, plain)
        in_batches = generate(model, guidance=guidance, batch_size=2)
        np.testing.assert_allclose(in_batches, dark, atol=1e-4)


class TestErrors:
    def test_models_that_do_not_fit(self, model, trained_model):
        for guided, options, message in (
            (model, {"guidance": "more"}, "`guidance` must be a `.*Guidance` or a list of them"),
            (model, {"guidance": [ClassifierFree()] * 2}, "`guidance` must be of different class"),
            (model, {"guidance": LossGuidance(ops.mean)}, "`loss` must be .* one loss for each"),
            (trained_model, {"guidance_scale": 2}, "`guidance_scale` must be 1 without `labels`"),
            (model, {"guidance": Autoguidance(trained_model)}, "`model` must be .*image shape"),
            (model, {"guidance": Autoguidance(make_model(num_classes=2))}, "`model` .*classes"),
        ):
            with pytest.raises(ValueError, match=message):
                generate(guided, **options)
        with pytest.raises(ValueError, match="`guidance_scale` must be 1 without `labels`, got 2"):
            model.edit(np.zeros((1, *model.image_shape)), guidance_scale=2)
        other, never_dropped = make_model(), make_model(label_dropout=0)
        other.normalizer.set_weights([np.full(1, 0.5), np.ones(1), np.array(1)])
        with pytest.raises(ValueError, match=r"`model` must be .* images, of mean"):
            generate(model, guidance=Autoguidance(other))
        with pytest.raises(ValueError, match="label_dropout=0`, which has learnt no null class"):
            generate(never_dropped, labels=1, guidance_scale=2)
        generate(never_dropped, labels=1)
