"""SQL as pipelines write it: one statement with `:name` for every value, which the database gets beside the text.

Values never become part of the text. What looks like a name inside a quoted text or a comment is none, and `::` is a cast.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from flowmason_ray.errors import PermanentError, nearest

TOKEN = re.compile(
    r"""
    '(?:[^']|'')*'          # a text
  | "(?:[^"]|"")*"          # a quoted name
  | \$(?P<tag>\w*)\$.*?\$(?P=tag)\$  # PostgreSQL's texts: $$…$$ and $tag$…$tag$
  | --[^\n]*                # a comment to the end of the line
  | /\*.*?\*/               # a comment
  | ::                      # a cast, not a parameter
  | :(?P<name>[A-Za-z_]\w*)
    """,
    re.VERBOSE | re.DOTALL,
)


def with_names(
    statement: str,
    parameters: Mapping[str, Any],
    *,
    name: Callable[[str], str],
    rest: Callable[[str], str],
) -> tuple[str, dict[str, Any]]:
    """Return a statement in a driver's own style, and the parameters that it uses.

    Args:
        statement: With `:name` for every value.
        parameters: The values.
        name: How the driver writes a parameter.
        rest: How the driver wants everything else (its own special characters doubled, say).

    Raises:
        PermanentError: a name without a value (`unknown_parameter`), or a value that no column takes (`invalid_parameter`).
    """
    used: dict[str, Any] = {}
    parts: list[str] = []
    end = 0
    for match in TOKEN.finditer(statement):
        parts.append(rest(statement[end : match.start()]))
        end = match.end()
        found = match["name"]
        if found is None:
            parts.append(rest(match.group()))
            continue
        if found not in parameters:
            raise unknown_parameter(found, parameters)
        used[found] = parameters[found]
        parts.append(name(found))
    parts.append(rest(statement[end:]))
    return "".join(parts), used


def unknown_parameter(name: str, parameters: Iterable[str]) -> PermanentError:
    """Return the error for a parameter that has no value."""
    near = nearest(name, parameters)
    hint = f" Did you mean {near!r}?" if near else " Give it in 'parameters'."
    return PermanentError(f"The statement's parameter {name!r} has no value.{hint}", code="unknown_parameter")


def first_word(statement: str) -> str:
    """Return the first word of a statement in upper case, comments and brackets skipped."""
    bare = re.sub(r"--[^\n]*|/\*.*?\*/", " ", statement, flags=re.DOTALL).lstrip(" \t\r\n(")
    found = re.match(r"[A-Za-z]+", bare)
    return found.group().upper() if found else ""
