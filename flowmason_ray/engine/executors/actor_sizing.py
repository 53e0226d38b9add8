"""How many actors a pool has: grown by demand, shrunk by idleness, between the bounds that the component declares. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flowmason_ray.engine.component import Actors
from flowmason_ray.engine.executors.capacity import Node

PRESSED_S = 0.5
"""An actor that has been idle for this long is released when others wait for room: longer than the pause between two calls of a
busy pool, short for those who wait."""
DEFAULT = Actors()


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What a pool has to do, and who does it."""

    waiting: int = 0
    """Calls for which no actor is free."""
    waited_s: float = 0.0
    """For how long the first of them has waited."""
    running: int = 0
    ready: int = 0
    """Actors that take calls."""
    starting: int = 0
    call_s: float | None = None
    """How long a call takes on average; None: not known yet."""
    setup_s: float | None = None
    """How long it took to start the last actor and set it up; None: not known yet."""


def to_start(bounds: Actors, room: int, load: Load) -> int:
    """Return how many actors to start now.

    Args:
        bounds: What the component declares.
        room: How many the cluster could hold if it were empty.
        load: The pool as it is.
    """
    highest = max(1, bounds.max if bounds.max is not None else room, bounds.min)
    demand = -(-(load.waiting + load.running) // bounds.concurrency)
    wanted = min(demand, highest)
    # A call that has waited for as long as a setup takes may be behind a long one: then the average tells nothing.
    if load.ready and load.call_s is not None and load.setup_s is not None and load.waited_s <= load.setup_s:
        soon_s = load.waiting * load.call_s / (load.ready * bounds.concurrency)
        if soon_s < load.setup_s:  # those who are ready will have done it before a new one is
            wanted = min(wanted, load.ready)
    return max(0, max(wanted, bounds.min) - load.ready - load.starting)


def room(nodes: Iterable[Node], options: Mapping[str, Any]) -> int:
    """Return how many actors with these options (Ray's `num_cpus`, `num_gpus`) the nodes could hold if they were empty; at least one."""
    wanted = [("CPU", float(options.get("num_cpus") or 0.0)), ("GPU", float(options.get("num_gpus") or 0.0))]
    found = 0
    for node in nodes:
        fits = [int(node.resources.get(name, 0.0) / amount) for name, amount in wanted if amount > 0]
        found += min(fits, default=int(node.resources.get("CPU", 1.0)))
    return max(1, found)


def to_release(bounds: Actors, idle_s: Sequence[float], total: int) -> int:
    """Return how many of the idle actors to release now though nobody else needs room: those that have been idle for longest.

    Args:
        bounds: What the component declares.
        idle_s: For how long each idle actor has been idle.
        total: How many actors there are, idle ones included.
    """
    return max(0, min(sum(each >= bounds.idle_s for each in idle_s), total - bounds.min))


def may_give_way(bounds: Actors, idle_s: float) -> bool:
    """Tell whether an actor has been idle for long enough to be released when others wait for room, also below `min`."""
    return idle_s >= min(bounds.idle_s, PRESSED_S)


def worn(bounds: Actors, calls: int, rss_mib: float) -> bool:
    """Tell whether an actor that has carried out so many calls, and is so large now, is to be replaced."""
    too_many = bounds.recycle_after is not None and calls >= bounds.recycle_after
    return too_many or (bounds.recycle_at_mib is not None and rss_mib >= bounds.recycle_at_mib)
