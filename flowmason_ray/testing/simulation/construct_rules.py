"""The oracle's rules for constructs, one or two small functions each: what a construct comes to when its bodies did this."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flowmason_ray.errors import Failure
from flowmason_ray.testing.simulation.history import Instance
from flowmason_ray.testing.simulation.invariants import Violation
from flowmason_ray.testing.simulation.pipelines import BRANCHINGS
from flowmason_ray.testing.simulation.shapes import Body, Stage
from flowmason_ray.testing.simulation.sight import Around, Chain, Mode

if TYPE_CHECKING:
    from flowmason_ray.testing.simulation.oracle import Oracle

Ended = tuple[Any, Failure | None]
"""A value or a failure."""


class ConstructRules:
    """Judges what lies inside constructs."""

    def __init__(self, oracle: Oracle) -> None:
        self._oracle = oracle
        self._history = oracle.history
        self._sight = oracle.sight

    def ended(self, stage: Stage, chain: Chain, path: str, instance: Instance, decided: Any) -> Ended:
        """Judge the bodies of a construct that has ended after its own attempt; return its value or its failure.

        Args:
            stage: The construct; a stage without bodies passes through.
            chain: The scopes around it.
            path: Its path.
            instance: What happened to it.
            decided: The value of its own attempt.
        """
        if stage.kind in BRANCHINGS:
            return self._branching(stage, chain, path, decided)
        if stage.kind == "foreach":
            return self._foreach(stage, chain, path)
        if stage.kind == "trycatch":
            return self._trycatch(stage, chain, path, decided)
        if stage.kind == "parallel":
            return self._parallel(stage, chain, path, instance)
        if stage.kind == "subpipeline":
            return self._subpipeline(stage, chain, path, instance, decided)
        if stage.kind == "wait_for_approval":
            return self._approval(stage, path, instance)
        return decided, None

    def stopped(self, stage: Stage, chain: Chain, path: str, mode: Mode) -> None:
        """Judge the bodies of a construct that was stopped while they ran."""
        oracle = self._oracle
        if stage.kind in BRANCHINGS:
            taken = oracle.fate.branch(stage.kind, path)
            for name, body in stage.bodies.items():
                if name == taken:
                    oracle.body(body, chain, mode)
                else:
                    oracle.all_skipped(body, chain, "branch_not_taken")
        elif stage.kind == "foreach":
            if any(self._broken_by(stage, chain, path, key) for key in self._keys(path)):
                mode = Mode.EARLY
            for key in self._keys(path):
                ended = self._history.items.get((path, key))
                outcome = oracle.scope(self._iteration(stage, chain, path, key), mode if ended is None else Mode.FIRM)
                if ended is not None and (outcome.failure is None) != (ended[1] is None):
                    raise Violation("items_end_as_they_must", f"item {key} of {path}: {ended[1]}, not {outcome}")
        elif stage.kind == "subpipeline":
            given = self._history.instances[path].given
            oracle.scope((*chain, Around(stage.bodies["call"], f"{path}/", given)), mode)
        else:
            if stage.kind == "parallel":  # it may have been decided, and the others be stopping
                mode = Mode.EARLY
            for name, body in stage.bodies.items():
                if name != "catch" or not self._not_taken(body, chain):
                    oracle.body(body, chain, mode)

    def _not_taken(self, body: Body, chain: Chain) -> bool:
        members = [self._sight.of(stage, chain) for stage in body.members]
        return bool(members) and all(i.reason == "branch_not_taken" for i in members)

    # -- branches -------------------------------------------------------------------------------------------------------------

    def _branching(self, stage: Stage, chain: Chain, path: str, decided: Any) -> Ended:
        branch = self._oracle.fate.branch(stage.kind, path)
        if branch is not None and branch not in stage.bodies:
            if stage.on_error != "fail":
                for body in stage.bodies.values():
                    self._oracle.all_skipped(body, chain, "ended_early")
            return None, Failure(code="unknown_branch", message="", stage=path)
        failure: Failure | None = None
        for name, body in stage.bodies.items():
            if name == branch:
                failure = self._firm(body, chain)
            else:
                self._oracle.all_skipped(body, chain, "branch_not_taken")
        return (decided, None) if failure is None else (None, failure)

    def _firm(self, body: Body, chain: Chain) -> Failure | None:
        return self._oracle.body(body, chain, Mode.FIRM)

    def _of_body(self, body: Body, chain: Chain) -> Any:
        """Return what a body gives: its last stage's output, or an object of several."""
        terminals = self._oracle.shape.terminals(body)
        if len(terminals) == 1:
            return self._sight.value(terminals[0], chain)
        return {stage.id: self._sight.value(stage, chain) for stage in terminals}

    # -- trycatch ---------------------------------------------------------------------------------------------------------------

    def _trycatch(self, stage: Stage, chain: Chain, path: str, decided: Any) -> Ended:
        tried, caught, last = (stage.bodies[name] for name in ("try", "catch", "finally"))
        types = stage.config.get("catch_error_types", ())
        outcome: Failure | None = None
        recovered = False
        error = self._firm(tried, chain)
        if error is not None and (not types or error.code in types or error.error_type in types):
            outcome = self._firm(caught, chain)
            recovered = outcome is None
            if recovered and stage.config["error_scope"] == "propagate":
                outcome = error
        else:
            outcome = error
            self._oracle.all_skipped(caught, chain, "branch_not_taken")
        worse = self._firm(last, chain)
        if worse is not None or outcome is not None:
            return None, worse or outcome
        value = {
            **decided,
            "status": "success" if error is None else "caught",
            "error_occurred": error is not None,
            "error_message": error.message if error else None,
            "error_type": (error.error_type or error.code) if error else None,
            "error": error.to_json() if error else None,
            "recovered": recovered,
            "try_result": self._of_body(tried, chain) if error is None else None,
            "catch_result": self._of_body(caught, chain) if recovered else None,
        }
        return value, self._oracle.fate.gather_failure(path)

    # -- parallel -----------------------------------------------------------------------------------------------------------------

    def _parallel(self, stage: Stage, chain: Chain, path: str, instance: Instance) -> Ended:
        wait_for = stage.config["wait_for"]
        needed: int = {"all": len(stage.bodies), "any": 1}.get(wait_for) or wait_for
        failed = {n: f for n, b in stage.bodies.items() if (f := self._failure_in(b, chain)) is not None}
        done = {n: self._end_of(b, chain) for n, b in stage.bodies.items() if n not in failed and self._done(b, chain)}
        lost = self._oracle.fate.gather_failure(path)
        if instance.failure is not None and (lost is None or instance.failure != lost):
            too_few = len(stage.bodies) - len(failed) < needed and len(done) < needed
            if not too_few or instance.failure not in failed.values():
                raise Violation(
                    "races_end_as_they_must", f"{path}: {instance.failure}, with {done} done, {failed} failed"
                )
            self._judge_branches(stage, chain, done, failed, Mode.CUT)
            return None, instance.failure
        if len(done) < needed:
            raise Violation("races_end_as_they_must", f"{path} ended with {done} done of {needed}")
        if lost is not None:
            self._judge_branches(stage, chain, done, failed, Mode.EARLY)
            return None, lost
        said: Any = instance.value
        completed = said["completed"]
        if sorted(completed, key=lambda name: done.get(name, -1)) != completed or not done.keys() >= set(completed):
            raise Violation("races_end_as_they_must", f"{path}: {completed} completed; it was {done}")
        if len(completed) != needed:
            raise Violation("races_end_as_they_must", f"{path} waited for {len(completed)} branches, not {needed}")
        self._judge_branches(stage, chain, {n: done[n] for n in completed}, failed, Mode.EARLY)
        errors = [_branch_error(e["branch"], failed[e["branch"]]) for e in said["errors"] if e["branch"] in failed]
        results = [self._of_body(b, chain) if n in completed else None for n, b in stage.bodies.items()]
        return {"completed": completed, "winner": completed[0], "errors": errors, "results": results}, None

    def _judge_branches(self, stage: Stage, chain: Chain, done: Any, failed: Any, others: Mode) -> None:
        for name, body in stage.bodies.items():
            self._oracle.body(body, chain, Mode.FIRM if name in done else others)

    def _failure_in(self, body: Body, chain: Chain) -> Failure | None:
        for stage in body.members:
            instance = self._sight.of(stage, chain)
            if instance.status == "failed" and stage.on_error == "fail":
                return instance.failure
        return None

    def _done(self, body: Body, chain: Chain) -> bool:
        instances = [self._sight.of(stage, chain) for stage in body.members]
        return all(i.status not in ("never", "cancelled") and i.reason != "ended_early" for i in instances)

    def _end_of(self, body: Body, chain: Chain) -> int:
        return max((self._sight.of(stage, chain).ended for stage in body.members), default=0)

    # -- loops ----------------------------------------------------------------------------------------------------------------------

    def _keys(self, path: str) -> list[int]:
        count, indices = self._oracle.fate.indices(path)
        return list(range(count)) if indices is None else indices

    def _iteration(self, stage: Stage, chain: Chain, path: str, key: int) -> Chain:
        return (*chain, Around(stage.bodies["loop"], f"{path}[{key}]/", chain[-1].input))

    def _foreach(self, stage: Stage, chain: Chain, path: str) -> Ended:
        keys = self._keys(path)
        ended = {key: self._history.items[path, key][1] for key in keys if (path, key) in self._history.items}
        breaks = stage.config.get("break_on_error", True)
        fatal = [failure for failure in ended.values() if failure is not None] if breaks else []
        if len(fatal) > 1:
            raise Violation("the_first_failed_item_ends_the_loop", f"{path}: {fatal}")
        left = [key for key in self._keys(path) if self._broken_by(stage, chain, path, key)]
        results, errors = self._items(stage, chain, path, ended, Mode.EARLY if left else Mode.CUT)
        if fatal:
            return None, fatal[0]
        missing = [key for key in keys if key not in ended]
        if missing and not left:
            raise Violation("items_end_as_they_must", f"items {missing} of {path} did not end")
        succeeded = len(ended) - len(errors)
        if ended and succeeded / len(ended) < stage.config.get("min_success_ratio", 0):
            return None, Failure(code="too_many_errors", message="", stage=path)
        if left:
            opened = self._oracle.opened[path]
            keys = [key for key in keys if key in opened]
        value = {
            "total_items": len(self._keys(path)),
            "succeeded_items": succeeded,
            "errors": errors,
            "results": [results.get(key) for key in keys],
        }
        return value, self._oracle.fate.gather_failure(path)

    def _broken_by(self, stage: Stage, chain: Chain, path: str, key: int) -> bool:
        leavers = self._oracle.leavers(self._iteration(stage, chain, path, key))
        return any(self._oracle.shape.stages[p.rpartition("/")[2]].kind == "break_loop" for p in leavers)

    def _items(
        self, stage: Stage, chain: Chain, path: str, ended: dict[int, Failure | None], others: Mode
    ) -> tuple[dict[int, Any], list[dict[str, Any]]]:
        """Judge every iteration; return the results and the errors of those that ended."""
        results: dict[int, Any] = {}
        errors: list[dict[str, Any]] = []
        for key in self._keys(path):
            mode = Mode.FIRM if key in ended else others
            outcome = self._oracle.scope(self._iteration(stage, chain, path, key), mode)
            if key not in ended:
                continue
            said = ended[key]
            agree = outcome.failure is None if said is None else outcome.failure is not None
            if not agree or (
                outcome.failure and said and (said.code, said.stage) != (outcome.failure.code, outcome.failure.stage)
            ):
                raise Violation("items_end_as_they_must", f"item {key} of {path}: {said}; it was {outcome}")
            if outcome.failure is None:
                results[key] = outcome.value
            else:
                errors.append(_item_error(key, outcome.failure))
        return results, errors

    # -- calls and questions ----------------------------------------------------------------------------------------------------------

    def _subpipeline(self, stage: Stage, chain: Chain, path: str, instance: Instance, given: Any) -> Ended:
        config = stage.config
        inside = (*chain, Around(stage.bodies["call"], f"{path}/", given))
        timed_out = instance.timed_out
        if timed_out and "timeout_ms" not in config:
            raise Violation("calls_take_their_time", f"{path} was stopped after no time limit")
        outcome = self._oracle.scope(inside, Mode.CUT if timed_out else Mode.FIRM)
        failure = Failure(code="timeout", message="", stage=path) if timed_out else outcome.failure
        how = config.get("on_error", "fail")
        value = {
            "pipeline": f"{config['pipeline']}@1.0.0",
            "status": "completed",
            "error": None,
            "result": outcome.value,
        }
        if failure is not None:
            if how == "fail":
                return None, failure
            result = config["default_result"] if how == "default" else None
            value.update(status="failed", error=failure.to_json(), result=result)
            if timed_out and instance.status == "succeeded":
                value["error"] = {**failure.to_json(), "message": instance.value["error"]["message"]}
        return value, self._oracle.fate.gather_failure(path)

    @staticmethod
    def _approval(stage: Stage, path: str, instance: Instance) -> Ended:
        if instance.answered:
            return {"answered": True, "data": f"yes to {path}", "answered_by": "somebody"}, None
        if "timeout_ms" not in stage.config or not instance.timed_out:
            raise Violation("questions_wait_for_answers", f"{path} went on without an answer")
        if stage.config["on_timeout"] == "fail":
            return None, Failure(code="timeout", message="", stage=path)
        return {"answered": False, "data": None, "answered_by": None}, None


def _branch_error(name: str, failure: Failure) -> dict[str, Any]:
    return {"branch": name, "code": failure.code, "message": failure.message, "stage": failure.stage}


def _item_error(key: int, failure: Failure) -> dict[str, Any]:
    facts = {"code": failure.code, "message": failure.message, "stage": failure.stage, "attempts": failure.attempts}
    return {"index": key, **facts}
