"""The tenant matrix: every id argument of every tool, resource, prompt, completion and path, asked for from outside.

Each row is played with two tenants of its own: the stranger's call with the owner's thing must read byte for
byte like the stranger's call with a thing that never existed, must change nothing, and the owner's same call
must succeed. What there is comes from the server's own listings; the tables here only say what is a reference.
"""

import json
import re
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import anyio
import pytest

from mcp_agents.kernel.tasks import together
from tests.hostile.wire import ERAS, Answer, Era, Wire
from tests.tenancy.world import APPROVAL, EFFECT, PROVIDER, TWIN, Tenant, World, fresh, world

pytestmark = pytest.mark.anyio

NEEDED = 0.95


# What there is to refer to.


def another_id(real: str) -> str:
    """An id of the same form and the same moment that was never minted."""
    return real[:-11] + "".join(secrets.choice("0123456789abcdefghijklmnopqrstuv") for _ in range(11))


def another_name(real: str) -> str:
    """A name as long as the real one that was never used."""
    kind, _, rest = real.partition("-")
    _, slash, tool = rest.partition("/")
    return fresh(kind) + slash + tool


def another_address(real: str) -> str:
    """An address as long as the real one that nobody has."""
    return fresh("member") + real[real.index("@") :]


async def the_agent_id(owner: Tenant) -> str:
    return str((await owner.agent())["id"])


async def the_agent_name(owner: Tenant) -> str:
    return str((await owner.agent())["name"])


async def the_agent(owner: Tenant, value: str) -> Any:
    return (await owner.wire.call("agent_get", {"agent": value})).value


async def the_binding_to_an_agent(owner: Tenant) -> str:
    return f"agent:{await the_agent_id(owner)}"


async def the_binding_to_an_agents_name(owner: Tenant) -> str:
    return f"agent:{await the_agent_name(owner)}"


async def the_bound_agent(owner: Tenant, value: str) -> Any:
    return await the_agent(owner, value.removeprefix("agent:"))


async def the_run(owner: Tenant, value: str) -> Any:
    run = (await owner.wire.call("execution_get", {"execution_id": value})).value
    return {key: part for key, part in run.items() if key != "timings"}


async def the_approval(owner: Tenant, value: str) -> Any:
    listed = (await owner.wire.call("approval_list", {"limit": 100})).value["approvals"]
    return [asked for asked in listed if asked["id"] == value]


async def the_letter(owner: Tenant, value: str) -> Any:
    letters = (await owner.wire.call("dead_letter_list", {})).value["dead_letters"]
    return [letter for letter in letters if letter["execution_id"] == value]


async def the_server(owner: Tenant, value: str) -> Any:
    return (await owner.wire.call("tool_server_get", {"name": value.partition("/")[0]})).value


async def the_keyed_run(owner: Tenant, value: str) -> Any:
    return (await owner.wire.call("execution_list", {})).value


async def the_route(owner: Tenant, value: str) -> Any:
    names = (await owner.wire.call("model_list", {})).value["virtual_models"]
    return [each for each in names if each["name"] == value]


async def the_provider(owner: Tenant) -> str:
    await owner.wire.call("provider_key_set", {"provider": PROVIDER, "key": f"key-of-{owner.name}"})
    return PROVIDER


async def the_provider_keys(owner: Tenant, _: str) -> Any:
    return (await owner.wire.call("provider_key_list", {})).value


async def the_policy(owner: Tenant) -> str:
    rule = {"name": fresh("policy"), "actions": ["call_tool"], "when": {"agents": [owner.name]}}
    name = str((await owner.wire.call("policy_set", rule)).value["policy"]["name"])
    owner.owned.add(name)
    return name


async def the_rule(owner: Tenant, value: str) -> Any:
    return (await owner.wire.call("policy_get", {"name": value})).value


async def the_key(owner: Tenant) -> str:
    key = fresh("key")
    await owner.finished(idempotency_key=key, prompt="say done")
    return key


async def the_session(owner: Tenant, value: str) -> Any:
    return (await owner.wire.call("session_get", {"session_id": value})).value


async def the_memory(owner: Tenant, value: str) -> Any:
    listed = (await owner.wire.call("memory_list", {"limit": 100})).value["memories"]
    return [memory for memory in listed if memory["memory_id"] == value]


async def the_member(owner: Tenant) -> str:
    return (await owner.member())[0]


async def the_address(owner: Tenant) -> str:
    return (await owner.member())[1]


async def the_people(owner: Tenant, _: str) -> Any:
    return (await owner.wire.call("user_list", {})).value


async def the_clients(owner: Tenant, _: str) -> Any:
    return (await owner.wire.call("client_list", {})).value


@dataclass(frozen=True)
class Form:
    """One way to name one kind of thing: how to own one, how to name one that never was, how its owner sees it."""

    make: Callable[[Tenant], Awaitable[str]]
    ghost: Callable[[str], str]
    look: Callable[[Tenant, str], Awaitable[Any]]


async def _bound(owner: Tenant, tool: str) -> str:
    return f"{await owner.server()}/{tool}"


