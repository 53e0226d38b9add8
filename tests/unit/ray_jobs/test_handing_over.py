"""Handing a run over, with a cluster that is played: which coordinators are ended, and which are nobody's business."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("ray")

from flowmason_ray.engine.events import RunCreated, RunPaused, RunResumed
from flowmason_ray.engine.reuse import InDoubt
from flowmason_ray.engine.run_log import RunRecord
from flowmason_ray.ray_jobs import detaching
from flowmason_ray.ray_jobs.coordinator import NAMESPACE, name_of
from flowmason_ray.settings import Project
from flowmason_ray.stores.opening import project_store


class Cluster:
    """As much of Ray as handing over needs. `answer`: what a coordinator says, or dies of."""

    def __init__(self, *, taken_for: int = 0, answer: Any = None) -> None:
        self.taken_for = taken_for
        self.answer = answer
        self.made: list[str] = []
        self.killed: list[Any] = []
        self._name = ""

    def get_runtime_context(self) -> Cluster:
        return self

    def get_node_id(self) -> str:
        return "00" * 28

    def remote(self, *given: Any) -> Any:
        if given and isinstance(given[0], type):
            return self
        if not given:
            return "begun"
        if self.taken_for:
            self.taken_for -= 1
            raise detaching.ActorAlreadyExistsError(f"The name {self._name} (namespace={NAMESPACE}) is already taken.")
        self.made.append(self._name)
        return self

    @property
    def begun(self) -> Cluster:
        return self

    def options(self, **options: Any) -> Cluster:
        self._name = options["name"]
        return self

    def get(self, reference: Any, timeout: float) -> Any:
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer

    def get_actor(self, name: str, namespace: str) -> str:
        return f"another one called {name}"

    def kill(self, actor: Any, *, no_restart: bool) -> None:
        self.killed.append(actor)


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LEAVING_S", "BEGIN_S", "POLL_S"):
        monkeypatch.setattr(detaching, name, 0.02)


def hand_over(cluster: Cluster, monkeypatch: pytest.MonkeyPatch, root: Path, position: int = 1) -> str:
    """Hand a run over; return what was wrong."""
    monkeypatch.setattr(detaching, "_ray", cluster)
    doubt: InDoubt = "ask"
    project = Project(root=root)
    try:
        asyncio.run(detaching._hand_over("r", project, in_doubt=doubt, new=False, position=position))  # pyright: ignore[reportPrivateUsage]  # without a real cluster
    except detaching.HandoverFailed as exc:
        return exc.message
    return ""


def test_a_coordinator_that_takes_the_run_up_already_is_left_alone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    cluster = Cluster(taken_for=1_000_000)
    said = hand_over(cluster, monkeypatch, tmp_path)
    assert "taking run 'r' up already" in said
    assert "fm runs watch r" in said
    assert cluster.killed == []


def test_one_that_is_just_leaving_is_waited_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(detaching, "LEAVING_S", 60.0)
    cluster = Cluster(taken_for=2)
    assert hand_over(cluster, monkeypatch, tmp_path) == ""
    assert cluster.made == [name_of("r")]


@pytest.mark.parametrize("answer", [("in_doubt", "it is not known"), detaching.RayError("the cluster is gone")])
def test_what_was_made_here_and_takes_nothing_up_is_ended(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, answer: Any
) -> None:
    cluster = Cluster(answer=answer)
    assert "could not be handed to the cluster" in hand_over(cluster, monkeypatch, tmp_path)
    assert cluster.killed == [cluster], "this one, and not who has the name"


@pytest.mark.parametrize("resumed", [True, False])
def test_a_paused_run_counts_as_taken_up_when_its_log_says_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, resumed: bool
) -> None:
    asyncio.run(_record_paused(tmp_path, resumed=resumed))
    said = hand_over(Cluster(answer=detaching.RayActorError()), monkeypatch, tmp_path, position=2)
    assert ("worker_died" in said) is not resumed


async def _record_paused(root: Path, *, resumed: bool) -> None:
    """Record a run that is paused; with `resumed`, one that has gone on and is paused once more."""
    created = RunCreated(at=1, run_id="r", pipeline="p", version="1", plan_digest="d", input={}, seed=1)
    record = RunRecord(run_id="r", pipeline="p", version="1", status="running", created_at=1)
    log = project_store(Project(root=root)).create(record)
    for event in (created, RunPaused(at=2), *((RunResumed(at=3), RunPaused(at=4)) if resumed else ())):
        log.append(event)
    await log.close()
