"""Blobs: large values beside the run log, named by the SHA-256 of their content.

A blob is written before anything refers to it, whole or not at all, and verified on reading. The same content is stored
once, whoever wrote it. Runs of one store share their blobs; `stores.pruning` collects those that nothing refers to, and says
why it never takes one that somebody is about to refer to. Here is what it builds on:

* `put` leaves a blob *young*: one that is there already is touched, one that has gone meanwhile is written anew.
* `confirm` is asked in the transaction that records the references; what is not there then is written again first.
* `remove` takes only blobs that are not young, and puts one back that became young while it was taken away.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Protocol

from flowmason_ray.errors import StoreError, StoreUnavailable

ACCESS_VARIABLES = ("AWS_", "FSSPEC_")
"""How the environment variables begin in which S3 clients and fsspec look for credentials and addresses."""
GRACE_S = 3600.0
"""How long a blob that nothing refers to is young. Between writing one and recording it lie milliseconds, when a database is
restarted or a process is stopped in between also minutes."""

LEFT_OVER_S = 3600.0
"""How old a file is that was being written when its process was killed, and not one that is being written now."""
DIGITS = frozenset("0123456789abcdef")


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredBlob:
    """A blob as it lies there."""

    digest: str
    size_bytes: int


class BlobStore(Protocol):
    """Where large values are kept."""

    @property
    def address(self) -> str:
        """Where: a directory or a URL, with which another process opens the same store (`open_blobs`)."""
        ...

    def put(self, content: bytes) -> str:
        """Store content durably; return its digest (`sha256:` and 64 hexadecimal digits). The blob is young then."""
        ...

    def get(self, digest: str) -> bytes:
        """Return the content.

        Raises:
            StoreError: it is not there, or is not what was stored.
            StoreUnavailable: it cannot be read now.
        """
        ...

    def confirm(self, digests: Iterable[str]) -> set[str]:
        """Return those of `digests` that are not there (any more)."""
        ...

    def claim(self, store_id: str) -> None:
        """Write down that the run store with this id refers to blobs in here, if that is not written yet."""
        ...

    def claims(self) -> set[str]:
        """Return the ids of all run stores that refer to blobs in here."""
        ...

    def old(self) -> Iterator[StoredBlob]:
        """Yield the blobs that are not young: last put longer ago than the store's grace."""
        ...

    def remove(self, blobs: Iterable[StoredBlob]) -> list[StoredBlob]:
        """Remove blobs, unless they have become young; return those that were removed."""
        ...


def verified(digest: str, content: bytes, where: str) -> bytes:
    """Return content that has the digest.

    Raises:
        StoreError: it has another one.
    """
    if f"sha256:{sha256(content).hexdigest()}" != digest:
        raise StoreError(f"Blob {digest} in {where} is damaged: its {len(content)} bytes have another digest.")
    return content


