"""Which execution a repeated call joins.

Two ways: under a key that the caller chose, for a day; and without one, where a call is sent again because
the first one's answer never reached its caller. The second way keeps a record only of runs whose caller was
lost before the answer, so that two calls that are both being waited for stay two runs.
"""

from hashlib import sha256
from typing import Final

from msgspec import Struct

from mcp_agents.agents.spec import Agent
from mcp_agents.execution.orders import Order
from mcp_agents.kernel.errors import Conflict, WrongRevision
from mcp_agents.kernel.principal import Principal
from mcp_agents.kernel.tenancy import TenantSpace

KEY_SECONDS: Final = 24 * 3600
UNDELIVERED_SECONDS: Final = 300


class _Key(Struct, frozen=True, kw_only=True):
    execution_id: str
    digest: str
    v: int = 1


class _Undelivered(Struct, frozen=True, kw_only=True):
    execution_id: str
    v: int = 1


async def by_key(space: TenantSpace, principal: Principal, order: Order, agent: Agent, minted: str) -> str:
    """The execution that the order's key stands for: `minted`, or the one it was first used for.

    Raises `Conflict` (`IDEMPOTENCY_MISMATCH`) when it was used for another request.
    """
    digest, name = order.digest(agent), _key_name(principal, order)
    keys = space.records("cb_agent_state", _Key)
    while True:
        try:
            fresh = _Key(execution_id=minted, digest=digest)
            await keys.create("idempotency", name, value=fresh, ttl=KEY_SECONDS)
            return minted
        except WrongRevision:
            held = await keys.get("idempotency", name)
        if held is None:
            continue  # it ended between the two looks
        if held.value.digest != digest:
            raise Conflict(
                "IDEMPOTENCY_MISMATCH",
                "This idempotency key was used for another request.",
                "Use a new key, or send the same arguments.",
            )
        return held.value.execution_id


async def forget_key(space: TenantSpace, principal: Principal, order: Order, execution_id: str) -> None:
    """Frees the key of a run that was refused before it was accepted, so that the call can be made again."""
    keys, name = space.records("cb_agent_state", _Key), _key_name(principal, order)
    held = await keys.get("idempotency", name)
    if held is not None and held.value.execution_id == execution_id:
        try:
            await keys.delete("idempotency", name, revision=held.revision)
        except WrongRevision:
            return  # it ended meanwhile


def call_name(principal: Principal, order: Order, agent: Agent) -> str:
    """What makes a call without a key the same call: its caller, the agent's version, and its arguments."""
    what = f"{principal.subject}\0{principal.client}\0{agent.version}\0{order.digest(agent)}"
    return sha256(what.encode()).hexdigest()


async def undelivered(space: TenantSpace, name: str) -> str:
    """The execution whose answer to the same call was never delivered, or ""."""
    found = await space.records("cb_joins", _Undelivered).get(name)
    return found.value.execution_id if found else ""


async def keep_undelivered(space: TenantSpace, name: str, execution_id: str) -> None:
    """The caller was lost before the answer: the same call within five minutes joins this execution."""
    joins = space.records("cb_joins", _Undelivered)
    found = await joins.get(name)
    value = _Undelivered(execution_id=execution_id)
    try:
        await joins.update(name, value=value, revision=found.revision if found else 0, ttl=UNDELIVERED_SECONDS)
    except WrongRevision:
        return  # somebody lost the same call in the same moment: either of the two runs may be joined


async def delivered(space: TenantSpace, name: str, execution_id: str) -> None:
    """The answer has reached its caller: the same call is a new run from now on."""
    joins = space.records("cb_joins", _Undelivered)
    found = await joins.get(name)
    if found is not None and found.value.execution_id == execution_id:
        try:
            await joins.delete(name, revision=found.revision)
        except WrongRevision:
            return  # the same call was lost again meanwhile, and may be joined again


def _key_name(principal: Principal, order: Order) -> str:
    return sha256(f"{principal.subject}\0{order.idempotency_key}".encode()).hexdigest()
