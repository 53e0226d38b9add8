"""What calls and actors are called in Ray's listings and dashboard: after their stages and their run."""

from __future__ import annotations

from typing import Any

import pytest
import ray
from pydantic import BaseModel

from flowmason_ray import Actors, Context, operator, run
from flowmason_ray.api import RunResult
from tests.cli_kit import pipeline, stage

pytestmark = pytest.mark.usefixtures("ray_cluster")

_ray: Any = ray  # its types are partly unknown


class _Asked(BaseModel):
    n: int = 0


class _Named(BaseModel):
    task: str
    actor: str


def _named() -> _Named:
    context = _ray.get_runtime_context()
    return _Named(task=context.get_task_name(), actor=context.get_actor_name() or "")


@operator(name="names_task", effect="pure", cost="cpu")
class Task:
    """Says what its task is called."""

    Input = _Asked
    Output = _Named

    def execute(self, input: _Asked, context: Context) -> _Named:
        return _named()


@operator(name="names_actor", effect="pure", cost="cpu", actors=Actors(max=1))
class Actor:
    """Says what its actor is called, and the call."""

    Input = _Asked
    Output = _Named

    def setup(self, context: Any) -> None:
        """Be worth keeping."""

    def execute(self, input: _Asked, context: Context) -> _Named:
        return _named()


def named(result: RunResult) -> dict[str, Any]:
    assert result.status == "succeeded", result.failure
    return result.output


def test_calls_are_named_after_stages_and_runs_and_actors_after_components_and_runs() -> None:
    each = stage("each", "foreach", config={"items": [1], "loop_stages": ["one"]}, placement={"fuse": "never"})
    result = run(
        pipeline(
            each,
            stage("one", "names_task", placement={"fuse": "never"}),
            stage("kept", "names_actor"),
            output={"item": "{{ stages.each.results[0] }}", "kept": "{{ stages.kept }}"},
        ),
        on="ray",
        components=[Task, Actor],
        store=None,
    )
    found, run_id = named(result), result.run_id
    assert found["item"] == {"task": f"each[0]/one {run_id}", "actor": ""}
    assert found["kept"] == {"task": f"kept {run_id}", "actor": f"names_actor {run_id} 1"}


def test_runs_of_one_process_can_be_told_apart() -> None:
    """The same stages, twice: no name occurs in both."""
    output = {"a": "{{ stages.a }}", "b": "{{ stages.b }}"}
    again = pipeline(stage("a", "names_task"), stage("b", "names_actor"), output=output)
    first, second = (names_in(named(run(again, on="ray", components=[Task, Actor], store=None))) for _ in range(2))
    assert (len(first), len(second)) == (3, 3)
    assert not first & second


def names_in(found: dict[str, dict[str, str]]) -> set[str]:
    return {name for told in found.values() for name in told.values() if name}
