"""What a composition keeps of the result of the pipeline that it runs.

Each value of `output_mapping` says where a part of the result is found. A text without braces is a path into the result
(`totals.gross`, `rows[0].id`); in templates the result is called `output`. Nothing else can be read there: what a composed
pipeline does inside stays inside.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from flowmason_ray.spec.expressions import ExpressionSyntaxError, Reference
from flowmason_ray.spec.language.rewriting import rename_root
from flowmason_ray.spec.source import join_pointer
from flowmason_ray.spec.templates import Template, parse_template

RESULT = "output"
"""What the result is called in the templates of an `output_mapping`."""

BOUND = "input"
"""The root under which the engine binds it."""


def mapping_template(mapping: Mapping[str, Any]) -> Template:
    """Return the template that makes a composition's output, with the result bound to `input`.

    Raises:
        ExpressionSyntaxError: something in it cannot be parsed, or reads anything but the result; its `pointer` says where.
    """
    return parse_template({name: _bound(value, join_pointer(name)) for name, value in mapping.items()})


def _bound(value: Any, pointer: str) -> Any:
    if isinstance(value, dict):
        members = cast("dict[str, Any]", value)
        return {key: _bound(inner, pointer + join_pointer(key)) for key, inner in members.items()}
    if isinstance(value, list):
        return [_bound(inner, f"{pointer}/{i}") for i, inner in enumerate(cast("list[Any]", value))]
    if not isinstance(value, str):
        return value
    text = value if "{{" in value else _path(value)
    try:
        references = [reference for _, reference in parse_template(text).references]
    except ExpressionSyntaxError as exc:
        exc.pointer = pointer
        raise
    other = next((reference for reference in references if reference.root != RESULT), None)
    if other is not None:
        raise _refusal(other, pointer)
    return rename_root(text, RESULT, BOUND)


def _path(text: str) -> str:
    """Return a path into the result as a template."""
    inner = text.strip()
    return "{{ " + (f"{RESULT}{inner}" if inner.startswith("[") else f"{RESULT}.{inner}") + " }}"


def _refusal(reference: Reference, pointer: str) -> ExpressionSyntaxError:
    error = ExpressionSyntaxError(
        f"{reference.root!r} cannot be read here: an output mapping sees the pipeline's result, which is called {RESULT!r}, "
        "and nothing else."
    )
    error.pointer = pointer
    return error


def composed_schema(output_schema: Mapping[str, Any] | None, output: Any) -> Mapping[str, Any]:
    """Return a schema of the result of a pipeline, as far as its file says: by its `output_schema`, else its `output`."""
    if output_schema is not None:
        return output_schema
    if isinstance(output, dict):
        return {"type": "object", "properties": {key: dict[str, Any]() for key in cast("dict[str, Any]", output)}}
    return {}
