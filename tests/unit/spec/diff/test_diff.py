"""The parts of a diff: names in texts, words in texts, structure, and what a patch refuses."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowmason_ray.errors import InvalidPipeline
from flowmason_ray.spec.diff.comparing import Diff, diff, patch
from flowmason_ray.spec.diff.report import report_of
from flowmason_ray.spec.diff.structure import Home, find_cycle, structure_of
from flowmason_ray.spec.diff.tree import Branches, path_of, plain, pointer_of, tree_of
from flowmason_ray.spec.diff.words import excerpt, word_diff
from flowmason_ray.spec.language.stage_names import rename_in_expression, rename_in_text, stages_in_text
from tests.merge_kit import pipeline, pipelines, stage


@pytest.mark.parametrize(
    ("text", "renamed"),
    [
        ("{{ stages.a.x }}", "{{ stages.b.x }}"),
        ("{{stages['a'].x ~ stages[\"a\"]}}", "{{stages['b'].x ~ stages[\"b\"]}}"),
        ("stages.a is {{ stages . a . stages.a }}", "stages.a is {{ stages . b . stages.a }}"),
        ("{{ 'stages.a' ~ x.stages.a }}", "{{ 'stages.a' ~ x.stages.a }}"),
        ("{{ stages.a-c }} {{ stages.ab }}", "{{ stages.a-c }} {{ stages.ab }}"),
        ("{{ stages.a.items | map(attribute='a') }}", "{{ stages.b.items | map(attribute='a') }}"),
        ("{{ stages.a", "{{ stages.a"),
        ("{% stages.a %}", "{% stages.a %}"),
    ],
)
def test_a_stage_is_renamed_where_it_is_named_and_nowhere_else(text: str, renamed: str) -> None:
    assert rename_in_text(text, {"a": "b"}) == renamed


def test_names_that_cannot_stand_behind_a_dot_are_put_into_brackets() -> None:
    assert rename_in_expression("stages.a.x", {"a": "-b"}) == "stages['-b'].x"
    assert rename_in_expression("stages['-b'].x", {"-b": "a"}) == "stages['a'].x"


def test_two_stages_can_change_names() -> None:
    assert rename_in_text("{{ stages.a }}{{ stages.b }}", {"a": "b", "b": "a"}) == "{{ stages.b }}{{ stages.a }}"
    assert [named.stage for named in stages_in_text("{{ stages.a }}{{ stages['b-c'] }}")] == ["a", "b-c"]


texts = st.text(alphabet="ab \n.{}", max_size=60)


@given(old=texts, new=texts)
@settings(max_examples=200, deadline=None)
def test_the_pieces_of_a_word_diff_give_both_texts(old: str, new: str) -> None:
    pieces = word_diff(old, new)
    assert "".join(p.text for p in pieces if p.sign != "new") == old
    assert "".join(p.text for p in pieces if p.sign != "old") == new
    kept = [[p for p in each if p.sign != "same"] for each in (pieces, excerpt(pieces, 5))]
    assert kept[0] == kept[1]


def test_very_long_texts_are_compared_by_lines() -> None:
    lines = [f"line {n} says something of its own" for n in range(3000)]
    other = [*lines[:1500], "a new one", *lines[1501:]]
    pieces = word_diff("\n".join(lines), "\n".join(other))
    assert "new" in "".join(p.text for p in pieces if p.sign == "new")
    assert sum(len(p.text) for p in pieces if p.sign != "same") < 100


@given(document=pipelines())
@settings(max_examples=100, deadline=None)
def test_a_tree_is_its_document(document: dict[str, object]) -> None:
    assert plain(tree_of(document)) == document


def test_lists_of_bodies_are_bodies_by_position() -> None:
    document = pipeline(stage("p", component="parallel", config={"branches": [["a"], ["b"]]}), stage("a"), stage("b"))
    tree = tree_of(document)
    assert isinstance(tree["stages"]["p"]["config"]["branches"], Branches)
    other = pipeline(stage("p", component="parallel", config={"branches": [["a", "c"], ["b"]]}))
    assert "/stages/p/config/branches/0/c" in [pointer_of(c.path) for c in diff(document, other).changes]


def test_what_is_no_construct_keeps_its_lists() -> None:
    document = pipeline(stage("p", config={"my_stages": ["x", "y"]}), stage("x"))
    assert tree_of(document)["stages"]["p"]["config"]["my_stages"] == ["x", "y"]


@given(path=st.lists(st.text(alphabet="a/~b", min_size=1, max_size=4), max_size=4).map(tuple))
def test_pointers_and_paths(path: tuple[str, ...]) -> None:
    assert path_of(pointer_of(path)) == path


def test_edges_are_lifted_to_where_both_ends_are() -> None:
    document = pipeline(
        stage("load"),
        stage("each", component="foreach", config={"items": "{{ stages.load.rows }}", "loop_stages": ["one", "two"]}),
        stage("one", config={"message": "{{ stages.load.rows }}"}),
        stage("two", "one"),
        stage("last", config={"message": "{{ stages.each.results }} {{ stages.nobody.x }}"}),
    )
    structure = structure_of(tree_of(document))
    assert structure.homes == {"one": Home("each", "loop_stages"), "two": Home("each", "loop_stages")}
    assert sorted(structure.lifted()) == [("each", "last"), ("load", "each"), ("one", "two")]


def test_a_ring_is_found_and_a_chain_of_any_length_is_none() -> None:
    assert find_cycle({"a": ["b"], "b": ["c"], "c": ["a"]}) == ["a", "b", "c", "a"]
    assert find_cycle({str(n): [str(n + 1)] for n in range(50_000)}) is None


def test_a_patch_that_does_not_fit_is_refused_with_every_misfit() -> None:
    base = pipeline(stage("a", config={"n": 1}), stage("b", config={"n": 1}))
    change = diff(base, pipeline(stage("a", config={"n": 2}), stage("b", config={"n": 2})))
    with pytest.raises(InvalidPipeline) as caught:
        patch(pipeline(stage("a", config={"n": 3}), stage("c")), change)
    assert [p.path for p in caught.value.problems] == ["/stages/a/config/n", "/stages/b/config/n"]
    with pytest.raises(InvalidPipeline, match="patch_does_not_fit"):
        patch(base, Diff(renames={"a": "b"}))


@pytest.mark.parametrize(
    ("before", "after", "renames"),
    [
        ([stage("a", config={"t": "x"})], [stage("b", config={"t": "x"})], {"a": "b"}),
        ([stage("a", config={"t": "x"})], [stage("b", component="filter", config={"t": "x"})], {}),
        ([stage("a"), stage("b")], [stage("c"), stage("d")], {}),  # which is which?
        ([stage("a", config={"t": "one two three four five"})], [stage("b", config={"t": "six seven eight"})], {}),
        (
            [stage("a", config={"t": "say it in ten words or so, please do it now"})],
            [stage("b", config={"t": "say it in ten words or so, please do it later"})],
            {"a": "b"},
        ),
        ([stage("a", config={"t": "x"})], [stage("a", config={"t": "x"}), stage("b", config={"t": "x"})], {}),
    ],
)
def test_a_stage_is_found_again_by_its_content(
    before: list[dict[str, object]], after: list[dict[str, object]], renames: dict[str, str]
) -> None:
    assert dict(diff(pipeline(*before), pipeline(*after)).renames) == renames


def test_a_chain_of_renamed_stages_is_found() -> None:
    before = pipeline(stage("a", config={"t": "x"}), stage("b", "a", config={"t": "{{ stages.a.v }} y"}))
    after = pipeline(stage("c", config={"t": "x"}), stage("d", "c", config={"t": "{{ stages.c.v }} y"}))
    change = diff(before, after)
    assert (dict(change.renames), change.changes) == ({"a": "c", "b": "d"}, ())


def test_two_stages_under_one_id_are_refused() -> None:
    with pytest.raises(InvalidPipeline, match="used twice"):
        diff(pipeline(stage("a"), stage("a")), pipeline())


def test_a_report_of_nothing_says_so() -> None:
    report = report_of(pipeline(stage("a")), pipeline(stage("a", position={"x": 1})))
    assert (bool(report), report.summary()) == (False, "no differences")
