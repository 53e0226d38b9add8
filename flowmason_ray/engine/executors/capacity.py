"""Whether a cluster could ever give what an attempt asks for, and what to say when it could not. Pure: nodes are data.

Only what a node has in all counts, never what is free: an attempt that waits for others to end is no error.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from flowmason_ray.errors import FlowMasonError

ACCELERATOR = "accelerator_type:"
"""What Ray's resource for a kind of accelerator begins with."""
MIB = 2.0**20
_MOST_TRIES = 20_000
"""How long packing a group into the nodes is tried before it is left to Ray."""
_IN = re.compile(r"in\(([^()]*)\)")


class InfeasibleRun(FlowMasonError):
    """A stage asks for what no node of the cluster has."""

    code = "infeasible_resources"


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A node of the cluster that is alive."""

    id: str
    resources: Mapping[str, float]
    """All that it has, by Ray's names (`CPU`, `GPU`, `memory` in bytes, …)."""
    labels: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """What an attempt needs on one node."""

    amounts: Mapping[str, float]
    """By Ray's resource names."""
    labels: Mapping[str, str] = field(default_factory=dict[str, str])
    """A label selector: each label with its condition."""

    @property
    def key(self) -> tuple[Any, ...]:
        """What two demands for the same have in common."""
        return (*sorted(self.amounts.items()), *sorted(self.labels.items()))

    def fits(self, node: Node) -> bool:
        """Tell whether a node could ever give this."""
        return self.labels_fit(node) and all(node.resources.get(name, 0.0) >= n for name, n in self._needed())

    def labels_fit(self, node: Node) -> bool:
        """Tell whether a node has the labels."""
        return all(fits(node.labels.get(name), condition) for name, condition in self.labels.items())

    def _needed(self) -> list[tuple[str, float]]:
        return [(name, amount) for name, amount in self.amounts.items() if amount > 0]

    def words(self) -> str:
        """Say what is asked."""
        parts = [_amount(name, amount) for name, amount in self._needed()]
        parts += [f"the label {name} = {condition!r}" for name, condition in self.labels.items()]
        return ", ".join(parts) or "nothing in particular"


def nodes_from(listed: Sequence[Mapping[str, Any]]) -> list[Node]:
    """Return the nodes that are alive from what `ray.nodes()` returns."""
    return [
        Node(
            id=str(node["NodeID"]),
            resources=cast("Mapping[str, float]", node["Resources"]),
            labels=cast("Mapping[str, str]", node.get("Labels") or {}),
        )
        for node in listed
        if node["Alive"]
    ]


def fits(value: str | None, condition: str) -> bool:
    """Tell whether a node's label fits one condition of a label selector: `x`, `!x`, `in(x, y)` or `!in(x, y)`.

    A node without the label (None) fits the negated forms.
    """
    wanted = condition.removeprefix("!")
    found = _IN.fullmatch(wanted)
    allowed = [each.strip() for each in found[1].split(",")] if found else [wanted]
    return (value in allowed) is not condition.startswith("!")


def for_ray(conditions: Mapping[str, str]) -> dict[str, str]:
    """Return a label selector as Ray takes it: it compares values with the blanks around them (Ray 2.60)."""
    return {name: condition.replace(", ", ",") for name, condition in conditions.items()}


def missing(demand: Demand, nodes: Sequence[Node]) -> str | None:
    """Tell what no node could ever give: None, or sentences that name what is asked and what there is."""
    if any(demand.fits(node) for node in nodes):
        return None
    return f"It asks for {demand.words()} on one node; {_what_there_is(demand, nodes)}"


def _what_there_is(demand: Demand, nodes: Sequence[Node]) -> str:
    labelled = [node for node in nodes if demand.labels_fit(node)]
    if demand.labels and not labelled:
        return f"none of the cluster's {_count(nodes)} has such labels. {_labels_there(demand, nodes)}"
    for name, amount in demand.amounts.items():
        most = max((node.resources.get(name, 0.0) for node in labelled), default=0.0)
        if amount > 0 and most <= 0:
            what = "accelerator of that kind" if name.startswith(ACCELERATOR) else name
            return f"none of the cluster's {_count(labelled)} has any {what}. {_largest(demand, labelled)}"
    return f"no node of the cluster ({_count(labelled)}) has all of it. {_largest(demand, labelled)}"


def _count(nodes: Sequence[Node]) -> str:
    return f"{len(nodes)} node" + ("" if len(nodes) == 1 else "s")


