"""What comes before what in a plan, transitively and across bodies: for questions that the state machine never asks.

Every stage has two points, its start and its end. A stage starts after the end of what it reads or waits for, and after the
start of the construct whose body it is in; a construct ends after everything in its bodies.

Two questions are answered here. *Which stages lie upstream and downstream of one?* And: *which stages come after something
that leaves traces outside of the values that are passed on?* A stage that writes a file returns the same path whatever is in
it; who reads the file next to that path must run again when the writer does. So the fingerprint of such a stage also covers
the definitions of everything before it (`after_traces`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from hashlib import sha256

from flowmason_ray.engine.component import Effect, Kind
from flowmason_ray.engine.plan import Plan, PlanStage, ScopePlan, Target


def leaves_traces(stage: PlanStage) -> bool:
    """Tell whether a stage may do something that others notice beside its output. A model that is asked only answers."""
    component = stage.component
    return component is not None and stage.effect is not Effect.PURE and component.kind is not Kind.NODE


class Upstream:
    """The order of one plan's stages."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._base: list[int] = []
        self.stages: list[PlanStage] = []
        for scope in plan.scopes:
            self._base.append(len(self.stages))
            self.stages += scope.stages
        self._place = {id(stage): number for number, stage in enumerate(self.stages)}

    # -- the graph: point 2n is the start of stage n, point 2n + 1 its end ------------------------------------------------

    @cached_property
    def _members(self) -> list[frozenset[int]]:
        """For each stage the numbers of those directly in its bodies."""
        return [
            frozenset(self._inside(scope, stage)) if stage.construct is not None else frozenset()
            for scope in self._plan.scopes
            for stage in scope.stages
        ]

    @cached_property
    def _before(self) -> list[list[int]]:
        before: list[list[int]] = [[] for _ in range(2 * len(self.stages))]
        for scope in self._plan.scopes:
            for stage in scope.stages:
                number = self._base[scope.index] + stage.index
                before[2 * number] += sorted(set(self._before_start(scope, stage)))
                before[2 * number + 1].append(2 * number)
                before[2 * number + 1] += (2 * inner + 1 for inner in self._inside(scope, stage))
        return before

    def _before_start(self, scope: ScopePlan, stage: PlanStage) -> Iterator[int]:
        for target in (*stage.targets.values(), *stage.upstreams):
            yield 2 * self._number(scope, target) + 1
        for index in stage.waits_for:
            yield 2 * (self._base[scope.index] + index) + 1
        if stage.region < 0:  # the hidden stage that makes a scope's value comes last in it
            yield from (2 * (self._base[scope.index] + other.index) + 1 for other in scope.stages if other is not stage)
        if stage.region > 0:
            owner = scope.regions[stage.region].owner
            assert owner is not None
            yield 2 * (self._base[scope.index] + owner)
        elif scope.parent is not None:
            assert scope.owner is not None
            yield 2 * (self._base[scope.parent] + scope.owner)

    def _inside(self, scope: ScopePlan, stage: PlanStage) -> Iterator[int]:
        for region in scope.nested[stage.index]:
            yield from (self._base[scope.index] + member for member in scope.regions[region].members)
        if stage.body_scope is not None:
            body = self._plan.scopes[stage.body_scope]
            yield from (self._base[body.index] + inner.index for inner in body.stages)

    def _number(self, scope: ScopePlan, target: Target) -> int:
        for _ in range(target.levels):
            assert scope.parent is not None
            scope = self._plan.scopes[scope.parent]
        return self._base[scope.index] + target.index

    @cached_property
    def _order(self) -> list[int]:
        """All points, each after those before it; no recursion, because chains may be long."""
        before, order = self._before, list[int]()
        seen = bytearray(len(before))
        for first in range(len(before)):
            stack = [(first, False)]
            while stack:
                point, done = stack.pop()
                if done:
                    order.append(point)
                elif not seen[point]:
                    seen[point] = 1
                    stack.append((point, True))
                    stack += ((other, False) for other in before[point] if not seen[other])
        return order

    # -- questions --------------------------------------------------------------------------------------------------------

    def above(self, stage: PlanStage) -> set[int]:
        """Return the ids (`id`) of the stages that have always ended before this one starts, the constructs around it excepted."""
        found, stack = set[int](), [2 * self._place[id(stage)]]
        while stack:
            for point in self._before[stack.pop()]:
                if point not in found:
                    found.add(point)
                    stack.append(point)
        return {id(self.stages[point // 2]) for point in found if point % 2}

    def in_order(self) -> list[PlanStage]:
        """Return all stages, hidden ones included: each after those that end before it starts, constructs before their bodies."""
        return [self.stages[point // 2] for point in self._order if not point % 2]

    def stage_at(self, scope: ScopePlan, target: Target) -> PlanStage:
        """Return the stage that a target means, seen from a scope."""
        return self.stages[self._number(scope, target)]

    def owners(self, scope: ScopePlan, stage: PlanStage) -> Iterator[PlanStage]:
        """Yield the constructs around a stage, from the inside out."""
        while True:
            while stage.region > 0:
                owner = scope.regions[stage.region].owner
                assert owner is not None
                stage = scope.stages[owner]
                yield stage
            if scope.parent is None or scope.owner is None:
                return
            stage = self._plan.scopes[scope.parent].stages[scope.owner]
            scope = self._plan.scopes[scope.parent]
            yield stage

    def inside(self, stage: PlanStage) -> set[int]:
        """Return the ids (`id`) of a stage and of everything in its bodies."""
        found, stack = set[int](), [self._place[id(stage)]]
        while stack:
            number = stack.pop()
            found.add(number)
            stack += self._members[number]
        return {id(self.stages[number]) for number in found}

    def below(self, stages: Iterable[PlanStage]) -> set[int]:
        """Return the ids (`id`) of these stages, of what is inside of them, and of all that may only start after them."""
        reached = bytearray(len(self._before))
        for stage in stages:
            reached[2 * self._place[id(stage)]] = 1
        for point in self._order:
            if not reached[point]:
                reached[point] = any(reached[other] for other in self._before[point])
        return {id(self.stages[point // 2]) for point in range(0, len(reached), 2) if reached[point]}

    @cached_property
    def any_traces(self) -> bool:
        """Whether any stage of the plan leaves traces."""
        return any(leaves_traces(stage) for stage in self.stages)

    def after_traces(self, digest: Callable[[PlanStage], bytes]) -> dict[int, bytes]:
        """Return, by `id`, for each stage that comes after one that leaves traces a digest of all that comes before it.

        Args:
            digest: Gives the digest of a stage's definition.
        """
        if not self.any_traces:
            return {}
        traced = bytearray(len(self._before))
        digests: list[bytes] = [b""] * len(self._before)
        for point in self._order:
            before = self._before[point]
            made = sha256()
            if point % 2:
                stage = self.stages[point // 2]
                traced[point] = leaves_traces(stage)
                made.update(digest(stage))
            for other in before:
                traced[point] |= traced[other]
            for each in sorted({digests[other] for other in before}):  # the order in the file carries no meaning
                made.update(each)
            digests[point] = made.digest()
        return {id(stage): digests[2 * n] for n, stage in enumerate(self.stages) if traced[2 * n]}
