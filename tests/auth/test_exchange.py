"""Token exchange and introspection: only ever narrower, ended together, and nothing for strangers."""

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mcp_agents_auth.clients import TOKEN_EXCHANGE, Client
from mcp_agents_auth.tokens import ACCESS_TOKEN

from mcp_agents.kernel.errors import Denied
from mcp_agents.kernel.scopes import PLATFORM_ADMIN, ROLES, TENANT_SCOPES
from tests.auth.desk import ISSUER, RESOURCE, Desk

BROAD = ROLES["developer"]


async def middle(desk: Desk, tenant: str = "acme", **more: Any) -> tuple[Client, str]:
    """A client that may exchange tokens, with its secret."""
    more.setdefault("roles", frozenset({"developer"}))
    client, secret = await desk.auth.clients.register(
        tenant, "Middle", grant_types=frozenset({TOKEN_EXCHANGE}), confidential=True, **more
    )
    assert secret is not None
    return client, secret


async def exchanged(desk: Desk, who: tuple[Client, str], token: str, **changes: str) -> tuple[int, dict[str, Any]]:
    """What the token endpoint makes of a token."""
    parameters = {
        "grant_type": TOKEN_EXCHANGE, "client_id": who[0].id, "client_secret": who[1], "subject_token": token,
        "subject_token_type": ACCESS_TOKEN, **changes,
    }  # fmt: skip
    answered = await desk.token({name: value for name, value in parameters.items() if value})
    return answered.status_code, answered.json()


async def people_token(desk: Desk, scope: str = "") -> dict[str, Any]:
    """Ada's token through an app."""
    return await desk.tokens(await desk.public_client(), **({"scope": scope} if scope else {}))


async def test_a_client_acts_for_a_person_and_says_so(desk: Desk) -> None:
    """Same person, tenant and grant; narrower scopes; the chain of who acts; no refresh token."""
    subject = await people_token(desk, "executions:run agents:read tenancy:admin")
    who = await middle(desk)
    status, body = await exchanged(desk, who, subject["access_token"], scope="executions:run")
    assert (status, body["issued_token_type"], body["scope"]) == (200, ACCESS_TOKEN, "executions:run")
    assert "refresh_token" not in body
    token = await desk.auth.verifier.verify(body["access_token"])
    assert (token.principal.subject, token.principal.tenant) == (desk.ada.id, "acme")
    assert token.principal.actors == (who[0].id,)
    assert token.sid == (await desk.auth.verifier.verify(subject["access_token"])).sid
    other = await middle(desk)
    _, again = await exchanged(desk, other, body["access_token"])
    assert (await desk.auth.verifier.verify(again["access_token"])).principal.actors == (who[0].id, other[0].id)


async def test_a_token_is_exchanged_three_times_at_most(desk: Desk) -> None:
    """A fourth link is refused."""
    token = (await people_token(desk))["access_token"]
    for _ in range(3):
        status, body = await exchanged(desk, await middle(desk), token)
        assert status == 200
        token = body["access_token"]
    status, body = await exchanged(desk, await middle(desk), token)
    assert (status, body["error"]) == (400, "invalid_request")


async def test_revoking_the_grant_ends_every_token_that_came_from_it(desk: Desk) -> None:
    """Whoever exchanged it."""
    subject = await people_token(desk)
    _, body = await exchanged(desk, await middle(desk), subject["access_token"])
    first = await desk.auth.verifier.verify(body["access_token"])
    await desk.auth.service.end(first.sid)
    with pytest.raises(Denied):
        await desk.auth.verifier.verify(body["access_token"])


async def test_an_exchanged_token_lives_no_longer_than_its_source_and_a_quarter_of_an_hour(desk: Desk) -> None:
    """Whichever comes first."""
    subject = await people_token(desk)
    who = await middle(desk)
    assert (await exchanged(desk, who, subject["access_token"]))[1]["expires_in"] == 900
    desk.clock.advance(3600 - 100)
    assert (await exchanged(desk, who, subject["access_token"]))[1]["expires_in"] == 100


