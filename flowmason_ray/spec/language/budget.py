"""What an expression may cost, and the error that ends it.

Expressions come from files that people share and from models, and run inside the coordinator. So each evaluation has a
budget, charged *before* the work is done: steps (time), characters of text and elements of lists that it creates (memory).
Handing a value on by reference costs nothing, however large it is. The counts are deterministic: the same expression on
the same values always costs the same, on every machine, so a replay never ends differently.

A step stands for at most about 0.4 µs (measured on one 2 GHz core), so that the whole budget is spent within 50 ms.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

MAX_STEPS = 100_000
"""Elements visited, comparisons made, blocks of text scanned."""
MAX_TEXT = 1 << 20
"""Characters of text created, intermediate ones included."""
MAX_ITEMS = 100_000
"""Elements of lists and objects created, intermediate ones included."""
MAX_INT_BITS = 4096
"""Results of integer arithmetic; well below the 4300 digits at which Python refuses to print an integer."""
CHARACTERS_PER_STEP = 64
"""How much text is scanned for one step."""
MAX_VALUE_DEPTH = 100
"""How deep a value may be nested to be compared or turned into text."""


class Fault(Exception):
    """Ends an evaluation; `Expression.evaluate` turns it into an `ExpressionError` that quotes the expression."""

    def __init__(self, message: str, *, code: str = "expression_error", details: dict[str, Any] | None = None) -> None:
        super().__init__(message)
        self.message, self.code, self.details = message, code, details


class Missing(Fault):
    """A value that is not there; `default` and `is defined` catch it.

    What there is instead is only looked up when somebody reads the message, since most of these are caught.
    """

    def __init__(self, describe: str | Callable[[], tuple[str, dict[str, Any]]]) -> None:
        super().__init__("", code="missing_value")
        self._describe = describe
        self.place = ""
        """The path that was read up to here, when it is known."""

    def settle(self) -> None:
        """Fill in `message` and `details`."""
        text, details = (self._describe, None) if isinstance(self._describe, str) else self._describe()
        self.message, self.details = f"In {self.place!r}: {text}" if self.place else text, details


def over_budget(what: str) -> Fault:
    """Return the fault for an expression that asks for too much of `what`."""
    return Fault(f"This needs {what}. Do it in a stage instead.", code="expression_budget")


class Budget:
    """What is left for one evaluation."""

    __slots__ = ("items_left", "steps_left", "text_left")

    def __init__(self) -> None:
        self.steps_left = MAX_STEPS
        self.text_left = MAX_TEXT
        self.items_left = MAX_ITEMS

    def spend(self, steps: int) -> None:
        """Charge `steps` of work that is about to be done."""
        self.steps_left -= steps
        if self.steps_left < 0:
            raise over_budget(f"more than {MAX_STEPS} steps")

    def scan(self, characters: int) -> None:
        """Charge reading so many characters."""
        self.spend(characters // CHARACTERS_PER_STEP + 1)

    def text(self, characters: int) -> None:
        """Charge creating so many characters."""
        self.text_left -= characters
        if self.text_left < 0:
            raise over_budget(f"more than {MAX_TEXT} characters of new text")

    def items(self, count: int) -> None:
        """Charge creating so many elements, and the steps to do so."""
        self.items_left -= count
        if self.items_left < 0:
            raise over_budget(f"more than {MAX_ITEMS} new elements")
        self.steps_left -= count >> 2
        if self.steps_left < 0:
            raise over_budget(f"more than {MAX_STEPS} steps")


class Frame(Budget):
    """One evaluation: its budget and the scope it reads."""

    __slots__ = ("scope",)

    def __init__(self, scope: Any) -> None:
        super().__init__()
        self.scope = scope
