"""Gangs beside other work of the run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import ray
from pydantic import BaseModel

from flowmason_ray import Actors, Context, operator, run
from tests.cli_kit import pipeline, stage

pytestmark = pytest.mark.usefixtures("ray_cluster")

_ray: Any = ray  # its types are partly unknown


class _Asked(BaseModel):
    n: Any = None


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
    """Needs one core."""

    Input = _Asked
    Output = _Told

    def execute(self, input: _Asked, context: Context) -> _Told:
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
