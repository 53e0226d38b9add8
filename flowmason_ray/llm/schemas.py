"""What providers ask of a JSON Schema before they guarantee that an answer fits it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast


def is_closed(schema: Any) -> bool:
    """Tell whether every object of a schema says `additionalProperties: false` (Anthropic's strict tools)."""

    def holds(part: Mapping[str, Any]) -> bool:
        return part.get("additionalProperties") is False

    return _every_object(schema, holds)


def is_strict(schema: Any) -> bool:
    """Tell whether every object is closed and requires all its properties (OpenAI, "Structured outputs")."""

    def holds(part: Mapping[str, Any]) -> bool:
        properties: Any = part.get("properties", {})
        return part.get("additionalProperties") is False and set(part.get("required", ())) == set(properties)

    return _every_object(schema, holds)


def has_only_known_properties(schema: Any) -> bool:
    """Tell whether every object of a schema names its properties and does not ask for others of a certain kind."""
    return _every_object(
        schema, lambda part: "properties" in part and part.get("additionalProperties") in (None, False)
    )


def with_single_types(schema: Any) -> Any:
    """Return a schema with `"type": ["string", "null"]` said as `anyOf`, which is as good and more widely known."""
    if isinstance(schema, list):
        return [with_single_types(each) for each in cast("list[Any]", schema)]
    if not isinstance(schema, Mapping):
        return schema
    part = {key: with_single_types(value) for key, value in cast("Mapping[str, Any]", schema).items()}
    types: Any = part.get("type")
    if not isinstance(types, list) or "anyOf" in part:
        return part
    del part["type"]
    about = {key: part.pop(key) for key in ("description", "title") if key in part}
    choices = [{"type": kind, **_of_type(part, kind)} for kind in cast("list[str]", types)]
    return {**about, "anyOf": choices}


_ABOUT = {
    "object": ("properties", "required", "additionalProperties", "minProperties", "maxProperties"),
    "array": ("items", "prefixItems", "minItems", "maxItems", "uniqueItems"),
    "string": ("pattern", "format", "minLength", "maxLength"),
    "number": ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"),
}
_KEYWORDS = {key: kind for kind, keys in _ABOUT.items() for key in keys}


def _of_type(part: Mapping[str, Any], kind: str) -> dict[str, Any]:
    """Return those keywords that say something about values of a type."""
    kind = "number" if kind == "integer" else kind
    return {key: value for key, value in part.items() if _KEYWORDS.get(key, kind) == kind}


def _every_object(schema: Any, holds: Callable[[Mapping[str, Any]], bool]) -> bool:
    if isinstance(schema, list):
        return all(_every_object(each, holds) for each in cast("list[Any]", schema))
    if not isinstance(schema, Mapping):
        return True
    part = cast("Mapping[str, Any]", schema)
    is_object = part.get("type") == "object" or isinstance(part.get("properties"), Mapping)
    if is_object and not holds(part):
        return False
    return all(_every_object(each, holds) for each in part.values())