REFUSED: dict[str, tuple[dict[str, str], str]] = {
    "a wider scope": ({"scope": "executions:run agents:admin"}, "invalid_scope"),
    "a scope the client has not": ({"scope": "agents:read"}, "invalid_scope"),
    "platform": ({"scope": "platform:admin"}, "invalid_scope"),
    "another resource": ({"resource": "https://evil.example/mcp"}, "invalid_target"),
    "another audience": ({"audience": "https://evil.example"}, "invalid_target"),
    "two targets": ({"audience": f"{RESOURCE}/all", "resource": RESOURCE}, "invalid_target"),
    "no type": ({"subject_token_type": ""}, "invalid_request"),
    "an ID token": ({"subject_token_type": "urn:ietf:params:oauth:token-type:id_token"}, "invalid_request"),
    "a refresh token wanted": (
        {"requested_token_type": "urn:ietf:params:oauth:token-type:refresh_token"}, "invalid_request",
    ),
    "no token": ({"subject_token": ""}, "invalid_request"),
    "nonsense": ({"subject_token": "a.b.c"}, "invalid_request"),
    "an actor without a type": ({"actor_token": "a.b.c"}, "invalid_request"),
    "an actor that is nobody": ({"actor_token": "a.b.c", "actor_token_type": ACCESS_TOKEN}, "invalid_request"),
}  # fmt: skip


@pytest.mark.parametrize("which", REFUSED)
async def test_what_is_asked_for_too_much_is_refused(desk: Desk, which: str) -> None:
    """With the error the RFC has for it."""
    subject = await people_token(desk, "executions:run agents:read")
    who = await middle(desk, roles=frozenset(), scopes=frozenset({"executions:run"}))
    changes, error = REFUSED[which]
    status, body = await exchanged(desk, who, subject["access_token"], **changes)
    assert (status, body["error"]) == (400, error)


async def test_tokens_that_are_not_good_are_not_exchanged(desk: Desk) -> None:
    """Expired, revoked, of another tenant, a refresh token, one that was tampered with."""
    subject = await people_token(desk)
    who = await middle(desk)
    await desk.auth.tenants.create("globex")
    foreign = await middle(desk, "globex")
    for client, token in (
        (foreign, subject["access_token"]),
        (who, subject["refresh_token"]),
        (who, subject["access_token"] + "="),
        (who, subject["access_token"][:-2]),
        (who, (await desk.auth.tokens.issue_direct("globex")).access_token),
    ):
        status, body = await exchanged(desk, client, token)
        assert (status, body["error"]) == (400, "invalid_request"), token
    desk.clock.advance(3601)
    assert (await exchanged(desk, who, subject["access_token"]))[0] == 400


async def test_only_a_client_with_the_grant_exchanges(desk: Desk) -> None:
    """A public one, a machine without it, and one that does not prove itself are refused."""
    token = (await people_token(desk))["access_token"]
    machine = await desk.machine()
    assert (await exchanged(desk, machine, token))[1]["error"] == "unauthorized_client"
    public = await desk.public_client()
    assert (await exchanged(desk, (public, ""), token))[1]["error"] == "unauthorized_client"
    who = await middle(desk)
    assert (await exchanged(desk, (who[0], "cs_wrong"), token))[1]["error"] == "invalid_client"


SOME = st.frozensets(st.sampled_from(sorted(TENANT_SCOPES)), min_size=1, max_size=12)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(held=SOME, links=st.lists(st.tuples(SOME, SOME), min_size=1, max_size=3))
async def test_no_chain_is_wider_than_any_of_its_links(
    desk: Desk, held: frozenset[str], links: list[tuple[frozenset[str], frozenset[str]]]
) -> None:
    """Whatever each link holds and asks for: refused, or within all before it."""
    token = (await desk.auth.tokens.issue_direct("acme", held)).access_token
    for allowed, asked in links:
        who = await middle(desk, roles=frozenset(), scopes=allowed)
        status, body = await exchanged(desk, who, token, scope=" ".join(sorted(asked)))
        if status != 200:
            assert asked - held or not asked & allowed
            return
        granted = frozenset(body["scope"].split())
        assert granted <= held & allowed & asked
        token, held = body["access_token"], granted
        assert (await desk.auth.verifier.verify(token)).principal.scopes == granted


