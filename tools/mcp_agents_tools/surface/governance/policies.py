"""The tools for the policies of a tenant. What a rule may say is `security.policy.rules`."""

from datetime import datetime
from typing import Annotated, Any, ClassVar, Literal

import msgspec
from msgspec import Struct
from pydantic import BaseModel, ConfigDict, Field

from mcp_agents.kernel.policy import Act, Action, Decision
from mcp_agents.kernel.principal import Principal
from mcp_agents.security.policy.book import Policy
from mcp_agents.security.policy.engine import Compiled
from mcp_agents.security.policy.rules import Effect, Rule
from mcp_agents_tools.surface.governance.named import plugin
from mcp_agents_tools.surface.plugin import READS, Arguments, Call, Hints

Text = Annotated[str, Field(min_length=1, max_length=256)]
Texts = Annotated[tuple[Text, ...], Field(max_length=64)]
_NAME = Field(min_length=1, max_length=64, description="The policy's name in this tenant: a-z, 0-9, _ and -.")


class PathIn(BaseModel):
    """A text argument of a tool that lies under a folder or an address."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    argument: Text = Field(description="The argument's name.")
    under: tuple[Text, ...] = Field(min_length=1, max_length=64, description="Folders (`/srv/data`) or URLs.")


class MatchIn(BaseModel):
    """Which acts a rule is about: all that is given must hold, one entry of each list is enough; `*` is anything."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    agents: Texts = Field((), description="Names of agents that act or are run.")
    resources: Texts = Field((), description="`server/tool`, a model, an agent, a tool of this server, a host.")
    users: Texts = Field((), description="Subjects of tokens.")
    clients: Texts = Field((), description="Ids of OAuth clients.")
    roles: Texts = Field((), description="Roles of the caller; no `*` here.")
    labels: Texts = Field((), description="Tags of the agents involved; no `*` here.")
    networks: Texts = Field((), description="Hosts of tool servers.")
    regions: Texts = Field((), description="Regions of models.")
    paths: tuple[PathIn, ...] = Field((), max_length=64, description="Arguments that lie under these places.")


