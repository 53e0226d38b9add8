"""Scenarios about values: order, what templates see on workers, large values, frames, loops, draws, the context."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from flowmason_ray.engine.events import StageLogged, StageProgressed
from flowmason_ray.testing.conformance.checking import PASSWORD, REGION, RUN_ID, Capability, Outcome, Scenario
from flowmason_ray.testing.conformance.scenarios import scenario, stage

JSON_VALUES: dict[str, Any] = {
    "null": None,
    "true": True,
    "false": False,
    "zero": 0,
    "negative": -17,
    "largest": 2**63 - 1,
    "unsigned": 2**64 - 1,
    "smallest": -(2**63),
    "float": 0.1,
    "tiny": 5e-324,
    "huge": 1.7976931348623157e308,
    "whole_float": 2.0,
    "empty": "",
    "text": 'äöü ß – “quotes” \\ / " \t\n\u0000 \u2028 日本語 🦊 e\u0301',
    "braces": "{ not a template }",
    "list": [1, "two", None, [], {}, [[["deep"]]]],
    "object": {"": 1, "a b": {"c.d": [True]}, "ключ": "значение"},
}
"""A value of every JSON type, and of those that are lost easily."""

LARGE = 2000
"""Objects of about 100 bytes: some three times what is kept inline."""

COMPONENTS = ("conf_trivial", "conf_async", "conf_sync")


def scenarios() -> list[Scenario]:
    """Return these scenarios."""
    return [*_order(), *_values(), *_frames(), *_loops(), *_sight(), *_context()]


def _order() -> Iterator[Scenario]:
    for component in COMPONENTS:
        yield scenario(
            f"chain_of_{component}",
            stage("a", component, {"n": 1}),
            stage("b", component, {"n": "{{ stages.a.n + 1 }}"}),
            stage("c", component, {"n": "{{ stages.b.n + 1 }}"}),
            gives={"n": 3},
            statuses={"a": "succeeded", "b": "succeeded", "c": "succeeded"},
        )
    yield scenario(
        "fan_out_and_in",
        stage("first", "conf_sync", {"n": 10}),
        *(stage(f"n{i}", COMPONENTS[i % 3], {"n": "{{ stages.first.n + " + str(i) + " }}"}) for i in range(9)),
        stage("last", "conf_async", {"all": [f"{{{{ stages.n{i}.n }}}}" for i in range(9)]}),
        gives={"all": list(range(10, 19))},
    )
    yield scenario(
        "an_order_without_data_is_kept",
        stage("first", "conf_interval", {"seconds": 0.05}),
        stage("second", "conf_interval", {"seconds": 0}, depends_on=["first"]),
        output={"in_order": "{{ stages.first.ended <= stages.second.began }}"},
        gives={"in_order": True},
    )


def _values() -> Iterator[Scenario]:
    for component in COMPONENTS:
        yield scenario(
            f"json_values_through_{component}",
            stage("a", component, {"value": "{{ input.value }}"}),
            stage("b", component, {"value": "{{ stages.a.value }}"}),
            input={"value": JSON_VALUES},
            gives={"value": JSON_VALUES},
        )
    yield scenario(
        "a_large_value_is_passed_on",
        stage("a", "conf_large", {"count": LARGE}),
        stage("b", "conf_sync", {"items": "{{ stages.a['items'] }}"}),
        stage("c", "conf_look", {"value": "{{ stages.b['items'] }}"}),
        stage("part", "conf_trivial", {"last": "{{ stages.a['items'][-1].n }}"}),
        output={"c": "{{ stages.c }}", "last": "{{ stages.part.last }}"},
        gives={"c": {"kind": "list", "length": LARGE, "sum": LARGE * (LARGE - 1) // 2}, "last": LARGE - 1},
    )
    yield scenario(
        "a_large_result_comes_back",
        stage("a", "conf_large", {"count": LARGE}),
        judge=lambda o: _assert(
            len(o.output["items"]) == LARGE and o.output["items"][7]["n"] == 7, "the result differs"
        ),
    )
    yield scenario(
        "a_large_input_is_read",
        stage("a", "conf_look", {"value": "{{ input.rows }}"}),
        stage("b", "conf_trivial", {"third": "{{ input.rows[3].n }}"}),
        input={"rows": [{"n": i, "text": "y" * 90} for i in range(LARGE)]},
        output={"length": "{{ stages.a.length }}", "third": "{{ stages.b.third }}"},
        gives={"length": LARGE, "third": 3},
    )
    yield scenario(
        "a_large_variable_is_read",
        stage("a", "conf_large", {"count": LARGE}),
        stage("set", "variable_set", {"name": "rows", "value": "{{ stages.a['items'] }}"}),
        stage("b", "conf_look", {"value": "{{ vars.rows }}"}),
        output={"length": "{{ stages.b.length }}"},
        gives={"length": LARGE},
    )


def _frames() -> Iterator[Scenario]:
    frames = [Capability.FRAMES]
    seen = {"kind": "frame", "length": 5000, "sum": 5000 * 4999 // 2, "columns": ["n", "word"]}
    yield scenario(
        "frames_are_passed_on",
        stage("a", "conf_frame", {"rows": 5000}),
        stage("b", "conf_sync", {"frame": "{{ stages.a.frame }}", "beside": 1}),
        stage("c", "conf_look", {"value": "{{ stages.b.frame }}"}),
        gives=seen,
        needs=frames,
    )
    yield scenario(
        "frames_deep_inside_are_passed_on",
        stage("a", "conf_frame", {"rows": 50}),
        stage("b", "conf_async", {"deep": "{{ stages.a.deep }}"}),
        stage("c", "conf_look", {"value": "{{ stages.b.deep.list[1][0].frame }}"}),
        gives={"kind": "frame", "length": 3, "sum": 3, "columns": ["n", "word"]},
        needs=frames,
    )
    yield scenario(
        "a_frame_is_a_result",
        stage("a", "conf_frame", {"rows": 20}),
        judge=lambda o: _assert(
            o.output["frame"].height == 20 and o.output["deep"]["list"][1][0]["frame"]["n"].to_list() == [0, 1, 2],
            "the frames differ",
        ),
        needs=frames,
    )
    yield scenario(
        "a_loop_over_a_frame",
        stage("a", "conf_frame", {"rows": 12}),
        stage("each", "foreach", {"items": "{{ stages.a.frame }}", "loop_stages": ["row"], "max_parallel": 4}),
        stage("row", "conf_sync", {"word": "{{ item.word }}", "n": "{{ item.n + index }}"}),
        output={"rows": "{{ stages.each.results }}"},
        gives={"rows": [{"word": f"w{i % 7}", "n": 2 * i} for i in range(12)]},
        needs=frames,
    )


def _loops() -> Iterator[Scenario]:
    for component in COMPONENTS:
        yield scenario(
            f"a_loop_of_{component}",
            stage("each", "foreach", {"items": "{{ input.xs }}", "loop_stages": ["a", "b"], "max_parallel": 3}),
            stage("a", component, {"v": "{{ item * 10 }}", "at": "{{ index }}"}),
            stage("b", component, {"v": "{{ stages.a.v + item }}", "at": "{{ stages.a.at }}"}),
            input={"xs": [1, 2, 3, 4, 5]},
            output={"rows": "{{ stages.each.results }}"},
            gives={"rows": [{"v": 11 * x, "at": x - 1} for x in (1, 2, 3, 4, 5)]},
        )
    yield scenario(
        "loops_inside_loops_keep_their_items_apart",
        stage("outer", "foreach", {"items": "{{ input.xs }}", "loop_stages": ["inner"], "max_parallel": 3}),
        stage(
            "inner",
            "foreach",
            {
                "items": "{{ item }}",
                "item_variable": "y",
                "index_variable": "j",
                "loop_stages": ["a"],
                "max_parallel": 2,
            },
        ),
        stage("a", "conf_sync", {"y": "{{ y }}", "of": "{{ item }}", "at": ["{{ index }}", "{{ j }}"]}),
        input={"xs": [[1, 2], [], [3, 4, 5]]},
        output={"rows": "{{ stages.outer.results | map(attribute='results') }}"},
        gives={
            "rows": [
                [{"y": y, "of": xs, "at": [i, j]} for j, y in enumerate(xs)]
                for i, xs in enumerate([[1, 2], [], [3, 4, 5]])
            ]
        },
    )
    yield scenario(
        "a_loop_over_large_items_gathers_large_results",
        stage("a", "conf_large", {"count": LARGE}),
        stage("each", "foreach", {"items": "{{ stages.a['items'][:6] }}", "loop_stages": ["big"], "max_parallel": 3}),
        stage("big", "conf_large", {"count": "{{ item.n + 1500 }}"}),
        stage("count", "conf_trivial", {"counts": "{{ stages.each.results | map(attribute='count') }}"}),
        output={"counts": "{{ stages.count.counts }}"},
        gives={"counts": [1500 + i for i in range(6)]},
    )
    yield scenario(
        "a_loop_over_a_large_list",
        stage("a", "conf_large", {"count": LARGE}),
        stage(
            "each",
            "foreach",
            {
                "items": "{{ stages.a['items'] }}",
                "filter_expression": "item.n % 250 == 3",
                "loop_stages": ["one"],
                "max_parallel": 2,
            },
        ),
        stage("one", "conf_sync", {"n": "{{ item.n }}", "index": "{{ index }}"}),
        output={"rows": "{{ stages.each.results }}"},
        gives={"rows": [{"n": n, "index": n} for n in range(3, LARGE, 250)]},
    )
    yield scenario(
        "parts_of_a_parallel_are_gathered",
        stage("both", "parallel", {"branches": [["small"], ["big"]]}),
        stage("small", "conf_sync", {"n": 1}),
        stage("big", "conf_large", {"count": LARGE}),
        output={"small": "{{ stages.both.results[0] }}", "big": "{{ stages.both.results[1].count }}"},
        gives={"small": {"n": 1}, "big": LARGE},
    )
    yield scenario(
        "a_third_partys_construct_decides_on_a_worker",
        stage("choose", "conf_choose", {"branch": "right", "left_stages": ["l"], "right_stages": ["r"]}),
        stage("l", "conf_sync", {"is": "left"}),
        stage("r", "conf_sync", {"is": "right"}),
        output={"l": "{{ stages.l }}", "r": "{{ stages.r }}"},
        gives={"l": None, "r": {"is": "right"}},
        statuses={"l": "skipped", "r": "succeeded"},
    )


def _sight() -> Iterator[Scenario]:
    for component in COMPONENTS:
        yield scenario(
            f"templates_see_everything_in_{component}",
            stage("bad", "conf_raise", {"how": "mildly"}, on_error="continue"),
            stage("off", "conf_sync", enabled=False),
            stage("set", "variable_set", {"variables": {"x": "{{ input.x }}", "y": 2}}),
            stage("each", "foreach", {"items": ["i"], "loop_stages": ["see"]}),
            stage(
                "see",
                component,
                {
                    "input": "{{ input.x }}",
                    "vars": ["{{ vars.x }}", "{{ vars.y }}"],
                    "loop": ["{{ item }}", "{{ index }}"],
                    "error": "{{ stages.bad.error.code }}",
                    "message": "{{ stages.bad.error.message }}",
                    "status": ["{{ stages.bad.status }}", "{{ stages.off.status }}", "{{ stages.set.status }}"],
                    "null": ["{{ stages.bad }}", "{{ stages.off }}"],
                    "context": [
                        "{{ context.path }}",
                        "{{ context.stage_id }}",
                        "{{ context.run_id }}",
                        "{{ context.attempt }}",
                    ],
                    "env": "{{ env.REGION }}",
                },
            ),
            input={"x": {"deep": [1]}},
            output={"seen": "{{ stages.each.results[0] }}"},
            gives={
                "seen": {
                    "input": {"deep": [1]},
                    "vars": [{"deep": [1]}, 2],
                    "loop": ["i", 0],
                    "error": "component_error",
                    "message": "Oops: It went wrong: mildly.",
                    "status": ["failed", "skipped", "succeeded"],
                    "null": [None, None],
                    "context": ["each[0]/see", "see", RUN_ID, 1],
                    "env": REGION,
                }
            },
        )
    yield scenario(
        "what_a_called_pipelines_input_is_to_iterations",
        stage("each", "foreach", {"items": "{{ input.xs }}", "loop_stages": ["a"], "max_parallel": 2}),
        stage("a", "conf_sync", {"of": "{{ input.name }}", "item": "{{ item }}"}),
        input={"xs": ["p", "q"], "name": "outer"},
        output={"rows": "{{ stages.each.results }}"},
        gives={"rows": [{"of": "outer", "item": "p"}, {"of": "outer", "item": "q"}]},
    )


def _context() -> Iterator[Scenario]:
    yield scenario(
        "draws_follow_from_the_runs_seed",
        stage("a", "conf_draws", {"uuid": "{{ uuid() }}", "again": "{{ uuid() }}", "now": "{{ now() }}"}),
        gives=DRAWN,
    )
    yield scenario("the_context_tells_the_facts", *_facts(), judge=_judge_facts)
    yield scenario(
        "what_a_component_says_is_delivered",
        stage("a", "conf_tell"),
        judge=_judge_told,
    )
    yield scenario(
        "secrets_and_environment_reach_the_component",
        stage("a", "conf_password", {"password": "{{ secrets.PASSWORD }}", "region": "{{ env.REGION }}"}),
        gives={"length": len(PASSWORD), "region": REGION},
        judge=_no_password,
    )
    yield scenario(
        "secrets_are_in_no_report",
        stage(
            "a",
            "conf_password",
            {"password": "{{ secrets.PASSWORD }}", "region": "x", "shout": True},
            retry={"max_attempts": 2, "initial_delay_ms": 1},
        ),
        fails="component_error",
        judge=_no_password,
    )


DRAWN: dict[str, Any] = {
    "template": ["f62ca7bf-7f0d-439a-9158-bc92e2e36d74", "ef966c9b-0187-4364-821d-042c955743b9"],
    "uuids": ["06bb027b-d26c-450b-9acd-5c20380dad84", "3c9cbd60-1909-4be9-9ff9-411f63c6c4b3"],
    "random": [0.10526095673331894, 0.4764312010320504],
    "one_time": True,
}
"""What a run with `RUN_ID` and `SEED` draws, wherever it runs."""


def _facts() -> list[dict[str, Any]]:
    return [
        stage("each", "foreach", {"items": [0], "loop_stages": ["a"]}),
        stage("a", "conf_context", {"path": "{{ context.path }}", "at": "{{ context.started_at }}"}),
    ]


def _judge_facts(outcome: Outcome) -> None:
    found = outcome.output["results"][0]
    name = "the_context_tells_the_facts"
    assert found["facts"] == [RUN_ID, name, "1.0.0", "a", "each[0]/a"], found["facts"]
    assert found["attempt"] == 1
    assert found["project"] == str(outcome.project_dir), found["project"]
    assert found["settings"] == "conformance", found["settings"]
    assert found["template"] == {"path": "each[0]/a", "at": found["started_at"]}, found["template"]


def _judge_told(outcome: Outcome) -> None:
    assert outcome.status == "succeeded"
    assert outcome.logged("a") == [("info", "half way"), ("warning", "done")], outcome.logged("a")
    fields = [dict(e.fields) for e in outcome.events if isinstance(e, StageLogged) and e.path == "a"]
    assert fields == [{"percent": 50}, {}], fields
    steps = [(e.path, e.done, e.total) for e in outcome.events if isinstance(e, StageProgressed)]
    assert steps == [("a", 1, 2)], steps


def _no_password(outcome: Outcome) -> None:
    for event in outcome.events:
        assert PASSWORD not in repr(event), f"the password is in {event.kind}"
    assert PASSWORD not in repr(outcome.failure), "the password is in the failure"


def _assert(holds: bool, message: str) -> None:
    assert holds, message
