"""Processes that are killed in the middle of a turn: it is in the session once, whole, and the next one goes on."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import httpx2
import msgspec
import pytest

from mcp_agents.agents.spec import AgentDraft
from mcp_agents.execution.orders import Order
from mcp_agents.kernel import ids
from mcp_agents.kernel.errors import Conflict
from mcp_agents.kernel.principal import Principal
from mcp_agents.kernel.tasks import background
from mcp_agents.server.compose import House, open_house
from mcp_agents.server.config import Settings
from mcp_agents.sessions.book import read
from mcp_agents.sessions.memory import Note, Source
from mcp_agents.sessions.record import Window
from tests.crash.dying import CALLER, TENANT
from tests.crash.play import URL, follow_to_the_end
from tests.hostile.wire import Wire, browserless
from tests.sessions.recaller import Recaller, recaller
from tests.support.clock import AheadClock
from tests.support.nursery import Nursery, nursery

pytestmark = pytest.mark.anyio

FACT, QUESTION = "The colour is green.", "What is the colour?"
WORKER = (
    "append:Started:stored",
    "model:answered",
    "append:ModelAnswered+Completed:stored",
    "turn:before",
    "turn:stored",
    "job:done",
)
SUMMARY = (
    "model:send",
    "model:answered",
    "append:ContextCompacted:before",
    "append:ContextCompacted:stored",
    "append:Completed:stored",
    "turn:before",
    "turn:stored",
)
FRONT = ("accept:held", "append:Requested:before", "append:Requested:stored", "accept:queued")


@pytest.fixture(scope="module")
async def births() -> AsyncIterator[Nursery]:
    """Where processes come from that die."""
    async with nursery("tests.crash.dying") as opened:
        yield opened


@pytest.fixture(scope="module")
async def model() -> AsyncIterator[Recaller]:
    """The model of all houses."""
    async with recaller() as opened:
        yield opened


def settings(folder: Path, model: Recaller) -> dict[str, Any]:
    """Of every process on this folder."""
    return {"server": {"data_dir": str(folder), "workers": 0}, "models": [model.settings]}


async def begun(house: House) -> str:
    """The agent, and a session with it."""
    space = house.tenancy.of(CALLER)
    draft = AgentDraft.model_validate({"name": "talker", "virtual_model": "recaller"})
    agent = (await house.services.agents.create(space, draft)).value
    made = await house.services.sessions.create(space, CALLER, agent.id, window=Window(), metadata={})
    return made.value.id


async def finished(house: House, order: Order) -> str:
    """One turn, run to its end; its text."""
    space, dispatcher = house.tenancy.of(CALLER), house.services.dispatcher
    execution_id = await dispatcher.submit(space, CALLER, order)
    await follow_to_the_end(dispatcher, space, execution_id)
    return (await dispatcher.view(space, execution_id)).text


async def killed(births: Nursery, known: dict[str, Any], role: str, point: str, order: Order) -> None:
    """A process that dies where it was told to, over this order."""
    told = {
        "run": "tests.crash.dying:live",
        "settings": known,
        "url": URL,
        "role": role,
        "point": point,
        "nth": 1,
        "journal": f"{known['server']['data_dir']}/journal",
        "order": msgspec.to_builtins(order),
    }
    with anyio.fail_after(60):
        assert os.WTERMSIG(await births.end(await births.bear(told))) == 9


@pytest.mark.parametrize("point", WORKER)
async def test_a_worker_that_dies_over_a_turn_leaves_it_once(
    tmp_path: Path, births: Nursery, model: Recaller, point: str
) -> None:
    """Wherever it died, the next turn knows what was said; whoever asks first takes the turn down."""
    known = settings(tmp_path, model)
    async with open_house(Settings.model_validate(known), URL, clock=AheadClock()) as house:
        session = await begun(house)
        space, dispatcher = house.tenancy.of(CALLER), house.services.dispatcher
        told = Order(agent="talker", prompt=FACT, session_id=session, submitted=True)
        first = await dispatcher.submit(space, CALLER, told)
        await killed(births, known, "worker", point, told)
        async with background() as working:
            working.start_soon(house.crew.work, 1)
            await follow_to_the_end(dispatcher, space, first)
            asked = Order(agent="talker", prompt=QUESTION, session_id=session, submitted=True)
            assert await finished(house, asked) == "green"
            seen = (await house.services.conversations.caught_up(space, CALLER, session)).value
        turns = await read(space.session_log(session))
        assert [(turn.number, turn.status) for turn in turns] == [(1, "completed"), (2, "completed")]
        assert turns[0].execution_id == first
        assert (seen.turns, seen.running) == (2, "")


@pytest.mark.parametrize("point", SUMMARY)
async def test_a_worker_that_dies_over_a_summary_makes_it_once(
    tmp_path: Path, births: Nursery, model: Recaller, point: str
) -> None:
    """Once it is recorded it is not bought again; before, it is, and said aloud. It is the session's in any case."""
    known = settings(tmp_path, model)
    async with open_house(Settings.model_validate(known), URL, clock=AheadClock()) as house:
        session = await begun(house)
        async with background() as working:
            working.start_soon(house.crew.work, 1)
            for text in (FACT, "The size is 4."):
                await finished(house, Order(agent="talker", prompt=text, session_id=session, submitted=True))
    async with open_house(Settings.model_validate(known), URL, clock=AheadClock()) as house:
        space, dispatcher = house.tenancy.of(CALLER), house.services.dispatcher
        compacts = Order(agent="talker", prompt="s", session_id=session, submitted=True, compacts=True)
        asked = model.summarized
        execution_id = await dispatcher.submit(space, CALLER, compacts)
        await killed(births, known, "worker", point, compacts)
        async with background() as working:
            working.start_soon(house.crew.work, 1)
            await follow_to_the_end(dispatcher, space, execution_id)
            question = Order(agent="talker", prompt=QUESTION, session_id=session, submitted=True)
            assert await finished(house, question) == "green"
            seen = (await house.services.conversations.caught_up(space, CALLER, session)).value
        assert seen.summary is not None
        assert (seen.summary.text, seen.summary.through, seen.turns) == (FACT, 1, 4)
        assert [turn.status for turn in await read(space.session_log(session))] == [
            "completed", "completed", "compacted", "completed",
        ]  # fmt: skip
        again = point in ("model:answered", "append:ContextCompacted:before")
        assert model.summarized - asked == (2 if again else 1)


