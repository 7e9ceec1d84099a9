"""Exports: a trained model as files for other runtimes, and as a web page.

`DiffusionModel.export` writes what TensorFlow alone or ONNX Runtime run; `export_page` writes a
folder that any static host serves, in which visitors bend the curve of sampling times by hand.
TensorFlow must be the backend; "onnx" and pages need `pip install "keras-ddim[export]"`.
"""

import base64
import hashlib
import json
import logging
import os
import pathlib
import shutil
import tempfile
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_ddim import generation, guidance, samplers, sampling
from keras_ddim.checks import check_choice, check_number, require
from keras_ddim.denoisers import predict
from keras_ddim.files import Path, check_suffix, write_text, write_whole
from keras_ddim.networks import takes_next_level
from keras_ddim.noise_levels import INFINITE_LOG_SNR, finite

FORMATS = ("tf_saved_model", "onnx")
SAMPLERS = {"unipc": samplers.UniPC(), "ddim": samplers.DDIM()}
PAGE = pathlib.Path(__file__).parent / "page"
TABLE_SIZE = 1001  # times, and again as many levels, of the table of a schedule

LARGEST_HALF = 65504  # of 16 bits

# What runs the network in the browser: this version, these files, and their hashes.
RUNTIME = "onnxruntime-web"
RUNTIME_VERSION = "1.30.0"
RUNTIME_URL = f"https://cdn.jsdelivr.net/npm/{RUNTIME}@{RUNTIME_VERSION}/dist/"
RUNTIME_FILES = {
    "ort.wasm.bundle.min.mjs": (
        "sha384-PLWz+nHEVHpjwBsO0YVdvQj6n5814Iv8E3b8FG0Rp/uIAtjFMCKOpP66iPzedrIG"
    ),
    "ort-wasm-simd-threaded.wasm": (
        "sha384-vjBJ1z7qrhkTyYsNqKeF6c7N+nOJSU94czEo+tvZcu8G75JparGq9kB+kTnEUNVM"
    ),
}


def export(
    model: Any,
    path: Path,
    format: str = "tf_saved_model",
    *,
    guidance_scale: float = 1.0,
    weights: str = "float32",
) -> None:
    """Writes a trained model for runtimes that need neither Keras nor this package.

    - "tf_saved_model": a folder for TensorFlow. Its signatures `generate` (UniPC) and
      `generate_ddim` take `initial_noise` (num_images, height, width, channels) and decreasing
      `diffusion_times` (steps,), any number of either, and `labels` (num_images,) where the model
      has classes. They return `images` in [0, 1].
    - "onnx": a file for ONNX Runtime that takes `noisy_images` (batch, height, width, channels),
      `log_snr` (batch,) and, where the model has classes, `labels` (batch,) to the `prediction`;
      a distilled network takes `next_log_snr` (batch,), too, the level to go to, or the present.
      A file of the same name with the suffix ".json" describes it: see `describe`.

    Args:
        model: A trained `keras_ddim.DiffusionModel`.
        path: Of the new folder ("tf_saved_model"), or of the file, ending in ".onnx".
        format: "tf_saved_model" or "onnx". Defaults to "tf_saved_model".
        guidance_scale: Scale of classifier-free guidance that "tf_saved_model" generates with, at
            twice the evaluations. Defaults to 1, no guidance.
        weights: "float16" stores the large weights of "onnx" in half the bytes; the network still
            computes in float32. Defaults to "float32".

    Raises:
        ValueError: If an argument is not as described, the model is untrained, or its network
            cannot be converted.

    Example:

    ```python
    model.export("flowers", format="tf_saved_model")
    model.export("flowers.onnx", format="onnx")
    ```
    """
    check_choice("format", format, FORMATS)
    check_choice("weights", weights, ("float32", "float16"))
    _check_trained(model)
    if format == "onnx":
        check_suffix(path, [".onnx"])
        _write_onnx(model, path, weights)
        text = json.dumps(describe(model), allow_nan=False)
        write_text(pathlib.Path(path).with_suffix(".json"), text)
    else:
        check_new(path)
        for each in guidance.get(guidance_scale, ()):
            each.check(model, labels=model.class_names)
        _write_saved_model(model, path, guidance_scale)


