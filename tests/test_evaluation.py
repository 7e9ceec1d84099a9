"""The evaluation: what its rows measure, the nearest training images, and what is written."""

import json
from unittest import mock

import keras
import numpy as np
import pytest

import keras_ddim
from keras_ddim import encoders, evaluation


def flatten(images):
    return np.asarray(images).reshape(len(images), -1)


@pytest.fixture
def datasets(images):
    return keras_ddim.load_images(images, 8, validation_split=0.5, batch_size=7, shuffle=False)


@pytest.fixture
def evaluate(trained_model, datasets):
    def run(diffusion_times=(1, (1.0, 0.5)), num_images=12, **kwargs):
        kwargs |= {"diffusion_times": diffusion_times, "num_images": num_images, "verbose": 0}
        return evaluation.evaluate(trained_model, *datasets, flatten, **kwargs)

    return run


def test_rows(evaluate, trained_model, datasets):
    results, _ = evaluate(sampler="heun")
    rows = {row["images"]: row for row in results["rows"]}
    labels = "generated, 1 time", "generated, 1, 0.5"
    assert list(rows) == ["real images of training", *labels, "noise"]
    assert [row["evaluations"] for row in rows.values()] == [None, 1, 3, None]
    assert [row["count"] for row in rows.values()] == [12] * 4
    real = evaluation.take(datasets[1], 12)
    generated = trained_model.generate(12, [1.0, 0.5], sampler="heun", seed=0)
    row = rows["generated, 1, 0.5"]
    for metric in evaluation.make_metrics(flatten):
        metric.update_state(real, generated)
        assert row[metric.name] == pytest.approx(metric.result(), rel=1e-5, abs=1e-9)


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
    assert {"generate_options", "seed", "diffusion_times"} <= set(one)
    assert one["backend"] == keras.backend.backend() in one["versions"]
    assert one["encoder"] == "flatten"


def test_generate_options_are_used_and_written(evaluate, trained_model, monkeypatch):
    generate = trained_model.generate
    generate = mock.create_autospec(generate, side_effect=generate)
    monkeypatch.setattr(trained_model, "generate", generate)
    results, _ = evaluate(schedule="log_snr_linear", sampler="ddim", batch_size=5, clip=True)
    used = [call.kwargs for call in generate.call_args_list]
    assert used and all(options["batch_size"] == 5 and options["clip"] for options in used)
    options = json.loads(json.dumps(results["generate_options"]))
    assert options["schedule"]["class_name"] == "LogSNRLinearSchedule"
    assert options["sampler"]["class_name"] == "DDIM"
    assert evaluate()[0]["generate_options"].get("sampler") is None
    assert options["batch_size"] == 5


def test_only_inception_makes_fid():
    names = [metric.name for metric in evaluation.make_metrics(encoders.InceptionV3(75))]
    assert names == ["FID", "KID", "precision", "recall"]
    names = [metric.name for metric in evaluation.make_metrics(flatten)]
    assert names == ["Fréchet distance", "kernel distance", "precision", "recall"]


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


def test_memorised_images_are_seen(evaluate, datasets, trained_model, monkeypatch):
    memorised = evaluation.take(datasets[0], 12)
    generate = mock.create_autospec(trained_model.generate, return_value=memorised)
    monkeypatch.setattr(trained_model, "generate", generate)
    results, pictures = evaluate()
    nearest = results["distance_to_nearest_training_image"]
    assert nearest["generated"] < 1e-6 < 0.1 < nearest["real"]
    np.testing.assert_array_equal(pictures[0], pictures[1])


def test_files(evaluate, tmp_path):
    results, pictures = evaluate()
    assert pictures.shape == (4, 8, 8, 8, 3)
    evaluation.write(tmp_path / "new", results, pictures)
    files = {"results.json", "table.md", "nearest.png"}
    assert {path.name for path in (tmp_path / "new").iterdir()} == files
    assert json.loads((tmp_path / "new" / "results.json").read_text())["num_images"] == 12
    table = (tmp_path / "new" / "table.md").read_text().splitlines()
    assert all(line.count("|") == 7 for line in table[:6])
    assert "generated, 1, 0.5" in table[4] and "±" in table[4]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_images": 3}, "`num_images` must be an integer of at least 4, got 3"),
        ({"sampler": "ddimm"}, "`sampler` must be .*'ddimm'"),
        ({"diffusion_times": 20}, r"`diffusion_times` must be a list.* got 20"),
        ({"diffusion_times": [[2.0]]}, r"`diffusion_times\[0\]` must be in"),
    ],
)
def test_errors(evaluate, arguments, message):
    with pytest.raises(ValueError, match=message):
        evaluate(**arguments)
