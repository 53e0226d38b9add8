"""What a worker says of an attempt, and what it keeps between runs. Without Ray's cluster: its functions are called here."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("ray", reason="Ray is not installed")

from pydantic import BaseModel, ConfigDict

from flowmason_ray import __version__
from flowmason_ray.components.base import operator
from flowmason_ray.components.registry import Registry, load_project_module
from flowmason_ray.engine.component import Context, Effect
from flowmason_ray.engine.executor import RunInfo
from flowmason_ray.engine.executors import ray_messages, ray_stages
from flowmason_ray.engine.executors.ray_actor import ComponentActor
from flowmason_ray.engine.executors.ray_bindings import reference_to, stage_data
from flowmason_ray.engine.executors.ray_messages import (
    AttemptData,
    Binding,
    Bindings,
    CallData,
    ComponentRef,
    Report,
    VersionMismatch,
    pack,
    pack_stage,
    unpack,
    unpack_stage,
)
from flowmason_ray.engine.executors.ray_stages import ComponentChanged, component_of, pack_run, run_of
from flowmason_ray.engine.executors.ray_worker import execute, gather_results, run_attempts, run_call
from flowmason_ray.engine.planning import make_plan
from flowmason_ray.engine.retry import RetryPolicy, wants_retry
from flowmason_ray.errors import StageError, StoreUnavailable
from flowmason_ray.spec.loader import load_pipeline_data
from flowmason_ray.stores.memory import MemoryBlobs
from tests.engine_kit import pipeline, stage

SENT: list[str] = []


class _Any(BaseModel):
    model_config = ConfigDict(extra="allow")


@operator(name="send_text", effect="effectful", cost="cpu")
class SendText:
    """Does something to the world, and says how."""

    Input = Output = _Any

    def execute(self, input: _Any, context: Context) -> dict[str, Any]:
        SENT.append(context.path)
        return {"answer": "x" * 100_000}


@operator(name="remember", effect="pure", cost="cpu")
class Remember:
    """Says what it was asked before."""

    Input = Output = _Any

    def __init__(self) -> None:
        self.seen: list[str] = []

    def execute(self, input: _Any, context: Context) -> dict[str, Any]:
        self.seen.append(context.path)
        return {"seen": list(self.seen)}


class Unwritable(MemoryBlobs):
    """Blobs that can be read."""

    def put(self, content: bytes) -> str:
        raise StoreUnavailable("Cannot write.")


@pytest.fixture(autouse=True)
def worker(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Make this process a worker that knows nothing yet."""
    SENT.clear()
    monkeypatch.setattr(ray_stages, "_region", lambda: None)
    yield
    for cache in ("_stages", "_runs", "_items", "_instances"):
        getattr(ray_stages, cache).clear()


def info(run_id: str = "r", **more: Any) -> RunInfo:
    return RunInfo(run_id=run_id, pipeline="p", version="1.0.0", started_at=0.0, seed=1, **more)


def attempts_of(*classes: type, paths: tuple[str, ...] = ("a",)) -> tuple[AttemptData, ...]:
    """Return an attempt per path, each of a stage of its own; the classes take turns."""
    registry = Registry(entry_points=False)
    names = [registry.add(cls).name for cls in classes]
    stages = [stage(path, names[i % len(names)], config={"of": path}) for i, path in enumerate(paths)]
    plan = make_plan(load_pipeline_data(pipeline(*stages)), registry)
    made = [stage_data(each) for each in plan.root.stages if each.component is not None]
    return tuple(AttemptData(*pack_stage(data), Bindings(), data.id, 1, 0.0, None, live=False) for data in made)


def carried_out(
    run: RunInfo, attempts: tuple[AttemptData, ...], classes: Mapping[str, Any]
) -> tuple[tuple[Report, ...], list[Any]]:
    return run_attempts(classes, CallData(pack_run(run, None), attempts), (), execute)


# -- what was done is not called failed ---------------------------------------------------------------------------------