FORMS = {
    "agent by id": Form(the_agent_id, another_id, the_agent),
    "agent by name": Form(the_agent_name, another_name, the_agent),
    "finished run": Form(Tenant.finished, another_id, the_run),
    "shared run": Form(Tenant.shared, another_id, the_run),
    "dead letter": Form(Tenant.given_up, another_id, the_letter),
    "asking run": Form(Tenant.asking, another_id, the_run),
    "approval": Form(Tenant.approval, another_id, the_approval),
    "approval as cursor": Form(Tenant.approval, another_id, the_approval),
    "deciding run": Form(Tenant.deciding, another_id, the_run),
    "run under way": Form(Tenant.running, another_id, the_run),
    "server with credentials": Form(lambda owner: owner.signed_server("user"), another_name, the_server),
    "tool server": Form(Tenant.server, another_name, the_server),
    "one tool": Form(lambda owner: _bound(owner, "echo"), another_name, the_server),
    "every tool": Form(lambda owner: _bound(owner, "*"), another_name, the_server),
    "an agent": Form(the_binding_to_an_agent, another_id, the_bound_agent),
    "an agent by name": Form(the_binding_to_an_agents_name, another_name, the_bound_agent),
    "agent as cursor": Form(the_agent_id, another_id, the_agent),
    "run as cursor": Form(Tenant.finished, another_id, the_run),
    "taken agent name": Form(the_agent_name, another_name, the_agent),
    "taken server name": Form(Tenant.server, another_name, the_server),
    "used key": Form(the_key, another_name, the_keyed_run),
    "virtual name": Form(Tenant.route, another_name, the_route),
    "used virtual name": Form(Tenant.route, another_name, the_route),
    "policy": Form(the_policy, another_name, the_rule),
    "used policy name": Form(the_policy, another_name, the_rule),
    "provider's key": Form(the_provider, lambda real: real[::-1], the_provider_keys),
    "session": Form(Tenant.session, another_id, the_session),
    "session as cursor": Form(Tenant.session, another_id, the_session),
    "memory": Form(Tenant.memory, another_id, the_memory),
    "memory as cursor": Form(Tenant.memory, another_id, the_memory),
    "member": Form(the_member, another_id, the_people),
    "invitation": Form(Tenant.invitation, another_id, the_people),
    "known address": Form(the_address, another_address, the_people),
    "client": Form(Tenant.client, another_id, the_clients),
}
KINDS = {
    "agent": ("agent by id", "agent by name"),
    "run": ("finished run",),
    "live run": ("run under way",),
    "shared run": ("shared run",),
    "dead letter": ("dead letter",),
    "asking run": ("asking run",),
    "approval": ("approval",),
    "approval cursor": ("approval as cursor",),
    "deciding run": ("deciding run",),
    "server": ("tool server",),
    "own server": ("server with credentials",),
    "binding": ("one tool", "every tool", "an agent", "an agent by name"),
    "agent cursor": ("agent as cursor",),
    "run cursor": ("run as cursor",),
    "new agent": ("taken agent name",),
    "new server": ("taken server name",),
    "key": ("used key",),
    "route": ("virtual name",),
    "new route": ("used virtual name",),
    "provider": ("provider's key",),
    "policy": ("policy",),
    "new policy": ("used policy name",),
    "session": ("session",),
    "session cursor": ("session as cursor",),
    "memory": ("memory",),
    "memory cursor": ("memory as cursor",),
    "member": ("member",),
    "member or invitation": ("member", "invitation"),
    "address": ("known address",),
    "client": ("client",),
}
CLAIMS = {
    "taken agent name", "taken server name", "used key", "used virtual name", "used policy name", "known address",
}  # fmt: skip
"""What a stranger may use as well: each tenant has its own, so that the stranger's call succeeds."""


# Which arguments are references, and what else a call needs.

Others = Callable[[Tenant], Awaitable[dict[str, Any]]]


async def nothing_else(_: Tenant) -> dict[str, Any]:
    return {}


def always(**more: Any) -> Others:
    async def others(_: Tenant) -> dict[str, Any]:
        return more

    return others


async def a_new_agent(_: Tenant) -> dict[str, Any]:
    return {"name": fresh("agent")}


async def a_change(me: Tenant) -> dict[str, Any]:
    return {"agent": await me.spare(), "description": "changed"}


async def an_order(me: Tenant) -> dict[str, Any]:
    return {"agent": await me.twin(), "prompt": "say done"}


async def a_new_server(me: Tenant) -> dict[str, Any]:
    return {"name": fresh("server"), "transport": "http", "url": me.upstream.url}


async def a_credential(me: Tenant) -> dict[str, Any]:
    return {"name": await me.signed_server(), "token": "a-token"}


async def a_decision(_: Tenant) -> dict[str, Any]:
    return {"approval_id": APPROVAL, "approve": False}


