"""What the commands of administration share: an open house, and a word in the audit trail before anything changes."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import click

from mcp_agents.kernel.audit import Deed, audited
from mcp_agents.kernel.errors import Conflict
from mcp_agents.kernel.ids import PLATFORM
from mcp_agents.kernel.principal import Principal
from mcp_agents.server.cli.common import public_url_of, settings_of
from mcp_agents.server.compose import House, open_house

roles_choice: Final = click.Choice(["viewer", "operator", "developer", "admin", "auditor"])


@asynccontextmanager
async def looking(config: Path | None) -> AsyncIterator[House]:
    """The house of these settings, open."""
    settings = settings_of(config)
    async with open_house(settings, public_url_of(settings)) as house:
        yield house


@asynccontextmanager
async def acting(config: Path | None, act: str, target: str = "", *, tenant: str = PLATFORM) -> AsyncIterator[House]:
    """The same, for what changes something: of a tenant, which must be there, or of the platform."""
    async with looking(config) as house:
        if tenant != PLATFORM:
            await house.auth.tenants.get(tenant)
        async with audited(house.auth.audit, tenant, Deed(console(tenant), act, target)):
            yield house


def require_own_people(house: House) -> None:
    """Raises `Conflict` where people and programs sign in at another server."""
    if house.external is not None:
        raise Conflict(
            "ADMINISTERED_ELSEWHERE",
            f"People and programs sign in at {house.verifier.issuer}, and so their tokens come from there.",
            "Do it there.",
        )


def console(tenant: str = PLATFORM) -> Principal:
    """Who sits at the command line."""
    return Principal(tenant=tenant, subject="console", scopes=frozenset(), client="command-line")
