"""The Python API: run a pipeline and get its result, from synchronous code or from an event loop.

result = flowmason_ray.run("pipeline.pipeline.json", {"city": "Oslo"})
result.output
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

from flowmason_ray import telemetry
from flowmason_ray.components.base import InvalidComponent
from flowmason_ray.engine.events import Event, RunCancelled, RunPaused, RunSucceeded
from flowmason_ray.engine.executor import Digesting, Executor
from flowmason_ray.engine.pace import Timing
from flowmason_ray.engine.pacing import Pacing
from flowmason_ray.engine.past import Past
from flowmason_ray.engine.recipes import Recipes
from flowmason_ray.engine.replay import Replayed
from flowmason_ray.engine.reuse import Knowledge, ReuseRules, Reusing
from flowmason_ray.engine.run_log import RunLog, RunRecord, RunStore
from flowmason_ray.engine.runner import Durability, Observer, Runner
from flowmason_ray.engine.summary import StageSummary, Summary
from flowmason_ray.engine.timings import Timings
from flowmason_ray.engine.values import presentable
from flowmason_ray.errors import Failure, InvalidCall, InvalidInput, InvalidPipeline, Problem, RunFailed
from flowmason_ray.reusing.asking import Reuse, rules_for
from flowmason_ray.reusing.loading import items_reader, load_past, value_reader
from flowmason_ray.spec.loader import LoadedPipeline
from flowmason_ray.spec.plain_data import plain_object
from flowmason_ray.wiring import (
    ExecutorOptions,
    Workspace,
    choose_executor,
    load,
    make_executor,
    make_observers,
    open_workspace,
)

if TYPE_CHECKING:
    from flowmason_ray.engine.plan import Plan

Source = str | Path | Mapping[str, Any] | LoadedPipeline
"""A pipeline file, the data that such a file holds, or a pipeline that is loaded already."""


class RunOptions(TypedDict, total=False):
    """How a pipeline is run; everything may be left out."""

    on: str | None
    """`local` (this process, the default), `ray`, or None: Ray when `RAY_ADDRESS` is set."""
    store: RunStore | None
    """Where the run is recorded; None (the default): nowhere, only its result is kept."""
    components: Sequence[type]
    """Component classes that the pipeline may use, besides the project's."""
    observers: Sequence[Observer]
    """Are shown every event of the run, in order."""
    durability: Durability
    """What is durable when (`engine.runner.Durability`)."""
    reuse: Reuse | None
    """What it takes from earlier runs."""
    max_cost_usd: float | None
    """What it may spend on models, in US dollars; comes before the pipeline's `budget`."""
    max_tokens: int | None
    """How many tokens it may use, input and output together; likewise."""
    stream: bool
    """Whether observers are shown texts as they grow (`StageStreamed`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunResult:
    """What a run came to."""

    run_id: str
    status: str
    """`succeeded`, `failed`, `cancelled`, or `paused`: it can be resumed."""
    output: Any
    """The pipeline's result; None unless it succeeded. Frames are polars DataFrames."""
    failure: Failure | None
    usage: Mapping[str, Any]
    """What was used of models, summed over all attempts; empty when none was asked."""
    duration_s: float
    stages: Mapping[str, StageSummary]
    """By path: how each stage instance ended."""

    def raise_for_status(self) -> RunResult:
        """Return the result itself.

        Raises:
            RunFailed: the run did not succeed.
        """
        if self.failure is not None:
            raise RunFailed(self.failure, run_id=self.run_id)
        if self.status == "paused":
            message = "The run was paused; it has no result yet."
            raise RunFailed(Failure(code="paused", message=message), run_id=self.run_id)
        return self

    def to_json(self) -> dict[str, Any]:
        """Return the document that `fm run --json` prints; frames become rows, long ones a summary."""
        data: dict[str, Any] = {
            "run_id": self.run_id,
            "status": self.status,
            "output": presentable(self.output),
            "usage": dict(self.usage),
            "duration_ms": round(self.duration_s * 1000, 3),
            "stages": {path: summary.to_json() for path, summary in self.stages.items()},
        }
        if self.failure is not None:
            data["error"] = self.failure.to_json()
        return data


