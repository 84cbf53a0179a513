"""Invitations: one link, one membership, three days; nothing else comes of it."""

from datetime import timedelta

import anyio
import httpx2
import pytest
from mcp_agents_auth.invitations import LIFE

from mcp_agents.kernel import ids
from mcp_agents.kernel.administration import ClientOrder
from mcp_agents.kernel.errors import Conflict, Denied, NotFound
from mcp_agents.kernel.principal import Principal
from mcp_agents.kernel.scopes import TENANT_SCOPES
from tests.auth.desk import ISSUER, PASSWORD, Desk, build, hidden
from tests.support.clock import TestClock

VIEWER = frozenset({"viewer"})
CHOSEN = "a password of my own"


def ada(desk: Desk) -> Principal:
    """The administrator of `acme`."""
    return Principal(tenant="acme", subject=desk.ada.id, scopes=TENANT_SCOPES)


async def invited(desk: Desk, email: str, roles: frozenset[str] = VIEWER) -> str:
    """The path of a new invitation's link."""
    return (await desk.auth.administration.invite(ada(desk), email, roles)).link.removeprefix(ISSUER)


def token_of(link: str) -> str:
    """What a link proves itself with."""
    return link.partition("token=")[2]


async def accept(desk: Desk, link: str, password: str = CHOSEN) -> httpx2.Response:
    """Opens the link and answers its form."""
    page = await desk.http.get(link)
    assert page.status_code == 200, page.text
    form = {"csrf": hidden(page, "csrf"), "token": hidden(page, "token"), "password": password}
    return await desk.http.post("/oauth/invitation", data=form)


async def roles_of(desk: Desk, email: str) -> frozenset[str]:
    """What somebody may do in `acme`."""
    user = await desk.auth.users.find(email)
    return user.roles("acme") if user else frozenset()


async def test_somebody_new_chooses_a_password_and_is_in(desk: Desk) -> None:
    """With the roles of the invitation, signed in, and able to sign in again; the link is used up."""
    link = await invited(desk, "New@Acme.example", frozenset({"viewer", "operator"}))
    page = await desk.http.get(link)
    assert "Acme" in page.text
    assert "new@acme.example" in page.text
    assert "operator, viewer" in page.text
    assert (await accept(desk, link)).status_code == 200
    assert await roles_of(desk, "new@acme.example") == {"viewer", "operator"}
    assert (await desk.authorize(desk.query(await desk.public_client()))).status_code == 200
    assert (await desk.http.get(link)).status_code == 404
    assert (await desk.sign_in("new@acme.example", CHOSEN)).status_code == 200
    states = {each.email: each.state for each in await desk.auth.administration.members(ada(desk))}
    assert states == {"ada@acme.example": "active", "new@acme.example": "active"}


async def test_somebody_known_proves_it_and_keeps_what_they_had(desk: Desk) -> None:
    """The password they have is asked for, not a new one; the other membership stays."""
    await desk.auth.tenants.create("other")
    bob = await desk.auth.users.create("bob@other.example", PASSWORD, "other", frozenset({"admin"}))
    link = await invited(desk, "bob@other.example")
    wrong = await accept(desk, link, "not bob's password")
    assert wrong.status_code == 401
    assert await roles_of(desk, "bob@other.example") == frozenset()
    assert (await accept(desk, link, PASSWORD)).status_code == 200
    after = await desk.auth.users.get(bob.id)
    assert after.memberships == {"other": ["admin"], "acme": ["viewer"]}
    assert (after.password, after.generation) == (bob.password, bob.generation)


async def test_guessing_a_known_persons_password_is_bounded_here_too(desk: Desk) -> None:
    """An invitation is no way around the ten tries."""
    await desk.auth.tenants.create("other")
    await desk.auth.users.create("bob@other.example", PASSWORD, "other", VIEWER)
    link = await invited(desk, "bob@other.example")
    statuses = [(await accept(desk, link, f"guess number {number}")).status_code for number in range(12)]
    assert statuses == [401] * 10 + [429] * 2
    assert (await accept(desk, link, PASSWORD)).status_code == 429


