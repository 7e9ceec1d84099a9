"""The README says what is true: its links lead somewhere, and its code runs."""

import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_links_to_files():
    targets = [t for t in re.findall(r"\]\(([^)#]+)\)", README) if not t.startswith("http")]
    assert targets
    assert [target for target in targets if not (ROOT / target).exists()] == []


def test_options_exist(capsys):
    """Every option that a command in the README uses is one of that command."""
    from keras_ddim import cli

    commands = re.findall(r"keras-ddim (train|generate)([^`\n]*)", README)
    assert len(commands) > 3
    for command, rest in commands:
        cli.main([command, "--help"])
        text = capsys.readouterr().out
        for option in re.findall(r"--[a-z-]+", rest):
            assert option in text, f"keras-ddim {command} has no {option}"


@pytest.mark.slow
def test_python_runs(tmp_path, monkeypatch):
    """All blocks in order, with small images so that it takes seconds instead of minutes."""
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(blocks) >= 2
    namespace = {}
    for block in blocks:
        small = block.replace("image_size=32", "image_size=8, num_images=80")
        small = small.replace("(32, 32, 3)", "(8, 8, 3)").replace("epochs=10", "epochs=1")
        exec(compile(small, "README.md", "exec"), namespace)
    assert (tmp_path / "images.png").exists() and (tmp_path / "flowers.keras").exists()
