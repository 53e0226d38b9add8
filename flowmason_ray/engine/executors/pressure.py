"""Which idle actors have to go, so that what waits for room on the cluster gets it. Pure: the cluster is data.

What waits is compared with what is free node by node, with all that it asks for: a cluster with four free cores on two nodes has no
room for a call that needs four. An actor is only taken where that makes room for something. So actors that are kept ready on
purpose stay when it would help nobody, and nothing waits for ever because actors hold what they do not use.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from flowmason_ray.engine.executors.capacity import Demand, Node, missing_together

MOST_ALIKE = 20
"""For how many of the waiting things that ask for the same room is made in one go: it is looked again soon."""
_SLIVER = 1e-5
"""Less than the smallest part of a resource that Ray tells apart; sums of fractions differ by less."""

Amounts = dict[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """What waits for room, as often as `count` says."""

    together: tuple[Demand, ...]
    """One demand; several for what is to start together or not at all."""
    count: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Idle:
    """An actor that has nothing to do."""

    node: str
    """The id of its node."""
    holds: Mapping[str, float]
    """By Ray's resource names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pressure:
    """What waits on a cluster, and what is free there."""

    waiting: tuple[Waiting, ...] = ()
    free: tuple[Node, ...] = ()
    """The nodes, with what nobody holds as their resources."""


def without(pressure: Pressure, amounts: Iterable[Mapping[str, float]]) -> Pressure:
    """Return the pressure without so many waiting things that ask for these amounts: nobody needs them any more."""
    waiting = list(pressure.waiting)
    for asked in amounts:
        for number, each in enumerate(waiting):
            if len(each.together) == 1 and each.together[0].amounts == asked and each.count > 0:
                waiting[number] = replace(each, count=each.count - 1)
                break
    return replace(pressure, waiting=tuple(waiting))


class _Room:
    """What is free on each node, while it is given out."""

    def __init__(self, nodes: Iterable[Node]) -> None:
        self.nodes = {node.id: node for node in nodes}
        self.free: dict[str, Amounts] = {id: dict(node.resources) for id, node in self.nodes.items()}

    def copy(self) -> _Room:
        """Return one that is given out by itself."""
        return _Room(self._as_nodes())

    def add(self, actor: Idle, sign: int = 1) -> None:
        """Count what an actor holds as free, or with `sign` -1 as held again."""
        free = self.free[actor.node]
        for name, amount in actor.holds.items():
            free[name] = free.get(name, 0.0) + sign * amount

    def place(self, wanted: Sequence[Demand], *, keep: bool) -> bool:
        """Tell whether there is room for all of it, and with `keep` give it out: the tightest node first."""
        placed: list[tuple[Amounts, Demand]] = []
        for demand in sorted(wanted, key=lambda each: -sum(each.amounts.values())):
            able = [free for id, free in self.free.items() if _fits(demand, self.nodes[id], free)]
            if not able:
                break
            best = min(able, key=lambda free: sum(free.get(name, 0.0) for name in demand.amounts))
            _take(best, demand, 1)
            placed.append((best, demand))
        done = len(placed) == len(wanted)
        if not (done and keep):
            for free, demand in placed:
                _take(free, demand, -1)
        return done or (len(wanted) > 1 and missing_together(wanted, self._as_nodes()) is None)

    def _as_nodes(self) -> list[Node]:
        return [Node(id=id, resources=self.free[id], labels=node.labels) for id, node in self.nodes.items()]


def _fits(demand: Demand, node: Node, free: Amounts) -> bool:
    amounts = demand.amounts.items()
    return all(free.get(name, 0.0) >= n - _SLIVER for name, n in amounts if n > 0) and demand.labels_fit(node)


def _take(free: Amounts, demand: Demand, sign: int) -> None:
    for name, amount in demand.amounts.items():
        free[name] = free.get(name, 0.0) - sign * amount


def to_give_way(pressure: Pressure, idle: Sequence[Idle], going: Iterable[Idle] = ()) -> list[int]:
    """Return which idle actors are to go: no more than make room for what waits.

    Args:
        pressure: The cluster as it is.
        idle: The actors that may go, those first that are missed least.
        going: Those that are about to go anyway.

    Returns:
        Their positions in `idle`.
    """
    free = _Room(pressure.free)
    for actor in going:
        if actor.node in free.nodes:
            free.add(actor)
    left = [number for number, actor in enumerate(idle) if actor.node in free.nodes]
    gone: list[int] = []
    for waiting in pressure.waiting:
        room = (
            free.copy()
        )  # what others wait for and could have is not taken off: if Ray does not give it, it is in nobody's way
        for _ in range(min(waiting.count, MOST_ALIKE)):
            if room.place(waiting.together, keep=True):
                continue
            found = _making_room(room, waiting, [(number, idle[number]) for number in left])
            if not found:
                break
            room.place(waiting.together, keep=True)
            for number in found:
                free.add(idle[number])
                left.remove(number)
            gone += found
    return gone


def _making_room(room: _Room, waiting: Waiting, idle: Sequence[tuple[int, Idle]]) -> list[int]:
    """Count actors as gone, as few as make room; without any if all of them would not."""
    names = {name for demand in waiting.together for name in demand.amounts}
    taken = [(number, actor) for number, actor in idle if not names.isdisjoint(actor.holds)]
    for _, actor in taken:
        room.add(actor)
    enough = room.place(waiting.together, keep=False)
    needed: list[int] = []
    for number, actor in reversed(taken):  # those that are missed most may stay first
        room.add(actor, -1)
        if enough and not room.place(waiting.together, keep=False):
            room.add(actor)
            needed.append(number)
    return needed[::-1]
