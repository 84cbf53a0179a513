"""`mcp-agents backup` and `restore` as a user meets them: beside a running server and without, and every refusal."""

import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from mcp_agents.adapters.nats_link import Endpoint, connect
from mcp_agents.adapters.nats_process import binary
from mcp_agents.adapters.nats_topology import OBJECTS
from tests.backup.stores import files
from tests.cli.test_program import assert_refused, program, serving

_MEASURED = """
import resource, sys
from mcp_agents.server.cli.main import main
try:
    main(sys.argv[1:], standalone_mode=False)
finally:
    print("peak", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def tenants(folder: Path, **variables: str) -> list[str]:
    """Who is there."""
    return [each["name"] for each in json.loads(program(folder, "tenant", "list", "--json", **variables).stdout)]


def test_from_one_folder_to_another(tmp_path: Path) -> None:
    """Beside a running server and without one; onto a new machine with the old master key; verified trails."""
    old, new, out = (tmp_path / name for name in ("old", "new", "out"))
    for folder in (old, new, out):
        folder.mkdir()
    with serving(old):
        assert program(old, "tenant", "create", "acme").returncode == 0
        beside = json.loads(program(old, "backup", str(out), "--json").stdout)
        assert_refused(program(old, "restore", str(out), "--replace"), 1, "Another process", "Stop")
    without = json.loads(program(old, "backup", str(out / "again.backup"), "--json").stdout)
    assert without["one_moment"]
    assert beside["messages"] <= without["messages"]
    assert Path(beside["file"]).parent == out
    assert_refused(program(new, "restore", str(out)), 2, "no master key", "master.key")
    assert not (new / "keys").exists()
    (new / "keys").mkdir(mode=0o700)
    (new / "keys" / "master.key").write_bytes((old / "keys" / "master.key").read_bytes())
    (new / "keys" / "master.key").chmod(0o600)
    restored = program(new, "restore", str(out))  # the newest that was made there by time
    assert restored.returncode == 0, restored.stderr
    assert set(tenants(new)) == {"default", "acme"}
    shown = json.loads(program(new, "audit", "list", "--json").stdout)
    assert [each["act"] for each in shown[:2]] == ["restore", "backup"]
    assert program(new, "audit", "verify").returncode == 0


def test_every_refusal_says_what_to_do_and_changes_nothing(tmp_path: Path) -> None:
    """One sentence and a next step each; afterwards everything is as it was."""
    data, out = tmp_path / "data", tmp_path / "out"
    data.mkdir()
    out.mkdir()
    assert_refused(program(data, "backup", str(out)), 2, "no master key", "data_dir")
    assert program(data, "tenant", "create", "acme").returncode == 0
    path = out / "a.backup"
    assert program(data, "backup", str(path)).returncode == 0
    assert program(data, "tenant", "create", "later").returncode == 0
    whole = path.read_bytes()
    assert_refused(program(data, "backup", str(path)), 1, "there already", "another name")
    assert_refused(program(data, "backup", str(out / "no" / "where")), 2, "cannot be written", "another place")
    assert path.read_bytes() == whole
    assert_refused(program(data, "restore", str(path)), 1, "--replace", "backup of it")
    for content in (whole[:-7], whole[:3000] + b"?" + whole[3001:]):
        (out / "b.backup").write_bytes(content)
        assert_refused(program(data, "restore", str(out / "b.backup"), "--replace"), 2, "damaged", "another copy")
    (out / "b.backup").write_bytes(whole.replace(b"backup 1 ", b"backup 9 ", 1))
    assert_refused(program(data, "restore", str(out / "b.backup"), "--replace"), 2, "format 9", "version")
    assert_refused(program(data, "restore", str(out / "c.backup"), "--replace"), 2, "cannot be read", "path")
    (out / "empty").mkdir()
    assert_refused(program(data, "restore", str(out / "empty"), "--replace"), 2, "no backup in the folder")
    other = {"MCP_AGENTS_KEYS__MASTER": "env:OTHER", "OTHER": "b" * 64}
    assert_refused(program(data, "restore", str(path), "--replace", **other), 2, "master key", "[keys] master")
    assert set(tenants(data)) == {"acme", "later"}
    assert sorted(files(out)) == ["a.backup", "b.backup"]


def test_a_restore_that_was_killed_is_completed_and_nothing_is_served_before(tmp_path: Path) -> None:
    """Killed without a word once streams have gone."""
    data, path = tmp_path / "data", tmp_path / "a.backup"
    data.mkdir()
    assert program(data, "tenant", "create", "acme").returncode == 0
    assert program(data, "backup", str(path)).returncode == 0
    dying = (
        "import os, sys\n"
        "from mcp_agents.adapters.nats_snapshot import NatsSnapshots\n"
        "from mcp_agents.server.cli.main import main\n"
        "put = NatsSnapshots.put\n"
        "async def die(self, name, *rest):\n"
        "    if name == 'KV_cb_ledger':\n"
        "        await self._remove(name)\n"
        "        os.kill(os.getpid(), 9)\n"
        "    return await put(self, name, *rest)\n"
        "NatsSnapshots.put = die\n"
        "main(['restore', sys.argv[1], '--replace'])\n"
    )
    environment = {**os.environ, "MCP_AGENTS_SERVER__DATA_DIR": str(data)}
    killed = subprocess.run([sys.executable, "-c", dying, str(path)], env=environment, timeout=60, check=False)
    assert killed.returncode == -9
    for command in (("serve", "--port", "0"), ("tenant", "list"), ("backup", str(tmp_path))):
        assert_refused(program(data, *command), 1, "has not ended", "same file")
    assert program(data, "restore", str(path)).returncode == 0
    assert tenants(data) == ["acme"]


@pytest.mark.anyio
async def test_a_disk_that_is_full_half_way_is_said_and_the_same_command_completes_it(tmp_path: Path) -> None:
    """A limit of file sizes, which the server inherits, stands for the disk; nothing is served before."""
    data, path = tmp_path / "data", tmp_path / "a.backup"
    data.mkdir()
    with serving(data):
        await written(data, 4)
        assert program(data, "backup", str(path)).returncode == 0
    full = on_a_full_disk(data, path)
    assert_refused(full, 1)
    assert_refused(program(data, "tenant", "list"), 1, "has not ended", "same file")
    done = program(data, "restore", str(path), "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["messages"] > 8
    assert tenants(data) == ["default"]


@pytest.mark.anyio
async def test_memory_does_not_grow_with_what_is_stored(tmp_path: Path) -> None:
    """Sixty-four megabytes that do not compress cost no more than none."""
    data = tmp_path / "data"
    data.mkdir()
    assert program(data, "tenant", "create", "acme").returncode == 0
    small = [
        measured(data, "backup", str(tmp_path / "s.backup")),
        measured(data, "restore", str(tmp_path / "s.backup")),
    ]
    with serving(data):
        await written(data, 64)
    large = [
        measured(data, "backup", str(tmp_path / "l.backup")),
        measured(data, "restore", str(tmp_path / "l.backup")),
    ]
    assert (tmp_path / "l.backup").stat().st_size > 64 * 2**20
    for one, other in zip(small, large, strict=True):
        assert other - one < 24 * 2**10, (small, large)  # KiB


def test_a_server_of_ones_own(tmp_path: Path) -> None:
    """By [nats] url, beside a front end without workers; which is heard, so that nothing is replaced under it."""
    data, path = tmp_path / "data", tmp_path / "a.backup"
    data.mkdir()
    with nats_server(tmp_path) as url:
        there = {"MCP_AGENTS_NATS__URL": url}
        assert_refused(program(data, "backup", str(path), **there), 2, "no master key")
        assert program(data, "tenant", "create", "acme", **there).returncode == 0
        with serving(data, MCP_AGENTS_SERVER__WORKERS="0", **there):
            assert program(data, "backup", str(path), **there).returncode == 0
            assert_refused(program(data, "restore", str(path), "--replace", **there), 1, "Other", "Stop all")
        assert program(data, "tenant", "create", "later", **there).returncode == 0
        assert_refused(program(data, "restore", str(path), **there), 1, "--replace")
        assert program(data, "restore", str(path), "--replace", **there).returncode == 0
        assert set(tenants(data, **there)) == {"acme", "default"}
        assert program(data, "audit", "verify", **there).returncode == 0
    with nats_server(tmp_path / "another") as url:
        there = {"MCP_AGENTS_NATS__URL": url}
        assert_refused(program(data, "backup", str(tmp_path / "b.backup"), **there), 2, "Nothing is stored")
        assert program(data, "restore", str(path), **there).returncode == 0
        assert set(tenants(data, **there)) == {"acme", "default"}


def on_a_full_disk(data: Path, path: Path) -> "subprocess.CompletedProcess[str]":
    """A restore whose files may take a megabyte each."""
    limited = (
        "import resource, sys\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, resource.RLIM_INFINITY))\n"
        "from mcp_agents.server.cli.main import main\n"
        "main(['restore', sys.argv[1], '--replace'])\n"
    )
    environment = {**os.environ, "MCP_AGENTS_SERVER__DATA_DIR": str(data)}
    return subprocess.run(
        [sys.executable, "-B", "-c", limited, str(path)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def listens(port: int) -> bool:
    """Whether somebody does."""
    with socket.socket() as probe, suppress(OSError):
        probe.connect(("127.0.0.1", port))
        return True
    return False


@contextmanager
def nats_server(folder: Path) -> Iterator[str]:
    """A NATS server that is not ours."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [binary(), "-js", "-sd", str(folder / "store"), "-a", "127.0.0.1", "-p", str(port)]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        while not listens(port):
            assert process.poll() is None
        yield f"nats://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(10)


def measured(folder: Path, *arguments: str) -> int:
    """The most memory that a call took, in KiB."""
    more = ["--replace"] if arguments[0] == "restore" else []
    environment = {**os.environ, "MCP_AGENTS_SERVER__DATA_DIR": str(folder)}
    done = subprocess.run(
        [sys.executable, "-c", _MEASURED, *arguments, *more],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    found = re.search(r"peak (\d+)", done.stdout)
    assert found
    return int(found[1])


async def written(folder: Path, megabytes: int) -> None:
    """So much in the object store, through the running server."""
    runtime = json.loads((folder / "nats" / "runtime.json").read_text("utf-8"))
    endpoint = Endpoint(f"nats://127.0.0.1:{runtime['port']}", runtime["user"], runtime["password"])
    async with connect(endpoint, "test") as link:
        for number in range(megabytes * 2):
            await link.request(f"$O.cb_objects.C.{number}", os.urandom(2**19))
        state = (await link.api(f"STREAM.INFO.{OBJECTS}"))["state"]
        assert state["bytes"] > megabytes * 2**20
