"""Which resources (RFC 8707) tokens are issued for, and which audiences are ours.

Every mounted MCP path is a resource of its own; a token for one of them is good for all of them, because they
are one tenant's view of one server. Pure text comparison, no normalising: `MCP.EXAMPLE` is somebody else.
"""

import re
from dataclasses import dataclass
from typing import Final

_SEGMENTS: Final = re.compile(r"(?:/[A-Za-z0-9_+~-][A-Za-z0-9_+.~-]{0,127}){1,8}")


@dataclass(frozen=True, slots=True)
class Resources:
    """`default` is the MCP URL, such as `https://host/mcp`, without a trailing slash."""

    default: str

    def accepts(self, url: str) -> bool:
        """Whether `url` is the MCP URL or a path under it; no query, fragment, dot segment or escape."""
        if url == self.default:
            return True
        return url.startswith(self.default) and _SEGMENTS.fullmatch(url[len(self.default) :]) is not None
