"""Normal images, of which a denoiser and the path from noise to images are known exactly."""

import numpy as np
from keras import ops

from keras_ddim.noise_levels import rates


class GaussianDenoiser:
    """`pred_images = mean + α C (α² C + s² I)⁻¹ (noisy_images - α mean)`: exact for normal images.

    Args:
        mean: Mean of the images, an array of their shape.
        covariance: Covariance of their flattened values, a matrix, or a list of variances.
    """

    evaluations_per_call = 1

    def __init__(self, mean, covariance):
        self.mean = np.asarray(mean, "float64")
        covariance = np.asarray(covariance, "float64")
        covariance = np.diag(covariance) if covariance.ndim == 1 else covariance
        variances, self.axes = np.linalg.eigh(covariance)
        self.variances = np.maximum(variances, 0.0)

    def __call__(self, noisy_images, log_snr, **per_image):
        noisy_images = ops.convert_to_tensor(noisy_images)
        log_snr = ops.cast(log_snr, noisy_images.dtype)
        noise_rate, signal_rate = rates(log_snr)
        variances = ops.cast(self.variances, noisy_images.dtype)
        scores = self._to_axes(noisy_images, signal_rate) / self._variances_at(log_snr)
        pred_images = self._from_axes(signal_rate * variances * scores, noisy_images, 1.0)
        return self._from_axes(noise_rate * scores, noisy_images, 0.0), pred_images

    def follow(self, noisy_images, log_snr, next_log_snr):
        """The exact solution of the probability-flow equation from one noise level to another."""
        noisy_images = ops.convert_to_tensor(noisy_images)
        log_snr = ops.cast(log_snr, noisy_images.dtype)
        next_log_snr = ops.cast(next_log_snr, noisy_images.dtype)
        (_, signal_rate), (_, next_signal_rate) = rates(log_snr), rates(next_log_snr)
        scale = ops.sqrt(self._variances_at(next_log_snr) / self._variances_at(log_snr))
        deviations = self._to_axes(noisy_images, signal_rate)
        return self._from_axes(scale * deviations, noisy_images, next_signal_rate)

    def _variances_at(self, log_snr):
        noise_rate, signal_rate = rates(log_snr)
        return signal_rate**2 * ops.cast(self.variances, signal_rate.dtype) + noise_rate**2

    def _to_axes(self, noisy_images, signal_rate):
        deviations = noisy_images - signal_rate * ops.cast(self.mean, noisy_images.dtype)
        flat = ops.reshape(deviations, (-1, self.mean.size))
        return ops.matmul(flat, ops.cast(self.axes, noisy_images.dtype))

    def _from_axes(self, values, noisy_images, signal_rate):
        flat = ops.matmul(values, ops.cast(self.axes.T, noisy_images.dtype))
        mean = signal_rate * ops.cast(self.mean, noisy_images.dtype)
        return mean + ops.reshape(flat, ops.shape(noisy_images))
