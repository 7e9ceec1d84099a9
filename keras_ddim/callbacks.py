"""Callbacks: pictures of the progress of training, and files that outlive its interruption.

An argument that is not as described raises a `ValueError`.
"""

import csv
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from keras_ddim import checks, plots
from keras_ddim.files import Path, check_path, check_suffix, write_whole
from keras_ddim.metrics import ImageMetric, update
from keras_ddim.sampling import check_generate_options

Logs = dict[str, Any] | None


class SampleGrid(keras.callbacks.Callback):
    """Draws a grid of generated images after each epoch, always from the same noise.

    Args:
        num_images: Number of images. Defaults to 16.
        path: File to write, where `{epoch}` is the number of epochs done. Defaults to
            "samples/epoch_{epoch:03d}.png". None shows the pictures in a notebook instead.
        every: Number of epochs from picture to picture. Defaults to 1.
        columns: Number of images side by side. Defaults to None: as square as it gets.
        by_class: Whether to draw a row of `num_images` for each class of the model instead, with
            its name. Defaults to False.
        **generate_options: Keyword arguments of `DiffusionModel.generate`. `seed` defaults to 0;
            None is a random one, drawn once. `verbose` defaults to 0.

    Example:

    ```python
    grids = keras_ddim.callbacks.SampleGrid(diffusion_times=5, sampler="unipc")
    model.fit(images, epochs=10, callbacks=[grids])
    ```
    """

    def __init__(
        self,
        num_images: int = 16,
        path: Path | None = "samples/epoch_{epoch:03d}.png",
        every: int = 1,
        columns: int | None = None,
        by_class: bool = False,
        **generate_options: Any,
    ) -> None:
        super().__init__()
        self.num_images = checks.check_count("num_images", num_images)
        self.by_class = by_class
        self.path = None if path is None else str(path)
        self.every = checks.check_count("every", every)
        self.columns = columns if columns is None else checks.check_count("columns", columns)
        options = {"seed": 0, "verbose": 0, **generate_options}
        if options["seed"] is None:
            options["seed"] = int(np.random.default_rng().integers(2**31))
        self.generate_options = check_generate_options(options)
        if path is not None:
            try:  # now, not after an epoch
                check_suffix(str(path).format(epoch=1), plots.FORMATS)
            except (KeyError, IndexError, ValueError) as error:
                raise ValueError(
                    f"`path` must end in {' or '.join(plots.FORMATS)} and may hold `{{epoch}}` or "
                    f"a form of it such as `{{epoch:03d}}`. Received: path={path}"
                ) from error

    def on_train_begin(self, logs: Logs = None) -> None:
        # Refuses images that cannot be drawn.
        plots.image_grid(np.zeros((1, *self.model.image_shape)))
        if self.by_class and not self.model.class_names:
            raise ValueError(
                "`by_class` must be False for a model whose network takes no labels. "
                "Received: by_class=True"
            )

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        if (epoch + 1) % self.every:
            return
        options, columns, names = self.generate_options, self.columns, ()
        if self.by_class:
            names, columns = self.model.class_names, self.num_images
            options = {**options, "labels": np.repeat(np.arange(len(names)), columns)}
        images = self.model.generate(self.num_images * max(1, len(names)), **options)
        path = None if self.path is None else self.path.format(epoch=epoch + 1)
        figure = plots.plot_images(images, columns, path, row_labels=names)
        if figure is not None and "IPython" in sys.modules:
            from IPython.display import display

            display(figure)


