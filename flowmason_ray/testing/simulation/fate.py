"""What happens in a simulated run, decided beforehand: a table that the simulated world and the oracle both read.

Every outcome follows from the seed, the path of the stage instance and the attempt, never from when something happens. So
the oracle can say what must come of a run without knowing the order of its events, and a run that crashed and was taken up
again meets the same fate.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from hashlib import blake2b
from random import Random
from typing import Any

from flowmason_ray.errors import Failure
from flowmason_ray.testing.simulation.pipelines import CODES

BRANCHES: dict[str, tuple[str | None, ...]] = {
    "conditional": ("true", "false"),
    "router": ("route:a", "route:b", "default", "route:a", "route:b", "default", None, "route:nowhere"),
    "sim_switch": ("left", "middle", "right", "left", "middle", "right", "left", "middle", "right", None, "nowhere"),
}
"""What constructs that take a branch may decide, each as often as it is listed."""
COUNTS = (0, 1, 2, 2, 3, 3, 4, 7)
"""How many items a loop may have."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mood:
    """How rough a run is: shares and counts that the seed chooses."""

    failures: float
    declines: float
    duplicates: float
    """Share of the reports that come again later, unchanged or with a contradiction."""
    spread: float
    """How far delays differ: 0 is everything at once, in order."""
    cancel_after: int | None
    """How many stimuli before somebody cancels; None: nobody does."""
    crash_after: int | None
    """How many stimuli before the coordinator crashes; None: it does not."""

    def calmer(self) -> list[tuple[str, Mood]]:
        """Return this mood without one of its nuisances, each with its name: for finding the shortest story."""
        calm: dict[str, Any] = {
            "crash_after": None,
            "cancel_after": None,
            "duplicates": 0.0,
            "declines": 0.0,
            "failures": 0.0,
            "spread": 0.0,
        }
        return [(name, replace(self, **{name: value})) for name, value in calm.items() if getattr(self, name) != value]


def mood_of(seed: int) -> Mood:
    """Return the mood of a seed."""
    random = Random(f"mood {seed}")
    return Mood(
        failures=random.choice((0.0, 0.0, 0.01, 0.03, 0.1, 0.3)),
        declines=random.choice((0.0, 0.1, 0.4)),
        duplicates=random.choice((0.0, 0.1, 0.5)),
        spread=random.choice((0.0, 1.0, 5.0)),
        cancel_after=random.choice((None, None, None, None, random.randrange(0, 100), random.randrange(0, 20))),
        crash_after=random.choice((None, None, None, random.randrange(1, 150), random.randrange(1, 30))),
    )


class Fate:
    """The table of one seed."""

    def __init__(self, seed: int, mood: Mood) -> None:
        self.seed = seed
        self.mood = mood
        self.in_doubt: set[tuple[str, int]] = set()
        """Effectful attempts whose outcome a crash has hidden: they count as failed from then on."""

    def number(self, what: str, path: str, attempt: int = 0) -> float:
        """Return a number in [0, 1) that only depends on the seed and the arguments."""
        digest = blake2b(f"{self.seed}|{what}|{path}|{attempt}".encode(), digest_size=6).digest()
        return int.from_bytes(digest) / 2**48

    def declines(self, path: str) -> bool:
        """Tell whether the instance's `when` is false."""
        return self.number("when", path) < self.mood.declines and (path, 1) not in self.in_doubt

    def failure(self, path: str, attempt: int) -> Failure | None:
        """Return how an attempt fails, or None when it succeeds."""
        if (path, attempt) in self.in_doubt:
            return Failure(code="in_doubt", message="Nobody knows.", stage=path, attempts=attempt)
        if self.number("fails", path, attempt) >= self.mood.failures:
            return None
        code = CODES[int(self.number("code", path, attempt) * len(CODES))]
        kind = "Oops" if code == "component_error" else None
        return Failure(code=code, message=f"It failed with {code}.", stage=path, attempts=attempt, error_type=kind)

    def reuses(self, path: str) -> bool:
        """Tell whether what an attempt comes to is known from an earlier run."""
        return self.number("reused", path) < 0.1

    def gather_failure(self, path: str) -> Failure | None:
        """Return how putting together a construct's value fails, or None."""
        if self.number("gathering fails", path) >= self.mood.failures / 4:
            return None
        return Failure(code="value_lost", message="A part of it is gone.", stage=path)

    def branch(self, component: str, path: str) -> str | None:
        """Return the branch that a construct takes."""
        choices = BRANCHES[component]
        return choices[int(self.number("branch", path) * len(choices))]

    def leaves(self, path: str) -> bool:
        """Tell whether a `return`, `break_loop` or `continue_loop` takes effect."""
        return self.number("leaves", path) < 0.3

    def indices(self, path: str) -> tuple[int, list[int] | None]:
        """Return how many items a loop has, and the indices of those that its filter lets through (None: no filter)."""
        choices = COUNTS if path.count("[") < 2 else COUNTS[:6]
        count = choices[int(self.number("count", path) * len(choices))]
        if self.number("filters", path) < 0.7:
            return count, None
        return count, [i for i in range(count) if self.number("keeps", path, i) < 0.6]
