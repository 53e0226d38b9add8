"""docs/guide/errors.md tells exactly the codes that the package uses."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "flowmason_ray"
PAGE = ROOT / "docs" / "guide" / "errors.md"

CODE = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*")
REPORTERS = {"report", "_report", "problem"}
"""Functions that take a code as their first argument."""
GIVE_CODES = {"_code_and_expected", "_code_of", "_PATTERNS"}
"""Functions that return (code, …), and mappings of such."""
NO_CODES = {"code"}
"""Texts near codes that are none: the key of a mapping."""


def texts(node: ast.AST | None) -> Iterator[str]:
    """Yield the texts that an expression can be: itself, or either side of a choice."""
    match node:
        case ast.Constant(value=str(text)):
            yield text
        case ast.IfExp(body=body, orelse=other):
            yield from texts(body)
            yield from texts(other)
        case _:
            pass


def codes_in(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name)):
                for keyword in node.keywords:
                    if keyword.arg == "code":
                        yield from texts(keyword.value)
                if name in REPORTERS and node.args:
                    yield from texts(node.args[0])
            case ast.Assign(targets=[ast.Name(id="code")]) | ast.AnnAssign(target=ast.Name(id="code")):
                yield from texts(node.value)
                if isinstance(node.value, ast.Call):  # Field(default="…")
                    yield from (text for k in node.value.keywords if k.arg == "default" for text in texts(k.value))
            case ast.Assign(targets=[ast.Name(id=name)], value=ast.Dict(values=values)) if name in GIVE_CODES:
                for value in values:
                    if isinstance(value, ast.Tuple):
                        yield from texts(value.elts[0])
            case ast.FunctionDef(name=name) if name in GIVE_CODES:
                for inner in ast.walk(node):
                    if isinstance(inner, ast.Return) and isinstance(inner.value, ast.Tuple):
                        yield from texts(inner.value.elts[0])
            case _:
                pass


def used() -> set[str]:
    """Return every code in the package; what simulates failures is left out."""
    files = (f for f in PACKAGE.rglob("*.py") if "testing" not in f.relative_to(PACKAGE).parts)
    found = {code for file in files for code in codes_in(ast.parse(file.read_text(encoding="utf-8")))}
    return {code for code in found - NO_CODES if CODE.fullmatch(code)}


def told() -> list[str]:
    rows = re.findall(r"^\| (`.*?) \|", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    return [code for row in rows for code in re.findall(r"`([a-z0-9_]+)`", row)]


def test_the_page_tells_every_code_and_no_other() -> None:
    assert (sorted(used() - set(told())), sorted(set(told()) - used())) == ([], [])


def test_the_page_tells_each_code_once() -> None:
    codes = told()
    assert sorted(code for code in set(codes) if codes.count(code) > 1) == []
