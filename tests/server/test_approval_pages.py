"""Deciding in a browser: signed in, with the right, by the page's own form, once."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest

from tests.execution.scripted import TENANT, Scripted, scripted
from tests.support.browser import Browser
from tests.support.provider import Call, Step

pytestmark = pytest.mark.anyio

PASSWORD = "correct horse battery"
ODD = '{"text": "<script>alert(1)</script>\\u202e"}'
STEPS = [
    Step(when="<q>", turn=0, times=0, calls=[Call(name="demo__reverse_text", arguments=ODD)]),
    Step(when="<q>", turn=1, times=0, text="Done."),
]


@asynccontextmanager
async def asked(folder: Path, **rule: Any) -> AsyncIterator[tuple[Scripted, str, dict[str, Any]]]:
    """A house with a run that waits: the house, the run's id, and its question."""
    async with scripted(folder, *STEPS) as house:
        policy = {"approvals": [rule]}
        await house.remote.call(
            "agent_create", {"name": "worker", "virtual_model": "scripted", "tools": ["demo/*"], "policy": policy}
        )
        run = await house.remote.call("agent_submit", {"agent": "worker", "prompt": "<q>"})
        with anyio.fail_after(20):
            while run["status"] != "waiting":
                run = await house.remote.call("execution_get", {"execution_id": run["execution_id"]})
        yield house, run["execution_id"], run["questions"][0]


async def person(house: Scripted, email: str, role: str, tenant: str = TENANT) -> None:
    """Somebody who can sign in."""
    await house.served.house.auth.users.create(email, PASSWORD, tenant, frozenset({role}))


async def signed_in(http: httpx2.AsyncClient, url: str, email: str) -> Browser:
    """A browser that opened the link and signed in on the way."""
    browser = Browser(http)
    await browser.open(url)
    await browser.submit(browser.form(), email=email, password=PASSWORD)
    return browser


@pytest.mark.parametrize(("decision", "state"), [("approve", "done"), ("refuse", "failed")])
async def test_a_person_opens_the_link_signs_in_and_decides(tmp_path: Path, decision: str, state: str) -> None:
    """The page shows the call as text, and the run goes on; the link is worth nothing afterwards."""
    async with asked(tmp_path) as (house, execution_id, question), httpx2.AsyncClient() as http:
        await person(house, "bob@example.com", "operator")
        browser = await signed_in(http, question["url"], "bob@example.com")
        assert browser.url == question["url"]
        assert "<script" not in browser.page
        assert "\u202e" not in browser.page
        assert "demo__reverse_text" in browser.page
        await browser.submit(browser.form(), decision=decision, reason="as agreed")
        run = await house.remote.call("execution_wait", {"execution_id": execution_id})
        assert [call["state"] for call in run["tool_calls"]] == [state]
        ended = await http.get(question["url"])
        assert "Nothing to decide" in ended.text
        for name, value in (("X-Frame-Options", "DENY"), ("Cache-Control", "no-store")):
            assert ended.headers[name] == value
        assert "frame-ancestors 'none'" in ended.headers["Content-Security-Policy"]
        events = await house.events(execution_id)
    (said,) = [event["body"] for event in events if event["type"] == "approval_decided"]
    assert said["reason"] == "as agreed"


async def test_without_the_pages_own_form_nothing_is_decided(tmp_path: Path) -> None:
    """No token, another page's token, no session: refused, and the question stays open."""
    async with asked(tmp_path) as (house, execution_id, question), httpx2.AsyncClient() as http:
        await person(house, "bob@example.com", "operator")
        other = question["url"][:-1] + ("0" if question["url"][-1] != "0" else "1")
        browser = await signed_in(http, question["url"], "bob@example.com")
        token = browser.form().fields["csrf"]
        assert (await http.post(question["url"], data={"decision": "approve"})).status_code == 403
        assert (await http.post(other, data={"decision": "approve", "csrf": token})).status_code == 403
        http.cookies.clear()
        assert (await http.post(question["url"], data={"decision": "approve", "csrf": token})).status_code == 403
        run = await house.remote.call("execution_get", {"execution_id": execution_id})
    assert [each["id"] for each in run["questions"]] == [question["id"]]


async def test_strangers_and_viewers_decide_nothing(tmp_path: Path) -> None:
    """Of another tenant it reads as not there; without the right it says so."""
    async with asked(tmp_path) as (house, execution_id, question), httpx2.AsyncClient() as http:
        await house.served.house.auth.tenants.create("other")
        await person(house, "eve@example.com", "admin", "other")
        await person(house, "vic@example.com", "viewer")
        stranger = await signed_in(http, question["url"], "eve@example.com")
        ghost = question["url"].replace(question["id"], "apr_" + "0" * 26)
        assert "There is no such approval." in stranger.page
        assert (await http.get(ghost)).text == (await http.get(question["url"])).text
        http.cookies.clear()
        viewer = await signed_in(http, question["url"], "vic@example.com")
        assert "approvals:run" in viewer.page
        run = await house.remote.call("execution_get", {"execution_id": execution_id})
    assert run["status"] == "waiting"


async def test_the_tools_find_and_decide_it_too(tmp_path: Path) -> None:
    """Listed by agent, decided by id alone, once."""
    async with asked(tmp_path) as (house, execution_id, question):
        listed = await house.remote.call("approval_list", {"agent": "worker"})
        assert [each["id"] for each in listed["approvals"]] == [question["id"]]
        assert listed["approvals"][0]["execution_id"] == execution_id
        await house.remote.call("approval_decide", {"approval_id": question["id"], "approve": False, "reason": "no"})
        with pytest.raises(Exception, match="QUESTION_ANSWERED"):
            await house.remote.call("approval_decide", {"approval_id": question["id"], "approve": True})
        await house.remote.call("execution_wait", {"execution_id": execution_id})
        assert (await house.remote.call("approval_list", {}))["approvals"] == []
        done = await house.remote.call("approval_list", {"status": "done"})
    assert [(each["status"], each["reason"]) for each in done["approvals"]] == [("refused", "no")]
