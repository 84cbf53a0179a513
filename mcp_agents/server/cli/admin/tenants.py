"""`tenant`: create, list, suspend, resume and delete tenants."""

from pathlib import Path

import click

from mcp_agents.server.cli.admin.acting import acting, console, looking
from mcp_agents.server.cli.common import config_option, json_option, runs_async, show


@click.group()
def tenant() -> None:
    """Create, list, suspend, resume and delete tenants."""


@tenant.command("create", epilog="Example: mcp-agents tenant create acme --title 'Acme Inc.'")
@config_option
@click.argument("name")
@click.option("--title", default="", help="A name for people.")
@json_option
@runs_async
async def create(config: Path | None, name: str, title: str, as_json: bool) -> None:
    """Create the tenant NAME."""
    async with acting(config, "tenant_create", name) as house:
        made = await house.auth.tenants.create(name, title)
        show(made, as_json=as_json, text=f"Created tenant {made.name}. Next: mcp-agents token --tenant {made.name}")


@tenant.command("list", epilog="Example: mcp-agents tenant list --json")
@config_option
@json_option
@runs_async
async def list_tenants(config: Path | None, as_json: bool) -> None:
    """List the tenants."""
    async with looking(config) as house:
        every = await house.auth.tenants.list()
        lines = [f"{each.name:40} {each.state:10} {each.title}" for each in every]
        show(every, as_json=as_json, text="\n".join(lines))


@tenant.command("suspend", epilog="Example: mcp-agents tenant suspend acme")
@config_option
@click.argument("name")
@json_option
@runs_async
async def suspend(config: Path | None, name: str, as_json: bool) -> None:
    """Suspend the tenant NAME: its tokens stop working within seconds, its data stays."""
    async with acting(config, "tenant_suspend", name) as house:
        changed = await house.auth.tenants.set_active(name, active=False)
        show(changed, as_json=as_json, text=f"Tenant {name} is suspended.")


@tenant.command("resume", epilog="Example: mcp-agents tenant resume acme")
@config_option
@click.argument("name")
@json_option
@runs_async
async def resume(config: Path | None, name: str, as_json: bool) -> None:
    """Let the suspended tenant NAME in again."""
    async with acting(config, "tenant_resume", name) as house:
        changed = await house.auth.tenants.set_active(name, active=True)
        show(changed, as_json=as_json, text=f"Tenant {name} is active.")


@tenant.command("delete", epilog="Example: mcp-agents tenant delete acme --yes")
@config_option
@click.argument("name")
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
@runs_async
async def delete(config: Path | None, name: str, yes: bool, as_json: bool) -> None:
    """Delete the tenant NAME with everything it has, for good. Its members who are in no other tenant go too."""
    if not yes:
        click.confirm(f"Erase the tenant {name} and everything in it?", abort=True)
    async with looking(config) as house:
        await house.erasure.begin(name, console())
        await house.erasure.finish(name)
        show({"tenant": name, "erased": True}, as_json=as_json, text=f"Tenant {name} is erased.")
