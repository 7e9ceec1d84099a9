"""The notebooks: each is whole, opens on Colab, tells nothing of the machine it ran on, and runs.

```bash
python -m pytest -m slow -s tests/test_notebooks.py
```
"""

import json
import pathlib
import re
import sys
import time

import nbformat
import pytest
from jupyter_client.kernelspec import KernelSpec, KernelSpecManager
from nbclient import NotebookClient

NOTEBOOKS = sorted((pathlib.Path(__file__).parent.parent / "notebooks").glob("*.ipynb"))
LARGEST_BYTES = 700_000
BADGE = "https://colab.research.google.com/assets/colab-badge.svg"
COLAB = r"https://colab\.research\.google\.com/github/[\w/-]+/blob/main/notebooks/(\w+\.ipynb)"

# Folders of somebody's machine, at the beginning of a path: not after the host of a URL, nor
# within a relative path.
ABSOLUTE_PATH = re.compile(
    r"(?<![\w.:/-])/(?:home|Users|work|tmp|root|usr|opt|var|mnt|private|content)/"
    r"|file://|\b[A-Za-z]:\\{1,2}\w"
)


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def path(request):
    return request.param


@pytest.fixture
def notebook(path):
    return nbformat.read(path, as_version=4)


def test_there_are_notebooks():
    assert NOTEBOOKS


def test_is_valid_and_small(path, notebook):
    nbformat.validate(notebook)
    assert path.stat().st_size < LARGEST_BYTES


def test_opens_on_colab(path, notebook):
    title = notebook.cells[0]
    assert title.cell_type == "markdown" and title.source.startswith("# ")
    assert BADGE in title.source
    assert re.findall(COLAB, title.source) == [path.name]


def test_installs_the_package_where_it_is_missing(notebook):
    first = next(cell.source for cell in notebook.cells if cell.cell_type == "code")
    assert 'find_spec("keras_ddim") is None' in first
    assert re.search(r"%pip install .*keras-ddim", first)


def test_has_no_absolute_paths(notebook):
    texts = [cell.source for cell in notebook.cells]
    texts += [text for cell in notebook.cells for text in output_texts(cell)]
    assert [text for text in texts if ABSOLUTE_PATH.search(text)] == []


@pytest.mark.parametrize(
    "text, is_found",
    [
        ("/home/me/photos", True),
        ('open("/tmp/a.png")', True),
        ("File /work/venv/lib/a.py:3", True),
        (r"C:\Users\me", True),
        (r"'C:\\Users\\me'", True),
        ("https://example.org/home/me/work/tmp/", False),
        ("photos/tmp/a.png", False),
        ("signal / noise", False),
        (r"$\alpha:\beta$ and Note:\n", False),
    ],
)
def test_absolute_paths_are_told_from_others(text, is_found):
    assert bool(ABSOLUTE_PATH.search(text)) == is_found


def output_texts(cell):
    """All that a cell has put out, but for pictures."""
    for output in cell.get("outputs", []):
        if output.output_type == "stream":
            yield output.text
        elif output.output_type == "error":
            yield "\n".join(output.traceback)
        else:
            for kind, data in output.data.items():
                if not kind.startswith("image/") or kind == "image/svg+xml":
                    yield data if isinstance(data, str) else json.dumps(data)


class ThisPython(KernelSpecManager):
    """Offers one kernel: the Python that runs the tests, whatever kernels are installed."""

    def get_kernel_spec(self, kernel_name):
        command = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        return KernelSpec(argv=command, display_name=kernel_name, language="python")


@pytest.mark.slow
def test_runs(path, notebook, tmp_path, monkeypatch):
    """From top to bottom, in its tiny form, in an empty folder."""
    monkeypatch.setenv("FAST", "1")
    client = NotebookClient(
        notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": tmp_path}}
    )
    client.create_kernel_manager().kernel_spec_manager = ThisPython()
    start = time.monotonic()
    client.execute()
    print(f"{path.name}: {time.monotonic() - start:.0f} s")
    assert all(cell.execution_count for cell in notebook.cells if cell.cell_type == "code")
    test_has_no_absolute_paths(notebook)
