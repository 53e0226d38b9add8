"""Which stages start together or not at all (`placement.gang`), and how much room they need. Pure.

A gang belongs to one opening of a `parallel` or a `foreach`: one bundle for each branch, or for each item that may run at a
time. A bundle holds the largest attempt of its branch or body: stages of one bundle that could run side by side take turns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from flowmason_ray.engine.executors.capacity import Demand
from flowmason_ray.engine.plan import Plan, PlanStage, ScopePlan
from flowmason_ray.engine.scope import Scope


@dataclass(frozen=True, slots=True)
class Member:
    """Where an attempt belongs: to the gang that stage `index` of `scope` opened, there to bundle `bundle` (-1: any)."""

    scope: Scope
    index: int
    bundle: int

    @property
    def path(self) -> str:
        """The gang's name: the path of the stage that opened it."""
        return self.scope.path(self.index)


def member_of(scope: Scope, index: int) -> Member | None:
    """Return the innermost gang that a stage instance belongs to."""
    while True:
        stages, regions = scope.plan.stages, scope.plan.regions
        region = max(stages[index].region, 0)
        while region:
            owner = regions[region].owner
            assert owner is not None
            if stages[owner].gang:
                return Member(scope, owner, list(stages[owner].bodies.values()).index(region))
            region = max(stages[owner].region, 0)
        if scope.parent is None:
            return None
        scope, index = scope.parent, scope.owner
        if scope.plan.stages[index].gang:
            return Member(scope, index, -1)


class ConflictingLabels(ValueError):
    """Stages of one bundle cannot be on one node."""


class Bundles:
    """What the gangs of a plan reserve."""

    def __init__(self, plan: Plan, demand_of: Callable[[PlanStage], Demand | None]) -> None:
        """
        Args:
            plan: The plan.
            demand_of: Returns what an attempt of a stage needs of the cluster; None: nothing.
        """
        self._plan = plan
        self._demand_of = demand_of

    def of(self, scope: ScopePlan, stage: PlanStage, count: int) -> list[Demand]:
        """Return a gang's bundles; `count` is how many items of a loop run at a time. Empty ones ask for nothing.

        Raises:
            ConflictingLabels: stages of one bundle ask for different nodes.
        """
        if stage.bodies:
            return [_largest(self._demands(scope, region)) for region in stage.bodies.values()]
        assert stage.body_scope is not None
        inner = self._plan.scopes[stage.body_scope]
        return [_largest(self._demands(inner, 0))] * count

    def _demands(self, scope: ScopePlan, region: int) -> Iterator[Demand]:
        for index in scope.regions[region].members:
            stage = scope.stages[index]
            demand = None if stage.construct is not None else self._demand_of(stage)
            if demand is not None:
                yield demand
            for nested in scope.nested[index]:
                yield from self._demands(scope, nested)
            for inner in self._plan.scopes:
                if inner.parent == scope.index and inner.owner == index:
                    yield from self._demands(inner, 0)


def _largest(demands: Iterable[Demand]) -> Demand:
    """Return what is enough for each of several, one after the other.

    Raises:
        ConflictingLabels: no node is.
    """
    amounts: dict[str, float] = {}
    labels: dict[str, str] = {}
    for demand in demands:
        for name, amount in demand.amounts.items():
            amounts[name] = max(amount, amounts.get(name, 0.0))
        for name, condition in demand.labels.items():
            if labels.setdefault(name, condition) != condition:
                raise ConflictingLabels(
                    f"It starts in a gang, where each branch, or item, has one place; and stages there ask for nodes with the "
                    f"label {name} = {labels[name]!r} and with {name} = {condition!r}. Let them be branches of their own."
                )
    return Demand(amounts={name: amount for name, amount in amounts.items() if amount > 0}, labels=labels)


def surely_run(plan: Plan) -> Iterator[PlanStage]:
    """Yield the stages that every run of a plan comes to, unless something fails, leaves early or a loop is empty.

    Not what depends on a decision: `when`, branches, races; nor what may fail without harm: `on_error`, `trycatch`.
    """
    sure: set[int] = {0}
    for scope in plan.scopes:
        if scope.index not in sure:
            continue
        for index in scope.regions[0].members:
            stage = scope.stages[index]
            if not stage.enabled or stage.when is not None or stage.on_error != "fail":
                continue
            yield stage
            sure.update(s.index for s in plan.scopes if s.parent == scope.index and s.owner == index)
