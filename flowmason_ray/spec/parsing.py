"""From text to plain JSON values, refusing with a place whatever is not what we call JSON.

Python's parser is fast and lenient: it takes duplicate keys, NaN and lone surrogates, and dies of deep nesting. Here a
document is parsed by it, and then one quick pass over the values looks for what must not be there. Only when that pass
finds something does a slow second one say what and where. Depth and the length of numbers are bounded here, the size of
the text before (`reading`).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn, cast

from flowmason_ray.errors import InvalidPipeline, Problem
from flowmason_ray.spec.source import Source, join_pointer, too_deep_at
from flowmason_ray.spec.syntax_errors import syntax_problem

MAX_DEPTH = 100
"""How deeply objects and lists may nest: ours need about ten levels, and every later pass may then safely recurse."""

MIN_INT, MAX_INT = -(2**63), 2**64 - 1
"""Integers that every reader of our JSON (stores, other languages, pydantic) takes without losing digits."""

_LONGEST_INT = 4000
"""Digits; Python refuses to convert more than 4300, because the time grows quadratically."""


@dataclass(frozen=True, slots=True)
class WrittenNumber:
    """A number as it is spelled in the text, for who must write it back exactly so. No `str`: it is not text."""

    text: str


@dataclass(frozen=True, slots=True)
class _NoNumber:
    """`NaN`, `Infinity` or `-Infinity`, which Python's parser takes and JSON does not have."""

    text: str


def parse_object(source: Source, *, exact_numbers: bool = False, what: str = "A pipeline file") -> dict[str, Any]:
    """Parse a document that must be one JSON object.

    Args:
        source: The text.
        exact_numbers: Return numbers as `WrittenNumber`, of any size, instead of converting them.
        what: What messages call the document.

    Raises:
        InvalidPipeline: with every problem, if it is JSON at all; else with the place where it stops being JSON.
    """
    parsed = _Parsed()
    decoder = json.JSONDecoder(
        object_pairs_hook=parsed.build_object,
        parse_constant=_NoNumber,
        parse_int=WrittenNumber if exact_numbers else _read_int,
        parse_float=WrittenNumber if exact_numbers else None,
    )
    try:
        value = decoder.decode(source.text)
    except json.JSONDecodeError as exc:
        raise InvalidPipeline([syntax_problem(source, exc)]) from None
    except RecursionError:
        raise InvalidPipeline([_depth_problem(source)]) from None
    if not isinstance(value, dict):
        place = source.locate("")
        message = f"{what} holds one JSON object; this one holds {kind_of(value)}."
        _refuse(Problem(code="not_an_object", message=message, file=place.file, line=place.line, column=place.column))
    made = cast("dict[str, Any]", value)
    if parsed.repeated or not _is_clean(made):
        inspect_values(made, source, parsed.repeated)
    return made


def inspect_values(root: dict[str, Any], source: Source, repeated: Mapping[int, object]) -> None:
    """Refuse what a document must not contain.

    Args:
        root: The parsed document.
        source: Its text.
        repeated: The objects in which a key is written more than once, by identity.

    Raises:
        InvalidPipeline: with every such value, or key, and where it is.
    """
    problems = _Inspection(source, repeated).problems_of(root)
    if problems:
        raise InvalidPipeline(problems)


def kind_of(value: object) -> str:
    """Return what a JSON value is, in words: `a list`, `text`, …"""
    match value:
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case WrittenNumber() | int() | float():
            return "a number"
        case str():
            return "text"
        case list():
            return "a list"
        case dict():
            return "an object"
        case _:
            return f"a {type(value).__name__}"


def _refuse(problem: Problem) -> NoReturn:
    raise InvalidPipeline([problem]) from None


def _read_int(written: str) -> int | float:
    # Too long to convert: let the inspection find it, which knows the place.
    return int(written) if len(written) <= _LONGEST_INT else math.inf


