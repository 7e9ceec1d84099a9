"""A short run of the fuzzer: odd calls, damaged files, odd images."""

import importlib.util
import pathlib

from tests.conftest import only_on

FUZZ = pathlib.Path(__file__).parent / "benchmarks" / "fuzz.py"


@only_on("tensorflow", reason="what is odd is checked before the backends differ")
def test_odd_calls_files_and_images():
    spec = importlib.util.spec_from_file_location("fuzz", FUZZ)
    fuzz = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(fuzz)
    counts = fuzz.fuzz(calls=300, files=20, images=10)
    for kind, allowed in (("calls", 3), ("files", 0), ("images", 0)):
        bad = {ended: counts[kind][ended] for ended in fuzz.BAD if counts[kind][ended]}
        assert bad.pop("unclear", 0) <= allowed and not bad, (kind, bad)
