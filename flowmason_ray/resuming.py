"""Taking up a run that was interrupted: its process was killed, or the machine went down.

The run log says everything: the recorded events are replayed into a new state machine, with the values that they recorded,
and what was under way is begun again, under the same attempt numbers and so with the same idempotency keys. An effectful
attempt whose outcome is unknown is in doubt: whoever resumes says what holds.

The pipeline must be the one that the run was made with. Going on under an edited pipeline is not built yet.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, cast

from flowmason_ray.api import PreparedRun
from flowmason_ray.components.datasets import recorded_dataset
from flowmason_ray.engine.events import Event, RunCreated, StageDeclined, StageFailed, StageSucceeded
from flowmason_ray.engine.replay import Replayed, replay
from flowmason_ray.engine.run_log import RunLog, RunRecord
from flowmason_ray.engine.runner import Observer
from flowmason_ray.engine.values import Items
from flowmason_ray.errors import Failure, InvalidCall, StoreError
from flowmason_ray.stores.encoding import Decoder, event_from_json
from flowmason_ray.stores.sqlite import SqliteRunStore
from flowmason_ray.wiring import Workspace, load, open_workspace

InDoubt = Literal["ask", "retry", "skip", "fail"]
"""What holds for effectful attempts whose outcome is unknown: `ask` refuses to resume and names them; `retry` begins them
again; `skip` goes on as if the stage had been skipped; `fail` takes them as failed, with code `in_doubt`."""


class ResumedRun(PreparedRun):
    """A run that goes on where it was. Made by `prepare_resume`."""

    def __init__(
        self,
        record: RunRecord,
        events: Sequence[Event],
        *,
        store: SqliteRunStore,
        workspace: Workspace,
        in_doubt: InDoubt,
        on: str | None,
        observers: Sequence[Observer],
    ) -> None:
        """
        Raises:
            InvalidCall: the pipeline has changed since, or attempts are in doubt and nothing was decided.
            InvalidPipeline: the pipeline can no longer be run.
            StoreError: the log has no beginning.
        """
        created = next((event for event in events if isinstance(event, RunCreated)), None)
        if created is None:
            raise StoreError(f"Run {record.run_id!r} ended before its beginning was recorded; start it anew.")
        assert record.file is not None
        super().__init__(
            load(Path(record.file)),
            created.input,
            on=on,
            store=store,
            observers=observers,
            workspace=workspace,
            seed=created.seed,
        )
        if self.plan.digest != created.plan_digest:
            raise InvalidCall(
                f"The pipeline {record.file} is not the one that run {record.run_id!r} was made with: it, a pipeline that it "
                "calls, or a component has changed. Going on under an edited pipeline is not built yet; bring the old one "
                "back, or start anew."
            )
        self.info = replace(self.info, run_id=record.run_id, started_at=created.at, input=created.input)
        self._record = record
        self._replayed = _settle(replay(self.plan, events), in_doubt)
        self._recorded = events

    def _resumed(self) -> Replayed:
        for event in self._recorded:
            self._summary(event)
        return self._replayed

    def _log(self) -> RunLog:
        assert isinstance(self._store, SqliteRunStore)
        return self._store.reopen(self._record, secrets=self.info.secrets.values())


async def prepare_resume(
    store: SqliteRunStore,
    run_id: str,
    *,
    in_doubt: InDoubt = "ask",
    on: str | None = None,
    observers: Sequence[Observer] = (),
    workspace: Workspace | None = None,
) -> ResumedRun:
    """Read an interrupted run, and make it ready to go on.

    Args:
        store: Where it is recorded.
        run_id: Its id, the beginning of it, or `last`.
        in_doubt: What holds for effectful attempts whose outcome is unknown.
        on: Where it goes on; as for `PreparedRun`.
        observers: Are shown every event from now on.
        workspace: The project; None: the one that the pipeline lies in.

    Raises:
        RunNotFound: there is no such run.
        InvalidCall: it was not interrupted, has no file, or cannot go on as asked.
    """
    record = await store.find(run_id)
    if record.status not in ("interrupted", "paused"):
        raise InvalidCall(
            f"Run {record.run_id!r} is {record.status}: only a run that was interrupted or paused can be taken up again."
        )
    file = _file_of(record)
    space = workspace or open_workspace(file)
    decoder = Decoder(store.blobs, lazy=True)
    events: list[Event] = []
    async for recorded in store.read(record.run_id):
        events.append(with_items(event_from_json(recorded.event, decoder), space.project.root))
    return ResumedRun(record, events, store=store, workspace=space, in_doubt=in_doubt, on=on, observers=observers)


def _file_of(record: RunRecord) -> Path:
    if record.file is None or not Path(record.file).is_file():
        where = "was not made from a file" if record.file is None else f"was made from {record.file}, which is gone"
        raise InvalidCall(f"Run {record.run_id!r} {where}: there is nothing to go on with.")
    return Path(record.file)


def with_items(event: Event, project_dir: Path) -> Event:
    """Give a loop's items back their shape: they are recorded as plain JSON."""
    if isinstance(event, StageSucceeded) and event.decision is not None and "count" in event.decision:
        value: Any = event.value
        if isinstance(value, dict) and {"source", "indices"} <= value.keys():
            items = cast("dict[str, Any]", value)
            source = items["source"]
            if isinstance(source, dict):  # a list or a frame is recorded as itself
                source = recorded_dataset(cast("dict[str, Any]", source), project_dir)
            return replace(event, value=Items(source, items["indices"], items.get("batch")))
    return event


def _settle(replayed: Replayed, in_doubt: InDoubt) -> Replayed:
    """Decide about the attempts in doubt.

    Raises:
        InvalidCall: there are some, and it was not said what holds.
    """
    left = replayed.outstanding
    doubtful = left.in_doubt
    if not doubtful:
        return replayed
    if in_doubt == "ask":
        paths = ", ".join(repr(command.path) for command in doubtful)
        raise InvalidCall(
            f"It is not known whether these stages did their work, and doing it twice could do harm: {paths}. Find out, and "
            "say what holds: --in-doubt retry (do it again), skip (go on without), or fail."
        )
    if in_doubt == "retry":
        return replace(replayed, outstanding=replace(left, repeat=[*left.repeat, *doubtful], in_doubt=()))
    if in_doubt == "skip":
        decided: list[Event] = [StageDeclined(path=c.path, attempt=c.attempt) for c in doubtful]
    else:
        message = "The run was interrupted while it worked; whether it did its work is not known."
        decided = [
            StageFailed(
                path=c.path,
                attempt=c.attempt,
                failure=Failure(code="in_doubt", message=message, stage=c.path, attempts=c.attempt),
            )
            for c in doubtful
        ]
    return replace(replayed, outstanding=replace(left, in_doubt=()), decided=decided)
