"""`client`: register, list and revoke OAuth clients."""

import json
from pathlib import Path

import click
from mcp_agents_auth.client_keys import check_keys
from mcp_agents_auth.clients import JWT_BEARER, TOKEN_EXCHANGE, USER_GRANTS, GrantType

from mcp_agents.server.cli.admin.acting import acting, looking, roles_choice
from mcp_agents.server.cli.common import config_option, json_option, runs_async, show

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.group()
def client() -> None:
    """Register, list and revoke OAuth clients."""


@client.command("create", epilog="Example: mcp-agents client create ci --tenant acme --credentials --role operator")
@config_option
@click.argument("name")
@click.option("--tenant", default="default", show_default=True, help="The tenant it belongs to.")
@click.option("--redirect", "redirects", multiple=True, help="A redirect URI of a client that people sign in with.")
@click.option("--credentials", is_flag=True, help="A program that signs in as itself (client credentials).")
@click.option("--exchange", is_flag=True, help="A program that exchanges its callers' tokens (token exchange).")
@click.option("--identity", is_flag=True, help="A program whose people an identity provider names (ID-JAG).")
@click.option("--jwks", type=_FILE, help="Its public keys, no secret.")
@click.option("--role", "roles", type=roles_choice, multiple=True, default=("developer",), help="The most it may do.")
@json_option
@runs_async
async def create(
    config: Path | None,
    name: str,
    tenant: str,
    redirects: tuple[str, ...],
    credentials: bool,
    exchange: bool,
    identity: bool,
    jwks: Path | None,
    roles: tuple[str, ...],
    as_json: bool,
) -> None:
    """Register the client NAME; its secret, if it has one, is printed once."""
    keys = _keys(jwks)
    asked: dict[GrantType, bool] = {"client_credentials": credentials, TOKEN_EXCHANGE: exchange, JWT_BEARER: identity}
    grants = frozenset(name for name, wanted in asked.items() if wanted)
    said = f"name={name}, roles={', '.join(roles)}"
    async with acting(config, "client_create", said, tenant=tenant) as house:
        made, secret = await house.auth.clients.register(
            tenant,
            name,
            redirect_uris=redirects,
            grant_types=grants | (USER_GRANTS if redirects or not grants else frozenset()),
            roles=frozenset(roles),
            confidential=bool(grants or keys),
        )
        if keys:
            made, secret = await house.auth.clients.set_keys(tenant, made.id, keys), None
        body = {"client_id": made.id, "client_secret": secret, "tenant": tenant, "redirect_uris": list(redirects)}
        lines = [f"client_id      {made.id}", *([f"client_secret  {secret}   (shown once)"] if secret else [])]
        show(body, as_json=as_json, text="\n".join(lines))


def _keys(path: Path | None) -> list[dict[str, str]]:
    """The keys of a JWK set in a file, or of a single one; checked before anything is registered."""
    if path is None:
        return []
    try:
        said = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as cause:
        raise click.UsageError(f"{path} holds no JSON: {cause}") from cause
    found = said.get("keys", [said]) if isinstance(said, dict) else []
    keys = [each for each in found if isinstance(each, dict)]
    check_keys(keys)
    return keys


@client.command("list", epilog="Example: mcp-agents client list --tenant acme")
@config_option
@click.option("--tenant", default="default", show_default=True, help="Whose clients.")
@json_option
@runs_async
async def list_clients(config: Path | None, tenant: str, as_json: bool) -> None:
    """List a tenant's clients, without their secrets."""
    async with looking(config) as house:
        every = [
            {"client_id": each.id, "name": each.name, "grant_types": each.grant_types, "active": each.active}
            for each in await house.auth.clients.list(tenant)
        ]
        lines = [f"{each['client_id']}  {each['name']}" for each in every]
        show(every, as_json=as_json, text="\n".join(lines))


@client.command("revoke", epilog="Example: mcp-agents client revoke cl_… --tenant acme")
@config_option
@click.argument("client_id")
@click.option("--tenant", default="default", show_default=True, help="Whose client.")
@json_option
@runs_async
async def revoke(config: Path | None, client_id: str, tenant: str, as_json: bool) -> None:
    """Revoke a client: it gets no new tokens, and those it holds stop working within seconds."""
    async with acting(config, "client_revoke", client_id, tenant=tenant) as house:
        gone = await house.auth.clients.revoke(tenant, client_id)
        show({"client_id": gone.id, "revoked": True}, as_json=as_json, text=f"Revoked {gone.id}.")
