"""What of an input travels with an attempt: only the fields that its templates name, and what is large just once.

A loop over a list of the run's input would else bring the whole list to every item, and have it unpacked there.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from typing import Any

import orjson
import ray
from ray.exceptions import ObjectStoreFullError, OutOfDiskError

from flowmason_ray.engine.executors.ray_bindings import RemoteValue
from flowmason_ray.engine.executors.ray_frames import portable
from flowmason_ray.engine.plan import PlanStage
from flowmason_ray.engine.recipes import references_of
from flowmason_ray.engine.values import INLINE_LIMIT_BYTES
from flowmason_ray.errors import FlowMasonError

_ray: Any = ray  # under this name without types: those of Ray are partly unknown


class StoreFull(FlowMasonError):
    """Something cannot be sent, because neither the object store nor the disk behind it has room for it."""

    code = "object_store_full"


@contextmanager
def told_when_full(what: str) -> Generator[None]:
    """Say what could not be sent when the object store of this node is full.

    Raises:
        StoreFull: it is.
    """
    try:
        yield
    except (ObjectStoreFullError, OutOfDiskError) as exc:
        message = (
            f"{what} cannot be sent: the object store of the coordinator's node is full, and so is the disk behind it. Make room "
            "on that disk (or set object_spilling_directory to another one), or give data by where it lies instead of by value."
        )
        raise StoreFull(message) from exc


class Inputs:
    """The input of a run, and of the pipelines that it calls, as attempts get them."""

    def __init__(self, run_input: Any, stored: Callable[[RemoteValue, None], None]) -> None:
        """
        Args:
            run_input: The run's input.
            stored: Is told of what was put into the object store.
        """
        self._run_input = run_input
        self._stored = stored
        self._whole: Any = None
        self._parts: dict[tuple[str, ...], Any] = {}
        self._put: list[tuple[RemoteValue, Any]] = []
        """What is in the object store, each with its value, which lives as long as the run anyway."""
        self._fields: dict[int, tuple[str, ...] | None] = {}

    def handle(self, value: Any, stage: PlanStage) -> Any:
        """Return the handle of an input for an attempt of `stage`: all of it, or the fields that the stage reads.

        Raises:
            StoreFull: there is no room for it.
        """
        if value is not self._run_input:
            fields = self._read_by(stage, value)
            return value if fields is None else {name: value[name] for name in fields}
        if self._whole is None:
            self._whole = self._handle(value)
        if not isinstance(self._whole, RemoteValue):
            return self._whole
        fields = self._read_by(stage, value)
        if fields is None:
            return self._whole
        if fields not in self._parts:
            self._parts[fields] = self._handle({name: value[name] for name in fields})
        return self._parts[fields]

    def put_again(self, lost: RemoteValue) -> bool:
        """Put an input, or fields of it, into the object store again; return whether that is what was lost.

        Raises:
            StoreFull: there is no room for it.
        """
        for stored, value in self._put:
            if stored is lost:
                stored.rebind(_put(value, stored.size_bytes))
                return True
        return False

    def _read_by(self, stage: PlanStage, value: Any) -> tuple[str, ...] | None:
        """Return the fields of an input that a stage reads; None: all of it, or one that is not there, which is an error."""
        if id(stage) not in self._fields:
            self._fields[id(stage)] = _fields(stage)
        fields = self._fields[id(stage)]
        known = isinstance(value, Mapping) and fields is not None and all(name in value for name in fields)
        return fields if known else None

    def _handle(self, value: Any) -> Any:
        """Return a value itself, or a reference to it in the object store if it is large."""
        size_bytes = len(orjson.dumps(value, default=str, option=orjson.OPT_NON_STR_KEYS))
        if size_bytes <= INLINE_LIMIT_BYTES:
            return value
        stored = RemoteValue(reference=_put(value, size_bytes), packed=None, size_bytes=size_bytes)
        self._put.append((stored, value))
        self._stored(stored, None)
        return stored


def _fields(stage: PlanStage) -> tuple[str, ...] | None:
    found: set[str] = set()
    for reference in references_of(stage):
        if reference.root == "input":
            if not reference.path or not isinstance(reference.path[0], str):
                return None
            found.add(reference.path[0])
    return tuple(sorted(found))


def _put(value: Any, size_bytes: int) -> Any:
    with told_when_full(f"What is read of the run's input ({size_bytes} bytes)"):
        return _ray.put(portable(value))
