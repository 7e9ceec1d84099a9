"""The evaluation: what its rows measure, the nearest training images, and what is written."""

import json
import sys
import types

import keras
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
        "real images of training", "generated, 1 time", "generated, 1, 0.5", "noise"
    ]  # fmt: skip
    assert [row["evaluations"] for row in rows.values()] == [None, 1, 3, None]
    assert [row["count"] for row in rows.values()] == [12] * 4
    real = evaluation.take(datasets[1], 12)
    generated = trained_model.generate(12, [1.0, 0.5], sampler="heun", seed=0)
    row = rows["generated, 1, 0.5"]
    for name, kind in (
        ("Fréchet distance", metrics.FID),
        ("kernel distance", metrics.KID),
        ("precision", metrics.Precision),
        ("recall", metrics.Recall),
    ):
        metric = kind(flatten)
        metric.update_state(real, generated)
        assert row[name] == pytest.approx(metric.result(), rel=1e-5, abs=1e-9)


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
    assert {"versions", "generate_options", "seed", "diffusion_times"} <= set(one)
    assert one["encoder"] == "flatten"


def test_generate_options_are_used_and_written(evaluate, trained_model, monkeypatch):
    used = []
    generate = trained_model.generate
    monkeypatch.setattr(
        trained_model, "generate", lambda *args, **kw: used.append(kw) or generate(*args, **kw)
    )
    results, _ = evaluate(schedule="log_snr_linear", sampler="ddim", batch_size=5, clip=True)
    assert all(options["batch_size"] == 5 and options["clip"] for options in used)
    options = json.loads(json.dumps(results["generate_options"]))
    assert options["schedule"]["class_name"] == "LogSNRLinearSchedule"
    assert options["sampler"]["class_name"] == "DDIM"
    assert evaluate()[0]["generate_options"]["sampler"] is None
    assert options["batch_size"] == 5


def test_arrays_of_integers_are_images_too(trained_model):
    images = np.random.default_rng(0).integers(0, 256, (24, 8, 8, 3), "uint8")
    as_integers, as_floats = (
        evaluation.evaluate(trained_model, x[:12], x[12:], flatten, [1], num_images=8, verbose=0)[0]
        for x in (images, images.astype("float32") / 255)
    )
    one, other = (
        results["distance_to_nearest_training_image"] for results in (as_integers, as_floats)
    )
    assert one["real"] == pytest.approx(other["real"], rel=1e-5)
    assert one["generated"] == pytest.approx(other["generated"], rel=1e-5)
    for one, other in zip(as_integers["rows"], as_floats["rows"]):
        assert one["Fréchet distance"] == pytest.approx(other["Fréchet distance"], rel=1e-5)


def test_only_inception_makes_fid():
    names = [metric.name for metric in evaluation.make_metrics(encoders.InceptionV3(75))]
    assert names == ["FID", "KID", "precision", "recall"]
    names = [metric.name for metric in evaluation.make_metrics(flatten)]
    assert names == ["Fréchet distance", "kernel distance", "precision", "recall"]


def test_environment_names_the_backend_and_needs_no_other(monkeypatch):
    backend = keras.backend.backend()
    environment = evaluation.environment()
    assert environment["backend"] == backend and backend in environment["versions"]
    monkeypatch.setattr(keras.backend, "backend", lambda: "other")
    monkeypatch.setitem(sys.modules, "other", types.SimpleNamespace(__version__="1.2.3"))
    monkeypatch.setitem(sys.modules, backend, None)  # importing it would fail now
    environment = evaluation.environment()
    assert environment["backend"] == "other" and environment["versions"]["other"] == "1.2.3"
    assert backend not in environment["versions"]


def test_nearest_images():
    rng = np.random.default_rng(0)
    others, images = rng.random((50, 4, 4, 3), "float32"), rng.random((6, 4, 4, 3), "float32")
    images[0] = others[17]
    batches = (others[start : start + 8] for start in range(0, 50, 8))  # the last is of two
    nearest, distances = evaluation.nearest_images(images, batches)
    every = np.sqrt(np.mean((images[:, None] - others) ** 2, axis=(2, 3, 4)))
    order = np.argsort(every, axis=1)[:, :3]
    np.testing.assert_array_equal(nearest, others[order])
    np.testing.assert_allclose(distances, np.take_along_axis(every, order, 1), atol=1e-6)
    assert distances[0, 0] < 1e-6 and order[0, 0] == 17


def test_memorised_images_are_seen(datasets, trained_model, monkeypatch):
    memorised = evaluation.take(datasets[0], 12)
    monkeypatch.setattr(trained_model, "generate", lambda *args, **kwargs: memorised)
    results, pictures = evaluation.evaluate(
        trained_model, *datasets, flatten, num_images=12, verbose=0
    )
    nearest = results["distance_to_nearest_training_image"]
    assert nearest["generated"] < 1e-6 < 0.1 < nearest["real"]
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
    with pytest.raises(ValueError, match="samplr"):
        evaluate(samplr="ddim")
    with pytest.raises(ValueError, match=r"diffusion_times=\[\]"):
        evaluate(diffusion_times=[])
    with pytest.raises(ValueError, match=r"`diffusion_times` must be a list.*diffusion_times=20"):
        evaluate(diffusion_times=20)
