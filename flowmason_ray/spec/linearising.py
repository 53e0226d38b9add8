"""In which order the files of a family act on each other: C3, the linearisation that Python uses for classes.

The order is nearest first. Each file comes before those that it extends, the parents of a file keep the order in which it
lists them, and a file that is reached on several ways (a diamond) comes once, behind everything that extends it. Where these
rules contradict each other there is no order, and that is an error.

C3: Barrett et al., "A Monotonic Superclass Linearization for Dylan", OOPSLA 1996.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Sequence
from typing import TypeVar

T = TypeVar("T", bound=Hashable)


class NoOrder(Exception):
    """The parents contradict each other; `left` holds what could not be put in order."""

    def __init__(self, left: Sequence[Sequence[Hashable]]) -> None:
        super().__init__("no consistent order")
        self.left = left


def linearise(head: T, parents: Sequence[T], orders: Sequence[Sequence[T]]) -> list[T]:
    """Return the order of a family, nearest first.

    Args:
        head: The file whose family it is.
        parents: What it extends, in the order in which it says so.
        orders: The order of each parent's own family.

    Raises:
        NoOrder: there is none.
    """
    if len(orders) == 1:
        return [head, *orders[0]]
    lines = [deque(line) for line in (*orders, parents) if line]
    made = [head]
    while lines:
        behind: set[T] = set()
        for line in lines:
            behind.update(list(line)[1:])
        chosen = next((line[0] for line in lines if line[0] not in behind), None)
        if chosen is None:
            raise NoOrder([list(line) for line in lines])
        made.append(chosen)
        for line in lines:
            if line[0] == chosen:
                line.popleft()
        lines = [line for line in lines if line]
    return made
