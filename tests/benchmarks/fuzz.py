"""Odd arguments, damaged model files and odd images: does each end in one clear sentence?

    python tests/benchmarks/fuzz.py --calls 10000 --files 500 --images 200

- calls: of a public function, class or method, arguments replaced by odd values. Which there are is
  found by inspecting signatures.
- files: a model's `.keras` file with flipped bits, changed values, other members, other archives;
  loaded by `from_preset` or by Keras, and generated from if it loads.
- images: folders of odd and damaged images, links, pipes; read by `load_images`.

A case ends well if it succeeds, or raises a `ValueError`, `TypeError` or `OSError` of one sentence
that names an argument and what was received. Counted besides are crashes (a process that died, of
lack of memory, too), hangs, code run from a file, and NaN returned. Cases run in worker processes
with 4 GiB more than the imports take, 30 seconds for each case, and are numbered: number and seed
make a case, whatever ran before it. NaN handed to functions of tensors comes back as NaN, as it
should, and is not counted; what Keras alone says of a file is not, either.
"""

import argparse
import collections
import contextlib
import inspect
import io
import json
import math
import os
import pathlib
import random
import re
import resource
import select
import struct
import subprocess
import sys
import tempfile
import types
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np

MEMORY = 4 * 2**30
SECONDS = 30
MARKER = "code-has-run"
BAD = ("crash", "hang", "code", "nan", "unclear")


# Calls

# What the arguments of a valid call are, by their name, or by that of the function and theirs.
# Those that have defaults keep them, unless they are here.
VALID: dict[str, Any] = {
    **dict.fromkeys(("num_images", "num_steps", "num_times", "num_classes", "channels"), 2),
    "num_timesteps": 10,
    "teacher_times": 3,
    "steps": 2,
    "image_shape": (8, 8, 3),
    "widths": (4,),
    "embedding_dims": 4,
    "image_size": 8,
    "diffusion_times": (1.0, 0.5),
    **dict.fromkeys(("log_snr", "next_log_snr", "log_alphas_cumprod"), (-1.0, -2.0)),
    "times.from_log_snr.log_snr": (-1.0, 0.0),
    "noise_variances": (0.5, 0.25),
    "sigmas": (1.0, 2.0),
    "TableSchedule.betas": (0.1, 0.2),
    "TableSchedule.sigmas": None,
    "timesteps": (5, 1),
    "schedule": "cosine",
    "sampler": "ddim",
    "identifier": None,
    "encoders.get.identifier": lambda: flat,
    **dict.fromkeys(("encoder", "loss"), lambda: flat),
    "compile.loss": "mean_squared_error",
    **dict.fromkeys(("x", "images", "validation_images", "known_images"), lambda: pixels),
    **dict.fromkeys(("first", "second", "noises", "noisy_images", "prediction"), lambda: pixels),
    **dict.fromkeys(("pred_noises", "initial_noise", "real_images", "values"), lambda: pixels),
    **dict.fromkeys(("animate.noisy_images", "pred_images"), lambda: pixels[None]),
    "generate.known_images": None,
    "generate.initial_noise": None,
    "generate.first": 0,
    "train_classifier.images": lambda: (pixels, np.array([0, 1])),
    "train_classifier.validation_images": lambda: (pixels, np.array([0, 1])),
    "generated_images": lambda: pixels,
    "image": lambda: pixels[0],
    "batches": lambda: [pixels],
    **dict.fromkeys(("noise_rates", "signal_rates"), 0.5),
    **dict.fromkeys(("features", "other_features"), lambda: pixels.reshape(8, -1)),
    "metrics": list,
    "mean": (0.0, 0.0),
    "covariance": (1.0, 2.0),
    "path": "out.png",
    **dict.fromkeys(("SaveModel.path", "save_preset.path", "save.path"), "out.keras"),
    "SaveHistory.path": "out.csv",
    "animate.path": "out.gif",
    "animate_walk.path": "out.gif",
    "read_history.path": "history.csv",
    "load_classifier.path": "classifier.keras",
    "filepath": "out.keras",
    "preset": "tiny.keras",
    "rows": lambda: {"a": pixels},
    "lists": {"a": (1.0, 0.5)},
    "history": {"loss": [1.0, 0.5]},
    "model": lambda: make_model(),
    "model.kept_times.name": "best:2",
    "source": lambda: pixels,
    "denoiser": lambda: make_model().make_denoiser(),
    "network": lambda: make_model().network,
    "step": lambda: make_model().make_step(),
    "sampling.generate.levels": (-1.0, 0.0),
    "normalizer": lambda: make_model().normalizer,
    "verbose": 0,
    "method": "path",
    "Clipped.method": "static",
    "function": lambda: lambda values: (values.sum(), values),
    "options": dict,
}
# Not called: what holds values, what Keras calls, what trains or downloads whatever it is handed,
# and the innermost functions of tensors, which run in compiled functions and say so.
LEFT_OUT = {
    *("Trajectory", "Sampler", "Schedule", "callbacks.Logs", "sampling.Visit", "samplers.History"),
    *("sampling.Trajectory", "guidance.Guidance", "optimal_times.Explanation", "editing.Editor"),
    *("sampling.CompiledStep", "sampling.CompiledSteps", "sampling.sample", "denoisers.predict"),
    *("sampling.count_evaluations", "sampling.decrease", "guidance.with_gradient"),
    *("denoisers.Denoiser", "encoders.InceptionV3", "sampling.Recorder", "metrics.Points"),
    *("callbacks.record", "sampling.rows", "plots.as_picture", "presets.load"),
    *("noise_levels.mix", "noise_levels.separate", "noise_levels.target", "noise_levels.rates"),
    *("noise_levels.times_to_timesteps", "noise_levels.timesteps_to_times", "noise_levels.finite"),
    "noise_levels.as_float",
    *("optimal_times.Optimizer", "metrics.ImageMetric", "schedules.TimestepSchedule"),
}
METHODS = (
    *("adapt", "compile", "count_evaluations", "edit", "evaluate", "fit", "generate", "invert"),
    *("from_preset", "keep_times", "kept_times", "train_on_batch", "test_on_batch", "save"),
)
# Of tensors, whose values a compiled function cannot look at.
OF_TENSORS = ("noise_levels.", "schedule.", "conditioning(")

