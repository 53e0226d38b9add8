"""A validator of JSON Schema (draft 2020-12) whose patterns cannot hang and whose decimals are decimal.

The library matches `pattern` and `patternProperties` with Python's `re`, which backtracks: `^(a+)+$` on forty letters takes
hours, holds the interpreter's lock all the while, and no time limit ends it. Schemas and values may both be foreign, so patterns
go to RE2, as those of expressions do. What RE2 does not know (look-ahead, back-references) is an error that says so.
`multipleOf: 0.1` is meant for decimal numbers; in binary 0.3 is no multiple of it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from fractions import Fraction
from math import isfinite
from typing import Any, cast

from jsonschema import Draft202012Validator, validators
from jsonschema.exceptions import ValidationError

from flowmason_ray.spec.language.budget import Fault
from flowmason_ray.spec.language.regexes import MAX_PATTERN, compiled

_UNICODE = re.compile(r"(\\\\)|\\u([0-9a-fA-F]{4})")
_IN_PLACE = ("allOf", "anyOf", "oneOf")


class UnusablePattern(ValueError):
    """A pattern that RE2 does not know; the message says why."""


def matches(pattern: str, text: str) -> bool:
    """Tell whether the pattern of a schema matches anywhere in a text, in time linear in both.

    Raises:
        UnusablePattern: RE2 does not know the pattern.
    """
    found = _compiled(pattern)
    try:
        return found.search(text) is not None
    except UnicodeEncodeError:  # half of a surrogate pair: no pattern means it
        return found.search(text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")) is not None


def check_pattern(pattern: str) -> None:
    """Refuse a pattern that cannot be used.

    Raises:
        UnusablePattern: RE2 does not know it.
    """
    _compiled(pattern)


def _compiled(pattern: str) -> Any:
    if len(pattern) > MAX_PATTERN:
        raise UnusablePattern(f"A pattern has up to {MAX_PATTERN} characters; this one has {len(pattern)}.")
    # \u00e9 is how JSON Schema's dialect writes a character by its number.
    known = _UNICODE.sub(lambda found: found[1] or f"\\x{{{found[2]}}}", pattern)
    try:
        return compiled(known)
    except Fault as exc:
        raise UnusablePattern(str(exc)) from None


def _pattern(validator: Any, pattern: str, instance: Any, schema: Any) -> Iterator[ValidationError]:
    if validator.is_type(instance, "string") and not matches(pattern, instance):
        yield ValidationError(f"{instance!r} does not match {pattern!r}")


def _pattern_properties(
    validator: Any, patterns: Mapping[str, Any], instance: Any, schema: Any
) -> Iterator[ValidationError]:
    if not validator.is_type(instance, "object"):
        return
    for pattern, inner in patterns.items():
        for key, value in instance.items():
            if matches(pattern, key):
                yield from validator.descend(value, inner, path=key, schema_path=pattern)


def _extras(instance: Mapping[str, Any], schema: Mapping[str, Any]) -> list[str]:
    """Return the keys that neither `properties` nor `patternProperties` of a schema speak of."""
    known, patterns = schema.get("properties", {}), schema.get("patternProperties", {})
    return [key for key in instance if key not in known and not any(matches(pattern, key) for pattern in patterns)]


def _additional(validator: Any, wanted: Any, instance: Any, schema: Any) -> Iterator[ValidationError]:
    if not validator.is_type(instance, "object"):
        return
    extras = _extras(instance, schema)
    if validator.is_type(wanted, "object"):
        for key in extras:
            yield from validator.descend(instance[key], wanted, path=key)
    elif not wanted and extras:
        yield ValidationError(f"Additional properties are not allowed ({_unexpected(extras)})")


def _unexpected(keys: list[str]) -> str:
    return f"{', '.join(map(repr, sorted(keys)))} {'was' if len(keys) == 1 else 'were'} unexpected"


def _unevaluated(validator: Any, wanted: Any, instance: Any, schema: Any) -> Iterator[ValidationError]:
    if not validator.is_type(instance, "object"):
        return
    known = _evaluated(validator, instance, {k: v for k, v in schema.items() if k != "unevaluatedProperties"})
    left = [key for key in instance if key not in known]
    if wanted is False:
        if left:
            yield ValidationError(f"Unevaluated properties are not allowed ({_unexpected(left)})")
        return
    for key in left:
        yield from validator.descend(instance[key], wanted, path=key, schema_path=key)


def _evaluated(validator: Any, instance: Mapping[str, Any], schema: Any) -> set[str]:
    """Return the keys that a schema, and those of its parts that the value fits, speak of."""
    if not validator.is_type(schema, "object"):
        return set()
    if "additionalProperties" in schema or "unevaluatedProperties" in schema:
        return set(instance)
    found = set(instance) - set(_extras(instance, schema))
    for keyword in ("$ref", "$dynamicRef"):
        if keyword in schema:
            target = validator._resolver.lookup(schema[keyword])
            inner = validator.evolve(schema=target.contents, _resolver=target.resolver)
            found |= _evaluated(inner, instance, target.contents)
    for key, part in schema.get("dependentSchemas", {}).items():
        if key in instance:
            found |= _evaluated(validator, instance, part)
    parts = [part for keyword in _IN_PLACE for part in schema.get(keyword, ())]
    if "if" in schema:
        fits = validator.evolve(schema=schema["if"]).is_valid(instance)
        found |= _evaluated(validator, instance, schema["if"]) if fits else set()
        parts.append(schema.get("then" if fits else "else", True))
    for part in parts:
        if validator.evolve(schema=part).is_valid(instance):
            found |= _evaluated(validator, instance, part)
    return found


def _multiple_of(validator: Any, step: Any, instance: Any, schema: Any) -> Iterator[ValidationError]:
    if not validator.is_type(instance, "number"):
        return
    if not isfinite(instance) or (_exact(instance) / _exact(step)).denominator != 1:
        yield ValidationError(f"{instance!r} is not a multiple of {step}")


def _exact(number: Any) -> Fraction:
    """Return a number as it is written, not as binary approximates it."""
    return Fraction(number) if isinstance(number, int) else Fraction(repr(float(number)))


BoundedValidator: Any = cast("Any", validators).extend(
    Draft202012Validator,
    {
        "pattern": _pattern,
        "patternProperties": _pattern_properties,
        "additionalProperties": _additional,
        "unevaluatedProperties": _unevaluated,
        "multipleOf": _multiple_of,
    },
)
"""As `Draft202012Validator`, except for what this module is about. Validating raises `UnusablePattern`."""
