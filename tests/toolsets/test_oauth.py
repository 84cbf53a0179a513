"""What an authorization server can do to us as its client, beyond answering."""

import anyio
import pytest
from mcp_agents_tools.toolsets.oauth import OauthClient, Place, Registered, UnreachableError

from mcp_agents.security.egress import AddressRule
from tests.support.tool_servers.served import Receive, Scope, Send, served


async def dripping(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers a byte at a time, for as long as anybody listens; no read of it ever times out."""
    if scope["type"] != "http":
        return
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]})
    async with anyio.create_task_group() as both:

        async def until_gone() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass
            both.cancel_scope.cancel()

        both.start_soon(until_gone)
        while True:
            await send({"type": "http.response.body", "body": b" ", "more_body": True})
            await anyio.sleep(0.01)


@pytest.mark.parametrize("what", ["discover", "register", "tokens"])
async def test_who_drips_holds_nobody_up(what: str) -> None:
    """Patience is for the whole answer: a byte now and then earns no more of it."""
    client = OauthClient(AddressRule(allow_private=True), patience=0.2)
    async with served(dripping, lifespan="off") as port:
        url = f"http://127.0.0.1:{port}"
        place = Place(issuer=url, token_endpoint=url, resource=url, registration_endpoint=url)
        asks = {
            "discover": lambda: client.discover(f"{url}/mcp"),
            "register": lambda: client.register(place, "http://127.0.0.1/back"),
            "tokens": lambda: client.tokens(place, Registered(client_id="us"), {}),
        }
        with anyio.fail_after(20), pytest.raises(UnreachableError):
            await asks[what]()