pixels = np.random.default_rng(0).random((2, 8, 8, 3)).astype("float32")


def flat(images: Any) -> Any:
    return np.asarray(images).reshape(len(images), -1)


def make_model() -> Any:
    import keras_ddim

    network = keras_ddim.ResidualUNet((8, 8, 3), (4,), 1, embedding_dims=4, seed=0)
    model = keras_ddim.DiffusionModel(network=network, seed=0)
    model.compile(run_eagerly=True)
    model.adapt(pixels)
    model.keep_times((1.0, 0.5), "ddim")
    return model


def targets() -> dict[str, Callable[[], Callable]]:
    """What is called, by name, each behind a callable that makes it anew."""
    import keras_ddim

    found: dict[str, Callable[[], Callable]] = {}

    def add(name: str, function: Any) -> None:
        if name not in LEFT_OUT and callable(function) and name.split(".")[-1][0] != "_":
            found[name] = lambda: function

    for name in keras_ddim.__all__:
        value = getattr(keras_ddim, name)
        if not isinstance(value, types.ModuleType):
            add(name, value)
            continue
        for inner, function in vars(value).items():
            if getattr(function, "__module__", "") == value.__name__ and "check_" not in inner:
                add(f"{name}.{inner}", function)
    for name in METHODS:
        found[f"model.{name}"] = lambda name=name: getattr(make_model(), name)
    part, conditioning = keras_ddim.CosineSchedule(), keras_ddim.conditioning.LogSNR()
    add("schedule.log_snr", part.log_snr)
    add("schedule.diffusion_times", part.diffusion_times)
    add("schedule.rates", part.rates)
    found["conditioning()"] = lambda: lambda log_snr: conditioning(log_snr)
    found["normalizer.adapt"] = lambda: make_model().normalizer.adapt
    return found


