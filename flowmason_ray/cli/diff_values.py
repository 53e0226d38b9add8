"""How values are written in a diff, whatever the diff is written on."""

from __future__ import annotations

import json
from collections.abc import Iterator
from difflib import SequenceMatcher
from typing import Any, cast

from flowmason_ray.spec.diff.tree import ABSENT

MOST = 600
"""Characters of one value; what is longer is cut, and says so."""


def value_text(value: Any) -> str:
    """Return a JSON value on one line; a long one is cut."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= MOST else f"{text[: MOST - 1]}… ({len(text):,} characters)"


def list_changes(old: Any, new: Any) -> list[tuple[str, Any]] | None:
    """Return what came into a list (`+`), what went (`-`) and how much stayed (`=`); None unless both are lists."""
    if not isinstance(old, list) or not isinstance(new, list):
        return None
    one, other = cast("list[Any]", old), cast("list[Any]", new)
    return list(_list_changes(one, other))


def _list_changes(one: list[Any], other: list[Any]) -> Iterator[tuple[str, Any]]:
    keys = [[json.dumps(item, sort_keys=True) for item in side] for side in (one, other)]
    for sign, i1, i2, j1, j2 in SequenceMatcher(None, keys[0], keys[1], autojunk=False).get_opcodes():
        if sign == "equal":
            yield "=", i2 - i1
        else:
            yield from (("-", item) for item in one[i1:i2])
            yield from (("+", item) for item in other[j1:j2])


def is_there(value: Any) -> bool:
    """Tell whether there is a value."""
    return value is not ABSENT
