"""A fresh authorization server for each test of this folder."""

from collections.abc import AsyncIterator

import pytest

from tests.auth.desk import Desk, YieldingStore, opened
from tests.support.clock import TestClock


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """The house runs on asyncio only."""
    return "asyncio"


@pytest.fixture
def clock() -> TestClock:
    """Time as the test wants it."""
    return TestClock()


@pytest.fixture
async def desk(clock: TestClock) -> AsyncIterator[Desk]:
    """An https server with tenant `acme`, its admin Ada and a browser."""
    async with opened(YieldingStore(clock), clock) as ready:
        yield ready
