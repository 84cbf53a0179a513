"""Tokens of runs: whose they are, through whom, for one audience, and never wider than anything they came from."""

from typing import Any

import jwt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mcp_agents_auth.run_tokens import LIFE_SECONDS

from mcp_agents.kernel.errors import Denied
from mcp_agents.kernel.principal import Principal
from mcp_agents.kernel.scopes import PLATFORM_ADMIN, ROLES, TENANT_SCOPES
from tests.auth.desk import ISSUER, RESOURCE, Desk

FIRST, SECOND = "ag_06f0a1b2c3d4e5f6g7h8i9jkl0", "ag_06f0a1b2c3d4e5f6g7h8i9jkl1"
RUN = "ex_06f0a1b2c3d4e5f6g7h8i9jkl0"


async def asker(desk: Desk) -> Principal:
    """Ada, signed in, as the door makes her."""
    token = (await desk.tokens(await desk.public_client()))["access_token"]
    return (await desk.auth.verifier.verify(token)).principal


async def claims(desk: Desk, principal: Principal, **more: Any) -> dict[str, Any]:
    """What a run's token says, its signature checked with the published keys."""
    token = await desk.auth.identities.token(
        principal, **{"execution_id": RUN, "audience": "https://x.example", **more}
    )
    keys = jwt.PyJWKSet.from_dict(await desk.auth.signing.jwks())
    kid = jwt.get_unverified_header(token)["kid"]
    options = {"verify_exp": False, "verify_iat": False, "verify_nbf": False, "verify_aud": False}
    found: dict[str, Any] = jwt.decode(token, keys[kid].key, algorithms=["ES256"], options=options)
    return found


async def test_it_says_for_whom_through_whom_and_where(desk: Desk) -> None:
    """The innermost agent is the outermost actor; it lives five minutes; no roles are in it."""
    ada = await asker(desk)
    said = await claims(desk, ada.acting(FIRST).acting(SECOND))
    now = int(desk.clock.now().timestamp())
    assert (said["iss"], said["sub"], said["tenant"], said["sid"]) == (ISSUER, desk.ada.id, "acme", ada.grant)
    assert (said["aud"], said["execution_id"]) == ("https://x.example", RUN)
    assert said["act"] == {"sub": SECOND, "act": {"sub": FIRST}}
    assert (said["iat"], said["exp"]) == (now, now + LIFE_SECONDS)
    assert "roles" not in said


async def test_at_our_own_address_the_agents_act_and_cannot_administer(desk: Desk) -> None:
    """It is taken there as a token of the same grant, with the chain in it; anywhere else's is not."""
    ada = await asker(desk)
    token = await desk.auth.identities.token(ada.acting(FIRST), execution_id=RUN, audience=RESOURCE)
    principal = (await desk.auth.verifier.verify(token)).principal
    assert principal.actors == (FIRST,)
    assert principal.subject == desk.ada.id
    assert principal.scopes == {
        scope for scope in TENANT_SCOPES if not scope.endswith(":admin") and scope != "approvals:run"
    }
    elsewhere = await desk.auth.identities.token(ada.acting(FIRST), execution_id=RUN, audience="https://x.example/mcp")
    with pytest.raises(Denied):
        await desk.auth.verifier.verify(elsewhere)


async def test_it_ends_with_its_five_minutes_and_with_the_grant(desk: Desk) -> None:
    """Whichever is first; and none is made for a grant that was revoked."""
    ada = await asker(desk)
    token = await desk.auth.identities.token(ada.acting(FIRST), execution_id=RUN, audience=RESOURCE)
    desk.clock.advance(LIFE_SECONDS - 1)
    await desk.auth.verifier.verify(token)
    desk.clock.advance(1)
    with pytest.raises(Denied):
        await desk.auth.verifier.verify(token)
    second = await desk.auth.identities.token(ada.acting(FIRST), execution_id=RUN, audience=RESOURCE)
    await desk.auth.families.revoke(ada.grant, "test")
    desk.clock.advance(5)
    with pytest.raises(Denied):
        await desk.auth.verifier.verify(second)
    with pytest.raises(Denied) as refused:
        await desk.auth.identities.token(ada, execution_id=RUN, audience=RESOURCE)
    assert refused.value.code == "CALLER_REVOKED"


async def test_a_local_caller_has_no_grant_and_gets_none_into_the_house(desk: Desk) -> None:
    """Others may take its token; our own doors do not."""
    local = Principal(tenant="acme", subject="owner", scopes=TENANT_SCOPES).acting(FIRST)
    assert "sid" not in await claims(desk, local)
    token = await desk.auth.identities.token(local, execution_id=RUN, audience=RESOURCE)
    with pytest.raises(Denied):
        await desk.auth.verifier.verify(token)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    held=st.frozensets(st.sampled_from(sorted(TENANT_SCOPES | {PLATFORM_ADMIN}))),
    asked=st.frozensets(st.sampled_from([*sorted(TENANT_SCOPES), PLATFORM_ADMIN, "other:thing"])),
    roles=st.frozensets(st.sampled_from(sorted(ROLES)), min_size=1),
)
async def test_it_is_never_wider_than_anything_it_came_from(
    desk: Desk, held: frozenset[str], asked: frozenset[str], roles: frozenset[str]
) -> None:
    """Not than what the run was accepted with, than the person's roles now, or than what was asked for."""
    ada = await asker(desk)
    await desk.auth.users.set_roles(desk.ada.id, "acme", roles)
    desk.clock.advance(5)
    principal = Principal(
        tenant="acme", subject=ada.subject, scopes=held, client=ada.client, grant=ada.grant, actors=(FIRST,)
    )
    said = await claims(desk, principal, scope=" ".join(sorted(asked)))
    scopes = frozenset(said["scope"].split())
    allowed = frozenset[str]().union(*(ROLES[role] for role in roles))
    assert scopes <= held & allowed
    assert not asked or scopes <= asked
    assert not [scope for scope in scopes if scope.endswith(":admin") or scope == "approvals:run"]
    await desk.auth.users.set_roles(desk.ada.id, "acme", frozenset({"admin"}))
    desk.clock.advance(5)
