"""Pipelines of nested constructs, each with what must come of it, worked out without the engine.

`nest(("foreach", "trycatch", "return"))` is a return inside a trycatch inside a loop. A node knows its stages, as a file has
them, and `run`s itself in a few lines of Python: the construct's meaning as the guide tells it. Every body holds the inner
construct and a stage after it that reads it, so that a result travels all the way out.

Two constructs of which the outer one has no body stand in sequence: the outer one's config reads the inner one's output.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import orjson
from pydantic import BaseModel

from flowmason_ray.components.base import operator
from flowmason_ray.engine.component import Context
from flowmason_ray.errors import Failure, PermanentError

CONSTRUCTS = (
    "conditional",
    "router",
    "foreach",
    "trycatch",
    "subpipeline",
    "return",
    "parallel",
    "break/continue",
    "variable_set",
)
"""The rows and columns of the guide's table."""
WITH_BODY = ("conditional", "router", "foreach", "trycatch", "subpipeline", "parallel")
ITEMS = (1, 2, 3)


def kinds_of(construct: str) -> tuple[str, ...]:
    """Return the components that a row or column of the table stands for."""
    return ("break_loop", "continue_loop") if construct == "break/continue" else (construct,)


@operator(name="boom", effect="pure", cost="trivial")
class Boom:
    """Fails."""

    class Input(BaseModel): ...

    class Output(BaseModel): ...

    async def execute(self, input: Input, context: Context) -> Output:
        raise PermanentError("It was to fail.")


ANYTHING = frozenset({"succeeded", "skipped", "cancelled", "untold"})
"""How a stage may have ended beside one that left."""
Leave = Literal["return", "break_loop", "continue_loop"]


@dataclass(frozen=True)
class Outcome:
    """What a node came to: what its `out` template gives, or how the scope around it was left, and with which value."""

    value: Any = None
    leave: Leave | None = None


@dataclass
class Told:
    """What must be told of every stage instance, by path: the status, or any of several."""

    statuses: dict[str, str | frozenset[str]] = field(default_factory=dict[str, "str | frozenset[str]"])
    early: set[str] = field(default_factory=set[str])
    """Those skipped because the scope was left before."""

    def succeed(self, *paths: str) -> None:
        self.statuses.update(dict.fromkeys(paths, "succeeded"))

    def skip(self, *paths: str) -> None:
        self.statuses.update(dict.fromkeys(paths, "skipped"))

    def leave(self, *paths: str) -> None:
        """The scope was left before these could start."""
        self.skip(*paths)
        self.early.update(paths)

    def stop(self, prefix: str) -> None:
        """An iteration is stopped from outside: nothing is told of what has not started in it."""
        for path in [path for path in self.early if path.startswith(prefix)]:
            self.early.remove(path)
            del self.statuses[path]


@dataclass
class Node:
    """A construct with what lies inside."""

    kind: str
    id: str
    stages: list[dict[str, Any]]
    """All its stages, those of its bodies included."""
    out: Any
    """A template of its outcome, for the stage after it."""
    run: Callable[[int, str, Told], Outcome]
    """(the number that drives it, the prefix of its paths, where to tell) → what comes of it."""
    files: dict[str, Any] = field(default_factory=dict[str, Any])
    """The pipelines that it calls."""


def leaf(id: str, value: Any, **keys: Any) -> dict[str, Any]:
    return {"id": id, "component_type": "echo", "config": {"value": value}, **keys}


