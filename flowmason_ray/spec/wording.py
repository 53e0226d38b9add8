"""Turns what pydantic says about a document into our words, codes and JSON pointers.

pydantic reports a path through models and union members; a person needs the key as it is written, the stage it belongs
to, what was expected there and what was found. That translation is here and nowhere else. What a kind of document calls
its parts is a `Vocabulary`; that of pipelines is the default.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from pydantic import ValidationError

from flowmason_ray.errors import Problem, nearest
from flowmason_ray.spec import pipeline
from flowmason_ray.spec.source import join_pointer

_KINDS = {
    "int_type": "a whole number",
    "int_parsing_size": "a whole number",
    "float_type": "a number",
    "string_type": "text",
    "bool_type": "true or false",
    "dict_type": "an object",
    "model_type": "an object",
    "list_type": "a list",
}
_PATTERNS = {
    "id": ("invalid_id", "letters, digits, '_' and '-'"),
    "version": ("invalid_version", "a semantic version such as '1.2.0'"),
    "component_type": ("invalid_component_type", "'name', 'name@range' or 'owner/package:name'"),
}
_BOUNDS = {
    "greater_than_equal": ("ge", "at least {}"),
    "greater_than": ("gt", "more than {}"),
    "less_than_equal": ("le", "at most {}"),
    "less_than": ("lt", "less than {}"),
}
_EXAMPLES = {"retry": 'an object such as {"max_attempts": 3}'}

_LONGEST_SHOWN = 60


@dataclass(frozen=True, kw_only=True, slots=True)
class Vocabulary:
    """What a kind of document calls its parts."""

    document: str
    """The whole: `the pipeline`."""
    model: type[pipeline.Model]
    """The model of the whole."""
    parts: Mapping[str, type[pipeline.Model]]
    """The model of what stands under a key, for suggestions of keys."""
    items: Mapping[str, str]
    """Lists at the top whose items have a word of their own."""
    named_by: str
    """The key that holds an item's name."""
    hints: Mapping[type[pipeline.Model], str]
    """What to say about an unknown key that resembles none; default: all that are known."""


PIPELINE = Vocabulary(
    document="the pipeline",
    model=pipeline.Pipeline,
    parts={
        "stages": pipeline.Stage,
        "compositions": pipeline.Composition,
        "retry": pipeline.Retry,
        "cache": pipeline.Cache,
        "llm_settings": pipeline.LlmSettings,
        "resources": pipeline.Resources,
        "placement": pipeline.Placement,
        "federation": pipeline.Federation,
        "budget": pipeline.Budget,
        "defaults": pipeline.Defaults,
        "triggers": pipeline.Triggers,
    },
    items={"stages": "stage", "compositions": "composition"},
    named_by="id",
    hints={pipeline.Stage: "What the component itself takes belongs under 'config'; remarks under 'metadata'."},
)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Complaint:
    """One of pydantic's errors: its path in the data, and at which part of that path a union (if any) was entered."""

    type: str
    tokens: tuple[str | int, ...]
    union_at: int | None
    context: Mapping[str, Any]
    message: str
    found: Any


def problems_from(error: ValidationError, data: Mapping[str, Any], words: Vocabulary = PIPELINE) -> Iterator[Problem]:
    """Yield one problem for each thing that is wrong, with canonical pointers and without lines.

    Args:
        error: What pydantic found.
        data: What it was given.
        words: What the document calls its parts.
    """
    complaints = [_complaint(e, data) for e in error.errors(include_url=False)]
    by_union: dict[tuple[str | int, ...], list[_Complaint]] = {}
    for complaint in complaints:
        if complaint.union_at is None:
            yield _problem(complaint, data, words)
        else:
            by_union.setdefault(complaint.tokens[: complaint.union_at], []).append(complaint)
    for place, members in by_union.items():
        # A member that got inside the value is the one that was meant; the others only say that they are not it.
        inside = [c for c in members if len(c.tokens) > len(place)]
        if inside:
            for complaint in inside:
                yield _problem(complaint, data, words)
        else:
            yield _problem(members[0], data, words, expected=" or ".join(dict.fromkeys(_expected(c) for c in members)))


def owner_name(tokens: Sequence[str | int], data: Mapping[str, Any], words: Vocabulary = PIPELINE) -> str:
    """Return what the object at a path is called in messages: `stage 'a'`, `'retry' of stage 'a'`, `the pipeline`."""
    match tokens:
        case []:
            return words.document
        case [str() as part, int() as index] if part in words.items:
            word = words.items[part]
            item = data[part][index]
            identifier = cast("dict[str, Any]", item).get(words.named_by) if isinstance(item, dict) else None
            return f"{word} {identifier!r}" if isinstance(identifier, str) else f"{word} number {index + 1}"
        case [*before, int() as index]:
            return f"item {index + 1} of {owner_name(before, data, words)}"
        case [*before, last]:
            return f"{last!r}" if not before else f"{last!r} of {owner_name(before, data, words)}"
        case _:
            return words.document


