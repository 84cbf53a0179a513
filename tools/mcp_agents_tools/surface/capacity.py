"""The plugin `capacity`: what a tenant, its users and its agents may spend, and how much of it may run at once."""

from datetime import datetime
from typing import Annotated, ClassVar, Literal

from msgspec import Struct
from pydantic import Field

from mcp_agents.kernel import ids
from mcp_agents.kernel.errors import NotFound
from mcp_agents.kernel.scopes import PLATFORM_ADMIN
from mcp_agents.scaling import slots
from mcp_agents.scaling.budgets import Budget, BudgetState, Scope
from mcp_agents.scaling.changing import check_subject
from mcp_agents.scaling.periods import Period
from mcp_agents.scaling.quotas import Allowance
from mcp_agents_tools.surface import scopes
from mcp_agents_tools.surface.plugin import READS, Arguments, Call, Hints, Plugin

plugin = Plugin("capacity", title="Capacity", scopes=scopes.CAPACITY)

_MOST = 10**15
_REVISION = Field(None, ge=0, description="The revision you read; refused if anybody set something since.")
Part = Annotated[float, Field(gt=0, le=1)]


class Amounts(Struct, frozen=True, kw_only=True):
    """Money and tokens; null where there is no such limit."""

    micro_usd: int | None
    tokens: int | None


class BudgetView(Struct, frozen=True, kw_only=True):
    """A budget in its present window. `warnings` are the parts of `warn_at` that what is settled has reached."""

    scope: Scope
    subject: str
    period: Period
    limit: Amounts
    warn_at: tuple[float, ...]
    window_start: datetime | None
    window_end: datetime | None
    settled: Amounts
    reserved: Amounts
    left: Amounts
    warnings: tuple[float, ...]


class BudgetSet(Struct, frozen=True, kw_only=True):
    """The budget as it is now, null when it was removed, and the revision of the tenant's budgets."""

    budget: BudgetView | None
    revision: int


class BudgetPage(Struct, frozen=True, kw_only=True):
    """A page of budgets; `next_cursor` is 0 on the last one."""

    budgets: tuple[BudgetView, ...]
    revision: int
    next_cursor: int


class QuotaView(Struct, frozen=True, kw_only=True):
    """A quota. `running` is how many runs hold a slot, some seconds late, and null without `max_concurrent`."""

    scope: Literal["tenant", "agent"]
    subject: str
    max_concurrent: int | None
    max_queued: int | None
    weight: int
    running: int | None


class QuotaSet(Struct, frozen=True, kw_only=True):
    """The quota as it is now, and the revision of the tenant's quotas."""

    quota: QuotaView
    revision: int


class QuotaPage(Struct, frozen=True, kw_only=True):
    """The tenant's quota and a page of its agents' quotas; `next_cursor` is 0 on the last one."""

    quotas: tuple[QuotaView, ...]
    revision: int
    next_cursor: int


class BudgetSetting(Arguments):
    """A budget to set, or to remove by leaving both limits out."""

    noted: ClassVar[tuple[str, ...]] = ("scope", "subject", "period", "limit_micro_usd", "limit_tokens")
    scope: Scope = Field(description="Whose spending is counted.")
    subject: str = Field(
        "", max_length=200, description="The agent (id or name), user (subject), session or workflow; not for `tenant`."
    )
    period: Period = Field(description="UTC calendar; weeks begin on Monday; `total` never begins again.")
    limit_micro_usd: int | None = Field(None, ge=0, le=_MOST, description="Millionths of a US dollar in one window.")
    limit_tokens: int | None = Field(None, ge=0, le=_MOST, description="Input and output tokens in one window.")
    warn_at: tuple[Part, ...] = Field(
        (0.8, 0.95), max_length=10, description="Parts of a limit at which a run's events warn."
    )
    expected_revision: int | None = _REVISION


class BudgetListing(Arguments):
    """Which budgets to list."""

    scope: Scope | None = Field(None, description="Only budgets of this scope.")
    subject: str | None = Field(None, min_length=1, max_length=200, description="Only budgets of this subject.")
    cursor: int = Field(0, ge=0, description="The `next_cursor` of the page before.")
    limit: int = Field(50, ge=1, le=200, description="Budgets on a page.")


class QuotaSetting(Arguments):
    """A quota to set; what is left out is not limited."""

    noted: ClassVar[tuple[str, ...]] = ("scope", "subject", "max_concurrent", "max_queued", "weight")
    scope: Literal["tenant", "agent"] = Field(description="Whose runs are counted.")
    subject: str = Field("", max_length=64, description="The agent's id or name; not for `tenant`.")
    max_concurrent: int | None = Field(None, ge=0, le=100_000, description="Runs at once, over all workers.")
    max_queued: int | None = Field(None, ge=0, le=10_000_000, description="Runs that may wait for a worker.")
    weight: int = Field(1, ge=1, le=100, description="Share of the turns; a tenant's above 1 needs platform:admin.")
    expected_revision: int | None = _REVISION


class QuotaListing(Arguments):
    """Which quotas to list."""

    scope: Literal["tenant", "agent"] | None = Field(None, description="Only quotas of this scope.")
    subject: str | None = Field(
        None, min_length=1, max_length=64, description="Only the quota of this agent, by id or name."
    )
    cursor: int = Field(0, ge=0, description="The `next_cursor` of the page before.")
    limit: int = Field(50, ge=1, le=200, description="Quotas on a page.")


