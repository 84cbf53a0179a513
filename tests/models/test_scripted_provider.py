"""The scripted provider itself: it counts on its own side and fails loudly."""

import json
import sys
from pathlib import Path

import anyio
import httpx2
import msgspec
import pytest
from anyio.streams.buffered import BufferedByteReceiveStream

from tests.support.provider import ScriptedProvider, Step

pytestmark = pytest.mark.anyio


async def ask(api_base: str, text: str) -> httpx2.Response:
    """One request without a stream."""
    async with httpx2.AsyncClient(timeout=10) as client:
        return await client.post(f"{api_base}/chat/completions", json={"messages": [{"role": "user", "content": text}]})


async def test_an_unexpected_request_fails_the_test() -> None:
    """It is answered with an error and raised at the end."""
    with pytest.raises(AssertionError, match=r"no step expects.*surprise"):
        async with ScriptedProvider([]) as provider:
            assert (await ask(provider.api_base, "surprise")).status_code == 500


async def test_an_unused_step_fails_the_test() -> None:
    """A script that was not played to its end is raised."""
    with pytest.raises(AssertionError, match=r"not used.*later.*used 1 of 2"):
        async with ScriptedProvider([Step(when="later", text="ok", times=2)]) as provider:
            await ask(provider.api_base, "later")


async def test_a_process_of_its_own_counts_for_others(tmp_path: Path) -> None:
    """The script comes from a file, and the counts are asked for over HTTP."""
    script = tmp_path / "steps.json"
    script.write_bytes(msgspec.json.encode([Step(when="a", text="one"), Step(when="a", text="two", times=2)]))
    command = [sys.executable, "-m", "tests.support.provider", "--port", "0", "--script", str(script)]
    async with await anyio.open_process(command, stderr=None) as process:
        assert process.stdout is not None
        line = await BufferedByteReceiveStream(process.stdout).receive_until(b"\n", 200)
        api_base = line.decode().split()[-1]
        said = [(await ask(api_base, "a")).json()["choices"][0]["message"]["content"] for _ in range(2)]
        async with httpx2.AsyncClient() as client:
            counts = json.loads((await client.get(api_base.removesuffix("/v1") + "/counts")).content)
        process.terminate()
    assert said == ["one", "two"]
    assert (counts["requests"], counts["by_step"], counts["unexpected"]) == (2, [1, 1], [])
    assert counts["unused"] == ["step 1 (a): used 1 of 2"]
