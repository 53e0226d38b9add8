"""Which types of values a JSON Schema allows for what lies at a path below it: all that is asked of schemas while planning."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Types = frozenset[str] | None
"""JSON's type names plus `frame`; None is "anything"."""


def is_plain(text: object) -> bool:
    """Tell whether a text is one template that takes a value as it is: a path, and nothing computed."""
    if not isinstance(text, str) or not (text.startswith("{{") and text.endswith("}}") and text.count("{{") == 1):
        return False
    return all(ch.isalnum() or ch in "._-[]'\"" for ch in text[2:-2].strip())


def schema_types(schema: Any, root: Mapping[str, Any], path: list[str]) -> Types:
    """Return the types that a JSON Schema allows for what lies at `path` below it; None for anything.

    Args:
        schema: The schema to look into.
        root: The document that `$ref`s in it point into.
        path: Keys and indices, as text.
    """
    for _ in range(20):  # a chain of references that is longer goes in circles
        reference = schema.get("$ref") if isinstance(schema, Mapping) else None  # pyright: ignore[reportUnknownVariableType, reportUnknownMemberType]
        if not isinstance(reference, str):
            break
        schema = _follow(root, reference)
    if not isinstance(schema, Mapping):
        return None
    for key in ("anyOf", "oneOf"):
        choices: Any = schema.get(key)  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
        if isinstance(choices, list):
            found = [schema_types(choice, root, path) for choice in choices]  # pyright: ignore[reportUnknownVariableType]
            return None if None in found else frozenset[str]().union(*(types for types in found if types))
    if path:
        return _below(schema, root, path)  # pyright: ignore[reportUnknownArgumentType]
    if schema.get("x-frame"):  # pyright: ignore[reportUnknownMemberType]
        return frozenset({"frame"})
    said: Any = schema.get("type")  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
    if isinstance(said, str):
        return frozenset({said})
    return frozenset(map(str, said)) if isinstance(said, list) else None  # pyright: ignore[reportUnknownArgumentType]


def _below(schema: Mapping[str, Any], root: Mapping[str, Any], path: list[str]) -> Types:
    first, rest = path[0], path[1:]
    properties = schema.get("properties")
    if isinstance(properties, Mapping) and first in properties:
        return schema_types(properties[first], root, rest)
    if first.lstrip("-").isdigit() and isinstance(schema.get("items"), Mapping):
        return schema_types(schema["items"], root, rest)
    return None


def _follow(root: Mapping[str, Any], reference: str) -> Any:
    node: Any = root
    for part in reference.removeprefix("#").strip("/").split("/"):
        node = node.get(part) if isinstance(node, Mapping) else None  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
    return node  # pyright: ignore[reportUnknownVariableType]
