"""Tool servers as child processes."""

import os
import sys
from pathlib import Path

import anyio
import pytest

from mcp_agents.kernel.errors import Invalid, Unavailable
from mcp_agents.kernel.toolserver import ToolServerSpec
from mcp_agents.kernel.toolset import Broken, Refused, Returned
from tests.support.tool_servers import good, hostile
from tests.toolsets.conftest import ADMIN, TRACE, House


def child(name: str, path: Path, *args: str, env: dict[str, str] | None = None) -> ToolServerSpec:
    """A spec that starts a script."""
    return ToolServerSpec(name=name, transport="stdio", command=sys.executable, args=(str(path), *args), env=env or {})


@pytest.fixture
async def ledger(house: House, tmp_path: Path) -> Path:
    """The ledger of the good server, which has been added as `good`."""
    path = tmp_path / "ledger"
    path.touch()
    env = {"LEDGER": str(path), "PYTHONPATH": os.getcwd()}
    await house.servers().add(house.space(), ADMIN, child("good", good.PATH, env=env))
    return path


async def test_a_tool_is_called_and_its_structured_answer_kept(house: House, ledger: Path) -> None:
    """Text and structured content arrive both."""
    outcome = await house.call("good__add", {"a": 2, "b": 3})
    assert isinstance(outcome, Returned)
    assert outcome.structured == {"total": 5}
    assert "5" in outcome.text


async def test_a_call_carries_its_identity_in_meta(house: House, ledger: Path) -> None:
    """Effect, execution, depth and trace reach the server."""
    outcome = await house.call("good__meta")
    assert isinstance(outcome, Returned)
    told = outcome.structured
    assert told["io.github.mcp-agents/effect_id"] == "eff_1"
    assert told["io.github.mcp-agents/execution_id"] == "ex_1"
    assert told["io.github.mcp-agents/depth"] == 2
    assert told["traceparent"] == TRACE


