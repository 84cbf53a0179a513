"""Binding a port before anything is built, since the public URL, and with it the issuer, follows from it."""

import socket

from mcp_agents.kernel.errors import Invalid


def listen(host: str, port: int) -> socket.socket:
    """A bound socket. Raises `Invalid` when the address is taken or not ours."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # The protocol is named because asyncio turns Nagle's algorithm off only for sockets that name it.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as cause:
        listener.close()
        raise Invalid(
            "ADDRESS_UNUSABLE",
            f"Cannot listen on {host}:{port}: {cause.strerror or cause}.",
            "Choose another port with --port, or 0 for a free one.",
        ) from cause
    listener.listen(2048)
    listener.setblocking(False)
    return listener


def url_of(host: str, port: int) -> str:
    """What a client on this machine dials to reach the address."""
    name = f"[{host}]" if ":" in host else host
    return f"http://{'127.0.0.1' if host == '0.0.0.0' else name}:{port}"  # noqa: S104  # what a client can dial
