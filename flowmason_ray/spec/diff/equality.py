"""When two parts of trees are the same: what never shows makes no difference, and what Python takes for equal may be two.

`1`, `1.0` and `true` are three values; `1e3` and `1000.0` are one, and so are two objects whose keys are in another order.
"""

from __future__ import annotations

import math
from typing import Any, cast

from flowmason_ray.spec.diff.tree import ABSENT, LAYOUT, Keyed, Names
from flowmason_ray.spec.parsing import WrittenNumber


def identical(a: Any, b: Any) -> bool:
    """Tell whether two values are the same down to the order of keys and the spelling of numbers."""
    # `==` is quick to find a difference, and takes 1, 1.0 and true for one; `repr` tells those apart, and orders too.
    return a is b or (type(a) is type(b) and a == b and repr(a) == repr(b))


def same(a: Any, b: Any, *, stage: bool = False) -> bool:
    """Tell whether two values mean the same: whatever the order of keys, the spelling of numbers, the positions of stages.

    Args:
        a: A tree or a part of one.
        b: Another.
        stage: Whether they are stages, whose `position` does not count.
    """
    if identical(a, b):
        return True
    if isinstance(a, dict) and isinstance(b, dict):
        one, other = cast("dict[str, Any]", a), cast("dict[str, Any]", b)
        if type(one) is not type(other):
            return False
        inside = isinstance(one, Keyed)
        return all(
            same(one.get(key, ABSENT), other.get(key, ABSENT), stage=inside) or _is_nothing(one, other, key, stage)
            for key in {**one, **other}
        )
    if isinstance(a, list) and isinstance(b, list):
        ones, others = cast("list[Any]", a), cast("list[Any]", b)
        return len(ones) == len(others) and all(same(x, y) for x, y in zip(ones, others, strict=True))
    return _same_scalar(a, b)


def is_empty_names(value: Any) -> bool:
    """Tell whether a value is a set of names that is empty: the same as none."""
    return isinstance(value, Names) and not value


def _is_nothing(one: dict[str, Any], other: dict[str, Any], key: str, stage: bool) -> bool:
    if stage and key == LAYOUT:
        return True
    a, b = one.get(key, ABSENT), other.get(key, ABSENT)
    return (a is ABSENT and is_empty_names(b)) or (b is ABSENT and is_empty_names(a))


def _same_scalar(a: Any, b: Any) -> bool:
    a, b = _number(a), _number(b)
    if type(a) is not type(b):
        return False
    if isinstance(a, float):
        return a == b and math.copysign(1, a) == math.copysign(1, b)
    return bool(a == b)


def _number(value: Any) -> Any:
    """Return the value of a number that is kept as it is spelled."""
    if isinstance(value, WrittenNumber):
        text = value.text
        return float(text) if any(mark in text for mark in ".eE") else int(text)
    return value
