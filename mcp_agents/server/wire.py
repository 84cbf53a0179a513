"""Tools, their schemas, their results and contents as the protocol's types. Pure; the handlers are `mcp`'s."""

from base64 import b64encode
from collections.abc import Iterable
from functools import lru_cache
from typing import Any, assert_never

import mcp_types as mcp
import msgspec
from mcp_agents_tools.surface.plugin import Block, Document, Listed, Media, ToolSpec

from mcp_agents.execution.run import ExecutionView


def tool_of(tool: ToolSpec) -> mcp.Tool:
    """A tool as it is listed."""
    return mcp.Tool(
        name=tool.name,
        title=tool.title,
        description=tool.description,
        input_schema=input_schema(tool),
        output_schema=_output_schema(tool.result) if tool.result else None,
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


def mirrored_schema(tool: ToolSpec) -> dict[str, Any] | None:
    """A tool's arguments, where it has some whose value is repeated in a header (`x-mcp-header` in the schema)."""
    schema = input_schema(tool)
    return schema if any("x-mcp-header" in each for each in schema.get("properties", {}).values()) else None


def result_of(tool: ToolSpec, value: Any, *, links: bool = True) -> mcp.CallToolResult:
    """A tool's result: blocks, or structured, with a text twin for clients that read only text, and what it points
    to, for who knows such `links`."""
    if tool.result is None:
        return mcp.CallToolResult(content=contents(value))
    structured = msgspec.to_builtins(value)
    text = tool.text(value) if tool.text else msgspec.json.encode(structured).decode()
    failed = structured.get("status") in ("failed", "timeout") if tool.hints.open_world else False
    content: list[mcp.ContentBlock] = [mcp.TextContent(type="text", text=text)]
    if links and tool.links:
        content += [_link(each) for each in tool.links(value)]
    return mcp.CallToolResult(content=content, structured_content=structured, is_error=failed)


def _link(listed: Listed) -> mcp.ResourceLink:
    return mcp.ResourceLink(
        uri=listed.uri,
        name=listed.name,
        title=listed.title or None,
        description=listed.description or None,
        mime_type="application/json",
    )


def contents(blocks: Iterable[Block]) -> list[mcp.ContentBlock]:
    """Blocks as they are sent."""
    return [_content(block) for block in blocks]


def _content(block: Block) -> mcp.ContentBlock:
    match block:
        case str():
            return mcp.TextContent(type="text", text=block)
        case Media(kind="image"):
            return mcp.ImageContent(type="image", mime_type=block.mime_type, data=b64encode(block.data).decode())
        case Media():
            return mcp.AudioContent(type="audio", mime_type=block.mime_type, data=b64encode(block.data).decode())
        case Document():
            return mcp.EmbeddedResource(type="resource", resource=resource_of(block.uri, block))
        case _:
            assert_never(block)


def resource_of(uri: str, value: Any) -> mcp.TextResourceContents | mcp.BlobResourceContents:
    """What a resource holds: a document, or data as JSON."""
    if not isinstance(value, Document):
        text = msgspec.json.encode(value).decode()
        return mcp.TextResourceContents(uri=uri, mime_type="application/json", text=text)
    if value.data is None:
        return mcp.TextResourceContents(uri=uri, mime_type=value.mime_type, text=value.text)
    return mcp.BlobResourceContents(uri=uri, mime_type=value.mime_type, blob=b64encode(value.data).decode())


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
