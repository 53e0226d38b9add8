"""`event_from_json` is the inverse of `event_to_json`, for every kind of event."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowmason_ray.engine.events import EVENT_TYPES, Event, SkipReason, StageSucceeded
from flowmason_ray.errors import Failure, StoreError
from flowmason_ray.stores.blobs import LocalBlobs
from flowmason_ray.stores.encoding import Decoder, event_from_json, event_to_json

names = st.text("abc_/[0]", min_size=1, max_size=8)
numbers = st.integers(0, 2**40)
times = st.floats(0, 1e10)
scalars = st.none() | st.booleans() | numbers | st.text(max_size=8)
values = st.recursive(scalars, lambda v: st.lists(v, max_size=3) | st.dictionaries(names, v, max_size=3), max_leaves=6)
objects = st.dictionaries(names, values, max_size=3)
failures = st.builds(
    Failure, code=names, message=st.text(max_size=8), stage=names, attempts=numbers, details=st.none() | objects
)

BY_NAME: dict[str, st.SearchStrategy[Any]] = {
    "at": times, "attempt": numbers, "based_on": st.none() | names, "branch": st.none() | names, "by": st.none() | names, "code": names, "count": numbers,
    "data": values, "decision": st.none() | objects, "definitions": st.none() | objects, "delay_s": times, "done": times, "dropped": numbers, "draw": st.floats(0, 1),
    "duration_s": times, "fields": objects, "final": st.booleans(), "fingerprint": st.none() | names, "form": st.none() | objects, "idempotency_key": st.none() | names, "index": numbers, "input": values, "level": names,
    "message": names, "names": st.lists(names, max_size=3).map(tuple), "options": objects, "path": names, "pipeline": names,
    "plan_digest": names, "reason": st.sampled_from(SkipReason), "repeated": st.lists(names, max_size=3).map(tuple), "run_id": names, "seed": numbers, "shown": st.booleans(), "size_bytes": numbers, "source": objects, "status": names, "stopped": st.lists(names, max_size=3).map(tuple), "text": names,
    "total": st.none() | times, "usage": st.none() | objects, "value": values, "version": names,
}  # fmt: skip
"""What each field may hold. A new field makes the test fail until it is told here."""


@st.composite
def events(draw: st.DrawFn) -> Event:
    cls = draw(st.sampled_from(sorted(EVENT_TYPES.values(), key=lambda c: c.kind)))
    facts: dict[str, Any] = {}
    for field in fields(cls):
        if field.name == "failure":
            optional = "None" in str(field.type)
            facts["failure"] = draw(st.none() | failures if optional else failures)
        else:
            facts[field.name] = draw(BY_NAME[field.name])
    return cls(**facts)


@given(events())
def test_every_event_comes_back(event: Event) -> None:
    assert event_from_json(event_to_json(event), Decoder(None)) == event


def test_values_are_left_out_unless_asked_for() -> None:
    event = StageSucceeded(path="a", attempt=1, value={"x": 1})
    assert event_from_json(event_to_json(event)) == StageSucceeded(path="a", attempt=1, value=None)


def test_values_in_blobs_come_back(tmp_path: Any) -> None:
    blobs = LocalBlobs(tmp_path)
    event = StageSucceeded(path="a", attempt=1, value={"x": "y" * 100_000})
    recorded = event_to_json(event, blobs)
    assert "value" not in recorded
    assert event_from_json(recorded, Decoder(blobs)) == event


@pytest.mark.parametrize("data", [{"kind": "of_tomorrow"}, {}, {"kind": "stage_started", "path": "a"}])
def test_what_is_no_event_is_refused(data: dict[str, Any]) -> None:
    with pytest.raises(StoreError):
        event_from_json(data)
