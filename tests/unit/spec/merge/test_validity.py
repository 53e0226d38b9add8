"""A clean merge of valid pipelines is valid, whatever two teams did: checked with the real planner, for every pair of edits."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations
from pathlib import Path

import pytest

from flowmason_ray.api import validate
from flowmason_ray.cli.merge_files import validator_of
from flowmason_ray.errors import Problem
from flowmason_ray.spec.merge.blame import Validator, errors_of
from flowmason_ray.spec.merge.conflicts import choose_always
from flowmason_ray.spec.merge.merging import merge
from tests.merge_kit import pipeline, stage
from tests.stories import Document, at, copies, log, renamed, support, variable, without

Edit = Callable[[Document], Document]


def config(stage: str, key: str, value: object) -> Edit:
    def edit(document: Document) -> Document:
        at(document, stage)["config"][key] = value
        return document

    return edit


def adding(*stages: Document) -> Edit:
    return lambda document: {**document, "stages": [*document["stages"], *stages]}


def both(*edits: Edit) -> Edit:
    def edit(document: Document) -> Document:
        for each in edits:
            document = each(document)
        return document

    return edit


def closed(document: Document) -> Document:
    document["input_schema"]["additionalProperties"] = False
    return document


def waiting(stage: str, *after: str) -> Edit:
    def edit(document: Document) -> Document:
        at(document, stage)["depends_on"] = list(after)
        return document

    return edit


def unlist(route: str) -> Edit:
    def edit(document: Document) -> Document:
        document = without(document, *at(document, "triage")["config"]["routes"][route])
        del at(document, "triage")["config"]["routes"][route]
        return document

    return edit


EDITS: dict[str, Edit] = {
    "rename clean": lambda d: renamed(d, "clean", "tidy"),
    "rename words": lambda d: renamed(d, "words", "length_of_it"),
    "remove words": both(config("report", "message", "Done."), lambda d: without(d, "words")),
    "read words": adding(log("bill", "{{ stages.words.value }} characters")),
    "words as text": config("words", "value", "many"),
    "count with words": adding(variable("half", "{{ stages.words.value / 2 }}")),
    "close the input": closed,
    "read another input": config("report", "message", "{{ input.customer }} has {{ stages.words.value }}"),
    "words after report": both(config("report", "message", "Done."), waiting("words", "report")),
    "report after words": both(config("report", "message", "Done."), waiting("report", "triage", "words")),
    "route to words": both(
        config("report", "message", "Done."),
        config("triage", "routes", {"bug": ["file_bug"], "question": ["answer", "words"]}),
    ),
    "no route for bugs": unlist("bug"),
    "more for bugs": both(
        config("triage", "routes", {"bug": ["file_bug", "thank"], "question": ["answer"]}),
        adding(log("thank", "Thanks.")),
    ),
    "another default": both(
        lambda d: without(d, "ask_back"),
        config("triage", "default_route", ["short"]),
        adding(log("short", "What is it?")),
    ),
    "set who here": adding(variable("first", "me") | {"config": {"name": "who", "value": "me"}}),
    "set who there": adding(variable("second", "you") | {"config": {"name": "who", "value": "you"}}),
    "a result": lambda d: {**d, "output": {"words": "{{ stages.words.value }}"}},
    "another result": lambda d: {**d, "output_stage_id": "report"},
}


@pytest.fixture(scope="module")
def planner() -> Validator:
    return validator_of(Path("p.pipeline.json"))


def made(name: str) -> Document:
    return EDITS[name](copies(support())[0])


@pytest.mark.parametrize("name", EDITS)
def test_every_edit_alone_is_valid(name: str) -> None:
    assert [problem for problem in validate(made(name)) if problem.severity == "error"] == []


def test_every_pair_of_edits_is_valid_or_a_conflict_that_can_be_decided(planner: Validator) -> None:
    semantic: dict[str, str] = {}
    for one, other in combinations(EDITS, 2):
        ours, theirs = made(one), made(other)
        merged = merge(support(), ours, theirs, validate=planner)
        assert not merged.problems, (one, other, merged.problems)
        if merged.clean:
            assert errors_of(merged.document, planner) == {}, (one, other)
        for conflict in merged.conflicts:
            if conflict.kind == "semantic":
                semantic[f"{one} / {other}"] = conflict.code
        if all(conflict.kind == "semantic" for conflict in merged.conflicts):
            for side in ("ours", "theirs"):
                decided = merge(support(), ours, theirs, validate=planner, choose=choose_always(side))
                assert errors_of(decided.document, planner) == {}, (one, other, side)
    expected = {
        "remove words / read words": "unknown_stage",
        "close the input / read another input": "unknown_field",
        "words after report / report after words": "cycle",
        "set who here / set who there": "ambiguous_order",
    }
    assert expected.items() <= semantic.items()


def test_the_edits_behind_many_problems_are_found_with_few_validations() -> None:
    """Three problems come from two pairs of edits among a thousand."""
    names = [f"s{n}" for n in range(500)]

    def edited(key: str, value: object) -> Document:
        return pipeline(*(stage(name, config={"at": name, key: value}) for name in names))

    base, ours, theirs = edited("a", 0), edited("a", 1), edited("b", 1)
    calls = 0

    def judge(document: Document) -> list[Problem]:
        nonlocal calls
        calls += 1
        configs = {s["id"]: s["config"] for s in document["stages"]}
        found: list[Problem] = []
        for one, other, codes in (("s7", "s401", ("x", "y")), ("s300", "s2", ("z",))):
            if configs[one].get("a") == 1 and configs[other].get("b") == 1:
                found += [Problem(code=code, message=code, path=f"/stages/{one[1:]}/config") for code in codes]
        return found

    merged = merge(
        base,
        ours,
        {**theirs, "stages": [{**s, "config": {**s["config"], "a": 0}} for s in theirs["stages"]]},
        validate=judge,
    )
    edits = [conflict.edits for conflict in merged.conflicts]
    assert [(e[0].path, e[1].path) for e in edits if e is not None] == [
        (("stages", "s7", "config", "a"), ("stages", "s401", "config", "b")),
        (("stages", "s7", "config", "a"), ("stages", "s401", "config", "b")),
        (("stages", "s300", "config", "a"), ("stages", "s2", "config", "b")),
    ]
    assert calls < 60