NO_SESSION = {
    "format": "mcp-agents-session", "v": 1, "session_id": "se", "agent": "a", "created_at": "2026-01-01T00:00:00Z",
    "exported_at": "2026-01-01T00:00:00Z", "metadata": {}, "window": {}, "pins": [], "turns": [],
}  # fmt: skip
"""An exported session in which nothing was said."""
TOOLS: dict[str, tuple[dict[str, str], Others]] = {
    "agent_create": ({"name": "new agent", "tools": "binding", "virtual_model": "route"}, a_new_agent),
    "agent_get": ({"agent": "agent"}, nothing_else),
    "agent_list": ({"cursor": "agent cursor"}, nothing_else),
    "agent_update": ({"agent": "agent", "name": "new agent", "tools": "binding", "virtual_model": "route"}, a_change),
    "agent_set_active": ({"agent": "agent"}, always(active=False)),
    "agent_delete": ({"agent": "agent"}, nothing_else),
    "agent_versions": ({"agent": "agent"}, nothing_else),
    "agent_rollback": ({"agent": "agent"}, always(version=1)),
    "agent_execute": (
        {"agent": "agent", "idempotency_key": "key", "shared": "shared run", "session_id": "session"},
        an_order,
    ),
    "agent_submit": (
        {"agent": "agent", "idempotency_key": "key", "shared": "shared run", "session_id": "session"},
        an_order,
    ),
    "session_create": ({"agent": "agent"}, nothing_else),
    "session_get": ({"session_id": "session"}, nothing_else),
    "session_list": ({"agent": "agent", "cursor": "session cursor"}, nothing_else),
    "session_messages": ({"session_id": "session"}, nothing_else),
    "session_suspend": ({"session_id": "session"}, nothing_else),
    "session_activate": ({"session_id": "session"}, nothing_else),
    "session_close": ({"session_id": "session"}, nothing_else),
    "session_delete": ({"session_id": "session"}, nothing_else),
    "session_pin": ({"session_id": "session"}, always(text="Pinned.")),
    "session_compact": ({"session_id": "session"}, nothing_else),
    "session_fork": ({"session_id": "session"}, nothing_else),
    "session_share": ({"session_id": "session"}, always(who="role:viewer")),
    "session_unshare": ({"session_id": "session"}, always(who="role:viewer")),
    "session_export": ({"session_id": "session"}, nothing_else),
    "session_report": ({"session_id": "session"}, nothing_else),
    "session_import": ({"agent": "agent"}, always(export=NO_SESSION)),
    "memory_list": ({"agent": "agent", "cursor": "memory cursor"}, nothing_else),
    "memory_edit": ({"memory_id": "memory"}, always(text="Changed.")),
    "memory_erase": ({"memory_id": "memory", "agent": "agent"}, nothing_else),
    "execution_get": ({"execution_id": "run"}, nothing_else),
    "execution_wait": ({"execution_id": "run"}, nothing_else),
    "execution_list": ({"agent": "agent", "cursor": "run cursor"}, nothing_else),
    "execution_events": ({"execution_id": "run"}, nothing_else),
    "execution_cancel": ({"execution_id": "live run"}, nothing_else),
    "execution_resume": ({"execution_id": "asking run"}, always(question_id=EFFECT, content={"happened": True})),
    "execution_steer": ({"execution_id": "live run"}, always(message="More.")),
    "execution_share": ({"execution_id": "run"}, nothing_else),
    "approval_list": ({"agent": "agent", "cursor": "approval cursor"}, nothing_else),
    "approval_decide": ({"approval_id": "approval", "execution_id": "deciding run"}, a_decision),
    "execution_estimate": ({"agent": "agent"}, nothing_else),
    "dead_letter_list": ({"cursor": "run cursor"}, nothing_else),
    "dead_letter_requeue": ({"execution_id": "dead letter"}, nothing_else),
    "usage_report": ({"agent": "agent"}, nothing_else),
    "cost_report": ({"agent": "agent"}, nothing_else),
    "tool_server_add": ({"name": "new server"}, a_new_server),
    "tool_server_get": ({"name": "server"}, nothing_else),
    "tool_server_list": ({}, nothing_else),
    "tool_server_refresh": ({"name": "server"}, nothing_else),
    "tool_server_authorize": ({"name": "own server", "agent": "agent"}, a_credential),
    "tool_server_remove": ({"name": "server"}, nothing_else),
    "tool_list": ({"server": "server"}, nothing_else),
    "model_list": ({}, nothing_else),
    "model_resolve": ({"virtual_model": "route"}, nothing_else),
    "model_route_set": ({"virtual_model": "new route"}, always(models=["rule-based"])),
    "provider_key_set": ({}, always(provider=PROVIDER, key="key-of-nobody")),
    "provider_key_list": ({}, nothing_else),
    "provider_key_delete": ({"provider": "provider"}, nothing_else),
    "budget_set": ({"subject": "agent"}, always(scope="agent", period="day", limit_tokens=1000)),
    "budget_get": ({"subject": "agent"}, always(scope="agent")),
    "quota_set": ({"subject": "agent"}, always(scope="agent", max_concurrent=1)),
    "quota_get": ({"subject": "agent"}, always(scope="agent")),
    "policy_set": ({"name": "new policy"}, always(actions=["delegate"], when={"agents": ["nobody"]})),
    "policy_get": ({"name": "policy"}, nothing_else),
    "policy_list": ({}, nothing_else),
    "policy_delete": ({"name": "policy"}, nothing_else),
    "policy_explain": ({}, always(action="delegate", resource="nobody")),
    "tenant_get": ({}, nothing_else),
    "tenant_update": ({}, always(title="Another")),
    "user_invite": ({"email": "address"}, always(roles=["viewer"])),
    "user_list": ({}, nothing_else),
    "user_remove": ({"user_id": "member or invitation"}, nothing_else),
    "user_suspend": ({"user_id": "member"}, nothing_else),
    "role_assign": ({"user_id": "member"}, always(roles=["developer"])),
    "role_revoke": ({"user_id": "member"}, always(roles=["viewer"])),
    "role_list": ({}, nothing_else),
    "client_register": ({}, always(name="Program", credentials=True)),
    "client_list": ({}, nothing_else),
    "client_revoke": ({"client_id": "client"}, nothing_else),
    "audit_query": ({}, nothing_else),
    "audit_verify": ({}, nothing_else),
}
TEMPLATES = {
    "cb://agents/{id}": {"id": "agent"},
    "cb://agents/{id}/versions/{n}": {"id": "agent"},
    "cb://agents/{id}/state": {"id": "agent"},
    "cb://approvals/{id}": {"id": "approval"},
    "cb://sessions/{id}": {"id": "session"},
    "cb://executions/{id}": {"id": "run"},
    "cb://executions/{id}/events": {"id": "run"},
    "cb://executions/{id}/transcript": {"id": "run"},
}
COUNTS = {"n": "1"}
"""Variables of templates that count within the thing which another one names, with a value that is there."""
PROMPTS: dict[str, dict[str, str]] = {
    "debug_execution": {"execution_id": "run"},
    "design_agent": {},
    "review_costs": {"agent": "agent"},
}
PATHS = {
    "/mcp/agent/{agent} tools/list": {"agent": "agent"},
    "/mcp/agent/{agent} tools/call": {"agent": "agent"},
    "/mcp/agent/{agent} prompts/list": {"agent": "agent"},
    "/mcp/agent/{agent} prompts/get": {"agent": "agent"},
}
DATA = frozenset(
    {
        # texts, labels and settings that name nothing of a tenant
        "args", "auth.scope", "auth.token", "auth.client_id", "auth.client_secret", "auth.issuer", "auth.type",
        "auth.credentials", "capabilities", "capability", "command", "context", "description", "effect_id.argument",
        "effect_id.header",
        "env", "exposes", "goal", "metadata", "output_schema", "overrides.virtual_model", "policy.unknown_effects",
        "prompt", "q", "reason", "request", "status", "strategy", "system_prompt", "tag", "tags", "task_type",
        "transport", "url", "virtual_model", "provider_key_set.key",
        "state", "window.policy", "session_pin.text", "session_share.who", "session_share.may", "session_unshare.who",
        "session_import.export", "about", "memory_edit.text", "memory_erase.user",
        "tool_server_authorize.token", "by", "parts", "priority", "since",
        "execution_resume.action", "execution_resume.content", "message", "kind", "policy.approvals.tool",
        "policy.approvals.annotation", "policy.approvals.label", "policy.approvals.argument",
        "policy.approvals.approve", "policy.approvals.by", "policy.summary_model", "until", "scope", "period",
        # models and providers of the operator's settings, the same for every tenant
        "fallback_models", "models", "preferred_providers", "provider_key_set.provider",
        "overrides.fallback_models", "overrides.preferred_providers", "overrides.strategy", "overrides.task_type",
        "routing.fallback_models", "routing.preferred_providers", "routing.strategy", "routing.task_type",
        # names one of the agent's own bindings, which are references themselves
        "policy.verify_tool",
        # counts within one run or one agent, which is named by another argument
        "execution_events.cursor", "agent_versions.cursor", "execution_resume.question_id", "budget_get.cursor",
        "quota_get.cursor", "policy_list.cursor",
        # what a policy's rule is compared with: texts, never looked up
        "action", "actions", "policy_explain.agent", "approved", "arguments", "cedar", "effect", "labels", "network",
        "region", "resource", "roles", "user",
        # a tenant's name for people, what a client is told to be, and filters and places of one's own audit trail
        "title", "client_register.name", "keys", "redirect_uris", "scopes", "act", "audit_query.cursor",
        "audit_query.subject",
        *(f"{side}.{part}" for side in ("when", "unless") for part in (
            "agents", "resources", "users", "clients", "roles", "labels", "networks", "regions", "paths.argument",
            "paths.under",
        )),
        *(f"examples.{part}" for part in (
            "action", "agent", "arguments", "labels", "network", "region", "resource", "roles", "user",
        )),
    }
)  # fmt: skip
"""Arguments that are no references, by name or as `tool.name`."""
NUMBERS = ("integer", "number", "boolean", "null")


