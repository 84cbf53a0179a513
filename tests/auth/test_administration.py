"""A tenant's administrators: what they can give, whom they can put out, and that one of them stays."""

from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest
from mcp_agents_auth.administration import Lock
from mcp_agents_auth.users import User

from mcp_agents.kernel import ids
from mcp_agents.kernel.administration import ClientOrder
from mcp_agents.kernel.errors import AgentsError, Conflict, Denied, Invalid, NotFound, Unavailable
from mcp_agents.kernel.principal import Principal
from mcp_agents.kernel.scopes import ROLES, TENANT_SCOPES
from tests.auth.desk import PASSWORD, Desk, answer, build, platform
from tests.auth.test_client_assertions import KEY, public

ADMIN, VIEWER, OPERATOR = frozenset({"admin"}), frozenset({"viewer"}), frozenset({"operator"})


def caller(user: User | None = None, scopes: frozenset[str] = TENANT_SCOPES, **more: Any) -> Principal:
    """Somebody of `acme` with these rights."""
    return Principal(tenant="acme", subject=user.id if user else "somebody", scopes=scopes, **more)


async def member(desk: Desk, name: str, roles: frozenset[str] = VIEWER, tenant: str = "acme") -> User:
    """A new member."""
    return await desk.auth.users.create(f"{name}@acme.example", PASSWORD, tenant, roles)


Act = Callable[[Desk, Principal, str], Awaitable[object]]
GIVING: dict[str, Act] = {
    "an invitation": lambda desk, who, _: desk.auth.administration.invite(who, "new@acme.example", ADMIN),
    "a role": lambda desk, who, user: desk.auth.administration.give_roles(who, user, ADMIN),
    "a client's role": lambda desk, who, _: desk.auth.administration.register_client(
        who, ClientOrder(name="C", roles=("admin",), credentials=True)
    ),
    "a client's scope": lambda desk, who, _: desk.auth.administration.register_client(
        who, ClientOrder(name="C", scopes=("models:admin",), credentials=True)
    ),
}
CHANGING: dict[str, Act] = {
    **GIVING,
    "a title": lambda desk, who, _: desk.auth.administration.rename(who, "Another"),
    "a removal": lambda desk, who, user: desk.auth.administration.remove(who, user),
    "a suspension": lambda desk, who, user: desk.auth.administration.suspend(who, user, suspended=True),
    "a return": lambda desk, who, user: desk.auth.administration.suspend(who, user, suspended=False),
    "a role less": lambda desk, who, user: desk.auth.administration.take_roles(who, user, OPERATOR),
    "a client's end": lambda desk, who, _: desk.auth.administration.revoke_client(who, "cl_of_nobody"),
}


@pytest.mark.parametrize("what", GIVING)
async def test_nobody_gives_more_than_they_hold(desk: Desk, what: str) -> None:
    """Whoever administers people without holding everything cannot make an administrator, of a person or a program."""
    some = frozenset({"tenancy:admin", "governance:admin", *ROLES["developer"]})
    user = await member(desk, "eve", VIEWER | OPERATOR)
    with pytest.raises(Denied) as refused:
        await GIVING[what](desk, caller(scopes=some), user.id)
    assert refused.value.code == "RIGHTS_EXCEEDED"
    assert "models:admin" in refused.value.details["required_scopes"]
    await GIVING[what](desk, caller(), user.id)


@pytest.mark.parametrize("what", GIVING)
async def test_who_was_put_out_a_moment_ago_gives_nothing(desk: Desk, what: str) -> None:
    """Though their token still opens the door for five seconds: nobody makes themselves a way back in."""
    user, bob = await member(desk, "eve"), await member(desk, "bob", ADMIN)
    await desk.auth.administration.give_roles(caller(), desk.ada.id, VIEWER)
    token = (await desk.tokens(await desk.public_client()))["access_token"]
    ada = (await desk.auth.verifier.verify(token)).principal
    await desk.auth.administration.take_roles(caller(bob), desk.ada.id, ADMIN)
    late = (await desk.auth.verifier.verify(token)).principal
    assert "tenancy:admin" in late.scopes
    with pytest.raises(Denied) as refused:
        await GIVING[what](desk, ada, user.id)
    assert refused.value.code == "RIGHTS_EXCEEDED"


