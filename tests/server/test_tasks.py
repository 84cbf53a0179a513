"""The tasks extension on a real server: the wire as it is, and an official client that claims task results."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import anyio
import httpx2
import mcp_types as mcp
import pytest
from mcp.client.client import Client
from mcp.client.extension import ClaimContext, ClientExtension, ResultClaim
from mcp.client.streamable_http import streamable_http_client
from mcp_agents_tools.surface.catalogue import Catalogue
from mcp_types import CLIENT_CAPABILITIES_META_KEY

from mcp_agents.server.tasks import EXTENSION
from tests.hostile.wire import Answer, Wire, browserless
from tests.server.test_state import killed_at_the_end, token
from tests.support.provider import ScriptedProvider, Step
from tests.support.served import Served, served

pytestmark = pytest.mark.anyio

KNOWS: dict[str, Any] = {CLIENT_CAPABILITIES_META_KEY: {"extensions": {EXTENSION: {}}}}
SHOWS: dict[str, Any] = {CLIENT_CAPABILITIES_META_KEY: {"extensions": {EXTENSION: {}}, "elicitation": {}}}
PATH = "/mcp/agent/doer"
ASKS = "The agent doer asks: "
BEGINNINGS: dict[str, str] = {
    "agent_execute": "/mcp/all",
    "execution_wait": "/mcp/all",
    "session_compact": "/mcp/all",
    "doer": PATH,
}
"""Every tool that may run long, with the path it is called on."""


@asynccontextmanager
async def doing(folder: Path, *steps: Step, **sections: Any) -> AsyncIterator[tuple[Served, Wire, ScriptedProvider]]:
    """A server with an agent whose model answers as `steps` say, and a caller who may do everything."""
    async with ScriptedProvider(list(steps)) as provider:
        models = [{"name": "scripted", "litellm_model": "openai/scripted", "api_base": provider.api_base}]
        async with served(folder, models=models, **sections) as server, browserless() as http:
            wire = Wire(http, server.url, await server.token("acme"))
            made = await wire.call("agent_create", {"name": "doer", "virtual_model": "scripted"})
            assert made.good, made
            yield server, wire, provider


async def begun(wire: Wire, prompt: str = "go", **more: Any) -> dict[str, Any]:
    """A new task of `agent_execute`."""
    made = (await wire.call("agent_execute", {"agent": "doer", "prompt": prompt, **more}, meta=KNOWS)).result
    assert made["resultType"] == "task", made
    return made


async def asked(
    wire: Wire, method: str, task_id: str, *, meta: Any = KNOWS, path: str = "/mcp/all", **more: Any
) -> Answer:
    """A request about a task, with the header that goes with it."""
    return await wire.ask(method, {"taskId": task_id, **more}, meta=meta, path=path, headers={"Mcp-Name": task_id})


async def until(wire: Wire, task_id: str, *states: str, meta: Any = KNOWS, path: str = "/mcp/all") -> dict[str, Any]:
    """The task once it is in one of these states, polled as its server proposes."""
    with anyio.fail_after(30):
        while True:
            task = (await asked(wire, "tasks/get", task_id, meta=meta, path=path)).result
            if task["status"] in states:
                return task
            await anyio.sleep(task["pollIntervalMs"] / 1000 / 5)


def code(answer: Answer) -> tuple[int, int]:
    """The status and the JSON-RPC code of a refusal."""
    return answer.status, answer.error["code"]


async def test_a_long_call_is_a_task_from_its_answer_to_its_result(tmp_path: Path) -> None:
    """The server announces it; the task is there at once, tells its phase, and ends with the tool's result."""
    async with doing(tmp_path, Step(text="done", hold="gate")) as (_, wire, provider):
        told = (await wire.ask("server/discover")).result["capabilities"]["extensions"]
        assert told == {EXTENSION: {}}
        made = await begun(wire)
        assert made["status"] == "working"
        assert not {"task", "result", "error", "inputRequests", "requestState"} & set(made)
        created = datetime.fromisoformat(made["createdAt"])
        assert 0 <= (datetime.now(UTC) - created).total_seconds() < 30
        assert made["ttlMs"] is None
        assert made["pollIntervalMs"] == 250
        await provider.until(lambda counts: counts.holding == 1)
        now = (await asked(wire, "tasks/get", made["taskId"])).result
        assert (now["resultType"], now["status"], now["statusMessage"]) == ("complete", "working", "thinking (turn 1)")
        provider.release("gate")
        ended = await until(wire, made["taskId"], "completed")
        assert (ended["createdAt"], ended["lastUpdatedAt"] > ended["createdAt"]) == (made["createdAt"], True)
        assert ended["result"]["structuredContent"]["text"] == "done"
        assert ended["result"]["isError"] is False
        # The task is the run: the plain tools know it under the same id.
        run = (await wire.call("execution_get", {"execution_id": made["taskId"]})).value
        assert (run["status"], run["text"]) == ("completed", "done")


