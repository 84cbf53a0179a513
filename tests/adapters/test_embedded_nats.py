"""The embedded server: one owner, the right key, back after a crash, gone with its owner."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import anyio
import psutil
import pytest

from mcp_agents.adapters.nats_embedded import EmbeddedOptions, embedded
from mcp_agents.adapters.nats_link import connect
from mcp_agents.adapters.nats_store import NatsStore
from mcp_agents.kernel.errors import Fault, Invalid

pytestmark = pytest.mark.anyio


def options(folder: Path, key: bytes = b"k" * 32, key_id: str = "one") -> EmbeddedOptions:
    return EmbeddedOptions(folder=folder / "nats", key=key, key_id=key_id)


def server_of(folder: Path) -> psutil.Process:
    """The nats-server process that runs on this folder."""
    config = str(folder / "nats" / "server.conf")
    found = [process for process in psutil.process_iter(["cmdline"]) if config in (process.info["cmdline"] or [])]
    assert len(found) == 1
    return found[0]


async def write(folder: Path, key: str) -> None:
    async with embedded(options(folder)) as endpoint, connect(endpoint, "test") as link:
        await NatsStore(link).write("cb_agents", key, b"kept", revision=0)


async def test_what_was_acknowledged_is_there_after_a_restart(tmp_path: Path) -> None:
    """A second start on the folder reads what the first one wrote."""
    await write(tmp_path, "t.a")
    async with embedded(options(tmp_path)) as endpoint, connect(endpoint, "test") as link:
        record = await NatsStore(link).get("cb_agents", "t.a")
    assert record is not None
    assert record.value == b"kept"


async def test_a_wrong_key_is_refused_and_the_data_survives_it(tmp_path: Path) -> None:
    """Neither a key with another name nor one that lies about its name may start, create or destroy anything."""
    await write(tmp_path, "t.a")
    for wrong in (options(tmp_path, b"x" * 32, "two"), options(tmp_path, b"x" * 32, "one")):
        with pytest.raises((Invalid, Fault)) as refusal:
            async with embedded(wrong):
                pytest.fail("a wrong key started the server")
        assert refusal.value.code in ("MASTER_KEY_WRONG", "STORE_INCOMPLETE")
    async with embedded(options(tmp_path)) as endpoint, connect(endpoint, "test") as link:
        assert await NatsStore(link).get("cb_agents", "t.a") is not None


async def test_a_store_without_its_manifest_is_not_touched(tmp_path: Path) -> None:
    """Without the manifest nobody can tell a lost stream from a new one."""
    await write(tmp_path, "t.a")
    (tmp_path / "nats" / "manifest.json").unlink()
    with pytest.raises(Fault) as refusal:
        async with embedded(options(tmp_path)):
            pytest.fail("started without a manifest")
    assert refusal.value.code == "STORE_MANIFEST_MISSING"


async def test_nothing_stored_is_readable_on_disk(tmp_path: Path) -> None:
    """At rest there is no plain text."""
    async with embedded(options(tmp_path)) as endpoint, connect(endpoint, "test") as link:
        await NatsStore(link).write("cb_agents", "t.a", b"plain-text-marker", revision=0)
    files = [path for path in (tmp_path / "nats" / "jetstream").rglob("*") if path.is_file()]
    assert files
    assert not [path for path in files if b"plain-text-marker" in path.read_bytes()]


async def test_the_server_comes_back_when_it_is_killed(tmp_path: Path) -> None:
    """A write during the outage waits and lands; what was acknowledged before is there."""
    async with embedded(options(tmp_path)) as endpoint, connect(endpoint, "test") as link:
        store = NatsStore(link)
        await store.write("cb_agents", "t.before", b"1", revision=0)
        server_of(tmp_path).kill()
        with anyio.fail_after(15):
            await store.write("cb_agents", "t.after", b"2", revision=0)
        assert await store.get("cb_agents", "t.before") is not None


async def test_a_second_user_of_the_folder_attaches_and_takes_over(tmp_path: Path) -> None:
    """Two processes share one server; when its owner ends, the other one keeps it running on the same port."""
    owner = _process(tmp_path)
    try:
        first_server = server_of(tmp_path)
        async with embedded(options(tmp_path)) as endpoint, connect(endpoint, "test") as link:
            assert server_of(tmp_path) == first_server
            os.kill(owner.pid, signal.SIGKILL)
            owner.wait(10)
            psutil.wait_procs([first_server], timeout=10)
            with anyio.fail_after(20):
                await NatsStore(link).write("cb_agents", "t.after", b"2", revision=0)
            assert server_of(tmp_path) != first_server
    finally:
        owner.kill()


async def test_the_server_is_gone_when_its_owner_is_killed(tmp_path: Path) -> None:
    """Nothing is left behind, not even by SIGKILL."""
    owner = _process(tmp_path)
    server = server_of(tmp_path)
    os.kill(owner.pid, signal.SIGKILL)
    owner.wait(10)
    psutil.wait_procs([server], timeout=10)
    assert not server.is_running() or server.status() == psutil.STATUS_ZOMBIE


async def test_an_unusable_data_folder_is_a_clear_error(tmp_path: Path) -> None:
    """A file where the folder should be names the setting to change."""
    (tmp_path / "nats").write_text("in the way", "utf-8")
    with pytest.raises(Invalid) as refusal:
        async with embedded(options(tmp_path)):
            pytest.fail("started without a folder")
    assert refusal.value.code == "DATA_DIR_UNUSABLE"
    assert "data_dir" in refusal.value.next_step


async def test_secrets_of_the_server_are_readable_by_its_owner_only(tmp_path: Path) -> None:
    """The files with credentials have mode 0600, and the key is in none of them."""
    async with embedded(options(tmp_path)):
        for name in ("runtime.json", "server.conf"):
            file = tmp_path / "nats" / name
            assert file.stat().st_mode & 0o777 == 0o600
            assert (b"k" * 32).hex() not in file.read_text("utf-8")
        password = json.loads((tmp_path / "nats" / "runtime.json").read_text("utf-8"))["password"]
        assert password not in (tmp_path / "nats" / "server.conf").read_text("utf-8")


def _process(folder: Path) -> "subprocess.Popen[bytes]":
    """Another process that owns the folder until it is killed."""
    program = (
        "import anyio, sys\nfrom pathlib import Path\n"
        "from mcp_agents.adapters.nats_embedded import EmbeddedOptions, embedded\n"
        "async def main():\n"
        f"    folder = Path({str(folder / 'nats')!r})\n"
        "    async with embedded(EmbeddedOptions(folder=folder, key=b'k' * 32, key_id='one')):\n"
        "        print('up', flush=True)\n        await anyio.sleep_forever()\n"
        "anyio.run(main)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"up\n"
    process.stdout.close()
    return process
