"""What each role may do: every tool, resource and prompt that the server lists, asked for with a token of every role.

The table here is written by hand and knows areas and verbs only; which of them a tool needs is the surface's table.
"""

from collections.abc import AsyncIterator

import pytest

from mcp_agents.kernel.scopes import AREAS, ROLES, TENANT_SCOPES
from tests.hostile.wire import Wire
from tests.tenancy.world import World, world

pytestmark = pytest.mark.anyio

READ = {f"{area}:read" for area in AREAS} - {"audit:read", "governance:read"}
RUN = {f"{area}:run" for area in AREAS}
WRITE = {f"{area}:write" for area in AREAS} - {"tenancy:write", "governance:write", "audit:write"}
MAY = {
    "viewer": READ,
    "operator": READ | RUN,
    "developer": READ | RUN | WRITE,
    "admin": READ | RUN | WRITE | set(TENANT_SCOPES),
    "auditor": READ | {"audit:read", "governance:read"},
}


@pytest.fixture(scope="module")
async def there(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    """A served house."""
    async with world(tmp_path_factory.mktemp("roles")) as opened:
        yield opened


async def with_role(there: World, role: str) -> Wire:
    """The wire of somebody in a new tenant who holds exactly this role."""
    tenant = await there.tenant()
    tokens = there.served.house.auth.tokens
    token = (await tokens.issue_direct(tenant.name, frozenset(ROLES[role]))).access_token
    return Wire(there.http, there.served.url, token)


@pytest.mark.parametrize("role", ROLES)
async def test_a_role_may_use_exactly_the_tools_of_its_scopes(there: World, role: str) -> None:
    """Everything else is refused before its arguments are looked at, with the scope to ask for; nothing is listed."""
    catalogue = there.served.house.catalogue
    everything = catalogue.view("all")
    assert everything is not None
    me, allowed, refused = await with_role(there, role), 0, 0
    listed = {tool["name"] for tool in await me.listed("tools/list", "tools")}
    for name in everything.tools:
        scope = catalogue.scopes[name]
        answered = await me.call(name, {})
        if scope in MAY[role]:
            assert answered.status != 403, name
            allowed += 1
        else:
            assert answered.status == 403, name
            assert 'error="insufficient_scope"' in answered.challenge
            assert scope in answered.challenge
            refused += 1
        assert (name in listed) == (scope in MAY[role]), name
    assert allowed + refused == len(everything.tools)
    assert allowed
    assert bool(refused) == (role != "admin")


@pytest.mark.parametrize("role", ROLES)
async def test_a_role_sees_exactly_the_resources_and_prompts_of_its_scopes(there: World, role: str) -> None:
    """As with tools."""
    catalogue = there.served.house.catalogue
    everything = catalogue.view("all")
    assert everything is not None
    me = await with_role(there, role)
    templates = {each["uriTemplate"] for each in await me.listed("resources/templates/list", "resourceTemplates")}
    fixed = {each["uri"] for each in await me.listed("resources/list", "resources")}
    prompts = {each["name"] for each in await me.listed("prompts/list", "prompts")}
    for template in everything.resources:
        assert (template in templates | fixed) == (catalogue.scopes[template] in MAY[role]), template
    for prompt in everything.prompts:
        assert (prompt in prompts) == (catalogue.scopes[prompt] in MAY[role]), prompt


def test_no_role_is_forgotten() -> None:
    """A role that somebody adds gets a line here."""
    assert MAY.keys() == ROLES.keys()
    assert {role: set(scopes) for role, scopes in ROLES.items()} == MAY


async def test_what_administers_says_what_the_trail_shows_of_it(there: World) -> None:
    """Every tool that changes something with an administrator's right names the fields that are written down, or has
    none to name; and none of them is one that holds a secret."""
    catalogue = there.served.house.catalogue
    everything = catalogue.view("all")
    assert everything is not None
    administering = [tool for tool in everything.tools.values() if catalogue.written_down(tool)]
    assert len(administering) > 10
    for tool in administering:
        assert tool.arguments.noted, tool.name
        assert set(tool.arguments.noted) <= set(tool.arguments.model_fields), tool.name
        assert not {"key", "keys", "token", "secret", "password", "email"} & set(tool.arguments.noted), tool.name
