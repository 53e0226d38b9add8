"""`schema_validate`: does a value fit a JSON Schema (draft 2020-12)?

A misfit is a result, not a failure: `valid` is false and `errors` says where. A schema that is no schema fails the stage.
`$ref`s resolve within the schema itself and nowhere else: nothing is fetched.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, cast
from urllib.parse import unquote

from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError, ValidationError
from pydantic import BaseModel, ConfigDict, Field
from referencing import Registry
from referencing.exceptions import Unresolvable

from flowmason_ray.components.base import operator
from flowmason_ray.components.frames import is_frame
from flowmason_ray.engine.component import Context
from flowmason_ray.errors import PermanentError
from flowmason_ray.spec.bounded_validation import BoundedValidator, UnusablePattern


class SchemaViolation(BaseModel):
    """One place where a value misses its schema."""

    path: str = Field(description="A JSON pointer to the offending value; '' is the value itself.")
    message: str = Field(description="What is wrong.")
    rule: str = Field(description="The schema's keyword that refuses it.")
    expected: Any = Field(default=None, description="What that keyword asks for.")


@operator(effect="pure", cost="cpu", category="data", raw=("json_schema",))
class SchemaValidate:
    """Checks a value against a JSON Schema and lists every violation."""

    class Input(BaseModel):
        """The value and its schema."""

        model_config = ConfigDict(extra="forbid")

        data: Any = Field(description="The value to check.")
        json_schema: dict[str, Any] = Field(
            description="A JSON Schema, draft 2020-12, taken as written (no templates)."
        )
        strict: bool = Field(
            default=False,
            description="Fail with code `invalid_data` when the value does not fit, instead of reporting it.",
        )
        closed: bool = Field(
            default=False,
            description="Refuse properties that an object schema does not name, as if additionalProperties were false.",
        )
        coerce_types: bool = Field(
            default=False,
            description="First turn texts into the numbers and booleans that the schema asks for, where they read as such.",
        )
        collect_all_errors: bool = Field(default=True, description="List all violations, not only the first.")

    class Output(BaseModel):
        """The verdict."""

        valid: bool = Field(description="Whether the value fits.")
        data: Any = Field(description="The value, after 'coerce_types'.")
        errors: list[SchemaViolation] = Field(description="The violations, in the order of their paths.")
        error_count: int = Field(description="How many violations are listed.")

    def execute(self, input: Input, context: Context) -> Output:
        """Check the value.

        Raises:
            PermanentError: the schema is invalid (`invalid_schema`), the value is a table (`invalid_input`), or it does not
                fit and that is to be a failure (`invalid_data`; the violations are in the error's details).
        """
        if is_frame(input.data):
            raise PermanentError("A table has no JSON Schema; check it with table_sql.", code="invalid_input")
        schema = closed(input.json_schema) if input.closed else input.json_schema
        try:
            Draft202012Validator.check_schema(schema)
        except SchemaError as exc:
            raise PermanentError(
                f"'json_schema' is not a JSON Schema: {exc.message} at {_pointer(exc.absolute_path) or '/'}.",
                code="invalid_schema",
            ) from exc
        data = coerced(input.data, schema) if input.coerce_types else input.data
        try:
            found = _violations(data, schema)
        except Unresolvable as exc:
            raise PermanentError(
                f"'json_schema' refers to {exc.ref!r}, which is not in the schema itself; nothing is fetched.",
                code="invalid_schema",
            ) from exc
        except UnusablePattern as exc:
            raise PermanentError(
                f"'json_schema' has a pattern that cannot be used: {exc}", code="invalid_schema"
            ) from exc
        except RecursionError as exc:
            raise PermanentError("'json_schema' refers to itself without end.", code="invalid_schema") from exc
        errors = [_violation(e) for e in (found if input.collect_all_errors else found[:1])]
        if errors and input.strict:
            words = "; ".join(f"{error.path or '/'}: {error.message}" for error in errors[:5])
            details = {"errors": [error.model_dump() for error in errors]}
            raise PermanentError(f"The value does not fit its schema: {words}.", code="invalid_data", details=details)
        return self.Output(valid=not errors, data=data, errors=errors, error_count=len(errors))


def _violations(data: Any, schema: Any) -> list[ValidationError]:
    # An empty registry: what the schema does not hold itself is not found, and nothing is fetched.
    validator = BoundedValidator(
        schema, format_checker=Draft202012Validator.FORMAT_CHECKER, registry=cast("Any", Registry)()
    )
    return sorted(validator.iter_errors(data), key=lambda e: ([str(p) for p in e.absolute_path], str(e.validator)))


def _violation(error: ValidationError) -> SchemaViolation:
    return SchemaViolation(
        path=_pointer(error.absolute_path),
        message=error.message,
        rule=str(error.validator),
        expected=cast("Any", error.validator_value) if error.validator not in _WIDE_RULES else None,
    )


_WIDE_RULES = frozenset({"anyOf", "oneOf", "allOf", "not", "if", "properties", "$ref", "dependentSchemas"})
"""Keywords whose value is whole schemas: repeating them in each error would bury it."""


def _pointer(path: Any) -> str:
    return "".join("/" + str(p).replace("~", "~0").replace("/", "~1") for p in path)


_VALUE_MAPS = frozenset({"properties", "patternProperties"})
_VALUE_LISTS = frozenset({"prefixItems"})
_VALUE_SCHEMAS = frozenset({"items", "contains", "unevaluatedItems", "additionalProperties", "unevaluatedProperties"})
"""Keywords under which schemas of other values stand, not of the value itself."""
_SAME_MAPS = frozenset({"$defs", "definitions", "dependentSchemas"})
_SAME_LISTS = frozenset({"allOf", "anyOf", "oneOf"})
_SAME_SCHEMAS = frozenset({"if", "then", "else"})
"""Keywords under which further schemas of the same value stand; closed each by itself, they would refuse each other's names."""


def closed(schema: Any) -> Any:
    """Return `schema` with every object that it names properties of closed against others.

    An object is closed once, by its outermost schema, with `unevaluatedProperties`: that one sees what all parts (`allOf`, `anyOf`,
    `$ref`, …) name together.
    """
    return _closed(schema, schema)


def _closed(schema: Any, root: Any) -> Any:
    out = _closed_within(schema, root)
    if _names_properties(schema, root, ()) and not {"additionalProperties", "unevaluatedProperties"} & set(out):
        out["unevaluatedProperties"] = False
    return out


def _closed_within(schema: Any, root: Any) -> Any:
    if not isinstance(schema, dict):
        return schema
    out: dict[str, Any] = {}
    for key, value in cast("dict[str, Any]", schema).items():
        close = _closed_within if key in _SAME_MAPS | _SAME_LISTS | _SAME_SCHEMAS else _closed
        if key in _VALUE_MAPS | _SAME_MAPS and isinstance(value, dict):
            out[key] = {k: close(v, root) for k, v in cast("dict[str, Any]", value).items()}
        elif key in _VALUE_LISTS | _SAME_LISTS and isinstance(value, list):
            out[key] = [close(v, root) for v in cast("list[Any]", value)]
        elif key in _VALUE_SCHEMAS | _SAME_SCHEMAS:
            out[key] = close(value, root)
        else:
            out[key] = value
    return out


def _names_properties(schema: Any, root: Any, seen: tuple[int, ...]) -> bool:
    """Tell whether a schema names properties of its value, itself or by a part or a reference."""
    if not isinstance(schema, dict) or id(cast("Any", schema)) in seen:
        return False
    rules = cast("dict[str, Any]", schema)
    if any(key in rules for key in _VALUE_MAPS):
        return True
    parts: list[Any] = [rules.get(key) for key in _SAME_SCHEMAS]
    for key in _SAME_LISTS:
        parts += cast("list[Any]", rules[key]) if isinstance(rules.get(key), list) else []
    if isinstance(rules.get("dependentSchemas"), dict):
        parts += rules["dependentSchemas"].values()
    if isinstance(rules.get("$ref"), str):
        parts.append(_target(rules["$ref"], root))
    return any(_names_properties(part, root, (*seen, id(rules))) for part in parts)


def _target(reference: str, root: Any) -> Any:
    """Return what a reference within the schema leads to; None for one that leads nowhere, which validating reports."""
    place, mark, fragment = reference.partition("#")
    if place or not mark:
        return None
    if fragment and not fragment.startswith("/"):
        return _anchored(fragment, root)
    found = root
    for part in fragment.split("/")[1:]:
        key = unquote(part).replace("~1", "/").replace("~0", "~")
        if isinstance(found, dict):
            found = cast("dict[str, Any]", found).get(key)
        elif isinstance(found, list) and key.isdecimal() and int(key) < len(cast("list[Any]", found)):
            found = cast("list[Any]", found)[int(key)]
        else:
            return None
    return found


def _anchored(name: str, part: Any) -> Any:
    if isinstance(part, dict):
        inside = cast("dict[str, Any]", part)
        if inside.get("$anchor") == name:
            return inside
        return next((found for each in inside.values() if (found := _anchored(name, each)) is not None), None)
    if isinstance(part, list):
        each = (_anchored(name, item) for item in cast("list[Any]", part))
        return next((found for found in each if found is not None), None)
    return None


def coerced(value: Any, schema: Any) -> Any:
    """Return a copy of `value` in which texts are the numbers and booleans that `schema` asks for, where they read so.

    Follows `properties`, `additionalProperties`, `items` and `prefixItems`. What does not read as the type stays.
    """
    if not isinstance(schema, dict):
        return value
    rules = cast("Mapping[str, Any]", schema)
    if isinstance(value, dict):
        named = rules.get("properties", {})
        other = rules.get("additionalProperties")
        return {k: coerced(v, named.get(k, other)) for k, v in cast("dict[str, Any]", value).items()}
    if isinstance(value, list):
        first = rules.get("prefixItems", [])
        rest = rules.get("items")
        items = cast("list[Any]", value)
        return [coerced(v, first[i] if i < len(first) else rest) for i, v in enumerate(items)]
    if isinstance(value, str):
        return _read_as(value, rules.get("type"))
    return copy.copy(value)


def _read_as(text: str, wanted: Any) -> Any:
    types: list[str] = [wanted] if isinstance(wanted, str) else cast("list[str]", wanted or [])
    if "string" in types:
        return text
    word = text.strip()
    for name in types:
        if name == "boolean" and word.lower() in ("true", "false"):
            return word.lower() == "true"
        if name == "null" and word.lower() in ("", "null"):
            return None
        if name in ("integer", "number"):
            try:
                return int(word) if name == "integer" else _number(word)
            except ValueError:
                continue
    return text


def _number(word: str) -> float:
    number = float(word)
    if number != number or number in (float("inf"), float("-inf")):
        raise ValueError(word)
    return number
