"""What a tool server says about its tools, made safe to keep: bounded, cleaned, fingerprinted.

Nothing a server wrote is evaluated: schemas are measured and copied, references in them are not followed,
patterns in them are not run. Texts lose what a reader cannot see. The fingerprint is over what the server
sent, before any of that, so that a hidden change shows too. Pure functions; `upstream` calls them, and
`toolbox` and `servers` those that read a schema.
"""

import hashlib
import re
import unicodedata
from typing import Any, Final

import mcp_types as mcp
import msgspec

from mcp_agents.agents.schema import depth_over
from mcp_agents.kernel.toolserver import UpstreamTool

TOOL_LIMIT: Final = 500
DESCRIPTION_LIMIT: Final = 4 * 1024
TITLE_LIMIT: Final = 256
NAME_LIMIT: Final = 128
SCHEMA_LIMIT: Final = 32 * 1024
"""Bytes of one input schema as JSON; a tool with a larger one is left out."""
SCHEMA_DEPTH: Final = 32

_ANSI: Final = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-Z\\-_])|\x9b[0-?]*[ -/]*[@-~]")
_HIDDEN: Final = frozenset({"Cc", "Cf", "Co", "Cs", "Cn"})
_LINE_ENDS: Final = str.maketrans({"\u2028": "\n", "\u2029": "\n", "\u0085": "\n"})


def kept_tool(tool: mcp.Tool) -> UpstreamTool | None:
    """The tool as it is kept, or None when its name or schema is not usable."""
    if not tool.name or len(tool.name) > NAME_LIMIT or visible(tool.name) != tool.name:
        return None
    if depth_over(tool.input_schema, SCHEMA_DEPTH) or len(msgspec.json.encode(tool.input_schema)) > SCHEMA_LIMIT:
        return None
    hints = tool.annotations
    return UpstreamTool(
        name=tool.name,
        title=cut(visible(tool.title or (hints.title if hints else None) or "", TITLE_LIMIT), TITLE_LIMIT),
        description=cut(visible(tool.description or "", DESCRIPTION_LIMIT), DESCRIPTION_LIMIT),
        input_schema=_cleaned(tool.input_schema),
        read_only=bool(hints and hints.read_only_hint),
        idempotent=bool(hints and hints.idempotent_hint),
        fingerprint=fingerprint(tool),
        destructive=not hints or hints.destructive_hint is not False,
        open_world=not hints or hints.open_world_hint is not False,
    )


def fingerprint(tool: mcp.Tool) -> str:
    """SHA-256, in hex, of all that the server says about the tool, in a canonical form."""
    said = {
        "name": tool.name,
        "title": tool.title,
        "description": tool.description,
        "input_schema": tool.input_schema,
        "output_schema": tool.output_schema,
        "annotations": tool.annotations.model_dump(mode="json", exclude_none=True) if tool.annotations else None,
    }
    return hashlib.sha256(msgspec.json.encode(said, order="sorted")).hexdigest()


def takes(schema: dict[str, Any], argument: str) -> bool:
    """Whether an input schema has a property of this name at its top."""
    properties = schema.get("properties")
    return isinstance(properties, dict) and argument in properties


def without(schema: dict[str, Any], argument: str) -> dict[str, Any]:
    """An input schema without this property at its top, as if the tool did not take it."""
    if not takes(schema, argument):
        return schema
    properties = {name: part for name, part in schema["properties"].items() if name != argument}
    required = schema.get("required")
    if not isinstance(required, list):
        return {**schema, "properties": properties}
    return {**schema, "properties": properties, "required": [name for name in required if name != argument]}


def visible(text: str, limit: int | None = None) -> str:
    """The text without escape sequences, direction marks, zero-width and other unseen characters.

    With `limit` only about as much of the text is looked at as can matter for that many bytes.
    """
    if limit is not None:
        text = text[: limit * 4]
    text = _ANSI.sub("", text.translate(_LINE_ENDS))
    if text.isascii() and text.isprintable():
        return text
    return "".join(char for char in text if char in "\n\t" or not _unseen(char))


def cut(text: str, limit: int) -> str:
    """The text in at most `limit` bytes of UTF-8, with an ellipsis where it was longer."""
    data = text.encode("utf-8", "replace")
    if len(data) <= limit:
        return text
    return data[: limit - 3].decode("utf-8", "ignore") + "…"


def _cleaned(schema: dict[str, Any]) -> dict[str, Any]:
    """A copy whose descriptions and titles hold only what can be seen. Its depth was checked before."""
    return {key: _clean_value(key, value) for key, value in schema.items()}


def _clean_value(key: str, value: Any) -> Any:
    if isinstance(value, dict):
        return _cleaned(value)
    if isinstance(value, list):
        return [_clean_value("", item) for item in value]
    if isinstance(value, str) and key in ("description", "title", "$comment"):
        return visible(value)
    return value


def _unseen(char: str) -> bool:
    # Variation selectors are marks, not format characters, and can carry hidden text.
    return unicodedata.category(char) in _HIDDEN or "\ufe00" <= char <= "\ufe0f" or "\U000e0100" <= char <= "\U000e01ef"
