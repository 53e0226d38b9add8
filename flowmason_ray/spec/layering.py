"""One file on top of what it inherits: the step of which inheritance consists.

A `Layered` is a pipeline being put together: its fields, its stages and compositions by id, each with its mark. `put_on` lets
a file act on it and returns a new one; what the file does not touch is shared, so that a small child of a large parent
costs little. Nothing here looks for files; `inheritance` says which file acts on what.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, cast

from flowmason_ray.errors import Problem, Suggestions, nearest
from flowmason_ray.spec import pipeline
from flowmason_ray.spec.combining import PATCHABLE, combine_field, fill, rule_of
from flowmason_ray.spec.loader import LoadedPipeline
from flowmason_ray.spec.overriding import At, Marked, Patcher, fresh, is_operator, same_json
from flowmason_ray.spec.parsing import kind_of
from flowmason_ray.spec.pipeline import EXTENSION_PREFIX
from flowmason_ray.spec.provenance import Mark, Origin

SLOT = "abstract"
"""The `component_type` of a slot."""

WHOLE = "$pipeline"
"""The key under `overrides` that means the pipeline's own fields; no stage can be called so."""

Part = Literal["stages", "compositions"]

_MODELS: Mapping[Part, type[pipeline.Model]] = {"stages": pipeline.Stage, "compositions": pipeline.Composition}
_WORDS: Mapping[Part, str] = {"stages": "stage", "compositions": "composition"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Element:
    """A stage or a composition of a pipeline being put together."""

    value: dict[str, Any]
    mark: Mark
    part: Part
    by: int
    """The file that wrote it as a whole, or filled it: the identity of the document."""
    rival: Origin | None = None
    """Where another parent has written something else under the same id, until that is settled."""

    @property
    def is_slot(self) -> bool:
        """Whether a child has to fill it."""
        return self.part == "stages" and self.value.get("component_type") == SLOT

    @property
    def title(self) -> str:
        """What it is called in messages."""
        return f"{_WORDS[self.part]} {self.value.get('id')!r}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Layered:
    """A pipeline as far as it is put together."""

    fields: Mapping[str, Marked] = field(default_factory=dict[str, Marked])
    elements: Mapping[str, Element] = field(default_factory=dict[str, Element])
    removed: Mapping[str, Origin] = field(default_factory=dict[str, Origin])
    """Ids that were inherited and taken out, with the override that did it."""
    slots: Mapping[str, Origin] = field(default_factory=dict[str, Origin])
    """Where each slot, filled or not, was declared."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """A file, and what it inherits from."""

    document: LoadedPipeline
    ancestors: frozenset[int]
    """The identities of all documents that it extends, directly or not."""


def put_on(below: Layered, layer: Layer, problems: list[Problem]) -> Layered:
    """Return `below` with a file on top of it.

    Args:
        below: What it inherits.
        layer: The file.
        problems: Takes what is wrong; such parts are left as they were.
    """
    return _Putting(below, layer, problems).whole()


class _Putting:
    def __init__(self, below: Layered, layer: Layer, problems: list[Problem]) -> None:
        self._layer = layer
        self._document = layer.document
        self._problems = problems
        self._patcher = Patcher(problems)
        self._fields = dict(below.fields)
        self._elements = dict(below.elements)
        self._removed = dict(below.removed)
        self._slots = dict(below.slots)

    def whole(self) -> Layered:
        """Let every part of the file act: overrides on what is inherited, then fields, then its own stages."""
        data = self._document.data
        root = not self._fields
        for key in [key for key in self._fields if rule_of(key) == "own"]:
            del self._fields[key]
        self._override(cast("dict[str, Any]", data.get("overrides", {})))
        for key, value in data.items():
            if rule_of(key) == "by id":
                continue
            if root:
                self._fields[key] = fresh(value, self._origin(key))
            else:
                combine_field(self._fields, key, value, self._origin(key))
        parts: tuple[Part, Part] = ("stages", "compositions")
        for part in parts:
            for position, value in enumerate(data.get(part, ())):
                self._add(cast("dict[str, Any]", value), part, self._origin(part, position))
        return Layered(fields=self._fields, elements=self._elements, removed=self._removed, slots=self._slots)

    def _origin(self, *tokens: str | int) -> Origin:
        return Origin(self._document, "").below(*tokens)

    # -- its own stages -------------------------------------------------------------------------------------------------

    def _add(self, value: dict[str, Any], part: Part, origin: Origin) -> None:
        identifier = str(value.get("id"))
        old = self._elements.get(identifier)
        made = Element(value=value, mark=Mark((origin,)), part=part, by=id(self._document))
        if old is None:
            self._elements[identifier] = made
            self._removed.pop(identifier, None)
            if made.is_slot:
                self._slots[identifier] = origin
        elif old.is_slot and part == "stages":
            filled, mark = fill((old.value, old.mark), value, origin)
            mark = Mark((*mark.chain, origin), mark.below)
            self._elements[identifier] = replace(old, value=filled, mark=mark, by=id(self._document))
        elif old.by in self._layer.ancestors or old.part != part:
            self._report(
                "inherited_stage",
                f"The id {identifier!r} is taken: {old.title} is inherited ({old.mark.chain[-1]}).",
                origin.below("id"),
                found=identifier,
                hint=f"Write what is to change under 'overrides': {{\"{identifier}\": …}}, or take another id.",
            )
        elif not same_json(old.value, value):
            # Two parents that do not know each other: the one that is listed first holds, if a child settles it.
            self._elements[identifier] = replace(made, rival=old.mark.chain[-1])

    # -- overrides ------------------------------------------------------------------------------------------------------

    def _override(self, overrides: dict[str, Any]) -> None:
        known = [name for name, element in self._elements.items() if self._may_change(element)]
        suggestions = Suggestions([*known, WHOLE])
        for name, patch in overrides.items():
            origin = self._origin("overrides", name)
            if name == WHOLE:
                self._patch_fields(patch, origin)
                continue
            element = self._elements.get(name)
            if element is None or not self._may_change(element):
                self._no_such(name, element, origin, suggestions)
            elif patch is None:
                del self._elements[name]
                self._removed[name] = origin
            elif is_operator(patch) and set(cast("dict[str, Any]", patch)) == {"$replace"}:
                self._replace(name, element, patch["$replace"], origin)
            elif is_operator(patch):
                at = At(origin=origin, owner=element.title)
                self._patcher.refuse(cast("dict[str, Any]", patch), at, "as a whole it can only be replaced, alone")
            elif isinstance(patch, dict) and self._fills_again(name, element, cast("dict[str, Any]", patch)):
                self._elements[name] = replace(element, rival=origin)
            elif isinstance(patch, dict):
                self._patch(name, element, cast("dict[str, Any]", patch), origin)
            else:
                message = f"The override of {element.title} is an object, or null to remove it; found {kind_of(patch)}."
                self._report("wrong_type", message, origin, expected="an object or null")

    def _may_change(self, element: Element) -> bool:
        """Tell whether the file inherits the element, also when another parent has filled or replaced it since."""
        ancestors = self._layer.ancestors
        return element.by in ancestors or any(id(origin.document) in ancestors for origin in element.mark.chain)

    def _fills_again(self, name: str, element: Element, patch: dict[str, Any]) -> bool:
        """Tell whether a patch is meant to fill a slot that another parent, unknown to this file, has filled already."""
        others = element.by not in self._layer.ancestors
        return name in self._slots and not element.is_slot and others and "component_type" in patch

    def _no_such(self, name: str, element: Element | None, origin: Origin, suggestions: Suggestions) -> None:
        own = any(
            item.get("id") == name for part in ("stages", "compositions") for item in self._document.data.get(part, ())
        )
        hint = None
        if not self._layer.ancestors:
            message = (
                f"There is nothing to override: this pipeline extends no other one, so it has no inherited {name!r}."
            )
        elif name in self._removed:
            message = f"{name!r} cannot be overridden: it is removed at {self._removed[name]}."
        elif element is not None:
            message = f"{name!r} is not inherited by this file: it comes from {element.mark.chain[-1]}, which it does not extend."
        elif own:
            message = f"{name!r} is written in this file and not inherited: change it there."
        else:
            message = f"No stage {name!r} is inherited, so it cannot be overridden."
            hint = "A new stage is added under 'stages'."
        self._report(
            "unknown_override", message, origin, key=True, found=name, nearest=suggestions.nearest(name), hint=hint
        )

    def _patch(self, name: str, element: Element, patch: dict[str, Any], origin: Origin) -> None:
        if "id" in patch:
            message = f"The id of {element.title} cannot be overridden: it is what the stage is found by."
            self._report("invalid_operator", message, origin.below("id"), key=True)
            patch = {key: value for key, value in patch.items() if key != "id"}
        if element.part == "compositions" and "config" in patch:
            # The older spelling of a stage's config; of a composition it is the word of today.
            patch = {"input_mapping" if key == "config" else key: value for key, value in patch.items()}
        fills = element.is_slot and "component_type" in patch
        at = At(origin=origin, owner=element.title, model=_MODELS[element.part], grows=fills)
        value, mark = self._patcher.patch(element.value, element.mark, patch, at)
        if fills:
            mark = Mark((*mark.chain, origin), mark.below)
        self._elements[name] = replace(element, value=value, mark=mark, by=id(self._document) if fills else element.by)

    def _replace(self, name: str, element: Element, value: Any, origin: Origin) -> None:
        if not isinstance(value, dict):
            message = f"'$replace' of {element.title} takes the whole {_WORDS[element.part]}, an object; found {kind_of(value)}."
            self._report("wrong_type", message, origin.below("$replace"), expected="an object")
            return
        made = {"id": name, **cast("dict[str, Any]", value)}
        if made["id"] != name:
            message = f"The id of {element.title} cannot be overridden; found {made['id']!r}."
            self._report("invalid_operator", message, origin.below("$replace", "id"))
            return
        mark = Mark((*element.mark.chain, origin.below("$replace")), {"id": element.mark.member("id")})
        self._elements[name] = Element(value=made, mark=mark, part=element.part, by=id(self._document))

    def _patch_fields(self, patch: Any, origin: Origin) -> None:
        if not self._layer.ancestors:
            message = "There is nothing to override: this pipeline extends no other one."
            self._report("unknown_override", message, origin, key=True)
            return
        if not isinstance(patch, dict) or is_operator(cast("object", patch)):
            message = f"{WHOLE!r} takes an object of the pipeline's fields and their changes; found {kind_of(cast('object', patch))}."
            self._report("wrong_type", message, origin, expected="an object")
            return
        members = cast("dict[str, Any]", patch)
        for key in members:
            if key not in PATCHABLE and not key.startswith(EXTENSION_PREFIX):
                self._report(
                    "unknown_override",
                    f"{key!r} of the pipeline cannot be overridden; what can be: {', '.join(PATCHABLE)}.",
                    origin.below(key),
                    key=True,
                    found=key,
                    nearest=nearest(key, PATCHABLE),
                )
                return
        at = At(origin=origin, owner="the pipeline", model=pipeline.Pipeline)
        values = {key: value for key, (value, _) in self._fields.items()}
        marks = {key: mark for key, (_, mark) in self._fields.items()}
        made, mark = self._patcher.patch(values, Mark((origin,), marks), members, at)
        self._fields = {key: (value, mark.member(key)) for key, value in made.items()}

    def _report(self, code: str, message: str, origin: Origin, *, key: bool = False, **facts: Any) -> None:
        self._problems.append(self._document.problem(code, message, origin.pointer, key=key, **facts))


def open_slots(layered: Layered) -> Iterator[Element]:
    """Yield the slots that nobody has filled yet."""
    return (element for element in layered.elements.values() if element.is_slot)
