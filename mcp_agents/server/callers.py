"""What a request says of whoever sends it: the client, what it can do, and which agents called each other before.

All of it is the caller's own word: it decides how an answer is given, never what is allowed. Who asks is settled in
`http`. Above: `mcp`.
"""

import re
from collections.abc import Mapping
from typing import Any, Final

import anyio
import mcp_types as mcp
from mcp.server.context import ServerRequestContext
from mcp_agents_tools.surface.clients import Client
from mcp_types.version import MODERN_PROTOCOL_VERSIONS

from mcp_agents.agents.catalog import IDENTITY_LENGTH
from mcp_agents.execution.orders import MAX_DEPTH
from mcp_agents.kernel import ids
from mcp_agents.server import rendering, tasks

_IDENTITY: Final = re.compile(f"[0-9a-f]{{{IDENTITY_LENGTH}}}")

Context = ServerRequestContext[Any, Any]


def client_of(ctx: Context) -> Client:
    """Who calls: by the request's own `_meta` in the current era, by the handshake before it."""
    meta: Mapping[str, Any] = ctx.meta or {}
    modern = ctx.protocol_version in MODERN_PROTOCOL_VERSIONS
    if modern:
        who, can = _object(meta.get(mcp.CLIENT_INFO_META_KEY)), _object(meta.get(mcp.CLIENT_CAPABILITIES_META_KEY))
    else:
        who, can = _greeting(ctx.session.client_params)
    asking = can.get("elicitation")
    return Client(
        name=str(who.get("name", "")),
        version=str(who.get("version", "")),
        protocol=ctx.protocol_version,
        modern=modern,
        stdio=ctx.request is None,
        # Before there were two kinds of questions, an empty declaration meant forms.
        form=isinstance(asking, dict) and ("form" in asking or not asking),
        url=isinstance(asking, dict) and "url" in asking,
        tasks=tasks.EXTENSION in _object(can.get("extensions")),
        progress="progressToken" in meta or "progress_token" in meta,
    )


def chain_of(meta: Mapping[str, Any]) -> tuple[str, ...]:
    """The agents that called each other to get here, as their deployments name them; bounded by the depth allowed."""
    given = meta.get(f"{rendering.META_PREFIX}chain")
    named = given if isinstance(given, list) else []
    return tuple(each for each in named[: MAX_DEPTH + 1] if isinstance(each, str) and _IDENTITY.fullmatch(each))


def upstream_of(meta: Mapping[str, Any]) -> str:
    """The run of another deployment that calls."""
    given = meta.get(f"{rendering.META_PREFIX}execution_id")
    return given if isinstance(given, str) and ids.is_id(given, "ex") else ""


def _greeting(said: mcp.InitializeRequestParams | None) -> tuple[dict[str, Any], dict[str, Any]]:
    """What a client of the era before said once, in the same words as one of this era says each time."""
    if said is None:
        return {}, {}
    known = said.model_dump(by_alias=True, mode="json", exclude_none=True, include={"client_info", "capabilities"})
    return known.get("clientInfo", {}), known.get("capabilities", {})


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def was_cancelled(ctx: Context) -> bool:
    """Whether `notifications/cancelled` came for this request. A stream that was closed leaves no such word."""
    asked: anyio.Event = ctx.session._request_outbound.cancel_requested
    return asked.is_set()
