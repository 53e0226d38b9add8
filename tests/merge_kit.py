"""Small pipelines for the laws of diff and merge: all of a kind, and random ones; and the laws themselves, as functions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from itertools import chain, combinations, permutations, product
from typing import Any, cast

from hypothesis import strategies as st

from flowmason_ray.spec.diff.comparing import Diff, changes_between, diff, inverse, patch
from flowmason_ray.spec.diff.equality import same
from flowmason_ray.spec.diff.tree import ABSENT, Keyed, Names, plain, tree_of, value_at
from flowmason_ray.spec.formatting import canonical_bytes
from flowmason_ray.spec.merge.conflicts import Conflict
from flowmason_ray.spec.merge.frame import Frame, frame_of
from flowmason_ray.spec.merge.merging import Merged, merge

Document = dict[str, Any]
Merge = Callable[[Document, Document, Document], Merged]


def stage(id: str, *after: str, component: str = "logger", **more: Any) -> Document:
    made: Document = {"id": id, "component_type": component, **more}
    return {**made, "depends_on": list(after)} if after else made


def pipeline(*stages: Document, **more: Any) -> Document:
    return {"name": "p", **more, "stages": list(stages)}


def equal(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    """Tell whether two documents mean the same."""
    return same(tree_of(a), tree_of(b))


# -- all small pipelines -----------------------------------------------------------------------------------------------


def small_pipelines(ids: str, *, most: int = 3, values: tuple[int, ...] = (0,), marked: bool) -> list[Document]:
    """Return every valid pipeline of so many stages with these ids: every order without a ring, every setting.

    Args:
        ids: What stages may be called.
        most: How many stages there are at most.
        values: What a stage may be set to.
        marked: Whether a stage says its own name, so that none can be taken for another one that was renamed.
    """
    made: list[Document] = []
    for chosen in chain.from_iterable(combinations(ids, n) for n in range(most + 1)):
        pairs = [(a, b) for a in chosen for b in chosen if a != b]
        for edges in chain.from_iterable(combinations(pairs, n) for n in range(len(pairs) + 1)):
            if not ringless(edges, chosen):
                continue
            for settings in product(values, repeat=len(chosen)):
                stages = [
                    stage(
                        name, *(a for a, b in edges if b == name), config={"n": n, **({"is": name} if marked else {})}
                    )
                    for name, n in zip(chosen, settings, strict=True)
                ]
                made.append(pipeline(*stages))
    return made


def small_bodies() -> list[Document]:
    """Return every pipeline of the stages a, b and c in which a and b may be loops, and c may be in one of them."""
    made: list[Document] = []
    for present in (True, False):
        for bodies in ({}, {"a": ["c"]}, {"b": ["c"]}) if present else ({},):
            loops = [
                stage(name, component="foreach", config={"items": [1], "loop_stages": bodies.get(name, [])})
                for name in "ab"
            ]
            made += [pipeline(*loops, *([stage("c", config={"n": n})] if present else [])) for n in (0, 1)]
    return made


def ringless(edges: tuple[tuple[str, str], ...], ids: tuple[str, ...]) -> bool:
    left, before = set(ids), {b: {a for a, c in edges if c == b} for b in ids}
    while ready := {n for n in left if not before[n] & left}:
        left -= ready
    return not left


def up_to_names(documents: list[Document]) -> list[Document]:
    """Return one of each set of pipelines that differ only in what their stages are called."""
    found: dict[str, Document] = {}
    for document in documents:
        ids = [s["id"] for s in document["stages"]]
        shapes = (
            sorted(
                (order.index(s["id"]), s["config"]["n"], sorted(map(order.index, s.get("depends_on", ()))))
                for s in document["stages"]
            )
            for order in permutations(ids)
        )
        found.setdefault(repr(min(shapes)), document)
    return list(found.values())


# -- the laws ----------------------------------------------------------------------------------------------------------


def check_merge(base: Document, ours: Document, theirs: Document, merge: Merge = merge) -> Merged:
    """Assert the laws of one merge of valid pipelines; return it."""
    merged = merge(base, ours, theirs)
    check_symmetry(merged, merge(base, theirs, ours))
    frame = frame_of(tree_of(base), tree_of(ours), tree_of(theirs))
    result = tree_of(merged.document)
    check_sound(frame, result)
    check_conserved(frame, result, merged)
    if not merged.conflicts:
        assert is_whole(merged.document), merged.document
    return merged


def check_symmetry(merged: Merged, swapped: Merged) -> None:
    """Exchanging ours and theirs exchanges them in the conflicts, and nothing else."""
    assert sorted(map(told, merged.conflicts)) == sorted(told(exchanged(c)) for c in swapped.conflicts)
    if not merged.conflicts:
        assert canonical_bytes(merged.document) == canonical_bytes(swapped.document)


def exchanged(conflict: Conflict) -> Conflict:
    edits = None if conflict.edits is None else (conflict.edits[1], conflict.edits[0])
    return replace(conflict, ours=conflict.theirs, theirs=conflict.ours, edits=edits)


def told(conflict: Conflict) -> str:
    path = () if conflict.kind in ("renamed_differently", "semantic") else conflict.path
    return repr((path, conflict.kind, conflict.base, conflict.ours, conflict.theirs, conflict.edits))


def check_sound(frame: Frame, result: Document) -> None:
    """No leaf from nowhere: every leaf of the result stands at its place on one of the sides."""
    for path, value in leaves(result):
        found = [value_at(side, path) for side in (frame.base, frame.ours, frame.theirs)]
        assert any(same(value, each) for each in found), (path, value, found)


def check_conserved(frame: Frame, result: Document, merged: Merged) -> None:
    """No change is lost: what one side changed is in the result, or there is a conflict about it."""
    disputed = [c.path for c in merged.conflicts if c.kind != "semantic"]
    for side in frame.edits:
        for change in side:
            if any(change.path[: len(p)] == p or p[: len(change.path)] == change.path for p in disputed):
                continue
            for path, value in leaves(change.new, change.path):
                found = value_at(result, path)
                # An object that one side adds empty, and the other with something in it, is there with that in it.
                filled = value == {} and isinstance(found, dict)
                assert same(found, value) or filled, (change, found)
            if change.new is ABSENT:
                assert value_at(result, change.path) is ABSENT, change


def leaves(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield every leaf with its path; positions are none."""
    if value is ABSENT or (path[:1] == ("stages",) and path[2:] == ("position",)):
        return
    if isinstance(value, dict):
        inner = cast("dict[str, Any]", value)
        if not inner and not isinstance(value, (Names, Keyed)):
            yield path, value
        for key, each in inner.items():
            yield from leaves(each, (*path, key))
    else:
        yield path, value


