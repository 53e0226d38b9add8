"""Does a text say what it is quoted for? Compares quotes with their sources as a careful reader would: word for word, but
indifferent to how spaces, line breaks, quotation marks, dashes and capital letters are written.

Models shorten with an ellipsis; the parts between must then stand in the source in that order.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

SHORTEST = 3
"""Letters or digits that a part of a quote needs: shorter ones are found anywhere."""
PROVES = 10
"""Letters or digits with which a quote proves something: "ninety days" does, "the" stands in every text. Letters of scripts that
write a word with one or two of them (Chinese, Japanese, Korean) count for `WIDE`."""
WIDE = 3

_ALIKE = str.maketrans(
    {"“": '"', "”": '"', "„": '"', "«": '"', "»": '"', "‘": "'", "’": "'", "‚": "'", "`": "'",
     "–": "-", "—": "-", "‐": "-", "‑": "-", "−": "-", "\u00ad": ""}
)  # fmt: skip
_ELLIPSIS = re.compile(r"\s*(?:\[\s*(?:…|\.{3})\s*\]|\(\s*(?:…|\.{3})\s*\)|…|\.{3,})\s*")
_MARKER = re.compile(r"\[(\d{1,4}(?:\s*,\s*\d{1,4})*)\]")


def find_quote(quote: str, text: str) -> tuple[int, int] | None:
    """Return where a text holds a quote (from, to; the end exclusive), from its first to its last part; None: it does not."""
    parts = [_plain(part)[0].strip(" \"'") for part in _ELLIPSIS.split(quote)]
    parts = [part for part in parts if part]
    if not parts or any(sum(c.isalnum() for c in part) < SHORTEST for part in parts):
        return None
    plain, places = _plain(text)
    first: int | None = None
    at = 0
    for part in parts:
        found = _find_words(plain, part, at)
        if found < 0:
            return None
        first = found if first is None else first
        at = found + len(part)
    assert first is not None
    return places[first], places[at - 1] + 1


def is_telling(quote: str, text: str) -> bool:
    """Tell whether a quote is long enough to prove something: a part of it has `PROVES` letters, or it is all that the text says."""
    return max(_weight(part) for part in _ELLIPSIS.split(quote)) >= min(PROVES, _weight(text))


def _weight(text: str) -> int:
    return sum(WIDE if unicodedata.east_asian_width(c) in "WF" else 1 for c in text if c.isalnum())


def _find_words(plain: str, part: str, at: int) -> int:
    """Return where whole words are found: "rat" is not a quote of "separate"."""
    while (found := plain.find(part, at)) >= 0:
        end = found + len(part)
        before = found > 0 and plain[found - 1].isalnum() and part[0].isalnum()
        after = end < len(plain) and plain[end].isalnum() and part[-1].isalnum()
        # Languages without spaces between words have no word borders that could be seen.
        if not (before or after) or not part.isascii():
            return found
        at = found + 1
    return -1


def _plain(text: str) -> tuple[str, list[int]]:
    """Return a text as it is compared, and for each of its characters the place in the original."""
    out: list[str] = []
    places: list[int] = []
    for place, letter in enumerate(text):
        for each in unicodedata.normalize("NFKC", letter).translate(_ALIKE).casefold():
            if each.isspace():
                if out and out[-1] != " ":
                    out.append(" ")
                    places.append(place)
            else:
                out.append(each)
                places.append(place)
    return "".join(out), places


def markers(text: str) -> Sequence[int]:
    """Return the numbers that a text cites, `[1]` or `[2, 3]`, each once, in order."""
    numbers = (int(number) for match in _MARKER.finditer(text) for number in match[1].split(","))
    return list(dict.fromkeys(numbers))
