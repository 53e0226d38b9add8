"""Finding terms in texts as whole words, in any case and in any language.

Why not a pattern with `\\b`: in RE2 that knows only ASCII, so that "opération" would hold the word "ration", and "Ölpreise" the
word "Ölpreis". And why the standard library's `re`, which can take for ever: a term is only letters with spaces between them, and
of such patterns none can.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from functools import lru_cache

# Chinese, Japanese, Thai, Lao, Burmese and Khmer put no spaces between words, and Korean none before particles: a term may stand anywhere.
_UNSPACED = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1100-\u11ff\u1780-\u17ff\u3005-\u3007\u3040-\u30ff\u3130-\u318f\u31f0-\u31ff"
    "\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7a3\uf900-\ufaff\uff66-\uff9f\U00020000-\U0003ffff]"
)


def spans_of(term: str, text: str) -> Iterator[tuple[int, int]]:
    """Yield where a term stands in a text, from left to right, in characters from 0 (the end is exclusive).

    Between its words may be any white space. Letters, digits, `_` and accents that follow a letter make up a word.
    """
    done = 0
    for found in _pattern(term).finditer(text):
        start, end = found.span(1)
        if start >= done and _is_edge(text, start) and _is_edge(text, end):
            yield start, end
            done = end


@lru_cache(maxsize=256)
def _pattern(term: str) -> re.Pattern[str]:
    # In a look-ahead, so that what is no whole word hides nothing that begins within it.
    words = r"\s+".join(map(re.escape, term.split()))
    return re.compile(f"(?=({words}))", re.IGNORECASE)


def _is_edge(text: str, at: int) -> bool:
    if at in (0, len(text)):
        return True
    before, after = text[at - 1], text[at]
    if _UNSPACED.match(before) or _UNSPACED.match(after):
        return True
    return not (_is_of_word(before) and _is_of_word(after))


def _is_of_word(character: str) -> bool:
    return character.isalnum() or character == "_" or unicodedata.category(character).startswith("M")
