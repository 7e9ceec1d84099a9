import importlib.resources
import os
import pathlib
import subprocess
import sys

import pytest

import keras_ddim

ROOT = pathlib.Path(__file__).parent.parent


@pytest.mark.skipif(os.environ.get("CI") != "true", reason="elsewhere the checkout may be tested")
def test_what_is_tested_is_what_was_installed():
    """The checkout, which `python -m pytest` finds first, has files that the wheel may lack."""
    assert pathlib.Path(keras_ddim.__file__).parent != ROOT / "keras_ddim"


def test_is_typed():
    assert importlib.resources.files("keras_ddim").joinpath("py.typed").is_file()


def test_import_is_light_and_silent(tmp_path):
    code = (
        "import sys, keras\n"
        "heavy = ('matplotlib', 'tensorflow_datasets', 'PIL', 'scipy')\n"
        # Keras imports some of them where they are installed; what counts is what we add.
        "for name in list(sys.modules):\n"
        "    if name.split('.')[0] in heavy: del sys.modules[name]\n"
        "import keras_ddim\n"
        "imported = [name for name in heavy if name in sys.modules]\n"
        "sys.exit(f'imported {imported}' if imported else 0)\n"
    )
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stdout == ""
    # What TensorFlow itself logs is not ours; anything else would be.
    assert "keras_ddim" not in result.stderr and "Warning" not in result.stderr


def test_public_names():
    names = [name for name in vars(keras_ddim) if not name.startswith("_")]
    assert {"DiffusionModel", "recipe", "schedules", "UniPC"} < {*names}
    assert [name for name in names if not getattr(keras_ddim, name).__doc__] == []
