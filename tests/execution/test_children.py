"""Agents as tools of agents: the answer comes back, nobody holds a worker, limits are carved out, circles end."""

from pathlib import Path

import pytest

from tests.execution.scripted import scripted
from tests.support.provider import Call, Step

pytestmark = pytest.mark.anyio

USED = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}


def asks(agent: str, prompt: str, id: str | None = None) -> Call:
    """A call of an agent as a tool."""
    return Call(name=f"agent__{agent}", arguments=f'{{"prompt": "{prompt}"}}', id=id)


async def test_an_agent_is_a_tool_and_its_answer_comes_back(tmp_path: Path) -> None:
    """The parent waits in its log, the child is a run of its own with its own cost, one trace, one chain of actors."""
    steps = [
        Step(when="<parent>", turn=0, calls=[asks("child", "Count. <child>")]),
        Step(when="<child>", turn=0, text="There are three.", usage=USED),
        Step(when="<parent>", turn=1, text="The child says three."),
    ]
    async with scripted(tmp_path, *steps) as house:
        child = await house.remote.call("agent_create", {"name": "child", "virtual_model": "scripted"})
        await house.remote.call(
            "agent_create", {"name": "parent", "virtual_model": "scripted", "tools": [f"agent:{child['id']}"]}
        )
        result = await house.run("parent", "Ask. <parent>")
        assert result["status"] == "completed"
        assert result["text"] == "The child says three."
        call = result["tool_calls"][0]
        assert (call["tool"], call["state"], call["result"]) == ("agent__child", "done", "There are three.")
        below = await house.remote.call("execution_get", {"execution_id": call["execution_id"]})
        assert below["status"] == "completed"
        assert below["agent_id"] == child["id"]
        assert below["trace"] == result["trace"]
        assert result["children_cost_micro_usd"] == below["cost_micro_usd"] > 0
        requested = (await house.events(call["execution_id"]))[0]["body"]
        assert requested["caller"]["actors"] == [result["agent_id"]]
        assert requested["depth"] == 1
        assert [event["type"] for event in await house.events(result["execution_id"])].count("handed_off") >= 1


async def test_children_that_are_called_together_run_at_once_beside_a_tool(tmp_path: Path) -> None:
    """Two agents and a tool in one answer: all three end before the model is asked again."""
    add = Call(name="demo__add", arguments='{"a": 2, "b": 3}')
    steps = [
        Step(when="<parent>", turn=0, calls=[asks("left", "<one>"), asks("right", "<two>"), add]),
        Step(when="<one>", text="one", hold="both"),
        Step(when="<two>", text="two", hold="both"),
        Step(when="<parent>", turn=1, text="all"),
    ]
    async with scripted(tmp_path, *steps) as house:
        for name in ("left", "right"):
            await house.remote.call("agent_create", {"name": name, "virtual_model": "scripted"})
        tools = ["agent:left", "agent:right", "demo/add"]
        await house.remote.call("agent_create", {"name": "parent", "virtual_model": "scripted", "tools": tools})
        started = await house.remote.call("agent_submit", {"agent": "parent", "prompt": "<parent>"})
        await house.provider.until(lambda counts: counts.holding == 2)  # both children are under way at once
        house.provider.release("both")
        result = await house.remote.call("execution_wait", {"execution_id": started["execution_id"]})
    assert [call["result"] for call in result["tool_calls"]] == ["one", "two", "5.0"]
    assert result["text"] == "all"


async def test_a_child_that_fails_is_told_to_the_model(tmp_path: Path) -> None:
    """The parent's model may mend it; the parent's run goes on."""
    steps = [
        Step(when="<parent>", turn=0, calls=[asks("child", "<child>")]),
        Step(when="<child>", status=400, body={"error": {"message": "no"}}),
        Step(when="<parent>", turn=1, text="It failed."),
    ]
    async with scripted(tmp_path, *steps) as house:
        await house.remote.call("agent_create", {"name": "child", "virtual_model": "scripted"})
        await house.remote.call(
            "agent_create", {"name": "parent", "virtual_model": "scripted", "tools": ["agent:child"]}
        )
        result = await house.run("parent", "<parent>")
    assert result["status"] == "completed"
    assert result["tool_calls"][0]["state"] == "failed"
    assert "AGENT_FAILED" in result["tool_calls"][0]["result"]


