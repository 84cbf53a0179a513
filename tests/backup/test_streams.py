"""Every stream comes back byte for byte, or nothing was touched, or the same command completes it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import msgspec
import pytest

from mcp_agents.adapters import nats_presence
from mcp_agents.adapters.nats_log import NatsLog
from mcp_agents.adapters.nats_objects import NatsObjects
from mcp_agents.adapters.nats_snapshot import NatsSnapshots
from mcp_agents.adapters.nats_store import NatsStore
from mcp_agents.kernel.errors import Conflict, Invalid, Unavailable
from mcp_agents.kernel.snapshots import State, Taken
from mcp_agents.kernel.store import Record
from mcp_agents.kernel.tasks import background
from mcp_agents.security.keys import MasterKey
from mcp_agents.security.sealed_file import SealedReader
from mcp_agents.server.backup import ORDER, back_up, replace_all, verified
from tests.backup.stores import (
    MASTER,
    NAMES,
    canary,
    drop,
    everything,
    files,
    fill,
    opened,
    put_back,
    saved,
    snapshots,
    told,
)

pytestmark = pytest.mark.anyio


def test_the_order_has_every_stream_once() -> None:
    """A new stream or bucket must be given its place."""
    assert sorted(ORDER) == sorted(NAMES)


async def test_every_message_comes_back_as_it_was(tmp_path: Path) -> None:
    """Subject, headers, payload, sequence and time, the gaps between, and the configuration; times to live go on."""
    async with opened(tmp_path) as link:
        await fill(link)
        path = await saved(link, tmp_path / "a.backup")
        before = await everything(link)
    assert path.stat().st_mode & 0o777 == 0o600
    assert [name for name in files(tmp_path) if name.endswith(".part")] == []
    async with opened(tmp_path, restoring=True) as link:
        await drop(link)
        await put_back(link, path)
    async with opened(tmp_path) as link:  # read from the disk once more
        after = await everything(link)
        leases = "KV_cb_leases"
        assert {**after, leases: None} == {**before, leases: None}
        kept = [each for each in before[leases][2] if "soon" not in each.subject]
        assert [each for each in after[leases][2] if each in kept] == kept
        store, objects = NatsStore(link), NatsObjects(link)
        assert await objects.get("log.acme.ex_2.x") == b"\2" * 700_000
        assert await objects.get("log.acme.ex_0.x") == b"another"
        assert await objects.get("log.acme.ex_1.x") is None
        with anyio.fail_after(10):
            while await store.get("cb_leases", "acme.soon") is not None:
                await anyio.lowlevel.checkpoint()
        assert await store.get("cb_leases", "acme.late") is not None
        # Expected sequences and revisions go on where they were.
        revision = next(each.sequence for each in after["KV_cb_agents"][2] if each.subject.endswith(".a1"))
        assert await store.write("cb_agents", "acme.a1", b"new", revision=revision) > revision
        tip = after["CB_AUDIT"][2][-1].sequence
        assert await NatsLog(link).append("cb.agent.audit.acme", b"next", expected=tip) == tip + 1


async def test_a_restored_store_is_encrypted_at_rest_and_so_is_the_backup(tmp_path: Path) -> None:
    """What the server gives out is in clear; neither on its disk nor in our file does it stay so."""
    async with opened(tmp_path) as link:
        await NatsStore(link).write("cb_agents", "acme.a", canary().encode(), revision=0)
        path = await saved(link, tmp_path / "a.backup")
    async with opened(tmp_path, restoring=True) as link:
        await put_back(link, path, replace=True)
    found = files(tmp_path)
    assert len(found) > 20
    assert [name for name, content in found.items() if b"c4n4ry" in content] == []


async def test_data_that_is_there_is_replaced_only_when_that_is_said(tmp_path: Path) -> None:
    """Without it nothing changes; with it nothing of what was there is left."""
    async with opened(tmp_path) as link:
        store = NatsStore(link)
        await store.write("cb_agents", "acme.a", b"first", revision=0)
        path = await saved(link, tmp_path / "a.backup")
        await store.write("cb_models", "acme.key.x", b"later", revision=0)
        with pytest.raises(Conflict) as refusal:
            await put_back(link, path)
        assert refusal.value.code == "HOUSE_NOT_EMPTY"
        assert await store.get("cb_models", "acme.key.x") is not None
        assert await nats_presence.restoring(link) == ""
        await put_back(link, path, replace=True)
        assert await store.get("cb_models", "acme.key.x") is None
        assert (await store.get("cb_agents", "acme.a")) == Record("acme.a", b"first", 1)


class BreaksOff(NatsSnapshots):
    """Ends in the middle of the tenth stream."""

    puts = 0

    async def put(self, name: str, config: dict[str, Any], state: State, chunks: AsyncIterator[bytes]) -> State:
        self.puts += 1
        if self.puts == 10:
            await self._remove(name)
            raise Unavailable("STORE_UNAVAILABLE", "cut")
        return await super().put(name, config, state, chunks)


async def test_what_was_broken_off_is_completed_by_the_same_file_and_nothing_opens_before(tmp_path: Path) -> None:
    """The mark outlives the process and the server; another file needs to be told to replace."""
    async with opened(tmp_path) as link:
        await fill(link)
        path = await saved(link, tmp_path / "a.backup")
        other = await saved(link, tmp_path / "b.backup")
        before = await everything(link)
    async with opened(tmp_path, restoring=True) as link:
        breaking = BreaksOff(link, replicas=1, limits=snapshots(link)._limits)
        with SealedReader(path) as reader:
            manifest = verified(reader, MASTER, told)
            with pytest.raises(Unavailable):
                await replace_all(breaking, MASTER, reader, manifest, replace=True, told=told)
    with pytest.raises(Conflict) as refusal:
        async with opened(tmp_path):
            pytest.fail("half a store was opened")
    assert refusal.value.code == "RESTORE_UNFINISHED"
    async with opened(tmp_path, restoring=True) as link:
        with pytest.raises(Conflict) as refusal:
            await put_back(link, other)
        assert refusal.value.code == "RESTORE_UNFINISHED"
        await put_back(link, path)
    async with opened(tmp_path) as link:
        after = await everything(link)
    for name in set(NAMES) - {"KV_cb_leases"}:
        assert after[name] == before[name]


async def test_a_store_that_others_use_is_left_alone(tmp_path: Path) -> None:
    """Whoever has the house open is heard; a folder that another process holds is refused at once."""
    async with opened(tmp_path) as link:
        await NatsStore(link).write("cb_agents", "acme.a", b"first", revision=0)
        path = await saved(link, tmp_path / "a.backup")
        async with opened(tmp_path) as second:
            await nats_presence.be_present(second)
            await second.client.flush()
            with pytest.raises(Conflict) as refusal:
                await put_back(link, path, replace=True)
            assert refusal.value.code == "HOUSE_RUNNING"
        assert await nats_presence.restoring(link) == ""
        with pytest.raises(Conflict) as refusal:
            async with opened(tmp_path, restoring=True):
                pytest.fail("two processes on one folder")
        assert refusal.value.code == "HOUSE_RUNNING"


async def test_while_writers_write_each_stream_is_exact_for_its_moment(tmp_path: Path) -> None:
    """No record is lost between its old and its new version, and no log has a hole."""
    keys, most = 60, 8
    async with opened(tmp_path) as link:
        store, log = NatsStore(link), NatsLog(link)
        revisions = [await store.write("cb_agent_state", f"acme.k{n}", b"0", revision=0) for n in range(keys)]
        subject, tips = "cb.agent.session.acme.se_1", [0]
        stop = False

        async def rewrite() -> None:
            number = 0
            while not stop:
                number += 1
                for each in range(0, keys, keys // most):
                    value = str(number).encode()
                    revisions[each] = await store.write(
                        "cb_agent_state", f"acme.k{each}", value, revision=revisions[each]
                    )
                await anyio.sleep(0.01)

        async def append() -> None:
            while not stop:
                tips.append(await log.append(subject, str(len(tips)).encode(), expected=tips[-1]))

        async with background() as tasks:
            tasks.start_soon(rewrite)
            tasks.start_soon(append)
            while len(tips) < 20:
                await anyio.lowlevel.checkpoint()
            path = await saved(link, tmp_path / "a.backup")
            stop = True
    async with opened(tmp_path, restoring=True) as link:
        manifest = await put_back(link, path, replace=True)
        assert not manifest.one_moment
    async with opened(tmp_path) as link:
        found = [record.key async for record in NatsStore(link).scan("cb_agent_state", ">")]
        assert sorted(found) == sorted(f"acme.k{n}" for n in range(keys))
        turns = [stored.payload for stored in await NatsLog(link).read(subject)]
        assert turns == [str(number).encode() for number in range(1, len(turns) + 1)]
        assert len(turns) >= 19


class NeverStill(NatsSnapshots):
    """A store in which something is removed during every snapshot."""

    async def _state(self, name: str) -> State:
        state = await super()._state(name)
        self.looks = getattr(self, "looks", 0) + 1
        return State(messages=1, last_seq=state.last_seq, num_deleted=self.looks + 1000)


async def test_a_stream_that_is_never_still_is_refused_rather_than_torn(tmp_path: Path) -> None:
    """No file is left behind."""
    async with opened(tmp_path) as link:
        moving = NeverStill(link, replicas=1, limits=snapshots(link)._limits)
        with pytest.raises(Unavailable) as refusal:
            await back_up(moving, MASTER, tmp_path / "a.backup", told)
    assert refusal.value.code == "BACKUP_UNSETTLED"
    assert [name for name in files(tmp_path) if not name.startswith("nats/")] == []


class StillAfterTwo(NatsSnapshots):
    """A store in which a record is replaced during the first two snapshots of its bucket, before it is read."""

    takes = 0

    @asynccontextmanager
    async def take(self, name: str) -> AsyncIterator[Taken]:
        async with super().take(name) as taken:
            self.takes += name == "KV_cb_agents"
            if name == "KV_cb_agents" and self.takes <= 2:
                store = NatsStore(self._link)
                found = await store.get("cb_agents", "acme.a")
                assert found is not None
                await store.write("cb_agents", "acme.a", f"version {self.takes}".encode(), revision=found.revision)
            yield taken


async def test_a_stream_that_moved_is_taken_again_and_what_came_before_is_void(tmp_path: Path) -> None:
    """The copies that are not exact stay in the file, and are passed over."""
    async with opened(tmp_path) as link:
        await NatsStore(link).write("cb_agents", "acme.a", b"version 0", revision=0)
        moving = StillAfterTwo(link, replicas=1, limits=snapshots(link)._limits)
        await back_up(moving, MASTER, tmp_path / "a.backup", told)
        before = await everything(link)
    with SealedReader(tmp_path / "a.backup") as reader:
        kinds = [frame.kind for frame in reader.frames(MASTER)]
    assert (kinds.count(b"S"), kinds.count(b"V"), kinds.count(b"E")) == (len(NAMES) + 2, 2, len(NAMES))
    async with opened(tmp_path, restoring=True) as link:
        manifest = await put_back(link, tmp_path / "a.backup", replace=True)
        assert not manifest.one_moment
        assert await everything(link) == before
        assert await NatsStore(link).get("cb_agents", "acme.a") == Record("acme.a", b"version 2", 3)


async def test_it_goes_from_an_embedded_server_to_another_one(tmp_path: Path) -> None:
    """Onto an empty server, with no stream at all."""
    async with opened(tmp_path / "one") as link:
        await fill(link)
        path = await saved(link, tmp_path / "a.backup")
        before = await everything(link)
    async with opened(tmp_path / "two", restoring=True) as link:
        assert await snapshots(link).states() == {}
        await put_back(link, path)
        after = await everything(link)
    for name in set(NAMES) - {"KV_cb_leases"}:
        assert after[name] == before[name]


async def test_a_wrong_key_reads_nothing(tmp_path: Path) -> None:
    """It is said which key is meant, and nothing else of the file is looked at."""
    async with opened(tmp_path) as link:
        path = await saved(link, tmp_path / "a.backup")
    with SealedReader(path) as reader, pytest.raises(Invalid) as refusal:
        verified(reader, MasterKey(b"w" * 32), told)
    assert refusal.value.code == "BACKUP_KEY_WRONG"
    assert MASTER.key_id in refusal.value.public


async def test_a_backup_of_a_later_version_is_refused_before_anything_is_touched(tmp_path: Path) -> None:
    """Of the program, of NATS, or with a stream that is not known here."""
    async with opened(tmp_path) as link:
        await NatsStore(link).write("cb_agents", "acme.a", b"first", revision=0)
        path = await saved(link, tmp_path / "a.backup")
        before = await everything(link)
        with SealedReader(path) as reader:
            manifest = verified(reader, MASTER, told)
            part = msgspec.structs.replace(manifest.parts[0], name="KV_cb_of_tomorrow")
            for later in ({"product": "99.0.0"}, {"nats": "2.99.0"}, {"parts": [part]}):
                changed = msgspec.structs.replace(manifest, **later)
                with pytest.raises(Invalid) as refusal:
                    await replace_all(snapshots(link), MASTER, reader, changed, replace=True, told=told)
                assert refusal.value.code == "BACKUP_VERSION"
        assert await everything(link) == before
        assert await nats_presence.restoring(link) == ""
