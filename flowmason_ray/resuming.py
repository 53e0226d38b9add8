"""Going on with a run that has stopped: where it was, or under an edited pipeline.

*Where it was* (`prepare_resume`): the run log says everything. The recorded events are replayed into a new state machine, with
the values that they recorded, and what was under way is begun again, under the same attempt numbers and so with the same
idempotency keys. It stays the same run.

*Under an edited pipeline* (`prepare_edited`): a new run, which takes over from the old one whatever has the same fingerprint,
effects and answers included. If the old run could still be taken up itself, it is ended first (`superseded`), so that never two
of them act.

An effectful attempt whose outcome is unknown is in doubt either way: whoever goes on says what holds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from time import time
from typing import Any, Unpack

from flowmason_ray import telemetry
from flowmason_ray.api import PreparedRun, RunOptions, RunResult
from flowmason_ray.engine.commands import StartStage
from flowmason_ray.engine.events import (
    CancelRequested,
    Event,
    RunCancelled,
    RunCreated,
    RunPaused,
    RunResumed,
    StageDeclined,
    StageFailed,
    StageReused,
    StageStarted,
    StageSucceeded,
)
from flowmason_ray.engine.pace import Timing
from flowmason_ray.engine.replay import Replayed, replay
from flowmason_ray.engine.reuse import InDoubt, Knowledge, ReuseRules
from flowmason_ray.engine.run_log import RunLog, RunRecord, RunStore
from flowmason_ray.engine.runner import Observer
from flowmason_ray.engine.summary import Summary
from flowmason_ray.engine.timings import Timings
from flowmason_ray.errors import Failure, InvalidCall, InvalidInput, RunNotFound, StoreError
from flowmason_ray.reusing.asking import Reuse, rules_for
from flowmason_ray.reusing.faithful import Faithfulness
from flowmason_ray.reusing.loading import EarlierRun, input_masked, items_of, load_past
from flowmason_ray.reusing.outlook import Outlook, doubtful_paths, outlook
from flowmason_ray.spec.loader import LoadedPipeline
from flowmason_ray.stores.encoding import Decoder, event_from_json
from flowmason_ray.wiring import Workspace, load, open_workspace

TAKEN_UP = ("interrupted", "paused")
"""The states in which a run can be taken up where it was."""


class ResumedRun(PreparedRun):
    """A run that goes on where it was. Made by `prepare_resume`."""

    def __init__(
        self,
        record: RunRecord,
        events: Sequence[Event],
        *,
        store: RunStore,
        workspace: Workspace,
        in_doubt: InDoubt,
        on: str | None,
        observers: Sequence[Observer],
        stream: bool,
        handed_over: bool,
        same: bool,
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
            stream=stream,
            workspace=workspace,
            seed=created.seed,
        )
        if self.plan.digest != created.plan_digest:
            raise InvalidCall(
                f"The pipeline {record.file} is not the one that run {record.run_id!r} was made with: it, a pipeline that it "
                "calls, or a component has changed. To go on under the pipeline as it is now, in a new run that keeps what is "
                f"still right: fm resume {record.run_id} --pipeline {record.file}"
            )
        self.info = replace(self.info, run_id=record.run_id, started_at=created.at, input=created.input)
        self.info.models.budget = created.options.get("budget")  # the one that it was begun with
        self._trace_in(telemetry.new_trace(record.run_id, earlier=created.options.get("trace")))
        self._record = record
        self._created = created
        self._keys = {e.path: e.idempotency_key for e in events if isinstance(e, StageStarted) and e.idempotency_key}
        replayed = _without_unbegun(replay(self.plan, events), created, events)
        self._replayed = replace(
            _with_keys(_settle(replayed, in_doubt), self._keys),
            handed_over=handed_over,
            heeded_after=_heeded_after(events) if same else None,
        )
        self._recorded = events

    def check_values(self, faithfulness: Faithfulness) -> None:
        """Make sure that nothing goes on with a value that is not recorded as it was.

        Raises:
            InvalidCall: something would.
        """
        if not faithfulness.masked or self._replayed.state.cancelling is not None or self._replayed.ended is not None:
            return
        summary = Summary()
        for event in self._recorded:
            summary(event)
        found = faithfulness.still_read(self.plan, summary.stages)
        if found is not None:
            path, reader = found
            run = self._record
            whose = "what is inside of it has" if reader == path else f"{reader!r} has"
            raise InvalidCall(
                f"What {path!r} came to is not recorded as it was: a secret in it is masked, or a number in it is NaN or infinite; "
                f"and {whose} yet to read it. To make it anew, in a new run that keeps everything else: "
                f"fm resume {run.run_id} --pipeline {run.file}"
            )

    @property
    def recorded(self) -> Sequence[Event]:
        """What happened in the run so far."""
        return self._recorded

    def _resumed(self) -> Replayed:
        for event in self._recorded:
            self._summary(event)
        return self._replayed

    async def _known(self) -> Knowledge:
        """Read what the run knew when it began: it may have gone on with another, whose effects count as its own."""
        said: Mapping[str, Any] = self._created.options.get("reuse", {})
        self._rules = ReuseRules.from_json(said)
        if "run" not in said:
            return Knowledge(rules=self._rules, keys=self._keys)
        assert self._store is not None
        try:
            earlier = await load_past(self._store, said["run"])
        except RunNotFound as exc:
            if self._rules.continues or self._rules.required:
                raise InvalidCall(
                    f"Run {self.run_id!r} goes on with run {said['run']!r}, which is no longer in the run log: what that one "
                    "did is not known any more. Start a new run."
                ) from exc
            return Knowledge(rules=self._rules, keys=self._keys)  # it only saves work
        reused = [event for event in self._recorded if isinstance(event, StageReused)]
        taken = [(str(e.source.get("run")), str(e.source.get("path", e.path))) for e in reused]
        return replace(self._knowledge(earlier.past), taken=taken, keys=self._keys)

    def _measured(self, timings: Timings) -> Mapping[str, Timing]:
        """Return the durations that moved stages when the run began: it goes on as it was."""
        moved: Mapping[str, float] = self._created.options.get("measured", {})
        return {path: Timing(1, typical_s) for path, typical_s in moved.items()}

    def _log(self) -> RunLog:
        assert self._store is not None
        return self._store.reopen(self._record, secrets=self.info.hidden)


async def prepare_resume(
    store: RunStore,
    run_id: str,
    *,
    in_doubt: InDoubt = "ask",
    on: str | None = None,
    observers: Sequence[Observer] = (),
    stream: bool = False,
    workspace: Workspace | None = None,
    handed_over: bool = False,
    same: bool = False,
) -> ResumedRun:
    """Read a run that was interrupted or paused, and make it ready to go on where it was.

    Args:
        store: Where it is recorded.
        run_id: Its id, the beginning of it, or `last`.
        in_doubt: What holds for effectful attempts whose outcome is unknown.
        on: Where it goes on; as for `PreparedRun`.
        observers: Are shown every event from now on.
        stream: Whether they are shown texts as they grow.
        workspace: The project; None: the one that the pipeline lies in.
        handed_over: Whether a coordinator in a cluster takes it up.
        same: Whether that is the one that the run was handed to last, or takes its place, so that what was asked meanwhile is
            heeded. Otherwise somebody takes the run up on purpose, whatever was asked before.

    Raises:
        RunNotFound: there is no such run.
        InvalidCall: it has not stopped, has ended, has no file, or cannot go on as asked.
    """
    record = await store.find(run_id)
    if record.status not in TAKEN_UP:
        raise InvalidCall(_not_taken_up(record))
    file = _file_of(record)
    space = workspace or open_workspace(file)
    decoder = Decoder(getattr(store, "blobs", None), run_id=record.run_id, lazy=True)
    events: list[Event] = []
    faithfulness = Faithfulness()
    async for recorded in store.read(record.run_id):
        faithfulness.take(recorded.event)
        events.append(with_items(event_from_json(recorded.event, decoder), space.project.root))
    if not faithfulness.input_exact:
        raise input_masked(record)
    run = ResumedRun(
        record,
        events,
        store=store,
        workspace=space,
        in_doubt=in_doubt,
        on=on,
        observers=observers,
        stream=stream,
        handed_over=handed_over,
        same=same,
    )
    run.check_values(faithfulness)
    return run


def _heeded_after(events: Sequence[Event]) -> int | None:
    """Return the last request that is older than the run's last hand-over to a cluster; None: that is not known.

    When something else came after that, a pause or a process of somebody's own, what was asked before is over.
    """
    last = next((e for e in reversed(events) if isinstance(e, (RunCreated, RunResumed, RunPaused))), None)
    if isinstance(last, (RunCreated, RunResumed)) and last.options.get("handed_over"):
        return last.options.get("asked_before", 0)
    return None


def _not_taken_up(record: RunRecord) -> str:
    """Say why a run cannot be taken up where it was, and what to do instead."""
    if record.status == "running":
        return f"Run {record.run_id!r} is running: there is nothing to take up. 'fm runs events {record.run_id} --follow' shows it."
    file = record.file or "FILE"
    return (
        f"Run {record.run_id!r} is {record.status}: only a run that was interrupted or paused can be taken up where it was. To go "
        f"on from what it came to, under a pipeline that you may have edited: fm resume {record.run_id} --pipeline {file}. To run "
        f"again and reuse its results: fm run {file} --reuse {record.run_id}."
    )


class EditedRun(PreparedRun):
    """A new run that goes on with an old one under an edited pipeline. Made by `prepare_edited`.

    `outlook` says what will be reused and what will run; nothing has happened yet.
    """

    def __init__(
        self,
        loaded: LoadedPipeline,
        earlier: EarlierRun,
        *,
        asked: Reuse,
        in_doubt: InDoubt,
        workspace: Workspace | None,
        **options: Unpack[RunOptions],
    ) -> None:
        """
        Raises:
            InvalidPipeline: the edited pipeline cannot be run.
            InvalidInput: the old run's input does not fit its schema.
            InvalidCall: what is asked is not possible.
        """
        seed: int = earlier.newest.created["seed"]  # what an attempt in flight has drawn, it draws again
        super().__init__(loaded, earlier.exact_input(), workspace=workspace, seed=seed, **options)
        self._earlier = earlier
        self._rules = replace(rules_for(asked, self.plan, continues=True), in_doubt=in_doubt)
        assert self._recipes is not None
        self.outlook: Outlook = outlook(self._recipes, earlier.past, self._rules)
        self._doubtful = doubtful_paths(self._recipes, earlier.past)

    @property
    def earlier_run_id(self) -> str:
        """The run that is gone on with."""
        return self._earlier.record.run_id

    def check_doubt(self) -> None:
        """Make sure that it was said what holds for attempts in doubt, if there are any.

        Raises:
            InvalidCall: it was not.
        """
        if self._rules.in_doubt == "ask" and self._doubtful:
            raise InvalidCall(_doubt(self._doubtful))

    async def run(self) -> RunResult:
        """End the old run if it could still be taken up, then run.

        Raises:
            InvalidCall: attempts are in doubt and nothing was decided.
            Fenced: somebody else has taken up the old run meanwhile.
            StoreError: the run cannot be recorded.
        """
        await self._succeed()
        return await super().run()

    async def accept(self) -> None:
        """End the old run if it could still be taken up, then record this one and leave it to another process."""
        await self._succeed()
        await super().accept()

    async def _succeed(self) -> None:
        self.check_doubt()
        assert self._store is not None
        if self._earlier.record.status in TAKEN_UP:
            await supersede(self._store, self._earlier.record, self.run_id)

    async def _known(self) -> Knowledge:
        return self._knowledge(self._earlier.past)

    def _based_on(self) -> str | None:
        return self._earlier.record.run_id


async def prepare_edited(
    store: RunStore,
    run_id: str,
    pipeline: Path | LoadedPipeline,
    *,
    reuse: Reuse | None = None,
    in_doubt: InDoubt = "ask",
    on: str | None = None,
    observers: Sequence[Observer] = (),
    stream: bool = False,
    components: Sequence[type] = (),
    workspace: Workspace | None = None,
) -> EditedRun:
    """Read a run that is not under way, and make a new one ready that goes on with it under an edited pipeline.

    Nothing is changed before it is run.

    Args:
        store: Where the run is recorded, and the new one will be.
        run_id: Its id, the beginning of it, or `last`.
        pipeline: The edited pipeline.
        reuse: What is to run again nevertheless (`force`, `from_stage`), and whether the cache is used.
        in_doubt: What holds for effectful attempts whose outcome is unknown.
        on: Where it runs; as for `PreparedRun`.
        observers: Are shown every event of the new run.
        stream: Whether they are shown texts as they grow.
        components: Component classes that it may use, besides the project's.
        workspace: The project; None: the one that the pipeline lies in.

    Raises:
        RunNotFound: there is no such run.
        InvalidCall: it is running, or another run has gone on with it already.
        InvalidPipeline: the pipeline cannot be run.
        InvalidInput: the input of the old run does not fit the edited pipeline.
    """
    earlier = await load_past(store, run_id)
    record = earlier.record
    if record.status == "running":
        raise InvalidCall(
            f"Run {record.run_id!r} is running. Stop it first: fm pause {record.run_id}, or fm cancel {record.run_id}."
        )
    successor = await _successor(store, record)
    if successor is not None:
        raise InvalidCall(
            f"Run {successor!r} has gone on with run {record.run_id!r} already; going on with both would do the same work twice. "
            f"Go on with that one: fm resume {successor}"
        )
    loaded = pipeline if isinstance(pipeline, LoadedPipeline) else load(pipeline)
    try:
        return EditedRun(
            loaded,
            earlier,
            asked=reuse or Reuse(),
            in_doubt=in_doubt,
            workspace=workspace,
            store=store,
            on=on,
            observers=observers,
            stream=stream,
            components=components,
        )
    except InvalidInput as exc:
        problems = [
            replace(p, message=f"The input of run {record.run_id!r} no longer fits: {p.message}") for p in exc.problems
        ]
        hint = f"Let the edited pipeline take the old input, or start anew with: fm run FILE --reuse {record.run_id} -i INPUT."
        raise InvalidInput([*problems[:-1], replace(problems[-1], hint=hint)]) from exc


async def _successor(store: RunStore, record: RunRecord) -> str | None:
    """Return the run that has gone on with this one, if there is one."""
    newer = await store.list_runs(limit=10_000)
    for other in newer:
        if other.based_on == record.run_id:
            return other.run_id
    return None


async def supersede(store: RunStore, record: RunRecord, successor: str) -> None:
    """End a run that could still be taken up: another one goes on with it.

    Raises:
        Fenced: somebody else has taken it up.
    """
    message = f"Run {successor} goes on with it under an edited pipeline."
    await end_stopped(store, record, code="superseded", message=message)


async def end_stopped(store: RunStore, record: RunRecord, *, code: str, message: str) -> None:
    """End a run that is paused or was interrupted as cancelled: nothing of it is under way, so nothing is stopped.

    Raises:
        Fenced: somebody has taken it up.
    """
    log = store.reopen(record)
    log.append(CancelRequested(at=time(), code=code, message=message))
    log.append(RunCancelled(at=time(), failure=Failure(code=code, message=message)))
    await log.close()


def _file_of(record: RunRecord) -> Path:
    if record.file is None or not Path(record.file).is_file():
        where = "was not made from a file" if record.file is None else f"was made from {record.file}, which is gone"
        raise InvalidCall(f"Run {record.run_id!r} {where}: there is nothing to go on with.")
    return Path(record.file)


def with_items(event: Event, project_dir: Path) -> Event:
    """Give a loop's items back their shape: they are recorded as plain JSON."""
    if isinstance(event, StageSucceeded) and event.decision is not None and "count" in event.decision:
        items = items_of(event.value, project_dir)
        return event if items is None else replace(event, value=items)
    return event


