"""A whole house behind a real port, in the test's own loop: HTTP, OAuth, NATS, worker, everything."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import uvicorn
from starlette.applications import Starlette

from mcp_agents.kernel.clock import Clock
from mcp_agents.kernel.tasks import background
from mcp_agents.server.cli.remote import Credentials, Remote, connected
from mcp_agents.server.compose import House, open_house
from mcp_agents.server.config import Settings
from mcp_agents.server.http import app
from mcp_agents.server.listening import listen


@dataclass(frozen=True, slots=True)
class Served:
    """A running server."""

    house: House
    url: str

    async def token(self, tenant: str, scope: str = "") -> str:
        """A token of a tenant, made as the command line makes it; the tenant is created when it is not there."""
        if tenant not in [known.name for known in await self.house.auth.tenants.list()]:
            await self.house.auth.tenants.create(tenant)
        scopes = frozenset(scope.split()) or None
        return (await self.house.auth.tokens.issue_direct(tenant, scopes)).access_token

    @asynccontextmanager
    async def remote(self, tenant: str, path: str = "/mcp/all", scope: str = "") -> AsyncIterator[Remote]:
        """An official client, signed in to a tenant."""
        token = await self.token(tenant, scope)
        async with connected(self.url + path, Credentials(token=token)) as opened:
            yield opened


@asynccontextmanager
async def served(
    folder: Path,
    *,
    workers: int = 1,
    clock: Clock | None = None,
    build: Callable[[House], Starlette] = app,
    public_url: str = "",
    **sections: Any,
) -> AsyncIterator[Served]:
    """A server on a free loopback port, closed on the way out. `build` makes its application; `public_url` is the
    address that clients know it by, where that is another one."""
    data: dict[str, Any] = {"server": {"data_dir": str(folder), "port": 0, "workers": workers}, **sections}
    settings = Settings.model_validate(data)
    with listen("127.0.0.1", 0) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        async with open_house(settings, public_url or url, clock=clock) as house, background() as tasks:
            if workers:
                tasks.start_soon(house.crew.work, workers)
            application = build(house)
            options = {"timeout_keep_alive": 75, "timeout_graceful_shutdown": 1}  # as `mcp-agents serve`
            server = _Quiet(uvicorn.Config(application, log_level="warning", **options))
            tasks.start_soon(server.serve, [listener])
            await server.up.wait()
            try:
                yield Served(house, url)
            finally:  # also where a test fails: the next one begins with nothing left of this one
                application.state.stop()
                server.should_exit = True
                with anyio.move_on_after(10, shield=True):
                    await server.down.wait()


class _Quiet(uvicorn.Server):
    """uvicorn that tells when it listens and leaves signals alone."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.up, self.down = anyio.Event(), anyio.Event()

    def capture_signals(self) -> Any:
        from contextlib import nullcontext

        return nullcontext()

    async def startup(self, sockets: Any = None) -> None:
        await super().startup(sockets)
        self.up.set()

    async def shutdown(self, sockets: Any = None) -> None:
        try:
            await super().shutdown(sockets)
        finally:
            self.down.set()
