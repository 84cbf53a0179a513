"""Tools, their schemas and their results as the protocol's types. Pure; the handlers are `mcp`'s."""

from functools import lru_cache
from typing import Any

import mcp_types as mcp
import msgspec
from mcp_agents_tools.surface.plugin import ToolSpec

from mcp_agents.execution.run import ExecutionView


def tool_of(tool: ToolSpec) -> mcp.Tool:
    """A tool as it is listed."""
    return mcp.Tool(
        name=tool.name,
        title=tool.title,
        description=tool.description,
        input_schema=input_schema(tool),
        output_schema=_output_schema(tool.result),
        annotations=mcp.ToolAnnotations(
            title=tool.title,
            read_only_hint=tool.hints.read_only,
            destructive_hint=tool.hints.destructive,
            idempotent_hint=tool.hints.idempotent,
            open_world_hint=tool.hints.open_world,
        ),
    )


def input_schema(tool: ToolSpec) -> dict[str, Any]:
    """A tool's arguments as JSON Schema."""
    return _schema_of_arguments(tool.arguments)


def result_of(tool: ToolSpec, value: msgspec.Struct) -> mcp.CallToolResult:
    """A tool's result: structured, with a text twin for clients that read only text."""
    structured = msgspec.to_builtins(value)
    text = tool.text(value) if tool.text else msgspec.json.encode(structured).decode()
    failed = structured.get("status") in ("failed", "timeout") if tool.hints.open_world else False
    content: list[mcp.ContentBlock] = [mcp.TextContent(type="text", text=text)]
    return mcp.CallToolResult(content=content, structured_content=structured, is_error=failed)


def ended(tool: ToolSpec, view: ExecutionView) -> mcp.CallToolResult:
    """What a call of the tool returns whose run has ended."""
    return result_of(tool, tool.long.finish(view) if tool.long else view)


@lru_cache(maxsize=512)
def _schema_of_arguments(arguments: Any) -> dict[str, Any]:
    schema: dict[str, Any] = arguments.model_json_schema()
    schema.pop("title", None)
    schema.pop("description", None)
    return schema


@lru_cache(maxsize=512)
def _output_schema(result: Any) -> dict[str, Any]:
    schema: dict[str, Any] = msgspec.json.schema(result, ref_template="#/$defs/{name}")
    # An object at the root, as clients of the previous era expect; the definitions stay beside it.
    definitions = schema.get("$defs", {})
    name = str(schema.get("$ref", "")).rpartition("/")[2]
    root = dict(definitions.get(name, schema))
    return {**root, "$defs": {key: each for key, each in definitions.items() if key != name}}
