"""The words in the XML of a Word file, wherever they stand.

Paragraphs, tables and runs stand not only directly below each other, but also in content controls, tracked insertions, fields,
smart tags, links and text boxes. So everything is walked, and only what is no text of the document is left out: what was
deleted or moved away, field codes, and the second of two forms of the same drawing.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

_W = "{http://schemas.openxmlformats.org/wordprocessingml/2006/main}"
_MC = "{http://schemas.openxmlformats.org/markup-compatibility/2006}"
_P, _TABLE, _ROW, _CELL, _BOX = (f"{_W}{name}" for name in ("p", "tbl", "tr", "tc", "txbxContent"))
_TEXTS = frozenset({f"{_W}t", "{http://schemas.openxmlformats.org/officeDocument/2006/math}t"})
_SIGNS = {f"{_W}tab": "\t", f"{_W}ptab": "\t", f"{_W}br": "\n", f"{_W}cr": "\n", f"{_W}noBreakHyphen": "-"}
_LEFT_OUT = frozenset(
    f"{_W}{name}"
    for name in (
        "del",
        "moveFrom",
        "pPr",
        "rPr",
        "tblPr",
        "trPr",
        "tcPr",
        "sdtPr",
        "sdtEndPr",
        "sectPr",
        "rt",
        "instrText",
    )
)
_CHOICE, _FALLBACK = f"{_MC}Choice", f"{_MC}Fallback"


def is_table(block: Any) -> bool:
    """Tell a table from a paragraph."""
    return block.tag == _TABLE


def blocks_of(element: Any) -> Iterator[Any]:
    """Yield the paragraphs and tables below an element, in their order, without those inside of them."""
    return _nearest(element, (_P, _TABLE))


def style_of(paragraph: Any) -> str | None:
    """Return the id of a paragraph's style, if it names one."""
    found = paragraph.find(f"{_W}pPr/{_W}pStyle")
    return None if found is None else found.get(f"{_W}val")


def text_of(paragraph: Any) -> str:
    """Return the words of a paragraph; those of text boxes in it follow on lines of their own."""
    words: list[str] = []
    boxes: list[str] = []
    for element in _nearest(paragraph, (*_TEXTS, *_SIGNS, _BOX)):
        if element.tag in _TEXTS:
            words.append(element.text or "")
        elif element.tag == _BOX:
            boxes += _lines(element)
        else:
            words.append(_SIGNS[element.tag])
    return "\n".join(["".join(words), *boxes])


def rows_of(table: Any) -> list[str]:
    """Return the rows of a table as lines, cells between bars; a cell that spans rows stands in each of them."""
    rows: list[str] = []
    above: dict[int, str] = {}
    for row in _nearest(table, (_ROW,)):
        if row.find(f"{_W}trPr/{_W}del") is not None:
            continue
        column = _number(row, f"{_W}trPr/{_W}gridBefore", 0)
        cells: list[str] = []
        spanning: dict[int, str] = {}
        for cell in _nearest(row, (_CELL,)):
            text = " ".join(" ".join(_lines(cell)).split())
            merged = cell.find(f"{_W}tcPr/{_W}vMerge")
            if merged is not None:
                if merged.get(f"{_W}val") != "restart" and not text:
                    text = above.get(column, "")
                spanning[column] = text
            cells.append(text)
            column += _number(cell, f"{_W}tcPr/{_W}gridSpan", 1)
        above = spanning
        rows.append(" | ".join(cells))
    return rows


def _lines(element: Any) -> list[str]:
    lines: list[str] = []
    for block in blocks_of(element):
        lines += rows_of(block) if is_table(block) else [text_of(block)]
    return lines


def _number(element: Any, path: str, default: int) -> int:
    found = element.find(path)
    return default if found is None else int(found.get(f"{_W}val") or default)


def _nearest(element: Any, wanted: tuple[str, ...]) -> Iterator[Any]:
    """Yield the nearest elements of the wanted kinds below an element, in the order of the document."""
    left = [iter(element)]
    while left:
        child = next(left[-1], None)
        if child is None:
            left.pop()
        elif child.tag in wanted:
            yield child
        elif child.tag not in _LEFT_OUT and not _is_second_form(child):
            left.append(iter(child))


def _is_second_form(element: Any) -> bool:
    return element.tag == _FALLBACK and element.getparent().find(_CHOICE) is not None
