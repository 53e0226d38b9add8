"""Filters and methods on strings. Each takes the budget, the value, then its arguments, and charges before it works."""

from __future__ import annotations

import re
import unicodedata
from typing import Any

from flowmason_ray.spec.language.budget import Budget, Fault, over_budget
from flowmason_ray.spec.language.values import attribute_reader, elements, is_list, kind
from flowmason_ray.spec.language.writing import to_text

_MAX_SLUG = 1000
"""Characters that `slugify` takes: Unicode normalisation is quadratic for runs of combining marks."""


def text_of(value: Any, what: str) -> str:
    """Return the value if it is a string.

    Raises:
        Fault: it is not; `what` names the filter.
    """
    if type(value) is not str:
        raise Fault(f"{what!r} works on a string, not on {kind(value)}.")
    return value


def number_of(value: Any, what: str, low: int = -(1 << 31), high: int = 1 << 31) -> int:
    """Return the argument if it is an integer within bounds."""
    if type(value) is not int:
        raise Fault(f"{what} is an integer, not {kind(value)}.")
    if not low <= value <= high:
        raise Fault(f"{what} is between {low} and {high}.")
    return value


def _charged(budget: Budget, value: Any, what: str) -> str:
    text = text_of(value, what)
    budget.scan(len(text) * 2)
    budget.text(len(text))
    return text


def upper(budget: Budget, value: Any) -> str:
    """The string in upper case."""
    return _charged(budget, value, "upper").upper()


def lower(budget: Budget, value: Any) -> str:
    """The string in lower case."""
    return _charged(budget, value, "lower").lower()


def capitalize(budget: Budget, value: Any) -> str:
    """The string with its first letter in upper case and the rest in lower case."""
    return _charged(budget, value, "capitalize").capitalize()


def title(budget: Budget, value: Any) -> str:
    """The string with each word's first letter in upper case."""
    return _charged(budget, value, "title").title()


def _characters(characters: Any) -> str | None:
    if characters is None:
        return None
    if len(text_of(characters, "trim")) > 100:
        raise over_budget("more than 100 characters to trim")
    return characters


def trim(budget: Budget, value: Any, characters: Any = None) -> str:
    """The string without white space (or the given characters) at both ends."""
    return _charged(budget, value, "trim").strip(_characters(characters))


def trim_left(budget: Budget, value: Any, characters: Any = None) -> str:
    """The string without white space (or the given characters) at its start."""
    return _charged(budget, value, "lstrip").lstrip(_characters(characters))


def trim_right(budget: Budget, value: Any, characters: Any = None) -> str:
    """The string without white space (or the given characters) at its end."""
    return _charged(budget, value, "rstrip").rstrip(_characters(characters))


def split(budget: Budget, value: Any, separator: Any = None, limit: Any = -1) -> list[str]:
    """The parts between separators (white space when none is given), at most `limit` splits."""
    text = _charged(budget, value, "split")
    number_of(limit, "The limit of 'split'")
    if separator is None:
        # One part more than may be made shows that there are too many, without making them all.
        parts = text.split(None, limit if 0 <= limit <= budget.items_left else budget.items_left + 1)
        budget.items(len(parts))
        return parts
    if not text_of(separator, "split"):
        raise Fault("The separator of 'split' is empty.")
    budget.items(text.count(separator) + 1)
    return text.split(separator, limit)


def split_lines(budget: Budget, value: Any) -> list[str]:
    """The lines of the string, without their ends."""
    text = _charged(budget, value, "splitlines")
    budget.spend(len(text) // 8)
    lines = text.splitlines()
    budget.items(len(lines))
    return lines


def join(budget: Budget, value: Any, separator: Any = "", attribute: Any = None) -> str:
    """The elements (or their `attribute`) as text, one after the other with the separator between them."""
    if type(value) is str:
        return value if not separator else join(budget, list(elements(budget, value)), separator)
    if not is_list(value):
        raise Fault(f"'join' works on a list, not on {kind(value)}.")
    between = to_text(budget, separator)
    read = None if attribute is None else attribute_reader(budget, attribute)
    pieces: list[str] = []
    for element in elements(budget, value):
        piece = to_text(budget, element if read is None else read(element))
        budget.text(len(piece) + len(between))
        pieces.append(piece)
    return between.join(pieces)


def join_with(budget: Budget, value: Any, parts: Any) -> str:
    """The parts as text, with this string between them."""
    return join(budget, parts, value)


def replace(budget: Budget, value: Any, old: Any, new: Any, count: Any = -1) -> str:
    """The string with every `old` (or the first `count`) replaced by `new`."""
    text = text_of(value, "replace")
    old, new = text_of(old, "replace"), to_text(budget, new)
    number_of(count, "The count of 'replace'")
    budget.scan(len(text) * 2)
    found = text.count(old)
    if count >= 0:
        found = min(found, count)
    budget.spend(found // 8)
    budget.text(len(text) + found * max(0, len(new) - len(old)))
    return text.replace(old, new, count)


def truncate(budget: Budget, value: Any, length: Any = 255, killwords: Any = False, end: Any = "…") -> str:
    """The string cut to at most `length` characters, at a word unless `killwords`; `end` marks that it was cut."""
    text, mark = text_of(value, "truncate"), text_of(end, "truncate")
    limit = number_of(length, "The length of 'truncate'", 0)
    if len(text) <= limit:
        return text
    budget.text(limit + len(mark))
    kept = text[: max(0, limit - len(mark))]
    if not killwords and " " in kept:
        kept = kept.rsplit(" ", 1)[0]
    return (kept + mark)[:limit]


def slugify(budget: Budget, value: Any, separator: Any = "-") -> str:
    """The string as a lower-case ASCII name: letters and digits, everything else one separator."""
    text, between = to_text(budget, value), text_of(separator, "slugify")
    if len(text) > _MAX_SLUG or len(between) > 10:
        raise over_budget(f"a slug of more than {_MAX_SLUG} characters")
    budget.spend(len(text) * 4)
    budget.text(len(text) * 20)
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode("ascii").lower()
    return between.join(re.findall(r"[a-z0-9]+", plain))


def starts_with(budget: Budget, value: Any, prefix: Any) -> bool:
    """Whether the string starts with the prefix."""
    budget.scan(len(text_of(prefix, "startswith")))
    return text_of(value, "startswith").startswith(prefix)


def ends_with(budget: Budget, value: Any, suffix: Any) -> bool:
    """Whether the string ends with the suffix."""
    budget.scan(len(text_of(suffix, "endswith")))
    return text_of(value, "endswith").endswith(suffix)


def find(budget: Budget, value: Any, part: Any) -> int:
    """The index of the first occurrence of `part` in the string, or -1."""
    budget.scan(len(text_of(value, "find")))
    return value.find(text_of(part, "find"))


def count_text(budget: Budget, value: Any, part: Any) -> int:
    """How often `part` occurs in the string, without overlaps."""
    budget.scan(len(text_of(value, "count")) * 2)
    return value.count(text_of(part, "count"))


def is_digits(budget: Budget, value: Any) -> bool:
    """Whether the string is not empty and all digits."""
    budget.scan(len(text_of(value, "isdigit")))
    return value.isdigit()


def is_letters(budget: Budget, value: Any) -> bool:
    """Whether the string is not empty and all letters."""
    budget.scan(len(text_of(value, "isalpha")))
    return value.isalpha()
