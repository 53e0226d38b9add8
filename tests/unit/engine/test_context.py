"""What an attempt knows and draws, and what its templates read."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from flowmason_ray.engine.commands import StartStage
from flowmason_ray.engine.context import (
    AttemptContext,
    LocalScope,
    draw_text,
    idempotency_key,
    read_environment,
)
from flowmason_ray.engine.events import Event, StageLogged, StageProgressed
from flowmason_ray.engine.executor import RunInfo
from flowmason_ray.engine.values import Items
from flowmason_ray.errors import ExpressionError
from tests.engine_kit import Player, foreach, plan_of, stage


def info(**facts: Any) -> RunInfo:
    known: dict[str, Any] = {"run_id": "r_1", "pipeline": "p", "version": "1.2.3", "started_at": 10.0, "seed": 7}
    return RunInfo(**{**known, **facts})


def context(run: RunInfo | None = None, *, path: str = "a", attempt: int = 1, tell: Any = None) -> AttemptContext:
    return AttemptContext(
        run or info(),
        stage_id="a",
        path=path,
        attempt=attempt,
        first_started_at=20.0,
        tell=tell or (lambda event: None),
    )


def test_it_says_where_it_is() -> None:
    here = context(info(region="eu", project_dir=Path("/x"), settings="s"), path="each[1]/a", attempt=3)
    assert (here.run_id, here.pipeline, here.version, here.region) == ("r_1", "p", "1.2.3", "eu")
    assert (here.stage_id, here.path, here.attempt) == ("a", "each[1]/a", 3)
    assert (here.project_dir, here.settings) == (Path("/x"), "s")
    assert here.started_at == datetime.fromtimestamp(10, UTC)
    assert here.now() == here.now() == datetime.fromtimestamp(20, UTC)


def test_draws_repeat_on_replay_and_differ_from_call_to_call() -> None:
    def draws(here: AttemptContext) -> list[Any]:
        return [here.uuid(), here.random(), here.uuid(), here.random()]

    first = draws(context())
    assert first == draws(context(attempt=2)), "a repeated attempt draws the same"
    assert len(set(first)) == 4
    assert not set(first) & set(draws(context(path="b")))
    assert not set(first) & set(draws(context(info(seed=8))))
    assert all(0 <= number < 1 for number in (first[1], first[3]))
    assert first[0].version == 4


def test_draws_are_pinned() -> None:
    """Recorded runs must replay under later versions too."""
    assert str(context().uuid()) == "e6d411e4-a9b9-4c76-b6b9-697195cc1b0b"
    assert draw_text("uuid", 7, "a", 20.0, 1) == "a59b02b1-b1ae-4446-9f9e-24a507c2be4c"
    assert idempotency_key("r_1", "a") == "18dc0e1ab40deeecb197d02bd51c1ac6"


def test_the_idempotency_key_belongs_to_the_instance_and_the_run() -> None:
    assert context(attempt=1).idempotency_key == context(attempt=2).idempotency_key
    keys = {context().idempotency_key, context(path="b").idempotency_key, context(info(run_id="r_2")).idempotency_key}
    assert len(keys) == 3


def test_times_in_templates_are_when_the_instance_started() -> None:
    assert draw_text("now", 7, "a", 0.0, 1) == "1970-01-01T00:00:00+00:00"
    assert draw_text("today", 7, "a", 86_400.0, 1) == "1970-01-02"


def test_what_it_says_goes_to_whoever_follows() -> None:
    told: list[Event] = []
    here = context(tell=told.append)
    here.log("warning", "careful", n=1)
    here.progress(2, 5)
    first, second = told
    assert isinstance(first, StageLogged)
    assert (first.level, first.message, first.fields, first.path) == ("warning", "careful", {"n": 1}, "a")
    assert isinstance(second, StageProgressed)
    assert (second.done, second.total) == (2, 5)


def test_only_named_variables_of_the_environment_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONE", "1")
    monkeypatch.delenv("TWO", raising=False)
    assert read_environment(["ONE", "TWO"]) == {"ONE": "1"}


# -- templates --------------------------------------------------------------------------------------------------------


def render(command: StartStage, run: RunInfo | None = None) -> Any:
    scope = LocalScope(
        run or info(), command.scope, command.stage, command.path, command.attempt, command.first_started_at
    )
    return command.stage.template.render(scope)["value"]


def reader(text: str) -> dict[str, Any]:
    return stage("r", config={"value": "{{" + text + "}}"})


def started(run: Player, path: str) -> StartStage:
    command = run.pending[path]
    assert isinstance(command, StartStage)
    return command


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("input.x", 5),
        ("context.run_id", "r_1"),
        ("context.stage_id ~ context.path ~ context.attempt", "rr1"),
        ("context.started_at", "1970-01-01T00:00:10+00:00"),
        ("uuid() == uuid()", False),
        ("now() == now()", True),
    ],
)
def test_roots(text: str, value: Any) -> None:
    run = Player(plan_of(reader(text)))
    run.create({"x": 5})
    assert render(started(run, "r")) == value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("stages.a.value", None),
        ("stages.a.status", "failed"),
        ("stages.a.error.code", "boom"),
        ("stages.ok", {"value": 3}),
        ("stages.ok.error", None),
        ("stages.off", None),
        ("stages.off.status", "skipped"),
    ],
)
def test_what_is_read_of_stages(text: str, value: Any) -> None:
    run = Player(
        plan_of(
            stage("a", on_error="continue"),
            stage("ok"),
            stage("off", enabled=False),
            {**reader(text), "depends_on": ["a", "ok", "off"]},
        )
    )
    run.create()
    run.succeed("ok", {"value": 3})
    run.fail("a", "boom")
    if text == "stages.a.value":
        with pytest.raises(ExpressionError):
            render(started(run, "r"))
    else:
        assert render(started(run, "r")) == value


def test_variables_of_iterations_shadow_outer_ones() -> None:
    run = Player(
        plan_of(
            stage("v", "variable_set", config={"name": "x", "value": 1}),
            foreach("each", "w r"),
            stage("w", "variable_set", config={"name": "x", "value": 2}, after="v") | {"depends_on": []},
            {**reader("[vars.x, item, index]"), "depends_on": ["w"]},
        )
    )
    run.create()
    run.succeed("v", {"x": 1})
    run.succeed("each", Items(["p", "q", "s"], [0, 2]), count=2, indices=[0, 2])
    run.succeed("each[0]/w", {"x": "inner"})
    assert render(started(run, "each[0]/r")) == ["inner", "p", 0]
    run.succeed("each[0]/r")
    run.succeed("each[2]/w", {"x": "other"})
    assert render(started(run, "each[2]/r")) == ["other", "s", 2]


def test_the_inner_of_two_loop_variables_of_one_name_wins() -> None:
    run = Player(plan_of(foreach("a", "b"), foreach("b", "r", config={"items": "{{item}}"}), reader("[item, index]")))
    run.create()
    run.succeed("a", Items([["x"], ["y"]]), count=2)
    run.succeed("a[0]/b", Items(["x"]), count=1)
    assert render(started(run, "a[0]/b[0]/r")) == ["x", 0]
