"""Pictures: grids of images, lists of diffusion times side by side, histories and schedules.

Every `plot_...` function writes a file where it is given a `path`, and returns a figure where it is
not; a figure shows itself as the last value of a notebook cell. None of them needs a display or
touches the state of `matplotlib.pyplot`.
"""

import csv
import io
import math
import os
import pathlib
import sys

import numpy as np

from keras_ddim import inputs, schedules
from keras_ddim.files import write_whole

# Small images are enlarged to whole multiples, up to these sizes in pixels.
GRID_PIXELS = 1024
IMAGE_PIXELS = 256
PIXELS_PER_INCH = 100
FORMATS = (".png", ".jpg", ".pdf", ".svg")
LABEL_POINTS = 11
LABEL_INCHES = 0.15
DIFFUSION_TIMES = (1, 3, 5, (1.0, 0.8, 0.5, 0.2), 20, 50)


# Images


def image_grid(images, columns=None, margin=None):
    """One large image of many small ones, row by row.

    Args:
        images: Array (num_images, height, width, channels) with 1, 3 or 4 channels, or
            (num_images, height, width): floats in [0, 1] or integers in 0..255.
        columns: Number of images side by side. Defaults to None: as square as it gets.
        margin: White (transparent, with 4 channels) pixels around each image. Defaults to None:
            a sixteenth of the image.

    Returns:
        float32 NumPy array (height, width, channels) of values in [0, 1].

    Raises:
        ValueError: If an argument is not as described.

    Example:

    >>> image_grid(np.zeros((10, 32, 32, 3)), columns=5).shape
    (70, 172, 3)
    """
    images = _check_images(images)
    num_images, height, width, channels = images.shape
    columns = _check_columns(columns, num_images)
    margin = max(1, min(height, width) // 16) if margin is None else margin
    rows = math.ceil(num_images / columns)
    grid = np.ones(
        (margin + rows * (height + margin), margin + columns * (width + margin), channels),
        "float32",
    )
    if channels == 4:
        grid[..., 3] = 0.0
    for index, image in enumerate(images):
        top = margin + index // columns * (height + margin)
        left = margin + index % columns * (width + margin)
        grid[top : top + height, left : left + width] = image
    return grid


def save_image(image, path):
    """Writes one image as PNG, pixel by pixel.

    Args:
        image: Array (height, width, channels) with 1, 3 or 4 channels, or (height, width):
            floats in [0, 1] or integers in 0..255.
        path: Path of the file, ending in ".png".

    Raises:
        ValueError: If an argument is not as described.
        OSError: If the file cannot be written.
    """
    import PIL.Image

    check_suffix(path, [".png"])
    image = np.round(255 * _check_images(np.asarray(image)[None])[0]).astype("uint8")
    if image.shape[-1] == 1:
        image = image[..., 0]
    with write_whole(path) as temporary_path:
        PIL.Image.fromarray(image).save(temporary_path)


def plot_images(images, columns=None, path=None, *, row_labels=None):
    """A grid of images, small ones enlarged so that their pixels can be seen.

    Args:
        images: Images as in `image_grid`.
        columns: Number of images side by side. Defaults to None: as square as it gets.
        path: File to write, of any of `FORMATS`. Defaults to None: a figure is returned instead.
        row_labels: One text for each row, to stand left of it. Defaults to None.

    Returns:
        A `matplotlib.figure.Figure`, or None where `path` is given.

    Raises:
        ValueError: If an argument is not as described.
        OSError: If the file cannot be written.

    Example:

    ```python
    plot_images(model.generate(64), path="samples.png")
    ```
    """
    images = _check_images(images)
    columns = _check_columns(columns, len(images))
    grid = image_grid(images, columns)
    factor = min(GRID_PIXELS // max(grid.shape[:2]), IMAGE_PIXELS // max(images.shape[1:3]))
    grid = grid.repeat(max(factor, 1), axis=0).repeat(max(factor, 1), axis=1)
    rows = math.ceil(len(images) / columns)
    if row_labels is not None and len(row_labels) != rows:
        raise ValueError(
            f"`row_labels` must hold one label for each of the {rows} rows. "
            f"Received: row_labels={row_labels!r}"
        )
    if path is not None and row_labels is None and pathlib.Path(path).suffix == ".png":
        return save_image(grid, path)
    return _finish(_figure_of_grid(grid, row_labels or []), path)


def plot_generations(model, diffusion_times=DIFFUSION_TIMES, num_images=8, *, seed=0, path=None):
    """The same noise generated at several lists of diffusion times, one row each.

    Args:
        model: A `keras_ddim.DiffusionModel`.
        diffusion_times: List of what `model.generate` takes, each a number of uniform times or a
            list of times; or a dictionary from label to that. Defaults to a selection from 1 to
            50 times.
        num_images: Number of images in a row. Defaults to 8.
        seed: Seed of the noise, as in `model.generate`. Defaults to 0; None is a random one.
        path: File to write, of any of `FORMATS`. Defaults to None: a figure is returned instead.

    Returns:
        A `matplotlib.figure.Figure`, or None where `path` is given.

    Raises:
        ValueError: If an argument is not as described.
        OSError: If the file cannot be written.

    Example:

    ```python
    plot_generations(model, [5, 20, [1.0, 0.8, 0.5, 0.2]], path="times.png")
    ```
    """
    if isinstance(diffusion_times, (str, int)) or not len(diffusion_times):
        raise ValueError(
            "`diffusion_times` must be a list of numbers of times and lists of times, such as "
            f"[5, 20, [1.0, 0.8, 0.5, 0.2]]. Received: diffusion_times={diffusion_times!r}"
        )
    if isinstance(diffusion_times, dict):
        row_labels, diffusion_times = list(diffusion_times), diffusion_times.values()
    else:
        row_labels = [times_label(times) for times in diffusion_times]
    seed = int(np.random.default_rng().integers(2**31)) if seed is None else seed
    rows = [model.generate(num_images, times, seed=seed, verbose=0) for times in diffusion_times]
    return plot_images(np.concatenate(rows), num_images, path, row_labels=row_labels)


def times_label(diffusion_times):
    """A short text for what `generate` takes as `diffusion_times`: "5 uniform", "1, 0.8, 0.5"."""
    if isinstance(diffusion_times, (int, np.integer)):
        return f"{diffusion_times} uniform"
    times = [f"{time:.3g}" for time in np.ravel(diffusion_times)]
    if len(times) > 6:
        times = [*times[:3], "…", f"{times[-1]} ({len(times)} times)"]
    return ", ".join(times)


# Curves


def plot_history(history, path=None):
    """The training history: loss on the noises and on the images, in training and validation.

    Args:
        history: What `fit` returned, its `history` dictionary, or the path of a CSV file with a
            column for each loss.
        path: File to write, of any of `FORMATS`. Defaults to None: a figure is returned instead.

    Returns:
        A `matplotlib.figure.Figure`, or None where `path` is given.

    Raises:
        ValueError: If an argument is not as described.
        OSError: If a file cannot be read or written.

    Example:

    ```python
    history = model.fit(images, epochs=10)
    plot_history(history, path="history.png")
    ```
    """
    from matplotlib.ticker import MaxNLocator

    columns = _history_columns(history)
    titles = {"n_loss": "loss on the noises", "i_loss": "loss on the images"}
    titles = {name: title for name, title in titles.items() if name in columns}
    if not titles:
        raise ValueError(
            f"`history` must hold `n_loss` or `i_loss`. Received: history with {sorted(columns)}"
        )
    epochs = np.asarray(columns.get("epoch", np.arange(len(columns[next(iter(titles))]))))
    if epochs.size and epochs.min() == 0:
        epochs = epochs + 1  # Keras counts from 0, people from 1

    figure, panels = _figure_of_panels(len(titles))
    for axes, (name, title) in zip(panels, titles.items()):
        for key, label in ((name, "training"), (f"val_{name}", "validation")):
            if key in columns:
                axes.plot(epochs, columns[key], label=label, marker="o", markersize=3)
        axes.set(title=f"{title} ({name})", xlabel="epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.legend()
    return _finish(figure, path)


def read_history(path):
    """The rows of a history in CSV, a dictionary from column to text for each epoch."""
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def plot_schedule(schedule=None, path=None):
    """Noise rates, signal rates and log-SNR against the diffusion time.

    Args:
        schedule: A `keras_ddim.schedules.Schedule` or its name, or a list of them to compare.
            Defaults to None: the default schedule.
        path: File to write, of any of `FORMATS`. Defaults to None: a figure is returned instead.

    Returns:
        A `matplotlib.figure.Figure`, or None where `path` is given.

    Raises:
        ValueError: If an argument is not as described.
        OSError: If the file cannot be written.

    Example:

    ```python
    plot_schedule([CosineSchedule(), CosineSchedule(max_signal_rate=0.99)])
    ```
    """
    several = schedule if isinstance(schedule, (list, tuple)) else [schedule]
    several = [schedules.get(each) for each in several]
    if not several:
        raise ValueError("`schedule` must hold at least one schedule. Received none.")
    times = np.linspace(0.0, 1.0, 501, dtype="float32")
    figure, (left, right) = _figure_of_panels(2, height=3.5 + 0.2 * len(several))
    for index, (each, label) in enumerate(zip(several, _schedule_labels(several))):
        noise_rates, signal_rates = (np.asarray(rates) for rates in each.rates(times))
        color = f"C{index}"
        left.plot(times, signal_rates, color=color)
        left.plot(times, noise_rates, color=color, linestyle="--")
        right.plot(times, np.asarray(each.log_snr(times)), color=color, label=label)
    # Black keys for the kind of line, colours for the schedules.
    left.plot([], [], color="black", label="signal rate")
    left.plot([], [], color="black", linestyle="--", label="noise rate")
    left.set(title="rates", xlabel="diffusion time", ylim=(-0.02, 1.02))
    right.set(title="log-SNR", xlabel="diffusion time")
    left.legend(loc="lower center")
    figure.legend(handles=right.get_lines(), loc="outside lower center")
    return _finish(figure, path)


# Figures


def show(figure):
    """Displays a figure: in a notebook below the cell, else in a window if there can be one.

    Args:
        figure: A `matplotlib.figure.Figure`.

    Returns:
        Whether there was a place to show it.
    """
    if _in_notebook():
        import IPython.display

        IPython.display.display(figure)
        return True

    from matplotlib import pyplot
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    # One window for all, so that a long training run does not litter the screen.
    window = pyplot.figure("keras_ddim", figsize=figure.get_size_inches())
    if window.canvas.required_interactive_framework is None:
        pyplot.close(window)
        return False
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    window.clear()
    axes = window.add_axes((0, 0, 1, 1))
    axes.imshow(np.asarray(canvas.buffer_rgba()))
    axes.set_axis_off()
    pyplot.show(block=False)
    pyplot.pause(0.001)
    return True


def _in_notebook():
    """Whether this runs in a notebook's kernel, as opposed to a terminal."""
    if "IPython" not in sys.modules:
        return False
    shell = sys.modules["IPython"].get_ipython()
    return shell is not None and getattr(shell, "kernel", None) is not None


def _new_figure(**kwargs):
    """A figure that shows itself in notebooks, which know only those of `pyplot` by themselves."""
    from matplotlib.figure import Figure

    class NotebookFigure(Figure):
        def _repr_png_(self):
            buffer = io.BytesIO()
            self.savefig(buffer, format="png")
            return buffer.getvalue()

    return NotebookFigure(dpi=PIXELS_PER_INCH, facecolor="white", **kwargs)


def _figure_of_panels(count, height=3.5):
    figure = _new_figure(figsize=(4.5 * count, height), layout="constrained")
    panels = figure.subplots(1, count, squeeze=False)[0]
    for axes in panels:
        axes.grid(alpha=0.3)
    return figure, panels


def _figure_of_grid(grid, row_labels):
    """A figure exactly as large as the grid, and the labels left of it, if any."""
    from matplotlib.textpath import TextPath

    height, width = (size / PIXELS_PER_INCH for size in grid.shape[:2])
    extents = [TextPath((0, 0), label or " ", size=LABEL_POINTS) for label in row_labels]
    left = max((extent.get_extents().xmax / 72 for extent in extents), default=0.0)
    left += 2 * LABEL_INCHES if row_labels else 0.0
    figure = _new_figure(figsize=(left + width, height))
    axes = figure.add_axes((left / (left + width), 0, width / (left + width), 1))
    axes.set_axis_off()
    grid = grid.repeat(3, axis=-1) if grid.shape[-1] == 1 else grid
    axes.imshow(grid, aspect="auto", interpolation="nearest")
    for row, label in enumerate(row_labels):
        figure.text(
            (left - LABEL_INCHES) / (left + width),
            1 - (row + 0.5) / len(row_labels),
            label,
            size=LABEL_POINTS,
            horizontalalignment="right",
            verticalalignment="center",
        )
    return figure


def _finish(figure, path):
    """Returns the figure, or writes it and returns None if there is a `path`."""
    if path is None:
        return figure
    check_suffix(path)
    with write_whole(path) as temporary_path:
        figure.savefig(temporary_path)
    return None


# What the functions above are handed


def _check_images(images):
    """`images` as float32 array (num_images, height, width, channels) in [0, 1]."""
    images = np.asarray(images)
    shape = images.shape
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim != 4 or images.shape[-1] not in (1, 3, 4) or images.size == 0:
        raise ValueError(
            "`images` must be of shape (num_images, height, width, channels) with 1, 3 or 4 "
            f"channels and at least one image. Received: images of shape {shape}"
        )
    integers = np.issubdtype(images.dtype, np.integer)
    images = images.astype("float32") / (255 if integers else 1)
    if not inputs.in_range(images).all():
        raise ValueError(
            f"{inputs.ALLOWED_IMAGES}. "
            f"Received: images with values from {images.min():g} to {images.max():g}"
        )
    return np.clip(images, 0.0, 1.0)


def _check_columns(columns, num_images):
    if columns is None:
        return math.ceil(math.sqrt(num_images))
    return min(inputs.check_count("columns", columns), num_images)


def check_suffix(path, suffixes=FORMATS):
    """Raises a `ValueError` unless `path` ends in one of `suffixes`."""
    if pathlib.Path(path).suffix.lower() not in suffixes:
        raise ValueError(f"`path` must end in {' or '.join(suffixes)}. Received: path={path}")


def _history_columns(history):
    """The history as a dictionary from column to list of numbers."""
    if isinstance(history, (str, os.PathLike)):
        rows = read_history(history)
        names = rows[0] if rows else ()
        return {name: [float(row[name] or "nan") for row in rows] for name in names}
    if isinstance(history, dict):
        return history
    if isinstance(getattr(history, "history", None), dict):
        return {"epoch": history.epoch, **history.history}
    raise ValueError(
        "`history` must be what `fit` returned, its `history` dictionary, or the path of a CSV "
        f"file. Received: history={history!r}"
    )


def _schedule_labels(several):
    """Class names, with their arguments where two schedules are of one class."""
    names = [type(each).__name__ for each in several]
    return [
        name if names.count(name) == 1 else f"{name}({_arguments(each.get_config())})"
        for name, each in zip(names, several)
    ]


def _arguments(config):
    return ", ".join(f"{name}={value}" for name, value in config.items())
