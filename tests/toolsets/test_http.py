"""Tool servers over Streamable HTTP, in both eras."""

from typing import Any

import pytest
from mcp_agents_tools.toolsets.hub import UpstreamHub

from mcp_agents.kernel.errors import Denied, Invalid, Unavailable
from mcp_agents.kernel.toolserver import ToolServerSpec, UpstreamAuth
from mcp_agents.kernel.toolset import Broken, Outcome, Refused, Returned
from mcp_agents.security.egress import AddressRule
from tests.support.tool_servers import good
from tests.support.tool_servers.served import event_flood, flood, gzip_bomb, mcp_app, raw_app, served, signed_in_app
from tests.toolsets.conftest import ADMIN, House

ERAS = pytest.mark.parametrize("era", ["modern", "legacy"])


def remote(port: int, auth: UpstreamAuth | None = None, name: str = "far") -> ToolServerSpec:
    """A spec for a port of this machine."""
    return ToolServerSpec(name=name, transport="http", url=f"http://127.0.0.1:{port}/mcp", auth=auth or UpstreamAuth())


@ERAS
async def test_a_tool_is_listed_and_called_with_a_bearer(house: House, era: str) -> None:
    """Both eras, the same outcome."""
    app = mcp_app(good.server(), era=era, token="t0ken")
    async with served(app) as port:
        auth = UpstreamAuth(type="bearer", token="t0ken")
        server = await house.servers().add(house.space(), ADMIN, remote(port, auth))
        assert "add" in {tool.name for tool in server.tools}
        outcome = await house.call("far__add", {"a": 2, "b": 3})
        assert isinstance(outcome, Returned)
        assert outcome.structured == {"total": 5}
        await house.hub.forget("acme", "far")


@ERAS
async def test_a_wrong_bearer_is_told_apart_and_never_repeated(house: House, era: str) -> None:
    """The error says sign-in and holds no secret."""
    async with served(mcp_app(good.server(), era=era, token="right")) as port:
        with pytest.raises(Unavailable) as caught:
            await house.servers().add(
                house.space(), ADMIN, remote(port, UpstreamAuth(type="bearer", token="wr0ng-secret"))
            )
    assert caught.value.code == "TOOL_SERVER_UNREACHABLE"
    assert "sign-in" in caught.value.public
    assert "wr0ng-secret" not in f"{caught.value!r} {vars(caught.value)}"
    assert caught.value.__cause__ is None


@ERAS
async def test_an_outage_is_refused_and_the_server_is_found_again(house: House, era: str) -> None:
    """While it is away nothing was sent; afterwards the next call works."""
    async with served(mcp_app(good.server(), era=era)) as port:
        await house.servers().add(house.space(), ADMIN, remote(port))
        assert isinstance(await house.call("far__add", {"a": 1, "b": 1}), Returned)
    outcome = await house.call("far__add", {"a": 1, "b": 1})
    assert isinstance(outcome, Refused)
    assert outcome.code == "TOOL_SERVER_UNREACHABLE"
    async with served(mcp_app(good.server(), era=era), port):
        assert isinstance(await house.call("far__add", {"a": 1, "b": 1}), Returned)
        await house.hub.forget("acme", "far")


async def test_a_failed_connection_is_not_tried_again_before_its_pause_is_over(house: House) -> None:
    """The pause follows the clock."""
    async with served(mcp_app(good.server())) as port:
        await house.servers().add(house.space(), ADMIN, remote(port))
    assert isinstance(await house.call("far__add", {"a": 1, "b": 1}), Refused)
    async with served(mcp_app(good.server()), port):
        paused = await house.call("far__add", {"a": 1, "b": 1})
        assert isinstance(paused, Refused)
        assert "not due" in paused.message
        house.clock.advance(1)
        assert isinstance(await house.call("far__add", {"a": 1, "b": 1}), Returned)
        await house.hub.forget("acme", "far")


async def _outcome_of(house: House, answer: Any) -> Outcome:
    async with served(raw_app(answer)) as port:
        await house.servers().add(house.space(), ADMIN, remote(port))
        outcome = await house.call("far__word")
        await house.hub.forget("acme", "far")
        return outcome


