"""Mixing images and noises, and separating them again: the two directions of every diffusion step.

Written once each. Training mixes and separates to learn; sampling separates and mixes to generate.
"""


def mix(images, noises, noise_rates, signal_rates):
    """`noisy_images = signal_rates * images + noise_rates * noises`.

    Args:
        images: Normalised images (batch, height, width, channels).
        noises: Standard normal noise, as `images`.
        noise_rates: Tensor that broadcasts to `images`, such as (batch, 1, 1, 1).
        signal_rates: As `noise_rates`.

    Returns:
        The noisy images, as `images`.
    """
    return signal_rates * images + noise_rates * noises


def separate(noisy_images, pred_noises, noise_rates, signal_rates):
    """`pred_images = (noisy_images - noise_rates * pred_noises) / signal_rates`: undoes `mix`.

    Args:
        noisy_images: Noisy images (batch, height, width, channels).
        pred_noises: The predicted noise in them, of the same shape.
        noise_rates: Tensor that broadcasts to `noisy_images`, such as (batch, 1, 1, 1).
        signal_rates: As `noise_rates`.

    Returns:
        `(pred_noises, pred_images)`, the two components of `noisy_images`.
    """
    return pred_noises, (noisy_images - noise_rates * pred_noises) / signal_rates
