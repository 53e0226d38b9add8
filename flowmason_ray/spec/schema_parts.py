"""What the keywords of a JSON Schema say, one by one: the vocabulary in which `contracts` compares two schemas."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast

from flowmason_ray.spec.overriding import same_json
from flowmason_ray.spec.provenance import MISSING, value_at
from flowmason_ray.spec.source import join_pointer, split_pointer
from flowmason_ray.spec.wording import shown

Schema = Mapping[str, Any]

ALL = frozenset({"null", "boolean", "integer", "number", "string", "array", "object"})
SILENT = frozenset(
    {"title", "description", "default", "examples", "deprecated", "readOnly", "writeOnly", "$comment", "$id"}
) | {"$schema", "$defs", "definitions", "$anchor", "contentMediaType", "contentEncoding", "contentSchema"}
"""Keywords that constrain nothing."""
_BELOW = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}
_LEAST = ("minLength", "minItems", "minProperties")
_MOST = ("maxLength", "maxItems", "maxProperties")
OF_TYPE = {
    **dict.fromkeys(("minLength", "maxLength", "pattern", "format"), "string"),
    **dict.fromkeys((*_BELOW, "multipleOf"), "number"),
    **dict.fromkeys(("minItems", "maxItems", "uniqueItems", "items", "prefixItems", "contains"), "array"),
    **dict.fromkeys(("minContains", "maxContains", "unevaluatedItems"), "array"),
    **dict.fromkeys(("properties", "required", "additionalProperties", "patternProperties", "propertyNames"), "object"),
    **dict.fromkeys(("minProperties", "maxProperties", "dependentRequired", "dependentSchemas"), "object"),
    "unevaluatedProperties": "object",
}
"""The type of values that a keyword is about; values of other types satisfy it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Break:
    """One way in which the narrower schema admits what the wider one does not."""

    pointer: str
    """Of what is being described, as property names: `/order/lines`; "" for the whole value."""
    keyword: str
    why: str
    """A clause: `'a' is required`."""

    def pointer_in(self, schema: Schema) -> str:
        """Return the JSON pointer of the part of a schema that this is about, as far down as the schema goes."""
        pointer = ""
        for token in split_pointer(self.pointer):
            steps = (
                ("/items",)
                if token == "*"
                else (f"/properties{join_pointer(token)}", f"/prefixItems/{token}", "/items")
            )
            step = next((step for step in steps if value_at(schema, pointer + step) is not MISSING), None)
            if step is None:
                return pointer
            pointer += step
        there = f"{pointer}/{self.keyword}"
        return pointer if value_at(schema, there) is MISSING else there


def conjuncts(schema: Any, root: Schema, seen: frozenset[int] = frozenset()) -> Iterator[Schema]:
    """Yield a schema and all that it includes without a condition, each without `allOf` and `$ref`."""
    if schema is False:
        yield {"enum": []}
        return
    if not isinstance(schema, Mapping) or id(cast("object", schema)) in seen:
        return
    known = cast("Schema", schema)
    seen |= {id(known)}
    own = {key: value for key, value in known.items() if key not in ("allOf", "$ref")}
    if own:
        yield own
    for part in known.get("allOf", ()):
        yield from conjuncts(part, root, seen)
    reference = known.get("$ref")
    if isinstance(reference, str) and reference.startswith("#"):
        yield from conjuncts(value_at(root, reference[1:]), root, seen)


def widened(kind: str) -> frozenset[str]:
    """Return the types that a keyword about one type concerns."""
    return frozenset({"integer", "number"}) if kind == "number" else frozenset({kind})


def types(parts: list[Schema]) -> frozenset[str]:
    """Return the types that values may have; a number may be an integer too."""
    kinds = ALL
    for part in parts:
        said: Any = part.get("type")
        if said is not None:
            listed = {said} if isinstance(said, str) else set(cast("list[str]", said))
            kinds &= listed | ({"integer"} if "number" in listed else set[str]())
    return kinds


def type_breaks(kinds: frozenset[str], wide: Schema, at: str) -> Iterator[Break]:
    """Yield why values of these types miss a schema's `type`."""
    if "type" not in wide:
        return
    allowed = types([wide])
    beyond = kinds - allowed
    if beyond:
        words = "any type" if kinds == ALL else " or ".join(sorted(beyond))
        wanted = wide["type"] if isinstance(wide["type"], str) else " or ".join(wide["type"])
        yield Break(pointer=at, keyword="type", why=f"it may be {words}, and {wanted} is expected")


def possible_values(parts: list[Schema]) -> list[Any] | None:
    """Return the values that are possible, when they are listed."""
    for part in parts:
        if "const" in part:
            return [part["const"]]
        if "enum" in part:
            return list(part["enum"])
    return None


def property_of(part: Schema, name: str) -> Any:
    """Return what a schema says about a property; None: nothing, so that it counts as absent."""
    named = part.get("properties", {})
    if name in named:
        return named[name]
    others = part.get("additionalProperties")
    return cast("Schema", others) if isinstance(others, Mapping) else None


def item(parts: list[Schema], position: int) -> Any:
    """Return what schemas say about the item at a position."""
    found: list[Any] = []
    for part in parts:
        prefix = part.get("prefixItems", ())
        if position < len(prefix):
            found.append(prefix[position])
        elif "items" in part:
            found.append(part["items"])
    return found[0] if len(found) == 1 else {"allOf": found}


def scalar_breaks(keyword: str, wanted: Any, parts: list[Schema], at: str) -> Iterator[Break]:
    """Yield why the values do not satisfy a keyword that compares with one number, text or schema."""
    if any(same_json(part.get(keyword), wanted) for part in parts):
        return
    given = [part[keyword] for part in parts if keyword in part]
    if keyword in _BELOW and _bounded(keyword, wanted, parts):
        return
    if keyword in _LEAST and any(n >= wanted for n in given):
        return
    if keyword in _MOST and any(n <= wanted for n in given):
        return
    if keyword == "multipleOf" and any(n % wanted == 0 for n in given):
        return
    if keyword == "uniqueItems" and wanted is False:
        return
    found = f"; found {shown(given[0])}" if given else ""
    if keyword in _BELOW:
        why = f"it has to be {_BELOW[keyword]} {wanted}{found}"
    elif keyword in (*_LEAST, *_MOST, "multipleOf", "uniqueItems", "pattern", "format"):
        why = f"{keyword!r} has to be {shown(wanted)}{found}"
    else:
        why = f"{keyword!r} differs and cannot be compared"
    yield Break(pointer=at, keyword=keyword, why=why)


def _bounded(keyword: str, wanted: float, parts: list[Schema]) -> bool:
    low = "inimum" in keyword
    strict = keyword.startswith("exclusive")
    closed, opened = ("minimum", "exclusiveMinimum") if low else ("maximum", "exclusiveMaximum")
    for part in parts:
        for name in (closed, opened):
            if name in part:
                bound = part[name]
                beyond = bound > wanted if low else bound < wanted
                if beyond or (bound == wanted and (name == opened or not strict)):
                    return True
    return False
