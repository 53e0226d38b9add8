"""Where stages are asked to run, checked when the plan is made: what `placement` and `resources.labels` say must mean something.

Nothing here knows a cluster. Whether one has a node that fits is asked when a run begins (`executors.capacity`).
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

from flowmason_ray.engine.bodies import Bodies
from flowmason_ray.engine.drafts import Draft, Report
from flowmason_ray.engine.edges import Edges
from flowmason_ray.errors import nearest
from flowmason_ray.spec.pipeline import Placement

GANGS = frozenset({"foreach", "parallel"})
"""The components whose bodies run side by side, so that room can be reserved for all of them."""

_NAME = r"[a-zA-Z0-9](?:[a-zA-Z0-9_.-]{0,61}[a-zA-Z0-9])?"
_KEY = re.compile(rf"(?:[a-zA-Z0-9](?:[a-zA-Z0-9.-]{{0,251}}[a-zA-Z0-9])?/)?{_NAME}")
_CONDITION = re.compile(rf"!?(?:{_NAME}|in\({_NAME}(?:, ?{_NAME})*\))")
# The syntax of Kubernetes' labels, which Ray has taken over (Ray 2.60, `ray/_private/label_utils.py`).


@dataclass(frozen=True, slots=True, kw_only=True)
class Near:
    """What a stage is to run next to: a stage or a dataset."""

    stage: str | None = None
    dataset: str | None = None


def check_labels(labels: Mapping[str, str], pointer: str, report: Report) -> None:
    """Report labels that no node can carry, and conditions that cannot be read."""
    for name, condition in labels.items():
        if _KEY.fullmatch(name) is None:
            message = f"{name!r} is no possible label: at most 63 letters, digits, '_', '-' and '.', after a prefix and '/' or none."
            report("invalid_label", message, pointer, found=name)
        elif _CONDITION.fullmatch(condition) is None:
            message = f"The label {name!r} is to be {condition!r}, which is no condition that a node can be asked for."
            hint = "Write 'x', '!x', 'in(x, y)' or '!in(x, y)'; values are letters, digits, '_', '-' and '.'."
            report("invalid_label", message, f"{pointer}/{name.replace('~', '~0').replace('/', '~1')}", hint=hint)


class Placing:
    """Reads `placement` of the stages of one pipeline."""

    def __init__(
        self,
        drafts: Mapping[str, Draft],
        bodies: Bodies,
        edges: Edges,
        datasets: Mapping[str, str | None],
        report: Report,
    ) -> None:
        self._drafts = drafts
        self._bodies = bodies
        self._edges = edges
        self._datasets = datasets
        self._report = report

    def near(self, draft: Draft, name: str) -> Near | None:
        """Return what `placement.near` means; None when it was reported."""
        pointer = f"{draft.pointer}/placement/near"
        if name in self._drafts:
            return self._near_stage(draft, name, pointer)
        dataset = self._dataset(name)
        if dataset is not None:
            return Near(dataset=dataset)
        message = f"{draft.title} is to run near {name!r}, which is neither a stage nor a dataset of the project."
        known = [*self._drafts, *self._datasets]
        hint = "Datasets are named in flowmason.json: 'datasets': {NAME: {'path': …, 'labels': {…}}}."
        self._report("unknown_near", message, pointer, found=name, nearest=nearest(name, known), hint=hint)
        return None

    def _near_stage(self, draft: Draft, name: str, pointer: str) -> Near | None:
        if name == draft.id:
            message = f"{draft.title} is to run near itself."
            hint = "To keep its instances together write 'strategy': 'pack'."
            self._report("unknown_near", message, pointer, found=name, hint=hint)
            return None
        around = {id(node.scope) for node in self._bodies.home[draft.id].up()}
        if id(self._bodies.home[name].scope) not in around:
            owner = self._bodies.home[name].scope.owner
            message = f"{draft.title} is to run near {name!r}, which runs once per item of {owner!r}: not at one place."
            self._report("border_crossing", message, pointer, found=name)
            return None
        if not self._comes_before(name, draft.id):
            message = f"{draft.title} is to run near {name!r} but does not wait for it: it may begin before {name!r} has a place."
            hint = f"Add {name!r} to its 'depends_on'."
            self._report("near_not_awaited", message, pointer, severity="warning", hint=hint)
        return Near(stage=name)

    def _comes_before(self, above: str, stage: str) -> bool:
        """Tell whether a stage, or a construct around it, waits for another, over any number of steps."""
        upstreams, homes = self._edges.upstreams, self._bodies.home
        seen, queue = {stage}, deque([stage])
        while queue:
            name = queue.popleft()
            owner = homes[name].owner if name in homes else None
            for other in (*upstreams.get(name, ()), *([owner] if owner else ())):
                if other == above:
                    return True
                if other not in seen:
                    seen.add(other)
                    queue.append(other)
        return False

    def _dataset(self, name: str) -> str | None:
        """Return the dataset of a name, or the innermost one that a path lies in."""
        if name in self._datasets:
            return name
        inside = [
            (len(path), dataset)
            for dataset, path in self._datasets.items()
            if path and (name == path or name.startswith(path.rstrip("/") + "/"))
        ]
        return max(inside)[1] if inside else None

    def check(self, draft: Draft, said: Placement) -> None:
        """Report what pulls apart, and a gang where there is nothing to run side by side."""
        if said.near is not None and said.strategy == "spread":
            message = f"{draft.title} is to run near {said.near!r}, and its instances apart from each other; keep one."
            self._report("conflicting_keys", message, f"{draft.pointer}/placement/strategy")
        if said.gang and draft.component is not None and draft.component.name not in GANGS:
            message = (
                f"{draft.title} is to start its bodies together, but it is a {draft.component.name!r}, which has none."
            )
            hint = "'gang' belongs to a 'foreach' or a 'parallel' stage."
            self._report("gang_without_bodies", message, f"{draft.pointer}/placement/gang", hint=hint)
