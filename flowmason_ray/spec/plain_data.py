"""Python values as if they had been read from a file: for pipelines that a program builds instead of loading.

What JSON cannot express is refused with its pointer, so that behind this point there is only one kind of document.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from flowmason_ray.errors import InvalidPipeline, Problem
from flowmason_ray.spec.parsing import MAX_DEPTH, inspect_values, printable
from flowmason_ray.spec.source import Source, join_pointer


def plain_object(data: Mapping[Any, Any]) -> dict[str, Any]:
    """Copy a Python mapping into plain dicts, lists and scalars, as if it had been parsed.

    Raises:
        InvalidPipeline: with every value that JSON cannot express.
    """
    copied = _Copy()
    made = cast("dict[str, Any]", copied.plain(data, "", 1))
    if copied.problems:
        raise InvalidPipeline(copied.problems)
    inspect_values(made, Source(file=None, text=""), {})
    return made


@dataclass(slots=True)
class _Copy:
    """Copies Python data into what a parser would have made of it; notes what JSON cannot express."""

    problems: list[Problem] = field(default_factory=list[Problem])
    _open: set[int] = field(default_factory=set[int])

    def plain(self, value: Any, pointer: str, depth: int) -> Any:
        if value is None or isinstance(value, bool):
            return value
        if isinstance(value, str):
            return str.__str__(value)
        if isinstance(value, int):
            return int(value)
        if isinstance(value, float):
            return float(value)
        if isinstance(value, Mapping):
            return self._container(cast("Mapping[Any, Any]", value), pointer, depth)
        if isinstance(value, (list, tuple)):
            return self._container(cast("list[Any]", value), pointer, depth)
        self._report(f"A value of Python type {type(value).__name__!r} cannot be written as JSON.", pointer)
        return None

    def _container(self, value: Mapping[Any, Any] | list[Any], pointer: str, depth: int) -> Any:
        if id(value) in self._open or depth > MAX_DEPTH:
            self._report(f"The data contains itself or nests more than {MAX_DEPTH} levels deep.", pointer)
            return None
        self._open.add(id(value))
        try:
            if not isinstance(value, Mapping):
                return [self.plain(inner, f"{pointer}/{i}", depth + 1) for i, inner in enumerate(value)]
            made: dict[str, Any] = {}
            for key, inner in value.items():
                if isinstance(key, str):
                    made[str.__str__(key)] = self.plain(inner, f"{pointer}{join_pointer(key)}", depth + 1)
                else:
                    self._report(f"Key {key!r} is not text.", pointer)
            return made
        finally:
            self._open.discard(id(value))

    def _report(self, message: str, pointer: str) -> None:
        self.problems.append(Problem(code="not_json", message=message, path=printable(pointer)))