def arguments_of(schema: dict[str, Any], root: dict[str, Any] | None = None, path: str = "") -> Iterator[str]:
    """The dotted names of all arguments that can hold an id: texts, anything at all, and cursors of any type."""
    root = root or schema
    for name, part in schema.get("properties", {}).items():
        yield from _can_hold_ids(part, root, f"{path}{name}")


def _can_hold_ids(part: dict[str, Any], root: dict[str, Any], path: str) -> Iterator[str]:
    while "$ref" in part:
        part = root["$defs"][part["$ref"].rpartition("/")[2]]
    choices = part.get("anyOf", [])
    if choices:
        yield from dict.fromkeys(name for each in choices for name in _can_hold_ids(each, root, path))
    elif "properties" in part:
        yield from arguments_of(part, root, f"{path}.")
    elif part.get("type") == "array":
        yield from _can_hold_ids(part["items"], root, path)
    elif part.get("type") not in NUMBERS or re.search(r"cursor|(^|_)id$", path):
        yield path


def unclassified(tool: str, schema: dict[str, Any], tables: dict[str, tuple[dict[str, str], Others]]) -> list[str]:
    """The arguments of a tool that nobody has said to be a reference or data."""
    references = tables[tool][0] if tool in tables else {}
    known = set(references) | DATA | {name.removeprefix(f"{tool}.") for name in DATA if name.startswith(f"{tool}.")}
    return [f"{tool}.{name}" for name in arguments_of(schema) if name not in known]


# The rows and their outcomes.


@dataclass(frozen=True)
class Row:
    """One id argument in one form, at one place."""

    place: str
    target: str
    argument: str
    form: str
    era: Era

    def __str__(self) -> str:
        return f"{self.place} {self.target} {self.argument} {self.form} {self.era}"


def rows(place: str, table: dict[str, dict[str, str]]) -> Iterator[Row]:
    """Every reference of a table, in every form and era."""
    for target, references in table.items():
        for argument, kind in references.items():
            yield from (Row(place, target, argument, form, era) for form in KINDS[kind] for era in ERAS)


COMPLETED = {**TEMPLATES, **{name: references for name, references in PROMPTS.items() if references}}
ROWS = [
    *rows("tool", {name: references for name, (references, _) in TOOLS.items()}),
    *rows("resource", TEMPLATES),
    *rows("prompt", PROMPTS),
    *rows("completion", COMPLETED),
    *rows("path", PATHS),
]
STRICT = [row for row in ROWS if row.form not in CLAIMS]


@dataclass
class Outcome:
    """The answers of a row, and how the owner saw the thing before and after the stranger's calls."""

    owner: Tenant
    stranger: Tenant
    value: str
    ghost: str
    own: Answer
    foreign: Answer
    never: Answer
    before: Any
    after: Any


