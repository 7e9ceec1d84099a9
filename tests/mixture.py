"""Images whose every pixel is a mixture of normal colours: not normal, and separated exactly."""

import numpy as np
from keras import ops

from keras_ddim.noise_levels import rates


class MixtureDenoiser:
    """The best possible denoiser of images of independent pixels, each a mixture of normals.

    Pixels are of unit variance; those of the first columns stay close to one of their few colours,
    those of the last hardly do.

    Args:
        seed: Integer: which colours.
        image_shape: (height, width, channels).
        components: Normals in the mixture of each pixel.
        deviations: Standard deviations of these, in the first and in the last column.
    """

    evaluations_per_call = 1

    def __init__(self, seed=0, image_shape=(4, 8, 3), components=3, deviations=(0.2, 0.8)):
        height, width, channels = self.image_shape = image_shape
        rng = np.random.default_rng(seed)
        means = rng.standard_normal((height, width, components, channels))
        means /= np.sqrt(np.mean(means**2, axis=(2, 3), keepdims=True))
        self.variances = np.geomspace(*deviations, width).reshape(1, width, 1, 1) ** 2
        self.means = means * np.sqrt(1 - self.variances)

    def __call__(self, noisy_images, log_snr, **per_image):
        noise_rate, signal_rate = rates(log_snr)
        means = ops.cast(self.means, noisy_images.dtype)
        variances = ops.cast(self.variances, noisy_images.dtype)
        noisy_variances = signal_rate**2 * variances + noise_rate**2
        deviations = ops.expand_dims(noisy_images, -2) - signal_rate * means
        distances = ops.sum(deviations**2, axis=-1, keepdims=True) / noisy_variances
        weights = ops.softmax(-distances / 2, axis=-2)
        posterior_means = means + signal_rate * variances / noisy_variances * deviations
        pred_images = ops.sum(weights * posterior_means, axis=-2)
        return (noisy_images - signal_rate * pred_images) / noise_rate, pred_images