async def introspected(desk: Desk, who: tuple[Client, str], token: str) -> tuple[int, dict[str, Any]]:
    """What a client is told of a token."""
    data = {"token": token, "client_id": who[0].id, **({"client_secret": who[1]} if who[1] else {})}
    answered = await desk.http.post("/oauth/introspect", data=data)
    return answered.status_code, answered.json()


async def test_a_client_of_the_tenant_is_told_what_a_token_is_worth(desk: Desk) -> None:
    """Now, not when it was issued; and who acts."""
    machine = await desk.machine()
    subject = (await people_token(desk, "executions:run agents:read"))["access_token"]
    status, body = await introspected(desk, machine, subject)
    assert (status, body["active"], body["sub"], body["tenant"]) == (200, True, desk.ada.id, "acme")
    assert (body["iss"], body["aud"], body["scope"]) == (ISSUER, RESOURCE, "agents:read executions:run")
    _, narrow = await exchanged(desk, await middle(desk), subject)
    assert "act" in (await introspected(desk, machine, narrow["access_token"]))[1]
    await desk.auth.service.end((await desk.auth.verifier.verify(subject)).sid)
    assert await introspected(desk, machine, subject) == (200, {"active": False})


async def test_strangers_are_told_nothing(desk: Desk) -> None:
    """A foreign, refresh, broken or expired token is not active, and no word more; public clients may not ask."""
    await desk.auth.tenants.create("globex")
    issued = await people_token(desk)
    foreign, own = await desk.machine("globex"), await desk.machine()
    for who, token in ((foreign, issued["access_token"]), (own, issued["refresh_token"]), (own, "a.b.c")):
        assert await introspected(desk, who, token) == (200, {"active": False})
    desk.clock.advance(3601)
    assert await introspected(desk, own, issued["access_token"]) == (200, {"active": False})
    assert (await introspected(desk, (await desk.public_client(), ""), "x"))[1]["error"] == "unauthorized_client"
    assert (await introspected(desk, (own[0], "cs_wrong"), "x"))[0] == 401


async def test_nobody_hides_behind_another_actor(desk: Desk) -> None:
    """An actor's token has to be the asking client's own: `act` names who really acts."""
    subject = await people_token(desk, "executions:run")
    other, secret = await desk.machine()
    grant = {"grant_type": "client_credentials", "client_id": other.id, "client_secret": secret}
    theirs = (await desk.token(grant)).json()["access_token"]
    persons = (await people_token(desk, "executions:run"))["access_token"]
    who = await middle(desk, roles=frozenset(), scopes=frozenset({"executions:run"}))
    for actor in (theirs, persons):
        status, body = await exchanged(
            desk, who, subject["access_token"], actor_token=actor, actor_token_type=ACCESS_TOKEN
        )
        assert (status, body["error"]) == (400, "invalid_request")


async def test_platform_admin_is_exchanged_only_when_it_is_named(desk: Desk) -> None:
    """As with every other grant; a token without it comes of a request that names nothing."""
    more: dict[str, Any] = {"roles": frozenset(), "scopes": frozenset({"agents:read", PLATFORM_ADMIN})}
    client, secret = await desk.machine(allow_platform=True, **more)
    grant = {"grant_type": "client_credentials", "client_id": client.id, "client_secret": secret}
    subject = (await desk.token(grant | {"scope": f"agents:read {PLATFORM_ADMIN}"})).json()["access_token"]
    who = await middle(desk, allow_platform=True, **more)
    assert (await exchanged(desk, who, subject))[1]["scope"] == "agents:read"
    assert (await exchanged(desk, who, subject, scope=PLATFORM_ADMIN))[1]["scope"] == PLATFORM_ADMIN
