"""Compositions: in a namespace of their own, any number of them, with what goes in and out mapped and checked."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from flowmason_ray.api import PreparedRun, RunResult, run, validate
from flowmason_ray.engine.events import Event, RunSucceeded
from flowmason_ray.engine.replay import replay
from flowmason_ray.errors import Problem
from flowmason_ray.stores.memory import MemoryRunStore

Data = dict[str, Any]

NUMBER = {"type": "number"}
PRICE: Data = {
    "name": "price",
    "input_schema": {
        "type": "object",
        "required": ["amount"],
        "properties": {"amount": NUMBER, "unit": {"type": "number", "default": 2}, "note": {"type": "string"}},
    },
    "output_schema": {
        "type": "object",
        "required": ["net"],
        "properties": {"net": NUMBER, "rows": {"type": "array", "items": {"type": "object"}}},
    },
    "stages": [
        {
            "id": "calc",
            "component_type": "json_transform",
            "config": {"data": "{{input}}", "values": {"net": "{{input.amount * input.unit}}"}},
        }
    ],
    "output": {"net": "{{stages.calc.result.net}}", "rows": [{"id": "r1"}]},
}


def compose(id: str, pipeline: str = "price", **more: Any) -> Data:
    return {
        "id": id,
        "pipeline": pipeline,
        **({} if "input_mapping" in more else {"input_mapping": {"amount": 3}}),
        **more,
    }


def put(folder: Path, *documents: Data) -> Path:
    for data in documents:
        (folder / f"{data['name']}.pipeline.json").write_text(json.dumps(data, indent=1), encoding="utf-8")
    return folder / f"{documents[-1]['name']}.pipeline.json"


def main(*compositions: Data, **more: Any) -> Data:
    return {"name": "main", "compositions": list(compositions), **more}


def done(folder: Path, *documents: Data, input: Data | None = None) -> RunResult:
    return run(put(folder, PRICE, *documents), input).raise_for_status()


def problems(folder: Path, *documents: Data) -> list[Problem]:
    return validate(put(folder, PRICE, *documents))


def told(found: list[Problem]) -> list[tuple[str, str, str | None]]:
    return [(problem.code, problem.path, problem.nearest) for problem in found]


def test_any_number_of_instances_each_in_its_own_namespace(tmp_path: Path) -> None:
    result = done(
        tmp_path,
        main(
            compose("calc"),
            compose("second", input_mapping={"amount": "{{stages.calc.net}}", "unit": 10}),
            compose("third", "./price.pipeline.json", depends_on=["second"]),
            output={"calc": "{{stages.calc.net}}", "second": "{{stages.second.net}}", "third": "{{stages.third}}"},
        ),
    )
    assert result.output == {"calc": 6, "second": 60, "third": {"net": 6, "rows": [{"id": "r1"}]}}
    assert list(result.stages) == ["calc", "calc/calc", "second", "second/calc", "third", "third/calc"]


def test_the_output_is_what_the_mapping_keeps(tmp_path: Path) -> None:
    mapping = {
        "total": "net",
        "first": "rows[0].id",
        "text": "net: {{ output.net | round(1) }}",
        "deep": {"rows": ["{{output.rows}}"]},
        "constant": 5,
        "missing": "{{ output.nothing | default('-') }}",
    }
    result = done(tmp_path, main(compose("c", output_mapping=mapping), output_stage_id="c"))
    assert result.output == {
        "total": 6,
        "first": "r1",
        "text": "net: 6",
        "deep": {"rows": [[{"id": "r1"}]]},
        "constant": 5,
        "missing": "-",
    }


def test_the_only_terminal_stage_may_be_a_composition_and_older_spellings_work(tmp_path: Path) -> None:
    free = {
        "name": "free",
        "stages": [{"id": "a", "component_type": "logger", "config": {"message": "m"}}],
        "output": {"x": 1},
    }
    assert done(tmp_path, free, {"name": "main", "compositions": ["free"]}).output == {"x": 1}


@pytest.mark.parametrize("result", [[1, 2], "text", 3])
def test_a_result_that_is_no_object_needs_a_mapping(tmp_path: Path, result: Any) -> None:
    plain = {"name": "plain", "stages": [], "compositions": [compose("p")], "output": result}
    failed = run(put(tmp_path, PRICE, plain, main(compose("c", "plain", input_mapping={}))))
    assert failed.failure is not None
    assert (failed.failure.code, failed.failure.stage) == ("invalid_output", "c/$mapped")
    mapped = main(compose("c", "plain", input_mapping={}, output_mapping={"x": "{{ output }}"}))
    assert done(tmp_path, plain, mapped).output == {"x": result}


def test_a_result_that_a_return_gives_is_mapped_too(tmp_path: Path) -> None:
    early = {
        "name": "early",
        "stages": [
            {"id": "r", "component_type": "return", "config": {"return_value": {"net": 1}}},
        ],
        "output": {"net": 2},
    }
    made = done(tmp_path, early, main(compose("c", "early", input_mapping={}, output_mapping={"n": "net"})))
    assert made.output == {"n": 1}


def test_compositions_nest_and_stand_in_bodies(tmp_path: Path) -> None:
    inner = {"name": "inner", "compositions": [compose("p", output_mapping={"v": "net"})]}
    outer = {
        "name": "main",
        "compositions": [compose("i", "inner", input_mapping={}), compose("each", input_mapping={"amount": "{{n}}"})],
        "stages": [
            {
                "id": "loop",
                "component_type": "foreach",
                "config": {
                    "items": [1, 2],
                    "item_variable": "n",
                    "loop_stages": ["each"],
                    "collect": "{{stages.each.net}}",
                },
            }
        ],
        "output": {"i": "{{stages.i.v}}", "loop": "{{stages.loop.results}}"},
    }
    result = done(tmp_path, inner, outer)
    assert result.output == {"i": 6, "loop": [2, 4]}
    assert {"i/p/calc", "loop[0]/each/calc", "loop[1]/each/calc"} <= set(result.stages)


def test_its_failure_is_the_runs_failure(tmp_path: Path) -> None:
    failed = run(put(tmp_path, PRICE, main(compose("c", input_mapping={"amount": "{{input.x}}"}))), {"x": "three"})
    assert failed.failure is not None
    assert (failed.failure.code, failed.failure.stage) == ("invalid_input", "c")


@pytest.mark.parametrize(
    ("composition", "found"),
    [
        ({"input_mapping": {}}, ("missing_field", "/input_mapping", None)),
        ({"input_mapping": {"amount": "three"}}, ("invalid_value", "/input_mapping/amount", None)),
        ({"input_mapping": {"amount": "{{input.s}}"}}, ("type_mismatch", "/input_mapping/amount", None)),
        ({"input_mapping": {"amount": "{{input.n}} pieces"}}, ("type_mismatch", "/input_mapping/amount", None)),
        ({"input_mapping": {"amount": 1, "unt": 3}}, ("unknown_field", "/input_mapping/unt", "unit")),
        ({"input_mapping": {"amount": "{{stages.x.y}}"}}, ("unknown_stage", "/input_mapping/amount", None)),
        ({"output_mapping": {"x": "nett"}}, ("unknown_field", "/output_mapping/x", "net")),
        ({"output_mapping": {"x": "{{ stages.calc.result }}"}}, ("invalid_expression", "/output_mapping/x", None)),
        ({"output_mapping": {"x": "{{ input.amount }}"}}, ("invalid_expression", "/output_mapping/x", None)),
        ({"output_mapping": {"x": "net +"}}, ("invalid_expression", "/output_mapping/x", None)),
        ({"depends_on": ["nobody"]}, ("unknown_stage", "/depends_on/0", None)),
        ({"pipeline": "prize"}, ("pipeline_not_found", "/pipeline", "price")),
        ({"pipeline": "price@^2"}, ("pipeline_not_found", "/pipeline", None)),
        ({"pipeline": "main"}, ("recursive_pipeline", "/pipeline", None)),
    ],
)
def test_what_cannot_fit_is_said_where_it_is_written(
    tmp_path: Path, composition: Data, found: tuple[str, str, str | None]
) -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer"}, "s": {"type": "string"}}}
    code, pointer, close = found
    assert told(problems(tmp_path, main({**compose("c"), **composition}, input_schema=schema))) == [
        (code, f"/compositions/0{pointer}", close)
    ]


@pytest.mark.parametrize(
    ("mapping", "read", "code"),
    [
        ({}, "{{stages.c.nett}}", "unknown_field"),
        ({}, "{{stages.c.calc}}", "unknown_field"),
        ({"total": "net"}, "{{stages.c.net}}", "unknown_field"),
        ({"total": "net"}, "{{stages.c.total}}", None),
        ({"rows": "rows"}, "{{stages.c.rows}}", "type_mismatch"),
        ({}, "{{stages.c.rows}}", "type_mismatch"),
    ],
)
def test_who_reads_it_is_checked_against_its_declared_output(
    tmp_path: Path, mapping: Data, read: str, code: str | None
) -> None:
    reader = compose("d", input_mapping={"amount": read})
    found = problems(tmp_path, main(compose("c", output_mapping=mapping), reader))
    assert [problem.code for problem in found] == ([code] if code else [])


def test_nothing_else_crosses_the_border(tmp_path: Path) -> None:
    (tmp_path / "flowmason.json").write_text('{"secrets": ["KEY"]}', encoding="utf-8")
    curious = {
        "name": "curious",
        "stages": [
            {"id": "v", "component_type": "logger", "config": {"message": "{{vars.outside}}"}},
            {"id": "s", "component_type": "logger", "config": {"message": "{{stages.before.x}}"}},
            {"id": "k", "component_type": "logger", "config": {"message": "{{secrets.KEY}}"}},
            {"id": "all", "component_type": "logger", "config": {"message": "{{secrets}}"}},
        ],
    }
    outside = {
        "stages": [
            {"id": "before", "component_type": "variable_set", "config": {"name": "outside", "value": 1}},
            {"id": "after", "component_type": "logger", "config": {"message": "{{stages['c/v']}}"}},
        ]
    }
    found = problems(tmp_path, curious, main(compose("c", "curious", input_mapping={}), **outside))
    assert sorted(((p.code, Path(p.file or "").name, p.path) for p in found), key=lambda each: each[1:]) == [
        ("unknown_variable", "curious.pipeline.json", "/stages/0/config/message"),
        ("unknown_stage", "curious.pipeline.json", "/stages/1/config/message"),
        ("not_allowed", "curious.pipeline.json", "/stages/2/config/message"),
        ("not_allowed", "curious.pipeline.json", "/stages/3/config/message"),
        ("unknown_stage", "main.pipeline.json", "/stages/1/config/message"),
    ]


def test_a_secret_can_be_handed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEY", "open sesame")
    (tmp_path / "flowmason.json").write_text('{"secrets": ["KEY"]}', encoding="utf-8")
    uses = {
        "name": "uses",
        "stages": [{"id": "t", "component_type": "json_transform", "config": {"data": {}, "values": {"n": "{{input.key | length}}"}}}],
        "output": {"n": "{{stages.t.result.n}}"},
    }  # fmt: skip
    assert done(tmp_path, uses, main(compose("c", "uses", input_mapping={"key": "{{secrets.KEY}}"}))).output == {
        "n": 11
    }


def test_a_ring_through_compositions_names_the_chain(tmp_path: Path) -> None:
    one, two = (
        main(compose("b", "two", input_mapping={})),
        {"name": "two", "compositions": [compose("a", "main", input_mapping={})]},
    )
    found = problems(tmp_path, two, one)
    assert [(p.code, p.found) for p in found] == [("recursive_pipeline", "main@1.0.0 → two@1.0.0 → main@1.0.0")]


def test_a_child_inherits_compositions_and_may_override_them(tmp_path: Path) -> None:
    (tmp_path / "lib").mkdir()
    put(tmp_path / "lib", PRICE)
    parent = {
        "name": "parent",
        "compositions": [compose("a", "./price.pipeline.json"), compose("b", "./price.pipeline.json")],
        "output": {"a": "{{stages.a.net}}"},
    }
    put(tmp_path / "lib", parent)
    child = {
        "name": "child",
        "extends": "lib/parent.pipeline.json",
        "overrides": {"a": {"input_mapping": {"amount": 4, "unit": {"$add": 5}}}, "b": None},
    }
    result = run(put(tmp_path, child)).raise_for_status()
    assert (result.output, list(result.stages)) == ({"a": 20}, ["a", "a/calc"])


def test_composing_an_abstract_pipeline_is_refused(tmp_path: Path) -> None:
    found = problems(tmp_path, {**PRICE, "name": "half", "abstract": True}, main(compose("c", "half")))
    assert [p.code for p in found] == ["abstract_pipeline"]


def test_the_digest_of_the_plan_is_that_of_the_resolved_pipeline(tmp_path: Path) -> None:
    stages = [{"id": "a", "component_type": "logger", "config": {"message": "m"}}]
    parent: Data = {"name": "p", "version": "3.0.0", "stages": stages}
    file = put(tmp_path, parent, {"name": "c", "extends": "p", "overrides": {"a": {"config": {"message": "n"}}}})

    def digest(source: Any) -> str:
        return PreparedRun(source, store=MemoryRunStore()).plan.digest

    stages[0]["config"] = {"message": "n"}
    flat = digest({"name": "c", "stages": stages})
    assert digest(file) == flat
    put(tmp_path, {**parent, "stages": [*stages, {**stages[0], "id": "b"}]})
    assert digest(file) != flat


class _Recorder:
    def __init__(self) -> None:
        self.events: list[Event] = []

    def __call__(self, event: Event) -> None:
        self.events.append(event)


def test_a_recorded_composition_replays_from_every_event(tmp_path: Path) -> None:
    """Also while its mapping is under way, which is then begun again."""
    inner = {"name": "inner", "compositions": [compose("p", output_mapping={"v": "net"})], "output": ["{{stages.p.v}}"]}
    file = put(
        tmp_path, PRICE, inner, main(compose("i", "inner", input_mapping={}, output_mapping={"x": "{{output}}"}))
    )
    recorder = _Recorder()
    prepared = PreparedRun(file, observers=[recorder])
    asyncio.run(prepared.run())
    events = recorder.events
    repeated: set[str] = set()
    for count in range(1, len(events) + 1):
        replayed = replay(prepared.plan, events[:count])
        repeated |= {command.path for command in replayed.outstanding.repeat}
        assert not replayed.outstanding.in_doubt
    assert {"i/p/$mapped", "i/$mapped", "i/p", "i"} <= repeated
    last = replay(prepared.plan, events)
    assert isinstance(last.ended, RunSucceeded)
    assert last.ended.value == {"x": [6]}


def test_cancelling_stops_what_is_inside(tmp_path: Path) -> None:
    waits = {
        "name": "waits",
        "stages": [{"id": "ask", "component_type": "wait_for_approval", "config": {"message": "m"}}],
    }
    prepared = PreparedRun(put(tmp_path, PRICE, waits, main(compose("c", "waits", input_mapping={}))))

    async def cancelled() -> str:
        task = asyncio.ensure_future(prepared.run())
        await asyncio.sleep(0)
        prepared.cancel()
        return (await task).status

    assert asyncio.run(cancelled()) == "cancelled"


def test_every_call_has_stages_of_its_own(tmp_path: Path) -> None:
    within = {"name": "within", "compositions": [compose("p"), compose("q")], "output": "{{stages.p}}"}
    calls = [compose("a"), compose("b"), compose("c", "within"), compose("d", "within")]
    plan = PreparedRun(put(tmp_path, PRICE, within, main(*calls)), store=MemoryRunStore()).plan
    stages = [stage for _, stage in plan.stages() if stage.id == "calc"]
    assert (len(stages), len({id(stage) for stage in stages})) == (6, 6)
