import keras
import numpy as np
import pytest
from keras import ops

import keras_ddim
from keras_ddim import noise_levels
from keras_ddim.denoisers import NetworkDenoiser
from keras_ddim.noise_levels import PREDICTION_TYPES
from keras_ddim.preconditioning import SpectralPreconditioning, get
from tests.gaussian import GaussianDenoiser

SHAPE = (4, 6, 3)


def numpy(tensor):
    return ops.convert_to_numpy(tensor)


def basis(part):
    """The coefficients' images, (coefficients, values): the rows are orthonormal."""
    units = np.eye(int(np.prod(SHAPE)), dtype="float32").reshape(-1, 3, 4, 6)
    return numpy(part._to_images(units)).reshape(len(units), -1)


@pytest.fixture(scope="module")
def part():
    """Adapted to normal images that have a spectrum, correlated colours and a mean."""
    rng = np.random.default_rng(0)
    part = SpectralPreconditioning(SHAPE)
    spectrum = 1 / (1 + np.arange(72).reshape(3, 4, 6) % 24) ** 1.5
    mixing = rng.normal(size=(3, 3))
    planes = rng.normal(size=(3000, 3, 4, 6)) * np.sqrt(spectrum)
    images = numpy(part._to_images(planes.astype("float32"))) @ mixing + rng.normal(size=SHAPE)
    part.adapt([images[:2000], images[2000:]])
    return part, images


@pytest.mark.core
@pytest.mark.parametrize("channels", [1, 3])
def test_transforms_of_a_batch_are_exact(channels):
    part = SpectralPreconditioning((32, 32, channels))
    part.axes.assign(np.linalg.qr(np.random.default_rng(1).normal(size=(channels, channels)))[0])
    images = np.random.default_rng(0).random((16, 32, 32, channels), "float32")
    planes = np.moveaxis(images @ numpy(part.axes), 3, 1)
    coefficients = part.rows @ planes @ part.columns.T
    for _ in range(20):
        np.testing.assert_allclose(numpy(part._to_coefficients(images)), coefficients, atol=1e-4)
        np.testing.assert_allclose(numpy(part._to_images(coefficients)), images, atol=1e-4)


def test_statistics_are_those_of_the_images(part):
    part, images = part
    np.testing.assert_allclose(numpy(part.mean), images.mean(axis=0), atol=1e-4)
    coefficients = (images - images.mean(axis=0)).reshape(len(images), -1) @ basis(part).T
    variances = np.sort(coefficients.var(axis=0))
    np.testing.assert_allclose(np.sort(numpy(part.variances).ravel()), variances, rtol=1e-3)
    # The colour axes are principal: no correlation between them is left.
    by_axis = coefficients.reshape(-1, 3, 24).transpose(1, 0, 2).reshape(3, -1)
    np.testing.assert_allclose(np.corrcoef(by_axis), np.eye(3), atol=0.03)


@pytest.mark.core
@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
@pytest.mark.parametrize("level", [-8.0, 0.0, 3.0])
def test_untrained_network_is_the_best_linear_denoiser(part, prediction_type, level):
    part, _ = part
    rows = basis(part)
    covariance = rows.T @ np.diag(numpy(part.variances).ravel()) @ rows
    exact = GaussianDenoiser(numpy(part.mean), covariance)
    network = keras_ddim.ModulatedUNet(SHAPE, (4, 8), images_seen=2, seed=0)
    denoiser = NetworkDenoiser(network, None, prediction_type, preconditioning=part)
    noisy_images = np.random.default_rng(1).normal(size=(5, *SHAPE)).astype("float32")
    for mine, theirs in zip(denoiser(noisy_images, level), exact(noisy_images, level)):
        # Noise left over from images, or the reverse, loses digits at the ends.
        np.testing.assert_allclose(numpy(mine), numpy(theirs), atol=2e-3)


def test_what_the_network_sees_and_is_to_predict_has_unit_variance(part):
    part, images = part
    noises = np.random.default_rng(2).normal(size=images.shape).astype("float32")
    images = images.astype("float32")
    for level in (-4.0, 0.0, 4.0):
        log_snr = np.full((len(images), 1, 1, 1), level, "float32")
        rates = noise_levels.rates(log_snr)
        noisy_images = noise_levels.mix(images, noises, *rates)
        seen, coefficients = part.whiten(noisy_images, log_snr)
        whitened = numpy(seen)[..., :3]
        np.testing.assert_allclose(whitened.var(), 1, atol=0.01)
        zeros = np.zeros_like(images)
        for prediction_type in PREDICTION_TYPES:
            target = numpy(noise_levels.target(images, noises, *rates, prediction_type))
            # Linear in the output, so that the output wanted is known in the basis.
            known = numpy(part.predict(zeros, coefficients, log_snr, prediction_type))
            scale = numpy(part.predict(whitened, coefficients, log_snr, prediction_type))
            left_over = numpy(part._to_coefficients(target - known))
            scales = numpy(part._to_coefficients(scale - known)) / numpy(
                part._to_coefficients(whitened)
            )
            np.testing.assert_allclose((left_over / scales).var(), 1, atol=0.02)


def test_constant_spectrum_is_the_preconditioning_of_karras():
    part = SpectralPreconditioning(SHAPE)
    sigma_data = 0.5
    part.variances.assign(np.full((3, 4, 6), sigma_data**2))
    rng = np.random.default_rng(0)
    noisy_images, output = rng.normal(size=(2, 2, *SHAPE)).astype("float32")
    log_snr = np.full((2, 1, 1, 1), 1.0, "float32")
    noise_rates, signal_rates = (numpy(rate) for rate in noise_levels.rates(log_snr))
    # Their noisy images are ours divided by the signal rate, their σ the ratio of the rates.
    sigma, y = noise_rates / signal_rates, noisy_images / signal_rates
    total = sigma**2 + sigma_data**2
    seen, coefficients = part.whiten(noisy_images, log_snr)
    whitened = y / np.sqrt(total)
    np.testing.assert_allclose(numpy(seen)[..., :3], whitened, rtol=1e-4, atol=1e-5)
    pred_images = sigma_data**2 / total * y + sigma * sigma_data / np.sqrt(total) * output
    mine = numpy(part.predict(-output, coefficients, log_snr, "image"))
    np.testing.assert_allclose(mine, pred_images, rtol=1e-4, atol=1e-5)


@pytest.mark.core
def test_model_adapts_trains_saves_and_generates_with_it(images, tmp_path):
    model = keras_ddim.recipe((8, 8, 3), 20, widths=(8,), preconditioning="spectral", seed=0)
    assert isinstance(model.preconditioning, SpectralPreconditioning)
    model.fit(images, batch_size=8, epochs=2, verbose=0)
    assert not np.allclose(numpy(model.preconditioning.variances), 1)
    assert model.preconditioning not in model.network.layers
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(
        loaded.generate(2, 3, seed=0), model.generate(2, 3, seed=0), atol=1e-5
    )
    assert "preconditioning" not in {v.path.split("/")[0] for v in model.trainable_variables}


@pytest.mark.parametrize(
    "identifier", ["edm", 3, SpectralPreconditioning((2, 2, 1)), keras.layers.Identity()]
)
def test_others_are_refused(identifier):
    with pytest.raises(ValueError, match=r"`preconditioning` must be None, .spectral.*, got"):
        get(identifier, SHAPE)