async def test_a_child_sees_next_to_nothing_of_our_environment(
    house: House, ledger: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A planted secret of ours is not there."""
    monkeypatch.setenv("PLANTED_SECRET", "sk-leak")
    outcome = await house.call("good__environment")
    assert isinstance(outcome, Returned)
    # The interpreter may set its own locale variable.
    assert set(outcome.structured) <= {"PATH", "HOME", "LEDGER", "PYTHONPATH", "LC_CTYPE"}


async def test_an_error_of_the_tool_is_refused_with_its_text(house: House, ledger: Path) -> None:
    """The model may mend it."""
    outcome = await house.call("good__fail")
    assert isinstance(outcome, Refused)
    assert outcome.code == "TOOL_ERROR"
    assert "the shelf is empty" in outcome.message


async def test_wrong_arguments_are_refused(house: House, ledger: Path) -> None:
    """Nothing was done, and the model learns why."""
    outcome = await house.call("good__add", {"a": "x"})
    assert isinstance(outcome, Refused)


async def test_a_child_that_dies_in_a_call_breaks_it_and_the_next_call_gets_a_new_one(
    house: House, ledger: Path
) -> None:
    """The call is not repeated, and the server comes back."""
    first = await house.call("good__pid")
    outcome = await house.call("good__die", {"line": "once"})
    assert isinstance(outcome, Broken)
    assert outcome.code == "TOOL_CONNECTION_LOST"
    assert _lines(ledger) == ["once"]
    second = await house.call("good__pid")
    assert isinstance(first, Returned)
    assert isinstance(second, Returned)
    assert first.text != second.text


async def test_a_tool_that_never_answers_is_a_broken_call(house: House, ledger: Path) -> None:
    """The deadline ends the call and leaves the connection usable."""
    before = await house.call("good__pid")
    outcome = await house.call("good__hang", timeout=0.3)
    assert isinstance(outcome, Broken)
    assert outcome.code == "TOOL_TIMEOUT"
    assert await house.call("good__pid") == before


async def test_calls_run_beside_each_other_on_one_connection(house: House, ledger: Path) -> None:
    """A hanging call does not hold up another."""
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(house.call, "good__hang")
        for n in range(5):
            assert isinstance(await house.call("good__ledger_append", {"line": str(n)}), Returned)
        tasks.cancel_scope.cancel()
    assert _lines(ledger) == list("01234")


async def test_a_long_answer_is_cut_and_says_so(house: House, ledger: Path) -> None:
    """64 KiB and a note."""
    outcome = await house.call("good__long_text", {"size": 100_000})
    assert isinstance(outcome, Returned)
    assert len(outcome.text) < 66_000
    assert "[cut: the first 65536 of 100000 bytes]" in outcome.text
    assert outcome.structured is None


async def test_an_image_is_described_in_text(house: House, ledger: Path) -> None:
    """Its data is not."""
    outcome = await house.call("good__picture")
    assert outcome == Returned(text="look:\n[image, image/png, about 3 bytes, not shown]")


async def test_closing_a_connection_ends_the_whole_process_group(house: House, tmp_path: Path) -> None:
    """A grandchild does not stay behind."""
    mark = tmp_path / "grandchild"
    await house.servers().add(house.space(), ADMIN, child("tree", good.PATH, str(mark)))
    await house.call("tree__pid")
    grandchild = int(mark.read_text())
    assert _runs(grandchild)
    await house.hub.forget("acme", "tree")
    assert not _runs(grandchild)


async def test_a_pattern_that_backtracks_for_ever_is_never_run(house: House) -> None:
    """The answer to the trap comes back at once, and the loop goes on meanwhile."""
    await house.servers().add(house.space(), ADMIN, child("trap", hostile.PATH, "redos"))
    with anyio.fail_after(10):
        outcome = await house.call("trap__word")
    assert isinstance(outcome, Returned)
    assert outcome.structured == {"word": "a" * 40 + "!"}


async def test_a_huge_description_is_cut_and_cleaned(house: House) -> None:
    """Four KiB are kept, without what a reader cannot see."""
    server = await house.servers().add(house.space(), ADMIN, child("huge", hostile.PATH, "huge"))
    description = server.tools[0].description
    assert description.startswith("red ddd")
    assert len(description.encode()) <= 4096


async def test_a_tool_with_a_bottomless_schema_is_left_out(house: House) -> None:
    """Its neighbour stays."""
    server = await house.servers().add(house.space(), ADMIN, child("deep", hostile.PATH, "deep"))
    assert [tool.name for tool in server.tools] == ["flat"]


async def test_a_list_without_an_end_is_cut_at_five_hundred(house: House) -> None:
    """The cursor is not followed for ever."""
    server = await house.servers().add(house.space(), ADMIN, child("endless", hostile.PATH, "endless"))
    assert len(server.tools) == 500


async def test_an_answer_outside_the_protocol_breaks_the_call(house: House) -> None:
    """It may have happened."""
    await house.servers().add(house.space(), ADMIN, child("odd", hostile.PATH, "nonsense"))
    outcome = await house.call("odd__word")
    assert isinstance(outcome, Broken)
    assert outcome.code == "TOOL_ANSWER_INVALID"


@pytest.mark.parametrize("mode", ["garbage", "exits", "flood"])
async def test_a_program_that_does_not_speak_mcp_is_not_stored(house: House, mode: str) -> None:
    """The caller is told so, and nothing is kept."""
    with pytest.raises(Invalid) as caught:
        await house.servers().add(house.space(), ADMIN, child("noise", hostile.PATH, mode))
    assert caught.value.code == "TOOL_SERVER_NOT_MCP"
    assert await house.servers().all(house.space()) == []


async def test_a_program_that_does_not_exist_is_unreachable(house: House) -> None:
    """Nothing is stored."""
    spec = ToolServerSpec(name="none", transport="stdio", command="mcp-agents-no-such-program")
    with pytest.raises(Unavailable) as caught:
        await house.servers().add(house.space(), ADMIN, spec)
    assert caught.value.code == "TOOL_SERVER_UNREACHABLE"
    assert await house.servers().all(house.space()) == []


def _lines(ledger: Path) -> list[str]:
    return ledger.read_text().split()


def _runs(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return False
    return state != "Z"
