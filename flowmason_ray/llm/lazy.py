"""A run's way to models, made when the first attempt asks for it: most runs never do, and need not load what it takes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flowmason_ray.engine.models import Attempt, AttemptModels
    from flowmason_ray.engine.secrecy import Secret
    from flowmason_ray.llm.choosing import Choices
    from flowmason_ray.llm.gateway import Gateway


class LazyModels:
    """Stands for a `Gateway` (`engine.models.ModelSource`)."""

    def __init__(
        self,
        choices: Choices,
        keys: Mapping[str, Secret],
        project_dir: Path,
        *,
        budget: Mapping[str, Any] | None = None,
    ) -> None:
        self._choices = choices
        self._keys = keys
        self._project_dir = project_dir
        self.budget = budget
        """What the run may spend (`engine.usage.Budget`); set before the first attempt."""
        self._made: Gateway | None = None

    def _gateway(self) -> Gateway:
        if self._made is None:
            from flowmason_ray.llm.gateway import Gateway

            self._made = Gateway(self._choices, self._keys, project_dir=self._project_dir, budget=self.budget)
        return self._made

    def for_attempt(self, attempt: Attempt, settings: Mapping[str, Any] | None) -> AttemptModels:
        """Return what one attempt uses."""
        return self._gateway().for_attempt(attempt, settings)

    def packed(self) -> dict[str, Any]:
        """Return it as JSON, without keys."""
        return self._gateway().packed()