@pytest.mark.parametrize("answer", [gzip_bomb, flood], ids=["gzip bomb", "endless document"])
async def test_an_answer_that_would_fill_the_process_is_refused(house: House, answer: Any) -> None:
    """It may have happened, so the call is broken."""
    outcome = await _outcome_of(house, answer)
    assert isinstance(outcome, Broken)
    assert outcome.code == "TOOL_ANSWER_REFUSED"


async def test_a_stream_of_events_beyond_the_bound_is_cut_off(house: House) -> None:
    """The call is broken as by any lost connection."""
    outcome = await _outcome_of(house, event_flood)
    assert isinstance(outcome, Broken)


async def test_a_page_that_is_no_mcp_endpoint_is_not_stored(house: House) -> None:
    """The URL is wrong, and the caller is told."""
    async with served(mcp_app(good.server())) as port:
        spec = ToolServerSpec(name="far", transport="http", url=f"http://127.0.0.1:{port}/other")
        with pytest.raises(Invalid) as caught:
            await house.servers().add(house.space(), ADMIN, spec)
    assert caught.value.code == "TOOL_SERVER_NOT_MCP"
    assert await house.servers().all(house.space()) == []


async def test_a_port_where_nobody_listens_is_unreachable(house: House) -> None:
    """Nothing is stored."""
    async with served(mcp_app(good.server())) as port:
        pass
    with pytest.raises(Unavailable) as caught:
        await house.servers().add(house.space(), ADMIN, remote(port))
    assert caught.value.code == "TOOL_SERVER_UNREACHABLE"
    assert await house.servers().all(house.space()) == []


async def test_a_public_deployment_reaches_no_loopback_server(house: House) -> None:
    """The egress rule is asked before anything is sent."""
    async with UpstreamHub(AddressRule(), clock=house.clock) as hub:
        house.hub = hub
        with pytest.raises(Denied) as caught:
            await house.servers().add(house.space(), ADMIN, remote(9))
    assert caught.value.code == "EGRESS_DENIED"


async def test_a_name_that_changes_after_the_check_gains_nothing(house: House) -> None:
    """The address is judged again at the connection, and that address is the one used."""
    answers = iter([("93.184.216.34",), ("127.0.0.1",)])

    async def resolve(host: str, port: int) -> tuple[str, ...]:
        return next(answers, ("127.0.0.1",))

    hits: list[int] = []

    async def count(message: Any, send: Any) -> None:
        hits.append(1)

    async with served(raw_app(count)) as port, UpstreamHub(AddressRule(resolve=resolve), clock=house.clock) as hub:
        house.hub = hub
        spec = ToolServerSpec(name="far", transport="http", url=f"http://rebind.example.org:{port}/mcp")
        with pytest.raises(Denied):
            await house.servers().add(house.space(), ADMIN, spec)
    assert hits == []


def _credentials(port: int, *, secret: str = "cl13nt-secret", issuer: str = "") -> UpstreamAuth:
    return UpstreamAuth(
        type="client_credentials", client_id="us", client_secret=secret, issuer=issuer or f"http://127.0.0.1:{port}"
    )


async def test_our_own_client_signs_in_with_its_credentials(house: House) -> None:
    """Discovery and token request go through the same guarded transport."""
    async with served(signed_in_app(good.server())) as port:
        await house.servers().add(house.space(), ADMIN, remote(port, _credentials(port)))
        assert isinstance(await house.call("far__add", {"a": 1, "b": 1}), Returned)
        await house.hub.forget("acme", "far")


async def test_a_wrong_client_secret_is_a_failed_sign_in(house: House) -> None:
    """Told apart from an outage, and never quoted."""
    async with served(signed_in_app(good.server())) as port:
        with pytest.raises(Unavailable) as caught:
            await house.servers().add(house.space(), ADMIN, remote(port, _credentials(port, secret="wr0ng")))
    assert "sign-in" in caught.value.public
    assert "wr0ng" not in f"{caught.value!r} {vars(caught.value)}"


async def test_a_secret_goes_only_to_the_issuer_it_belongs_to(house: House) -> None:
    """A tool server that leads to another authorization server gets nothing."""
    async with served(signed_in_app(good.server())) as port:
        auth = _credentials(port, issuer=f"http://localhost:{port}")
        with pytest.raises(Unavailable) as caught:
            await house.servers().add(house.space(), ADMIN, remote(port, auth))
    assert "sign-in" in caught.value.public
