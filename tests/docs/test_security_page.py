"""The tests that the page of threats names are there."""

import re
from pathlib import Path

import pytest

from tests.docs.pages import DOCS

ROOT = DOCS.parent
NAMED = sorted(set(re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", (DOCS / "security.md").read_text("utf-8"))))


def test_the_page_names_many() -> None:
    """And none twice in vain."""
    assert len(NAMED) > 40


@pytest.mark.parametrize(("file", "name"), NAMED, ids=lambda part: Path(part).stem)
def test_a_test_that_is_named_is_there(file: str, name: str) -> None:
    """Under this name, in this file."""
    text = (ROOT / file).read_text("utf-8")
    assert not name or re.search(rf"^(async )?def {name}\(", text, re.MULTILINE)