def odd_values() -> dict[str, Callable[[], Any]]:
    import tensorflow as tf

    values = {
        **{str(v): v for v in (None, math.nan, math.inf, -math.inf, -1, 0, 0.5, 1, 2.5, 3, True)},
        **{repr(v): v for v in (10**9, 10**30, -(10**30), 1e300, 1e-300, -0.0, 1 + 2j)},
        **{repr(v): v for v in ("", "odd", "a\0b", "\udcff", "1", "a/b/c", b"", b"\xff\0", b"1")},
        **{repr(v): v for v in ([], (), {}, [None], ["a", "b"], [1.0, [2.0]], [[1], [1, 2]])},
        **{
            repr(v): v
            for v in ([0.5, 0.5], [0.1, 0.9], [1, 2, 3], (0, 0, 0), (8, 8, 3), [math.nan])
        },
        **{repr(v): v for v in ((10**6, 10**6, 3), [10**9], [True, False], [1 + 1j], {1, 2})},
        **{repr(v): v for v in ({"class_name": "Odd", "config": {}}, {"a": [1]}, range(3))},
        **{repr(v): v for v in (Decimal("0.5"), Fraction(1, 2), np.float16(0.5), np.int8(-1))},
        "long text": "x" * 10_000,
        "[Decimal]": [Decimal("0.5"), Decimal("0.1")],
        "np.datetime64": np.datetime64("2020-01-01"),
        "empty array": np.zeros(0),
        "array of none": np.zeros((0, 8, 8, 3)),
        "array ()": np.array(0.5),
        "array (2, 3)": np.full((2, 3), 0.5),
        "array of NaN": np.full((2, 8, 8, 3), np.nan, "float32"),
        "array of infinity": np.full((2, 8, 8, 3), np.inf),
        "array of 1e38": np.full((2, 8, 8, 3), 1e38),
        "array of 300": np.full((2, 8, 8, 3), 300),
        "array of -1": np.full((2, 8, 8, 3), -1.0),
        "array of 5 dimensions": np.zeros((2, 8, 8, 3, 1)),
        "array of another size": np.full((2, 7, 8, 3), 0.5),
        "array of another number": np.full((5, 8, 8, 3), 0.5),
        "complex array": np.full((2, 8, 8, 3), 0.5 + 1j),
        "object array": np.full((2, 8, 8, 3), None),
        "object array of floats": np.full((2, 8, 8, 3), 0.5).astype(object),
        "text array": np.full((2, 8, 8, 3), "a"),
        "bool array": np.full((2, 8, 8, 3), True),
        "masked array": np.ma.masked_greater(pixels, 0.5),
        "masked list": np.ma.array([1.0, 0.5], mask=[False, True]),
        "date array": np.array(["2020-01-01"], "datetime64[D]"),
        "structured array": np.zeros(2, [("a", "f4")]),
        "nested list": pixels.tolist(),
        "list of arrays": [pixels, pixels],
        "tuple of arrays": (pixels, pixels),
        "dict of arrays": {"x": pixels},
        "ragged tensor": tf.ragged.constant([[1.0, 2.0], [3.0]]),
        "sparse tensor": tf.sparse.from_dense([[1.0, 0.0]]),
        "text tensor": tf.constant(["a"]),
        "tensor": tf.constant(pixels),
        "half tensor": tf.constant(pixels, "bfloat16"),
        "dataset": tf.data.Dataset.from_tensors(pixels),
        "dataset of texts": tf.data.Dataset.from_tensors("a"),
        "type": int,
        "module": math,
        "function": print,
        "exception": ValueError("odd"),
    }
    return {
        **{name: lambda value=value: value for name, value in values.items()},
        "object": object,
        "generator": lambda: iter([1, 2]),
        "generator of images": lambda: (batch for batch in [pixels, pixels]),
        "lambda": lambda: lambda *args, **kwargs: None,
        "list of itself": lambda: (lambda a: a.append(a) or a)([]),
        "deep list": lambda: __import__("functools").reduce(lambda a, _: [a], range(5000), 1.0),
    }


