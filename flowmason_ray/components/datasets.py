"""Files of items for loops: `{"dataset": "path", "format": …}`, read as the loop goes on and never as a whole.

A first pass counts the items; of a text file it also notes where every chunk begins. Then a chunk is read when an item in it
is asked for, and the last few are kept: loops ask in about the order of the items, so every chunk is read about once. What is
noted and kept belongs to the process, not to the dataset: sent to a worker, a dataset is a path, and the worker reads the
file itself.

A file that has changed since the loop began is no longer what was counted; reading it is an error.
"""

from __future__ import annotations

import importlib
from array import array
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol, cast

import orjson

from flowmason_ray.components.files import existing_file, file_errors, resolve_inside
from flowmason_ray.components.table_texts import require_unpacked
from flowmason_ray.engine.values import ItemSource
from flowmason_ray.errors import PermanentError, nearest

CHUNK_BYTES = 256 * 1024
"""How much text is read at a time; a longer line is a chunk of its own."""
CHUNK_ROWS = 1000
"""How many items are read at a time, at most."""
KEPT_CHUNKS = 4
"""Chunks that a process keeps of a dataset: a loop's window lies in one or two of them."""

_FORMATS = {
    ".ndjson": "ndjson",
    ".jsonl": "ndjson",
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".arrow": "arrow",
    ".feather": "arrow",
}


class Reader(Protocol):
    """Reads one file by chunks."""

    starts: Sequence[int]
    """The number of the first item of every chunk, and behind the last one how many items there are."""

    def chunk(self, number: int) -> Sequence[Any]:
        """Return the items of a chunk."""
        ...


@dataclass(frozen=True, slots=True)
class Dataset(ItemSource):
    """The items of a file."""

    file: Path
    name: str
    """The path as the pipeline writes it."""
    format: str
    size_bytes: int
    modified_ns: int

    def __len__(self) -> int:
        return _opened(self).starts[-1]

    def item(self, index: int) -> Any:
        """Return an item.

        Raises:
            PermanentError: the file has changed (`dataset_changed`) or cannot be read (`dataset_error`, `file_error`).
        """
        return _opened(self).item(index)

    def to_json(self) -> dict[str, Any]:
        """Return which file it is; `recorded_dataset` is the inverse."""
        return {
            "dataset": self.name,
            "format": self.format,
            "size_bytes": self.size_bytes,
            "modified_ns": self.modified_ns,
        }

    def check(self) -> None:
        """Make sure that the file is still the one that was opened.

        Raises:
            PermanentError: it is not (`dataset_changed`).
        """
        with file_errors(self.name):
            found = self.file.stat()
        if (found.st_size, found.st_mtime_ns) != (self.size_bytes, self.modified_ns):
            raise PermanentError(
                f"The dataset {self.name!r} has changed since the loop began; its items are not those that were counted.",
                code="dataset_changed",
            )


def open_dataset(said: Mapping[str, Any], project_dir: Path) -> Dataset:
    """Return the dataset that a config names, counted.

    Args:
        said: `dataset`, a path relative to the project, and if need be `format`.
        project_dir: The project; the file must lie inside.

    Raises:
        PermanentError: `invalid_config`, `unknown_format`, or the file is missing, outside or cannot be read.
    """
    path, kind = said["dataset"], said.get("format")
    unknown = [key for key in said if key not in ("dataset", "format")]
    if unknown or not isinstance(path, str) or not isinstance(kind, str | None):
        message = f'A dataset is {{"dataset": path, "format": name}}, the format if need be; found {dict(said)!r}.'
        raise PermanentError(message, code="invalid_config")
    file = existing_file(project_dir, path)
    kind = kind or _FORMATS.get(file.suffix.lower(), "")
    if kind not in _FORMATS.values():
        known = sorted(set(_FORMATS.values()))
        close = nearest(kind, known) if kind else None
        raise PermanentError(
            f"The dataset {path!r} has the format {(kind or file.suffix)!r}; known are: {', '.join(known)}."
            + (f" Did you mean {close!r}?" if close else ""),
            code="unknown_format",
        )
    with file_errors(path):
        facts = file.stat()
    dataset = Dataset(file, path, kind, facts.st_size, facts.st_mtime_ns)
    len(dataset)
    return dataset


