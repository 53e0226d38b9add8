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
from typing import Any, Literal

from flowmason_ray.spec.overriding import same_json
from flowmason_ray.spec.schema_parts import (
    ALL,
    OF_TYPE,
    SILENT,
    Break,
    Schema,
    conjuncts,
    item,
    possible_values,
    property_of,
    scalar_breaks,
    type_breaks,
    types,
    widened,
)
from flowmason_ray.spec.source import join_pointer
from flowmason_ray.spec.wording import shown

_DEEPEST, _MOST_PAIRS = 40, 20_000
"""Bounds of a comparison; schemas that refer to themselves could go on for ever."""


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
        parts = list(conjuncts(narrow, self.narrow_root))
        choices = next((p for p in parts if _choice(p) is not None), None)
        if choices is not None and not any(
            same_json(_choice(choices), _choice(c)) for c in conjuncts(wide, self.wide_root)
        ):
            keyword = "anyOf" if "anyOf" in choices else "oneOf"
            rest: list[Any] = [p if p is not choices else {k: v for k, v in p.items() if k != keyword} for p in parts]
            for choice in choices[keyword]:
                yield from self.compare({"allOf": [choice, *rest]}, wide, at)
            return
        for part in conjuncts(wide, self.wide_root):
            yield from self._satisfies(parts, part, at)

    def _satisfies(self, parts: list[Schema], wide: Schema, at: str) -> Iterator[Break]:
        """Yield where values of all `parts` miss a schema that includes no other."""
        kinds = types(parts)
        if not kinds:
            return
        values = possible_values(parts)
        if values is not None:
            yield from self._values_satisfy(values, wide, at)
            return
        yield from type_breaks(kinds, wide, at)
        for keyword, wanted in wide.items():
            about = OF_TYPE.get(keyword)
            if keyword in SILENT or keyword == "type" or (about is not None and not kinds & widened(about)):
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
                yield from scalar_breaks(keyword, wanted, parts, at)

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
        kinds = types(parts)
        if (
            keyword == "anyOf" and len(kinds) > 1 and kinds != ALL
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
                    yield from self.compare(item(parts, position), schema, f"{at}/{position}")

    def _has_default(self, schema: Schema, name: str) -> bool:
        schemas = [part.get("properties", {}).get(name) for part in conjuncts(schema, self.wide_root)]
        inner = [part for s in schemas if isinstance(s, Mapping) for part in conjuncts(s, self.wide_root)]
        return any("default" in part for part in inner)

    def _property(self, name: str, schema: Any, parts: list[Schema], at: str) -> Iterator[Break]:
        given: list[Any] = [s for part in parts if (s := property_of(part, name)) is not None]
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
            yield from self.compare(item(parts, position), wanted, f"{at}/{position}")
        closed = any(part.get("maxItems", start + 1) <= start for part in parts)
        if not closed:
            schemas = [part["items"] for part in parts if "items" in part]
            yield from self.compare(schemas[0] if len(schemas) == 1 else {"allOf": schemas}, wanted, f"{at}/*")


def _choice(part: Schema) -> Any:
    return part.get("anyOf", part.get("oneOf"))


def _defs(root: Schema) -> Any:
    return root.get("$defs", {})
