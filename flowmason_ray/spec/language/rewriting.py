"""Older spellings of references, rewritten in place: `upstream.x.y`, `stages.x.output.y` and `x.output.y` → `stages.x.y`.

The text around stays as it is, byte for byte: the rewriting works on the offsets of the lexer's tokens. What cannot be read
as an expression is left alone; parsing it is what reports the error. `.output` stays where it means something: at the end,
and before an output's own `output`, `status` or `error`.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any, cast

from flowmason_ray.spec.language.scanning import spans
from flowmason_ray.spec.language.syntax import ExpressionSyntaxError, Lexeme, lexemes, unescape

_ROOTS = frozenset({"input", "stages", "upstream", "vars", "context", "env", "secrets"})
_ASPECTS = frozenset({"output", "status", "error"})
_DASHED_ID = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(?:-+[A-Za-z0-9_]+)*")

Edit = tuple[int, int, str]
"""Replace `source[start:end]` by a text."""


def rewrite_references(source_value: Any, known_stages: Collection[str]) -> Any:
    """Return the JSON value with the references of all its templates in their canonical spelling.

    `known_stages` are the ids that a bare `x.output` may mean; leave out those that a loop variable shadows. Parts in which
    nothing changes are the same objects.
    """
    if isinstance(source_value, str):
        return _rewrite_text(source_value, known_stages)
    if isinstance(source_value, list):
        old_list = cast("list[Any]", source_value)
        new_list = [rewrite_references(v, known_stages) for v in old_list]
        return new_list if any(a is not b for a, b in zip(old_list, new_list, strict=True)) else old_list
    if isinstance(source_value, dict):
        old = cast("dict[str, Any]", source_value)
        new = {k: rewrite_references(v, known_stages) for k, v in old.items()}
        return new if any(new[k] is not v for k, v in old.items()) else old
    return source_value


def _rewrite_text(text: str, known_stages: Collection[str]) -> str:
    if "{{" not in text:
        return text
    try:
        found = spans(text)
    except ExpressionSyntaxError:
        return text
    for span in reversed(found):
        old = text[span.inner_start : span.inner_end]
        new = rewrite_expression(old, known_stages)
        if new != old:
            text = text[: span.inner_start] + new + text[span.inner_end :]
    return text


def rewrite_expression(source: str, known_stages: Collection[str]) -> str:
    """Return an expression (without braces, or wholly in them) with its references in their canonical spelling."""
    if source.lstrip().startswith("{{"):
        return _rewrite_text(source, known_stages)
    try:
        tokens = lexemes(source)
    except ExpressionSyntaxError:
        return source
    edits: list[Edit] = []
    for index, token in enumerate(tokens):
        if token.kind == "name" and starts_path(tokens, index):
            edits += _edits(source, tokens, index, known_stages)
    for start, end, text in reversed(edits):
        source = source[:start] + text + source[end:]
    return source


def starts_path(tokens: list[Lexeme], index: int) -> bool:
    """Tell whether the name is a root: no member, filter or test."""
    if index == 0:
        return True
    before = tokens[index - 1]
    if before.kind == "operator":
        return before.text not in (".", "|")
    if before.text == "is":
        return False
    return not (before.text == "not" and index > 1 and tokens[index - 2].text == "is")


def _edits(source: str, tokens: list[Lexeme], index: int, known_stages: Collection[str]) -> list[Edit]:
    token = tokens[index]
    if token.text in ("stages", "upstream"):
        after = _after_member(tokens, index + 1)
        if after is None:
            return []
        edits: list[Edit] = [(token.start, token.end, "stages")] if token.text == "upstream" else []
        return edits + _drop_output(tokens, after)
    run = _DASHED_ID.match(source, token.start)
    assert run is not None or not token.text.isascii()
    stage, end = (run[0], run.end()) if run else (token.text, token.end)
    if stage not in known_stages:
        stage, end = token.text, token.end
    after = next((i for i in range(index, len(tokens)) if tokens[i].start >= end), len(tokens))
    if stage not in known_stages or stage in _ROOTS or not _is_output(tokens, after):
        return []
    return [(token.start, token.start, "stages."), *_drop_output(tokens, after)]


def _is_output(tokens: list[Lexeme], index: int) -> bool:
    return [t.text for t in tokens[index : index + 2]] == [".", "output"]


def _drop_output(tokens: list[Lexeme], index: int) -> list[Edit]:
    """Return the edit that removes `.output` at the index, when a static key follows that means the same without it."""
    if not _is_output(tokens, index):
        return []
    key, after = static_key(tokens, index + 2)
    is_call = after is not None and after < len(tokens) and tokens[after].text == "("
    if key is None or key in _ASPECTS or is_call:
        return []
    return [(tokens[index].start, tokens[index + 1].end, "")]


def _after_member(tokens: list[Lexeme], index: int) -> int | None:
    """Return the index after `.name` or `['name']`, or None when there is no such member."""
    return static_key(tokens, index)[1]


def static_key(tokens: list[Lexeme], index: int) -> tuple[str | None, int | None]:
    """Return the key that `.name` or `['name']` at the index names, and the index after it; (None, None) if there is none."""
    texts = [t.text for t in tokens[index : index + 3]]
    if len(texts) >= 2 and texts[0] == "." and tokens[index + 1].kind in ("name", "dashed", "integer"):
        return texts[1], index + 2
    if len(texts) == 3 and texts[0] == "[" and texts[2] == "]":
        inner = tokens[index + 1]
        if inner.kind == "string":
            return unescape(inner.text[1:-1]), index + 3
        if inner.kind == "integer":
            return inner.text, index + 3
    return None, None


def rename_root(text: str, old: str, new: str) -> str:
    """Return a text in whose templates the root `old` is called `new`; what cannot be parsed stays as it is."""
    try:
        found = spans(text)
    except ExpressionSyntaxError:
        return text
    for span in reversed(found):
        inner = text[span.inner_start : span.inner_end]
        try:
            tokens = lexemes(inner)
        except ExpressionSyntaxError:
            continue
        for index in reversed(range(len(tokens))):
            token = tokens[index]
            if token.kind == "name" and token.text == old and starts_path(tokens, index):
                inner = inner[: token.start] + new + inner[token.end :]
        text = text[: span.inner_start] + inner + text[span.inner_end :]
    return text
