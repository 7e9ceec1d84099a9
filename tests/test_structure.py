"""How the package is built: imports run downwards, and there is one loop over noise levels."""

import ast
import pathlib

import pytest

PACKAGE = pathlib.Path(__file__).parents[1] / "keras_ddim"

# From the ground up: a module imports from the floors below its own. `data` stands beside them.
FLOORS = [
    {"checks"},
    {"serialization", "files", "progress", "labels", "noise_levels", "optimizers", "training"},
    {"schedules", "samplers", "normalizer", "networks", "preconditioning", "presets"},
    {"conditioning", "times", "encoders"},
    {"denoisers"},
    {"guidance", "degradations", "sampling"},
    {"generation"},
    {"export"},
    {"model", "metrics", "plots"},
    {"distillation"},
    {"evaluation", "callbacks", "recipes", "optimal_times"},
    {"cli"},
    {"__main__"},
]
FLOOR_OF = {name: number for number, names in enumerate(FLOORS) for name in names}
BELOW_DATA = {"checks", "files", "progress"}
FILES = sorted(PACKAGE.rglob("*.py"))
# `training` and `guidance` differentiate and update, `sampling` compiles, `export` traces.
NEEDS_A_BACKEND = {"data", "sampling", "training", "guidance", "export"}


def module_of(path):
    """The top-level module of the package that a file belongs to."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def nodes(path, *kinds):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return [node for node in ast.walk(tree) if isinstance(node, kinds)]


def imports(path):
    """All that a file imports, as lists of the parts of dotted names."""
    for node in nodes(path, ast.Import, ast.ImportFrom):
        module = getattr(node, "module", None)
        for alias in node.names:
            yield [*(module or "").split("."), *alias.name.split(".")][module is None :]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports(path):
    module = module_of(path)
    for package, *names in imports(path):
        if package in ("tensorflow", "jax", "torch"):
            assert module in NEEDS_A_BACKEND, package
        if package != "keras_ddim" or not names or module in ("__init__", names[0]):
            continue
        if module == "data":
            assert names[0] in BELOW_DATA, names
        elif names[0] == "data":
            assert module == "cli", "only the command line loads data"
        elif names[0] in FLOOR_OF:
            assert FLOOR_OF[names[0]] < FLOOR_OF[module], names


def test_every_module_has_its_floor():
    assert {module_of(path) for path in FILES} - {"__init__", "data"} == set(FLOOR_OF)


def test_there_is_one_loop_over_levels():
    """`sampler.step` is called by `Step` alone, which `sample` calls."""
    calls = [(path.name, call) for path in FILES for call in nodes(path, ast.Call)]
    callers = [name for name, call in calls if ast.unparse(call.func).endswith("sampler.step")]
    assert callers == ["sampling.py"]
