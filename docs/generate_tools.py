"""Writes docs/tools.md from the plugins that this distribution declares; `--check` only says whether it is current.

What the page says of a tool, a resource or a prompt is read from its declaration. Only the example calls are
written here; a tool without one stops the generator.
"""

import json
import sys
import tomllib
from importlib.metadata import EntryPoint
from pathlib import Path
from textwrap import wrap
from typing import Any, Final

from mcp_agents_tools.surface import scopes
from mcp_agents_tools.surface.agent_server import Ask
from mcp_agents_tools.surface.catalogue import ENTRY_POINTS, IDE_TOOLS, Catalogue
from mcp_agents_tools.surface.plugin import Hints, Plugin, ToolSpec
from pydantic import BaseModel
from pydantic.fields import FieldInfo

ROOT: Final = Path(__file__).parents[1]
PAGE: Final = ROOT / "docs" / "tools.md"
WIDTH: Final = 120

_RUN: Final = "ex_06f0a1b2c3d4e5f6g7h8i9jkln"
_SESSION: Final = "se_06f0a1b2c3d4e5f6g7h8i9jkln"
EXAMPLES: Final[dict[str, dict[str, Any]]] = {
    "agent_create": {
        "name": "assistant",
        "system_prompt": "Answer in one sentence.",
        "virtual_model": "auto",
        "tools": ["demo/add", "builtin/*"],
        "output_schema": {"type": "object", "properties": {"total": {"type": "number"}}, "required": ["total"]},
    },
    "agent_get": {"agent": "assistant"},
    "agent_list": {"tag": "support", "limit": 20},
    "agent_versions": {"agent": "assistant", "limit": 10},
    "agent_rollback": {"agent": "assistant", "version": 3, "expected_revision": 8},
    "agent_update": {"agent": "assistant", "system_prompt": "Answer in two sentences.", "expected_revision": 7},
    "agent_set_active": {"agent": "assistant", "active": False},
    "agent_delete": {"agent": "assistant", "expected_revision": 9},
    "agent_execute": {"agent": "assistant", "prompt": "What is 2 + 2?", "idempotency_key": "question-1"},
    "agent_submit": {"agent": "assistant", "prompt": "Sum up this text.", "context": {"text": "…"}},
    "session_create": {"agent": "assistant", "window": {"policy": "recent", "max_tokens": 24000}},
    "session_get": {"session_id": _SESSION},
    "session_list": {"agent": "assistant", "state": "active"},
    "session_messages": {"session_id": _SESSION, "q": "invoice", "limit": 5},
    "session_suspend": {"session_id": _SESSION},
    "session_activate": {"session_id": _SESSION},
    "session_close": {"session_id": _SESSION, "expected_revision": 12},
    "session_delete": {"session_id": _SESSION},
    "session_pin": {"session_id": _SESSION, "text": "The customer's number is 4711."},
    "session_compact": {"session_id": _SESSION},
    "session_fork": {"session_id": _SESSION, "turn": 3},
    "session_share": {"session_id": _SESSION, "who": "role:operator", "may": "read"},
    "session_unshare": {"session_id": _SESSION, "who": "role:operator"},
    "session_export": {"session_id": _SESSION},
    "session_report": {"session_id": _SESSION},
    "memory_list": {"agent": "assistant", "about": "user", "q": "invoice"},
    "memory_edit": {
        "memory_id": "mem_06f0a1b2c3d4e5f6g7h8i9jkln",
        "text": "Invoices go to accounts@example.org.",
        "expected_revision": 12,
    },
    "memory_erase": {"everything": True},
    "session_import": {"agent": "assistant", "export": {"format": "mcp-agents-session", "v": 1, "turns": []}},
    "execution_get": {"execution_id": _RUN},
    "execution_wait": {"execution_id": _RUN, "timeout_seconds": 30},
    "execution_list": {"agent": "assistant", "status": "failed"},
    "execution_events": {"execution_id": _RUN, "cursor": 4},
    "execution_resume": {
        "execution_id": _RUN,
        "question_id": "eff_06f0a1b2c3d4e5f6g7h8i9jkln",
        "content": {"happened": True, "result": "Order 17 was placed."},
    },
    "execution_estimate": {"agent": "assistant"},
    "execution_share": {"execution_id": _RUN, "parts": ["text"]},
    "dead_letter_list": {},
    "dead_letter_requeue": {"execution_id": _RUN},
    "usage_report": {"by": "model"},
    "cost_report": {"by": "day"},
    "execution_steer": {"execution_id": _RUN, "message": "Only the invoices of this year."},
    "approval_list": {"status": "open", "kind": "approval", "limit": 10},
    "approval_decide": {"approval_id": "apr_06f0a1b2c3d4e5f6g7h8i9jkln", "approve": True, "reason": "It was ordered."},
    "execution_cancel": {"execution_id": _RUN, "reason": "No longer needed."},
    "model_list": {},
    "model_resolve": {"virtual_model": "cb:coding", "max_cost_per_1k_tokens": 2000, "fallback_models": ["fast"]},
    "model_route_set": {"virtual_model": "cb:coding", "models": ["careful", "fast"], "strategy": "failover_chain"},
    "provider_key_set": {"provider": "openai", "key": "sk-…"},
    "provider_key_list": {},
    "provider_key_delete": {"provider": "openai"},
    "tool_server_add": {
        "name": "shop",
        "transport": "http",
        "url": "https://shop.example.org/mcp",
        "auth": {"type": "bearer", "token": "…"},
        "effect_id": {"header": "Idempotency-Key"},
    },
    "tool_server_get": {"name": "demo"},
    "tool_server_list": {},
    "tool_server_authorize": {"name": "github"},
    "tool_server_refresh": {"name": "demo"},
    "tool_server_remove": {"name": "demo"},
    "tool_list": {"server": "demo"},
    "budget_set": {"scope": "agent", "subject": "assistant", "period": "day", "limit_micro_usd": 2000000},
    "budget_get": {"scope": "tenant"},
    "quota_set": {"scope": "agent", "subject": "assistant", "max_concurrent": 10, "max_queued": 1000},
    "quota_get": {},
    "policy_set": {
        "name": "intern-tools",
        "actions": ["call_tool"],
        "when": {"agents": ["intern"]},
        "unless": {"resources": ["github/*"]},
        "reason": "The intern works on GitHub only.",
        "dry_run": True,
        "examples": [{"action": "call_tool", "resource": "mail/send", "agent": "intern"}],
    },
    "policy_get": {"name": "intern-tools"},
    "policy_list": {},
    "policy_delete": {"name": "intern-tools", "expected_version": 1},
    "policy_explain": {"action": "call_tool", "resource": "mail/send", "agent": "intern"},
    "role_assign": {"user_id": "us_06f0…", "roles": ["operator"]},
    "role_revoke": {"user_id": "us_06f0…", "roles": ["developer"]},
    "role_list": {},
    "audit_query": {"act": "policy_", "limit": 20},
    "audit_verify": {},
    "tenant_get": {},
    "tenant_update": {"title": "Acme Inc."},
    "user_invite": {"email": "ada@example.org", "roles": ["developer"]},
    "user_list": {},
    "user_remove": {"user_id": "us_06f0…"},
    "user_suspend": {"user_id": "us_06f0…"},
    "client_register": {"name": "ci", "roles": ["operator"], "credentials": True},
    "client_list": {},
    "client_revoke": {"client_id": "cl_06f0…"},
}

