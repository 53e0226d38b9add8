"""Going on under an edited pipeline comes to what a clean run of it comes to, and runs only what the edit concerns."""

from __future__ import annotations

import copy
import re
from random import Random
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from flowmason_ray.api import PreparedRun, Reuse, RunResult
from flowmason_ray.engine.definitions import scope_prefixes
from flowmason_ray.engine.plan import Plan
from flowmason_ray.engine.reuse import closure
from tests.unit.reuse.reuse_kit import COMPONENTS, World, calc, foreach, pipeline

Stages = list[dict[str, Any]]


def seen(rng: Random, known: list[str], extra: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return what a stage reads of the stages before it."""
    places = [f"{{{{ stages.{name}.{field} }}}}" for name in known for field in ("a", "b")]
    places += [f"{{{{ stages.{name}.status }}}}" for name in known] + [f"{{{{ {each} }}}}" for each in extra]
    picked = rng.sample(places, min(len(places), rng.randrange(1, 4)))
    return {f"k{i}": place for i, place in enumerate(picked)}


def body(rng: Random, loop: str, known: list[str], extra: tuple[str, ...], depth: int) -> Stages:
    """Return the stages of a loop's body, perhaps with a loop in it."""
    first = calc(f"{loop}p", rng.randrange(3), seen(rng, known, extra), component=rng.choice(["calc", "ask_model"]))
    made = [first, calc(f"{loop}q", rng.randrange(3), seen(rng, [f"{loop}p"], extra))]
    if depth and rng.random() < 0.5:
        inner = f"{loop}i"
        variable = f"item{len(loop)}"
        nested = body(rng, inner, [f"{loop}p"], (variable,), depth - 1)
        made += [
            foreach(
                inner,
                f"{{{{ stages.{loop}p.xs }}}}",
                " ".join(s["id"] for s in own(nested)),
                item_variable=variable,
                index_variable=f"{variable}n",
            ),
            *nested,
        ]
    return made


def own(stages: Stages) -> Stages:
    """Return the stages that lie directly in a body, without those of the bodies in it."""
    inner = {each for stage in stages for each in stage["config"].get("loop_stages", ())}
    return [stage for stage in stages if stage["id"] not in inner]


def generated(seed: int) -> tuple[Stages, dict[str, Any]]:
    """Return the stages of a pipeline, and its input."""
    rng = Random(seed)
    stages: Stages = []
    known: list[str] = []
    for n in range(rng.randrange(3, 8)):
        name, kind = f"s{n}", rng.random()
        if known and kind < 0.3:
            inside = body(rng, name, rng.sample(known, min(2, len(known))), ("item", "input.n"), depth=1)
            items = rng.choice(["{{ input.xs }}", f"{{{{ stages.{rng.choice(known)}.xs }}}}"])
            ids = " ".join(stage["id"] for stage in own(inside))
            stages += [foreach(name, items, ids, parallel=rng.random() < 0.5, break_on_error=False), *inside]
            after = calc(f"s{n}z", 0, {"r": f"{{{{ stages.{name}.results }}}}"})
            stages.append(after)
            known.append(after["id"])
            continue
        if known and kind < 0.45:
            branches = [calc(f"{name}t", 1, seen(rng, known)), calc(f"{name}f", 2, seen(rng, known))]
            condition = f"{{{{ stages.{rng.choice(known)}.b > 0 }}}}"
            config = {"condition": condition, "true_branch_stages": [f"{name}t"], "false_branch_stages": [f"{name}f"]}
            stages += [{"id": name, "component_type": "conditional", "config": config}, *branches]
            after = calc(
                f"{name}z", 0, {x: f"{{{{ stages.{name}{x}.a | default('none') }}}}" for x in "tf"}, depends_on=[name]
            )
            stages.append(after)
            known.append(after["id"])
            continue
        extra = ("input.n", "input.deep.x")
        stage = calc(
            name, rng.randrange(3), seen(rng, known, extra), component=rng.choice(["calc", "calc", "ask_model"])
        )
        if rng.random() < 0.15:
            stage["on_error"] = "continue"
        stages.append(stage)
        known.append(name)
    xs = [rng.randrange(4) for _ in range(rng.randrange(5))]
    return stages, {"n": rng.randrange(9), "xs": xs, "deep": {"x": 1, "y": 2}}


def edited(seed: int, stages: Stages) -> tuple[Stages, set[str]]:
    """Return an edit of a pipeline, and the ids of the stages that it touches."""
    rng = Random(seed)
    made, touched = copy.deepcopy(stages), set[str]()
    for stage in rng.sample(made, rng.randrange(min(3, len(made)) + 1)):
        config = stage["config"]
        if stage["component_type"] == "foreach" and isinstance(config["items"], str):
            config["items"] = rng.choice(["{{ [1] + input.xs }}", "{{ input.xs | sort }}", "{{ input.xs[1:] }}"])
        elif stage["component_type"] in ("calc", "ask_model"):
            config["c"] = config["c"] + 10
        else:
            continue
        touched.add(stage["id"])
    if rng.random() < 0.3:
        made.append(calc("new", 5, {"x": f"{{{{ stages.{stages[0]['id']}.a }}}}"}))
        touched.add("new")
    return made, touched


def failing(seed: int, stages: Stages) -> Stages:
    """Return the same with one stage that fails."""
    rng = Random(seed)
    made = copy.deepcopy(stages)
    if rng.random() < 0.5:
        rng.choice([s for s in made if s["component_type"] in ("calc", "ask_model")])["config"]["boom"] = True
    return made


def values(result: RunResult) -> Any:
    return result.status, result.output, {p: s.status for p, s in result.stages.items()}


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.integers(0, 2**32))
def test_going_on_comes_to_what_a_clean_run_comes_to(seed: int, edit: int) -> None:
    stages, input = generated(seed)
    first = failing(edit, stages)
    after, touched = edited(edit, stages)
    touched |= {s["id"] for s, t in zip(stages, first, strict=True) if s != t}
    world = World()
    old = world.run(first, input)
    clean = World().run(after, input)
    gone_on = world.go_on(old.run_id, after)
    assert values(gone_on) == values(clean)
    if all(stage.status in ("succeeded", "skipped") for stage in old.stages.values()):
        plan = PreparedRun(pipeline(after), input, components=COMPONENTS).plan
        cone, _ = closure(plan, {path for path in paths_of(plan) if path.rpartition("/")[2] in touched})
        outside = [path for path in world.called if without_positions(path) not in cone]
        assert outside == []


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32))
def test_the_same_pipeline_executes_nothing_again(seed: int) -> None:
    stages, input = generated(seed)
    world = World()
    first = world.run(stages, input)
    assert values(world.go_on(first.run_id, stages)) == values(first)
    assert world.called == []
    again = world.run(stages, input, reuse=Reuse(run=first.run_id))
    assert values(again) == values(first)
    assert world.called == []


def without_positions(path: str) -> str:
    return re.sub(r"\[\d+\]", "", path)


def paths_of(plan: Plan) -> list[str]:
    prefixes = list(scope_prefixes(plan))
    return [prefixes[scope.index] + stage.id for scope, stage in plan.stages()]
