"""What is looked at before a text file is read as a table: how it is packed, and how its lines end.

polars unpacks gzip and zstd by itself, whatever the file is called, and a few kilobytes can become all memory; readers that cut a
file into chunks cannot unpack it at all. Lines that end with CR alone are one long header to polars, and a table without rows.
"""

from __future__ import annotations

import gzip
import re
import zlib
from pathlib import Path
from typing import Any, cast

from flowmason_ray.errors import PermanentError

UNPACKED_TIMES = 100
"""How many times its size a packed file may have; tables that people write have 3 to 30."""
UNPACKED_BYTES = 64 * 1024 * 1024
"""And what every packed file may have."""
_STEP = 1024 * 1024
_PACKED = {
    b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd", b"\x78\x01": "zlib", b"\x78\x9c": "zlib", b"\x78\xda": "zlib",
}  # fmt: skip
_QUOTED = re.compile(rb'"[^"]*"?')
_CR_ALONE = re.compile(rb"\r(?=[^\n])")


def require_unpacked(file: Path, name: str) -> None:
    """Refuse a packed file, for readers by chunks.

    Raises:
        PermanentError: `table_error`.
    """
    kind = _packed(file)
    if kind is not None:
        raise PermanentError(
            f"{name!r} is packed ({kind}), and a file that is read item by item cannot be. Unpack it, write it as Parquet, "
            "or read it with table_read and go over its table.",
            code="table_error",
        )


def check_unpacked(file: Path, name: str) -> None:
    """Refuse a packed file that is out of all proportion when it is unpacked.

    Raises:
        PermanentError: `table_error`, also for a packing that cannot be measured or is broken.
    """
    kind = _packed(file)
    if kind is None:
        return
    if kind == "zlib":
        raise PermanentError(f"{name!r} is packed with zlib. Unpack it, or pack it with gzip.", code="table_error")
    most = max(UNPACKED_BYTES, UNPACKED_TIMES * file.stat().st_size)
    size = 0
    try:
        with _opened(file, kind) as unpacked:
            while piece := unpacked.read(_STEP):
                size += len(piece)
                if size > most:
                    raise PermanentError(
                        f"{name!r} is packed ({kind}) and becomes more than {most:,} bytes, {UNPACKED_TIMES} times its "
                        "size. Unpack it before, if that is right.",
                        code="table_error",
                    )
    except (EOFError, OSError, zlib.error) as exc:
        raise PermanentError(f"{name!r} is packed ({kind}) and cannot be unpacked: {exc}.", code="table_error") from exc


def check_lines(file: Path, name: str) -> None:
    """Refuse a file whose first line ends with CR alone, outside of quotes.

    Raises:
        PermanentError: `table_error`.
    """
    with file.open("rb") as opened:
        beginning = _QUOTED.sub(b"", opened.read(_STEP))
    if _CR_ALONE.search(beginning.partition(b"\n")[0] + b"\n"):
        raise PermanentError(
            f"The lines of {name!r} end with CR alone, as they did on old Macs. Write them with LF or CR LF.",
            code="table_error",
        )


def _packed(file: Path) -> str | None:
    with file.open("rb") as opened:
        begins = opened.read(4)
    return next((kind for magic, kind in _PACKED.items() if begins.startswith(magic)), None)


def _opened(file: Path, kind: str) -> Any:
    if kind == "gzip":
        return gzip.open(file)
    import pyarrow  # pyright: ignore[reportMissingTypeStubs]  # it has none

    return cast("Any", pyarrow).input_stream(str(file), compression="zstd")
