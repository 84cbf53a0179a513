"""The tools that read the audit trail: who administered what, and which grants were made and ended."""

from datetime import datetime
from typing import Literal

from msgspec import Struct
from pydantic import AwareDatetime, Field

from mcp_agents.kernel.audit import Entry
from mcp_agents.security.audit import Wanted
from mcp_agents_tools.surface.governance.named import plugin
from mcp_agents_tools.surface.governance.roles import Nothing
from mcp_agents_tools.surface.plugin import READS, Arguments, Call


class AuditQuery(Arguments):
    """Which entries."""

    act: str = Field("", max_length=64, description="Acts that begin with this: `policy_`, `grant_`, `user_invite`.")
    subject: str = Field("", max_length=256, description="Only of this person or client.")
    since: AwareDatetime | None = Field(None, description="Nothing older.")
    cursor: int = Field(0, ge=0, description="The `next_cursor` of the page before.")
    limit: int = Field(50, ge=1, le=200, description="Entries on a page.")


class AuditEntry(Struct, frozen=True, kw_only=True):
    """One entry. `begun` was written before the act; a later `failed` says that it was refused, and with which code."""

    number: int
    at: datetime
    subject: str
    client: str
    actors: tuple[str, ...]
    act: str
    target: str
    outcome: Literal["begun", "failed", "done"]
    reason: str


class AuditPage(Struct, frozen=True, kw_only=True):
    """Entries, newest first; `next_cursor` is 0 on the last page."""

    entries: tuple[AuditEntry, ...]
    next_cursor: int


class AuditVerdict(Struct, frozen=True, kw_only=True):
    """Whether the trail is whole. `last` is the code of the last entry: kept elsewhere, it shows a later rewriting."""

    whole: bool
    entries: int
    last: str
    problems: tuple[str, ...]


@plugin.tool("audit_query", title="Read the audit trail", arguments=AuditQuery, result=AuditPage, hints=READS)
async def audit_query(call: Call, args: AuditQuery) -> AuditPage:
    """Returns this tenant's audit trail, newest first: who administered what, and which grants were made and ended."""
    wanted = Wanted(before=args.cursor, act=args.act, subject=args.subject, since=args.since)
    found, after = await call.services.audit.entries(call.space.tenant, wanted, args.limit)
    return AuditPage(entries=tuple(_view(each) for each in found), next_cursor=after)


@plugin.tool("audit_verify", title="Verify the audit trail", arguments=Nothing, result=AuditVerdict, hints=READS)
async def audit_verify(call: Call, _args: Nothing) -> AuditVerdict:
    """Goes through this tenant's whole audit trail and says whether an entry was changed, removed, added or moved."""
    found = await call.services.audit.verify(call.space.tenant)
    return AuditVerdict(whole=not found.problems, entries=found.entries, last=found.last, problems=found.problems)


def _view(entry: Entry) -> AuditEntry:
    return AuditEntry(
        number=entry.number,
        at=entry.at,
        subject=entry.subject,
        client=entry.client,
        actors=entry.actors,
        act=entry.act,
        target=entry.target,
        outcome=entry.outcome,
        reason=entry.reason,
    )
