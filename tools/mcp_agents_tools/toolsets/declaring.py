"""How the house's own tools are declared: as those of a tool server, with a fingerprint of what they say."""

import hashlib
from typing import Any

import msgspec

from mcp_agents.kernel.toolserver import UpstreamTool


def declared(
    name: str, title: str, description: str, schema: dict[str, Any], *, read_only: bool, destructive: bool = False
) -> UpstreamTool:
    """A built-in tool. All of them are idempotent: the same effect is applied once."""
    said = msgspec.json.encode([name, title, description, schema], order="sorted")
    return UpstreamTool(
        name=name,
        title=title,
        description=description,
        input_schema=schema,
        read_only=read_only,
        idempotent=True,
        destructive=destructive,
        open_world=False,
        fingerprint=hashlib.sha256(said).hexdigest(),
    )
