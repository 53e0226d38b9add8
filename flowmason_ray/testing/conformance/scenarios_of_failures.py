"""Scenarios about what goes wrong, and about limits: errors, retries, time limits, cancelling, parallelism, resources."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from flowmason_ray.engine.events import Event, StageStarted
from flowmason_ray.testing.conformance.checking import Capability, Outcome, Scenario, TooSlow
from flowmason_ray.testing.conformance.scenarios import scenario, stage

AT_ONCE = {"max_attempts": 3, "initial_delay_ms": 1, "jitter": 0}
LONG_S = 50.0
"""How long attempts would take that are stopped: long enough to notice when they are not."""
STOPPED_S = 6.0
"""How long attempts would take of which is seen, afterwards, that they really stopped."""
SOON_S = 1.5
"""Within what cancelling takes effect: a second, and half of one for a busy machine."""


def scenarios() -> list[Scenario]:
    """Return these scenarios."""
    return [*_errors(), *_retries(), *_rules(), *_time_limits(), *_cancelling(), *_limits()]


def _errors() -> Iterator[Scenario]:
    yield scenario(
        "an_error_names_type_message_and_place",
        stage("a", "conf_raise", {"how": "badly"}),
        fails="component_error",
        judge=_judge_error,
        statuses={"a": "failed"},
    )
    yield scenario(
        "an_error_does_not_reach_what_comes_after",
        stage("a", "conf_raise"),
        stage("b", "conf_sync", {"x": "{{ stages.a }}"}),
        fails="component_error",
        judge=lambda o: _expect("b" not in o.stages, "b ran"),
    )
    for what in ("shape", "none", "text", "huge"):
        yield scenario(
            f"a_wrong_output_is_refused_{what}",
            stage("a", "conf_wrong", {"what": what}, retry=AT_ONCE),
            fails="invalid_output",
            judge=lambda o: _expect(len(o.failures("a")) == 1, "it was repeated"),
        )
    yield scenario(
        "a_config_that_does_not_fit_is_refused",
        stage("a", "conf_large", {"count": "{{ input.count }}"}),
        input={"count": "many"},
        fails="invalid_config",
        judge=lambda o: _expect("count" in o.failures("a")[0].message, "the field is not named"),
    )
    yield scenario(
        "a_template_that_fails_is_the_stages_failure",
        stage("a", "conf_sync", {"x": "{{ input.nothing.here }}"}),
        fails="missing_value",
        statuses={"a": "failed"},
    )
    yield scenario(
        "a_permanent_error_keeps_its_facts",
        stage("a", "conf_raise", {"how": "permanent"}),
        fails="never_ever",
        judge=_judge_permanent,
    )
    yield scenario(
        "a_worker_that_dies_is_a_failed_attempt",
        stage("a", "conf_exit", on_error="continue"),
        stage("b", "conf_sync", {"code": "{{ stages.a.error.code }}"}),
        gives={"code": "worker_died"},
        needs=[Capability.SURVIVES_EXIT],
    )
    yield scenario(
        "a_worker_that_dies_once_is_repeated",
        stage("a", "conf_exit", {"until": 2}, retry=AT_ONCE, effect="idempotent"),
        gives={"attempt": 2},
        needs=[Capability.SURVIVES_EXIT],
    )


def _retries() -> Iterator[Scenario]:
    yield scenario(
        "a_failed_attempt_is_repeated_under_the_same_key",
        stage("a", "conf_raise", {"until": 3}, retry=AT_ONCE),
        stage("b", "conf_raise", {"until": 1}),
        judge=_judge_keys,
    )
    yield scenario(
        "a_temporary_error_says_how_long_to_wait",
        stage("a", "conf_raise", {"how": "temporary", "until": 2, "delay_ms": 400}, retry=AT_ONCE),
        judge=_judge_delay,
    )
    yield scenario(
        "attempts_end_with_the_policy",
        stage("a", "conf_raise", retry=AT_ONCE),
        fails="component_error",
        judge=lambda o: _expect([f.attempts for f in o.failures("a")] == [1, 2, 3], f"{o.failures('a')}"),
    )


def _rules() -> Iterator[Scenario]:
    for component in ("conf_trivial", "conf_async", "conf_sync"):
        yield scenario(
            f"when_declines_{component}",
            stage("yes", component, {"x": 1}, when="input.on"),
            stage("no", component, {"x": 2}, when="not input.on"),
            stage("after", component, {"yes": "{{ stages.yes }}", "no": "{{ stages.no }}"}),
            stage("only", component, {"no": "{{ stages.no }}"}),
            input={"on": True},
            output={"after": "{{ stages.after }}"},
            gives={"after": {"yes": {"x": 1}, "no": None}},
            statuses={"yes": "succeeded", "no": "skipped", "after": "succeeded", "only": "skipped"},
        )
    yield scenario(
        "on_error_decides_what_follows",
        stage("goes_on", "conf_raise", on_error="continue"),
        stage("falls_back", "conf_raise", on_error="fallback", fallback_output={"instead": [1]}),
        stage("after", "conf_sync", {"a": "{{ stages.goes_on }}", "b": "{{ stages.falls_back.instead }}"}),
        gives={"a": None, "b": [1]},
        statuses={"goes_on": "failed", "falls_back": "fallback", "after": "succeeded"},
    )
    yield scenario(
        "failed_items_are_listed",
        stage(
            "each", "foreach", {"items": [1, 2, 3], "loop_stages": ["a"], "max_parallel": 2, "break_on_error": False}
        ),
        stage("a", "conf_raise", {"how": "item {{ item }}", "until": "{{ 1 if item != 2 else 9 }}"}),
        output={
            "failed": "{{ stages.each.errors | map(attribute='message') }}",
            "ok": "{{ stages.each.succeeded_items }}",
        },
        gives={"failed": ["Oops: It went wrong: item 2."], "ok": 2},
    )
    yield scenario(
        "an_error_is_caught",
        stage("t", "trycatch", {"try_stages": ["a"], "catch_stages": ["b"], "error_scope": "continue"}),
        stage("a", "conf_raise", {"how": "once"}),
        stage("b", "conf_sync", {"code": "{{ stages.a.error.code }}"}),
        output={"caught": "{{ stages.t.catch_result }}", "type": "{{ stages.t.error_type }}"},
        gives={"caught": {"code": "component_error"}, "type": "Oops"},
    )


def _time_limits() -> Iterator[Scenario]:
    for component in ("conf_sleep", "conf_spin"):
        yield scenario(
            f"a_time_limit_stops_{component}",
            stage("first", component, {"seconds": 0}),
            stage(
                "a",
                component,
                {"seconds": STOPPED_S, "mark": "went-on"},
                timeout_ms=600,
                depends_on=["first"],  # which may have had to start a worker
            ),
            fails="timeout",
            soon=_stopped_soon,
            judge=_judge_stopped,
        )
    yield scenario(
        "the_runs_time_limit_stops_it",
        stage("a", "conf_sleep", {"seconds": LONG_S}),
        fails="timeout",
        soon=_within(5),
        timeout_ms=1500,
    )


def _cancelling() -> Iterator[Scenario]:
    yield scenario(
        "a_cancelled_run_ends_within_a_second",
        stage("a", "conf_sleep", {"seconds": LONG_S}),
        stage("b", "conf_spin", {"seconds": LONG_S}),
        stage("c", "conf_sync", {"x": "{{ stages.a }}"}),
        cancel_when=_starts("b"),
        soon=_cancelled_soon,
        judge=_judge_cancelled,
    )
    yield scenario(
        "a_cancelled_loop_stops_its_items",
        stage("each", "foreach", {"items": list(range(50)), "loop_stages": ["a"], "max_parallel": 3}),
        stage("a", "conf_sleep", {"seconds": LONG_S}),
        cancel_when=_starts("each[2]/a"),
        soon=_cancelled_soon,
        judge=_judge_cancelled,
    )
    yield scenario(
        "a_lost_race_is_stopped",
        stage("race", "parallel", {"branches": [["slow"], ["fast"]], "wait_for": "any"}),
        stage("slow", "conf_sleep", {"seconds": LONG_S, "mark": "slow"}),
        stage("fast", "conf_sync", {"won": True}),
        output={"results": "{{ stages.race.results }}", "winner": "{{ stages.race.winner }}"},
        gives={"results": [None, {"won": True}], "winner": "1"},
        statuses={"slow": "cancelled"},
        soon=_within(LONG_S / 2),
    )
    yield scenario(
        "a_failure_stops_what_runs",
        stage("slow", "conf_sleep", {"seconds": LONG_S}),
        stage("bad", "conf_raise"),
        fails="component_error",
        statuses={"slow": "cancelled"},
        soon=_within(LONG_S / 2),
    )
    yield scenario(
        "a_call_that_cannot_be_interrupted_is_ended",
        stage("first", "conf_block", {"seconds": 0}),
        stage("a", "conf_block", {"seconds": STOPPED_S, "mark": "went-on"}, timeout_ms=600, depends_on=["first"]),
        fails="timeout",
        soon=_stopped_soon,
        judge=_judge_stopped,
        needs=[Capability.ENDS_C_CALLS],
    )


def _limits() -> Iterator[Scenario]:
    yield scenario(
        "max_parallel_of_the_run_is_observed",
        *(stage(f"n{i}", "conf_interval", {"seconds": 0.05}) for i in range(6)),
        max_parallel=2,
        judge=lambda o: _expect(_most_at_once(list(o.output.values())) <= 2, "more than 2 at once"),
    )
    yield scenario(
        "a_window_is_observed",
        stage("each", "foreach", {"items": list(range(8)), "loop_stages": ["a"], "max_parallel": 3}),
        stage("a", "conf_interval", {"seconds": 0.05}),
        judge=lambda o: _expect(_most_at_once(o.output["results"]) <= 3, "more than 3 at once"),
    )
    for name, resources in {
        "gpus": {"num_gpus": 1000},
        "accelerators": {"accelerator_type": "no-such-thing"},
        "labels": {"labels": {"flowmason/no-such-label": "x"}},
    }.items():
        yield scenario(
            f"what_can_never_be_had_is_refused_{name}",
            stage("a", "conf_sync", {"x": 1}, resources=resources),
            fails="infeasible_resources",
            soon=_within(5),
            judge=_judge_infeasible,
        )


# -- judging --------------------------------------------------------------------------------------------------------------------


def _expect(holds: bool, message: str) -> None:
    assert holds, message


def _starts(path: str) -> Callable[[Event], bool]:
    def starts(event: Event) -> bool:
        return isinstance(event, StageStarted) and event.path == path

    return starts


def _judge_error(outcome: Outcome) -> None:
    (failure,) = outcome.failures("a")
    assert failure.error_type == "Oops", failure.error_type
    assert failure.message == "Oops: It went wrong: badly.", failure.message
    assert failure.stage == "a"
    assert failure.attempts == 1
    trace = failure.traceback or ""
    assert "conformance/components.py" in trace, f"the component's frames are missing: {trace!r}"
    assert "in fail" in trace, f"the frame that raised is missing: {trace!r}"
    assert trace.count('File "') == 2, f"frames that are not the component's are shown: {trace}"


def _judge_permanent(outcome: Outcome) -> None:
    (failure,) = outcome.failures("a")
    assert failure.details == {"why": "because"}, failure.details
    assert failure.error_type == "PermanentError", failure.error_type


def _judge_keys(outcome: Outcome) -> None:
    assert outcome.status == "succeeded"
    a, b = outcome.output["a"], outcome.output["b"]
    assert a["attempt"] == 3, a
    assert outcome.stages["a"].attempts == 3
    assert len(a["key"]) >= 16
    assert a["key"] != b["key"], "two stages share a key"
    assert a["key"] == KEY_OF_A, f"{a['key']} is not the key of this stage in this run"


KEY_OF_A = "1d5f8da32800a2a1a30ac9bef4cfd9d6"
"""SHA-256 of the run's id, a zero byte and the path, the first 32 digits: what a receiver may have stored."""


