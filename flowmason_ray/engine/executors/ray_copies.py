"""Writes copies of large values behind the run: the stages that read a value do not wait for the disk.

A worker writes what is small enough itself, before it reports: a call of its own would cost more. A larger value is reported
first, and written by a call that Ray sends to where the value is. Until that has ended the log waits with the event, and with
everything behind it, so a flush still means that all of it is there. Only a few are written at a time, and not more are begun
than are finished: what waits is a reference.
"""

from __future__ import annotations

import asyncio
from collections import deque
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from typing import Any

import ray
from ray.exceptions import ObjectLostError

from flowmason_ray.engine.executor import RunInfo
from flowmason_ray.engine.executors.placement import PURE_RETRIES
from flowmason_ray.engine.executors.ray_bindings import RemoteValue
from flowmason_ray.engine.executors.ray_copying import write_copy
from flowmason_ray.errors import StoreError, StoreUnavailable

AT_A_TIME = 4
"""Copies of one run that are written at the same time: enough for a disk."""

_ray: Any = ray  # its types are partly unknown


_remote_write: Any = _ray.remote(write_copy)


class Copies:
    """The copies of one run's values that are being written."""

    def __init__(self) -> None:
        self._queue: deque[tuple[RemoteValue, Future[bytes | None], Any]] = deque()
        self._writing: set[Future[bytes | None]] = set()
        self._wanted = False

    def open(self, run: RunInfo, packed_run: bytes) -> None:
        """Begin to serve a run."""
        self._loop = asyncio.get_running_loop()
        self._wanted = run.blobs is not None
        self._run_id = run.run_id
        self._packed_run = packed_run

    def write(self, value: RemoteValue) -> None:
        """Have a copy of a value written, if the run keeps copies and this one is not there yet."""
        if not self._wanted or value.packed is not None or value.writing is not None:
            return
        future: Future[bytes | None] = Future()
        value.written_by(future)
        self._queue.append((value, future, value.reference))
        self._advance()

    def _advance(self) -> None:
        while self._queue and len(self._writing) < AT_A_TIME:
            value, future, reference = self._queue.popleft()
            self._writing.add(future)
            what = value.maker.path if value.maker is not None else "a value"
            name = f"write {what} {self._run_id}"
            options = {"num_cpus": 0, "max_retries": PURE_RETRIES, "name": name}
            written = _remote_write.options(**options).remote(reference, self._packed_run)
            written.future().add_done_callback(partial(_settle, future))
            future.add_done_callback(self._come_back)

    def _come_back(self, future: Future[bytes | None]) -> None:
        with suppress(RuntimeError):  # the loop is closed: the run is over
            self._loop.call_soon_threadsafe(self._ended, future)

    def _ended(self, future: Future[bytes | None]) -> None:
        self._writing.discard(future)
        self._advance()

    def close(self) -> None:
        """Do not wait for what is not written: the log says of it that there was a value."""
        waiting = [future for _, future, _ in self._queue]
        self._queue.clear()
        for future in (*waiting, *self._writing.copy()):
            if not future.done():
                future.set_result(None)


def _settle(future: Future[bytes | None], done: Any) -> None:
    """Tell how a copy was written. On one of Ray's threads."""
    if future.done():
        return
    error: BaseException | None = done.exception()
    if isinstance(error, ObjectLostError):
        future.set_result(None)  # it is gone, and Ray could not make it again: who reads it will hear so
    elif error is not None:
        future.set_exception(StoreError(f"A large value could not be written: {error}"))
    else:
        packed, why = done.result()
        if why is None:
            future.set_result(packed)
        else:
            message, away = why  # a store that is only away is waited for by who drives the run in a cluster
            kind = StoreUnavailable if away else StoreError
            future.set_exception(kind(f"A large value could not be written: {message}"))
