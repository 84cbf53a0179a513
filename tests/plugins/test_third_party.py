"""A third party's package, built and installed by pip into a folder, inside a real `mcp-agents serve`."""

import ensurepip
import json
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import anyio
import pytest
from mcp.client.client import Client
from mcp.shared.exceptions import MCPError
from mcp.shared.subscriptions import ResourceUpdated
from mcp_types import PromptReference, ResourceTemplateReference

from tests.listening.programs import administered, called, client, program

pytestmark = pytest.mark.anyio

ROSTER = Path(__file__).with_name("roster")


@dataclass(frozen=True)
class Site:
    """A running program that has the plugin."""

    url: str
    folder: Path

    async def token(self, tenant: str, *scopes: str) -> str:
        """A token, with all of a tenant's scopes or the ones that are named."""
        asked = ("--scope", " ".join(scopes)) if scopes else ()
        return str((await administered(self.folder, "token", "--tenant", tenant, *asked))["access_token"])


@pytest.fixture(scope="module")
async def site(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Site]:
    """The program, and two tenants."""
    folder = tmp_path_factory.mktemp("third")
    shutil.copytree(ROSTER, folder / "source")
    (pip,) = (Path(ensurepip.__file__).parent / "_bundled").glob("pip-*.whl")
    command = [sys.executable, str(pip / "pip"), "install", "--quiet", "--disable-pip-version-check", "--no-index"]
    command += ["--no-deps", "--no-build-isolation", "--target", str(folder / "site"), str(folder / "source")]
    await anyio.to_thread.run_sync(lambda: subprocess.run(command, check=True, timeout=120))
    async with program(folder, path=folder / "site") as (_, url):
        await administered(folder, "tenant", "create", "other")
        yield Site(url, folder)


async def test_its_tool_resource_and_prompt_are_there_for_those_who_may(site: Site) -> None:
    """Listed, called, completed and listened to like the house's own, on the path that is named after it."""
    token = await site.token("default")
    async with client(site.url, token) as house, client(site.url, token, "/mcp/roster") as roster:
        draft = {"name": "gardener", "description": "Waters plants.", "virtual_model": "rule-based", "tags": ["green"]}
        agent = await called(house, "agent_create", draft)
        assert [tool.name for tool in (await roster.list_tools()).tools] == ["roster_count"]
        assert "roster_count" in {tool.name for tool in (await house.list_tools()).tools}
        assert await called(roster, "roster_count", {"tag": "green"}) == {"agents": 1}
        assert [str(each.uri) for each in (await roster.list_resources()).resources] == ["roster://agents/gardener"]
        templates = (await roster.list_resource_templates()).resource_templates
        assert [template.uri_template for template in templates] == ["roster://agents/{name}"]
        assert (await read(roster))["about"] == "Waters plants."
        assert [prompt.name for prompt in (await roster.list_prompts()).prompts] == ["introduce_agent"]
        shown = await roster.get_prompt("introduce_agent", {"name": "gardener"})
        assert "Waters plants." in shown.messages[0].content.text
        template = ResourceTemplateReference(type="ref/resource", uri="roster://agents/{name}")
        for reference in (PromptReference(type="ref/prompt", name="introduce_agent"), template):
            found = await roster.complete(reference, {"name": "name", "value": "gar"})
            assert found.completion.values == ["gardener"]
        async with roster.listen(resource_subscriptions=["roster://agents/gardener"]) as sub:
            await called(house, "agent_update", {"agent": agent["id"], "description": "Prunes roses."})
            with anyio.fail_after(10):
                assert await anext(aiter(sub)) == ResourceUpdated("roster://agents/gardener")
        assert (await read(roster))["about"] == "Prunes roses."


async def test_another_tenant_finds_nothing_of_it(site: Site) -> None:
    """Its code sees only the caller's space."""
    async with client(site.url, await site.token("default")) as house:
        await called(house, "agent_create", {"name": "keeper", "virtual_model": "rule-based"})
    async with client(site.url, await site.token("other"), "/mcp/roster") as roster:
        assert await called(roster, "roster_count", {}) == {"agents": 0}
        assert (await roster.list_resources()).resources == []
        with pytest.raises(MCPError, match="Resource not found"):
            await roster.read_resource("roster://agents/keeper")
        with pytest.raises(MCPError, match="AGENT_UNKNOWN"):
            await roster.get_prompt("introduce_agent", {"name": "keeper"})


async def test_without_its_scope_it_is_not_there(site: Site) -> None:
    """A token with other scopes lists nothing of it and is sent to step up when it tries."""
    async with client(site.url, await site.token("default", "agents:read"), "/mcp/all") as house:
        assert "roster_count" not in {tool.name for tool in (await house.list_tools()).tools}
        assert "introduce_agent" not in {prompt.name for prompt in (await house.list_prompts()).prompts}
        templates = (await house.list_resource_templates()).resource_templates
        assert "roster://agents/{name}" not in {template.uri_template for template in templates}
        with pytest.raises(MCPError):
            await house.call_tool("roster_count", {})


async def read(roster: Client) -> dict[str, str]:
    """The entry of the gardener."""
    contents = (await roster.read_resource("roster://agents/gardener")).contents[0]
    body: dict[str, str] = json.loads(contents.text)
    return body
