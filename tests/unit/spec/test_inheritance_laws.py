"""The laws of inheritance, for families that nobody thought of."""

from __future__ import annotations

import json
from typing import Any, cast

from hypothesis import given, settings
from hypothesis import strategies as st

from flowmason_ray.spec.formatting import canonical_bytes
from flowmason_ray.spec.loader import LoadedPipeline, load_pipeline_data
from flowmason_ray.spec.overriding import same_json
from flowmason_ray.spec.provenance import chain_of, leaves
from tests.family_kit import Data, Family, meaning, stage, stages_of

FEW = settings(max_examples=40, deadline=None)
OWN = ("name", "id", "version", "abstract", "$schema")
"""What is never inherited."""

scalars = st.one_of(st.none(), st.booleans(), st.integers(0, 3), st.sampled_from(["", "t", "{{input.x}}"]))
keys = st.sampled_from(["x", "y", "z", "$k"])
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3), max_leaves=6
)
configs = st.dictionaries(keys, values, max_size=3)
ids = st.sampled_from(["a", "b", "c", "d"])


@st.composite
def stages(draw: st.DrawFn, taken: frozenset[str] = frozenset()) -> list[Data]:
    names = draw(st.sets(ids, max_size=3)) - taken
    return [stage(name, draw(st.sampled_from(["logger", "filter"])), config=draw(configs)) for name in sorted(names)]


def escaped(key: str) -> str:
    return f"${key}" if key.startswith("$") else key


@st.composite
def changes(draw: st.DrawFn, value: Any) -> Any:
    """Draw an override of a value that is there."""
    if isinstance(value, dict) and value and draw(st.booleans()):
        members = cast("Data", value)
        chosen = draw(st.sets(st.sampled_from(sorted(members)), max_size=2))
        made: Data = {escaped(key): draw(st.none() | changes(members[key])) for key in sorted(chosen)}
        if "new" not in members and draw(st.booleans()):
            made["new"] = {"$add": draw(values)}
        return made
    if isinstance(value, list) and draw(st.booleans()):
        listed = cast("list[Any]", value)
        operators: Data = {
            "$append": draw(st.lists(values, max_size=2)),
            "$prepend": draw(st.lists(values, max_size=1)),
        }
        if listed and draw(st.booleans()):
            operators["$remove"] = [draw(st.sampled_from(listed))]
        return operators
    literal = draw(values)
    return {"$replace": literal} if literal is None or isinstance(literal, dict) else literal


@st.composite
def fields(draw: st.DrawFn) -> Data:
    return draw(
        st.fixed_dictionaries(
            {},
            optional={
                "tags": st.lists(st.sampled_from(["t", "u", "v"]), unique=True, max_size=2),
                "metadata": configs,
                "description": st.sampled_from(["one", "two"]),
                "timeout_ms": st.integers(1, 3),
                "output": values.filter(lambda each: each is not None),
                "defaults": st.fixed_dictionaries({}, optional={"timeout_ms": st.integers(1, 3)}),
            },
        )
    )


@st.composite
def heirs(draw: st.DrawFn, parent: LoadedPipeline, name: str) -> Data:
    """Draw a pipeline that extends one."""
    inherited = stages_of(parent.data)
    overrides: Data = {}
    for each in sorted(inherited):
        what = draw(st.sampled_from(["nothing", "nothing", "change", "remove", "replace"]))
        if what == "change":
            config = draw(changes(inherited[each].get("config", {})))
            fits = isinstance(config, dict) and isinstance(cast("Data", config).get("$replace", {}), dict)
            overrides[each] = {"config": config if fits else {"$replace": {}}}
            overrides[each] |= draw(st.sampled_from([{}, {"enabled": False}, {"retry": {"max_attempts": 2}}]))
        elif what == "remove":
            overrides[each] = None
        elif what == "replace":
            overrides[each] = {"$replace": {"component_type": "logger", "config": draw(configs)}}
    data: Data = {"name": name, "extends": parent.pipeline.name, **draw(fields())}
    new = draw(stages(frozenset(inherited)))
    return data | ({"overrides": overrides} if overrides else {}) | ({"stages": new} if new else {})


@st.composite
def lines(draw: st.DrawFn) -> list[Data]:
    """Draw a family in one line, the eldest first."""
    documents: list[Data] = [{"name": "g0", "stages": draw(stages()), **draw(fields())}]
    for generation in range(1, draw(st.integers(2, 4))):
        parent = Family(*documents).resolve(f"g{generation - 1}")
        documents.append(draw(heirs(parent, f"g{generation}")))
    return documents


def youngest(documents: list[Data]) -> LoadedPipeline:
    return Family(*documents).resolve(documents[-1]["name"])


@FEW
@given(lines())
def test_resolving_is_idempotent(documents: list[Data]) -> None:
    flat = youngest(documents)
    again = load_pipeline_data(flat.data)
    assert Family().inheritance.resolve(again) is again
    assert canonical_bytes(again.data) == canonical_bytes(flat.data)