def test_every_tool_that_may_run_long_is_tested() -> None:
    """A new one has to be added to the table above; the agent's own tool is made for its path."""
    everything = Catalogue.installed().view("all")
    assert everything is not None
    assert {name for name, tool in everything.tools.items() if tool.long} | {"doer"} == set(BEGINNINGS)


@pytest.mark.parametrize("tool", BEGINNINGS)
async def test_every_long_tool_begins_a_task_and_ends_it(tmp_path: Path, tool: str) -> None:
    """Where the client knows tasks; where it does not, the same call returns its result."""
    held = Step(when="<turn" if tool == "session_compact" else "", text="one", hold="gate")
    async with doing(tmp_path, held, Step(text="two", times=0)) as found:
        _, wire, provider = found
        arguments: dict[str, Any] = {"prompt": "go"}
        if tool == "agent_execute":
            arguments["agent"] = "doer"
        if tool == "execution_wait":
            submitted = await wire.call("agent_submit", {"agent": "doer", "prompt": "go"})
            arguments = {"execution_id": submitted.value["execution_id"]}
        if tool == "session_compact":
            arguments = {"session_id": (await wire.call("session_create", {"agent": "doer"})).value["session_id"]}
            turn = {**arguments, "agent": "doer", "prompt": "go"}
            await wire.call("agent_execute", turn)
            await wire.call("agent_execute", turn)
        path = BEGINNINGS[tool]
        made = (await wire.call(tool, arguments, path=path, meta=KNOWS)).result
        assert made["resultType"] == "task"
        await provider.until(lambda counts: counts.holding == 1)
        provider.release("gate")
        ended = await until(wire, made["taskId"], "completed", path=path)
        text = ended["result"]["content"][0]["text"]
        assert text == "one" if tool == "doer" else '"text":"one"' in text
        if tool == "session_compact":
            await wire.call("agent_execute", turn)
        elif tool != "execution_wait":
            arguments["prompt"] = "plainly"
        at_once = (await wire.call(tool, arguments, path=path)).result
        assert at_once["resultType"] == "complete"
        assert at_once["structuredContent"]["status"] == "completed"


async def test_a_failed_run_is_a_completed_task_with_an_error_as_its_result(tmp_path: Path) -> None:
    """`failed` is for the protocol's own errors."""
    async with doing(tmp_path, Step(status=400, body={"error": {"message": "no"}}, times=0)) as (_, wire, _):
        ended = await until(wire, (await begun(wire))["taskId"], "completed", "failed")
        assert ended["status"] == "completed"
        assert ended["result"]["isError"] is True


async def test_cancelling_ends_the_run_and_can_be_repeated(tmp_path: Path) -> None:
    """The acknowledgement says nothing; the state does. A task that has ended stays as it is."""
    async with doing(tmp_path, Step(when="slow", text="x", hold="never"), Step(when="quick", text="y")) as found:
        _, wire, provider = found
        slow, quick = [(await begun(wire, prompt))["taskId"] for prompt in ("slow", "quick")]
        await provider.until(lambda counts: counts.holding == 1)
        for _ in range(2):
            acknowledged = (await asked(wire, "tasks/cancel", slow)).result
            assert set(acknowledged) == {"resultType", "_meta"}
            assert (await asked(wire, "tasks/get", slow)).result["status"] == "cancelled"
        await until(wire, quick, "completed")
        assert (await asked(wire, "tasks/cancel", quick)).result["resultType"] == "complete"
        assert (await asked(wire, "tasks/get", quick)).result["status"] == "completed"
        assert (await wire.call("execution_get", {"execution_id": slow})).value["status"] == "cancelled"


async def test_what_is_not_the_callers_reads_like_what_is_not_there(tmp_path: Path) -> None:
    """Another tenant's task, no task and no id at all: the same bytes. And the other tenant's task is untouched."""
    async with doing(tmp_path, Step(text="mine", hold="gate")) as (server, wire, provider):
        task_id = (await begun(wire))["taskId"]
        stranger = Wire(wire._http, server.url, await server.token("other"))
        missing = task_id[:-4] + "0000"
        for method, more in (("tasks/get", {}), ("tasks/update", {"inputResponses": {}}), ("tasks/cancel", {})):
            answers = [await asked(stranger, method, each, **more) for each in (task_id, missing, "no-id", "*")]
            assert all(code(answer) == (400, mcp.INVALID_PARAMS) for answer in answers)
            assert len({answer.body for answer in answers}) == 1
        provider.release("gate")
        assert (await until(wire, task_id, "completed", "cancelled"))["status"] == "completed"


