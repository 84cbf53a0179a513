"""The master key, and the vault that seals secrets under keys derived from it.

Not a key-management service: rotation of the master key means sealing everything anew. What is sealed is
bound to its tenant and its purpose, so that a record copied to another place does not open there. Above it
stand whoever stores the platform's secrets (the authorization server, the embedded NATS) and `secrets`, which
keeps those of tenants; below it only the kernel and `cryptography`. It reads files and the mapping it is given,
never the process environment.
"""

import base64
import binascii
import contextlib
import os
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from mcp_agents.kernel.errors import Fault, Invalid

KEY_BYTES: Final = 32

NONCE_BYTES: Final = 12
_HEX: Final = re.compile(r"[0-9A-Fa-f]{64}")
_SEALED: Final = re.compile(r"v1\.([0-9a-f]{16})\.([A-Za-z0-9_-]+)")
_HOW: Final = "Give 32 random bytes as base64 or as 64 hexadecimal digits, for example from `openssl rand -base64 32`."


@dataclass(frozen=True, slots=True)
class MasterKey:
    """32 secret bytes. Its `repr` shows only the key id."""

    secret: bytes = field(repr=False)
    key_id: str = field(init=False)

    def __post_init__(self) -> None:
        if len(self.secret) != KEY_BYTES:
            raise Invalid("MASTER_KEY_INVALID", "The master key is not 32 bytes long.", _HOW)
        object.__setattr__(self, "key_id", self.derive("key-id").hex()[:16])

    def derive(self, purpose: str) -> bytes:
        """32 bytes for one purpose (`nats-at-rest`); from them nobody gets back to the master key."""
        return _hkdf(self.secret, f"mcp-agents/derive/v1/{purpose}")


class Vault:
    """Seals and unseals text for a tenant and a purpose, with AES-256-GCM under a key per tenant."""

    def __init__(self, master: MasterKey) -> None:
        self._master = master

    @property
    def key_id(self) -> str:
        """16 hexadecimal digits that name the master key, stored beside whatever it sealed."""
        return self._master.key_id

    def derive(self, purpose: str) -> bytes:
        """32 bytes for one purpose, as `MasterKey.derive`."""
        return self._master.derive(purpose)

    def seal(self, tenant: str, purpose: str, plaintext: str) -> str:
        """`v1.{key_id}.{base64url(nonce, ciphertext, tag)}`; the same text seals differently each time."""
        nonce = secrets.token_bytes(NONCE_BYTES)
        sealed = self._cipher(tenant).encrypt(nonce, plaintext.encode(), bound_to(tenant, purpose))
        return f"v1.{self.key_id}.{_text(nonce + sealed)}"

    def unseal(self, tenant: str, purpose: str, sealed: str) -> str:
        """The text that was sealed for this tenant and purpose.

        Raises `Fault`: `KEY_MISMATCH` when another master key sealed it, `SECRET_DAMAGED` when it was changed
        or belongs to another tenant or purpose.
        """
        parts = _SEALED.fullmatch(sealed)
        if parts is None:
            raise damaged()
        if parts[1] != self.key_id:
            raise Fault(
                "KEY_MISMATCH",
                "A stored secret was sealed with another master key.",
                "Start with the master key that this data was written with (see [keys] master).",
                details={"sealed_with": parts[1], "current": self.key_id},
            )
        try:
            blob = base64.urlsafe_b64decode(parts[2] + "=" * (-len(parts[2]) % 4))
            opened = self._cipher(tenant).decrypt(blob[:NONCE_BYTES], blob[NONCE_BYTES:], bound_to(tenant, purpose))
        except (InvalidTag, binascii.Error, ValueError) as cause:
            raise damaged() from cause
        return opened.decode()

    def _cipher(self, tenant: str) -> AESGCM:
        return AESGCM(_hkdf(self._master.secret, f"mcp-agents/vault/v1/{tenant}"))


def load_master_key(source: str, keys_dir: Path, environ: Mapping[str, str]) -> MasterKey:
    """The master key named by `[keys] master`.

    Args:
        source: empty (kept in `keys_dir/master.key`, generated on first use), `env:NAME` or `file:PATH`.
        keys_dir: only used with an empty source; made with mode 0700.
        environ: where `env:NAME` is looked up.

    Raises:
        Invalid: the source or what it holds is malformed; the next step says how to mend it.
    """
    if not source:
        return MasterKey(_parsed(_generated(keys_dir / "master.key"), "The file master.key"))
    scheme, _, name = source.partition(":")
    if scheme == "env" and name:
        text = environ.get(name, "")
        if not text:
            raise Invalid("MASTER_KEY_MISSING", f"The variable {name} is not set.", f"Set it. {_HOW}")
        return MasterKey(_parsed(text, f"The variable {name}"))
    if scheme == "file" and name:
        return MasterKey(_parsed(_read(Path(name)), "The master key file"))
    raise Invalid(
        "MASTER_KEY_SOURCE",
        "The setting [keys] master is not understood.",
        'Leave it empty, or write "env:NAME" or "file:PATH".',
    )


def _parsed(text: str, what: str) -> bytes:
    text = text.strip()
    if _HEX.fullmatch(text):
        return bytes.fromhex(text)
    try:
        key = base64.b64decode(text.rstrip("=").translate(str.maketrans("-_", "+/")) + "=", validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if len(key) != KEY_BYTES:
        raise Invalid("MASTER_KEY_INVALID", f"{what} does not hold a master key.", _HOW)
    return key


def _read(path: Path) -> str:
    try:
        return path.read_text("ascii")
    except (OSError, UnicodeDecodeError) as cause:
        raise Invalid(
            "MASTER_KEY_UNREADABLE", "The master key file cannot be read.", f"Check its path and mode. {_HOW}"
        ) from cause


def _generated(path: Path) -> str:
    """The text of the key file. Of two processes that make it at once, both read the same one."""
    try:
        if not path.exists():
            _create(path)
    except OSError as cause:
        raise Invalid(
            "DATA_DIR_UNUSABLE",
            f"The data folder {path.parent.parent} cannot be written: {cause.strerror or 'no room or no right'}.",
            "Free space, mend its rights, or choose another with [server] data_dir.",
        ) from cause
    if os.name == "posix" and path.stat().st_mode & 0o077:
        raise Invalid("MASTER_KEY_EXPOSED", "Other users can read the file master.key.", "Give it the mode 0600.")
    return _read(path)


def _create(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(handle, "w", encoding="ascii") as file:
            file.write(_text(secrets.token_bytes(KEY_BYTES)) + "\n")
            file.flush()
            os.fsync(file.fileno())
        # A hard link appears whole or not at all and never replaces: the loser of a race reads the winner's.
        with contextlib.suppress(FileExistsError):
            os.link(draft, path)
    finally:
        draft.unlink()
    if os.name == "posix":
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _hkdf(secret: bytes, info: str) -> bytes:
    return HKDF(algorithm=hashes.SHA256(), length=KEY_BYTES, salt=None, info=info.encode()).derive(secret)


def bound_to(tenant: str, purpose: str) -> bytes:
    """What a sealed text is authenticated with besides itself."""
    # The length keeps ("a", "b|c") and ("a|b", "c") apart.
    return f"{len(tenant)}|{tenant}|{purpose}".encode()


def _text(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def damaged() -> Fault:
    """The one answer to whatever does not open."""
    return Fault("SECRET_DAMAGED", "A stored secret cannot be read.", "Restore it from a backup, or set it again.")
