"""Structured output: validated, mended once, and else a clear end; with the limits of one run beside it."""

from pathlib import Path
from typing import Any

import pytest

from tests.execution.scripted import scripted
from tests.support.provider import Step

pytestmark = pytest.mark.anyio

SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "people": {"type": "integer"}},
    "required": ["city", "people"],
}
GOOD = '{"city": "Oslo", "people": 700000}'
USED = {"prompt_tokens": 100, "completion_tokens": 50, "total_tokens": 150}


@pytest.mark.parametrize("answer", [GOOD, f"```json\n{GOOD}\n```"])
async def test_an_answer_that_matches_its_schema_is_structured(tmp_path: Path, answer: str) -> None:
    """The value is in `structured`, and the schema was sent to the provider."""
    async with scripted(tmp_path, Step(when="<q>", text=answer)) as house:
        await house.remote.call("agent_create", {"name": "worker", "virtual_model": "scripted"})
        result = await house.run("worker", "<q>", output_schema=SCHEMA)
        assert result["structured"] == {"city": "Oslo", "people": 700000}
        assert house.provider.requests[0]["response_format"]["json_schema"]["schema"] == SCHEMA


async def test_an_answer_that_does_not_match_is_mended_once(tmp_path: Path) -> None:
    """The model is told what is wrong; what it says then counts."""
    steps = [Step(when="<q>", turn=0, text='{"city": 7}'), Step(when="<q>", turn=1, text=GOOD)]
    async with scripted(tmp_path, *steps) as house:
        agent = {"name": "worker", "virtual_model": "scripted", "output_schema": SCHEMA}
        await house.remote.call("agent_create", agent)
        result = await house.run("worker", "<q>")
        told = house.provider.requests[1]["messages"][-1]
        events = [event["type"] for event in await house.events(result["execution_id"])]
    assert result["status"] == "completed"
    assert result["structured"]["city"] == "Oslo"
    assert told["role"] == "user"
    assert "people" in told["content"]
    assert events.count("retry") == 1


async def test_an_answer_that_does_not_match_twice_ends_the_run(tmp_path: Path) -> None:
    """Two answers are paid, and no more."""
    async with scripted(tmp_path, Step(when="<q>", text="Oslo", times=2)) as house:
        await house.remote.call("agent_create", {"name": "worker", "virtual_model": "scripted"})
        result = await house.run("worker", "<q>", output_schema=SCHEMA)
    assert (result["status"], result["error"]["code"]) == ("failed", "OUTPUT_INVALID")


@pytest.mark.parametrize(
    ("limits", "code"),
    [({"max_cost_micro_usd": 700}, "COST_EXHAUSTED"), ({"max_total_tokens": 400}, "TOKENS_EXHAUSTED")],
)
async def test_a_run_ends_before_the_call_that_would_break_its_limit(
    tmp_path: Path, limits: dict[str, Any], code: str
) -> None:
    """A prompt whose worst case does not fit is never sent."""
    async with scripted(tmp_path) as house:
        await house.remote.call("agent_create", {"name": "worker", "virtual_model": "scripted", "limits": limits})
        result = await house.run("worker", "<q> " + "x" * 600)
        assert house.provider.requests == []
    assert (result["error"]["code"], result["cost_micro_usd"]) == (code, 0)


async def test_the_model_is_told_the_bound_that_was_reckoned_with(tmp_path: Path) -> None:
    """Where money is limited, `max_tokens` is what the rest of the money can buy at most."""
    async with scripted(tmp_path, Step(when="<q>", text="ok", usage=USED)) as house:
        limits = {"max_cost_micro_usd": 2000}
        await house.remote.call("agent_create", {"name": "worker", "virtual_model": "scripted", "limits": limits})
        result = await house.run("worker", "<q>")
        asked = house.provider.requests[0]["max_tokens"]
    assert result["status"] == "completed"
    assert 64 <= asked <= 200
    assert result["cost_micro_usd"] <= 2000
