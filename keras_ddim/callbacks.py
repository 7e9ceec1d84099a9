"""Callbacks: images and metrics during training, and files that survive an interruption."""

import csv
import math
import sys
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from keras_ddim import checks, plots
from keras_ddim.files import Path, check_suffix, write_whole
from keras_ddim.metrics import ImageMetric, check_metrics, update

Logs = dict[str, Any] | None


class SampleGrid(keras.callbacks.Callback):
    """Draws a grid of generated images after each epoch, always from the same noise.

    Args:
        num_images: Number of images. Defaults to 16.
        path: File to write, in which `{epoch}` is the number of finished epochs. Defaults to
            "samples/epoch_{epoch:03d}.png". None shows the grids in a notebook instead.
        every: Number of epochs between grids. Defaults to 1.
        columns: As in `keras_ddim.plots.image_grid`.
        by_class: Whether to draw a labelled row of `num_images` for each class. Defaults to False.
        **generate_options: Keyword arguments of `DiffusionModel.generate`, by default
            `seed=0, verbose=0`.

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
        self.path = None if path is None else str(path)
        if self.path is not None:
            check_suffix(self.path.format(epoch=1), plots.FORMATS)
        self.every = checks.check_count("every", every)
        self.columns, self.by_class = columns, by_class
        self.generate_options = {"seed": 0, "verbose": 0, **generate_options}

    def on_train_begin(self, logs: Logs = None) -> None:
        # Raises if images of this shape or these columns cannot be drawn.
        plots.image_grid(np.zeros((1, *self.model.image_shape)), self.columns)
        fits = self.model.class_names or not self.by_class
        checks.require(fits, "by_class", "False for a model without class names", self.by_class)
        self.model.check_generate(self.num_images, **self.generate_options)

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        if (epoch + 1) % self.every:
            return
        num_images, columns = self.num_images, self.columns
        names = self.model.class_names if self.by_class else ()
        options = self.generate_options
        if names:
            columns, num_images = num_images, num_images * len(names)
            options = {**options, "labels": np.repeat(np.arange(len(names)), columns)}
        images = self.model.generate(num_images, **options)
        path = None if self.path is None else self.path.format(epoch=epoch + 1)
        figure = plots.plot_images(images, columns, path, row_labels=names)
        if figure is not None and "IPython" in sys.modules:
            from IPython.display import display

            display(figure)


def record(model: Any, epoch: int, logs: Logs) -> list[dict[str, Any]]:
    """Adds an epoch's logs to `model.metadata["history"]`, and returns this history.

    The history, saved with the model, is a dictionary for each epoch, counted from 1. Earlier rows
    of this epoch and later epochs are dropped.
    """
    numbers = {name: float(value) for name, value in (logs or {}).items() if name != "epoch"}
    # JSON has finite numbers only.
    plain = {name: value if math.isfinite(value) else None for name, value in numbers.items()}
    rows = [row for row in model.metadata.get("history", ()) if row["epoch"] <= epoch]
    rows.append({"epoch": epoch + 1, **plain})
    model.metadata["history"] = rows
    return rows


class SaveModel(keras.callbacks.Callback):
    """Saves the model after each epoch, with its history in `model.metadata["history"]`.

    An interruption leaves the model of the last finished epoch, since the file is replaced as a
    whole. (`keras.callbacks.ModelCheckpoint` writes over its file.)

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
        record(self.model, epoch, logs)
        with write_whole(self.path) as temporary_path:
            self.model.save(temporary_path)


class SaveHistory(keras.callbacks.Callback):
    """Writes the training history as CSV after each epoch: a row per epoch, a column per log.

    Epochs count from 1. The history of a loaded model, `model.metadata["history"]`, continues.

    Example:

    ```python
    model.fit(images, epochs=10, callbacks=[keras_ddim.callbacks.SaveHistory("history.csv")])
    keras_ddim.plots.plot_history("history.csv")
    ```
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        rows = record(self.model, epoch, logs)
        # Later rows may have more columns, such as those of validation every few epochs.
        columns = list(dict.fromkeys(name for row in rows for name in row))
        with (
            write_whole(self.path) as temporary_path,
            open(temporary_path, "w", newline="", encoding="utf-8") as file,
        ):
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows(rows)


class ImageMetrics(keras.callbacks.Callback):
    """Generates images after each epoch, compares them with real ones, and logs the metrics.

    The results join the epoch's logs, such as `val_kid` for `KID()`. List this callback before
    those that read them, such as `ModelCheckpoint`, `EarlyStopping` and `SaveHistory`.

    Args:
        metrics: List of `keras_ddim.metrics.ImageMetric`s with different names.
        real_images: Images to compare with, as in `fit`, except endless data; read once per `fit`.
        num_images: Number of generated images. Defaults to None: as many as real ones.
        every: Number of epochs between measurements. Defaults to 1.
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
        **generate_options: Any,
    ) -> None:
        super().__init__()
        self.metrics = check_metrics(metrics)
        different = len({metric.name for metric in metrics}) == len(metrics)
        checks.require(different, "metrics", "metrics with different names", metrics)
        self.real_images, self.num_images = real_images, num_images
        self.every = checks.check_count("every", every)
        self.generate_options = {"diffusion_times": 5, "seed": 0, "verbose": 0, **generate_options}

    def on_train_begin(self, logs: Logs = None) -> None:
        self.model.check_generate(self.num_images or 1, **self.generate_options)
        for metric in self.metrics:
            metric.reset_state()
        for batch in checks.batches(self.real_images):
            update(self.metrics, checks.first_of(batch), None)

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        if (epoch + 1) % self.every:
            return
        for metric in self.metrics:
            metric.reset_state(keep_real=True)
        num_images = self.num_images or len(self.metrics[0].real)
        generated = self.model.generate(num_images, **self.generate_options)
        update(self.metrics, None, generated)
        if logs is not None:
            logs.update({f"val_{metric.name}": metric.result() for metric in self.metrics})
