"""Which client a configured model is called through."""

import pytest

from mcp_agents.server.compose import _configured
from mcp_agents.server.config import Settings


@pytest.mark.parametrize(
    ("model", "wire", "used"),
    [
        ("openai/gpt-5-mini", "", "openai"),
        ("openai/gpt-5-mini", "litellm", "litellm"),
        ("openai/gpt-5-mini", "openai", "openai"),
        ("llama3.1", "openai", "openai"),
        ("anthropic/claude-sonnet-4-5", "", "litellm"),
        ("openai", "", "litellm"),
        ("rule-based", "", "rule"),
        ("rule-based", "openai", "rule"),
    ],
)
def test_a_model_is_called_through_its_wire(model: str, wire: str, used: str) -> None:
    """The setting decides; without it the direct client takes OpenAI's models."""
    settings = Settings.model_validate({"models": [{"name": "m", "litellm_model": model, "wire": wire}]})
    assert [_configured(each).wire for each in settings.models] == [used]
