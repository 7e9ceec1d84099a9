"""All that a user does, on every backend and on several devices: a table, each cell really run."""

import functools
import importlib.util
import json
import os
import pathlib
import socket
import subprocess
import sys

import numpy as np
import pytest

from tests.backend_table import COLUMNS, ROWS

pytestmark = pytest.mark.slow

FOLDER = pathlib.Path(__file__).parent


def start(column, *arguments, script="backend_table.py", **environment):
    return subprocess.Popen(
        [sys.executable, str(FOLDER / script), column, *map(str, arguments)],
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def result_of(process):
    output, errors = process.communicate(timeout=600)
    assert process.returncode == 0, errors[-5000:]
    return json.loads(output.splitlines()[-1])


def run(column, folder):
    if importlib.util.find_spec(COLUMNS[column]) is None:
        return None
    if not column.startswith("MultiWorker"):
        return result_of(start(column, folder))
    with socket.socket() as first, socket.socket() as second:
        for each in (first, second):
            each.bind(("127.0.0.1", 0))
        workers = [f"127.0.0.1:{each.getsockname()[1]}" for each in (first, second)]
    for index in range(2):
        (folder / str(index)).mkdir()
    processes = [
        start(
            column,
            folder / str(index),
            TF_CONFIG=json.dumps(
                {"cluster": {"worker": workers}, "task": {"type": "worker", "index": index}}
            ),
        )
        for index in range(2)
    ]
    chief, _ = [result_of(process) for process in processes]
    return chief


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("backends")


@pytest.fixture(scope="module")
def table(folder):
    """Results of each column; the seconds of each cell are printed."""
    results = {}
    for number, column in enumerate(COLUMNS):
        (folder / str(number)).mkdir()
        results[column] = run(column, folder / str(number))
    print(f"\n| | {' | '.join(COLUMNS)} |\n| --- |{' ---: |' * len(COLUMNS)}")
    for row in ROWS:
        cells = [result and result[row] for result in results.values()]
        cells = ["–" if c is None else f"{c} s" if not isinstance(c, str) else c for c in cells]
        print(f"| {row} | {' | '.join(cells)} |")
    return results


@pytest.mark.parametrize("row", ROWS)
@pytest.mark.parametrize("column", COLUMNS)
def test_runs(table, column, row):
    if table[column] is None:
        pytest.skip(f"{COLUMNS[column]} is not installed")
    assert isinstance(table[column][row], float), table[column][row]


def test_several_devices_are_several(table):
    assert table["MirroredStrategy, 2 devices"]["devices"] == 2
    if table["JAX"]:
        assert table["JAX DataParallel, 2 devices"]["devices"] == 2


@pytest.mark.parametrize("column", ["JAX", "torch"])
def test_other_backends_import_no_tensorflow(table, column):
    if table[column] is None:
        pytest.skip(f"{column} is not installed")
    assert not table[column]["imports TensorFlow"]


def test_the_same_file_and_noise_give_the_same_images(table, folder):
    """Files of each backend, read under each."""
    backends = [each for each in ("TensorFlow", "JAX", "torch") if table[each]]
    paths = [folder / str([*COLUMNS].index(each)) / "model.keras" for each in backends]
    images = [np.array(result_of(start(each, folder, *paths))) for each in backends]
    for reader, received in zip(backends, images):
        for number, writer in enumerate(backends):
            difference = np.abs(received[number] - images[number][number]).max()
            print(f"\nsaved on {writer}, read on {reader}: largest difference {difference:.1e}")
            assert difference <= 1e-4


@pytest.fixture(scope="module")
def replicas():
    """What `replica_job.py` prints for a column, once."""
    return functools.cache(lambda column: result_of(start(column, script="replica_job.py")))


@pytest.mark.parametrize(
    ("one", "two"),
    [("TensorFlow", "MirroredStrategy, 2 devices"), ("JAX", "JAX DataParallel, 2 devices")],
)
def test_twice_32_images_train_as_64(replicas, one, two):
    """A hundred steps of plain gradient descent; only sums are taken in another order."""
    if importlib.util.find_spec(COLUMNS[one]) is None:
        pytest.skip(f"{COLUMNS[one]} is not installed")
    expected, received = replicas(one), replicas(two)
    assert expected["steps"] == received["steps"] == 100
    weights = np.array(expected["weights"])
    assert np.abs(weights).max() > 0.1
    difference = np.abs(np.array(received["weights"]) - weights).max()
    print(f"\n{two} beside {one}: largest difference of a weight {difference:.1e}")
    assert difference <= 1e-5


def test_replicas_draw_different_noises_and_times(replicas):
    noises, times = replicas("MirroredStrategy, 2 devices")["drawn"]
    for first, second in (noises, times):
        assert np.abs(np.subtract(first, second)).min() > 0
    assert abs(np.corrcoef(*noises)[0, 1]) < 0.3


@pytest.mark.parametrize("column", ["MirroredStrategy, 2 devices", "JAX DataParallel, 2 devices"])
def test_a_bad_image_of_one_replica_moves_no_average_on_any(replicas, column):
    if importlib.util.find_spec(COLUMNS[column]) is None:
        pytest.skip(f"{COLUMNS[column]} is not installed")
    assert replicas(column)["bad step"] == {"changed": 0, "not finite": 0}
