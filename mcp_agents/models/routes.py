"""A tenant's own virtual names: added to those of the house, or in their place.

Records only: whether the models exist is checked by the router, which also resolves them. Names may hold
`:`, `/` and `.`, so that keys hold them as base64url, which reads back and has no meaning in a subject.
"""

import base64
from datetime import datetime
from typing import Final

from msgspec import Struct

from mcp_agents.kernel.errors import Conflict, Exhausted, WrongRevision
from mcp_agents.kernel.routing import Strategy
from mcp_agents.kernel.tenancy import Records, TenantSpace, Versioned
from mcp_agents.models.catalog import NAME

ROUTES: Final = 200
"""A tenant keeps at most so many."""
_KIND: Final = "route"


class Route(Struct, frozen=True, kw_only=True):
    """A virtual name of a tenant and the models it stands for, in order."""

    virtual_model: str
    models: tuple[str, ...]
    strategy: Strategy
    updated_at: datetime
    updated_by: str
    v: int = 1


class TenantRoutes:
    """The routes of any tenant, always through its space."""

    async def get(self, space: TenantSpace, name: str) -> Versioned[Route] | None:
        """The route of a name (no alias), or None, also for what can be no name."""
        return await _records(space).get(_KIND, _token(name)) if NAME.fullmatch(name) else None

    async def all(self, space: TenantSpace) -> list[Versioned[Route]]:
        """Every route by name."""
        return sorted(await _records(space).all(_KIND), key=lambda found: found.value.virtual_model)

    async def set(self, space: TenantSpace, route: Route, expected: int | None) -> int:
        """Adds or replaces a route and returns its revision. Raises `Conflict` (REVISION_CONFLICT) and `Exhausted`
        (MODEL_ROUTES_EXHAUSTED)."""
        found = await self.get(space, route.virtual_model)
        _expect(found, expected)
        if found is None and len(await self.all(space)) >= ROUTES:
            raise Exhausted(
                "MODEL_ROUTES_EXHAUSTED",
                f"A tenant keeps at most {ROUTES} virtual models.",
                "Remove one with model_route_set and an empty list of models.",
            )
        try:
            return await _records(space).update(
                _KIND, _token(route.virtual_model), value=route, revision=found.revision if found else 0
            )
        except WrongRevision as cause:
            raise _moved_on() from cause

    async def remove(self, space: TenantSpace, name: str, expected: int | None) -> bool:
        """Removes a route; false when there was none. Raises `Conflict` (REVISION_CONFLICT)."""
        found = await self.get(space, name)
        _expect(found, expected)
        if found is None:
            return False
        try:
            await _records(space).delete(_KIND, _token(name), revision=found.revision)
        except WrongRevision as cause:
            raise _moved_on() from cause
        return True


def _records(space: TenantSpace) -> Records[Route]:
    return space.records("cb_models", Route)


def _token(name: str) -> str:
    return base64.urlsafe_b64encode(name.encode()).rstrip(b"=").decode()


def _expect(found: Versioned[Route] | None, expected: int | None) -> None:
    if expected is not None and expected != (found.revision if found else 0):
        raise _moved_on()


def _moved_on() -> Conflict:
    return Conflict("REVISION_CONFLICT", "It was changed by somebody else.", "Read model_list and repeat the change.")
