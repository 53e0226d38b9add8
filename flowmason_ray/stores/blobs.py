"""Blobs: large values beside the run log, named by the SHA-256 of their content.

A blob is written before anything refers to it, whole or not at all, and verified on reading. The same content is stored
once, whoever wrote it.
"""

from __future__ import annotations

import os
import tempfile
from hashlib import sha256
from pathlib import Path
from typing import Protocol

from flowmason_ray.errors import StoreError, StoreUnavailable


class BlobStore(Protocol):
    """Where large values are kept."""

    def put(self, content: bytes) -> str:
        """Store content durably; return its digest (`sha256:` and 64 hexadecimal digits)."""
        ...

    def get(self, digest: str) -> bytes:
        """Return the content.

        Raises:
            StoreError: it is not there, or is not what was stored.
        """
        ...


class LocalBlobs:
    """Blobs as files in a directory, two levels deep."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def _file(self, digest: str) -> Path:
        name = digest.removeprefix("sha256:")
        return self.root / name[:2] / name[2:]

    def put(self, content: bytes) -> str:
        """Store content durably."""
        digest = f"sha256:{sha256(content).hexdigest()}"
        file = self._file(digest)
        try:
            if file.exists():
                return digest
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
        except OSError as exc:
            raise StoreUnavailable(
                f"Cannot write a value of {len(content)} bytes to {file.parent}: {exc.strerror}."
            ) from exc
        return digest

    def get(self, digest: str) -> bytes:
        """Return the content, verified."""
        file = self._file(digest)
        try:
            content = file.read_bytes()
        except FileNotFoundError as exc:
            raise StoreError(f"Blob {digest} is not in {self.root}.") from exc
        except OSError as exc:
            raise StoreUnavailable(f"Cannot read blob {digest}: {exc.strerror}.") from exc
        if f"sha256:{sha256(content).hexdigest()}" != digest:
            raise StoreError(f"Blob {digest} in {self.root} is damaged: its content has another digest.")
        return content
