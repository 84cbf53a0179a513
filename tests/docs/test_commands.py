"""The commands and links of README, CONTRIBUTING and the pages lead to something that exists."""

import re
import shlex
from pathlib import Path

import click
import pytest

from mcp_agents.server.cli.main import main
from tests.docs.pages import DOCS, ROOT, blocks

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.glob("*.md"))]
_INLINE = re.compile(r"`((?:make|mcp-agents) [^`]+)`")


def commands(page: Path) -> list[str]:
    """Every line of a command block, and every command in running text."""
    text = page.read_text("utf-8")
    inline = [
        found
        for line in re.sub(r"```.*?```", "", text, flags=re.DOTALL).splitlines()
        for found in _INLINE.findall(line)
    ]
    lines = [line for tag in ("", "sh", "console") for body in blocks(text, tag) for line in body.splitlines()]
    return [line.strip() for line in (*lines, *inline) if line.strip()]


def why_not(command: str) -> str:
    """What is wrong with a command; nothing when it could be given."""
    words = shlex.split(command, comments=True)
    program, *rest = words
    match program.removeprefix(".venv/bin/"):
        case "make":
            targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
            return "" if rest[0] in targets else f"no target {rest[0]}"
        case "mcp-agents":
            return _unknown_to_click(rest)
        case "lint-imports":
            return ""
    return f"no program {program}"


def _unknown_to_click(words: list[str]) -> str:
    command: click.Command = main
    context = click.Context(main)
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        found = command.get_command(context, words[0])
        if found is None:
            return f"no command {words[0]}"
        command, words = found, words[1:]
    known = {option for parameter in command.params for option in parameter.opts} | {"--help"}
    unknown = [word for word in words if word.startswith("--") and word.partition("=")[0] not in known]
    return f"no option {unknown[0]}" if unknown else ""


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_on_the_page_exists(page: Path) -> None:
    """Make targets are in the Makefile; commands and their options are the program's."""
    assert {command: why for command in commands(page) if (why := why_not(command))} == {}


def test_the_readme_shows_commands_at_all() -> None:
    """The scan sees what a reader sees, and would see a wrong one."""
    found = commands(ROOT / "README.md")
    assert any(command.startswith("make demo") for command in found)
    assert any("tenant create acme" in command for command in found)
    assert why_not("mcp-agents tenant destroy acme") == "no command destroy"
    assert why_not("mcp-agents serve --prot 1") == "no option --prot"
    assert why_not("make tea") == "no target tea"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_to_a_file_leads_somewhere(page: Path) -> None:
    """Relative links only; addresses elsewhere are not asked."""
    links = re.findall(r"\]\(([^)#]+)\)", page.read_text("utf-8"))
    assert [link for link in links if "://" not in link and not (page.parent / link).exists()] == []


@pytest.mark.parametrize("page", sorted(DOCS.glob("*.md")), ids=lambda page: page.name)
def test_no_line_is_longer_than_120_columns(page: Path) -> None:
    """A page can be read as it is."""
    assert [line for line in page.read_text("utf-8").splitlines() if len(line) > 120] == []
