"""Editing: from images instead of noise, to noise, along lists that rise, around what is known."""

import itertools

import numpy as np
import pytest
from keras import ops

import keras_ddim
from keras_ddim import sampling, times
from keras_ddim.degradations import (
    BlockAverage,
    DataConsistent,
    Degradation,
    Grey,
    Identity,
    Known,
)
from keras_ddim.noise_levels import rates
from keras_ddim.samplers import DDIM, DDPM, DPMSolverPP, Euler, Heun
from keras_ddim.sampling import Inversion, Step, compile_step
from tests.gaussian import GaussianDenoiser
from tests.test_guidance import randomise

pytestmark = pytest.mark.core

RNG = np.random.default_rng(0)
IMAGES = RNG.random((3, 8, 8, 3)).astype("float32")
FOLLOWS_ANY = [DDIM(), Heun(), DPMSolverPP(2, "singlestep")]
DETERMINISTIC = ["ddim", "heun", DPMSolverPP(2, "singlestep"), "unipc"]
TIMES = [0.9, 0.5, 0.2]

FACTOR = RNG.standard_normal((4, 4))
COVARIANCE = FACTOR @ FACTOR.T / 4 + 0.1 * np.eye(4)
MEAN = RNG.standard_normal((2, 2, 1))
GAUSSIAN = GaussianDenoiser(MEAN, COVARIANCE)
NOISE = RNG.standard_normal((5, 2, 2, 1)).astype("float32")


def numpy(value):
    return ops.convert_to_numpy(value)


@pytest.fixture(scope="module")
def model():
    network = keras_ddim.ModulatedUNet((8, 8, 3), (4,), 1, num_classes=3, seed=0)
    model = keras_ddim.DiffusionModel(network=network, seed=0, prediction_type="velocity")
    model.compile()
    model.normalizer.adapt([IMAGES])
    return randomise(model, 0)


class TestEdit:
    @pytest.mark.parametrize("sampler", DETERMINISTIC, ids=str)
    def test_the_first_time_says_how_much_changes(self, model, sampler):
        schedule = keras_ddim.CosineSchedule(0.02, 0.9999)
        distances = [
            np.abs(model.edit(IMAGES, first, schedule=schedule, sampler=sampler, seed=0) - IMAGES)
            for first in ([0.002], [0.2, 0.1], [0.5, 0.2], [0.95, 0.5])
        ]
        means = [distance.mean() for distance in distances]
        assert means == sorted(means) and means[0] < 0.02 and means[-1] > 5 * means[0]

    def test_is_generating_from_noisy_images(self, model):
        noise = RNG.standard_normal(IMAGES.shape).astype("float32")
        edited = model.edit(IMAGES, TIMES, initial_noise=noise, labels=1)
        level = numpy(model.schedule.log_snr(np.float32(TIMES[0])))
        noise_rate, signal_rate = map(numpy, rates(level))
        start = signal_rate * numpy(model.normalizer(IMAGES)) + noise_rate * noise
        expected = model.generate(3, TIMES, initial_noise=start, labels=1)
        np.testing.assert_allclose(edited, expected, atol=1e-5)

    def test_depends_on_seed_and_number_alone(self, model):
        edited = model.edit(IMAGES, TIMES, seed=1, sampler="ddpm")
        np.testing.assert_array_equal(model.edit(IMAGES, TIMES, seed=1, sampler="ddpm"), edited)
        alone = model.edit(IMAGES[:2], TIMES, seed=1, sampler="ddpm", batch_size=1)
        np.testing.assert_allclose(alone, edited[:2], atol=1e-4)
        as_integers = model.edit(np.round(IMAGES * 255).astype("uint8"), TIMES, seed=1)
        np.testing.assert_allclose(as_integers, model.edit(IMAGES, TIMES, seed=1), atol=0.05)


