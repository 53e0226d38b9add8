"""Regular expressions that cannot hang: RE2, whose time is linear in the text.

Why RE2 and not `re` or `regex`: `re` backtracks, so `(a+)+b` on thirty letters takes longer than a run; `regex` has a
timeout, but a timeout is a clock, and the same expression on the same values would end well on one machine and fail on
another, also in a replay. RE2 refuses what cannot be linear (back-references inside a pattern, look-around) when the
pattern is compiled. The package is a single extension module of about 1.5 MB, imported when a pattern is first used.

What is charged follows RE2's three speeds (measured, 2 GHz core). Its automaton reads 1.6 ns a byte, whatever the pattern.
When groups are asked for, or when the automaton has too many states to be kept, each byte costs 4 ns for every instruction
of the compiled pattern. And finding *all* matches starts anew after each: a pattern like `a.*b|a` then reads to the end of
the text each time, so unless a look at the pattern shows that it cannot, each match is charged for the rest of the text.
"""

from __future__ import annotations

import re as _names
from functools import lru_cache
from typing import Any

from flowmason_ray.spec.language.budget import Budget, Fault
from flowmason_ray.spec.language.values import kind

MAX_PATTERN = 1000
"""Characters of a pattern."""
_MAX_MEMORY = 1 << 20
"""Bytes that RE2 may use for one compiled pattern; limits `(x{1000}){1000}` to an error."""
_BYTES_PER_STEP = 256
"""What the automaton reads in one step."""
_WORK_PER_STEP = 100
"""Bytes of text × instructions of the pattern, for one step, where the automaton does not do."""
_SMALL_PROGRAM = 16
"""Instructions up to which the automaton's states always fit into `_MAX_MEMORY`."""
_STEPS_PER_MATCH = 10
"""What it takes to hand one match over to Python."""

_ENDLESS = _names.compile(r"\{(?:\d+,)?\d{9,}(?:,\d*)?\}")
"""Repetitions whose number RE2 cannot hold: it takes them for the letters that they are written with, and says nothing."""
_GROUP = _names.compile(r"\\(?:(\d)|g<(\w{1,60})>|(\\))")


@lru_cache(maxsize=256)
def compiled(pattern: str) -> Any:
    """Compile a pattern.

    Raises:
        Fault: RE2 cannot compile it; the message says why.
    """
    import re2  # pyright: ignore[reportMissingTypeStubs]  # the package has none; imported when the first pattern is met

    library: Any = re2  # it has no types
    endless = _ENDLESS.search(_names.sub(r"\\.", "", pattern, flags=_names.DOTALL))
    if endless is not None:
        raise Fault(
            f"{pattern!r} is not a regular expression that can be used here (RE2 syntax): {endless.group()!r} repeats too often; "
            "up to 1000 times is possible."
        )
    options = library.Options()
    options.max_mem = _MAX_MEMORY
    options.log_errors = False
    try:
        return library.compile(pattern, options)
    except (library.error, UnicodeEncodeError) as exc:
        reason: Any = exc.args[0] if exc.args else ""
        text = reason.decode("utf-8", "replace") if isinstance(reason, bytes) else str(exc)
        raise Fault(f"{pattern!r} is not a regular expression that can be used here (RE2 syntax): {text}.") from None


