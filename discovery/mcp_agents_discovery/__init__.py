"""How agents are found and how they present themselves.

Today the card an agent shows as an MCP server of its own; the directory builds on it.
"""
