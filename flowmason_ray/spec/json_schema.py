"""The JSON Schema (draft 2020-12) of our files, for editors: generated from the models.

The canonical spelling only: an editor should suggest what `fm fmt` would write. The generated file lies beside this
module and is shipped; `scripts/generate.py` writes it and CI checks that it is current.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

from flowmason_ray.spec.override_schema import describe_overrides
from flowmason_ray.spec.pipeline import EXTENSION_PREFIX, Model, Pipeline

SCHEMA_FILE = Path(__file__).with_name("pipeline.schema.json")

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def pipeline_schema() -> dict[str, Any]:
    """Return the JSON Schema of a pipeline file."""
    schema = document_schema(Pipeline, title=Pipeline.TITLE)
    _admit_names(schema)
    describe_overrides(schema)
    return schema


def document_schema(model: type[Model], *, title: str) -> dict[str, Any]:
    """Return the JSON Schema of a file whose content `model` describes."""
    generated = model.model_json_schema(by_alias=True, mode="validation")
    definitions = cast("dict[str, Any]", generated.pop("$defs"))
    for definition in (generated, *definitions.values()):
        if "properties" in definition:
            _admit_extensions(definition)
    return {
        "$schema": DIALECT,
        "title": title,
        **{key: value for key, value in generated.items() if key != "title"},
        "$defs": {name: _tidied(definition) for name, definition in sorted(definitions.items())},
    }


def schema_bytes() -> bytes:
    """Return the content of the generated file."""
    return written_schema(pipeline_schema())


def written_schema(schema: dict[str, Any]) -> bytes:
    """Return a schema as the content of a file."""
    return f"{json.dumps(_tidied(schema, top=True), indent=2, ensure_ascii=False)}\n".encode()


def _admit_extensions(definition: dict[str, Any]) -> None:
    """Replace the field that collects `x-` keys by the pattern of those keys."""
    del definition["properties"][EXTENSION_PREFIX]
    definition["patternProperties"] = {f"^{EXTENSION_PREFIX}": True}


def _admit_names(schema: dict[str, Any]) -> None:
    """`compositions` may also be a list of names; that spelling is part of the format, so editors accept it."""
    items = schema["properties"]["compositions"]["items"]
    schema["properties"]["compositions"]["items"] = {"anyOf": [items, {"type": "string", "minLength": 1}]}


def _tidied(schema: Any, *, top: bool = False) -> Any:
    """Drop what only distracts in an editor: titles that are made up from names, defaults that say nothing."""
    if isinstance(schema, list):
        return [_tidied(item) for item in cast("list[Any]", schema)]
    if not isinstance(schema, dict):
        return schema
    made: dict[str, Any] = {}
    for key, value in cast("dict[str, Any]", schema).items():
        if key == "title" and not top:
            continue
        if key in ("properties", "$defs", "patternProperties"):
            made[key] = {name: _tidied(inner) for name, inner in cast("dict[str, Any]", value).items()}
        elif key == "default":
            if not _says_nothing(value):
                made[key] = value
        else:
            made[key] = _tidied(value)
    return made


def _says_nothing(default: Any) -> bool:
    """Tell whether a default says no more than that the key may be absent."""
    if isinstance(default, dict) and default:
        return all(map(_says_nothing, cast("dict[str, Any]", default).values()))
    return default is None or default == ""
