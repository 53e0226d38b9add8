"""Which stage of the plan an event is about: from the path of an instance to the stage as it is written."""

from __future__ import annotations

import re

from flowmason_ray.engine.plan import Plan, PlanStage

_POSITION = re.compile(r"\[\d+\]")


class Places:
    """The stages of a plan by their paths without positions; as many as the plan has, however many instances there are."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._found: dict[str, PlanStage | None] = {}

    def stage(self, path: str) -> PlanStage | None:
        """Return the stage that a path is an instance of; None for hidden ones, which nobody wrote."""
        key = _POSITION.sub("", path) if "[" in path else path
        if key not in self._found:
            self._found[key] = self._look_up(key)
        return self._found[key]

    def _look_up(self, key: str) -> PlanStage | None:
        scope, stage = self._plan.root, None
        for name in key.split("/"):
            stage = next((each for each in scope.stages if each.id == name), None)
            if stage is None or stage.component is None:
                return None
            if stage.body_scope is not None:
                scope = self._plan.scopes[stage.body_scope]
        return stage


def around(path: str) -> str:
    """Return the path of the construct around a stage instance: `each` for `each[3]/load`; "" for none."""
    outer = path.rpartition("/")[0]
    return outer[: outer.rindex("[")] if outer.endswith("]") else outer
