"""docs/tools.md is what the generator writes, and its examples are calls that would be accepted."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from tests.docs.pages import DOCS, text_of


@pytest.fixture(scope="module")
def generator() -> ModuleType:
    """docs/generate_tools.py as a module."""
    spec = importlib.util.spec_from_file_location("generate_tools", DOCS / "generate_tools.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_is_up_to_date(generator: ModuleType) -> None:
    """Otherwise: python docs/generate_tools.py."""
    assert text_of("tools.md") == generator.page()


def test_every_tool_has_an_example_that_its_arguments_accept(generator: ModuleType) -> None:
    """No tool without an example, no example without a tool, and each validates."""
    tools = generator.catalogue().view("all").tools
    assert set(generator.EXAMPLES) == set(tools)
    for name, arguments in generator.EXAMPLES.items():
        tools[name].arguments.model_validate(arguments)


def test_a_tool_without_an_example_stops_the_generator(generator: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its name is said."""
    monkeypatch.delitem(generator.EXAMPLES, "agent_get")
    with pytest.raises(SystemExit, match="agent_get has no example"):
        generator.page()


def test_check_fails_for_a_page_that_is_not_current(
    generator: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """`--check` writes nothing; without it the page is written and the check passes."""
    page = tmp_path / "tools.md"
    monkeypatch.setattr(generator, "PAGE", page)
    monkeypatch.setattr("sys.argv", ["generate_tools.py", "--check"])
    with pytest.raises(SystemExit, match="not up to date"):
        generator.main()
    assert not page.exists()
    monkeypatch.setattr("sys.argv", ["generate_tools.py"])
    generator.main()
    monkeypatch.setattr("sys.argv", ["generate_tools.py", "--check"])
    generator.main()
    assert page.read_text("utf-8") == text_of("tools.md")
