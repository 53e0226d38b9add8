"""Cancelling, where somebody else was a moment faster."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, cast

from flowmason_ray.api import PreparedRun
from flowmason_ray.cli.run_requests import cancel_run
from flowmason_ray.components.registry import load_project_module
from flowmason_ray.engine.run_log import RunStore
from flowmason_ray.stores.blobs import LocalBlobs
from flowmason_ray.stores.sqlite import SqliteRunStore
from tests.cli_kit import add_nap, pipeline, stage


class PausedFirst:
    """A store with which a run pauses just before it is asked anything else."""

    def __init__(self, store: SqliteRunStore) -> None:
        self._store = store

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def request(self, run_id: str, kind: str, data: dict[str, Any]) -> None:
        await self._store.request(run_id, "pause", {"by": "another"})
        while (await self._store.find(run_id)).status != "paused":  # noqa: ASYNC110  # what it runs in is another task
            await asyncio.sleep(0.01)
        await self._store.request(run_id, kind, data)


def test_a_run_that_pauses_before_it_hears_that_it_is_cancelled_ends_all_the_same(tmp_path: Path) -> None:
    add_nap(tmp_path)
    nap = vars(load_project_module(tmp_path / "components" / "nap.py"))["Nap"]
    store = SqliteRunStore(tmp_path / "runs.db", LocalBlobs(tmp_path / "blobs"))

    async def work() -> tuple[int, str, str]:
        prepared = PreparedRun(pipeline(stage("long", config={"seconds": 600})), components=[nap], store=store)
        running = asyncio.create_task(prepared.run())
        while not await store.list_runs():  # noqa: ASYNC110  # as above
            await asyncio.sleep(0.01)
        exit_code = await cancel_run(cast("RunStore", PausedFirst(store)), prepared.run_id)
        return exit_code, (await running).status, (await store.find(prepared.run_id)).status

    assert asyncio.run(work()) == (0, "paused", "cancelled")
