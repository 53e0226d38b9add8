"""The scenarios: one small pipeline each, and what must come of it on every executor.

They are grouped by what they are about; `scenarios()` returns all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from flowmason_ray.engine.events import Event
from flowmason_ray.testing.conformance.checking import Capability, Outcome, Scenario


def stage(id: str, component: str, config: Mapping[str, Any] | None = None, **keys: Any) -> dict[str, Any]:
    """Return a stage as data."""
    return {"id": id, "component_type": component, "config": dict(config or {}), **keys}


def scenario(
    name: str,
    *stages: dict[str, Any],
    gives: Any = ...,
    statuses: Mapping[str, str] | None = None,
    fails: str | None = None,
    judge: Callable[[Outcome], None] | None = None,
    needs: Sequence[Capability] = (),
    input: Mapping[str, Any] | None = None,
    cancel_when: Callable[[Event], bool] | None = None,
    soon: Callable[[Outcome], None] | None = None,
    **keys: Any,
) -> Scenario:
    """Return a scenario.

    Args:
        name: What it shows.
        stages: The pipeline's stages.
        gives: The run's output; left out: it is not compared.
        statuses: How stage instances end, by path; those that are not named are not compared.
        fails: The code that the run fails with; left out: it succeeds, unless `judge` is given.
        judge: Judges more.
        needs: The capabilities that it needs.
        input: The run's input.
        cancel_when: When to cancel the run.
        soon: Judges first, by the time that it took; raises `TooSlow`.
        keys: More fields of the pipeline.
    """

    def judge_all(outcome: Outcome) -> None:
        if soon is not None:
            soon(outcome)
        if fails is not None:
            assert outcome.failure is not None, "it had to fail"
            assert outcome.failure.code == fails, f"{outcome.failure.code!r} is not {fails!r}"
        elif judge is None or gives is not ...:
            assert outcome.status == "succeeded", f"it {outcome.status}"
        if gives is not ...:
            assert outcome.output == gives, f"{outcome.output!r} is not {gives!r}"
        found = outcome.statuses()
        for path, status in (statuses or {}).items():
            assert found.get(path) == status, f"{path} was {found.get(path)}, not {status}"
        if judge is not None:
            judge(outcome)

    pipeline = {"name": name, "stages": list(stages), **keys}
    return Scenario(
        name=name,
        pipeline=pipeline,
        judge=judge_all,
        input=input or {},
        needs=frozenset(needs),
        cancel_when=cancel_when,
    )


def scenarios() -> list[Scenario]:
    """Return every scenario."""
    from flowmason_ray.testing.conformance import scenarios_of_failures, scenarios_of_values

    return [*scenarios_of_values.scenarios(), *scenarios_of_failures.scenarios()]
