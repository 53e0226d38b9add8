"""Writes and reads copies of values in the run's blobs, on workers. What is written when is decided by `ray_copies`."""

from __future__ import annotations

from typing import Any

import orjson

from flowmason_ray.engine.executor import RunInfo
from flowmason_ray.engine.executors.ray_frames import portable, restore
from flowmason_ray.engine.executors.ray_stages import run_of
from flowmason_ray.errors import FlowMasonError, StoreError, StoreUnavailable
from flowmason_ray.stores.blobs import open_blobs
from flowmason_ray.stores.encoding import Decoder, Encoder

BEHIND_BYTES = 2**20
"""From this size on a copy is written behind the run. A call of its own costs about as much as writing 1 MiB."""


def written(value: Any, run: RunInfo) -> tuple[str, bytes]:
    """Write a value down as the log records it, what is large into the run's blobs; returns as `Encoder.value`."""
    return Encoder(run.blobs, secrets=run.hidden).value(value)


def write_copy(value: Any, packed_run: bytes) -> tuple[bytes | None, tuple[str, bool] | None]:
    """Write a copy, on a worker: how the log refers to it, or why it could not be written, and whether it may be tried again."""
    try:
        key, text = written(restore(value), run_of(packed_run))
    except StoreError as exc:
        return None, (exc.message, isinstance(exc, StoreUnavailable))
    return orjson.dumps(orjson.Fragment(text)) if key == "packed" else None, None


def read_copy(packed: bytes, blobs: str) -> tuple[bool, Any]:
    """Read a value's copy; tells whether there is one."""
    try:
        return True, portable(Decoder(open_blobs(blobs)).packed(packed))
    except FlowMasonError:
        return False, None
