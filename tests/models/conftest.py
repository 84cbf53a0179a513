"""Fixtures of the model tests: the client under test, and helpers to ask it."""

from collections.abc import AsyncIterator

import pytest

from mcp_agents.adapters.litellm_model import LitellmModel


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
