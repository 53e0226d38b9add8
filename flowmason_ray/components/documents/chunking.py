"""Cuts a text into chunks: pure, linear in the text, and exact about where each chunk lies.

A text is first taken apart into atoms (words, or sentences), each with a weight in the unit that the size is given in. Chunks
are runs of atoms that are not heavier than the size. A run that could go on is cut back to the end of a paragraph, else of a
sentence, if there is one in its second half: readers and models understand whole thoughts better.

For every chunk `text[start:end]` is its text, every word of the text is in a chunk, and chunks only share their overlap.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Literal

Unit = Literal["characters", "tokens", "sentences"]

LONGEST_WORD = 32
"""Characters; a longer run without a space (a URL, base64, a language without spaces) may be cut."""

_WORD = re.compile(rf"\S{{1,{LONGEST_WORD}}}\s*")
_SENTENCE_END = re.compile(r"(?:(?<![.!?…])[.!?…]++[\"'”’»)\]]*(?=\s)|[。！？]+)\s*|\n[ \t]*\n\s*")
_ABBREVIATION = re.compile(
    r"(?:\b(?:[A-Za-z]|e\.g|i\.e|etc|vs|cf|al|Dr|Mr|Mrs|Ms|Prof|St|No|Nr|Fig|Eq|pp|Jr|Sr|Inc|Ltd|Co|approx|bzw|ca|usw|vgl))\.$"
)
_TOKEN = re.compile(r"[A-Za-z]+|\d|[^\W\d_]|[^\s\w]|_")
_LATIN_CHARS_PER_TOKEN = 4
"""English words come to about 1.3 tokens each in the tokenisers of 2023 and later: short ones are one token, longer ones
one for each four characters or so."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Piece:
    """Where a chunk lies, and how much it weighs in the unit asked for."""

    start: int
    end: int
    weight: int


def estimated_tokens(text: str) -> int:
    """Return about how many tokens a text is. No two models count alike; this counts rather too many than too few."""
    return sum(-(-len(word) // _LATIN_CHARS_PER_TOKEN) for word in _TOKEN.findall(text))


def sentence_spans(text: str, start: int = 0, end: int | None = None) -> Iterator[tuple[int, int]]:
    """Yield where sentences begin and end, white space behind them included; together they are the whole text.

    A blank line ends a sentence too. Abbreviations and initials do not.
    """
    end = len(text) if end is None else end
    at = start
    for match in _SENTENCE_END.finditer(text, start, end):
        before = text[max(at, match.start() - 8) : match.end()].rstrip()
        if before.endswith(".") and "\n\n" not in match[0] and _ABBREVIATION.search(before):
            continue
        if match.end() > at:
            yield at, match.end()
            at = match.end()
    if at < end:
        yield at, end


def cut(text: str, *, size: int, overlap: int, unit: Unit, start: int = 0, end: int | None = None) -> list[Piece]:
    """Cut `text[start:end]` into pieces of at most `size` units.

    Args:
        text: The text.
        size: The most that a piece may weigh, in `unit`. One word or sentence that is heavier makes a piece by itself.
        overlap: How much of a piece its successor may repeat, in `unit`; less than `size`.
        unit: What is counted.
        start: Where to begin.
        end: Where to end.

    Returns: the pieces in order; none for a text without words. White space at their ends is left out.
    """
    end = len(text) if end is None else end
    spans = _atoms(text, start, end, unit)
    if not spans:
        return []
    weights = [_weight(text, span, unit) for span in spans]
    total = [0, *accumulate(weights)]
    breaks = _breaks(text, spans, unit)
    pieces: list[Piece] = []
    first = done = 0
    while first < len(spans):
        last = max(bisect_right(total, total[first] + size) - 1, first + 1)
        if last < len(spans):
            last = _at_a_break(breaks, total, first, last, done)
        begin, stop = _trimmed(text, spans[first][0], spans[last - 1][1])
        pieces.append(Piece(start=begin, end=stop, weight=total[last] - total[first]))
        if last >= len(spans):
            break
        # The next one repeats whole atoms only, and leaves room for one that is new.
        room = bisect_left(total, total[last + 1] - size)
        first = min(max(bisect_left(total, total[last] - overlap), room, first + 1), last)
        done = last
    return pieces


def _atoms(text: str, start: int, end: int, unit: Unit) -> list[tuple[int, int]]:
    if unit == "sentences":
        return [span for span in sentence_spans(text, start, end) if text[span[0] : span[1]].strip()]
    return [match.span() for match in _WORD.finditer(text, start, end)]


def _weight(text: str, span: tuple[int, int], unit: Unit) -> int:
    if unit == "sentences":
        return 1
    if unit == "characters":
        return span[1] - span[0]
    return max(estimated_tokens(text[span[0] : span[1]]), 1)


def _breaks(text: str, spans: Sequence[tuple[int, int]], unit: Unit) -> tuple[list[int], list[int]]:
    """Return after how many atoms paragraphs end, and sentences."""
    paragraphs = [i for i, (a, b) in enumerate(spans, start=1) if "\n\n" in text[a:b]]
    if unit == "sentences":
        return paragraphs, []
    starts = {begin for begin, _ in sentence_spans(text, spans[0][0], spans[-1][1])}
    sentences = [i for i, (_, b) in enumerate(spans, start=1) if b in starts]
    return paragraphs, sentences


def _at_a_break(breaks: tuple[list[int], list[int]], total: Sequence[int], first: int, last: int, done: int) -> int:
    """Return where a run that could go on to `last` is better cut: behind `done`, where the one before it ended."""
    half = total[first] + (total[last] - total[first]) / 2
    for places in breaks:
        found = bisect_right(places, last) - 1
        if found >= 0 and places[found] > done and total[places[found]] >= half:
            return places[found]
    return last


def _trimmed(text: str, start: int, end: int) -> tuple[int, int]:
    piece = text[start:end]
    return start + len(piece) - len(piece.lstrip()), end - (len(piece) - len(piece.rstrip()))
