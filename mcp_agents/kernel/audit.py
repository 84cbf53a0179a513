"""Port: the record of who administered what, signed in, or was refused; one chain of entries per tenant.

Not the history of runs (that is their own log) and not the program's log: an entry is written before the act, and an
act that cannot be written down is refused. Above: the door, the authorization server, the command line; filled by
`security.audit`.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Literal, NamedTuple, Protocol

from msgspec import Struct

from mcp_agents.kernel.errors import AgentsError
from mcp_agents.kernel.principal import Principal

Outcome = Literal["begun", "failed", "done"]


class Entry(Struct, frozen=True, kw_only=True):
    """One entry. `number` counts from 1 in its chain; `previous` is the `mac` of the one before.

    `begun` was written before the act. A `failed` one behind it, of the same act and target, names in `reason` the code
    it was refused with; where there is none it was carried out, or the process died over it. `done` is what
    had happened when it was written. There is never a secret, an argument or a token in it.
    """

    v: int = 1
    number: int
    at: datetime
    tenant: str
    subject: str
    client: str = ""
    actors: tuple[str, ...] = ()
    act: str
    target: str = ""
    outcome: Outcome
    reason: str = ""
    previous: str
    mac: str = ""


class Deed(NamedTuple):
    """What is written down: who, what, and to which thing (an id or a name)."""

    who: Principal
    act: str
    target: str = ""


class Audit(Protocol):
    """Entries of any tenant's chain, or of the platform's (`ids.PLATFORM`)."""

    async def note(self, tenant: str, deed: Deed, outcome: Outcome, reason: str = "") -> None:
        """Writes an entry, durably. Raises `Unavailable`, or `Fault` (`AUDIT_DAMAGED`)."""
        ...


@asynccontextmanager
async def audited(audit: Audit, tenant: str, deed: Deed) -> AsyncIterator[None]:
    """Writes the deed down before the context is entered, and its failure afterwards."""
    await audit.note(tenant, deed, "begun")
    try:
        yield
    except AgentsError as error:
        await audit.note(tenant, deed, "failed", error.code)
        raise
