"""A house goes on after a restore where the backup saw it: conversations, runs under way, tokens, the audit trail."""

import os
import sys
from pathlib import Path
from typing import Any

import anyio
import pytest

from mcp_agents.execution.orders import Order
from mcp_agents.kernel import ids
from mcp_agents.kernel.events import START, Started
from mcp_agents.kernel.principal import Principal
from mcp_agents.kernel.scopes import TENANT_SCOPES
from tests.backup.stores import NAMES
from tests.hostile.wire import Wire, browserless
from tests.sessions.recaller import recaller
from tests.support.served import Served, served

pytestmark = pytest.mark.anyio

CALLER = Principal(tenant="acme", subject="caller", scopes=TENANT_SCOPES)
RULES = {"name": "rule-based", "litellm_model": "rule-based"}


async def program(folder: Path, *arguments: str) -> str:
    """One call of the real program on a data folder; it must succeed."""
    command = [sys.executable, "-m", "mcp_agents.server.cli", *arguments]
    environment = {**os.environ, "MCP_AGENTS_SERVER__DATA_DIR": str(folder)}
    with anyio.fail_after(60):
        done = await anyio.run_process(command, env=environment, cwd=folder, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode()


async def export(me: Wire, session: str) -> dict[str, Any]:
    """A session as it is given out, but for the time."""
    found: dict[str, Any] = (await me.call("session_export", {"session_id": session})).value["export"]
    return {key: value for key, value in found.items() if key != "exported_at"}


async def left_behind(house: Served, prompt: str) -> str:
    """A run that a process began and did not end."""
    opened, space = house.house, house.house.tenancy.of(CALLER)
    agent = (await opened.services.agents.get(space, "talker")).value
    execution_id = ids.mint("ex", opened.tenancy.clock)
    requested = Order(agent=agent.id, prompt=prompt).requested(agent, CALLER)
    begun = Started(worker="somebody-else", attempt=1)
    await space.log(execution_id).append(START, [requested, begun])
    return execution_id


async def forgotten(house: Served) -> None:
    """Every stream of the house removed behind its back."""
    for name in NAMES:
        await house.house.link.api(f"STREAM.DELETE.{name}")


async def test_everything_goes_on(tmp_path: Path) -> None:
    """Backed up beside the running server, dropped, restored into the same folder, served again under its address."""
    data, out = tmp_path / "data", tmp_path / "out"
    out.mkdir()
    data.mkdir()
    async with recaller() as model, browserless() as http:
        models = [model.settings, RULES]
        async with served(data, models=models) as house:
            token = await house.token("acme")
            me, address = Wire(http, house.url, token), house.url
            agent = {"name": "talker", "system_prompt": "You talk.", "virtual_model": "recaller"}
            assert (await me.call("agent_create", agent)).good
            session = (await me.call("session_create", {"agent": "talker"})).value["session_id"]
            for prompt in ("The gate is shut. " + "x" * 400_000, "The bridge is wooden."):
                said = await me.call("agent_execute", {"agent": "talker", "prompt": prompt, "session_id": session})
                assert said.value["status"] == "completed"
            before = await export(me, session)
            under_way = await left_behind(house, "The door is green. What is the door?")
            assert "Backed up" in await program(data, "backup", str(out))
            later = {"agent": "talker", "prompt": "The lamp is lit.", "session_id": session}
            assert (await me.call("agent_execute", later)).good
            await forgotten(house)
        assert "Restored" in await program(data, "restore", str(out), "--replace")
        assert "whole" in await program(data, "audit", "verify")
        async with served(data, models=models, public_url=address) as house:
            me = Wire(http, house.url, token)  # the token from before
            assert await export(me, session) == before
            asked = {"agent": "talker", "prompt": "What is the bridge?", "session_id": session}
            assert (await me.call("agent_execute", asked)).value["text"] == "wooden"
            with anyio.fail_after(30):
                ended = (await me.call("execution_wait", {"execution_id": under_way})).value
            assert (ended["status"], ended["text"]) == ("completed", "green")
            for tenant in ("acme", "_platform"):
                assert (await house.house.auth.audit.verify(tenant)).problems == ()
