"""Functions of the package that are entered while one batch is fitted and one image is made.

    python tests/benchmarks/walks.py            # of the package that is installed
    PYTHONPATH=PATH python tests/benchmarks/walks.py

Counted with `sys.setprofile` in eager mode, at the second call, so that nothing is built or cached
on the way. Methods, properties and inner functions count, comprehensions do not; each function is
listed with its number of calls.
"""

import argparse
import collections
import os
import pathlib
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np

import keras_ddim

PACKAGE = pathlib.Path(keras_ddim.__file__).parent


def walk(function):
    """Calls of each function of the package within `function()`: (file, name, line) → number."""
    calls = collections.Counter()

    def profile(frame, event, argument):
        code = frame.f_code
        is_own = event == "call" and code.co_filename.startswith(str(PACKAGE))
        if is_own and not code.co_name.endswith(("comp>", "genexpr>")):
            file = pathlib.Path(code.co_filename).relative_to(PACKAGE)
            calls[str(file), code.co_qualname, code.co_firstlineno] += 1

    function()
    sys.setprofile(profile)
    try:
        function()
    finally:
        sys.setprofile(None)
    return calls


def print_walk(title, calls):
    files = collections.Counter(file for file, _, _ in calls)
    total = sum(calls.values())
    print(f"\n{title}: {len(calls)} functions in {len(files)} files, {total} calls")
    for file in files:
        print(f"  {file}")
        for (where, name, line), count in calls.items():
            if where == file:
                print(f"    {count:3d} × {name}, line {line}")


def main():
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    network = keras_ddim.ResidualUNet((8, 8, 3), (8,), block_depth=1, seed=0)
    model = keras_ddim.DiffusionModel(network=network, seed=0)
    model.compile(run_eagerly=True)
    images = np.random.default_rng(0).random((8, 8, 8, 3)).astype("float32")
    print_walk("One batch fitted", walk(lambda: model.fit(images, batch_size=8, verbose=0)))
    print_walk("One image at two times", walk(lambda: model.generate(1, 2, verbose=0)))


if __name__ == "__main__":
    main()
