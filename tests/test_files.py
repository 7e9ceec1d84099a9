import errno
import os
import subprocess
import sys

import pytest

from keras_ddim.files import PREFIX, write_whole


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
    assert names(path.parent) == ["model.keras"]


def test_an_existing_file_is_replaced(tmp_path):
    path = tmp_path / "history.csv"
    path.write_text("old and longer")
    with write_whole(str(path)) as temporary_path:
        temporary_path.write_text("new")
        assert path.read_text() == "old and longer"
    assert path.read_text() == "new"


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_an_exception_midway_leaves_the_old_file_and_no_litter(tmp_path, error):
    path = tmp_path / "model.keras"
    path.write_text("old")
    with pytest.raises(error), write_whole(path) as temporary_path:
        temporary_path.write_text("ne")
        raise error
    assert path.read_text() == "old"
    assert names(tmp_path) == ["model.keras"]


def test_nothing_written_is_an_error_and_keeps_the_old_file(tmp_path):
    path = tmp_path / "picture.png"
    path.write_text("old")
    with pytest.raises(FileNotFoundError, match=r"picture\.png"), write_whole(path):
        pass
    assert path.read_text() == "old"


def test_a_link_stays_a_link(tmp_path):
    target, link = tmp_path / "disk" / "real.txt", tmp_path / "link.txt"
    target.parent.mkdir()
    target.write_text("old")
    link.symlink_to(target)
    with write_whole(link) as temporary_path:
        temporary_path.write_text("new")
    assert link.is_symlink()
    assert target.read_text() == "new"


def test_errors_name_the_file_asked_for(tmp_path):
    file = tmp_path / "file"
    file.write_text("not a folder")
    path = file / "below.txt"
    with pytest.raises(OSError) as caught, write_whole(path) as temporary_path:
        temporary_path.write_text("")
    assert caught.value.filename == str(path)


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "No space left on device"), OSError("No space left on device")]
)
def test_errors_that_name_no_file_are_named(tmp_path, error):
    path = tmp_path / "model.keras"
    with pytest.raises(OSError, match="No space left") as caught, write_whole(path):
        raise error
    assert str(path) in str(caught.value)


def test_what_killed_processes_have_left_is_removed(tmp_path):
    kill = (
        "import os, sys; from keras_ddim.files import write_whole\n"
        "with write_whole(sys.argv[1]) as path: path.write_text('ha'); os._exit(1)"
    )
    mine, living = tmp_path / ".mine.png", tmp_path / f"{PREFIX}{os.getppid()}-0.png"
    mine.touch()
    living.touch()
    subprocess.run([sys.executable, "-c", kill, tmp_path / "model.keras"])
    assert len(names(tmp_path)) == 3
    with write_whole(tmp_path / "other.png") as temporary_path:
        temporary_path.touch()
    assert names(tmp_path) == sorted([mine.name, living.name, "other.png"])


def test_a_folder_is_refused_before_any_work(tmp_path):
    with pytest.raises(IsADirectoryError, match="must be a file"), write_whole(tmp_path):
        pytest.fail("the body must not run")
