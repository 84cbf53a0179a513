"""`user`: people and their roles."""

from pathlib import Path

import click

from mcp_agents.kernel.ids import PLATFORM
from mcp_agents.kernel.principal import Principal
from mcp_agents.server.cli.admin.acting import acting, looking, roles_choice
from mcp_agents.server.cli.common import config_option, json_option, runs_async, show
from mcp_agents.server.compose import House

_tenant_option = click.option("--tenant", default="default", show_default=True, help="In which tenant.")


@click.group()
def user() -> None:
    """Create, list, suspend, resume and delete people; give them roles."""


@user.command("create", epilog="Example: mcp-agents user create ada@example.org --tenant acme --role developer")
@config_option
@click.argument("email")
@_tenant_option
@click.option("--role", "roles", type=roles_choice, multiple=True, default=("developer",), help="Repeatable.")
@json_option
@runs_async
async def create(config: Path | None, email: str, tenant: str, roles: tuple[str, ...], as_json: bool) -> None:
    """Create a person and print a one-time link with which they set their password."""
    async with acting(config, "user_create", f"roles={', '.join(roles)}", tenant=tenant) as house:
        made = await house.auth.users.create(email, None, tenant, frozenset(roles))
        link = f"{house.public_url}/oauth/sign-in?ticket={await house.auth.users.create_ticket(made)}"
        body = {"user_id": made.id, "email": made.email, "tenant": tenant, "roles": sorted(roles), "sign_in": link}
        show(body, as_json=as_json, text=f"Created {made.email} ({made.id}). First sign-in, within a day:\n  {link}")


@user.command("list", epilog="Example: mcp-agents user list --tenant acme")
@config_option
@_tenant_option
@json_option
@runs_async
async def list_users(config: Path | None, tenant: str, as_json: bool) -> None:
    """List a tenant's people."""
    async with looking(config) as house:
        every = [
            {"user_id": each.id, "email": each.email, "roles": sorted(each.roles(tenant)), "active": each.active}
            for each in await house.auth.users.list(tenant)
        ]
        lines = [f"{each['user_id']}  {each['email']:40} {', '.join(each['roles'])}" for each in every]  # type: ignore[arg-type]
        show(every, as_json=as_json, text="\n".join(lines))


@user.command("roles", epilog="Example: mcp-agents user roles us_… --tenant acme --role operator --role auditor")
@config_option
@click.argument("user_id")
@_tenant_option
@click.option("--role", "roles", type=roles_choice, multiple=True, help="Repeatable; none ends the membership.")
@json_option
@runs_async
async def set_roles(config: Path | None, user_id: str, tenant: str, roles: tuple[str, ...], as_json: bool) -> None:
    """Give a person exactly these roles in a tenant; without any, they are no member any more."""
    said = f"user_id={user_id}, roles={', '.join(roles)}"
    async with acting(config, "user_roles", said, tenant=tenant) as house:
        changed = await house.auth.users.set_roles(user_id, tenant, frozenset(roles))
        if not roles:
            await house.auth.families.revoke_of(tenant, user_id)
            await _forget(house, tenant, user_id)
        body = {"user_id": changed.id, "tenant": tenant, "roles": sorted(roles)}
        show(body, as_json=as_json, text=f"{changed.email} in {tenant}: {', '.join(sorted(roles)) or 'no member'}.")


@user.command("link", epilog="Example: mcp-agents user link us_…")
@config_option
@click.argument("user_id")
@json_option
@runs_async
async def link(config: Path | None, user_id: str, as_json: bool) -> None:
    """Print a one-time link with which a person sets a new password; every session and grant of theirs then ends."""
    async with acting(config, "user_link", user_id) as house:
        known = await house.auth.users.get(user_id)
        address = f"{house.public_url}/oauth/sign-in?ticket={await house.auth.users.create_ticket(known)}"
        show({"user_id": user_id, "sign_in": address}, as_json=as_json, text=f"Within a day, once:\n  {address}")


@user.command("suspend", epilog="Example: mcp-agents user suspend us_…")
@config_option
@click.argument("user_id")
@json_option
@runs_async
async def suspend(config: Path | None, user_id: str, as_json: bool) -> None:
    """Suspend a person in every tenant: sessions, grants and runs of theirs end within seconds."""
    await _set_active(config, user_id, active=False, as_json=as_json)


@user.command("resume", epilog="Example: mcp-agents user resume us_…")
@config_option
@click.argument("user_id")
@json_option
@runs_async
async def resume(config: Path | None, user_id: str, as_json: bool) -> None:
    """Let a suspended person in again; they sign in anew."""
    await _set_active(config, user_id, active=True, as_json=as_json)


@user.command("delete", epilog="Example: mcp-agents user delete us_… --yes")
@config_option
@click.argument("user_id")
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
@runs_async
async def delete(config: Path | None, user_id: str, yes: bool, as_json: bool) -> None:
    """Delete a person: every membership and grant ends, and the address is free. What their runs did stays."""
    if not yes:
        click.confirm(f"Delete {user_id}?", abort=True)
    async with acting(config, "user_delete", user_id) as house:
        gone = await house.auth.users.get(user_id)
        for name in gone.memberships:
            await house.auth.families.revoke_of(name, user_id)
        await house.auth.users.delete(user_id)
        for name in gone.memberships:
            await _forget(house, name, user_id)
        show({"user_id": user_id, "deleted": True}, as_json=as_json, text=f"Deleted {user_id}.")


async def _forget(house: House, tenant: str, user_id: str) -> None:
    """Erases what agents remember about somebody who is no member any more."""
    space = house.tenancy.of(Principal(tenant=tenant, subject=user_id, scopes=frozenset()))
    await house.services.memories.forget_user(space, user_id)


async def _set_active(config: Path | None, user_id: str, *, active: bool, as_json: bool) -> None:
    act = "user_resume" if active else "user_suspend"
    async with acting(config, act, user_id, tenant=PLATFORM) as house:
        changed = await house.auth.users.set_active(user_id, active=active)
        body = {"user_id": user_id, "active": active}
        show(body, as_json=as_json, text=f"{changed.email} is {'active' if active else 'suspended'}.")