@dataclass
class Matrix:
    """What all rows came to."""

    world: World
    outcomes: dict[Row, Outcome] = field(default_factory=dict)
    failures: dict[Row, Exception] = field(default_factory=dict)

    def __getitem__(self, row: Row) -> Outcome:
        if row in self.failures:
            raise self.failures[row]
        return self.outcomes[row]

    async def play(self, row: Row) -> None:
        """Plays one row with two new tenants."""
        owner, stranger = await self.world.tenant(), await self.world.tenant()
        form = FORMS[row.form]
        await stranger.finished()  # whoever asks has things of its own, which a listing may show
        value = await form.make(owner)
        tool_name = (await the_agent(owner, value))["name"] if row.place == "path" else ""
        ghost = form.ghost(value)
        before = await form.look(owner, value)
        foreign = await ask(row, stranger, value, tool_name)
        never = await ask(row, stranger, ghost, tool_name)
        after = await form.look(owner, value)
        own = await ask(row, owner, value, tool_name)
        self.outcomes[row] = Outcome(owner, stranger, value, ghost, own, foreign, never, before, after)


async def ask(row: Row, me: Tenant, value: str, tool_name: str = "") -> Answer:
    """One tenant's call of a row with one value."""
    match row.place:
        case "tool":
            references, others = TOOLS[row.target]
            given = [value] if references[row.argument] in ("binding", "shared run") else value
            arguments = {**await others(me), row.argument: given}
            return await me.wire.call(row.target, arguments, era=row.era)
        case "resource":
            uri = row.target.replace("{id}", value)
            for name, there in COUNTS.items():
                uri = uri.replace(f"{{{name}}}", there)
            return await me.wire.read(uri, row.era)
        case "prompt":
            params = {"name": row.target, "arguments": {row.argument: value}}
            return await me.wire.ask("prompts/get", params, era=row.era)
        case "completion":
            return await complete(me.wire, row.target, row.argument, value, row.era)
        case _:
            path, method = row.target.replace("{agent}", value).split()
            given: dict[str, dict[str, Any]] = {
                "tools/call": {"name": tool_name, "arguments": {"prompt": "say done"}},
                "prompts/get": {"name": f"ask_{tool_name}", "arguments": {"request": "say done"}},
            }
            params = given.get(method, {})
            return await me.wire.ask(method, params, era=row.era, path=path)


async def complete(wire: Wire, target: str, argument: str, typed: str, era: Era = "modern") -> Answer:
    """Asks for completions of an argument of a template or a prompt."""
    template = {"type": "ref/resource", "uri": target}
    ref = template if "://" in target else {"type": "ref/prompt", "name": target}
    return await wire.ask("completion/complete", {"ref": ref, "argument": {"name": argument, "value": typed}}, era=era)


@pytest.fixture(scope="module")
async def matrix(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Matrix]:
    """Every row, played; rows share a house and nothing else."""
    async with world(tmp_path_factory.mktemp("tenants")) as opened:
        played = Matrix(opened)
        limit = anyio.CapacityLimiter(16)

        async def one(row: Row) -> None:
            async with limit:
                try:
                    with anyio.fail_after(60):
                        await played.play(row)
                except Exception as error:  # noqa: BLE001  # told by the row's own tests
                    played.failures[row] = error

        async with together() as playing:
            for row in ROWS:
                playing.start_soon(one, row)
        yield played


@pytest.fixture
def strangers(matrix: Matrix) -> World:
    """The house of the matrix, for tests that bring tenants of their own."""
    return matrix.world


# What must be true of every row.


@pytest.mark.parametrize("row", STRICT, ids=str)
async def test_a_foreign_thing_reads_like_one_that_never_existed(matrix: Matrix, row: Row) -> None:
    """Byte for byte, the id itself blotted out; and nothing of the owner is in it."""
    outcome = matrix[row]
    assert outcome.foreign.without(outcome.value) == outcome.never.without(outcome.ghost)
    said = outcome.foreign.without(outcome.value).body.decode()
    assert not [mark for mark in (outcome.owner.name, *outcome.owner.owned) if mark in said]


@pytest.mark.parametrize("row", ROWS, ids=str)
async def test_a_foreign_call_changes_nothing(matrix: Matrix, row: Row) -> None:
    """The owner sees the thing as before, however destructive the stranger's call was."""
    outcome = matrix[row]
    assert outcome.after == outcome.before


@pytest.mark.parametrize("row", STRICT, ids=str)
async def test_the_owners_same_call_succeeds(matrix: Matrix, row: Row) -> None:
    """So the stranger was refused as a stranger and not for a slip of the test."""
    outcome = matrix[row]
    assert outcome.own.good, outcome.own
    if row.place == "completion":
        assert outcome.own.result["completion"]["values"] == [outcome.value]
        assert outcome.foreign.result["completion"]["values"] == []
    elif "cursor" not in row.form:
        assert not outcome.foreign.good


@pytest.mark.parametrize("row", [row for row in ROWS if "cursor" in row.form], ids=str)
async def test_a_foreign_cursor_pages_through_ones_own_things(matrix: Matrix, row: Row) -> None:
    """A cursor is a place in one's own list, wherever it was found."""
    outcome = matrix[row]
    own_list = json.dumps((await outcome.stranger.wire.call(row.target, {})).value)
    shown = re.findall(r"(?:ag|ex)_[0-9a-v]{26}", json.dumps(outcome.foreign.value))
    assert set(shown) <= set(re.findall(r"(?:ag|ex)_[0-9a-v]{26}", own_list))


@pytest.mark.parametrize("row", [row for row in ROWS if row.form.startswith("taken")], ids=str)
async def test_a_name_taken_elsewhere_is_free_here(matrix: Matrix, row: Row) -> None:
    """Two tenants use the same name; the owner, who has it already, is told so."""
    outcome = matrix[row]
    assert outcome.foreign.value["name"] == outcome.value
    assert outcome.never.value["name"] == outcome.ghost
    assert set(outcome.foreign.value) == set(outcome.never.value)
    assert outcome.own.error["kind"] == "Conflict"
    assert not [mark for mark in (outcome.owner.name, *outcome.owner.owned - {outcome.value}) if mark in said(outcome)]