_STATUSES: Mapping[type[Event], str] = {RunSucceeded: "succeeded", RunCancelled: "cancelled", RunPaused: "paused"}


class PreparedRun:
    """A run that is checked and ready: its plan and its input are valid. `run` may be awaited once."""

    def __init__(
        self,
        source: Source,
        input: Mapping[str, Any] | None = None,
        *,
        workspace: Workspace | None = None,
        options: ExecutorOptions | None = None,
        seed: int | None = None,
        wrap: Callable[[Executor], Executor] | None = None,
        **asked: Unpack[RunOptions],
    ) -> None:
        """Check everything that can be checked before the run.

        Args:
            source: The pipeline.
            input: Its input; the schema's defaults are applied.
            workspace: The project; None: the one that the file lies in.
            options: More about the executor.
            seed: Where the run's draws come from; None: a random one.
            wrap: Puts something in front of the executor; None: nothing.
            asked: How it is run.

        Raises:
            InvalidPipeline: the pipeline cannot be run.
            InvalidInput: the input does not fit its schema.
            InvalidCall: there is no such executor, or it cannot be run as asked.
        """
        unknown = asked.keys() - RunOptions.__annotations__.keys()
        if unknown:
            raise TypeError(
                f"There is no option {sorted(unknown)[0]!r}; there are: {', '.join(RunOptions.__annotations__)}."
            )
        self.on = choose_executor(asked.get("on", "local"))
        loaded = source if isinstance(source, LoadedPipeline) else load(source)
        file = loaded.source.file
        components = asked.get("components", ())
        self.workspace = workspace or open_workspace(Path(file) if file else Path.cwd(), components=components)
        self.plan: Plan
        self.plan, self.warnings = self.workspace.plan_with_warnings(loaded)
        """`warnings`: what does not keep the pipeline from running but is worth knowing."""
        given = _plain_input(input)
        value = given if self.plan.input_schema is None else self.plan.input_schema.apply(given)
        self._store = asked.get("store")
        self._reuse = asked.get("reuse") or Reuse()
        self._rules = self._rules_of(self._reuse)
        self._recipes = None if self._store is None else Recipes(self.plan)
        budget = {**(self.plan.budget or {}), **_asked_budget(asked)}
        info = self.workspace.run_info(self.plan, value, seed=seed, budget=budget, streams=asked.get("stream", False))
        self.info = replace(info, blobs=getattr(self._store, "blobs", None), listens=self._store is not None)
        self._trace_parent: str | None = None
        self._trace_in(telemetry.new_trace(self.run_id))
        self._summary = Summary()
        self._observers = (self._summary, *asked.get("observers", ()))
        self._durability: Durability = asked.get("durability", "run")
        self._options = options
        self._wrap = wrap
        self._runner: Runner | None = None
        self._cancelled: str | None = None
        """Why `cancel` was called, so that one that comes before `run` counts too."""
        self._paused: tuple[str | None] | None = None
        """Who called `pause`, likewise."""

    @property
    def recorded(self) -> Sequence[Event]:
        """What happened in the run before it was taken up here; nothing in a new run."""
        return ()

    @property
    def run_id(self) -> str:
        """The id of the run."""
        return self.info.run_id

    def cancel(self, message: str = "The run was cancelled.") -> None:
        """Stop the run, from any thread; it ends with status `cancelled`."""
        self._cancelled = message
        if self._runner is not None:
            self._runner.cancel(message)

    def pause(self, *, by: str | None = None) -> None:
        """Stop the run where it is, from any thread; it ends with status `paused` and can be resumed.

        Stages that can be repeated are stopped; those with an effect that must not be are waited for.

        Raises:
            InvalidCall: the run is not recorded, so nothing could resume it.
        """
        if self._store is None:
            raise InvalidCall("A run that is not recorded cannot be paused: nothing could resume it. Give it a store.")
        self._paused = (by,)
        if self._runner is not None:
            self._runner.pause(by)

    def answer(self, path: str, data: Any, *, by: str | None = None) -> None:
        """Answer what the stage at `path` asks (`wait_for_approval`), from any thread."""
        if self._runner is not None:
            self._runner.answer(path, data, by)

    def _trace_in(self, trace: tuple[str, str | None] | None) -> None:
        """Take over where the run is traced: its span, and the one around that."""
        if trace is not None:
            self.info = replace(self.info, trace=trace[0])
            self._trace_parent = trace[1]

    async def run(self) -> RunResult:
        """Run it.

        Raises:
            StoreError: the run cannot be recorded.
            InvalidCall: the run that it is to reuse is not there.
        """
        executor = make_executor(self.on, self._options)
        if self._wrap is not None:
            executor = self._wrap(executor)
        knowledge = await self._known()
        log = self._log()
        with ExitStack() as closing:
            try:
                timings = await self._timings(log)
                self._runner = self._runner_of(executor, log, knowledge, timings, self._monitors(closing))
            except BaseException:
                await log.close()  # or its lease would be renewed for as long as this process lives
                raise
            if self._cancelled is not None:
                self._runner.cancel(self._cancelled)
            if self._paused is not None:
                self._runner.pause(*self._paused)
            started = perf_counter()
            ended = await self._runner.run()
        event = ended.event
        succeeded = isinstance(event, RunSucceeded)
        status = _STATUSES.get(type(event), "failed")
        return RunResult(
            run_id=self.run_id,
            status=status,
            output=ended.value,
            failure=None if succeeded else getattr(event, "failure", None),
            usage=self._summary.usage,
            duration_s=perf_counter() - started,
            stages=self._summary.stages,
        )

    async def accept(self) -> None:
        """Record the run, and leave it to another process, which takes it up as one that was interrupted (`resuming`).

        Raises:
            StoreError: it cannot be recorded.
            InvalidCall: nobody could take it up: it is not recorded, not from a file, or its input is not recorded as it is.
        """
        if self._store is None or self.plan.file is None:
            raise InvalidCall(
                "A run can only be left to another process when it is recorded and its pipeline is a file."
            )
        knowledge = await self._known()
        log = self._log()
        try:
            runner = self._runner_of(make_executor("local"), log, knowledge, await self._timings(log))
        except BaseException:
            await log.close()
            raise
        await runner.accept()

    async def _timings(self, log: RunLog) -> Timings | None:
        """Take over what earlier runs have measured; return where this one leaves what it measures."""
        if not log.remembers or self._recipes is None:
            self.info = replace(self.info, pacing=Pacing(self.plan))
            return None
        timings = await Timings.read(log, self.plan, self._recipes.definitions)
        self.info = replace(self.info, pacing=Pacing(self.plan, self._measured(timings)))
        return timings

    def _measured(self, timings: Timings) -> Mapping[str, Timing]:
        """Return the durations that the run begins with."""
        return timings.usable()

    def _runner_of(
        self,
        executor: Executor,
        log: RunLog,
        knowledge: Knowledge,
        timings: Timings | None,
        monitors: Sequence[Observer] = (),
    ) -> Runner:
        reusing = self._reusing(executor, log, knowledge)
        if reusing is not None:
            self.info = replace(self.info, fingerprints=True)
        return Runner(
            self.plan,
            executor,
            log,
            self.info,
            observers=(*self._observers, *monitors),
            durability=self._durability,
            resumed=self._resumed(),
            reusing=reusing,
            timings=timings,
        )

    def _monitors(self, closing: ExitStack) -> list[Observer]:
        options, parent = self._options, self._trace_parent
        return make_observers(self.plan, self.info, self.on, options=options, parent=parent, closing=closing)

    def _rules_of(self, asked: Reuse) -> ReuseRules:
        if asked.run is not None and self._store is None:
            raise InvalidCall("To reuse results of an earlier run, say in which store that one is: store=…")
        return rules_for(asked, self.plan)

    async def _known(self) -> Knowledge:
        """Read what the run may take from earlier ones."""
        if self._reuse.run is None:
            return Knowledge(rules=self._rules)
        assert self._store is not None
        earlier = await load_past(self._store, self._reuse.run)
        return self._knowledge(earlier.past)

    def _knowledge(self, past: Past) -> Knowledge:
        assert self._store is not None
        return Knowledge(
            rules=self._rules,
            past=past,
            decode=value_reader(self._store),
            decode_items=items_reader(self._store, self.workspace.project.root),
        )

    def _reusing(self, executor: Executor, log: RunLog, knowledge: Knowledge) -> Reusing | None:
        """Return what answers attempts with known results; None when nobody could ever use theirs.

        An executor that cannot tell what stands for its values gives no fingerprints; so do those that answer with mocks.
        """
        if isinstance(executor, Digesting):
            wanted = log.remembers or knowledge.past is not None
            return Reusing(self._recipes or Recipes(self.plan), self.info, executor, log, knowledge) if wanted else None
        if knowledge.past is not None:
            raise InvalidCall(
                "This executor cannot tell what its values are made of, so nothing can be reused with it."
            )
        return None

    def _resumed(self) -> Replayed | None:
        """Return the state that the run begins with; None: it begins at the beginning."""
        return None

    def _log(self) -> RunLog:
        record = RunRecord(
            run_id=self.run_id,
            pipeline=self.plan.name,
            version=self.plan.version,
            status="running",
            created_at=self.info.started_at,
            file=None if self.plan.file is None else str(Path(self.plan.file).resolve()),
            based_on=self._based_on(),
        )
        if self._store is None:
            from flowmason_ray.stores.memory import ForgettingRunLog

            return ForgettingRunLog(record)
        return self._store.create(record, secrets=self.info.hidden)

    def _based_on(self) -> str | None:
        """Return the run that this one goes on with."""
        return None


