"""The table of roles on the page of tenants is the one that the server goes by, and its names are real."""

import re

from mcp_agents_auth.invitations import LIFE

from mcp_agents.kernel.scopes import AREAS, ROLES
from tests.docs.pages import DOCS

PAGE = (DOCS / "tenants.md").read_text("utf-8")
VERBS = ("read", "run", "write", "admin")


def areas(cell: str) -> set[str]:
    """What a cell says: `all`, `none`, or `all but` some."""
    if cell == "none":
        return set()
    assert cell.startswith("all")
    return set(AREAS) - set(re.findall(r"`(\w+)`", cell))


def test_the_table_of_roles_is_the_servers() -> None:
    """Every role, every verb, every area."""
    said = {}
    for line in PAGE.splitlines():
        if found := re.fullmatch(r"\| `(\w+)` \|(.+)\|(.+)\|(.+)\|(.+)\|", line):
            role, *cells = [part.strip() for part in found.groups()]
            said[role] = {f"{area}:{verb}" for verb, cell in zip(VERBS, cells, strict=True) for area in areas(cell)}
    assert said == {role: set(scopes) for role, scopes in ROLES.items()}


def test_the_life_of_an_invitation() -> None:
    """In hours."""
    assert f"within {LIFE.total_seconds() / 3600:.0f} hours" in PAGE
