"""`python -m mcp_agents.server.cli` is the program, for those who start it as a module."""

from mcp_agents.server.cli.main import main

main(prog_name="mcp-agents")