@pytest.mark.parametrize("point", FRONT)
async def test_a_front_end_that_dies_over_a_turn_holds_its_session_up_for_half_a_minute(
    tmp_path: Path, births: Nursery, model: Recaller, point: str
) -> None:
    """Where its run was not accepted; where it was, the run goes on and is the turn."""
    known, clock = settings(tmp_path, model), AheadClock()
    async with open_house(Settings.model_validate(known), URL, clock=clock) as house:
        session = await begun(house)
        space = house.tenancy.of(CALLER)
        told = Order(agent="talker", prompt=FACT, session_id=session, submitted=True)
        await killed(births, known, "front", point, told)
        accepted = point in ("append:Requested:stored", "accept:queued")
        asked = Order(agent="talker", prompt=QUESTION, session_id=session, submitted=True)
        with pytest.raises(Conflict) as busy:
            await house.services.dispatcher.submit(space, CALLER, asked)
        assert busy.value.code == "SESSION_BUSY"
        clock.advance(31)
        async with background() as working:
            working.start_soon(house.crew.work, 1)
            if accepted:
                await house.crew.recovery.sweep()
                held = (await house.services.sessions.get(space, CALLER, session)).value.running
                await follow_to_the_end(house.services.dispatcher, space, held)
            assert await finished(house, asked) == ("green" if accepted else "I do not know.")
            seen = (await house.services.conversations.caught_up(space, CALLER, session)).value
        assert (seen.turns, seen.running) == (2 if accepted else 1, "")


REMEMBERING = ("append:ModelAnswered+ToolClaimed:stored", "tool:send", "tool:answered", "append:ToolDone:before")


@pytest.mark.parametrize("point", REMEMBERING)
async def test_a_worker_that_dies_over_a_memory_leaves_it_once(tmp_path: Path, births: Nursery, point: str) -> None:
    """Between the claim of the call and its end: whoever takes the run over sends it again, and it is there once."""
    known = {
        "server": {"data_dir": str(tmp_path), "workers": 0},
        "models": [{"name": "rule-based", "litellm_model": "rule-based"}],
    }
    async with open_house(Settings.model_validate(known), URL, clock=AheadClock()) as house:
        space, dispatcher = house.tenancy.of(CALLER), house.services.dispatcher
        draft = {"name": "keeper", "virtual_model": "rule-based", "tools": ["builtin/remember"]}
        await house.services.agents.create(space, AgentDraft.model_validate(draft))
        prompt = 'call builtin__remember with {"text": "Once.", "term": "long"}'
        told = Order(agent="keeper", prompt=prompt, submitted=True)
        run = await dispatcher.submit(space, CALLER, told)
        await killed(births, known, "worker", point, told)
        before = len(await house.services.memories.all(space, CALLER))
        assert before == (point in ("tool:answered", "append:ToolDone:before"))
        async with background() as working:
            working.start_soon(house.crew.work, 1)
            await follow_to_the_end(dispatcher, space, run)
        (kept,) = await house.services.memories.all(space, CALLER)
        view = await dispatcher.view(space, run)
        assert (view.status, kept.value.text, kept.value.execution_id) == ("completed", "Once.", run)
        assert kept.value.id.removeprefix("mem_") == view.tool_calls[0].effect_id.removeprefix("eff_")
        assert kept.value.id in view.text


