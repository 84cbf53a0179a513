"""The plugin of docs/plugins.md, installed exactly as the page has it, works in a real server."""

import os
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import anyio
import pytest
from mcp.client.client import Client
from mcp.client.stdio import StdioServerParameters
from mcp_agents_tools.surface.catalogue import ENTRY_POINTS, Catalogue
from mcp_agents_tools.surface.plugin import Plugin

from mcp_agents.kernel.errors import Invalid
from mcp_agents.kernel.scopes import TENANT_SCOPES
from tests.docs.pages import blocks, text_of

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    """The page's pyproject.toml."""
    (text,) = blocks(text_of("plugins.md"), "toml")
    return tomllib.loads(text)["project"]


@pytest.fixture(scope="module")
def source() -> str:
    """The page's module."""
    (text,) = blocks(text_of("plugins.md"), "python")
    return text


@pytest.fixture
def site(tmp_path: Path, project: dict[str, Any], source: str) -> Path:
    """A folder that holds the distribution as an installer would leave it there."""
    folder = tmp_path / "site"
    (entry,) = project["entry-points"][ENTRY_POINTS].values()
    information = folder / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    files = {
        folder / f"{entry.partition(':')[0]}.py": source,
        information / "METADATA": f"Metadata-Version: 2.4\nName: {project['name']}\nVersion: {project['version']}\n",
        information / "INSTALLER": "test\n",
        information / "entry_points.txt": "".join(
            f"[{group}]\n" + "".join(f"{name} = {value}\n" for name, value in points.items())
            for group, points in project["entry-points"].items()
        ),
    }
    information.mkdir(parents=True)
    for path, text in files.items():
        path.write_text(text, "utf-8")
    record = [f"{path.relative_to(folder).as_posix()},," for path in (*files, information / "RECORD")]
    (information / "RECORD").write_text("\n".join(record) + "\n", "utf-8")
    return folder


async def test_a_server_lists_and_calls_the_tool_of_an_installed_plugin(site: Path, tmp_path: Path) -> None:
    """Over stdio, through the official client, on the tenant's own agents."""
    parameters = StdioServerParameters(
        command=sys.executable,
        args=["-m", "mcp_agents.server.cli", "stdio"],
        env={"MCP_AGENTS_SERVER__DATA_DIR": str(tmp_path / "data"), "PYTHONPATH": str(site)},
    )
    with anyio.fail_after(60):
        async with Client(parameters) as client:
            tools = {tool.name: tool for tool in (await client.list_tools()).tools}
            census = tools["agent_census"]
            assert census.description == "Counts the tenant's agents, and those that are switched on."
            assert census.annotations is not None
            assert census.annotations.read_only_hint
            for name, tags in (("one", ["blue"]), ("two", ["blue", "red"]), ("three", [])):
                await client.call_tool("agent_create", {"name": name, "tags": tags})
            await client.call_tool("agent_set_active", {"agent": "two", "active": False})
            every = await client.call_tool("agent_census", {})
            assert every.structured_content == {"agents": 3, "active": 2}
            blue = await client.call_tool("agent_census", {"tag": "blue"})
            assert blue.structured_content == {"agents": 2, "active": 1}
            refused = await client.call_tool("agent_census", {"tga": "blue"})
            assert refused.is_error
            assert "tga" in refused.content[0].text


def test_the_plugin_has_a_path_of_its_own_and_leaves_the_short_list_alone(site: Path) -> None:
    """`/mcp/census` and `/mcp/all` show it, `/mcp` does not."""
    script = (
        "from mcp_agents_tools.surface.catalogue import Catalogue\n"
        "seen = {view: 'agent_census' in Catalogue.installed().view(view).tools for view in ('', 'all', 'census')}\n"
        "assert seen == {'': False, 'all': True, 'census': True}, seen\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(site)}
    subprocess.run([sys.executable, "-c", script], env=environment, check=True, timeout=60)


def test_what_the_page_says_of_names_and_scopes_is_so(source: str) -> None:
    """A name that is taken and a tool without a scope stop the catalogue; the page's scope can be granted."""
    names: dict[str, Any] = {"__name__": "plugin_of_the_page"}
    exec(source, names)
    plugin: Plugin = names["plugin"]
    assert set(plugin.scopes.values()) <= TENANT_SCOPES
    with pytest.raises(Invalid) as clash:
        Catalogue([plugin, plugin])
    assert clash.value.code == "PLUGIN_CLASH"
    bare = Plugin("bare", title="Bare", scopes={})
    bare.tools = plugin.tools
    with pytest.raises(Invalid) as scopeless:
        Catalogue([bare])
    assert scopeless.value.code == "PLUGIN_SCOPES"