def export_page(
    model: Any,
    path: Path,
    *,
    title: str | None = None,
    guidance_scale: float = 1.0,
    runtime: Path | None = None,
    weights: str = "float16",
) -> None:
    """Writes a page on which visitors bend the curve of sampling times, and see what it does.

    The folder is all that a static host needs. `keras-ddim export MODEL --to FOLDER --serve` opens
    it.

    Args:
        model: A trained `keras_ddim.DiffusionModel`.
        path: Of the new folder.
        title: Name of the model on the page. Defaults to None: that of the Keras model.
        guidance_scale: Scale that the page of a model with classes begins with, in [0, 5]. Defaults
            to 1, no guidance.
        runtime: Folder of the npm package `onnxruntime-web`, to be copied into the page, which
            then works without a network. Defaults to None: the page loads it from a CDN.
        weights: "float16" or "float32", see `export`. Defaults to "float16".

    Raises:
        ValueError: As `export`; or if `runtime` does not hold the version that the page needs.

    Example:

    ```python
    keras_ddim.export.export_page(model, "page")
    ```
    """
    check_choice("weights", weights, ("float32", "float16"))
    guidance_scale = check_number("guidance_scale", guidance_scale, 0, 5)
    _check_trained(model)
    check_new(path)
    files = None if runtime is None else _runtime_files(runtime)
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".page-") as folder:
        page = pathlib.Path(folder, "page")
        shutil.copytree(PAGE, page)
        _write_onnx(model, page / "model.onnx", weights)
        base = RUNTIME_URL
        if files:
            base = "runtime/"
            (page / base).mkdir()
            for file in files:
                shutil.copyfile(file, page / base / file.name)
        description = {
            **describe(model),
            "title": title or model.name,
            "guidance_scale": guidance_scale,
            "runtime": {"base": base, "files": RUNTIME_FILES},
        }
        write_text(page / "model.json", json.dumps(description, allow_nan=False))
        os.replace(page, path)


def describe(model: Any) -> dict[str, Any]:
    """All that is needed to sample from an exported network, as JSON holds it.

    Returns:
        Dictionary with `name`; `inputs` and `output`, names of tensors of the network;
        `image_shape`; `prediction_type`; `mean` and `deviation` of the channels (pixel values are
        `mean + deviation * images`); `class_names`, or None, and whether the model
        `is_unconditional`, too, by the label `len(class_names)`; `schedule` and `conditioning`,
        which is part of the network, by their configuration; `diffusion_times`, about 2000 from 0
        to 1, and `log_snr`, the schedule's levels at them, to be interpolated; `times`, the lists
        that are kept with the model, as log-SNRs, by sampler and name.
    """
    times, levels = _table(model.schedule)
    kept = model.metadata.get(generation.NAMED_LEVELS, {})
    return {
        "name": model.name,
        "inputs": _inputs(model),
        "output": "prediction",
        "image_shape": list(model.image_shape),
        "prediction_type": model.prediction_type,
        "mean": ops.convert_to_numpy(model.normalizer.mean).tolist(),
        "deviation": ops.convert_to_numpy(model.normalizer.deviation).tolist(),
        "class_names": model.class_names,
        "is_unconditional": bool(model.label_dropout),
        "schedule": keras.saving.serialize_keras_object(model.schedule),
        "conditioning": keras.saving.serialize_keras_object(model.conditioning),
        "diffusion_times": times.tolist(),
        "log_snr": levels.tolist(),
        "times": {name: kept.get(repr(sampler), {}) for name, sampler in SAMPLERS.items()},
    }


def _inputs(model: Any) -> list[str]:
    """The inputs of an exported network, as arguments of `predict`."""
    levels = ["log_snr"] + ["next_log_snr"] * takes_next_level(model.ema_network)
    return ["noisy_images", *levels] + ["labels"] * bool(model.class_names)


def _table(schedule: Any) -> tuple[np.ndarray, np.ndarray]:
    """Times from 0 to 1 and their log-SNRs, dense in both; infinite ones are ±12."""
    times = np.linspace(0, 1, TABLE_SIZE)
    start, end = finite(schedule.ends).tolist()
    levels = np.linspace(start, end, TABLE_SIZE)
    at_levels = ops.convert_to_numpy(schedule.diffusion_times(levels))
    times = np.unique(np.concatenate([times, at_levels]).round(7))
    return times, finite(ops.convert_to_numpy(schedule.log_snr(times))).round(6)


