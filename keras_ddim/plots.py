"""Plots: grids and rows of images, animations, training curves, schedules and sampling times.

A `plot_...` function returns a `matplotlib.figure.Figure`, which notebooks show. With the `path` of
a file, in one of `FORMATS`, it writes the file and returns None. No function needs a display or
`pyplot`.
"""

import io
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_ddim import checks, schedules
from keras_ddim.files import Path, check_suffix, write_whole
from keras_ddim.noise_levels import finite

if TYPE_CHECKING:  # slow imports, otherwise made where used
    import PIL.Image
    from matplotlib.figure import Figure

FORMATS = (".png", ".jpg", ".pdf", ".svg")
# Small images are enlarged by integer factors, up to these sizes.
GRID_PIXELS, IMAGE_PIXELS, ANIMATION_PIXELS = 1024, 256, 384
PIXELS_PER_INCH = 100
# In seconds. Browsers show shorter frames for a tenth of a second.
SHORTEST_FRAME, LAST_FRAME = 0.02, 1.5


def image_grid(images: np.ndarray, columns: int | None = None) -> np.ndarray:
    """Arranges images in one large image, row by row, on white (transparent with 4 channels).

    Args:
        images: Array (num_images, height, width, channels) with 1, 3 or 4 channels, or
            (num_images, height, width): floats in [0, 1] or integers in 0..255.
        columns: Number of images in a row. Defaults to None: as square as possible.

    Returns:
        float32 NumPy array (height, width, channels) of values in [0, 1].

    Example:

    >>> image_grid(np.zeros((10, 32, 32, 3)), columns=5).shape
    (70, 172, 3)
    """
    images, columns = _check_images(images), _check_columns(columns, len(images))
    num_images, height, width, channels = images.shape
    margin = max(1, min(height, width) // 16)
    size = math.ceil(num_images / columns) * (height + margin), columns * (width + margin)
    background = [1.0, 1.0, 1.0, 0.0] if channels == 4 else 1.0
    grid = np.full((size[0] + margin, size[1] + margin, channels), background, "float32")
    for index, image in enumerate(images):
        top = margin + index // columns * (height + margin)
        left = margin + index % columns * (width + margin)
        grid[top : top + height, left : left + width] = image
    return grid


def save_image(image: np.ndarray, path: Path) -> None:
    """Writes one image, (height, width, channels) or (height, width), as a PNG file."""
    check_suffix(path, [".png"])
    picture = as_picture(_check_images(np.asarray(image)[None])[0])
    with write_whole(path) as temporary_path:
        picture.save(temporary_path)


def as_picture(image: np.ndarray) -> "PIL.Image.Image":
    """A float image (height, width, channels) in [0, 1] as an image of Pillow."""
    import PIL.Image

    pixels = np.round(255 * image).astype("uint8")
    return PIL.Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)


