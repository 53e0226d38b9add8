"""What changed within a long text: word by word, with as much around it as is needed to see where it is."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Literal

LONG = 40
"""Characters from which on a text is compared by words; shorter ones are shown whole."""
MOST_WORDS = 4_000
"""Words that are compared one by one; longer texts are first compared by lines. Comparing takes the square of the number."""
CONTEXT = 36
"""Characters around a change that are shown."""

_WORD = re.compile(r"\s+|\w+|[^\w\s]")

Sign = Literal["same", "old", "new"]


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of two texts: in both, in the old one only, or in the new one only."""

    sign: Sign
    text: str


def is_long(old: object, new: object) -> bool:
    """Tell whether two values are texts of which at least one is long."""
    if not isinstance(old, str) or not isinstance(new, str):
        return False
    return max(len(old), len(new)) >= LONG or "\n" in old + new


def word_diff(old: str, new: str) -> list[Piece]:
    """Return two texts as pieces: all but the new ones give the old text, all but the old ones the new text."""
    words, others = _WORD.findall(old), _WORD.findall(new)
    if max(len(words), len(others)) <= MOST_WORDS:
        return _tidy(_compared(words, others))
    pieces: list[Piece] = []
    lines, other_lines = old.splitlines(keepends=True), new.splitlines(keepends=True)
    if max(len(lines), len(other_lines)) > MOST_WORDS:
        return [Piece("old", old), Piece("new", new)]
    for sign, i1, i2, j1, j2 in SequenceMatcher(None, lines, other_lines, autojunk=False).get_opcodes():
        one, other = "".join(lines[i1:i2]), "".join(other_lines[j1:j2])
        if sign == "equal":
            pieces.append(Piece("same", one))
        elif len(one) + len(other) <= 8 * MOST_WORDS:
            pieces += _compared(_WORD.findall(one), _WORD.findall(other))
        else:
            pieces += [Piece("old", one), Piece("new", other)]
    return _tidy(pieces)


def _compared(words: Sequence[str], others: Sequence[str]) -> list[Piece]:
    pieces: list[Piece] = []
    for sign, i1, i2, j1, j2 in SequenceMatcher(None, words, others, autojunk=False).get_opcodes():
        one, other = "".join(words[i1:i2]), "".join(others[j1:j2])
        pieces += [Piece("same", one)] if sign == "equal" else [Piece("old", one), Piece("new", other)]
    return pieces


def _tidy(pieces: list[Piece]) -> list[Piece]:
    """Join what belongs together: a single space between two changed words is no reason to show them apart."""
    made: list[Piece] = []
    old = new = ""

    def close() -> None:
        nonlocal old, new
        made.extend(piece for piece in (Piece("old", old), Piece("new", new)) if piece.text)
        old = new = ""

    for n, piece in enumerate(pieces):
        if piece.sign == "old":
            old += piece.text
        elif piece.sign == "new":
            new += piece.text
        elif piece.text.isspace() and "\n" not in piece.text and (old or new) and n + 1 < len(pieces):
            old, new = old + piece.text, new + piece.text
        else:
            close()
            made.append(piece)
    close()
    return made


def excerpt(pieces: Sequence[Piece], context: int = CONTEXT) -> list[Piece]:
    """Return the pieces with what is the same cut to what lies near a change; `…` stands for the rest."""
    made: list[Piece] = []
    last = len(pieces) - 1
    for n, piece in enumerate(pieces):
        text = piece.text
        if piece.sign == "same" and len(text) > (context if n in (0, last) else 2 * context):
            before = _start(text, context) if n > 0 else ""
            after = _end(text, context) if n < last else ""
            text = f"{before}…{after}"
        made.append(Piece(piece.sign, text))
    return made


def _start(text: str, length: int) -> str:
    cut = text[:length]
    return cut[: cut.rfind(" ") + 1] or cut


def _end(text: str, length: int) -> str:
    cut = text[-length:]
    return cut[cut.find(" ") if " " in cut else 0 :]