async def test_twenty_acceptances_at_once_are_one(desk: Desk) -> None:
    """Over two processes: one person, one membership, everybody else is told that it is used up."""
    token, other = token_of(await invited(desk, "new@acme.example")), build(desk.store, desk.clock)
    made, codes = list[str](), set[str]()

    async def one(number: int) -> None:
        invitations = (desk.auth if number % 2 else other).invitations
        try:
            made.append((await invitations.accept(token, f"{CHOSEN} {number}")).id)
        except Denied as late:
            codes.add(late.code)

    async with anyio.create_task_group() as everybody:
        for number in range(20):
            everybody.start_soon(one, number)
    assert len(made) == 1
    assert codes <= {"INVITATION_INVALID", "SIGN_IN_FAILED"}
    assert [user.id for user in await desk.auth.users.list("acme") if user.email == "new@acme.example"] == made


@pytest.mark.parametrize(("seconds", "status"), [(-1, 200), (0, 404), (1, 404)])
async def test_it_lasts_three_days(desk: Desk, seconds: int, status: int) -> None:
    """To the second."""
    link = await invited(desk, "new@acme.example")
    desk.clock.advance((LIFE + timedelta(seconds=seconds)).total_seconds())
    assert (await desk.http.get(link)).status_code == status
    listed = await desk.auth.administration.members(ada(desk))
    assert ("invited" in [each.state for each in listed]) == (status == 200)


async def test_whoever_withdraws_it_ends_the_link(desk: Desk) -> None:
    """By the invitation's id, as the list shows it; twice is once too often."""
    link = await invited(desk, "new@acme.example")
    (open_one,) = [each for each in await desk.auth.administration.members(ada(desk)) if each.state == "invited"]
    await desk.auth.administration.remove(ada(desk), open_one.id)
    assert (await desk.http.get(link)).status_code == 404
    with pytest.raises(NotFound):
        await desk.auth.administration.remove(ada(desk), open_one.id)


async def test_a_second_invitation_ends_the_first(desk: Desk) -> None:
    """So there is one open one for each address, with the roles that were meant last."""
    first = await invited(desk, "new@acme.example", frozenset({"admin"}))
    second = await invited(desk, "NEW@acme.example")
    assert (await desk.http.get(first)).status_code == 404
    await accept(desk, second)
    assert await roles_of(desk, "new@acme.example") == VIEWER


async def test_a_member_is_not_invited(desk: Desk) -> None:
    """A suspended one neither: that would be a way back in."""
    with pytest.raises(Conflict):
        await invited(desk, "ada@acme.example")
    bob = await desk.auth.users.create("bob@acme.example", PASSWORD, "acme", VIEWER)
    await desk.auth.administration.suspend(ada(desk), bob.id, suspended=True)
    with pytest.raises(Conflict):
        await invited(desk, "bob@acme.example")


@pytest.mark.parametrize("how", ["removed", "suspended"])
async def test_what_somebody_gave_ends_with_them(desk: Desk, how: str) -> None:
    """An administrator who is put out does not come back through an invitation that they gave."""
    bob = await desk.auth.users.create("bob@acme.example", PASSWORD, "acme", frozenset({"admin"}))
    his = Principal(tenant="acme", subject=bob.id, scopes=TENANT_SCOPES)
    link = (await desk.auth.administration.invite(his, "friend@acme.example", frozenset({"admin"}))).link
    if how == "removed":
        await desk.auth.administration.remove(ada(desk), bob.id)
    else:
        await desk.auth.administration.suspend(ada(desk), bob.id, suspended=True)
    assert (await desk.http.get(link.removeprefix(ISSUER))).status_code == 404


