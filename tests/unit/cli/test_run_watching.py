"""Watching runs that stop, go on, or are left lying: which of it ends the watch, and with which exit code."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from pathlib import Path

import pytest

from flowmason_ray.cli import run_watching
from flowmason_ray.cli.errors import FAILED, PAUSED
from flowmason_ray.cli.run_watching import watch
from flowmason_ray.engine.events import Event, RunCreated, RunPaused, RunResumed
from flowmason_ray.engine.run_log import RunRecord
from flowmason_ray.settings import Project
from flowmason_ray.stores.opening import project_store
from flowmason_ray.stores.sqlite import SqliteRunStore

RECORD = RunRecord(run_id="r", pipeline="p", version="1", status="running", created_at=1)
CREATED = RunCreated(at=1, run_id="r", pipeline="p", version="1", plan_digest="d", input={}, seed=1)


def recorded(root: Path, *events: Event) -> SqliteRunStore:
    """Return a store with a run that its process has left behind these events."""
    store = project_store(Project(root=root))
    assert isinstance(store, SqliteRunStore)
    record(store, *events, new=True)
    return store


def record(store: SqliteRunStore, *events: Event, new: bool = False) -> None:
    async def write() -> None:
        log = store.create(RECORD) if new else store.reopen(RECORD)
        for event in events:
            log.append(event)
        await log.close()

    asyncio.run(write())


def test_a_paused_run_ends_the_watch(tmp_path: Path) -> None:
    assert watch(recorded(tmp_path, CREATED, RunPaused(at=2)), "r", as_json=False, quiet=True) == PAUSED


def test_a_paused_run_that_somebody_failed_to_go_on_with_counts_as_interrupted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = recorded(tmp_path, CREATED, RunPaused(at=2))
    record(store)  # taken up, and left before it went on
    assert watch(store, "r", as_json=True, quiet=True) == FAILED
    out, err = capsys.readouterr()
    assert json.loads(out)["status"] == "interrupted"
    assert "fm resume r" in err


@pytest.mark.parametrize(
    ("created", "resumed", "waits"),
    [(True, None, True), (False, None, False), (False, True, True), (True, False, False)],
)
def test_whether_a_cluster_is_waited_for_follows_from_who_had_the_run_last(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    created: bool,
    resumed: bool | None,
    waits: bool,
) -> None:
    monkeypatch.setattr(run_watching, "TAKEOVER_S", 0.1)
    events: list[Event] = [replace(CREATED, options={"handed_over": True} if created else {})]
    if resumed is not None:
        events.append(RunResumed(at=2, options={"handed_over": True, "asked_before": 0} if resumed else {}))
    assert watch(recorded(tmp_path, *events), "r", as_json=False, quiet=True) == FAILED
    assert ("waiting for its cluster" in capsys.readouterr().err) is waits
