"""The components of simulated pipelines. They are planned like any other and never executed: the simulated world answers."""

from __future__ import annotations

from functools import cache
from typing import Any

from pydantic import BaseModel

from flowmason_ray.components.base import control_flow, operator
from flowmason_ray.components.registry import Registry
from flowmason_ray.engine.component import Context


@operator(name="sim_work", effect="pure", cost="trivial")
class Work:
    """Says what it sees."""

    class Input(BaseModel):
        """What is read."""

        see: dict[str, Any] = {}

    class Output(BaseModel):
        """What it says."""

        path: str
        sum: int

    async def execute(self, input: Input, context: Context) -> Output:
        """Never called."""
        raise NotImplementedError


@control_flow(name="sim_switch", cost="trivial")
class Switch:
    """A third party's construct: takes one of three branches, or none."""

    class Input(BaseModel):
        """What is read, and the branches."""

        see: dict[str, Any] = {}
        left_stages: list[str] = []
        middle_stages: list[str] = []
        branches: dict[str, list[str]] = {}

    class Output(BaseModel):
        """What was decided."""

        branch: str | None

    async def execute(self, input: Input, context: Context) -> Output:
        """Never called."""
        raise NotImplementedError


@cache
def catalogue() -> Registry:
    """Return the components that simulated pipelines use: these, and the built-in ones."""
    registry = Registry(entry_points=False)
    for component in (Work, Switch):
        registry.add(component)
    return registry
