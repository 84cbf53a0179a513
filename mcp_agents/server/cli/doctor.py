"""`doctor`: looks at everything a server needs and says what to do about what is missing."""

import importlib.util
import shutil
import sys
from collections.abc import AsyncIterator
from datetime import datetime
from pathlib import Path

import click
import msgspec
from mcp_agents_auth.issuer_keys import IssuerKeys
from msgspec import Struct
from rich.markup import escape

from mcp_agents.kernel.errors import AgentsError
from mcp_agents.kernel.principal import Principal
from mcp_agents.kernel.scopes import TENANT_SCOPES
from mcp_agents.server.cli.common import config_option, json_option, out, public_url_of, runs_async, settings_of
from mcp_agents.server.compose import House, open_house
from mcp_agents.server.config import Settings, environment
from mcp_agents.server.listening import listen

_DISK_FLOOR = 1024**3


class Finding(Struct, frozen=True):
    """One thing looked at; `advice` is empty when it is good."""

    what: str
    good: bool
    found: str
    advice: str = ""


@click.command(epilog="Example: mcp-agents doctor --json")
@config_option
@json_option
@runs_async
async def doctor(config: Path | None, as_json: bool) -> None:
    """Check settings, disk, keys, NATS, models, tool servers, clocks and the port."""
    findings = [finding async for finding in _examine(config)]
    if as_json:
        click.echo(msgspec.json.encode(findings).decode())
    else:
        for finding in findings:
            mark = "[green]good[/green]" if finding.good else "[red]mend[/red]"
            out.print(f"{mark}  {escape(finding.what):14} {escape(finding.found)}")
            if finding.advice:
                out.print(f"      [dim]{escape(finding.advice)}[/dim]")
    if not all(finding.good for finding in findings):
        sys.exit(1)


async def _examine(config: Path | None) -> AsyncIterator[Finding]:
    try:
        settings = settings_of(config)
    except AgentsError as error:
        yield Finding("settings", False, error.public, error.next_step)
        return
    yield Finding("settings", True, f"data folder {settings.data_dir}")
    yield _disk(settings)
    yield _port(settings)
    for model in settings.models:
        known = not model.api_key_env or bool(environment().get(model.api_key_env))
        advice = "" if known else f"Set {model.api_key_env}."
        yield Finding(f"model {model.name}", known, model.litellm_model, advice)
    if not settings.models:
        yield Finding("models", True, "none configured: the built-in rule-based model answers (it is no LLM)")
    yield Finding("litellm", importlib.util.find_spec("litellm") is not None, "reaches every provider")
    try:
        async with open_house(settings, public_url_of(settings)) as house:
            async for finding in _inside(house):
                yield finding
    except AgentsError as error:
        yield Finding("store", False, error.public, error.next_step)


async def _inside(house: House) -> AsyncIterator[Finding]:
    yield Finding("master key", True, "opens the store")
    yield Finding("nats", house.ready(), f"{house.link.client.connected_server_version} answers")
    info = await house.link.api("STREAM.INFO.CB_JOBS")
    skew = (house.services.clock.now() - datetime.fromisoformat(info["ts"])).total_seconds()
    yield Finding("clock", abs(skew) < 5, f"{skew:+.2f} s from the store's", "" if abs(skew) < 5 else "Set the clock.")
    if house.external is not None:
        yield await _issuer("sign-in", house.external.keys)
    tenants = await house.auth.tenants.list()
    for provider in house.auth.providers:
        there = provider.tenant in [tenant.name for tenant in tenants]
        advice = "" if there else f"There is no tenant {provider.tenant}: create it, or correct the settings."
        yield Finding("identity provider", there, f"{provider.keys.issuer} for {provider.tenant}", advice)
        yield await _issuer("identity provider", provider.keys)
    yield Finding("tenants", True, ", ".join(tenant.name for tenant in tenants) or "none yet")
    for tenant in tenants:
        async for finding in _tool_servers(house, tenant.name):
            yield finding


async def _issuer(name: str, keys: IssuerKeys) -> Finding:
    try:
        found = await keys.discover()
    except AgentsError as error:
        return Finding(name, False, error.public, error.next_step)
    return Finding(name, True, f"at {keys.issuer}, keys at {found['jwks_uri']}")


async def _tool_servers(house: House, tenant: str) -> AsyncIterator[Finding]:
    doctor = Principal(tenant=tenant, subject="doctor", scopes=TENANT_SCOPES)
    space = house.tenancy.of(doctor)
    for server in await house.services.tool_servers.all(space):
        name = f"{tenant}/{server.name}"
        try:
            seen = await house.services.tool_servers.refresh(space, doctor, server.name)
        except AgentsError as error:
            yield Finding(name, good=False, found=error.public, advice=error.next_step)
        else:
            yield Finding(name, good=True, found=f"{len(seen.tools)} tools at {seen.target}")


def _disk(settings: Settings) -> Finding:
    folder = settings.data_dir
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    advice = "" if free > _DISK_FLOOR else "Free some space: the store stops accepting runs on a full disk."
    return Finding("disk", free > _DISK_FLOOR, f"{free / 1024**3:.1f} GiB free", advice)


def _port(settings: Settings) -> Finding:
    try:
        listen(settings.server.host, settings.server.port).close()
    except AgentsError as error:
        return Finding("port", True, f"{settings.server.port} is in use, by a running server perhaps", error.next_step)
    return Finding("port", True, f"{settings.server.host}:{settings.server.port} is free")
