"""docs/architecture.md names the rooms, floors, streams and buckets that there are."""

import re
import tomllib

from mcp_agents.adapters import nats_topology
from mcp_agents.kernel.store import BUCKETS
from mcp_agents.kernel.tenancy import LOG_SHARDS, log_subject
from tests.docs.pages import ROOT, rows, section, text_of

PACKAGES = {
    "server": "mcp_agents/server",
    "adapters": "mcp_agents/adapters",
    "surface": "tools/mcp_agents_tools/surface",
    "executions": "tools/mcp_agents_tools/surface/executions",
    "toolsets": "tools/mcp_agents_tools/toolsets",
    "execution": "mcp_agents/execution",
    "models": "mcp_agents/models",
    "scaling": "mcp_agents/scaling",
    "agents": "mcp_agents/agents",
    "auth": "auth/mcp_agents_auth",
    "security": "mcp_agents/security",
    "kernel": "mcp_agents/kernel",
}


def test_the_floors_are_those_of_the_import_contract() -> None:
    """The same rooms in the same order, with the same neighbours."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["importlinter"]["contracts"]
    layers = next(each["layers"] for each in contracts if each["id"] == "floors")
    floors: dict[str, set[str]] = {}
    for floor, room, _ in list(rows(section(text_of("architecture.md"), "Floors")))[1:]:
        floors.setdefault(floor, set()).add(room)
    assert [floors[str(number)] for number in range(len(layers), 0, -1)] == [
        {room.strip() for room in layer.split("|")} for layer in layers
    ]


def test_every_module_of_the_walks_exists() -> None:
    """`room.module` is a file of that room; what stands alone is a module of the authorization server."""
    walks = section(text_of("architecture.md"), "The walks")
    named = re.findall(r"`(\w+)\.(\w+)`", walks)
    assert len(named) > 20
    missing = [f"{room}.{name}" for room, name in named if not (ROOT / PACKAGES[room] / f"{name}.py").exists()]
    assert missing == []
    alone = re.findall(r"`([a-z]+)`", walks.partition("### Sign in")[2])
    assert len(alone) > 8
    other = {"requested"}
    assert [name for name in alone if not (ROOT / PACKAGES["auth"] / f"{name}.py").exists() and name not in other] == []


def test_every_stream_and_bucket_is_on_the_page() -> None:
    """The table speaks of all that `nats_topology` declares, with the real subjects."""
    table = section(text_of("architecture.md"), "Subjects, streams, buckets")
    names = [str(stream["name"]) for stream in nats_topology.streams(1)]
    logs = {nats_topology.log_stream(shard) for shard in range(LOG_SHARDS)}
    assert f"`{min(logs)}` to `{max(logs)}`" in table
    plain = {nats_topology.JOBS, nats_topology.AUDIT, nats_topology.SESSIONS}
    others = set(names) - logs - plain - {nats_topology.OBJECTS}
    assert others == {nats_topology.bucket_stream(bucket) for bucket in BUCKETS}
    for name in (*plain, nats_topology.OBJECTS.removeprefix("OBJ_"), *BUCKETS):
        assert f"`{name}`" in table
    shard = log_subject("acme", "ex_1").split(".")[3]
    assert log_subject("acme", "ex_1") == f"cb.agent.events.{shard}.acme.ex_1"
    assert "`cb.agent.events.{shard}.{tenant}.{execution}`" in table
    assert f"leases of {nats_topology.LEASE_SECONDS} s" in table
