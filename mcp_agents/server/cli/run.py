"""`run`: execute an agent on a running server, streaming to the terminal."""

from pathlib import Path

import click
import msgspec

from mcp_agents.kernel.errors import Fault, Invalid
from mcp_agents.kernel.events import Problem
from mcp_agents.server.cli.admin.acting import require_own_people
from mcp_agents.server.cli.common import config_option, err, json_option, public_url_of, runs_async, settings_of, show
from mcp_agents.server.cli.remote import Credentials, connected
from mcp_agents.server.compose import open_house


@click.command(epilog="Example: mcp-agents run assistant 'What is 2 + 2?'")
@config_option
@click.argument("agent")
@click.argument("prompt")
@click.option("--url", default="", help="The MCP URL; default: the server on the local data folder.")
@click.option(
    "--token", envvar="MCP_AGENTS_TOKEN", default="", help="A bearer token; default: made from the data folder."
)
@click.option("--tenant", default="default", show_default=True, help="The tenant, when the token is made here.")
@json_option
@runs_async
async def run(config: Path | None, agent: str, prompt: str, url: str, token: str, tenant: str, as_json: bool) -> None:
    """Execute AGENT on PROMPT and print its answer."""
    settings = settings_of(config)
    public_url = public_url_of(settings)
    if not token:
        if url and not url.startswith(public_url):
            raise Invalid("TOKEN_NEEDED", "A server elsewhere needs a token.", "Pass --token or set MCP_AGENTS_TOKEN.")
        async with open_house(settings, public_url) as house:
            require_own_people(house)
            issued = await house.auth.tokens.issue_direct(tenant)
            token = issued.access_token

    async def tell(progress: float, total: float | None, message: str | None) -> None:
        err.print(message or "", style="dim", markup=False)

    async with connected(url or f"{public_url}/mcp", Credentials(token=token)) as remote:
        result = await remote.call("agent_execute", {"agent": agent, "prompt": prompt}, tell)
        while result["status"] in ("pending", "running", "waiting"):
            result = await remote.call("execution_wait", {"execution_id": result["execution_id"]}, tell)
    if result["status"] != "completed" and not as_json:
        problem = result.get("error")
        raise msgspec.convert(problem, Problem).error() if problem else Fault("RUN_ENDED", f"It is {result['status']}.")
    show(result, as_json=as_json, text=result["text"])
