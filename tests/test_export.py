"""Exports: what other runtimes compute is what the model computes."""

import json
import pathlib
import re
import subprocess
import sys

import keras
import numpy as np
import pytest

import keras_ddim
from keras_ddim import cli, conditioning, export
from keras_ddim.denoisers import predict

pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="exports are TensorFlow's"
)
DOCS = pathlib.Path(__file__).parents[1] / ".docs" / "export.md"
TIMES = [1.0, 0.8, 0.55, 0.5, 0.1]


def make_model(network, **kwargs):
    """A model whose weights and statistics are random, as if it were trained."""
    model = keras_ddim.DiffusionModel(network=network, **kwargs)
    rng = np.random.default_rng(0)
    for weight in model.ema_network.weights:
        values = rng.normal(0, 0.1, weight.shape)
        weight.assign(abs(1 + values) if "variance" in weight.path else values)
    model.adapt(rng.random((20, *model.image_shape)).astype("float32"))
    return model


def small_network(image_shape=(8, 8, 3), kind=keras_ddim.ModulatedUNet, **kwargs):
    return kind(image_shape, widths=(8, 16), block_depth=1, seed=0, **kwargs)


@pytest.fixture(scope="module")
def labelled_model():
    network = small_network((8, 4, 1), num_classes=2)
    model = make_model(network, prediction_type="velocity", class_names=["a", "b"])
    model.keep_times(TIMES)
    return model


def draw(model, num_images=3):
    return np.random.default_rng(1).standard_normal((num_images, *model.image_shape), "float32")


# TensorFlow

IN_TENSORFLOW = """
import sys
sys.modules["keras"] = sys.modules["keras_ddim"] = None
import numpy as np, tensorflow as tf
folder, *labels = sys.argv[1:]
inputs = dict(np.load(folder + "/inputs.npz"))
inputs = {name: tf.constant(value) for name, value in inputs.items()}
model = tf.saved_model.load(folder)
images = {name: function(**inputs)["images"] for name, function in model.signatures.items()}
np.savez(folder + "/images.npz", again=model.generate(**inputs)["images"], **images)
"""


def test_tensorflow_alone_generates_the_same(labelled_model, tmp_path):
    model, options = labelled_model, {"guidance_scale": 2.0}
    folder = tmp_path / "model"
    model.export(folder, **options)
    inputs = {"initial_noise": draw(model), "diffusion_times": np.array(TIMES, "float32")}
    inputs["labels"] = options["labels"] = np.array([0, 1, 0], "int32")
    np.savez(folder / "inputs.npz", **inputs)
    subprocess.run([sys.executable, "-c", IN_TENSORFLOW, folder], check=True)
    found = np.load(folder / "images.npz")
    inputs.update(options)
    for name, sampler in {"generate": "unipc", "generate_ddim": "ddim", "again": "unipc"}.items():
        times = inputs.pop("diffusion_times", TIMES)
        images = model.generate(3, times, sampler=sampler, **inputs)
        np.testing.assert_allclose(found[name], images, atol=1e-5)


# ONNX

MODELS = {
    "image of non-square grey": lambda: make_model(
        small_network((8, 4, 1)), prediction_type="image", conditioning="noise_rate"
    ),
    "velocity of RGBA": lambda: make_model(
        small_network((8, 8, 4), images_seen=2),
        prediction_type="velocity",
        conditioning="log_snr",
        preconditioning="spectral",
    ),
    "flow with timesteps": lambda: make_model(
        small_network(kind=keras_ddim.ResidualUNet),
        prediction_type="flow",
        schedule="linear_beta",
        conditioning=conditioning.Timestep("linear_beta", num_timesteps=1000),
    ),
    "remapped timesteps": lambda: make_model(
        small_network(), conditioning=conditioning.Timestep("sigmoid", num_timesteps=100)
    ),
    "classes in half precision": lambda: make_model(
        small_network(num_classes=2, dtype="mixed_bfloat16"), class_names=["a", "b"]
    ),
    "classes and the next level": lambda: make_model(
        small_network(num_classes=2, next_level=True), class_names=["a", "b"]
    ),
}


