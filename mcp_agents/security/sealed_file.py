"""A file that only holders of the master key can read, and in which every change shows.

It is written once from front to back and read in the same way, a frame at a time, so that memory does not depend on
its size. A line of plain text says what it is and under which key; behind it come frames, each encrypted with
AES-256-GCM under a key of this file alone. A frame's nonce is its number and whether it is the last one, and each is
bound to the line of text: frames cannot be changed, moved, repeated, left out or taken over from another file, and a
file that was cut off has no last frame. What the frames mean, `server.backup` says.
"""

import hmac
import json
import os
import secrets
from collections.abc import Iterator
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import IO, Any, Final, NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from mcp_agents.kernel.errors import Conflict, Invalid
from mcp_agents.security.keys import MasterKey

FORMAT: Final = 1
MAX_FRAME: Final = 1024 * 1024
"""Bytes of plain text in a frame, its kind not counted."""
_MAGIC: Final = b"mcp-agents backup "
_HEAD: Final = 8192
_TAG: Final = 16
_SALT: Final = 32


class Frame(NamedTuple):
    """A kind, one byte, and what it says."""

    kind: bytes
    data: bytes


class SealedWriter:
    """Writes beside the target under another name; `finish` gives it its name, `discard` leaves nothing behind."""

    def __init__(self, target: Path, master: MasterKey, about: dict[str, Any]) -> None:
        if target.exists():
            raise _exists(target)
        self._target, self._number = target, 0
        self._draft = target.with_name(f".{target.name}.{secrets.token_hex(4)}.part")
        salt = secrets.token_bytes(_SALT)
        head = {**about, "key_id": master.key_id, "salt": salt.hex(), "check": _check(master, salt)}
        line = _MAGIC + f"{FORMAT} ".encode() + json.dumps(head, sort_keys=True).encode() + b"\n"
        self._bound, self._cipher = sha256(line).digest(), _cipher(master, salt)
        self.digest = sha256()
        """Over everything that was written."""
        try:
            descriptor = os.open(self._draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except OSError as cause:
            raise _unwritable(target, cause) from cause
        self._file = os.fdopen(descriptor, "wb")
        self._put(line)

    @property
    def written(self) -> int:
        """Bytes so far."""
        return self._file.tell()

    def frame(self, kind: bytes, data: bytes, *, last: bool = False) -> None:
        """Adds a frame of at most `MAX_FRAME` bytes. Raises `Invalid` (`BACKUP_UNWRITABLE`)."""
        sealed = self._cipher.encrypt(_nonce(self._number, last=last), kind + data, self._bound)
        self._number += 1
        self._put(len(sealed).to_bytes(4, "big") + sealed)

    def _put(self, data: bytes) -> None:
        self.digest.update(data)
        try:
            self._file.write(data)
        except OSError as cause:
            raise _unwritable(self._target, cause) from cause

    def finish(self) -> None:
        """Puts it on disk and under its name, never in place of another file. Raises `Conflict` (`BACKUP_EXISTS`)."""
        try:
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            try:
                os.link(self._draft, self._target)  # other than renaming, this replaces nothing
            except FileExistsError:
                raise _exists(self._target) from None
            except OSError:  # a file system without links
                if self._target.exists():
                    raise _exists(self._target) from None
                self._draft.rename(self._target)
            self._draft.unlink(missing_ok=True)
            _sync_folder(self._target.parent)
        except OSError as cause:
            raise _unwritable(self._target, cause) from cause

    def discard(self) -> None:
        """Removes what was written; nothing after `finish`."""
        with suppress(OSError):
            self._file.close()
        with suppress(OSError):
            self._draft.unlink(missing_ok=True)


class SealedReader:
    """Reads what a `SealedWriter` wrote. `about` is the plain text in front, to be trusted once a frame was read."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._file: IO[bytes] = path.open("rb")
        except OSError as cause:
            raise Invalid(
                "BACKUP_UNREADABLE",
                f"The backup {path} cannot be read: {cause.strerror}.",
                "Check the path and its rights.",
            ) from cause
        self.digest = ""
        """Over everything in front of the frame that was given last."""
        try:
            self._line = self._file.readline(_HEAD)
            self.about = self._head(self._line)
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> "SealedReader":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def _head(self, line: bytes) -> dict[str, Any]:
        number, _, text = line.removeprefix(_MAGIC).partition(b" ")
        if not line.startswith(_MAGIC) or not number.isdigit():
            raise Invalid("BACKUP_DAMAGED", f"{self.path} is no backup of mcp-agents.", "Choose another file.")
        if int(number) != FORMAT:
            raise Invalid(
                "BACKUP_VERSION",
                f"{self.path} is of format {int(number)}, and this version of mcp-agents reads format {FORMAT}.",
                "Restore with the version that made the backup.",
            )
        try:
            about = json.loads(text)
            if not (isinstance(about, dict) and len(bytes.fromhex(about["salt"])) == _SALT):
                raise ValueError
        except (ValueError, KeyError, TypeError):
            raise self._damaged("its first line cannot be read") from None
        return about

    def frames(self, master: MasterKey) -> Iterator[Frame]:
        """Every frame from the first to the last. Raises `Invalid`: `BACKUP_KEY_WRONG`, `BACKUP_DAMAGED`."""
        salt = bytes.fromhex(self.about["salt"])
        if not hmac.compare_digest(str(self.about.get("check", "")), _check(master, salt)):
            raise Invalid(
                "BACKUP_KEY_WRONG",
                f"{self.path} was made under the master key {str(self.about.get('key_id'))[:16]}, "
                f"and this house has {master.key_id}.",
                "Put the master key of the house that was backed up into place ([keys] master) and repeat.",
            )
        cipher, bound = _cipher(master, salt), sha256(self._line).digest()
        self._file.seek(len(self._line))
        number, last, digest = 0, False, sha256(self._line)
        while not last:
            self.digest = digest.hexdigest()
            sealed = self._sealed()
            digest.update(len(sealed).to_bytes(4, "big") + sealed)
            for last in (False, True):
                with suppress(InvalidTag):
                    plain = cipher.decrypt(_nonce(number, last=last), sealed, bound)
                    break
            else:
                raise self._damaged(f"frame {number} was changed, moved or belongs to another file")
            number += 1
            yield Frame(plain[:1], plain[1:])
        if self._file.read(1):
            raise self._damaged("something stands behind its end")

    def _sealed(self) -> bytes:
        head = self._file.read(4)
        length = int.from_bytes(head, "big")
        if len(head) < 4:
            raise self._damaged("its end is missing")
        if not _TAG < length <= MAX_FRAME + 1 + _TAG:
            raise self._damaged("a length in it cannot be right")
        sealed = self._file.read(length)
        if len(sealed) < length:
            raise self._damaged("its end is missing")
        return sealed

    def _damaged(self, why: str) -> Invalid:
        return damaged(self.path, why)


def damaged(path: Path, why: str) -> Invalid:
    """What is said of a file that is not as it was written."""
    return Invalid(
        "BACKUP_DAMAGED",
        f"The backup {path} is damaged: {why}. Nothing was changed.",
        "Take another copy of it, or an earlier backup.",
    )


def _nonce(number: int, *, last: bool) -> bytes:
    return number.to_bytes(11, "big") + bytes([last])


def _cipher(master: MasterKey, salt: bytes) -> AESGCM:
    return AESGCM(master.derive(f"backup/{salt.hex()}"))


def _check(master: MasterKey, salt: bytes) -> str:
    return hmac.digest(master.derive("backup-check"), salt, "sha256").hex()


def _exists(path: Path) -> Conflict:
    return Conflict("BACKUP_EXISTS", f"{path} is there already and is not overwritten.", "Give another name.")


def _unwritable(path: Path, cause: OSError) -> Invalid:
    return Invalid(
        "BACKUP_UNWRITABLE",
        f"{path} cannot be written: {cause.strerror or 'no room or no right'}.",
        "Free space, mend its rights, or choose another place.",
    )


def _sync_folder(path: Path) -> None:
    folder = os.open(path, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
