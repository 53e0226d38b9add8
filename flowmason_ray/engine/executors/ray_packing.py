"""What workers get to know of a run: its facts, its stages, and the classes that they cannot import. Each is packed once."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import ray
from ray import cloudpickle

from flowmason_ray.engine.component import ComponentSpec
from flowmason_ray.engine.executor import RunInfo
from flowmason_ray.engine.executors.ray_bindings import stage_data
from flowmason_ray.engine.executors.ray_messages import pack_stage
from flowmason_ray.engine.executors.ray_stages import pack_run
from flowmason_ray.engine.executors.ray_worker import run_call
from flowmason_ray.engine.plan import PlanStage


def _call_with(classes: Mapping[str, Any]) -> Any:
    """Return the remote function that carries out calls, with the classes that workers cannot import sent along once."""

    def attempt(call: bytes, *arguments: Any) -> tuple[Any, ...]:
        return run_call(classes, call, *arguments)

    return ray.remote(attempt)


_cloudpickle: Any = cloudpickle  # under this name without types: those of Ray are partly unknown

# Made once: Ray exports a remote function to the cluster again for every object that `ray.remote` returns.
_plain_call: Any = _call_with({})


class Packing:
    """The packed form of one run's facts and stages."""

    def __init__(self, run: RunInfo, engines: str | None) -> None:
        """
        Args:
            run: The run.
            engines: The keeper of the engines that workers share; None: there are none.
        """
        self.run = pack_run(run, engines)
        self.classes: dict[str, Any] = {}
        """Component classes that travel by value, by name; another object whenever one is added."""
        self.remote: Any = _plain_call
        """The remote function that carries out calls, and knows the classes."""
        self._contents: dict[str, bytes] = {}
        """By component: its class, if that travels by value."""
        self._stages: dict[int, tuple[str, bytes]] = {}

    def stage(self, stage: PlanStage) -> tuple[str, bytes]:
        """Return a stage's digest, by which workers know it, and the packed stage."""
        key = id(stage)
        found = self._stages.get(key)
        if found is None:
            code = self._content(stage.component) if stage.component is not None else b""
            found = self._stages[key] = pack_stage(stage_data(stage), code)
        return found

    def _content(self, component: ComponentSpec) -> bytes:
        content = self._contents.get(component.name)
        if content is None:
            content = b""
            if _travels_by_value(component):
                content = _cloudpickle.dumps(component.create)
                self.classes = {**self.classes, component.name: component.create}
                self.remote = _call_with(self.classes)
            self._contents[component.name] = content
        return content


def _travels_by_value(component: ComponentSpec) -> bool:
    """Tell whether a component's class is sent to workers itself, because they may not be able to import it.

    So it is with classes of a script, a test or a notebook. Installed packages and a project's `components/` are imported.
    """
    module = sys.modules.get(component.module)
    file = str(getattr(module, "__file__", None) or "")
    if component.file is not None or (component.module.startswith("flowmason_ray.") or "site-packages" in file):
        return False
    if module is not None and component.module != "__main__":
        _cloudpickle.register_pickle_by_value(module)
    return True
