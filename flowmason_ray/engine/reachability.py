"""What can never run, and what is written where it has no effect: the checks of the plan that look at the flow as a whole.

An error: a stage that waits for one that always leaves, an exit from a loop that stands in none. A warning: a branch that no
decision opens, a time limit or a retry on a construct that seems to mean the bodies. Only what is certain is said: a stage
with `when` may be skipped, so nothing follows from it.
"""

from __future__ import annotations

from collections.abc import Mapping

from flowmason_ray.engine.bodies import Bodies
from flowmason_ray.engine.drafts import Draft, Report
from flowmason_ray.engine.edges import Edges

LOOP_EXITS = frozenset({"break_loop", "continue_loop"})


def check_reachability(drafts: Mapping[str, Draft], bodies: Bodies, edges: Edges, report: Report) -> None:
    """Report what can never run, and limits that do not limit what they seem to."""
    checker = _Reachability(drafts, bodies, edges)
    for draft in drafts.values():
        _check_exit(draft, bodies, report)
        _check_decision(draft, report)
        _check_limits(draft, report)
    for reader, waits in edges.waits.items():
        for above, pointer in waits.items():
            if reader in drafts and (checker.always_leaves(above) or checker.runs_only_after(reader, above)):
                message = f"Stage {reader!r} can never run: it waits for {above!r}, which always leaves."
                hint = "Give the leaving stage a 'condition', or take the stage out."
                report("unreachable_stage", message, pointer, hint=hint)


def _check_exit(draft: Draft, bodies: Bodies, report: Report) -> None:
    name = draft.component.name if draft.component else ""
    if name in LOOP_EXITS and not any(n.body is not None and n.body.loop for n in bodies.home[draft.id].up()):
        message = f"{draft.title} is a {name!r} outside any loop: there is nothing to leave."
        report("not_in_loop", message, draft.pointer)


def _check_decision(draft: Draft, report: Report) -> None:
    for body in draft.shape.bodies:
        if body.name in draft.shape.never and body.members:
            field = draft.shape.decided_by
            stages = ", ".join(repr(stage) for _, stage in body.members[:5]) + (", …" if len(body.members) > 5 else "")
            message = (
                f"The {field} of stage {draft.id!r} reads nothing and is always the same: its branch {body.name!r} "
                f"({stages}) never runs."
            )
            report("constant_condition", message, f"{draft.pointer}/config/{field}", severity="warning")


def _check_limits(draft: Draft, report: Report) -> None:
    if (
        draft.spec is None
        or draft.component is None
        or not (draft.shape.bodies or draft.component.name == "subpipeline")
    ):
        return
    called = draft.component.name == "subpipeline"
    inside = "the pipeline that it calls" if called else "the stages of its body"
    if draft.spec.timeout_ms is not None:
        message = f"'timeout_ms' of stage {draft.id!r} limits its decision, not {inside}."
        hint = (
            "Write it into 'config': there it limits the whole call."
            if called
            else "Put the body into a pipeline of its own; a 'subpipeline' has a 'timeout_ms' in its config for the whole."
        )
        report("covers_decision_only", message, f"{draft.pointer}/timeout_ms", severity="warning", hint=hint)
    if draft.spec.retry is not None and draft.spec.retry.max_attempts > 1:
        message = f"'retry' of stage {draft.id!r} repeats its decision, never {inside}."
        hint = "Write 'retry' at the stages that may fail."
        report("covers_decision_only", message, f"{draft.pointer}/retry", severity="warning", hint=hint)


class _Reachability:
    """What always happens, as far as the plan can know."""

    def __init__(self, drafts: Mapping[str, Draft], bodies: Bodies, edges: Edges) -> None:
        self._drafts = drafts
        self._bodies = bodies
        self._edges = edges
        self._members: dict[tuple[str, str], list[str]] = {}
        for stage, node in bodies.home.items():
            if node.owner is not None and node.body is not None:
                self._members.setdefault((node.owner, node.body.name), []).append(stage)
        self._leaves: dict[str, bool] = {}

    def always_leaves(self, stage: str) -> bool:
        """Tell whether the scope around a stage has always ended when the stage has."""
        known = self._leaves.get(stage)
        if known is None:
            known = self._leaves[stage] = self._leaves_now(stage) and self._always_runs(stage)
        return known

    def runs_only_after(self, reader: str, above: str) -> bool:
        """Tell whether `above` leaves when it runs, and `reader` waits for nothing else: then it is skipped with it."""
        draft = self._drafts.get(above)
        fails = draft is None or draft.spec is None or draft.spec.on_error == "fail"
        return fails and list(self._edges.upstreams.get(reader, ())) == [above] and self._leaves_now(above)

    def _leaves_now(self, stage: str) -> bool:
        draft = self._drafts.get(stage)
        if draft is None:
            return False
        if draft.shape.always_leaves:
            return True
        if not draft.shape.one_of:
            return False
        possible = [body for body in draft.shape.bodies if body.name not in draft.shape.never]
        return all(any(map(self.always_leaves, self._members.get((stage, body.name), ()))) for body in possible)

    def _always_runs(self, stage: str) -> bool:
        """Tell whether a stage runs whenever its body does: some chain of stages that cannot be skipped leads to it."""
        seen, stack = {stage}, [stage]
        while stack:
            name = stack.pop()
            spec = self._drafts[name].spec
            if spec is None or not spec.enabled or spec.when is not None or spec.on_error != "fail":
                continue
            above = self._edges.upstreams.get(name)
            if not above:
                return True
            around = list(self._bodies.home[name].up())
            for each in above:
                if each not in seen and self._bodies.home[each] in around:
                    seen.add(each)
                    stack.append(each)
        return False