async def test_server_and_nats_are_killed_between_turns(tmp_path: Path, model: Recaller) -> None:
    """The next turn is another process's, and knows what was said."""
    configured = tmp_path / "mcp-agents.toml"
    lines = [f"{name} = {value!r}" for name, value in model.settings.items()]
    configured.write_text("[[models]]\n" + "\n".join(lines).replace("'", '"') + "\n", "utf-8")
    environment = {**os.environ, "MCP_AGENTS_SERVER__DATA_DIR": str(tmp_path / "data")}
    token, session = "", ""
    with socket.socket() as free:  # the same address again: tokens are for it
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    async with browserless() as http:
        for prompt, answer in ((FACT, "Noted."), (QUESTION, "green")):
            process = serving(environment, tmp_path, port)
            assert process.stdout is not None
            try:
                url = process.stdout.readline().removeprefix("mcp-agents listening on ").strip()
                token = token or issued(environment, tmp_path)
                me = Wire(http, url, token)
                if not session:
                    assert (await me.call("agent_create", {"name": "talker", "virtual_model": "recaller"})).good
                    session = (await me.call("session_create", {"agent": "talker"})).value["session_id"]
                assert (await said(me, session, prompt)) == answer
            finally:
                process.send_signal(signal.SIGKILL)  # its NATS dies with it
                process.wait(20)
                process.stdout.close()


def serving(environment: dict[str, str], folder: Path, port: int) -> "subprocess.Popen[str]":
    """A server of its own, with its NATS."""
    command = [sys.executable, "-m", "mcp_agents.server.cli", "serve", "--port", str(port)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True, cwd=folder)


def issued(environment: dict[str, str], folder: Path) -> str:
    """A token of the tenant, by the command line."""
    for arguments in (("tenant", "create", TENANT), ("token", "--tenant", TENANT, "--json")):
        done = subprocess.run(
            [sys.executable, "-m", "mcp_agents.server.cli", *arguments],
            env=environment, capture_output=True, text=True, timeout=60, check=True, cwd=folder,
        )  # fmt: skip
    return str(msgspec.json.decode(done.stdout)["access_token"])


async def said(me: Wire, session: str, prompt: str) -> str:
    """What the agent answers in the session."""
    try:
        run = (await me.call("agent_execute", {"agent": "talker", "prompt": prompt, "session_id": session})).value
    except httpx2.HTTPError as lost:
        raise AssertionError("the server is gone") from lost
    return str(run["text"])


@pytest.mark.parametrize("command", [("delete", "--yes"), ("roles", "--tenant", TENANT)], ids=lambda words: words[0])
async def test_a_command_that_removes_a_person_erases_what_is_remembered_of_them(
    tmp_path: Path, command: tuple[str, ...]
) -> None:
    """From everywhere, or from the tenant; nobody else's."""
    environment = {**os.environ, "MCP_AGENTS_SERVER__DATA_DIR": str(tmp_path / "data")}
    known = Settings.model_validate({"server": {"data_dir": str(tmp_path / "data"), "workers": 0}})
    async with open_house(known, URL, clock=AheadClock()) as house:
        await house.auth.tenants.create(TENANT)
        space = house.tenancy.of(CALLER)
        draft = AgentDraft.model_validate({"name": "keeper", "tools": ["builtin/remember"]})
        agent = (await house.services.agents.create(space, draft)).value
        person = await house.auth.users.create("ann@a.example", "correct horse 12", TENANT, frozenset({"operator"}))
        for subject in (person.id, CALLER.subject):
            who = Principal(tenant=TENANT, subject=subject, scopes=frozenset())
            source = Source(effect_id=ids.mint("eff", house.tenancy.clock), execution_id="ex")
            await house.services.memories.remember(space, who, agent.id, Note(text="A note."), source)
    program = [sys.executable, "-m", "mcp_agents.server.cli", "user", command[0], person.id, *command[1:]]
    with anyio.fail_after(60):
        await anyio.run_process(program, env=environment, cwd=tmp_path)
    async with open_house(known, URL, clock=AheadClock()) as house:
        space = house.tenancy.of(CALLER)
        assert await house.services.memories.forget_user(space, person.id) == 0
        assert await house.services.memories.forget_user(space, CALLER.subject) == 1
