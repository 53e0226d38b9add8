"""The simulator finds bugs: each of these is planted into the engine on purpose, and must be found within a few seeds.

The first three are those that the older FlowMason had; the others break one promise each.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import pytest

from flowmason_ray.engine import context
from flowmason_ray.engine.commands import CancelStage, Output
from flowmason_ray.engine.control_flow.foreach import Foreach
from flowmason_ray.engine.control_flow.trycatch import TryCatch
from flowmason_ray.engine.events import Event, SkipReason, StageRetrying, Success
from flowmason_ray.engine.plan import Plan, PlanStage
from flowmason_ray.engine.run_state import WAITING, RunState, _Active  # pyright: ignore[reportPrivateUsage]  # bugs are planted inside
from flowmason_ray.engine.scope import Scope
from flowmason_ray.errors import Failure
from flowmason_ray.testing.simulation.__main__ import main
from flowmason_ray.testing.simulation.runs import Simulated, calmest, first_wrong

SEEDS = range(1500)


class LeakedLoopVariable(RunState):
    """All iterations of a loop share one place for the current item."""

    latest: ClassVar[dict[tuple[int, int], Scope]] = {}

    def open_iteration(self, scope: Scope, index: int, *, position: int, key: int, items: Any) -> Scope:
        inner = super().open_iteration(scope, index, position=position, key=key, items=items)
        self.latest[id(scope), index] = inner
        return inner

    @classmethod
    def loop_variable(cls, scope: Scope, name: str) -> Any:
        around: Scope | None = scope
        while around is not None:
            variables = around.plan.variables
            if name in variables:
                shared = cls.latest[id(around.parent), around.owner]
                return (
                    shared.items.item(shared.position) if name == variables[0] else shared.items.index(shared.position)
                )
            around = around.parent
        raise KeyError(name)


class UnfencedLateReport(RunState):
    """A report counts whatever attempt it is about."""

    def _take(self, path: str, attempt: int) -> _Active | None:
        active = self.active.get(path)
        return super()._take(path, attempt if active is None else active.attempt)


class SkippedJoin(RunState):
    """A stage starts as soon as the first of its inputs has ended."""

    def _close(self, scope: Scope, index: int, status: int) -> None:
        for other in scope.plan.downstream[index]:
            if scope.status[other] == WAITING:
                self._todo.append((scope, other))
        super()._close(scope, index, status)


class ForgottenLimit(RunState):
    """`max_parallel` is one more than was said."""

    def _work(self) -> None:
        self.in_flight -= 1
        super()._work()
        self.in_flight += 1


class DeafToCancel(RunState):
    """Cancelling does not keep a retry from starting."""

    def abort(self, targets: Sequence[tuple[Scope, int]], then: Callable[[], None], *, early: bool = False) -> None:
        retrying = {path: active for path, active in self.active.items() if active.scope.status[active.index] == 3}
        super().abort(targets, then, early=early)
        for path, active in retrying.items():
            if path not in self.active:
                self.active[path] = active
                active.scope.status[active.index] = 3


class ImpatientAbort(RunState):
    """A body that is stopped goes on before its attempts have ended."""

    def abort(self, targets: Sequence[tuple[Scope, int]], then: Callable[[], None], *, early: bool = False) -> None:
        super().abort(targets, lambda: None, early=early)
        then()


class KeptValue(RunState):
    """A failed stage keeps the output of its own attempt."""

    def fail(self, scope: Scope, index: int, failure: Failure) -> None:
        super().fail(scope, index, failure)
        if scope.plan.stages[index].on_error == "continue":
            scope.values[index] = {"half": "done"}


class LostStop(RunState):
    """Attempts inside an aborted body are forgotten instead of stopped."""

    def handle(self, event: Event) -> list[Output]:
        return [output for output in super().handle(event) if not isinstance(output, CancelStage)]


class ForgetfulReplay(RunState):
    """The state depends on something that the events do not say."""

    made: ClassVar[int] = 0

    def __init__(self, plan: Plan) -> None:
        super().__init__(plan)
        type(self).made += 1

    def handle(self, event: Event) -> list[Output]:
        return [
            replace(output, delay_s=output.delay_s + self.made) if isinstance(output, StageRetrying) else output
            for output in super().handle(event)
        ]


class WrongSkip(RunState):
    """One skipped input is enough to skip a stage."""

    def _all_skipped(self, scope: Scope, stage: PlanStage) -> bool:
        return any(scope.at(target)[0].status[target.index] == 8 for target in stage.upstreams)


PLANTED: dict[type[RunState], str | None] = {
    LeakedLoopVariable: "values_are_its_own",
    UnfencedLateReport: "late_reports_change_nothing",
    SkippedJoin: "stages_start_after_their_inputs",
    ForgottenLimit: "max_parallel_is_kept",
    DeafToCancel: None,
    ImpatientAbort: None,
    KeptValue: "outputs_do_not_change",
    LostStop: "what_is_cancelled_is_told_to_stop",
    ForgetfulReplay: "replay_tells_the_same",
    WrongSkip: None,
}
"""Bug → the law that is the first to notice it; None: several may be, depending on the seed."""


@pytest.mark.parametrize("bug", PLANTED, ids=lambda bug: bug.__name__)
def test_a_planted_bug_is_found(bug: type[RunState], monkeypatch: pytest.MonkeyPatch) -> None:
    if bug is LeakedLoopVariable:
        monkeypatch.setattr(context, "loop_variable", LeakedLoopVariable.loop_variable)
    found = _found(bug)
    if PLANTED[bug] is not None:
        assert found.wrong is not None
        assert found.wrong.partition(":")[0] == PLANTED[bug]


def _found(bug: type[RunState] = RunState) -> Simulated:
    found = first_wrong(SEEDS, make_state=bug)
    assert found is not None, f"{len(SEEDS)} seeds did not find it"
    return found


def test_a_window_that_is_too_wide_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    advance = Foreach._advance  # pyright: ignore[reportPrivateUsage]  # bugs are planted inside

    def too_many(self: Foreach, run: Any, scope: Scope, index: int, loop: Any) -> None:
        held, loop.open = loop.open, dict(list(loop.open.items())[1:])
        advance(self, run, scope, index, loop)
        loop.open = {**held, **loop.open}

    monkeypatch.setattr(Foreach, "_advance", too_many)
    assert _found().wrong is not None


def test_a_forgotten_finally_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    original = TryCatch._open  # pyright: ignore[reportPrivateUsage]  # bugs are planted inside

    def skipping(run: Any, scope: Scope, index: int, body: str) -> None:
        if body == "finally":
            run.skip_region(scope, scope.plan.stages[index].bodies[body], SkipReason.ENDED_EARLY)
            TryCatch().body_ended(run, scope, index, scope.plan.stages[index].bodies[body])
        else:
            original(run, scope, index, body)

    monkeypatch.setattr(TryCatch, "_open", staticmethod(skipping))
    assert _found().wrong is not None


class PoisonedSecondReport(RunState):
    """A success that comes again replaces the output."""

    def _succeeded(self, event: Success) -> None:
        if event.path not in self.active and self.root is not None and "/" not in event.path:
            for stage in self.root.plan.stages:
                if stage.id == event.path:
                    self.root.values[stage.index] = event.value
        super()._succeeded(event)


def test_an_output_that_is_replaced_silently_is_found() -> None:
    assert _found(PoisonedSecondReport).wrong is not None


def test_the_shortest_story_still_shows_the_failure() -> None:
    found = _found(SkippedJoin)
    calm = calmest(found, make_state=SkippedJoin)
    assert calm.violation is not None
    assert found.violation is not None
    assert calm.violation.law == found.violation.law
    assert calm.story


def test_the_command_prints_a_finding_with_its_seed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stuck(self: Foreach, run: Any, scope: Scope, index: int, loop: Any) -> None:
        pass

    monkeypatch.setattr(Foreach, "_advance", stuck)
    assert main(["--seeds", "300"]) == 1
    out = capsys.readouterr().out
    assert "every_run_ends" in out
    assert "--trace" in out
