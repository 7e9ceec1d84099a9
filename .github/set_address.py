"""Sets the address of the repository in all files that have it, or takes it out of them.

Notebooks and the README then install from it, and it becomes the project's URL. An address on
GitHub also gives the notebooks their buttons for Colab and the README its badges. The README's
links become absolute, as the page of a package index needs them.

```bash
python .github/set_address.py https://github.com/OWNER/NAME
python .github/set_address.py ""
```
"""

import json
import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).parents[1]
COLAB = "https://colab.research.google.com"
BADGE = re.compile(r"\[!\[Open in Colab\].*\n\n")
URLS = re.compile(r"\[project\.urls\]\n(?:.+\n)+\n")
BADGES = re.compile(r"(?<=<!-- badges -->).*?(?=<!-- end of badges -->)", re.DOTALL)
SOURCE = re.compile(r'(?<=pip install "git\+)[^"]*')
ABSOLUTE = re.compile(r'(\]\(|src=")https?://[^)"]*?/(?:blob|raw)/main/')
RELATIVE = re.compile(r'(\]\(|src=")(?!https?:|#)(?=([^)"]+))')


def set_address(root: pathlib.Path, address: str) -> None:
    address = address.removesuffix("/").removesuffix(".git")
    on_github = address.removeprefix("https://github.com/") if "//github.com/" in address else ""
    for path in sorted((root / "notebooks").glob("*.ipynb")):
        badge = ""
        if on_github:
            link = f"{COLAB}/github/{on_github}/blob/main/notebooks/{path.name}"
            badge = f"[![Open in Colab]({COLAB}/assets/colab-badge.svg)]({link})\n\n"
        notebook = json.loads(path.read_text(encoding="utf-8"))
        title, install = notebook["cells"][:2]
        heading, rest = BADGE.sub("", "".join(title["source"])).split("\n\n", 1)
        title["source"] = f"{heading}\n\n{badge}{rest}".splitlines(keepends=True)
        source = re.sub(
            r'^REPOSITORY = ".*?"',
            f'REPOSITORY = "{address}"',
            "".join(install["source"]),
            flags=re.M,
        )
        install["source"] = source.splitlines(keepends=True)
        text = json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"
        path.write_text(text, encoding="utf-8")

    urls = f'[project.urls]\nRepository = "{address}"\n\n' if address else ""
    path = root / "pyproject.toml"
    text = URLS.sub("", path.read_text(encoding="utf-8"))
    path.write_text(text.replace("[project.scripts]", f"{urls}[project.scripts]"), encoding="utf-8")

    badges = ""
    if on_github:
        tests = f"{address}/actions/workflows/tests.yml"
        badges = f"\n[![Tests]({tests}/badge.svg)]({tests})\n"
    path = root / "README.md"
    text = ABSOLUTE.sub(r"\1", BADGES.sub("", path.read_text(encoding="utf-8")))
    if on_github:
        kinds = {True: "raw", False: "blob"}
        text = RELATIVE.sub(
            lambda match: f"{match[1]}{address}/{kinds[match[2].endswith('.png')]}/main/", text
        )
    text = SOURCE.sub(address or "ADDRESS", BADGES.sub(badges, text))
    path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    set_address(ROOT, *sys.argv[1:])