def nest(chain: Sequence[str], *, driver: str = "input.x", number: int = 1, places: Mapping[int, str] = {}) -> Node:
    """Return the constructs of `chain` inside each other, the first one outermost.

    Args:
        chain: The components.
        driver: The expression of the number that drives what leaves: from 2 on it does.
        number: The outermost one's, for ids.
        places: Per number: in which body of a trycatch the inner construct stands (`try` unless it is said).
    """
    kind, inner_chain = chain[0], chain[1:]
    if not inner_chain and kind in WITH_BODY:
        inner_chain = ("echo",)

    def inner(driver: str) -> Node:
        return nest(inner_chain, driver=driver, number=number + 1, places=places)

    id = f"{kind}{number}"
    if kind == "trycatch":
        return _trycatch(id, inner(driver), places.get(number, "try"))
    if kind in WITH_BODY:
        return {
            "conditional": _conditional,
            "router": _router,
            "foreach": _foreach,
            "subpipeline": _subpipeline,
            "parallel": _parallel,
        }[kind](id, driver, inner)
    make = {"echo": _echo, "variable_set": _variable_set}.get(kind, _leaving)
    before = inner(driver) if inner_chain else None
    return _in_sequence(before, make(kind, id, driver, {"x": "{{" + driver + "}}"} if before is None else before.out))


def _body(id: str, inner: Node) -> tuple[list[str], list[dict[str, Any]], Callable[[int, str, Told], Outcome]]:
    """Return a body of the inner construct and a stage after it: its members, its stages, and what comes of it."""
    after = f"{id}_after"

    def run(x: int, prefix: str, told: Told) -> Outcome:
        outcome = inner.run(x, prefix, told)
        if outcome.leave is None:
            told.succeed(prefix + after)
            return Outcome({"value": outcome.value})
        told.leave(prefix + after)
        return outcome

    # `depends_on` because `out` of a variable is no stage: what is to be seen is that it can be read after it
    stages = [*inner.stages, leaf(after, inner.out, depends_on=[inner.id])]
    return [*_top(inner), after], stages, run


def _top(node: Node) -> list[str]:
    """Return the stages of a node that lie in no body of its own."""
    inside: set[str] = set()
    for stage in node.stages:
        config = stage.get("config", {})
        for key in ("true_branch_stages", "false_branch_stages", "loop_stages", "default_route"):
            inside.update(config.get(key, ()))
        for key in ("try_stages", "catch_stages", "finally_stages"):
            inside.update(config.get(key, ()))
        for key in ("routes", "branches"):
            inside.update(each for members in config.get(key, {}).values() for each in members)
    return [stage["id"] for stage in node.stages if stage["id"] not in inside]


# -- constructs with bodies ------------------------------------------------------------------------------------------------


def _conditional(id: str, driver: str, inner: Callable[[str], Node]) -> Node:
    node, other = inner(driver), f"{id}_other"
    members, stages, body = _body(id, node)

    def run(x: int, prefix: str, told: Told) -> Outcome:
        told.skip(prefix + other)
        outcome = body(x, prefix, told)
        told.statuses[prefix + id] = "cancelled" if outcome.leave else "succeeded"
        own = {"branch_taken": "true", "condition_value": x, "condition_result": True, "data": None}
        return outcome if outcome.leave else Outcome({"own": own, "body": outcome.value, "other": None})

    config = {"condition": driver, "true_branch_stages": members, "false_branch_stages": [other]}
    return Node(
        kind="conditional",
        id=id,
        stages=[{"id": id, "component_type": "conditional", "config": config}, *stages, leaf(other, 0)],
        out={"own": f"{{{{stages.{id}}}}}", "body": f"{{{{stages.{id}_after}}}}", "other": f"{{{{stages.{other}}}}}"},
        run=run,
        files=node.files,
    )


def _router(id: str, driver: str, inner: Callable[[str], Node]) -> Node:
    node, others = inner(driver), (f"{id}_stay", f"{id}_default")
    members, stages, body = _body(id, node)

    def run(x: int, prefix: str, told: Told) -> Outcome:
        told.skip(*(prefix + other for other in others))
        outcome = body(x, prefix, told)
        told.statuses[prefix + id] = "cancelled" if outcome.leave else "succeeded"
        own = {"route_taken": "Go", "original_value": "go", "matched_value": "go", "data": None}
        return outcome if outcome.leave else Outcome({"own": own, "body": outcome.value})

    config = {
        "value": "go",
        "case_insensitive": True,
        "routes": {"stay": [others[0]], "Go": members},
        "default_route": [others[1]],
    }
    return Node(
        kind="router",
        id=id,
        stages=[
            {"id": id, "component_type": "router", "config": config},
            *stages,
            *(leaf(other, 0) for other in others),
        ],
        out={"own": f"{{{{stages.{id}}}}}", "body": f"{{{{stages.{id}_after}}}}"},
        run=run,
        files=node.files,
    )


