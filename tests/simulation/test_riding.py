"""Every law of the engine holds when stages ride along, and what rides comes to what it would have come to alone."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

import pytest

from flowmason_ray.engine import fusion
from flowmason_ray.engine.plan import PlanStage
from flowmason_ray.testing.simulation.riding import RidingWorld
from flowmason_ray.testing.simulation.runs import Simulated, simulate

SEEDS = 1500


def first_wrong(world: type[RidingWorld], seeds: int = SEEDS) -> Simulated | None:
    for seed in range(seeds):
        run = simulate(seed, world=world)
        if run.wrong is not None:
            return run
    return None


def test_every_law_holds_whatever_rides() -> None:
    rode = 0

    class Counting(RidingWorld):
        def next(self) -> Any:
            nonlocal rode
            arrival = super().next()
            if arrival is None:
                rode += self.rode
            return arrival

    found = first_wrong(Counting)
    assert found is None, f"seed {found.seed}: {found.wrong}"
    assert rode > SEEDS // 2, "hardly anything rides: this proves little"


def test_a_rule_that_lets_too_much_ride_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def downstream(self: Any, member: int) -> Iterator[PlanStage]:
        """Let also what waits for control flow ride, which has ended only when its bodies have."""
        return (self._scope.stages[index] for index in self._scope.downstream[member] if index not in self._inside)

    def known(self: Any, awaited: Collection[int]) -> bool:
        return True

    monkeypatch.setattr(fusion.Ride, "_readers", downstream)
    monkeypatch.setattr(fusion.Ride, "_known", known)
    assert first_wrong(RidingWorld) is not None, "stages rode behind control flow, and nobody noticed"
