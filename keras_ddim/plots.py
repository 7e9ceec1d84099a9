"""Pictures of arrays: grids and rows of images, animations, training curves, schedules.

A `plot_...` function returns a `matplotlib.figure.Figure`, which shows itself as the last value of
a notebook cell; or None, if it is given a `path` of a file to write, of any of `FORMATS`. None
needs a display or touches the state of `pyplot`. An argument that is not as described raises a
`ValueError`.
"""

import csv
import io
import math
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_ddim import checks, schedules
from keras_ddim.files import Path, check_path, check_suffix, write_whole
from keras_ddim.noise_levels import finite

if TYPE_CHECKING:  # else imported when used
    import PIL.Image
    from matplotlib.figure import Figure

FORMATS = (".png", ".jpg", ".pdf", ".svg")
# Small images are enlarged to whole multiples, up to these sizes.
GRID_PIXELS, IMAGE_PIXELS, ANIMATION_PIXELS = 1024, 256, 384
PIXELS_PER_INCH = 100
# In seconds. Browsers show frames that ask for less for a tenth of a second.
SHORTEST_FRAME, LAST_FRAME = 0.02, 1.5


def image_grid(images: np.ndarray, columns: int | None = None) -> np.ndarray:
    """One large image of many small ones, row by row, on white (transparent, with 4 channels).

    Args:
        images: Array (num_images, height, width, channels) with 1, 3 or 4 channels, or
            (num_images, height, width): floats in [0, 1] or integers in 0..255.
        columns: Number of images side by side. Defaults to None: as square as it gets.

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
    """Writes one image, (height, width, channels) or (height, width), as a PNG file, pixel by
    pixel.
    """
    check_suffix(path, [".png"])
    picture = as_picture(_check_images(np.asarray(image)[None])[0])
    with write_whole(path) as temporary_path:
        picture.save(temporary_path)


def as_picture(image: np.ndarray) -> "PIL.Image.Image":
    """An image of `image_grid` as one of Pillow."""
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
    """A grid of images, small ones enlarged so that their pixels can be seen.

    Args:
        images, columns: As in `image_grid`.
        path: See `keras_ddim.plots`.
        row_labels: One text for each row, left of it. Defaults to none.

    Example:

    ```python
    plot_images(model.generate(64), path="samples.png")
    ```
    """
    images, columns = _check_images(images), _check_columns(columns, len(images))
    rows = math.ceil(len(images) / columns)
    is_list = isinstance(row_labels, (list, tuple))
    if not is_list or len(row_labels) not in (0, rows):
        raise ValueError(
            f"`row_labels` must be a list of texts, as many as rows, {rows}. "
            f"Received: row_labels={checks.brief(row_labels)}"
        )
    grid = image_grid(images, columns)
    factor = min(GRID_PIXELS // max(grid.shape[:2]), IMAGE_PIXELS // max(images.shape[1:3]))
    grid = grid.repeat(max(factor, 1), axis=0).repeat(max(factor, 1), axis=1)
    if path is not None and not row_labels and pathlib.Path(check_path(path)).suffix == ".png":
        save_image(grid, path)  # pixel by pixel
        return None
    height, width, channels = grid.shape
    figure = _new_figure(figsize=(width / PIXELS_PER_INCH, height / PIXELS_PER_INCH))
    axes = figure.add_axes((0, 0, 1, 1), frame_on=False, xticks=[])
    axes.imshow(grid.repeat(3, axis=-1) if channels == 1 else grid, interpolation="nearest")
    places = (np.arange(len(row_labels)) + 0.5) * height / rows
    axes.set_yticks(places, row_labels)
    axes.tick_params(length=0)
    return _finish(figure, path)


def plot_rows(rows: Mapping[str, np.ndarray], path: Path | None = None) -> "Figure | None":
    """Rows of images with labels, such as one noise generated in several ways.

    Args:
        rows: Dictionary from the label of each row to its images, all of one shape.
        path: See `keras_ddim.plots`.

    Example:

    ```python
    plot_rows({name: model.generate(8, 5, sampler=name, seed=0) for name in ("ddim", "heun")})
    ```
    """
    rows = checks.check_mapping("rows", rows)
    checked = {str(label): _check_images(images) for label, images in rows.items()}
    shapes = {label: images.shape for label, images in checked.items()}
    if len(set(shapes.values())) != 1:
        raise ValueError(f"`rows` must hold images of one shape. Received: rows of shapes {shapes}")
    images = np.concatenate(list(checked.values()))
    return plot_images(images, len(images) // len(rows), path, row_labels=list(checked))


def times_label(diffusion_times: int | str | Sequence[float]) -> str:
    """A short text for what `generate` takes as `diffusion_times`: "5 times", "1, 0.8, 0.5"."""
    if isinstance(diffusion_times, str):
        return diffusion_times
    if isinstance(diffusion_times, (int, np.integer)):
        return "1 time" if diffusion_times == 1 else f"{diffusion_times} times"
    listed = np.ravel(checks.check_array("diffusion_times", diffusion_times))
    times = [f"{time:.3g}" for time in listed]
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
    """An animation of images coming out of noise: a frame for each step.

    On the left are the noisy images, on the right the images predicted from them. The last frame
    has the final images on both sides.

    Args:
        noisy_images: Array (steps, num_images, height, width, channels), for each step as in
            `image_grid`. Transparent images are laid on white.
        pred_images: Another of this shape.
        path: Path of the file, ending in ".gif".
        columns: As in `image_grid`.
        seconds: Seconds from the first step to the last, in (0, 600], at least 0.02 for each step.
            Defaults to 4.
        scale: Number of pixels, across and down, that each pixel of an image becomes; the file
            grows with its square. Defaults to None: as many as fit into 384 on either side.

    Example:

    ```python
    way = model.generate(16, 50, return_trajectory=True)
    animate(model.denormalize(way.noisy_images), way.pred_images, "flowers.gif")
    ```
    """
    check_suffix(path, [".gif"])
    noisy_images = checks.check_array("noisy_images", noisy_images)
    pred_images = checks.check_array("pred_images", pred_images)
    steps, *shape = noisy_images.shape or (0,)
    if len(shape) != 4 or not steps or noisy_images.shape != pred_images.shape:
        raise ValueError(
            "`noisy_images` and `pred_images` must be of one shape (steps, num_images, height, "
            "width, channels) with at least one step. Received: noisy_images of shape "
            f"{noisy_images.shape} and pred_images of shape {pred_images.shape}"
        )
    frames = []
    for left, right in (*zip(noisy_images, pred_images), (pred_images[-1], pred_images[-1])):
        left, right = image_grid(left, columns), image_grid(right, columns)
        gap = np.ones((len(left), max(1, left.shape[1] // 32), left.shape[2]), "float32")
        frames.append(np.concatenate([left, gap, right], axis=1))
    scale = _check_scale(scale, right)
    _save_frames(frames, path, seconds, scale, last_frame=LAST_FRAME)


def animate_walk(
    images: np.ndarray,
    path: Path,
    *,
    columns: int | None = None,
    seconds: float = 4.0,
    scale: int | None = None,
) -> None:
    """An animation of images that change little from one to the next, there and back.

    Args:
        images: Array (steps, height, width, channels), or (steps, num_images, height, width,
            channels) for several side by side; of at least two steps.
        path, columns, seconds, scale: As in `animate`.

    Example:

    ```python
    noises = keras_ddim.interpolate(*np.random.standard_normal((2, 32, 32, 3)), num_steps=30)
    animate_walk(model.generate(30, initial_noise=noises), "walk.gif")
    ```
    """
    check_suffix(path, [".gif"])
    images = checks.check_array("images", images)
    images = images[:, None] if images.ndim == 4 else images
    if images.ndim != 5 or len(images) < 2:
        raise ValueError(
            "`images` must be of shape (steps, height, width, channels) or (steps, num_images, "
            "height, width, channels), with at least two steps. "
            f"Received: images of shape {images.shape}"
        )
    frames = [image_grid(step, columns) for step in (*images, *images[-2:0:-1])]
    _save_frames(frames, path, seconds, _check_scale(scale, frames[0]))


def _check_scale(scale: int | None, grid: np.ndarray) -> int:
    if scale is not None:
        return checks.check_count("scale", scale)
    return max(1, ANIMATION_PIXELS // max(grid.shape[:2]))


def _save_frames(
    frames: list[np.ndarray],
    path: Path,
    seconds: float,
    scale: int,
    last_frame: float | None = None,
) -> None:
    """Writes a GIF of frames, the last of which is shown for longer if `last_frame` is given."""
    if not isinstance(seconds, (int, float)) or not 0 < seconds <= 600:
        raise ValueError(
            f"`seconds` must be a number in (0, 600]. Received: seconds={checks.brief(seconds)}"
        )
    steps = len(frames) if last_frame is None else len(frames) - 1
    durations = [max(seconds / steps, SHORTEST_FRAME)] * steps
    durations += [] if last_frame is None else [last_frame]
    milliseconds = [round(1000 * duration) for duration in durations]
    first, *others = (_animation_frame(frame, scale) for frame in frames)
    options: Any = {"append_images": others, "duration": milliseconds, "loop": 0, "optimize": True}
    with write_whole(path) as temporary_path:
        first.save(temporary_path, save_all=True, **options)


def _animation_frame(pixels: np.ndarray, scale: int) -> "PIL.Image.Image":
    """A frame, with a palette of its own; transparent ones lie on white."""
    import PIL.Image

    channels = pixels.shape[-1]
    if channels == 4:
        pixels = 1 + pixels[..., 3:] * (pixels[..., :3] - 1)
    frame = as_picture(pixels)
    if channels > 1:
        # Undithered, so that a pixel stays of one colour when enlarged; octrees are fast on noise.
        octree, undithered = PIL.Image.Quantize.FASTOCTREE, PIL.Image.Dither.NONE
        frame = frame.quantize(method=octree, dither=undithered)
    return frame.resize((frame.width * scale, frame.height * scale), PIL.Image.Resampling.NEAREST)


def plot_history(history: Any, path: Path | None = None) -> "Figure | None":
    """The training history: loss on the noises and on the images, in training and validation.

    Args:
        history: What `fit` returned, its `history` dictionary, or the path of it as a CSV file.
        path: See `keras_ddim.plots`.

    Example:

    ```python
    plot_history(model.fit(images, epochs=10))
    ```
    """
    columns = _history_columns(history)
    titles = {"n_loss": "loss on the noises", "i_loss": "loss on the images"}
    titles = {name: title for name, title in titles.items() if name in columns}
    if not titles:
        raise ValueError(
            f"`history` must hold `n_loss` or `i_loss`. Received: history with {sorted(columns)}"
        )
    figure, panels = _figure_of_panels(len(titles))
    for axes, (name, title) in zip(panels, titles.items()):
        for key, label in ((name, "training"), (f"val_{name}", "validation")):
            if key in columns:
                epochs = columns.get("epoch", range(1, len(columns[key]) + 1))
                axes.plot(epochs, columns[key], label=label, marker="o", markersize=3)
        axes.set(title=f"{title} ({name})", xlabel="epoch")
        axes.locator_params(axis="x", integer=True)
        axes.legend()
    return _finish(figure, path)


def read_history(path: Path) -> list[dict[str, str]]:
    """The rows of a history in CSV, a dictionary from column to text for each epoch."""
    with open(check_path(path), newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def plot_schedule(schedule: Any = None, path: Path | None = None) -> "Figure | None":
    """Noise rates, signal rates and log-SNR against the diffusion time.

    Args:
        schedule: See `keras_ddim.schedules.get`, or a list of such to compare.
        path: See `keras_ddim.plots`.

    Example:

    ```python
    plot_schedule([CosineSchedule(), CosineSchedule(max_signal_rate=0.99)])
    ```
    """
    several = schedule if isinstance(schedule, (list, tuple)) else [schedule]
    several = [schedules.get(each) for each in several]
    if not several:
        raise ValueError("`schedule` must hold at least one schedule. Received none.")
    names = [type(each).__name__ for each in several]
    times = np.linspace(0.0, 1.0, 501, dtype="float32")
    figure, (left, right) = _figure_of_panels(2, height=3.5 + 0.2 * len(several))
    for index, (each, name) in enumerate(zip(several, names)):
        noise_rates, signal_rates = (np.asarray(rates) for rates in each.rates(times))
        left.plot(times, signal_rates, color=f"C{index}")
        left.plot(times, noise_rates, color=f"C{index}", linestyle="--")
        # With its arguments, if that is what tells two of one class apart.
        label = name if names.count(name) == 1 else repr(each)
        right.plot(times, np.asarray(each.log_snr(times)), color=f"C{index}", label=label)
    # Black keys for the kind of line, colours for the schedules.
    left.plot([], [], color="black", label="signal rate")
    left.plot([], [], color="black", linestyle="--", label="noise rate")
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
    """Lists of times on the schedule's curve, and side by side by log-SNR.

    Args:
        lists: Dictionary from labels to lists of times.
        schedule: The schedule that they belong to, see `keras_ddim.schedules.get`.
        path: See `keras_ddim.plots`.
        errors: Dictionary from some of the labels to errors of the intervals, one for each time, as
            of `keras_ddim.explain_times`: the larger, the thicker the line. Defaults to None.

    Example:

    ```python
    lists = {"uniform": keras_ddim.times.uniform(5), "found": model.kept_times("best:5")}
    plot_times(lists, model.schedule)
    ```
    """
    schedule = schedules.get(schedule)
    errors = {} if errors is None else checks.check_mapping("errors", errors)
    given = checks.check_mapping("lists", lists)
    checked = {str(name): checks.check_diffusion_times(times) for name, times in given.items()}
    widths = {name: np.asarray(values, "float64") for name, values in errors.items()}
    for name, values in widths.items():
        if name not in checked or values.shape != checked[name].shape:
            raise ValueError(
                "`errors` must hold an error for each time of lists in `lists`. "
                f"Received: errors of shape {values.shape} for {name!r}"
            )
    largest = max((values.max() for values in widths.values()), default=0.0) or 1.0

    def log_snr(times: np.ndarray) -> np.ndarray:
        return finite(np.asarray(schedule.log_snr(times.astype("float32"))))

    figure, (left, right) = _figure_of_panels(2, height=3.0 + 0.3 * len(checked))
    curve = np.linspace(0.0, 1.0, 501)
    left.plot(curve, log_snr(curve), color="black", linewidth=1)
    for row, (name, times) in enumerate(checked.items()):
        levels = log_snr(times)
        left.plot(times, levels, "o", color=f"C{row}", markersize=4, label=name)
        right.plot(levels, np.full(len(times), row), "o", color=f"C{row}", markersize=5)
        ends = [*levels[1:], log_snr(np.zeros(1))[0]]
        for error, start, end in zip(widths.get(name, ()), levels, ends):
            width = 0.3 + 12 * error / largest
            options = {"solid_capstyle": "butt", "alpha": 0.5}
            right.plot([start, end], [row, row], color=f"C{row}", linewidth=width, **options)
    left.set(title=type(schedule).__name__, xlabel="diffusion time", ylabel="log-SNR")
    right.set(title="times by log-SNR" + ", errors as width" * bool(widths), xlabel="log-SNR")
    right.set_yticks(range(len(checked)), list(checked))
    right.set_ylim(len(checked) - 0.5, -0.5)
    return _finish(figure, path)


def _new_figure(**kwargs: Any) -> "Figure":
    """A figure that shows itself in notebooks, which know only those of `pyplot` by themselves."""
    from matplotlib.figure import Figure

    class NotebookFigure(Figure):
        def savefig(self, *args: Any, **kwargs: Any) -> None:
            # With the labels of a grid, which stand outside of it.
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
    """Returns the figure, or writes it and returns None if there is a `path`."""
    if path is None:
        return figure
    check_suffix(path, FORMATS)
    with write_whole(path) as temporary_path:
        figure.savefig(temporary_path)
    return None


def _check_images(images: np.ndarray) -> np.ndarray:
    """`images` as float32 array (num_images, height, width, channels) in [0, 1]."""
    images = checks.check_array("images", images)
    shape = images.shape
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim != 4 or images.shape[-1] not in (1, 3, 4) or images.size == 0:
        raise ValueError(
            "`images` must be of shape (num_images, height, width, channels) with 1, 3 or 4 "
            f"channels and at least one image. Received: images of shape {shape}"
        )
    images = checks.check_image_batch("images", images, images.shape[1:])
    return np.clip(images, 0.0, 1.0).astype("float32")


def _check_columns(columns: int | None, num_images: int) -> int:
    if columns is None:
        return math.ceil(math.sqrt(num_images))
    return min(checks.check_count("columns", columns), num_images)


def _history_columns(history: Any) -> dict[str, Any]:
    """The history as a dictionary from column to list of numbers, epochs counted from 1."""
    if isinstance(history, (str, os.PathLike)):
        rows = read_history(history)
        names = rows[0] if rows else ()
        return {name: [float(row[name] or "nan") for row in rows] for name in names}
    if isinstance(getattr(history, "history", None), dict):
        return {"epoch": [epoch + 1 for epoch in history.epoch], **history.history}
    if isinstance(history, dict):
        return history
    raise ValueError(
        "`history` must be what `fit` returned, its `history` dictionary, or the path of a CSV "
        f"file. Received: history={checks.brief(history)}"
    )
