"""Samplers: one step from a noise level to the next.

A sampler knows nothing of loops, batches, progress bars or networks: it is handed a `denoise`
callable and two noise levels. The loop over the list of times stands in `DiffusionModel.generate`.
"""

import keras

from keras_ddim.mixing import mix
from keras_ddim.schedules import PACKAGE, rates


class Sampler:
    """One step from a noise level to the next."""

    def step(self, denoise, noisy_images, log_snr, next_log_snr):
        """Takes `noisy_images` from one noise level to the next.

        Args:
            denoise: Callable `(noisy_images, log_snr) -> (pred_noises, pred_images)`.
            noisy_images: Tensor (batch, height, width, channels) at the level `log_snr`.
            log_snr: The present noise level, broadcasting to `noisy_images`.
            next_log_snr: The noise level to go to; may be higher, lower or the same.

        Returns:
            `(next_noisy_images, pred_images)`.
        """
        raise NotImplementedError

    def get_config(self):
        return {}

    @classmethod
    def from_config(cls, config):
        return cls(**config)


@keras.saving.register_keras_serializable(PACKAGE)
class DDIM(Sampler):
    """`next_noisy_images = next_signal_rates * pred_images + next_noise_rates * pred_noises`.

    Separates the noisy images into their two components and mixes them again at the next noise
    level. Deterministic, first order, one network evaluation a step.

    Reference:
        [Song et al., 2020, Denoising Diffusion Implicit Models](https://arxiv.org/abs/2010.02502)
    """

    def step(self, denoise, noisy_images, log_snr, next_log_snr):
        pred_noises, pred_images = denoise(noisy_images, log_snr)
        return mix(pred_images, pred_noises, *rates(next_log_snr)), pred_images
