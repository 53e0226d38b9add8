"""An instance of a plan's scope in a run: which of its stages are where, and what they returned.

Scopes form a chain to the root; a reference is resolved by walking up as many levels as the plan says. The state machine
writes them, executors only read; a scope whose iteration has ended is dropped as a whole, with the values in it.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Any

from flowmason_ray.engine.plan import ScopePlan, Target
from flowmason_ray.errors import Failure


class Status(IntEnum):
    """Where a stage instance is. Everything from SUCCEEDED on is an end."""

    WAITING = 0
    READY = 1
    """Waits only for a free place under the run's `max_parallel`."""
    RUNNING = 2
    RETRYING = 3
    OPEN = 4
    """A construct whose bodies are running."""
    SUCCEEDED = 5
    FALLBACK = 6
    """Failed; its `fallback_output` stands in."""
    FAILED = 7
    SKIPPED = 8
    CANCELLED = 9

    @property
    def word(self) -> str:
        """The status as it is shown and as expressions read it."""
        return self.name.lower()


WORDS = tuple(status.word for status in Status)


class Scope:
    """The state of one scope instance."""

    __slots__ = (
        "constructs",
        "contents",
        "failures",
        "first_started",
        "input",
        "items",
        "owner",
        "parent",
        "plan",
        "position",
        "prefix",
        "remaining",
        "status",
        "tries",
        "values",
        "variables",
        "waiting",
    )

    def __init__(self, plan: ScopePlan, *, parent: Scope | None, owner: int, prefix: str, input: Any) -> None:
        n = len(plan.stages)
        self.plan = plan
        self.parent = parent
        self.owner = owner
        """The position, in the parent, of the construct that made this scope; -1 for the root."""
        self.prefix = prefix
        """What the paths of its stages begin with: "" or `each[3]/`."""
        self.input = input
        self.status: list[int] = [0] * n
        self.values: list[Any] = [None] * n
        self.waiting = list(plan.waiting)
        self.remaining = list(plan.remaining)
        self.tries: dict[int, int] = {}
        """Attempts begun, for stages that were started more than once."""
        self.first_started: dict[int, float] = {}
        self.failures: dict[int, Failure] | None = None
        self.constructs: dict[int, Any] | None = None
        """What the open constructs remember, by position."""
        self.variables: dict[str, Any] | None = None
        """Variables set in this scope: name → handle of the output of the stage that set it."""
        self.items: Any = None
        """For an iteration: the executor's handle of the loop's items."""
        self.contents: dict[Any, Any] | None = None
        """What stands for values of this scope in fingerprints (`engine.fingerprint`): they live as long as it does."""
        self.position = -1
        """For an iteration: its position in `items`."""

    def at(self, target: Target) -> tuple[Scope, int]:
        """Return the scope instance and the position that `target` means from here."""
        scope = self
        for _ in range(target.levels):
            assert scope.parent is not None, "the plan resolves references inside the scope chain"
            scope = scope.parent
        return scope, target.index

    def path(self, index: int) -> str:
        """Return the path of the stage instance at `index`."""
        return self.prefix + self.plan.stages[index].id

    def failure(self, index: int) -> Failure | None:
        """Return why the stage at `index` failed, if it did."""
        return self.failures.get(index) if self.failures else None

    def variable(self, name: str) -> Any:
        """Return the handle of the output that last set variable `name` here or further out.

        Raises:
            KeyError: nothing has set it.
        """
        scope: Scope | None = self
        while scope is not None:
            if scope.variables is not None and name in scope.variables:
                return scope.variables[name]
            scope = None if scope.plan.isolated else scope.parent
        raise KeyError(name)
