"""Whatever is changed, moved, left out, added or taken over from another file shows before anything is touched."""

import os
import resource
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from mcp_agents.kernel.errors import Conflict, Invalid
from mcp_agents.security.keys import MasterKey
from mcp_agents.security.sealed_file import Frame, SealedReader, SealedWriter

MASTER = MasterKey(b"m" * 32)
FRAMES = [Frame(b"D", bytes([number]) * (100 + number)) for number in range(5)]


def written(path: Path, master: MasterKey = MASTER) -> Path:
    """A small file of five frames."""
    writer = SealedWriter(path, master, {"product": "0"})
    for frame in FRAMES:
        writer.frame(frame.kind, frame.data, last=frame is FRAMES[-1])
    writer.finish()
    return path


def read(path: Path, master: MasterKey = MASTER) -> list[Frame]:
    """All frames of a file."""
    with SealedReader(path) as reader:
        return list(reader.frames(master))


def parts(whole: bytes) -> tuple[bytes, list[bytes]]:
    """The line in front, and the frames with their lengths."""
    line, rest = whole[: whole.index(b"\n") + 1], whole[whole.index(b"\n") + 1 :]
    frames = []
    while rest:
        length = 4 + int.from_bytes(rest[:4], "big")
        frames.append(rest[:length])
        rest = rest[length:]
    return line, frames


def test_what_was_written_is_read(tmp_path: Path) -> None:
    """Twice from one reader, and only the owner may."""
    path = written(tmp_path / "a")
    assert read(path) == FRAMES
    with SealedReader(path) as reader:
        assert list(reader.frames(MASTER)) == list(reader.frames(MASTER)) == FRAMES
        assert reader.about["product"] == "0"
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_the_same_content_is_never_sealed_alike(tmp_path: Path) -> None:
    """Each file has a key of its own, so that counting nonces repeats none."""
    first, second = (parts(written(tmp_path / name).read_bytes()) for name in "ab")
    assert not set(first[1]) & set(second[1])
    assert MASTER.secret.hex() not in first[0].decode()


def test_every_changed_byte_is_noticed(tmp_path: Path) -> None:
    """One bit in each of them, in the line in front, too."""
    whole = written(tmp_path / "a").read_bytes()
    changed = tmp_path / "b"
    for place in range(len(whole)):
        changed.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(Invalid) as refusal:
            read(changed)
        assert refusal.value.code in ("BACKUP_DAMAGED", "BACKUP_VERSION", "BACKUP_KEY_WRONG"), place


def test_every_shortened_file_is_noticed(tmp_path: Path) -> None:
    """At any place, between frames, too."""
    whole = written(tmp_path / "a").read_bytes()
    cut = tmp_path / "b"
    for length in range(len(whole)):
        cut.write_bytes(whole[:length])
        with pytest.raises(Invalid) as refusal:
            read(cut)
        assert refusal.value.code == "BACKUP_DAMAGED"


MOVES: dict[str, Callable[[list[bytes], list[bytes]], list[bytes]]] = {
    "swapped": lambda own, _: [own[1], own[0], *own[2:]],
    "left out": lambda own, _: [own[0], *own[2:]],
    "repeated": lambda own, _: [own[0], own[0], *own[1:]],
    "the last one earlier": lambda own, _: [own[-1], *own],
    "without its last": lambda own, _: own[:-1],
    "one more behind": lambda own, _: [*own, own[-1]],
    "from another file": lambda own, other: [other[0], *own[1:]],
}


@pytest.mark.parametrize("how", MOVES)
def test_moved_frames_are_noticed(tmp_path: Path, how: str) -> None:
    """Frames have their place, and their file."""
    line, own = parts(written(tmp_path / "a").read_bytes())
    _, other = parts(written(tmp_path / "b").read_bytes())
    (tmp_path / "c").write_bytes(line + b"".join(MOVES[how](own, other)))
    with pytest.raises(Invalid) as refusal:
        read(tmp_path / "c")
    assert refusal.value.code == "BACKUP_DAMAGED"


def test_another_master_key_and_another_format_are_said(tmp_path: Path) -> None:
    """Before anything is read; what is no backup at all is said as well."""
    path = written(tmp_path / "a")
    with pytest.raises(Invalid) as refusal:
        read(path, MasterKey(b"w" * 32))
    assert refusal.value.code == "BACKUP_KEY_WRONG"
    (tmp_path / "b").write_bytes(path.read_bytes().replace(b"mcp-agents backup 1 ", b"mcp-agents backup 2 ", 1))
    with pytest.raises(Invalid) as refusal:
        read(tmp_path / "b")
    assert refusal.value.code == "BACKUP_VERSION"
    (tmp_path / "c").write_bytes(os.urandom(1000))
    with pytest.raises(Invalid) as refusal:
        read(tmp_path / "c")
    assert refusal.value.code == "BACKUP_DAMAGED"
    with pytest.raises(Invalid) as refusal:
        read(tmp_path / "nowhere")
    assert refusal.value.code == "BACKUP_UNREADABLE"


def test_no_file_is_overwritten(tmp_path: Path) -> None:
    """Neither one that was there before, nor one that came meanwhile."""
    path = written(tmp_path / "a")
    with pytest.raises(Conflict) as refusal:
        SealedWriter(path, MASTER, {})
    assert refusal.value.code == "BACKUP_EXISTS"
    writer = SealedWriter(tmp_path / "b", MASTER, {})
    writer.frame(b"M", b"", last=True)
    (tmp_path / "b").write_bytes(b"mine")
    with pytest.raises(Conflict):
        writer.finish()
    writer.discard()
    assert (tmp_path / "b").read_bytes() == b"mine"
    assert sorted(each.name for each in tmp_path.iterdir()) == ["a", "b"]


def write_much(writer: SealedWriter) -> None:
    """A megabyte."""
    for _ in range(100):
        writer.frame(b"D", bytes(10_000))


def test_a_full_disk_and_a_folder_that_is_not_there_are_said(tmp_path: Path) -> None:
    """A file-size limit stands for the disk; nothing is left behind."""
    with pytest.raises(Invalid) as refusal:
        SealedWriter(tmp_path / "nowhere" / "a", MASTER, {})
    assert refusal.value.code == "BACKUP_UNWRITABLE"
    limits, ignored = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    writer = SealedWriter(tmp_path / "a", MASTER, {})
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
        with pytest.raises(Invalid) as refusal:
            write_much(writer)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, ignored)
    assert refusal.value.code == "BACKUP_UNWRITABLE"
    writer.discard()
    assert list(tmp_path.iterdir()) == []
