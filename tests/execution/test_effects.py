"""What becomes of a call whose end was lost while its worker lived: the agent's policy decides."""

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest

from mcp_agents.kernel.errors import AgentsError
from tests.execution.scripted import Scripted, scripted
from tests.support.provider import Call, Step

pytestmark = pytest.mark.anyio

ROOT = Path(__file__).parents[2]


@asynccontextmanager
async def breaking(folder: Path, *steps: Step, policy: dict[str, str]) -> AsyncIterator[Scripted]:
    """A house with a tool that takes effect and dies before it answers, and one that tells what happened."""
    async with scripted(folder, *steps) as house:
        await house.remote.call(
            "tool_server_add",
            {
                "name": "fragile",
                "transport": "stdio",
                "command": sys.executable,
                "args": ["-m", "tests.support.fragile_tools", str(folder / "effects")],
                "env": {"PYTHONPATH": str(ROOT)},
            },
        )
        agent = {"name": "worker", "virtual_model": "scripted", "tools": ["fragile/*"], "policy": policy}
        await house.remote.call("agent_create", agent)
        yield house


def once(answer: str) -> list[Step]:
    """The model calls the fragile tool, then answers."""
    call = Call(name="fragile__break", arguments='{"note": "x"}')
    return [Step(when="<q>", turn=0, calls=[call]), Step(when="<q>", turn=1, text=answer)]


async def test_the_model_is_told_that_nobody_knows_and_may_not_call_again(tmp_path: Path) -> None:
    """The default: TOOL_UNKNOWN, and the same call is refused for the rest of the run."""
    call = Call(name="fragile__break", arguments='{"note": "x"}')
    steps = [
        Step(when="<q>", turn=0, calls=[call]),
        Step(when="<q>", turn=1, calls=[call]),
        Step(when="<q>", turn=2, text="I cannot tell."),
    ]
    async with breaking(tmp_path, *steps, policy={}) as house:
        result = await house.run("worker", "<q>")
    assert [call["state"] for call in result["tool_calls"]] == ["unknown", "failed"]
    assert all("TOOL_UNKNOWN" in call["result"] for call in result["tool_calls"])
    assert len((tmp_path / "effects").read_text().split()) == 1


@pytest.mark.parametrize(("happened", "state"), [(True, "done"), (False, "failed")])
async def test_a_person_tells_and_the_run_goes_on(tmp_path: Path, happened: bool, state: str) -> None:
    """The run waits without a worker until somebody says; a second word about the same call is refused."""
    async with breaking(tmp_path, *once("Thanks."), policy={"unknown_effects": "ask_person"}) as house:
        waiting = await house.remote.call("agent_execute", {"agent": "worker", "prompt": "<q>", "wait_seconds": 0.1})
        waiting = await _until_waiting(house, waiting["execution_id"])
        (asked,) = waiting["questions"]
        assert (asked["kind"], asked["tool"], [asked["id"]]) == ("effect", "fragile__break", waiting["waiting_for"])
        content = {"happened": happened, "result": "Order 17."}
        told = {"execution_id": waiting["execution_id"], "question_id": asked["id"], "content": content}
        await house.remote.call("execution_resume", told)
        result = await house.remote.call("execution_wait", {"execution_id": waiting["execution_id"]})
        with pytest.raises(AgentsError, match="QUESTION_ANSWERED"):
            await house.remote.call("execution_resume", told)
    assert result["status"] == "completed"
    assert [(call["state"], call["result"]) for call in result["tool_calls"]] == [(state, "Order 17.")]


@pytest.mark.parametrize(("told", "state"), [("yes", "done"), ("no", "failed"), ("shrug", "unknown")])
async def test_a_tool_that_can_tell_settles_it(tmp_path: Path, told: str, state: str) -> None:
    """The verifying tool is asked with the effect id; what it cannot tell stays unknown."""
    (tmp_path / "effects.told").write_text(told)
    policy = {"unknown_effects": "verify", "verify_tool": "fragile/tell"}
    async with breaking(tmp_path, *once("So it is."), policy=policy) as house:
        result = await house.run("worker", "<q>")
    assert [call["state"] for call in result["tool_calls"]] == [state]


async def _until_waiting(house: Scripted, execution_id: str) -> dict[str, Any]:
    with anyio.fail_after(20):
        while True:
            view = await house.remote.call("execution_get", {"execution_id": execution_id})
            if view["status"] == "waiting":
                return view
