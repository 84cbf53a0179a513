"""The table of clients: who is known by what, when each is answered, and that the page shows the same."""

from dataclasses import replace

import pytest
from mcp_agents_tools.surface.clients import (
    LONGEST_SECONDS,
    TABLE,
    UNKNOWN_SECONDS,
    Client,
    HandOver,
    Patience,
    before,
    plain,
)

from tests.docs.pages import rows, section, text_of


def row(known: Patience) -> tuple[str, ...]:
    """A row as the page has it."""
    client = Client(name=known.names[0].rstrip("*"), stdio=known.transport == "stdio", version=known.version)
    answered = [HandOver().seconds(each) for each in (client, replace(client, progress=True))]
    names = ", ".join(f"`{name}`" for name in known.names).strip("`")
    total = "none" if known.total is None else f"{known.total:g}"
    return known.title, names, f"{known.silent:g}", total, *(f"{seconds:g}" for seconds in answered)


def test_the_page_shows_the_table() -> None:
    """Every row, in the same order, with the seconds at which it is answered."""
    shown = list(rows(section(text_of("clients.md"), "How long each client waits")))[1:]
    assert shown[:-1] == [row(known) for known in TABLE]
    unknown = f"{UNKNOWN_SECONDS:g}"
    assert shown[-1][-2:] == (unknown, unknown)


@pytest.mark.parametrize(
    ("client", "seconds"),
    [
        (Client(name="claude-code", stdio=True), 1620),
        (Client(name="claude-code", stdio=True, progress=True), LONGEST_SECONDS),
        (Client(name="claude-code"), 270),
        (Client(name="claude-code", progress=True), 324),
        (Client(name="claude-ai"), 54),
        (Client(name="claude-ai (via mcp-remote 0.1.37)", progress=True), 54),
        (Client(name="Visual Studio Code - Insiders"), 270),
        (Client(name="gemini-cli-mcp-client-house"), 540),
        (Client(name="mcp", progress=True), LONGEST_SECONDS),
        (Client(name="mcp-something-else", progress=True), UNKNOWN_SECONDS),
        (Client(), UNKNOWN_SECONDS),
    ],
)
def test_a_client_is_answered_before_it_gives_up(client: Client, seconds: float) -> None:
    """By the limit that counts for this call: the silent one, or with progress the total one."""
    assert HandOver().seconds(client) == seconds


def test_no_client_is_answered_too_late() -> None:
    """For every row there is time left to send the answer."""
    for known in TABLE:
        for limit in (known.silent, known.total):
            assert limit is None or limit - before(limit) >= 5


def test_an_operator_knows_better() -> None:
    """A setting wins over the table, however the name is written."""
    hand_over = HandOver({"Claude_Code": 100, "our own": 20})
    assert hand_over.seconds(Client(name="claude-code", progress=True)) == 100
    assert hand_over.seconds(Client(name="Our Own")) == 20
    assert hand_over.seconds(Client(name="claude-ai")) == 54


def test_names_are_compared_plainly() -> None:
    """Case, spaces and bridges do not count."""
    assert plain("Visual Studio Code") == plain("visual_studio-code") == "visual-studio-code"
    assert plain("claude-ai (via mcp-remote 0.1.37)") == "claude-ai"