def _foreach(id: str, driver: str, inner: Callable[[str], Node]) -> Node:
    node = inner("item")  # every loop calls its item so: the innermost one is meant
    members, stages, body = _body(id, node)

    def run(x: int, prefix: str, told: Told) -> Outcome:
        results: list[Any] = []
        for index, item in enumerate(ITEMS):
            outcome = body(item, f"{prefix}{id}[{index}]/", told)
            if outcome.leave == "return":
                told.stop(f"{prefix}{id}[{index}]/")
                told.statuses[prefix + id] = "cancelled"
                return outcome
            results.append(outcome.value)
            if outcome.leave == "break_loop":
                break
        told.succeed(prefix + id)
        return Outcome({"total_items": len(ITEMS), "succeeded_items": len(results), "errors": [], "results": results})

    config = {"items": list(ITEMS), "loop_stages": members}
    return Node(
        kind="foreach",
        id=id,
        stages=[{"id": id, "component_type": "foreach", "config": config}, *stages],
        out=f"{{{{stages.{id}}}}}",
        run=run,
        files=node.files,
    )


def _trycatch(id: str, node: Node, place: str) -> Node:
    """The tried body fails after everything else in it, and the error is caught."""
    members, stages, body = _body(id, node)
    boom, caught, last = f"{id}_boom", f"{id}_caught", f"{id}_last"
    bodies = {"try": [boom], "catch": [caught], "finally": [last]}
    after = {"try": boom, "catch": caught, "finally": last}[place]
    bodies[place] = [*members, *bodies[place]]
    own_stages: dict[str, dict[str, Any]] = {
        boom: {"id": boom, "component_type": "boom"},
        caught: leaf(caught, f"{{{{stages.{boom}.error.code}}}}"),
        last: leaf(last, [f"{{{{stages.{boom}.status}}}}", f"{{{{stages.{caught}.status}}}}"]),
    }
    own_stages[after]["depends_on"] = [f"{id}_after"]

    def run(x: int, prefix: str, told: Told) -> Outcome:
        order = {"try": boom, "catch": caught, "finally": last}
        inside: Outcome = Outcome()
        for name, stage in order.items():
            if place == name:
                inside = body(x, prefix, told)
            if inside.leave:
                told.leave(prefix + stage)
            else:
                told.statuses[prefix + stage] = "failed" if stage == boom else "succeeded"
        told.statuses[prefix + id] = "cancelled" if inside.leave else "succeeded"
        if inside.leave:
            return inside
        failure = Failure(
            code="permanent_error",
            message="It was to fail.",
            stage=prefix + boom,
            attempts=1,
            error_type="PermanentError",
        )
        own = {
            "data": None,
            "status": "caught",
            "error_occurred": True,
            "error_message": "It was to fail.",
            "error_type": "PermanentError",
            "error": failure.to_json(),
            "recovered": True,
            "try_result": None,
            "catch_result": {"value": "permanent_error"},
        }
        return Outcome({"own": own, "body": inside.value, "last": {"value": ["failed", "succeeded"]}})

    config = {
        "try_stages": bodies["try"],
        "catch_stages": bodies["catch"],
        "finally_stages": bodies["finally"],
        "error_scope": "continue",
    }
    return Node(
        kind="trycatch",
        id=id,
        stages=[{"id": id, "component_type": "trycatch", "config": config}, *stages, *own_stages.values()],
        out={
            "own": f"{{{{stages.{id}}}}}",
            "body": f"{{{{stages.{id}_after}}}}",
            "last": f"{{{{stages.{last}}}}}",
        },
        run=run,
        files=node.files,
    )