@pytest.mark.parametrize("row", [row for row in ROWS if row.form == "used policy name"], ids=str)
async def test_a_policy_of_the_same_name_is_ones_own(matrix: Matrix, row: Row) -> None:
    """The stranger's is a first version, the owner's a second; neither is the other's."""
    outcome = matrix[row]
    versions = [each.value["policy"]["version"] for each in (outcome.foreign, outcome.never, outcome.own)]
    assert versions == [1, 1, 2]
    assert not [mark for mark in (outcome.owner.name, *outcome.owner.owned - {outcome.value}) if mark in said(outcome)]


@pytest.mark.parametrize("row", [row for row in ROWS if row.form == "used key"], ids=str)
async def test_an_idempotency_key_of_another_tenant_joins_nothing(matrix: Matrix, row: Row) -> None:
    """The stranger gets a run of its own, as under a new key; the owner joins the run it started."""
    outcome = matrix[row]
    assert outcome.own.value["execution_id"] in outcome.owner.owned
    assert outcome.foreign.value["execution_id"] not in outcome.owner.owned
    assert outcome.foreign.value["agent_id"] == await outcome.stranger.twin()
    assert set(outcome.foreign.value) == set(outcome.never.value)
    assert not [mark for mark in (outcome.owner.name, *outcome.owner.owned) if mark in said(outcome)]


@pytest.mark.parametrize("row", [row for row in ROWS if row.form == "known address"], ids=str)
async def test_an_invitation_does_not_tell_whether_an_address_is_known_elsewhere(matrix: Matrix, row: Row) -> None:
    """The stranger's invitations of a known and of an unknown address differ in nothing but their ids and links."""
    outcome = matrix[row]
    for answer, address in ((outcome.foreign, outcome.value), (outcome.never, outcome.ghost)):
        invited = answer.value["invitation"]
        assert invited["email"] == address
        assert (invited["roles"], invited["state"]) == (["viewer"], "invited")
    assert len(outcome.foreign.value["link"]) == len(outcome.never.value["link"])
    assert outcome.own.error["code"] == "MEMBER_EXISTS"


def said(outcome: Outcome) -> str:
    """What the stranger was told, as text."""
    return outcome.foreign.body.decode()


# That the rows are all there are.


async def test_nearly_every_id_argument_is_exercised(matrix: Matrix) -> None:
    """Counted over the server's own listings: at least 95 % were played; a new reference cannot slip by."""
    wire = (await matrix.world.tenant()).wire
    expected: set[Row] = set()
    unknown: list[str] = []
    for tool in await wire.listed("tools/list", "tools"):
        unknown += unclassified(tool["name"], tool["inputSchema"], TOOLS)
        known = set(arguments_of(tool["inputSchema"]))
        references = TOOLS.get(tool["name"], ({}, nothing_else))[0]
        expected |= set(rows("tool", {tool["name"]: {name: references[name] for name in references if name in known}}))
    for template in await wire.listed("resources/templates/list", "resourceTemplates"):
        uri = template["uriTemplate"]
        classified = {**COUNTS, **TEMPLATES.get(uri, {})}
        unknown += [f"{uri} {name}" for name in re.findall(r"\{(\w+)\}", uri) if name not in classified]
        expected |= set(rows("resource", {uri: TEMPLATES.get(uri, {})}))
    for prompt in await wire.listed("prompts/list", "prompts"):
        references = PROMPTS.get(prompt["name"], {})
        names = [argument["name"] for argument in prompt.get("arguments", [])]
        unknown += [f"{prompt['name']} {name}" for name in names if name not in references and name not in DATA]
        expected |= set(rows("prompt", {prompt["name"]: references}))
    expected |= set(rows("completion", COMPLETED)) | set(rows("path", PATHS))
    played = expected & set(matrix.outcomes)
    assert not unknown, f"say in TOOLS, TEMPLATES, PROMPTS or DATA what these are: {unknown}"
    assert len(played) >= NEEDED * len(expected), sorted(map(str, expected - played))


async def test_both_eras_list_the_same_things(strangers: World) -> None:
    """What is enumerated in one era is what the other offers too."""
    wire = (await strangers.tenant()).wire
    for method, key, name in (
        ("tools/list", "tools", "name"),
        ("resources/templates/list", "resourceTemplates", "uriTemplate"),
        ("prompts/list", "prompts", "name"),
    ):
        modern, legacy = [{each[name] for each in await wire.listed(method, key, era=era)} for era in ERAS]
        assert modern == legacy
        assert modern


@pytest.mark.parametrize(
    "schema",
    [
        {"properties": {"session_id": {"type": "string"}}},
        {"properties": {"many": {"type": "array", "items": {"type": "string"}}}},
        {"properties": {"seq_id": {"type": "integer"}}},
        {"properties": {"anything": {}}},
        {"properties": {"deep": {"$ref": "#/$defs/D"}}, "$defs": {"D": {"properties": {"run": {"type": "string"}}}}},
        {"properties": {"either": {"anyOf": [{"type": "string"}, {"type": "null"}]}}},
    ],
    ids=lambda schema: next(iter(schema["properties"])),
)
def test_a_new_argument_must_be_classified(schema: dict[str, Any]) -> None:
    """An argument that nobody knows is found, wherever in the schema it is."""
    assert unclassified("new_tool", schema, TOOLS)


# Variants of an id, listings, subscriptions, and the tenant itself.

