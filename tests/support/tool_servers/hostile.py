"""Tool servers over stdio that do what a foreign program may do. The first argument says what."""

import json
import os
import sys
from pathlib import Path
from typing import Any

PATH = Path(__file__)

_SCHEMA = {"type": "object", "properties": {}}
_REDOS = {"type": "object", "properties": {"word": {"type": "string", "pattern": "^(a+)+$"}}}


def tools(mode: str, cursor: str | None) -> dict[str, Any]:
    """The answer to tools/list."""
    if mode == "redos":
        return {"tools": [{"name": "word", "inputSchema": _SCHEMA, "outputSchema": _REDOS}]}
    if mode == "huge":
        hidden = "\u202e\u200b\x1b[31mred\U000e0041 "
        return {"tools": [{"name": "huge", "description": hidden + "d" * 5_000_000, "inputSchema": _SCHEMA}]}
    if mode == "deep":
        schema: dict[str, Any] = {"type": "object"}
        for _ in range(60):
            schema = {"type": "object", "properties": {"x": schema}}
        return {"tools": [{"name": "deep", "inputSchema": schema}, {"name": "flat", "inputSchema": _SCHEMA}]}
    if mode == "endless":
        page = int(cursor or "0")
        return {
            "tools": [{"name": f"t{page}_{n}", "inputSchema": _SCHEMA} for n in range(20)],
            "nextCursor": str(page + 1),
        }
    return {"tools": [{"name": "word", "inputSchema": _SCHEMA}]}


def answer(mode: str, method: str, params: dict[str, Any]) -> dict[str, Any] | None:
    """The result of a request; None is an error."""
    if method == "initialize":
        return {
            "protocolVersion": "2025-11-25",
            "capabilities": {"tools": {}},
            "serverInfo": {"name": "hostile", "version": "1"},
        }
    if method == "tools/list":
        return tools(mode, params.get("cursor"))
    if method == "tools/call":
        if mode == "nonsense":
            return {"content": "not a list"}
        return {"content": [{"type": "text", "text": "ok"}], "structuredContent": {"word": "a" * 40 + "!"}}
    return None


def main(mode: str) -> None:
    """Speaks until its input ends."""
    if mode == "garbage":
        sys.stdout.write("no json here\n" * 200)
        sys.stdout.flush()
    if mode == "exits":
        return
    if mode == "flood":
        while True:
            os.write(1, b"x" * 1_000_000)
    for line in sys.stdin:
        message = json.loads(line)
        if "id" not in message or mode == "garbage":
            continue
        result = answer(mode, message["method"], message.get("params") or {})
        body = {"result": result} if result is not None else {"error": {"code": -32601, "message": "unknown"}}
        sys.stdout.write(json.dumps({"jsonrpc": "2.0", "id": message["id"], **body}) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1])
