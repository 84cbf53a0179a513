"""Runs on the real parts: limits, cancelling, joining, bounded rounds, and what the model is told."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from mcp_agents.adapters.nats_jobs import NatsDelivery
from mcp_agents.execution.worker import Worker
from mcp_agents.kernel.principal import Principal
from mcp_agents.server.cli.remote import Remote
from tests.support.provider import Call, ScriptedProvider, Step
from tests.support.served import Served, served

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Served]:
    """A house with the rule-based model and the demo's tools."""
    async with served(tmp_path_factory.mktemp("runs")) as running, running.remote("acme") as remote:
        await remote.call("tool_server_add", {"name": "demo", "transport": "stdio", "command": "mcp-agents-demo-tools"})
        await remote.call("agent_create", {"name": "worker", "virtual_model": "auto", "tools": ["demo/*"]})
        yield running


@pytest.fixture
async def remote(server: Served) -> AsyncIterator[Remote]:
    """A client of the tenant."""
    async with server.remote("acme") as opened:
        yield opened


async def run(remote: Remote, prompt: str, **more: Any) -> dict[str, Any]:
    return await remote.call("agent_execute", {"agent": "worker", "prompt": prompt, **more})


async def test_a_run_answers_with_its_usage_calls_and_timings(remote: Remote) -> None:
    """The result has what the surface promises, and the log says the same."""
    result = await run(remote, 'call add with {"a": 1, "b": 2}', metadata={"ticket": 7})
    assert result["status"] == "completed"
    assert result["metadata"] == {"ticket": 7}
    assert result["usage"]["input_tokens"] > 0
    assert [(call["tool"], call["arguments"], call["state"]) for call in result["tool_calls"]] == [
        ("demo__add", {"a": 1, "b": 2}, "done")
    ]
    timings = result["timings"]
    assert timings["total_ms"] >= timings["queue_ms"] + timings["overhead_ms"]
    page = await remote.call("execution_events", {"execution_id": result["execution_id"]})
    assert [event["seq"] for event in page["events"]] == list(range(1, 8))
    assert page["finished"]
    later = await remote.call("execution_events", {"execution_id": result["execution_id"], "cursor": 5})
    assert [event["seq"] for event in later["events"]] == [6, 7]


async def test_three_rounds_and_parallel_calls_feed_back_into_the_conversation(remote: Remote) -> None:
    """Each round sees the result of the one before; parallel calls all end before the next question."""
    prompt = "\n".join(
        [
            'call add with {"a": 1, "b": 2}',
            'call add with {"a": {{last}}, "b": 10}',
            'call in parallel: word_count with {"text": "one two"}; reverse_text with {"text": "abc"}',
        ]
    )
    result = await run(remote, prompt)
    assert result["status"] == "completed"
    assert [call["tool"] for call in result["tool_calls"]] == [
        "demo__add",
        "demo__add",
        "demo__word_count",
        "demo__reverse_text",
    ]
    assert "13" in result["text"]
    assert "cba" in result["text"]


async def test_a_tools_error_goes_back_to_the_model_and_the_run_goes_on(remote: Remote) -> None:
    """What the model can mend is its to mend."""
    result = await run(remote, 'call add with {"a": "many"}')
    assert result["status"] == "completed"
    assert result["tool_calls"][0]["state"] == "failed"
    assert "failed" in result["text"]


async def test_malformed_arguments_never_reach_the_tool(remote: Remote) -> None:
    """The model is told what was wrong with them."""
    result = await run(remote, 'call add with {"a": 1, "b": }')
    assert result["tool_calls"][0]["state"] == "failed"
    assert "ARGUMENTS_MALFORMED" in result["tool_calls"][0]["result"]


async def test_without_tools_none_are_offered(remote: Remote) -> None:
    """`tools_enabled=false` sends no tool to the model."""
    result = await run(remote, 'call add with {"a": 1, "b": 2}', tools_enabled=False)
    assert result["tool_calls"] == []


@pytest.mark.parametrize(
    ("limits", "prompt", "code"),
    [
        ({"max_turns": 2}, 'call add with {"a": 1, "b": 1}\ncall add with {"a": 2, "b": 2}', "TURNS_EXHAUSTED"),
        ({"max_tool_calls": 1}, 'call in parallel: add with {"a": 1, "b": 1}; now with {}', "TOOL_CALLS_EXHAUSTED"),
    ],
)
async def test_a_run_that_reaches_a_limit_ends_and_says_which(
    server: Served, limits: dict[str, int], prompt: str, code: str
) -> None:
    """Rounds are bounded; the final event names the limit."""
    async with server.remote("acme") as remote:
        agent = await remote.call(
            "agent_create", {"name": f"limited-{code.lower()[:5]}", "tools": ["demo/*"], "limits": limits}
        )
        result = await remote.call("agent_execute", {"agent": agent["id"], "prompt": prompt})
    assert result["status"] == "failed"
    assert result["error"]["code"] == code
    assert result["error"]["next_step"]


