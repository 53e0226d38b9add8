"""Gangs beside other work of the run."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import ray
from pydantic import BaseModel

from flowmason_ray import Actors, Context, operator, run
from tests.cli_kit import pipeline, stage

pytestmark = pytest.mark.usefixtures("ray_cluster")

_ray: Any = ray  # its types are partly unknown


class _Asked(BaseModel):
    wait_for: str | None = None


class _Told(BaseModel):
    actor: str | None


@operator(name="gangs_lasting", effect="pure", cost="cpu", actors=Actors(min=0, max=4, idle_s=600))
class Lasting:
    """Runs in actors that hold their cores for long after they have become idle."""

    Input = _Asked
    Output = _Told

    def setup(self, context: Any) -> None:
        """Be worth keeping."""

    def execute(self, input: _Asked, context: Context) -> _Told:
        return _Told(actor=_ray.get_runtime_context().get_actor_id())


@operator(name="gangs_member", effect="pure", cost="cpu")
class Member:
    """Needs one core, and may wait for a file."""

    Input = _Asked
    Output = _Told

    def execute(self, input: _Asked, context: Context) -> _Told:
        if input.wait_for is not None:
            Path(f"{input.wait_for}.begun").touch()
            while not Path(input.wait_for).exists():
                time.sleep(0.02)
        return _Told(actor=None)


def loop(id: str, component: str, after: Sequence[str] = (), **more: Any) -> list[dict[str, Any]]:
    config = {"items": [1, 2, 3, 4], "loop_stages": [f"{id}_one"], "max_parallel": 4}
    return [stage(id, "foreach", after, config=config, **more), stage(f"{id}_one", component)]


def test_a_gang_gets_the_room_that_idle_actors_hold() -> None:
    """It is not handed to Ray before it has room; that it waits is seen nevertheless."""
    gang = loop("gang", "gangs_member", ["actors"], placement={"gang": True})
    done = run(
        pipeline(*loop("actors", "gangs_lasting"), *gang, timeout_ms=90_000),
        on="ray",
        components=[Lasting, Member],
        store=None,
    )
    assert done.status == "succeeded", done.failure


def test_runs_of_one_process_have_gangs_at_the_same_time(tmp_path: Path) -> None:
    """Ray refuses two placement groups of one name."""
    go = tmp_path / "go"
    branches = stage("gang", "parallel", config={"branches": [["a"]]}, placement={"gang": True})

    def play(wait_for: Path | None) -> str:
        config = {} if wait_for is None else {"wait_for": str(wait_for)}
        member = stage("a", "gangs_member", config=config)
        return run(pipeline(branches, member, timeout_ms=90_000), on="ray", components=[Member], store=None).status

    with ThreadPoolExecutor() as pool:
        first = pool.submit(play, go)
        while not go.with_suffix(".begun").exists():
            assert not first.done()
            time.sleep(0.02)
        try:
            assert play(None) == "succeeded"
            assert not first.done()
        finally:
            go.touch()
        assert first.result() == "succeeded"