_INTRO: Final = """\
# Tools, resources and prompts

<!-- Written by docs/generate_tools.py from the plugins; change those and run it again. -->

What the server offers over MCP. A list shows what the caller's scopes allow; a call with too little is refused with the
scope it needs. Arguments that are not declared are refused by name. Results are structured, with a text beside them.

| path | what it offers |
| --- | --- |
| `/mcp` | the tools marked "at `/mcp`" below, every resource and every prompt |
| `/mcp/all` | everything |
| `/mcp/{plugin+plugin}` | the named plugins, such as `/mcp/agents+executions` |
| `/mcp/agent/{agent}` | one agent as a tool of its own |

Over stdio everything is offered. Hints that are not named for a tool are false.
"""


def catalogue() -> Catalogue:
    """The built-in plugins alone, whatever else is installed here."""
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["entry-points"][ENTRY_POINTS]
    return Catalogue(EntryPoint(name, value, ENTRY_POINTS).load() for name, value in sorted(declared.items()))


def page() -> str:
    """The whole page."""
    parts = [_INTRO]
    for plugin in catalogue().plugins:
        parts += _plugin(plugin)
    parts.append(
        "## One agent\n\n"
        "`/mcp/agent/{agent}` takes an agent's id or name and offers one tool, named after the agent.\n\n"
        f"Scope `{scopes.AGENT_SERVER}`. Hints: `destructiveHint`, `openWorldHint`.\n\n"
        f"{_arguments(Ask)}\n"
        "It returns what `agent_execute` returns; its text is the answer alone. The effect id in\n"
        '`_meta["io.github.mcp-agents/effect_id"]` is its idempotency key, so that a repeated call joins its run.\n'
    )
    return "\n".join(parts)


