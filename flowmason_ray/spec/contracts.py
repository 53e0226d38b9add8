"""What a pipeline promises by its schemas, and whether a child keeps what its parent has promised.

Whoever can run the parent must be able to run the child in its place. So a child's input schema may ask for no more than
its parent's (what the parent accepts, the child accepts), and its output schema may allow no more (what the child returns,
the parent could have returned). Both are one question: does every value of schema `narrow` satisfy schema `wide`?

JSON Schema leaves an object open unless it says otherwise. Here a property that the narrower schema does not name counts as
absent, as long as nothing is said about additional ones: a child may add an optional input, or an output. A required
property with a `default` asks for nothing, because defaults are filled in first.

The answer is never a wrong yes. What cannot be compared (`not`, `if`, two different patterns) is accepted when both sides say
the same, and else refused with that reason.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, cast

from flowmason_ray.spec.overriding import same_json
from flowmason_ray.spec.provenance import MISSING, value_at
from flowmason_ray.spec.source import join_pointer, split_pointer
from flowmason_ray.spec.wording import shown

Schema = Mapping[str, Any]

_ALL = frozenset({"null", "boolean", "integer", "number", "string", "array", "object"})
_SILENT = frozenset(
    {"title", "description", "default", "examples", "deprecated", "readOnly", "writeOnly", "$comment", "$id"}
) | {"$schema", "$defs", "definitions", "$anchor", "contentMediaType", "contentEncoding", "contentSchema"}
"""Keywords that constrain nothing."""
_BELOW = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}
_DEEPEST, _MOST_PAIRS = 40, 20_000
"""Bounds of a comparison; schemas that refer to themselves could go on for ever."""
_LEAST = ("minLength", "minItems", "minProperties")
_MOST = ("maxLength", "maxItems", "maxProperties")
_OF_TYPE = {
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


def breaks(narrow: Schema, wide: Schema, *, filled: Literal["wide", "neither"] = "neither") -> list[Break]:
    """Return why some value of `narrow` would not satisfy `wide`; empty when every one does.

    Args:
        narrow: The schema that all values have.
        wide: The schema that they are to satisfy.
        filled: The side whose defaults are filled in before it is applied.
    """
    return list(_Comparison(narrow, wide, filled == "wide").compare(narrow, wide, ""))


@dataclass(slots=True)
class _Comparison:
    narrow_root: Schema
    wide_root: Schema
    fills: bool
    _assumed: dict[tuple[int, int], tuple[Any, Any]] = field(default_factory=dict[tuple[int, int], tuple[Any, Any]])
    """Pairs that are being compared (and kept alive, so that an identity stays theirs): where schemas refer to themselves, the
    comparison may rest on itself."""

    def compare(self, narrow: Any, wide: Any, at: str) -> Iterator[Break]:
        if wide is True or wide == {} or narrow is False:
            return
        if wide is False:
            yield Break(pointer=at, keyword="false", why="nothing is allowed there")
            return
        if (id(narrow), id(wide)) in self._assumed:
            return
        if at.count("/") > _DEEPEST or len(self._assumed) > _MOST_PAIRS:
            yield Break(pointer=at, keyword="$ref", why="the schemas are too large or too deep to be compared")
            return
        self._assumed[id(narrow), id(wide)] = (narrow, wide)
        if narrow is not True and same_json(narrow, wide) and same_json(_defs(self.narrow_root), _defs(self.wide_root)):
            return
        parts = list(_conjuncts(narrow, self.narrow_root))
        choices = next((p for p in parts if _choice(p) is not None), None)
        if choices is not None and not any(
            same_json(_choice(choices), _choice(c)) for c in _conjuncts(wide, self.wide_root)
        ):
            keyword = "anyOf" if "anyOf" in choices else "oneOf"
            rest: list[Any] = [p if p is not choices else {k: v for k, v in p.items() if k != keyword} for p in parts]
            for choice in choices[keyword]:
                yield from self.compare({"allOf": [choice, *rest]}, wide, at)
            return
        for part in _conjuncts(wide, self.wide_root):
            yield from self._satisfies(parts, part, at)

    def _satisfies(self, parts: list[Schema], wide: Schema, at: str) -> Iterator[Break]:
        """Yield where values of all `parts` miss a schema that includes no other."""
        kinds = _types(parts)
        if not kinds:
            return
        values = _values(parts)
        if values is not None:
            yield from self._values_satisfy(values, wide, at)
            return
        yield from _type_breaks(kinds, wide, at)
        for keyword, wanted in wide.items():
            about = _OF_TYPE.get(keyword)
            if keyword in _SILENT or keyword == "type" or (about is not None and not kinds & _widened(about)):
                continue
            if keyword in ("properties", "additionalProperties", "required", "items", "prefixItems"):
                yield from self._structure(keyword, parts, wide, at)
            elif keyword in ("anyOf", "oneOf"):
                yield from self._one_of(keyword, parts, wanted, at)
            elif keyword in ("const", "enum"):
                words = shown(wanted)
                yield Break(
                    pointer=at, keyword=keyword, why=f"only {words} {'is' if keyword == 'const' else 'are'} allowed"
                )
            else:
                yield from _scalar_breaks(keyword, wanted, parts, at)

    def _values_satisfy(self, values: list[Any], wide: Schema, at: str) -> Iterator[Break]:
        from flowmason_ray.spec.schema_checks import CompiledSchema

        validator = CompiledSchema({**wide, "$defs": _defs(self.wide_root)}).validator
        for value in values:
            if not validator.is_valid(value):
                yield Break(pointer=at, keyword="enum", why=f"{shown(value)} is not allowed")

    def _one_of(self, keyword: str, parts: list[Schema], choices: list[Any], at: str) -> Iterator[Break]:
        if any(same_json(part.get(keyword), choices) for part in parts):
            return
        given: Any = parts[0] if len(parts) == 1 else {"allOf": parts}
        if keyword == "anyOf" and any(self._fits(given, choice, at) for choice in choices):
            return
        kinds = _types(parts)
        if (
            keyword == "anyOf" and len(kinds) > 1 and kinds != _ALL
        ):  # type by type: ["string", "null"] against two schemas
            each = [{"allOf": [*parts, {"type": kind}]} for kind in kinds]
            if all(any(self._fits(one, choice, at) for choice in choices) for one in each):
                return
        yield Break(
            pointer=at, keyword=keyword, why=f"it cannot be shown to fit one of the alternatives of {keyword!r}"
        )

    def _fits(self, narrow: Any, wide: Any, at: str) -> bool:
        inner = _Comparison(self.narrow_root, self.wide_root, self.fills, dict(self._assumed))
        return next(inner.compare(narrow, wide, at), None) is None

    def _structure(self, keyword: str, parts: list[Schema], wide: Schema, at: str) -> Iterator[Break]:
        wanted: Any = wide[keyword]
        match keyword:
            case "required":
                promised = {name for part in parts for name in part.get("required", ())}
                for name in wanted:
                    if name not in promised and not (self.fills and self._has_default(wide, name)):
                        yield Break(pointer=at, keyword="required", why=f"{name!r} is required")
            case "properties":
                for name, schema in wanted.items():
                    yield from self._property(name, schema, parts, at)
            case "additionalProperties":
                yield from self._additional(wanted, parts, wide, at)
            case "items":
                if wanted is not True:
                    yield from self._items(wanted, parts, len(wide.get("prefixItems", ())), at)
            case _:
                for position, schema in enumerate(wanted):
                    yield from self.compare(_item(parts, position), schema, f"{at}/{position}")

    def _has_default(self, schema: Schema, name: str) -> bool:
        schemas = [part.get("properties", {}).get(name) for part in _conjuncts(schema, self.wide_root)]
        inner = [part for s in schemas if isinstance(s, Mapping) for part in _conjuncts(s, self.wide_root)]
        return any("default" in part for part in inner)

    def _property(self, name: str, schema: Any, parts: list[Schema], at: str) -> Iterator[Break]:
        given: list[Any] = [s for part in parts if (s := _property_of(part, name)) is not None]
        if given or any(name in part.get("required", ()) for part in parts):  # else it counts as absent
            yield from self.compare(given[0] if len(given) == 1 else {"allOf": given}, schema, at + join_pointer(name))

    def _additional(self, wanted: Any, parts: list[Schema], wide: Schema, at: str) -> Iterator[Break]:
        if wanted is True:
            return
        known = wide.get("properties", {})
        patterns = wide.get("patternProperties", {})
        for part in parts:
            for name, schema in part.get("properties", {}).items():
                if name not in known and schema is not False and not patterns:
                    if wanted is False:
                        why = f"{name!r} is not among the allowed properties"
                        yield Break(pointer=at, keyword="additionalProperties", why=why)
                    else:
                        yield from self.compare(schema, wanted, at + join_pointer(name))
        said = [part["additionalProperties"] for part in parts if "additionalProperties" in part]
        if not said or all(s is True for s in said):
            why = (
                "properties that are not named are not allowed"
                if wanted is False
                else "other properties have to fit a schema"
            )
            yield Break(pointer=at, keyword="additionalProperties", why=why)
        elif not any(self._fits(s, wanted, at) for s in said):
            yield Break(
                pointer=at, keyword="additionalProperties", why="additional properties that fit are not allowed"
            )
        if patterns and not any(same_json(part.get("patternProperties"), patterns) for part in parts):
            yield Break(
                pointer=at, keyword="patternProperties", why="'patternProperties' differ and cannot be compared"
            )

    def _items(self, wanted: Any, parts: list[Schema], start: int, at: str) -> Iterator[Break]:
        given = [len(part.get("prefixItems", ())) for part in parts]
        for position in range(start, max(given, default=0)):
            yield from self.compare(_item(parts, position), wanted, f"{at}/{position}")
        closed = any(part.get("maxItems", start + 1) <= start for part in parts)
        if not closed:
            schemas = [part["items"] for part in parts if "items" in part]
            yield from self.compare(schemas[0] if len(schemas) == 1 else {"allOf": schemas}, wanted, f"{at}/*")


def _conjuncts(schema: Any, root: Schema, seen: frozenset[int] = frozenset()) -> Iterator[Schema]:
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
        yield from _conjuncts(part, root, seen)
    reference = known.get("$ref")
    if isinstance(reference, str) and reference.startswith("#"):
        yield from _conjuncts(value_at(root, reference[1:]), root, seen)


def _choice(part: Schema) -> Any:
    return part.get("anyOf", part.get("oneOf"))


def _defs(root: Schema) -> Any:
    return root.get("$defs", {})


def _widened(kind: str) -> frozenset[str]:
    return frozenset({"integer", "number"}) if kind == "number" else frozenset({kind})


def _types(parts: list[Schema]) -> frozenset[str]:
    """Return the types that values may have; a number may be an integer too."""
    kinds = _ALL
    for part in parts:
        said: Any = part.get("type")
        if said is not None:
            listed = {said} if isinstance(said, str) else set(cast("list[str]", said))
            kinds &= listed | ({"integer"} if "number" in listed else set[str]())
    return kinds


def _type_breaks(kinds: frozenset[str], wide: Schema, at: str) -> Iterator[Break]:
    if "type" not in wide:
        return
    allowed = _types([wide])
    beyond = kinds - allowed
    if beyond:
        words = "any type" if kinds == _ALL else " or ".join(sorted(beyond))
        wanted = wide["type"] if isinstance(wide["type"], str) else " or ".join(wide["type"])
        yield Break(pointer=at, keyword="type", why=f"it may be {words}, and {wanted} is expected")


def _values(parts: list[Schema]) -> list[Any] | None:
    """Return the values that are possible, when they are listed."""
    for part in parts:
        if "const" in part:
            return [part["const"]]
        if "enum" in part:
            return list(part["enum"])
    return None


def _property_of(part: Schema, name: str) -> Any:
    """Return what a schema says about a property; None: nothing, so that it counts as absent."""
    named = part.get("properties", {})
    if name in named:
        return named[name]
    others = part.get("additionalProperties")
    return cast("Schema", others) if isinstance(others, Mapping) else None


def _item(parts: list[Schema], position: int) -> Any:
    found: list[Any] = []
    for part in parts:
        prefix = part.get("prefixItems", ())
        if position < len(prefix):
            found.append(prefix[position])
        elif "items" in part:
            found.append(part["items"])
    return found[0] if len(found) == 1 else {"allOf": found}


def _scalar_breaks(keyword: str, wanted: Any, parts: list[Schema], at: str) -> Iterator[Break]:
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
