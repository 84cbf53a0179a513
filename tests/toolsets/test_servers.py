"""Who may add which tool server, and what is kept of it."""

import sys

import pytest
from mcp_agents_tools.toolsets.servers import DEMO_COMMAND, StdioPolicy

from mcp_agents.kernel.errors import AgentsError, Conflict, Denied, Invalid, NotFound, Unavailable
from mcp_agents.kernel.toolserver import ToolServerSpec, UpstreamAuth
from mcp_agents.kernel.toolset import Refused, Returned
from tests.support.tool_servers import good, hostile
from tests.support.tool_servers.served import mcp_app, served
from tests.toolsets.conftest import ADMIN, HOME, STRANGER, WRITER, House, invocation

DEMO = ToolServerSpec(name="demo", transport="stdio", command=DEMO_COMMAND)


def hostile_child(name: str, **more: object) -> ToolServerSpec:
    """A cheap server."""
    return ToolServerSpec(
        name=name,
        transport="stdio",
        command=sys.executable,
        args=(str(hostile.PATH), "plain"),
        **more,  # type: ignore[arg-type]
    )


@pytest.mark.parametrize("policy", ["sandboxed", "trusted"])
async def test_the_demo_server_may_always_be_added_and_used(house: House, policy: StdioPolicy) -> None:
    """Even by somebody who may not run programs."""
    server = await house.servers(policy).add(house.space(), WRITER, DEMO)
    assert {"add", "word_count", "now", "reverse_text"} <= {tool.name for tool in server.tools}
    assert server.target == DEMO_COMMAND
    outcome = await house.call("demo__word_count", {"text": "one two\nthree"})
    assert isinstance(outcome, Returned)
    assert outcome.structured == {"words": 3, "lines": 2, "characters": 13}


@pytest.mark.parametrize(
    ("policy", "principal", "spec", "code"),
    [
        ("off", ADMIN, DEMO, "STDIO_OFF"),
        ("off", ADMIN, hostile_child("x"), "STDIO_OFF"),
        ("sandboxed", ADMIN, hostile_child("x"), "SANDBOX_MISSING"),
        ("trusted", WRITER, hostile_child("x"), "INSUFFICIENT_SCOPE"),
        ("trusted", WRITER, ToolServerSpec(name="d", transport="stdio", command=DEMO_COMMAND, trust_annotations=True),
         "INSUFFICIENT_SCOPE"),
        ("trusted", WRITER, ToolServerSpec(name="d", transport="stdio", command=DEMO_COMMAND, env={"PYTHONPATH": "/x"}),
         "TOOL_SERVER_INVALID"),
        ("trusted", WRITER, ToolServerSpec(name="d", transport="stdio", command=DEMO_COMMAND, args=("-c", "x")),
         "TOOL_SERVER_INVALID"),
        ("trusted", ADMIN, hostile_child("Bad.Name"), "TOOL_SERVER_INVALID"),
        ("trusted", ADMIN, hostile_child("x\n"), "TOOL_SERVER_INVALID"),
        ("trusted", ADMIN, hostile_child("x", env={"A=B": "c"}), "TOOL_SERVER_INVALID"),
        ("trusted", ADMIN, hostile_child("x", exposes=("nope",)), "TOOL_NOT_FOUND"),
        ("trusted", ADMIN, ToolServerSpec(name="x", transport="http"), "TOOL_SERVER_INVALID"),
        ("trusted", ADMIN, ToolServerSpec(name="x", transport="http", url="ftp://example.org/"), "EGRESS_DENIED"),
        ("trusted", ADMIN, ToolServerSpec(name="x", transport="http", url="http://10.0.0.1/mcp",
         auth=UpstreamAuth(type="bearer", token="abc")), "TOOL_SERVER_PLAIN_HTTP"),
        ("trusted", ADMIN, ToolServerSpec(name="x", transport="http", url="http://10.0.0.1/mcp",
         auth=UpstreamAuth(type="bearer", token="abc\r\nx: y")), "TOOL_SERVER_INVALID"),
        ("trusted", ADMIN, ToolServerSpec(name="x", transport="http", url="http://127.0.0.1/mcp",
         auth=UpstreamAuth(type="client_credentials", client_id="a", client_secret="b")), "TOOL_SERVER_INVALID"),
        ("trusted", ADMIN, ToolServerSpec(name="x", transport="http", url="http://127.0.0.1/mcp",
         auth=UpstreamAuth(type="authorization_code", client_id="a", client_secret="b")), "TOOL_SERVER_INVALID"),
        ("trusted", ADMIN.acting("ag"), hostile_child("x"), "TOOL_SERVER_NEEDS_PERSON"),
        ("trusted", ADMIN.acting("ag"), ToolServerSpec(name="x", transport="http", url="http://127.0.0.1/mcp",
         auth=UpstreamAuth(type="bearer", token="abc")), "TOOL_SERVER_NEEDS_PERSON"),
        ("trusted", ADMIN, ToolServerSpec(name="x", transport="http", url=f"{HOME.upper()}/mcp",
         auth=UpstreamAuth(type="bearer", token="abc")), "TOOL_SERVER_OWN_SIGN_IN"),
        ("trusted", ADMIN, ToolServerSpec(name="x", transport="http", url=f"{HOME}/mcp/agent/a",
         auth=UpstreamAuth(type="authorization_code")), "TOOL_SERVER_OWN_SIGN_IN"),
        ("trusted", ADMIN, ToolServerSpec(name="x", transport="http", url="http://127.0.0.1:2/mcp",
         auth=UpstreamAuth(type="client_credentials", client_id="a", client_secret="b", issuer=HOME)),
         "TOOL_SERVER_OWN_SIGN_IN"),
    ],
)  # fmt: skip
async def test_what_may_not_be_added_is_refused_and_not_stored(
    house: House, policy: StdioPolicy, principal: object, spec: ToolServerSpec, code: str
) -> None:
    """Each refusal has its own code."""
    with pytest.raises(AgentsError) as caught:
        await house.servers(policy).add(house.space(), principal, spec)  # type: ignore[arg-type]
    assert caught.value.code == code
    assert await house.servers().all(house.space()) == []