def _subpipeline(id: str, driver: str, inner: Callable[[str], Node]) -> Node:
    node = inner("input.x")
    _, stages, body = _body(id, node)

    def run(x: int, prefix: str, told: Told) -> Outcome:
        outcome = body(x, f"{prefix}{id}/", told)
        told.succeed(prefix + id)
        result = outcome.value if outcome.leave else {"after": outcome.value}
        return Outcome({"result": result, "status": "completed", "error": None, "pipeline": f"{id}@1.0.0"})

    config = {"pipeline": f"./{id}.pipeline.json", "input_data": {"x": "{{" + driver + "}}"}}
    called = {"name": id, "stages": stages, "output": {"after": f"{{{{stages.{id}_after}}}}"}}
    return Node(
        kind="subpipeline",
        id=id,
        stages=[{"id": id, "component_type": "subpipeline", "config": config}],
        out=f"{{{{stages.{id}}}}}",
        run=run,
        files={**node.files, f"{id}.pipeline.json": called},
    )


def _parallel(id: str, driver: str, inner: Callable[[str], Node]) -> Node:
    node, other = inner(driver), f"{id}_right"
    members, stages, body = _body(id, node)

    def run(x: int, prefix: str, told: Told) -> Outcome:
        outcome = body(x, prefix, told)
        told.statuses[prefix + id] = "cancelled" if outcome.leave else "succeeded"
        told.statuses[prefix + other] = "succeeded"
        if outcome.leave:  # the other branch has got as far as it has got
            told.statuses[prefix + other] = ANYTHING
        return outcome if outcome.leave else Outcome({"results": [outcome.value, {"value": 0}], "errors": []})

    config = {"branches": {"left": members, "right": [other]}}
    return Node(
        kind="parallel",
        id=id,
        stages=[{"id": id, "component_type": "parallel", "config": config}, *stages, leaf(other, 0)],
        out={"results": f"{{{{stages.{id}.results}}}}", "errors": f"{{{{stages.{id}.errors}}}}"},
        run=run,
        files=node.files,
    )


# -- constructs without a body ---------------------------------------------------------------------------------------------

Single = tuple[dict[str, Any], Any, Callable[[int, Any], Outcome]]
"""A stage, a template of its outcome, and what comes of it: (driving number, value of the payload) → outcome."""


def _echo(kind: str, id: str, driver: str, payload: Any) -> Single:
    return leaf(id, payload), f"{{{{stages.{id}}}}}", lambda x, value: Outcome({"value": value})


def _variable_set(kind: str, id: str, driver: str, payload: Any) -> Single:
    stage = {"id": id, "component_type": kind, "config": {"name": f"v_{id}", "value": payload}}
    return stage, f"{{{{vars.v_{id}}}}}", lambda x, value: Outcome(value)


def _leaving(kind: str, id: str, driver: str, payload: Any) -> Single:
    value_key = "return_value" if kind == "return" else "result"
    stage = {"id": id, "component_type": kind, "config": {"condition": f"{driver} >= 2", value_key: payload}}

    def run(x: int, value: Any) -> Outcome:
        if x >= 2:
            return Outcome(value, kind)  # pyright: ignore[reportArgumentType]  # the components of that name
        if kind == "return":
            return Outcome({"should_return": False, "return_value": value, "message": None})
        said = "broken" if kind == "break_loop" else "continued"
        return Outcome({said: False, "result": None, "message": None})

    return stage, f"{{{{stages.{id}}}}}", run


