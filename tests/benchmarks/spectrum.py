"""What the spectral preconditioning knows of the drawn flowers, drawn.

    python tests/benchmarks/spectrum.py --output notebooks/pictures/spectrum.png

Left, the spectrum that `adapt` finds: the variance of the brightness' coefficients against their
frequency, beside noise at several levels. Where the noise is above, the best linear denoiser can
say little of a coefficient; where it is below, it leaves the coefficient as it is. Right, three
images with that noise; what an untrained model makes of them, which is the best linear denoiser;
what the trained one that comes with the package makes of them; and the images.
"""

import argparse

import keras
import numpy as np
from matplotlib.figure import Figure

import keras_ddim
from keras_ddim import noise_levels

LOG_SNR = -4.0, -2.0, 0.0, 2.0
FLOWERS = 4, 5, 2


def by_frequency(variances):
    """Mean variance of the coefficients at each distance from frequency 0."""
    rows, columns = np.indices(variances.shape)
    distances = np.round(np.hypot(rows, columns)).astype(int)
    return np.bincount(distances.ravel(), variances.ravel()) / np.bincount(distances.ravel())


def denoised(model, images, noises, **labels):
    """Noisy images at each level, and what the model takes them for, as pixels."""
    clean = keras.ops.convert_to_numpy(model.normalizer(images))
    denoiser = model.make_denoiser()
    labels = {name: keras.ops.convert_to_tensor(values) for name, values in labels.items()}
    rows = []
    for level in LOG_SNR:
        noisy_images = noise_levels.mix(clean, noises, *noise_levels.rates(np.float32(level)))
        _, pred_images = denoiser(noisy_images, level, **labels)
        rows.append([model.denormalize(noisy_images), model.denormalize(pred_images)])
    return np.array(rows)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", default="spectrum.png")
    args = parser.parse_args()
    trained = keras_ddim.DiffusionModel.from_preset("flowers")
    size = trained.image_shape[0]
    flowers, families = keras_ddim.draw_flowers(4000, size, seed=1, return_labels=True)
    images, labels = flowers[list(FLOWERS)], families[list(FLOWERS)]
    untrained = keras_ddim.recipe(
        trained.image_shape, num_steps=1, preconditioning="spectral", seed=0
    )
    untrained.adapt(flowers)
    noises = np.random.default_rng(0).standard_normal(images.shape).astype("float32")
    noisy, linear = np.moveaxis(denoised(untrained, images, noises), 1, 0)
    _, better = np.moveaxis(denoised(trained, images, noises, labels=labels), 1, 0)

    figure = Figure((13, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1, 2.4))
    brightness = np.array(keras.ops.convert_to_numpy(untrained.preconditioning.variances))[-1]
    left.loglog(1 + np.arange(len(by_frequency(brightness))), by_frequency(brightness), "k")
    for level in LOG_SNR:
        left.axhline(np.exp(-level), ls="--", color="0.6")
        left.annotate(f"noise at a log-SNR of {level:g}", (1.1, 1.15 * np.exp(-level)))
    left.set(xlabel="frequency, plus 1", ylabel="variance of a coefficient", title="the spectrum")
    rows = {"noisy": noisy, "linear": linear, "trained": better}
    rows["image"] = np.broadcast_to(images, noisy.shape)
    strips = [np.concatenate(np.concatenate(row), axis=1) for row in rows.values()]
    right.imshow(np.concatenate(strips))
    block = size * len(images)
    right.set_yticks(size * (np.arange(len(rows)) + 0.5), rows)
    right.set_xticks(block * (np.arange(len(LOG_SNR)) + 0.5), [f"{level:g}" for level in LOG_SNR])
    right.set(xlabel="log-SNR", title="what is made of noisy images")
    figure.savefig(args.output, dpi=100)


if __name__ == "__main__":
    main()