def plot_images(
    images: np.ndarray,
    columns: int | None = None,
    path: Path | None = None,
    *,
    row_labels: Sequence[str] = (),
) -> "Figure | None":
    """Plots a grid of images, small ones enlarged.

    Args:
        images, columns: As in `image_grid`.
        path: See `keras_ddim.plots`.
        row_labels: List of strings, one to the left of each row. Defaults to none.

    Example:

    ```python
    plot_images(model.generate(64), path="samples.png")
    ```
    """
    images, columns = _check_images(images), _check_columns(columns, len(images))
    rows = math.ceil(len(images) / columns)
    allowed = f"a list of one string for each row, {rows}"
    checks.require(len(row_labels) in (0, rows), "row_labels", allowed, row_labels)
    grid = image_grid(images, columns)
    factor = min(GRID_PIXELS // max(grid.shape[:2]), IMAGE_PIXELS // max(images.shape[1:3]))
    grid = grid.repeat(max(factor, 1), axis=0).repeat(max(factor, 1), axis=1)
    if path is not None and not row_labels and pathlib.Path(path).suffix == ".png":
        save_image(grid, path)  # pixel by pixel
        return None
    height, width = grid.shape[:2]
    figure = _new_figure(figsize=(width / PIXELS_PER_INCH, height / PIXELS_PER_INCH))
    axes = figure.add_axes((0, 0, 1, 1), frame_on=False, xticks=[])
    axes.imshow(grid, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    axes.set_yticks((np.arange(len(row_labels)) + 0.5) * height / rows, row_labels)
    axes.tick_params(length=0)
    return _finish(figure, path)


def plot_rows(rows: Mapping[str, np.ndarray], path: Path | None = None) -> "Figure | None":
    """Plots labelled rows of images, such as images from one noise by several samplers.

    Args:
        rows: Dictionary from labels to images of one shape.
        path: See `keras_ddim.plots`.

    Example:

    ```python
    plot_rows({name: model.generate(8, 5, sampler=name, seed=0) for name in ("ddim", "heun")})
    ```
    """
    checked = [_check_images(images) for images in rows.values()]
    shapes = [images.shape for images in checked]
    is_equal = len(set(shapes)) == 1
    checks.require(is_equal, "rows", "a dictionary of images of one shape", shapes)
    labels = [str(label) for label in rows]
    return plot_images(np.concatenate(checked), len(checked[0]), path, row_labels=labels)


def times_label(diffusion_times: int | str | Sequence[float]) -> str:
    """A short label for the `diffusion_times` of `generate`: "5 times", "1, 0.8, 0.5"."""
    if isinstance(diffusion_times, str):
        return diffusion_times
    if isinstance(diffusion_times, (int, np.integer)):
        return "1 time" if diffusion_times == 1 else f"{diffusion_times} times"
    times = [f"{time:.3g}" for time in np.ravel(diffusion_times)]
    if len(times) > 6:
        times = [*times[:3], "…", f"{times[-1]} ({len(times)} times)"]
    return ", ".join(times)


def animate(
    noisy_images: np.ndarray,
    pred_images: np.ndarray,
    path: Path,
    *,
    columns: int | None = None,
    seconds: float = 4.0,
    scale: int | None = None,
) -> None:
    """Animates the generation of images from noise, with a frame for each step.

    Noisy images are on the left, predicted images on the right. The last frame shows the final
    images on both sides.

    Args:
        noisy_images: Array (steps, num_images, height, width, channels), each step as in
            `image_grid`. Transparent images are composited onto white.
        pred_images: Array of this shape.
        path: Path of the file, ending in ".gif".
        columns: As in `image_grid`.
        seconds: Seconds from the first step to the last, at least 0.02 for each step. Defaults to
            4.
        scale: Factor by which images are enlarged. Defaults to None: the largest that keeps both
            sides within 384 pixels.

    Example:

    ```python
    trajectory = model.generate(16, 50, return_trajectory=True)
    noisy_images = model.denormalize(trajectory.noisy_images)
    animate(noisy_images, trajectory.pred_images, "flowers.gif")
    ```
    """
    noisy_images = checks.check_array("noisy_images", noisy_images)
    pred_images = checks.check_array("pred_images", pred_images)
    allowed = "steps of images in an array of the shape of `noisy_images`"
    is_same = pred_images.shape == noisy_images.shape and pred_images.size
    checks.require(is_same, "pred_images", allowed, pred_images)
    frames = []
    for sides in (*zip(noisy_images, pred_images), (pred_images[-1], pred_images[-1])):
        left, right = (image_grid(images, columns) for images in sides)
        gap = np.ones((len(left), max(1, left.shape[1] // 32), left.shape[2]), "float32")
        frames.append(np.concatenate([left, gap, right], axis=1))
    _save_frames(frames, path, seconds, scale, [LAST_FRAME])


def animate_walk(
    images: np.ndarray,
    path: Path,
    *,
    columns: int | None = None,
    seconds: float = 4.0,
    scale: int | None = None,
) -> None:
    """Animates images that change gradually, such as interpolations, forwards and backwards.

    Args:
        images: Array (steps, height, width, channels) of at least two steps, or (steps, num_images,
            height, width, channels) for several images side by side.
        path, columns, seconds, scale: As in `animate`.

    Example:

    ```python
    noises = keras_ddim.interpolate(*np.random.standard_normal((2, 32, 32, 3)), num_steps=30)
    animate_walk(model.generate(30, initial_noise=noises), "walk.gif")
    ```
    """
    images = checks.check_array("images", images)
    images = images[:, None] if images.ndim == 4 else images
    allowed = "at least two steps (steps, height, width, channels) of one image or several"
    checks.require(images.ndim == 5 and len(images) > 1, "images", allowed, images)
    frames = [image_grid(step, columns) for step in (*images, *images[-2:0:-1])]
    _save_frames(frames, path, seconds, scale, [])


def _save_frames(
    frames: list[np.ndarray], path: Path, seconds: float, scale: int | None, last: list[float]
) -> None:
    """Writes a GIF; the last frames are shown for `last` seconds each, the others for `seconds`."""
    import PIL.Image

    check_suffix(path, [".gif"])
    steps = len(frames) - len(last)
    step = max(checks.check_number("seconds", seconds, above=0) / steps, SHORTEST_FRAME)
    if scale is None:
        scale = max(1, ANIMATION_PIXELS // max(frames[0].shape[:2]))
    scale = checks.check_count("scale", scale)
    pictures = []
    for pixels in frames:
        if pixels.shape[-1] == 4:
            pixels = 1 + pixels[..., 3:] * (pixels[..., :3] - 1)
        picture = as_picture(pixels)
        if picture.mode == "RGB":
            # Undithered, to keep enlarged pixels uniform; octrees are fast on noise.
            octree, undithered = PIL.Image.Quantize.FASTOCTREE, PIL.Image.Dither.NONE
            picture = picture.quantize(method=octree, dither=undithered)
        pictures.append(picture.resize((picture.width * scale, picture.height * scale), 0))
    options: dict[str, Any] = {"append_images": pictures[1:], "loop": 0, "optimize": True}
    options["duration"] = [round(1000 * shown) for shown in [step] * steps + last]
    with write_whole(path) as temporary_path:
        pictures[0].save(temporary_path, save_all=True, **options)


def plot_history(history: Any, path: Path | None = None) -> "Figure | None":
    """Plots the training history: losses of noises and images, in training and validation.

    Args:
        history: The result of `fit`, or the path of a CSV file of it.
        path: See `keras_ddim.plots`.

    Example:

    ```python
    plot_history(model.fit(images, epochs=10))
    ```
    """
    if hasattr(history, "history"):
        columns = {"epoch": np.add(history.epoch, 1), **history.history}
    else:
        rows = np.atleast_1d(np.genfromtxt(history, delimiter=",", names=True))
        columns = {name: rows[name] for name in rows.dtype.names or ()}
    titles = {"n_loss": "loss of the noises", "i_loss": "loss of the images"}
    titles = {name: title for name, title in titles.items() if name in columns}
    checks.require(titles, "history", "a history of `n_loss` or `i_loss`", sorted(columns))
    figure, panels = _figure_of_panels(len(titles))
    for axes, (name, title) in zip(panels, titles.items()):
        for key, label in ((name, "training"), (f"val_{name}", "validation")):
            if key in columns:
                axes.plot(columns["epoch"], columns[key], "o-", label=label, markersize=3)
        axes.set(title=f"{title} ({name})", xlabel="epoch")
        axes.locator_params(axis="x", integer=True)
        axes.legend()
    return _finish(figure, path)


def plot_schedule(schedule: Any = None, path: Path | None = None) -> "Figure | None":
    """Plots noise rates, signal rates and log-SNR against the diffusion time.

    Args:
        schedule: As in `keras_ddim.schedules.get`, or a list to compare.
        path: See `keras_ddim.plots`.

    Example:

    ```python
    plot_schedule([CosineSchedule(), CosineSchedule(max_signal_rate=0.99)])
    ```
    """
    several = schedule if isinstance(schedule, (list, tuple)) else [schedule]
    several = [schedules.get(each) for each in several]
    checks.require(several, "schedule", "at least one schedule", schedule)
    times = np.linspace(0.0, 1.0, 501, dtype="float32")
    figure, (left, right) = _figure_of_panels(2, height=3.5 + 0.2 * len(several))
    for index, each in enumerate(several):
        noise_rates, signal_rates = each.rates(times)
        left.plot(times, np.asarray(signal_rates), f"C{index}")
        left.plot(times, np.asarray(noise_rates), f"C{index}--")
        right.plot(times, np.asarray(each.log_snr(times)), label=repr(each))
    # The left legend explains the kinds of line, the legend below the colours.
    left.plot([], [], "k", label="signal rate")
    left.plot([], [], "k--", label="noise rate")
    left.set(title="rates", xlabel="diffusion time", ylim=(-0.02, 1.02))
    right.set(title="log-SNR", xlabel="diffusion time")
    left.legend(loc="lower center")
    figure.legend(handles=right.get_lines(), loc="outside lower center")
    return _finish(figure, path)


def plot_times(
    lists: Mapping[str, Any],
    schedule: Any = None,
    path: Path | None = None,
    *,
    errors: Mapping[str, Any] | None = None,
) -> "Figure | None":
    """Plots sampling times on the schedule's curve, and by log-SNR.

    Args:
        lists: Dictionary from labels to sampling times.
        schedule: The schedule of the times, as in `keras_ddim.schedules.get`.
        path: See `keras_ddim.plots`.
        errors: Dictionary from labels to errors for each time, such as from
            `keras_ddim.explain_times`, drawn as the width of the interval after the time. Defaults
            to None.

    Example:

    ```python
    lists = {"uniform": keras_ddim.times.uniform(5), "optimized": model.kept_times("best:5")}
    plot_times(lists, model.schedule)
    ```
    """
    schedule, errors = schedules.get(schedule), errors or {}
    checks.require(lists, "lists", "a dictionary of at least one list of times", lists)
    checked = {name: checks.check_diffusion_times(times) for name, times in lists.items()}
    fit = all(
        np.shape(values) == np.shape(checked.get(name, ())) for name, values in errors.items()
    )
    checks.require(fit, "errors", "an error for each time of lists in `lists`", errors)
    largest = max((np.max(values) for values in errors.values()), default=0.0) or 1.0

    def log_snr(times: np.ndarray) -> np.ndarray:
        return finite(np.asarray(schedule.log_snr(times.astype("float32"))))

    figure, (left, right) = _figure_of_panels(2, height=3.0 + 0.3 * len(checked))
    curve = np.linspace(0.0, 1.0, 501)
    left.plot(curve, log_snr(curve), "k", linewidth=1)
    for row, (name, times) in enumerate(checked.items()):
        levels = log_snr(times)
        left.plot(times, levels, f"C{row}o", markersize=4)
        right.plot(levels, np.full(len(times), row), f"C{row}o", markersize=5)
        ends = np.append(levels[1:], log_snr(np.zeros(1)))
        widths = 0.3 + 12 * np.array(errors.get(name, ())) / largest
        for width, start, end in zip(widths, levels, ends):
            right.plot(
                [start, end], [row] * 2, f"C{row}", alpha=0.5, lw=width, solid_capstyle="butt"
            )
    left.set(title=type(schedule).__name__, xlabel="diffusion time", ylabel="log-SNR")
    right.set(title="times by log-SNR" + ", errors as width" * bool(errors), xlabel="log-SNR")
    right.set_yticks(range(len(checked)), list(checked))
    right.set_ylim(len(checked) - 0.5, -0.5)
    return _finish(figure, path)


def _new_figure(**kwargs: Any) -> "Figure":
    """A figure that notebooks show without `pyplot`."""
    from matplotlib.figure import Figure

    class NotebookFigure(Figure):
        def savefig(self, *args: Any, **kwargs: Any) -> None:
            # "tight" includes the labels, which stand outside the grid.
            super().savefig(*args, **{"bbox_inches": "tight", "pad_inches": "layout", **kwargs})

        def _repr_png_(self) -> bytes:
            self.savefig(buffer := io.BytesIO())
            return buffer.getvalue()

    return NotebookFigure(dpi=PIXELS_PER_INCH, facecolor="white", **kwargs)


def _figure_of_panels(count: int, height: float = 3.5) -> tuple["Figure", Any]:
    figure = _new_figure(figsize=(4.5 * count, height), layout="constrained")
    panels = figure.subplots(1, count, squeeze=False)[0]
    for axes in panels:
        axes.grid(alpha=0.3)
    return figure, panels


def _finish(figure: "Figure", path: Path | None) -> "Figure | None":
    """Returns the figure, or writes it to `path` and returns None."""
    if path is None:
        return figure
    check_suffix(path, FORMATS)
    with write_whole(path) as temporary_path:
        figure.savefig(temporary_path)
    return None


def _check_images(images: np.ndarray) -> np.ndarray:
    """`images` as a float32 array (num_images, height, width, channels) in [0, 1]."""
    images = checks.check_array("images", images)
    images = images[..., None] if images.ndim == 3 else images
    is_batch = images.ndim == 4 and images.shape[-1] in (1, 3, 4) and images.size
    allowed = "at least one image, (num_images, height, width, channels) of 1, 3 or 4 channels"
    checks.require(is_batch, "images", allowed, images)
    images = checks.check_image_batch("images", images, images.shape[1:])
    return np.clip(images, 0.0, 1.0)


def _check_columns(columns: int | None, num_images: int) -> int:
    if columns is None:
        return math.ceil(math.sqrt(num_images))
    return min(checks.check_count("columns", columns), num_images)
