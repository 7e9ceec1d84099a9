"""The experiment: a fair pair, the effect of translation, the measure, and what is written."""

import json

import numpy as np
import pytest
import tensorflow as tf

from keras_ddim import experiment
from keras_ddim.experiment import TRAINING, TRANSLATED, UNTRANSLATED, VARIANCE, Cell

pytestmark = pytest.mark.filterwarnings("ignore:Even though the `tf.config")

TINY = experiment.Settings(
    image_size=8,
    widths=(8,),
    batch_size=8,
    steps=2,
    classifier_steps=2,
    num_images=6,
    num_times=(2,),
    seeds=(0,),
)


@pytest.fixture(scope="module", autouse=True)
def eagerly():
    """Tracing takes longer than the few steps of a test."""
    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


@pytest.fixture(scope="module")
def models():
    """A pair after some steps: long enough that what the network is told makes a difference."""
    images = np.random.default_rng(0).random((40, 8, 8, 3), "float32")
    settings = experiment.Settings(image_size=8, widths=(8,), batch_size=8, steps=8)
    return experiment.forms(*experiment.train_pair(images, settings, seed=0, verbose=0))


# The pair


def test_models_of_a_pair_start_from_equal_weights_and_see_equal_images(monkeypatch):
    class Recorder(experiment.DiffusionModel):
        def fit(self, batches, verbose):
            self.initial_weights = self.network.get_weights()
            self.noise_seed = self.seed_generator.state.numpy()
            self.batches = [batch.numpy() for batch in batches]

    monkeypatch.setattr(experiment, "DiffusionModel", Recorder)
    images = np.random.default_rng(0).random((20, 8, 8, 3), "float32")
    one, other = experiment.train_pair(images, TINY, seed=1, verbose=0)
    assert type(one.conditioning) is not type(other.conditioning)
    for weight, other_weight in zip(one.initial_weights, other.initial_weights, strict=True):
        np.testing.assert_array_equal(weight, other_weight)
    assert len(one.batches) == TINY.steps
    np.testing.assert_array_equal(one.batches, other.batches)
    np.testing.assert_array_equal(one.noise_seed, other.noise_seed)
    np.testing.assert_array_equal(one.normalizer.mean, other.normalizer.mean)


def test_batches_follow_from_the_seed():
    images = np.random.default_rng(0).random((10, 8, 8, 1), "float32")
    one, same, other = (
        np.concatenate(list(experiment.batches(images, 3, TINY, seed))) for seed in (0, 0, 1)
    )
    assert len(one) == 3 * TINY.batch_size
    np.testing.assert_array_equal(one, same)
    assert not np.array_equal(one, other)


def test_schedules_differ_between_the_same_ends():
    training, *others = experiment.make_schedules().values()
    for schedule in others:
        ends = np.array([0.0, 1.0], "float32")
        np.testing.assert_allclose(schedule.log_snr(ends), training.log_snr(ends), atol=1e-3)
        assert abs(float(schedule.log_snr(0.5)) - float(training.log_snr(0.5))) > 1


# Translation


def test_a_copy_told_otherwise_has_the_same_weights(models):
    copy, model = models[UNTRANSLATED], models[TRANSLATED]
    assert not copy.conditioning.translate
    assert model.conditioning.translate
    for weight, other_weight in zip(copy.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(weight, other_weight)
    np.testing.assert_array_equal(copy.normalizer.mean, model.normalizer.mean)


@pytest.mark.filterwarnings("error:.*outside the range of training")
def test_translation_matters_under_all_schedules_but_that_of_training(models):
    difference = {}
    for schedule in experiment.make_schedules():
        one, other = (
            experiment.generate(models, Cell(schedule, 5, told), 4, seed=0, verbose=0)
            for told in (UNTRANSLATED, TRANSLATED)
        )
        assert one.shape == (4, 8, 8, 3)
        difference[schedule] = np.abs(one - other).max()
    assert difference.pop(TRAINING) <= 1e-5
    assert min(difference.values()) > 1e-3


def test_cells_of_all_timesteps_are_only_those_of_the_training_schedule():
    cells = experiment.cells(experiment.Settings())
    assert len(cells) == len(set(cells)) == 2 + 2 * 3 * 3
    slow = [cell for cell in cells if cell.num_times == experiment.NUM_TIMESTEPS]
    assert {cell.schedule for cell in slow} == {TRAINING}
    assert {cell.told for cell in slow} == {VARIANCE, UNTRANSLATED}


# The whole


def test_run_writes_what_it_measured(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    data = experiment.Data(
        rng.random((20, 8, 8, 1), "float32"),
        np.arange(20) % 2,
        rng.random((12, 8, 8, 1), "float32"),
        np.arange(12) % 2,
    )
    monkeypatch.setattr(experiment, "load_data", lambda settings: data)
    results, pictures = experiment.run(TINY, tmp_path, verbose=0)

    written = sorted(path.name for path in tmp_path.iterdir())
    assert written == ["pictures.png", "results.json", "table.md"]
    as_json = json.loads(json.dumps(results))
    assert json.loads((tmp_path / "results.json").read_text("utf-8")) == as_json
    distances = [cell["distances"] for cell in results["cells"]]
    assert len(distances) == 9
    assert all(len(values) == 1 and np.isfinite(values).all() for values in distances)
    assert results["largest_pixel_difference_by_translation_under_training_schedule"] <= 1e-5
    assert list(pictures) == ["real images", "pure noise", *experiment.cells(TINY)]
    table = (tmp_path / "table.md").read_text("utf-8")
    assert f"| cosine | 2 | {distances[3][0]:.2f} | {distances[4][0]:.2f} " in table
    assert "| real images |" in table


def test_table_gives_mean_and_spread_over_the_seeds():
    results = {
        "settings": {"num_images": 128},
        "finished_seeds": 3,
        "validation_images": 800,
        "classifier_accuracy": 0.9,
        "references": {"real images": [1.0, 1.0, 1.0]},
        "cells": [{**Cell(TRAINING, 4000, VARIANCE)._asdict(), "distances": [1.0, 2.0, 3.0]}],
    }
    table = experiment.table(results)
    assert f"| {TRAINING} | 4000 | 2.00 ± 1.00 | — | — |" in table
    assert "over 3 seeds" in table


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], experiment.Settings()),
        (["--short"], experiment.Settings(**experiment.SHORT)),
        (
            ["--short", "--data", "fashion_mnist", "--seeds", "3,4", "--num-times", "50"],
            experiment.Settings(
                **{
                    **experiment.SHORT,
                    "data": "fashion_mnist",
                    "seeds": (3, 4),
                    "num_times": (50,),
                }
            ),
        ),
    ],
)
def test_command_line(monkeypatch, capsys, arguments, expected):
    received = []

    def run(settings, output):
        received.extend([settings, output])
        return {"seconds": 60.0}, {}

    monkeypatch.setattr(experiment, "run", run)
    monkeypatch.setattr(experiment, "table", lambda results: "the table")
    experiment.main([*arguments, "--output", "folder"])
    assert received == [expected, "folder"]
    assert "the table" in capsys.readouterr().out