def valid_value(function: str, parameter: inspect.Parameter) -> Any:
    places = function.split(".")
    names = [".".join([*places[i:], parameter.name]) for i in range(len(places) + 1)]
    for name in names:
        if name in VALID:
            value = VALID[name]
            return value() if callable(value) else value
    if parameter.default is parameter.empty:
        raise KeyError(f"no valid value is known for `{parameter.name}` of {function}")
    return parameter.default


def call(rng: random.Random, state: dict) -> Iterator[str]:
    """One call: yields its description, then whether it ended well."""
    name = rng.choice(state["names"])
    function = state["targets"][name]()
    parameters = [
        p
        for p in inspect.signature(function).parameters.values()
        if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
    ]
    arguments = {p.name: valid_value(name, p) for p in parameters}
    # What is not handed in is not checked; of most functions there would be too much of it.
    kept = {
        p.name: arguments[p.name] for p in parameters if p.default is p.empty or rng.random() < 0.3
    }
    kept |= {n: v for n, v in arguments.items() if n in ("verbose", "embedding_dims", "widths")}
    kept |= {n: arguments[n] for n in ("sampler", "image_shape", "teacher_times") if n in arguments}
    kept |= {
        n: v
        for n, v in arguments.items()
        if "encoder" in n or n in ("source", "betas", "x", "filepath")
    }
    odd = {}
    for parameter in rng.sample(parameters, min(len(parameters), rng.choice((1, 1, 1, 2)))):
        odd[parameter.name] = rng.choice(sorted(state["odd"]))
    yield f"{name}({', '.join(f'{n}={v}' for n, v in odd.items())})"
    values = {n: state["odd"][v]() for n, v in odd.items()}
    kept |= values
    positional = [
        kept.pop(p.name) for p in parameters[:1] if p.name in kept and p.kind != p.KEYWORD_ONLY
    ]

    def run() -> Any:
        return function(*positional, **kept)

    names_given = "log_snr" if name.startswith("schedule.") else ""
    # What `samplers.get` is handed is called `sampler` elsewhere, and by it.
    names = [*arguments, name.split(".")[0].rstrip("s"), names_given or "$"]
    yield from outcome(run, names, nan_is_odd=not name.startswith(OF_TENSORS))


def has_nan(value: Any) -> bool:
    if isinstance(value, (tuple, list)):
        return any(map(has_nan, value))
    if isinstance(value, dict):
        return any(map(has_nan, value.values()))
    if isinstance(value, (float, np.floating)):
        return math.isnan(value)
    with contextlib.suppress(Exception):
        array = np.asarray(value)
        return array.dtype.kind == "f" and bool(np.isnan(array).any())
    return False


def outcome(run: Callable, names: Any, nan_is_odd: bool = True) -> Iterator[str]:
    """How a case ended: "ok", "clear", "nan", or "unclear" with the exception."""
    try:
        result = run()
    except MemoryError as error:
        yield f"crash {type(error).__name__}"
    except Exception as error:
        message = str(error)
        is_named = any(re.search(rf"\b{name}\b", message) for name in names)
        is_sentence = "\n" not in message and len(message) < 1000 and "Received" in message
        if isinstance(error, OSError) and error.filename:  # as of `open`, which names the file
            is_named = is_sentence = True
        if isinstance(error, (ValueError, TypeError, OSError)) and is_named and is_sentence:
            yield "clear"
        else:
            yield f"unclear {type(error).__name__}: {message[:150]!r}"
    else:
        yield "nan" if nan_is_odd and has_nan(result) else "ok"


# Files


