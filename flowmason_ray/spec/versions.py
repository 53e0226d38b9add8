"""Versions and ranges of versions: semver.org 2.0.0, with the range syntax of npm that references use (`name@^1.2`).

Ranges: `1.2.3`, `=1.2.3`, `>=1.2`, `<2`, `^1.2`, `~1.2`, `1.x`, `*`, several joined by spaces (all must hold) or `||`.
"""

from __future__ import annotations

import re

_VERSION = re.compile(r"^(\d+)(?:\.(\d+|[xX*]))?(?:\.(\d+|[xX*]))?(?:-([0-9A-Za-z.-]+))?(?:\+[0-9A-Za-z.-]+)?$")
_COMPARATOR = re.compile(r"^(\^|~|>=|<=|>|<|=)?\s*v?(.+)$")

Key = tuple[int, int, int, tuple[tuple[int, int, str], ...]]


def version_key(version: str) -> Key:
    """Return a key that sorts versions by precedence (semver §11; a pre-release comes before its release).

    Raises:
        ValueError: `version` is not major.minor.patch.
    """
    match = _VERSION.match(version)
    if match is None:
        raise ValueError(f"not a version: {version!r}")
    major, minor, patch, pre = match.groups()
    return (int(major), int(minor or 0), int(patch or 0), _pre_release(pre))


def _pre_release(text: str | None) -> tuple[tuple[int, int, str], ...]:
    if text is None:
        return ((2, 0, ""),)  # sorts after every pre-release
    return tuple((0, int(part), "") if part.isdigit() else (1, 0, part) for part in text.split("."))


def in_range(version: str, wanted: str) -> bool:
    """Tell whether `version` satisfies the range `wanted`.

    Raises:
        ValueError: either cannot be parsed.
    """
    key = version_key(version)
    return any(all(_holds(key, part) for part in re.split(r"\s+", choice.strip())) for choice in wanted.split("||"))


def _holds(key: Key, comparator: str) -> bool:
    if comparator in ("", "*", "x", "X"):
        return True
    match = _COMPARATOR.match(comparator)
    parts = _VERSION.match(match.group(2)) if match else None
    if match is None or parts is None:
        raise ValueError(f"not a version range: {comparator!r}")
    sign = match.group(1)
    given = [int(p) for p in parts.groups()[:3] if p is not None and p.isdigit()]
    low: Key = (*[*given, 0, 0, 0][:3], _pre_release(parts.group(4)))  # pyright: ignore[reportAssignmentType]  # three numbers
    if sign in (">=", ">", "<=", "<"):
        return {">=": key >= low, ">": key > low, "<=": key <= low, "<": key < low}[sign]
    if sign == "^":
        # The leftmost number that is not zero stays (npm's rule); of a zero version, the last one that was given.
        fixed = next((i for i, n in enumerate(given) if n), len(given) - 1)
        return low <= key < _next(given, fixed)
    if sign == "~":
        return low <= key < _next(given, min(1, len(given) - 1))
    return key == low if len(given) == 3 else low <= key < _next(given, len(given) - 1)


def _next(given: list[int], position: int) -> Key:
    numbers = [*given[:position], given[position] + 1, 0, 0, 0][:3]
    return (numbers[0], numbers[1], numbers[2], ((-1, 0, ""),))  # below every pre-release of that version