@FEW
@given(lines())
def test_stacking_is_associative(documents: list[Data]) -> None:
    """Wherever a line is cut, the upper part may be put together first."""
    whole = meaning(youngest(documents).data)
    for cut in range(1, len(documents)):
        flat = youngest(documents[:cut]).data
        assert meaning(youngest([flat, *documents[cut:]]).data) == whole


@FEW
@given(st.permutations(["left", "right", "third"]), st.data())
def test_it_does_not_matter_how_parents_are_grouped(order: list[str], data: st.DataObject) -> None:
    root: Data = {"name": "root", "stages": [stage("s", config={"x": 1, "list": [0]})], "tags": ["r"]}
    parts = [
        {
            "name": name,
            "extends": "root",
            "overrides": {"s": {"config": {"x": data.draw(st.integers(0, 2)), "list": {"$append": [name]}}}},
            **data.draw(fields()),
        }
        for name in order
    ]
    first, second, third = order

    def grouped(*groups: Data) -> str:
        return meaning(Family(root, *parts, *groups).resolve("all").data)

    flat = grouped({"name": "all", "extends": order})
    assert grouped({"name": "g", "extends": [first, second]}, {"name": "all", "extends": ["g", third]}) == flat
    assert grouped({"name": "g", "extends": [second, third]}, {"name": "all", "extends": [first, "g"]}) == flat


@FEW
@given(lines())
def test_an_empty_child_is_the_identity(documents: list[Data]) -> None:
    parent = youngest(documents)
    empty: Data = {"name": "empty", "extends": parent.pipeline.name}
    made = youngest([*documents, empty])
    assert meaning(made.data, *OWN) == meaning(parent.data, *OWN)
    assert [p.path for p in Family(*documents, empty).problems("empty")] == []


def shuffled(value: Any, data: st.DataObject, *, top: bool = True) -> Any:
    """Return a value with its keys in another order; at the top also its stages, whose order means nothing."""
    if isinstance(value, dict):
        members = cast("Data", value)
        order = data.draw(st.permutations(sorted(members)))
        made = {key: shuffled(members[key], data, top=False) for key in order}
        if top and "stages" in made:
            made["stages"] = data.draw(st.permutations(made["stages"]))
        return made
    return [shuffled(item, data, top=False) for item in cast("list[Any]", value)] if isinstance(value, list) else value


@settings(max_examples=30, deadline=None)
@given(lines(), st.data())
def test_the_order_of_keys_means_nothing(documents: list[Data], data: st.DataObject) -> None:
    other = [shuffled(each, data) for each in documents]
    assert meaning(youngest(other).data) == meaning(youngest(documents).data)


@FEW
@given(lines())
def test_no_value_comes_from_nowhere_and_what_holds_was_written_last(documents: list[Data]) -> None:
    loaded = youngest(documents)
    order = [each["name"] for each in documents]
    for pointer, value in leaves(loaded.data):
        chain = chain_of(loaded, pointer)
        # A whole stage need not repeat its id, and an empty container may be what a removal has left of a fuller one.
        if value not in ({}, []):
            assert same_json(chain[-1].value(), value), pointer
        generations = [order.index(origin.document.pipeline.name) for origin in chain]
        assert generations == sorted(generations)


@FEW
@given(lines())
def test_nobody_who_is_extended_is_changed_by_it(documents: list[Data]) -> None:
    family = Family(*documents)
    before = {name: json.dumps(loaded.data) for name, loaded in family.files.items()}
    for name in before:
        family.resolve(name)
    assert {name: json.dumps(loaded.data) for name, loaded in family.files.items()} == before


# -- whatever somebody writes --------------------------------------------------------------------------------------------

words = st.sampled_from(
    ["config", "x", "$append", "$remove", "$merge", "$replace", "$add", "$$k", "by", "items", "retry", "$no", "id"]
)
patches = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(words, inner, max_size=3), max_leaves=8
)
targets = st.sampled_from(["a", "b", "$pipeline", "nobody", "c"])
keywords = st.sampled_from(["type", "properties", "required", "items", "enum", "anyOf", "allOf", "$ref", "minimum", "additionalProperties", "n", "$defs", "default"])  # fmt: skip
wild_schemas = st.dictionaries(
    keywords, st.recursive(st.sampled_from([3, "string", "object", "#/$defs/n", None, True, "n"]), lambda inner: st.lists(inner, max_size=2) | st.dictionaries(keywords, inner, max_size=2), max_leaves=5), max_size=4
)  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(targets, patches, max_size=3), wild_schemas, wild_schemas, st.booleans())
def test_whatever_is_written_is_either_resolved_or_refused(
    overrides: Data, parents: Data, childs: Data, output: bool
) -> None:
    """Nothing but `InvalidPipeline` is ever raised, and every problem has a place."""
    key = "output_schema" if output else "input_schema"
    eldest: Data = {
        "name": "base",
        "stages": [stage("a", config={"x": [{"by": 1}, 2]}), stage("b", "abstract"), stage("c", depends_on=["a"])],
        "output": {"x": "{{stages.c.y}}"},
        key: parents,
    }
    heir: Data = {"name": "child", "extends": "base", "abstract": True, "overrides": overrides, key: childs}
    for problem in Family(eldest, heir).problems("child"):
        assert problem.file is not None
        assert problem.line is not None
        assert problem.message
