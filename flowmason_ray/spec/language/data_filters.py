"""Filters that convert: numbers, text, JSON, dates."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from flowmason_ray.spec.language.arithmetic import bounded_int
from flowmason_ray.spec.language.budget import Budget, Fault, over_budget
from flowmason_ray.spec.language.text_filters import number_of, text_of
from flowmason_ray.spec.language.values import ABSENT, NUMBERS, copies, kind
from flowmason_ray.spec.language.writing import to_text

_INTEGER = re.compile(r"\s*[+-]?\d{1,1200}\s*")
_FLOAT = re.compile(r"\s*[+-]?(?:\d{1,400}(?:\.\d{0,400})?|\.\d{1,400})(?:[eE][+-]?\d{1,9})?\s*")
_MAX_DIGITS = 400
"""How far `round` goes: no float has more digits before or after its point."""


def _number(value: Any, what: str) -> Any:
    if type(value) not in NUMBERS:
        raise Fault(f"{what!r} works on a number, not on {kind(value)}.")
    return bounded_int(value)


def absolute(budget: Budget, value: Any) -> Any:
    """The number without its sign."""
    return abs(_number(value, "abs"))


def to_int(budget: Budget, value: Any, default: Any = ABSENT) -> Any:
    """The integer that a number (cut at its point) or a string stands for; otherwise `default`, or an error without one."""
    try:
        if type(value) in NUMBERS:
            return int(bounded_int(value))
        if type(value) is str:
            if len(value) <= 2000 and _INTEGER.fullmatch(value):
                return bounded_int(int(value))
            if len(value) <= 2000 and _FLOAT.fullmatch(value):
                return bounded_int(int(float(value)))
    except (OverflowError, ValueError):
        pass
    if default is not ABSENT:
        copies(budget, default, 1)
        return default
    raise Fault(f"{_shown(value)} is no integer; give 'int' a default to go on without one.")


def to_float(budget: Budget, value: Any, default: Any = ABSENT) -> Any:
    """The floating-point number that a number or a string stands for; otherwise `default`, or an error without one."""
    try:
        if type(value) in NUMBERS or (type(value) is str and len(value) <= 2000 and _FLOAT.fullmatch(value)):
            return float(bounded_int(value))
    except OverflowError:
        pass
    if default is not ABSENT:
        copies(budget, default, 1)
        return default
    raise Fault(f"{_shown(value)} is no number; give 'float' a default to go on without one.")


def _shown(value: Any) -> str:
    if type(value) is not str:
        return kind(value).capitalize()
    return repr(value) if len(value) <= 60 else repr(value[:59] + "…")


def to_string(budget: Budget, value: Any) -> str:
    """The value as text, as a template writes it."""
    return to_text(budget, value)


def rounded(budget: Budget, value: Any, precision: Any = 0, method: Any = "common") -> Any:
    """The number rounded to `precision` digits; `method` is common (to the nearest, halves to even), ceil or floor."""
    digits = number_of(precision, "The precision of 'round'", -_MAX_DIGITS, _MAX_DIGITS)
    if method not in ("common", "ceil", "floor"):
        raise Fault(f"'round' knows the methods 'common', 'ceil' and 'floor', not {_shown(method)}.")
    number = _number(value, "round")
    try:
        result = round(number, digits)
    except OverflowError:
        raise Fault("The rounded number is too large for a floating-point number.") from None
    if method == "common" or type(number) is not float or result != result or result in (float("inf"), float("-inf")):
        return bounded_int(result)
    step = 10.0**-digits if digits < 308 else 0.0
    if method == "ceil" and result < number:
        return round(result + step, digits)
    if method == "floor" and result > number:
        return round(result - step, digits)
    return result


def round_function(budget: Budget, value: Any, digits: Any = None) -> Any:
    """The nearest integer, halves to even; or, with `digits`, the number rounded to so many."""
    number = _number(value, "round")
    if digits is not None:
        return rounded(budget, number, digits)
    try:
        return bounded_int(round(number))
    except (OverflowError, ValueError):
        raise Fault(f"{number!r} cannot be rounded to an integer.") from None


def from_json(budget: Budget, value: Any) -> Any:
    """The value that a JSON text stands for."""
    text = text_of(value, "fromjson")
    budget.spend(len(text) // 16)
    budget.items(text.count(",") + text.count("[") + text.count("{"))
    budget.text(len(text))
    try:
        return json.loads(text, parse_constant=_no_constant, parse_int=_bounded_literal)
    except RecursionError:
        raise Fault("The JSON text is nested too deeply.") from None
    except ValueError as exc:
        raise Fault(f"{_shown(text)} is not JSON: {exc}.") from None


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON value")


def _bounded_literal(digits: str) -> int:
    if len(digits) > 1200:
        raise over_budget("integers of more than 1200 digits")
    return int(digits)


_DIRECTIVES: dict[str, Callable[[datetime], str]] = {
    "Y": lambda t: f"{t.year:04}",
    "y": lambda t: f"{t.year % 100:02}",
    "m": lambda t: f"{t.month:02}",
    "d": lambda t: f"{t.day:02}",
    "e": lambda t: f"{t.day:2}",
    "H": lambda t: f"{t.hour:02}",
    "I": lambda t: f"{(t.hour - 1) % 12 + 1:02}",
    "M": lambda t: f"{t.minute:02}",
    "S": lambda t: f"{t.second:02}",
    "f": lambda t: f"{t.microsecond:06}",
    "p": lambda t: "AM" if t.hour < 12 else "PM",
    "j": lambda t: f"{t.timetuple().tm_yday:03}",
    "b": lambda t: _MONTHS[t.month - 1][:3],
    "B": lambda t: _MONTHS[t.month - 1],
    "a": lambda t: _DAYS[t.weekday()][:3],
    "A": lambda t: _DAYS[t.weekday()],
    "u": lambda t: str(t.isoweekday()),
    "G": lambda t: f"{t.isocalendar().year:04}",
    "V": lambda t: f"{t.isocalendar().week:02}",
    "F": lambda t: f"{t.year:04}-{t.month:02}-{t.day:02}",
    "T": lambda t: f"{t.hour:02}:{t.minute:02}:{t.second:02}",
    "s": lambda t: str(int((t if t.tzinfo else t.replace(tzinfo=UTC)).timestamp())),
    "z": lambda t: _offset(t),
    "Z": lambda t: t.tzname() or "",
    "%": lambda t: "%",
}
_MONTHS = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
]
_DAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]


def _offset(moment: datetime) -> str:
    offset = moment.utcoffset()
    if offset is None:
        return ""
    minutes = int(offset.total_seconds() // 60)
    return f"{'-' if minutes < 0 else '+'}{abs(minutes) // 60:02}{abs(minutes) % 60:02}"


def format_date(budget: Budget, value: Any, format: Any = "%Y-%m-%d") -> str:
    """A date (an ISO 8601 string, or seconds since 1970 in UTC) in the given format, with English names everywhere."""
    moment = _moment(value)
    pattern = text_of(format, "date")
    budget.spend(2 * len(pattern))
    pieces: list[str] = []
    done = 0
    for found in re.finditer(r"%(.?)", pattern, re.DOTALL):
        directive = _DIRECTIVES.get(found[1])
        if directive is None:
            raise Fault(f"'date' does not know {found[0]!r}; it knows %{', %'.join(_DIRECTIVES)}.")
        pieces += [pattern[done : found.start()], directive(moment)]
        done = found.end()
    pieces.append(pattern[done:])
    budget.text(sum(map(len, pieces)))
    return "".join(pieces)


def _moment(value: Any) -> datetime:
    if type(value) is int or type(value) is float:
        try:
            return datetime.fromtimestamp(value, UTC)
        except (OverflowError, ValueError, OSError):
            raise Fault(f"{value!r:.40} seconds since 1970 is no date that can be shown.") from None
    text = text_of(value, "date")
    try:
        if len(text) > 64:
            raise ValueError
        return datetime.fromisoformat(text.strip())
    except ValueError:
        raise Fault(
            f"{_shown(text)} is not a date in ISO 8601, such as '2026-01-31' or '2026-01-31T09:30:00Z'."
        ) from None
