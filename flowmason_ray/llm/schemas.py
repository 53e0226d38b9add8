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
