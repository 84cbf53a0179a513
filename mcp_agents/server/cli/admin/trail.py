"""`audit`: read the audit trail of a tenant or of the platform, and see whether it is whole."""

import sys
from pathlib import Path

import click
import msgspec

from mcp_agents.kernel.ids import PLATFORM
from mcp_agents.security.audit import Wanted
from mcp_agents.server.cli.admin.acting import looking
from mcp_agents.server.cli.common import config_option, json_option, runs_async, show

_tenant_option = click.option("--tenant", default="", help="Whose trail; default: the platform's own.")


@click.group()
def audit() -> None:
    """Read and verify who administered what."""


@audit.command("list", epilog="Example: mcp-agents audit list --tenant acme --limit 20")
@config_option
@_tenant_option
@click.option("--act", default="", help="Only acts that begin with this.")
@click.option("--limit", type=click.IntRange(1, 10_000), default=50, show_default=True, help="How many, newest first.")
@json_option
@runs_async
async def list_entries(config: Path | None, tenant: str, act: str, limit: int, as_json: bool) -> None:
    """List entries, newest first."""
    async with looking(config) as house:
        found, _ = await house.auth.audit.entries(tenant or PLATFORM, Wanted(act=act), limit)
        lines = [
            f"{each.number:6} {each.at:%Y-%m-%d %H:%M:%S} {each.outcome:6} {each.act:20} {each.subject} {each.target}"
            for each in found
        ]
        show([msgspec.to_builtins(each) for each in found], as_json=as_json, text="\n".join(lines) or "No entries.")


@audit.command("verify", epilog="Example: mcp-agents audit verify --tenant acme --json")
@config_option
@_tenant_option
@json_option
@runs_async
async def verify(config: Path | None, tenant: str, as_json: bool) -> None:
    """See whether an entry was changed, removed, added or moved; ends with 1 if so."""
    async with looking(config) as house:
        found = await house.auth.audit.verify(tenant or PLATFORM)
    body = {"entries": found.entries, "last": found.last, "problems": list(found.problems)}
    said = "\n".join(found.problems) if found.problems else f"{found.entries} entries, whole. The last: {found.last}"
    show(body, as_json=as_json, text=said)
    if found.problems:
        sys.exit(1)
