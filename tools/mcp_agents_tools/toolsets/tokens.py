"""What a connection asks for the token of each of its requests. Made by `sign_ins`, asked by `upstream`."""

from collections.abc import Awaitable, Callable

TokenSource = Callable[[str], Awaitable[str]]
"""Gives the token to show now. Its argument is one that was just refused, or "". Raises kernel errors."""