def shown(value: object) -> str:
    """Return a value as it is shown in a message: as JSON on one line, shortened."""
    if isinstance(value, str):
        text = repr(value)
    else:
        try:
            text = json.dumps(value, ensure_ascii=False)
        except (TypeError, ValueError):
            text = repr(value)
    return text if len(text) <= _LONGEST_SHOWN else f"{text[: _LONGEST_SHOWN - 1]}…"


def one_of(choices: Iterable[str]) -> str:
    """Return choices as a phrase: `'a', 'b' or 'c'`."""
    quoted = [repr(choice) for choice in choices]
    if not quoted:
        return "nothing (no value is allowed)"
    return quoted[0] if len(quoted) == 1 else f"{', '.join(quoted[:-1])} or {quoted[-1]}"


def _complaint(error: Any, data: Mapping[str, Any]) -> _Complaint:
    """Follow pydantic's path through the data; steps that are not in the data name a member of a union."""
    tokens: list[str | int] = []
    union_at: int | None = None
    here: Any = data
    loc: tuple[str | int, ...] = error["loc"]
    for position, step in enumerate(loc):
        is_last = position == len(loc) - 1
        if isinstance(here, dict) and step in here:
            here = cast("dict[str, Any]", here)[cast("str", step)]
        elif isinstance(here, list) and isinstance(step, int) and step < len(cast("list[Any]", here)):
            here = cast("list[Any]", here)[step]
        elif is_last and error["type"] == "missing":
            tokens.append(step)
            continue
        else:
            union_at = len(tokens) if union_at is None else union_at
            continue
        tokens.append(step)
    return _Complaint(
        type=error["type"],
        tokens=tuple(tokens),
        union_at=union_at,
        context=error.get("ctx", {}),
        message=error["msg"],
        found=error["input"],
    )


def _problem(complaint: _Complaint, data: Mapping[str, Any], words: Vocabulary, expected: str | None = None) -> Problem:
    path = join_pointer(*complaint.tokens)
    key = str(complaint.tokens[-1]) if complaint.tokens else ""
    owner = owner_name(complaint.tokens[:-1], data, words)
    if complaint.type == "extra_forbidden":
        return _unknown_key(key, owner, path, complaint.tokens[:-1], words)
    if complaint.type == "missing":
        owner = owner[0].upper() + owner[1:]
        return Problem(code="missing_field", message=f"{owner} has no {key!r}.", path=path, expected=key)
    code, wanted = _code_and_expected(complaint, key)
    wanted = expected or wanted
    found = shown(complaint.found)
    subject = owner_name(complaint.tokens, data, words) if complaint.tokens else "the document"
    choices = _choices(complaint)
    close = nearest(complaint.found, choices) if choices and isinstance(complaint.found, str) else None
    return Problem(
        code=code,
        message=f"{subject[0].upper()}{subject[1:]} must be {wanted}; found {found}.",
        path=path,
        expected=wanted,
        found=found,
        nearest=close,
    )


def _unknown_key(key: str, owner: str, path: str, tokens: Sequence[str | int], words: Vocabulary) -> Problem:
    # The nearest part with a model of its own: under `mocks` there are names of stages before the mock itself.
    parts = (words.parts[token] for token in reversed(tokens) if isinstance(token, str) and token in words.parts)
    model = next(parts, words.model)
    close = nearest(key, pipeline.field_order(model))
    hint = None
    if close is None:
        hint = words.hints.get(model, f"Known keys: {', '.join(pipeline.field_order(model))}.")
    return Problem(
        code="unknown_key", message=f"Unknown key {key!r} in {owner}.", path=path, found=key, nearest=close, hint=hint
    )


def _code_and_expected(complaint: _Complaint, key: str) -> tuple[str, str]:
    if complaint.type == "string_pattern_mismatch" and key in _PATTERNS:
        return _PATTERNS[key]
    if complaint.type in _BOUNDS:
        return "out_of_range", _expected(complaint)
    if complaint.type == "literal_error":
        return "invalid_choice", _expected(complaint)
    if complaint.type in _KINDS:
        return "wrong_type", _EXAMPLES.get(key, _expected(complaint))
    return "invalid_value", _expected(complaint)


def _expected(complaint: _Complaint) -> str:
    if complaint.type in _BOUNDS:
        name, words = _BOUNDS[complaint.type]
        bound = complaint.context[name]
        return words.format(int(bound) if isinstance(bound, float) and bound.is_integer() else bound)
    if complaint.type == "literal_error":
        return one_of(_choices(complaint))
    if complaint.type == "string_too_short":
        return "text that is not empty"
    return _KINDS.get(complaint.type, complaint.message)


def _choices(complaint: _Complaint) -> list[str]:
    if complaint.type != "literal_error":
        return []
    return [part.strip("'") for part in str(complaint.context["expected"]).replace(" or ", ", ").split(", ")]
