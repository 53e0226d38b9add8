"""Fingerprints: what an attempt is given, in 128 bits. Two attempts with the same one come to the same result.

    fingerprint = H(definition, what stands for each value that its templates read)

Computed by the coordinator when the attempt is handed out, from the plan's references: only what is read counts. A stage that
reads `stages.x.a` is not concerned by `x.b`. What stands for a value is computed by whoever has it (`engine.digests`), once
for each value, and forgotten with the scope that holds it.

What never enters: secrets (a new password is no reason to run again); draws (`now()`, `uuid()`), because they follow from the
run and the path: such a stage is reused when a run is gone on with, and never across runs (`Recipe.draws`).

A stage that comes after one that leaves traces outside (`engine.upstream`) also depends on everything before it, unless it is
effectful itself: then what it is given is what counts, so that no effect is called changed when it is not.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from hashlib import blake2b, sha256
from typing import Any

import orjson

from flowmason_ray.engine.commands import StartStage
from flowmason_ray.engine.component import Effect
from flowmason_ray.engine.context import LocalScope, context_root, visible_variables
from flowmason_ray.engine.digests import MISSING, content_of
from flowmason_ray.engine.executor import Digesting, RunInfo
from flowmason_ray.engine.plan import PlanStage, ScopePlan, Target
from flowmason_ray.engine.recipes import Output, Recipe, Recipes, what_is_read
from flowmason_ray.engine.scope import WORDS, Scope, Status
from flowmason_ray.engine.upstream import Upstream
from flowmason_ray.errors import FlowMasonError
from flowmason_ray.spec.expressions import Reference
from flowmason_ray.spec.templates import Template

_OUTPUTS = frozenset({int(Status.SUCCEEDED), int(Status.FALLBACK)})

Read = Callable[[StartStage], bytes]
"""Returns what stands for one thing that an attempt reads. Raises `Unknown`."""


class Unknown(Exception):
    """What stands for a value is not known: the attempt has no fingerprint."""


class Fingerprints:
    """Makes the fingerprints of one run."""

    def __init__(
        self,
        recipes: Recipes,
        run: RunInfo,
        executor: Digesting,
        *,
        again: Collection[int] = (),
    ) -> None:
        """
        Args:
            recipes: Of the plan that is run.
            run: What attempts know about the run.
            executor: Knows what stands for the values.
            again: The stages (`id`) that were asked to run again whatever is known; what depends on their traces does so too.
        """
        self._plan = recipes.plan
        self._recipes = recipes
        self._run = run
        self._part = executor.part_content
        self._item_content = executor.item_content
        self._others: dict[int, tuple[Read, ...]] = {}
        self._traces = self._after_traces(again)

    def of(self, command: StartStage, recipe: Recipe) -> str | None:
        """Return the fingerprint of an attempt: 32 hexadecimal digits; None when what it reads is not known."""
        scope = command.scope
        try:
            parts = [recipe.definition]
            contents = scope.contents or {}
            for output in recipe.outputs:
                # What is kept stays as it is: it is asked for first, which spares everything else.
                known = None if output[0] else contents.get(output[3])
                parts.append(known or self._output(scope, output))
            if recipe.others or recipe.awaited:
                parts += self._read_others(command, recipe)
        except (Unknown, TypeError):
            return None
        if self._traces and command.stage.effect is not Effect.EFFECTFUL:
            traces = self._traces.get(id(command.stage))
            if traces is not None:
                parts.append(traces)
        return blake2b(b"\0".join(parts), digest_size=16).hexdigest()

    def _read_others(self, command: StartStage, recipe: Recipe) -> list[bytes]:
        reads = self._others.get(id(command.stage))
        if reads is None:
            made = [self._reader(reference, command.stage) for reference in recipe.others]
            # What is awaited and not read: how it ended may still matter.
            reads = self._others[id(command.stage)] = (*made, *map(_status, recipe.awaited))
        return [read(command) for read in reads]

    def of_key(self, command: StartStage, key: Template) -> str | None:
        """Return the fingerprint that a `cache.key` of the stage's own makes: of the component, and of the key as rendered.

        A key that reads a value which is not in this process is taken by what it reads instead.
        """
        component = command.stage.component
        assert component is not None
        head = sha256(b"key\0" + f"{component.name}@{component.version}".encode()).digest()
        outputs, others = what_is_read((reference for _, reference in key.references), command.stage)
        try:
            scope = LocalScope(
                self._run, command.scope, command.stage, command.path, command.attempt, command.first_started_at
            )
            parts = [b"is", content_of(key.render(scope))]
        except (FlowMasonError, TypeError, AttributeError, KeyError, IndexError):
            try:
                parts = [content_of(key.source), *(self._output(command.scope, output) for output in outputs)]
                parts += [self._reader(reference, command.stage)(command) for reference in others]
            except (Unknown, TypeError):
                return None
        return blake2b(b"\0".join([head, *parts]), digest_size=16).hexdigest()

    def item(self, scope: Scope) -> bytes | None:
        """Return what stands for the item of an iteration."""
        try:
            return self._item(scope)
        except (Unknown, TypeError):
            return None

    # -- what stands for what -----------------------------------------------------------------------------------------------

    def _output(self, scope: Scope, output: Output) -> bytes:
        levels, index, field, key = output
        for _ in range(levels):
            scope = scope.parent  # pyright: ignore[reportAssignmentType]  # the plan resolves references inside the scope chain
        status = scope.status[index]
        if status not in _OUTPUTS:
            return b"!" + WORDS[status].encode()
        contents = scope.contents
        if contents is None:
            contents = scope.contents = {}
        found = contents.get(key)
        if found is None:
            found = contents[key] = _known(self._part(scope.values[index], field))
        return found

    def _after_traces(self, again: Collection[int]) -> dict[int, bytes]:
        upstream = Upstream(self._plan)
        if not upstream.any_traces:
            return {}
        given = content_of(self._run.input)

        def digest(stage: PlanStage) -> bytes:
            asked = self._run.run_id.encode() if id(stage) in again else b""
            return self._recipes.definitions.of(stage).digest + given + asked

        return upstream.after_traces(digest)

    def _reader(self, reference: Reference, stage: PlanStage) -> Read:
        root, path = reference.root, reference.path
        scope = self._recipes.scope_of[id(stage)]
        if root == "stages":
            target = stage.targets[str(path[0])]
            return _status(target) if reference.aspect == "status" else _error_reader(target, path[1:])
        if root == "input":
            return self._input_reader(path, scope)
        if root == "vars":
            return self._variable_reader(str(path[0]) if path else None)
        if root == "context":
            return self._context_reader(str(path[0]) if path else None)
        if root == "env":
            env = self._run.env
            name = str(path[0]) if path else None
            known = content_of(dict(env) if name is None else env.get(name))
            return lambda _command: known
        if root == "secrets":
            return lambda _command: b"secret"
        return self._loop_reader(root, scope)

    def _input_reader(self, path: tuple[str | int, ...], scope: ScopePlan) -> Read:
        levels = 0
        while not scope.isolated:
            assert scope.parent is not None
            scope = self._plan.scopes[scope.parent]
            levels += 1
        whole = (
            scope.parent is None
        )  # the run's own input is always at hand: what counts is the very value that is read
        key = ("input", path if whole else path[:1])
        field = str(path[0]) if path and isinstance(path[0], str) else None
        part = self._part

        def read(command: StartStage) -> bytes:
            at = command.scope
            for _ in range(levels):
                assert at.parent is not None
                at = at.parent
            contents = at.contents
            if contents is None:
                contents = at.contents = {}
            found = contents.get(key)
            if found is None:
                made = _at(at.input, path) if whole else _known(part(at.input, field))
                found = contents[key] = made
            return found

        return read

    def _variable_reader(self, name: str | None) -> Read:
        part = self._part

        def one(scope: Scope, name: str) -> bytes:
            try:
                handle = scope.variable(name)
            except KeyError:
                return MISSING
            contents = scope.contents
            if contents is None:
                contents = scope.contents = {}
            known, found = contents.get(("vars", name), (None, b""))
            if known is not handle:
                found = _known(part(handle, name))
                contents["vars", name] = (handle, found)
            return found

        def read(command: StartStage) -> bytes:
            if name is not None:
                return one(command.scope, name)
            made = sha256()
            for each in sorted(visible_variables(command.scope)):
                made.update(orjson.dumps(each) + b"\0" + one(command.scope, each) + b"\0")
            return b"#" + made.digest()

        return read

    def _context_reader(self, name: str | None) -> Read:
        def read(command: StartStage) -> bytes:
            known = context_root(self._run, command.stage.id, command.path, command.attempt)
            return content_of(known if name is None else known.get(name))

        return read

    def _loop_reader(self, name: str, scope: ScopePlan) -> Read:
        levels = 0
        while name not in scope.variables:
            if scope.parent is None:
                return _unknown
            scope = self._plan.scopes[scope.parent]
            levels += 1
        is_item = name == scope.variables[0]

        def read(command: StartStage) -> bytes:
            at = command.scope
            for _ in range(levels):
                assert at.parent is not None
                at = at.parent
            return self._item(at) if is_item else index_of(at).encode()

        return read

    def _item(self, scope: Scope) -> bytes:
        contents = scope.contents
        if contents is None:
            contents = scope.contents = {}
        found = contents.get("item")
        if found is None:
            found = contents["item"] = _known(self._item_content(scope.items, scope.position))
        return found


def index_of(scope: Scope) -> str:
    """Return the number by which an iteration is named in paths: `3` for `each[3]/`."""
    return scope.prefix[scope.prefix.rindex("[") + 1 : -2]


def _known(content: bytes | None) -> bytes:
    if content is None:
        raise Unknown
    return content


def _unknown(command: StartStage) -> bytes:
    raise Unknown


def _status(target: Target) -> Read:
    def read(command: StartStage) -> bytes:
        scope, index = command.scope.at(target)
        return b"!" + WORDS[scope.status[index]].encode()

    return read


def _error_reader(target: Target, path: tuple[str | int, ...]) -> Read:
    def read(command: StartStage) -> bytes:
        scope, index = command.scope.at(target)
        failure = scope.failure(index)
        return MISSING if failure is None else _at(failure.to_json(), path)

    return read


def _at(value: Any, path: tuple[str | int, ...]) -> bytes:
    """Return what stands for the value that a static path leads to, or for the last value on the way that is no object."""
    for key in path:
        if not isinstance(value, dict):
            break
        if key not in value:
            return MISSING
        value = value[key]  # pyright: ignore[reportUnknownVariableType]  # JSON
    return content_of(value)  # pyright: ignore[reportUnknownArgumentType]  # JSON