def _in_sequence(before: Node | None, single: Single) -> Node:
    stage, out, decide = single
    id: str = stage["id"]
    if before is not None:
        stage["depends_on"] = [before.id]

    def run(x: int, prefix: str, told: Told) -> Outcome:
        payload: Any = {"x": x}
        if before is not None:
            first = before.run(x, prefix, told)
            if first.leave:
                told.leave(prefix + id)
                return first
            payload = first.value
        told.succeed(prefix + id)
        return decide(x, payload)

    stages = [*(before.stages if before else ()), stage]
    return Node(
        kind=stage["component_type"], id=id, stages=stages, out=out, run=run, files=before.files if before else {}
    )


# -- whole pipelines -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """A pipeline with what must come of it."""

    pipeline: dict[str, Any]
    files: Mapping[str, Any]
    node: Node

    def expected(self, x: int) -> tuple[Any, dict[str, str | frozenset[str]]]:
        """Return the run's output and every stage instance's status."""
        told = Told()
        outcome = self.node.run(x, "", told)
        if outcome.leave:
            assert outcome.leave == "return", "the plan refuses the others here"
            told.leave("end")
            return outcome.value, told.statuses
        told.succeed("end")
        return {"value": outcome.value}, told.statuses

    def write(self, folder: Path) -> Path:
        """Write the pipeline and those that it calls; return the file."""
        for name, called in self.files.items():
            (folder / name).write_bytes(orjson.dumps(called))
        file = folder / "case.pipeline.json"
        file.write_bytes(orjson.dumps(self.pipeline))
        return file


def case_of(chain: Sequence[str], *, places: Mapping[int, str] = {}, fuse: str = "auto") -> Case:
    """Return the pipeline of nested constructs, with a stage after them that reads them."""
    node = nest(chain, places=places)
    stages = [*node.stages, leaf("end", node.out, depends_on=[node.id])]
    pipeline: dict[str, Any] = {"name": "case", "stages": stages}
    if fuse != "auto":
        for each in (pipeline, *node.files.values()):
            for stage in each["stages"]:
                if stage["component_type"] in ("echo", "boom"):
                    stage["placement"] = {"fuse": fuse}
    return Case(pipeline, node.files, node)


def refused_at(chain: Sequence[str]) -> int | None:
    """Return the position in `chain` of what leaves a loop and stands in none; None when there is no such thing.

    A called pipeline stands in no loop, whatever is around the call; what stands in sequence is not inside.
    """
    in_loop = False
    found: int | None = None
    for position, kind in enumerate(chain):
        if kind in ("foreach", "subpipeline"):
            in_loop = kind == "foreach"
        elif kind in ("break_loop", "continue_loop") and not in_loop and found is None:
            found = position
    return found


# -- the guide's table -----------------------------------------------------------------------------------------------------

GUIDE = Path(__file__).parents[1] / "docs" / "guide" / "control-flow.md"
PART = re.compile(r"(<!-- matrix -->\n)(.*?)(<!-- /matrix -->)", re.DOTALL)
TESTS = "../../tests/integration/test_control_flow_matrix.py"


def matrix_table() -> str:
    """Return the table of `CONSTRUCTS` inside each other, every cell with the test that shows it."""
    names = [f"`{name}`" if "/" not in name else name for name in CONSTRUCTS]
    lines = [f"| | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
    for outer, name in zip(CONSTRUCTS, names, strict=True):
        cells = [
            f'[{_mark(outer, inner)}]({TESTS} "test_each_construct_inside_each_other[{outer}-{inner}]")'
            for inner in CONSTRUCTS
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _mark(outer: str, inner: str) -> str:
    chain = (kinds_of(outer)[0], kinds_of(inner)[0])
    if refused_at(chain) is None:
        return "✓" if outer in WITH_BODY else "→"
    return "✗" if refused_at(("foreach", *chain)) is not None else "↻"


if __name__ == "__main__":
    text = GUIDE.read_text(encoding="utf-8")
    GUIDE.write_text(PART.sub(lambda match: match[1] + matrix_table() + match[3], text), encoding="utf-8")
