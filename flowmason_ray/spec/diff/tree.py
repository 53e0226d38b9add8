"""A pipeline as a tree of maps, so that two of them can be compared name by name.

A document has lists that are really maps or sets: stages are found by their id, `depends_on`, tags and the members of a body
carry no order. Compared by position, such lists give differences that mean nothing, and merges that are wrong. Here they
become maps: `Keyed` (by id), `Names` (a set of texts), `Body` (a set that is something else when it is empty than when it is
absent) and `Branches` (a list of bodies, by index). Every other list keeps its order and is one leaf.

The order of a map is kept as Python keeps it, as layout: `plain` gives back what `tree_of` was given.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any, Final, cast

from flowmason_ray.errors import InvalidPipeline, Problem

Path = tuple[str, ...]
"""Where something is in a tree: `("stages", "fetch", "config", "url")`."""


class Absent:
    """The value of what is not there; there is one, `ABSENT`. JSON's null is a value like any other."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "ABSENT"

    def __reduce__(self) -> str:
        return "ABSENT"


ABSENT: Final = Absent()


class Keyed(dict[str, Any]):
    """A list of objects with an `id` each, by it; the objects are without it."""


class Names(dict[str, Any]):
    """A list of texts whose order carries no meaning; being absent is the same as being empty. All values are True."""


class Body(dict[str, Any]):
    """The members of a control-flow body. All values are True."""


class Branches(dict[str, Any]):
    """A list of bodies, by index."""


BODY_KEYS: Mapping[str, tuple[str, ...]] = {
    "conditional": ("true_branch_stages", "false_branch_stages"),
    "router": ("routes", "default_route"),
    "foreach": ("loop_stages",),
    "trycatch": ("try_stages", "catch_stages", "finally_stages"),
    "parallel": ("branches",),
}
"""Which keys of a construct's config name stages. Of components that are not known here, `*_stages` and `branches` do when
everything in them is a stage of the pipeline: that is how a third-party construct writes its bodies."""

LAYOUT = "position"
"""The key of a stage that says where editors draw it: carried along, never a difference."""

_SCHEMAS = ("input_schema", "output_schema")
_PLAIN_IN_SCHEMA = frozenset({"default", "const", "enum", "examples"})
"""Keys of a JSON Schema under which values stand, not schemas."""


# -- from and to documents ---------------------------------------------------------------------------------------------


