"""`fm runs watch`: shows a run that some process drives, or none any more, from its log; leaving it does nothing to the run.

The same views as `fm run`'s are fed with the recorded events, and with what stages say. They need the run's plan: where its
file is not there or has changed, what happens is told line by line.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, time
from typing import TYPE_CHECKING, Any

from flowmason_ray.api import RunResult
from flowmason_ray.cli.errors import CANCELLED, FAILED
from flowmason_ray.cli.run_command import EXIT_CODES
from flowmason_ray.cli.run_logs import followed_logs
from flowmason_ray.cli.run_story import Narrator
from flowmason_ray.cli.terminal import note, write_json
from flowmason_ray.engine.events import RUN_ENDED, Event, RunCreated, RunPaused, RunResumed, RunSucceeded, StageLogged
from flowmason_ray.engine.summary import Summary
from flowmason_ray.engine.values import presentable
from flowmason_ray.errors import Failure, FlowMasonError, StoreError
from flowmason_ray.stores.encoding import Decoder, event_from_json
from flowmason_ray.wiring import load, open_workspace

if TYPE_CHECKING:
    from flowmason_ray.engine.plan import Plan
    from flowmason_ray.engine.run_log import Recorded, RunRecord, RunStore, Said
    from flowmason_ray.spec.loader import LoadedPipeline

TAKEOVER_S = 180.0
"""How long a run that was handed to a cluster may be without a process before nobody is expected to take it up any more: a
lease that has to run out, a node that has to start."""
STARTING_S = 20.0
"""How long a coordinator that was just handed the run may take until the log shows it."""
POLL_S = 0.25


@dataclass(frozen=True, slots=True, kw_only=True)
class Watched:
    """What a view has to know about a run (`cli.watching.Watcher.begin`)."""

    plan: Plan
    loaded: LoadedPipeline
    run_id: str
    recorded: Sequence[Event]
    on: str = ""
    warnings: Sequence[Any] = ()


class RunWatching:
    """One run that is watched."""

    def __init__(self, store: RunStore, record: RunRecord) -> None:
        self._store = store
        self.record = record
        self.summary = Summary()
        self.last: Event | None = None
        """The event that ended or paused the run."""
        self._last_recorded: Mapping[str, Any] = {}
        self._position = 0
        self._handed_over = False
        self._left = False
        """Whether it is followed no more."""

    async def catch_up(self) -> list[Event]:
        """Read what has happened so far."""
        events: list[Event] = []
        async for recorded in self._store.read(self.record.run_id):
            events.append(self._taken(recorded))
        return events

    def _taken(self, recorded: Recorded) -> Event:
        self._position = recorded.position
        event = event_from_json(recorded.event)
        self.summary(event)
        if isinstance(event, (RunCreated, RunResumed)):
            self._handed_over = bool(event.options.get("handed_over"))
        if isinstance(event, (*RUN_ENDED, RunPaused)):
            self.last, self._last_recorded = event, recorded.event
        elif self.last is not None:
            self.last = None  # it has gone on
        return event

    @property
    def over(self) -> bool:
        """Whether the run has stopped for good: it has ended or is paused.

        One whose last event is a pause need not be: somebody has begun to go on with it.
        """
        return self.last is not None and self.record.status in EXIT_CODES

    async def follow(self, show: Callable[[Event], None], say: Callable[[str], None]) -> None:
        """Show what happens until the run stops for good: it has ended, is paused, or nobody takes it up again."""
        talking = asyncio.create_task(self._follow_logs(show))
        try:
            while True:
                async for recorded in self._store.follow(self.record.run_id, after=self._position):
                    show(self._taken(recorded))
                self.record = await self._store.find(self.record.run_id)
                if self.record.status in EXIT_CODES:
                    async for recorded in self._store.read(self.record.run_id, after=self._position):
                        show(self._taken(recorded))
                    break
                if self.record.status == "interrupted" and not await self._taken_up(say):
                    break
            self._left = True
            with suppress(TimeoutError):  # what was said last may be read a moment later
                await asyncio.wait_for(asyncio.shield(talking), timeout=2)
        finally:
            talking.cancel()

    async def _follow_logs(self, show: Callable[[Event], None]) -> None:
        after = 0
        async for said in self._store.said(self.record.run_id):
            after = said.number
        while True:
            async for said in followed_logs(self._store, self.record, after):
                after = said.number
                show(
                    StageLogged(
                        at=said.at,
                        path=said.path,
                        attempt=said.attempt,
                        level=said.level,
                        message=said.message,
                        fields=said.fields,
                    )
                )
            if self._left:
                return
            await asyncio.sleep(POLL_S)

    async def _taken_up(self, say: Callable[[str], None]) -> bool:
        """Wait until another process goes on with the run, if one may: its cluster restarts what drove it."""
        if not self._handed_over:
            return False
        asked = time()
        say(f"No process drives run {self.record.run_id} at the moment; waiting for its cluster to take it up.")
        began = monotonic()
        word: Said | None = None
        while monotonic() < began + TAKEOVER_S:
            self.record = await self._store.find(self.record.run_id)
            if self.record.status != "interrupted":
                return True
            # An older word may be about a coordinator before the one that is just starting.
            async for said in self._store.said(self.record.run_id, after=0 if word is None else word.number):
                word = said
            if word is not None and _leaves(word) and (word.at > asked or monotonic() > began + STARTING_S):
                say(word.message)
                return False
            await asyncio.sleep(POLL_S)
        return False

    def result(self) -> RunResult:
        """Return what the run came to, as far as the log tells."""
        record = self.record
        output: Any = None
        if isinstance(self.last, RunSucceeded):
            output = Decoder(getattr(self._store, "blobs", None), run_id=record.run_id).value(self._last_recorded)
        failure: Failure | None = getattr(self.last, "failure", None)
        ended = record.ended_at if record.ended_at is not None else record.created_at
        return RunResult(
            run_id=record.run_id,
            status=record.status,
            output=output,
            failure=failure,
            usage=self.summary.usage,
            duration_s=ended - record.created_at,
            stages=self.summary.stages,
        )


def _leaves(word: Said) -> bool:
    """Tell whether the last thing that was said is why a coordinator does not go on (`ray_jobs.driving.leave_word`)."""
    return word.path == "" and word.level == "error"


def watch(store: RunStore, run: str, *, as_json: bool, quiet: bool) -> int:
    """Show a run until it stops, then its result as `fm run` does; return the exit code.

    Raises:
        RunNotFound: there is no such run.
        StoreError: the log cannot be read.
    """
    try:
        return asyncio.run(_watch(store, run, as_json=as_json, quiet=quiet))
    except KeyboardInterrupt:
        note(f"Detached: run {run} goes on as it does. Watch it again: fm runs watch {run}; stop it: fm cancel {run}")
        return CANCELLED


async def _watch(store: RunStore, run: str, *, as_json: bool, quiet: bool) -> int:
    watching = RunWatching(store, await store.find(run))
    events = await watching.catch_up()
    watched = _watched(watching.record, events)
    if watched is None:
        await _told(watching, events, quiet=quiet)
    else:
        await _viewed(watching, watched, quiet=quiet)
    return _tell(watching, watched, as_json=as_json)


def _watched(record: RunRecord, events: Sequence[Event]) -> Watched | None:
    """Return what a view needs; None when the pipeline is not there any more as it was."""
    created = next((event for event in events if isinstance(event, RunCreated)), None)
    if created is None or record.file is None or not Path(record.file).is_file():
        return None
    try:
        loaded = load(record.file)
        plan = open_workspace(Path(record.file)).plan(loaded)
    except FlowMasonError:
        return None
    if plan.digest != created.plan_digest:
        return None
    return Watched(plan=plan, loaded=loaded, run_id=record.run_id, recorded=events)


async def _viewed(watching: RunWatching, watched: Watched, *, quiet: bool) -> None:
    from flowmason_ray.cli.watching import make_watcher

    watcher = make_watcher(quiet=quiet)
    if watcher is None:
        await watching.follow(lambda event: None, note)
        return
    watcher.begin(watched, under_way=True)
    with watcher.shown():
        await watching.follow(watcher, watcher.say)
    if watching.over:
        watcher.end(watching.result())


async def _told(watching: RunWatching, events: Sequence[Event], *, quiet: bool) -> None:
    """Tell line by line what happens."""
    from flowmason_ray.stores.encoding import event_to_json

    narrator = Narrator()
    record = watching.record

    def show(event: Event) -> None:
        if isinstance(event, StageLogged):
            words = f"{event.level}: {event.message}"
        else:
            words = narrator.words(event_to_json(event))
        path = getattr(event, "path", "")
        if not quiet:
            note(f"{max(0.0, event.at - record.created_at):>10.3f} s  {f'{path}  ' if path else ''}{words}")

    if not quiet:
        note(f"run {record.run_id} of {record.pipeline} {record.version}: its pipeline is not here as it was run")
    for event in events[-20:]:
        show(event)
    await watching.follow(show, note)


def _tell(watching: RunWatching, watched: Watched | None, *, as_json: bool) -> int:
    """Put the result on stdout, and what went wrong on stderr; return the exit code."""
    record = watching.record
    if not watching.over:
        note(f"Run {record.run_id} is {record.status}: no process drives it. Go on with it: fm resume {record.run_id}")
        if as_json:
            write_json(watching.result().to_json())
        return FAILED
    try:
        result = watching.result()
    except (StoreError, ImportError) as exc:
        note(f"Run {record.run_id} has {record.status}; its output cannot be read: {exc}")
        return EXIT_CODES[record.status]
    if result.failure is not None:
        if watched is not None:
            from flowmason_ray.cli.failure_report import print_failure

            print_failure(result, watched.plan, watched.loaded, stored=True)
        else:
            note(f"error[{result.failure.code}]: {result.failure.message}")
    if result.status == "paused":
        note(f"Go on with it: fm resume {record.run_id}")
    if as_json:
        write_json(result.to_json())
    elif result.status == "succeeded":
        write_json(presentable(result.output))
    return EXIT_CODES[result.status]
