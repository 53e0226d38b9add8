"""Checking the names of connections that a stage says, before anything runs.

A component marks the fields that name a connection (`names_connection`), also those inside of what it takes, such as a router's
destinations. The marks are part of the Input's JSON Schema, beside which the config is followed. Only what is written as a name
is looked up: what a template will say is not known yet.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple, cast

from pydantic import BaseModel
from pydantic.errors import PydanticInvalidForJsonSchema

from flowmason_ray.connections import CONNECTION_TYPES, find_connection, find_server
from flowmason_ray.engine.component import ComponentSpec
from flowmason_ray.errors import PermanentError, nearest
from flowmason_ray.settings import ProjectSettings

MARK = "x-connection"
MCP = "mcp"
"""Stands for a server under `mcp_servers`."""
_DEEPEST = 32
"""Config deeper inside of lists and objects than this names no connection; a schema may contain itself."""


class Misnamed(NamedTuple):
    """A name that stands for nothing that the stage can use."""

    code: str
    message: str
    pointer: str
    """Within the config."""
    nearest: str | None


def names_connection(*types: str) -> dict[str, Any]:
    """Return the mark of a field that names a connection of these types: for its `json_schema_extra`."""
    return {MARK: list(types)}


def misnamed(settings: ProjectSettings, component: ComponentSpec, config: Mapping[str, Any]) -> Iterator[Misnamed]:
    """Yield what is wrong with the connections that a stage names.

    Args:
        settings: The project's.
        component: The stage's component.
        config: The stage's config, as it is written.
    """
    schema = _marked_schema(component.input_model)
    if schema is None:
        return
    for pointer, name, types in dict.fromkeys(_named(schema, config, schema, "", 0)):
        known: Mapping[str, Any] = settings.mcp_servers if MCP in types else settings.connections
        try:
            if MCP in types:
                find_server(settings.mcp_servers, name)
            else:
                find_connection(settings.connections, name, tuple(CONNECTION_TYPES[each] for each in types))
        except PermanentError as exc:
            yield Misnamed(str(exc.code), exc.message, pointer, nearest(name, known))


@lru_cache(maxsize=256)
def _marked_schema(model: type[BaseModel]) -> Mapping[str, Any] | None:
    """Return an Input's schema; None when it marks no field."""
    try:
        schema = model.model_json_schema()
    except PydanticInvalidForJsonSchema:  # a type of somebody's own
        return None
    return schema if MARK in repr(schema) else None


def _named(
    schema: Mapping[str, Any], value: Any, root: Mapping[str, Any], pointer: str, depth: int
) -> Iterator[tuple[str, str, tuple[str, ...]]]:
    """Yield (pointer, name, types) for every marked field that holds a name."""
    if "$ref" in schema:
        schema = {**root["$defs"][str(schema["$ref"]).removeprefix("#/$defs/")], **schema}
    if isinstance(value, str):
        types = tuple(cast("Sequence[str]", schema.get(MARK, ())))
        if types and value and "{{" not in value:
            yield pointer, value, types
        return
    if depth > _DEEPEST:
        return
    for branch in _branches(schema, value):
        yield from _named(branch, value, root, pointer, depth + 1)
    if isinstance(value, Mapping):
        fields: Mapping[str, Any] = schema.get("properties", {})
        for name, each in cast("Mapping[str, Any]", value).items():
            if name in fields:
                yield from _named(fields[name], each, root, f"{pointer}/{_escaped(name)}", depth + 1)
    elif isinstance(value, list) and isinstance(items := schema.get("items"), Mapping):
        for position, each in enumerate(cast("list[Any]", value)):
            yield from _named(cast("Mapping[str, Any]", items), each, root, f"{pointer}/{position}", depth + 1)


def _branches(schema: Mapping[str, Any], value: Any) -> Iterator[Mapping[str, Any]]:
    """Yield the alternatives of a schema that a value may be one of: of those that are told apart by a field, the one that it says."""
    chooser: Any = schema.get("discriminator")
    if chooser and isinstance(value, Mapping):
        said = cast("Mapping[str, Any]", value).get(chooser["propertyName"])
        if isinstance(said, str) and said in chooser["mapping"]:
            yield {"$ref": chooser["mapping"][said]}
        return
    for key in ("anyOf", "oneOf", "allOf"):
        yield from schema.get(key, ())


def _escaped(name: str) -> str:
    return name.replace("~", "~0").replace("/", "~1")
