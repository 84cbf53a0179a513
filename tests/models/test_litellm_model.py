"""What is litellm's alone: its import, its look-ups, and the models it does not know."""

import json
import subprocess
import sys
from pathlib import Path

import anyio
import pytest

from mcp_agents.adapters.litellm_model import LitellmModel
from mcp_agents.kernel.errors import AgentsError
from tests.models.asking import LITELLM_WARNS, collect, request, user
from tests.support.provider import ScriptedProvider, Step

pytestmark = [pytest.mark.anyio, *LITELLM_WARNS]


async def test_an_unknown_provider_is_not_found(litellm_model: LitellmModel) -> None:
    """A model name that litellm cannot place is not sent anywhere."""
    with pytest.raises(AgentsError) as raised:
        await collect(litellm_model, request(user("hi"), model="nowhere-llm"))
    assert raised.value.code == "MODEL_NOT_FOUND"


async def test_many_calls_at_once_share_one_import(litellm_model: LitellmModel, twin: str) -> None:
    """The first calls of a process may come together."""
    answers: list[str] = []

    async def ask(number: int) -> None:
        _, answer = await collect(litellm_model, request(user(f"say {number}"), api_base=twin))
        answers.append(answer.text)

    async with anyio.create_task_group() as tasks:
        for number in range(20):
            tasks.start_soon(ask, number)
    assert sorted(map(int, answers)) == list(range(20))


def test_importing_the_adapter_does_not_import_litellm() -> None:
    """Who does not call a model does not pay for litellm."""
    code = "import mcp_agents.adapters.litellm_model, sys; sys.exit('litellm' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


ON_LOOPBACK_ONLY = """
import json, os, socket, sys
reached = []
def audit(event, args):
    if event in ("socket.getaddrinfo", "socket.connect", "socket.sendto"):
        host = args[0] if event == "socket.getaddrinfo" else args[1][0]
        if str(host) not in ("127.0.0.1", "::1", "localhost"):
            reached.append(str(host))
            raise OSError("only loopback in this test")
sys.addaudithook(audit)
os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "False"
import anyio
from mcp_agents.adapters.litellm_model import LitellmModel
from tests.models.asking import LITELLM_WARNS, collect, request, user
async def main():
    model = LitellmModel()
    asked = request(user("hi"), model="openai/meta-llama/llama-3-8b", api_base=sys.argv[1], timeout=90.0)
    _, answer = await collect(model, asked)
    await model.aclose()
    print(json.dumps([answer.text, reached, "LEAKED" in os.environ]))
anyio.run(main)
"""


async def test_nothing_but_the_provider_is_contacted(tmp_path: Path) -> None:
    """Import, start and a call without usage stay on loopback, and no .env file is read."""
    (tmp_path / ".env").write_text("LEAKED=1\n")
    root = str(Path(__file__).parents[2])
    async with ScriptedProvider([Step(text="here")]) as provider:
        done = await anyio.run_process(
            [sys.executable, "-c", ON_LOOPBACK_ONLY, provider.api_base],
            cwd=tmp_path,
            env={"PYTHONPATH": root, "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)},
        )
    assert json.loads(done.stdout) == ["here", [], False]
