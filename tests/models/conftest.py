"""Fixtures of the model tests: the clients under test, and the rule-based model's twin to ask."""

import subprocess
import sys
from collections.abc import AsyncIterator, Iterator

import pytest

from mcp_agents.adapters.litellm_model import LitellmModel
from mcp_agents.adapters.openai_wire_model import OpenaiWireModel
from mcp_agents.kernel.model import Model


@pytest.fixture
def anyio_backend() -> str:
    """The house runs on asyncio only."""
    return "asyncio"


@pytest.fixture
async def litellm_model() -> AsyncIterator[LitellmModel]:
    """litellm behind the port, its connections closed at the end."""
    model = LitellmModel()
    yield model
    await model.aclose()


@pytest.fixture
async def wire_model() -> AsyncIterator[OpenaiWireModel]:
    """The direct client behind the port, its connections closed at the end."""
    model = OpenaiWireModel()
    yield model
    await model.aclose()


@pytest.fixture(params=["litellm", "openai"])
async def model(request: pytest.FixtureRequest) -> AsyncIterator[Model]:
    """Each client of a chat-completions endpoint in turn."""
    client = LitellmModel() if request.param == "litellm" else OpenaiWireModel()
    yield client
    await client.aclose()


@pytest.fixture(scope="module")
def twin() -> Iterator[str]:
    """The address of the rule-based model's twin, in a process of its own."""
    command = [sys.executable, "-m", "mcp_agents.adapters.rule_model_http", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("rule-based model listening on http://127.0.0.1:")
        yield line.split()[-1]
        process.terminate()