def _largest(demand: Demand, nodes: Sequence[Node]) -> str:
    if not nodes:
        return "No node is alive."

    def nearness(node: Node) -> tuple[float, float]:
        had = [min(1.0, node.resources.get(name, 0.0) / n) for name, n in demand.amounts.items() if n > 0]
        return sum(had), node.resources.get("CPU", 0.0)

    best = max(nodes, key=nearness)
    shown = {
        name: n for name, n in best.resources.items() if name in ("CPU", "GPU", "memory") or name in demand.amounts
    }
    shown |= {name: n for name, n in best.resources.items() if name.startswith(ACCELERATOR)}
    return f"The node that comes nearest has {', '.join(_amount(name, n) for name, n in sorted(shown.items()))}."


def _labels_there(demand: Demand, nodes: Sequence[Node]) -> str:
    there: list[str] = []
    for name in demand.labels:
        values = sorted({node.labels[name] for node in nodes if name in node.labels})
        there.append(
            f"{name} is {', '.join(map(repr, values[:10]))} there" if values else f"no node has a label {name}"
        )
    return f"{'; '.join(there)[:1].upper()}{'; '.join(there)[1:]}."


def _amount(name: str, amount: float) -> str:
    if name == "memory":
        return f"{amount / MIB:.0f} MiB of memory"
    if name.startswith(ACCELERATOR):
        return f"an accelerator {name.removeprefix(ACCELERATOR)!r}"
    return f"{amount:g} {name}"


def missing_together(bundles: Sequence[Demand], nodes: Sequence[Node]) -> str | None:
    """Tell why a cluster could never give several demands at the same time; None when it might."""
    for bundle in bundles:
        alone = missing(bundle, nodes)
        if alone is not None:
            return alone
    room = [(node, dict(node.resources)) for node in nodes]
    if _packs(sorted(bundles, key=_weight, reverse=True), room):
        return None
    total = _sum(bundle.amounts for bundle in bundles)
    there = _sum(node.resources for node in nodes)
    asked = ", ".join(_amount(name, n) for name, n in sorted(total.items()) if n > 0)
    had = ", ".join(_amount(name, there.get(name, 0.0)) for name, n in sorted(total.items()) if n > 0)
    return (
        f"It asks for room for {len(bundles)} at the same time, {asked} in all; the cluster's {_count(nodes)} have {had}, and "
        "not room for all of them at once."
    )


@dataclass(slots=True)
class _Trial:
    """Where one bundle of a group has been tried."""

    next: int = 0
    """The position of the node to be tried next."""
    tried: list[dict[str, float]] = field(default_factory=list[dict[str, float]])
    """What was left of the nodes that were tried: one like them need not be."""
    taken: dict[str, float] | None = None
    """What is left of the node where it is now."""


def _packs(bundles: Sequence[Demand], room: Sequence[tuple[Node, dict[str, float]]]) -> bool:
    """Tell whether the bundles fit into what is left of the nodes; after too many tries, that they may.

    Not recursive: a gang may have thousands of bundles.
    """
    trials, tries = [_Trial()], _MOST_TRIES
    while trials:
        if len(trials) > len(bundles):
            return True
        bundle, trial = bundles[len(trials) - 1], trials[-1]
        if trial.taken is not None:  # the others did not fit beside it
            for name, amount in bundle.amounts.items():
                trial.taken[name] += amount
            trial.taken = None
        while trial.taken is None and trial.next < len(room):
            node, left = room[trial.next]
            trial.next += 1
            if left in trial.tried or not bundle.labels_fit(node) or not _holds(left, bundle):
                continue
            if not tries:
                return True
            tries -= 1
            trial.tried.append(dict(left))
            for name, amount in bundle.amounts.items():
                left[name] = left.get(name, 0.0) - amount
            trial.taken = left
        if trial.taken is None:
            trials.pop()
        else:
            trials.append(_Trial())
    return False


def _weight(demand: Demand) -> tuple[int, float]:
    return len(demand.labels), sum(demand.amounts.values())


def _holds(left: Mapping[str, float], demand: Demand) -> bool:
    return all(left.get(name, 0.0) >= amount for name, amount in demand.amounts.items() if amount > 0)


def _sum(each: Iterable[Mapping[str, float]]) -> dict[str, float]:
    total: dict[str, float] = {}
    for amounts in each:
        for name, amount in amounts.items():
            total[name] = total.get(name, 0.0) + amount
    return total