@dataclass(slots=True)
class _Parsed:
    """Objects in which a key is written more than once, by identity (and kept alive, so that the identity stays theirs)."""

    repeated: dict[int, dict[str, Any]] = field(default_factory=dict[int, dict[str, Any]])

    def build_object(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        made = dict(pairs)
        if len(made) != len(pairs):
            self.repeated[id(made)] = made
        return made


def _is_clean(root: object) -> bool:
    """Tell quickly, level by level, whether there is nothing that `_Inspection` would complain about."""
    level: list[Any] = [root]
    for _ in range(MAX_DEPTH):
        below: list[Any] = []
        for container in level:
            if isinstance(container, dict):
                keys_and_values = cast("dict[str, Any]", container)
                for key in keys_and_values:
                    if not key.isascii() and _has_surrogate(key):
                        return False
                values = keys_and_values.values()
            else:
                values = cast("list[Any]", container)
            value: Any
            for value in values:
                kind: object = value.__class__
                if kind is str:
                    if not value.isascii() and _has_surrogate(value):
                        return False
                elif kind is dict or kind is list:
                    if value:
                        below.append(value)
                elif kind is int:
                    if not MIN_INT <= value <= MAX_INT:
                        return False
                elif (kind is float and not math.isfinite(value)) or kind is _NoNumber:
                    return False
        if not below:
            return True
        level = below
    return False


def _has_surrogate(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return True
    return False


@dataclass(slots=True)
class _Inspection:
    """Says what in a parsed document is not allowed, and where."""

    source: Source
    repeated: Mapping[int, object]
    problems: list[Problem] = field(default_factory=list[Problem])

    def problems_of(self, root: object) -> list[Problem]:
        self._visit(root, "", 1)
        return self.problems

    def _visit(self, value: Any, pointer: str, depth: int) -> None:
        match value:
            case dict() | list() if depth > MAX_DEPTH:
                message = f"Objects and lists nest more than {MAX_DEPTH} levels deep here."
                self._report("nested_too_deeply", message, pointer)
            case dict():
                if id(cast("object", value)) in self.repeated:
                    self._report_repeated(pointer)
                for key, inner in cast("dict[str, Any]", value).items():
                    at = f"{pointer}{join_pointer(key)}"
                    if _has_surrogate(key):
                        self._report("invalid_text", f"Key {key!a} contains half of a surrogate pair.", pointer)
                    self._visit(inner, at, depth + 1)
            case list():
                for index, inner in enumerate(cast("list[Any]", value)):
                    self._visit(inner, f"{pointer}/{index}", depth + 1)
            case _NoNumber():
                message = f"{value.text!r} is not JSON."
                self._report("not_a_number", message, pointer, hint="Use null or a number.")
            case str():
                if _has_surrogate(value):
                    self._report("invalid_text", "The text contains half of a surrogate pair.", pointer)
            case int() if not isinstance(value, bool) and not MIN_INT <= value <= MAX_INT:
                self._report_number(pointer)
            case float() if math.isnan(value):
                self._report("not_a_number", "NaN is not JSON.", pointer, hint="Use null or a number.")
            case float() if math.isinf(value):
                self._report_number(pointer)
            case _:
                pass

    def _report_number(self, pointer: str) -> None:
        message = "The number is too large: whole numbers have at most 64 bits, others are at most about 1.8e308."
        self._report("number_out_of_range", message, pointer, hint="Write it as text if its digits matter.")

    def _report_repeated(self, pointer: str) -> None:
        for key, places in self.source.repeated(pointer).items():
            first, last = places[0], places[-1]
            message = f"Key {key!r} is written {len(places)} times in the same object"
            message = message.replace("2 times", "twice")
            message += f", first in line {first.line}, column {first.column}."
            self.problems.append(
                Problem(
                    code="duplicate_key",
                    message=message,
                    path=f"{pointer}{join_pointer(key)}",
                    file=last.file,
                    line=last.line,
                    column=last.column,
                    hint="Keep one of them.",
                )
            )

    def _report(self, code: str, message: str, pointer: str, hint: str | None = None) -> None:
        place = self.source.locate(pointer)
        self.problems.append(
            Problem(
                code=code,
                message=message,
                path=printable(pointer),
                file=place.file,
                line=place.line,
                column=place.column,
                hint=hint,
            )
        )


def printable(text: str) -> str:
    """Return `text` with lone surrogates escaped, so that it can be written anywhere."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _depth_problem(source: Source) -> Problem:
    at = too_deep_at(source.text, MAX_DEPTH)
    place = source.location_at(at or 0)
    return Problem(
        code="nested_too_deeply",
        message=f"Objects and lists nest more than {MAX_DEPTH} levels deep here.",
        file=place.file,
        line=place.line,
        column=place.column,
    )
