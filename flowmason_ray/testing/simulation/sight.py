"""What a stage instance sees, according to the format: stages by name, variables of its scopes, its own item, its input."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from flowmason_ray.testing.simulation.history import History, Instance
from flowmason_ray.testing.simulation.invariants import Violation
from flowmason_ray.testing.simulation.shapes import Body, Shape, Stage


class Mode(IntEnum):
    """How sure it is that a body ran to its end."""

    FIRM = 0
    CUT = 1
    """It may have been stopped at any point: what had not ended was cancelled."""
    EARLY = 2
    """As CUT; and what had not started may have been skipped, because the scope ended early."""


@dataclass(frozen=True, slots=True)
class Around:
    """One scope around an instance."""

    body: Body
    prefix: str
    """What paths begin with in it."""
    input: Any


Chain = tuple[Around, ...]
"""The scopes around an instance, outermost first."""

NEVER = Instance()

_FORM = re.compile(r"\{\{ (\w+)(?:\.(\w+))?(?:\.(status|error))?(?:\.code)?(?: \| default\('(\w+)'\))? \}\}")


class Sight:
    """Looks things up for the instances of one run."""

    def __init__(self, shape: Shape, history: History) -> None:
        self._shape = shape
        self._history = history

    def path(self, stage: Stage, chain: Chain) -> str:
        """Return the path of the instance of `stage` that is meant from within `chain`."""
        scope = stage.body.scope
        return next(around.prefix for around in chain if around.body is scope) + stage.id

    def of(self, stage: Stage, chain: Chain) -> Instance:
        """Return that instance."""
        return self._history.instances.get(self.path(stage, chain)) or NEVER

    def value(self, stage: Stage, chain: Chain) -> Any:
        """Return what reads as its output."""
        instance = self.of(stage, chain)
        if instance.status == "fallback":
            return stage.data["fallback_output"]
        return instance.value if instance.status == "succeeded" else None

    def render(self, template: Any, chain: Chain, reader: Instance, path: str) -> Any:
        """Return what a template gives, in the forms that `pipelines` writes."""
        if isinstance(template, dict):
            return {key: self.render(value, chain, reader, path) for key, value in template.items()}  # pyright: ignore[reportUnknownVariableType]
        found = _FORM.fullmatch(template) if isinstance(template, str) else None
        return template if found is None else self._read(found, chain, reader, path)

    def _read(self, found: re.Match[str], chain: Chain, reader: Instance, path: str) -> Any:
        root, name, aspect, default = found.groups()
        if root == "stages":
            stage = self._shape.stages[name]
            instance = self.of(stage, chain)
            if aspect == "status":
                return "cancelled" if instance.status == "never" else instance.status
            if aspect == "error":
                return default if instance.failure is None else instance.failure.code
            return self.value(stage, chain)
        if root == "vars":
            return self._variable(name, chain, reader, default)
        if root == "input":
            return chain[-1].input[name]
        if root == "context":
            return path if name == "path" else reader.attempt
        return self._loop_variable(root, chain)

    def _loop_variable(self, name: str, chain: Chain) -> Any:
        for around in reversed(chain):
            if around.body.pipeline is not None:
                break
            assert around.body.owner is not None
            loop, _, key = around.prefix[:-2].rpartition("[")
            if name == around.body.owner.config["item_variable"]:
                return f"{loop}#{key}"
            if name == around.body.owner.config["index_variable"]:
                return int(key)
        raise Violation("values_are_its_own", f"{name} means nothing here")

    def _variable(self, name: str, chain: Chain, reader: Instance, default: str | None) -> Any:
        """Return the variable as the reader must see it: set last, in the innermost scope that has it."""
        setters = self._shape.setters(name)
        for around in reversed(chain):
            instances = [self.of(setter, chain) for setter in setters if setter.body.scope is around.body]
            done = [i for i in instances if i.status == "succeeded" and i.ended <= reader.started]
            if done:
                return max(done, key=lambda i: i.ended).value[name]
            if around.body.pipeline is not None:
                break
        return default
