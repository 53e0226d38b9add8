"""Turns what the jsonschema library says about a value into our words, codes and JSON pointers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, cast

from flowmason_ray.errors import Problem, nearest
from flowmason_ray.spec.source import join_pointer
from flowmason_ray.spec.wording import one_of, shown

_TYPES = {
    "object": "an object",
    "array": "a list",
    "string": "text",
    "number": "a number",
    "integer": "a whole number",
    "boolean": "true or false",
    "null": "null",
}
_BOUNDS = {
    "minimum": "at least {}",
    "maximum": "at most {}",
    "exclusiveMinimum": "more than {}",
    "exclusiveMaximum": "less than {}",
    "multipleOf": "a multiple of {}",
    "minLength": "at least {} characters long",
    "maxLength": "at most {} characters long",
    "minItems": "a list of at least {} items",
    "maxItems": "a list of at most {} items",
    "minProperties": "an object with at least {} keys",
    "maxProperties": "an object with at most {} keys",
}


def violations_from(errors: Iterable[Any], *, subject: str, code: str | None = None) -> list[Problem]:
    """Return one problem per violation, in the order of their pointers, each once.

    Args:
        errors: `jsonschema` validation errors.
        subject: What the value is called: `input`, `output`, `schema`.
        code: A code for all of them; default: one per kind.
    """
    found: dict[tuple[str, str], Problem] = {}
    for error in errors:
        for problem in _problems(error, subject):
            key = (problem.path, problem.message)
            if key not in found:
                found[key] = problem if code is None else _with_code(problem, code)
    return sorted(found.values(), key=lambda p: p.path)


def too_deep(subject: str) -> Problem:
    """Return the problem of a value, or a schema, that is nested (or refers to itself) too deeply to be checked."""
    message = f"The {subject} is nested too deeply to be checked, or its schema refers to itself without end."
    return Problem(code="nested_too_deeply", message=message)


def _with_code(problem: Problem, code: str) -> Problem:
    return Problem(
        code=code,
        message=problem.message,
        path=problem.path,
        expected=problem.expected,
        found=problem.found,
        nearest=problem.nearest,
    )


def _problems(error: Any, subject: str) -> Iterator[Problem]:
    path = join_pointer(*error.absolute_path)
    where = f"{path!r} in the {subject}" if path else f"The {subject}"
    match error.validator:
        case "required" | "dependentRequired":
            yield from _missing(error, path, where, subject)
        case "additionalProperties":
            yield from _not_allowed(error, path, subject)
        case "anyOf" | "oneOf" if error.context:
            yield _no_alternative(error, path, where, subject)
        case _:
            yield _single(error, path, where)


def _missing(error: Any, path: str, where: str, subject: str) -> Iterator[Problem]:
    value: Mapping[str, Any] = error.instance
    wanted: list[str] = list(error.validator_value) if error.validator == "required" else []
    for trigger, names in error.validator_value.items() if error.validator == "dependentRequired" else ():
        wanted += names if trigger in value else []
    for name in wanted:
        if name not in value:
            others = [key for key in value if key not in error.schema.get("properties", {})]
            close = nearest(name, others)
            yield Problem(
                code="missing_field",
                message=f"{where} has no {name!r}.",
                path=f"{path}{join_pointer(name)}",
                expected=_expected_type(error.schema.get("properties", {}).get(name)),
                hint=f"It has {close!r}, which the {subject} schema does not know." if close else None,
            )


def _not_allowed(error: Any, path: str, subject: str) -> Iterator[Problem]:
    from flowmason_ray.spec.bounded_validation import matches

    known = cast("Mapping[str, Any]", error.schema.get("properties", {}))
    patterns = cast("Mapping[str, Any]", error.schema.get("patternProperties", {}))
    where = f"in {path!r} of the {subject}" if path else f"in the {subject}"
    for name in cast("Mapping[str, Any]", error.instance):
        if name in known or any(matches(pattern, name) for pattern in patterns):
            continue
        close = nearest(name, known)
        hint = None if close or not known else f"Allowed: {', '.join(known)}."
        yield Problem(
            code="not_allowed",
            message=f"{name!r} is not allowed {where}.",
            path=f"{path}{join_pointer(name)}",
            found=name,
            nearest=close,
            hint=hint,
        )


def _no_alternative(error: Any, path: str, where: str, subject: str) -> Problem:
    found = shown(error.instance)
    by_alternative: dict[Any, list[Any]] = {}
    for inner in error.context:
        by_alternative.setdefault(inner.relative_schema_path[0], []).append(inner)
    if all(len(inner) == 1 and inner[0].validator == "type" and not inner[0].path for inner in by_alternative.values()):
        expected = " or ".join(_type_words(inner[0].validator_value) for inner in by_alternative.values())
        message = f"{where} must be {expected}; found {found}."
        return Problem(code="wrong_type", message=message, path=path, expected=expected, found=found)
    # The alternative that was meant is most likely one of the right type, in which the checks got deepest.
    meant = max(by_alternative.values(), key=_closeness)
    reason = next(_problems(meant[0], subject))
    count = len(error.validator_value)
    return Problem(
        code="no_alternative",
        message=f"{where} fits none of the {count} alternatives; found {found}. The closest one says: {reason.message}",
        path=path,
        expected=reason.expected,
        found=found,
        nearest=reason.nearest,
    )


def _closeness(errors: list[Any]) -> tuple[bool, int, int]:
    right_type = not any(error.validator == "type" and not error.path for error in errors)
    return right_type, max(len(error.path) for error in errors), -len(errors)


def _single(error: Any, path: str, where: str) -> Problem:
    code, expected = _code_and_expected(error)
    found = shown(error.instance)
    close = None
    if error.validator == "enum" and isinstance(error.instance, str):
        choices: list[Any] = error.validator_value
        close = nearest(error.instance, [choice for choice in choices if isinstance(choice, str)])
    return Problem(
        code=code,
        message=f"{where} must be {expected}; found {found}.",
        path=path,
        expected=expected,
        found=found,
        nearest=close,
    )


def _code_and_expected(error: Any) -> tuple[str, str]:
    keyword, wanted = error.validator, error.validator_value
    if keyword == "type":
        return "wrong_type", _type_words(wanted)
    if keyword in _BOUNDS:
        return "out_of_range", _BOUNDS[keyword].format(wanted)
    match keyword:
        case "format":
            return "format", f"text in the format {wanted!r}"
        case "pattern":
            return "pattern", f"text that matches {wanted!r}"
        case "enum":
            choices: list[Any] = wanted
            if all(isinstance(choice, str) for choice in choices) and len(choices) <= 20:
                return "invalid_choice", one_of(choices)
            return "invalid_choice", f"one of {shown(choices)}"
        case "const":
            return "invalid_choice", shown(wanted)
        case "uniqueItems":
            return "not_unique", "a list without repeated items"
        case "contains" | "minContains" | "maxContains":
            return "invalid_value", "a list with the items that 'contains' asks for"
        case "not" if wanted == {}:
            return "not_allowed", "absent"
        case "not":
            return "not_allowed", f"something that does not fit {shown(wanted)}"
        case "oneOf":
            return "ambiguous", f"something that fits exactly one of {len(wanted)} alternatives (it fits several)"
        case "unevaluatedProperties" | "unevaluatedItems" | "propertyNames" | "dependentSchemas":
            return "not_allowed", f"without what {keyword!r} forbids"
        case _:
            return ("not_allowed", "absent") if keyword is None else ("invalid_value", f"what {keyword!r} asks for")


def _type_words(wanted: str | list[str]) -> str:
    names = [wanted] if isinstance(wanted, str) else wanted
    return " or ".join(_TYPES.get(name, name) for name in names)


def _expected_type(schema: Any) -> str | None:
    if not isinstance(schema, Mapping):
        return None
    wanted: Any = cast("Mapping[str, Any]", schema).get("type")
    return _type_words(wanted) if wanted else None
