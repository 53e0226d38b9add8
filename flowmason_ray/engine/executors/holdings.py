"""Which values are still read: the others are given back to Ray while the run goes on.

A handle stays where the state machine put it, with what is known of the value; only its reference is dropped. The plan says
which stages of a scope read a value: directly, from inside a body, or by putting a construct's result together. When all of
them have ended, nobody will ask for it again, unless something that was made from it is lost (`ray_recovery`).

Looking is cheap but not free, so it is done when as much has come in since as was kept the last time.
"""

from __future__ import annotations

from typing import Any

from flowmason_ray.engine.commands import StartStage
from flowmason_ray.engine.executors.ray_bindings import RemoteValue
from flowmason_ray.engine.plan import Plan, ScopePlan
from flowmason_ray.engine.scope import Scope, Status

LEAST_BYTES = 16 * 2**20
"""Less than this is not worth a look."""

Readers = tuple[tuple[int, ...] | None, ...]
"""Per stage of a scope: the positions of those that must have ended before its value can go. None: it stays."""


def readers_of(plan: Plan) -> dict[int, Readers]:
    """Return who reads the values of each scope's stages, by `id` of the scope's plan."""
    found: list[list[set[int]]] = [[set() for _ in scope.stages] for scope in plan.scopes]
    for scope in plan.scopes:
        for stage in scope.stages:
            for target in stage.targets.values():
                at, reader = scope, stage.index
                for _ in range(target.levels):
                    assert at.parent is not None
                    assert at.owner is not None
                    at, reader = plan.scopes[at.parent], at.owner
                found[at.index][target.index].add(reader)
        for region in scope.regions:
            if region.owner is not None:
                for terminal in region.terminals:  # what the construct's result is put together from
                    found[scope.index][terminal].add(region.owner)
    return {id(scope): tuple(_final(scope, found[scope.index])) for scope in plan.scopes}


def _final(scope: ScopePlan, readers: list[set[int]]) -> list[tuple[int, ...] | None]:
    return [
        None if stage.index == scope.result or stage.construct is not None else tuple(sorted(readers[stage.index]))
        for stage in scope.stages
    ]


class Holdings:
    """The values in the object store that somebody may still read."""

    def __init__(self) -> None:
        self._readers: dict[int, Readers] = {}
        self._held: list[tuple[Scope, tuple[int, ...], RemoteValue]] = []
        self._new_bytes = 0
        self._kept_bytes = 0

    def prepare(self, plan: Plan) -> None:
        """Take note of the plan. Without it nothing is given back before the run ends."""
        self._readers = readers_of(plan)

    def note(self, command: StartStage, value: RemoteValue) -> None:
        """Take note of a value that an attempt has come to."""
        readers = self._readers.get(id(command.scope.plan))
        needed_by = None if readers is None else readers[command.stage.index]
        if needed_by is None:
            return
        self._held.append((command.scope, needed_by, value))
        self._new_bytes += value.size_bytes
        if self._new_bytes >= max(LEAST_BYTES, self._kept_bytes):
            self._sweep()

    def _sweep(self) -> None:
        kept: list[tuple[Scope, tuple[int, ...], RemoteValue]] = []
        for entry in self._held:
            scope, readers, value = entry
            if all(scope.status[reader] >= Status.SUCCEEDED for reader in readers) and not _is_variable(scope, value):
                value.let_go()
            else:
                kept.append(entry)
        self._held = kept
        self._new_bytes = 0
        self._kept_bytes = sum(value.size_bytes for _, _, value in kept)


def _is_variable(scope: Scope | None, value: Any) -> bool:
    """Tell whether a variable holds a value: nobody says when it was read for the last time."""
    while scope is not None:
        if scope.variables and any(each is value for each in scope.variables.values()):
            return True
        scope = scope.parent
    return False
