"""Callbacks: what people watch while a model trains, and what stays when they stop it."""

import csv
import pathlib

import keras
import numpy as np

from keras_ddim import checks, plots
from keras_ddim.files import check_suffix, write_whole


class SampleGrid(keras.callbacks.Callback):
    """Draws a grid of generated images after each epoch, always from the same noise.

    As the noise stays the same, so do the images in their broad features, and what changes from
    grid to grid is what the model has learned.

    Args:
        num_images: Number of images. Defaults to 16.
        diffusion_times: As in `DiffusionModel.generate`. Defaults to 20.
        path: File to write, with `{epoch}` standing for the number of epochs done; without it,
            each picture replaces the one before. Defaults to "samples/epoch_{epoch:03d}.png".
            None shows the pictures instead, in a notebook or a window.
        every: Number of epochs from picture to picture. Defaults to 1.
        seed: Seed of the noise. Defaults to 0; None is a random one, drawn once.
        columns: Number of images side by side. Defaults to None: as square as it gets.

    Raises:
        ValueError: If an argument is not as described.

    Example:

    ```python
    model.fit(images, epochs=10, callbacks=[keras_ddim.callbacks.SampleGrid(path=None)])
    ```
    """

    def __init__(
        self,
        num_images=16,
        diffusion_times=20,
        path="samples/epoch_{epoch:03d}.png",
        every=1,
        seed=0,
        columns=None,
    ):
        super().__init__()
        checks.check_diffusion_times(diffusion_times)
        self.num_images = checks.check_count("num_images", num_images)
        self.diffusion_times = diffusion_times
        self.path = None if path is None else str(path)
        self.every = checks.check_count("every", every)
        self.columns = columns if columns is None else checks.check_count("columns", columns)
        seed = int(np.random.default_rng().integers(2**31)) if seed is None else seed
        self.seed = checks.check_seed(seed)
        if path is not None:
            # A faulty path is an error now, not after an epoch.
            check_suffix(self._path_after(epochs=1), plots.FORMATS)

    def on_epoch_end(self, epoch, logs=None):
        epochs = epoch + 1
        if epochs % self.every:
            return
        images = self.model.generate(
            self.num_images, self.diffusion_times, seed=self.seed, verbose=0
        )
        figure = plots.plot_images(images, self.columns, self._path_after(epochs))
        if figure is not None:
            plots.show(figure)

    def _path_after(self, epochs):
        try:
            return None if self.path is None else self.path.format(epoch=epochs)
        except (KeyError, IndexError, ValueError) as error:
            raise ValueError(
                "`path` must be a file name in which `{epoch}` or a form of it such as "
                f"`{{epoch:03d}}` may stand. Received: path={self.path!r}"
            ) from error


class SaveModel(keras.callbacks.Callback):
    """Saves the whole model after each epoch, to a file that is always complete.

    Stopped at any moment, by Ctrl-C or worse, training leaves the model of the last finished
    epoch: `keras.callbacks.ModelCheckpoint` writes over its file, this replaces it.

    Args:
        path: File to write, ending in ".keras".

    Raises:
        ValueError: If `path` does not end in ".keras".

    Example:

    ```python
    model.fit(images, epochs=10, callbacks=[keras_ddim.callbacks.SaveModel("flowers.keras")])
    ```
    """

    def __init__(self, path):
        super().__init__()
        if pathlib.Path(path).suffix != ".keras":
            raise ValueError(f"`path` must end in .keras. Received: path={path}")
        self.path = path

    def on_epoch_end(self, epoch, logs=None):
        with write_whole(self.path) as temporary_path:
            self.model.save(temporary_path)


class SaveHistory(keras.callbacks.Callback):
    """Writes the training history as CSV after each epoch: a row for each, a column for each log.

    Epochs count from 1, so that the last one is the number of epochs done.

    Args:
        path: File to write.
        append: Whether to go on after the rows that the file has, as when training is resumed, or
            to begin a new one. Defaults to False.

    Example:

    ```python
    model.fit(images, epochs=10, callbacks=[keras_ddim.callbacks.SaveHistory("history.csv")])
    keras_ddim.plots.plot_history("history.csv")
    ```
    """

    def __init__(self, path, append=False):
        super().__init__()
        self.path = pathlib.Path(path)
        self.append = append
        self.rows = []

    def on_train_begin(self, logs=None):
        self.rows = plots.read_history(self.path) if self.append and self.path.exists() else []

    def on_epoch_end(self, epoch, logs=None):
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

from collections.abc import Sequence  # noqa: E402
from typing import Any  # noqa: E402

from keras_ddim.metrics import ImageMetric, update  # noqa: E402
from keras_ddim.sampling import check_generate_options  # noqa: E402


class ImageMetrics(keras.callbacks.Callback):
    """Generates images after each epoch, compares them with real ones, and logs the metrics.

    The results join the epoch's logs, as `val_kid` for `KID()`. It must stand before the callbacks
    that are to see them, such as `ModelCheckpoint`, `EarlyStopping` and `SaveHistory`; the history
    that `fit` returns has them in any case. The features of the real images are computed once for
    each `fit`.

    Args:
        metrics: List of `keras_ddim.metrics.ImageMetric`s, each with a `name` of its own.
        real_images: Images to compare with: anything finite that `fit` takes, labels are ignored.
        num_images: Number of images generated. Defaults to None: as many as there are real ones.
        every: Number of epochs from measurement to measurement; in between, the logs have none.
            Defaults to 1.
        prefix: What the metrics' names are preceded by. Defaults to "val_".
        **generate_options: Keyword arguments of `DiffusionModel.generate`; by default
            `diffusion_times=5, seed=0, verbose=0`.

    Raises:
        ValueError: If an argument is not as described.

    Example:

    ```python
    encoder = keras_ddim.encoders.train_classifier(labelled_images)
    measure = keras_ddim.callbacks.ImageMetrics([keras_ddim.KID(encoder)], val_images)
    best = keras.callbacks.ModelCheckpoint(
        "best.keras", monitor="val_kid", mode="min", save_best_only=True
    )
    model.fit(train_images, epochs=10, callbacks=[measure, best])
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
                f"of its own, such as [keras_ddim.KID()]. Received: metrics={metrics!r}"
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
