"""Versions and ranges of versions: semver.org 2.0.0, with the range syntax of npm that references use (`name@^1.2`).

Ranges: `1.2.3`, `=1.2.3`, `>=1.2`, `<2`, `^1.2`, `~1.2`, `1.x`, `*`, `1.2 - 2.3`, several joined by spaces (all must hold) or by
`||` (one must). What is left out of a number is filled as npm does: `>1.2` is `>=1.3.0`, `<=1.2` is `<1.3.0`.

A pre-release is only meant by a range that names a pre-release of the same major.minor.patch: `^1.2.0-beta.1` takes
`1.2.0-beta.2`, and neither `^1` nor `*` takes `1.3.0-rc.1`. Whoever writes a range does not ask for what is not finished.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import lru_cache
from operator import ge, gt, le, lt
from typing import NamedTuple

_NUMBER = r"(?:0|[1-9][0-9]{0,14})"
_PART = rf"{_NUMBER}|[xX*]"
_TAG = r"(?:-(?P<tag>[0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*))?(?:\+[0-9A-Za-z.-]+)?"
_VERSION = re.compile(rf"(?P<major>{_NUMBER})(?:\.(?P<minor>{_NUMBER}))?(?:\.(?P<patch>{_NUMBER}))?{_TAG}", re.ASCII)
_PARTIAL = re.compile(rf"[vV]?(?P<major>{_PART})(?:\.(?P<minor>{_PART}))?(?:\.(?P<patch>{_PART}))?{_TAG}", re.ASCII)
_COMPARATOR = re.compile(r"(?P<sign>\^|~>?|>=|<=|>|<|=)?(?P<version>.*)")
_SPACE_BEHIND_SIGN = re.compile(r"(?<=[<>=^~])\s+")
_HYPHEN = re.compile(r"\s*(\S+)\s+-\s+(\S+)\s*")

Key = tuple[int, int, int, tuple[tuple[int, int, str], ...]]

_HOLDS: dict[str, Callable[[Key, Key], bool]] = {">=": ge, ">": gt, "<=": le, "<": lt}

_RELEASE = ((2, 0, ""),)
"""In place of a tag: sorts after every pre-release."""
_BEFORE_ALL = ((-1, 0, ""),)
"""In place of a tag: sorts before every pre-release."""


class Comparator(NamedTuple):
    """A bound: a version fits when its key compares so."""

    sign: str
    """`>=`, `>`, `<` or `<=`."""
    key: Key
    names_pre_release: bool
    """Whether it was written with a tag."""


def version_key(version: str) -> Key:
    """Return a key that sorts versions by precedence (semver §11; a pre-release comes before its release).

    Minor and patch may be left out and are 0 then.

    Raises:
        ValueError: `version` is no version.
    """
    match = _VERSION.fullmatch(version)
    if match is None:
        raise ValueError(f"not a version: {version!r}")
    return (int(match["major"]), int(match["minor"] or 0), int(match["patch"] or 0), _tag(match["tag"]))


def _tag(text: str | None) -> tuple[tuple[int, int, str], ...]:
    if text is None:
        return _RELEASE
    return tuple((0, int(part), "") if part.isdecimal() else (1, 0, part) for part in text.split("."))


def in_range(version: str, wanted: str) -> bool:
    """Tell whether `version` satisfies the range `wanted`.

    Raises:
        ValueError: either cannot be parsed.
    """
    key = version_key(version)
    return any(_fits(key, comparators) for comparators in parse_range(wanted))


def is_range(wanted: str) -> bool:
    """Tell whether `wanted` can be parsed as a range."""
    try:
        parse_range(wanted)
    except ValueError:
        return False
    return True


@lru_cache(maxsize=256)
def parse_range(wanted: str) -> tuple[tuple[Comparator, ...], ...]:
    """Return a range as alternatives of comparators that must all hold.

    Raises:
        ValueError: it is no range.
    """
    return tuple(tuple(_comparators(choice, wanted)) for choice in wanted.split("||"))


def _fits(key: Key, comparators: tuple[Comparator, ...]) -> bool:
    if key[3] != _RELEASE and not any(c.names_pre_release and c.key[:3] == key[:3] for c in comparators):
        return False
    return all(_HOLDS[c.sign](key, c.key) for c in comparators)


def _comparators(choice: str, wanted: str) -> Iterator[Comparator]:
    if hyphen := _HYPHEN.fullmatch(choice):
        yield from _expanded(">=", hyphen[1], wanted)
        yield from _expanded("<=", hyphen[2], wanted)
        return
    for part in _SPACE_BEHIND_SIGN.sub("", choice).split():
        match = _COMPARATOR.fullmatch(part)
        assert match is not None, "everything in it may be missing"
        yield from _expanded((match["sign"] or "=").replace("~>", "~"), match["version"], wanted)


def _expanded(sign: str, version: str, wanted: str) -> Iterator[Comparator]:
    """Yield the bounds that one comparator stands for."""
    match = _PARTIAL.fullmatch(version)
    if match is None:
        raise ValueError(f"not a version range: {wanted!r}")
    given: list[int] = []
    for name in ("major", "minor", "patch"):
        if match[name] is None or not match[name].isdecimal():
            break  # what follows an x means nothing
        given.append(int(match[name]))
    named = match["tag"] is not None and len(given) == 3
    low: Key = (*_three(given), _tag(match["tag"]) if named else _RELEASE)
    if not given:  # `*`: everything; what is beyond everything, or before it, is nothing
        yield Comparator("<" if sign in "<>" else ">=", (0, 0, 0, _BEFORE_ALL if sign in "<>" else _RELEASE), False)
    elif sign == ">=" or (sign == ">" and len(given) == 3):
        yield Comparator(sign, low, named)
    elif sign == ">":
        yield Comparator(">=", (*_next(given, len(given) - 1)[:3], _RELEASE), False)
    elif sign == "<":
        yield Comparator("<", low if len(given) == 3 else (*low[:3], _BEFORE_ALL), named)
    elif sign == "<=":
        yield Comparator("<=", low, named) if len(given) == 3 else Comparator("<", _next(given, len(given) - 1), False)
    else:
        yield Comparator(">=", low, named)
        if sign == "=" and len(given) == 3:
            yield Comparator("<=", low, named)
        else:
            yield Comparator("<", _next(given, _fixed(sign, given)), False)


def _fixed(sign: str, given: list[int]) -> int:
    """Return the position of the number that may not change."""
    if sign == "^":
        # The leftmost number that is not zero stays (npm's rule); of a zero version, the last one that was given.
        return next((i for i, n in enumerate(given) if n), len(given) - 1)
    return min(1, len(given) - 1) if sign == "~" else len(given) - 1


def _three(numbers: list[int]) -> tuple[int, int, int]:
    major, minor, patch = [*numbers, 0, 0, 0][:3]
    return major, minor, patch


def _next(given: list[int], position: int) -> Key:
    return (*_three([*given[:position], given[position] + 1]), _BEFORE_ALL)
