"""What plays our agents' hands in the suite's scenarios for clients: the product's own rooms, in a process apart.

The suite starts it with the address of a server. It adds that server as a person would, signs in at its authorization
server (the suite's says yes at once), lists its tools and calls them. How it ends does not matter; what the suite saw
does.
"""

import json
import os
import sys
from contextlib import suppress
from dataclasses import replace
from typing import Any, cast

import anyio
import httpx2
from mcp_agents_auth.embedded import build_auth
from mcp_agents_tools.toolsets.credentials import Credentials
from mcp_agents_tools.toolsets.hub import UpstreamHub
from mcp_agents_tools.toolsets.oauth import OauthClient
from mcp_agents_tools.toolsets.servers import StoredToolServers
from mcp_agents_tools.toolsets.sign_ins import SignIns
from mcp_agents_tools.toolsets.toolbox import UpstreamToolsets

from mcp_agents.adapters.memory_store import MemoryStore
from mcp_agents.kernel import ids
from mcp_agents.kernel.clock import SystemClock
from mcp_agents.kernel.errors import AgentsError
from mcp_agents.kernel.faults import NoFaults
from mcp_agents.kernel.principal import Principal
from mcp_agents.kernel.scopes import TENANT_SCOPES
from mcp_agents.kernel.tenancy import Doors, Tenancy
from mcp_agents.kernel.toolserver import ToolServerSpec, UpstreamAuth
from mcp_agents.kernel.toolset import Invocation, Refused
from mcp_agents.security.egress import AddressRule
from mcp_agents.security.keys import MasterKey, Vault
from mcp_agents.security.secrets import TenantSecrets

_SIGN_INS = 2
"""Where a call was refused, a person signs in once more."""
HOME = "http://127.0.0.1:1"
DOCUMENT = "https://conformance-test.local/client-metadata.json"
"""The only one that the suite knows."""


async def main(url: str) -> None:
    """Plays the scenario of the environment against a server."""
    scenario = os.environ.get("MCP_CONFORMANCE_SCENARIO", "")
    context: dict[str, Any] = json.loads(os.environ.get("MCP_CONFORMANCE_CONTEXT", "{}"))
    clock, shut = SystemClock(), cast(Any, None)
    tenancy = Tenancy(Doors(MemoryStore(clock), shut, shut, shut, shut, clock, NoFaults()))
    vault = Vault(MasterKey(b"c" * 32))
    auth = build_auth(tenancy.platform(), vault, clock, HOME, f"{HOME}/mcp")
    secrets, rule = TenantSecrets(vault, clock), AddressRule(allow_private=True)
    oauth = OauthClient(rule)
    sign_ins = SignIns(Credentials(secrets, oauth, clock), oauth, auth.identities, secrets, clock, HOME, DOCUMENT)
    person = Principal(tenant="acme", subject=ids.mint("us", clock), scopes=TENANT_SCOPES)
    space = tenancy.of(person)
    async with UpstreamHub(rule, clock=clock) as hub:
        servers = StoredToolServers(hub, secrets, sign_ins, clock, stdio="off")
        sign_in = _auth(scenario, context)
        if sign_in.client_secret:  # the person knows where the client was registered
            sign_in = replace(sign_in, issuer=(await oauth.discover(url)).issuer)
        await servers.add(space, person, ToolServerSpec(name="suite", transport="http", url=url, auth=sign_in))
        toolsets = UpstreamToolsets(hub, servers)
        for _ in range(_SIGN_INS):
            if sign_in.type == "authorization_code":
                begun = await servers.authorize(space, person, "suite", remove=False)
                handle = begun.url.partition("flow=acme.")[2]
                flow = await sign_ins.find(space, handle, person.subject)
                assert flow is not None
                query = await _agreed(await sign_ins.leads_to(space, handle, flow))
                await sign_ins.finish(space, handle, flow, query.get("code", ""), query.get("iss", ""))
                with suppress(AgentsError):
                    await servers.refresh(space, person, "suite")
            async with toolsets.open(space, person.acting("ag_1"), ("suite/*",)) as toolset:
                said = [await toolset.call(_call(tool.name)) for tool in toolset.tools]
            if said and not any(isinstance(each, Refused) for each in said):
                return


def _call(tool: str) -> Invocation:
    return Invocation(effect_id="eff_1", tool=tool, arguments={}, execution_id="ex_1", traceparent="", timeout=10)


def _auth(scenario: str, context: dict[str, Any]) -> UpstreamAuth:
    known = {name: str(context.get(name, "")) for name in ("client_id", "client_secret")}
    if scenario.startswith("auth/client-credentials"):
        return UpstreamAuth(type="client_credentials", **known)
    if scenario.startswith("auth/"):
        return UpstreamAuth(type="authorization_code", **known)
    return UpstreamAuth()


async def _agreed(address: str) -> dict[str, str]:
    """What the browser brings back."""
    async with httpx2.AsyncClient(trust_env=False) as http:
        answer = await http.get(address)
    return dict(httpx2.URL(answer.headers["location"]).params)


if __name__ == "__main__":
    with suppress(AgentsError):
        anyio.run(main, sys.argv[-1])