class SaveModel(keras.callbacks.Callback):
    """Saves the whole model after each epoch, to a file that is always complete.

    Stopped at any moment, training leaves the model of the last finished epoch:
    `keras.callbacks.ModelCheckpoint` writes over its file, this replaces it.

    Args:
        path: File to write, ending in ".keras".

    Example:

    ```python
    model.fit(images, epochs=10, callbacks=[keras_ddim.callbacks.SaveModel("flowers.keras")])
    ```
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        check_suffix(path, [".keras"])
        self.path = path

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        with write_whole(self.path) as temporary_path:
            self.model.save(temporary_path)


class SaveHistory(keras.callbacks.Callback):
    """Writes the training history as CSV after each epoch: a row for each, a column for each log.

    Epochs count from 1, so that the last one is the number of epochs done.

    Args:
        path: File to write.
        append: Whether to go on after the rows that the file has. Defaults to False.

    Example:

    ```python
    model.fit(images, epochs=10, callbacks=[keras_ddim.callbacks.SaveHistory("history.csv")])
    keras_ddim.plots.plot_history("history.csv")
    ```
    """

    def __init__(self, path: Path, append: bool = False) -> None:
        check_path(path)
        super().__init__()
        self.path = pathlib.Path(path)
        self.append = append
        self.rows: list[dict[str, Any]] = []

    def on_train_begin(self, logs: Logs = None) -> None:
        self.rows = plots.read_history(self.path) if self.append and self.path.exists() else []

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        self.rows.append({"epoch": epoch + 1, **(logs or {})})
        # Validation need not take place each epoch: later rows may have columns the first lacks.
        columns = list(dict.fromkeys(name for row in self.rows for name in row))
        with (
            write_whole(self.path) as temporary_path,
            open(temporary_path, "w", newline="", encoding="utf-8") as file,
        ):
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows(self.rows)


# Image metrics


class ImageMetrics(keras.callbacks.Callback):
    """Generates images after each epoch, compares them with real ones, and logs the metrics.

    The results join the epoch's logs, as `val_kid` for `KID()`. It must stand before the callbacks
    that are to see them, such as `ModelCheckpoint`, `EarlyStopping` and `SaveHistory`.

    Args:
        metrics: List of `keras_ddim.metrics.ImageMetric`s, each with a `name` of its own.
        real_images: Images to compare with, anything finite that `fit` takes; read once a `fit`.
        num_images: Number of images generated. Defaults to None: as many as there are real ones.
        every: Number of epochs from measurement to measurement. Defaults to 1.
        prefix: What the metrics' names are preceded by. Defaults to "val_".
        **generate_options: Keyword arguments of `DiffusionModel.generate`; by default
            `diffusion_times=5, seed=0, verbose=0`.

    Example:

    ```python
    measure = keras_ddim.callbacks.ImageMetrics([keras_ddim.KID(encoder)], val_images)
    stop = keras.callbacks.EarlyStopping("val_kid", mode="min", patience=3)
    model.fit(train_images, epochs=50, callbacks=[measure, stop])
    ```
    """

    def __init__(
        self,
        metrics: Sequence[ImageMetric],
        real_images: Any,
        num_images: int | None = None,
        every: int = 1,
        prefix: str = "val_",
        **generate_options: Any,
    ) -> None:
        super().__init__()
        self.metrics = list(metrics) if isinstance(metrics, (list, tuple)) else []
        names = {metric.name for metric in self.metrics if isinstance(metric, ImageMetric)}
        if not names or len(names) < len(self.metrics):
            raise ValueError(
                "`metrics` must be a list of `keras_ddim.metrics.ImageMetric`s, each with a `name` "
                f"of its own, such as [keras_ddim.KID()]. Received: metrics={checks.brief(metrics)}"
            )
        self.real_images = real_images
        self.num_images = (
            None if num_images is None else checks.check_count("num_images", num_images)
        )
        self.every = checks.check_count("every", every)
        self.prefix = prefix
        defaults = {"diffusion_times": 5, "seed": 0, "verbose": 0}
        self.generate_options = {**defaults, **check_generate_options(generate_options)}

    def on_train_begin(self, logs: dict | None = None) -> None:
        for metric in self.metrics:
            metric.reset_state()
        for batch in checks.batches(self.real_images):
            update(self.metrics, checks.images_of(batch), None)

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        if (epoch + 1) % self.every:
            return
        for metric in self.metrics:
            metric.reset_state(keep_real=True)
        num_images = self.num_images or self.metrics[0].real.count
        generated = self.model.generate(num_images, **self.generate_options)
        update(self.metrics, None, generated)
        if logs is not None:
            logs.update({self.prefix + metric.name: metric.result() for metric in self.metrics})