class TestInversion:
    @pytest.mark.parametrize("sampler", FOLLOWS_ANY, ids=str)
    def test_generating_gives_the_images_back(self, model, sampler):
        options = {"sampler": sampler, "labels": 1}
        errors = []
        for refinements in (1, 4):
            noise = model.invert(IMAGES, 12, refinements=refinements, **options)
            images = model.generate(3, 12, initial_noise=noise, **options)
            errors.append(np.sqrt(np.mean((images - IMAGES) ** 2)))
        assert errors[0] > 2 * errors[1] and errors[1] < 0.03

    def test_with_guidance_and_in_batches(self, model):
        options = {"labels": [0, 1, 2], "guidance_scale": 1.5}
        noise = model.invert(IMAGES, 8, refinements=4, **options)
        in_batches = model.invert(IMAGES, 8, refinements=4, batch_size=2, **options)
        np.testing.assert_allclose(in_batches, noise, atol=1e-3)
        images = model.generate(3, 8, initial_noise=noise, sampler="ddim", **options)
        assert np.abs(images - IMAGES).max() < 0.1

    @pytest.mark.parametrize(("sampler", "order"), [(DDIM(), 1), (Heun(), 2)], ids=repr)
    def test_finds_the_exact_noise_with_the_order_of_the_sampler(self, sampler, order):
        step = compile_step(Inversion(GAUSSIAN, sampler, refinements=12))
        errors = []
        for num_steps in (20, 40):
            levels = np.linspace(-5, 5, num_steps, dtype="float32")
            images = numpy(GAUSSIAN.follow(ops.convert_to_tensor(NOISE), levels[0], levels[-1]))
            noisy_images = ops.convert_to_tensor(images)
            state = step.init(noisy_images)
            for level, next_level in itertools.pairwise(levels[::-1]):
                noisy_images, _, state = step(
                    noisy_images=noisy_images, log_snr=level, next_log_snr=next_level, state=state
                )
            errors.append(np.abs(numpy(noisy_images) - NOISE).max())
        assert np.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.4)

    def test_evaluations_are_counted(self):
        levels = [None, *np.linspace(3, -3, 4)]
        for sampler, expected in ((DDIM(), 3 * 4), (Heun(), 3 * (2 * 3 + 1))):
            calls = []

            class Counting(GaussianDenoiser):
                def __call__(self, noisy_images, log_snr, calls=calls, **per_image):
                    calls.append(log_snr)
                    return super().__call__(noisy_images, log_snr)

            step = Inversion(Counting(MEAN, COVARIANCE), sampler, refinements=3)
            sampling.generate(step, levels, 5, (2, 2, 1), initial_images=NOISE, seed=0)
            counted = sampling.count_evaluations([step] * 4, levels)
            assert sum(counted) == len(calls) == expected

    def test_errors(self, model):
        for options, message in (
            ({"sampler": "ddpm"}, "`sampler` must be DDIM, .* deterministic.*got DDPM"),
            ({"sampler": "unipc"}, "`sampler` must be DDIM, .* and no multistep solver, got UniPC"),
            ({"refinements": 0}, "`refinements` must be an integer of at least 1, got 0"),
            ({"diffusion_times": [0.2, 0.5]}, "`diffusion_times` must be strictly decreasing"),
        ):
            with pytest.raises(ValueError, match=message):
                model.invert(IMAGES, **{"diffusion_times": 4, **options})


class TestInterpolation:
    def test_keeps_norms_and_ends(self):
        first, second = RNG.standard_normal((2, 4, 8, 8, 3))
        walk = keras_ddim.interpolate(first, second, 5)
        assert walk.shape == (5, 4, 8, 8, 3) and walk.dtype == "float32"
        np.testing.assert_allclose(walk[0], first, atol=1e-5)
        np.testing.assert_allclose(walk[-1], second, atol=1e-5)
        first = first / np.linalg.norm(first.reshape(4, -1), axis=1).reshape(4, 1, 1, 1)
        second = second / np.linalg.norm(second.reshape(4, -1), axis=1).reshape(4, 1, 1, 1)
        walk = keras_ddim.interpolate(first, second, 7)
        np.testing.assert_allclose(np.linalg.norm(walk.reshape(7, 4, -1), axis=-1), 1, atol=1e-5)
        steps = np.linalg.norm(np.diff(walk, axis=0).reshape(6, 4, -1), axis=-1)
        np.testing.assert_allclose(steps, np.broadcast_to(steps[:1], (6, 4)), rtol=1e-4)

    def test_equal_and_opposite_ones(self):
        noise = RNG.standard_normal((4, 4, 1))
        np.testing.assert_allclose(keras_ddim.interpolate(noise, noise, 3)[1], noise, atol=1e-4)
        assert np.isfinite(keras_ddim.interpolate(noise, -noise, 3)).all()
        with pytest.raises(ValueError, match="`second` must be of the shape of `first`"):
            keras_ddim.interpolate(np.ones((4, 4, 1)), np.ones((2, 4, 1)))