VARIANTS: dict[str, Callable[[str, str], str]] = {
    "upper case": lambda value, _: value.upper(),
    "space before": lambda value, _: f" {value}",
    "space behind": lambda value, _: f"{value} ",
    "newline behind": lambda value, _: f"{value}\n",
    "null behind": lambda value, _: f"{value}\0",
    "full width": lambda value, _: "".join(chr(ord(letter) + 0xFEE0) for letter in value),
    "soft hyphen": lambda value, _: f"{value[:4]}\u00ad{value[4:]}",
    "tenant dot": lambda value, tenant: f"{tenant}.{value}",
    "tenant slash": lambda value, tenant: f"{tenant}/{value}",
    "path up": lambda value, tenant: f"../{tenant}/{value}",
    "wildcard": lambda value, _: f"{value[:-1]}*",
    "the rest": lambda value, _: ">",
    "every key": lambda value, _: "*",
    "escaped": lambda value, _: "".join(f"%{ord(letter):02x}" for letter in value),
    "empty": lambda value, _: "",
}
POINTED = [row for row in STRICT if "cursor" not in row.form and row.place != "path" and row.era == "modern"]


@pytest.mark.parametrize("variant", VARIANTS)
async def test_no_variant_of_a_foreign_id_reaches_it(strangers: World, variant: str) -> None:
    """Nor does it meet a defect: whatever the spelling, it is refused as an id that never existed or is none."""
    owner, stranger = await strangers.tenant(), await strangers.tenant()
    await stranger.twin()
    await stranger.spare()
    values = {form: await FORMS[form].make(owner) for form in sorted({row.form for row in POINTED} - {"run under way"})}
    wrong: list[str] = []

    async def one(row: Row) -> None:
        value = VARIANTS[variant](values[row.form], owner.name)
        try:
            answer = await ask(row, stranger, value)
            text = answer.body.decode()
            shown = [mark for mark in {owner.name, *owner.owned} if mark in text.replace(json.dumps(value)[1:-1], "")]
            allowed = variant == "empty" and {row.target, f"{row.target}.{row.argument}"} & ALLOWED
            reached = answer.good and row.place != "completion" and not allowed
            if shown or reached or answer.status >= 500 or '"INTERNAL"' in text or "-32603" in text:
                wrong.append(f"{row}: {answer.status} {text[:300]}")
        except UnicodeError:
            wrong.append(f"{row}: unreadable")

    async with together() as asking:
        for row in POINTED:
            if row.form in values:
                asking.start_soon(one, row)
    assert not wrong, "\n".join(wrong)


ALLOWED = {
    "execution_list", "approval_list", "tool_list", "usage_report", "cost_report", "session_list",
    "memory_list",
    "agent_execute.session_id", "agent_submit.session_id",
}  # fmt: skip
"""Where an empty text is no reference but the absence of a filter, or of a session."""


async def test_listings_and_completions_show_only_ones_own(strangers: World) -> None:
    """Every tool that reads and needs no argument, every resource listed, every completion of nothing typed: no
    foreign mark."""
    owner, stranger = await strangers.tenant(), await strangers.tenant()
    for each in (owner, stranger):
        await each.finished()
        await each.server()
    for era in ERAS:
        mine, theirs = await everything(owner, era), await everything(stranger, era)
        assert owner.name in mine
        assert all(mark in mine for mark in owner.owned)
        assert not [mark for mark in (owner.name, *owner.owned) if mark in theirs]


async def everything(me: Tenant, era: Era) -> str:
    """All that can be seen without naming anything."""
    wire = me.wire
    tools = await wire.listed("tools/list", "tools", era=era)
    reading = [tool for tool in tools if tool["annotations"]["readOnlyHint"]]
    bare = [tool["name"] for tool in reading if not tool["inputSchema"].get("required")]
    texts = [json.dumps((await wire.call(name, {}, era=era)).value) for name in bare]
    for method, key in (
        ("resources/list", "resources"),
        ("resources/templates/list", "resourceTemplates"),
        ("prompts/list", "prompts"),
    ):
        listed = await wire.listed(method, key, era=era)
        texts.append(json.dumps(listed))
        if key == "resources":
            texts += [(await wire.read(resource["uri"], era)).body.decode() for resource in listed]
    for target, references in COMPLETED.items():
        for argument in references:
            texts.append(json.dumps((await complete(wire, target, argument, "", era)).result))
    return "\n".join(texts)


@pytest.mark.parametrize("filter_name", ["capability", "tag", "q"])
async def test_a_filter_finds_nothing_foreign(strangers: World, filter_name: str) -> None:
    """The owner finds its agent by it, the stranger nothing, as with a word that nobody uses."""
    owner, stranger = await strangers.tenant(), await strangers.tenant()
    agent = await owner.agent()
    found = (await owner.wire.call("agent_list", {filter_name: owner.name})).value
    assert [each["id"] for each in found["agents"]] == [agent["id"]]
    foreign = await stranger.wire.call("agent_list", {filter_name: owner.name})
    never = await stranger.wire.call("agent_list", {filter_name: fresh("nobody")})
    assert foreign == never
    assert foreign.value == {"agents": [], "next_cursor": ""}


async def test_a_page_cursor_of_another_tenant_is_a_place_in_ones_own_list(strangers: World) -> None:
    """The protocol's cursor, taken from a long list and used on a short one, shows nothing."""
    owner, stranger = await strangers.tenant(), await strangers.tenant()
    async with together() as making:
        for _ in range(101):
            making.start_soon(owner.agent)
    await stranger.agent()
    cursor = (await owner.wire.ask("resources/list")).result["nextCursor"]
    for era in ERAS:
        rest = (await owner.wire.ask("resources/list", {"cursor": cursor}, era=era)).result["resources"]
        assert rest
        assert (await stranger.wire.ask("resources/list", {"cursor": cursor}, era=era)).result["resources"] == []


