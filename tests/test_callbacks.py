import csv
import os
import sys
import types
from unittest import mock

import IPython.display
import keras
import numpy as np
import PIL.Image
import pytest

import keras_ddim
from keras_ddim import callbacks, plots


def fit(model, images, epochs=2, **kwargs):
    return model.fit(images, batch_size=20, epochs=epochs, verbose=0, **kwargs)


@pytest.fixture(scope="module")
def model():
    """One model for all tests here, so that its steps are traced only once."""
    network = keras_ddim.ResidualUNet((8, 8, 3), widths=(8, 16), block_depth=1, seed=0)
    model = keras_ddim.DiffusionModel(network=network, seed=0)
    model.compile()
    return model


def rows_of(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


# SampleGrid


def test_grids_are_written_each_so_many_epochs(model, images, tmp_path):
    path = str(tmp_path / "samples" / "epoch_{epoch:03d}.png")
    grid = callbacks.SampleGrid(num_images=6, diffusion_times=[1.0, 0.5], path=path, every=2)
    fit(model, images, epochs=5, callbacks=[grid])
    assert sorted(os.listdir(tmp_path / "samples")) == ["epoch_002.png", "epoch_004.png"]
    with PIL.Image.open(tmp_path / "samples" / "epoch_002.png") as picture:
        width, height = picture.size
    assert width * 19 == height * 28  # 3 images of 8 + 1 pixels by 2, and a margin of 1


def test_grids_start_from_the_same_noise(model, images, monkeypatch):
    fit(model, images, epochs=1)
    monkeypatch.setattr(model.optimizer, "learning_rate", 0.0)
    grids = []
    monkeypatch.setattr(plots, "plot_images", lambda images, *_, **__: grids.append(images))
    grid = callbacks.SampleGrid(num_images=3, diffusion_times=2, seed=5)
    fit(model, images, epochs=3, callbacks=[grid])
    # The weights stay as they are; only averages of the batch normalisation move a little.
    expected = model.generate(3, 2, seed=5)
    assert len(grids) == 3
    for images_of_epoch in grids:
        np.testing.assert_allclose(images_of_epoch, expected, atol=0.05)
    assert np.abs(model.generate(3, 2, seed=6) - expected).mean() > 0.05


def test_options_are_those_of_generate(model, images, monkeypatch, tmp_path):
    generate = mock.create_autospec(model.generate, side_effect=model.generate)
    monkeypatch.setattr(model, "generate", generate)
    options = {"diffusion_times": [1.0, 0.5], "sampler": "heun", "clip": True}
    grid = callbacks.SampleGrid(2, tmp_path / "grid.png", **options)
    fit(model, images, epochs=1, callbacks=[grid])
    generate.assert_called_once_with(2, **options, seed=0, verbose=0)


@pytest.mark.parametrize("in_notebook", [True, False])
def test_grids_are_shown_where_there_is_no_path(model, images, monkeypatch, in_notebook):
    shown = []
    monkeypatch.setattr(IPython.display, "display", shown.append)
    if not in_notebook:
        monkeypatch.delitem(sys.modules, "IPython")
    fit(model, images, callbacks=[callbacks.SampleGrid(num_images=2, diffusion_times=1, path=None)])
    assert len(shown) == 2 * in_notebook
    assert all(figure._repr_png_().startswith(b"\x89PNG") for figure in shown)


@pytest.mark.parametrize(
    "arguments",
    [
        {"num_images": 0},
        {"path": "epoch_{epoch}.xyz"},
        {"every": 0},
        {"columns": 0},
        {"sampler": "hein"},
        {"by_class": True},
    ],
)
def test_wrong_arguments_are_errors_before_training(model, images, arguments):
    before = int(model.optimizer.iterations)
    with pytest.raises(ValueError, match=next(iter(arguments))):
        fit(model, images, callbacks=[callbacks.SampleGrid(**arguments)])
    assert int(model.optimizer.iterations) == before


def test_images_that_cannot_be_drawn_are_refused_before_training():
    grid = callbacks.SampleGrid()
    grid.set_model(types.SimpleNamespace(image_shape=(8, 8, 2)))
    with pytest.raises(ValueError, match="1, 3 or 4 channels"):
        grid.on_train_begin()


# SaveModel


def test_the_saved_model_is_that_of_the_last_epoch(model, images, tmp_path):
    """With its history, also of what JSON cannot hold."""

    class Log(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            logs["val_kid"] = np.float32(np.nan)

    path = tmp_path / "model.keras"
    history = fit(model, images, callbacks=[Log(), callbacks.SaveModel(path)]).history
    loaded = keras.saving.load_model(path)
    rows = loaded.metadata["history"]
    assert [row["epoch"] for row in rows] == [1, 2]
    assert [row["loss"] for row in rows] == history["loss"]
    assert rows[0]["val_kid"] is None
    np.testing.assert_allclose(
        loaded.generate(2, 3, seed=0), model.generate(2, 3, seed=0), atol=1e-6
    )
    assert int(loaded.optimizer.iterations) == int(model.optimizer.iterations) > 0
    assert os.listdir(tmp_path) == ["model.keras"]


def test_models_are_saved_as_keras_files():
    with pytest.raises(ValueError, match=r"\.keras"):
        callbacks.SaveModel("model.h5")


# SaveHistory


def test_history_is_written_and_continued(model, images, tmp_path):
    path = tmp_path / "history.csv"
    history = fit(model, images, callbacks=[callbacks.SaveHistory(path)]).history
    rows = rows_of(path)
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert [float(row["n_loss"]) for row in rows] == history["n_loss"]

    more = [callbacks.SaveHistory(path)]
    fit(model, images, epochs=3, initial_epoch=2, validation_data=images[:4], callbacks=more)
    continued = rows_of(path)
    assert [row["epoch"] for row in continued] == ["1", "2", "3"]
    assert continued[0]["n_loss"] == rows[0]["n_loss"]
    assert [bool(row["val_n_loss"]) for row in continued] == [False, False, True]

    fit(model, images, epochs=1, callbacks=[callbacks.SaveHistory(path)])
    assert [row["epoch"] for row in rows_of(path)] == ["1"]