async def test_an_agents_path_shows_only_that_agents_tasks(tmp_path: Path) -> None:
    """A token for one agent's path reaches no other run."""
    async with doing(tmp_path, Step(text="x", times=2)) as (server, wire, _):
        assert (await wire.call("agent_create", {"name": "other", "virtual_model": "scripted"})).good
        theirs = (await wire.call("agent_execute", {"agent": "other", "prompt": "go"})).value["execution_id"]
        narrow = Wire(wire._http, server.url, await server.token("acme", "executions:run"))
        own = (await narrow.call("doer", {"prompt": "go"}, path=PATH, meta=KNOWS)).result["taskId"]
        assert (await until(narrow, own, "completed", path=PATH))["result"]["content"][0]["text"] == "x"
        refused = await asked(narrow, "tasks/get", theirs, path=PATH)
        assert code(refused) == (400, mcp.INVALID_PARAMS)


async def test_each_method_needs_the_right_of_the_tool_that_does_the_same(tmp_path: Path) -> None:
    """Without it the door answers 403 with the scope to step up to."""
    needs = {"tasks/get": "executions:read", "tasks/update": "executions:run", "tasks/cancel": "executions:run"}
    async with doing(tmp_path, Step(text="x", times=0)) as (server, wire, _):
        task_id = (await begun(wire))["taskId"]
        for method, needed in needs.items():
            more = {"inputResponses": {}} if method == "tasks/update" else {}
            other = "executions:run" if needed == "executions:read" else "executions:read"
            poor = Wire(wire._http, server.url, await server.token("acme", other))
            refused = await asked(poor, method, task_id, **more)
            assert refused.status == 403
            assert 'error="insufficient_scope"' in refused.challenge
            assert needed in refused.challenge.partition('scope="')[2].partition('"')[0].split()
            rich = Wire(wire._http, server.url, await server.token("acme", needed))
            assert (await asked(rich, method, task_id, **more)).status == 200


async def test_a_client_that_does_not_declare_tasks_gets_none(tmp_path: Path) -> None:
    """Not by a call, and not by asking; a legacy client does not even find the methods."""
    async with doing(tmp_path, Step(text="plain")) as (_, wire, _):
        plain = (await wire.call("agent_execute", {"agent": "doer", "prompt": "go"})).result
        assert (plain["resultType"], plain["structuredContent"]["text"]) == ("complete", "plain")
        task_id = plain["structuredContent"]["execution_id"]
        for method, more in (("tasks/get", {}), ("tasks/update", {"inputResponses": {}}), ("tasks/cancel", {})):
            refused = await asked(wire, method, task_id, meta=None, **more)
            assert code(refused) == (400, mcp.MISSING_REQUIRED_CLIENT_CAPABILITY)
            assert refused.error["data"] == {"requiredCapabilities": {"extensions": {EXTENSION: {}}}}
            legacy = await wire.ask(method, {"taskId": task_id, **more}, era="legacy")
            assert legacy.error["code"] == mcp.METHOD_NOT_FOUND
        for gone in ("tasks/list", "tasks/result"):
            assert code(await asked(wire, gone, task_id)) == (404, mcp.METHOD_NOT_FOUND)


async def test_the_header_names_the_task_of_the_body(tmp_path: Path) -> None:
    """Another name, none, and a malformed one: refused as the protocol says."""
    async with doing(tmp_path, Step(text="x")) as (_, wire, _):
        task_id = (await begun(wire))["taskId"]
        for name in ("ex_00000000000000000000000000", "", "=?base64?%%%?="):
            headers = {"Mcp-Name": name}
            refused = await wire.ask("tasks/get", {"taskId": task_id}, meta=KNOWS, headers=headers)
            assert code(refused) == (400, mcp.HEADER_MISMATCH)
        await until(wire, task_id, "completed")


async def test_a_task_says_how_long_it_is_kept(tmp_path: Path) -> None:
    """As long as runs are."""
    async with doing(tmp_path, Step(text="x"), retention={"execution_days": 3}) as (_, wire, _):
        made = await begun(wire)
        assert made["ttlMs"] == 3 * 86_400_000
        assert (await until(wire, made["taskId"], "completed"))["ttlMs"] == 3 * 86_400_000


