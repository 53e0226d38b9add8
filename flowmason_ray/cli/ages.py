"""Ages as people write them: `90s`, `45m`, `12h`, `30d`, `2w`."""

from __future__ import annotations

import re

from flowmason_ray.errors import InvalidCall

_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0, "w": 604_800.0}
_AGE = re.compile(r"(?a:(\d{1,9}(?:\.\d{1,6})?)\s*([smhdw]))")


def seconds_of(option: str, text: str) -> float:
    """Return an age in seconds.

    Raises:
        InvalidCall: it is none; says how one is written.
    """
    found = _AGE.fullmatch(text.strip().lower())
    if found is None:
        raise InvalidCall(f"{option}: {text!r} is no age. Write a number and a unit: 90s, 45m, 12h, 30d or 2w.")
    return float(found[1]) * _UNITS[found[2]]
