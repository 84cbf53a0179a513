"""The packaged tool server: a few harmless tools over stdio, so that a first agent has something to use.

Run as `python -m mcp_agents_tools.demo_server`. It keeps nothing, reads no file and opens no connection.
An ordinary MCP server like any other: nothing of the house is imported, and nothing of the house imports it.
"""

import logging
from datetime import UTC, datetime
from typing import Annotated

import anyio
from mcp.server.mcpserver import MCPServer
from mcp_types import ToolAnnotations
from pydantic import BaseModel, Field

_PURE = ToolAnnotations(read_only_hint=True, idempotent_hint=True, destructive_hint=False, open_world_hint=False)


class Words(BaseModel):
    """What a text consists of."""

    words: int
    lines: int
    characters: int


def add(
    a: Annotated[float, Field(description="The first number.")],
    b: Annotated[float, Field(description="The second number.")],
) -> float:
    """Adds two numbers."""
    return a + b


def word_count(text: Annotated[str, Field(description="The text to count.", max_length=1_000_000)]) -> Words:
    """Counts the words, lines and characters of a text."""
    return Words(words=len(text.split()), lines=len(text.splitlines()), characters=len(text))


def now() -> str:
    """Tells the current date and time in UTC, as ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def reverse_text(text: Annotated[str, Field(description="The text to reverse.", max_length=1_000_000)]) -> str:
    """Returns the text backwards."""
    return text[::-1]


async def count_slowly(to: Annotated[int, Field(description="How far to count.", ge=1, le=60)]) -> str:
    """Counts to a number, one a second; for seeing a run that takes a while."""
    counted: list[str] = []
    for number in range(1, to + 1):
        await anyio.sleep(1)
        counted.append(str(number))
    return ", ".join(counted)


def server() -> MCPServer:
    """The demo server with its tools."""
    made = MCPServer("mcp-agents-demo-tools", log_level="WARNING")
    for function in (add, word_count, now, reverse_text, count_slowly):
        made.add_tool(function, annotations=_PURE)
    return made


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING)
    server().run("stdio")