def is_whole(document: Document) -> bool:
    """Tell whether nothing is missing, waits in a circle or is owned twice; in other words than the merge's own checks."""
    stages = {s["id"]: s for s in cast("list[Document]", document["stages"])}
    inside = {each: name for name, s in stages.items() for each in s["config"].get("loop_stages", ())}
    owned = [each for s in stages.values() for each in s["config"].get("loop_stages", ())]
    said = [(each, name) for name, s in stages.items() for each in said_by(s) if each not in owned]
    edges = tuple((inside.get(a, a), inside.get(b, b)) for a, b in said)
    whole = len(stages) == len(document["stages"]) and len(owned) == len(set(owned))
    return whole and all(a in stages for a, _ in said) and set(owned) <= set(stages) and ringless(edges, tuple(stages))


def check_diff(a: Document, b: Document) -> Diff:
    """Assert the laws of a diff; return it."""
    change = diff(a, b)
    assert equal(patch(a, change), b)
    assert equal(patch(b, inverse(change)), a)
    assert inverse(inverse(change)) == change
    assert bool(change) == (not equal(a, b))
    return change


def disjoint(base: Document, ours: Document, theirs: Document) -> bool:
    """Tell whether no edit of one side touches what an edit of the other touches."""
    sides = [[c.path for c in changes_between(tree_of(base), tree_of(each))] for each in (ours, theirs)]
    return not any(p[: len(q)] == q or q[: len(p)] == p for p in sides[0] for q in sides[1])


# -- random pipelines --------------------------------------------------------------------------------------------------

NAMES = ("load", "clean", "check", "each", "report", "send")
TEXTS = ("", "One.", "Write {n} words about {{ input.topic }}.", "A longer text, word by word, of ten words or so.")
scalars = st.sampled_from([None, True, False, 0, 1, 1.0, -0.0, 0.0, 7, "x", *TEXTS])
values = st.recursive(
    scalars, lambda v: st.lists(v, max_size=3) | st.dictionaries(st.sampled_from("pqr"), v, max_size=3), max_leaves=5
)


