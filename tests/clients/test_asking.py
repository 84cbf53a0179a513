"""What a run asks people is asked at the client of whoever waits for it, as far as that client and its caller can."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import pytest
from mcp.client.client import Client
from mcp.client.session import ClientSession
from mcp_types import (
    ClientCapabilities,
    ElicitationCapability,
    ElicitRequestParams,
    ElicitRequestURLParams,
    ElicitResult,
    UrlElicitationCapability,
)

from mcp_agents.kernel.scopes import TENANT_SCOPES
from tests.clients.house import TENANT, Asked, Run, Workshop, workshop

pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("era", ["modern", "legacy"])]

APPROVED = {"approve": True}


@dataclass
class Shown(Asked):
    """What a client's person is shown as a page."""

    async def __call__(self, context: Any, params: ElicitRequestParams) -> ElicitResult:
        assert isinstance(params, ElicitRequestURLParams)
        self.messages.append(params.url)
        return ElicitResult(action="accept")


@asynccontextmanager
async def approving(folder: Path) -> AsyncIterator[tuple[Workshop, Run]]:
    """A house and a run whose call somebody has to approve."""
    async with workshop(folder) as house:
        run = await house.run("quick")
        async with house.served.remote(TENANT) as remote:
            agent = await remote.call("agent_get", {"agent": run.agent})
            policy = {"approvals": [{"tool": "counted/*", "approve": "always"}]}
            await remote.call(
                "agent_update",
                {"agent": run.agent, "expected_revision": agent["revision"], "policy": policy},
            )
        yield house, run


async def called(client: Client, tool: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """The structured result of a tool that must succeed."""
    with anyio.fail_after(30):
        result = await client.call_tool(tool, arguments)
    assert not result.is_error, result.content
    structured: dict[str, Any] = result.structured_content
    return structured


async def test_a_person_approves_where_they_are(tmp_path: Path, era: str) -> None:
    """Asked once, in words, and the call is made once."""
    async with approving(tmp_path) as (house, run):
        asked = Asked(content=APPROVED)
        async with house.client(era, asked=asked) as client:
            result = await called(client, "agent_execute", run.arguments)
        assert result["status"] == "completed"
        (message,) = asked.messages
        assert "counted" in message
        await house.whole(run)


async def test_a_person_declines(tmp_path: Path, era: str) -> None:
    """That is an answer: the call is not made, and the run goes on to its end."""
    async with approving(tmp_path) as (house, run):
        async with house.client(era, asked=Asked(action="decline", content={})) as client:
            result = await called(client, "agent_execute", run.arguments)
        assert result["status"] == "completed"
        assert "APPROVAL_REFUSED" in result["tool_calls"][0]["result"]
        assert house.effects(run) == 0


async def test_to_cancel_decides_nothing(tmp_path: Path, era: str) -> None:
    """The call returns the waiting run; whoever asks for it again is asked again."""
    async with approving(tmp_path) as (house, run):
        asked = Asked(action="cancel", content={})
        async with house.client(era, asked=asked) as client:
            waiting = await called(client, "agent_execute", run.arguments)
            assert (waiting["status"], len(waiting["questions"])) == ("waiting", 1)
            asked.action, asked.content = "accept", APPROVED
            result = await called(client, "execution_wait", {"execution_id": waiting["execution_id"]})
        assert (result["status"], len(asked.messages)) == ("completed", 2)
        await house.whole(run)


async def test_who_may_not_decide_is_not_asked(tmp_path: Path, era: str) -> None:
    """The caller's person is not shown what somebody else has to decide."""
    async with approving(tmp_path) as (house, run):
        scope = " ".join(sorted(TENANT_SCOPES - {"approvals:run"}))
        asked = Asked(content=APPROVED)
        async with house.client(era, asked=asked, token=await house.served.token(TENANT, scope)) as client:
            waiting = await called(client, "agent_execute", run.arguments)
        assert (waiting["status"], asked.messages) == ("waiting", [])


async def test_somebody_else_is_quicker(tmp_path: Path, era: str) -> None:
    """The question at the client is not needed any more; its late answer changes nothing."""
    async with approving(tmp_path) as (house, run):

        @dataclass
        class Slow(Asked):
            async def __call__(self, context: Any, params: ElicitRequestParams) -> ElicitResult:
                self.messages.append(params.message)
                (execution_id,) = await house.executions(run)
                async with house.served.remote(TENANT) as remote:
                    answer = {"execution_id": execution_id, "content": APPROVED}
                    await remote.call("execution_resume", answer)
                return ElicitResult(action="decline")

        slow = Slow()
        async with house.client(era, asked=slow) as client:
            result = await called(client, "agent_execute", run.arguments)
        assert (result["status"], len(slow.messages)) == ("completed", 1)
        await house.whole(run)


async def test_a_client_that_shows_pages_is_sent_to_one(
    tmp_path: Path, era: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is decided there ends the waiting; that the page was opened decides nothing."""
    declared = ClientSession._build_capabilities

    def pages(session: ClientSession, *args: Any, **more: Any) -> ClientCapabilities:
        able = declared(session, *args, **more)
        return able.model_copy(update={"elicitation": ElicitationCapability(url=UrlElicitationCapability())})

    monkeypatch.setattr(ClientSession, "_build_capabilities", pages)  # the SDK always declares both kinds
    async with approving(tmp_path) as (house, run):
        shown = Shown()
        async with house.client(era, asked=shown) as client:
            handed = await called(client, "agent_execute", {**run.arguments, "wait_seconds": 2})
            assert handed["status"] == "waiting"
            (question,) = handed["questions"]
            assert shown.messages == [question["url"]]
            async with house.served.remote(TENANT) as remote:
                decided = {"execution_id": handed["execution_id"], "content": APPROVED}
                await remote.call("execution_resume", decided)
            result = await called(client, "execution_wait", {"execution_id": handed["execution_id"]})
        assert result["status"] == "completed"
        await house.whole(run)
