"""FlowMason on Ray: pipelines as plain, diffable JSON files that run the same in-process and on a Ray cluster.

The public names are here, and pinned by a test. Importing this module is light: each name is loaded when it is first used,
and nothing imports Ray before a run is asked to go there.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flowmason_ray.api import Reuse, RunResult, arun, load_pipeline, run, validate
    from flowmason_ray.components.base import control_flow, node, operator
    from flowmason_ray.engine.component import Actors, Context, Cost, Effect, SetupContext
    from flowmason_ray.errors import (
        FlowMasonError,
        InvalidInput,
        InvalidPipeline,
        PermanentError,
        Problem,
        RunFailed,
        TemporaryError,
    )

__version__ = "0.1.0"

_HOMES = {
    "flowmason_ray.api": ("Reuse", "RunResult", "arun", "load_pipeline", "run", "validate"),
    "flowmason_ray.components.base": ("control_flow", "node", "operator"),
    "flowmason_ray.engine.component": ("Actors", "Context", "Cost", "Effect", "SetupContext"),
    "flowmason_ray.errors": (
        "FlowMasonError",
        "InvalidInput",
        "InvalidPipeline",
        "PermanentError",
        "Problem",
        "RunFailed",
        "TemporaryError",
    ),
}
_MODULE_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "Actors",
    "Context",
    "Cost",
    "Effect",
    "FlowMasonError",
    "InvalidInput",
    "InvalidPipeline",
    "PermanentError",
    "Problem",
    "Reuse",
    "RunFailed",
    "RunResult",
    "SetupContext",
    "TemporaryError",
    "arun",
    "control_flow",
    "load_pipeline",
    "node",
    "operator",
    "run",
    "validate",
]


def __getattr__(name: str) -> Any:
    if name in _MODULE_OF:
        value = getattr(import_module(_MODULE_OF[name]), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