@pytest.mark.parametrize("what", CHANGING)
async def test_agents_do_not_administer(desk: Desk, what: str) -> None:
    """However many rights the person has for whom they act."""
    user = await member(desk, "eve", VIEWER | OPERATOR)
    before = (await desk.auth.users.list("acme"), await desk.auth.clients.list("acme"))
    with pytest.raises(Denied) as refused:
        await CHANGING[what](desk, caller(desk.ada, actors=(ids.mint("ag", desk.clock),)), user.id)
    assert refused.value.code == "ADMINISTRATION_NEEDS_PERSON"
    assert (await desk.auth.users.list("acme"), await desk.auth.clients.list("acme")) == before


LEAVING: dict[str, Act] = {
    "removed": lambda desk, who, user: desk.auth.administration.remove(who, user),
    "suspended": lambda desk, who, user: desk.auth.administration.suspend(who, user, suspended=True),
    "demoted": lambda desk, who, user: desk.auth.administration.take_roles(who, user, ADMIN),
}


@pytest.mark.parametrize("how", LEAVING)
async def test_the_last_administrator_stays(desk: Desk, how: str) -> None:
    """A suspended one does not count, nor one who is invited; as soon as there is another the first may go."""
    admin = desk.auth.administration
    await admin.give_roles(caller(), desk.ada.id, VIEWER)
    bob = await member(desk, "bob", ADMIN)
    await admin.suspend(caller(), bob.id, suspended=True)
    await admin.invite(caller(), "carol@acme.example", ADMIN)
    with pytest.raises(Conflict) as refused:
        await LEAVING[how](desk, caller(), desk.ada.id)
    assert refused.value.code == "LAST_ADMIN"
    assert "admin" in (await desk.auth.users.get(desk.ada.id)).roles("acme")
    await admin.suspend(caller(), bob.id, suspended=False)
    await LEAVING[how](desk, caller(), desk.ada.id)
    users = await desk.auth.users.list("acme")
    assert [user.id for user in users if "admin" in user.roles("acme")] == [bob.id]


@pytest.mark.parametrize("how", LEAVING)
async def test_two_administrators_who_put_each_other_out_do_not_both_succeed(desk: Desk, how: str) -> None:
    """Twenty times over two processes: somebody administers afterwards."""
    other = build(desk.store, desk.clock)
    admins = [desk.ada.id, (await member(desk, "bob", ADMIN | VIEWER)).id]
    await desk.auth.administration.give_roles(caller(), desk.ada.id, VIEWER)
    for user in admins:  # who is a member somewhere else too is not forgotten
        await desk.auth.users.set_roles(user, "elsewhere", VIEWER)
    done: list[str] = []

    async def put_out(desk: Any, user: str) -> None:
        try:
            await LEAVING[how](desk, caller(), user)
            done.append(user)
        except (Conflict, Unavailable):
            return

    for _ in range(20):
        done.clear()
        async with anyio.create_task_group() as both:
            both.start_soon(put_out, desk, admins[0])
            both.start_soon(put_out, _Elsewhere(other), admins[1])
        left = [user for user in await desk.auth.users.list("acme") if "admin" in user.roles("acme")]
        assert len(left) == 2 - len(done)
        assert left
        for user in done:
            await desk.auth.users.set_suspended(user, "acme", suspended=False)
            await desk.auth.users.set_roles(user, "acme", ADMIN | VIEWER)


class _Elsewhere:
    """The same desk at another process."""

    def __init__(self, auth: Any) -> None:
        self.auth = auth


