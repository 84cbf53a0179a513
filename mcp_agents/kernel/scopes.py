"""The names of rights: `{area}:{verb}`, and the roles that are named sets of them.

A scope never crosses tenants. `platform:admin` is apart: no role holds it and nothing grants it by default.
"""

from typing import Final

AREAS: Final = (
    "agents",
    "executions",
    "approvals",
    "sessions",
    "workflows",
    "messages",
    "contexts",
    "directory",
    "templates",
    "toolservers",
    "models",
    "analytics",
    "tenancy",
    "governance",
    "capacity",
    "audit",
)
VERBS: Final = ("read", "run", "write", "admin")
TENANT_SCOPES: Final = frozenset(f"{area}:{verb}" for area in AREAS for verb in VERBS)
PLATFORM_ADMIN: Final = "platform:admin"
RUN_AGENTS: Final = "executions:run"
"""What a caller must hold to have a run, and to keep it."""

_READ: Final = frozenset(f"{area}:read" for area in AREAS if area not in ("audit", "governance"))
_RUN: Final = frozenset(f"{area}:run" for area in AREAS)
_WRITE: Final = frozenset(f"{area}:write" for area in AREAS if area not in ("tenancy", "governance", "audit"))

ROLES: Final[dict[str, frozenset[str]]] = {
    "viewer": _READ,
    "operator": _READ | _RUN,
    "developer": _READ | _RUN | _WRITE,
    "admin": TENANT_SCOPES,
    "auditor": _READ | {"audit:read", "governance:read"},
}


def of_roles(roles: frozenset[str]) -> frozenset[str]:
    """The union of what these roles hold; an unknown role holds nothing."""
    return frozenset().union(*(ROLES.get(role, frozenset()) for role in roles))