def _asked_budget(asked: RunOptions) -> dict[str, float]:
    """Return what the run may spend, as far as whoever starts it says so.

    Raises:
        InvalidCall: it is nothing that can be spent.
    """
    said = {"max_cost_usd": asked.get("max_cost_usd"), "max_tokens": asked.get("max_tokens")}
    for name, limit in said.items():
        if limit is not None and not 0 < limit < float("inf"):
            raise InvalidCall(f"{name} is a number above 0; found {limit!r}.")
    return {name: limit for name, limit in said.items() if limit is not None}


def _plain_input(given: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the input as plain JSON, which is what the log, templates and other processes can take.

    Raises:
        InvalidInput: it is no object, or holds what JSON cannot express.
    """
    if given is None:
        return {}
    if not isinstance(given, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance]  # callers need not be typed
        message = f"The input is an object; found a value of type {type(given).__name__!r}."
        raise InvalidInput([Problem(code="not_json", message=message, expected="an object")])
    try:
        return plain_object(given)
    except InvalidPipeline as exc:
        raise InvalidInput(exc.problems) from exc


async def arun(source: Source, input: Mapping[str, Any] | None = None, **options: Unpack[RunOptions]) -> RunResult:
    """Run a pipeline on the running event loop. Cancelling the task cancels the run.

    Args and errors as for `PreparedRun`. A run that fails is returned, not raised: see `RunResult.raise_for_status`.
    """
    return await PreparedRun(source, input, **options).run()


def run(source: Source, input: Mapping[str, Any] | None = None, **options: Unpack[RunOptions]) -> RunResult:
    """Run a pipeline and wait for it. As `arun`, for synchronous code.

    Raises:
        InvalidCall: called on a thread whose event loop is running; use `await arun(…)` there.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        pass
    else:
        raise InvalidCall("'run' would block the event loop that is running in this thread; use 'await arun(…)'.")
    return asyncio.run(arun(source, input, **options))


def load_pipeline(file: str | Path) -> LoadedPipeline:
    """Load a pipeline file, put together with all that it extends; its components are not looked at.

    Raises:
        InvalidPipeline: it cannot be read, or is not a pipeline; every problem is listed.
    """
    return load(Path(file))


def validate(source: Source, *, components: Sequence[type] = ()) -> list[Problem]:
    """Return everything that is wrong with a pipeline, warnings included; an empty list when it can be run."""
    try:
        loaded = source if isinstance(source, LoadedPipeline) else load(source)
        file = loaded.source.file
        return open_workspace(Path(file) if file else Path.cwd(), components=components).check(loaded)
    except InvalidPipeline as exc:
        return list(exc.problems)
    except InvalidComponent as exc:  # a component of the project cannot be loaded
        return [Problem(code=exc.code, message=exc.message)]
