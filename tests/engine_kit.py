"""What the engine's tests share: components of any outcome, pipelines as data, and a player that drives a `RunState` by hand.

The player checks after every event what must hold at any time, so that each test of the state machine tests that too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from pydantic import BaseModel, ConfigDict

from flowmason_ray.components.base import operator
from flowmason_ray.components.registry import Registry
from flowmason_ray.engine.commands import CancelStage, GatherResults, Output, StartStage, StartTimer, resolve_part
from flowmason_ray.engine.component import Context
from flowmason_ray.engine.control_flow.foreach import ForeachOptions
from flowmason_ray.engine.events import (
    RUN_ENDED,
    BranchTaken,
    CancelRequested,
    Event,
    ItemEnded,
    LoopExpanded,
    RunCreated,
    StageDeclined,
    StageEnded,
    StageFailed,
    StageRetrying,
    StageSkipped,
    StageStarted,
    StageStopped,
    StageSucceeded,
    TimerFired,
    VariableSet,
)
from flowmason_ray.engine.plan import Plan
from flowmason_ray.engine.planning import make_plan, try_plan
from flowmason_ray.engine.run_state import RunState
from flowmason_ray.engine.scope import Scope, Status
from flowmason_ray.errors import Failure, Problem
from flowmason_ray.spec.loader import load_pipeline_data


@operator(name="echo", effect="pure", cost="trivial")
class Echo:
    """Returns what it is given."""

    class Input(BaseModel):
        model_config = ConfigDict(extra="allow")
        value: Any = None

    class Output(BaseModel):
        model_config = ConfigDict(extra="allow")
        value: Any = None

    async def execute(self, input: Input, context: Context) -> dict[str, Any]:
        return input.model_dump()


@lru_cache(maxsize=1)
def catalogue() -> Registry:
    """Return the built-in components and `echo`."""
    registry = Registry(entry_points=False)
    registry.add(Echo)
    return registry


def stage(id: str, component_type: str = "echo", /, **keys: Any) -> dict[str, Any]:
    """Return a stage; `after="a b"` is short for `depends_on`."""
    after = keys.pop("after", None)
    if after:
        keys["depends_on"] = after.split()
    return {"id": id, "component_type": component_type, **keys}


def conditional(id: str, true: str = "", false: str = "", **keys: Any) -> dict[str, Any]:
    """Return a conditional with its branches as ids with spaces between."""
    config = {
        "condition": "context.attempt > 0",
        "true_branch_stages": true.split(),
        "false_branch_stages": false.split(),
    }
    return stage(id, "conditional", config=config, **keys)


def foreach(id: str, body: str, *, config: Mapping[str, Any] | None = None, **keys: Any) -> dict[str, Any]:
    """Return a loop over three items with its body as ids with spaces between."""
    return stage(id, "foreach", config={"items": [1, 2, 3], "loop_stages": body.split(), **(config or {})}, **keys)


def pipeline(*stages: dict[str, Any], **keys: Any) -> dict[str, Any]:
    """Return a pipeline of these stages."""
    return {"name": "p", "stages": list(stages), **keys}


def plan_of(*stages: dict[str, Any], **keys: Any) -> Plan:
    """Return the plan of a pipeline of these stages."""
    return make_plan(load_pipeline_data(pipeline(*stages, **keys)), catalogue())


def problems_of(*stages: dict[str, Any], **keys: Any) -> list[Problem]:
    """Return what planning says about a pipeline of these stages."""
    return try_plan(load_pipeline_data(pipeline(*stages, **keys)), catalogue())[1]


def told(outputs: Sequence[Output]) -> list[str]:
    """Return outputs as short lines; the `StageStarted` before each `StartStage` is left out."""
    return [line for output in outputs if (line := _line(output))]


def _line(output: Output) -> str:
    match output:
        case StageStarted():
            return ""
        case StartStage(path=path, attempt=attempt):
            return f"start {path}" + (f" #{attempt}" if attempt > 1 else "")
        case CancelStage(path=path):
            return f"cancel {path}"
        case StartTimer(path=path, delay_s=delay):
            return f"timer {path} {delay:g}"
        case GatherResults(path=path, parts=parts, head=head):
            return f"gather {path} {list(parts['results'].parts)} {[e['index'] for e in head['errors']]}"
        case StageSkipped(path=path, reason=reason):
            return f"skip {path} {reason}"
        case StageRetrying(path=path):
            return f"retry {path}"
        case StageEnded(path=path, status=status):
            return f"end {path} {status}"
        case BranchTaken(path=path, branch=branch):
            return f"branch {path} {branch}"
        case LoopExpanded(path=path, count=count):
            return f"loop {path} {count}"
        case ItemEnded(path=path, index=index, failure=failure):
            return f"item {path}[{index}] {failure.code if failure else 'ok'}"
        case VariableSet(path=path, names=names):
            return f"set {','.join(names)} by {path}"
        case _:
            failure = getattr(output, "failure", None)
            return f"{output.kind} {failure.code} {failure.stage}".rstrip() if failure else output.kind


class Player:
    """Plays events to a state machine and keeps what is under way."""

    def __init__(self, plan: Plan) -> None:
        self.state = RunState(plan)
        self.plan = plan
        self.stimuli: list[Event] = []
        self.outputs: list[Output] = []
        self.pending: dict[str, StartStage | GatherResults] = {}
        self.timers: dict[str, StartTimer] = {}
        self.cancelled: set[str] = set()
        """Paths whose attempt was told to stop and has not answered."""
        self._clock = 0.0
        self._ended: dict[tuple[int, int], int] = {}
        self._scopes: dict[int, Scope] = {}
        self._begun: set[tuple[str, int]] = set()

    def send(self, event: Event) -> list[str]:
        """Let the state machine handle an event; return what came of it."""
        was_ended = self.state.ended
        self.stimuli.append(event)
        outputs = self.state.handle(event)
        self.outputs += outputs
        for output in outputs:
            if isinstance(output, StartStage):
                self._check_start(output)
                self.pending[output.path] = output
            elif isinstance(output, GatherResults):
                self.pending[output.path] = output
            elif isinstance(output, StartTimer):
                self.timers[output.path] = output
            elif isinstance(output, CancelStage):
                assert output.path in self.pending
                self.cancelled.add(output.path)
        if was_ended:
            assert outputs == [], "the run was over"
        self._check()
        return told(outputs)

    @property
    def ended(self) -> str | None:
        """How the run ended."""
        last = self.outputs[-1] if self.outputs else None
        return _line(last) if isinstance(last, RUN_ENDED) else None

    # -- stimuli ------------------------------------------------------------------------------------------------------

    def now(self) -> float:
        self._clock += 1
        return self._clock

    def create(self, input: Any = None) -> list[str]:
        return self.send(
            RunCreated(at=self.now(), run_id="r", pipeline="p", version="1", plan_digest="", input=input or {}, seed=0)
        )

    def succeed(self, path: str, value: Any = None, **decision: Any) -> list[str]:
        command = self._take(path)
        return self.send(
            StageSucceeded(
                at=self.now(), path=path, attempt=command.attempt, value=value, decision=decision if decision else None
            )
        )

    def loop(self, path: str, count: int, **decision: Any) -> list[str]:
        """Let a loop find that many items."""
        return self.succeed(path, value=list(range(count)), count=count, **decision)

    def gathered(self, path: str) -> list[str]:
        command = self.pending[path]
        assert isinstance(command, GatherResults)
        parts = {name: resolve_part(part, lambda handle: handle) for name, part in command.parts.items()}
        return self.succeed(path, value={**command.head, **parts})

    def fail(self, path: str, code: str = "component_error", *, draw: float = 0.5, **facts: Any) -> list[str]:
        command = self._take(path)
        failure = Failure(code=code, message="it failed", stage=path, attempts=command.attempt, **facts)
        return self.send(StageFailed(at=self.now(), path=path, attempt=command.attempt, failure=failure, draw=draw))

    def decline(self, path: str) -> list[str]:
        return self.send(StageDeclined(at=self.now(), path=path, attempt=self._take(path).attempt))

    def stop(self, path: str) -> list[str]:
        return self.send(StageStopped(at=self.now(), path=path, attempt=self._take(path).attempt))

    def fire(self, path: str) -> list[str]:
        timer = self.timers.pop(path)
        return self.send(TimerFired(at=self.now(), path=path, attempt=timer.attempt))

    def cancel(self, code: str = "cancelled") -> list[str]:
        return self.send(CancelRequested(at=self.now(), code=code))

    def _take(self, path: str) -> StartStage | GatherResults:
        self.cancelled.discard(path)
        return self.pending.pop(path)

    # -- what must hold at any time -------------------------------------------------------------------------------------

    def _check_start(self, command: StartStage) -> None:
        assert (command.path, command.attempt) not in self._begun, "an attempt begins once"
        self._begun.add((command.path, command.attempt))
        status = command.scope.status
        for above in command.stage.waits_for:
            assert Status.SUCCEEDED <= status[above] < Status.CANCELLED, f"{command.path} started before its inputs"
        scope: Scope | None = command.scope
        while scope is not None:
            self._scopes[id(scope)] = scope
            scope = scope.parent

    def _check(self) -> None:
        state = self.state
        if state.root is not None:
            self._scopes[id(state.root)] = state.root
        under_way = [path for path, command in self.pending.items() if isinstance(command, StartStage)]
        assert state.in_flight == len(under_way), (state.in_flight, under_way)
        if self.plan.max_parallel is not None:
            assert state.in_flight <= self.plan.max_parallel
        for key, scope in self._scopes.items():
            for index, status in enumerate(scope.status):
                before = self._ended.get((key, index))
                assert before in (None, status), f"{scope.path(index)}: {before} became {status}"
                if status >= Status.SUCCEEDED:
                    self._ended[key, index] = status
            for index, memory in (scope.constructs or {}).items():
                options = scope.plan.stages[index].options
                if isinstance(options, ForeachOptions):
                    assert len(memory.open) <= options.window
        if state.ended:
            assert not under_way, "a run ends when nothing of it runs any more"


def replay(plan: Plan, stimuli: Sequence[Event]) -> list[Any]:
    """Return what a fresh state machine makes of recorded stimuli, comparable with `comparable(outputs)`."""
    state = RunState(plan)
    return comparable([output for event in stimuli for output in state.handle(event)])


def comparable(outputs: Sequence[Output]) -> list[Any]:
    """Return outputs so that those of two state machines can be compared: scopes are equal only to themselves."""
    return [
        ("start", o.path, o.attempt, o.first_started_at, o.stage.id) if isinstance(o, StartStage) else o
        for o in outputs
    ]
