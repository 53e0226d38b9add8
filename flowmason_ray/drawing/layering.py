"""The combinatorial half of a layered drawing (Sugiyama, Tagawa and Toda 1981): which layer, and in which order.

Nodes are numbers. A node's layer is the length of the longest chain before it; an arrow that spans several layers is cut
by a dummy node in each layer between, so that afterwards every arrow joins neighbouring layers. The order within layers
is found by sweeps that put each node at the barycenter of its neighbours; the best of all orders seen is kept.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

SWEEPS = 12
"""Crossings hardly fall any more after so many."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layered:
    """Nodes in layers, from the top, each from left to right. Numbers from `real` on are dummies."""

    layers: list[list[int]]
    above: list[list[int]]
    """Per node: its neighbours in the layer above."""
    below: list[list[int]]
    real: int
    chains: list[list[int]]
    """Per arrow: the nodes that it passes, from its source to its target."""


def arrange(count: int, edges: Sequence[tuple[int, int]]) -> Layered:
    """Give `count` nodes their layers and orders.

    Raises:
        ValueError: the arrows form a ring.
    """
    layer_of = _longest_paths(count, edges)
    layers: list[list[int]] = [[] for _ in range(max(layer_of, default=-1) + 1)]
    for node, layer in enumerate(layer_of):
        layers[layer].append(node)
    above: list[list[int]] = [[] for _ in range(count)]
    below: list[list[int]] = [[] for _ in range(count)]
    chains: list[list[int]] = []
    for source, target in edges:
        chain = [source]
        for layer in range(layer_of[source] + 1, layer_of[target]):
            dummy = len(above)
            above.append([])
            below.append([])
            layers[layer].append(dummy)
            chain.append(dummy)
        chain.append(target)
        for upper, lower in pairwise(chain):
            below[upper].append(lower)
            above[lower].append(upper)
        chains.append(chain)
    return Layered(layers=_ordered(layers, above, below), above=above, below=below, real=count, chains=chains)


def _longest_paths(count: int, edges: Sequence[tuple[int, int]]) -> list[int]:
    outgoing: list[list[int]] = [[] for _ in range(count)]
    waiting = [0] * count
    for source, target in edges:
        outgoing[source].append(target)
        waiting[target] += 1
    layer_of = [0] * count
    ready = [node for node in range(count) if not waiting[node]]
    for node in ready:  # grows while it is walked
        for target in outgoing[node]:
            layer_of[target] = max(layer_of[target], layer_of[node] + 1)
            waiting[target] -= 1
            if not waiting[target]:
                ready.append(target)
    if len(ready) < count:
        raise ValueError("the arrows form a ring")
    return layer_of


def _ordered(layers: list[list[int]], above: list[list[int]], below: list[list[int]]) -> list[list[int]]:
    best = [list(layer) for layer in layers]
    fewest = crossings(best, below)
    current = [list(layer) for layer in layers]
    for sweep in range(SWEEPS):
        if not fewest:
            break
        down = sweep % 2 == 0
        rows = range(1, len(current)) if down else range(len(current) - 2, -1, -1)
        for row in rows:
            fixed = current[row - 1] if down else current[row + 1]
            _sort_by_barycenter(current[row], fixed, above if down else below)
        found = crossings(current, below)
        if found < fewest:
            fewest, best = found, [list(layer) for layer in current]
    return best


def _sort_by_barycenter(layer: list[int], fixed: list[int], neighbours: list[list[int]]) -> None:
    place = {node: n for n, node in enumerate(fixed)}
    own = {node: n for n, node in enumerate(layer)}

    def centre(node: int) -> float:
        near = neighbours[node]
        return sum(place[other] for other in near) / len(near) if near else own[node]

    layer.sort(key=centre)


def crossings(layers: Sequence[Sequence[int]], below: Sequence[Sequence[int]]) -> int:
    """Return how many pairs of arrows cross."""
    total = 0
    for upper, lower in pairwise(layers):
        place = {node: n for n, node in enumerate(lower)}
        seen: list[int] = []
        for node in upper:
            ends = sorted(place[other] for other in below[node])
            total += sum(len(seen) - bisect_right(seen, end) for end in ends)
            for end in ends:
                insort(seen, end)
    return total
