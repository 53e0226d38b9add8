"""Whether a JSON Schema that somebody put into a pipeline is one, and its compiled form.

Checked before it is used: that it is valid draft 2020-12, that its references lead somewhere inside it (nothing is
fetched), that its defaults fit it. What is only ignored (an unknown `format`, another draft) is a warning.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from typing import Any, cast

from flowmason_ray.errors import Problem, nearest
from flowmason_ray.spec.formats import FORMATS
from flowmason_ray.spec.schema_wording import too_deep, violations_from
from flowmason_ray.spec.source import join_pointer

_DIALECT = "https://json-schema.org/draft/2020-12/schema"

_VALUES = frozenset({"const", "enum", "default", "examples"})
"""Keywords under which values stand, not schemas."""

_NAMED = frozenset({"properties", "patternProperties", "$defs", "definitions", "dependentSchemas"})
"""Keywords under which schemas stand by name."""


class CompiledSchema:
    """A schema with its validator and its references."""

    def __init__(self, schema: Mapping[str, Any]) -> None:
        from jsonschema_specifications import REGISTRY  # pyright: ignore[reportMissingTypeStubs]  # it has none
        from referencing.jsonschema import DRAFT202012

        from flowmason_ray.spec.bounded_validation import BoundedValidator

        self.schema: Mapping[str, Any] = _without_false(schema)
        resource = DRAFT202012.create_resource(cast("Any", self.schema))
        # A registry of our own: the library's default one would fetch what it does not know.
        registry = REGISTRY.with_resource(resource.id() or "", resource)
        self.validator: Any = BoundedValidator(
            cast("Any", self.schema), registry=registry, format_checker=_format_checker()
        )
        self.resolver: Any = registry.resolver_with_root(resource)
        self._schemas: dict[int, bool] = {}

    def is_schema(self, part: Any) -> bool:
        """Tell whether a part of this schema is a schema itself."""
        known = self._schemas.get(id(part))
        if known is None:
            known = self._schemas[id(part)] = bool(_meta().is_valid(part))
        return known

    def resolved(self, reference: str) -> Any:
        """Return the schema that a reference at the top level of this one leads to, or None."""
        from referencing.exceptions import Unresolvable

        try:
            return self.resolver.lookup(reference).contents
        except Unresolvable:
            return None


def check_schema(schema: Mapping[str, Any]) -> list[Problem]:
    """Return what is wrong with a schema; pointers are relative to it. Problems of severity `warning` do not forbid it."""
    meta = _meta()
    try:
        problems = violations_from(meta.iter_errors(schema), subject="schema", code="invalid_schema")
        if not problems:
            compiled = CompiledSchema(schema)
            for pointer, part, resolver in _parts(compiled.schema, "", compiled.resolver):
                problems += _check_part(part, pointer, resolver, compiled)
    except RecursionError:
        problems = [too_deep("schema")]
    return problems


def _check_part(part: Mapping[str, Any], pointer: str, resolver: Any, compiled: CompiledSchema) -> Iterator[Problem]:
    yield from _check_references(part, pointer, resolver, compiled)
    yield from _check_patterns(part, pointer)
    wanted = part.get("format")
    if isinstance(wanted, str) and wanted not in FORMATS:
        yield Problem(
            code="unknown_format",
            message=f"Format {wanted!r} is not known and not checked.",
            path=f"{pointer}/format",
            nearest=nearest(wanted, FORMATS),
            severity="warning",
        )
    dialect = part.get("$schema")
    if isinstance(dialect, str) and dialect.rstrip("#") != _DIALECT:
        yield Problem(
            code="other_dialect",
            message=f"The schema is read as draft 2020-12, although it names {dialect!r}.",
            path=f"{pointer}/$schema",
            severity="warning",
        )
    if "default" in part:
        yield from _check_default(part, pointer, compiled)


def _check_references(
    part: Mapping[str, Any], pointer: str, resolver: Any, compiled: CompiledSchema
) -> Iterator[Problem]:
    from referencing.exceptions import Unresolvable

    for keyword in ("$ref", "$dynamicRef"):
        reference = part.get(keyword)
        if not isinstance(reference, str):
            continue
        try:
            target = resolver.lookup(reference).contents
        except (Unresolvable, ValueError):  # ValueError: it is not even a URI reference
            inside = reference.startswith("#")
            yield Problem(
                code="unresolved_ref" if inside else "external_ref",
                message=f"{keyword} {reference!r} leads nowhere in this schema."
                if inside
                else f"{keyword} {reference!r} leads out of this schema; nothing is fetched.",
                path=f"{pointer}/{keyword}",
                found=reference,
                hint=None if inside else "Copy what it refers to under '$defs' and refer to '#/$defs/…'.",
            )
        else:
            # Under a keyword that JSON Schema does not know anything may stand, until somebody refers to it.
            if not compiled.is_schema(target):
                message = f"{keyword} {reference!r} leads to something that is no JSON Schema."
                yield Problem(code="invalid_schema", message=message, path=f"{pointer}/{keyword}", found=reference)


def _check_patterns(part: Mapping[str, Any], pointer: str) -> Iterator[Problem]:
    from flowmason_ray.spec.bounded_validation import UnusablePattern, check_pattern

    named = part.get("patternProperties")
    places = [(f"{pointer}/pattern", part.get("pattern"))]
    if isinstance(named, Mapping):
        at = f"{pointer}/patternProperties"
        places += [(f"{at}{join_pointer(pattern)}", pattern) for pattern in cast("Mapping[str, Any]", named)]
    for place, pattern in places:
        if isinstance(pattern, str):
            try:
                check_pattern(pattern)
            except UnusablePattern as exc:
                yield Problem(code="invalid_schema", message=str(exc), path=place, found=pattern)


def _check_default(part: Mapping[str, Any], pointer: str, compiled: CompiledSchema) -> Iterator[Problem]:
    """A default that breaks its own schema would make every run without that input fail."""
    from jsonschema.exceptions import ValidationError
    from referencing.exceptions import Unresolvable

    from flowmason_ray.spec.bounded_validation import UnusablePattern

    default = part["default"]
    if isinstance(default, (dict, list)):
        return  # may be completed by the defaults of what is in it; checked with the value that it becomes part of
    if not compiled.is_schema(part):
        return  # it only looks like one, under a keyword that JSON Schema does not know
    try:
        error: ValidationError | None = next(iter(compiled.validator.evolve(schema=part).iter_errors(default)), None)
    except (Unresolvable, UnusablePattern):
        return  # reported as such
    if error is not None:
        violation = violations_from([error], subject="default")[0]
        yield Problem(
            code="invalid_default",
            message=f"The default does not fit its own schema. {violation.message}",
            path=f"{pointer}/default",
            expected=violation.expected,
            found=violation.found,
        )


def _parts(schema: Any, pointer: str, resolver: Any) -> Iterator[tuple[str, Mapping[str, Any], Any]]:
    """Yield every schema in a schema with its pointer, and the resolver for the references in it."""
    from referencing.jsonschema import DRAFT202012

    if not isinstance(schema, Mapping):
        return
    part = cast("Mapping[str, Any]", schema)
    if "$id" in part and pointer:
        resolver = resolver.in_subresource(DRAFT202012.create_resource(cast("Any", part)))
    yield pointer, part, resolver
    for keyword, value in part.items():
        at = f"{pointer}{join_pointer(keyword)}"
        if keyword in _VALUES:
            continue
        if isinstance(value, list):
            for index, inner in enumerate(cast("list[Any]", value)):
                yield from _parts(inner, f"{at}/{index}", resolver)
        elif keyword in _NAMED and isinstance(value, Mapping):
            for name, inner in cast("Mapping[str, Any]", value).items():
                yield from _parts(inner, f"{at}{join_pointer(name)}", resolver)
        else:
            yield from _parts(value, at, resolver)


def _without_false(schema: Any) -> Any:
    """Copy a schema with `{"not": {}}` for each property that is `false`: the library forgets the path of the latter."""
    if isinstance(schema, list):
        return [_without_false(inner) for inner in cast("list[Any]", schema)]
    if not isinstance(schema, Mapping):
        return schema
    made: dict[str, Any] = {}
    for keyword, value in cast("Mapping[str, Any]", schema).items():
        if keyword in _VALUES:
            made[keyword] = value
        elif keyword in _NAMED and isinstance(value, Mapping):
            named = cast("Mapping[str, Any]", value)
            made[keyword] = {n: {"not": {}} if inner is False else _without_false(inner) for n, inner in named.items()}
        else:
            made[keyword] = _without_false(value)
    return made


@lru_cache(maxsize=1)
def _meta() -> Any:
    """Return the validator of schemas themselves."""
    from jsonschema import Draft202012Validator

    return Draft202012Validator(Draft202012Validator.META_SCHEMA, format_checker=_format_checker())


@lru_cache(maxsize=1)
def _format_checker() -> Any:
    from jsonschema import FormatChecker

    checker: Any = FormatChecker(formats=())
    checker.checkers = {name: (_only_text(check), ()) for name, check in FORMATS.items()}
    return checker


def _only_text(check: Callable[[str], bool]) -> Callable[[object], bool]:
    def check_text(value: object) -> bool:
        return not isinstance(value, str) or check(value)

    return check_text
