"""Finds every error code that the source can say, by reading its syntax.

A code is the first argument of one of the eight kinds, the `code` of a tool outcome, or stands in one of the
few tables and pairs from which a code is taken. Where a kind is made of something else, `dynamic` counts it,
so that a new way to make one is noticed.
"""

import ast
import re
from collections import Counter
from pathlib import Path

from mcp_agents.kernel.errors import KINDS
from tests.docs.pages import ROOT

SOURCES = ("mcp_agents", "tools/mcp_agents_tools", "auth/mcp_agents_auth", "discovery/mcp_agents_discovery")
OUTCOMES = {"Refused", "Broken"}
PAIRS = {"_UNSENT_SAYS": "Refused", "_BROKEN_SAYS": "Broken", "objection": "Refused"}
"""Names under which (code, message) pairs stand, and what is made of them."""

_CODE = re.compile(r"[A-Z][A-Z0-9]*(_[A-Z0-9]+)*")


class Codes:
    """What was found: (kind, code) pairs, and per file how often a code is not a literal."""

    def __init__(self) -> None:
        self.said: set[tuple[str, str]] = set()
        self.dynamic: Counter[str] = Counter()
        for folder in SOURCES:
            for path in sorted((ROOT / folder).rglob("*.py")):
                self._read(path)

    def _read(self, path: Path) -> None:
        tree = ast.parse(path.read_text("utf-8"))
        kinds = dict(_imported(tree))
        for node in ast.walk(tree):
            match node:
                case ast.Call(func=ast.Name(id=name)) if name in kinds:
                    self._made(node, kinds[name], str(path.relative_to(ROOT)))
                case ast.Call(func=ast.Name(id="ToolFailed" | "_failed")):
                    self._ended(node)
                case ast.Dict():
                    self._table(node, kinds)
                case ast.AnnAssign(target=ast.Name(id=name), value=ast.AST() as value) if name in PAIRS:
                    self._pairs(value, PAIRS[name])
                case ast.FunctionDef(name=name) if name in PAIRS:
                    self._pairs(node, PAIRS[name])

    def _made(self, call: ast.Call, kind: str, path: str) -> None:
        given = [each.value for each in call.keywords if each.arg == "code"] or call.args[:1]
        match given[0]:
            case ast.Constant(value=str(code)):
                self.said.add((kind, code))
            case ast.Call(func=ast.Attribute(attr="get"), args=[_, ast.Constant(value=str(code))]):
                self.said.add((kind, code))
            case _:
                self.dynamic[path] += 1

    def _ended(self, call: ast.Call) -> None:
        """A tool call that the house itself ends as refused."""
        for keyword in call.keywords:
            match keyword:
                case ast.keyword(arg="code", value=ast.Constant(value=str(code))):
                    self.said.add(("Refused", code))

    def _table(self, table: ast.Dict, kinds: dict[str, str]) -> None:
        for key, value in zip(table.keys, table.values, strict=True):
            match key, value:
                case ast.Constant(value=str(code)), ast.Tuple(elts=[ast.Name(id=name), *_]) if name in kinds:
                    self.said.add((kinds[name], code))

    def _pairs(self, tree: ast.AST, kind: str) -> None:
        for node in ast.walk(tree):
            match node:
                case ast.Tuple(elts=[ast.Constant(value=str(code)), _]) if _CODE.fullmatch(code):
                    self.said.add((kind, code))


def _imported(tree: ast.Module) -> list[tuple[str, str]]:
    """Local names of the kinds and the outcomes, however they were imported."""
    return [
        (alias.asname or alias.name, alias.name)
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
        if (node.module == "mcp_agents.kernel.errors" and alias.name in KINDS)
        or (node.module == "mcp_agents.kernel.toolset" and alias.name in OUTCOMES)
    ]