def test_an_effect_whose_copy_cannot_be_written_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    blobs = Unwritable()
    monkeypatch.setattr(ray_stages, "open_blobs", lambda _address: blobs)  # pyright: ignore[reportUnknownLambdaType,reportUnknownArgumentType]  # takes an address
    (report,), (value,) = carried_out(info(blobs=blobs), attempts_of(SendText), {"send_text": SendText})
    assert SENT == ["a"]
    assert (report.status, report.failure) == ("succeeded", None)
    assert report.packed is None, "its copy is written behind the run"
    assert not report.inline
    assert report.size_bytes > 100_000
    assert value == {"answer": "x" * 100_000}


def test_a_copy_that_can_be_written_is_written_before_the_report(monkeypatch: pytest.MonkeyPatch) -> None:
    blobs = MemoryBlobs()
    monkeypatch.setattr(ray_stages, "open_blobs", lambda _address: blobs)  # pyright: ignore[reportUnknownLambdaType,reportUnknownArgumentType]  # takes an address
    (report,), _ = carried_out(info(blobs=blobs), attempts_of(SendText), {"send_text": SendText})
    assert report.packed is not None
    assert b"sha256:" in report.packed


def test_an_effect_is_not_repeated_because_of_what_came_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_value: Any) -> Any:
        raise MemoryError

    monkeypatch.setattr("flowmason_ray.engine.executors.ray_worker.portable", broken)
    (report,), _ = carried_out(info(), attempts_of(SendText), {"send_text": SendText})
    assert SENT == ["a"]
    assert report.status == "failed"
    assert report.failure is not None
    policy = RetryPolicy(max_attempts=3)
    assert not wants_retry(policy, report.failure, 1, final=report.final, effect=Effect.EFFECTFUL)


# -- what a worker keeps ------------------------------------------------------------------------------------------------


def test_a_run_has_one_instance_of_a_component_and_shares_it_with_no_other_run() -> None:
    attempts, classes = attempts_of(Remember, paths=("a", "b")), {"remember": Remember}
    seen: list[Any] = []
    for run_id in ("first", "second", "first"):
        reports, _ = carried_out(info(run_id), attempts, classes)
        assert [report.failure for report in reports] == [None, None]
        seen.append([report.value["seen"] for report in reports])
    assert seen == [
        [["a"], ["a", "b"]],
        [["a"], ["a", "b"]],
        [["a", "b", "a"], ["a", "b", "a", "b"]],
    ]


def test_instances_of_old_runs_are_let_go() -> None:
    attempts, classes = attempts_of(Remember), {"remember": Remember}
    for number in range(20):
        carried_out(info(f"run {number}"), attempts, classes)
    kept = ray_stages._instances  # pyright: ignore[reportPrivateUsage]  # what is looked at
    assert list(kept) == [f"run {number}" for number in range(20 - ray_stages.KEPT_RUNS, 20)]


# -- what a worker finds is what was planned ----------------------------------------------------------------------------

SOURCE = """
from pydantic import BaseModel
from flowmason_ray import operator

class Nothing(BaseModel):
    pass

class Number(BaseModel):
    n: int

@operator(effect="pure")
class Calculate:
    Input, Output = Nothing, Number

    def execute(self, input, context):
        return Number(n={n})
"""


def forget(monkeypatch: pytest.MonkeyPatch, reference: ComponentRef) -> None:
    """Make this process one that has not imported a project's component, as a worker that begins."""
    monkeypatch.delitem(sys.modules, reference.module)


def planned(file: Path, n: int) -> ComponentRef:
    file.parent.mkdir(exist_ok=True)
    file.write_text(SOURCE.format(n=n))
    return reference_to(load_project_module(file).Calculate.__flowmason_component__)


def test_an_edited_file_is_not_taken_for_the_planned_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "components" / "calculate.py"
    reference = planned(file, 1)
    forget(monkeypatch, reference)
    file.write_text(SOURCE.format(n=1000))
    with pytest.raises(ComponentChanged, match=r"calculate\.py is not the file with which component 'calculate'"):
        component_of(reference, {})


