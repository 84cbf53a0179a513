"""Machines: client authentication and the client credentials grant."""

from base64 import b64encode

import pytest

from mcp_agents.kernel.errors import Conflict, Invalid, NotFound
from mcp_agents.kernel.scopes import PLATFORM_ADMIN, ROLES
from tests.auth.desk import RESOURCE, Desk

GRANT = {"grant_type": "client_credentials"}


def basic(client_id: str, secret: str) -> dict[str, dict[str, str]]:
    """The header of HTTP Basic."""
    return {"headers": {"authorization": "Basic " + b64encode(f"{client_id}:{secret}".encode()).decode()}}


async def test_a_secret_works_in_the_header_and_in_the_body(desk: Desk) -> None:
    """Both ways give a token whose subject is the client, without a refresh token."""
    client, secret = await desk.machine()
    by_header = await desk.token(GRANT, **basic(client.id, secret))
    by_body = await desk.token(GRANT | {"client_id": client.id, "client_secret": secret})
    for answered in (by_header, by_body):
        body = answered.json()
        assert "refresh_token" not in body
        principal = (await desk.auth.verifier.verify(body["access_token"])).principal
        assert (principal.tenant, principal.subject, principal.client) == ("acme", client.id, client.id)
        assert principal.scopes == ROLES["operator"]


async def test_a_wrong_secret_is_a_401_with_a_challenge(desk: Desk) -> None:
    """Wrong, empty, another client's and the stored digest itself are all refused."""
    client, secret = await desk.machine()
    _, others = await desk.machine()
    for wrong in (secret + "x", secret[:-1], others, client.secret_digest, ""):
        answered = await desk.token(GRANT, **basic(client.id, wrong))
        assert (answered.status_code, answered.json()["error"]) == (401, "invalid_client")
        assert answered.headers["www-authenticate"].startswith("Basic ")


async def test_a_confidential_client_cannot_pass_as_a_public_one(desk: Desk) -> None:
    """Its id alone proves nothing."""
    client, _ = await desk.machine()
    assert (await desk.token(GRANT | {"client_id": client.id})).status_code == 401


async def test_a_public_client_has_no_client_credentials(desk: Desk) -> None:
    """Neither by grant type nor with a made-up secret."""
    client = await desk.public_client()
    assert (await desk.token(GRANT | {"client_id": client.id})).json()["error"] == "unauthorized_client"
    made_up = await desk.token(GRANT | {"client_id": client.id, "client_secret": "cs_made-up"})
    assert made_up.json()["error"] == "invalid_client"


async def test_two_ways_of_authentication_at_once_are_refused(desk: Desk) -> None:
    """Header and body together, or two different ids, are an invalid request."""
    client, secret = await desk.machine()
    both = await desk.token(GRANT | {"client_id": client.id, "client_secret": secret}, **basic(client.id, secret))
    differing = await desk.token(GRANT | {"client_id": "cl_other"}, **basic(client.id, secret))
    assert [r.json()["error"] for r in (both, differing)] == ["invalid_request"] * 2


@pytest.mark.parametrize("header", ["Basic", "Basic !!!", "Basic bm9jb2xvbg==", "Bearer abc", "Basic /w==", "Basic =="])
async def test_a_malformed_header_is_a_failed_authentication(desk: Desk, header: str) -> None:
    """It is never an error of the server and never read as "no header"."""
    answered = await desk.token(GRANT, headers={"authorization": header})
    assert (answered.status_code, answered.json()["error"]) == (401, "invalid_client")


async def test_the_scope_is_what_was_asked_for_and_is_allowed(desk: Desk) -> None:
    """More than allowed is left out; only what is not allowed is an error."""
    client, secret = await desk.machine()
    some = await desk.token(GRANT | {"scope": "agents:read agents:write"}, **basic(client.id, secret))
    none = await desk.token(GRANT | {"scope": "agents:write nonsense"}, **basic(client.id, secret))
    assert some.json()["scope"] == "agents:read"
    assert none.json()["error"] == "invalid_scope"


