"""What our agents borrow: the tools of other MCP servers, over stdio and Streamable HTTP.

Fills the kernel's `Toolsets` port. Upstream servers are treated as hostile: bounded, never evaluated,
never given the caller's token.
"""
