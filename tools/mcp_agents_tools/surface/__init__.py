"""What the server offers over MCP: plugins of tools and resources, and the one table of their scopes.

Thin: a tool here checks its arguments, asks a room, and shapes the answer. Above: `server`, which
speaks the protocol. A third party's plugin is registered exactly as the built-in ones are.
"""
