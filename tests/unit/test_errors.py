"""Errors cross processes: every class pickles and has a JSON form; problems read well."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Iterator
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowmason_ray import errors
from flowmason_ray.components.base import InvalidComponent
from flowmason_ray.engine.attempt import InvalidConfig, InvalidOutput, SetupFailed
from flowmason_ray.engine.component import InvalidActors
from flowmason_ray.engine.executors.capacity import InfeasibleRun
from flowmason_ray.engine.executors.memory_limit import MemoryExceeded
from flowmason_ray.engine.executors.slots import InfeasibleResources
from flowmason_ray.errors import Failure, FlowMasonError, Problem, Suggestions, nearest
from flowmason_ray.pipeline_tests.mocking import MockExhausted
from flowmason_ray.spec.expressions import ExpressionSyntaxError
from flowmason_ray.stores.group_commit import BlobsGone, ConnectionLost

PROBLEM = Problem(code="c", message="M.", path="/a", file="f.json", line=3, column=4, nearest="x", hint="Do it.")
FAILURE = Failure(code="boom", message="it broke", stage="a[1]/b", attempts=2, details={"n": [1]})

EXAMPLES: dict[type[FlowMasonError], FlowMasonError] = {
    type(error): error
    for error in (
        FlowMasonError("m"),
        errors.InvalidPipeline([PROBLEM, Problem(code="d", message="N.")]),
        errors.InvalidInput([PROBLEM]),
        errors.InvalidCall("m"),
        errors.MissingExtra(feature="Charts", extra="charts", module="altair"),
        errors.StoreError("m"),
        errors.StoreUnavailable("m"),
        BlobsGone("m"),
        ConnectionLost("m"),
        errors.RunNotFound("m"),
        errors.Fenced("m"),
        errors.RunFailed(FAILURE, run_id="r_1"),
        errors.StageError("m", code="mine", details={"a": 1}),
        errors.PermanentError("m"),
        errors.TemporaryError("m", delay=timedelta(seconds=2), details={"x": None}),
        errors.ExpressionError("m", code="missing_value"),
        InvalidComponent("m"),
        InvalidConfig("m"),
        InvalidOutput("m", details={"problems": []}),
        SetupFailed("m"),
        InvalidActors("m"),
        InfeasibleResources("m"),
        InfeasibleRun("m"),
        MemoryExceeded("m"),
        MockExhausted("m"),
        ExpressionSyntaxError("m", column=3),
    )
}


def tree(cls: type[FlowMasonError] = FlowMasonError) -> Iterator[type[FlowMasonError]]:
    yield cls
    for each in cls.__subclasses__():
        yield from tree(each)


def test_every_class_has_an_example() -> None:
    # The Ray executor's own are there only when a test before this one has imported Ray.
    ours = {cls for cls in tree() if cls.__module__.startswith("flowmason_ray.") and ".ray_" not in cls.__module__}
    shown = {cls for cls in ours if not cls.__name__.startswith("_")}
    assert shown - set(EXAMPLES) == set()


@pytest.mark.parametrize("cls", EXAMPLES, ids=lambda cls: cls.__name__)
def test_errors_survive_a_trip_to_another_process(cls: type[FlowMasonError]) -> None:
    error = EXAMPLES[cls]
    for found in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert type(found) is cls
        assert (str(found), found.args, vars(found)) == (str(error), error.args, vars(error))
        assert found.code == error.code
        assert found.to_json() == error.to_json()


@pytest.mark.parametrize("cls", EXAMPLES, ids=lambda cls: cls.__name__)
def test_errors_have_a_json_form(cls: type[FlowMasonError]) -> None:
    data = json.loads(json.dumps(EXAMPLES[cls].to_json()))
    assert data["code"] == EXAMPLES[cls].code
    assert data["message"] == EXAMPLES[cls].message


def test_codes_tell_classes_apart() -> None:
    # Users are told what their parents tell, or the same before the run as in it.
    alike = (InvalidComponent, BlobsGone, ConnectionLost, InfeasibleRun)
    codes = [cls.code for cls in EXAMPLES if cls not in alike]
    assert sorted(codes) == sorted(set(codes))
    assert {cls.exit_code for cls in EXAMPLES} == {1, 2}


def test_the_tree_in_the_docstring_names_every_class() -> None:
    assert errors.__doc__ is not None
    public = [cls.__name__ for cls in tree() if cls.__module__ == errors.__name__ and not cls.__name__.startswith("_")]
    assert [name for name in public if name not in errors.__doc__] == []


def test_a_problem_reads_as_one_line_with_its_place() -> None:
    assert str(PROBLEM) == "f.json:3:4: M. Did you mean 'x'? Do it. [c]"
    assert str(Problem(code="c", message="M.")) == "M. [c]"
    assert Problem(code="c", message="M.", file="f", excerpt="x\n^").where() == "f"
    assert str(Problem(code="c", message="M.", excerpt="x\n^")).endswith("[c]\nx\n^")
    assert Problem(code="c", message="M.").to_json() == {"code": "c", "message": "M.", "path": "", "severity": "error"}


def test_a_failed_run_says_stage_and_cause() -> None:
    assert str(errors.RunFailed(FAILURE, run_id="r")) == "Stage 'a[1]/b': it broke [boom]"
    assert errors.MissingExtra(feature="X", extra="e", module="m").message.endswith("pip install 'flowmason-ray[e]'")


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("", "the run"),
        ("each[3]/load", "stage 'each[3]/load'"),
        ("$output", "the result"),
        ("sub/$output", "the result of 'sub'"),
        ("each[0]/$collect", "the result of 'each[0]'"),
    ],
)
def test_paths_in_words(path: str, words: str) -> None:
    assert errors.place_of(path) == words


def test_a_failed_result_is_no_stage() -> None:
    failure = Failure(code="missing_value", message="No 'x'.", stage="$output")
    assert str(errors.RunFailed(failure, run_id="r")) == "The result: No 'x'. [missing_value]"
    assert str(errors.RunFailed(Failure(code="timeout", message="Late."), run_id="r")) == "Late. [timeout]"


def test_the_nearest_name() -> None:
    assert nearest("ftech", ["fetch", "patch"]) == "fetch"
    assert nearest("FETCH", ["fetch"]) == "fetch"
    assert nearest("zzz", ["fetch"]) is None
    assert nearest("x", []) is None


def test_a_whole_file_of_mistakes_gets_suggestions_for_the_first_ones() -> None:
    suggestions = Suggestions(f"stage{i}" for i in range(20_000))
    found = [suggestions.nearest(f"stge{i}x") for i in range(100)]
    assert found[0] is not None
    assert found[10:] == [None] * 90  # ten times twenty thousand comparisons are allowed
    assert Suggestions(["fetch1", "fetch2"]).nearest("fetch1", but="fetch1") == "fetch2"


@given(st.text(), st.lists(st.text()))
def test_the_nearest_name_is_one_of_those_given(name: str, names: list[str]) -> None:
    assert nearest(name, names) in {None, *names}
