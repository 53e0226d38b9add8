"""Where attempts go on a Ray cluster: their resources and labels, what they are near to, and what they share room with.

Two kinds of wishes. What must hold (`resources`, labels, the run's region) becomes options that Ray keeps to, and that the
cluster is asked about before anything is handed out (`admission`). What would be good (`near`, `pack`, `spread`) becomes a
preference: where there is no room, the attempt goes elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from flowmason_ray.engine.commands import StartStage
from flowmason_ray.engine.component import Cost, Effect
from flowmason_ray.engine.executor import RunInfo
from flowmason_ray.engine.executors.capacity import ACCELERATOR, MIB, Demand, Node, for_ray
from flowmason_ray.engine.fusion import runs_in_place
from flowmason_ray.engine.pace import Pace
from flowmason_ray.engine.plan import Plan, PlanStage, Target
from flowmason_ray.settings import DatasetSettings

IO_CORES = 0.25
"""CPU cores that a waiting stage occupies by default: four may wait per core, so that Ray does not start workers without end."""
PURE_RETRIES = 3
"""How often Ray itself repeats a pure task whose worker or node was lost: Ray's own default (`ray.remote`). It is also what
lets Ray make a lost value again from its lineage, which it does only for tasks that it may repeat."""
REGION_LABEL = "ray.io/region"
"""The label of a node that says its region (Ray 2.60, `ray/_raylet.pyx`)."""


def resources_of(stage: PlanStage) -> dict[str, float]:
    """Return what an attempt occupies, by Ray's resource names."""
    asked = stage.resources
    default = IO_CORES if stage.cost is Cost.IO else 1.0
    cores = asked.get("num_cpus")
    found = {"CPU": float(default if cores is None else cores)}
    if asked.get("num_gpus"):
        found["GPU"] = float(asked["num_gpus"])
    if asked.get("memory_mib"):
        found["memory"] = float(asked["memory_mib"]) * MIB
    if asked.get("accelerator_type"):
        # Ray gives every node 1 of this resource per kind of accelerator; a task takes a sliver (ray/util/accelerators).
        found[f"{ACCELERATOR}{asked['accelerator_type']}"] = 0.001
    return found


def runs_in_coordinator(stage: PlanStage) -> bool:
    """Tell whether a stage's attempts run in the coordinator when what they read is there."""
    return runs_in_place(stage, lambda _: Pace.QUICK)


class Placement:
    """Says for one run which options its attempts' calls get."""

    def __init__(self, nodes: Callable[[], list[Node]]) -> None:
        """
        Args:
            nodes: Returns the cluster's nodes as they were lately.
        """
        self._nodes = nodes
        self._demands: dict[int, Demand] = {}
        self._options: dict[int, dict[str, Any]] = {}
        self._shapes: dict[int, str] = {}
        """Of the options that are kept in `_options`, by `id`."""
        self._noted: frozenset[int] = frozenset()
        """The stages whose places somebody asks for, by `id`."""
        self._where: dict[str, str] = {}
        """Where attempts of those ended: path → node."""
        self._packed: dict[int, str] = {}
        """For stages whose instances are to be together: the node of the first."""

    def open(self, run: RunInfo) -> None:
        """Begin to serve a run."""
        self._region = run.region
        self._datasets: Mapping[str, DatasetSettings] = run.settings.datasets if run.settings is not None else {}

    def prepare(self, plan: Plan) -> None:
        """Take note of the plan that is to be run."""
        wanted = [
            plan.scopes[_up(plan, scope.index, stage.near)].stages[stage.near.index]
            for scope, stage in plan.stages()
            if isinstance(stage.near, Target)
        ]
        self._noted = frozenset(id(stage) for stage in wanted)

    def demand(self, stage: PlanStage) -> Demand:
        """Return what an attempt must have."""
        key = id(stage)
        demand = self._demands.get(key)
        if demand is None:
            labels = dict(stage.resources.get("labels") or {})
            if self._region is not None:
                labels.setdefault(REGION_LABEL, self._region)
            demand = self._demands[key] = Demand(amounts=resources_of(stage), labels=labels)
        return demand

    def options(self, command: StartStage) -> Mapping[str, Any]:
        """Return the options of the call that carries an attempt, `name` excepted.

        For stages that do not say what they are near to or packed with, the same object every time.
        """
        stage = command.stage
        options = self._options.get(id(stage))
        if options is None:
            options = self._options[id(stage)] = self._fixed(stage)
        node = self._preferred(command)
        if node is None:
            return options
        strategy = NodeAffinitySchedulingStrategy(node, soft=True, _spill_on_unavailable=True)
        return {**options, "scheduling_strategy": strategy}

    def shape(self, options: Mapping[str, Any]) -> str | None:
        """Return what calls with these options have in common, so that their attempts may share one; None: they share none."""
        if not isinstance(options.get("scheduling_strategy", ""), str):
            return None
        shape = self._shapes.get(id(options))
        if shape is None:
            shape = self._shapes[id(options)] = repr(sorted(options.items(), key=str))
        return shape

    def carries(self, stage: PlanStage, rider: PlanStage) -> bool:
        """Tell whether an attempt of `rider` has all that it must have where one of `stage` runs."""
        there, needed = self.demand(stage), self.demand(rider)
        small = rider.component is None or rider.component.cost is Cost.TRIVIAL
        return there.labels == needed.labels and all(
            there.amounts.get(name, 0.0) >= amount or (small and name == "CPU")
            for name, amount in needed.amounts.items()
        )

    def _fixed(self, stage: PlanStage) -> dict[str, Any]:
        demand = self.demand(stage)
        options: dict[str, Any] = {
            "num_cpus": demand.amounts["CPU"],
            "max_retries": PURE_RETRIES if stage.effect is Effect.PURE else 0,
        }
        if "GPU" in demand.amounts:
            options["num_gpus"] = demand.amounts["GPU"]
        if "memory" in demand.amounts:
            options["memory"] = demand.amounts["memory"]
        if stage.resources.get("accelerator_type"):
            options["accelerator_type"] = stage.resources["accelerator_type"]
        if demand.labels:
            options["label_selector"] = for_ray(demand.labels)
        if stage.strategy == "spread":
            options["scheduling_strategy"] = "SPREAD"
        dataset = self._datasets.get(stage.near) if isinstance(stage.near, str) else None
        if dataset is not None:
            options["label_selector"] = for_ray({**dataset.labels, **demand.labels})
            options["fallback_strategy"] = [{"label_selector": for_ray(demand.labels)}]
        return options

    def _preferred(self, command: StartStage) -> str | None:
        """Return the node that an attempt had best go to; None: any."""
        stage = command.stage
        if isinstance(stage.near, Target):
            scope, index = command.scope.at(stage.near)
            return self._where.get(scope.path(index))
        if stage.strategy != "pack":
            return None
        demand, nodes = self.demand(stage), self._nodes()
        node = self._packed.get(id(stage))
        if node is None or all(each.id != node for each in nodes):
            fitting = [each for each in nodes if demand.fits(each)]
            if not fitting:
                return None
            node = max(fitting, key=lambda each: (each.resources.get("CPU", 0.0), each.id)).id
            self._packed[id(stage)] = node
        return node

    def ended(self, path: str, stage: PlanStage, node: str) -> None:
        """Take note of where an attempt ran."""
        if id(stage) in self._noted:
            self._where[path] = node


def _up(plan: Plan, scope: int, target: Target) -> int:
    for _ in range(target.levels):
        parent = plan.scopes[scope].parent
        assert parent is not None
        scope = parent
    return scope
