"""Reading a static path, which is what nearly every template does: fast where it is there, talkative where it is not."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from typing import Any, cast

from flowmason_ray.errors import nearest
from flowmason_ray.spec.language.budget import Frame, Missing
from flowmason_ray.spec.language.references import Aspect, Key, Path, StageView, path_text
from flowmason_ray.spec.language.values import member


def read(scope: Any, path: Path) -> Any:
    """Return the value at the path.

    Raises:
        Missing: some part of it is not there; the message says which, and what there is instead.
    """
    value, keys, done = _start(scope, path.root, path.aspect, path.keys)
    for index, key in enumerate(keys):
        try:
            value = member(value, key)
        except Missing as missing:
            missing.place = path_text(path.root, path.keys[: done + index], path.aspect)
            raise
    return value


def _start(scope: Any, root: str, aspect: Aspect, keys: tuple[Key, ...]) -> tuple[Any, tuple[Key, ...], int]:
    """Return the value that the path starts from, the keys that are left, and how many are done."""
    try:
        value = scope.lookup(root)
    except KeyError:
        raise Missing(f"{root!r} is not defined here.") from None
    if root != "stages":
        return value, keys, 0
    stage = cast("str", keys[0])
    try:
        view: StageView = value[stage]
    except KeyError:
        raise _no_stage(stage, value) from None
    found = view.output if aspect == "output" else view.status if aspect == "status" else view.error
    if found is None and len(keys) > 1:
        what = "output" if aspect == "output" else "error"
        raise Missing(f"Stage {stage!r} has no {what}: its status is {view.status!r}.")
    return found, keys[1:], 1


def _no_stage(stage: str, stages: Any) -> Missing:
    def describe() -> tuple[str, dict[str, Any]]:
        names = cast("Iterable[Any]", stages) if isinstance(stages, Iterable) else ()
        known = [str(name) for name in itertools.islice(names, 10_000)]
        close = nearest(stage, known)
        message = f"There is no stage {stage!r} here." + (f" Did you mean {close!r}?" if close else "")
        return message, {"available": known[:50], **({"nearest": close} if close else {})}

    return Missing(describe)


def reader(path: Path) -> Callable[[Frame], Any]:
    """Return a closure that reads the path in a frame."""
    fast = quick_reader(path)

    def run(frame: Frame) -> Any:
        return fast(frame.scope)

    return run


def quick_reader(path: Path) -> Callable[[Any], Any]:
    """Return a closure that reads the path straight from a scope.

    The common shapes are spelled out: a stage's output or a root, then no, one or more keys into plain dicts. Whatever does
    not fit falls through to `read`, which is complete.
    """
    if path.root == "stages":
        return _stage_reader(path) if path.aspect == "output" else lambda scope: read(scope, path)
    root, keys = path.root, path.keys
    if len(keys) == 1:
        only = keys[0]

        def one(scope: Any) -> Any:
            try:
                value = scope.lookup(root)
                if type(value) is dict:
                    return cast("Any", value[only])
            except KeyError:
                pass
            return read(scope, path)

        return one

    def many(scope: Any) -> Any:
        try:
            value = scope.lookup(root)
            for key in keys:
                if type(value) is not dict:
                    return read(scope, path)
                value = cast("Any", value[key])
            return value
        except KeyError:
            return read(scope, path)

    return many


def _stage_reader(path: Path) -> Callable[[Any], Any]:
    stage, keys = path.keys[0], path.keys[1:]
    if not keys:

        def whole(scope: Any) -> Any:
            try:
                return scope.lookup("stages")[stage].output
            except KeyError:
                return read(scope, path)

        return whole
    if len(keys) == 1:
        only = keys[0]

        def one(scope: Any) -> Any:
            try:
                value = scope.lookup("stages")[stage].output
                if type(value) is dict:
                    return cast("Any", value[only])
            except KeyError:
                pass
            return read(scope, path)

        return one

    def many(scope: Any) -> Any:
        try:
            value = scope.lookup("stages")[stage].output
            for key in keys:
                if type(value) is not dict:
                    return read(scope, path)
                value = cast("Any", value[key])
            return value
        except KeyError:
            return read(scope, path)

    return many
