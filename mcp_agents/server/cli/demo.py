"""`demo`: the main job once, for real, on a scratch folder, told so that a newcomer can follow.

A server, two worker processes, embedded NATS, an OAuth client, a stdio tool server, two agents of which the
second asks the first over MCP, and a worker killed in the middle of a run.
"""

import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from importlib import import_module
from pathlib import Path
from typing import Final

import anyio.to_thread
import click

from mcp_agents.kernel.errors import Fault, Invalid
from mcp_agents.server.cli.common import note, runs_async, say
from mcp_agents.server.config import environment, load

_WALK: Final = "mcp_agents.server.cli.demo_walk"
_PROVIDERS: Final = {
    "openai": ("openai/gpt-5-mini", "OPENAI_API_KEY"),
    "anthropic": ("anthropic/claude-haiku-4-5", "ANTHROPIC_API_KEY"),
    "gemini": ("gemini/gemini-2.5-flash", "GEMINI_API_KEY"),
    "mistral": ("mistral/mistral-small-latest", "MISTRAL_API_KEY"),
    "groq": ("groq/llama-3.3-70b-versatile", "GROQ_API_KEY"),
}


@click.command(epilog="Example: mcp-agents demo --provider openai")
@click.option("--provider", type=click.Choice(list(_PROVIDERS)), default=None, help="A provider whose key is set.")
@click.option("--keep", is_flag=True, help="Keep the scratch folder and say where it is.")
@runs_async
async def demo(provider: str | None, keep: bool) -> None:
    """Run the main job once, from nothing, and show what happened."""
    began = time.monotonic()
    with _scratch(keep=keep) as folder:
        config = _configured(folder, provider)
        say("1", "Starting a server, two workers and embedded NATS on a scratch folder.")
        async with _processes(folder, config) as (url, workers):
            kind = _PROVIDERS[provider][0] if provider else "the built-in rule-based model: fixed rules, no LLM, no key"
            note(f"MCP endpoint {url}/mcp, model: {kind}")
            await import_module(_WALK).walk(load(config), url, workers, "demo" if provider else "rule-based")
    say("✓", f"Done in {time.monotonic() - began:.1f} s. To keep a server: [bold]mcp-agents serve[/bold]")


@contextmanager
def _scratch(*, keep: bool) -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="mcp-agents-demo-"))
    try:
        yield folder
    finally:
        if keep:
            note(f"kept: {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)


def _configured(folder: Path, provider: str | None) -> Path:
    lines = ["[server]", f'data_dir = "{folder / "data"}"', "port = 0", "workers = 0"]
    if provider:
        model, variable = _PROVIDERS[provider]
        if not environment().get(variable):
            raise Invalid(
                "PROVIDER_KEY_MISSING", f"{variable} is not set.", f"Set it, or leave --provider {provider} out."
            )
        lines += ["[[models]]", 'name = "demo"', f'litellm_model = "{model}"', f'api_key_env = "{variable}"']
    config = folder / "mcp-agents.toml"
    config.write_text("\n".join(lines) + "\n", "utf-8")
    return config


@asynccontextmanager
async def _processes(folder: Path, config: Path) -> "AsyncIterator[tuple[str, list[subprocess.Popen[str]]]]":
    """A server and two workers; the workers attach to the server's NATS."""
    processes: list[subprocess.Popen[str]] = []
    with (folder / "processes.log").open("w", encoding="utf-8") as log:

        def spawn(command: str) -> "subprocess.Popen[str]":
            process = subprocess.Popen(  # noqa: S603  # our own program
                [sys.executable, "-m", "mcp_agents.server.cli", command, "--config", str(config)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
            processes.append(process)
            return process

        try:
            server = spawn("serve")
            import_module(_WALK)  # takes as long as the server does to start, so both at once
            first = await anyio.to_thread.run_sync(_first_line, server)
            url = first.removeprefix("mcp-agents listening on ").strip()
            yield url, [spawn("worker"), spawn("worker")]  # they get ready while the client signs in
        finally:
            for process in reversed(processes):
                process.terminate()
            for process in reversed(processes):
                process.wait(10)
                if process.stdout:
                    process.stdout.close()


def _first_line(process: "subprocess.Popen[str]") -> str:
    line = process.stdout.readline() if process.stdout else ""
    if not line:
        raise Fault(
            "DEMO_START_FAILED", "A process of the demo did not start.", "Run with --keep and read processes.log."
        )
    return line