async def test_the_same_key_is_the_same_task(tmp_path: Path) -> None:
    """A client that lost the answer of its call finds its task again; one that has ended is read with tasks/get."""
    async with doing(tmp_path, Step(text="once")) as (_, wire, _):
        first = await begun(wire, idempotency_key="k")
        await until(wire, first["taskId"], "completed")
        again = await begun(wire, idempotency_key="k")
        assert (again["taskId"], again["status"]) == (first["taskId"], "working")
        assert (await asked(wire, "tasks/get", again["taskId"])).result["status"] == "completed"


def asking(*messages: str) -> str:
    """A prompt whose run asks all of this at once, on the rule-based model."""
    schema = {"properties": {"name": {"type": "string"}}, "required": ["name"]}
    calls = [f"builtin__ask_user with {json.dumps({'message': each, 'schema': schema})}" for each in messages]
    return f"call in parallel: {'; '.join(calls)}"


async def test_what_a_task_asks_is_answered_with_an_update(tmp_path: Path) -> None:
    """One after the other, by key; what is not asked is passed over, what does not fit is refused, and all survives
    a look through another replica. A key is not asked again."""
    async with served(tmp_path) as server, served(tmp_path, workers=0) as second, browserless() as http:
        wire = Wire(http, server.url, await server.token("acme"))
        elsewhere = Wire(http, second.url, await second.token("acme"))
        made = {"name": "doer", "virtual_model": "rule-based", "tools": ["builtin/ask_user"]}
        assert (await wire.call("agent_create", made)).good
        task_id = (await begun(wire, asking("First?", "Second?")))["taskId"]
        waiting = await until(elsewhere, task_id, "input_required", meta=SHOWS)
        assert waiting["statusMessage"] == f"waiting for a person: {ASKS}First?"
        requests = waiting["inputRequests"]
        assert [each["method"] for each in requests.values()] == ["elicitation/create"] * 2
        params = {each["params"]["message"]: each["params"]["requestedSchema"] for each in requests.values()}
        assert set(params) == {f"{ASKS}First?", f"{ASKS}Second?"}
        assert params[f"{ASKS}First?"]["required"] == ["name"]
        # A client that shows no forms is asked nothing; the run still waits.
        assert (await asked(wire, "tasks/get", task_id)).result["status"] == "working"
        first, other = requests
        for wrong in ({"action": "accept", "content": {"name": 7}}, {"action": "perhaps"}, 12345, None):
            refused = await asked(wire, "tasks/update", task_id, meta=SHOWS, inputResponses={first: wrong})
            assert code(refused) == (400, mcp.INVALID_PARAMS), wrong
        said = {"action": "accept", "content": {"name": "Ada"}}
        answered = {first: said, "apr_nobody": said, "": 5}
        for _ in range(2):  # the second time it is not asked any more
            update = await asked(elsewhere, "tasks/update", task_id, meta=SHOWS, inputResponses=answered)
            assert set(update.result) == {"resultType", "_meta"}
        left = await until(wire, task_id, "input_required", meta=SHOWS)
        assert set(left["inputRequests"]) == {other}
        await asked(wire, "tasks/update", task_id, meta=SHOWS, inputResponses={other: {"action": "cancel"}})
        assert set((await until(wire, task_id, "input_required", meta=SHOWS))["inputRequests"]) == {other}
        await asked(wire, "tasks/update", task_id, meta=SHOWS, inputResponses={other: {"action": "decline"}})
        ended = await until(wire, task_id, "completed", meta=SHOWS)
        calls = ended["result"]["structuredContent"]["tool_calls"]
        assert sorted(call["state"] for call in calls) == ["done", "failed"]
        late = await asked(wire, "tasks/update", task_id, meta=SHOWS, inputResponses={other: said})
        assert late.status == 200


async def test_only_what_the_caller_may_answer_is_asked(tmp_path: Path) -> None:
    """A colleague without the right to decide sees that a task waits, and is not asked; answering is refused."""
    async with served(tmp_path) as server, browserless() as http:
        wire = Wire(http, server.url, await server.token("acme"))
        made = {"name": "doer", "virtual_model": "rule-based", "tools": ["builtin/ask_user"]}
        assert (await wire.call("agent_create", made)).good
        task_id = (await begun(wire, asking("Who?")))["taskId"]
        (key,) = (await until(wire, task_id, "input_required", meta=SHOWS))["inputRequests"]
        reader = Wire(http, server.url, await server.token("acme", "executions:read"))
        seen = (await asked(reader, "tasks/get", task_id, meta=SHOWS)).result
        assert (seen["status"], seen["statusMessage"]) == ("working", f"waiting for a person: {ASKS}Who?")
        said = {key: {"action": "accept", "content": {"name": "Ada"}}}
        assert (await asked(reader, "tasks/update", task_id, meta=SHOWS, inputResponses=said)).status == 403


