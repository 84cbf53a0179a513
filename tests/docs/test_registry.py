"""server.json, what the MCP registry is told, is valid and agrees with the distribution."""

import json
import tomllib
from typing import Any

import click
import pytest
from jsonschema import Draft7Validator
from pydantic import BaseModel

from mcp_agents.server.cli.main import main
from mcp_agents.server.config import CONFIG_ENV, ENV_PREFIX, Settings
from tests.docs.pages import ROOT

NAME = "io.github.mcp-agents/mcp-agents"


@pytest.fixture(scope="module")
def described() -> dict[str, Any]:
    """server.json."""
    found: dict[str, Any] = json.loads((ROOT / "server.json").read_text("utf-8"))
    return found


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    """[project] of pyproject.toml."""
    found: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    return found


def test_the_description_is_valid_and_a_broken_one_is_not(described: dict[str, Any]) -> None:
    """Against the registry's schema, which is the one that the file names."""
    schema = json.loads((ROOT / "tests/docs/server.schema.json").read_text("utf-8"))
    validator = Draft7Validator(schema)
    assert described["$schema"] == schema["$id"]
    assert [error.message for error in validator.iter_errors(described)] == []
    for broken in ({"name": "no namespace"}, {"description": "x" * 101}, {"packages": [{"identifier": "x"}]}):
        assert not validator.is_valid({**described, **broken})


def test_versions_and_names_agree(described: dict[str, Any], project: dict[str, Any]) -> None:
    """One version everywhere, the package's own name, and the registry's name in the README."""
    (package,) = described["packages"]
    assert described["version"] == package["version"] == project["version"]
    assert package["identifier"] == project["name"]
    assert described["name"] == NAME
    assert f"mcp-name: {NAME}" in (ROOT / "README.md").read_text("utf-8")


def test_the_arguments_start_the_stdio_server(described: dict[str, Any]) -> None:
    """They are a command of the program, and the variables are ones that it reads."""
    (package,) = described["packages"]
    assert package["transport"] == {"type": "stdio"}
    assert [each["value"] for each in package["packageArguments"]] == ["stdio"]
    assert main.get_command(click.Context(main), "stdio") is not None
    variables = {
        f"{ENV_PREFIX}{section}__{key}".upper()
        for section, value in Settings.model_validate({})
        if isinstance(value, BaseModel)
        for key in type(value).model_fields
    }
    assert {each["name"] for each in package["environmentVariables"]} <= variables | {CONFIG_ENV}


def test_uvx_finds_a_program_named_like_the_package(described: dict[str, Any], project: dict[str, Any]) -> None:
    """A client runs `uvx {identifier} {arguments}`, and uvx looks for a program of that name."""
    assert described["packages"][0]["identifier"] in project["scripts"]