async def test_the_resource_decides_the_audience(desk: Desk) -> None:
    """One of ours is used, any other is an invalid target."""
    client, secret = await desk.machine()
    ours = await desk.token(GRANT | {"resource": f"{RESOURCE}/all"}, **basic(client.id, secret))
    foreign = await desk.token(GRANT | {"resource": "https://evil.example"}, **basic(client.id, secret))
    assert (await desk.auth.verifier.verify(ours.json()["access_token"])).resource == f"{RESOURCE}/all"
    assert foreign.json()["error"] == "invalid_target"


async def test_a_suspended_tenants_machine_gets_no_token(desk: Desk) -> None:
    """And gets one again when the tenant is resumed."""
    client, secret = await desk.machine()
    await desk.auth.tenants.set_active("acme", active=False)
    assert (await desk.token(GRANT, **basic(client.id, secret))).json()["error"] == "unauthorized_client"
    await desk.auth.tenants.set_active("acme", active=True)
    assert (await desk.token(GRANT, **basic(client.id, secret))).status_code == 200


async def test_platform_admin_needs_the_operator_the_client_and_the_request(desk: Desk) -> None:
    """It cannot be registered by a tenant, and is not granted unless it is named."""
    scopes = frozenset({"agents:read", PLATFORM_ADMIN})
    with pytest.raises(Invalid):
        await desk.machine(roles=frozenset(), scopes=scopes)
    client, secret = await desk.machine(roles=frozenset(), scopes=scopes, allow_platform=True)
    silent = (await desk.token(GRANT, **basic(client.id, secret))).json()
    named = (await desk.token(GRANT | {"scope": PLATFORM_ADMIN}, **basic(client.id, secret))).json()
    assert (silent["scope"], named["scope"]) == ("agents:read", PLATFORM_ADMIN)
    assert (await desk.auth.verifier.verify(named["access_token"])).principal.allows(PLATFORM_ADMIN)
    plain, plain_secret = await desk.machine(roles=frozenset({"admin"}))
    refused = await desk.token(GRANT | {"scope": PLATFORM_ADMIN}, **basic(plain.id, plain_secret))
    assert refused.json()["error"] == "invalid_scope"


async def test_a_client_without_rights_cannot_be_registered(desk: Desk) -> None:
    """Nothing given never means everything."""
    with pytest.raises(Invalid):
        await desk.machine(roles=frozenset())


async def test_another_tenants_client_is_not_found(desk: Desk) -> None:
    """Reading and revoking across tenants read as if there were no such client."""
    client, secret = await desk.machine()
    await desk.auth.tenants.create("other")
    for attempt in (desk.auth.clients.get, desk.auth.clients.revoke):
        with pytest.raises(NotFound):
            await attempt("other", client.id)
    assert await desk.auth.clients.list("other") == []
    assert [known.id for known in await desk.auth.clients.list("acme")] == [client.id]
    assert (await desk.token(GRANT, **basic(client.id, secret))).status_code == 200


async def test_unknown_grants_and_missing_ones_are_told_apart(desk: Desk) -> None:
    """`password` is not supported, nothing is not a request."""
    client, secret = await desk.machine()
    assert (await desk.token({"grant_type": "password"}, **basic(client.id, secret))).json()["error"] == (
        "unsupported_grant_type"
    )
    assert (await desk.token({"a": "b"}, **basic(client.id, secret))).json()["error"] == "invalid_request"


async def test_a_tenant_is_made_once(desk: Desk) -> None:
    """The second creation under the same name is a conflict; a malformed name is invalid."""
    with pytest.raises(Conflict):
        await desk.auth.tenants.create("acme")
    for name in ("", "Acme", "a.b", "a" * 41, "acme\n"):
        with pytest.raises(Invalid):
            await desk.auth.tenants.create(name)