def check_new(path: Path) -> None:
    """Raises a `ValueError` if there is something at `path` already, but for an empty folder."""
    path = pathlib.Path(path)
    is_empty = path.is_dir() and not any(path.iterdir())
    require(is_empty or not path.exists(), "path", "a folder that does not exist yet", str(path))


def _check_trained(model: Any) -> None:
    backend = keras.backend.backend()
    require(backend == "tensorflow", "KERAS_BACKEND", "'tensorflow' to export a model", backend)
    is_trained = model.normalizer.is_adapted
    require(is_trained, "model", "trained, or adapted to images, before it is exported", model.name)


# TensorFlow


def _write_saved_model(model: Any, path: Path, guidance_scale: float) -> None:
    archive = keras.export.ExportArchive()
    for part in (model.ema_network, model.normalizer, model.preconditioning):
        if part is not None:
            archive.track(part)
    signature = [
        keras.InputSpec(shape=(None, *model.image_shape), dtype="float32", name="initial_noise"),
        keras.InputSpec(shape=(None,), dtype="float32", name="diffusion_times"),
    ]
    if model.class_names:
        signature.append(keras.InputSpec(shape=(None,), dtype="int32", name="labels"))
    for name, sampler in {"generate": "unipc", "generate_ddim": "ddim"}.items():
        function = _generator(model, SAMPLERS[sampler], guidance_scale)
        archive.add_endpoint(name, function, signature)
    archive.write_out(os.fspath(path), verbose=False)


def _generator(model: Any, sampler: samplers.Sampler, guidance_scale: float) -> Any:
    """`DiffusionModel.generate` along any number of times, as one function of tensors."""
    guidances = guidance.get(guidance_scale, ())
    step = sampling.Step(generation.wrap(model, guidances), sampler)

    def generate(initial_noise: Any, diffusion_times: Any, labels: Any = None) -> dict[str, Any]:
        levels = model.schedule.log_snr(diffusion_times)
        if not sampler.accepts_infinite_levels:
            levels = ops.clip(levels, -INFINITE_LOG_SNR, INFINITE_LOG_SNR)
        inputs = {} if labels is None else {"labels": labels}
        for each in guidances:
            for name, value in each.inputs().items():
                inputs[name] = ops.full((ops.shape(initial_noise)[0],), value, "float32")

        def follow(i: Any, noisy_images: Any, state: Any) -> tuple:
            noisy_images, _, state = step(
                noisy_images=noisy_images,
                log_snr=levels[i],
                next_log_snr=levels[i + 1],
                state=state,
                **inputs,
            )
            return i + 1, noisy_images, state

        # As `sampling.sample`, except that the number of levels is not known yet.
        start = 0, initial_noise, step.init(initial_noise)
        last = ops.shape(levels)[0] - 1
        _, noisy_images, _ = ops.while_loop(lambda i, *_: i < last, follow, start)
        pred_images, *_ = step(noisy_images=noisy_images, log_snr=levels[-1], **inputs)
        return {"images": ops.clip(model.normalizer.denormalize(pred_images), 0.0, 1.0)}

    return generate


# ONNX


def _write_onnx(model: Any, path: Path, weights: str) -> None:
    try:
        import onnx
        import tf2onnx
    except ImportError as error:
        raise ValueError(
            f'tf2onnx must be installed for ONNX: `pip install "keras-ddim[export]"` ({error})'
        ) from error
    import tensorflow as tf

    names = _inputs(model)

    def prediction(*tensors: Any) -> dict[str, Any]:
        inputs = dict(zip(names, tensors))
        for name in inputs.keys() & {"log_snr", "next_log_snr"}:
            inputs[name] = ops.reshape(inputs[name], (-1, 1, 1, 1))
        output = predict(
            network,
            **inputs,
            conditioning=model.conditioning,
            prediction_type=model.prediction_type,
            preconditioning=model.preconditioning,
        )
        return {"prediction": output}

    signature = [tf.TensorSpec((None, *model.image_shape), tf.float32, name=names[0])]
    for name in names[1:]:
        dtype = tf.int32 if name == "labels" else tf.float32
        signature.append(tf.TensorSpec((None,), dtype, name=name))
    level = logging.getLogger("tf2onnx").level
    logging.getLogger("tf2onnx").setLevel(logging.CRITICAL)  # what is wrong is said below
    network = model.ema_network
    try:
        network = _in_float32(network)
        proto, _ = tf2onnx.convert.from_function(
            tf.function(prediction, autograph=False),
            signature,
            custom_op_handlers={name: (rule, []) for name, rule in CONVERSIONS.items()},
        )
        onnx.checker.check_model(proto)
    except Exception as error:  # of either library, and of any kind
        reason = str(error).strip().splitlines()[0]
        raise ValueError(
            f"`network` must be of layers that ONNX can express, got {network.name!r} ({reason})"
        ) from error
    finally:
        logging.getLogger("tf2onnx").setLevel(level)
    if weights == "float16":
        _halve(proto, network.name)
    with write_whole(path) as temporary_path:
        temporary_path.write_bytes(proto.SerializeToString())


