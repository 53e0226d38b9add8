"""How many attempts may use this machine at once: CPU cores, memory, and a bound on threads."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from flowmason_ray.engine.component import Cost
from flowmason_ray.engine.plan import PlanStage
from flowmason_ray.errors import StageError

MAX_IO_ATTEMPTS = 256
"""Attempts that wait rather than compute: bounded because each may hold a thread and a socket."""


class InfeasibleResources(StageError):
    """A stage asks for what this machine does not have; waiting would last for ever."""

    code = "infeasible_resources"


@dataclass(frozen=True, slots=True)
class Demand:
    """What an attempt occupies."""

    cpu_cores: float
    memory_mib: float
    io: int


class Slots:
    """Hands out the machine in the order of asking; who does not fit waits."""

    def __init__(self, *, cpu_cores: float | None = None, memory_mib: float | None = None) -> None:
        self._cores = cpu_cores or float(os.cpu_count() or 1)
        self._memory = memory_mib or _memory_mib()
        self._free = Demand(self._cores, self._memory, MAX_IO_ATTEMPTS)
        self._waiting: deque[tuple[object, Demand, Callable[[], None]]] = deque()

    def demand(self, stage: PlanStage) -> Demand:
        """Return what an attempt of `stage` occupies here.

        A file that asks for more cores than there are still runs, alone: the same file runs on a cluster and on a laptop.
        An accelerator or a label cannot be had by waiting.

        Raises:
            InfeasibleResources: the stage needs a GPU, an accelerator or a label.
        """
        asked = stage.resources
        for key in ("num_gpus", "accelerator_type", "labels"):
            if asked.get(key):
                raise InfeasibleResources(
                    f"Stage {stage.id!r} asks for {key} = {asked[key]!r}, which the in-process executor does not have. "
                    "Run it on a cluster that has it: --on ray."
                )
        waits = stage.cost is Cost.IO
        cpus = asked.get("num_cpus")
        cores = float((0 if waits else 1) if cpus is None else cpus)
        return Demand(min(cores, self._cores), min(float(asked.get("memory_mib") or 0), self._memory), int(waits))

    def take(self, owner: object, demand: Demand, begin: Callable[[], None]) -> None:
        """Call `begin` as soon as there is room, in order."""
        self._waiting.append((owner, demand, begin))
        self._advance()

    def give_back(self, demand: Demand) -> None:
        """End an occupation."""
        free = self._free
        self._free = Demand(free.cpu_cores + demand.cpu_cores, free.memory_mib + demand.memory_mib, free.io + demand.io)
        self._advance()

    def forget(self, owner: object) -> bool:
        """Take an attempt out of the queue; return whether it was still waiting."""
        for entry in self._waiting:
            if entry[0] is owner:
                self._waiting.remove(entry)
                self._advance()  # it may have been what the others waited behind
                return True
        return False

    def _advance(self) -> None:
        while self._waiting:
            _, demand, begin = self._waiting[0]
            free = self._free
            if demand.cpu_cores > free.cpu_cores + 1e-9 or demand.memory_mib > free.memory_mib or demand.io > free.io:
                return
            self._waiting.popleft()
            self._free = Demand(
                free.cpu_cores - demand.cpu_cores, free.memory_mib - demand.memory_mib, free.io - demand.io
            )
            begin()


def _memory_mib() -> float:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**20
    except (ValueError, OSError, AttributeError):
        return float("inf")
