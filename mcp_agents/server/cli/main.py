"""The program's commands, joined. Heavy parts are imported by the command that needs them."""

from importlib import import_module
from typing import Final

import click

from mcp_agents import __version__

_COMMANDS: Final = {
    "demo": "demo:demo",
    "serve": "serve:serve",
    "worker": "serve:worker",
    "stdio": "serve:stdio",
    "run": "run:run",
    "token": "admin:token",
    "tenant": "admin:tenant",
    "user": "admin:user",
    "client": "admin:client",
    "keys": "admin:keys",
    "audit": "admin:audit",
    "backup": "backup:backup",
    "restore": "backup:restore",
    "doctor": "doctor:doctor",
    "bench": "bench:bench",
}


class _Lazy(click.Group):
    """Commands by name, each imported when it is called or listed."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module, _, name = _COMMANDS[cmd_name].partition(":")
        command: click.Command = getattr(import_module(f"mcp_agents.server.cli.{module}"), name)
        return command


@click.command(cls=_Lazy, epilog="Start with: mcp-agents demo")
@click.version_option(__version__, prog_name="mcp-agents")
def main() -> None:
    """Run LLM agents as durable, multi-tenant services behind one OAuth-protected MCP server."""
