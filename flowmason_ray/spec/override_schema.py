"""What editors know of `overrides`: patches of what is inherited, and the operators that may stand in them.

The model takes any JSON there, because only the parents tell what can be changed (`overriding`). The schema says the form: which
fields there are, which operators, and what each takes. An operator that does not exist is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from flowmason_ray.spec.combining import PATCHABLE
from flowmason_ray.spec.layering import WHOLE
from flowmason_ray.spec.overriding import OPERATORS

_ANYTHING = {"$ref": "#/$defs/JsonValue"}
_ITEMS = {"type": "array", "items": _ANYTHING}
_PATCHES = {"$ref": "#/$defs/Patch"}

_MERGE: dict[str, Any] = {
    "type": "object",
    "required": ["by", "items"],
    "additionalProperties": False,
    "properties": {
        "by": {"type": "string", "description": "The key by which the items are told apart."},
        "items": {
            "type": "object",
            "additionalProperties": _PATCHES,
            "description": "By the value of that key: the patch of that item; `null` takes it out.",
        },
    },
}

_TAKES: dict[str, dict[str, Any]] = {
    "$replace": {**_ANYTHING, "description": "Takes the place of what is inherited, as it is. Stands alone."},
    "$add": {**_ANYTHING, "description": "The value of a key that is not inherited. Stands alone."},
    "$remove": {**_ITEMS, "description": "Items to take out of the inherited list; each must be there."},
    "$merge": {**_MERGE, "description": "Patches for the items of an inherited list of objects."},
    "$prepend": {**_ITEMS, "description": "Items to put before those of the inherited list."},
    "$append": {**_ITEMS, "description": "Items to put behind those of the inherited list."},
}


def describe_overrides(schema: dict[str, Any]) -> None:
    """Put the form of `overrides` into the schema of a pipeline."""
    definitions = cast("dict[str, Any]", schema["$defs"])
    stage = {**definitions["Composition"]["properties"], **definitions["Stage"]["properties"]}
    pipeline = {name: field for name, field in schema["properties"].items() if name in PATCHABLE}
    definitions["Patch"] = {
        "description": "What becomes of an inherited value: `null` removes it, an object is merged into it (or is an "
        "operator, if its keys begin with `$`), anything else takes its place.",
        "anyOf": [
            {"type": ["null", "boolean", "number", "string", "array"]},
            {"$ref": "#/$defs/PatchObject"},
        ],
    }
    definitions["PatchObject"] = _object("A patch of an object, or operators.", {}, OPERATORS)
    definitions["StageOverride"] = _object(
        "Changes to an inherited stage or composition.",
        {name: field for name, field in stage.items() if name != "id"},
        ("$replace",),
    )
    definitions["PipelineOverride"] = _object("Changes to the pipeline's own inherited fields.", pipeline, ())
    schema["$defs"] = dict(sorted(definitions.items()))
    overrides = schema["properties"]["overrides"]
    overrides["properties"] = {
        WHOLE: {"$ref": "#/$defs/PipelineOverride", "description": "Changes to the pipeline's own inherited fields."}
    }
    overrides["additionalProperties"] = {
        "anyOf": [{"type": "null", "description": "The stage is not inherited."}, {"$ref": "#/$defs/StageOverride"}]
    }


def _object(description: str, fields: dict[str, Any], operators: Sequence[str]) -> dict[str, Any]:
    """Return the schema of an object of patches: of these fields, and of any others; or of these operators."""
    known = "|".join(["\\$", *(f"{name[1:]}$" for name in operators)])
    return {
        "type": "object",
        "description": description,
        "properties": {
            **{name: {**_PATCHES, "description": field["description"]} for name, field in fields.items()},
            **{name: _TAKES[name] for name in operators},
        },
        "patternProperties": {rf"^\$(?!{known})": False},
        "additionalProperties": _PATCHES,
        "dependentSchemas": {name: {"maxProperties": 1} for name in operators if name in ("$replace", "$add")},
    }
