"""`demo`: the main job once, for real, on a scratch folder, told so that a newcomer can follow.

A server, two worker processes, embedded NATS, an OAuth client, a stdio tool server, two agents of which the
second asks the first over MCP, and a worker killed in the middle of a run.
"""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Final

import anyio
import anyio.to_thread
import click
from rich.markup import escape

from mcp_agents.kernel.errors import Fault, Invalid
from mcp_agents.server.cli.common import out, runs_async
from mcp_agents.server.cli.remote import Credentials, Remote, connected
from mcp_agents.server.compose import open_house
from mcp_agents.server.config import Settings, environment

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
        _say("1", "Starting a server, two workers and embedded NATS on a scratch folder.")
        async with _processes(folder, config) as (url, workers):
            await _walk(folder, url, workers, provider)
    _say("✓", f"Done in {time.monotonic() - began:.1f} s. To keep a server: [bold]mcp-agents serve[/bold]")


async def _walk(folder: Path, url: str, workers: "list[subprocess.Popen[str]]", provider: str | None) -> None:
    model = "demo" if provider else "rule-based"
    kind = f"{_PROVIDERS[provider][0]}" if provider else "the built-in rule-based model: fixed rules, no LLM, no key"
    _note(f"MCP endpoint {url}/mcp, model: {kind}")
    credentials = await _client(folder, url)
    _say("2", "An OAuth client, knowing only the MCP URL: it is challenged, discovers the authorization server,")
    _note("and takes a token by client credentials.")
    async with connected(f"{url}/mcp/all", credentials) as remote:
        _say("3", "Adding the packaged stdio MCP tool server, then two agents; the second asks the first over MCP.")
        tools = await remote.call(
            "tool_server_add",
            {"name": "demo", "transport": "stdio", "command": "mcp-agents-demo-tools", "trust_annotations": True},
        )
        _note("tools: " + ", ".join(tool["binding"] for tool in tools["tools"]))
        await _agents(remote, url, credentials, model)
        _say("4", "First run: [bold]assistant[/bold] asks [bold]calculator[/bold], which calls a tool.")
        prompt = 'ask calculator: Please call add with {"a": 2, "b": 40}'
        await _shown(remote, await _executed(remote, "assistant", prompt))
        _say("5", "Second run: its worker is killed while a tool is at work.")
        await _shown(remote, await _interrupted(remote, workers))


async def _agents(remote: Remote, url: str, credentials: Credentials, model: str) -> None:
    calculator = await remote.call(
        "agent_create",
        {
            "name": "calculator",
            "description": "Calculates with tools.",
            "system_prompt": "You calculate with your tools and report the result in one sentence.",
            "virtual_model": model,
            "tools": ["demo/*"],
        },
    )
    await remote.call(
        "tool_server_add",
        {
            "name": "colleagues",
            "transport": "http",
            "url": f"{url}/mcp/agent/calculator",
            "auth": {
                "type": "client_credentials",
                "client_id": credentials.client_id,
                "client_secret": credentials.client_secret,
                "issuer": credentials.issuer,
            },
        },
    )
    assistant = await remote.call(
        "agent_create",
        {
            "name": "assistant",
            "description": "Answers with the help of the calculator.",
            "system_prompt": "You pass calculations on to the calculator and tell the user its answer.",
            "virtual_model": model,
            "tools": ["colleagues/calculator"],
        },
    )
    _note(f"agents: calculator {calculator['id']}, assistant {assistant['id']}")


async def _executed(remote: Remote, agent: str, prompt: str) -> dict[str, Any]:
    async def tell(progress: float, total: float | None, message: str | None) -> None:
        out.print(f"     [cyan]…[/cyan] {escape(message or '')}")

    out.print(f"     [bold]{agent}[/bold] ← {escape(prompt)}")
    return await remote.call("agent_execute", {"agent": agent, "prompt": prompt, "wait_seconds": 300}, tell)


async def _interrupted(remote: Remote, workers: "list[subprocess.Popen[str]]") -> dict[str, Any]:
    prompt = 'Please call count_slowly with {"to": 2}'
    out.print(f"     [bold]calculator[/bold] ← {escape(prompt)}")
    run = await remote.call("agent_submit", {"agent": "calculator", "prompt": prompt})
    execution_id = run["execution_id"]
    holder, cursor = 0, 0
    with anyio.fail_after(60):
        while True:
            page = await remote.call("execution_events", {"execution_id": execution_id, "cursor": cursor})
            cursor = page["cursor"]
            for event in page["events"]:
                if event["type"] == "started":
                    holder = int(event["body"]["worker"].split(":")[-2])
            if any(event["type"] == "tool_claimed" for event in page["events"]):
                break
            await anyio.sleep(0.05)
    os.kill(holder, signal.SIGKILL)
    _note(f"worker {holder} was killed while the tool ran; the other one takes over when the lease of 5 s ends")
    for process in workers:
        if process.pid == holder:
            process.wait()

    async def tell(progress: float, total: float | None, message: str | None) -> None:
        out.print(f"     [cyan]…[/cyan] {escape(message or '')}")

    return await remote.call("execution_wait", {"execution_id": execution_id, "timeout_seconds": 120}, tell)


async def _shown(remote: Remote, result: dict[str, Any]) -> None:
    if result["status"] != "completed":
        raise Fault("DEMO_FAILED", f"The run ended {result['status']}: {result.get('error')}")
    out.print(f"     [bold green]answer[/bold green]      {escape(result['text'])}")
    for call in result["tool_calls"]:
        answer = " ".join(str(call["result"]).split())[:90]
        out.print(f"     tool call   {call['tool']} {call['state']} in {call['tool_ms']} ms: {escape(answer)}")
    page = await remote.call("execution_events", {"execution_id": result["execution_id"]})
    out.print("     log         " + " → ".join(event["type"] for event in page["events"]))
    usage, timings = result["usage"], result["timings"]
    out.print(f"     trace       {result['trace']}   attempts {result['attempts']}")
    out.print(
        f"     cost        {result['cost_micro_usd']} micro-USD, {usage['input_tokens']} tokens in, "
        f"{usage['output_tokens']} out, {timings['total_ms']} ms in all"
    )


async def _client(folder: Path, url: str) -> Credentials:
    settings = _settings(folder)
    async with open_house(settings, url) as house:
        client, secret = await house.auth.clients.register(
            "default",
            "demo",
            grant_types=frozenset({"client_credentials"}),
            roles=frozenset({"admin"}),
            confidential=True,
        )
        return Credentials(client_id=client.id, client_secret=secret or "", issuer=url)


@contextmanager
def _scratch(*, keep: bool) -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="mcp-agents-demo-"))
    try:
        yield folder
    finally:
        if keep:
            _note(f"kept: {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)


def _settings(folder: Path) -> Settings:
    settings = Settings.model_validate({})
    server = settings.server.model_copy(update={"data_dir": str(folder / "data"), "port": 0, "workers": 0})
    return settings.model_copy(update={"server": server})


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


def _say(step: str, text: str) -> None:
    out.print(f"\n [bold]{step}[/bold]  {text}")


def _note(text: str) -> None:
    out.print(f"     [dim]{escape(text)}[/dim]")
