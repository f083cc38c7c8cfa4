"""The project's documents, for the tests: their names, commands, samples and links."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
GUIDES = ("prototxt/migrate/README.md", "prototxt/migrate/OWN_IMAGES.md")
# The order in which one reads and runs them; the guides have a test of their own.
READING_ORDER = (
    "README.md",
    "prototxt/README.md",
    "prototxt/distillation/README.md",
    "prototxt/hinton/README.md",
    "prototxt/cifar10/README.md",
    "prototxt/compress/README.md",
    "tools/README.md",
    "docker/README.md",
    "caffe_kd/README.md",
    "caffe_kd/layers/README.md",
    "caffe_kd/proto/README.md",
    "caffe_kd/pycaffe/README.md",
    "tests/README.md",
    ".github/CONTRIBUTING.md",
)
IN_TWO_LANGUAGES = ("README.md", *GUIDES)
LEFT_OUT = {"CHANGELOG.md"}


def chinese(name: str) -> str:
    """Return the name of a document's Chinese version."""
    return name.removesuffix(".md") + ".zh-CN.md"


def documents() -> list[str]:
    """Return the documents of the project, with the Chinese ones."""
    folders = ("", ".github", "caffe_kd", "docker", "prototxt", "tests", "tools")
    found = [p for f in folders for p in (ROOT / f).glob("**/*.md" if f else "*.md")]
    return sorted(p.relative_to(ROOT).as_posix() for p in found if p.name not in LEFT_OUT)


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def blocks(name: str, language: str) -> list[str]:
    """Return a document's fenced blocks of a language."""
    return re.findall(rf"```{language}\n(.*?)```", read(name), re.DOTALL)


def commands(name: str) -> list[str]:
    """Return the lines of a document's shell blocks."""
    return [line for b in blocks(name, "sh") for line in b.splitlines() if line.strip()]


def links(name: str) -> list[str]:
    """Return the targets of a document's links and images that lie in the project."""
    prose = re.sub(r"```.*?```", "", read(name), flags=re.DOTALL)
    targets = re.findall(r"\]\(([^)\s]+)\)", prose)
    return [target for target in targets if not target.startswith("http")]


def anchors(path: Path) -> set[str]:
    """Return the anchors that GitHub makes of a document's headings."""
    prose = re.sub(r"```.*?```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    titles = re.findall(r"^#+ (.*)$", prose, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", t.lower()).replace(" ", "-") for t in titles}
