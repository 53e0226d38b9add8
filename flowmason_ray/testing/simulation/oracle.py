"""What must come of a run: a small, direct interpreter of the format's rules, independent of the engine.

It walks the pipeline's data (`shapes`) with the table of outcomes (`fate`) and says for every stage instance how it ends.
Where the rules leave something to timing (which of two failures comes first, which branch wins, what was still under way
when a body was stopped) it looks at what happened, checks that it is one of the things that may happen, and goes on from
there. What instances see and return is checked with it (`sight`); constructs have their rules in `construct_rules`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from flowmason_ray.engine.events import Event, RunCancelled, RunFailed, RunSucceeded
from flowmason_ray.errors import Failure
from flowmason_ray.testing.simulation.construct_rules import ConstructRules
from flowmason_ray.testing.simulation.fate import Fate
from flowmason_ray.testing.simulation.history import ENDED, History, Instance
from flowmason_ray.testing.simulation.invariants import Violation, iterations_of
from flowmason_ray.testing.simulation.pipelines import LEAVING
from flowmason_ray.testing.simulation.shapes import Body, Shape, Stage
from flowmason_ray.testing.simulation.sight import NEVER, Around, Chain, Mode, Sight
from flowmason_ray.testing.simulation.world import decide

NOT_REPEATED = frozenset({"permanent_error", "invalid_output", "in_doubt"})
"""Codes that no attempt follows, unless the policy names them."""
OUTCOME_UNKNOWN = frozenset({"timeout", "worker_died"})
"""Codes that no effectful attempt follows, unless the policy names them."""


@dataclass(frozen=True, slots=True)
class Expected:
    """How an instance must end."""

    status: str
    value: Any = None
    failure: Failure | None = None
    reason: str | None = None
    attempts: int = 0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a scope came to: a value, or a failure."""

    value: Any = None
    failure: Failure | None = None
    leaver: str | None = None
    """The path of the stage that ended it early."""


