"""The stages that a text names, and the same text with stages renamed.

Works like `rewriting`, on the offsets of the lexer's tokens: everything but the names stays as it is, byte for byte. Only
canonical references are looked at (`stages.<id>`, `stages['<id>']`); who reads a document has older ones rewritten before.
What cannot be read as an expression names nothing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from flowmason_ray.spec.language.rewriting import starts_path, static_key
from flowmason_ray.spec.language.scanning import spans
from flowmason_ray.spec.language.syntax import ExpressionSyntaxError, Lexeme, lexemes

_AFTER_DOT = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(?:-+[A-Za-z0-9_]+)*|[0-9]+(?:-+[A-Za-z0-9_]+)*", re.ASCII)
"""Ids that can be written behind a dot. All others need brackets and quotes."""


@dataclass(frozen=True, slots=True)
class NamedStage:
    """A place at which a text names a stage: `text[start:end]` is the id, with its quotation marks if it has some."""

    stage: str
    start: int
    end: int
    dot: int
    """Where the dot before it stands, or the bracket."""
    quote: str
    """The quotation mark of the bracket form; "" behind a dot."""

    def moved(self, by: int) -> NamedStage:
        """Return the same place in a longer text."""
        return NamedStage(self.stage, self.start + by, self.end + by, self.dot + by, self.quote)


@lru_cache(maxsize=200_000)  # a merge looks at the same text on three sides, and several times on each
def stages_in_text(text: str) -> tuple[NamedStage, ...]:
    """Return the stages that the `{{ … }}` of a text name, from left to right."""
    if "{{" not in text or "stages" not in text:
        return ()
    try:
        found = spans(text)
    except ExpressionSyntaxError:
        return ()
    named: list[NamedStage] = []
    for span in found:
        inner = text[span.inner_start : span.inner_end]
        named += [place.moved(span.inner_start) for place in stages_in_expression(inner)]
    return tuple(named)


@lru_cache(maxsize=200_000)
def stages_in_expression(source: str) -> tuple[NamedStage, ...]:
    """Return the stages that an expression without braces names; one that is wholly in braces is a text."""
    if "stages" not in source:
        return ()
    if source.lstrip().startswith("{{"):
        return stages_in_text(source)
    try:
        tokens = lexemes(source)
    except ExpressionSyntaxError:
        return ()
    return tuple(named for index in range(len(tokens)) if (named := _named_at(tokens, index)) is not None)


def _named_at(tokens: list[Lexeme], index: int) -> NamedStage | None:
    token = tokens[index]
    if token.kind != "name" or token.text != "stages" or not starts_path(tokens, index):
        return None
    stage, after = static_key(tokens, index + 1)
    if stage is None or after is None:
        return None
    opening, said = tokens[index + 1], tokens[index + 2]
    if opening.text == "[" and said.kind != "string":
        return None  # `stages[0]`: no stage
    return NamedStage(stage, said.start, said.end, opening.start, said.text[0] if said.kind == "string" else "")


def rename_in_text(text: str, names: Mapping[str, str]) -> str:
    """Return a text with the stages that its templates name renamed."""
    return _renamed(text, stages_in_text(text), names)


def rename_in_expression(source: str, names: Mapping[str, str]) -> str:
    """Return an expression with the stages that it names renamed."""
    return _renamed(source, stages_in_expression(source), names)


def can_stand_behind_dot(name: str) -> bool:
    """Tell whether an id can be written as `stages.id`; others need `stages['id']`."""
    return _AFTER_DOT.fullmatch(name) is not None


def _renamed(text: str, places: tuple[NamedStage, ...], names: Mapping[str, str]) -> str:
    for place in reversed(places):
        new = names.get(place.stage)
        if new is None:
            continue
        if place.quote:
            text = f"{text[: place.start]}{place.quote}{new}{place.quote}{text[place.end :]}"
        elif can_stand_behind_dot(new):
            text = text[: place.start] + new + text[place.end :]
        else:
            text = f"{text[: place.dot]}['{new}']{text[place.end :]}"
    return text
