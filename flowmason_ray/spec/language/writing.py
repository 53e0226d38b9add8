"""Values as text and as JSON, charged by their whole size before anything is written."""

from __future__ import annotations

import json
from typing import Any, Protocol, runtime_checkable

from flowmason_ray.spec.language.budget import MAX_VALUE_DEPTH, Budget, Fault
from flowmason_ray.spec.language.values import NUMBERS, is_list, is_object, is_opaque, kind


@runtime_checkable
class Joinable(Protocol):
    """An opaque value that can become part of a text, such as a secret in `Bearer {{secrets.token}}`."""

    def join_text(self, parts: list[Any]) -> Any:
        """Return what the whole text becomes; `parts` are its strings and joinable values, in order."""
        ...


def text_piece(budget: Budget, value: Any) -> Any:
    """Return the value as text, or as it is when it is opaque and knows how to be joined with text."""
    if type(value) is str:
        return value
    return value if is_opaque(value) and isinstance(value, Joinable) else to_text(budget, value)


def join_pieces(pieces: list[Any]) -> Any:
    """Return the pieces as one text, or as what a joinable one among them makes of all."""
    for piece in pieces:
        if type(piece) is not str:
            return piece.join_text(pieces)
    return "".join(pieces)


def to_text(budget: Budget, value: Any) -> str:
    """Format a value as a template puts it into text: null is empty, booleans and containers as in JSON."""
    if type(value) is str:
        return value
    if value is None:
        return ""
    if value is True:
        return "true"
    if value is False:
        return "false"
    if type(value) is int or type(value) is float:
        text = number_text(value)
        budget.text(len(text))
        return text
    return to_json(budget, value)


def number_text(value: float) -> str:
    """Return the number as Python writes it."""
    try:
        return repr(value)
    except ValueError:
        raise Fault("An integer of more than 4300 digits cannot be turned into text.") from None


def to_json(budget: Budget, value: Any, indent: int | None = None) -> str:
    """Write a value as JSON; charges its whole size first."""
    nodes, depth = measure(budget, value)
    if indent is None:
        return _COMPACT.encode(value)
    budget.text(nodes * depth * indent)
    return json.dumps(value, ensure_ascii=False, indent=indent, default=_as_json, allow_nan=False)


def _as_json(value: Any) -> Any:
    if is_object(value):
        return dict(value)
    if is_list(value):
        return list(value)
    raise Fault(f"{kind(value).capitalize()} cannot be put into text or JSON.")


_COMPACT = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), default=_as_json, allow_nan=False)


def measure(budget: Budget, value: Any) -> tuple[int, int]:
    """Charge for walking the whole value and writing it down, and return how many values it holds and how deep it is.

    Raises:
        Fault: something in it is no JSON value, or it is nested too deeply (a cycle is, too).
    """
    nodes, deepest, stack = 0, 0, [(value, 0)]
    while stack:
        value, depth = stack.pop()
        nodes += 1
        budget.spend(1)
        budget.text(4)
        if type(value) is str:
            budget.text(len(value))
        elif type(value) in NUMBERS or value is None:
            if type(value) is int:
                budget.text(value.bit_length() // 3)
                number_text(value)
            elif type(value) is float and (value != value or value in (float("inf"), float("-inf"))):
                raise Fault(f"{value!r} has no form in JSON.")
        else:
            deepest = max(deepest, depth + 1)
            if depth >= MAX_VALUE_DEPTH:
                raise Fault(f"A value nested deeper than {MAX_VALUE_DEPTH} levels cannot be put into text or JSON.")
            if is_list(value):
                budget.spend(len(value))
                stack.extend((element, depth + 1) for element in value)
            elif is_object(value):
                budget.spend(len(value))
                for key, element in value.items():
                    if type(key) is not str:
                        raise Fault(f"The keys of an object are strings in JSON, not {kind(key)}.")
                    budget.text(len(key) + 4)
                    stack.append((element, depth + 1))
            else:
                raise Fault(f"{kind(value).capitalize()} cannot be put into text or JSON.")
    return nodes, deepest