async def test_a_run_that_takes_too_long_times_out(remote: Remote) -> None:
    """The wall time is the run's, not the call's."""
    result = await run(remote, 'call count_slowly with {"to": 30}', overrides={"timeout_seconds": 1})
    assert result["status"] == "timeout"
    assert result["error"]["code"] == "RUN_TIMEOUT"


async def test_a_client_that_does_not_wait_gets_the_handle_and_loses_nothing(remote: Remote) -> None:
    """After `wait_seconds` the run goes on; `execution_wait` has its answer."""
    early = await run(remote, 'call count_slowly with {"to": 1}', wait_seconds=0.2)
    assert early["status"] in ("pending", "running")
    assert "execution_wait" in early["next_step"]
    late = await remote.call("execution_wait", {"execution_id": early["execution_id"]})
    assert late["status"] == "completed"
    assert late["text"] == "The result is: 1"


async def test_a_cancelled_run_ends_at_once_and_stays_cancelled(remote: Remote) -> None:
    """The tool in flight is not waited for, and nothing is written behind the final event."""
    started = await remote.call("agent_submit", {"agent": "worker", "prompt": 'call count_slowly with {"to": 30}'})
    execution_id = started["execution_id"]
    with anyio.fail_after(10):
        cursor = 0
        while True:
            page = await remote.call("execution_events", {"execution_id": execution_id, "cursor": cursor})
            cursor = page["cursor"]
            if any(event["type"] == "tool_claimed" for event in page["events"]):
                break
        cancelled = await remote.call("execution_cancel", {"execution_id": execution_id, "reason": "enough"})
        assert cancelled["status"] == "cancelled"
        again = await remote.call("execution_cancel", {"execution_id": execution_id})
        waited = await remote.call("execution_wait", {"execution_id": execution_id})
    assert again["cursor"] == cancelled["cursor"] == waited["cursor"]
    page = await remote.call("execution_events", {"execution_id": execution_id, "cursor": cursor})
    assert [event["type"] for event in page["events"]] == ["cancelled"]
    assert page["events"][0]["body"]["reason"] == "enough"


async def test_a_repeated_call_joins_its_run_and_other_arguments_conflict(server: Served) -> None:
    """One key is one run, for the caller who used it first."""
    async with server.remote("acme") as remote:
        order = {"agent": "worker", "prompt": "say once", "idempotency_key": "k1"}
        first = await remote.call("agent_execute", order)
        second = await remote.call("agent_execute", order)
        assert second["execution_id"] == first["execution_id"]
        assert second["text"] == "once"
        with pytest.raises(Exception, match="IDEMPOTENCY_MISMATCH"):
            await remote.call("agent_execute", {**order, "prompt": "say twice"})


async def test_twenty_calls_with_one_key_at_once_are_one_run(server: Served) -> None:
    """Joining holds under real concurrency."""
    found: set[str] = set()
    async with server.remote("acme") as remote, anyio.create_task_group() as tasks:

        async def one() -> None:
            order = {"agent": "worker", "prompt": "say once", "idempotency_key": "k20"}
            found.add((await remote.call("agent_execute", order))["execution_id"])

        for _ in range(20):
            tasks.start_soon(one)
    assert len(found) == 1


async def test_a_second_job_of_a_run_under_way_changes_nothing(server: Served, remote: Remote) -> None:
    """What the sweeper queues once too often is dropped by whoever takes it, and the run goes on undisturbed."""
    started = await remote.call("agent_submit", {"agent": "worker", "prompt": 'call count_slowly with {"to": 2}'})
    execution_id = started["execution_id"]
    with anyio.fail_after(20):
        while (await remote.call("execution_get", {"execution_id": execution_id}))["status"] != "running":
            pass
        space = server.house.tenancy.of(Principal(tenant="acme", subject="sweeper", scopes=frozenset()))
        await space.enqueue(started["agent_id"], execution_id, occasion="swept")
        result = await remote.call("execution_wait", {"execution_id": execution_id})
        assert result["status"] == "completed"
        assert result["attempts"] == 1
        while (await server.house.link.api("STREAM.INFO.CB_JOBS"))["state"]["messages"]:
            pass


async def test_a_job_that_comes_back_to_its_own_holder_changes_nothing(server: Served, remote: Remote) -> None:
    """As when a process is too busy to keep the lease: it goes on, and does not take the run over from itself."""
    started = await remote.call("agent_submit", {"agent": "worker", "prompt": 'call count_slowly with {"to": 2}'})
    execution_id = started["execution_id"]
    with anyio.fail_after(20):
        while (await remote.call("execution_get", {"execution_id": execution_id}))["status"] != "running":
            pass
        [worker] = server.house.crew.station._hands
        assert isinstance(worker, Worker)
        [held] = [each for each in worker._held if each.execution_id == execution_id]
        assert isinstance(held.delivery, NatsDelivery)
        await server.house.link.request(held.delivery._message.reply, b"-NAK")
        while not any(each.delivery and each.delivery.attempt == 2 for each in worker._held):
            await anyio.lowlevel.checkpoint()
        result = await remote.call("execution_wait", {"execution_id": execution_id})
        assert (result["status"], result["attempts"]) == ("completed", 1)
        while (await server.house.link.api("STREAM.INFO.CB_JOBS"))["state"]["messages"]:
            pass