def file_state() -> dict:
    model = make_model()
    model.fit(pixels, verbose=0)
    model.save("tiny.keras")
    with zipfile.ZipFile("tiny.keras") as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    return {"bytes": pathlib.Path("tiny.keras").read_bytes(), "members": members}


ODD_JSON = (None, True, -1, 0, 1, 2, 10**6, 10**9, 10**30, 1e308, -1e308, 0.5, "", "odd", [], {})
ODD_JSON += ([[]], ["a"], [10**6] * 3, {"a": 1}, "relu", "x" * 10_000, [[[[[0.5]]]]], "../../etc")
PAYLOADS: tuple[Any, ...] = (
    {"module": "os", "class_name": "system", "config": f"touch {MARKER}", "registered_name": None},
    {
        "module": "subprocess",
        "class_name": "call",
        "config": {"args": ["touch", MARKER]},
        "registered_name": "call",
    },
    {
        "class_name": "__lambda__",
        "config": {"value": "4wEAAAAAAAAA", "defaults": None, "closure": None},
    },
    {
        "module": "keras.utils",
        "class_name": "get_file",
        "config": {"fname": MARKER, "origin": "file:///etc/passwd", "cache_dir": "."},
        "registered_name": "get_file",
    },
    {
        "module": "keras.layers",
        "class_name": "TorchModuleWrapper",
        "config": {"module": "gASVHgAAAAAAAACMBXBvc2l4lIwGc3lzdGVtlJOU"},
        "registered_name": None,
    },
    {
        "module": "keras_ddim.files",
        "class_name": "write_text",
        "config": {"path": MARKER, "text": "x"},
        "registered_name": "write_text",
    },
    {"module": "builtins", "class_name": "exec", "config": f"open('{MARKER}','w')"},
)


def change_json(rng: random.Random, text: bytes) -> bytes:
    """JSON with one value replaced, removed or doubled."""
    root = json.loads(text)
    places = []

    def walk(node: Any) -> None:
        for key in list(node) if isinstance(node, dict) else range(len(node)):
            places.append((node, key))
            if isinstance(node[key], (dict, list)):
                walk(node[key])

    walk(root)
    if not places:
        return b"[]"
    node, key = rng.choice(places)
    choice = rng.random()
    if choice < 0.1 and isinstance(node, dict):
        del node[key]
    elif choice < 0.2 and isinstance(node, dict):
        node["odd"] = node[key]
    elif choice < 0.4:
        node[key] = rng.choice(PAYLOADS)
    else:
        node[key] = rng.choice(ODD_JSON)
    return json.dumps(root).encode()


