"""`token`, `tenant`, `user`, `client`: administration on the data folder, beside a running server or without one."""

import json
from pathlib import Path

import click
from mcp_agents_auth.client_keys import check_keys
from mcp_agents_auth.clients import TOKEN_EXCHANGE, USER_GRANTS, GrantType

from mcp_agents.server.cli.common import config_option, json_option, public_url_of, runs_async, settings_of, show
from mcp_agents.server.compose import open_house

_CREDENTIALS = frozenset[GrantType]({"client_credentials"})
_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
_ROLES = click.Choice(["viewer", "operator", "developer", "admin", "auditor"])


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
    settings = settings_of(config)
    async with open_house(settings, public_url_of(settings)) as house:
        scopes = frozenset(scope.split()) or None
        issued = await house.auth.tokens.issue_direct(tenant, scopes, ttl=ttl, subject=subject)
        show(issued.as_response(), as_json=as_json, text=issued.access_token)


@click.group()
def tenant() -> None:
    """Create, list, suspend and resume tenants."""


@tenant.command("create", epilog="Example: mcp-agents tenant create acme --title 'Acme Inc.'")
@config_option
@click.argument("name")
@click.option("--title", default="", help="A name for people.")
@json_option
@runs_async
async def tenant_create(config: Path | None, name: str, title: str, as_json: bool) -> None:
    """Create the tenant NAME."""
    settings = settings_of(config)
    async with open_house(settings, public_url_of(settings)) as house:
        made = await house.auth.tenants.create(name, title)
        show(made, as_json=as_json, text=f"Created tenant {made.name}. Next: mcp-agents token --tenant {made.name}")


@tenant.command("list", epilog="Example: mcp-agents tenant list --json")
@config_option
@json_option
@runs_async
async def tenant_list(config: Path | None, as_json: bool) -> None:
    """List the tenants."""
    settings = settings_of(config)
    async with open_house(settings, public_url_of(settings)) as house:
        every = await house.auth.tenants.list()
        lines = [f"{each.name:40} {'active' if each.active else 'suspended':10} {each.title}" for each in every]
        show(every, as_json=as_json, text="\n".join(lines))


@tenant.command("suspend", epilog="Example: mcp-agents tenant suspend acme")
@config_option
@click.argument("name")
@click.option("--resume", is_flag=True, help="Resume instead of suspending.")
@json_option
@runs_async
async def tenant_suspend(config: Path | None, name: str, resume: bool, as_json: bool) -> None:
    """Suspend the tenant NAME: its tokens stop working within seconds, its data stays."""
    settings = settings_of(config)
    async with open_house(settings, public_url_of(settings)) as house:
        changed = await house.auth.tenants.set_active(name, active=resume)
        show(changed, as_json=as_json, text=f"Tenant {name} is {'active' if resume else 'suspended'}.")


@click.group()
def user() -> None:
    """Create and list people."""


@user.command("create", epilog="Example: mcp-agents user create ada@example.org --tenant acme --role developer")
@config_option
@click.argument("email")
@click.option("--tenant", default="default", show_default=True, help="The tenant to be a member of.")
@click.option("--role", "roles", type=_ROLES, multiple=True, default=("developer",), help="A role there; repeatable.")
@json_option
@runs_async
async def user_create(config: Path | None, email: str, tenant: str, roles: tuple[str, ...], as_json: bool) -> None:
    """Create a person and print a one-time link with which they set their password."""
    settings = settings_of(config)
    async with open_house(settings, public_url_of(settings)) as house:
        await house.auth.tenants.get(tenant)
        made = await house.auth.users.create(email, None, tenant, frozenset(roles))
        link = f"{house.public_url}/oauth/sign-in?ticket={await house.auth.users.create_ticket(made)}"
        body = {"user_id": made.id, "email": made.email, "tenant": tenant, "roles": sorted(roles), "sign_in": link}
        show(body, as_json=as_json, text=f"Created {made.email} ({made.id}). First sign-in, within a day:\n  {link}")


@user.command("list", epilog="Example: mcp-agents user list --tenant acme")
@config_option
@click.option("--tenant", default="default", show_default=True, help="Whose members.")
@json_option
@runs_async
async def user_list(config: Path | None, tenant: str, as_json: bool) -> None:
    """List a tenant's people."""
    settings = settings_of(config)
    async with open_house(settings, public_url_of(settings)) as house:
        every = [
            {"user_id": each.id, "email": each.email, "roles": sorted(each.roles(tenant)), "active": each.active}
            for each in await house.auth.users.list(tenant)
        ]
        lines = [f"{each['user_id']}  {each['email']:40} {', '.join(each['roles'])}" for each in every]  # type: ignore[arg-type]
        show(every, as_json=as_json, text="\n".join(lines))


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
@click.option(
    "--jwks", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Its public keys, no secret."
)
@click.option("--role", "roles", type=_ROLES, multiple=True, default=("developer",), help="The most it may do.")
@json_option
@runs_async
async def client_create(
    config: Path | None,
    name: str,
    tenant: str,
    redirects: tuple[str, ...],
    credentials: bool,
    exchange: bool,
    jwks: Path | None,
    roles: tuple[str, ...],
    as_json: bool,
) -> None:
    """Register the client NAME; its secret, if it has one, is printed once."""
    settings = settings_of(config)
    keys = _keys(jwks)
    grants = (_CREDENTIALS if credentials else frozenset()) | ({TOKEN_EXCHANGE} if exchange else frozenset())
    async with open_house(settings, public_url_of(settings)) as house:
        await house.auth.tenants.get(tenant)
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
async def client_list(config: Path | None, tenant: str, as_json: bool) -> None:
    """List a tenant's clients, without their secrets."""
    settings = settings_of(config)
    async with open_house(settings, public_url_of(settings)) as house:
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
async def client_revoke(config: Path | None, client_id: str, tenant: str, as_json: bool) -> None:
    """Revoke a client: it gets no new tokens, and those it holds stop working within seconds."""
    settings = settings_of(config)
    async with open_house(settings, public_url_of(settings)) as house:
        gone = await house.auth.clients.revoke(tenant, client_id)
        show({"client_id": gone.id, "revoked": True}, as_json=as_json, text=f"Revoked {gone.id}.")


@click.group()
def keys() -> None:
    """Rotate the keys that sign access tokens."""


@keys.command("rotate", epilog="Example: mcp-agents keys rotate")
@config_option
@json_option
@runs_async
async def keys_rotate(config: Path | None, as_json: bool) -> None:
    """Publish a new signing key, which signs in ten minutes; tokens of the old ones stay good."""
    settings = settings_of(config)
    async with open_house(settings, public_url_of(settings)) as house:
        kid = await house.auth.signing.rotate()
        show({"kid": kid}, as_json=as_json, text=f"The key {kid} is published and signs in ten minutes.")
