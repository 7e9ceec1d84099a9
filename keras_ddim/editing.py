"""Editing: other beginnings for the same loop. Images with noise, noise found in images, walks.

An argument that is not as described raises a `ValueError`.
"""

from typing import Any

import numpy as np

from keras_ddim import checks
from keras_ddim.generator import Generator
from keras_ddim.guidance import check_guidance


class Editor(Generator):
    """What a `DiffusionModel` does with images that there are already."""

    def edit(self, images: Any, diffusion_times: Any = (0.6, 0.4, 0.2), **options: Any) -> Any:
        """Generates images like given ones: adds noise to these, and follows a list of times.

        The first time decides how much is kept: next to 0 the images come back, at 1 little is left
        but their number. From 0.6, colours and places stay, and what they belong to may change.

        Args:
            images: (num_images, height, width, channels), floats in [0, 1] or integers in 0..255.
            diffusion_times: As in `generate`. Noise is added to the level of the first. Defaults to
                (0.6, 0.4, 0.2).
            **options: Further arguments of `generate`, such as `labels`, `guidance_scale`, and
                `known_images` with `known_mask` for what must stay as it is.

        Example:

        ```python
        boots = model.edit(sneakers, [0.7, 0.5, 0.3, 0.1], labels="ankle boot", seed=0)
        ```

        Reference:
            [Meng et al., 2021, SDEdit](https://arxiv.org/abs/2108.01073)
        """
        num_images = len(self.normalize("images", images))
        return self.generate(num_images, diffusion_times, initial_images=images, **options)

    def invert(
        self,
        images: Any,
        diffusion_times: Any,
        *,
        refinements: int = 2,
        labels: Any = None,
        guidance_scale: float = 1.0,
        sampler: Any = "ddim",
        schedule: Any = None,
        batch_size: int | None = None,
        verbose: int | str = "auto",
    ) -> np.ndarray:
        """Finds the noise that `generate` turns into given images, along the same list.

        Follows the list backwards, each step to where the sampler's own step leads back from; see
        `keras_ddim.sampling.Inversion`. The images come back the better, the more times there are
        and the more refinements, and much better along lists uniform in log-SNR: of small pictures
        of flowers, with 13 such times to and fro at 41 dB (39 evaluations in all, those of the
        refinements included), with 13 uniform times at 24 dB.

        Args:
            images: As in `edit`.
            diffusion_times: As in `generate`, given the same sampler; they must decrease strictly.
            refinements: Evaluations at each time (twice as many with Heun). Defaults to 2.
            guidance_scale: As in `generate`. Scales above 1 are hard to invert.
            sampler: As in `generate`: "ddim", the default, "euler", "heun" or
                `DPMSolverPP(variant="singlestep")`.
            labels, schedule, batch_size, verbose: As in `generate`.

        Returns:
            float32 NumPy array as `images`: the `initial_noise` for `generate`, given the same
            times, labels, scale, sampler and schedule.

        Example:

        ```python
        times = keras_ddim.times.uniform_log_snr(13, model.schedule)
        noise = model.invert(images, times)
        same_images = model.generate(len(images), times, sampler="ddim", initial_noise=noise)
        ```
        """
        start_images = self.normalize("images", images)
        times = checks.check_diffusion_times(diffusion_times)
        if not (np.diff(times) < 0).all():
            raise ValueError(
                "`diffusion_times` must decrease strictly to be inverted. "
                f"Received: diffusion_times={checks.brief(diffusion_times)}"
            )
        if batch_size is not None:
            batch_size = checks.check_count("batch_size", batch_size)
        refinements = checks.check_count("refinements", refinements)
        guidance = check_guidance(guidance_scale)
        plan = self.plan(
            *(len(start_images), times, sampler, schedule, False, labels, guidance),
            refinements=refinements,
        )
        plan = plan._replace(levels=[None, *plan.levels[::-1]], steps=plan.steps[::-1])
        return self.follow(
            plan, len(start_images), verbose, batch_size, initial_images=start_images, seed=0
        )


def interpolate(first: Any, second: Any, num_steps: int = 8) -> np.ndarray:
    """`sin((1 - w) θ) / sin(θ) first + sin(w θ) / sin(θ) second`, w from 0 to 1: on the sphere.

    θ is the angle between the two. Of noises, straight lines would pass through smaller norms
    than those of training; on the sphere, the norm stays.

    Args:
        first: Noise (height, width, channels), or several (num_images, height, width, channels),
            such as from `DiffusionModel.invert`.
        second: As `first`.
        num_steps: Number of points on the way, both ends included, at least 2. Defaults to 8.

    Returns:
        float32 NumPy array (num_steps, *shape of `first`).

    Example:

    ```python
    times = keras_ddim.times.uniform_log_snr(20, model.schedule)
    noises = interpolate(*model.invert(two_images, times))
    walk = model.generate(8, times, sampler="ddim", initial_noise=noises)
    keras_ddim.plots.plot_images(walk, columns=8)
    ```

    Reference:
        [Shoemake, 1985](https://doi.org/10.1145/325165.325242)
    """
    first, second = (
        checks.check_array(name, noise).astype("float64")
        for name, noise in (("first", first), ("second", second))
    )
    if first.shape != second.shape or first.ndim < 3:
        raise ValueError(
            "`first` and `second` must be of one shape, (height, width, channels). "
            f"Received: shapes {first.shape} and {second.shape}"
        )
    if not (np.isfinite(first).all() and np.isfinite(second).all()):
        raise ValueError("`first` and `second` must be finite. Received: NaN or infinity")
    num_steps = checks.check_count("num_steps", num_steps, 2, checks.LARGEST_LIST)

    def inner(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return np.sum(x * y, axis=(-3, -2, -1), keepdims=True)

    norms = np.sqrt(inner(first, first) * inner(second, second))
    cosines = np.clip(inner(first, second) / np.maximum(norms, 1e-9), -1, 1)
    angles = np.maximum(np.arccos(cosines), 1e-6)  # equal ones are a straight line apart
    weights = np.linspace(0, 1, num_steps).reshape(-1, *[1] * first.ndim)
    total = np.sin((1 - weights) * angles) * first + np.sin(weights * angles) * second
    return (total / np.sin(angles)).astype("float32")
