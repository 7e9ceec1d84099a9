"""How the package is built: imports run downwards, there is one loop, nothing grows too long."""

import ast
import pathlib

import pytest

PACKAGE = pathlib.Path(__file__).parents[1] / "keras_ddim"

# The floors, from the ground up. A module imports from its own floor and those below it; `data`,
# which has all of TensorFlow, stands beside them.
FLOORS = [
    {"checks", "parts", "files", "interrupts", "progress"},
    {"noise_levels"},
    {"schedules", "normalizer", "preconditioning", "networks", "plots", "presets"},
    {"times", "conditioning", "samplers", "encoders", "metrics"},
    {"denoisers"},
    {"guidance", "degradations"},
    {"sampling"},
    {"guard", "planning"},
    {"generator"},
    {"trainer", "editing", "optimal_times"},
    {"model"},
    {"evaluation", "callbacks", "recipes"},
    {"cli", "__main__"},
]
FLOOR_OF = {name: number for number, names in enumerate(FLOORS) for name in names}
FILES = sorted(PACKAGE.rglob("*.py"))


def parse(path):
    return ast.parse(path.read_text(encoding="utf-8"))


def module_of(path):
    """The top-level module of the package that a file belongs to."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path):
    """Top-level modules of the package that a file imports."""
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "keras_ddim":
            parts = node.module.split(".")
            names = parts[1:2] if len(parts) > 1 else [alias.name for alias in node.names]
            yield from (name for name in names if name in FLOOR_OF or name == "data")


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
class TestEachFile:
    def test_imports_run_downwards(self, path):
        module = module_of(path)
        if module == "__init__":
            return
        for imported in imports(path):
            if module == "data":
                assert imported in {"data", *FLOORS[0]}, imported
            elif imported == "data":
                assert module == "cli", "only the command line loads data"
            else:
                assert FLOOR_OF[imported] <= FLOOR_OF[module], imported

    def test_tensorflow_is_imported_where_it_is_needed(self, path):
        modules = set()
        for node in ast.walk(parse(path)):
            if isinstance(node, ast.Import):
                modules |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                modules.add((node.module or "").split(".")[0])
        if module_of(path) not in ("data", "sampling", "guard", "guidance"):
            assert not modules & {"tensorflow", "jax", "torch"}

    def test_nothing_is_too_long(self, path):
        for node in ast.walk(parse(path)):
            if isinstance(node, ast.ClassDef):
                assert node.end_lineno - node.lineno < 350, node.name
            elif isinstance(node, ast.FunctionDef):
                docstring = ast.get_docstring(node, clean=False) or ""
                lines = node.end_lineno - node.body[0].lineno - docstring.count("\n")
                assert lines <= 80, node.name


def test_every_module_has_its_floor():
    modules = {module_of(path) for path in FILES} - {"__init__", "data"}
    assert modules == set(FLOOR_OF)


def test_there_is_one_loop_over_levels():
    """`sampler.step` is called in `Step` and nowhere else, and `Step` is called by `sample`."""
    callers = [
        path.name
        for path in FILES
        for node in ast.walk(parse(path))
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("sampler.step")
    ]
    assert callers == ["sampling.py"]
