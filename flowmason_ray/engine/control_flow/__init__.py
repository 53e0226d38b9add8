"""The control-flow constructs, one file each: a rule on the plan and a small part of the state machine.

`CONSTRUCTS` says which component is which construct. They know `Scope`, events and the verbs of `base.Run`; they never
see executors, logs or time. A `@control_flow` component that is not listed is a `Branching`.
"""

from __future__ import annotations

from flowmason_ray.engine.control_flow.approval import WaitForApproval
from flowmason_ray.engine.control_flow.base import Body, ConfigProblem, Construct, Shape
from flowmason_ray.engine.control_flow.branching import Branching, Conditional, Router
from flowmason_ray.engine.control_flow.foreach import Foreach
from flowmason_ray.engine.control_flow.leaving import Break, Continue, Return
from flowmason_ray.engine.control_flow.parallel import Parallel
from flowmason_ray.engine.control_flow.subpipeline import Subpipeline
from flowmason_ray.engine.control_flow.trycatch import TryCatch
from flowmason_ray.engine.control_flow.variables import SetVariables

CONSTRUCTS: dict[str, Construct] = {
    "conditional": Conditional(),
    "router": Router(),
    "parallel": Parallel(),
    "trycatch": TryCatch(),
    "foreach": Foreach(),
    "break_loop": Break(),
    "continue_loop": Continue(),
    "subpipeline": Subpipeline(),
    "return": Return(),
    "wait_for_approval": WaitForApproval(),
    "variable_set": SetVariables(),
}
"""Component name → construct."""

BRANCHING = Branching()

__all__ = ["BRANCHING", "CONSTRUCTS", "Body", "ConfigProblem", "Construct", "Shape"]