async def test_a_name_is_taken_once(house: House) -> None:
    """The second one conflicts."""
    await house.servers().add(house.space(), ADMIN, hostile_child("one"))
    with pytest.raises(Conflict) as caught:
        await house.servers().add(house.space(), ADMIN, hostile_child("one"))
    assert caught.value.code == "TOOL_SERVER_EXISTS"


async def test_secrets_are_stored_sealed_and_shown_to_nobody(house: House) -> None:
    """Neither the record nor the view holds them, and they still work."""
    async with served(mcp_app(good.server(), token="s3cret-token")) as port:
        auth = UpstreamAuth(type="bearer", token="s3cret-token")
        spec = ToolServerSpec(name="far", transport="http", url=f"http://127.0.0.1:{port}/mcp", auth=auth)
        view = await house.servers().add(house.space(), ADMIN, spec)
        view_of_child = await house.servers().add(
            house.space(), ADMIN, hostile_child("near", env={"API_KEY": "s3cret-value"})
        )
        for name in ("far", "near"):
            record = await house.store.get("cb_tool_servers", f"acme.{name}")
            assert record is not None
            assert b"s3cret" not in record.value
        assert "s3cret" not in repr((view, view_of_child, auth, spec))
        assert view_of_child.env_names == ("API_KEY",)
        assert isinstance(await house.call("far__add", {"a": 1, "b": 2}), Returned)
        await house.hub.forget("acme", "far")


async def test_only_exposed_tools_are_kept(house: House) -> None:
    """The others cannot be bound."""
    spec = ToolServerSpec(name="demo", transport="stdio", command=DEMO_COMMAND, exposes=("now",))
    server = await house.servers().add(house.space(), WRITER, spec)
    assert [tool.name for tool in server.tools] == ["now"]
    assert await house.toolsets().unknown(house.space(), ("demo/now", "demo/add")) == ["demo/add"]


async def test_a_removed_server_is_gone_for_runs_that_still_hold_its_tools(house: House) -> None:
    """Its connection is closed and its tools are refused."""
    await house.servers().add(house.space(), ADMIN, hostile_child("one"))
    async with house.toolsets().open(house.space(), ADMIN, ("one/*",)) as toolset:
        found = await house.servers().get(house.space(), "one")
        with pytest.raises(Conflict):
            await house.servers().remove(house.space(), "one", expected_revision=found.revision + 1)
        await house.servers().remove(house.space(), "one", expected_revision=found.revision)
        outcome = await toolset.call(invocation("one__word", {}))
    assert isinstance(outcome, Refused)
    assert outcome.code == "TOOL_SERVER_UNKNOWN"
    assert house.hub.open_keys == frozenset()
    with pytest.raises(NotFound):
        await house.servers().get(house.space(), "one")