def _in_float32(network: Any) -> Any:
    """The network, computing in float32 whatever its dtype policy is."""
    if all(layer.compute_dtype == "float32" for layer in network.layers):
        return network
    copy = type(network).from_config({**network.get_config(), "dtype": "float32"})
    copy.set_weights(network.get_weights())
    return copy


def _halve(proto: Any, name: str) -> None:
    """Stores the matrices of a network as float16, and casts them where they are used."""
    import onnx

    casts = []
    for tensor in proto.graph.initializer:
        values = onnx.numpy_helper.to_array(tensor)
        # Not statistics of the data, which are few bytes and need all their digits.
        if tensor.name.startswith(name) and values.ndim > 1 and abs(values).max() <= LARGEST_HALF:
            half, whole = f"{tensor.name}:half", tensor.name
            tensor.CopyFrom(onnx.numpy_helper.from_array(values.astype("float16"), half))
            casts.append(onnx.helper.make_node("Cast", [half], [whole], to=onnx.TensorProto.FLOAT))
    nodes = [*casts, *proto.graph.node]
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)


# Operations that tf2onnx does not know, and that schedules are made of.


def _log1p(graph: Any, node: Any, name: str, arguments: Any) -> None:
    one = graph.make_const(f"{name}_one", np.float32(1)).output[0]
    total = graph.make_node("Add", [node.input[0], one]).output[0]
    graph.replace_input(node, node.input[0], total, 0)
    node.type = "Log"


def _expm1(graph: Any, node: Any, name: str, arguments: Any) -> None:
    one = graph.make_const(f"{name}_one", np.float32(1)).output[0]
    power = graph.make_node("Exp", [node.input[0]]).output[0]
    output, shapes, dtypes = node.output, node.output_shapes, node.output_dtypes
    graph.remove_node(node.name)
    graph.make_node("Sub", [power, one], outputs=output, shapes=shapes, dtypes=dtypes, name=name)


def _upper_bound(graph: Any, node: Any, name: str, arguments: Any) -> None:
    """How many of a sorted table are at most a value: `searchsorted` from the right."""
    (table, values), output = node.input, node.output
    shapes, dtypes = node.output_shapes, node.output_dtypes
    middle, last = (
        graph.make_const(f"{name}_axis_{axis}", np.array([axis])).output[0] for axis in (1, 2)
    )
    table = graph.make_node("Unsqueeze", [table, middle]).output[0]
    values = graph.make_node("Unsqueeze", [values, last]).output[0]
    is_below = graph.make_node("LessOrEqual", [table, values]).output[0]
    counted = graph.make_node("Cast", [is_below], attr={"to": dtypes[0]}).output[0]
    graph.remove_node(node.name)
    options = {"shapes": shapes, "dtypes": dtypes, "name": name, "outputs": output}
    graph.make_node("ReduceSum", [counted, last], attr={"keepdims": 0}, **options)


CONVERSIONS = {"Expm1": _expm1, "Log1p": _log1p, "UpperBound": _upper_bound}


# The page's runtime


def _runtime_files(folder: Path) -> list[pathlib.Path]:
    """The files of a local npm package that the page needs, which must be those of its version."""
    folder = pathlib.Path(folder)
    files = [folder / "dist" / name for name in RUNTIME_FILES]
    is_right = all(
        file.is_file() and _integrity(file) == integrity
        for file, integrity in zip(files, RUNTIME_FILES.values())
    )
    allowed = f"the folder of the npm package {RUNTIME}@{RUNTIME_VERSION}"
    require(is_right, "runtime", allowed, str(folder))
    return files


def _integrity(path: pathlib.Path) -> str:
    """The hash of a file, as browsers write it."""
    digest = hashlib.sha384(path.read_bytes()).digest()
    return f"sha384-{base64.b64encode(digest).decode()}"