class LocalBlobs:
    """Blobs as files in a directory, two levels deep. Their modification time says how young they are."""

    def __init__(self, root: Path, *, grace_s: float = GRACE_S) -> None:
        """
        Args:
            root: The directory; made with the first blob.
            grace_s: How long a blob that nothing refers to is young.
        """
        self.root = root
        self._grace_s = grace_s

    @property
    def address(self) -> str:
        """The directory."""
        return str(self.root)

    def _file(self, digest: str) -> Path:
        name = digest.removeprefix("sha256:")
        return self.root / name[:2] / name[2:]

    def put(self, content: bytes) -> str:
        """Store content durably."""
        digest = f"sha256:{sha256(content).hexdigest()}"
        file = self._file(digest)
        try:
            if not (_touched(file) and file.stat().st_size == len(content)):
                self._write(file, content)
        except OSError as exc:
            raise StoreUnavailable(
                f"Cannot write a value of {len(content)} bytes to {file.parent}: {exc.strerror}."
            ) from exc
        return digest

    def _write(self, file: Path, content: bytes) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=file.parent, prefix=".new-")
        try:
            with os.fdopen(handle, "wb") as out:
                out.write(content)
                out.flush()
                os.fsync(out.fileno())
            os.replace(temporary, file)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
        _sync_directory(file.parent)

    def get(self, digest: str) -> bytes:
        """Return the content, verified."""
        file = self._file(digest)
        try:
            # A blob that is about to be put back lies aside for a moment, or since a pruning process was killed.
            for place in (file, _aside(file), file):
                with suppress(FileNotFoundError):
                    return verified(digest, place.read_bytes(), str(self.root))
        except OSError as exc:
            raise StoreUnavailable(f"Cannot read blob {digest} in {self.root}: {exc.strerror}.") from exc
        raise StoreError(f"Blob {digest} is not in {self.root}.")

    def confirm(self, digests: Iterable[str]) -> set[str]:
        """Return those that are not there."""
        return {digest for digest in digests if not self._file(digest).exists()}

    def claim(self, store_id: str) -> None:
        """Write down that a run store refers to blobs in here."""
        file = self.root / ".stores" / store_id
        try:
            if not file.exists():
                file.parent.mkdir(parents=True, exist_ok=True)
                file.touch()
        except OSError as exc:
            raise StoreUnavailable(f"Cannot write to {file.parent}: {exc.strerror}.") from exc

    def claims(self) -> set[str]:
        """Return the ids of all run stores that refer to blobs in here."""
        folder = self.root / ".stores"
        return {file.name for file in folder.iterdir()} if folder.is_dir() else set()

    def old(self) -> Iterator[StoredBlob]:
        """Yield the blobs that are not young; also remove what interrupted writers have left."""
        try:
            if not self.root.is_dir():
                return
            latest = self._now() - self._grace_s
            for folder in self.root.iterdir():
                if len(folder.name) != 2 or not folder.is_dir():
                    continue
                for file in folder.iterdir():
                    yield from self._looked_at(file, latest)
        except OSError as exc:
            raise StoreUnavailable(f"Cannot look through {self.root}: {exc.strerror}.") from exc

    def _looked_at(self, file: Path, latest: float) -> Iterator[StoredBlob]:
        name = file.name
        with suppress(FileNotFoundError):
            if name.endswith(_ASIDE):  # a pruning process was killed: begin with it anew
                _put_back(file.with_name(name.removesuffix(_ASIDE)))
                file = file.with_name(name.removesuffix(_ASIDE))
                name = file.name
            status = file.stat()
            if name.startswith(".new-"):
                if status.st_mtime < min(latest, self._now() - LEFT_OVER_S):
                    file.unlink()
            elif status.st_mtime < latest and len(name) == 62 and DIGITS.issuperset(name):
                yield StoredBlob(digest=f"sha256:{file.parent.name}{name}", size_bytes=status.st_size)

    def remove(self, blobs: Iterable[StoredBlob]) -> list[StoredBlob]:
        """Remove blobs, unless they have become young."""
        removed: list[StoredBlob] = []
        try:
            latest = self._now() - self._grace_s
            for blob in blobs:
                if _removed(self._file(blob.digest), latest):
                    removed.append(blob)
        except OSError as exc:
            raise StoreUnavailable(f"Cannot remove blobs from {self.root}: {exc.strerror}.") from exc
        return removed

    def _now(self) -> float:
        """Return the time as this file system counts it: it may lie on another machine."""
        with tempfile.NamedTemporaryFile(dir=self.root, prefix=".now-") as file:
            return os.fstat(file.fileno()).st_mtime


_ASIDE = ".aside"


def _aside(file: Path) -> Path:
    return file.with_name(file.name + _ASIDE)


def _touched(file: Path) -> bool:
    """Make a file young; tell whether it is there."""
    try:
        os.utime(file)
    except FileNotFoundError:
        return False
    return True


def _removed(file: Path, latest: float) -> bool:
    """Remove a file that was last put before `latest`.

    It is moved aside first: from then on `put` finds nothing and writes anew, and what was touched before shows it now.
    """
    aside = _aside(file)
    try:
        os.rename(file, aside)
    except FileNotFoundError:
        return False
    try:
        if aside.stat().st_mtime >= latest:
            _put_back(file)
            return False
        aside.unlink()
    except FileNotFoundError:  # another process took what lay aside for left over, and has put it back
        return False
    return True


def _put_back(file: Path) -> None:
    """Bring a file back that was moved aside, unless it was written anew meanwhile."""
    aside = _aside(file)
    with suppress(FileExistsError, FileNotFoundError):
        os.link(aside, file)
    aside.unlink(missing_ok=True)


def _sync_directory(folder: Path) -> None:
    """Make a new name in a directory durable, where directories can be opened."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(handle)
    except OSError:  # some file systems cannot; they make names durable by themselves
        pass
    finally:
        os.close(handle)


def environment_for(address: str) -> dict[str, str]:
    """Return what of this process's environment leads to a blob store, for processes elsewhere that use it too."""
    if "://" not in address or address.startswith("file://"):
        return {}
    return {name: value for name, value in os.environ.items() if name.startswith(ACCESS_VARIABLES)}


def open_blobs(address: str, root: Path | None = None) -> BlobStore:
    """Open the blob store at a directory, relative to `root`, or at a URL that fsspec knows (`s3://bucket/prefix`).

    Raises:
        MissingExtra: what such URLs need is not installed.
        StoreError: nobody knows such URLs.
    """
    if "://" in address and not address.startswith("file://"):
        from flowmason_ray.stores.remote_blobs import RemoteBlobs

        return RemoteBlobs(address)
    path = Path(address.removeprefix("file://"))
    return LocalBlobs(path if root is None else root / path)
