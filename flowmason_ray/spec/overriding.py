"""What an override does to a value that is inherited: merged deeply, by rules that never add anything silently.

A patch is plain JSON. An object goes down into the object that it meets; anything else takes the place of what is there;
null removes. What a patch names must exist, unless the format itself defines the key (every field of a stage has a default).

An object whose keys begin with `$` is an operator instead: `$replace` and `$add` take a literal value, `$append`,
`$prepend`, `$remove` and `$merge` change a list. Inside them everything is literal, so that any value can be expressed
(`{"$replace": null}` is null itself). A key of the data that begins with `$` is written with `$$`. So an operator can never be
taken for data, nor data for an operator; an operator that does not exist is refused.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

from flowmason_ray.errors import Problem, nearest
from flowmason_ray.spec import pipeline
from flowmason_ray.spec.formatting import PARTS
from flowmason_ray.spec.parsing import kind_of
from flowmason_ray.spec.pipeline import EXTENSION_PREFIX, field_order
from flowmason_ray.spec.provenance import Mark, Origin
from flowmason_ray.spec.wording import shown

LIST_OPERATORS = ("$remove", "$merge", "$prepend", "$append")
"""In the order in which they act when one object holds several."""
OPERATORS = ("$replace", "$add", *LIST_OPERATORS)

LITERAL_HINT = (
    "A key of the data that begins with '$' is written with '$$'; or write the whole value inside '$replace'."
)

Model = type[pipeline.Model]
Marked = tuple[Any, Mark]
"""A value, and where it comes from."""


@dataclass(frozen=True, slots=True, kw_only=True)
class At:
    """Where a patch acts."""

    origin: Origin
    """The patch itself."""
    owner: str
    """Whose value is changed, in words: `stage 'fetch'`."""
    path: str = ""
    """What of it is changed, with dots; "": all of it."""
    model: Model | None = None
    """The part of the format that is changed; None: data whose keys only its parents know."""
    grows: bool = False
    """Whether new keys may be added without saying so: a slot is being filled."""

    def into(self, key: str, written: str | None = None, *, model: Model | None = None) -> At:
        """Return the place one key further down; `written` is the key as the patch spells it."""
        return At(
            origin=self.origin.below(key if written is None else written),
            owner=self.owner,
            path=f"{self.path}.{key}" if self.path else key,
            model=model,
            grows=self.grows,
        )

    @property
    def what(self) -> str:
        """What is changed, in words."""
        return f"{self.path!r} of {self.owner}" if self.path else self.owner


def is_operator(patch: object) -> bool:
    """Tell whether a part of a patch is an operator, well-formed or not."""
    return isinstance(patch, dict) and any(
        key.startswith("$") and not key.startswith("$$") for key in cast("dict[str, Any]", patch)
    )


def fresh(value: Any, origin: Origin, replaced: Mark | None = None) -> Marked:
    """Return a value that a patch brings in, with its mark; `replaced` is the mark of what was there before."""
    return value, Mark((*(replaced.chain if replaced is not None else ()), origin))


class Patcher:
    """Applies patches; what is wrong with them goes to `problems`, and leaves the value as it was."""

    def __init__(self, problems: list[Problem]) -> None:
        self.problems = problems

    def patch(self, value: dict[str, Any], mark: Mark, patch: Mapping[str, Any], at: At) -> tuple[dict[str, Any], Mark]:
        """Return an object with an object merged into it."""
        made = dict(value)
        marks: dict[str, Mark | None] = {}
        for written, change in patch.items():
            key = written[1:] if written.startswith("$$") else written
            part = PARTS.get(at.model, {}).get(key) if at.model is not None else None
            there = at.into(key, written, model=part)
            if change is None:
                if key in made:
                    del made[key]
                    marks[key] = None
                else:
                    self._no_path(there, value, mark, at)
                continue
            old = (made[key], marks.get(key) or mark.member(key)) if key in made else None
            allowed = _is_known(at.model, key) or at.grows
            new = self._changed(old, change, there, missing=None if allowed else (value, mark, at))
            if new is not None:
                made[key], marks[key] = new
        return made, mark.with_members(marks)

    def _changed(
        self, old: Marked | None, change: Any, at: At, missing: tuple[dict[str, Any], Mark, At] | None
    ) -> Marked | None:
        """Return what one member becomes; None after a problem. `missing` is what to say when it is not there."""
        if is_operator(change):
            return self._operated(old, change, at, missing)
        if old is None:
            if missing is not None:
                self._no_path(at, *missing)
                return None
            return self._first(change, at)
        if isinstance(change, dict):
            members = cast("dict[str, Any]", change)
            inherited: Any = old[0]
            kind = kind_of(inherited)
            if isinstance(inherited, dict):
                return self.patch(cast("dict[str, Any]", inherited), old[1], members, at)
            if at.model is not None:  # `cache: true` becomes an object: the format says which keys that has
                return self._first(members, at, old[1])
            hint = 'To put an object in its place, write {"$replace": {…}}.'
            if kind == "a list":
                hint = "Change the list by '$append', '$prepend', '$remove' or '$merge', or '$replace' it."
            found = shown(inherited)
            self._report(
                "override_mismatch",
                f"The override of {at.what} is an object to merge into; what is inherited there ({old[1].chain[-1]}) is "
                f"{kind}.",
                at,
                hint=hint,
                found=found,
            )
            return None
        return fresh(change, at.origin, old[1])

    def _first(self, change: Any, at: At, replaced: Mark | None = None) -> Marked:
        """Return what a patch says where there is nothing to merge it into: an object is merged into an empty one."""
        if not isinstance(change, dict):
            return fresh(change, at.origin, replaced)
        mark = Mark((*(replaced.chain if replaced is not None else ()), at.origin))
        return self.patch({}, mark, cast("dict[str, Any]", change), replace(at, model=None, grows=True))

    # -- operators ------------------------------------------------------------------------------------------------------

    def _operated(
        self, old: Marked | None, written: dict[str, Any], at: At, missing: tuple[dict[str, Any], Mark, At] | None
    ) -> Marked | None:
        names = list(written)
        for name in names:
            if name not in OPERATORS:
                self._unknown(name, at)
                return None
        if len(names) > 1 and not set(names) <= set(LIST_OPERATORS):
            alone = next(name for name in names if name not in LIST_OPERATORS)
            self.refuse(written, at, f"{alone!r} stands alone")
            return None
        if names == ["$add"]:
            return self._add(old, written["$add"], at)
        if names == ["$replace"]:
            if old is None and missing is not None:
                self._no_path(at, *missing)
                return None
            return fresh(written["$replace"], at.origin.below("$replace"), old[1] if old else None)
        if old is None:
            if missing is not None:
                self._no_path(at, *missing)
                return None
            old = fresh([], at.origin)
        return self._list(old, written, at)

    def _add(self, old: Marked | None, value: Any, at: At) -> Marked | None:
        if old is None:
            return fresh(value, at.origin.below("$add"))
        self._report(
            "override_exists",
            f"'$add' of {at.what}: it is inherited already ({old[1].chain[-1]}).",
            at,
            hint="Leave '$add' out to change what is there, or use '$replace'.",
        )
        return None

    def _list(self, old: Marked, written: dict[str, Any], at: At) -> Marked | None:
        value, mark = old
        if not isinstance(value, list):
            self.refuse(written, at, f"what is inherited ({mark.chain[-1]}) is {kind_of(value)}, not a list")
            return None
        items: list[Marked] = [(item, mark.member(i)) for i, item in enumerate(cast("list[Any]", value))]
        before = len(self.problems)
        steps = {"$remove": self._remove, "$merge": self._merge, "$prepend": self._prepend, "$append": self._append}
        for name in LIST_OPERATORS:
            if name in written:
                items = steps[name](items, written[name], at.into(name))
        if len(self.problems) > before:
            return None
        made = [item for item, _ in items]
        chain = (*mark.chain, at.origin)
        return made, Mark(chain, {str(i): each for i, (_, each) in enumerate(items)})

    def _operand(self, operand: Any, at: At) -> list[Any]:
        if isinstance(operand, list):
            return cast("list[Any]", operand)
        name = at.path.rpartition(".")[2]
        self._report("invalid_operator", f"{name!r} takes a list of items; found {kind_of(operand)}.", at)
        return []

    def _append(self, items: list[Marked], operand: Any, at: At) -> list[Marked]:
        return [*items, *(fresh(item, at.origin.below(i)) for i, item in enumerate(self._operand(operand, at)))]

    def _prepend(self, items: list[Marked], operand: Any, at: At) -> list[Marked]:
        return [*(fresh(item, at.origin.below(i)) for i, item in enumerate(self._operand(operand, at))), *items]

    def _remove(self, items: list[Marked], operand: Any, at: At) -> list[Marked]:
        for i, item in enumerate(self._operand(operand, at)):
            kept = [each for each in items if not same_json(each[0], item)]
            if len(kept) == len(items):
                found = shown(item)
                choices = [each for each, _ in items if isinstance(each, str)]
                self._report(
                    "override_missing_item",
                    f"'$remove' of {found} from {_up(at).what}: no item of the inherited list is equal to it.",
                    at.into(str(i)),
                    found=found,
                    nearest=nearest(item, choices) if isinstance(item, str) else None,
                )
            items = kept
        return items

    def _merge(self, items: list[Marked], operand: Any, at: At) -> list[Marked]:
        said = cast("dict[str, Any]", operand) if isinstance(operand, dict) else {}
        by, changes = said.get("by"), said.get("items")
        if set(said) - {"by", "items"}:
            by = None
        if not isinstance(by, str) or not isinstance(changes, dict):
            message = (
                '\'$merge\' takes {"by": KEY, "items": {VALUE: PATCH, …}}: items are found by the value of their KEY.'
            )
            self._report("invalid_operator", message, at)
            return items
        made: list[Marked | None] = list(items)
        positions = {_text(item[by]): i for i, (item, _) in enumerate(items) if isinstance(item, dict) and by in item}
        for value, change in cast("dict[str, Any]", changes).items():
            there = at.into("items").into(value)
            position = positions.get(value)
            if position is None:
                self._report(
                    "override_missing_item",
                    f"'$merge' into {_up(at).what}: no item of the inherited list has {value!r} as its {by!r}.",
                    there,
                    found=value,
                    nearest=nearest(value, positions),
                    hint="New items are added by '$append'.",
                )
            elif change is None:
                made[position] = None
            else:
                old = items[position]
                made[position] = self._changed(old, change, there, None) or old
        return [item for item in made if item is not None]

    # -- problems -------------------------------------------------------------------------------------------------------

    def _no_path(self, at: At, value: dict[str, Any], mark: Mark, around: At) -> None:
        key = at.path.rpartition(".")[2] if around.path else at.path
        known = [*value, *(field_order(around.model) if around.model is not None else ())]
        close = nearest(key, known)
        hint = None if close or around.model is not None else 'To add it on purpose, write {"$add": …}.'
        self._report(
            "unknown_override",
            f"The override names {at.what}, which is not there in what is inherited ({mark.chain[-1]}).",
            at,
            found=key,
            nearest=close,
            hint=hint or ('To add it on purpose, write {"$add": …}.' if around.model is None else None),
        )

    def _unknown(self, name: str, at: At) -> None:
        self._report(
            "unknown_operator",
            f"The override of {at.what} has an operator {name!r}, which does not exist; there is: {', '.join(OPERATORS)}.",
            at.into(name),
            found=name,
            nearest=nearest(name, OPERATORS),
            hint=LITERAL_HINT,
        )

    def refuse(self, written: dict[str, Any], at: At, why: str) -> None:
        """Report an operator that does not exist, or cannot be used at this place."""
        name = next(key for key in written if key.startswith("$") and not key.startswith("$$"))
        if name not in OPERATORS:
            self._unknown(name, at)
        else:
            self._report("invalid_operator", f"{name!r} cannot be used for {at.what}: {why}.", at, found=name)

    def _report(self, code: str, message: str, at: At, **facts: Any) -> None:
        origin = at.origin
        key = code in ("unknown_override", "unknown_operator")
        self.problems.append(origin.document.problem(code, message, origin.pointer, key=key, **facts))


def _up(at: At) -> At:
    """Return the place of the list that an operator changes."""
    return At(origin=at.origin, owner=at.owner, path=at.path.rpartition(".")[0])


def _is_known(model: Model | None, key: str) -> bool:
    return model is not None and (key in field_order(model) or key.startswith(EXTENSION_PREFIX))


def _text(value: Any) -> str:
    """Return what a key's value is called in `$merge`: text as it is, anything else as JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, sort_keys=True)


def same_json(one: Any, other: Any) -> bool:
    """Tell whether two JSON values are equal: true is not 1, and the order of keys means nothing."""
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, dict) and isinstance(other, dict):
        a, b = cast("dict[str, Any]", one), cast("dict[str, Any]", other)
        return a.keys() == b.keys() and all(same_json(a[key], b[key]) for key in a)
    if isinstance(one, list) and isinstance(other, list):
        x, y = cast("list[Any]", one), cast("list[Any]", other)
        return len(x) == len(y) and all(map(same_json, x, y))
    return one == other
