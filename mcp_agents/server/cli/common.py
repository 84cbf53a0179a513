"""What every command shares: settings, a running event loop, and errors as one clear sentence.

Exit codes: 0 done, 1 failed, 2 wrong use.
"""

import json
import logging
import sys
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import anyio
import click
import msgspec
from rich.console import Console
from rich.markup import escape

from mcp_agents.kernel.errors import AgentsError, Invalid
from mcp_agents.server.config import Settings, load

P = ParamSpec("P")
T = TypeVar("T")

out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, soft_wrap=True)

config_option = click.option(
    "--config",
    "config",
    type=click.Path(dir_okay=False, path_type=Path),
    default=None,
    help="The settings file; default: mcp-agents.toml here, or MCP_AGENTS_CONFIG.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Machine-readable output.")


def runs_async(command: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """A coroutine as a click command body; kernel errors become a sentence and an exit code."""

    @wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        quiet_logging()
        try:
            anyio.run(_call, command, args, kwargs, backend_options={"use_uvloop": sys.platform != "win32"})
        except AgentsError as error:
            fail(error)
        except KeyboardInterrupt:
            sys.exit(130)

    return run


async def _call(command: Callable[..., Awaitable[None]], args: Any, kwargs: Any) -> None:
    await command(*args, **kwargs)


def fail(error: AgentsError) -> None:
    """Says what went wrong and what to do, and ends the program."""
    err.print(f"[red]mcp-agents:[/red] {escape(error.public)}")
    if error.next_step:
        err.print(f"  {error.next_step}", markup=False)
    sys.exit(2 if isinstance(error, Invalid) else 1)


def quiet_logging(level: int = logging.WARNING) -> None:
    """Our own warnings on stderr; libraries that log URLs or tokens are kept down."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    logging.getLogger("mcp_agents").setLevel(level)
    for noisy in ("httpx", "httpx2", "httpcore", "httpcore2", "authlib", "LiteLLM", "nats", "mcp"):
        logging.getLogger(noisy).setLevel(logging.ERROR)


def settings_of(config: Path | None) -> Settings:
    """The settings of this call."""
    return load(config)


def server_file(settings: Settings) -> Path:
    """Where a running server says how it is reached."""
    return settings.data_dir / "server.json"


def public_url_of(settings: Settings) -> str:
    """The URL of the server on this data folder: as set, as the running one says, or by default."""
    if settings.server.public_url:
        return settings.server.public_url
    with suppress(OSError, ValueError, KeyError):
        return str(json.loads(server_file(settings).read_text("utf-8"))["public_url"])
    return f"http://{settings.server.host}:{settings.server.port}"


def show(value: Any, *, as_json: bool, text: str) -> None:
    """Prints a result for a machine or for a person."""
    if as_json:
        click.echo(msgspec.json.encode(value).decode())
    else:
        click.echo(text)


def say(step: str, text: str) -> None:
    """One step of a story."""
    out.print(f"\n [bold]{step}[/bold]  {text}")


def note(text: str) -> None:
    """A remark under a step."""
    out.print(f"     [dim]{escape(text)}[/dim]")