def test_a_worker_that_knows_the_planned_file_goes_on_with_it(tmp_path: Path) -> None:
    file = tmp_path / "components" / "calculate.py"
    reference = planned(file, 1)
    file.write_text(SOURCE.format(n=1000))
    assert component_of(reference, {}).create().execute(None, None).n == 1


def test_the_same_file_at_another_place_is_the_planned_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reference = planned(tmp_path / "here" / "calculate.py", 1)
    elsewhere = planned(tmp_path / "there" / "calculate.py", 1)
    assert elsewhere.module != reference.module
    forget(monkeypatch, reference)
    forget(monkeypatch, elsewhere)
    assert component_of(reference._replace(file=elsewhere.file), {}).create().execute(None, None).n == 1


def test_another_version_of_an_installed_component_is_not_taken() -> None:
    spec = Registry(entry_points=False).get("foreach")
    assert spec is not None
    assert component_of(reference_to(spec), {}) is spec
    with pytest.raises(ComponentChanged, match=r"planned with version '0\.0\.7'; the worker has version"):
        component_of(reference_to(spec)._replace(version="0.0.7"), {})
    with pytest.raises(ComponentChanged, match="is no component here"):
        component_of(reference_to(spec)._replace(qualname="Nothing"), {})


def test_a_package_that_a_worker_does_not_have_is_named() -> None:
    missing = ComponentRef(name="far", module="only_on_the_driver.far", qualname="Far", version="1.0.0")
    with pytest.raises(StageError, match=r"only_on_the_driver\.far") as caught:
        component_of(missing, {})
    assert caught.value.code == "not_importable"


# -- worker and driver have the same version ----------------------------------------------------------------------------


def from_version(version: str, monkeypatch: pytest.MonkeyPatch) -> tuple[bytes, bytes]:
    """Return a call and a run's facts as another version packs them: what follows the version cannot be read here."""
    with monkeypatch.context() as patch:
        patch.setattr(ray_messages, "_OURS", f"FlowMason {version}\n".encode())
        return ray_messages.sealed(b"\0unheard of"), ray_messages.sealed(b"{new:")


def test_a_worker_of_another_version_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    call, run = from_version("99.1", monkeypatch)
    expected = rf"The driver has FlowMason '99\.1', the Ray worker on '.*' has FlowMason '{re.escape(__version__)}'"
    for run_it in (
        lambda: run_call({}, call),
        lambda: gather_results({}, {}, Binding("value"), run),
        lambda: run_of(run),
    ):
        with pytest.raises(VersionMismatch, match=expected):
            run_it()


def test_an_actor_of_another_version_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    _, run = from_version("99.1", monkeypatch)
    monkeypatch.setattr("flowmason_ray.engine.executors.ray_actor.node_id", lambda: "here")
    reference = ComponentRef(name="far", module="far", qualname="Far", version="1.0.0")
    ready = ComponentActor({}, run, reference).set_up("a", -1, None)
    assert ready.failure is not None
    assert (ready.failure.code, ready.final) == ("version_mismatch", True)


def test_a_driver_tells_which_version_a_worker_has(monkeypatch: pytest.MonkeyPatch) -> None:
    report, _ = from_version("0.0.3", monkeypatch)
    expected = rf"The driver has FlowMason '{re.escape(__version__)}', the Ray worker has FlowMason '0\.0\.3'"
    with pytest.raises(VersionMismatch, match=expected):
        unpack(report)
    with pytest.raises(VersionMismatch, match="does not say its version"):
        unpack(b"\x80\x05K\x01.")


def test_what_is_packed_is_unpacked() -> None:
    (attempt,) = attempts_of(SendText)
    call = CallData(b"run", (attempt,))
    assert unpack(pack(call)) == call
    stage = unpack_stage(attempt.stage)
    assert stage.component is not None
    assert (stage.id, stage.component.name) == ("a", "send_text")
    assert pack_stage(stage) == (attempt.digest, attempt.stage)
    assert pack_stage(stage, b"another class")[0] != attempt.digest
