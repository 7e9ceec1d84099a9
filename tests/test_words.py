"""Words that a reader would stumble over, and those that have a standard term instead."""

import json
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parents[1]
FILES = [
    *(ROOT / "keras_ddim").rglob("*.py"),
    *(ROOT / "keras_ddim" / "presets").glob("*.md"),
    *(ROOT / "notebooks").glob("*.ipynb"),
    *(ROOT / ".docs").glob("*.md"),
    *(ROOT / ".github").glob("*.md"),
    ROOT / "README.md",
]
WORDS = {
    r"(network|model) (is|was) told|told (how|which|what|a|the)\b": "conditioned on",
    r"untranslated": "without remapping the timesteps",
    r"\brooms?\b": "space",
    r"\bmend(s|ed|ing)?\b": "correct",
    r"\bunheard\b": "ignored",
    r"by heart": "memorised",
    r"hungriest": "which needs most",
    r"keeps TensorFlow from talking": "silences TensorFlow",
    r"(were|was) never there": "new",
    r"ha(s|ve) (its|their) luck": "by chance",
    r"hears? (a|the) (number|noise level|label)": "is conditioned on",
    r"all too pure": "oversaturated",
    r"does(n't| not) mind": "accepts",
    r"files are yours": "files of your own",
    r"lies in the folder of": "in whose folder the model is",
    r"\b(_go|_follow|line_rule|reversion)\b": "what it is",
}


def texts(path):
    """What is read of a file: of a notebook, the sources of its cells."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".ipynb":
        return ["".join(cell["source"]) for cell in json.loads(text)["cells"]]
    return [text]


@pytest.mark.parametrize("words", WORDS)
def test_words(words):
    pattern = re.compile(words.replace(" ", r"\s+"))
    found = [
        f"{path.relative_to(ROOT)}: {match[0]!r}; say {WORDS[words]!r}"
        for path in FILES
        for text in texts(path)
        for match in pattern.finditer(text)
    ]
    assert found == []
