"""Where a tree says the ids of stages, and the same tree with stages renamed.

Ids are said in templates (anywhere in a config, in `output`, in mappings and overrides), in expressions (`when`, the bare
`condition` of a construct), and in plain fields (`depends_on`, bodies, `output_stage_id`, `placement.near`). Texts that are
only texts (descriptions, metadata, schemas) are never touched.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast

from flowmason_ray.spec.diff.tree import Body, Branches, Keyed, Names, Path, body_keys
from flowmason_ray.spec.language.stage_names import (
    rename_in_expression,
    rename_in_text,
    stages_in_expression,
    stages_in_text,
)

Role = Literal["reads", "after", "member", "result", "near"]
"""How a stage is said: read by a template, waited for, in a body, as the one whose output is the result, as a place."""


@dataclass(frozen=True, slots=True)
class Mention:
    """A place that says a stage's id. `by` is the stage (or composition) that says it, "" for the pipeline itself."""

    by: str
    stage: str
    role: Role
    path: Path


_TEMPLATED = ("config", "fallback_output", "cache")
_BARE = "condition"
_WORD = re.compile(r"[A-Za-z0-9_]+")


def mentions(tree: Mapping[str, Any]) -> Iterator[Mention]:
    """Yield every place of a tree at which the id of a stage is said."""
    stages = tree.get("stages")
    if isinstance(stages, Keyed):
        for name, stage in stages.items():
            yield from stage_mentions(name, stage)
    compositions = tree.get("compositions")
    if isinstance(compositions, Keyed):
        for name, each in compositions.items():
            path = ("compositions", name)
            yield from _listed(name, each.get("depends_on"), "after", (*path, "depends_on"))
            yield from _in_templates(name, each.get("input_mapping"), (*path, "input_mapping"))
            yield from _in_templates(name, each.get("output_mapping"), (*path, "output_mapping"))
    yield from _in_templates("", tree.get("output"), ("output",))
    yield from _in_templates("", tree.get("overrides"), ("overrides",))
    result = tree.get("output_stage_id")
    if isinstance(result, str):
        yield Mention("", result, "result", ("output_stage_id",))


def stage_mentions(name: str, stage: Mapping[str, Any], part: str = "stages") -> Iterator[Mention]:
    """Yield every place of one stage at which another one's id is said."""
    path = (part, name)
    yield from _listed(name, stage.get("depends_on"), "after", (*path, "depends_on"))
    for key in _TEMPLATED:
        if key in stage:
            yield from _in_templates(name, stage[key], (*path, key))
    when = stage.get("when")
    if isinstance(when, str):
        yield from (Mention(name, n.stage, "reads", (*path, "when")) for n in stages_in_expression(when))
    config = stage.get("config")
    if isinstance(config, dict):
        yield from _in_config(name, cast("dict[str, Any]", config), str(stage.get("component_type", "")), path)
    placement = stage.get("placement")
    near = cast("dict[str, Any]", placement).get("near") if isinstance(placement, dict) else None
    if isinstance(near, str):
        yield Mention(name, near, "near", (*path, "placement", "near"))


def _in_config(name: str, config: dict[str, Any], component: str, path: Path) -> Iterator[Mention]:
    for key in body_keys(component, config):
        yield from _members(name, config[key], (*path, "config", key))
    bare = config.get(_BARE)
    if isinstance(bare, str) and "{{" not in bare:
        yield from (Mention(name, n.stage, "reads", (*path, "config", _BARE)) for n in stages_in_expression(bare))


def _members(name: str, value: Any, path: Path) -> Iterator[Mention]:
    if isinstance(value, Body):
        yield from _listed(name, value, "member", path)
    elif isinstance(value, dict):
        for key, inner in cast("dict[str, Any]", value).items():
            yield from _members(name, inner, (*path, key))


def _listed(name: str, value: Any, role: Role, path: Path) -> Iterator[Mention]:
    if isinstance(value, (Names, Body)):
        yield from (Mention(name, each, role, (*path, each)) for each in value)


def _in_templates(name: str, value: Any, path: Path) -> Iterator[Mention]:
    if isinstance(value, str):
        if "{{" in value:
            seen: set[str] = set()
            for named in stages_in_text(value):
                if named.stage not in seen:
                    seen.add(named.stage)
                    yield Mention(name, named.stage, "reads", path)
    elif isinstance(value, (Names, Body)):
        return
    elif isinstance(value, dict):
        for key, inner in cast("dict[str, Any]", value).items():
            yield from _in_templates(name, inner, (*path, key))
    elif isinstance(value, list):
        found = {m.stage: None for item in cast("list[Any]", value) for m in _in_templates(name, item, path)}
        yield from (Mention(name, each, "reads", path) for each in found)  # a list is one leaf


# -- renaming ----------------------------------------------------------------------------------------------------------


