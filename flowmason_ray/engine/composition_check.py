"""Whether a composition fits the pipeline that it runs: what it is handed, and what is kept of its result.

As everywhere in the plan, "cannot fit" is meant strictly: what depends on values is judged when they are there, by the
composed pipeline's `input_schema`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, cast

from flowmason_ray.engine.drafts import Draft, Report
from flowmason_ray.engine.schema_types import Types, schema_types
from flowmason_ray.errors import nearest
from flowmason_ray.spec.pipeline import Composition
from flowmason_ray.spec.source import join_pointer
from flowmason_ray.spec.templates import parse_template

TypesOf = Callable[[Any, Draft, str], tuple[Types, str]]
"""Returns the types of a value with templates, and what it is called in messages."""


def check_composition(draft: Draft, written: Composition, types_of: TypesOf, report: Report) -> None:
    """Report what cannot fit between a composition and its pipeline."""
    if draft.accepts is not None:
        _Handed(draft, written, draft.accepts, types_of, report).check()
    if draft.mapping is not None and written.output_mapping and draft.result is not None:
        _check_kept(draft, draft.result, report)


class _Handed:
    def __init__(
        self, draft: Draft, written: Composition, schema: Mapping[str, Any], types_of: TypesOf, report: Report
    ) -> None:
        self._draft = draft
        self._mapping = written.input_mapping
        self._schema = schema
        self._types_of = types_of
        self._report = report
        self._base = f"{draft.pointer}/input_mapping"
        self._pipeline = written.pipeline
        properties: Any = schema.get("properties")
        self._properties: Mapping[str, Any] = properties if isinstance(properties, Mapping) else {}

    def check(self) -> None:
        """Check the names, then the values."""
        for key, value in self._mapping.items():
            if key in self._properties:
                self._check_value(key, value)
            else:
                self._unknown(key)
        for name in cast("Iterable[str]", self._schema.get("required", ())):
            default = cast("Mapping[str, Any]", self._properties.get(name, {}))
            if name not in self._mapping and "default" not in default:
                message = f"{self._draft.title} does not give {name!r}, which pipeline {self._pipeline!r} requires."
                self._report("missing_field", message, self._base, expected=name)

    def _unknown(self, key: str) -> None:
        closed = self._schema.get("additionalProperties") is False
        close = nearest(key, self._properties)
        if closed or close:
            self._report(
                "unknown_field",
                f"{self._draft.title} gives {key!r}, which the input schema of pipeline {self._pipeline!r} does not "
                f"{'allow' if closed else 'mention'}.",
                self._base + join_pointer(key),
                key=True,
                found=key,
                expected=", ".join(sorted(self._properties)),
                nearest=close,
                severity="error" if closed else "warning",
            )

    def _check_value(self, key: str, value: Any) -> None:
        pointer = self._base + join_pointer(key)
        if parse_template(value).constant:
            self._check_constant(key, value, pointer)
            return
        wanted = schema_types(self._schema, self._schema, [key])
        given, words = self._types_of(value, self._draft, f"/input_data{join_pointer(key)}")
        if wanted is None or given is None or _meet(given, wanted):
            return
        self._report(
            "type_mismatch",
            f"{self._draft.title}: pipeline {self._pipeline!r} takes {_words(wanted)} as {key!r}, and {words} is {_words(given)}.",
            pointer,
            expected=_words(wanted),
            found=_words(given),
        )

    def _check_constant(self, key: str, value: Any, pointer: str) -> None:
        from flowmason_ray.spec.input_schema import InputSchema
        from flowmason_ray.spec.schema_checks import check_schema

        inner: Any = self._properties[key]
        if not isinstance(inner, Mapping) or check_schema(self._schema):
            return  # a broken schema is reported where it stands
        schema = {**cast("Mapping[str, Any]", inner), "$defs": self._schema.get("$defs", {})}
        for problem in InputSchema(schema).violations(value, subject=repr(key)):
            self._report(
                "invalid_value",
                f"{self._draft.title} gives what pipeline {self._pipeline!r} does not take: {problem.message}",
                pointer + problem.path,
                expected=problem.expected,
                found=problem.found,
            )


def _check_kept(draft: Draft, result: Mapping[str, Any], report: Report) -> None:
    """Report the parts of the result that a mapping keeps and that the pipeline does not declare."""
    names = result.get("properties")
    if names is None or draft.mapping is None:
        return
    for pointer, reference in draft.mapping.references:
        if reference.path and not reference.defaulted and str(reference.path[0]) not in names:
            field = str(reference.path[0])
            report(
                "unknown_field",
                f"{draft.title} keeps {field!r}, which is no part of the pipeline's declared output.",
                f"{draft.pointer}/output_mapping{pointer}",
                found=field,
                expected=", ".join(sorted(names)),
                nearest=nearest(field, names),
            )


def _meet(given: frozenset[str], wanted: frozenset[str]) -> bool:
    """Tell whether some value has one of both types; nothing is converted, but a number may be whole."""
    numbers = {"integer", "number"}
    return bool(given & wanted) or bool(given & numbers and wanted & numbers) or "frame" in given


def _words(types: frozenset[str]) -> str:
    articles = {"array": "an array", "object": "an object", "integer": "an integer", "null": "null"}
    return " or ".join(articles.get(kind, f"a {kind}") for kind in sorted(types))
