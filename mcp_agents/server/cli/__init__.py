"""The program `mcp-agents`: one module per group of commands, `main` joins them."""
