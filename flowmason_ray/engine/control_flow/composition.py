"""A composition: another pipeline as a stage, whose output is what its mapping keeps of the pipeline's result.

A call like any other, up to its end: then a second scope, whose input is the result, renders the mapping. It holds one
hidden stage, so that the mapping is rendered wherever the values are, like every template.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from flowmason_ray.engine.control_flow.base import Run, Shape
from flowmason_ray.engine.control_flow.subpipeline import Call, CallOptions, Subpipeline

if TYPE_CHECKING:
    from flowmason_ray.engine.scope import Scope
    from flowmason_ray.errors import Failure


class Composition(Subpipeline):
    """A call whose stage is written under `compositions`."""

    def shape(self, config: Mapping[str, Any]) -> Shape:
        """Return the options of the call; the config comes from the format's own model."""
        return Shape(options=CallOptions(pipeline=str(config["pipeline"]), timeout_s=None, on_error="fail"))

    def iteration_ended(
        self, run: Run, scope: Scope, index: int, iteration: Scope, value: Any, failure: Failure | None
    ) -> None:
        """The pipeline has ended, or its result is mapped."""
        options: CallOptions = scope.plan.stages[index].options
        assert scope.constructs is not None
        call: Call = scope.constructs[index]
        if failure is not None:
            run.fail(scope, index, failure)
        elif options.mapped_by is not None and not call.mapping:
            call.mapping = True
            prefix = f"{scope.path(index)}/"
            call.inner = run.make_scope(scope, index, prefix=prefix, input=value, further=options.mapped_by)
            run.open_region(call.inner, 0)
        else:
            run.gather(scope, index, {}, {}, base=value)