async def test_another_replica_serves_the_task(tmp_path: Path) -> None:
    """Begun at one process, looked at and cancelled at the other, whose clients never met the first."""
    async with (
        doing(tmp_path, Step(text="x", hold="never")) as (_, wire, provider),
        served(tmp_path, workers=0) as second,
    ):
        elsewhere = Wire(wire._http, second.url, await second.token("acme"))
        task_id = (await begun(wire))["taskId"]
        await provider.until(lambda counts: counts.holding == 1)
        assert (await asked(elsewhere, "tasks/get", task_id)).result["status"] == "working"
        assert (await asked(elsewhere, "tasks/cancel", task_id)).status == 200
        assert (await asked(wire, "tasks/get", task_id)).result["status"] == "cancelled"


async def test_a_task_outlives_a_kill_of_every_process(tmp_path: Path) -> None:
    """Killed while the run is with its model: the task is there afterwards, and ends."""
    async with ScriptedProvider([Step(text="late", hold="gate", times=0)]) as provider, browserless() as http:
        (tmp_path / "mcp-agents.toml").write_text(
            f'[[models]]\nname = "scripted"\nlitellm_model = "openai/scripted"\napi_base = "{provider.api_base}"\n'
        )
        with killed_at_the_end(tmp_path) as url:
            wire = Wire(http, url, token(tmp_path).token)
            assert (await wire.call("agent_create", {"name": "doer", "virtual_model": "scripted"})).good
            made = await begun(wire)
            await provider.until(lambda counts: counts.holding == 1)
        with killed_at_the_end(tmp_path) as url:
            wire = Wire(http, url, token(tmp_path).token)
            task = (await asked(wire, "tasks/get", made["taskId"])).result
            assert (task["status"], task["createdAt"]) == ("working", made["createdAt"])
            provider.release("gate")
            ended = await until(wire, made["taskId"], "completed")
            assert ended["result"]["structuredContent"]["text"] == "late"


class TaskResult(mcp.Result):
    """What a call is answered with that is a task."""

    result_type: Literal["task"] = "task"
    task_id: str
    status: str


class GetParams(mcp.RequestParams):
    """What tasks/get is given."""

    task_id: str


class GetRequest(mcp.Request[GetParams, Literal["tasks/get"]]):
    """Asks for a task."""

    name_param = "taskId"
    method: Literal["tasks/get"] = "tasks/get"
    params: GetParams


class Task(mcp.Result):
    """A task as tasks/get shows it."""

    status: str
    poll_interval_ms: int
    result: dict[str, Any] | None = None


class Claiming(ClientExtension):
    """A client that takes tasks and polls them to their end."""

    identifier = EXTENSION

    def __init__(self) -> None:
        self.polls = 0

    def claims(self) -> list[ResultClaim[Any]]:
        """One shape of result."""
        return [ResultClaim(result_type="task", model=TaskResult, resolve=self.resolve)]

    async def resolve(self, made: TaskResult, context: ClaimContext) -> mcp.CallToolResult:
        """Polls until the task has ended."""
        while True:
            request = GetRequest(params=GetParams(task_id=made.task_id))
            task = await context.session.send_request(request, Task)  # type: ignore[arg-type]
            self.polls += 1
            if task.result is not None:
                return mcp.CallToolResult.model_validate(task.result)
            await anyio.sleep(task.poll_interval_ms / 1000 / 5)


async def test_an_official_client_with_the_extension_sees_only_the_result(tmp_path: Path) -> None:
    """It calls the tool and gets its result, over a task it polls."""
    async with doing(tmp_path, Step(text="over a task")) as (server, wire, _):
        claiming = Claiming()
        headers = {"Authorization": f"Bearer {wire.token}"}
        async with httpx2.AsyncClient(headers=headers, trust_env=False) as http:
            transport = streamable_http_client(f"{server.url}/mcp", http_client=http)
            async with Client(transport, extensions=[claiming]) as client:
                result = await client.call_tool("agent_execute", {"agent": "doer", "prompt": "go"})
        assert (result.structured_content or {})["text"] == "over a task"
        assert claiming.polls >= 1
