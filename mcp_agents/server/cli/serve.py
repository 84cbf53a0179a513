"""`serve`, `worker`, `stdio`: the long-running commands."""

import json
import logging
import os
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

import anyio
import click
import uvicorn
from mcp.server.stdio import stdio_server

from mcp_agents.kernel.errors import Conflict, Invalid
from mcp_agents.kernel.principal import Principal
from mcp_agents.kernel.scopes import TENANT_SCOPES
from mcp_agents.kernel.tasks import background
from mcp_agents.server.cli.common import (
    config_option,
    public_url_of,
    quiet_logging,
    runs_async,
    server_file,
    settings_of,
)
from mcp_agents.server.compose import House, open_house
from mcp_agents.server.config import Settings
from mcp_agents.server.http import app
from mcp_agents.server.listening import listen, url_of
from mcp_agents.server.mcp import Door
from mcp_agents.server.memory import settle_memory

log = logging.getLogger("mcp_agents.serve")


@click.command(epilog="Example: mcp-agents serve --port 8765")
@config_option
@click.option("--host", default=None, help="Where to listen; default: [server] host.")
@click.option("--port", type=int, default=None, help="The port; 0 picks a free one. Default: [server] port.")
@runs_async
async def serve(config: Path | None, host: str | None, port: int | None) -> None:
    """Serve MCP over HTTP, with workers in this process."""
    settings = _with(settings_of(config), host, port)
    await serve_until_stopped(settings)


async def serve_until_stopped(settings: Settings) -> None:
    """Opens the house, serves it, and closes it on SIGTERM or SIGINT."""
    listener = listen(settings.server.host, settings.server.port)
    public_url = settings.server.public_url or url_of(settings.server.host, listener.getsockname()[1])
    with listener:
        async with open_house(settings, public_url) as house, background() as tasks:
            path = None if house.external else await house.auth.bootstrap()
            settle_memory()
            first_link = f"{public_url}{path}" if path else None
            tasks.start_soon(house.erasure.keep)
            if settings.server.workers:
                tasks.start_soon(house.crew.work, settings.server.workers)
            with _announced(settings, public_url):
                server = _Server(house, first_link)
                tasks.start_soon(server.stop_on_signal)
                await server.serve(sockets=[listener])


class _Server(uvicorn.Server):
    """uvicorn inside our own lifetime: it says when it listens, and leaves the signals to us."""

    def __init__(self, house: House, first_link: str | None) -> None:
        application = app(house)
        super().__init__(
            uvicorn.Config(
                application,
                log_level="warning",
                access_log=False,
                server_header=False,
                proxy_headers=False,
                timeout_graceful_shutdown=2,
                timeout_keep_alive=75,
                h11_max_incomplete_event_size=64 * 1024,
            )
        )
        self._house, self._first_link, self._stop_streams = house, first_link, application.state.stop

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        url = self._house.public_url
        click.echo(f"mcp-agents listening on {url}")
        click.echo(f"  MCP endpoint   {url}/mcp")
        click.echo(f"  data folder    {self._house.settings.data_dir}")
        if self._first_link:
            click.echo(f"  first sign-in  {self._first_link}   (once, for the owner of tenant default)")

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield  # uvicorn would raise the signal again on its way out, before the house is closed

    async def stop_on_signal(self) -> None:
        with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as received:
            async for _ in received:
                self._stop_streams()
                self.force_exit = self.should_exit
                self.should_exit = True


@click.command(epilog="Example: mcp-agents worker --nats nats://127.0.0.1:4222 --concurrency 64")
@config_option
@click.option("--nats", default=None, help="The shared NATS server; default: [nats] url, else the local data folder.")
@click.option("--concurrency", type=click.IntRange(1, 10_000), default=None, help="Runs at once.")
@runs_async
async def worker(config: Path | None, nats: str | None, concurrency: int | None) -> None:
    """Work on runs, without serving anything."""
    settings = settings_of(config)
    if nats:
        settings = settings.model_copy(update={"nats": settings.nats.model_copy(update={"url": nats})})
    if concurrency:
        server = settings.server.model_copy(update={"concurrency": concurrency})
        settings = settings.model_copy(update={"server": server})
    async with open_house(settings, public_url_of(settings)) as house, background() as tasks:
        tasks.start_soon(house.crew.work, 1)
        settle_memory()
        click.echo("mcp-agents worker ready")
        with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as received:
            async for _ in received:
                return


@click.command(epilog="Example: mcp-agents stdio   (an MCP client starts it)")
@config_option
@runs_async
async def stdio(config: Path | None) -> None:
    """Serve MCP over stdin and stdout to one local client."""
    quiet_logging()
    settings = settings_of(config)
    local = Principal(tenant="local", subject="owner", scopes=TENANT_SCOPES, client="stdio", roles=frozenset({"admin"}))
    async with open_house(settings, public_url_of(settings)) as house, background() as tasks:
        tasks.start_soon(house.crew.work, max(1, settings.server.workers))
        with suppress(Conflict):  # there since an earlier start; from now on tokens can be made for it, too
            await house.auth.tenants.create(local.tenant, "Local")
        server = Door(house, local, tasks).server()
        async with stdio_server() as (incoming, outgoing):
            await server.run(incoming, outgoing, server.create_initialization_options())


@contextmanager
def _announced(settings: Settings, public_url: str) -> Iterator[None]:
    """Leaves word of the running server in the data folder, for commands that look for it."""
    file = server_file(settings)
    file.write_text(json.dumps({"public_url": public_url, "pid": os.getpid()}), "utf-8")
    try:
        yield
    finally:
        with suppress(OSError, ValueError):
            if json.loads(file.read_text("utf-8")).get("pid") == os.getpid():
                file.unlink()


def _with(settings: Settings, host: str | None, port: int | None) -> Settings:
    given = {"host": host, "port": port}
    server = settings.server.model_copy(update={key: value for key, value in given.items() if value is not None})
    settings = settings.model_copy(update={"server": server})
    public = urlsplit(settings.server.public_url)
    if not settings.is_loopback and public.scheme != "https":
        raise Invalid(
            "PUBLIC_URL_NEEDED",
            f"Listening on {server.host} makes the server reachable from elsewhere, where tokens need https.",
            "Set [server] public_url to the https address of the proxy in front, or listen on 127.0.0.1.",
        )
    return settings
