"""JSONPath, as RFC 9535 has it: what a path means, and what to say when it finds nothing.

A path that consists of names and positions alone (a *singular query*, RFC 9535, 2.3.5.1) stands for one value, which may be
missing. Any other path stands for the list of all that it finds. Which of the two is known from the path's text, so that an
assertion never changes its meaning with the data.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, cast

import jsonpath

from flowmason_ray.errors import nearest

_environment = jsonpath.JSONPathEnvironment(strict=True)  # strict: the standard alone, without the library's own syntax

MISSING: Any = object()
"""What a path of names and positions finds where nothing is."""

_MOST_NAMES = 12


class InvalidPath(Exception):
    """A text that is no JSONPath; the message says why."""


@dataclass(frozen=True, slots=True)
class JsonPath:
    """A path that was understood."""

    text: str
    steps: tuple[str | int, ...] | None
    """The names and positions, if there is nothing else in it; None: it may find several values."""
    _compiled: Any

    def find(self, document: Any) -> Any:
        """Return the value, or `MISSING`; for a path that may find several, their list."""
        found = [match.value for match in self._compiled.finditer(document)]
        if self.steps is None:
            return found
        return found[0] if found else MISSING

    def why_missing(self, document: Any) -> str:
        """Say how far the path leads, what is there, and which name was perhaps meant."""
        here: Any = document
        so_far = "$"
        for step in self.steps or ():
            inner = _step(here, step)
            if inner is MISSING:
                return f"{_described(here, so_far)}{_suggestion(here, step)}"
            here = inner
            so_far += written(step)
        return "It finds nothing."


@lru_cache(maxsize=4096)
def parse_path(text: str) -> JsonPath:
    """Understand a path.

    Raises:
        InvalidPath: it is none.
    """
    if not text.startswith("$"):
        raise InvalidPath(f"A path starts with '$', the document: write '$.{text.lstrip('.')}'.")
    try:
        compiled = _environment.compile(text)
        singular: bool = cast("Any", compiled).singular_query()
    except (jsonpath.JSONPathError, RecursionError) as exc:
        reason = str(exc.args[0]) if exc.args else "it cannot be read"  # its str() fails at the end of a text
        raise InvalidPath(f"{text!r} is no JSONPath (RFC 9535): {reason}.") from None
    return JsonPath(text=text, steps=_steps(compiled) if singular else None, _compiled=compiled)


def _steps(compiled: Any) -> tuple[str | int, ...]:
    selectors = (segment.selectors[0] for segment in compiled.segments)
    return tuple(s.name if hasattr(s, "name") else int(s.index) for s in selectors)


def written(step: str | int) -> str:
    """Return a step as it is written in a path: `.name`, `[0]`, `['each[3]/extract']`."""
    if isinstance(step, int):
        return f"[{step}]"
    if step.isidentifier():
        return f".{step}"
    escaped = step.replace("\\", "\\\\").replace("'", "\\'")
    return f"['{escaped}']"


def _step(value: Any, step: str | int) -> Any:
    if isinstance(step, str):
        return cast("Mapping[str, Any]", value).get(step, MISSING) if isinstance(value, Mapping) else MISSING
    if isinstance(value, list):
        items = cast("list[Any]", value)
        return items[step] if -len(items) <= step < len(items) else MISSING
    return MISSING


def _described(value: Any, path: str) -> str:
    if isinstance(value, Mapping):
        names = [str(name) for name in cast("Mapping[str, Any]", value)]
        more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
        return f"{path} has {', '.join(names[:_MOST_NAMES])}{more}." if names else f"{path} is an empty object."
    if isinstance(value, list):
        return f"{path} is a list of {len(cast('list[Any]', value))}."
    return (
        f"{path} is {value!r}."
        if isinstance(value, str | int | float) and not isinstance(value, bool)
        else (f"{path} is {'null' if value is None else str(value).lower()}.")
    )


def _suggestion(value: Any, step: str | int) -> str:
    if not isinstance(value, Mapping) or not isinstance(step, str):
        return ""
    close = nearest(step, (str(name) for name in cast("Mapping[str, Any]", value)))
    return f" Did you mean {close!r}?" if close else ""
