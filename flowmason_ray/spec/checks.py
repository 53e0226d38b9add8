"""What must hold between two values of a pipeline file, where a model sees only one.

Works on the plain, canonical data, so that it also finds its problems in a file that the models refuse for other reasons.
What takes knowledge of components or of the graph (unknown stages, cycles) is checked by the engine's plan.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, cast

from flowmason_ray.errors import Problem
from flowmason_ray.spec.source import Location, Source
from flowmason_ray.spec.wording import owner_name


def check_pairs(data: Mapping[str, Any], source: Source) -> Iterator[Problem]:
    """Yield what is wrong between values; pointers are canonical, lines are not filled in.

    Args:
        data: A document in canonical spelling, of whatever shape.
        source: Its text: a message about two places names the other one.
    """
    yield from _unique_ids(data, source)
    for index, stage in _objects(data, "stages"):
        yield from _fallback(stage, index, data)


def _objects(data: Mapping[str, Any], key: str) -> Iterator[tuple[int, dict[str, Any]]]:
    listed = data.get(key)
    if isinstance(listed, list):
        for index, item in enumerate(cast("list[Any]", listed)):
            if isinstance(item, dict):
                yield index, cast("dict[str, Any]", item)


def _unique_ids(data: Mapping[str, Any], source: Source) -> Iterator[Problem]:
    """Stages and compositions share one space of ids."""
    first: dict[str, str] = {}
    for part, word in (("stages", "stage"), ("compositions", "composition")):
        for index, item in _objects(data, part):
            identifier = item.get("id")
            if not isinstance(identifier, str):
                continue
            pointer = f"/{part}/{index}/id"
            other = first.setdefault(identifier, pointer)
            if other != pointer:
                place = _place(source.locate(other), other)
                yield Problem(
                    code="duplicate_id",
                    message=f"The id {identifier!r} of this {word} is taken: it is also at {place}.",
                    path=pointer,
                    found=identifier,
                    hint="Give each stage an id of its own.",
                )


def _place(location: Location, pointer: str) -> str:
    return f"line {location.line}" if location.line else pointer.removesuffix("/id")


def _fallback(stage: dict[str, Any], index: int, data: Mapping[str, Any]) -> Iterator[Problem]:
    on_error = stage.get("on_error", "fail")
    name = owner_name(("stages", index), data)
    if on_error == "fallback" and "fallback_output" not in stage:
        yield Problem(
            code="missing_fallback",
            message=f"'on_error' of {name} is 'fallback', but it has no 'fallback_output'.",
            path=f"/stages/{index}/on_error",
            expected="fallback_output",
            hint="Add 'fallback_output': the output that the stage has when it fails.",
        )
    elif on_error in ("fail", "continue") and "fallback_output" in stage:
        yield Problem(
            code="unused_fallback",
            message=f"'fallback_output' of {name} has no effect, because 'on_error' is {on_error!r}.",
            path=f"/stages/{index}/fallback_output",
            expected="on_error: 'fallback'",
            found=str(on_error),
            hint="Set 'on_error' to 'fallback', or remove 'fallback_output'.",
        )
