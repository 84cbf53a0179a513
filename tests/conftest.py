"""What every test may use: asyncio, one real NATS server for the whole run, and a clock that tests own."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from mcp_agents.adapters.nats_embedded import EmbeddedOptions, embedded
from mcp_agents.adapters.nats_link import Endpoint, NatsLink, connect
from tests.support.clock import TestClock


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """nats-py is asyncio, so everything is."""
    return "asyncio"


@pytest.fixture(scope="session")
async def nats(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Endpoint]:
    """A real embedded NATS server, full sync and encryption included."""
    folder: Path = tmp_path_factory.mktemp("data") / "nats"
    async with embedded(EmbeddedOptions(folder=folder, key=b"k" * 32, key_id="test")) as endpoint:
        yield endpoint


@pytest.fixture
async def link(nats: Endpoint) -> AsyncIterator[NatsLink]:
    """A connection of one test's own."""
    async with connect(nats, "test") as opened:
        yield opened


@pytest.fixture
def clock() -> TestClock:
    """Time as the test wants it."""
    return TestClock()
