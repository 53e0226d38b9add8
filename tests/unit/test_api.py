"""The Python API: what it takes, what it returns, what it refuses, and how its runs are stopped."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from pydantic import BaseModel

import flowmason_ray
from flowmason_ray.api import PreparedRun, RunResult, arun, load_pipeline, run, validate
from flowmason_ray.components.base import operator
from flowmason_ray.engine.component import Context
from flowmason_ray.engine.events import Event, StageStarted
from flowmason_ray.errors import FlowMasonError, InvalidCall, InvalidInput, InvalidPipeline, RunFailed
from flowmason_ray.stores.blobs import LocalBlobs
from flowmason_ray.stores.memory import MemoryRunStore
from flowmason_ray.stores.sqlite import SqliteRunStore
from tests.engine_kit import Echo, pipeline, stage

ROOT = Path(__file__).resolve().parents[2]


@operator(name="naps", effect="pure")
class Naps:
    """Waits until it is stopped."""

    class Input(BaseModel):
        seconds: float = 60

    class Output(BaseModel): ...

    async def execute(self, input: Input, context: Context) -> Output:
        await asyncio.sleep(input.seconds)
        return self.Output()


@operator(name="frames", effect="pure")
class Frames:
    """Returns a frame."""

    class Input(BaseModel):
        rows: int

    class Output(BaseModel, arbitrary_types_allowed=True):
        table: Any

    def execute(self, input: Input, context: Context) -> Output:
        return self.Output(table=pl.DataFrame({"n": range(input.rows)}))


ECHO = pipeline(stage("a", config={"value": "{{input}}"}), output="{{stages.a.value}}")
NAP = pipeline(stage("nap", "naps"))


@pytest.fixture(autouse=True)
def nothing_leaks() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    deadline = time.monotonic() + 60
    while (left := set(threading.enumerate()) - before) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert [t.name for t in left] == []


# -- names ------------------------------------------------------------------------------------------------------------


def test_public_names_are_pinned() -> None:
    assert flowmason_ray.__all__ == [
        "Actors",
        "Context",
        "Cost",
        "Effect",
        "FlowMasonError",
        "InvalidInput",
        "InvalidPipeline",
        "PermanentError",
        "Problem",
        "Reuse",
        "RunFailed",
        "RunResult",
        "SetupContext",
        "TemporaryError",
        "arun",
        "control_flow",
        "load_pipeline",
        "node",
        "operator",
        "run",
        "validate",
    ]


def test_every_public_name_can_be_imported_and_no_other() -> None:
    for name in flowmason_ray.__all__:
        assert getattr(flowmason_ray, name) is not None
        assert name in dir(flowmason_ray)
    with pytest.raises(AttributeError, match="no attribute 'runn'"):
        flowmason_ray.runn  # pyright: ignore[reportAttributeAccessIssue]  # that it is missing is the point  # noqa: B018


def test_a_local_run_imports_neither_ray_nor_polars() -> None:
    code = (
        "import json, sys; import flowmason_ray; light = {'pydantic', 'ray', 'polars'} & set(sys.modules);"
        f"r = flowmason_ray.run({pipeline(stage('v', 'variable_set', config={'name': 'x', 'value': 1}))!r});"
        "print(json.dumps([r.status, sorted(light), sorted({'ray', 'polars'} & set(sys.modules))]))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stderr == ""
    assert json.loads(done.stdout) == ["succeeded", [], []]


# -- running ----------------------------------------------------------------------------------------------------------


def test_a_pipeline_runs_from_data_a_file_and_loaded(project_dir: Path) -> None:
    file = project_dir / "p.pipeline.json"
    file.write_text(json.dumps(ECHO), encoding="utf-8")
    for source in (ECHO, file, str(file), load_pipeline(file)):
        result = run(source, {"x": 1}, components=[Echo])
        assert (result.status, result.output, result.failure) == ("succeeded", {"x": 1}, None)
        assert result.raise_for_status() is result


def test_arun_is_the_same_on_a_running_loop() -> None:
    async def main() -> RunResult:
        return await arun(ECHO, {"x": 1}, components=[Echo])

    assert asyncio.run(main()).output == {"x": 1}


def test_run_refuses_to_block_a_running_loop() -> None:
    async def main() -> None:
        run(ECHO, components=[Echo])

    with pytest.raises(InvalidCall, match="await arun"):
        asyncio.run(main())


def test_a_failed_run_is_returned_and_raised_on_request() -> None:
    result = run(pipeline(stage("a", config={"value": "{{input.x}}"})), components=[Echo])
    assert (result.status, result.output) == ("failed", None)
    assert result.failure is not None
    assert (result.failure.code, result.failure.stage) == ("missing_value", "a")
    with pytest.raises(RunFailed, match="Stage 'a'") as caught:
        result.raise_for_status()
    assert caught.value.run_id == result.run_id


def test_observers_see_every_event_and_the_store_keeps_them() -> None:
    seen: list[Event] = []
    store = MemoryRunStore()
    result = run(ECHO, components=[Echo], observers=[seen.append], store=store)
    assert [e.kind for e in seen] == [e.kind for e in store.logs[result.run_id].events]
    assert store.logs[result.run_id].record.status == "succeeded"


def test_an_unknown_executor_is_refused() -> None:
    with pytest.raises(InvalidCall, match=r"'moon'.*local, ray"):
        run(ECHO, on="moon", components=[Echo])


# -- input and output -------------------------------------------------------------------------------------------------

SCHEMA = {
    "type": "object",
    "required": ["name", "age"],
    "properties": {
        "name": {"type": "string"},
        "age": {"type": "integer", "minimum": 0},
        "city": {"type": "string", "default": "Oslo"},
        "mail": {"type": "string", "format": "email"},
    },
}


def test_defaults_of_the_input_are_applied() -> None:
    result = run({**ECHO, "input_schema": SCHEMA}, {"name": "A", "age": 3}, components=[Echo])
    assert result.output == {"name": "A", "age": 3, "city": "Oslo"}


def test_every_violation_of_the_input_is_listed() -> None:
    with pytest.raises(InvalidInput) as caught:
        run({**ECHO, "input_schema": SCHEMA}, {"age": -1, "city": 5, "mail": "x"}, components=[Echo])
    assert sorted(p.path for p in caught.value.problems) == ["/age", "/city", "/mail", "/name"]


@pytest.mark.parametrize(
    "given", [[1], "text", 5, {"x": object()}, {1: 2}, {"x": 10**30}, {"x": float("nan")}, {"x": "\ud800"}]
)
def test_an_input_that_is_no_json_object_is_refused(given: Any) -> None:
    with pytest.raises(InvalidInput) as caught:
        run(ECHO, given, components=[Echo])
    assert caught.value.problems[0].code in ("not_json", "number_out_of_range", "not_a_number", "invalid_text")


def test_an_output_that_misses_its_schema_fails_the_run_with_every_violation() -> None:
    schema = {"type": "object", "required": ["y"], "properties": {"x": {"type": "string"}}}
    result = run({**ECHO, "output_schema": schema}, {"x": 1}, components=[Echo])
    assert result.failure is not None
    assert result.failure.code == "invalid_output"
    assert result.failure.details is not None
    assert sorted(p["path"] for p in result.failure.details["problems"]) == ["/x", "/y"]


def test_an_output_schema_holds_for_the_only_stages_output_too() -> None:
    spec = pipeline(stage("a", config={"value": 1}), output_schema={"properties": {"value": {"const": 2}}})
    result = run(spec, components=[Echo])
    assert result.failure is not None
    assert result.failure.code == "invalid_output"


# -- the result as JSON -----------------------------------------------------------------------------------------------


def test_the_keys_of_the_result_are_stable() -> None:
    data = run(ECHO, {"x": 1}, components=[Echo]).to_json()
    assert list(data) == ["run_id", "status", "output", "usage", "duration_ms", "stages"]
    assert data["stages"].keys() == {"a"}
    assert data["stages"]["a"].keys() == {"status", "attempts", "duration_ms"}
    assert json.loads(json.dumps(data)) == data


def test_a_result_says_how_each_stage_ended() -> None:
    spec = pipeline(
        stage("bad", config={"value": "{{input.x}}"}, on_error="fallback", fallback_output={"value": 0}),
        stage("off", enabled=False),
        stage("last", after="bad off"),
    )
    stages = run(spec, components=[Echo]).to_json()["stages"]
    assert {path: s["status"] for path, s in stages.items()} == {
        "bad": "fallback",
        "off": "skipped",
        "last": "succeeded",
    }
    assert stages["bad"]["error"]["code"] == "missing_value"
    assert stages["off"]["reason"] == "disabled"


def test_a_stage_that_succeeded_in_the_end_shows_no_error() -> None:
    @operator(name="flaky", effect="pure")
    class Flaky:
        class Input(BaseModel): ...

        class Output(BaseModel): ...

        def execute(self, input: Input, context: Context) -> Output:
            if context.attempt == 1:
                raise OSError("once")
            return self.Output()

    spec = pipeline(stage("f", "flaky", retry={"max_attempts": 2, "initial_delay_ms": 1}))
    summary = run(spec, components=[Flaky]).to_json()["stages"]["f"]
    assert (summary["status"], summary["attempts"], "error" in summary) == ("succeeded", 2, False)


@pytest.mark.parametrize("rows", [0, 3, 1000, 1001])
def test_frames_are_rows_when_shown_and_frames_when_returned(rows: int) -> None:
    result = run(pipeline(stage("t", "frames", config={"rows": rows})), components=[Frames])
    assert isinstance(result.output["table"], pl.DataFrame)
    shown = result.to_json()["output"]["table"]
    if rows <= 1000:
        assert shown == [{"n": i} for i in range(rows)]
    else:
        assert (shown["rows"], shown["columns"], len(shown["head"])) == (rows, ["n"], 10)


def test_every_column_type_can_be_shown() -> None:
    frame = pl.DataFrame(
        {
            "day": [date(2024, 1, 2)],
            "at": [datetime(2024, 1, 2, 3, tzinfo=UTC)],
            "sum": [Decimal("1.50")],
            "raw": [b"abc"],
            "nan": [float("nan")],
            "in": [{"day": [date(2024, 1, 2)]}],
        }
    )
    result = RunResult(
        run_id="r", status="succeeded", output={"t": frame}, failure=None, usage={}, duration_s=0.0, stages={}
    )
    (row,) = json.loads(json.dumps(result.to_json(), allow_nan=False))["output"]["t"]
    assert row["day"] == "2024-01-02"
    assert row["at"].startswith("2024-01-02T03:00:00")
    assert (row["sum"], row["raw"], row["nan"], row["in"]) == ("1.50", "3 bytes", None, {"day": ["2024-01-02"]})


# -- stopping ---------------------------------------------------------------------------------------------------------


def test_cancelling_from_another_thread() -> None:
    prepared = PreparedRun(
        NAP, components=[Naps], observers=[lambda e: begun.set() if isinstance(e, StageStarted) else None]
    )
    begun = threading.Event()

    def cancel() -> None:
        begun.wait(5)
        prepared.cancel("enough")

    other = threading.Thread(target=cancel)
    other.start()
    result = asyncio.run(prepared.run())
    other.join()
    assert result.status == "cancelled"
    assert result.failure is not None
    assert (result.failure.code, result.failure.message) == ("cancelled", "enough")
    prepared.cancel()  # it is over: nothing happens


def test_cancelling_before_it_runs_counts() -> None:
    prepared = PreparedRun(NAP, components=[Naps])
    prepared.cancel()
    result = asyncio.run(prepared.run())
    assert result.status == "cancelled"
    assert "succeeded" not in {s.status for s in result.stages.values()}


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
def test_cancelling_the_task_cancels_the_run_and_its_log_says_so(kind: str, tmp_path: Path) -> None:
    store = MemoryRunStore() if kind == "memory" else SqliteRunStore(tmp_path / "r.db", LocalBlobs(tmp_path / "b"))

    async def main() -> str:
        begun = asyncio.Event()

        def see(event: Event) -> None:
            if isinstance(event, StageStarted):
                begun.set()

        task = asyncio.create_task(arun(NAP, components=[Naps], store=store, observers=[see]))
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return (await store.find("last")).status

    assert asyncio.run(main()) == "cancelled"


def test_a_timeout_around_a_run_stops_it() -> None:
    store = MemoryRunStore()

    async def main() -> None:
        async with asyncio.timeout(None) as limit:

            def see(event: Event) -> None:
                if isinstance(event, StageStarted):  # the time is up as soon as the stage is under way
                    limit.reschedule(asyncio.get_running_loop().time())

            await arun(NAP, components=[Naps], store=store, observers=[see])

    with pytest.raises(TimeoutError):
        asyncio.run(main())
    assert [log.record.status for log in store.logs.values()] == ["cancelled"]


def test_cancelling_the_task_twice_lets_go_at_once(tmp_path: Path) -> None:
    store = SqliteRunStore(tmp_path / "r.db")

    async def main() -> None:
        spec = pipeline(stage("s", "stubborn"))
        task = asyncio.create_task(arun(spec, components=[Stubborn], store=store))
        assert await asyncio.to_thread(Stubborn.begun.wait, 60)
        task.cancel()
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(asyncio.shield(task), 60)

    try:
        asyncio.run(main())
    finally:
        Stubborn.let_go.set()


@operator(name="stubborn", effect="pure")
class Stubborn:
    """Sits in a call that cannot be interrupted, until it is let go."""

    begun, let_go = threading.Event(), threading.Event()

    class Input(BaseModel): ...

    class Output(BaseModel): ...

    def execute(self, input: Input, context: Context) -> Output:
        self.begun.set()
        self.let_go.wait()
        return self.Output()


# -- validating -------------------------------------------------------------------------------------------------------


def test_validate_returns_what_is_wrong(tmp_path: Path) -> None:
    assert validate(ECHO, components=[Echo]) == []
    assert [p.code for p in validate(pipeline(stage("a", "ecoh")), components=[Echo])] == ["unknown_component"]
    assert [p.code for p in validate({"name": "p", "stages": 3})] == ["wrong_type"]
    assert [p.code for p in validate(tmp_path / "none.pipeline.json")] == ["file_not_found"]


def test_validate_says_when_a_component_cannot_be_loaded(project_dir: Path) -> None:
    (project_dir / "components").mkdir()
    (project_dir / "components" / "broken.py").write_text("1 / 0\n")
    problems = validate(pipeline(stage("a", "mine")))
    assert [p.code for p in problems] == ["invalid_component"]
    assert "ZeroDivisionError" in problems[0].message


def test_load_pipeline_does_not_look_at_components(project_dir: Path) -> None:
    file = project_dir / "p.pipeline.json"
    file.write_text(json.dumps(pipeline(stage("a", "nowhere"))), encoding="utf-8")
    assert load_pipeline(file).pipeline.stages[0].component_type == "nowhere"
    with pytest.raises(InvalidPipeline):
        run(file)


def test_every_error_of_the_api_is_one_of_ours() -> None:
    assert issubclass(InvalidInput, FlowMasonError)
    assert issubclass(InvalidPipeline, FlowMasonError)