class TestListsThatRise:
    @pytest.mark.parametrize(
        ("sampler", "order"),
        [(DDIM(), 1), (Euler(), 1), (Heun(), 2), (DPMSolverPP(2, "singlestep"), 2)],
        ids=repr,
    )
    def test_deterministic_samplers_go_back_the_way_they_came(self, sampler, order):
        step = compile_step(Step(GAUSSIAN, sampler))
        errors = []
        for num_steps in (15, 30):
            levels = np.linspace(5, -5, num_steps, dtype="float32")
            images = GAUSSIAN.follow(ops.convert_to_tensor(NOISE), levels[-1], levels[0])
            *_, (noisy_images, _) = sampling.sample(step, images, levels)
            errors.append(np.abs(numpy(noisy_images) - NOISE).max())
        assert np.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.4)

    @pytest.mark.parametrize("sampler", [DDPM(), DDIM(eta=1), DDPM(variance="large")], ids=repr)
    def test_ancestral_samplers_add_the_noise_of_training(self, sampler):
        """`noisy_images' = α'/α noisy_images + √(s'² − (α'/α s)²) noises`, as in training."""
        level, next_level = np.float32(2.0), np.float32(-1.0)
        (noise_rate, signal_rate), (next_noise_rate, next_signal_rate) = (
            map(numpy, rates(each)) for each in (level, next_level)
        )
        ratio = next_signal_rate / signal_rate
        noises = RNG.standard_normal(NOISE.shape).astype("float32")
        received, *_ = compile_step(Step(GAUSSIAN, sampler))(
            noisy_images=NOISE, log_snr=level, next_log_snr=next_level, state=(), noises=noises
        )
        added = np.sqrt(next_noise_rate**2 - (ratio * noise_rate) ** 2)
        np.testing.assert_allclose(numpy(received), ratio * NOISE + added * noises, atol=1e-5)

    def test_churn_keeps_the_distribution(self):
        """Euler's and Heun's fresh noise comes before the step, which then goes back."""
        levels = np.linspace(3, -3, 30, dtype="float32")
        noise_rate, signal_rate = map(numpy, rates(levels[0]))
        rng = np.random.default_rng(1)
        images = MEAN.ravel() + rng.standard_normal((4000, 4)) @ np.linalg.cholesky(COVARIANCE).T
        start = signal_rate * images + noise_rate * rng.standard_normal(images.shape)
        start = start.reshape(-1, 2, 2, 1).astype("float32")
        step = compile_step(Step(GAUSSIAN, Heun(churn=0.1)))
        visits = sampling.sample(
            step, start, levels, draw_noises=lambda: rng.standard_normal(start.shape, "float32")
        )
        *_, (noisy_images, _) = visits
        noise_rate, signal_rate = map(numpy, rates(levels[-1]))
        expected = signal_rate**2 * COVARIANCE + noise_rate**2 * np.eye(4)
        received = np.cov(numpy(noisy_images).reshape(-1, 4).T)
        assert np.abs(received - expected).max() < 0.06


TOP = np.repeat([1, 0], 4)[:, None] * np.ones((8, 8))  # the upper half is known


