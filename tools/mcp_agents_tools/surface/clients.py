"""Who is at the other end, and how long it waits: the table of clients by which a long call is handed over.

A client that gets no answer within its own limit loses the call, though never the run. So a call that takes
longer is answered just before that limit with the running state. The wire is not known here: `server.mcp`
says who the client is, `following` asks how long it waits. docs/clients.md shows the same table.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

UNKNOWN_SECONDS: Final = 45.0
"""When a client of unknown patience is answered: most clients are made with a limit of 60 seconds."""
LONGEST_SECONDS: Final = 3600.0
"""When any client is answered, however long it would wait."""
_MARGIN: Final = 0.1
_LEAST_MARGIN_SECONDS: Final = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Client:
    """What a client says of itself. `form` and `url` are the kinds of question that it shows to a person.

    `progress`: it asked to be told of progress in this call. `tasks`: it knows the tasks extension.
    """

    name: str = ""
    version: str = ""
    protocol: str = ""
    modern: bool = False
    stdio: bool = False
    form: bool = False
    url: bool = False
    tasks: bool = False
    progress: bool = False


NOBODY: Final = Client()
"""Who calls where no client does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long a client waits for the answer of a call, in seconds.

    `silent`: since it heard of the call last. `total`: at all, whatever it hears; None: as long as it hears.
    A name that ends in `*` stands for all that begin so. `version` is the first part of the versions that this
    holds for; empty: all.
    """

    title: str
    names: tuple[str, ...]
    silent: float
    total: float | None
    transport: Literal["any", "http", "stdio"] = "any"
    version: str = ""

    def fits(self, client: Client, name: str) -> bool:
        """Whether this is the client; `name` is how it is called, made `plain`."""
        return (
            any(name == known or (known.endswith("*") and name.startswith(known[:-1])) for known in self.names)
            and self.transport in ("any", "stdio" if client.stdio else "http")
            and client.version.startswith(self.version)
        )


TABLE: Final = (
    # vfarcic/dot-ai#708, laurigates/claude-plugins#2059, anthropics/claude-code#70441: 5 minutes over HTTP and
    # 30 over stdio, begun anew by every progress; anthropics/claude-code#93143: about 6 minutes whatever is set.
    Patience(title="Claude Code (stdio)", names=("claude-code",), silent=1800, total=None, transport="stdio"),
    Patience(title="Claude Code (HTTP)", names=("claude-code",), silent=300, total=360, transport="http"),
    # anthropics/claude-code#22542 and #63379 (desktop), anthropics/claude-ai-mcp#115 (connectors of claude.ai):
    # both call themselves claude-ai, and progress does not help.
    Patience(title="Claude Desktop, claude.ai", names=("claude-ai", "claude-desktop"), silent=60, total=60),
    # microsoft/vscode#274094: what takes longer than 5 minutes is not shown any more.
    Patience(title="Visual Studio Code", names=("visual-studio-code*",), silent=300, total=300),
    # cursor/cursor#3510: cancelled after exactly 5 minutes.
    Patience(title="Cursor", names=("cursor", "cursor-vscode"), silent=300, total=300),
    # openai/codex, docs/config.md: tool_timeout_sec is 60 unless it is set.
    Patience(title="Codex", names=("codex", "codex-mcp-client"), silent=60, total=60),
    # google-gemini/gemini-cli, docs/tools/mcp-server.md: timeout is 600,000 ms unless it is set.
    Patience(title="Gemini CLI", names=("gemini-cli", "gemini-cli-mcp-client*"), silent=600, total=600),
    # cline/cline#12576: 60 seconds unless the server's entry says otherwise.
    Patience(title="Cline", names=("cline",), silent=60, total=60),
    # modelcontextprotocol/inspector, clients/cli: requestTimeout 0 is the TypeScript SDK's own 60 seconds.
    Patience(title="MCP Inspector", names=("mcp-inspector", "inspector-cli"), silent=60, total=60),
    # mcp/shared/_httpx_utils.py of the SDK: no limit of its own, and 300 seconds for the next byte of a stream.
    Patience(title="Python SDK, by its default name", names=("mcp",), silent=300, total=None),
    # server/cli/remote.py here: 600 seconds for the next byte.
    Patience(title="mcp-agents run", names=("mcp-agents-cli",), silent=600, total=None),
    # An agent of another deployment: its call's own limit is the agent's, and ours is that of its answer.
    Patience(title="Agents elsewhere", names=("mcp-agents",), silent=600, total=600),
)
"""Known clients, the more exact first. modelcontextprotocol/typescript-sdk, shared/protocol.ts: a request has 60
seconds unless the program says otherwise, and progress begins them anew only if it asks for that. The SDK has no name
of its own, so that it counts as unknown."""


class HandOver:
    """When a call is handed over, by client: the table, and what an operator knows better."""

    def __init__(self, settings: Mapping[str, float] | None = None) -> None:
        """`settings`: a client's name, and the seconds after which its calls are answered."""
        self._settings = {plain(name): seconds for name, seconds in (settings or {}).items()}

    def seconds(self, client: Client) -> float:
        """How long this call may be kept waiting for its answer."""
        name = plain(client.name)
        if name in self._settings:
            return self._settings[name]
        known = patience(client)
        if known is None:
            return UNKNOWN_SECONDS
        limit = known.total if client.progress else min(known.silent, known.total or known.silent)
        return LONGEST_SECONDS if limit is None else min(LONGEST_SECONDS, before(limit))


def patience(client: Client) -> Patience | None:
    """What is known of a client; None when nothing is."""
    name = plain(client.name)
    return next((each for each in TABLE if each.fits(client, name)), None)


def before(limit: float) -> float:
    """When to answer a client that gives up at `limit`."""
    return limit - max(_LEAST_MARGIN_SECONDS, limit * _MARGIN)


def plain(name: str) -> str:
    """A client's name as it is compared: case, spaces and what a bridge adds behind it do not count."""
    return re.sub(r"[^a-z0-9]+", "-", name.casefold().partition("(via ")[0]).strip("-")
