"""`python -m mcp_agents` is the program."""

from mcp_agents.server.cli.main import main

main(prog_name="mcp-agents")
