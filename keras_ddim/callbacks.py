"""Callbacks: pictures of the progress of training, and files that outlive its interruption.

An argument that is not as described raises a `ValueError`.
"""

import csv
import io
import math
import pathlib
import sys
import time
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from keras_ddim import checks, plots
from keras_ddim.files import Path, check_path, check_suffix, write_whole
from keras_ddim.metrics import ImageMetric, update
from keras_ddim.sampling import check_generate_options

Logs = dict[str, Any] | None


def record(model: Any, epoch: int, logs: Logs) -> list[dict[str, Any]]:
    """Puts the logs of an epoch into `model.metadata["history"]`, and returns this history.

    It is saved with the model: a dictionary for each epoch, whose "epoch" counts from 1. What is
    there of this epoch and later ones is replaced.
    """

    def plain(value: Any) -> Any:
        value = np.asarray(value).tolist()
        return None if isinstance(value, float) and not math.isfinite(value) else value

    rows = [row for row in model.metadata.get("history", ()) if row["epoch"] <= epoch]
    rows.append({"epoch": epoch + 1, **{name: plain(v) for name, v in (logs or {}).items()}})
    model.metadata["history"] = rows
    return rows


class SampleGrid(keras.callbacks.Callback):
    """Draws a grid of generated images after each epoch, always from the same noise.

    Args:
        num_images: Number of images. Defaults to 16.
        path: File to write, where `{epoch}` is the number of epochs done. Defaults to
            "samples/epoch_{epoch:03d}.png". None shows the pictures in a notebook instead.
        every: Number of epochs from picture to picture. Defaults to 1.
        columns: As in `keras_ddim.plots.image_grid`.
        by_class: Whether to draw a row of `num_images` for each class of the model instead, with
            its name. Defaults to False.
        log_dir: Folder of TensorBoard to which the pictures are written, too, such as that of
            `keras.callbacks.TensorBoard`. Defaults to None: not at all.
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
        log_dir: Path | None = None,
        **generate_options: Any,
    ) -> None:
        super().__init__()
        self.writer: Any = None
        if log_dir is not None:
            # In a folder of its own, as TensorBoard follows one file in each.
            check_path(log_dir, "log_dir")
            self.writer = _event_writer(pathlib.Path(log_dir) / "samples")
        self.num_images = checks.check_count("num_images", num_images)
        self.by_class = by_class
        self.path = None if path is None else str(check_path(path))
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
                    f"a form of it such as `{{epoch:03d}}`. Received: path={checks.brief(path)}"
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
        if self.writer is not None:
            self.write_summary(plots.image_grid(images, columns), epoch + 1)
        figure = plots.plot_images(images, columns, path, row_labels=names)
        if figure is not None and "IPython" in sys.modules:
            from IPython.display import display

            display(figure)

    def write_summary(self, grid: np.ndarray, epoch: int) -> None:
        from tensorboard.compat.proto import event_pb2, summary_pb2

        file = io.BytesIO()
        plots.as_picture(grid).save(file, "PNG")
        height, width, channels = grid.shape
        image = summary_pb2.Summary.Image(
            height=height, width=width, colorspace=channels, encoded_image_string=file.getvalue()
        )
        value = summary_pb2.Summary.Value(tag="generated", image=image)
        summary = summary_pb2.Summary(value=[value])
        event = event_pb2.Event(step=epoch, wall_time=time.time(), summary=summary)
        self.writer.add_event(event)
        self.writer.flush()


def _event_writer(folder: pathlib.Path) -> Any:
    try:
        from tensorboard.summary.writer.event_file_writer import EventFileWriter
    except ImportError as error:
        raise ImportError(
            "`log_dir` needs TensorBoard; install it with `pip install tensorboard`."
        ) from error
    return EventFileWriter(str(folder))


class SaveModel(keras.callbacks.Callback):
    """Saves the whole model after each epoch, to a file ending in ".keras" that is always complete.

    Stopped at any moment, training leaves the model of the last finished epoch:
    `keras.callbacks.ModelCheckpoint` writes over its file, this replaces it. The history up to that
    epoch is in the file, too, as `model.metadata["history"]`.

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
    """Writes the training history as CSV after each epoch: a row for each, a column for each log.

    Epochs count from 1, so that the last one is the number of epochs done. The rows are those of
    `model.metadata["history"]`: of a model that was loaded and is trained from `initial_epoch` on,
    those of the earlier epochs come first.

    Example:

    ```python
    model.fit(images, epochs=10, callbacks=[keras_ddim.callbacks.SaveHistory("history.csv")])
    keras_ddim.plots.plot_history("history.csv")
    ```
    """

    def __init__(self, path: Path) -> None:
        check_path(path)
        super().__init__()
        self.path = path

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        rows = record(self.model, epoch, logs)
        # Validation need not take place each epoch: later rows may have columns the first lacks.
        columns = list(dict.fromkeys(name for row in rows for name in row))
        with (
            write_whole(self.path) as temporary_path,
            open(temporary_path, "w", newline="", encoding="utf-8") as file,
        ):
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows(rows)


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
