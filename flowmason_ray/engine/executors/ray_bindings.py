"""Where an attempt on a Ray worker takes its values from, seen from the coordinator.

Small values travel with the attempt; large ones are references, which Ray resolves to arguments of the call, so that it is
scheduled near its data.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from flowmason_ray.components.base import CONTENT_ATTRIBUTE
from flowmason_ray.engine.component import ComponentSpec
from flowmason_ray.engine.context import visible_variables
from flowmason_ray.engine.digests import Contents
from flowmason_ray.engine.executors.ray_frames import portable
from flowmason_ray.engine.executors.ray_messages import Binding, Bindings, ComponentRef, StageData
from flowmason_ray.engine.kept import plain
from flowmason_ray.engine.plan import PlanStage
from flowmason_ray.engine.scope import WORDS, Scope, Status
from flowmason_ray.engine.values import ItemSource, Packed


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, weakref_slot=True)
class RemoteValue(Packed):
    """A value in Ray's object store. `packed` is how the log records it.

    What it is does not change; where it is may: it can be lost and brought back, and let go of when nobody reads it any more.
    """

    reference: Any
    """To the value; None when it was let go of."""
    contents: Contents | None = None
    """What stands for it in fingerprints, as the worker has computed it; None: nobody asked."""
    node: str | None = None
    """The id of the node on which it was made."""
    maker: Any = None
    """The command (`engine.commands`) that it is the answer to; None: it came from the coordinator."""
    losses: int = 0
    """How often it was lost and brought back."""

    writing: Future[bytes | None] | None = None
    """What says how the log records it, while a copy is written behind the run."""

    @property
    def pending(self) -> bool:
        """Whether it cannot be recorded yet, because its copy is being written."""
        return self.writing is not None and not self.writing.done()

    def settled(self) -> bytes | None:
        """Return how the log records it, if need be when its copy is written.

        Raises:
            StoreError: it could not be.
        """
        return self.packed if self.writing is None else self.writing.result()

    def written_by(self, writing: Future[bytes | None]) -> None:
        """Take note that a copy is being written."""
        object.__setattr__(self, "writing", writing)

    def note_maker(self, maker: Any) -> None:
        """Take note of the command that it is the answer to."""
        object.__setattr__(self, "maker", maker)

    def rebind(self, reference: Any) -> None:
        """Take note of where it is after it was lost."""
        object.__setattr__(self, "reference", reference)
        object.__setattr__(self, "losses", self.losses + 1)

    def let_go(self) -> None:
        """Give the value back to Ray: nobody reads it any more."""
        object.__setattr__(self, "reference", None)


class Arguments:
    """What Ray is to bring along with a call. A reference that several attempts read is brought once."""

    def __init__(self) -> None:
        self.given: list[Any] = []
        self._positions: dict[tuple[Any, bool], int] = {}

    def value(self, reference: Any) -> Binding:
        """Have the value behind a reference brought along."""
        return Binding("argument", self._position(reference, reference, False))

    def reference(self, reference: Any) -> Binding:
        """Have the reference as such brought along, for a worker that may know its value already."""
        # Inside a list Ray hands over the reference, and not the value.
        return Binding("reference", self._position([reference], reference, True))

    def _position(self, argument: Any, reference: Any, boxed: bool) -> int:
        position = self._positions.get((reference, boxed))
        if position is None:
            position = self._positions[reference, boxed] = len(self.given)
            self.given.append(argument)
        return position


def reads_remote(scope: Scope, stage: PlanStage) -> bool:
    """Tell whether an attempt reads anything that is not in this process."""
    return next(remote_values(scope, stage), None) is not None


def remote_values(scope: Scope, stage: PlanStage) -> Iterator[RemoteValue]:
    """Yield the values that an attempt reads and that are not in this process."""
    for target in stage.targets.values():
        at, index = scope.at(target) if target.levels else (scope, target.index)
        if isinstance(at.values[index], RemoteValue):
            yield at.values[index]
    if "input" in stage.roots and isinstance(scope.input, RemoteValue):
        yield scope.input
    if "vars" in stage.roots:
        yield from (v for v in visible_variables(scope).values() if isinstance(v, RemoteValue))
    around: Scope | None = scope
    while around is not None:
        if isinstance(around.items, RemoteValue) and not stage.roots.isdisjoint(around.plan.variables):
            yield around.items
        around = None if around.plan.isolated else around.parent


def binding(handle: Any, arguments: Arguments) -> Binding:
    """Say where the value behind a handle comes from; a reference is added to `arguments`."""
    if isinstance(handle, RemoteValue):
        return arguments.value(handle.reference)
    return Binding("value", portable(plain(handle)))


def bind(
    scope: Scope,
    stage: PlanStage,
    arguments: Arguments,
    input_handle: Callable[[Any, PlanStage], Any],
    before: Mapping[int, int] | None = None,
) -> Bindings:
    """Say where everything comes from that an attempt reads; references are added to `arguments`.

    Args:
        scope: Where its references are looked up.
        stage: What it is an attempt of.
        arguments: What the call brings along.
        input_handle: Returns the handle of a scope's input for a stage.
        before: The stages of the same scope that are attempted earlier in the same call: their positions in the scope, and
            in the call. They are taken to have succeeded; the worker makes sure of it.
    """
    stages: dict[str, tuple[Binding, str, Mapping[str, Any] | None]] = {}
    for name, target in stage.targets.items():
        if before and not target.levels and target.index in before:
            stages[name] = (Binding("attempt", before[target.index]), WORDS[Status.SUCCEEDED], None)
            continue
        at, index = scope.at(target) if target.levels else (scope, target.index)
        failure = at.failure(index)
        bound = binding(at.values[index], arguments)
        stages[name] = (bound, WORDS[at.status[index]], None if failure is None else failure.to_json())
    variables: dict[str, Binding] = {}
    roots = stage.roots
    if "vars" in roots:
        variables = {name: binding(handle, arguments) for name, handle in visible_variables(scope).items()}
    given = binding(input_handle(scope.input, stage), arguments) if "input" in roots else None
    return Bindings(stages, variables, _loops(scope, stage, arguments), given)


def _loops(scope: Scope, stage: PlanStage, arguments: Arguments) -> dict[str, tuple[Binding, int, bool]]:
    found: dict[str, tuple[Binding, int, bool]] = {}
    around: Scope | None = scope
    while around is not None:
        for i, name in enumerate(around.plan.variables):
            if name in stage.roots and name not in found:
                found[name] = _loop_binding(around, arguments, wants_index=i == 1)
        around = None if around.plan.isolated else around.parent
    return found


def _loop_binding(scope: Scope, arguments: Arguments, *, wants_index: bool) -> tuple[Binding, int, bool]:
    items = scope.items
    if isinstance(items, RemoteValue):
        return arguments.reference(items.reference), scope.position, wants_index
    # Only this iteration's item travels, not all of them. One that lies in a file is read where it is needed.
    if isinstance(items.source, ItemSource) and not wants_index:
        return Binding("value", items.only(scope.position)), 0, False
    value = items.index(scope.position) if wants_index else plain(items.item(scope.position))
    return Binding("value", _Single(value)), 0, False


@dataclass(frozen=True, slots=True)
class _Single:
    """One value in the place of a loop's items."""

    value: Any

    def item(self, position: int) -> Any:
        """Return the value."""
        return self.value


def reference_to(component: ComponentSpec) -> ComponentRef:
    """Return what tells a worker which component is meant."""
    return ComponentRef(
        name=component.name,
        module=component.module,
        qualname=component.qualname,
        version=component.version,
        file=str(component.file) if component.file else None,
        content=getattr(sys.modules.get(component.module), CONTENT_ATTRIBUTE, None),
    )


def stage_data(stage: PlanStage) -> StageData:
    """Return what a worker needs of a stage."""
    return StageData(
        id=stage.id,
        component=None if stage.component is None else reference_to(stage.component),
        template=stage.template.source,
        fixed=stage.fixed,
        when=stage.when.source if stage.when else None,
        schema=stage.schema.schema if stage.schema else None,
        memory_mib=stage.resources.get("memory_mib"),
        llm=stage.llm,
    )
