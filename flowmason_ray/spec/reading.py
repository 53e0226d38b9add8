"""From a file, or bytes, to text: bounded in size, UTF-8 without a byte-order mark."""

from __future__ import annotations

from pathlib import Path
from typing import NoReturn

from flowmason_ray.errors import InvalidPipeline, Problem, nearest
from flowmason_ray.spec.source import Source

MAX_BYTES = 64 * 1024 * 1024
"""The largest file that is read. A pipeline of 10,000 stages takes about 5 MB."""


def read_source(path: Path) -> Source:
    """Read a file as text.

    Raises:
        InvalidPipeline: it is missing, a directory, unreadable, too large, or not UTF-8.
    """
    file = str(path)
    try:
        with path.open("rb") as stream:
            content = stream.read(MAX_BYTES + 1)
    except FileNotFoundError:
        folder = path.parent
        others = [p.name for p in folder.iterdir()] if folder.is_dir() else []
        close = nearest(path.name, (name for name in others if name.endswith(".json")))
        message = f"There is no file {file!r}." if folder.is_dir() else f"There is no directory {str(folder)!r}."
        _refuse(Problem(code="file_not_found", message=message, file=file, nearest=close and str(folder / close)))
    except IsADirectoryError:
        message = f"{file!r} is a directory; expected a pipeline file."
        _refuse(Problem(code="is_a_directory", message=message, file=file))
    except (OSError, ValueError) as exc:  # ValueError: a null character in the path
        reason = exc.strerror if isinstance(exc, OSError) and exc.strerror else str(exc)
        _refuse(Problem(code="unreadable_file", message=f"Cannot read {file!r}: {reason}.", file=file))
    return source_of(content, file=file)


def source_of(content: str | bytes, *, file: str | None) -> Source:
    """Decode a document.

    Raises:
        InvalidPipeline: it is too large, has a byte-order mark, or is not UTF-8.
    """
    if len(content) > MAX_BYTES:
        message = f"The file is larger than {MAX_BYTES // 1024**2} MiB, the most that is read."
        hint = "Keep data in files of its own and read them with a stage."
        _refuse(Problem(code="file_too_large", message=message, file=file, hint=hint))
    if isinstance(content, bytes):
        if content.startswith((b"\xff\xfe", b"\xfe\xff")):
            message = "The file is encoded in UTF-16; expected UTF-8."
            _refuse(Problem(code="not_utf8", message=message, file=file, line=1, column=1, hint="Save it as UTF-8."))
        try:
            text = content.decode("utf-8")
        except UnicodeDecodeError as exc:
            before = Source(file=file, text=content[: exc.start].decode("utf-8"))
            place = before.location_at(len(before.text))
            message = f"The file is not UTF-8: byte 0x{content[exc.start]:02x} at offset {exc.start} does not fit."
            _refuse(
                Problem(
                    code="not_utf8",
                    message=message,
                    file=file,
                    line=place.line,
                    column=place.column,
                    hint="Save it as UTF-8.",
                )
            )
    else:
        text = content
    if text.startswith("\ufeff"):
        message = "The file starts with a byte-order mark, which JSON does not allow."
        hint = "Save it as UTF-8 without BOM."
        _refuse(Problem(code="byte_order_mark", message=message, file=file, line=1, column=1, hint=hint))
    return Source(file=file, text=text)


def _refuse(problem: Problem) -> NoReturn:
    raise InvalidPipeline([problem]) from None
