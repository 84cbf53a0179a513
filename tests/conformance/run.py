"""The official conformance suite and the official Inspector against the real program: `make test-conformance`.

`mcp-agents serve` runs as a process of its own on a scratch folder, people, clients and tokens come from its
command line, and every request passes its OAuth: the suite, which cannot send a token, goes through `proxy`.
Run are the scenarios that need no fixtures, for every revision that has them; those that need tools with
prescribed names say nothing about this server and are left out. Exit code 1 when anything is unexpected;
nothing is skipped silently. Not a pytest: what it needs from npm is `node`'s business.
"""

import json
import os
import re
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import anyio
import click
import httpx2
from anyio.abc import Process
from anyio.streams.text import TextReceiveStream

from mcp_agents.server.cli.remote import Credentials, connected
from tests.conformance import node
from tests.conformance.proxy import Proxy, injecting
from tests.support.browser import Browser

SERVER_SCENARIOS: Final = (
    "server-initialize",
    "server-session-lifecycle",
    "server-stateless",
    "ping",
    "tools-list",
    "resources-list",
    "prompts-list",
    "completion-complete",
    "caching",
    "dns-rebinding-protection",
    "http-header-validation",
    "server-sse-multiple-streams",
    "sep-2164-resource-not-found",
    "input-required-result-unsupported-methods",
    "input-required-result-ignore-extra-params",
    "input-required-result-missing-input-response",
    "input-required-result-validate-input",
)
AUTHORIZATION_SCENARIOS: Final = ("authorization-server-metadata-endpoint", "authorization-code-grant")
EXPECTED: Final = node.HERE / "expected-failures.yml"
AGENT: Final = "greeter"

_PROGRAM: Final = Path(sys.executable).with_name("mcp-agents")
_LISTED: Final = re.compile(r"^\s+- (?P<name>\S+) \[(?P<versions>[^\]]+)\]", re.MULTILINE)
_SECONDS: Final = 120.0
_EMAIL: Final = "ada@example.org"


@dataclass
class Row:
    """One line of the table."""

    what: str
    revision: str = ""
    passed: int = 0
    failed: int = 0
    warned: int = 0
    skipped: int = 0
    good: bool = True
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Site:
    """The server under test, and where its command line finds it."""

    url: str
    folder: Path

    def run(self, *arguments: str) -> str:
        """What `mcp-agents …` printed. Raises when it failed."""
        return _ended([str(_PROGRAM), *arguments], self.folder)

    def node(self, script: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
        """What a script of the npm packages did."""
        return subprocess.run(
            node.command(script, *arguments),
            cwd=self.folder,
            env=node.environment(self.folder),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_SECONDS,
        )


@click.command()
@click.option("--path", default="/mcp", show_default=True, help="The MCP path to test.")
@click.option("--only", default="", help="Only scenarios whose name contains this.")
@click.option("--verbose", is_flag=True, help="What the suite printed, for everything that is not good.")
def main(path: str, only: str, verbose: bool) -> None:
    """Run the official conformance suite and Inspector against `mcp-agents serve`."""
    node.install()
    began = time.monotonic()
    rows = anyio.run(_everything, path, only, verbose)
    _print(rows)
    bad = sum(not row.good for row in rows)
    click.echo(f"{time.monotonic() - began:.0f} s, {_versions()}")
    click.echo(f"{len(rows) - bad} passed, {bad} failed")
    sys.exit(1 if bad or not rows else 0)


async def _everything(path: str, only: str, verbose: bool) -> list[Row]:
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="mcp-agents-conformance-") as scratch:
        async with _serving(Path(scratch)) as site:
            token = await anyio.to_thread.run_sync(site.run, "token")
            async with connected(f"{site.url}/mcp/all", Credentials(token=token)) as remote:
                await remote.call("agent_create", {"name": AGENT, "description": "Greets.", "virtual_model": "rule-based"})
            async with injecting(site.url, token) as proxy:
                rows += await _controls(site, proxy, path)
                for name, revision in _applicable(site, "--server", SERVER_SCENARIOS):
                    if only in name:
                        rows.append(await _server_scenario(site, proxy, path, name, revision, verbose))
                rows.append(Row(f"requests with the token added: {proxy.injected} of {proxy.requests}"))
            client = json.loads(
                await anyio.to_thread.run_sync(
                    lambda: site.run("client", "create", "conformance", "--redirect", "http://127.0.0.1/callback", "--json")
                )
            )
            ...
    return rows


if __name__ == "__main__":
    main()
