"""Conditions as data: `{"price": {"gt": 10}, "colour": "red"}`, as `filter` takes them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from flowmason_ray.components.builtin.json_paths import MISSING, InvalidPath, find
from flowmason_ray.errors import PermanentError, nearest
from flowmason_ray.spec.language.budget import Fault
from flowmason_ray.spec.language.regexes import compiled


@dataclass(frozen=True, kw_only=True, slots=True)
class Test:
    """One condition on one path."""

    __test__ = False  # not a test case, whatever pytest thinks of the name

    path: str
    operator: str
    wanted: Any

    @property
    def needs_value(self) -> bool:
        """Whether the condition says nothing about a value that is not there."""
        return self.operator not in ("exists", "is_null")

    def find(self, value: Any) -> Any:
        """Return what the path finds in `value`, or `MISSING`."""
        try:
            return find(value, self.path)
        except InvalidPath as exc:
            raise PermanentError(f"'field_conditions': {exc}", code="invalid_path") from exc

    def holds(self, found: Any) -> bool:
        """Tell whether the condition holds; values that cannot be compared do not meet it."""
        try:
            return bool(_OPERATORS[self.operator](found, self.wanted))
        except (TypeError, UnicodeEncodeError):  # the latter: RE2 searches in valid Unicode only
            return False

    def __str__(self) -> str:
        return f"{self.path!r} {self.operator} {self.wanted!r}"


def _matches(found: Any, wanted: Any) -> bool:
    # RE2, as in expressions: no pattern takes for ever on any text.
    return isinstance(found, str) and compiled(wanted).search(found) is not None


_OPERATORS: Mapping[str, Callable[[Any, Any], Any]] = {
    "eq": lambda found, wanted: found == wanted,
    "ne": lambda found, wanted: found != wanted,
    "gt": lambda found, wanted: found > wanted,
    "gte": lambda found, wanted: found >= wanted,
    "lt": lambda found, wanted: found < wanted,
    "lte": lambda found, wanted: found <= wanted,
    "in": lambda found, wanted: found in wanted,
    "not_in": lambda found, wanted: found not in wanted,
    "contains": lambda found, wanted: wanted in found,
    "starts_with": lambda found, wanted: isinstance(found, str) and found.startswith(wanted),
    "ends_with": lambda found, wanted: isinstance(found, str) and found.endswith(wanted),
    "matches": _matches,
    "exists": lambda found, wanted: (found is not MISSING) == bool(wanted),
    "is_null": lambda found, wanted: (found is MISSING or found is None) == bool(wanted),
}


def field_tests(conditions: Mapping[str, Any]) -> Sequence[Test]:
    """Return the tests that `conditions` asks for. An object with operators as keys is several tests; else it is `eq`.

    Raises:
        PermanentError: an unknown operator beside known ones, or an invalid regular expression (`invalid_input`).
    """
    tests: list[Test] = []
    for path, wanted in conditions.items():
        operators: dict[str, Any] = (
            cast("dict[str, Any]", wanted) if isinstance(wanted, dict) and wanted else {"eq": wanted}
        )
        for name, value in operators.items():
            if name not in _OPERATORS:
                near = nearest(name, _OPERATORS)
                raise PermanentError(
                    f"Unknown operator {name!r} for {path!r}; there are {', '.join(_OPERATORS)}."
                    + (f" Did you mean {near!r}?" if near else "")
                    + " To compare with an object write {'eq': {…}}.",
                    code="invalid_input",
                )
            _check(path, name, value)
            tests.append(Test(path=path, operator=name, wanted=value))
    return tests


def _check(path: str, name: str, value: Any) -> None:
    if name == "matches":
        try:
            compiled(value)
        except (Fault, TypeError) as exc:
            raise PermanentError(
                f"{value!r} for {path!r} is not a regular expression (RE2 syntax): {exc}", code="invalid_input"
            ) from exc
