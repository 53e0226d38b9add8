"""In which order the stages come that set the same variable: one that reads it must never be able to see either of two values.

In every region the members that set the variable must form a chain. Where references and `depends_on` do not make one,
reading decides: who sets the variable without reading it comes before who reads it and sets it anew. What then still has no
order is ambiguous. Setters in exclusive bodies, or in iterations of their own, do not meet.

Chains are checked link by link along one topological order, and each link looks only at what lies between its ends, so that
ten thousand setters of one variable cost little more than ten thousand stages.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from heapq import heapify, heappop, heappush
from itertools import pairwise

from flowmason_ray.engine.bodies import Bodies, RegionNode

Waits = Mapping[str, Mapping[str, str]]
"""Stage → the stages of the same region that it waits for."""


class SetterOrder:
    """Orders the setters of one variable after the other."""

    def __init__(self, bodies: Bodies, waits: Waits) -> None:
        self._bodies = bodies
        self._waits = waits
        self._positions: dict[int, Mapping[str, int] | None] = {}

    def settle(self, setters: Sequence[str], reading: Collection[str]) -> tuple[list[tuple[str, str]], list[str]]:
        """Find an order for the stages that set one variable.

        Args:
            setters: The stages.
            reading: Those of them that read the variable too.

        Returns:
            The edges that reading adds, as (first, second), both members of one region; and the stages that remain without an
            order, in the order of `setters`.
        """
        edges: list[tuple[str, str]] = []
        unsettled: set[str] = set()
        for region, groups in self._groups(setters):
            if len(groups) < 2 or self._is_chain(region, groups):
                continue
            readers = {member for member, inside in groups.items() if not inside.keys().isdisjoint(reading)}
            added, clashing = self._by_reading(groups, readers)
            edges += added
            unsettled.update(next(iter(groups[member])) for member in clashing)
        return edges, [setter for setter in setters if setter in unsettled]

    def _groups(self, setters: Iterable[str]) -> Iterable[tuple[RegionNode, dict[str, dict[str, None]]]]:
        """Return every region that setters meet in: its members that set the variable, each with the setters in it."""
        found: dict[int, tuple[RegionNode, dict[str, dict[str, None]]]] = {}
        for setter in setters:
            member: str | None = setter
            for node in self._bodies.home[setter].up():
                assert member is not None
                found.setdefault(id(node), (node, {}))[1].setdefault(member, {})[setter] = None
                if node.begins_scope:
                    break
                member = node.owner
        return found.values()

    def _is_chain(self, region: RegionNode, members: Collection[str]) -> bool:
        """Tell whether what is written orders the members. In a region with a cycle, which is an error anyway, it does."""
        key = id(region)
        if key not in self._positions:
            order, _ = _in_turn(region.members, self._waits)
            complete = len(order) == len(region.members)
            self._positions[key] = {stage: i for i, stage in enumerate(order)} if complete else None
        positions = self._positions[key]
        if positions is None:
            return True
        return all(self._reaches(a, b, positions) for a, b in pairwise(sorted(members, key=positions.__getitem__)))

    def _by_reading(
        self, members: Collection[str], readers: Collection[str]
    ) -> tuple[list[tuple[str, str]], list[str]]:
        """Put the members into a chain with readers as late as possible; return the edges for that, and who clashes."""
        above = list(dict.fromkeys(members))
        known = set(above)
        for stage in above:  # grows while we walk
            for each in self._waits.get(stage, ()):
                if each not in known:
                    known.add(each)
                    above.append(each)
        order, clashing = _in_turn(above, self._waits, early=set(members) - set(readers), late=readers)
        positions = {stage: i for i, stage in enumerate(order)}
        edges: list[tuple[str, str]] = []
        for a, b in pairwise(stage for stage in order if stage in members):
            if self._reaches(a, b, positions):
                continue
            if b in readers and a not in readers:
                edges.append((a, b))
            else:
                clashing += (a, b)
        return edges, clashing

    def _reaches(self, first: str, second: str, positions: Mapping[str, int]) -> bool:
        """Tell whether `second` waits, at any distance, for `first`, which comes before it in `positions`."""
        lowest = positions[first]
        seen, stack = {second}, [second]
        while stack:
            for above in self._waits.get(stack.pop(), ()):
                if above == first:
                    return True
                if above not in seen and positions[above] > lowest:
                    seen.add(above)
                    stack.append(above)
        return False


def _in_turn(
    stages: Sequence[str], waits: Waits, *, early: Collection[str] = (), late: Collection[str] = ()
) -> tuple[list[str], list[str]]:
    """Sort stages so that each comes after those it waits for, and those in `late` after as many in `early` as possible.

    Returns:
        The order, shorter than `stages` when there is a cycle; and those of `late` that could as well change places.
    """
    number = {stage: i for i, stage in enumerate(stages)}
    below: dict[str, list[str]] = {stage: [] for stage in stages}
    missing: dict[str, int] = {}
    for stage in stages:
        missing[stage] = sum(above in number for above in waits.get(stage, ()))
        for above in waits.get(stage, ()):
            if above in number:
                below[above].append(stage)
    ready = [(stage in late, number[stage]) for stage in stages if not missing[stage]]
    heapify(ready)
    order: list[str] = []
    ties: list[str] = []
    left = set(early)
    while ready:
        is_late, i = heappop(ready)
        if is_late and ready:
            # All that is ready is late. One that all early ones that are left wait for has to come now: they have to come
            # before the others.
            tied = [i, *(j for _, j in ready)]
            first = next((j for j in tied if left <= _all_below(stages[j], below)), None) if left and not ties else None
            if first is None:
                ties += (stages[i], stages[ready[0][1]])
            elif first != i:
                ready.remove((True, first))
                ready.append((True, i))
                heapify(ready)
                i = first
        order.append(stages[i])
        left.discard(stages[i])
        for stage in below[stages[i]]:
            missing[stage] -= 1
            if not missing[stage]:
                heappush(ready, (stage in late, number[stage]))
    return order, ties


def _all_below(stage: str, below: Mapping[str, Sequence[str]]) -> set[str]:
    """Return all that waits, at any distance, for a stage."""
    found, stack = set[str](), [stage]
    while stack:
        for each in below[stack.pop()]:
            if each not in found:
                found.add(each)
                stack.append(each)
    return found