async def test_a_lock_that_its_holder_left_behind_ends_by_itself(desk: Desk) -> None:
    """A process that dies while it changes an administrator stops the next one for ten seconds."""
    bob = await member(desk, "bob", ADMIN)
    locks = platform(desk.store, desk.clock).records("cb_auth", "administering", kind=Lock)
    await locks.create("acme", value=Lock(leaving="somebody"), ttl=10)
    with pytest.raises(Unavailable) as busy:
        await desk.auth.administration.remove(caller(), bob.id)
    assert busy.value.code == "BUSY"
    desk.clock.advance(11)
    await desk.auth.administration.remove(caller(), bob.id)


ENDS: dict[str, Act] = {
    "suspended": LEAVING["suspended"],
    "removed": LEAVING["removed"],
}


@pytest.mark.parametrize("how", ENDS)
async def test_who_is_put_out_is_out_within_five_seconds(desk: Desk, how: str) -> None:
    """Tokens, refresh tokens and the browser's next consent; another process hears of it as fast; and the same
    person's place in another tenant stays what it was."""
    other = build(desk.store, desk.clock)
    await desk.auth.tenants.create("other", "Other")
    await desk.auth.users.set_roles(desk.ada.id, "other", ADMIN)
    await member(desk, "bob", ADMIN)
    here, there = await desk.tokens(client := await desk.public_client()), await elsewhere(desk)
    for each in (desk.auth, other):
        await each.verifier.verify(here["access_token"])
    await ENDS[how](desk, caller(), desk.ada.id)
    desk.clock.advance(5)
    for each in (desk.auth, other):
        with pytest.raises(Denied):
            await each.verifier.verify(here["access_token"])
        await each.verifier.verify(there["access_token"])
    assert (await desk.refresh(client, here["refresh_token"])).json()["error"] == "invalid_grant"
    page = await desk.authorize(desk.query(await desk.public_client()))
    assert page.status_code != 200 or 'value="acme"' not in page.text


async def elsewhere(desk: Desk) -> dict[str, Any]:
    """Tokens of the signed-in person in the tenant `other`."""
    client = await desk.public_client("other")
    code = answer(await desk.consent(desk.query(client), tenant="other"))["code"]
    answered = await desk.redeem(client, code)
    assert answered.status_code == 200, answered.text
    tokens: dict[str, Any] = answered.json()
    return tokens


async def test_who_was_suspended_can_be_let_in_again(desk: Desk) -> None:
    """With the roles of before; what they held meanwhile works again, what was removed does not."""
    bob = await member(desk, "bob", OPERATOR)
    admin = desk.auth.administration
    assert (await admin.suspend(caller(), bob.id, suspended=True)).state == "suspended"
    back = await admin.suspend(caller(), bob.id, suspended=False)
    assert (back.state, back.roles) == ("active", ("operator",))
    await admin.remove(caller(), bob.id)
    with pytest.raises(NotFound):
        await admin.suspend(caller(), bob.id, suspended=False)


async def test_roles_are_added_and_taken_one_by_one(desk: Desk) -> None:
    """The last one stays: who is to have none is removed."""
    bob = await member(desk, "bob", VIEWER)
    admin = desk.auth.administration
    assert (await admin.give_roles(caller(), bob.id, OPERATOR)).roles == ("operator", "viewer")
    assert (await admin.take_roles(caller(), bob.id, VIEWER)).roles == ("operator",)
    with pytest.raises(Invalid) as refused:
        await admin.take_roles(caller(), bob.id, OPERATOR)
    assert refused.value.code == "ROLES_EMPTY"


async def test_twenty_roles_given_at_once_all_arrive(desk: Desk) -> None:
    """None overwrites another."""
    bob = await member(desk, "bob", VIEWER)
    async with anyio.create_task_group() as giving:
        for role in ("operator", "developer", "auditor", "admin") * 5:
            giving.start_soon(desk.auth.administration.give_roles, caller(), bob.id, frozenset({role}))
    assert (await desk.auth.users.get(bob.id)).roles("acme") == frozenset(ROLES)


OF_SOMEBODY_ELSE: dict[str, Act] = {
    name: act
    for name, act in {**LEAVING, **CHANGING}.items()
    if name not in ("an invitation", "a client's role", "a client's scope", "a title", "a client's end")
}