def flip_bits(rng: random.Random, data: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 10, 100))):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def zipped(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def damaged(rng: random.Random, state: dict) -> tuple[str, bytes]:
    data, members = state["bytes"], dict(state["members"])
    kind = rng.choice(("bits", "cut", "json", "json", "json", "json", "weights", "member", "other"))
    if kind == "bits":
        return kind, flip_bits(rng, data)
    if kind == "cut":
        return kind, data[: rng.randrange(len(data))]
    if kind == "json":
        members["config.json"] = change_json(rng, members["config.json"])
    elif kind == "weights":
        members["model.weights.h5"] = flip_bits(rng, members["model.weights.h5"])
    elif kind == "member":
        name = rng.choice(sorted(members))
        how = rng.choice(("gone", "empty", "outside", "absolute", "deep", "assets"))
        kind = f"member {how} {name}"
        if how == "gone":
            del members[name]
        elif how == "empty":
            members[name] = b""
        elif how == "deep":
            members["config.json"] = b"[" * 100_000 + b"]" * 100_000
        else:
            place = {"outside": f"../{MARKER}", "absolute": f"{os.getcwd()}/{MARKER}"}.get(how)
            members[place or f"assets/../../{MARKER}"] = b"x"
    else:
        choices = (b"", b"PK", b"\x89HDF\r\n\x1a\n" + b"\0" * 100, zipped({}), zipped({"a": b""}))
        return kind, rng.choice((*choices, members["model.weights.h5"], b"\0" * 1000))
    return kind, zipped(members)


def load_file(rng: random.Random, state: dict) -> Iterator[str]:
    import keras

    import keras_ddim

    kind, data = damaged(rng, state)
    by_keras = rng.random() < 0.5
    yield f"{'keras' if by_keras else 'from_preset'} {kind}"
    path = rng.choice(("odd.keras", "odd.keras", "odd.keras", "odd.h5"))
    pathlib.Path(path).write_bytes(data)
    loaded = []

    def run() -> Any:
        load = keras.saving.load_model if by_keras else keras_ddim.DiffusionModel.from_preset
        loaded.append(load(path))
        if isinstance(loaded[0], keras_ddim.DiffusionModel):
            return loaded[0].generate(1, 2, verbose=0)

    for result in outcome(run, ["preset"]):
        is_keras = by_keras and not loaded and result.startswith("unclear")
        result = "ok" if is_keras else result
        outside = [MARKER, f"../{MARKER}", os.path.expanduser(f"~/.keras/datasets/{MARKER}")]
        for place in filter(os.path.exists, outside):
            os.remove(place)
            result = f"code {place}"
        yield result


# Images


def png(width: int, height: int, data: bytes = b"") -> bytes:
    """A PNG that says it has that size, and holds those rows."""

    def chunk(name: bytes, body: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(name + body))
        return struct.pack(">I", len(body)) + name + body + checksum

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def odd_image(rng: random.Random) -> bytes:
    from PIL import Image

    size = rng.choice(((1, 1), (16, 16), (1, 5000), (3000, 2), (17, 9), (40, 40)))
    mode = rng.choice(("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I", "I;16", "F", "YCbCr"))
    format = rng.choice(("PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF"))
    buffer = io.BytesIO()
    try:
        Image.new(mode, size, rng.choice((0, 1)) if mode != "F" else math.nan).save(buffer, format)
    except (OSError, ValueError, KeyError, TypeError):
        Image.new("RGB", size, (200, 9, 9)).save(buffer, "PNG")
    data = buffer.getvalue()
    kind = rng.random()
    if kind < 0.3:
        return flip_bits(rng, data)
    if kind < 0.45:
        return data[: rng.randrange(len(data))]
    if kind < 0.5:
        return rng.choice(
            (png(60_000, 60_000), png(0, 0), png(2**31 - 1, 2**31 - 1), b"", b"GIF89a")
        )
    if kind < 0.53:
        return png(9000, 9000, b"\0" * (9000 * 27001))
    return data


def load_folder(rng: random.Random, state: dict) -> Iterator[str]:
    import keras_ddim

    folder = pathlib.Path(tempfile.mkdtemp(dir="."))
    descriptions = []
    for i in range(rng.randrange(1, 5)):
        path = (
            folder
            / rng.choice(("", "", "a", "ä b", "\udcff"))
            / f"{i}{rng.choice(('', chr(0xDCFE)))}.png"
        )
        path.parent.mkdir(exist_ok=True)
        kind = rng.choice(("image",) * 6 + ("pipe", "link", "loop", "dangling", "folder", "device"))
        descriptions.append(kind)
        if kind == "image":
            path.write_bytes(odd_image(rng))
        elif kind == "pipe":
            os.mkfifo(path)
        elif kind == "folder":
            path.mkdir()
        else:
            to = {"link": "/etc/passwd", "loop": str(folder.absolute()), "device": "/dev/zero"}
            path.symlink_to(to.get(kind, "nowhere.png"))
    options = {
        "channels": rng.choice((None, 1, 3, 4)),
        "fit": rng.choice(("crop", "pad")),
        "cache": rng.choice((True, False, str(folder / "cache"))),
    }
    yield f"{descriptions} {options}"

    def run() -> Any:
        images, _ = keras_ddim.load_images(folder, 8, validation_split=0, **options)
        arrays = [batch.numpy() for batch in images]
        assert all((a >= 0).all() and (a <= 1).all() for a in arrays)
        return arrays

    yield from outcome(run, ["source"])


# Workers

KINDS = {"calls": call, "files": load_file, "images": load_folder}


def cases(counts: dict[str, int]) -> list[tuple[str, int]]:
    return [(kind, number) for kind, count in counts.items() for number in range(count)]


def make_state(kind: str) -> dict:
    if kind == "calls":
        found = targets()
        make_model().save("tiny.keras")
        pathlib.Path("history.csv").write_text("epoch,loss\n0,1\n")
        return {"targets": found, "names": sorted(found), "odd": odd_values()}
    return file_state() if kind == "files" else {}


def work(counts: dict[str, int], start: int, seed: int) -> None:
    """Runs cases, and prints a line before and after each."""
    warnings.simplefilter("ignore")
    results = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what is called may print
    os.environ.update(TF_CPP_MIN_LOG_LEVEL="3", MPLBACKEND="agg")
    todo = cases(counts)[start:]
    states = {kind: make_state(kind) for kind in dict(todo)}
    pages = int(pathlib.Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for kind, number in todo:
        steps = KINDS[kind](random.Random(f"{seed} {kind} {number}"), states[kind])
        print(json.dumps(next(steps)), file=results)
        print(json.dumps(next(steps)), file=results)


def run_cases(counts: dict[str, int], seed: int, folder: str) -> Iterator[tuple[str, str]]:
    """`(description, outcome)` of each case; a worker that dies or hangs is replaced."""
    number, count = 0, sum(counts.values())
    while number < count:
        command = [sys.executable, os.path.abspath(__file__), "--worker"]
        command += [f"--{kind}={count}" for kind, count in counts.items()]
        command += [f"--start={number}", f"--seed={seed}"]
        with (
            open(os.path.join(folder, "stderr"), "w") as errors,
            subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=errors) as worker,
        ):
            first, description, ended = number, None, "crash"
            while True:
                seconds = SECONDS if description else 10 * SECONDS
                assert worker.stdout is not None
                if not select.select([worker.stdout], [], [], seconds)[0]:
                    worker.kill()
                    ended = "hang"
                    break
                line = worker.stdout.readline()
                if not line:
                    break
                text = json.loads(line)
                if description is None:
                    description = text
                    continue
                yield description, text
                description, number = None, number + 1
        if number < count:
            if description is None and (number == first or worker.returncode == 1):
                raise RuntimeError(pathlib.Path(folder, "stderr").read_text()[-2000:])
            yield description or "between cases", ended
            number += 1


def fuzz(seed: int = 0, **counts: int) -> dict[str, collections.Counter]:
    """Counts of how the cases of each kind ended; those that ended badly are printed."""
    ends: dict[str, collections.Counter] = {kind: collections.Counter() for kind in counts}
    with tempfile.TemporaryDirectory() as folder:
        for (kind, _), case in zip(cases(counts), run_cases(counts, seed, folder), strict=True):
            description, ended = case
            ends[kind][ended.split()[0]] += 1
            if ended.split()[0] in BAD:
                print(f"{kind}: {description}: {ended}", flush=True)
    return ends


def main() -> None:
    parser = argparse.ArgumentParser(description="Odd arguments, files and images.")
    for kind, count in (("calls", 10_000), ("files", 500), ("images", 200), ("seed", 0)):
        parser.add_argument(f"--{kind}", type=int, default=count)
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--start", type=int, default=0, help=argparse.SUPPRESS)
    options = parser.parse_args()
    counts = {kind: getattr(options, kind) for kind in KINDS}
    if options.worker:
        return work(counts, options.start, options.seed)
    for kind, ended in fuzz(options.seed, **counts).items():
        print(kind, dict(ended), f"unclear: {ended['unclear'] / max(1, ended.total()):.2%}")


if __name__ == "__main__":
    main()
