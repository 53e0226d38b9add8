"""The control-flow constructs, one file each: a rule on the plan and a small part of the state machine.

`CONSTRUCTS` says which component is which construct. They know `Scope`, events and the verbs of `base.Run`; they never
see executors, logs or time. A `@control_flow` component that is not listed is a `Branching`.
"""

from __future__ import annotations

from flowmason_ray.engine.control_flow.base import Body, ConfigProblem, Construct, Shape
from flowmason_ray.engine.control_flow.branching import Branching, Conditional
from flowmason_ray.engine.control_flow.foreach import Foreach
from flowmason_ray.engine.control_flow.variables import SetVariables

CONSTRUCTS: dict[str, Construct] = {
    "conditional": Conditional(),
    "foreach": Foreach(),
    "variable_set": SetVariables(),
}
"""Component name → construct."""

BRANCHING = Branching()

__all__ = ["BRANCHING", "CONSTRUCTS", "Body", "ConfigProblem", "Construct", "Shape"]