async def test_who_could_not_give_it_any_more_lets_nobody_in(desk: Desk) -> None:
    """A demoted administrator does not come back through an invitation of before."""
    bob = await desk.auth.users.create("bob@acme.example", PASSWORD, "acme", frozenset({"admin", "viewer"}))
    his = Principal(tenant="acme", subject=bob.id, scopes=TENANT_SCOPES)
    link = (await desk.auth.administration.invite(his, "second@acme.example", frozenset({"admin"}))).link
    await desk.auth.administration.take_roles(ada(desk), bob.id, frozenset({"admin"}))
    assert (await desk.http.get(link.removeprefix(ISSUER))).status_code == 404


async def test_what_a_program_gave_ends_with_the_program(desk: Desk) -> None:
    """A client that is revoked leaves no open invitation behind."""
    order = ClientOrder(name="C", roles=("admin",), credentials=True)
    made = await desk.auth.administration.register_client(ada(desk), order)
    its = Principal(tenant="acme", subject=made.client.id, scopes=TENANT_SCOPES)
    link = (await desk.auth.administration.invite(its, "friend@acme.example", frozenset({"admin"}))).link
    assert (await desk.http.get(link.removeprefix(ISSUER))).status_code == 200
    await desk.auth.administration.revoke_client(ada(desk), made.client.id)
    assert (await desk.http.get(link.removeprefix(ISSUER))).status_code == 404


async def test_a_tenant_that_is_suspended_takes_nobody_in(desk: Desk) -> None:
    """The link works again when the tenant does."""
    link = await invited(desk, "new@acme.example")
    await desk.auth.tenants.set_active("acme", active=False)
    assert (await desk.http.get(link)).status_code == 404
    await desk.auth.tenants.set_active("acme", active=True)
    assert (await desk.http.get(link)).status_code == 200


async def test_a_short_password_costs_nothing(desk: Desk) -> None:
    """The form says so, and the link is still good."""
    link = await invited(desk, "new@acme.example")
    assert (await accept(desk, link, "short")).status_code == 400
    assert (await accept(desk, link)).status_code == 200


FORGED = {
    "no secret": lambda token: token.partition(".")[0],
    "no id": lambda token: token.partition(".")[2],
    "another secret": lambda token: token[:-1] + ("A" if token[-1] != "A" else "B"),
    "another id": lambda token: f"{ids.mint('inv', TestClock())}.{token.partition('.')[2]}",
    "upper case": lambda token: token.upper(),
    "a wildcard": lambda token: "*." + token.partition(".")[2],
    "nothing": lambda _: "",
    "a null": lambda token: f"{token}%00",
}


@pytest.mark.parametrize("forged", FORGED)
async def test_no_other_link_opens_it(desk: Desk, forged: str) -> None:
    """Each reads like a link that never was; the real one goes on working."""
    link = await invited(desk, "new@acme.example")
    base, _, token = link.partition("token=")
    answered = await desk.http.get(f"{base}token={FORGED[forged](token)}")
    never = await desk.http.get("/oauth/invitation?token=inv_06f0a1b2c3d4e5f6g7h8i9jkln.never")
    assert (answered.status_code, answered.text) == (404, never.text)
    assert (await desk.http.get(link)).status_code == 200


async def test_the_form_of_another_browser_is_refused(desk: Desk) -> None:
    """Nobody is made to accept from elsewhere."""
    link = await invited(desk, "new@acme.example")
    page = await desk.http.get(link)
    form = {"csrf": hidden(page, "csrf"), "token": hidden(page, "token"), "password": CHOSEN}
    desk.http.cookies.clear()
    assert (await desk.http.post("/oauth/invitation", data=form)).status_code == 403
    assert await roles_of(desk, "new@acme.example") == frozenset()


async def test_the_link_is_stored_nowhere(desk: Desk) -> None:
    """Whoever reads the store can accept nothing."""
    token = token_of(await invited(desk, "new@acme.example"))
    secret = token.partition(".")[2].encode()
    stored = [cell.record.value for cell in desk.store._cells.values()]
    assert any(b"new@acme.example" in value for value in stored)
    assert not any(secret in value for value in stored)
