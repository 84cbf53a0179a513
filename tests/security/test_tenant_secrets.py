"""Secrets of tenants: each under a key of its own, which opens nothing else and takes all with it when it goes."""

import anyio
import pytest

from mcp_agents.adapters.memory_store import MemoryStore
from mcp_agents.kernel.errors import Fault
from mcp_agents.kernel.principal import Principal
from mcp_agents.kernel.tenancy import TenantSpace
from mcp_agents.security.keys import MasterKey, Vault
from mcp_agents.security.secrets import DataKey, TenantSecrets
from tests.auth.desk import YieldingStore, tenancy_over
from tests.support.clock import TestClock

pytestmark = pytest.mark.anyio

VAULT = Vault(MasterKey(b"m" * 32))
TEXT = "s3cret-ünd-more"


@pytest.fixture
def store() -> MemoryStore:
    """Where records are."""
    return YieldingStore(TestClock())


def space(store: MemoryStore, tenant: str = "acme") -> TenantSpace:
    """A tenant's own."""
    return tenancy_over(store, TestClock()).of(Principal(tenant=tenant, subject="s", scopes=frozenset()))


async def refused(secrets: TenantSecrets, where: TenantSpace, purpose: str, sealed: str) -> str:
    """The code with which it does not open."""
    with pytest.raises(Fault) as fault:
        await secrets.unseal(where, purpose, sealed)
    assert TEXT not in f"{fault.value!r} {fault.value.__cause__!r}"
    return fault.value.code


async def test_what_was_sealed_opens_for_its_tenant_and_purpose_alone(store: MemoryStore) -> None:
    """In any process with the master key; it looks different each time."""
    mine, other = space(store), space(store, "other")
    secrets, elsewhere = TenantSecrets(VAULT, TestClock()), TenantSecrets(VAULT, TestClock())
    sealed = await secrets.seal(mine, "p", TEXT)
    assert await secrets.seal(mine, "p", TEXT) != sealed
    assert await elsewhere.unseal(mine, "p", sealed) == TEXT
    await secrets.seal(other, "p", TEXT)
    assert await refused(secrets, other, "p", sealed) == "SECRET_DAMAGED"
    assert await refused(secrets, mine, "q", sealed) == "SECRET_DAMAGED"
    assert await refused(TenantSecrets(Vault(MasterKey(b"n" * 32)), TestClock()), mine, "p", sealed) == "KEY_MISMATCH"


async def test_every_changed_character_is_noticed(store: MemoryStore) -> None:
    """All of them, one after the other."""
    mine, secrets = space(store), TenantSecrets(VAULT, TestClock())
    sealed = await secrets.seal(mine, "p", TEXT)
    for at, was in enumerate(sealed[:-1]):  # the last one has bits that mean nothing
        changed = sealed[:at] + ("A" if was != "A" else "B") + sealed[at + 1 :]
        assert await refused(secrets, mine, "p", changed) == "SECRET_DAMAGED"
    for cut in ("", "v2", "v2.", sealed[:-5], sealed + "AAAA", sealed.replace("v2.", "v3."), sealed.rpartition(".")[2]):
        assert await refused(secrets, mine, "p", cut) == "SECRET_DAMAGED"


async def test_without_its_data_key_nothing_opens_any_more(store: MemoryStore) -> None:
    """Not from memory either; a new key opens nothing of the old one."""
    mine, secrets = space(store), TenantSecrets(VAULT, TestClock())
    sealed = await secrets.seal(mine, "p", TEXT)
    records = mine.records("cb_vault", DataKey)
    found = await records.get("key")
    assert found is not None
    await records.delete("key", revision=found.revision)
    assert await refused(secrets, mine, "p", sealed) == "SECRET_DAMAGED"
    fresh = await secrets.seal(mine, "p", TEXT)
    assert await secrets.unseal(mine, "p", fresh) == TEXT
    assert await refused(secrets, mine, "p", sealed) == "SECRET_DAMAGED"


async def test_twenty_processes_that_need_the_first_key_at_once_make_one(store: MemoryStore) -> None:
    """And all can read what each has sealed."""
    mine, sealed = space(store), list[str]()

    async def one() -> None:
        sealed.append(await TenantSecrets(VAULT, TestClock()).seal(mine, "p", TEXT))

    async with anyio.create_task_group() as everybody:
        for _ in range(20):
            everybody.start_soon(one)
    reader = TenantSecrets(VAULT, TestClock())
    assert [await reader.unseal(mine, "p", each) for each in sealed] == [TEXT] * 20


async def test_texts_from_before_there_were_data_keys_still_open(store: MemoryStore) -> None:
    """As the master key sealed them."""
    old = VAULT.seal("acme", "p", TEXT)
    assert await TenantSecrets(VAULT, TestClock()).unseal(space(store), "p", old) == TEXT


async def test_neither_key_nor_text_is_in_the_store(store: MemoryStore) -> None:
    """Only what is sealed."""
    mine, secrets = space(store), TenantSecrets(VAULT, TestClock())
    await secrets.seal(mine, "p", TEXT)
    stored = [cell.record.value for cell in store._cells.values()]
    assert len(stored) == 1
    assert b'"sealed":"v1.' in stored[0]
