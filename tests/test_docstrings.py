"""The examples of docstrings run, and give what they say, to the digits that they show."""

import ast
import builtins
import doctest
import importlib
import pkgutil
import sys

import keras
import numpy as np
import pytest

import keras_ddim

DOWNLOADS = "keras_ddim.encoders.InceptionV3"
SLOW = {
    "keras_ddim.data.flowers.draw_flowers",
    "keras_ddim.data.loading.load_images",
    "keras_ddim.model.DiffusionModel.generate",
    "keras_ddim.model.DiffusionModel.from_preset",
    "keras_ddim.preconditioning.SpectralPreconditioning",
}


def examples():
    finder = doctest.DocTestFinder(exclude_empty=True)
    for info in pkgutil.walk_packages(keras_ddim.__path__, "keras_ddim."):
        if not info.name.endswith("__main__"):
            tests = finder.find(importlib.import_module(info.name), info.name)
            for test in tests:
                marks = [pytest.mark.slow] if test.name in SLOW else []
                if test.examples and test.name != DOWNLOADS:
                    yield pytest.param(test, id=test.name, marks=marks)


class Checker(doctest.OutputChecker):
    """Compares numbers, where there are some, to about four digits."""

    def check_output(self, want, got, optionflags):
        try:
            numbers = (np.asarray(ast.literal_eval(text), float) for text in (want, got))
            return np.allclose(*numbers, rtol=5e-4, atol=6e-5)
        except (ValueError, SyntaxError):
            return super().check_output(want, got, optionflags)


def show(value):
    """Prints a result: tensors and arrays as lists."""

    def plain(part):
        if keras.ops.is_tensor(part) or isinstance(part, np.ndarray):
            return keras.ops.convert_to_numpy(part).tolist()
        return tuple(part) if hasattr(part, "as_list") else part  # TensorFlow's shapes

    if value is not None:
        builtins._ = value
        print(repr(tuple(map(plain, value)) if type(value) is tuple else plain(value)))


@pytest.mark.parametrize("test", list(examples()))
def test_examples(test, tmp_path, monkeypatch, request):
    monkeypatch.chdir(tmp_path)
    test.globs = {**test.globs, "keras_ddim": keras_ddim, "keras": keras, "np": np}
    if "model" in "".join(e.source for e in test.examples) and "slow" in request.keywords:
        test.globs["model"] = keras_ddim.DiffusionModel.from_preset("flowers")
    test.globs["images"] = np.random.default_rng(0).random((8, 32, 32, 3), "float32")
    monkeypatch.setattr(keras_ddim.progress, "SECONDS_BEFORE_PROGRESS", float("inf"))
    # doctest puts its own in its place, before each example.
    monkeypatch.setattr(sys, "__displayhook__", show)
    runner = doctest.DocTestRunner(Checker(), verbose=False)
    report = []
    runner.run(test, out=report.append, clear_globs=False)
    assert runner.failures == 0, "".join(report)