class ActIn(BaseModel):
    """An act to be judged."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    action: Action = Field(description="What is done.")
    resource: Text = Field(description="What it is done to: `server/tool`, a model, an agent, a tool, a host.")
    agent: str = Field("", max_length=64, description="The name of the agent that acts.")
    labels: Texts = Field((), description="Tags of the agents involved.")
    network: str = Field("", max_length=256, description="The host of the tool server.")
    region: str = Field("", max_length=64, description="The region of the model.")
    arguments: dict[str, Any] = Field({}, description="The tool call's arguments.")
    approved: bool = Field(False, description="Whether a person has approved it.")
    user: str = Field("", max_length=256, description="Who acts, by subject; by default you.")
    roles: Texts | None = Field(None, description="With which roles; by default yours.")

    def act(self) -> Act:
        """As the gates ask."""
        return Act(
            action=self.action,
            resource=self.resource,
            agent=self.agent,
            labels=frozenset(self.labels),
            network=self.network,
            region=self.region,
            arguments=self.arguments,
            approved=self.approved,
        )

    def caller(self, principal: Principal) -> Principal:
        """Whoever it is asked for, in the tenant of who asks."""
        roles = principal.roles if self.roles is None else frozenset(self.roles)
        same = not self.user or self.user == principal.subject
        return Principal(
            tenant=principal.tenant,
            subject=self.user or principal.subject,
            scopes=frozenset(),
            client=principal.client if same else "",
            roles=roles,
        )


class PolicySetting(Arguments):
    """What `policy_set` takes."""

    noted: ClassVar[tuple[str, ...]] = ("name", "effect", "dry_run")
    name: str = _NAME
    effect: Effect = Field(
        "deny", description="deny wins over all; ask wants a person's approval; close needs an allow; allow gives it."
    )
    actions: tuple[Action, ...] = Field((), description="For which acts; empty: for all of them.")
    when: MatchIn = Field(MatchIn.model_validate({}), description="Which of those acts.")
    unless: MatchIn | None = Field(None, description="Which of those not.")
    by: Literal["any", "other"] = Field(
        "any", description="With ask: whether anybody with the right may approve, or another than who asked."
    )
    reason: str = Field("", max_length=256, description="Shown to whoever is refused or asked.")
    cedar: str = Field("", max_length=8192, description="One policy in Cedar's language instead of the fields above.")
    restore_version: int | None = Field(None, ge=1, description="Puts this version of the policy in force again.")
    expected_version: int | None = Field(
        None, ge=0, description="The version you read, 0 for a new one; refused if anybody set another since."
    )
    dry_run: bool = Field(False, description="Stores nothing and says what would become of the examples.")
    examples: tuple[ActIn, ...] = Field((), max_length=50, description="Acts to judge before and after.")


class PolicyRef(Arguments):
    """Names a policy."""

    name: str = _NAME
    version: int | None = Field(None, ge=1, description="A version of it; by default what is in force.")


class PolicyRemoval(Arguments):
    """Names a policy to take out of force."""

    noted: ClassVar[tuple[str, ...]] = ("name",)
    name: str = _NAME
    expected_version: int | None = Field(None, ge=1, description="The version you read.")


class PolicyListing(Arguments):
    """Which policies to list."""

    cursor: int = Field(0, ge=0, description="The `next_cursor` of the page before.")
    limit: int = Field(50, ge=1, le=200, description="Policies on a page.")


class Explaining(ActIn, Arguments):
    """What `policy_explain` takes."""


class PolicyView(Struct, frozen=True, kw_only=True):
    """A policy; `version` counts its changes."""

    name: str
    rule: dict[str, Any]
    version: int
    updated_at: datetime
    updated_by: str


class Verdict(Struct, frozen=True, kw_only=True):
    """What becomes of an act, by which policies, and why in words."""

    effect: Literal["allow", "deny", "ask"]
    policies: tuple[str, ...]
    why: str
    by: Literal["any", "other"]


class Change(Struct, frozen=True, kw_only=True):
    """An example before and after."""

    action: str
    resource: str
    before: Verdict
    after: Verdict


class PolicySet(Struct, frozen=True, kw_only=True):
    """The policy as it is now, or with a dry run would be, and what became of the examples."""

    policy: PolicyView
    stored: bool
    examples: tuple[Change, ...]


class PolicyPage(Struct, frozen=True, kw_only=True):
    """A page of policies in force; `next_cursor` is 0 on the last one. `revision` grows with every change."""

    policies: tuple[PolicyView, ...]
    revision: int
    next_cursor: int


class Removed(Struct, frozen=True, kw_only=True):
    """What was taken out of force."""

    name: str


@plugin.tool(
    "policy_set",
    title="Set a policy",
    arguments=PolicySetting,
    result=PolicySet,
    hints=Hints(destructive=True, idempotent=True),
)
async def policy_set(call: Call, args: PolicySetting) -> PolicySet:
    """Puts a rule in force for this tenant: who may run which agents, models, tools, paths and hosts, and for which
    calls a person is asked. Policies only take away from what scopes give. With dry_run nothing is stored and the
    examples show what would change."""
    engine = call.services.policies
    rule = _rule(args)
    if args.restore_version is not None:
        rule = (await engine.book.version(call.space, args.name, args.restore_version)).rule
    before, after = await engine.trial(call.space, args.name, rule)
    examples = tuple(_change(call, each, before, after) for each in args.examples)
    if args.dry_run:
        draft = Policy(
            name=args.name, rule=rule, version=0, updated_at=engine.book.now(), updated_by=call.principal.subject
        )
        return PolicySet(policy=_view(draft), stored=False, examples=examples)
    made = await engine.set(call.space, args.name, rule, by=call.principal.subject, expected=args.expected_version)
    return PolicySet(policy=_view(made), stored=True, examples=examples)


@plugin.tool("policy_get", title="Get a policy", arguments=PolicyRef, result=PolicyView, hints=READS)
async def policy_get(call: Call, args: PolicyRef) -> PolicyView:
    """Returns a policy as it is in force, or one of its versions."""
    book = call.services.policies.book
    if args.version is not None:
        return _view(await book.version(call.space, args.name, args.version))
    return _view(await book.get(call.space, args.name))


@plugin.tool("policy_list", title="List policies", arguments=PolicyListing, result=PolicyPage, hints=READS)
async def policy_list(call: Call, args: PolicyListing) -> PolicyPage:
    """Lists the policies in force, by name."""
    found = await call.services.policies.book.rules(call.space)
    every = list(found.value.policies.values())
    after = args.cursor + args.limit
    return PolicyPage(
        policies=tuple(_view(each) for each in every[args.cursor : after]),
        revision=found.revision,
        next_cursor=after if after < len(every) else 0,
    )


@plugin.tool(
    "policy_delete",
    title="Delete a policy",
    arguments=PolicyRemoval,
    result=Removed,
    hints=Hints(destructive=True, idempotent=True),
)
async def policy_delete(call: Call, args: PolicyRemoval) -> Removed:
    """Takes a policy out of force. Its versions stay, and policy_set can restore one."""
    await call.services.policies.remove(
        call.space, args.name, by=call.principal.subject, expected=args.expected_version
    )
    return Removed(name=args.name)


@plugin.tool("policy_explain", title="Explain a decision", arguments=Explaining, result=Verdict, hints=READS)
async def policy_explain(call: Call, args: Explaining) -> Verdict:
    """Says what the policies make of an act, which of them decide it, and why. Scopes are not looked at."""
    return _verdict(await call.services.policies.decide(call.space, args.caller(call.principal), args.act()))


def _rule(args: PolicySetting) -> Rule:
    given = args.model_dump(include={"effect", "actions", "when", "unless", "by", "reason", "cedar"})
    return msgspec.convert(given, Rule)


def _view(policy: Policy) -> PolicyView:
    return PolicyView(
        name=policy.name,
        rule=msgspec.to_builtins(policy.rule),
        version=policy.version,
        updated_at=policy.updated_at,
        updated_by=policy.updated_by,
    )


def _change(call: Call, example: ActIn, before: Compiled, after: Compiled) -> Change:
    caller, act = example.caller(call.principal), example.act()
    return Change(
        action=example.action,
        resource=example.resource,
        before=_verdict(before.decide(caller, act)),
        after=_verdict(after.decide(caller, act)),
    )


def _verdict(decision: Decision) -> Verdict:
    return Verdict(effect=decision.effect, policies=decision.rules, why=decision.why, by=decision.by)
