"""The benchmark of that name, tiny: it runs, and remapping has an effect where it should."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent


@pytest.mark.slow
def test_benchmark(tmp_path):
    arguments = (
        "--image-size 8 --widths 8 --batch-size 8 --steps 20 --classifier-steps 5 "
        "--num-images 6 --num-times 3 --seeds 0,1 --verbose 0 --output results"
    )
    subprocess.run(
        [sys.executable, ROOT / "tests/benchmarks/noise_level_or_timestep.py", *arguments.split()],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=True,
    )
    written = sorted(path.name for path in (tmp_path / "results").iterdir())
    assert written == ["pictures.png", "results.json", "table.md"]
    results = json.loads((tmp_path / "results" / "results.json").read_text("utf-8"))
    assert results["finished_seeds"] == 2
    assert all(len(cell["distances"]) == 2 for cell in results["cells"])
    changes = results["largest_pixel_change_by_remapping"]
    assert changes.pop("linear-β (training)") <= 1e-5 < 1e-3 < min(changes.values())
    assert set(changes) == {"cosine", "log-SNR linear"}
    assert "| cosine | 3 |" in (tmp_path / "results" / "table.md").read_text("utf-8")
