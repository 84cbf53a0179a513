"""docs/settings.md names every setting with its default and its variable, and no other."""

import json
from typing import Any

import pytest
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from mcp_agents.server.config import ENV_PREFIX, IdentityProviderSettings, ModelSettings, Settings, load
from tests.docs.pages import rows, section, text_of

SECTIONS = {
    name: field.annotation
    for name, field in Settings.model_fields.items()
    if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)
}


def shown(value: Any) -> str:
    """A default as the page writes it."""
    if value is PydanticUndefined:
        return "required"
    return "absent" if value is None else json.dumps(value)


def table(title: str) -> list[tuple[str, ...]]:
    """The rows of one section without its head."""
    return list(rows(section(text_of("settings.md"), title)))[1:]


@pytest.mark.parametrize("name", SECTIONS)
def test_a_section_has_each_key_with_its_default_and_variable(name: str) -> None:
    """No key is missing, none is extra, and the defaults are those of the code."""
    model = SECTIONS[name]
    assert model is not None
    expected = [
        (key, shown(field.default), f"{ENV_PREFIX}{name}__{key}".upper())
        for key, field in model.model_fields.items()
        if (name, key) != ("auth", "identity_providers")  # a list of tables, with one of its own
    ]
    assert [row[:3] for row in table(f"`[{name}]`")] == expected


@pytest.mark.parametrize(
    ("name", "model"), [("models", ModelSettings), ("auth.identity_providers", IdentityProviderSettings)]
)
def test_an_entry_of_a_list_has_each_key_with_its_default(name: str, model: type[BaseModel]) -> None:
    """The keys of an entry are those of the code."""
    expected = [(key, shown(field.default)) for key, field in model.model_fields.items()]
    assert [row[:2] for row in table(f"`[[{name}]]`")] == expected


def test_every_section_is_on_the_page() -> None:
    """What is neither a section nor the list of models has a table of its own."""
    assert set(Settings.model_fields) == {*SECTIONS, "models", "virtual_models", "clients"}
    assert [row[0] for row in table("`[clients]`")] == ["clients"]
    assert [row[0] for row in table("`[virtual_models]`")] == ["virtual_models"]


def test_a_virtual_model_can_be_set_by_the_variable_that_the_page_names() -> None:
    """Names are separated by commas."""
    settings = load(environ={"MCP_AGENTS_VIRTUAL_MODELS__QUICK": "fast, small"})
    assert settings.virtual_models == {"quick": ("fast", "small")}


def test_a_clients_patience_can_be_set_by_the_variable_that_the_page_names() -> None:
    """A variable has no hyphens; names are compared without them."""
    assert load(environ={"MCP_AGENTS_CLIENTS__CLAUDE_CODE": "100"}).clients == {"claude_code": 100.0}
