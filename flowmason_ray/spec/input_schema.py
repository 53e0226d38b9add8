"""Enforces `input_schema` and `output_schema`: defaults applied, every violation found and said in our words.

JSON Schema, draft 2020-12, through the jsonschema library, which is imported only when there is a schema. `format` is
checked. Nothing is ever fetched: references lead into the schema itself.

Defaults are filled in where the schema is certain to apply: `properties`, `items`, `prefixItems`, `allOf` and `$ref`, to any
depth; not inside `anyOf`, `oneOf` or `if`, where it depends on the value which part applies. An object that is absent
and has no default of its own stays absent, whatever defaults its properties have.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any, cast

from flowmason_ray.errors import InvalidInput, InvalidPipeline, Problem
from flowmason_ray.spec.schema_checks import CompiledSchema, check_schema
from flowmason_ray.spec.schema_wording import too_deep, violations_from

__all__ = ["InputSchema", "apply_input_schema", "check_output", "check_schema"]

_MOST_DEFAULTS = 10_000
"""Defaults that one value may be given; a schema that refers to itself could ask for any number of them."""


class InputSchema:
    """A schema that is compiled once and applied often."""

    def __init__(self, schema: Mapping[str, Any] | None) -> None:
        """
        Args:
            schema: The schema; None admits everything.

        Raises:
            InvalidPipeline: it is not a valid schema; pointers are relative to it.
        """
        self._compiled: CompiledSchema | None = None
        if schema is not None:
            problems = [problem for problem in check_schema(schema) if problem.severity == "error"]
            if problems:
                raise InvalidPipeline(problems)
            self._compiled = CompiledSchema(schema)

    def apply(self, value: Any) -> Any:
        """Return `value` with defaults filled in; `value` itself is not changed.

        Raises:
            InvalidInput: with every violation.
        """
        if self._compiled is None:
            return value
        try:
            value = _Defaults(self._compiled).fill(self._compiled.schema, value)
        except RecursionError:
            raise InvalidInput([too_deep("input")]) from None
        violations = self.violations(value)
        if violations:
            raise InvalidInput(violations)
        return value

    def violations(self, value: Any, *, subject: str = "input") -> list[Problem]:
        """Return how `value` violates the schema; `path` is a pointer into the value, `subject` what messages call it."""
        if self._compiled is None:
            return []
        try:
            return violations_from(self._compiled.validator.iter_errors(value), subject=subject)
        except RecursionError:
            return [too_deep(subject)]


def apply_input_schema(schema: Mapping[str, Any] | None, value: Any) -> Any:
    """Return `value` with the defaults of `schema` filled in.

    Raises:
        InvalidInput: with every violation.
        InvalidPipeline: the schema itself is invalid.
    """
    return InputSchema(schema).apply(value)


def check_output(schema: Mapping[str, Any] | None, value: Any) -> list[Problem]:
    """Return how a pipeline's result violates its `output_schema`. No defaults are applied.

    Raises:
        InvalidPipeline: the schema itself is invalid.
    """
    return InputSchema(schema).violations(value, subject="output")


@dataclass(slots=True)
class _Defaults:
    """Fills one value. Copies what it changes, shares the rest."""

    compiled: CompiledSchema
    count: int = 0
    _filling: set[int] = field(default_factory=set[int])
    """Schemas whose default is being filled in: one that contains itself is filled in once."""

    def fill(self, schema: Any, value: Any) -> Any:
        if not isinstance(schema, Mapping):
            return value
        for part in self._certain_parts(cast("Mapping[str, Any]", schema)):
            if isinstance(value, dict):
                value = self._object(part, cast("dict[str, Any]", value))
            elif isinstance(value, list):
                value = self._list(part, cast("list[Any]", value))
        return value

    def _certain_parts(
        self, schema: Mapping[str, Any], seen: frozenset[int] = frozenset()
    ) -> Iterator[Mapping[str, Any]]:
        """Yield the schema and whatever it includes without a condition."""
        if id(schema) in seen:
            return
        seen |= {id(schema)}
        yield schema
        for part in self._included(schema):
            if isinstance(part, Mapping):
                yield from self._certain_parts(cast("Mapping[str, Any]", part), seen)

    def _object(self, schema: Mapping[str, Any], value: dict[str, Any]) -> dict[str, Any]:
        made = value
        properties = schema.get("properties")
        if not isinstance(properties, Mapping):
            return value
        for name, inner in cast("Mapping[str, Any]", properties).items():
            new = self._default(inner) if name not in made else self.fill(inner, made[name])
            if new is _NOTHING or (name in made and new is made[name]):
                continue
            made = {**made, name: new} if made is value else made
            made[name] = new
        return made

    def _list(self, schema: Mapping[str, Any], value: list[Any]) -> list[Any]:
        prefix = _listed(schema.get("prefixItems"))
        items = schema.get("items")
        made = [self.fill(prefix[i] if i < len(prefix) else items, item) for i, item in enumerate(value)]
        return made if any(new is not old for new, old in zip(made, value, strict=True)) else value

    def _default(self, schema: Any) -> Any:
        """Return the default of a schema, filled in itself, or `_NOTHING`."""
        if not isinstance(schema, Mapping):
            return _NOTHING
        known = cast("Mapping[str, Any]", schema)
        for part in self._certain_parts(known):
            if "default" not in part:
                continue
            if id(part) in self._filling:
                return _NOTHING
            self.count += 1
            if self.count > _MOST_DEFAULTS:
                message = f"The schema asks for more than {_MOST_DEFAULTS:,} defaults in one value."
                raise InvalidInput([Problem(code="too_many_defaults", message=message)])
            self._filling.add(id(part))
            try:
                return self.fill(known, deepcopy(part["default"]))
            finally:
                self._filling.discard(id(part))
        return _NOTHING

    def _included(self, schema: Mapping[str, Any]) -> Iterator[Any]:
        reference = schema.get("$ref")
        if isinstance(reference, str):
            yield self.compiled.resolved(reference)
        yield from _listed(schema.get("allOf"))


_NOTHING: Any = object()


def _listed(value: Any) -> list[Any]:
    return cast("list[Any]", value) if isinstance(value, list) else []
