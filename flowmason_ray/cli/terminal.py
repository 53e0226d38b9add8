"""What a command writes on: whether it is a terminal, colour, width, and JSON on stdout.

Colour is used on terminals only, and not when `NO_COLOR` is set (no-color.org) or `TERM` is `dumb`. Whatever is shown by
colour is also said by a word or a sign.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TextIO

_STYLES = {
    "bold": "1",
    "dim": "2",
    "red": "31",
    "green": "32",
    "yellow": "33",
    "blue": "34",
    "magenta": "35",
    "cyan": "36",
}


def is_terminal(stream: TextIO) -> bool:
    """Tell whether somebody watches this stream; a stream that is closed is watched by nobody."""
    try:
        return stream.isatty()
    except ValueError:
        return False


def has_colour(stream: TextIO) -> bool:
    """Tell whether to write in colour."""
    return is_terminal(stream) and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


Paint = Callable[..., str]
"""`paint(text, *styles)` returns the text in these styles, or as it is."""


def plain(text: str, *styles: str) -> str:
    """Return the text as it is: the painter of streams without colour."""
    return text


def styled(text: str, *styles: str) -> str:
    """Return the text in these styles: the painter of streams with colour."""
    codes = ";".join(_STYLES[style] for style in styles)
    return f"\x1b[{codes}m{text}\x1b[0m" if codes and text else text


def painter(stream: TextIO) -> Paint:
    """Return a function that paints text for this stream."""
    return styled if has_colour(stream) else plain


def width_of(stream: TextIO, default: int = 100) -> int:
    """Return how many columns a stream has; `default` for one that is no terminal."""
    return shutil.get_terminal_size((default, 24)).columns if is_terminal(stream) else default


def can_show(stream: TextIO, text: str) -> bool:
    """Tell whether the stream's encoding has these characters."""
    try:
        text.encode(stream.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def note(text: str = "") -> None:
    """Write a line to stderr. When nobody reads it any more, that is no reason to stop."""
    with suppress(OSError, ValueError):
        print(text, file=sys.stderr, flush=True)


def write_json(value: Any) -> None:
    """Write a value to stdout as one JSON document: indented on a terminal, else on one line. Always UTF-8."""
    write_bytes(json_bytes(value, indent=is_terminal(sys.stdout)) + b"\n")


def write_text(text: str) -> None:
    """Write text to stdout as UTF-8, as it is."""
    write_bytes(text.encode("utf-8", "backslashreplace"))


def write_bytes(content: bytes) -> None:
    """Write to stdout; when its reader has gone, stop quietly.

    Raises:
        StdoutClosed: nobody reads stdout any more.
    """
    try:
        sys.stdout.flush()
        sys.stdout.buffer.write(content)
        sys.stdout.buffer.flush()
    except BrokenPipeError:
        abandon_stdout()
        raise StdoutClosed from None


class StdoutClosed(Exception):
    """Whoever read stdout has gone (`fm … | head`). Commands end quietly."""


def abandon_stdout() -> None:
    """Send what may still be buffered nowhere, so that the interpreter does not complain about it when it exits."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.close(nowhere)


def json_bytes(value: Any, *, indent: bool = False) -> bytes:
    """Return JSON text. What JSON has no form for (a date, a decimal, bytes) is written as text."""
    import orjson

    options = orjson.OPT_NON_STR_KEYS | orjson.OPT_SERIALIZE_NUMPY | (orjson.OPT_INDENT_2 if indent else 0)
    try:
        return orjson.dumps(value, default=str, option=options)
    except TypeError:  # an integer beyond 64 bits, half of a surrogate pair: the standard library writes those
        import json

        separators = None if indent else (",", ":")
        text = json.dumps(value, default=str, indent=2 if indent else None, separators=separators)
        return text.encode()


def columns(rows: list[tuple[str, ...]], *, header: tuple[str, ...], paint: Paint, width: int | None) -> list[str]:
    """Return lines of a table: columns as wide as they must be, the last one cut at `width` (None: never)."""
    table = [header, *rows]
    sizes = [max(len(row[i]) for row in table) for i in range(len(header))]
    lines: list[str] = []
    for n, row in enumerate(table):
        line = "  ".join(cell.ljust(size) for cell, size in zip(row, sizes, strict=True)).rstrip()
        if width is not None and len(line) > width:
            line = line[: width - 1] + "…"
        lines.append(paint(line, "bold") if n == 0 else line)
    return lines
