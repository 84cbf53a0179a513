"""`backup`, `restore`: everything that is stored, into one sealed file and back.

What is in the file and why it may be taken beside a running server, `server.backup` says; here are the two walks, the
progress and the words.
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import anyio.to_thread
import click
from rich.markup import escape

from mcp_agents.kernel.audit import Deed, audited
from mcp_agents.kernel.ids import PLATFORM
from mcp_agents.security.sealed_file import SealedReader
from mcp_agents.server.backup import (
    Report,
    Told,
    back_up,
    backup_path,
    replace_all,
    report_of,
    require_something,
    restore_path,
    settle,
    verified,
)
from mcp_agents.server.cli.admin.acting import console
from mcp_agents.server.cli.common import config_option, err, json_option, runs_async, settings_of, show
from mcp_agents.server.compose import open_streams, the_master_key
from mcp_agents.server.config import Settings


@click.command(epilog="Example: mcp-agents backup /var/backups")
@config_option
@click.argument("where", metavar="FILE|FOLDER", type=click.Path(path_type=Path))
@json_option
@runs_async
async def backup(config: Path | None, where: Path, as_json: bool) -> None:
    """Back up everything that is stored into FILE, or into a file of its own in FOLDER; beside a server or without.

    The file is encrypted under a key derived from the master key, which is not in it: keep that elsewhere.
    """
    settings, target = settings_of(config), backup_path(where)
    master = the_master_key(settings, make=False)
    deed = Deed(console(), "backup", target.name)
    async with open_streams(settings, master) as (snapshots, trail):
        await require_something(snapshots)
        async with audited(trail, PLATFORM, deed), _progress("Backing up") as told:
            made = await back_up(snapshots, master, target, told)
    show(made, as_json=as_json, text=_backed_up(made, master.key_id))
    if made.live_logs and not as_json:
        err.print(
            f"[yellow]note:[/yellow] {made.live_logs} runs were under way or had just ended. After a restore those "
            "under way go on from where this backup saw them.",
        )


@click.command(epilog="Example: mcp-agents restore /var/backups")
@config_option
@click.argument("where", metavar="FILE|FOLDER", type=click.Path(path_type=Path))
@click.option("--replace", is_flag=True, help="Put it in place of what is stored now, which is lost.")
@json_option
@runs_async
async def restore(config: Path | None, where: Path, replace: bool, as_json: bool) -> None:
    """Put everything back from FILE, or from the newest backup in FOLDER. No server may run meanwhile.

    The whole file is verified first. Broken off half-way, give the same command again.
    """
    settings, path = settings_of(config), restore_path(where)
    with SealedReader(path) as reader:
        master = the_master_key(settings, make=False)
        async with _progress("Verifying") as told:
            manifest = await anyio.to_thread.run_sync(verified, reader, master, told)
        async with _progress("Restoring") as told, open_streams(settings, master, restoring=True) as (snapshots, _):
            await replace_all(snapshots, master, reader, manifest, replace=replace, told=told)
    await anyio.to_thread.run_sync(partial(_on_disk, settings))
    async with open_streams(settings, master, restoring=True) as (snapshots, trail):
        await settle(snapshots, manifest)
        await trail.note(PLATFORM, Deed(console(), "restore", path.name), "done")
    made = report_of(manifest, path)
    show(made, as_json=as_json, text=_restored(made))


def _on_disk(settings: Settings) -> None:
    """The embedded server has ended, and wrote what it still held; now the disk has it, too."""
    if not settings.nats.url:
        os.sync()


def _backed_up(made: Report, key_id: str) -> str:
    moment = "all of one moment" if made.one_moment else "each stream of its own moment"
    return "\n".join(
        (
            f"Backed up {made.messages} messages in {made.streams} streams, {moment}: {made.file}",
            f"  {made.bytes} bytes, sha256 {made.sha256}",
            f"  The master key {key_id} is not in it. Keep a copy of it elsewhere: without it nobody can read this.",
        )
    )


def _restored(made: Report) -> str:
    return "\n".join(
        (
            f"Restored {made.messages} messages in {made.streams} streams, as of {made.created:%Y-%m-%d %H:%M:%S} UTC.",
            "  What was revoked, removed or erased since then is back: do it again. Next: mcp-agents serve",
        )
    )


@asynccontextmanager
async def _progress(what: str) -> AsyncIterator[Told]:
    """A line on a terminal that says where it is; nothing elsewhere."""
    with err.status(what) as status:
        yield lambda name: status.update(f"{what} {escape(name)}")