def _prepare(budget: Budget, text: Any, pattern: Any) -> Any:
    for value, what in ((text, "text"), (pattern, "pattern")):
        if type(value) is not str:
            raise Fault(f"A regular expression needs a string as its {what}, not {kind(value)}.")
    if len(pattern) > MAX_PATTERN:
        raise Fault(
            f"A regular expression of more than {MAX_PATTERN} characters is too long.", code="expression_budget"
        )
    budget.spend(_compile_steps(pattern))
    budget.scan(len(text))
    regex = compiled(pattern)
    size = _size_bytes(text)
    slow = regex.groups or regex.programsize > _SMALL_PROGRAM
    budget.spend(size * regex.programsize // _WORK_PER_STEP if slow else size // _BYTES_PER_STEP)
    return regex


def _compile_steps(pattern: str) -> int:
    """Return what compiling may cost, also when the pattern is in the cache: a Unicode class is 1200 instructions."""
    classes = pattern.count("\\p") + pattern.count("\\P")
    repeats = _names.search(r"\{\d\d", pattern) is not None
    return 10 * len(pattern) + 2000 * classes + (40_000 if repeats and classes else 10_000 if repeats else 0)


def _size_bytes(text: str) -> int:
    """Return an upper bound of the size in UTF-8."""
    return len(text) if text.isascii() else 4 * len(text)


def _is_local(pattern: str) -> bool:
    """Tell whether looking for the next match never reads far beyond it.

    So it is when nothing in the pattern repeats without bound, or only its very last part does (`\\s+`, `[^,]*`).
    """
    plain = _names.sub(r"\\.|\[\^?\]?(?:[^\]\\]|\\.)*\]", "x", pattern.removeprefix("(?i)"), flags=_names.DOTALL)
    unbounded = [found.end() for found in _names.finditer(r"[*+]|\{\d+,\}", plain)]
    if "\\Q" in pattern:
        return False
    return not unbounded or (unbounded == [len(plain)] and "(" not in plain and "|" not in plain)


def _run(call: Any, *args: Any) -> Any:
    try:
        return call(*args)
    except UnicodeEncodeError:
        raise Fault("The text is not valid Unicode (it holds half of a surrogate pair).") from None


def search(budget: Budget, value: Any, pattern: Any, group: Any = 0) -> Any:
    """Return what the pattern (or one group of it, by number or name) first matches, or null."""
    regex = _prepare(budget, value, pattern)
    found = _run(regex.search, value)
    if found is None:
        return None
    text = _group(found, group)
    budget.text(len(text or ""))
    return text


def _group(found: Any, group: Any) -> str | None:
    if type(group) not in (int, str):
        raise Fault(f"A group is named by a number or a string, not {kind(group)}.")
    try:
        return found.group(group)
    except (IndexError, KeyError):
        raise Fault(f"The regular expression has no group {group!r}.") from None


def matches(budget: Budget, value: Any, pattern: Any) -> bool:
    """Tell whether the pattern matches anywhere in the text."""
    return _run(_prepare(budget, value, pattern).search, value) is not None


def find_all(budget: Budget, value: Any, pattern: Any, group: Any = 0) -> list[Any]:
    """Return everything that the pattern (or one group of it) matches, from left to right, as a list."""
    return [_group(found, group) for found in _each(budget, value, pattern)]


def _each(budget: Budget, value: str, pattern: Any) -> list[Any]:
    """Collect the matches; each is charged for what finding the next one may take."""
    regex = _prepare(budget, value, pattern)
    found: list[Any] = []
    local, size = _is_local(pattern), _size_bytes(value)
    each = _STEPS_PER_MATCH + (regex.programsize // 64 if local else 0)
    share = _BYTES_PER_STEP if not regex.groups else max(1, _WORK_PER_STEP // regex.programsize)
    for match in _run(regex.finditer, value):
        start, end = match.span()
        budget.spend(each if local else each + max(0, size - end) // share)
        budget.items(1)
        budget.text(end - start)
        found.append(match)
    return found


def replace(budget: Budget, value: Any, pattern: Any, replacement: Any = "") -> str:
    r"""Replace every match; `\1` and `\g<name>` in the replacement stand for groups, `\\` for a backslash."""
    if type(replacement) is not str:
        raise Fault(f"A replacement is a string, not {kind(replacement)}.")
    budget.scan(len(replacement))
    pieces: list[str] = []
    done = 0
    parts = _parts(budget, replacement)
    for match in _each(budget, value, pattern):
        start, end = match.span()
        pieces.append(value[done:start])
        for literal, group in parts:
            piece = literal if group is None else _group(match, group) or ""
            budget.spend(1)
            budget.text(len(piece))
            pieces.append(piece)
        done = end
    budget.text(len(value))
    pieces.append(value[done:])
    return "".join(pieces)


def _parts(budget: Budget, replacement: str) -> list[tuple[str, int | str | None]]:
    parts: list[tuple[str, int | str | None]] = []
    done = 0
    for found in _GROUP.finditer(replacement):
        budget.spend(2)
        if found.start() > done:
            parts.append((replacement[done : found.start()], None))
        number, name, backslash = found.groups()
        if backslash:
            parts.append(("\\", None))
        else:
            parts.append(("", int(number) if number else int(name) if name.isdecimal() else name))
        done = found.end()
    if done < len(replacement):
        parts.append((replacement[done:], None))
    return parts
