"""Models that earlier versions saved: they load, generate the same images, and train on."""

import pathlib

import keras
import pytest

from tests import versions

FILES = sorted((pathlib.Path(__file__).parent / "files").glob("*/*.keras"))


def test_there_are_files_of_every_kind():
    assert {path.stem for path in FILES} == set(versions.MODELS)


@pytest.mark.core
@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_goes_on_as_it_did(path):
    _, keras_version = path.parent.name.split("-keras-")
    is_newer = versions.minor_version(keras_version) > versions.minor_version(keras.__version__)
    if path.stem in versions.NEEDS_SAME_OR_NEWER and is_newer:
        pytest.skip("Keras's own layers, as a newer version describes them")
    versions.check(path, tolerance=1e-5, run_eagerly=True)


def test_is_never_overwritten(tmp_path):
    path = tmp_path / "default.npz"
    path.touch()
    with pytest.raises(FileExistsError, match=r"default\.npz"):
        versions.save(path.with_suffix(".keras"))
    assert not path.read_bytes() and not path.with_suffix(".keras").exists()
