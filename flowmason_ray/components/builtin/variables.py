"""`variable_set`: names values for later stages. The engine makes them visible (`engine.control_flow.variables`)."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from flowmason_ray.components.base import operator
from flowmason_ray.engine.component import Context, Cost, Effect


@operator(name="variable_set", cost=Cost.TRIVIAL, effect=Effect.PURE, category="control_flow")
class VariableSet:
    """Gives names to values: `{{vars.name}}` reads them in later stages of the same scope and inside it."""

    class Input(BaseModel):
        """One name and value, or several."""

        name: str | None = Field(default=None, description="The variable's name.")
        value: Any = Field(default=None, description="Its value.")
        variables: dict[str, Any] | None = Field(default=None, description="Several at once: {name: value}.")

    class Output(BaseModel):
        """The variables that were set, by name."""

        model_config = ConfigDict(extra="allow")

    async def execute(self, input: Input, context: Context) -> dict[str, Any]:
        """Return the values by name."""
        if input.variables is not None:
            return input.variables
        assert input.name is not None, "the plan checks that there is a name"
        return {input.name: input.value}