class TestKnown:
    @pytest.mark.parametrize("sampler", [*DETERMINISTIC, "ddpm"], ids=str)
    def test_all_and_nothing(self, model, sampler):
        options = {"diffusion_times": TIMES, "sampler": sampler, "seed": 0, "labels": [0, 1, 2]}
        for known in (Known(IMAGES), Known(IMAGES, np.ones((8, 8)))):
            np.testing.assert_array_equal(model.generate(3, known=known, **options), IMAGES)
        nothing = model.generate(3, known=Known(IMAGES, np.zeros((8, 8))), **options)
        np.testing.assert_array_equal(nothing, model.generate(3, **options))

    def test_known_pixels_stay(self, model):
        masks = np.stack([TOP, 1 - TOP, np.zeros((8, 8))])[..., None]
        options = {"seed": 0, "labels": 1, "guidance_scale": 2, "clip": True}
        images = model.generate(3, TIMES, known=Known(IMAGES, masks), **options)
        np.testing.assert_array_equal(images[masks[..., 0] == 1], IMAGES[masks[..., 0] == 1])
        # The others depend on them.
        differ = images != model.generate(3, TIMES, known=Known(1 - IMAGES, masks), **options)
        assert differ[0, 4:].any() and differ[1, :4].any() and not differ[2].any()
        one = model.generate(3, TIMES, known=Known(IMAGES[0], TOP == 1), seed=0)
        np.testing.assert_array_equal(one[:, :4], np.tile(IMAGES[:1, :4], (3, 1, 1, 1)))
        edited = model.edit(IMAGES, TIMES, known=Known(IMAGES, TOP), seed=0)
        np.testing.assert_array_equal(edited[:, :4], IMAGES[:, :4])

    def test_smaller_and_grey_ones(self, model):
        for degradation in (BlockAverage(2), Grey(), LeftHalf()):
            known = numpy(degradation.degrade(ops.convert_to_tensor(0.3 + 0.4 * IMAGES)))
            known_ones = Known(known, degradation=degradation)
            images = model.generate(3, times.uniform(20), known=known_ones, seed=0)
            received = numpy(degradation.degrade(ops.convert_to_tensor(images)))
            # As far as pixel values in [0, 1] let them.
            inside = (images > 0).all((1, 2, 3)) & (images < 1).all((1, 2, 3))
            np.testing.assert_allclose(received[inside], known[inside], atol=1e-5)
            assert np.abs(received - known).mean() < 0.05

    @pytest.mark.parametrize("degradation", [BlockAverage(2), Grey(), Identity()], ids=repr)
    def test_pseudo_inverses(self, degradation):
        images = ops.convert_to_tensor(IMAGES)
        known = degradation.degrade(images)
        again = degradation.degrade(degradation.restore(known))
        np.testing.assert_allclose(numpy(again), numpy(known), atol=1e-5)
        # A⁺A is an orthogonal projection: what it leaves over is orthogonal to what it takes.
        part = numpy(degradation.restore(known))
        assert abs(np.sum(part * (IMAGES - part))) < 1e-2

    def test_of_normal_images_the_mean_comes_near_and_nearer_with_renoising(self):
        """Against the exact mean and covariance of unknown pixels, given the known ones."""
        known_images = np.array([1.0, -0.5, 0.0, 0.0]).reshape(2, 2, 1)
        known, unknown = [0, 1], [2, 3]
        mean, cross = MEAN.ravel()[unknown], COVARIANCE[np.ix_(unknown, known)]
        gain = cross @ np.linalg.inv(COVARIANCE[np.ix_(known, known)])
        shift = gain @ (known_images - MEAN).ravel()[known]
        covariance = COVARIANCE[np.ix_(unknown, unknown)] - gain @ cross.T
        step = compile_step(
            Step(DataConsistent(GAUSSIAN, keras_ddim.Normalizer(1), Identity()), "ddpm")
        )
        schedule, size = keras_ddim.CosineSchedule(0.001, 0.9999), 2000
        inputs = {
            "known_images": np.repeat(known_images[None], size, 0).astype("float32"),
            "known_mask": np.tile([1.0, 1.0, 0.0, 0.0], size).reshape(size, 2, 2, 1).astype("f4"),
        }

        def errors(listed):
            levels = numpy(schedule.log_snr(listed.astype("float32")))
            options = {"seed": 0, "batch_size": size, **inputs}
            images = sampling.generate(step, levels, size, (2, 2, 1), **options)
            pixels = images.reshape(size, 4)[:, unknown]
            of_mean = np.linalg.norm(pixels.mean(axis=0) - mean - shift) / np.linalg.norm(shift)
            difference = np.cov(pixels.T) - covariance
            return of_mean, np.linalg.norm(difference) / np.linalg.norm(covariance)

        few, many = errors(times.uniform(10)), errors(times.uniform(50))
        again = errors(times.renoised(30, 5, 8))
        # More steps make the spread right, but not the mean; that, renoising does.
        assert many[1] < 0.5 * few[1] and many[1] < 0.15
        assert many[0] > 0.8 * few[0] and many[0] > 0.3 and again[0] < 0.4 * many[0]

    @pytest.mark.parametrize(
        ("known", "options", "message"),
        [
            (IMAGES, {}, "`known` must be a `Known` or None"),
            (IMAGES[:2], {}, "`images` must be one image, or one for each of 3"),
            (IMAGES, {"mask": TOP / 2}, r"`mask` must be 1 or 0 at each pixel, got \[0.0, 0.5\]"),
            (IMAGES, {"mask": TOP[:4]}, r"`mask` must be of shape \(8, 8\) or .*\(4, 8\)"),
            (IMAGES, {"degradation": "blur"}, "`degradation` must be a"),
            (IMAGES, {"degradation": BlockAverage(3)}, "`factor` must be a divisor .*8×8, got 3"),
            (IMAGES, {"degradation": Grey((1.0,))}, "`weights` must be one weight for each"),
        ],
    )
    def test_errors(self, model, known, options, message):
        with pytest.raises(ValueError, match=message):
            is_known = "a `Known`" not in message
            model.generate(3, TIMES, known=Known(known, **options) if is_known else known)


class LeftHalf(Degradation):
    """As in the module's docstring."""

    def degrade(self, images):
        return images[:, :, : images.shape[2] // 2]

    def restore(self, known):
        return ops.concatenate([known, ops.zeros_like(known)], axis=2)
