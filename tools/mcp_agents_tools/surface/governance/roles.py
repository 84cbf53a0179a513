"""The tools for roles: what each may do, who has it, giving and taking it."""

from typing import Annotated, ClassVar, Literal

from msgspec import Struct
from pydantic import Field

from mcp_agents.kernel.administration import Member
from mcp_agents.kernel.scopes import ROLES
from mcp_agents_tools.surface.governance.named import plugin
from mcp_agents_tools.surface.plugin import READS, Arguments, Call, Hints

RoleName = Literal["viewer", "operator", "developer", "admin", "auditor"]
Roles = Annotated[
    tuple[RoleName, ...], Field(min_length=1, max_length=5, description="viewer, operator, developer, admin, auditor.")
]
USER = Field(min_length=1, max_length=64, description="A member's id, as user_list shows it.")


class RoleChange(Arguments):
    """Whose roles, and which."""

    noted: ClassVar[tuple[str, ...]] = ("user_id", "roles")
    user_id: str = USER
    roles: Roles


class Nothing(Arguments):
    """No arguments."""


class RoleView(Struct, frozen=True, kw_only=True):
    """A role: the scopes it holds, and the members who have it."""

    name: str
    scopes: tuple[str, ...]
    members: tuple[str, ...]


class RoleTable(Struct, frozen=True, kw_only=True):
    """Every role."""

    roles: tuple[RoleView, ...]


@plugin.tool(
    "role_assign", title="Give a member roles", arguments=RoleChange, result=Member, hints=Hints(idempotent=True)
)
async def role_assign(call: Call, args: RoleChange) -> Member:
    """Adds roles to a member's. Nobody can give a role with more rights than they hold themselves."""
    return await call.services.administration.give_roles(call.principal, args.user_id, frozenset(args.roles))


@plugin.tool(
    "role_revoke",
    title="Take roles from a member",
    arguments=RoleChange,
    result=Member,
    hints=Hints(destructive=True, idempotent=True),
)
async def role_revoke(call: Call, args: RoleChange) -> Member:
    """Takes roles from a member, within five seconds everywhere, in runs under way too. The last administrator keeps
    the role admin."""
    return await call.services.administration.take_roles(call.principal, args.user_id, frozenset(args.roles))


@plugin.tool("role_list", title="List roles", arguments=Nothing, result=RoleTable, hints=READS)
async def role_list(call: Call, _args: Nothing) -> RoleTable:
    """Lists the roles there are, with their scopes and the members who have them."""
    members = [each for each in await call.services.administration.members(call.principal) if each.state != "invited"]
    return RoleTable(
        roles=tuple(
            RoleView(
                name=name,
                scopes=tuple(sorted(scopes)),
                members=tuple(member.id for member in members if name in member.roles),
            )
            for name, scopes in ROLES.items()
        )
    )
