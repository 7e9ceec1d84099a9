"""The evaluation: what its rows measure, the nearest training images, and what is written."""

import json

import numpy as np
import pytest

import keras_ddim
from keras_ddim import encoders, evaluation, metrics


def flatten(images):
    return np.asarray(images).reshape(len(images), -1)


@pytest.fixture
def datasets(images):
    return keras_ddim.load_images(images, 8, validation_split=0.5, batch_size=7, shuffle=False)


@pytest.fixture
def evaluate(trained_model, datasets):
    def run(encoder=flatten, diffusion_times=(1, (1.0, 0.5)), num_images=12, **kwargs):
        return evaluation.evaluate(
            trained_model, *datasets, encoder, diffusion_times, num_images=num_images, verbose=0,
            **kwargs,
        )  # fmt: skip

    return run


def test_rows(evaluate, trained_model, datasets):
    results, _ = evaluate(sampler="heun")
    rows = {row["images"]: row for row in results["rows"]}
    assert list(rows) == [
        "real images of training", "generated, 1 uniform", "generated, 1, 0.5", "noise"
    ]  # fmt: skip
    assert [row["evaluations"] for row in rows.values()] == [None, 1, 3, None]
    assert [row["count"] for row in rows.values()] == [12] * 4
    real = evaluation.take(datasets[1], 12)
    generated = trained_model.generate(12, [1.0, 0.5], sampler="heun", seed=0)
    row = rows["generated, 1, 0.5"]
    for name, metric in (
        ("Fréchet distance", metrics.FID),
        ("kernel distance", metrics.KID),
        ("precision", metrics.Precision),
        ("recall", metrics.Recall),
    ):
        assert row[name] == pytest.approx(metric(flatten)(real, generated), rel=1e-5, abs=1e-9)


def test_noise_is_farther_than_real_images(trained_model):
    brightness = np.random.default_rng(0).random((80, 1, 1, 1))
    datasets = keras_ddim.load_images(brightness * np.ones((8, 8, 3)), 8, validation_split=0.5)
    results, _ = evaluation.evaluate(trained_model, *datasets, flatten, num_images=40, verbose=0)
    rows = {row["images"]: row for row in results["rows"]}
    for name in ("Fréchet distance", "kernel distance"):
        assert rows["real images of training"][name] < rows["noise"][name]


def test_results_repeat(evaluate):
    one, same = (evaluate()[0] for _ in range(2))
    other = evaluate(seed=1)[0]
    assert one["rows"] == same["rows"] != other["rows"]
    assert json.loads(json.dumps(one))["rows"] == one["rows"]
    assert {"versions", "sampler", "schedule", "seed", "diffusion_times", "encoder"} <= set(one)
    assert one["encoder"] == "flatten"


def test_only_inception_makes_fid(tmp_path):
    weights = tmp_path / "weights.h5"
    weights.touch()
    assert evaluation.names_of_metrics(encoders.InceptionV3(75, weights))[:2] == ["FID", "KID"]
    assert "FID" not in evaluation.names_of_metrics(flatten)


def test_nearest_images():
    rng = np.random.default_rng(0)
    others, images = rng.random((50, 4, 4, 3), "float32"), rng.random((6, 4, 4, 3), "float32")
    images[0] = others[17]
    batches = (others[start : start + 8] for start in range(0, 50, 8))
    nearest, distances = evaluation.nearest_images(images, batches)
    every = np.sqrt(np.mean((images[:, None] - others) ** 2, axis=(2, 3, 4)))
    order = np.argsort(every, axis=1)[:, :3]
    np.testing.assert_array_equal(nearest, others[order])
    np.testing.assert_allclose(distances, np.take_along_axis(every, order, 1), atol=1e-3)
    assert distances[0, 0] < 1e-3 and order[0, 0] == 17


def test_images_learnt_by_heart_are_seen(datasets, trained_model, monkeypatch):
    learnt = evaluation.take(datasets[0], 12)
    monkeypatch.setattr(trained_model, "generate", lambda *args, **kwargs: learnt)
    results, pictures = evaluation.evaluate(
        trained_model, *datasets, flatten, num_images=12, verbose=0
    )
    nearest = results["distance_to_nearest_training_image"]
    assert nearest["generated"] < 1e-3 < 0.1 < nearest["real"]
    np.testing.assert_array_equal(pictures[0], pictures[1])


def test_files(evaluate, tmp_path):
    results, pictures = evaluate()
    assert pictures.shape == (4, 8, 8, 8, 3)
    evaluation.write(tmp_path / "new", results, pictures)
    assert {path.name for path in (tmp_path / "new").iterdir()} == {
        *("results.json", "table.md", "nearest.png")
    }
    assert json.loads((tmp_path / "new" / "results.json").read_text())["num_images"] == 12
    table = (tmp_path / "new" / "table.md").read_text().splitlines()
    assert all(line.count("|") == 7 for line in table[:6])
    assert "generated, 1, 0.5" in table[4] and "±" in table[4]


def test_errors(evaluate):
    with pytest.raises(ValueError, match=r"`num_images`.*Received: num_images=0"):
        evaluate(num_images=0)
    with pytest.raises(ValueError, match=r"at least 4. Received: num_images=3 and 3 real_images"):
        evaluate(num_images=3)
    with pytest.raises(ValueError, match=r"`sampler`.*Received: sampler='ddimm'"):
        evaluate(sampler="ddimm")
    with pytest.raises(ValueError, match=r"diffusion_times=\[\]"):
        evaluate(diffusion_times=[])