async def test_two_tenants_have_things_of_the_same_name_without_meeting(strangers: World) -> None:
    """Same agent, same tool server: each runs its own, and what one deletes the other keeps."""
    first, second = await strangers.tenant(), await strangers.tenant()
    server = fresh("server")
    for me in (first, second):
        await me.server(server)
        await me.agent(TWIN, tools=[f"{server}/echo"], system_prompt="")
    for me in (first, second):
        prompt = f'call {server}__echo with {{"text": "hello {me.name}"}}'
        run = (await me.wire.call("agent_execute", {"agent": TWIN, "prompt": prompt})).value
        assert run["text"] == f"The result is: hello {me.name}"
        path = await me.wire.call(TWIN, {"prompt": f"say {me.name}"}, path=f"/mcp/agent/{TWIN}")
        assert path.value["text"] == me.name
    assert (await second.wire.call("agent_delete", {"agent": TWIN})).good
    assert (await second.wire.call("tool_server_remove", {"name": server})).good
    assert (await first.wire.call("agent_get", {"agent": TWIN})).value["metadata"] == {"owner": first.name}
    prompt = f'call {server}__echo with {{"text": "still here"}}'
    run = (await first.wire.call("agent_execute", {"agent": TWIN, "prompt": prompt})).value
    assert run["text"] == "The result is: still here"


async def test_an_effect_id_of_another_tenant_joins_nothing(strangers: World) -> None:
    """The key that agents use when they call each other is as much a tenant's own as any."""
    first, second = await strangers.tenant(), await strangers.tenant()
    meta = {"io.github.mcp-agents/effect_id": "eff_" + "0" * 26}
    runs = []
    for me in (first, first, second):
        await me.twin()
        answer = await me.wire.call(TWIN, {"prompt": "say done"}, path=f"/mcp/agent/{TWIN}", meta=meta)
        runs.append(answer.value["execution_id"])
    assert runs[0] == runs[1]
    assert runs[2] != runs[0]


@pytest.mark.parametrize("argument", ["tenant_id", "tenant"])
async def test_no_argument_switches_the_tenant(strangers: World, argument: str) -> None:
    """Every tool refuses it and names the field."""
    owner, stranger = await strangers.tenant(), await strangers.tenant()
    await stranger.twin()
    for tool in await stranger.wire.listed("tools/list", "tools"):
        others = await TOOLS[tool["name"]][1](stranger)
        for era in ERAS:
            answer = await stranger.wire.call(tool["name"], {**others, argument: owner.name}, era=era)
            assert answer.error["code"] == "ARGUMENTS_INVALID"
            assert f"{argument}: Extra inputs are not permitted" in answer.error["message"]


async def test_neither_metadata_nor_header_nor_query_switches_the_tenant(strangers: World) -> None:
    """Only the token says whose things are shown."""
    owner, stranger = await strangers.tenant(), await strangers.tenant()
    await owner.twin()
    plain = await stranger.wire.call("agent_list", {})
    names = ("tenant", "tenant_id", "io.github.mcp-agents/tenant")
    meta = await stranger.wire.call("agent_list", {}, meta=dict.fromkeys(names, owner.name))
    headers = {"X-Tenant": owner.name, "X-Tenant-Id": owner.name, "Tenant": owner.name}
    header = await stranger.wire.call("agent_list", {}, headers=headers)
    query = await stranger.wire.call("agent_list", {}, path=f"/mcp/all?tenant={owner.name}&tenant_id={owner.name}")
    assert plain.value["agents"] == []
    assert plain == meta == header == query


async def test_a_session_of_another_tenant_reads_like_one_that_never_existed(strangers: World) -> None:
    """The previous era's session id is no credential."""
    owner, stranger = await strangers.tenant(), await strangers.tenant()
    session = (await owner.wire.initialize()).session
    body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {}}).encode()
    never = secrets.token_hex(16)
    assert len(never) == len(session)
    for method in ("POST", "GET", "DELETE"):
        content = body if method == "POST" else b""
        foreign = await stranger.wire.send(content, {"Mcp-Session-Id": session}, method=method)
        assert foreign == await stranger.wire.send(content, {"Mcp-Session-Id": never}, method=method)
        assert foreign.status == 404
    assert (await owner.wire.send(body, {"Mcp-Session-Id": session})).status == 200


@pytest.mark.parametrize("method", ["resources/subscribe", "resources/unsubscribe"])
async def test_a_foreign_address_is_subscribed_to_like_one_that_never_existed(strangers: World, method: str) -> None:
    """In the handshake era: the owner may, a stranger is answered byte for byte as about nothing at all."""
    owner, stranger = await strangers.tenant(), await strangers.tenant()
    agent, run = await the_agent_id(owner), await owner.finished()
    for uri in (f"cb://agents/{agent}", f"cb://agents/{agent}/state", f"cb://executions/{run}"):
        ghost = uri.replace(agent, another_id(agent)).replace(run, another_id(run))
        own, foreign, never = [
            await me.wire.ask(method, {"uri": place}, era="legacy")
            for me, place in ((owner, uri), (stranger, uri), (stranger, ghost))
        ]
        assert foreign.without(uri) == never.without(ghost)
        assert own.good
        assert foreign.good == (method == "resources/unsubscribe")


async def test_subscriptions_are_advertised_in_both_eras(strangers: World) -> None:
    """What is served is what the capabilities say."""
    wire = (await strangers.tenant()).wire
    for capabilities in (
        (await wire.ask("server/discover")).result["capabilities"],
        (await wire.initialize()).result["capabilities"],
    ):
        assert capabilities["resources"]["subscribe"]
        assert all(capabilities[part]["listChanged"] for part in ("tools", "resources", "prompts"))
