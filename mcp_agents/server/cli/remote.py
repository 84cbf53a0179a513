"""The program as an MCP client: for `run`, `demo`, `doctor` and `bench`, over the same door as everybody."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx2
from mcp.client.auth.extensions.client_credentials import ClientCredentialsOAuthProvider
from mcp.client.client import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.auth import OAuthClientInformationFull, OAuthToken
from mcp.shared.dispatcher import ProgressFnT
from mcp.shared.exceptions import MCPError
from mcp_types import Implementation

from mcp_agents import __version__
from mcp_agents.kernel.errors import KINDS, Denied, Fault, Invalid, Unavailable
from mcp_agents.kernel.tasks import background
from mcp_agents.server.rendering import ERROR_META


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """How the program signs in: a token, or a client's own id and secret at its issuer."""

    token: str = field(default="", repr=False)
    client_id: str = ""
    client_secret: str = field(default="", repr=False)
    issuer: str = ""


class _Memory:
    """Tokens for the time of one session."""

    def __init__(self) -> None:
        self._tokens: OAuthToken | None = None
        self._client: OAuthClientInformationFull | None = None

    async def get_tokens(self) -> OAuthToken | None:
        return self._tokens

    async def set_tokens(self, tokens: OAuthToken) -> None:
        self._tokens = tokens

    async def get_client_info(self) -> OAuthClientInformationFull | None:
        return self._client

    async def set_client_info(self, client_info: OAuthClientInformationFull) -> None:
        self._client = client_info


class Remote:
    """A connected server."""

    def __init__(self, client: Client) -> None:
        self._client = client

    async def call(self, tool: str, arguments: dict[str, Any], progress: ProgressFnT | None = None) -> dict[str, Any]:
        """The structured result of a tool. Raises `Invalid` with the server's sentence when it is an error."""
        result = await self._client.call_tool(tool, arguments, progress_callback=progress)
        structured = getattr(result, "structured_content", None)
        if result.is_error and not structured:
            problem = (result.meta or {}).get(ERROR_META) or {}
            kind = KINDS.get(str(problem.get("kind")), Invalid)
            text = " ".join(getattr(part, "text", "") for part in result.content)
            raise kind(
                str(problem.get("code", "REMOTE_ERROR")),
                f"{tool}: {problem.get('code', '')}: {problem.get('message', text)}",
                str(problem.get("next_step", "")),
            )
        if not isinstance(structured, dict):
            raise Fault("REMOTE_ANSWER", f"{tool} returned no structured result.")
        return structured


@asynccontextmanager
async def connected(url: str, credentials: Credentials) -> AsyncIterator[Remote]:
    """A session with the server at `url`. Raises `Unavailable` when it cannot be reached."""
    auth: httpx2.Auth | None = None
    headers: dict[str, str] = {}
    if credentials.token:
        headers["Authorization"] = f"Bearer {credentials.token}"
    else:
        auth = ClientCredentialsOAuthProvider(
            url, _Memory(), credentials.client_id, credentials.client_secret, issuer=credentials.issuer
        )
    timeout = httpx2.Timeout(30, read=600)
    info = Implementation(name="mcp-agents-cli", version=__version__)
    try:
        # `background` lets a lone exception out as itself, whatever groups the SDK wraps it in.
        async with (
            background(),
            httpx2.AsyncClient(auth=auth, headers=headers, timeout=timeout, trust_env=False) as http,
            Client(streamable_http_client(url, http_client=http), client_info=info) as client,
        ):
            yield Remote(client)
    except (httpx2.TransportError, ConnectionError) as cause:
        raise Unavailable(
            "SERVER_UNREACHABLE", f"No server answers at {url}.", "Start one with `mcp-agents serve`."
        ) from cause
    except MCPError as cause:
        raise Denied(
            "SERVER_REFUSED",
            f"The server at {url} refused: {cause}.",
            "Check that the token or the client's secret is good for this server.",
        ) from cause
