"""Paths into JSON values, as `json_transform` reads them: `$.a.b[0]`, `a.b`, and JMESPath for everything more.

    $              the value itself                 a.b            the same as $.a.b
    $.a['b c']     keys in brackets                 a[-1]          from the end
    $.items[*].id  every item: a list               $.items[1:3]   a slice: a list

Paths tell a missing value from a null; JMESPath cannot: there null counts as missing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, cast

from flowmason_ray.components.builtin.json_search import InvalidPath, search
from flowmason_ray.spec.source import join_pointer

MISSING: Final = object()
"""What a path finds where nothing is."""

_KEY = r"[A-Za-z0-9_@-][^.\[\]()|&<>=!?*`'\"{},:\s]*"
_STEP = re.compile(
    rf"""\.?(?:
        \[(?P<index>-?\d+)\]
      | \[(?P<slice>-?\d*:-?\d*)\]
      | (?P<all>\[\*\]|(?<=\.)\*)
      | \['(?P<single>(?:[^'\\]|\\.)*)'\]
      | \["(?P<double>(?:[^"\\]|\\.)*)"\]
      | (?P<key>{_KEY})
    )""",
    re.VERBOSE,
)


@dataclass(frozen=True, slots=True)
class _All:
    pass


Step = str | int | slice | _All


def find(data: Any, path: str) -> Any:
    """Return what `path` finds in `data`, or `MISSING`.

    Raises:
        InvalidPath: `path` is neither a path nor a JMESPath expression, or the expression does not fit the values.
    """
    text = path.strip()
    steps = parse_path(text)
    if steps is not None:
        return _walk(data, steps)
    if text.startswith("$"):
        raise InvalidPath(f"{path!r} is not a path; paths look like $.a.b[0], $.items[*].id or $['a key'].")
    found = search(data, text)
    return MISSING if found is None else found


def parse_path(text: str) -> Sequence[Step] | None:
    """Return the steps of a `$.`-path or a dotted path, or None when `text` is neither."""
    position = 1 if text.startswith("$") else 0
    if not text or (position and len(text) > 1 and text[1] not in ".["):
        return None
    steps: list[Step] = []
    while position < len(text):
        match = _STEP.match(text, position)
        if match is None or match.end() == position:
            return None
        dotted = match.group().startswith(".")
        if match["key"] is not None and dotted != bool(steps or text.startswith("$")):
            return None  # `ab` after `[0]` needs its dot, and a dotted path does not begin with one
        steps.append(_step(match))
        position = match.end()
    return steps


def _step(match: re.Match[str]) -> Step:
    if match["index"] is not None:
        return int(match["index"])
    if match["slice"] is not None:
        start, _, stop = match["slice"].partition(":")
        return slice(int(start) if start else None, int(stop) if stop else None)
    if match["all"] is not None:
        return _All()
    quoted = match["single"] if match["single"] is not None else match["double"]
    return re.sub(r"\\(.)", r"\1", quoted) if quoted is not None else match["key"]


def pointer_of(value: Any, steps: Sequence[Step]) -> str:
    """Return the JSON pointer (RFC 6901) of what `steps` find in `value`, or would; of the list or object, where they find several."""
    at = ""
    for step in steps:
        if isinstance(step, (_All, slice)):
            break
        at += join_pointer(_token(value, step))
        value = _child(value, step)
    return at


def located(value: Any, steps: Sequence[Step], at: str = "") -> Iterator[tuple[str, Any]]:
    """Yield each value that `steps` find in `value`, with its JSON pointer (`at`: the one of `value`)."""
    for position, step in enumerate(steps):
        if isinstance(step, (_All, slice)):
            keys: Any = ()
            if isinstance(value, list):
                keys = range(len(cast("list[Any]", value)))[step if isinstance(step, slice) else slice(None)]
            elif isinstance(value, dict) and isinstance(step, _All):
                keys = cast("dict[str, Any]", value)
            for key in keys:
                yield from located(value[key], steps[position + 1 :], at + join_pointer(key))
            return
        at += join_pointer(_token(value, step))
        value = _child(value, step)
        if value is MISSING:
            return
    yield at, value


def _token(value: Any, step: str | int) -> str | int:
    """Return a step as a pointer says it, which knows nothing of counting from the end."""
    return (
        len(cast("list[Any]", value)) + step if isinstance(value, list) and isinstance(step, int) and step < 0 else step
    )


def _walk(value: Any, steps: Sequence[Step]) -> Any:
    for position, step in enumerate(steps):
        if isinstance(step, (_All, slice)):
            many = _children(value, step)
            if many is MISSING:
                return MISSING
            found = [_walk(v, steps[position + 1 :]) for v in many]
            return [v for v in found if v is not MISSING]
        value = _child(value, step)
        if value is MISSING:
            return MISSING
    return value


def _children(value: Any, step: _All | slice) -> Any:
    if isinstance(value, list):
        items = cast("list[Any]", value)
        return items[step] if isinstance(step, slice) else items
    if isinstance(value, dict) and isinstance(step, _All):
        return list(cast("dict[str, Any]", value).values())
    return MISSING


def _child(value: Any, step: str | int) -> Any:
    if isinstance(value, dict):
        return cast("dict[str, Any]", value).get(str(step), MISSING)
    if isinstance(value, list):
        items = cast("list[Any]", value)
        index = step if isinstance(step, int) else int(step) if step.isdigit() else None
        if index is not None and -len(items) <= index < len(items):
            return items[index]
    return MISSING
