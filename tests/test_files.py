import errno
import os
import subprocess
import sys

import pytest

from keras_ddim.files import check_suffix, write_text, write_whole


def names(folder):
    return sorted(os.listdir(folder))


def test_the_file_appears_at_the_end_and_only_then(tmp_path):
    path = tmp_path / "new" / "folder" / "model.keras"
    with write_whole(path) as temporary_path:
        assert temporary_path.suffix == ".keras"
        assert temporary_path.parent == path.parent
        temporary_path.write_text("all of it")
        assert not path.exists()
    assert path.read_text() == "all of it"
    write_text(str(path), "new")
    assert path.read_text() == "new"
    assert names(path.parent) == ["model.keras"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_an_error_leaves_the_old_file_and_no_other(tmp_path, error):
    path = tmp_path / "model.keras"
    path.write_text("old")
    with pytest.raises(error), write_whole(path) as temporary_path:
        temporary_path.write_text("ne")
        raise error
    assert path.read_text() == "old"
    assert names(tmp_path) == ["model.keras"]


def test_a_link_stays_a_link(tmp_path):
    target, link = tmp_path / "disk" / "real.txt", tmp_path / "link.txt"
    write_text(target, "old")
    link.symlink_to(target)
    write_text(link, "new")
    assert link.is_symlink()
    assert target.read_text() == "new"


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space"), OSError("No space")])
def test_errors_name_the_file(tmp_path, error):
    path = tmp_path / "model.keras"
    message = r"model\.keras cannot be written: No space"
    with pytest.raises(OSError, match=message), write_whole(path):
        raise error
    write_text(path, "a file is no folder")
    with pytest.raises(OSError, match=r"below\.txt cannot be written"):
        write_text(path / "below.txt", "")


def test_the_next_write_removes_what_a_killed_process_left(tmp_path):
    kill = (
        "import os, sys; from keras_ddim.files import write_whole\n"
        "with write_whole(sys.argv[1]) as path: path.write_text('ha'); os._exit(1)"
    )
    subprocess.run([sys.executable, "-c", kill, tmp_path / "model.keras"])
    assert names(tmp_path) == [".model.partial.keras"]
    write_text(tmp_path / "model.keras", "whole")
    assert names(tmp_path) == ["model.keras"]


def test_suffixes():
    check_suffix("picture.PNG", [".png"])
    with pytest.raises(ValueError, match=r"ends in \.png or \.gif, got 'picture'"):
        check_suffix("picture", [".png", ".gif"])