@pytest.mark.parametrize("name", MODELS)
def test_onnx_runtime_predicts_the_same(name, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    pytest.importorskip("tf2onnx", reason="keras-ddim[export] is not installed")
    model = MODELS[name]()
    inputs = {"noisy_images": draw(model, 5), "log_snr": np.array([-5, -3, 0.1, 2, 4], "float32")}
    if "next" in name:
        inputs["next_log_snr"] = np.array([-3, 2, 0.1, 30, 30], "float32")
    if model.class_names:
        inputs["labels"] = np.array([0, 1, 2, 1, 0], "int32")  # 2 is the null class
    network = export._in_float32(model.ema_network)
    tensors = {name: keras.ops.convert_to_tensor(value) for name, value in inputs.items()}
    for name in tensors.keys() & {"log_snr", "next_log_snr"}:
        tensors[name] = tensors[name][:, None, None, None]
    prediction = predict(
        network,
        **tensors,
        conditioning=model.conditioning,
        preconditioning=model.preconditioning,
        prediction_type=model.prediction_type,
    )
    sizes = {}
    for weights, tolerance in {"float32": 1e-4, "float16": 5e-3}.items():
        path = tmp_path / f"{weights}.onnx"
        model.export(path, format="onnx", weights=weights)
        description = json.loads(path.with_suffix(".json").read_text())
        session = onnxruntime.InferenceSession(path)
        assert description["inputs"] == [i.name for i in session.get_inputs()] == [*inputs]
        (found,) = session.run([description["output"]], inputs)
        scale = max(1, np.std(prediction))  # the network's weights are random
        np.testing.assert_allclose(found / scale, prediction / scale, atol=tolerance)
        sizes[weights] = path.stat().st_size
    assert sizes["float16"] < 0.8 * sizes["float32"]


def test_description_holds_all_that_sampling_needs(labelled_model):
    description = json.loads(json.dumps(export.describe(labelled_model), allow_nan=False))
    levels = np.interp(TIMES, description["diffusion_times"], description["log_snr"])
    np.testing.assert_allclose(levels, labelled_model.schedule.log_snr(TIMES), atol=1e-3)
    np.testing.assert_allclose(levels, description["times"]["unipc"]["best:5"], atol=1e-3)
    assert description["times"]["ddim"] == {}
    assert description["inputs"] == ["noisy_images", "log_snr", "labels"]
    assert description["image_shape"] == [8, 4, 1] and description["class_names"] == ["a", "b"]
    for name in ("schedule", "conditioning"):
        value = keras.saving.deserialize_keras_object(description[name])
        assert type(value) is type(getattr(labelled_model, name))


@pytest.mark.parametrize("section", ["TensorFlow", "ONNX Runtime"])
def test_documentation_runs(section, labelled_model, tmp_path, monkeypatch):
    """The page's code, with a small model in place of the preset."""
    if section == "ONNX Runtime":
        pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
        pytest.importorskip("tf2onnx", reason="keras-ddim[export] is not installed")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(keras_ddim.DiffusionModel, "from_preset", lambda _: labelled_model)
    text = DOCS.read_text(encoding="utf-8").split(f"## {section}")[1].split("\n## ")[0]
    names = {}
    for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        exec(block.replace("32, 32, 3", "8, 4, 1"), names)
    times, sampler = names["times"], names["sampler"]
    noise, labels = names["noise"], names["labels"]
    expected = labelled_model.generate(
        len(noise), times, sampler=sampler, initial_noise=noise, labels=labels
    )
    np.testing.assert_allclose(names["images"], expected, atol=1e-3)


def test_command_writes_a_page(labelled_model, tmp_path, capsys):
    pytest.importorskip("tf2onnx", reason="keras-ddim[export] is not installed")
    labelled_model.save(tmp_path / "squares.keras")
    arguments = ["export", str(tmp_path / "squares.keras"), "--to", str(tmp_path / "page")]
    assert cli.main(arguments) == 0
    description = json.loads((tmp_path / "page" / "model.json").read_text())
    assert description["title"] == "squares" and description["guidance_scale"] == 1.5
    assert description["runtime"]["base"].startswith("https://")
    assert (tmp_path / "page" / "index.html").exists()
    assert cli.main(arguments) == 1 and "does not exist yet" in capsys.readouterr().err


# Mistakes


@keras.saving.register_keras_serializable("test_export")
class Unknown(keras.layers.Layer):
    def call(self, inputs):
        return keras.ops.erfinv(inputs)


def test_mistakes_are_one_sentence(labelled_model, tmp_path, monkeypatch):
    def message(call, *args, **kwargs):
        with pytest.raises(ValueError) as error:
            call(*args, **kwargs)
        text = str(error.value)
        assert "\n" not in text and len(text) < 300
        return text

    page = export.export_page
    untrained = keras_ddim.DiffusionModel(network=small_network())
    assert "`model` must be trained" in message(untrained.export, tmp_path / "x")
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "file").touch()
    for call in (labelled_model.export, lambda path: page(labelled_model, path)):
        assert "does not exist yet" in message(call, tmp_path / "there")
    assert "`format` must be one of" in message(labelled_model.export, "x", format="h5")
    assert "ends in .onnx" in message(labelled_model.export, "x", format="onnx")
    assert "npm package" in message(page, labelled_model, tmp_path / "x", runtime=tmp_path)
    unlabelled = make_model(small_network())
    assert "`labels`" in message(unlabelled.export, tmp_path / "x", guidance_scale=2)
    monkeypatch.setitem(sys.modules, "tf2onnx", None)
    missing = message(labelled_model.export, tmp_path / "x.onnx", format="onnx")
    assert "pip install" in missing
    assert not (tmp_path / "x").exists()


def test_a_network_that_onnx_cannot_express(tmp_path):
    pytest.importorskip("tf2onnx", reason="keras-ddim[export] is not installed")
    images, level = keras.Input((8, 8, 3)), keras.Input((1, 1, 1))
    network = keras.Model([images, level], Unknown()(images) + level)
    with pytest.raises(ValueError, match="`network` must be of layers that ONNX can express"):
        make_model(network).export(tmp_path / "x.onnx", format="onnx")
    assert list(tmp_path.iterdir()) == []
