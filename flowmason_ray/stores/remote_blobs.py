"""Blobs at a URL, by fsspec: `s3://bucket/prefix` and whatever else it knows.

Objects cannot be moved aside in one step, as files can; so here time decides what is young, by the server's clock. `put`
writes an object that is there already once more when more than half of its grace has passed. Yet a pruning process that has
found it old a moment before may remove the new one. So whoever records a reference to an object that was there already looks
for it again (`confirm`), while nobody may prune. Only one that was not there before needs no second look, while it is young:
nobody can have found it old.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cached_property
from hashlib import sha256
from typing import Any, cast
from uuid import uuid4

from flowmason_ray.errors import MissingExtra, StoreError, StoreUnavailable
from flowmason_ray.stores.blobs import DIGITS, GRACE_S, StoredBlob, verified
from flowmason_ray.stores.owners import clock

KNOWN_LIMIT = 10_000
"""Blobs that a process remembers to be young."""
_MODIFIED = ("LastModified", "last_modified", "updated", "mtime", "created")
"""What file systems call the time of the last change."""


class RemoteBlobs:
    """Blobs as objects below a URL, two levels deep."""

    def __init__(self, url: str, *, grace_s: float = GRACE_S) -> None:
        """
        Args:
            url: Where; fsspec's file system for it finds its credentials where it always does.
            grace_s: How long a blob that nothing refers to is young; the same for all who use the URL.
        """
        self.address = url.rstrip("/")
        self._grace_s = grace_s
        self._young: dict[str, float] = {}
        """When, by `clock`, this process made blobs that were not there before: nobody can be about to remove these."""

    @cached_property
    def _opened(self) -> tuple[Any, str]:
        """The file system and the path in it. Opened late: most commands need no blob, and importing it takes a while."""
        scheme = self.address.partition("://")[0]
        try:
            from fsspec.core import url_to_fs  # pyright: ignore[reportMissingTypeStubs, reportUnknownVariableType]  # fsspec has no types
        except ModuleNotFoundError as exc:
            raise MissingExtra(feature=f"A blob store at {scheme}://", extra="s3", module="fsspec") from exc
        try:
            opened = cast("Any", url_to_fs)(self.address, use_listings_cache=False, skip_instance_cache=True)
        except ImportError as exc:
            extra, module = ("s3", "s3fs") if scheme.startswith("s3") else (scheme, f"fsspec for {scheme}")
            raise MissingExtra(feature=f"A blob store at {scheme}://", extra=extra, module=module) from exc
        except ValueError as exc:
            raise StoreError(
                f"Cannot keep blobs at {self.address!r}: {exc}. Write a directory, or a URL such as s3://bucket/prefix."
            ) from exc
        return opened

    def _path(self, digest: str) -> str:
        name = digest.removeprefix("sha256:")
        return f"{self._opened[1]}/{name[:2]}/{name[2:]}"

    @contextmanager
    def _clear_errors(self, doing: str) -> Generator[None]:
        try:
            yield
        except (StoreError, MissingExtra):
            raise
        except Exception as exc:  # foreign code: every file system has errors of its own
            text = f"{type(exc).__name__}: {exc}".rstrip(": .")
            raise StoreUnavailable(f"Cannot {doing} {self.address}: {text}.") from exc

    def put(self, content: bytes) -> str:
        """Store content durably."""
        digest = f"sha256:{sha256(content).hexdigest()}"
        begun = clock()
        if begun - self._young.get(digest, float("-inf")) < self._grace_s / 4:
            return digest
        with self._clear_errors(f"write a value of {len(content)} bytes to"):
            path = self._path(digest)
            info = self._info(path)
            age = None if info is None or info.get("size") != len(content) else self._now() - _modified(info)
            if age is None or age > self._grace_s / 2:
                self._opened[0].pipe_file(path, content)
            if info is None:
                self._remember(digest, begun)
        return digest

    def _remember(self, digest: str, when: float) -> None:
        if len(self._young) >= KNOWN_LIMIT:
            self._young.clear()
        self._young[digest] = when

    def _info(self, path: str) -> dict[str, Any] | None:
        try:
            return self._opened[0].info(path)
        except FileNotFoundError:
            return None

    def get(self, digest: str) -> bytes:
        """Return the content, verified."""
        with self._clear_errors(f"read blob {digest} from"):
            try:
                content: bytes = self._opened[0].cat_file(self._path(digest))
            except FileNotFoundError:
                raise StoreError(f"Blob {digest} is not in {self.address}.") from None
        return verified(digest, content, self.address)

    def confirm(self, digests: Iterable[str]) -> set[str]:
        """Return those that are not there."""
        gone: set[str] = set()
        with self._clear_errors("look for blobs in"):
            for digest in digests:
                if clock() - self._young.get(digest, float("-inf")) < self._grace_s / 2:
                    continue
                if self._info(self._path(digest)) is None:
                    self._young.pop(digest, None)
                    gone.add(digest)
        return gone

    def claim(self, store_id: str) -> None:
        """Write down that a run store refers to blobs in here."""
        with self._clear_errors("write to"):
            path = f"{self._opened[1]}/.stores/{store_id}"
            if self._info(path) is None:
                self._opened[0].pipe_file(path, b"flowmason")

    def claims(self) -> set[str]:
        """Return the ids of all run stores that refer to blobs in here."""
        with self._clear_errors("look through"):
            found: list[str] = self._opened[0].find(f"{self._opened[1]}/.stores")
            return {path.rpartition("/")[2] for path in found}

    def old(self) -> Iterator[StoredBlob]:
        """Yield the blobs that are not young."""
        with self._clear_errors("look through"):
            latest = self._now() - self._grace_s
            files: dict[str, dict[str, Any]]
            for folder, _, files in self._opened[0].walk(self._opened[1], detail=True):
                head = folder.rstrip("/").rpartition("/")[2]
                for name, info in files.items():
                    tail = name.rpartition("/")[2]
                    if len(head) == 2 and len(tail) == 62 and DIGITS.issuperset(tail) and _modified(info) < latest:
                        yield StoredBlob(digest=f"sha256:{head}{tail}", size_bytes=int(info.get("size") or 0))

    def remove(self, blobs: Iterable[StoredBlob]) -> list[StoredBlob]:
        """Remove blobs, unless they have become young."""
        with self._clear_errors("remove blobs from"):
            latest = self._now() - self._grace_s
            chosen: list[StoredBlob] = []
            for blob in blobs:
                info = self._info(self._path(blob.digest))
                if info is not None and _modified(info) < latest:
                    chosen.append(blob)
            if chosen:
                self._opened[0].rm([self._path(blob.digest) for blob in chosen])
                for blob in chosen:
                    self._young.pop(blob.digest, None)
            return chosen

    def _now(self) -> float:
        """Return the server's time."""
        return clock() + self._offset

    @cached_property
    def _offset(self) -> float:
        """What has to be added to `clock` to get the server's time: learnt once, from an object that is written now."""
        path = f"{self._opened[1]}/.clock/{uuid4().hex}"
        self._opened[0].pipe_file(path, b"now")
        info = self._opened[0].info(path)
        offset = _modified(info) - clock()
        self._opened[0].rm_file(path)
        return offset


def _modified(info: dict[str, Any]) -> float:
    """Return when an object was last written, in seconds since the epoch."""
    for name in _MODIFIED:
        value = info.get(name)
        if isinstance(value, str):
            value = datetime.fromisoformat(value)
        if isinstance(value, datetime):
            return (value if value.tzinfo else value.replace(tzinfo=UTC)).timestamp()
        if isinstance(value, (int, float)):
            return float(value)
    raise StoreError(
        f"A file system that does not say when a file was written cannot keep blobs (it says {sorted(info)})."
    )