def rename(tree: dict[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """Return the tree with stages renamed, where they stand and wherever they are said; unchanged parts are shared.

    Args:
        tree: A whole tree.
        names: Old id → new id. Several stages may change places, but no two may get the same id.
    """
    if not names:
        return tree
    made = dict(tree)
    starts = {found[0] if (found := _WORD.search(name)) else "" for name in names}
    for part in ("stages", "compositions"):
        listed = made.get(part)
        if isinstance(listed, Keyed):
            made[part] = Keyed(
                (
                    names.get(key, key) if part == "stages" else key,
                    rename_stage(each, names, part) if _may_say(each, starts) else each,
                )
                for key, each in listed.items()
            )
    for key in ("output", "overrides"):
        if key in made:
            made[key] = _in_value(made[key], names)
    if isinstance(made.get("output_stage_id"), str):
        made["output_stage_id"] = names.get(made["output_stage_id"], made["output_stage_id"])
    return made


def _may_say(stage: Any, starts: Collection[str]) -> bool:
    """Tell quickly whether a stage could say a name that starts with one of these words; most say none of them."""
    text = repr(stage)
    # An id in a string literal can be written with escapes, and one without any letter or digit starts with no word.
    return "\\\\" in text or "" in starts or not set(_WORD.findall(text)).isdisjoint(starts)


def rename_stage(stage: Any, names: Mapping[str, str], part: str = "stages") -> Any:
    """Return a stage (or a composition) that says other stages by their new names."""
    if not isinstance(stage, dict):
        return stage
    old = cast("dict[str, Any]", stage)
    made = {key: rename_at((part, "", key), value, names) for key, value in old.items()}
    config = made.get("config")
    if part == "stages" and isinstance(config, dict):
        bare = cast("dict[str, Any]", config).get(_BARE)
        if isinstance(bare, str) and "{{" not in bare:
            new = rename_in_expression(bare, names)
            made["config"] = config if new == bare else {**config, _BARE: new}
    return made if any(made[key] is not value for key, value in old.items()) else old


def rename_at(path: Path, value: Any, names: Mapping[str, str]) -> Any:
    """Return what stands at `path` of a tree with stages renamed in it.

    Args:
        path: Where it stands; a member of a set of stages is renamed in the path (`rename_path`), not here.
        value: A leaf or a part of a tree, or ABSENT.
        names: Old id → new id.
    """
    part = path[0] if path else ""
    if len(path) == 2 and part in ("stages", "compositions"):
        return rename_stage(value, names, part)
    if part in ("output", "overrides"):
        return _in_value(value, names)
    if part == "output_stage_id":
        return names.get(value, value) if isinstance(value, str) else value
    if len(path) < 3 or part not in ("stages", "compositions"):
        return value
    return _at_field(path, value, names)


def _at_field(path: Path, value: Any, names: Mapping[str, str]) -> Any:
    key = path[2]
    if key in ("depends_on", "config", *_TEMPLATED, "input_mapping", "output_mapping"):
        bare = len(path) == 4 and path[3] == _BARE and isinstance(value, str) and "{{" not in value
        return rename_in_expression(value, names) if bare else _in_value(value, names)
    if key == "when" and isinstance(value, str):
        return rename_in_expression(value, names)
    if key == "placement":
        if path[3:] == ("near",) and isinstance(value, str):
            return names.get(value, value)
        if isinstance(value, dict):
            inner = cast("dict[str, Any]", value)
            return {**inner, "near": names[inner["near"]]} if inner.get("near") in names else inner
    return value


def rename_path(path: Path, names: Mapping[str, str], *, member: bool) -> Path:
    """Return a path with the stage that it goes through renamed, and the last token too if it is a `member` of a set."""
    made = list(path)
    if len(made) >= 2 and made[0] == "stages":
        made[1] = names.get(made[1], made[1])
    if member and len(made) > 2:
        made[-1] = names.get(made[-1], made[-1])
    return tuple(made)


def _in_value(value: Any, names: Mapping[str, str]) -> Any:
    if isinstance(value, str):
        return rename_in_text(value, names)
    if isinstance(value, (Body, Names)):
        if names.keys().isdisjoint(value):
            return value
        return type(value)((names.get(key, key), True) for key in value)
    if isinstance(value, dict):
        old = cast("dict[str, Any]", value)
        made = {key: _in_value(inner, names) for key, inner in old.items()}
        return _rebuilt(old, made) if any(made[key] is not inner for key, inner in old.items()) else old
    if isinstance(value, list):
        items = cast("list[Any]", value)
        new = [_in_value(item, names) for item in items]
        return new if any(a is not b for a, b in zip(items, new, strict=True)) else items
    return value


def _rebuilt(old: dict[str, Any], made: dict[str, Any]) -> dict[str, Any]:
    return Branches(made) if isinstance(old, Branches) else made