async def test_a_circle_of_agents_ends_at_its_depth(tmp_path: Path) -> None:
    """Two agents that call each other stop at the depth limit, and each level is told by the one below."""
    steps = [
        Step(when="<ping>", turn=0, times=0, calls=[asks("pong", "<pong>")]),
        Step(when="<pong>", turn=0, times=0, calls=[asks("ping", "<ping>")]),
        Step(when="<ping>", turn=1, times=0, text="ping ends"),
        Step(when="<pong>", turn=1, times=0, text="pong ends"),
    ]
    async with scripted(tmp_path, *steps) as house:
        limits = {"max_depth": 3}
        for name in ("ping", "pong"):
            await house.remote.call("agent_create", {"name": name, "virtual_model": "scripted", "limits": limits})
        await house.remote.call("agent_update", {"agent": "ping", "tools": ["agent:pong"]})
        await house.remote.call("agent_update", {"agent": "pong", "tools": ["agent:ping"]})
        result = await house.run("ping", "<ping>")
        assert result["status"] == "completed"
        listed = await house.remote.call("execution_list", {"limit": 100})
    assert len(listed["executions"]) == 4


async def test_a_childs_budget_is_carved_out_of_its_parents(tmp_path: Path) -> None:
    """What a parent has left is the most its child may use, and what the child used counts against the parent."""
    steps = [
        Step(
            when="<parent>",
            turn=0,
            calls=[asks("child", "<child>")],
            usage={"prompt_tokens": 10, "completion_tokens": 5},
        ),
        Step(when="<child>", turn=0, text="cheap", usage={"prompt_tokens": 10, "completion_tokens": 5}),
        Step(when="<parent>", turn=1, text="done", usage={"prompt_tokens": 10, "completion_tokens": 5}),
    ]
    async with scripted(tmp_path, *steps) as house:
        await house.remote.call("agent_create", {"name": "child", "virtual_model": "scripted", "max_tokens": 100})
        await house.remote.call(
            "agent_create",
            {
                "name": "parent",
                "virtual_model": "scripted",
                "max_tokens": 100,
                "tools": ["agent:child"],
                "limits": {"max_cost_micro_usd": 10_000},
            },
        )
        result = await house.run("parent", "<parent>")
        assert result["status"] == "completed", result["error"]
        child = (await house.events(result["tool_calls"][0]["execution_id"]))[0]["body"]
    assert child["portion"]["cost_micro_usd"] == 10_000 - 60
    assert result["cost_micro_usd"] == 120
    assert result["children_cost_micro_usd"] == 60


async def test_cancelling_a_parent_cancels_what_it_started(tmp_path: Path) -> None:
    """Nothing goes on spending behind a cancelled run."""
    steps = [
        Step(when="<parent>", turn=0, calls=[asks("child", "<child>")]),
        Step(when="<child>", turn=0, text="late", hold="never"),
    ]
    async with scripted(tmp_path, *steps) as house:
        await house.remote.call("agent_create", {"name": "child", "virtual_model": "scripted"})
        await house.remote.call(
            "agent_create", {"name": "parent", "virtual_model": "scripted", "tools": ["agent:child"]}
        )
        started = await house.remote.call("agent_submit", {"agent": "parent", "prompt": "<parent>"})
        await house.provider.until(lambda counts: counts.holding == 1)
        cancelled = await house.remote.call("execution_cancel", {"execution_id": started["execution_id"]})
        child = cancelled["tool_calls"][0]["execution_id"]
        below = await house.remote.call("execution_wait", {"execution_id": child})
        house.provider.release("never")
    assert cancelled["status"] == below["status"] == "cancelled"