@pytest.mark.parametrize("what", OF_SOMEBODY_ELSE)
async def test_another_tenants_people_are_unknown(desk: Desk, what: str) -> None:
    """As if the id had never been; and nothing happens to them."""
    await desk.auth.tenants.create("other", "Other")
    mallory = await member(desk, "mallory", ADMIN, "other")
    refusals: list[tuple[str, str]] = []
    for user_id in (mallory.id, ids.mint("us", desk.clock)):
        with pytest.raises(NotFound) as refused:
            await OF_SOMEBODY_ELSE[what](desk, caller(), user_id)
        refusals.append((refused.value.code, refused.value.public))
    assert refusals[0] == refusals[1]
    assert await desk.auth.users.get(mallory.id) == mallory


async def test_a_client_signs_in_with_its_secret_and_is_out_within_five_seconds(desk: Desk) -> None:
    """Registered by an administrator, used, revoked."""
    order = ClientOrder(name="Program", roles=("operator",), credentials=True)
    made = await desk.auth.administration.register_client(caller(), order)
    asked = {
        "grant_type": "client_credentials", "client_id": made.client.id, "client_secret": made.client_secret,
    }  # fmt: skip
    token = (await desk.token(asked)).json()["access_token"]
    principal = (await desk.auth.verifier.verify(token)).principal
    assert principal.scopes == ROLES["operator"]
    assert not (await desk.auth.administration.revoke_client(caller(), made.client.id)).active
    desk.clock.advance(5)
    with pytest.raises(Denied):
        await desk.auth.verifier.verify(token)
    assert (await desk.token(asked)).json()["error"] == "invalid_client"


async def test_a_client_with_keys_has_no_secret(desk: Desk) -> None:
    """It signs assertions; naming keys is enough to make it a program."""
    keys = (public(KEY),)
    made = await desk.auth.administration.register_client(caller(), ClientOrder(name="P", roles=("viewer",), keys=keys))
    assert made.client_secret == ""
    assert made.client.grant_types == ("client_credentials",)
    client = await desk.auth.clients.get("acme", made.client.id)
    assert client.jwks == list(keys)
    assert not client.secret_digest


@pytest.mark.parametrize(
    "order",
    [
        ClientOrder(name="", roles=("viewer",), credentials=True),
        ClientOrder(name="P", roles=("viewer",)),
        ClientOrder(name="P", roles=("viewer",), redirect_uris=("http://example.org/cb",)),
        ClientOrder(name="P", scopes=("platform:admin",), credentials=True),
        ClientOrder(name="P", scopes=("nothing:read",), credentials=True),
        ClientOrder(name="P", roles=("viewer",), keys=({"kty": "oct", "k": "c2VjcmV0"},)),
    ],
    ids=["no name", "no redirect", "plain redirect", "platform", "unknown scope", "symmetric key"],
)
async def test_an_unfit_client_is_refused_whole(desk: Desk, order: ClientOrder) -> None:
    """Nothing of it is kept."""
    with pytest.raises(AgentsError):
        await desk.auth.administration.register_client(caller(), order)
    assert await desk.auth.clients.list("acme") == []


async def test_the_tenant_counts_who_can_sign_in(desk: Desk) -> None:
    """Suspended members and revoked clients are listed and not counted."""
    admin = desk.auth.administration
    desk.clock.advance(1)
    bob = await member(desk, "bob")
    await admin.suspend(caller(), bob.id, suspended=True)
    made = await admin.register_client(caller(), ClientOrder(name="P", roles=("viewer",), credentials=True))
    await admin.revoke_client(caller(), made.client.id)
    view = await admin.rename(caller(), "Acme and Sons")
    assert (view.title, view.members, view.clients) == ("Acme and Sons", 1, 0)
    assert [each.state for each in await admin.members(caller())] == ["active", "suspended"]
    assert [each.active for each in await admin.clients(caller())] == [False]
