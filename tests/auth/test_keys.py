"""The master key and the vault: where the key comes from, and what opens what."""

import base64
import os
import stat
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest

from mcp_agents.kernel.errors import Fault, Invalid
from mcp_agents.security.keys import MasterKey, Vault, load_master_key
from tests.auth.desk import Desk, build

KEY = bytes(range(32))


def _loaded(folder: str) -> str:
    return load_master_key("", Path(folder) / "keys", {}).secret.hex()


def test_the_first_start_makes_a_private_key_file(tmp_path: Path) -> None:
    """0600 in a folder of 0700; the second start reads the same key; nothing else is left behind."""
    folder = tmp_path / "keys"
    made, read = (load_master_key("", folder, {}) for _ in range(2))
    assert made == read
    assert len(made.secret) == 32
    assert [path.name for path in folder.iterdir()] == ["master.key"]
    assert stat.S_IMODE((folder / "master.key").stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_processes_that_start_together_get_one_key(tmp_path: Path) -> None:
    """Of eight processes that all find no key, all end with the same one."""
    for round_number in range(2):
        folder = str(tmp_path / str(round_number))
        with ProcessPoolExecutor(4, mp_context=get_context("spawn")) as pool:
            keys = list(pool.map(_loaded, [folder] * 8))
        assert len(set(keys)) == 1
        assert os.listdir(Path(folder) / "keys") == ["master.key"]


def test_a_key_made_in_the_same_instant_is_not_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process finishes its key while ours is half written: ours is thrown away."""
    rivals: list[MasterKey] = []
    flush = os.fsync

    def interrupted(descriptor: int) -> None:
        flush(descriptor)
        if not rivals:
            monkeypatch.setattr(os, "fsync", flush)
            rivals.append(load_master_key("", tmp_path, {}))

    monkeypatch.setattr(os, "fsync", interrupted)
    ours = load_master_key("", tmp_path, {})
    assert [ours] == rivals
    assert os.listdir(tmp_path) == ["master.key"]


@pytest.mark.parametrize(
    "text",
    [
        KEY.hex(),
        KEY.hex().upper() + "\n",
        base64.b64encode(KEY).decode(),
        base64.urlsafe_b64encode(KEY).decode().rstrip("="),
    ],
)
def test_a_key_is_read_from_a_variable_or_a_file_in_any_usual_form(tmp_path: Path, text: str) -> None:
    """Hexadecimal, base64 and base64url are the same key."""
    path = tmp_path / "given"
    path.write_text(text)
    from_variable = load_master_key("env:KEY", tmp_path / "keys", {"KEY": text})
    assert from_variable.secret == load_master_key(f"file:{path}", tmp_path / "keys", {}).secret == KEY
    assert not (tmp_path / "keys").exists()


@pytest.mark.parametrize(
    "text", ["", "secret", "00" * 31, "00" * 33, "!" * 44, base64.b64encode(KEY[1:]).decode(), "é" * 43]
)
def test_a_malformed_key_is_refused_with_a_next_step_and_without_the_key(tmp_path: Path, text: str) -> None:
    """A short key is never stretched, and no message repeats what was given."""
    path = tmp_path / "given"
    path.write_text(text)
    for source in ("env:KEY", f"file:{path}"):
        with pytest.raises(Invalid) as caught:
            load_master_key(source, tmp_path, {"KEY": text})
        assert "openssl rand" in caught.value.next_step
        assert not text or text not in str(caught.value)


@pytest.mark.parametrize("source", ["env:", "file:", "KEY", "vault:x", "env:MISSING", "file:/nonexistent/key"])
def test_an_unknown_source_is_refused(tmp_path: Path, source: str) -> None:
    """Nothing falls back to a generated key."""
    with pytest.raises(Invalid):
        load_master_key(source, tmp_path / "keys", {})
    assert not (tmp_path / "keys").exists()


def test_a_key_file_that_others_can_read_is_refused(tmp_path: Path) -> None:
    """The next step names the mode."""
    load_master_key("", tmp_path, {})
    (tmp_path / "master.key").chmod(0o640)
    with pytest.raises(Invalid) as caught:
        load_master_key("", tmp_path, {})
    assert "0600" in caught.value.next_step


def test_what_is_sealed_opens_only_for_its_tenant_and_purpose() -> None:
    """A record moved to another place does not open there."""
    vault = Vault(MasterKey(KEY))
    sealed = vault.seal("acme", "tool|x", "hunter2 ✓")
    assert vault.unseal("acme", "tool|x", sealed) == "hunter2 ✓"
    assert sealed != vault.seal("acme", "tool|x", "hunter2 ✓")
    assert sealed.startswith(f"v1.{vault.key_id}.")
    for tenant, purpose in (("other", "tool|x"), ("acme", "tool"), ("acme|tool", "x")):
        with pytest.raises(Fault) as caught:
            vault.unseal(tenant, purpose, sealed)
        assert caught.value.code == "SECRET_DAMAGED"


def test_every_damaged_character_of_a_sealed_secret_is_noticed() -> None:
    """Changed, cut and extended texts are refused, never half-opened."""
    vault = Vault(MasterKey(KEY))
    sealed = vault.seal("acme", "p", "hunter2")
    changed = [
        sealed[:at] + ("A" if sealed[at] != "A" else "B") + sealed[at + 1 :] for at in range(20, len(sealed) - 1)
    ]
    for damaged in [*changed, sealed[:-4], sealed + "AAAA", sealed + "\n", "", "v1", sealed.replace("v1", "v2")]:
        with pytest.raises(Fault) as caught:
            vault.unseal("acme", "p", damaged)
        assert caught.value.code == "SECRET_DAMAGED"


def test_another_master_key_is_told_apart_from_damage() -> None:
    """The key id in the text says which it was."""
    sealed = Vault(MasterKey(KEY)).seal("acme", "p", "hunter2")
    with pytest.raises(Fault) as caught:
        Vault(MasterKey(b"x" * 32)).unseal("acme", "p", sealed)
    assert caught.value.code == "KEY_MISMATCH"


def test_derived_keys_differ_by_purpose_and_give_nothing_away() -> None:
    """Stable for a purpose, different for each, and not shown by `repr`."""
    master = MasterKey(KEY)
    derived = {purpose: master.derive(purpose) for purpose in ("nats-at-rest", "nats-at-rest2", "key-id")}
    assert derived["nats-at-rest"] == MasterKey(KEY).derive("nats-at-rest")
    assert len(set(derived.values()) | {KEY}) == 4
    assert len(master.key_id) == 16
    assert KEY.hex() not in repr(master)
    assert repr(KEY) not in repr(master)


async def test_a_server_with_another_master_key_signs_nothing(desk: Desk) -> None:
    """It says KEY_MISMATCH instead of making new keys over the old ones."""
    token = (await desk.auth.tokens.issue_direct("acme")).access_token
    stranger = build(desk.store, desk.clock, master=b"x" * 32)
    with pytest.raises(Fault) as caught:
        await stranger.tokens.issue_direct("acme")
    assert caught.value.code == "KEY_MISMATCH"
    assert (await desk.auth.verifier.verify(token)).principal.tenant == "acme"
