"""What must come of a run: a small, direct interpreter of the format's rules, independent of the engine.

It walks the pipeline's data (`shapes`) with the table of outcomes (`fate`) and says for every stage instance how it ends
and with which value. Where the rules leave something to timing (which of two failures comes first, what was still under way
when a body was stopped) it looks at what happened, checks that it is one of the things that may happen, and goes on from
there. Values are computed from what the instance must have seen: its own item, the variables of its own scope, the statuses
and outputs of the stages it names.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from flowmason_ray.engine.events import Event, RunCancelled, RunFailed, RunSucceeded
from flowmason_ray.errors import Failure
from flowmason_ray.testing.simulation.fate import Fate
from flowmason_ray.testing.simulation.history import ENDED, History, Instance
from flowmason_ray.testing.simulation.invariants import Violation
from flowmason_ray.testing.simulation.shapes import Body, Shape, Stage
from flowmason_ray.testing.simulation.world import decide

NOT_REPEATED = frozenset({"permanent_error", "invalid_output", "in_doubt"})
"""Codes that no attempt follows, unless the policy names them."""

Chain = tuple[tuple[Body, str], ...]
"""The scopes around an instance, outermost first, each with what its paths begin with."""

_FORM = re.compile(r"\{\{ (\w+)(?:\.(\w+))?(?:\.(status|error))?(?:\.code)?(?: \| default\('(\w+)'\))? \}\}")


@dataclass(frozen=True, slots=True)
class Expected:
    """How an instance must end."""

    status: str
    value: Any = None
    failure: Failure | None = None
    reason: str | None = None
    attempts: int = 0


class Oracle:
    """Judges one run that has ended."""

    def __init__(self, shape: Shape, history: History, fate: Fate, input: Mapping[str, Any], cancel: str | None) -> None:
        """
        Args:
            shape: The pipeline.
            history: What happened.
            fate: What attempts came to.
            input: The run's input.
            cancel: The code with which the run was cancelled before it ended, if it was.
        """
        self._shape = shape
        self._history = history
        self._fate = fate
        self._input = input
        self._cancel = cancel

    def judge(self) -> None:
        """Compare everything.

        Raises:
            Violation: something is not as the format says.
        """
        for path, instance in self._history.instances.items():
            if instance.status not in ENDED:
                raise Violation("what_starts_ends", f"{path} is {instance.status} although the run has ended")
        chain: Chain = ((self._shape.root, ""),)
        failure = self._body(self._shape.root, chain, self._cancel is not None)
        end = self._history.ends[0]
        if self._cancel is not None:
            wanted = RunCancelled if self._cancel == "cancelled" else RunFailed
            if type(end) is not wanted or end.failure.code != self._cancel:
                raise Violation("a_cancelled_run_says_so", f"cancelled with {self._cancel}, it ended with {end}")
            return
        value = None
        if failure is None:
            value, failure = self._result(chain)
        self._ended_as(end, value, failure)

    def _ended_as(self, end: Event, value: Any, failure: Failure | None) -> None:
        if failure is not None:
            if not isinstance(end, RunFailed) or not _same(end.failure, failure):
                raise Violation("the_run_ends_as_it_must", f"{end}; it had to fail with {failure}")
        elif not isinstance(end, RunSucceeded) or end.value != value:
            raise Violation("the_run_ends_as_it_must", f"{end}; it had to succeed with {value}")

    # -- bodies -----------------------------------------------------------------------------------------------------------

    def _body(self, body: Body, chain: Chain, cut: bool) -> Failure | None:
        """Judge the stages of a body; return the failure that ended it. `cut`: it may have been stopped at any point."""
        failed = [
            stage
            for stage in body.members
            if stage.on_error == "fail" and self._of(stage, chain).status == "failed"
        ]
        if len(failed) > 1:
            names = [self._path(stage, chain) for stage in failed]
            raise Violation("one_failure_ends_a_body", f"{names} all failed")
        for stage in body.members:
            self._stage(stage, chain, loose=cut or bool(failed))
        return self._of(failed[0], chain).failure if failed else None

    def _stage(self, stage: Stage, chain: Chain, *, loose: bool) -> None:
        path = self._path(stage, chain)
        instance = self._of(stage, chain)
        blocked = [above.id for above in stage.waits if not self._goes_on(above, chain)]
        if blocked:
            if instance.status != "never":
                raise Violation("stages_start_after_their_inputs", f"{path} is {instance.status}; {blocked} stood before it")
            if not loose:
                raise Violation("bodies_end_as_they_must", f"{path} waits for {blocked} in a body that was not stopped")
            self._nothing_inside(stage, chain)
        elif loose and instance.status in ("never", "cancelled"):
            self._stopped(stage, chain, path, instance)
        else:
            self._in_order(stage, chain, path, instance)
            self._compare(path, instance, self._expected(stage, chain, path, instance))

    def _goes_on(self, stage: Stage, chain: Chain) -> bool:
        """Tell whether what waits for a stage may start."""
        status = self._of(stage, chain).status
        return status in ("succeeded", "fallback", "skipped") or (status == "failed" and stage.on_error != "fail")

    def _in_order(self, stage: Stage, chain: Chain, path: str, instance: Instance) -> None:
        moved = instance.ended if instance.started < 0 else instance.started
        waits = [(above.id, self._of(above, chain)) for above in stage.waits]
        waits += [(name, self._of(self._shape.stages[name], chain)) for name in stage.reads]
        for name, above in waits:
            if above.ended > moved:
                raise Violation("stages_start_after_their_inputs", f"{path} was there before {name} had ended")

    def _compare(self, path: str, instance: Instance, expected: Expected) -> None:
        if instance.status != expected.status:
            raise Violation("stages_end_as_they_must", f"{path} was {instance.status}; it had to be {expected}")
        if instance.attempt != expected.attempts:
            raise Violation("attempts_are_made", f"{path} had {instance.attempt} attempts, not {expected.attempts}")
        if expected.reason is not None and instance.reason != expected.reason:
            raise Violation("skips_say_why", f"{path}: {instance.reason}; the reason is {expected.reason}")
        if expected.failure is not None and not _same(instance.failure, expected.failure):
            raise Violation("failures_name_their_cause", f"{path}: {instance.failure}; it was {expected.failure}")
        if expected.status == "succeeded" and instance.value != expected.value:
            raise Violation("values_are_its_own", f"{path} has {instance.value}; it had to have {expected.value}")
        kept = instance.scope.values[instance.index] if instance.scope is not None else None
        wanted = expected.value if expected.status in ("succeeded", "fallback") else None
        if kept != wanted:
            raise Violation("outputs_do_not_change", f"{path}: {kept} is remembered; it was {wanted}")

    def _nothing_inside(self, stage: Stage, chain: Chain) -> None:
        for body in stage.bodies.values():
            if not body.loop:
                for inner in body.members:
                    if self._of(inner, chain).status != "never":
                        raise Violation("closed_bodies_stay_closed", f"{self._path(inner, chain)} moved")
                    self._nothing_inside(inner, chain)

    def _all_skipped(self, body: Body, chain: Chain, reason: str) -> None:
        for stage in body.members:
            instance = self._of(stage, chain)
            if instance.status != "skipped" or instance.reason != reason:
                path = self._path(stage, chain)
                raise Violation("closed_bodies_are_skipped", f"{path}: {instance.status} ({instance.reason}), not {reason}")
            for inner in stage.bodies.values():
                if not inner.loop:
                    self._all_skipped(inner, chain, reason)

    def _stopped(self, stage: Stage, chain: Chain, path: str, instance: Instance) -> None:
        """Judge a stage that was stopped, or not even begun, when its body was stopped."""
        if instance.status == "never" or instance.decision is None:
            self._nothing_inside(stage, chain)
        elif stage.kind == "foreach":
            for key in self._keys(path):
                ended = self._history.items.get((path, key))
                failure = self._iteration(stage, chain, path, key, cut=ended is None)
                if ended is not None and (failure is None) != (ended[1] is None):
                    raise Violation("items_end_as_they_must", f"item {key} of {path}: {ended[1]}, not {failure}")
        else:
            for body in stage.bodies.values():
                if body.name == self._fate.branch(stage.kind, path):
                    self._body(body, chain, cut=True)
                else:
                    self._all_skipped(body, chain, "branch_not_taken")

    # -- one stage ----------------------------------------------------------------------------------------------------------

    def _expected(self, stage: Stage, chain: Chain, path: str, instance: Instance) -> Expected:
        reason = self._skip_reason(stage, chain, path)
        if reason is not None:
            for body in stage.bodies.values():
                if not body.loop:
                    self._all_skipped(body, chain, "upstreams_skipped")
            return Expected("skipped", reason=reason, attempts=1 if reason == "when" else 0)
        attempts, failure = self._attempts(stage, path)
        value: Any = None
        if failure is None:
            config = self._render(stage.config, chain, instance) if not stage.bodies else None
            value, decision = decide(self._fate, stage.kind, path, config)
            if stage.kind == "foreach":
                value, failure = self._foreach(stage, chain, path)
            elif stage.bodies:
                assert decision is not None
                failure = self._branching(stage, chain, path, decision["branch"])
        elif stage.on_error != "fail":
            for body in stage.bodies.values():
                if not body.loop:
                    self._all_skipped(body, chain, "ended_early")
        if failure is None:
            return Expected("succeeded", value, attempts=attempts)
        if stage.on_error == "fallback":
            return Expected("fallback", stage.data["fallback_output"], failure, attempts=attempts)
        return Expected("failed", None, failure, attempts=attempts)

    def _skip_reason(self, stage: Stage, chain: Chain, path: str) -> str | None:
        if stage.data.get("enabled") is False:
            return "disabled"
        above = [self._of(self._shape.stages[name], chain).status for name in stage.reads]
        if above and all(status == "skipped" for status in above):
            return "upstreams_skipped"
        if "when" in stage.data and self._fate.declines(path):
            return "when"
        return None

    def _attempts(self, stage: Stage, path: str) -> tuple[int, Failure | None]:
        retry = stage.data.get("retry", {})
        named = retry.get("retry_on", ())
        attempt = 1
        while True:
            failure = self._fate.failure(path, attempt)
            if failure is None:
                return attempt, None
            repeated = failure.code in named or failure.error_type in named if named else failure.code not in NOT_REPEATED
            if attempt >= retry.get("max_attempts", 1) or not repeated:
                return attempt, failure
            attempt += 1

    # -- constructs -----------------------------------------------------------------------------------------------------------

    def _branching(self, stage: Stage, chain: Chain, path: str, branch: str | None) -> Failure | None:
        if branch is not None and branch not in stage.bodies:
            if stage.on_error != "fail":
                for body in stage.bodies.values():
                    self._all_skipped(body, chain, "ended_early")
            return Failure(code="unknown_branch", message="", stage=path)
        failure: Failure | None = None
        for name, body in stage.bodies.items():
            if name == branch:
                failure = self._body(body, chain, cut=False)
            else:
                self._all_skipped(body, chain, "branch_not_taken")
        return failure

    def _keys(self, path: str) -> list[int]:
        count, indices = self._fate.indices(path)
        return list(range(count)) if indices is None else indices

    def _foreach(self, stage: Stage, chain: Chain, path: str) -> tuple[Any, Failure | None]:
        """Judge the iterations of a loop; return its value or its failure."""
        keys = self._keys(path)
        breaks = stage.config.get("break_on_error", True)
        ended = {key: self._history.items[path, key] for key in keys if (path, key) in self._history.items}
        broken = next((failure for _, failure in ended.values() if failure is not None), None) if breaks else None
        results: list[Any] = []
        errors: list[dict[str, Any]] = []
        for key in keys:
            if key not in ended and broken is None:
                raise Violation("items_end_as_they_must", f"item {key} of {path} did not end")
            failure = self._iteration(stage, chain, path, key, cut=key not in ended)
            if key not in ended:
                continue
            result: Any = None
            if failure is None:
                result, failure = self._iteration_result(stage, chain, path, key)
            said = ended[key][1]
            if (failure is None) != (said is None) or (failure is not None and not _same(said, failure)):
                raise Violation("items_end_as_they_must", f"item {key} of {path}: {said}; it was {failure}")
            results.append(result)
            if failure is not None:
                errors.append(_error(key, failure))
        if broken is not None:
            if len(errors) > 1:
                raise Violation("the_first_failed_item_ends_the_loop", f"{path}: {errors}")
            return None, broken
        ratio = stage.config.get("min_success_ratio", 0)
        if keys and (len(keys) - len(errors)) / len(keys) < ratio:
            return None, Failure(code="too_many_errors", message="", stage=path)
        value = {"total_items": len(keys), "succeeded_items": len(keys) - len(errors), "errors": errors, "results": results}
        return value, self._fate.gather_failure(path)

    def _iteration(self, stage: Stage, chain: Chain, path: str, key: int, *, cut: bool) -> Failure | None:
        return self._body(stage.bodies["loop"], self._inside(stage, chain, path, key), cut)

    def _inside(self, stage: Stage, chain: Chain, path: str, key: int) -> Chain:
        return (*chain, (stage.bodies["loop"], f"{path}[{key}]/"))

    def _iteration_result(self, stage: Stage, chain: Chain, path: str, key: int) -> tuple[Any, Failure | None]:
        inside = self._inside(stage, chain, path, key)
        terminals = self._shape.terminals(stage.bodies["loop"])
        collect = stage.config.get("collect")
        if collect is None and len(terminals) == 1:
            return self._value(terminals[0], inside), None
        return self._hidden("$collect", collect, terminals, inside)

    def _hidden(
        self, name: str, template: Any, terminals: list[Stage], chain: Chain
    ) -> tuple[Any, Failure | None]:
        """Judge the hidden stage that makes a scope's value; return the value or the failure."""
        path = chain[-1][1] + name
        failure = self._fate.failure(path, 1)
        instance = self._history.of(path)
        if failure is not None:
            self._compare(path, instance, Expected("failed", None, failure, attempts=1))
            return None, failure
        if template is None:
            value: Any = {stage.id: self._value(stage, chain) for stage in terminals}
        else:
            value = self._render(template, chain, instance)
        self._compare(path, instance, Expected("succeeded", value, attempts=1))
        return value, None

    def _result(self, chain: Chain) -> tuple[Any, Failure | None]:
        data = self._shape.data
        if "output_stage_id" in data:
            return self._value(self._shape.stages[data["output_stage_id"]], chain), None
        terminals = self._shape.terminals(self._shape.root)
        if "output" not in data and len(terminals) == 1:
            return self._value(terminals[0], chain), None
        return self._hidden("$output", data.get("output"), terminals, chain)

    # -- what an instance sees ----------------------------------------------------------------------------------------------

    def _path(self, stage: Stage, chain: Chain) -> str:
        scope = stage.body.scope
        return next(prefix for body, prefix in chain if body is scope) + stage.id

    def _of(self, stage: Stage, chain: Chain) -> Instance:
        return self._history.instances.get(self._path(stage, chain)) or _NEVER

    def _value(self, stage: Stage, chain: Chain) -> Any:
        instance = self._of(stage, chain)
        if instance.status == "fallback":
            return stage.data["fallback_output"]
        return instance.value if instance.status == "succeeded" else None

    def _render(self, template: Any, chain: Chain, reader: Instance) -> Any:
        if isinstance(template, dict):
            return {key: self._render(value, chain, reader) for key, value in template.items()}  # pyright: ignore[reportUnknownVariableType]
        found = _FORM.fullmatch(template) if isinstance(template, str) else None
        return template if found is None else self._read(found, chain, reader)

    def _read(self, found: re.Match[str], chain: Chain, reader: Instance) -> Any:
        root, name, aspect, default = found.groups()
        if root == "stages":
            stage = self._shape.stages[name]
            instance = self._of(stage, chain)
            if aspect == "status":
                return "cancelled" if instance.status == "never" else instance.status
            if aspect == "error":
                return default if instance.failure is None else instance.failure.code
            return self._value(stage, chain)
        if root == "vars":
            return self._variable(name, chain, reader, default)
        if root == "input":
            return self._input[name]
        if root == "context":
            path = next(p for p, i in self._history.instances.items() if i is reader)
            return path if name == "path" else reader.attempt
        for body, prefix in reversed(chain):
            if body.loop:
                assert body.owner is not None
                path, _, key = prefix.rstrip("]/").rpartition("[")
                if root == body.owner.config["item_variable"]:
                    return f"{path}#{key}"
                if root == body.owner.config["index_variable"]:
                    return int(key)
        raise Violation("values_are_its_own", f"{found[0]} means nothing here")

    def _variable(self, name: str, chain: Chain, reader: Instance, default: str | None) -> Any:
        """Return the variable as the reader must see it: set last, in the innermost scope that has it."""
        setters = self._shape.setters(name)
        for body, _ in reversed(chain):
            instances = [self._of(setter, chain) for setter in setters if setter.body.scope is body]
            done = [i for i in instances if i.status == "succeeded" and i.ended <= reader.started]
            if done:
                return max(done, key=lambda i: i.ended).value[name]
        return default


_NEVER = Instance()


def _error(key: int, failure: Failure) -> dict[str, Any]:
    return {
        "index": key,
        "code": failure.code,
        "message": failure.message,
        "stage": failure.stage,
        "attempts": failure.attempts,
    }


def _same(found: Failure | None, expected: Failure) -> bool:
    return found is not None and (found.code, found.stage) == (expected.code, expected.stage)