def recorded_dataset(recorded: Mapping[str, Any], project_dir: Path) -> Dataset:
    """Return the dataset that a log tells of. It is not opened: whether the file is still the same is seen when it is read."""
    name: str = recorded["dataset"]
    file = resolve_inside(project_dir, name, reading=True)
    return Dataset(file, name, recorded["format"], recorded["size_bytes"], recorded["modified_ns"])


class _Opened:
    """A dataset in this process: its reader, and the chunks that were asked for last."""

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset
        dataset.check()
        with file_errors(dataset.name):
            self._reader = _reader(dataset)
        self.starts = self._reader.starts
        self._kept: OrderedDict[int, Sequence[Any]] = OrderedDict()

    def item(self, index: int) -> Any:
        number = bisect_right(self.starts, index) - 1
        chunk = self._kept.get(number)
        if chunk is None:
            self._dataset.check()
            with file_errors(self._dataset.name):
                chunk = self._kept[number] = self._reader.chunk(number)
            if len(self._kept) > KEPT_CHUNKS:
                self._kept.popitem(last=False)
        return chunk[index - self.starts[number]]


@lru_cache(maxsize=8)
def _opened(dataset: Dataset) -> _Opened:
    return _Opened(dataset)


def _reader(dataset: Dataset) -> Reader:
    if dataset.format == "ndjson":
        require_unpacked(dataset.file, dataset.name)
        return LineReader(dataset.file, dataset.name)
    module: Any = importlib.import_module("flowmason_ray.components.table_datasets")  # needs polars
    return module.reader(dataset.file, dataset.name, dataset.format)


class ChunkIndex:
    """Where the chunks of a text file begin: made in one pass over its records."""

    def __init__(self, records: Iterator[bytes], skipped_bytes: int = 0) -> None:
        """
        Args:
            records: Every record with its line end; one that is blank holds no item.
            skipped_bytes: How much lies before them (a header).
        """
        self.starts = array("q")
        self.offsets = array("q")
        rows, offset = 0, skipped_bytes
        for record in records:
            if not self.starts or offset - self.offsets[-1] >= CHUNK_BYTES or rows - self.starts[-1] >= CHUNK_ROWS:
                self.starts.append(rows)
                self.offsets.append(offset)
            offset += len(record)
            rows += bool(record.strip())
        self.starts.append(rows)
        self.offsets.append(offset)

    def read(self, file: Path, number: int) -> bytes:
        """Return the text of a chunk."""
        with file.open("rb") as opened:
            opened.seek(self.offsets[number])
            return opened.read(self.offsets[number + 1] - self.offsets[number])


class LineReader:
    """NDJSON: one JSON value a line; blank lines are passed over."""

    def __init__(self, file: Path, name: str) -> None:
        self._file = file
        self._name = name
        with file.open("rb") as lines:
            self._index = ChunkIndex(lines)
        self.starts: Sequence[int] = self._index.starts

    def chunk(self, number: int) -> Sequence[Any]:
        """Return the lines of a chunk, each parsed when it is asked for: a bad one costs one item."""
        lines = [line for line in self._index.read(self._file, number).split(b"\n") if line.strip()]
        return _Lines(lines, self.starts[number], self._name)


class _Lines(Sequence[Any]):
    """Lines of JSON, parsed one by one."""

    def __init__(self, lines: list[bytes], first: int, name: str) -> None:
        self._lines = lines
        self._first = first
        self._name = name

    def __len__(self) -> int:
        return len(self._lines)

    def __getitem__(self, position: Any) -> Any:  # one at a time: chunks are not sliced
        try:
            return orjson.loads(cast("bytes", self._lines[position]))
        except orjson.JSONDecodeError as exc:
            message = f"Item {self._first + position} of the dataset {self._name!r} is not JSON: {exc}."
            raise PermanentError(message, code="dataset_error") from exc
