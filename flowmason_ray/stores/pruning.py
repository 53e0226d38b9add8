"""Removing what is not needed any more: ended runs, expired results, and blobs that nothing refers to.

A blob is removed only when nobody can need it, whatever other processes do at the same time. The argument:

1. References are recorded with the events or results that hold them, in the same transaction. A removed run's references go
   with it. So a blob that any event or result in the store names has a row, always.
2. A blob is written before it is recorded. In between it has no row; what protects it is its age: `BlobStore.put` leaves
   every blob young, also one that was there already, and young ones are not collected. `put` and `remove` can meet on one
   blob at the same moment: then `put` writes anew, or `remove` finds that it has become young and puts it back.
3. A writer may be stopped between writing and recording for longer than a blob stays young. So the transaction that records
   asks the blob store whether every blob is still there (`confirm`); one that is not is written again first.
4. Between that question and its commit nothing may be removed: recording and removing exclude one another. In SQLite both
   hold the one write lock; in PostgreSQL recording holds an advisory lock shared and removing holds it alone, for as long as
   their transactions last. Whoever removes looks the references up again once it holds the lock.

So a reference that is committed before a blob is taken is seen (4), and one that is committed after it was asked for after it (4)
and either found the blob or wrote it again (3). Age (2) only makes it rare that something has to be written again.

Blobs that several run stores refer to (two databases, one bucket) are left alone: neither knows the references of the other.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from itertools import islice
from typing import Protocol

from flowmason_ray.engine.run_log import Pruned
from flowmason_ray.stores.blobs import BlobStore, StoredBlob

BATCH = 100
"""Blobs that are removed at a time: while it lasts nobody records."""


class Shelves(Protocol):
    """A store's tables, for removing from them."""

    store_id: str

    def doomed(self, older_than_s: float | None, keep: int | None) -> list[str]:
        """Return the ids of the ended runs that are to go."""
        ...

    def remove_run(self, run_id: str) -> None:
        """Remove an ended run with everything of it."""
        ...

    def expired(self) -> int:
        """Return how many results have expired."""
        ...

    def remove_expired(self) -> int:
        """Remove the results that have expired; return how many."""
        ...

    def alone(self) -> AbstractContextManager[None]:
        """Keep everybody from recording references."""
        ...

    def references(self, digests: Sequence[str]) -> list[tuple[str, str | None]]:
        """Return who refers to these blobs: (digest, id of the run; None: a result that has not expired)."""
        ...


def prune(
    shelves: Shelves,
    blobs: BlobStore | None,
    *,
    older_than_s: float | None,
    keep: int | None,
    dry_run: bool,
) -> Pruned:
    """Remove ended runs, expired results, and the blobs that nothing refers to any more; see `RunStore.prune`.

    Args:
        shelves: The store's tables.
        blobs: Its blobs; None: there are none.
        older_than_s: Only runs that ended longer ago than this.
        keep: But not this many of the newest ones.
        dry_run: Only tell.
    """
    runs = shelves.doomed(older_than_s, keep) if older_than_s is not None or keep is not None else []
    if dry_run:
        results = shelves.expired()
    else:
        for run_id in runs:
            shelves.remove_run(run_id)
        results = shelves.remove_expired()
    removed: list[StoredBlob] = []
    if blobs is not None and not blobs.claims() - {shelves.store_id}:
        gone = frozenset(runs)
        for batch in _batches(blobs.old()):
            if dry_run:
                removed += _unneeded(shelves, batch, gone)
            elif _unneeded(shelves, batch, gone):  # a look without the lock, since most are needed
                with shelves.alone():
                    removed += blobs.remove(_unneeded(shelves, batch, gone))
    return Pruned(
        runs=tuple(runs), results=results, blobs=len(removed), blob_bytes=sum(blob.size_bytes for blob in removed)
    )


def _batches(blobs: Iterator[StoredBlob]) -> Iterator[list[StoredBlob]]:
    while batch := list(islice(blobs, BATCH)):
        yield batch


def _unneeded(shelves: Shelves, batch: Sequence[StoredBlob], gone: frozenset[str]) -> list[StoredBlob]:
    rows = shelves.references([blob.digest for blob in batch])
    needed = {digest for digest, run in rows if run is None or run not in gone}
    return [blob for blob in batch if blob.digest not in needed]
