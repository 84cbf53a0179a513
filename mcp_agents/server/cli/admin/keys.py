"""`token` and `keys`: tokens for scripts, and the keys that sign tokens."""

from pathlib import Path

import click

from mcp_agents.server.cli.admin.acting import acting, looking, require_own_people
from mcp_agents.server.cli.common import config_option, json_option, runs_async, show


@click.command(epilog='Example: mcp-agents token --tenant acme --scope "executions:run agents:read" --json')
@config_option
@click.option("--tenant", default="default", show_default=True, help="The tenant it acts in.")
@click.option("--scope", default="", help="Scopes, separated by spaces; default: all of the tenant's own.")
@click.option("--ttl", type=int, default=3600, show_default=True, help="Seconds it lives.")
@click.option("--subject", default="operator", show_default=True, help="Who it stands for.")
@json_option
@runs_async
async def token(config: Path | None, tenant: str, scope: str, ttl: int, subject: str, as_json: bool) -> None:
    """Make a token for scripts."""
    async with looking(config) as house:  # the grant it opens is written down by itself
        require_own_people(house)
        scopes = frozenset(scope.split()) or None
        issued = await house.auth.tokens.issue_direct(tenant, scopes, ttl=ttl, subject=subject)
        show(issued.as_response(), as_json=as_json, text=issued.access_token)


@click.group()
def keys() -> None:
    """Rotate the keys that sign access tokens."""


@keys.command("rotate", epilog="Example: mcp-agents keys rotate")
@config_option
@click.option("--replace", is_flag=True, help="A key got out: end every other one, and all tokens, at once.")
@json_option
@runs_async
async def keys_rotate(config: Path | None, replace: bool, as_json: bool) -> None:
    """Publish a new signing key, which signs in ten minutes; tokens of the old ones stay good."""
    if replace:
        async with acting(config, "keys_replace") as house:
            kid = await house.auth.signing.replace()
            show({"kid": kid}, as_json=as_json, text=f"Only the key {kid} counts; clients refresh their tokens.")
        return
    async with acting(config, "keys_rotate") as house:
        kid = await house.auth.signing.rotate()
        show({"kid": kid}, as_json=as_json, text=f"The key {kid} is published and signs in ten minutes.")
