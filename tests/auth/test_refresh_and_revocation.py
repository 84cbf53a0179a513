"""Refresh tokens rotate; whatever ends a grant ends every token of it."""

from collections.abc import Awaitable, Callable

import anyio
import httpx2
import pytest

from mcp_agents.kernel.errors import Denied
from tests.auth.desk import RESOURCE, Desk, build
from tests.support.clock import TestClock


async def test_a_refresh_gives_a_new_pair(desk: Desk) -> None:
    """The new access token works and the new refresh token goes on."""
    client = await desk.public_client()
    first = await desk.tokens(client)
    second = (await desk.refresh(client, first["refresh_token"])).json()
    assert second["refresh_token"] != first["refresh_token"]
    assert (await desk.auth.verifier.verify(second["access_token"])).principal.subject == desk.ada.id
    assert (await desk.refresh(client, second["refresh_token"])).status_code == 200


async def test_reusing_a_rotated_token_ends_the_family(desk: Desk) -> None:
    """The thief gets nothing, and what the owner holds is dead as well."""
    client = await desk.public_client()
    first = await desk.tokens(client)
    second = (await desk.refresh(client, first["refresh_token"])).json()
    desk.clock.advance(11)
    assert (await desk.refresh(client, first["refresh_token"])).json()["error"] == "invalid_grant"
    assert (await desk.refresh(client, second["refresh_token"])).json()["error"] == "invalid_grant"
    with pytest.raises(Denied):
        await desk.auth.verifier.verify(second["access_token"])


@pytest.mark.parametrize("seconds", [0, 10])
async def test_a_client_whose_answer_was_lost_gets_the_same_successor(desk: Desk, seconds: int) -> None:
    """Within ten seconds, from any process; the grant goes on with it."""
    client = await desk.public_client()
    first = await desk.tokens(client)
    second = (await desk.refresh(client, first["refresh_token"])).json()
    desk.clock.advance(seconds)
    again = (await desk.refresh(client, first["refresh_token"])).json()
    assert again["refresh_token"] == second["refresh_token"]
    assert (await desk.refresh(client, second["refresh_token"])).status_code == 200


async def test_the_grace_is_for_the_last_token_alone(desk: Desk) -> None:
    """Two rotations back is reuse, however fast."""
    client = await desk.public_client()
    first = await desk.tokens(client)
    second = (await desk.refresh(client, first["refresh_token"])).json()
    third = (await desk.refresh(client, second["refresh_token"])).json()
    assert (await desk.refresh(client, first["refresh_token"])).json()["error"] == "invalid_grant"
    assert (await desk.refresh(client, third["refresh_token"])).json()["error"] == "invalid_grant"


async def test_a_thief_in_the_grace_is_found_out_by_the_next_refresh(desk: Desk) -> None:
    """Both hold one token; whoever comes second with it ends the grant."""
    client = await desk.public_client()
    first = await desk.tokens(client)
    owners = (await desk.refresh(client, first["refresh_token"])).json()["refresh_token"]
    stolen = (await desk.refresh(client, first["refresh_token"])).json()["refresh_token"]
    assert owners == stolen
    thief = (await desk.refresh(client, stolen)).json()
    desk.clock.advance(60)
    assert (await desk.refresh(client, owners)).json()["error"] == "invalid_grant"
    assert (await desk.refresh(client, thief["refresh_token"])).json()["error"] == "invalid_grant"


async def test_a_successor_cannot_be_made_from_its_predecessor(desk: Desk, clock: TestClock) -> None:
    """Another master key makes another one."""
    client = await desk.public_client()
    first = await desk.tokens(client)
    other = build(desk.store, clock, master=b"x" * 32)
    family, found = await desk.auth.families.find_refresh(first["refresh_token"])
    ours = await desk.auth.families.rotate(first["refresh_token"], found, family)
    assert other.families._successor(first["refresh_token"]) != ours


async def test_twenty_refreshes_at_once_are_one(desk: Desk) -> None:
    """All get the same successor, and the grant goes on with it."""
    client = await desk.public_client()
    body = await desk.tokens(client)
    answers: list[httpx2.Response] = []

    async def refresh() -> None:
        answers.append(await desk.refresh(client, body["refresh_token"]))

    async with anyio.create_task_group() as tasks:
        for _ in range(20):
            tasks.start_soon(refresh)
    won = {answered.json()["refresh_token"] for answered in answers}
    assert len(won) == 1
    assert (await desk.refresh(client, won.pop())).status_code == 200


async def test_another_clients_refresh_token_is_refused_and_ends_the_grant(desk: Desk) -> None:
    """A refresh token in the wrong hands was stolen."""
    client, other = await desk.public_client(), await desk.public_client()
    body = await desk.tokens(client)
    assert (await desk.refresh(other, body["refresh_token"])).json()["error"] == "invalid_grant"
    assert (await desk.refresh(client, body["refresh_token"])).json()["error"] == "invalid_grant"