async def test_refreshing_an_unchanged_server_changes_nothing(house: House) -> None:
    """The same revision, the same fingerprints."""
    added = await house.servers().add(house.space(), ADMIN, hostile_child("one"))
    assert await house.servers().refresh(house.space(), ADMIN, "one") == added


async def test_a_policy_that_became_stricter_stops_a_stored_server(house: House) -> None:
    """The record stays, the process is not started."""
    await house.servers().add(house.space(), ADMIN, hostile_child("one"))
    async with house.toolsets("off").open(house.space(), ADMIN, ("one/*",)) as toolset:
        outcome = await toolset.call(invocation("one__word", {}))
    assert isinstance(outcome, Refused)
    assert outcome.code == "STDIO_OFF"
    with pytest.raises(Unavailable):
        await house.servers("sandboxed").refresh(house.space(), ADMIN, "one")


async def test_two_tenants_with_the_same_server_name_share_nothing(house: House) -> None:
    """Not the record, not the process, not the existence."""
    spec = ToolServerSpec(
        name="mine", transport="stdio", command=sys.executable, args=(str(good.PATH),), env={"LEDGER": "/dev/null"}
    )
    await house.servers().add(house.space(ADMIN), ADMIN, spec)
    with pytest.raises(NotFound):
        await house.servers().get(house.space(STRANGER), "mine")
    assert await house.toolsets().unknown(house.space(STRANGER), ("mine/pid",)) == ["mine/pid"]
    await house.servers().add(house.space(STRANGER), STRANGER, spec)
    ours, theirs = await house.call("mine__pid"), await house.call("mine__pid", principal=STRANGER)
    assert isinstance(ours, Returned)
    assert isinstance(theirs, Returned)
    assert ours.text != theirs.text
    assert {key.tenant for key in house.hub.open_keys} == {"acme", "other"}


async def test_an_idle_connection_is_closed_and_opened_again_when_needed(house: House) -> None:
    """After five minutes by the clock, not before."""
    await house.servers().add(house.space(), ADMIN, DEMO)
    await house.call("demo__now")
    house.clock.advance(299)
    await house.hub.close_idle()
    assert len(house.hub.open_keys) == 1
    house.clock.advance(2)
    await house.hub.close_idle()
    assert house.hub.open_keys == frozenset()
    assert isinstance(await house.call("demo__now"), Returned)


@pytest.mark.parametrize("trusted", [True, False])
async def test_only_a_trusted_annotation_makes_a_tool_repeatable(house: House, trusted: bool) -> None:
    """Without trust every tool has effects."""
    spec = ToolServerSpec(name="demo", transport="stdio", command=DEMO_COMMAND, trust_annotations=trusted)
    await house.servers().add(house.space(), ADMIN, spec)
    async with house.toolsets().open(house.space(), ADMIN, ("demo/add",)) as toolset:
        assert [(tool.name, tool.repeatable) for tool in toolset.tools] == [("demo__add", trusted)]
        assert toolset.tools[0].parameters["type"] == "object"


async def test_opening_tools_connects_to_nobody(house: House) -> None:
    """Only a call does."""
    await house.servers().add(house.space(), ADMIN, DEMO)
    async with house.toolsets().open(house.space(), ADMIN, ("demo/*", "gone/x")) as toolset:
        assert {"demo__add", "demo__now"} <= {tool.name for tool in toolset.tools}
        assert house.hub.open_keys == frozenset()


async def test_bindings_that_name_nothing_are_reported_in_order(house: House) -> None:
    """Two forms exist, and nothing else is one."""
    await house.servers().add(house.space(), ADMIN, DEMO)
    bindings = ("demo/add", "demo/*", "*", "demo", "demo/", "demo/nope", "*/add", "other/*", "", "/add", "DEMO/add")
    assert await house.toolsets().unknown(house.space(), bindings) == list(bindings[2:])


async def test_a_denied_caller_leaves_no_trace(house: House) -> None:
    """Not even of trying."""
    with pytest.raises(Denied):
        await house.servers().add(house.space(WRITER), WRITER, hostile_child("one"))
    with pytest.raises(Invalid):
        await house.servers().add(house.space(), ADMIN, hostile_child(""))
    assert house.hub.open_keys == frozenset()
