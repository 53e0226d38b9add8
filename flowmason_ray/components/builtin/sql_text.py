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
    """Return the first word of a statement in upper case, comments and brackets skipped.

    Comments lie in each other, as PostgreSQL reads them; what a word is hidden in for one reader must not show it to another.
    """
    at, depth = 0, 0
    while at < len(statement):
        two = statement[at : at + 2]
        if two == "/*":
            depth, at = depth + 1, at + 2
        elif depth and two == "*/":
            depth, at = depth - 1, at + 2
        elif depth:
            at += 1
        elif two == "--":
            end = re.compile(r"[\r\n]").search(statement, at)
            at = end.end() if end else len(statement)
        elif statement[at] in " \t\r\n\f\v(":
            at += 1
        else:
            break
    found = re.compile(r"[A-Za-z]+").match(statement, at)
    return found.group().upper() if found else ""


_READING = ("SELECT", "WITH", "VALUES", "TABLE", "SHOW", "EXPLAIN")


def check_reads(statement: str) -> None:
    """Refuse what is no query of PostgreSQL's: also a transaction that is READ ONLY runs `COPY … TO PROGRAM`, `DO` and `CALL`.

    Raises:
        PermanentError: `sql_read_only`.
    """
    word = first_word(statement)
    if word not in _READING:
        raise PermanentError(
            f"A query that only reads begins with {', '.join(_READING[:-1])} or {_READING[-1]}; found {word or statement[:20]!r}. "
            "Use sql_execute (or postgres with operation 'execute') for other statements.",
            code="sql_read_only",
        )
