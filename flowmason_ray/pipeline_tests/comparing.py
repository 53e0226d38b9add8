"""Whether two JSON values are the same, and where they differ."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any, cast

from flowmason_ray.pipeline_tests.json_paths import written
from flowmason_ray.spec.wording import shown

MOST_DIFFERENCES = 20
"""How many differences are listed; whoever has more needs to look at the whole."""


def same(a: Any, b: Any) -> bool:
    """Tell whether two values are the same JSON: 1 is 1.0, but 1 is not true."""
    if isinstance(a, bool) or isinstance(b, bool):
        return isinstance(a, bool) and isinstance(b, bool) and a == b
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        left, right = cast("Mapping[str, Any]", a), cast("Mapping[str, Any]", b)
        return left.keys() == right.keys() and all(same(left[key], right[key]) for key in left)
    if isinstance(a, list) and isinstance(b, list):
        one, other = cast("list[Any]", a), cast("list[Any]", b)
        return len(one) == len(other) and all(same(x, y) for x, y in zip(one, other, strict=True))
    return bool(a == b)


def differences(expected: Any, found: Any) -> list[str]:
    """Return where two structures differ, a line each; empty unless both are objects or both are lists."""
    if not any(isinstance(expected, kind) and isinstance(found, kind) for kind in (Mapping, list)):
        return []
    lines = list(islice(_differences(expected, found, ""), MOST_DIFFERENCES + 1))
    if len(lines) > MOST_DIFFERENCES:
        lines[-1] = f"… more than {MOST_DIFFERENCES} differences"
    return lines


def _differences(expected: Any, found: Any, path: str) -> Iterator[str]:
    if isinstance(expected, Mapping) and isinstance(found, Mapping):
        left, right = cast("Mapping[str, Any]", expected), cast("Mapping[str, Any]", found)
        for key in left:
            if key not in right:
                yield f"- {_at(path + written(key))}: missing; expected {shown(left[key])}"
            else:
                yield from _differences(left[key], right[key], path + written(key))
        for key in right:
            if key not in left:
                yield f"+ {_at(path + written(key))}: not expected; found {shown(right[key])}"
    elif isinstance(expected, list) and isinstance(found, list):
        one, other = cast("list[Any]", expected), cast("list[Any]", found)
        for index in range(max(len(one), len(other))):
            at = f"{path}[{index}]"
            if index >= len(other):
                yield f"- {_at(at)}: missing; expected {shown(one[index])}"
            elif index >= len(one):
                yield f"+ {_at(at)}: not expected; found {shown(other[index])}"
            else:
                yield from _differences(one[index], other[index], at)
    elif not same(expected, found):
        values = shown(cast("object", expected)), shown(cast("object", found))
        yield f"~ {_at(path)}: expected {values[0]}; found {values[1]}"


def _at(path: str) -> str:
    return path.removeprefix(".") or "the whole"
