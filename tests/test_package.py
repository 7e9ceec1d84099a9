import subprocess
import sys

import keras_ddim


def test_import_is_light_and_silent():
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
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stdout == ""
    # What TensorFlow itself logs is not ours; anything else would be.
    assert "keras_ddim" not in result.stderr and "Warning" not in result.stderr


def test_public_names():
    for name in keras_ddim.__all__:
        assert getattr(keras_ddim, name).__doc__, f"{name} has no docstring"
