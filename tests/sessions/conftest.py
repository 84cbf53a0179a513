"""A served house with the model that recalls, and people who talk to it."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import httpx2
import pytest

from mcp_agents.kernel.scopes import TENANT_SCOPES
from tests.hostile.wire import Wire, browserless
from tests.sessions.recaller import Recaller, recaller
from tests.support.clock import AheadClock
from tests.support.served import Served, served

RULES = {"name": "rule-based", "litellm_model": "rule-based"}


@dataclass
class Talk:
    """A house, its model, and a tenant's owner."""

    house: Served
    model: Recaller
    clock: AheadClock
    http: httpx2.AsyncClient
    me: Wire

    async def somebody(self, subject: str, scope: str = "") -> Wire:
        """Another caller of the same tenant, with some scopes or all but the administrator's of sessions."""
        tokens = self.house.house.auth.tokens
        scopes = frozenset(scope.split()) or TENANT_SCOPES - {"sessions:admin"}
        return Wire(
            self.http, self.house.url, (await tokens.issue_direct("acme", scopes, subject=subject)).access_token
        )

    async def begin(self, wire: Wire | None = None, **more: Any) -> str:
        """A new session with the agent."""
        value = (await (wire or self.me).call("session_create", {"agent": "talker", **more})).value
        return str(value["session_id"])

    async def say(self, session: str, prompt: str, wire: Wire | None = None, **more: Any) -> dict[str, Any]:
        """One turn."""
        given = {"agent": "talker", "prompt": prompt, "session_id": session, **more}
        return (await (wire or self.me).call("agent_execute", given)).value

    async def seen(self, session: str) -> dict[str, Any]:
        """The session as it stands."""
        return (await self.me.call("session_get", {"session_id": session})).value


@pytest.fixture(scope="module")
async def talk(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Talk]:
    """One for a module."""
    clock = AheadClock()
    async with (
        recaller() as model,
        served(tmp_path_factory.mktemp("talk"), models=[model.settings, RULES], clock=clock) as house,
        browserless() as http,
    ):
        me = Wire(http, house.url, await house.token("acme"))
        agent = {"name": "talker", "system_prompt": "You talk.", "virtual_model": "recaller"}
        assert (await me.call("agent_create", agent)).good
        yield Talk(house, model, clock, http, me)
