"""Tools, both ways: `surface` is what we offer over MCP, `toolsets` is what our agents borrow.

The two never touch each other.
"""