def _with_keys(replayed: Replayed, keys: Mapping[str, str]) -> Replayed:
    """Give attempts that are begun again the idempotency keys that they had."""
    if not keys:
        return replayed
    left = replayed.outstanding
    repeat = [
        replace(c, idempotency_key=keys[c.path]) if isinstance(c, StartStage) and c.path in keys else c
        for c in left.repeat
    ]
    return replace(replayed, outstanding=replace(left, repeat=repeat))


def _doubt(paths: Sequence[str]) -> str:
    named = ", ".join(map(repr, paths))
    return (
        f"It is not known whether these stages did their work, and doing it twice could do harm: {named}. Find out, and "
        "say what holds: --in-doubt retry (do it again), skip (go on without), or fail."
    )


def _without_unbegun(replayed: Replayed, created: RunCreated, events: Sequence[Event]) -> Replayed:
    """Take effectful attempts out of doubt that had not begun: that an attempt starts is recorded before it begins.

    So it is with every durability but `none`, which a run says of itself.
    """
    left = replayed.outstanding
    if not left.in_doubt or created.options.get("durability") == "none":
        return replayed
    begun = {(e.path, e.attempt) for e in events if isinstance(e, StageStarted)}
    unbegun = [command for command in left.in_doubt if (command.path, command.attempt) not in begun]
    doubtful = [command for command in left.in_doubt if (command.path, command.attempt) in begun]
    return replace(replayed, outstanding=replace(left, repeat=[*left.repeat, *unbegun], in_doubt=doubtful))


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
        raise InvalidCall(_doubt([command.path for command in doubtful]))
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
