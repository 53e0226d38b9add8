"""The body of an attempt: from templates to an Input, from what came back to a value, from an exception to a failure."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import orjson
import polars as pl
import pytest
from pydantic import BaseModel, TypeAdapter

from flowmason_ray.components.base import control_flow, operator, spec_of
from flowmason_ray.engine.attempt import (
    DECLINED,
    TRACEBACK_LIMIT_CHARS,
    InvalidConfig,
    InvalidOutput,
    Value,
    fail,
    finish,
    prepare,
)
from flowmason_ray.engine.component import ComponentSpec, Context
from flowmason_ray.engine.plan import PlanStage
from flowmason_ray.engine.values import Decision
from flowmason_ray.errors import ExpressionError, PermanentError, TemporaryError
from flowmason_ray.spec.expressions import DictScope, parse_expression
from flowmason_ray.spec.input_schema import InputSchema
from flowmason_ray.spec.templates import parse_template


@operator(name="made", effect="pure", raw=("text",))
class Made:
    class Input(BaseModel):
        n: int
        text: str = ""

    class Output(BaseModel, arbitrary_types_allowed=True):
        n: int = 0
        extra: Any = None

    def execute(self, input: Input, context: Context) -> Output:
        return self.Output()


@control_flow(name="fork")
class Fork:
    class Input(BaseModel): ...

    class Output(BaseModel):
        branch: str | None = None

    def execute(self, input: Input, context: Context) -> Output:
        return self.Output()


def spec(cls: type = Made) -> ComponentSpec:
    found = spec_of(cls)
    assert found is not None
    return found


def work(config: Any, *, component: bool = True, **facts: Any) -> PlanStage:
    return PlanStage(
        id="a", index=0, region=0, component=spec() if component else None, template=parse_template(config), **facts
    )


SCOPE = DictScope({"input": {"n": 3, "yes": True}})


# -- prepare ----------------------------------------------------------------------------------------------------------


def test_the_config_becomes_the_input() -> None:
    given = prepare(work({"n": "{{input.n}}"}, fixed={"text": "{{as written}}"}), SCOPE)
    assert (given.n, given.text) == (3, "{{as written}}")


def test_when_is_asked_first() -> None:
    assert prepare(work({"n": "{{input.missing}}"}, when=parse_expression("not input.yes")), SCOPE) is DECLINED
    with pytest.raises(ExpressionError):
        prepare(work({"n": 1}, when=parse_expression("input.missing")), SCOPE)


def test_every_field_that_does_not_fit_is_named() -> None:
    with pytest.raises(InvalidConfig, match=r"'made' does not fit: n: .*; text: .*\."):
        prepare(work({"n": "x", "text": 3}), SCOPE)


def test_a_hidden_stage_is_its_rendered_template() -> None:
    assert prepare(work("{{input.n}}", component=False), SCOPE) == Value(3, size_bytes=1)


def test_a_hidden_stage_may_have_a_schema() -> None:
    schema = InputSchema({"type": "object", "required": ["x"]})
    with pytest.raises(InvalidOutput, match="misses its schema") as caught:
        prepare(work({"y": 1}, component=False, schema=schema), SCOPE)
    assert caught.value.details is not None
    assert len(caught.value.details["problems"]) == 1


def test_a_template_that_makes_no_json_fails() -> None:
    with pytest.raises(InvalidOutput, match="not JSON"):
        prepare(work("{{input.x}}", component=False), DictScope({"input": {"x": 10**30}}))


# -- finish -----------------------------------------------------------------------------------------------------------


def test_outputs_objects_and_decisions() -> None:
    assert finish(spec(), Made.Output(n=2)) == Value({"n": 2, "extra": None}, size_bytes=20)
    assert finish(spec(), {"n": "4"}) == Value({"n": 4, "extra": None}, size_bytes=20)
    assert finish(spec(), Decision(facts={"count": 1}, value=[1])) == Value([1], {"count": 1})


def test_a_decision_of_a_third_partys_control_flow_is_its_branch() -> None:
    assert finish(spec(Fork), {"branch": "x"}) == Value({"branch": "x"}, {"branch": "x"}, 14)
    assert finish(spec(Fork), Fork.Output()).decision == {"branch": None}


def test_frames_stay_frames() -> None:
    frame = pl.DataFrame({"n": [1]})
    value = finish(spec(), {"extra": {"deep": [frame]}})
    assert value.value["extra"]["deep"][0] is frame


@pytest.mark.parametrize(
    ("returned", "words"),
    [
        (None, r"nothing \(None\)"),
        (3, "type 'int'"),
        ({"n": "x"}, "does not fit: n:"),
        ({"extra": object()}, "not JSON"),
        ({"extra": 2**64}, "64-bit"),
        ({"extra": "\udfff"}, "surrogates"),
    ],
)
def test_what_is_no_output(returned: Any, words: str) -> None:
    with pytest.raises(InvalidOutput, match=words):
        finish(spec(), returned)


# -- fail -------------------------------------------------------------------------------------------------------------


def raised(exc: BaseException) -> BaseException:
    try:
        raise exc
    except BaseException as caught:
        return caught


def test_our_errors_keep_their_code_details_and_delay() -> None:
    failure = fail(TemporaryError("busy", delay=timedelta(seconds=3), code="rate_limited", details={"a": 1}), "s", 2)
    assert (failure.code, failure.message, failure.stage, failure.attempts) == ("rate_limited", "busy", "s", 2)
    assert (failure.retry_after_s, failure.details, failure.error_type) == (3.0, {"a": 1}, "TemporaryError")
    assert failure.traceback is None


def test_foreign_exceptions_show_their_own_frames() -> None:
    failure = fail(raised(ValueError("bad")), "s", 1)
    assert (failure.code, failure.message, failure.error_type) == ("component_error", "ValueError: bad", "ValueError")
    assert failure.traceback is not None
    assert "test_attempt.py" in failure.traceback


def test_a_long_traceback_keeps_its_end() -> None:
    def deep(n: int) -> None:
        if n:
            deep(n - 1)
        raise ValueError("x")

    with pytest.raises(ValueError, match="x") as caught:
        deep(300)
    failure = fail(caught.value, "s", 1)
    assert failure.traceback is not None
    assert len(failure.traceback) <= TRACEBACK_LIMIT_CHARS
    assert 'raise ValueError("x")' in failure.traceback


@pytest.mark.parametrize(
    ("details", "kept"),
    [
        ({"x": {1}}, {"x": "{1}"}),
        ({"x": 10**30}, {"details": "{'x': 1000000000000000000000000000000}"}),
        ({1: 2}, {"1": 2}),
        ([1], None),
        (None, None),
    ],
)
def test_details_become_json(details: Any, kept: Any) -> None:
    assert fail(PermanentError("m", details=details), "s", 1).details == kept


@pytest.mark.parametrize("encode", [json.dumps, orjson.dumps, TypeAdapter(Any).dump_json])
def test_a_table_where_a_component_takes_json_is_said_so(encode: Callable[[Any], Any]) -> None:
    with pytest.raises((TypeError, ValueError)) as caught:
        encode({"deep": [pl.DataFrame({"a": [1]})]})
    failure = fail(caught.value, "s", 1)
    assert failure.code == "invalid_input"
    assert "found a table" in failure.message
    assert fail(TypeError("Object of type set is not JSON serializable"), "s", 1).code == "component_error"