class Oracle:
    """Judges one run that has ended."""

    def __init__(self, shape: Shape, history: History, fate: Fate, input: Any, cancel: str | None) -> None:
        """
        Args:
            shape: The pipeline.
            history: What happened.
            fate: What attempts came to.
            input: The run's input.
            cancel: The code with which the run was cancelled before it ended, if it was.
        """
        self.shape = shape
        self.history = history
        self.fate = fate
        self.sight = Sight(shape, history)
        self._rules = ConstructRules(self)
        self._root: Chain = (Around(shape.root, "", input),)
        self._cancel = cancel
        self.opened: dict[str, set[int]] = {}
        """Per loop instance: the items of which anything moved."""
        self._left: dict[str, list[str]] = {}
        """Per leaving stage: the instances that took effect."""
        for path, instance in history.instances.items():
            for loop, index in iterations_of(path):
                self.opened.setdefault(loop, set()).add(index)
            stage = shape.stages.get(path.rpartition("/")[2])
            if stage is not None and stage.kind in LEAVING and instance.status == "succeeded" and fate.leaves(path):
                self._left.setdefault(stage.id, []).append(path)

    def judge(self) -> None:
        """Compare everything.

        Raises:
            Violation: something is not as the format says.
        """
        for path, instance in self.history.instances.items():
            if instance.status not in ENDED:
                raise Violation("what_starts_ends", f"{path} is {instance.status} although the run has ended")
        outcome = self.scope(self._root, Mode.FIRM if self._cancel is None else Mode.CUT)
        end = self.history.ends[0]
        if self._cancel is not None:
            wanted = RunCancelled if self._cancel == "cancelled" else RunFailed
            if type(end) is not wanted or end.failure.code != self._cancel:
                raise Violation("a_cancelled_run_says_so", f"cancelled with {self._cancel}, it ended with {end}")
        else:
            self._ended_as(end, outcome)

    @staticmethod
    def _ended_as(end: Event, outcome: Outcome) -> None:
        if outcome.failure is not None:
            if not isinstance(end, RunFailed) or not same(end.failure, outcome.failure):
                raise Violation("the_run_ends_as_it_must", f"{end}; it had to fail with {outcome.failure}")
        elif not isinstance(end, RunSucceeded) or end.value != outcome.value:
            raise Violation("the_run_ends_as_it_must", f"{end}; it had to succeed with {outcome.value}")

    # -- scopes and bodies --------------------------------------------------------------------------------------------------

    def scope(self, chain: Chain, mode: Mode) -> Outcome:
        """Judge an iteration, a called pipeline or the run; return what it came to (of no meaning unless FIRM)."""
        body = chain[-1].body
        leavers = self.leavers(chain)
        if leavers:
            self.body(body, chain, Mode.EARLY)
            if len(leavers) > 1:
                raise Violation("a_scope_is_left_once", f"{leavers}")
            return Outcome(value=self.history.instances[leavers[0]].value, leaver=leavers[0])
        failure = self.body(body, chain, mode)
        if failure is not None:
            return Outcome(failure=failure)
        if mode is not Mode.FIRM:
            return Outcome()
        return self._result(chain)

    def leavers(self, chain: Chain) -> list[str]:
        """Return the stages that have left the innermost scope of a chain."""
        if not self._left:
            return []
        here = chain[-1]
        found: list[str] = []
        for name, paths in self._left.items():
            stage = self.shape.stages[name]
            target = stage.body.whole if stage.kind == "return" else stage.body.scope
            if target is here.body:
                found += [path for path in paths if path.startswith(here.prefix)]
        return found

    def body(self, body: Body, chain: Chain, mode: Mode) -> Failure | None:
        """Judge the stages of a body; return the failure that ended it."""
        failed = [s for s in body.members if s.on_error == "fail" and self.sight.of(s, chain).status == "failed"]
        if len(failed) > 1:
            names = [self.sight.path(stage, chain) for stage in failed]
            raise Violation("one_failure_ends_a_body", f"{names} all failed")
        if failed and mode is Mode.FIRM:
            mode = Mode.CUT
        for stage in body.members:
            self._stage(stage, chain, mode)
        return self.sight.of(failed[0], chain).failure if failed else None

    def _result(self, chain: Chain) -> Outcome:
        """Judge the hidden stage that makes a scope's value, if there is one; return the value."""
        body = chain[-1].body
        owner = body.owner
        terminals = self.shape.terminals(body)
        if body.pipeline is not None:
            name, template = "$output", body.pipeline.get("output")
            if "output_stage_id" in body.pipeline:
                return Outcome(self.sight.value(self.shape.stages[body.pipeline["output_stage_id"]], chain))
        else:
            assert owner is not None
            name, template = "$collect", owner.config.get("collect")
        if template is None and len(terminals) == 1:
            return Outcome(self.sight.value(terminals[0], chain))
        path = chain[-1].prefix + name
        instance = self.history.instances.get(path, NEVER)
        failure = self.fate.failure(path, 1)
        value: Any = None
        if failure is None and template is None:
            value = {stage.id: self.sight.value(stage, chain) for stage in terminals}
        elif failure is None:
            value = self.sight.render(template, chain, instance, path)
        self._compare(path, instance, Expected("failed" if failure else "succeeded", value, failure, attempts=1))
        return Outcome(value, failure)

    # -- one stage ----------------------------------------------------------------------------------------------------------

    def _stage(self, stage: Stage, chain: Chain, mode: Mode) -> None:
        path = self.sight.path(stage, chain)
        instance = self.sight.of(stage, chain)
        unmoved = instance.status == "never" or (mode is Mode.EARLY and _skipped_early(instance))
        blocked = [above.id for above in stage.waits if not self._goes_on(above, chain, mode)]
        if blocked:
            if not unmoved:
                raise Violation("stages_start_after_their_inputs", f"{path} is {instance}; {blocked} stood before it")
            if mode is Mode.FIRM:
                raise Violation("bodies_end_as_they_must", f"{path} waits for {blocked} in a body that was not stopped")
            self._nothing_inside(stage, chain, mode)
        elif mode is not Mode.FIRM and (unmoved or instance.status == "cancelled"):
            if instance.opened:
                self._rules.stopped(stage, chain, path, mode)
            else:
                self._nothing_inside(stage, chain, mode)
        else:
            self._in_order(stage, chain, path, instance)
            self._compare(path, instance, self._expected(stage, chain, path, instance))

    def _goes_on(self, stage: Stage, chain: Chain, mode: Mode) -> bool:
        """Tell whether what waits for a stage may start."""
        instance = self.sight.of(stage, chain)
        if instance.status == "skipped":
            return not (mode is Mode.EARLY and _skipped_early(instance))
        return instance.status in ("succeeded", "fallback") or (
            instance.status == "failed" and stage.on_error != "fail"
        )

    def _in_order(self, stage: Stage, chain: Chain, path: str, instance: Instance) -> None:
        moved = instance.ended if instance.started < 0 else instance.started
        waits = [(above.id, self.sight.of(above, chain)) for above in stage.waits]
        waits += [(name, self.sight.of(self.shape.stages[name], chain)) for name in stage.reads]
        for name, above in waits:
            if above.ended > moved:
                raise Violation("stages_start_after_their_inputs", f"{path} was there before {name} had ended")

    def _compare(self, path: str, instance: Instance, expected: Expected) -> None:
        if instance.status != expected.status:
            raise Violation("stages_end_as_they_must", f"{path} was {instance}; it had to be {expected}")
        if instance.attempt != expected.attempts:
            raise Violation("attempts_are_made", f"{path} had {instance.attempt} attempts, not {expected.attempts}")
        if expected.reason is not None and instance.reason != expected.reason:
            raise Violation("skips_say_why", f"{path}: {instance.reason}; the reason is {expected.reason}")
        if expected.failure is not None and not same(instance.failure, expected.failure):
            raise Violation("failures_name_their_cause", f"{path}: {instance.failure}; it was {expected.failure}")
        if expected.status == "succeeded" and instance.value != expected.value:
            raise Violation("values_are_its_own", f"{path} has {instance.value}; it had to have {expected.value}")
        kept = instance.scope.values[instance.index] if instance.scope is not None else None
        wanted = expected.value if expected.status in ("succeeded", "fallback") else None
        if kept != wanted:
            raise Violation("outputs_do_not_change", f"{path}: {kept} is remembered; it was {wanted}")

    def _nothing_inside(self, stage: Stage, chain: Chain, mode: Mode) -> None:
        for body in stage.closed:
            for inner in body.members:
                instance = self.sight.of(inner, chain)
                if instance.status != "never" and not (mode is Mode.EARLY and _skipped_early(instance)):
                    raise Violation("closed_bodies_stay_closed", f"{self.sight.path(inner, chain)} is {instance}")
                self._nothing_inside(inner, chain, mode)

    def all_skipped(self, body: Body, chain: Chain, reason: str) -> None:
        """Judge a body that must not have run."""
        for stage in body.members:
            instance = self.sight.of(stage, chain)
            if instance.status != "skipped" or instance.reason != reason:
                path = self.sight.path(stage, chain)
                raise Violation("closed_bodies_are_skipped", f"{path} is {instance}; it had to be skipped: {reason}")
            for inner in stage.closed:
                self.all_skipped(inner, chain, reason)

    def _expected(self, stage: Stage, chain: Chain, path: str, instance: Instance) -> Expected:
        reason = self._skip_reason(stage, chain, path)
        if reason is not None:
            for body in stage.closed:
                self.all_skipped(body, chain, "upstreams_skipped")
            return Expected("skipped", reason=reason, attempts=1 if reason == "when" else 0)
        attempts, failure = self._attempts(stage, path)
        value: Any = None
        if failure is None:
            reads = stage.kind in ("sim_work", "variable_set", "subpipeline", *LEAVING)
            config = self.sight.render(stage.config, chain, instance, path) if reads else None
            value, _ = decide(self.fate, stage.kind, path, config)
            value, failure = self._rules.ended(stage, chain, path, instance, value)
        elif stage.on_error != "fail":
            for body in stage.closed:
                self.all_skipped(body, chain, "ended_early")
        if failure is None:
            return Expected("succeeded", value, attempts=attempts)
        if stage.on_error == "fallback":
            return Expected("fallback", stage.data["fallback_output"], failure, attempts=attempts)
        return Expected("failed", None, failure, attempts=attempts)

    def _skip_reason(self, stage: Stage, chain: Chain, path: str) -> str | None:
        if stage.data.get("enabled") is False:
            return "disabled"
        above = [self.sight.of(self.shape.stages[name], chain).status for name in stage.reads]
        if above and all(status == "skipped" for status in above):
            return "upstreams_skipped"
        if "when" in stage.data and self.fate.declines(path):
            return "when"
        return None

    def _attempts(self, stage: Stage, path: str) -> tuple[int, Failure | None]:
        retry = stage.data.get("retry", {})
        named = retry.get("retry_on", ())
        attempt = 1
        while True:
            failure = self.fate.failure(path, attempt)
            if failure is None:
                return attempt, None
            unknown = stage.data.get("effect") == "effectful" and failure.code in OUTCOME_UNKNOWN
            repeated = (
                failure.code in named or failure.error_type in named
                if named
                else not unknown and failure.code not in NOT_REPEATED
            )
            if attempt >= retry.get("max_attempts", 1) or not repeated:
                return attempt, failure
            attempt += 1


def _skipped_early(instance: Instance) -> bool:
    return instance.status == "skipped" and instance.reason == "ended_early"


def same(found: Failure | None, expected: Failure) -> bool:
    """Tell whether two failures are the same for whoever handles them."""
    return found is not None and (found.code, found.stage) == (expected.code, expected.stage)
