"""What a run's calls have used so far, as far as this process has made them, and whether there is any budget left for another one.

The run's end is decided from reports (`engine.usage`), and an attempt reports when it ends. One that makes many calls, and those that run beside
it, would go on until then. So each call is preceded by a look at what this process knows already; an attempt that is refused fails, and so
reports. On Ray every worker process knows of its own calls alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flowmason_ray.engine.models import Usage
from flowmason_ray.engine.usage import Budget
from flowmason_ray.errors import PermanentError


class Spending:
    """One run's budget in this process. Used on the hub's thread only."""

    def __init__(self, limits: Mapping[str, Any]) -> None:
        """`limits`: as in `RunCreated.options`; empty: there is no budget."""
        self._budget = Budget.from_options({"budget": limits}) if limits else None
        self._over: str | None = None

    def add(self, usage: Usage, cost_usd: float | None) -> None:
        """Take what a call has used."""
        if self._budget is not None:
            entry = {"input_tokens": usage.input_tokens, "output_tokens": usage.output_tokens, "cost_usd": cost_usd}
            self._over = self._budget.spend({"models": [entry]})

    def check(self) -> None:
        """Look before a call.

        Raises:
            PermanentError: the budget is used up (`budget_exceeded`).
        """
        if self._over is not None:
            raise PermanentError(self._over, code="budget_exceeded")
