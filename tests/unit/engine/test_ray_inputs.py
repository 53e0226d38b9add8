"""Which fields of an input travel with an attempt."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("ray")

from flowmason_ray.engine.executors import ray_inputs
from flowmason_ray.engine.executors.ray_bindings import RemoteValue
from flowmason_ray.engine.executors.ray_inputs import Inputs, StoreFull
from flowmason_ray.engine.plan import PlanStage
from tests.engine_kit import plan_of, stage


class _Store:
    """Stands for Ray's object store."""

    def __init__(self) -> None:
        self.put_values: list[Any] = []

    def put(self, value: Any) -> int:
        """Keep a value."""
        self.put_values.append(value)
        return len(self.put_values)


class _Full:
    """An object store with a full disk behind it."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def put(self, value: Any) -> int:
        """Refuse a value."""
        raise self._error


def kept(value: RemoteValue, none: None) -> None:
    """Take note of what is in the object store: nobody does here."""


LARGE = list(range(100_000))
ALIVE: list[PlanStage] = []
"""Stages live as long as their plan, and that as long as its run: who knows them by `id` relies on it."""


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> _Store:
    made = _Store()
    monkeypatch.setattr(ray_inputs, "_ray", made)
    return made


def reader(text: str) -> PlanStage:
    made = plan_of(stage("r", config={"value": "{{ " + text + " }}"})).root.stages[0]
    ALIVE.append(made)
    return made


def test_only_the_fields_that_are_read_travel(store: _Store) -> None:
    given = {"items": LARGE, "n": 1, "m": 2}
    inputs = Inputs(given, kept)
    assert inputs.handle(given, reader("input.n + input['m']")) == {"n": 1, "m": 2}
    large = inputs.handle(given, reader("input['items'] | length"))
    assert isinstance(large, RemoteValue)
    assert inputs.handle(given, reader("input['items'] | first")) is large, "what is large is put there once"
    assert store.put_values[-1] == {"items": LARGE}


def test_who_reads_all_of_it_or_what_is_not_there_gets_all_of_it(store: _Store) -> None:
    given = {"items": LARGE, "n": 1}
    inputs = Inputs(given, kept)
    whole = inputs.handle(given, reader("input"))
    assert isinstance(whole, RemoteValue)
    assert inputs.handle(given, reader("input['nowhere'] | default(1)")) is whole
    assert store.put_values == [given]


def test_a_small_input_travels_as_it_is_and_that_of_a_called_pipeline_in_parts(store: _Store) -> None:
    given = {"n": 1, "m": 2}
    assert Inputs(given, kept).handle(given, reader("input.n")) is given
    assert Inputs({}, kept).handle(given, reader("input.n")) == {"n": 1}
    assert Inputs({}, kept).handle([1], reader("input")) == [1]
    assert store.put_values == []


@pytest.mark.parametrize("error", [ray_inputs.ObjectStoreFullError("No."), ray_inputs.OutOfDiskError("No.")])
def test_a_full_object_store_is_said_so(store: _Store, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    given = {"items": LARGE}
    inputs = Inputs(given, kept)
    sent = inputs.handle(given, reader("input"))
    monkeypatch.setattr(ray_inputs, "_ray", _Full(error))
    with pytest.raises(StoreFull, match=r"\d+ bytes\) cannot be sent.* full") as told:
        inputs.put_again(sent)
    assert told.value.code == "object_store_full"
    with pytest.raises(StoreFull):
        Inputs(given, kept).handle(given, reader("input"))
