"""What the demo does once its server runs, as a client of it, and how it tells the story.

`demo` starts and stops the processes; imports that take a while are here, made while the server starts.
"""

import os
import signal
import subprocess
from typing import Any

import anyio
from rich.markup import escape

from mcp_agents.kernel.errors import Fault
from mcp_agents.server.cli.common import note, out, say
from mcp_agents.server.cli.remote import Credentials, Remote, connected
from mcp_agents.server.compose import open_house
from mcp_agents.server.config import Settings


async def walk(settings: Settings, url: str, workers: "list[subprocess.Popen[str]]", model: str) -> None:
    """The main job: sign in, add tools, make two agents, run them, and lose a worker on the way."""
    say("2", "An OAuth client, knowing only the MCP URL: it is challenged, discovers the authorization server,")
    note("and takes a token by client credentials.")
    credentials = await _client(settings, url)
    async with connected(f"{url}/mcp/all", credentials) as remote:
        say("3", "Adding the packaged stdio MCP tool server, then two agents; the second asks the first over MCP.")
        tools = await remote.call(
            "tool_server_add",
            {"name": "demo", "transport": "stdio", "command": "mcp-agents-demo-tools", "trust_annotations": True},
        )
        note("tools: " + ", ".join(tool["binding"] for tool in tools["tools"]))
        await _agents(remote, url, model)
        say("4", "First run: [bold]assistant[/bold] asks [bold]calculator[/bold], which calls a tool.")
        prompt = 'ask calculator: Please call add with {"a": 2, "b": 40}'
        await _shown(remote, await _executed(remote, "assistant", prompt))
        say("5", "Second run: its worker is killed while a tool is at work.")
        await _shown(remote, await _interrupted(remote, workers))


async def _agents(remote: Remote, url: str, model: str) -> None:
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
            "auth": {"type": "token_exchange"},  # each run calls it as itself
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
    note(f"agents: calculator {calculator['id']}, assistant {assistant['id']}")


async def _executed(remote: Remote, agent: str, prompt: str) -> dict[str, Any]:
    out.print(f"     [bold]{agent}[/bold] ← {escape(prompt)}")
    return await remote.call("agent_execute", {"agent": agent, "prompt": prompt, "wait_seconds": 300}, _tell)


async def _interrupted(remote: Remote, workers: "list[subprocess.Popen[str]]") -> dict[str, Any]:
    prompt = 'Please call count_slowly with {"to": 1}'
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
                    holder = int(event["body"]["worker"].rsplit("-", 2)[1])  # host-pid-random
            if any(event["type"] == "tool_claimed" for event in page["events"]):
                break
            await anyio.sleep(0.05)
    os.kill(holder, signal.SIGKILL)
    note(f"worker {holder} was killed while the tool ran; the other one takes over when the lease of 5 s ends")
    for process in workers:
        if process.pid == holder:
            process.wait()

    return await remote.call("execution_wait", {"execution_id": execution_id, "timeout_seconds": 120}, _tell)


async def _tell(progress: float, total: float | None, message: str | None) -> None:
    out.print(f"     [cyan]…[/cyan] {escape(message or '')}")


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


async def _client(settings: Settings, url: str) -> Credentials:
    async with open_house(settings, url) as house:
        client, secret = await house.auth.clients.register(
            "default",
            "demo",
            grant_types=frozenset({"client_credentials"}),
            roles=frozenset({"admin"}),
            confidential=True,
        )
        return Credentials(client_id=client.id, client_secret=secret or "", issuer=url)
