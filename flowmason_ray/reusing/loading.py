"""Reads the past of a run from its store: the run that it is based on, and those that this one went on with itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from flowmason_ray.components.datasets import recorded_dataset
from flowmason_ray.engine.past import Past, Reading
from flowmason_ray.engine.run_log import RunRecord, RunStore
from flowmason_ray.engine.values import Items
from flowmason_ray.errors import InvalidCall, RunNotFound, StoreError
from flowmason_ray.stores.encoding import Decoder


@dataclass(frozen=True, slots=True, kw_only=True)
class EarlierRun:
    """A run with what came before it."""

    record: RunRecord
    past: Past
    newest: Reading
    """The run itself, without those before it."""
    input: Any
    """Its input, as it is recorded."""
    input_exact: bool
    """Whether that is what it was given: secrets are masked."""

    def exact_input(self) -> Any:
        """Return its input.

        Raises:
            InvalidCall: it is not recorded as it was.
        """
        if not self.input_exact:
            raise input_masked(self.record)
        return self.input


async def load_past(store: RunStore, run_id: str) -> EarlierRun:
    """Read a run, and the runs that it went on with.

    Raises:
        RunNotFound: there is no such run.
        InvalidCall: it went on with a run that is gone, or it ended before it had begun.
        StoreError: a log cannot be read.
    """
    record = await store.find(run_id)
    decoder = Decoder(getattr(store, "blobs", None))
    past, newest = Past(), await _read(store, record.run_id, decoder)
    if not newest.created:
        raise InvalidCall(f"Run {record.run_id!r} ended before its beginning was recorded: there is nothing to reuse.")
    reading, seen = newest, {record.run_id}
    while True:
        past.add(reading)
        before = earlier_run(reading.created)
        if before is None or before in seen:
            break
        seen.add(before)
        try:
            reading = await _read(store, before, decoder)
        except RunNotFound as exc:
            raise InvalidCall(
                f"Run {reading.run_id!r} went on with run {before!r}, which is no longer in the run log: what that one did "
                "is not known any more, so nothing can go on from here without doing it again. Start a new run."
            ) from exc
    return EarlierRun(
        record=record,
        past=past,
        newest=newest,
        input=decoder.value(newest.created, "input"),
        input_exact=not newest.created.get("lossy"),
    )


def input_masked(record: RunRecord) -> InvalidCall:
    """Return the error for a run whose input is not recorded as it was."""
    return InvalidCall(
        f"The input of run {record.run_id!r} held a secret, which is recorded as '***': nothing can go on with it. Give the input "
        f"again, to a new run that takes over what is still right: fm run {record.file or 'FILE'} -i INPUT --reuse {record.run_id}"
    )


def earlier_run(created: Mapping[str, Any]) -> str | None:
    """Return the run that a run went on with, as its first event says."""
    return created.get("based_on")


async def _read(store: RunStore, run_id: str, decoder: Decoder) -> Reading:
    reading = Reading(run_id)
    async for recorded in store.read(run_id):
        reading.take(recorded.event)
    try:
        reading.definitions = decoder.value(reading.created, "definitions") or {}
    except StoreError:  # without them everything counts as possibly changed; fingerprints decide anyway
        reading.definitions = {}
    return reading


def value_reader(store: RunStore) -> Callable[[Mapping[str, Any]], Any]:
    """Return what brings back recorded values."""
    return Decoder(getattr(store, "blobs", None)).value


def items_reader(store: RunStore, project_dir: Path) -> Callable[[Mapping[str, Any]], Items]:
    """Return what brings back the items of a loop."""
    decoder = Decoder(getattr(store, "blobs", None))

    def read(data: Mapping[str, Any]) -> Items:
        items = items_of(decoder.value(data), project_dir)
        if items is None:
            raise StoreError("The items of a loop are not recorded as such.")
        return items

    return read


def items_of(value: Any, project_dir: Path) -> Items | None:
    """Give a loop's items back their shape: they are recorded as plain JSON. None: it is something else."""
    if not (isinstance(value, dict) and {"source", "indices"} <= value.keys()):  # pyright: ignore[reportUnknownMemberType]  # JSON
        return None
    items = cast("dict[str, Any]", value)
    source = items["source"]
    if isinstance(source, dict):  # a list or a frame is recorded as itself
        source = recorded_dataset(cast("dict[str, Any]", source), project_dir)
    return Items(source, items["indices"], items.get("batch"))
