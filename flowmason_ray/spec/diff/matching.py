"""Finding stages that were renamed: by what they hold, since ids are all that a document says about identity.

A stage that is gone and one that is new are the same stage when their contents are equal, up to the ids of stages that
were renamed themselves, or alike enough; and when no other pair fits as well. What is ambiguous is not guessed: then one
stage is removed and another one added, which is true as well.

A renaming is only taken when it can be undone without a trace (`rename` forth and back gives the same tree, on both
sides): on that, the laws of `patch` and `inverse` rest.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from typing import Any, cast

from flowmason_ray.spec.diff.equality import same
from flowmason_ray.spec.diff.naming import mentions, rename, rename_stage
from flowmason_ray.spec.diff.tree import LAYOUT, Body, Keyed, Names
from flowmason_ray.spec.language.stage_names import can_stand_behind_dot

ALIKE = 0.6
"""The share of its content that a stage keeps when it is renamed and edited at once. Below it, it is another stage."""
CLEARLY = 0.1
"""By how much the best pair is better than the next one, if it is to be taken."""
MOST_COMPARED = 2_500
"""Pairs of stages of the same component that are compared in detail; beyond, only equal contents are found."""

_SAID_IDS = "\x00"
"""What stands for the id of a stage that is itself gone or new, while contents are compared."""


def find_renames(a: Mapping[str, Any], b: Mapping[str, Any]) -> dict[str, str]:
    """Return the stages of tree `a` that tree `b` holds under another id: old id → new id."""
    before, after = _stages(a), _stages(b)
    gone = [name for name in before if name not in after]
    new = [name for name in after if name not in before]
    if not gone or not new:
        return {}
    gone, new = _renamable(gone, b), _renamable(new, a)
    found = _pairs(before, after, gone, new)
    back = {now: was for was, now in found.items()}
    return found if found and _returns(a, found, back) and _returns(b, back, found) else {}


def _renamable(names: list[str], other: Mapping[str, Any]) -> list[str]:
    """Return the ids that the other tree does not say: after a renaming nobody could tell those from the renamed ones."""
    said = {mention.stage for mention in mentions(other)}
    return [name for name in names if name not in said and can_stand_behind_dot(name)]


def _stages(tree: Mapping[str, Any]) -> Mapping[str, Any]:
    stages = tree.get("stages")
    return stages if isinstance(stages, Keyed) else {}


def _returns(tree: Mapping[str, Any], forth: Mapping[str, str], back: Mapping[str, str]) -> bool:
    whole = cast("dict[str, Any]", tree)
    return same(rename(rename(whole, forth), back), whole)


def _pairs(before: Mapping[str, Any], after: Mapping[str, Any], gone: list[str], new: list[str]) -> dict[str, str]:
    mask = dict.fromkeys((*gone, *new), _SAID_IDS)
    found: dict[str, str] = {}
    groups: dict[str, tuple[list[str], list[str]]] = defaultdict(lambda: ([], []))
    for side, names, stages in ((0, gone, before), (1, new, after)):
        for name in sorted(names):
            groups[str(stages[name].get("component_type", ""))][side].append(name)
    for olds, news in groups.values():
        if olds and news:
            masked_old = {name: _masked(before[name], mask) for name in olds}
            masked_new = {name: _masked(after[name], mask) for name in news}
            found |= _equal(masked_old, masked_new)
            rest_old = [name for name in olds if name not in found]
            taken = set(found.values())
            rest_new = [name for name in news if name not in taken]
            if rest_old and rest_new and len(rest_old) * len(rest_new) <= MOST_COMPARED:
                found |= _alike({n: masked_old[n] for n in rest_old}, {n: masked_new[n] for n in rest_new})
    return found


def _masked(stage: Any, mask: Mapping[str, str]) -> dict[str, Any]:
    content = cast("dict[str, Any]", rename_stage(stage, mask))
    return {key: value for key, value in content.items() if key not in (LAYOUT, "name")}


def _equal(olds: Mapping[str, dict[str, Any]], news: Mapping[str, dict[str, Any]]) -> dict[str, str]:
    """Pair stages with equal contents, where there is only one on each side."""
    by_content: dict[str, tuple[list[str], list[str]]] = defaultdict(lambda: ([], []))
    for side, stages in enumerate((olds, news)):
        for name, stage in stages.items():
            by_content[_text(stage)][side].append(name)
    return {old[0]: new[0] for old, new in by_content.values() if len(old) == len(new) == 1}


def _alike(olds: Mapping[str, dict[str, Any]], news: Mapping[str, dict[str, Any]]) -> dict[str, str]:
    """Pair stages with like contents, the most alike first, where the next best pair is clearly worse."""
    leaves = {name: _leaves(stage) for name, stage in (*olds.items(), *news.items())}
    scored = sorted(
        ((likeness(leaves[old], leaves[new]), old, new) for old in olds for new in news),
        key=lambda scored: (-scored[0], scored[1], scored[2]),
    )
    found: dict[str, str] = {}
    for score, old, new in scored:
        if score < ALIKE:
            break
        if old in found or new in found.values():
            continue
        rivals = [s for s, o, n in scored if (o == old) != (n == new) and o not in found and n not in found.values()]
        if not rivals or score - max(rivals) >= CLEARLY:
            found[old] = new
    return found


def likeness(a: Mapping[str, str], b: Mapping[str, str]) -> float:
    """Return how much of two stages is the same, 0 to 1; longer texts count more, word by word."""
    total = common = 0.0
    for path in a.keys() | b.keys():
        one, other = a.get(path), b.get(path)
        words = len((one or other or "").split())
        weight = 1 + min(words, 200) / 8
        total += weight
        if one is not None and other is not None:
            common += weight * _share(one, other)
    return common / total if total else 0.0


def _share(one: str, other: str) -> float:
    if one == other:
        return 1.0
    words, others = Counter(one.split()), Counter(other.split())
    return 2 * (words & others).total() / (words.total() + others.total()) if words and others else 0.0


def _leaves(stage: Mapping[str, Any]) -> dict[str, str]:
    """Return the leaves of a stage by path; its component is known to be the same, and counts for nothing."""
    found: dict[str, str] = {}

    def walk(value: Any, path: str) -> None:
        if isinstance(value, dict) and value:
            for key, inner in cast("dict[str, Any]", value).items():
                walk(inner, f"{path}/{key}")
        else:
            found[path] = value if isinstance(value, str) else repr(cast("object", value))

    for key, value in stage.items():
        if key not in ("component_type", "depends_on"):
            walk(value, key)
    return found


def _text(value: Any) -> str:
    """Return a text that is the same for contents that are the same."""
    if isinstance(value, (Names, Body)):
        return repr(sorted(value))
    if isinstance(value, dict):
        inner = cast("dict[str, Any]", value)
        return "{" + ",".join(f"{key!r}:{_text(inner[key])}" for key in sorted(inner)) + "}"
    return repr(value)
