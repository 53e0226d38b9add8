"""How the top-level fields of a pipeline meet those that it inherits. The rule of every field stands in `RULES`.

What a file says without overrides is data as anywhere else: no operators, `$` means nothing. Only in fields that are merged
does null mean "not this one"; exact changes are made by `overrides`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, cast

from flowmason_ray.spec.overriding import Marked, fresh, same_json
from flowmason_ray.spec.pipeline import EXTENSION_PREFIX
from flowmason_ray.spec.provenance import Mark, Origin

Rule = Literal["own", "said", "union", "deep", "schema", "by id"]

RULES: Mapping[str, Rule] = {
    "$schema": "own",
    "id": "own",
    "name": "own",
    "version": "own",
    "description": "said",
    "tags": "union",
    "category": "said",
    "metadata": "deep",
    "abstract": "own",
    "extends": "own",
    "overrides": "own",
    "compositions": "by id",
    "input_schema": "schema",
    "output_schema": "schema",
    "sample_input": "said",
    "stages": "by id",
    "output_stage_id": "said",
    "output": "said",
    "timeout_ms": "said",
    "max_parallel": "said",
    "budget": "deep",
    "defaults": "deep",
    "triggers": "deep",
    "federation": "deep",
    "residency": "deep",
}
"""own: never inherited. said: the child's if it says anything (null: none), else the parent's. union: the parent's, then the
child's that are new. deep: merged key by key, null removes a key. schema: as deep, by the keywords of JSON Schema. by id: each
stage and each composition by its own."""

PATCHABLE = tuple(key for key, rule in RULES.items() if rule in ("said", "union", "deep", "schema"))
"""The fields that `overrides` may change under `$pipeline`."""

_INSTEAD = {"output": "output_stage_id", "output_stage_id": "output"}
"""Two ways to say what the result is: a child that says one drops the other."""

_NAMED = frozenset({"properties", "patternProperties", "$defs", "definitions", "dependentSchemas"})
_SCHEMAS = frozenset({"items", "additionalProperties", "propertyNames", "contains", "unevaluatedItems"}) | {
    "unevaluatedProperties",
    "not",
    "if",
    "then",
    "else",
}


def rule_of(key: str) -> Rule:
    """Return how a top-level key is inherited; keys starting with `x-` are as `said`."""
    return "said" if key.startswith(EXTENSION_PREFIX) else RULES[key]


def combine_field(fields: dict[str, Marked], key: str, value: Any, origin: Origin) -> None:
    """Let what a child says about one field meet what it inherits.

    Args:
        fields: The inherited fields; changed.
        key: The field, whose rule is not `by id`.
        value: What the child says.
        origin: Where.
    """
    old = fields.get(key)
    rule = rule_of(key)
    if rule == "own":
        fields[key] = fresh(value, origin)
        return
    if key in _INSTEAD:
        fields.pop(_INSTEAD[key], None)
    if value is None:
        fields.pop(key, None)
    elif old is None:
        fields[key] = fresh(_without_nulls(value) if rule == "deep" else value, origin)
    elif rule == "union":
        fields[key] = _union(old, value, origin)
    elif rule == "deep":
        fields[key] = _deep(old, value, origin)
    elif rule == "schema":
        fields[key] = _schema(old, value, origin, unite=key == "output_schema")
    else:
        fields[key] = fresh(value, origin, old[1])


def fill(slot: Marked, stage: dict[str, Any], origin: Origin) -> Marked:
    """Return a slot with a stage put into it: what the slot says holds where the stage says nothing."""
    return _deep(slot, stage, origin, null_removes=False)


def _deep(old: Marked, value: Any, origin: Origin, *, null_removes: bool = True) -> Marked:
    inherited, mark = old
    if not isinstance(inherited, dict) or not isinstance(value, dict):
        return fresh(value, origin, mark)
    made = dict(cast("dict[str, Any]", inherited))
    marks: dict[str, Mark | None] = {}
    for key, inner in cast("dict[str, Any]", value).items():
        if inner is None and null_removes:
            made.pop(key, None)
            marks[key] = None
        elif key in made:
            made[key], marks[key] = _deep(
                (made[key], mark.member(key)), inner, origin.below(key), null_removes=null_removes
            )
        else:
            made[key], marks[key] = fresh(_without_nulls(inner) if null_removes else inner, origin.below(key))
    return made, mark.with_members(marks)


def _without_nulls(value: Any) -> Any:
    """Return a value of a merged field as it is where nothing is inherited: a null there removes nothing, and is nothing."""
    if not isinstance(value, dict):
        return value
    members = cast("dict[str, Any]", value)
    return {key: _without_nulls(inner) for key, inner in members.items() if inner is not None}


def _union(old: Marked, value: Any, origin: Origin) -> Marked:
    inherited, mark = old
    if not isinstance(inherited, list) or not isinstance(value, list):
        return fresh(value, origin, mark)
    made = list(cast("list[Any]", inherited))
    marks: dict[str, Mark | None] = {}
    for position, item in enumerate(cast("list[Any]", value)):
        if not any(same_json(item, each) for each in made):
            marks[str(len(made))] = Mark((origin.below(position),))
            made.append(item)
    return made, mark.with_members(marks)


def _schema(old: Marked, value: Any, origin: Origin, *, unite: bool) -> Marked:
    """Return a JSON Schema merged into another one; `unite` says that what either requires is required."""
    inherited, mark = old
    if not isinstance(inherited, dict) or not isinstance(value, dict):
        return fresh(value, origin, mark)
    made = dict(cast("dict[str, Any]", inherited))
    marks: dict[str, Mark | None] = {}
    for key, inner in cast("dict[str, Any]", value).items():
        there = (made[key], mark.member(key)) if key in made else None
        if key == "required" and unite and there is not None:
            made[key], marks[key] = _union(there, inner, origin.below(key))
        elif key in _NAMED and there is not None and isinstance(there[0], dict) and isinstance(inner, dict):
            made[key], marks[key] = _schemas_by_name(
                there, cast("dict[str, Any]", inner), origin.below(key), unite=unite
            )
        elif key in _SCHEMAS and inner is None:
            made.pop(key, None)
            marks[key] = None
        elif key in _SCHEMAS and there is not None:
            made[key], marks[key] = _schema(there, inner, origin.below(key), unite=unite)
        else:
            made[key], marks[key] = fresh(inner, origin.below(key), there[1] if there else None)
    return made, mark.with_members(marks)


def _schemas_by_name(old: Marked, value: dict[str, Any], origin: Origin, *, unite: bool) -> Marked:
    inherited, mark = old
    made: dict[str, Any] = dict(inherited)
    marks: dict[str, Mark | None] = {}
    for name, inner in value.items():
        if inner is None:
            made.pop(name, None)
            marks[name] = None
        elif name in made:
            made[name], marks[name] = _schema((made[name], mark.member(name)), inner, origin.below(name), unite=unite)
        else:
            made[name], marks[name] = fresh(inner, origin.below(name))
    return made, mark.with_members(marks)
