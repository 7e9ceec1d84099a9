"""Kills trainings at random moments: whatever happens, `--resume` ends as if nothing had.

    python tests/benchmarks/kills.py --kills 50 --seed 0

A tiny training is run once without any disturbance, and again and again with one: at a moment drawn
from all phases, of which each new model begins another, the process is killed (SIGKILL),
interrupted (Ctrl-C), or may write small files only (as on a full disk). Then it is resumed. Each
time the folder must be that of the undisturbed run: the same files, all of them equal to the last
bit, with the same weights, optimizer, random numbers, history and options in the model. After
Ctrl-C and on the full disk the message must be one line, and the exit code 130 and 1.

Each training is a process of its own, forked from one that has imported everything.
"""

import argparse
import io
import itertools
import json
import os
import pathlib
import random
import resource
import signal
import sys
import tempfile
import time
import zipfile
from typing import Any

import h5py

OPTIONS = [
    *("--num-images", "40", "--image-size", "8", "--batch-size", "8", "--flip", "--no-labels"),
    *("--widths", "4", "--block-depth", "1", "--epochs", "6", "--times", "1"),
]
FAULTS = "SIGKILL", "SIGINT", "full disk"
EXIT_CODES = {"SIGKILL": -signal.SIGKILL, "SIGINT": 130, "full disk": 1}
MOST_BYTES = 1_000, 100_000  # of a file on the full disk; the model's has more


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=50, help="how many (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of their moments (%(default)s)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        check(args.kills, args.seed, pathlib.Path(folder))


def check(num_kills: int, seed: int, folder: pathlib.Path) -> dict[str, int]:
    """Raises an `AssertionError` if a disturbance has left anything.

    Returns:
        How often each kind of disturbance came before the end of the run, and how often before
        there was a model ("without model").
    """
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"  # nothing among the messages
    import keras_ddim.cli  # noqa: F401  # once, for all that are forked

    rng = random.Random(seed)
    undisturbed = folder / "undisturbed"
    ended, moments = watch(train(undisturbed), undisturbed / "model.keras")
    assert ended == 0, (folder / "errors").read_text()
    lengths = [after - before for before, after in itertools.pairwise(moments)]
    parts = len(contents(undisturbed))
    print(f"undisturbed: {moments[-1]:.1f} s, {parts} parts to compare", flush=True)
    counts = dict.fromkeys((*FAULTS, "without model"), 0)
    number = 0
    while number < num_kills:
        fault, run = FAULTS[number % len(FAULTS)], folder / f"run{number}"
        phase = rng.randrange(len(lengths))
        delay = rng.uniform(0, lengths[phase])
        process = train(run)
        ended, _ = watch(process, run / "model.keras", phase, delay)
        if ended is None:
            disturb(process, fault, rng.choice(MOST_BYTES))
            ended = end_of(process)
        message = (folder / "errors").read_text().strip().splitlines()
        if ended == 0:  # too late, or the disk was full only after the last file
            outcome = "ended"
        else:
            assert ended == EXIT_CODES[fault], (fault, ended, message)
            if fault != "SIGKILL":
                assert not any("Traceback" in line for line in message), message
                assert len(message) == 1, message
            counts[fault] += 1
            outcome = "at " + epoch_of(run)
            counts["without model"] += outcome == "at no model"
            number += 1
        while ended != 0:  # a kill before the first epoch leaves nothing to resume
            ended = end_of(train(run, "--resume") if (run / "model.keras").exists() else train(run))
            assert ended == 0, (fault, delay, (folder / "errors").read_text())
        compare(undisturbed, run)
        print(f"{number:3} {fault:9} phase {phase} + {delay:5.2f} s, {outcome}: equal", flush=True)
    print(counts)
    return counts


def train(folder: pathlib.Path, *more: str) -> int:
    """Begins a training in a process of its own; returns its number."""
    process = os.fork()
    if process:
        return process
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)  # what runs in tests may ignore it
        for number, path in ((1, os.devnull), (2, folder.parent / "errors")):
            os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
        sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
        from keras_ddim import cli

        options = ["--resume"] if more else OPTIONS
        status = cli.main(["train", *options, "--output", str(folder)])
        sys.stderr.flush()
        os._exit(status)
    except BaseException:
        import traceback

        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(70)


def watch(
    process: int, path: pathlib.Path, phase: int | None = None, delay: float = 0.0
) -> tuple[int | None, list[float]]:
    """Waits for the end of a process, or for so many seconds of a phase.

    Returns:
        The exit code, or None; and the moments at which the phases seen began, and the end.
    """
    start = time.monotonic()
    moments, model, ended = [0.0], None, 0
    while not ended:
        now = time.monotonic() - start
        written = path.stat().st_mtime_ns if path.exists() else None
        if written != model:
            model = written
            moments.append(now)
        if phase is not None and len(moments) > phase and now > moments[phase] + delay:
            return None, moments
        time.sleep(0.001)
        ended, status = os.waitpid(process, os.WNOHANG)
    return os.waitstatus_to_exitcode(status), [*moments, time.monotonic() - start]


def end_of(process: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def disturb(process: int, fault: str, most_bytes: int) -> None:
    if fault == "full disk":
        resource.prlimit(process, resource.RLIMIT_FSIZE, (most_bytes, most_bytes))
    else:
        os.kill(process, getattr(signal, fault))


def contents(folder: pathlib.Path) -> dict[str, Any]:
    """All files, and all that is in the model but when it was written."""
    parts: dict[str, Any] = {}
    for path in folder.rglob("*"):
        name = str(path.relative_to(folder))
        if path.is_file() and path.suffix != ".keras":
            parts[name] = path.read_bytes()
    with zipfile.ZipFile(folder / "model.keras") as file:
        parts["config"] = json.loads(file.read("config.json"))
        weights = h5py.File(io.BytesIO(file.read("model.weights.h5")))
    weights.visititems(
        lambda name, item: parts.update(
            {name: item[()].tobytes()} if hasattr(item, "dtype") else {}
        )
    )
    return parts


def compare(one: pathlib.Path, other: pathlib.Path) -> None:
    parts, other_parts = contents(one), contents(other)
    assert parts.keys() == other_parts.keys(), {*parts} ^ {*other_parts}
    differing = [name for name in parts if parts[name] != other_parts[name]]
    assert not differing, (other, differing)


def epoch_of(run: pathlib.Path) -> str:
    if not (run / "model.keras").exists():
        return "no model"
    history = contents(run)["config"]["config"]["metadata"]["history"]
    return f"epoch {history[-1]['epoch']}"


if __name__ == "__main__":
    main()
