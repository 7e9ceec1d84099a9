"""The notebooks: each is whole, installs the package, names no folder of a machine, and runs.

```bash
python -m pytest -m slow -s tests/test_notebooks.py
```
"""

import importlib.metadata
import pathlib
import re
import runpy
import shutil
import sys
import time

import nbformat
import pytest
from jupyter_client.kernelspec import KernelSpec, KernelSpecManager
from nbclient import NotebookClient

ROOT = pathlib.Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
LARGEST_BYTES = 1_200_000

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


def test_is_valid_and_small_and_has_one_short_form(path, notebook):
    nbformat.validate(notebook)
    assert path.stat().st_size < LARGEST_BYTES
    assert sum("FAST" in cell.source for cell in notebook.cells if cell.cell_type == "code") == 1


def test_addresses_come_from_one_place(tmp_path):
    """Set and taken out again, they leave what was there; badges lead to their own notebooks."""
    files = ["pyproject.toml", "README.md", *(f"notebooks/{path.name}" for path in NOTEBOOKS)]
    (tmp_path / "notebooks").mkdir()
    for name in files:
        shutil.copy(ROOT / name, tmp_path / name)
    script = runpy.run_path(str(ROOT / ".github" / "set_address.py"))
    script["set_address"](tmp_path, "")
    before = [(tmp_path / name).read_bytes() for name in files]
    script["set_address"](tmp_path, "https://github.com/me/mine.git")
    for path in NOTEBOOKS:
        title, install = nbformat.read(tmp_path / "notebooks" / path.name, 4).cells[:2]
        assert f"/github/me/mine/blob/main/notebooks/{path.name})" in title.source
        assert 'REPOSITORY = "https://github.com/me/mine"  # @param' in install.source
    assert "https://github.com/me/mine" in (tmp_path / files[0]).read_text(encoding="utf-8")
    readme = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert 'pip install "git+https://github.com/me/mine"' in readme
    links = re.findall(r"""\]\(([^)#]+)\)|src="([^"]+)""", readme)
    assert [link for link in map("".join, links) if not link.startswith("https://")] == []
    assert "https://github.com/me/mine/raw/main/notebooks/pictures/" in readme
    script["set_address"](tmp_path, "")
    assert [(tmp_path / name).read_bytes() for name in files] == before


class TestFirstCell:
    """What the first cell installs; the same cell in all notebooks."""

    @pytest.fixture
    def run(self, tmp_path, monkeypatch):
        """Runs it in an empty folder; returns what pip is asked for, and the cell's names."""
        cells = [nbformat.read(path, as_version=4).cells for path in NOTEBOOKS]
        sources = {next(c.source for c in each if c.cell_type == "code") for each in cells}
        assert len(sources) == 1
        source = sources.pop()
        monkeypatch.chdir(tmp_path)

        def run(is_installed, repository=""):
            def version(name):
                if not is_installed:
                    raise importlib.metadata.PackageNotFoundError(name)

            monkeypatch.setattr(importlib.metadata, "version", version)
            code = source.replace("%pip install --quiet", "asked.append", 1)
            code = code.replace('"{source}"', "(str(source))")
            code = code.replace('REPOSITORY = ""', f'REPOSITORY = "{repository}"')
            asked = []
            exec(code, {"asked": asked})
            return asked

        return run

    def test_goes_on_where_the_package_is_installed(self, run):
        assert run(is_installed=True) == []

    def test_installs_the_clone_that_it_lies_in(self, run, monkeypatch):
        monkeypatch.chdir(ROOT / "notebooks")
        assert run(is_installed=False) == [str(ROOT)]

    def test_installs_from_an_address(self, run):
        address = "https://example.org/me/mine"
        assert run(is_installed=False, repository=address) == [f"git+{address}"]

    def test_stops_with_one_sentence(self, run, tmp_path):
        (tmp_path / "keras_ddim").mkdir()  # must not pass for the package
        with pytest.raises(Exception, match="put the address of its Git repository") as caught:
            run(is_installed=False)
        assert caught.value._render_traceback_() == [str(caught.value)]


def test_has_no_absolute_paths(notebook):
    texts = [cell.source for cell in notebook.cells]
    texts += [text for cell in notebook.cells for text in output_texts(cell)]
    assert [text for text in texts if ABSOLUTE_PATH.search(text)] == []


def output_texts(cell):
    """All that a cell has put out, except pictures."""
    for output in cell.get("outputs", []):
        data = output.get("data", {})
        shown = [data[kind] for kind in data if kind[:6] != "image/" or kind == "image/svg+xml"]
        yield from map(str, [output.get("text"), *output.get("traceback", ()), *shown])


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