def tree_of(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return a canonical document (`LoadedPipeline.data`) as a tree; values that need no change are shared.

    Raises:
        InvalidPipeline: two stages have the same id, or one has none: then nothing can be found by it.
    """
    made = dict(document)
    stages = made.get("stages")
    ids = frozenset(_ids(stages))
    if isinstance(stages, list):
        made["stages"] = _keyed(cast("list[Any]", stages), "stages", ids)
    if isinstance(made.get("compositions"), list):
        made["compositions"] = _keyed(made["compositions"], "compositions", ids)
    if isinstance(made.get("overrides"), dict):
        patches = cast("dict[str, Any]", made["overrides"])
        made["overrides"] = {key: stage_tree(patch, frozenset()) for key, patch in patches.items()}
    _names(made, "tags")
    for key in _SCHEMAS:
        if key in made:
            made[key] = _schema(made[key])
    if isinstance(made.get("residency"), dict):
        made["residency"] = {k: _as_names(v) for k, v in cast("dict[str, Any]", made["residency"]).items()}
    if isinstance(made.get("defaults"), dict):
        made["defaults"] = _with_retry(made["defaults"])
    return made


def plain(tree: Any) -> Any:
    """Return a tree, or a part of one, as the values of a document."""
    if isinstance(tree, Keyed):
        return [{"id": key, **plain(value)} for key, value in tree.items()]
    if isinstance(tree, (Names, Body)):
        return list(tree)
    if isinstance(tree, Branches):
        return [plain(value) for value in tree.values()]
    if isinstance(tree, dict):
        return {key: plain(value) for key, value in cast("dict[str, Any]", tree).items()}
    return tree


def plain_at(path: Path, tree: Any) -> Any:
    """Return what stands at `path` as the value of a document: a stage has its `id` then."""
    if len(path) == 2 and path[0] in ("stages", "compositions") and isinstance(tree, dict):
        return {"id": path[1], **plain(tree)}
    return plain(tree)


def stage_tree(stage: Any, ids: Collection[str]) -> Any:
    """Return a stage, or a patch of one, without its `id`, as a tree."""
    if not isinstance(stage, dict):
        return stage
    made = {key: value for key, value in cast("dict[str, Any]", stage).items() if key != "id"}
    _names(made, "depends_on")
    _names(made, "labels")
    made = _with_retry(made)
    config = made.get("config")
    if isinstance(config, dict):
        made["config"] = _config(cast("dict[str, Any]", config), str(made.get("component_type", "")), ids)
    return made


def body_keys(component: str, config: Mapping[str, Any]) -> Iterator[str]:
    """Yield the keys of a config that may name the stages of bodies."""
    known = BODY_KEYS.get(component.partition("@")[0])
    yield from (key for key in config if (key in known if known else key.endswith("_stages") or key == "branches"))


def _config(config: dict[str, Any], component: str, ids: Collection[str]) -> dict[str, Any]:
    known = component.partition("@")[0] in BODY_KEYS
    made = config
    for key in tuple(body_keys(component, config)):
        body = _bodies(config[key], None if known else ids)
        if body is not config[key]:
            made = dict(config) if made is config else made
            made[key] = body
    return made


def _bodies(value: Any, ids: Collection[str] | None) -> Any:
    """Return the bodies that a value names; the value itself when it names none."""
    if isinstance(value, dict):
        routes = cast("dict[str, Any]", value)
        made = {key: _bodies(route, ids) for key, route in routes.items()}
        return made if all(isinstance(each, Body) for each in made.values()) else routes
    if not isinstance(value, list):
        return value
    written = cast("list[Any]", value)
    if written and all(isinstance(item, list) for item in written):
        bodies = [_bodies(item, ids) for item in written]
        if all(isinstance(each, Body) for each in bodies):
            return Branches((str(index), each) for index, each in enumerate(bodies))
        return written
    if not _distinct(written) or (ids is not None and not all(item in ids for item in written)):
        return written
    return Body.fromkeys(written, True)


def _ids(stages: Any) -> Iterator[str]:
    if isinstance(stages, list):
        for stage in cast("list[Any]", stages):
            if isinstance(stage, dict) and isinstance(name := cast("dict[str, Any]", stage).get("id"), str):
                yield name


def _keyed(items: list[Any], part: str, ids: Collection[str]) -> Keyed:
    made = Keyed()
    for index, item in enumerate(items):
        name = cast("dict[str, Any]", item).get("id") if isinstance(item, dict) else None
        if not isinstance(name, str):
            message = f"A member of {part!r} has no id, and so cannot be compared with another one."
            raise InvalidPipeline([Problem(code="missing_field", message=message, path=f"/{part}/{index}")])
        if name in made:
            message = f"The id {name!r} is used twice under {part!r}."
            raise InvalidPipeline([Problem(code="duplicate_id", message=message, path=f"/{part}/{index}/id")])
        made[name] = stage_tree(item, ids)
    return made


def _with_retry(owner: dict[str, Any]) -> dict[str, Any]:
    retry = owner.get("retry")
    if isinstance(retry, dict) and "retry_on" in retry:
        made = dict(cast("dict[str, Any]", retry))
        _names(made, "retry_on")
        return {key: made if key == "retry" else value for key, value in owner.items()}
    return owner


def _names(owner: dict[str, Any], key: str) -> None:
    if key in owner:
        owner[key] = _as_names(owner[key])


def _as_names(value: Any) -> Any:
    return Names.fromkeys(cast("list[str]", value), True) if _distinct(value) else value


def _distinct(value: Any) -> bool:
    """Tell whether it is a list of texts of which none is there twice."""
    if not isinstance(value, list):
        return False
    items = cast("list[Any]", value)
    return all(isinstance(item, str) for item in items) and len(set(items)) == len(items)


def _schema(value: Any) -> Any:
    if not isinstance(value, dict):
        return value  # what lies in a list (`anyOf`) is one leaf with it
    made: dict[str, Any] = {}
    for key, inner in cast("dict[str, Any]", value).items():
        if key == "required":
            made[key] = _as_names(inner)
        elif key in ("properties", "$defs", "patternProperties", "dependentSchemas") and isinstance(inner, dict):
            made[key] = {name: _schema(each) for name, each in cast("dict[str, Any]", inner).items()}
        else:
            made[key] = inner if key in _PLAIN_IN_SCHEMA else _schema(inner)
    return made


# -- pointers ----------------------------------------------------------------------------------------------------------


def pointer_of(path: Path) -> str:
    """Return a path as people write it: `/stages/fetch/config/url`, with the escapes of RFC 6901."""
    return "".join("/" + token.replace("~", "~0").replace("/", "~1") for token in path)


def path_of(pointer: str) -> Path:
    """Return the path that `pointer_of` wrote; the leading slash may be missing."""
    if not pointer:
        return ()
    return tuple(token.replace("~1", "/").replace("~0", "~") for token in pointer.removeprefix("/").split("/"))


def value_at(tree: Any, path: Path) -> Any:
    """Return what stands at a path of a tree, or ABSENT."""
    for token in path:
        if not isinstance(tree, dict):
            return ABSENT
        tree = cast("dict[str, Any]", tree).get(token, ABSENT)
    return tree
