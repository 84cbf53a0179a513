"""What an agent keeps outlives its runs and its server, seen from outside; and its versions, through the front door."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from mcp_agents.kernel.principal import Principal
from mcp_agents.kernel.scopes import TENANT_SCOPES
from mcp_agents.kernel.tasks import together
from mcp_agents.server.cli.remote import Credentials, Remote, connected
from tests.support.served import served

pytestmark = pytest.mark.anyio

PROGRAM = [sys.executable, "-m", "mcp_agents.server.cli"]


@contextmanager
def killed_at_the_end(folder: Path) -> Iterator[str]:
    """A running server on the folder, ended by SIGKILL; yields its URL."""
    process = subprocess.Popen(
        [*PROGRAM, "serve", "--port", "0"], env=environment(folder), stdout=subprocess.PIPE, text=True, cwd=folder
    )
    assert process.stdout is not None
    try:
        yield process.stdout.readline().removeprefix("mcp-agents listening on ").strip()
    finally:
        process.kill()
        assert process.wait(15) == -signal.SIGKILL
        process.stdout.close()


def environment(folder: Path) -> dict[str, str]:
    return {**os.environ, "MCP_AGENTS_SERVER__DATA_DIR": str(folder)}


def token(folder: Path) -> Credentials:
    """Of the tenant `default`, with every right of it."""
    command = [*PROGRAM, "token", "--tenant", "default", "--json"]
    made = subprocess.run(command, env=environment(folder), capture_output=True, text=True, timeout=60, check=True)
    return Credentials(token=json.loads(made.stdout)["access_token"])


async def ran(remote: Remote, tool: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """A run whose model calls one tool as it is told to; the one call of it."""
    prompt = f"call {tool} with {json.dumps(arguments)}"
    run = await remote.call("agent_execute", {"agent": "keeper", "prompt": prompt, "wait_seconds": 60})
    assert run["status"] == "completed", run
    (call,) = run["tool_calls"]
    assert call["state"] == "done", call
    return dict(call)


async def test_a_run_sees_the_state_that_one_before_a_kill_left(tmp_path: Path) -> None:
    """The server is killed in between, and its store ends with it; later runs read the state and add to it."""
    with killed_at_the_end(tmp_path) as url:
        async with connected(f"{url}/mcp/all", token(tmp_path)) as remote:
            await remote.call("agent_create", {"name": "keeper", "tools": ["builtin/*"]})
            changes = {"changes": {"colour": "teal", "count": 1}}
            await ran(remote, "builtin__state_set", changes)
    with killed_at_the_end(tmp_path) as url:
        async with connected(f"{url}/mcp/all", token(tmp_path)) as remote:
            read = await ran(remote, "builtin__state_get", {})
            assert json.loads(read["result"]) == {"colour": "teal", "count": 1}
            await ran(remote, "builtin__state_set", {"changes": {"count": 2, "colour": None}})
    with killed_at_the_end(tmp_path) as url:
        async with connected(f"{url}/mcp/all", token(tmp_path)) as remote:
            assert json.loads((await ran(remote, "builtin__state_get", {}))["result"]) == {"count": 2}


async def test_runs_at_once_keep_each_others_changes(tmp_path: Path) -> None:
    """On the real store: every run writes a member of its own, and none is lost."""
    async with served(tmp_path, workers=1) as house, house.remote("acme") as remote:
        made = await remote.call("agent_create", {"name": "keeper", "tools": ["builtin/*"]})
        async with together() as tasks:
            for n in range(8):
                tasks.start_soon(ran, remote, "builtin__state_set", {"changes": {f"k{n}": n}})
        space = house.house.tenancy.of(Principal(tenant="acme", subject="s", scopes=TENANT_SCOPES))
        found = await house.house.services.agents.states.get(space, made["id"])
        assert found.value.state == {f"k{n}": n for n in range(8)}
        assert len(found.value.applied) == 8
        listed = await remote.call("tool_list", {"server": "builtin"})
        assert [tool["binding"] for tool in listed["tools"]] == [
            "builtin/ask_user",
            "builtin/forget",
            "builtin/recall",
            "builtin/remember",
            "builtin/search_session",
            "builtin/state_get",
            "builtin/state_set",
        ]


async def test_versions_and_rollback_through_the_front_door(tmp_path: Path) -> None:
    """Who changed what is told; going back makes a version; a page leads to the next."""
    async with served(tmp_path, workers=0) as house, house.remote("acme") as remote:
        made = await remote.call("agent_create", {"name": "helper", "system_prompt": "One."})
        for text in ("Two.", "Three."):
            await remote.call("agent_update", {"agent": "helper", "system_prompt": text})
        back = await remote.call("agent_rollback", {"agent": "helper", "version": 1})
        assert (back["system_prompt"], back["version"], back["id"]) == ("One.", 4, made["id"])
        first = await remote.call("agent_versions", {"agent": "helper", "limit": 3})
        assert [(each["version"], each["summary"]) for each in first["versions"]] == [
            (4, "rolled back to version 1"),
            (3, "changed system_prompt"),
            (2, "changed system_prompt"),
        ]
        assert all(each["updated_by"] for each in first["versions"])
        rest = await remote.call("agent_versions", {"agent": "helper", "cursor": first["next_cursor"]})
        assert [each["version"] for each in rest["versions"]] == [1]
        assert rest["next_cursor"] == 0
