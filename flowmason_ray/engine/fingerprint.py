"""Fingerprints: what an attempt is given, in 128 bits. Two attempts with the same one come to the same result.

    fingerprint = H(definition, what stands for each value that its templates read)

Computed by the coordinator when the attempt is handed out, from the plan's references: only what is read counts. A stage that
reads `stages.x.a` is not concerned by `x.b`. What stands for a value is computed by whoever has it (`engine.digests`), once
for each value, and forgotten with the scope that holds it.

What never enters: secrets (a new password is no reason to run again); draws (`now()`, `uuid()`), because they follow from the
run and the path: such a stage is reused when a run is gone on with, and never across runs (`Fingerprints.draws`).

A stage that comes after one that leaves traces outside (`engine.upstream`) also depends on everything before it, unless it is
effectful itself: then what it is given is what counts, so that no effect is called changed when it is not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import orjson

from flowmason_ray.engine.commands import StartStage
from flowmason_ray.engine.component import Effect
from flowmason_ray.engine.context import LocalScope, context_root, visible_variables
from flowmason_ray.engine.definitions import Definitions
from flowmason_ray.engine.digests import MISSING, content_of
from flowmason_ray.engine.executor import Digesting, RunInfo
from flowmason_ray.engine.plan import Plan, PlanStage, ScopePlan, Target
from flowmason_ray.engine.scope import WORDS, Scope, Status
from flowmason_ray.engine.upstream import Upstream
from flowmason_ray.errors import FlowMasonError
from flowmason_ray.spec.expressions import Expression, Reference
from flowmason_ray.spec.templates import Template

_OUTPUTS = frozenset({int(Status.SUCCEEDED), int(Status.FALLBACK)})

Read = Callable[[StartStage], bytes]
"""Returns what stands for one thing that an attempt reads. Raises `Unknown`."""


class Unknown(Exception):
    """What stands for a value is not known: the attempt has no fingerprint."""


@dataclass(slots=True)
class _Compiled:
    """How the fingerprint of a stage is made."""

    definition: bytes
    reads: tuple[Read, ...]
    draws: bool


class Fingerprints:
    """Makes the fingerprints of one run."""

    def __init__(
        self,
        plan: Plan,
        run: RunInfo,
        executor: Digesting,
        definitions: Definitions,
        upstream: Upstream,
        *,
        again: Callable[[PlanStage], bool] = lambda _: False,
    ) -> None:
        """
        Args:
            plan: What is run.
            run: What attempts know about the run.
            executor: Knows what stands for the values.
            definitions: Of the plan's stages.
            upstream: Of the plan.
            again: Whether a stage was asked to run again whatever is known; what depends on its traces does so too.
        """
        self._plan = plan
        self._run = run
        self._executor = executor
        self._definitions = definitions
        self._upstream = upstream
        self._again = again
        self._compiled: dict[int, _Compiled] = {}
        self._scope_of: dict[int, ScopePlan] = {id(stage): scope for scope in plan.scopes for stage in scope.stages}
        self._traces: dict[int, bytes] | None = None

    def of(self, command: StartStage) -> str | None:
        """Return the fingerprint of an attempt: 32 hexadecimal digits; None when what it reads is not known."""
        compiled = self._compiled.get(id(command.stage)) or self._compile(command.stage)
        try:
            parts = [compiled.definition, *[read(command) for read in compiled.reads]]
        except (Unknown, TypeError):
            return None
        return sha256(b"\0".join(parts)).hexdigest()[:32]

    def of_key(self, command: StartStage, key: Template) -> str | None:
        """Return the fingerprint that a `cache.key` of the stage's own makes: of the component, and of the key as rendered.

        A key that reads a value which is not in this process is taken by what it reads instead.
        """
        component = command.stage.component
        assert component is not None
        head = sha256(b"key\0" + f"{component.name}@{component.version}".encode()).digest()
        reads = [
            self._reader(reference, command.stage, self._scope_of[id(command.stage)]) for _, reference in key.references
        ]
        try:
            scope = LocalScope(
                self._run, command.scope, command.stage, command.path, command.attempt, command.first_started_at
            )
            parts = [b"is", content_of(key.render(scope))]
        except (FlowMasonError, TypeError, AttributeError, KeyError, IndexError):
            try:
                parts = [content_of(key.source), *[read(command) for read in reads]]
            except (Unknown, TypeError):
                return None
        return sha256(b"\0".join([head, *parts])).hexdigest()[:32]

    def draws(self, stage: PlanStage) -> bool:
        """Tell whether a stage's templates draw a time or an identifier, so that its result belongs to its run."""
        return (self._compiled.get(id(stage)) or self._compile(stage)).draws

    def item(self, scope: Scope) -> bytes | None:
        """Return what stands for the item of an iteration."""
        try:
            return self._item(scope)
        except (Unknown, TypeError):
            return None

    # -- compiling --------------------------------------------------------------------------------------------------------

    def _compile(self, stage: PlanStage) -> _Compiled:
        scope = self._scope_of[id(stage)]
        references = dict.fromkeys(reference for reference in _references(stage))
        reads: dict[Any, Read] = {}
        for reference in references:
            reads.setdefault(_what(reference), self._reader(reference, stage, scope))
        definition = self._definitions.of(stage).digest
        for target in stage.upstreams:
            if target not in stage.targets.values():  # it is awaited and not read: how it ended may still matter
                reads[target] = self._status(target)
        traces = self._after_traces().get(id(stage))
        if traces is not None and stage.effect is not Effect.EFFECTFUL:
            definition = sha256(definition + traces).digest()
        compiled = _Compiled(definition, tuple(reads.values()), _draws(stage.template, stage.when))
        self._compiled[id(stage)] = compiled
        return compiled

    def _after_traces(self) -> dict[int, bytes]:
        if self._traces is None:
            given = content_of(self._run.input) if self._upstream.any_traces else b""

            def digest(stage: PlanStage) -> bytes:
                asked = self._run.run_id.encode() if self._again(stage) else b""
                return self._definitions.of(stage).digest + given + asked

            self._traces = self._upstream.after_traces(digest)
        return self._traces

    def _reader(self, reference: Reference, stage: PlanStage, scope: ScopePlan) -> Read:
        root, path = reference.root, reference.path
        if root == "stages":
            return self._stage_reader(reference, stage.targets[str(path[0])])
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

    def _stage_reader(self, reference: Reference, target: Target) -> Read:
        if reference.aspect == "status":
            return self._status(target)
        if reference.aspect == "error":
            return _error_reader(target, reference.path[1:])
        levels, index = target.levels, target.index
        field = str(reference.path[1]) if len(reference.path) > 1 and isinstance(reference.path[1], str) else None
        key = (index, field)
        part = self._executor.part_content

        def read(command: StartStage) -> bytes:
            scope = command.scope
            for _ in range(levels):
                scope = scope.parent
                assert scope is not None
            status = scope.status[index]
            if status not in _OUTPUTS:
                return b"!" + WORDS[status].encode()
            contents = scope.contents
            if contents is None:
                contents = scope.contents = {}
            found = contents.get(key)
            if found is None:
                found = contents[key] = _known(part(scope.values[index], field))
            return found

        return read

    @staticmethod
    def _status(target: Target) -> Read:
        def read(command: StartStage) -> bytes:
            scope, index = command.scope.at(target)
            return b"!" + WORDS[scope.status[index]].encode()

        return read

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
        part = self._executor.part_content

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
        part = self._executor.part_content

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
            found = contents["item"] = _known(self._executor.item_content(scope.items, scope.position))
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


def _references(stage: PlanStage) -> Iterator[Reference]:
    for _, reference in stage.template.references:
        yield reference
    if stage.when is not None:
        yield from stage.when.references


def _what(reference: Reference) -> Any:
    """Return what tells two readings apart that need two digests."""
    if reference.root == "stages" and reference.aspect == "output":
        return ("stages", reference.path[:2])
    return (reference.root, reference.path, reference.aspect)


def _draws(template: Template, when: Expression | None) -> bool:
    return template.draws or (when is not None and when.draws)