def _judge_delay(outcome: Outcome) -> None:
    assert outcome.status == "succeeded"
    first, second = (e.at for e in outcome.events if isinstance(e, StageStarted) and e.path == "a")
    assert second - first >= 0.4, f"it was repeated after {second - first:.3f} s"
    assert outcome.failures("a")[0].retry_after_s == 0.4


def _within(most_s: float) -> Callable[[Outcome], None]:
    def soon(outcome: Outcome) -> None:
        if outcome.duration_s >= most_s:
            raise TooSlow(f"it took {outcome.duration_s:.1f} s")

    return soon


def _stopped_after_s(outcome: Outcome) -> float:
    ended = outcome.events[-1].at
    return ended - next((e.at for e in outcome.events if isinstance(e, StageStarted) and e.path == "a"), ended)


def _stopped_soon(outcome: Outcome) -> None:
    took_s = _stopped_after_s(outcome)
    if took_s >= STOPPED_S - 0.3:
        raise TooSlow(f"it took {took_s:.1f} s")


def _judge_stopped(outcome: Outcome) -> None:
    time.sleep(STOPPED_S + 0.4 - _stopped_after_s(outcome))
    assert not (outcome.project_dir / "went-on").exists(), "the attempt went on after it was reported as stopped"


def _cancelled_soon(outcome: Outcome) -> None:
    if outcome.after_cancel_s >= SOON_S:
        raise TooSlow(f"it took {outcome.after_cancel_s:.2f} s")


def _judge_cancelled(outcome: Outcome) -> None:
    assert outcome.status == "cancelled", outcome.status
    running = [path for path, status in outcome.statuses().items() if status == "running"]
    assert not running, f"{running} are said to run still"


def _judge_infeasible(outcome: Outcome) -> None:
    # Said of the attempt, or, by an executor that looks first, of the run before anything of it began.
    told = [*outcome.failures("a"), *([outcome.failure] if outcome.failure else [])]
    assert "'a'" in told[0].message, "the stage is not named"


def _most_at_once(intervals: list[dict[str, float]]) -> int:
    """Return the largest number of intervals that overlap."""
    moments = sorted(
        [(i["began"], 1) for i in intervals] + [(i["ended"], -1) for i in intervals], key=lambda m: (m[0], m[1])
    )
    most = now = 0
    for _, change in moments:
        now += change
        most = max(most, now)
    return most