async def test_a_refresh_cannot_widen_the_scope_and_costs_nothing_when_it_tries(desk: Desk) -> None:
    """The refused token still works for what was granted, and for less."""
    client = await desk.public_client()
    body = await desk.tokens(client, scope="agents:read models:read")
    wider = await desk.refresh(client, body["refresh_token"], scope="agents:read agents:write")
    assert wider.json()["error"] == "invalid_scope"
    narrower = await desk.refresh(client, body["refresh_token"], scope="agents:read")
    assert narrower.json()["scope"] == "agents:read"


async def test_a_refresh_for_another_resource_is_an_invalid_target(desk: Desk) -> None:
    """The resource stays what was consented to."""
    client = await desk.public_client()
    body = await desk.tokens(client)
    refused = await desk.refresh(client, body["refresh_token"], resource=f"{RESOURCE}/all")
    assert refused.json()["error"] == "invalid_target"


@pytest.mark.parametrize(("days", "status"), [(29, 200), (30, 400)])
async def test_an_idle_refresh_token_lasts_thirty_days(desk: Desk, days: int, status: int) -> None:
    """Used a day before it still works, on the day it does not."""
    client = await desk.public_client()
    body = await desk.tokens(client)
    desk.clock.advance(days * 86400)
    assert (await desk.refresh(client, body["refresh_token"])).status_code == status


@pytest.mark.parametrize("which", ["access_token", "refresh_token"])
async def test_revoking_either_token_ends_both(desk: Desk, which: str) -> None:
    """RFC 7009 on one token of a grant makes the other one fail too."""
    client = await desk.public_client()
    body = await desk.tokens(client)
    await desk.auth.verifier.verify(body["access_token"])
    answered = await desk.http.post("/oauth/revoke", data={"client_id": client.id, "token": body[which]})
    assert answered.status_code == 200
    with pytest.raises(Denied):
        await desk.auth.verifier.verify(body["access_token"])
    assert (await desk.refresh(client, body["refresh_token"])).json()["error"] == "invalid_grant"


async def test_a_client_cannot_revoke_anothers_token(desk: Desk) -> None:
    """The answer is the same 200, the token lives on."""
    client, other = await desk.public_client(), await desk.public_client()
    body = await desk.tokens(client)
    for token in (body["access_token"], body["refresh_token"], "nonsense"):
        assert (await desk.http.post("/oauth/revoke", data={"client_id": other.id, "token": token})).status_code == 200
    assert (await desk.auth.verifier.verify(body["access_token"])).client_id == client.id


async def test_another_process_hears_of_a_revocation_within_five_seconds(desk: Desk) -> None:
    """A verifier that has just said yes says no five seconds later."""
    client = await desk.public_client()
    body = await desk.tokens(client)
    elsewhere = build(desk.store, desk.clock)
    await elsewhere.verifier.verify(body["access_token"])
    await desk.http.post("/oauth/revoke", data={"client_id": client.id, "token": body["access_token"]})
    desk.clock.advance(5)
    with pytest.raises(Denied):
        await elsewhere.verifier.verify(body["access_token"])


async def _suspend_tenant(desk: Desk, _client: str) -> None:
    await desk.auth.tenants.set_active("acme", active=False)


async def _suspend_user(desk: Desk, _client: str) -> None:
    await desk.auth.users.set_active(desk.ada.id, active=False)


async def _new_password(desk: Desk, _client: str) -> None:
    await desk.auth.users.set_password(desk.ada.id, "another long password")


async def _no_membership(desk: Desk, _client: str) -> None:
    await desk.auth.users.set_roles(desk.ada.id, "acme", frozenset())


async def _revoke_client(desk: Desk, client: str) -> None:
    await desk.auth.clients.revoke("acme", client)


@pytest.mark.parametrize("act", [_suspend_tenant, _suspend_user, _new_password, _no_membership, _revoke_client])
async def test_what_the_grant_stood_on_ends_it(desk: Desk, act: Callable[[Desk, str], Awaitable[None]]) -> None:
    """Tenant, user, password, membership and client: without one of them neither token works."""
    client = await desk.public_client()
    body = await desk.tokens(client)
    await desk.auth.verifier.verify(body["access_token"])
    await act(desk, client.id)
    desk.clock.advance(5)
    with pytest.raises(Denied):
        await desk.auth.verifier.verify(body["access_token"])
    assert (await desk.refresh(client, body["refresh_token"])).json()["error"] in ("invalid_grant", "invalid_client")


async def test_a_smaller_role_narrows_tokens_that_are_out_already(desk: Desk) -> None:
    """An admin who became a viewer cannot write with the admin's token."""
    body = await desk.tokens(await desk.public_client())
    assert (await desk.auth.verifier.verify(body["access_token"])).principal.allows("agents:write")
    await desk.auth.users.set_roles(desk.ada.id, "acme", frozenset({"viewer"}))
    desk.clock.advance(5)
    principal = (await desk.auth.verifier.verify(body["access_token"])).principal
    assert (principal.allows("agents:write"), principal.allows("agents:read")) == (False, True)
    assert principal.roles == {"viewer"}
