"""Reads pages: their tables, their code blocks, their sections."""

import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"


def text_of(name: str) -> str:
    """A page by its file name under docs/."""
    return (DOCS / name).read_text("utf-8")


def section(text: str, title: str) -> str:
    """What stands under `## title`, up to the next section."""
    found = re.search(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", text, re.DOTALL | re.MULTILINE)
    assert found, f"there is no section {title}"
    return found[1]


def rows(text: str) -> Iterator[tuple[str, ...]]:
    """Every row of every table, heads included, rules left out; code ticks are taken off."""
    for line in text.splitlines():
        if line.startswith("|") and not line.startswith("| ---"):
            yield tuple(cell.strip().strip("`") for cell in line.strip("|").split("|"))


def blocks(text: str, language: str = "") -> list[str]:
    """The fenced code blocks of one language."""
    fences = re.findall(r"^```(\w*)\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    return [body for tag, body in fences if tag == language]
