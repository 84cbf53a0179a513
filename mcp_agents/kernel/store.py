"""Port: key-value records with revisions and compare-and-set.

Keys are subjects-safe text built by `kernel.tenancy`; nobody else holds a `Store`. Revisions are
positive, grow with every write of a bucket, and 0 means "must not exist yet".
"""

from collections.abc import AsyncIterator
from typing import Literal, NamedTuple, Protocol, get_args

Bucket = Literal[
    "cb_agents",
    "cb_agent_state",
    "cb_executions",
    "cb_tool_servers",
    "cb_models",
    "cb_capacity",
    "cb_ledger",
    "cb_leases",
    "cb_joins",
    "cb_tenants",
    "cb_auth",
    "cb_policies",
    "cb_vault",
    "cb_agent_sessions",
    "cb_memories",
]
BUCKETS: tuple[Bucket, ...] = get_args(Bucket)
OF_PLATFORM: frozenset[Bucket] = frozenset({"cb_tenants", "cb_auth"})
"""Buckets whose keys do not begin with a tenant's name."""


class Record(NamedTuple):
    """What is stored under one key."""

    key: str
    value: bytes
    revision: int


class Store(Protocol):
    """Buckets of records. All methods raise `Unavailable` when the store does not answer."""

    async def get(self, bucket: Bucket, key: str) -> Record | None:
        """The record, or None when there is none (never written, deleted or expired)."""
        ...

    async def write(self, bucket: Bucket, key: str, value: bytes, *, revision: int, ttl: int = 0) -> int:
        """Writes when the current revision is `revision` (0: no live record) and returns the new one.

        `ttl` is in whole seconds; 0 keeps the record. Raises `WrongRevision` otherwise.
        """
        ...

    async def delete(self, bucket: Bucket, key: str, *, revision: int) -> None:
        """Deletes when the current revision is `revision`; raises `WrongRevision` otherwise."""
        ...

    async def any(self, bucket: Bucket, pattern: str) -> bool:
        """Whether a live record's key matches `pattern`."""
        ...

    def scan(self, bucket: Bucket, pattern: str) -> AsyncIterator[Record]:
        """Every live record whose key matches `pattern` (`*` is one token, a final `>` the rest), by key."""
        ...