async def test_an_inactive_agent_takes_no_runs(server: Served) -> None:
    """Switched off it refuses with AGENT_INACTIVE; switched on it runs again."""
    async with server.remote("acme") as remote:
        await remote.call("agent_create", {"name": "sleeper"})
        await remote.call("agent_set_active", {"agent": "sleeper", "active": False})
        with pytest.raises(Exception, match="AGENT_INACTIVE"):
            await remote.call("agent_execute", {"agent": "sleeper", "prompt": "say hi"})
        await remote.call("agent_set_active", {"agent": "sleeper", "active": True})
        assert (await remote.call("agent_execute", {"agent": "sleeper", "prompt": "say hi"}))["text"] == "hi"


async def test_a_run_keeps_the_agent_it_started_with(server: Served) -> None:
    """A change while a run is under way is the next run's."""
    async with server.remote("acme") as remote:
        agent = {"name": "changing", "system_prompt": "say old", "tools": ["demo/count_slowly"]}
        await remote.call("agent_create", agent)
        prompt = {"agent": "changing", "prompt": "Hello"}
        run_before = await remote.call("agent_execute", prompt)
        await remote.call("agent_update", {"agent": "changing", "system_prompt": "say new"})
        run_after = await remote.call("agent_execute", prompt)
    assert (run_before["text"], run_before["agent_version"]) == ("old", 1)
    assert (run_after["text"], run_after["agent_version"]) == ("new", 2)


async def test_a_large_prompt_and_context_survive_the_whole_way(remote: Remote) -> None:
    """Over the inline limit of a message, through the object store, and back in the transcript."""
    big = "word " * 120_000
    result = await run(remote, "say done", context={"text": big})
    assert result["text"] == "done"
    events = await remote.call("execution_events", {"execution_id": result["execution_id"], "limit": 1})
    assert events["events"][0]["body"]["context"]["text"] == big


async def test_a_provider_that_fails_ends_the_run_with_its_kind(tmp_path: Path) -> None:
    """Refused keys at once, overload and nonsense after four attempts; the provider's text stays out."""
    secret = "sk-canary-in-the-providers-answer"
    wrong_key = {"error": {"message": f"Incorrect API key provided: {secret}", "code": "invalid_api_key"}}
    steps = [
        Step(when="<key>", status=401, body=wrong_key, times=1),
        Step(when="<down>", status=503, body={"error": {"message": secret}}, times=0),
        Step(when="<nonsense>", raw="<html>not an answer</html>", times=0),
        Step(when="<tool>", turn=0, calls=[Call(name="nothing__here")]),
        Step(when="<tool>", turn=1, text="I have no such tool."),
    ]
    async with ScriptedProvider(steps) as provider:
        marks = ("key", "down", "nonsense", "tool")  # a model each: one that failed is left alone for a while
        models = [{"name": mark, "litellm_model": "openai/scripted", "api_base": provider.api_base} for mark in marks]
        async with served(tmp_path, models=models) as running, running.remote("acme") as remote:
            results = {}
            for mark in marks:
                await remote.call("agent_create", {"name": mark, "virtual_model": mark})
                results[mark] = await remote.call("agent_execute", {"agent": mark, "prompt": f"Go. <{mark}>"})
    unknown = results.pop("tool")
    for result in results.values():
        assert result["status"] == "failed"
        assert secret not in str(result)
        assert result["error"]["next_step"]
    codes = {mark: (result["error"]["kind"], result["error"]["code"]) for mark, result in results.items()}
    assert codes["key"] == ("Denied", "MODEL_KEY_REFUSED")
    assert codes["down"][0] == "Unavailable"
    assert codes["nonsense"][0] == "Unavailable"
    assert unknown["status"] == "completed"
    assert "TOOL_NOT_OFFERED" in unknown["tool_calls"][0]["result"]


async def test_streamed_text_reaches_a_follower_before_the_answer_is_whole(tmp_path: Path) -> None:
    """Deltas arrive while the provider is still holding back the rest, and join to the final text."""
    chunks = ["Once ", "upon ", "a time"]
    async with ScriptedProvider([Step(when="story", chunks=chunks, hold="rest", hold_after=2)]) as provider:
        model = {"name": "scripted", "litellm_model": "openai/scripted", "api_base": provider.api_base}
        async with served(tmp_path, models=[model]) as running, running.remote("acme") as remote:
            await remote.call("agent_create", {"name": "worker", "virtual_model": "scripted"})
            heard: list[str] = []

            async def tell(progress: float, total: float | None, message: str | None) -> None:
                heard.append(message or "")
                if "Once" in (message or ""):
                    provider.release("rest")

            arguments = {"agent": "worker", "prompt": "Tell a story."}
            with anyio.fail_after(30):
                result = await remote.call("agent_execute", arguments, tell)
    assert result["text"] == "Once upon a time"
    assert any("Once" in message and "time" not in message for message in heard)