def _plugin(plugin: Plugin) -> list[str]:
    parts = [f"## {plugin.title}\n\nPlugin `{plugin.name}`.\n"]
    if plugin.asks_also:
        also = ", ".join(f"`{scope}`" for scope in sorted(plugin.asks_also))
        parts[0] += f"Some calls also ask for {also}.\n"
    parts += [_tool(tool, plugin.scopes[name]) for name, tool in sorted(plugin.tools.items())]
    for title, offered in (("Resources", plugin.resources), ("Prompts", plugin.prompts)):
        if offered:
            rows: list[tuple[str, ...]] = [
                (f"`{name}`", f"`{plugin.scopes[name]}`", each.description) for name, each in offered.items()
            ]
            parts.append(f"### {title} of {plugin.name}\n\n" + _table(("name", "scope", "what it is"), rows))
            parts += [_prompt_arguments(name, each.arguments) for name, each in plugin.prompts.items()] * (
                title == "Prompts"
            )
    return parts


def _prompt_arguments(name: str, arguments: dict[str, str]) -> str:
    return _table((f"argument of `{name}`", "meaning"), [(f"`{key}`", text) for key, text in arguments.items()])


def _tool(tool: ToolSpec, scope: str) -> str:
    if tool.name not in EXAMPLES:
        raise SystemExit(f"{tool.name} has no example in docs/generate_tools.py")
    hints = ", ".join(f"`{hint}`" for hint in _hints(tool.hints)) or "none"
    place = " Offered at `/mcp`." if tool.name in IDE_TOOLS else ""
    call = json.dumps({"name": tool.name, "arguments": EXAMPLES[tool.name]}, ensure_ascii=False)
    if len(call) > WIDTH:
        call = json.dumps({"name": tool.name, "arguments": EXAMPLES[tool.name]}, ensure_ascii=False, indent=2)
    text = "\n".join(wrap(tool.description, WIDTH))
    return (
        f"### `{tool.name}`: {tool.title}\n\n{text}\n\n"
        f"Scope `{scope}`.{place} Hints: {hints}.\n\n"
        f"{_arguments(tool.arguments)}\n```json\n{call}\n```\n"
    )


def _hints(hints: Hints) -> list[str]:
    wire = {
        "readOnlyHint": hints.read_only,
        "destructiveHint": hints.destructive,
        "idempotentHint": hints.idempotent,
        "openWorldHint": hints.open_world,
    }
    return [name for name, said in wire.items() if said]


def _arguments(model: type[BaseModel]) -> str:
    rows = _rows(model, "")
    return _table(("argument", "type", "default", "meaning"), rows) if rows else "No arguments.\n"


def _rows(model: type[BaseModel], prefix: str) -> list[tuple[str, ...]]:
    schema = model.model_json_schema(ref_template="{model}")
    rows: list[tuple[str, ...]] = []
    for name, field in model.model_fields.items():
        inner = schema["properties"][name]
        rows.append((f"`{prefix}{name}`", _type(inner), _default(field), f"{field.description}{_choices(inner)}"))
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            rows += _rows(field.annotation, f"{prefix}{name}.")
    return rows


def _type(schema: dict[str, Any]) -> str:
    if "anyOf" in schema:
        return " or ".join(_type(each) for each in schema["anyOf"])
    if "enum" in schema:
        return "choice"
    if "$ref" in schema:
        return "object"
    kind = schema.get("type", "any JSON")
    if kind == "array":
        return f"list of {_type(schema['items'])}"
    low = schema.get("minimum", schema.get("minLength"))
    high = schema.get("maximum", schema.get("maxLength"))
    if low is not None or high is not None:
        unit = " characters" if kind == "string" else ""
        span = f"{low or 0} to {high}" if high is not None else f"at least {low}"
        return f"{kind}, {span}{unit}"
    return str(kind)


def _choices(schema: dict[str, Any]) -> str:
    return (
        " One of " + ", ".join(f"`{json.dumps(value)}`" for value in schema["enum"]) + "." if "enum" in schema else ""
    )


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True, validated_data={})
    return f"`{json.dumps({} if isinstance(value, BaseModel) else value)}`"


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """A table whose lines keep to the width: what does not fit in the last column goes on in a row below."""
    lines = [_line(head), _line(("---",) * len(head))]
    for row in rows:
        *first, last = row
        room = WIDTH - len(_line((*first, "")))
        pieces = wrap(last, room, break_long_words=False) or [""]
        lines.append(_line((*first, pieces[0])))
        lines += [_line((*[""] * len(first), piece)) for piece in pieces[1:]]
    return "\n".join(lines) + "\n"


def _line(cells: tuple[str, ...]) -> str:
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    """Writes the page, or with `--check` fails when it is not what would be written."""
    fresh = page()
    if "--check" not in sys.argv[1:]:
        PAGE.write_text(fresh, "utf-8")
    elif not PAGE.exists() or PAGE.read_text("utf-8") != fresh:
        raise SystemExit("docs/tools.md is not up to date: run python docs/generate_tools.py")


if __name__ == "__main__":
    main()
