"""`logger`: say something while the run goes on.

What it says is live: it reaches whoever follows the run, and is recorded on request. It changes nothing else, so the
component counts as pure; a cached stage stays silent, as it should, for it does not run.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from flowmason_ray.components.base import operator
from flowmason_ray.components.frames import is_frame
from flowmason_ray.engine.component import Context


@operator(effect="pure", cost="trivial", category="observability")
class Logger:
    """Writes a message to the run's live log and passes a value through."""

    class Input(BaseModel):
        """What to say."""

        model_config = ConfigDict(extra="forbid")

        message: str = Field(description="The message.")
        level: Literal["debug", "info", "warning", "error"] = Field(default="info", description="How serious it is.")
        data: Any = Field(
            default=None, description="A value shown with the message; of a table only shape and columns."
        )
        tags: list[str] = Field(default=[], description="Words to filter by.")
        emit_to_trace: bool = Field(
            default=False, description="Whether the line is marked for the trace of this stage."
        )
        passthrough: Any = Field(default=None, description="A value that comes out as it went in; default: 'data'.")

    class Output(BaseModel):
        """That it was said."""

        logged: bool = Field(description="Always true.")
        log_id: str = Field(description="Identifies the line: also among its fields.")
        passthrough: Any = Field(description="The value passed through.")

    async def execute(self, input: Input, context: Context) -> Output:
        """Say it."""
        log_id = str(context.uuid())
        fields: dict[str, Any] = {"log_id": log_id}
        if input.data is not None:
            fields["data"] = _shown(input.data)
        if input.tags:
            fields["tags"] = input.tags
        if input.emit_to_trace:
            fields["trace"] = True
        context.log(input.level, input.message, **fields)
        passed = input.passthrough if "passthrough" in input.model_fields_set else input.data
        return self.Output(logged=True, log_id=log_id, passthrough=passed)


def _shown(value: Any) -> Any:
    if is_frame(value):
        return {"rows": value.height, "columns": value.columns}
    return value
