"""The plugin `tenancy`: the caller's own tenant, its people and its OAuth clients. Roles are with `governance`."""

from typing import Annotated, ClassVar

from msgspec import Struct
from pydantic import Field

from mcp_agents.kernel.administration import ClientOrder, ClientView, Invited, Member, Registered, TenantView
from mcp_agents.kernel.errors import NotFound
from mcp_agents_tools.surface import scopes
from mcp_agents_tools.surface.governance.roles import USER, Nothing, RoleName, Roles
from mcp_agents_tools.surface.plugin import READS, Arguments, Call, Hints, Plugin

plugin = Plugin("tenancy", title="Tenancy", scopes=scopes.TENANCY)

_CLIENT = Field(min_length=1, max_length=64, description="A client's id, as client_list shows it.")
_CHANGES = Hints(destructive=True, idempotent=True)


class TenantChange(Arguments):
    """What `tenant_update` takes."""

    noted: ClassVar[tuple[str, ...]] = ("title",)
    title: str = Field(min_length=1, max_length=100, description="The tenant's name for people.")


class Inviting(Arguments):
    """Whom to invite. The address is not in the audit trail; the invitation's id stands in the list of members."""

    noted: ClassVar[tuple[str, ...]] = ("roles",)
    email: str = Field(min_length=3, max_length=250, description="The person's e-mail address.")
    roles: Roles


class MemberRef(Arguments):
    """A member, or an open invitation."""

    noted: ClassVar[tuple[str, ...]] = ("user_id",)
    user_id: str = Field(min_length=1, max_length=64, description="The id of a member or of an invitation.")


class Suspending(Arguments):
    """Whom to suspend, or with `suspended` false to let in again."""

    noted: ClassVar[tuple[str, ...]] = ("user_id", "suspended")
    user_id: str = USER
    suspended: bool = Field(True, description="False lets a suspended member in again.")


class Registering(Arguments):
    """A new OAuth client. Without `credentials` people sign in with it, and it needs `redirect_uris`."""

    noted: ClassVar[tuple[str, ...]] = ("name", "roles", "scopes", "credentials")
    name: str = Field(min_length=1, max_length=100, description="Shown to people who are asked for consent.")
    redirect_uris: tuple[Annotated[str, Field(min_length=1, max_length=2048)], ...] = Field(
        (), max_length=16, description="Where the browser is sent back to."
    )
    roles: tuple[RoleName, ...] = Field((), max_length=5, description="The most it may do, as roles.")
    scopes: tuple[Annotated[str, Field(min_length=1, max_length=64)], ...] = Field(
        (), max_length=64, description="The most it may do, as scopes, besides its roles."
    )
    credentials: bool = Field(False, description="A program that signs in as itself, with a secret or a key.")
    keys: tuple[dict[str, str], ...] = Field(
        (), max_length=8, description="Its public keys as JWKs: then it has no secret and signs assertions instead."
    )


class ClientRef(Arguments):
    """Names a client."""

    noted: ClassVar[tuple[str, ...]] = ("client_id",)
    client_id: str = _CLIENT


class Members(Struct, frozen=True, kw_only=True):
    """Members, and then open invitations."""

    members: tuple[Member, ...]


class Clients(Struct, frozen=True, kw_only=True):
    """The tenant's clients, revoked ones too."""

    clients: tuple[ClientView, ...]


class Removed(Struct, frozen=True, kw_only=True):
    """Who is no member any more."""

    user_id: str


@plugin.tool("tenant_get", title="Get the tenant", arguments=Nothing, result=TenantView, hints=READS)
async def tenant_get(call: Call, _args: Nothing) -> TenantView:
    """Returns the tenant that you are signed in to."""
    return await call.services.administration.tenant(call.principal)


@plugin.tool(
    "tenant_update",
    title="Rename the tenant",
    arguments=TenantChange,
    result=TenantView,
    hints=Hints(idempotent=True),
)
async def tenant_update(call: Call, args: TenantChange) -> TenantView:
    """Gives the tenant another title. Its name, which stands in tokens and addresses, stays."""
    return await call.services.administration.rename(call.principal, args.title)


@plugin.tool("user_invite", title="Invite somebody", arguments=Inviting, result=Invited, hints=Hints())
async def user_invite(call: Call, args: Inviting) -> Invited:
    """Invites somebody to this tenant and returns a link, once, which you pass on: it is good for one acceptance within
    three days. Nothing is mailed. An older invitation of the same address ends."""
    return await call.services.administration.invite(call.principal, args.email, frozenset(args.roles))


@plugin.tool("user_list", title="List people", arguments=Nothing, result=Members, hints=READS)
async def user_list(call: Call, _args: Nothing) -> Members:
    """Lists the members of this tenant with their roles, and the open invitations."""
    return Members(members=tuple(await call.services.administration.members(call.principal)))


@plugin.tool("user_remove", title="Remove a member", arguments=MemberRef, result=Removed, hints=_CHANGES)
async def user_remove(call: Call, args: MemberRef) -> Removed:
    """Ends a membership, with every grant made in it, or withdraws an invitation. Runs of the person end at their next
    step, and what agents remember about the person is erased. The last administrator cannot be removed."""
    try:
        await call.services.administration.remove(call.principal, args.user_id)
    except NotFound:  # a removal that died halfway is completed
        await call.services.memories.forget_user(call.space, args.user_id)
        raise
    await call.services.memories.forget_user(call.space, args.user_id)
    return Removed(user_id=args.user_id)


@plugin.tool("user_suspend", title="Suspend a member", arguments=Suspending, result=Member, hints=_CHANGES)
async def user_suspend(call: Call, args: Suspending) -> Member:
    """Suspends a member of this tenant, or lets one in again; felt everywhere within five seconds, by open streams and
    runs under way too. The last administrator cannot be suspended."""
    return await call.services.administration.suspend(call.principal, args.user_id, suspended=args.suspended)


@plugin.tool("client_register", title="Register a client", arguments=Registering, result=Registered, hints=Hints())
async def client_register(call: Call, args: Registering) -> Registered:
    """Registers an OAuth client of this tenant, with at most your own rights. A secret is shown this once; a program
    that can sign should give `keys` instead."""
    order = ClientOrder(
        name=args.name,
        redirect_uris=args.redirect_uris,
        roles=args.roles,
        scopes=args.scopes,
        credentials=args.credentials,
        keys=args.keys,
    )
    return await call.services.administration.register_client(call.principal, order)


@plugin.tool("client_list", title="List clients", arguments=Nothing, result=Clients, hints=READS)
async def client_list(call: Call, _args: Nothing) -> Clients:
    """Lists the OAuth clients of this tenant, without their secrets."""
    return Clients(clients=tuple(await call.services.administration.clients(call.principal)))


@plugin.tool("client_revoke", title="Revoke a client", arguments=ClientRef, result=ClientView, hints=_CHANGES)
async def client_revoke(call: Call, args: ClientRef) -> ClientView:
    """Ends a client: it gets no new tokens, and those it holds stop working within five seconds."""
    return await call.services.administration.revoke_client(call.principal, args.client_id)
