"""The documentation's site, from docstrings, notebooks and the pages here.

```bash
pip install ".[docs]" && sphinx-build -W .docs .docs/build/html
```
"""

import os
import pathlib
import pkgutil
import re
import shutil
import tomllib

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras_ddim

HERE = pathlib.Path(__file__).parent
ROOT = HERE.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
REPOSITORY = PROJECT.get("urls", {}).get("Repository", "")

project = "keras_ddim"
release = version = keras_ddim.__version__
author = copyright = "the authors of keras_ddim"

extensions = ["sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode", "myst_nb"]
exclude_patterns = ["build"]
html_theme = "furo"
html_title = f"keras_ddim {release}"
if REPOSITORY:
    html_theme_options = {
        **{"source_repository": REPOSITORY, "source_branch": "main"},
        "source_directory": ".docs/",
    }

autodoc_member_order = "bysource"
autodoc_typehints = "none"  # docstrings say what arguments are
napoleon_use_ivar = True
napoleon_custom_sections = [("Call arguments", "params_style"), "Reference"]
suppress_warnings = ["misc.highlighting_failure"]  # of shell commands in notebooks
nb_execution_mode = "off"  # notebooks keep the outputs of their last run
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3

# Made here and not kept: the modules' pages, and copies of the notebooks and the presets' cards.
INTERNAL = {"checks", "files", "labels", "progress", "training", "cli"}
MADE = HERE / "api", HERE / "notebooks", HERE / "presets"


def make_pages() -> None:
    for folder in MADE:
        shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(ROOT / "notebooks", MADE[1])
    cards = shutil.ignore_patterns("*.py", "*.keras", "__pycache__")
    shutil.copytree(ROOT / "keras_ddim" / "presets", MADE[2], ignore=cards)
    MADE[0].mkdir()
    for info in pkgutil.iter_modules(keras_ddim.__path__):
        if info.name not in INTERNAL and not info.name.startswith("_"):
            modules = [info.name]
            if info.ispkg and info.name == "data":
                modules = ["data.loading", "data.flowers"]
            blocks = "\n\n".join(
                f".. automodule:: keras_ddim.{name}\n   :members:\n   :show-inheritance:"
                for name in modules
            )
            page = f"# {info.name}\n\n```{{eval-rst}}\n{blocks}\n```\n"
            (MADE[0] / f"{info.name}.md").write_text(page, encoding="utf-8")


def to_rst(app: object, what: str, name: str, obj: object, options: object, lines: list) -> None:
    """Docstrings, which are written in Keras's Markdown, as what Sphinx reads."""
    text = "\n".join(lines)
    literals: list[str] = []

    def keep(literal: str) -> str:
        literals.append(literal)
        return f"\0{len(literals) - 1}\0"

    def code_block(match: re.Match) -> str:
        code = "".join(f"   {line}\n" for line in match[3].splitlines())
        return keep(f"{match[1]}.. code-block:: {match[2]}\n\n{code}")

    def literal(match: re.Match) -> str:
        return keep(f"``{' '.join(match[1].split())}``")

    def link(match: re.Match) -> str:
        return keep(f"`{' '.join(match[1].split())} <{match[2]}>`__")

    fence = re.compile(r"^( *)```(\w+)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
    text = fence.sub(code_block, text)
    text = re.sub(r"`([^`\n]+(?:\n[^`\n]+)?)`", literal, text)
    text = re.sub(r"\[([^\]\[]+)\]\((https?:[^)]+)\)", link, text)
    text = re.sub(r"(?<=\w)_(?=\W|$)|\||(?<=, )\*(?=\w)", r"\\\g<0>", text)
    text = re.sub("\0(?=\\w)(?!\\d+\0)", "\0\\\\ ", text)  # as in `Layer`s
    text = re.sub(r"(?m)^( *)(?!- )(\S.*)\n(?= +- )", r"\1\2\n\n", text)  # before lists
    text = re.sub("\0(\\d+)\0", lambda m: literals[int(m[1])], text)
    lines[:] = text.split("\n")


def skip_fields(
    app: object, what: str, name: str, obj: object, skip: bool, options: object
) -> bool:
    """Leaves out what Python says of the fields of named tuples."""
    return skip or "Alias for field number" in (getattr(obj, "__doc__", "") or "")


def to_copies(app: object, name: str, source: list) -> None:
    """Links to notebooks and presets, which pages have as they lie in the repository."""
    source[0] = source[0].replace("](../notebooks/", "](notebooks/")
    source[0] = source[0].replace("](../keras_ddim/presets/", "](presets/")


def setup(app: object) -> None:
    make_pages()
    app.connect("source-read", to_copies)
    app.connect("autodoc-process-docstring", to_rst, priority=100)  # before napoleon
    app.connect("autodoc-skip-member", skip_fields)