@plugin.tool(
    "budget_set",
    title="Set a budget",
    arguments=BudgetSetting,
    result=BudgetSet,
    hints=Hints(destructive=True, idempotent=True),
)
async def budget_set(call: Call, args: BudgetSetting) -> BudgetSet:
    """Limits what a tenant, user, agent, session or workflow may spend in a period, in money, tokens or both.
    Model calls whose worst case does not fit are refused with BUDGET_EXHAUSTED. Without limits the budget is
    removed."""
    budgets = call.services.budgets
    known, _ = await budgets.definitions(call.space)
    subject = args.subject
    if args.scope == "agent" and subject:
        subject = await _agent(call, subject, {each.subject for each in known.budgets})
    wanted = Budget(
        scope=args.scope,
        subject=subject,
        period=args.period,
        limit_micro_usd=args.limit_micro_usd,
        limit_tokens=args.limit_tokens,
        warn_at=tuple(sorted(set(args.warn_at))),
    )
    revision = await budgets.set(call.space, wanted, args.expected_revision)
    known, _ = await budgets.definitions(call.space)
    states = await budgets.states(call.space, [each for each in known.budgets if each.place == wanted.place])
    return BudgetSet(budget=budget_view(states[0]) if states else None, revision=revision)


@plugin.tool("budget_get", title="Get budgets", arguments=BudgetListing, result=BudgetPage, hints=READS)
async def budget_get(call: Call, args: BudgetListing) -> BudgetPage:
    """Lists the tenant's budgets by page and filter, each with what its present window has settled, reserved and
    left, and which warnings it has reached."""
    known, revision = await call.services.budgets.definitions(call.space)
    subject = args.subject
    if args.scope == "agent" and subject:
        subject = await _agent(call, subject, {each.subject for each in known.budgets})
    wanted = [
        each
        for each in known.budgets
        if args.scope in (None, each.scope) and (subject is None or subject == each.subject)
    ]
    page = wanted[args.cursor : args.cursor + args.limit]
    states = await call.services.budgets.states(call.space, page)
    return BudgetPage(
        budgets=tuple(budget_view(state) for state in states),
        revision=revision,
        next_cursor=_after(args.cursor + args.limit, len(wanted)),
    )


@plugin.tool(
    "quota_set",
    title="Set a quota",
    arguments=QuotaSetting,
    result=QuotaSet,
    hints=Hints(destructive=True, idempotent=True),
)
async def quota_set(call: Call, args: QuotaSetting) -> QuotaSet:
    """Limits how many runs of the tenant or of one agent go at once and how many may wait, replacing what was
    set before. Runs under way go on."""
    if args.scope == "tenant" and args.weight > 1:
        call.principal.require(PLATFORM_ADMIN)  # a tenant's weight is taken from the other tenants
    check_subject(args.scope, args.subject)
    known = (await call.services.quotas.all(call.space)).value
    agent_id = await _agent(call, args.subject, set(known.agents)) if args.subject else ""
    allowance = Allowance(max_concurrent=args.max_concurrent, max_queued=args.max_queued, weight=args.weight)
    revision = await call.services.quotas.set(call.space, agent_id, allowance, args.expected_revision)
    return QuotaSet(quota=await _quota(call, agent_id, allowance), revision=revision)


@plugin.tool("quota_get", title="Get quotas", arguments=QuotaListing, result=QuotaPage, hints=READS)
async def quota_get(call: Call, args: QuotaListing) -> QuotaPage:
    """Lists the quotas of the tenant and of its agents by page and filter, with how many runs go now."""
    known, revision = await call.services.quotas.all(call.space)
    agent_id = await _agent(call, args.subject, set(known.agents)) if args.subject else ""
    every = [("", known.tenant), *sorted(known.agents.items())]
    wanted = [
        (subject, allowance)
        for subject, allowance in every
        if args.scope in (None, "agent" if subject else "tenant") and (not agent_id or subject == agent_id)
    ]
    return QuotaPage(
        quotas=tuple([await _quota(call, *each) for each in wanted[args.cursor : args.cursor + args.limit]]),
        revision=revision,
        next_cursor=_after(args.cursor + args.limit, len(wanted)),
    )


async def _agent(call: Call, reference: str, known: set[str]) -> str:
    """The id of an agent by id or name; one that is gone is still known where something was set for it."""
    try:
        return (await call.services.agents.get(call.space, reference)).value.id
    except NotFound:
        if ids.is_id(reference, "ag") and reference in known:
            return reference
        raise


def budget_view(state: BudgetState) -> BudgetView:
    """A budget as the tools show it."""
    budget, window = state.budget, state.span
    return BudgetView(
        scope=budget.scope,
        subject=budget.subject,
        period=budget.period,
        limit=Amounts(micro_usd=budget.limit_micro_usd, tokens=budget.limit_tokens),
        warn_at=budget.warn_at,
        window_start=window.start,
        window_end=window.end,
        settled=Amounts(micro_usd=state.settled.micro_usd, tokens=state.settled.tokens),
        reserved=Amounts(micro_usd=state.reserved.micro_usd, tokens=state.reserved.tokens),
        left=Amounts(**state.left._asdict()),
        warnings=state.warnings,
    )


async def _quota(call: Call, agent_id: str, allowance: Allowance) -> QuotaView:
    limited = allowance.max_concurrent is not None
    return QuotaView(
        scope="agent" if agent_id else "tenant",
        subject=agent_id,
        max_concurrent=allowance.max_concurrent,
        max_queued=allowance.max_queued,
        weight=allowance.weight,
        running=await slots.running(call.space, agent_id, call.services.clock.now()) if limited else None,
    )


def _after(place: int, count: int) -> int:
    return place if place < count else 0
