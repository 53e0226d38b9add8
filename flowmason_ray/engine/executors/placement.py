"""What an attempt asks of Ray: resources, labels and the options of the call, and whether the cluster can ever give them."""

from __future__ import annotations

from collections.abc import Mapping
from time import monotonic
from typing import Any

from flowmason_ray.engine.component import Cost, Effect
from flowmason_ray.engine.executors.ray_cluster import cluster_cores, missing_resources
from flowmason_ray.engine.plan import PlanStage

IO_CORES = 0.25
"""CPU cores that a waiting stage occupies by default: four may wait per core, so that Ray does not start workers without end."""
PURE_RETRIES = 3
"""How often Ray itself repeats a pure task whose worker or node was lost: Ray's own default (`ray.remote`)."""
FEASIBILITY_TTL_S = 10.0
"""How long the answer to "can the cluster ever give this" is kept: nodes come and go, but asking takes milliseconds."""


class Feasibility:
    """Remembers for a while what the cluster can give."""

    def __init__(self) -> None:
        self._known: dict[tuple[tuple[str, float | str], ...], tuple[float, str | None]] = {}
        self._cores: tuple[float, int] | None = None

    def missing(self, asked: dict[str, float], labels: dict[str, str]) -> str | None:
        """Tell what no node of the cluster could ever give (`missing_resources`)."""
        wanted = {name: amount for name, amount in asked.items() if amount > 0}
        key = (*sorted(wanted.items()), *sorted(labels.items()))
        known = self._known.get(key)
        if known is None or monotonic() - known[0] > FEASIBILITY_TTL_S:
            missing = missing_resources(wanted, labels) if wanted or labels else None
            known = self._known[key] = (monotonic(), missing)
        return known[1]

    def cores(self) -> int:
        """Return how many CPU cores the cluster has, at least 1."""
        if self._cores is None or monotonic() - self._cores[0] > FEASIBILITY_TTL_S:
            self._cores = (monotonic(), max(1, int(cluster_cores())))
        return self._cores[1]


def shape_of(stage: PlanStage) -> str:
    """Return what two stages have in common if their attempts can share a call: everything that `options_of` looks at."""
    return repr((stage.cost.value, sorted(stage.resources.items(), key=str)))


def resources_of(stage: PlanStage) -> dict[str, float]:
    """Return what an attempt occupies, by Ray's resource names."""
    asked = stage.resources
    default = IO_CORES if stage.cost is Cost.IO else 1.0
    cores = asked.get("num_cpus")
    found = {"CPU": float(default if cores is None else cores)}
    if asked.get("num_gpus"):
        found["GPU"] = float(asked["num_gpus"])
    if asked.get("memory_mib"):
        found["memory"] = float(asked["memory_mib"]) * 2**20
    if asked.get("accelerator_type"):
        # Ray gives every node 1 of this resource per kind of accelerator; a task takes a sliver (ray/util/accelerators).
        found[f"accelerator_type:{asked['accelerator_type']}"] = 0.001
    return found


def options_of(stage: PlanStage, path: str, asked: Mapping[str, float]) -> dict[str, Any]:
    """Return the options of the Ray call that runs an attempt."""
    options: dict[str, Any] = {
        "name": path,
        "num_cpus": asked["CPU"],
        "max_retries": PURE_RETRIES if stage.effect is Effect.PURE else 0,
    }
    if "GPU" in asked:
        options["num_gpus"] = asked["GPU"]
    if "memory" in asked:
        options["memory"] = asked["memory"]
    if stage.resources.get("accelerator_type"):
        options["accelerator_type"] = stage.resources["accelerator_type"]
    if stage.resources.get("labels"):
        options["label_selector"] = dict(stage.resources["labels"])
    return options
