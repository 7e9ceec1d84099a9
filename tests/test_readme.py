"""The README says what is true: its links lead somewhere, and its code runs."""

import pathlib
import re
import shlex

import pytest

import keras_ddim
from keras_ddim import cli, plots
from keras_ddim.data import flowers

ROOT = pathlib.Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [ROOT / "README.md", *(ROOT / ".docs").glob("*.md"), *(ROOT / ".github").glob("*.md")]


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_links_to_files(page):
    text = page.read_text(encoding="utf-8")
    targets = [t for t in re.findall(r"\]\(([^)#]+)\)", text) if not t.startswith("http")]
    # A page of the API reference is made from its module.
    modules = [f"api/{path.stem}.md" for path in (ROOT / "keras_ddim").iterdir()]
    missing = {target for target in targets if not (page.parent / target).exists()}
    assert missing - {*modules} == set()


def bash_commands(text=README):
    """Every command of the bash blocks, continued lines joined and `&&` parted."""
    blocks = re.findall(r"```bash\n(.*?)```", text, re.DOTALL)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    return [command.strip() for line in lines for command in line.split("&&") if command.strip()]


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_programs_have_these_options(page):
    """Whatever a command runs with Python is there, and knows its options."""
    commands = bash_commands(page.read_text(encoding="utf-8"))
    for words in [shlex.split(line)[1:] for line in commands if line.startswith("python ")]:
        if words[:2] == ["-m", "pytest"]:
            continue
        name = words[1].replace(".", "/") + ".py" if words[0] == "-m" else words[0]
        text = (ROOT / name).read_text(encoding="utf-8")
        options = [word for word in words if word.startswith("--")]
        assert [option for option in options if f'"{option}"' not in text] == [], name


def test_options_exist(capsys):
    """Every option of a command, in README, documentation and cards, is one of that command."""
    cards = (ROOT / "keras_ddim" / "presets").glob("*.md")
    texts = [path.read_text(encoding="utf-8") for path in (*PAGES, *cards)]
    commands = re.findall(rf"keras-ddim ({'|'.join(cli.COMMANDS)})([^`\n]*)", "\n".join(texts))
    assert len(commands) > 3
    for command, rest in commands:
        cli.main([command, "--help"])
        text = capsys.readouterr().out
        for option in re.findall(r"--[a-z-]+", rest):
            assert option in text, f"keras-ddim {command} has no {option}"


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """A folder of pictures by class, in the current folder."""
    monkeypatch.chdir(tmp_path)
    drawn, labels = keras_ddim.draw_flowers(80, (20, 30), return_labels=True)
    for index, (image, label) in enumerate(zip(drawn, labels)):
        plots.save_image(image, f"photos/{flowers.FAMILIES[label]}/{index}.png")


@pytest.mark.slow
@pytest.mark.parametrize("page", ["README.md", ".docs/guides.md"])
def test_python_runs(page, photos):
    """All blocks in order, with small images so that it takes seconds instead of minutes."""
    small = {
        **{"image_size=32": "image_size=8, num_images=80", "image_size=64": "image_size=8"},
        **{"(32, 32, 3)": "(8, 8, 3)", "(64, 64, 3)": "(8, 8, 3)"},
        **{"epochs = 2": "epochs = 1", "epochs=50": "epochs=1"},
        "epochs=6, steps_per_epoch=1000": "steps_per_epoch=1",
        "(model, 4": "(model, 4, num_images=2, teacher_times=8",
    }
    text = (ROOT / page).read_text(encoding="utf-8")
    namespace = {}
    for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        for large, replacement in small.items():
            block = block.replace(large, replacement)
        exec(compile(block, page, "exec"), namespace)
    assert {"model", "images"} < {*namespace}


@pytest.mark.slow
def test_commands_run(tmp_path, photos):
    """All that train, generate and evaluate, in order, with a folder of pictures; in tiny."""
    small = {
        **{"fashion_mnist": "flowers", "--epochs": "1", "--steps-per-epoch": "2"},
        **{"--image-size": "8x16", "--widths": "8,8", "--num-images": "8"},
    }
    commands = [shlex.split(line)[1:] for line in bash_commands() if line.startswith("keras-ddim")]
    assert {words[0] for words in commands} == {"train", "generate", "evaluate"}
    for words in commands:
        for i in range(1, len(words)):
            if not words[i].startswith("--"):
                words[i] = small.get(words[i - 1], small.get(words[i], words[i]))
        if words[0] == "train":
            added = {**small, "--num-images": "40", "--times": "1"}
            of_the_model = [] if "--from-preset" in words else ["--image-size", "--widths"]
            for option in (*of_the_model, "--num-images", "--times", "--epochs"):
                words += [] if option in words else [option, added[option]]
        assert cli.main(words) == 0, words
    assert (tmp_path / "photos.png").exists()
    assert (tmp_path / "photos-model" / "samples.png").exists()