@st.composite
def pipelines(draw: st.DrawFn, names: tuple[str, ...] = NAMES) -> Document:
    """Draw a pipeline that is valid as far as the document shows: order without rings, bodies without strangers."""
    chosen = draw(st.lists(st.sampled_from(names), unique=True, max_size=len(names)))
    owned: set[str] = set()
    stages: list[Document] = []
    for n, name in enumerate(chosen):
        free = [c for c in chosen[:n] if c not in owned]
        config = draw(st.dictionaries(st.sampled_from(["text", "limit", "headers"]), values, max_size=3))
        reads = draw(st.lists(st.sampled_from(free), unique=True, max_size=2)) if free else []
        if reads:
            config["template"] = " and ".join(f"{{{{ stages.{each}.value }}}}" for each in reads)
        made: Document = {"id": name, "component_type": draw(st.sampled_from(["logger", "filter"])), "config": config}
        after = draw(st.lists(st.sampled_from(free), unique=True, max_size=2)) if free else []
        if after or draw(st.booleans()):
            made["depends_on"] = after
        lonely = [c for c in free if not any(c in said_by(s) for s in [*stages, made])]
        if lonely and draw(st.integers(0, 3)) == 0:
            members = draw(st.lists(st.sampled_from(lonely), unique=True, min_size=1, max_size=2))
            inside = [s for s in stages if s["id"] in members]
            if not any(said_by(s) for s in inside):
                made = {"id": name, "component_type": "foreach", "config": {"items": [1], "loop_stages": members}}
                owned.update(members)
        if draw(st.booleans()):
            made["position"] = {"x": draw(st.integers(0, 3))}
        if draw(st.integers(0, 4)) == 0:
            made["retry"] = {"max_attempts": draw(st.integers(1, 3)), "retry_on": draw(st.permutations(["a", "b"]))}
        stages.append(made)
    document: Document = {"name": "p", "stages": draw(st.permutations(stages))}
    if draw(st.booleans()):
        document["tags"] = draw(st.lists(st.sampled_from("stu"), unique=True))
    if draw(st.booleans()):
        document["input_schema"] = {"type": "object", "required": draw(st.lists(st.sampled_from("xyz"), unique=True))}
    return document


def said_by(stage: Document) -> set[str]:
    config = cast("Document", stage["config"])
    template = cast("str", config.get("template", ""))
    return {
        *stage.get("depends_on", ()),
        *config.get("loop_stages", ()),
        *(n for n in NAMES if f"stages.{n}." in template),
    }


@st.composite
def edited(draw: st.DrawFn, document: Document) -> Document:
    """Draw an edit of a pipeline as people make them: a setting, a rename, a new stage, one less, another order."""
    kind = draw(st.sampled_from(["nothing", "setting", "rename", "add", "remove", "order", "all"]))
    stages = [dict(s) for s in cast("list[Document]", document["stages"])]
    if kind == "all":
        return draw(pipelines())
    if kind == "add":
        free = [n for n in (*NAMES, "extra", "more") if n not in {s["id"] for s in stages}]
        if free:  # else every name is taken
            stages.append(stage(draw(st.sampled_from(free)), config={"text": draw(values)}))
    elif stages:
        chosen = draw(st.integers(0, len(stages) - 1))
        if kind == "setting":
            config = {
                **cast("Document", stages[chosen]["config"]),
                draw(st.sampled_from(["text", "limit"])): draw(values),
            }
            stages[chosen] = {**stages[chosen], "config": config}
        elif kind == "remove":
            name = stages[chosen]["id"]
            if not any(name in said_by(s) for s in stages):
                del stages[chosen]
        elif kind == "order":
            stages = draw(st.permutations(stages))
        elif kind == "rename":
            from flowmason_ray.spec.diff.naming import rename

            new = draw(st.sampled_from(["renamed", "other-name"]))
            if new not in {s["id"] for s in stages}:
                return cast("Document", plain(rename(tree_of(document), {stages[chosen]["id"]: new})))
    return {**document, "stages": stages}


@st.composite
def triples(draw: st.DrawFn) -> tuple[Document, Document, Document]:
    """Draw a base and two versions of it, each some edits away."""
    base = draw(pipelines())
    sides: list[Document] = []
    for _ in range(2):
        side = base
        for _ in range(draw(st.integers(0, 3))):
            side = draw(edited(side))
        sides.append(side)
    return base, sides[0], sides[1]
