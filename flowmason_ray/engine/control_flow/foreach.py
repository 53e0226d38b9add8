"""`foreach`: its body runs once per item, in a sliding window.

At most `max_parallel` iterations are open at a time; when one ends, the next one starts, so a straggler delays nobody. An
iteration holds its place through its retries. Results keep the order of the items. A failed item either ends the loop
(`break_on_error`, the default) or is listed under `errors` while the others go on; then `min_success_ratio` decides at the
end whether the loop as a whole succeeded.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from flowmason_ray.engine.commands import Each
from flowmason_ray.engine.control_flow.base import Body, ConfigProblem, Construct, Run, Shape, stage_list
from flowmason_ray.engine.events import ItemEnded, LoopExpanded, Success
from flowmason_ray.errors import Failure

if TYPE_CHECKING:
    from flowmason_ray.engine.scope import Scope

DEFAULT_MAX_PARALLEL = 5
"""As in the older FlowMason, when `parallel` is true and nothing is said."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ForeachOptions:
    """What the config fixes when the plan is made."""

    window: int
    break_on_error: bool
    min_success_ratio: float


@dataclass(slots=True, kw_only=True)
class _Loop:
    """What an open loop remembers."""

    items: Any
    count: int
    indices: list[int] | None
    next: int = 0
    open: dict[int, Scope] = field(default_factory=dict[int, "Scope"])
    results: list[Any]
    errors: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    stopping: bool = False
    """Whether no iteration starts any more."""
    succeeded: int = 0
    broken_at: int | None = None
    """The position of the item that ended the loop by `break_loop`."""


def _option(config: Mapping[str, Any], key: str, kind: type | tuple[type, ...], default: Any) -> Any:
    value = config.get(key, default)
    if isinstance(value, kind) and (kind is bool or not isinstance(value, bool)):
        return value
    expected = "a name" if kind is str else "true or false" if kind is bool else "a number"
    message = f"{key!r} is fixed when the plan is made: write {expected}, not {value!r}."
    raise ConfigProblem(message, f"/{key}")


class Foreach(Construct):
    """A loop over a list or a frame."""

    def shape(self, config: Mapping[str, Any]) -> Shape:
        """Read the body, the variables, the window and `collect`."""
        variables = tuple(
            _option(config, key, str, default)
            for key, default in (("item_variable", "item"), ("index_variable", "index"))
        )
        parallel = _option(config, "parallel", bool, "max_parallel" in config)
        window = _option(config, "max_parallel", int, DEFAULT_MAX_PARALLEL) if parallel else 1
        ratio = float(_option(config, "min_success_ratio", (int, float), 0))
        if window < 1:
            raise ConfigProblem(f"'max_parallel' is at least 1; found {window}.", "/max_parallel")
        if not 0 <= ratio <= 1:
            raise ConfigProblem(f"'min_success_ratio' is between 0 and 1; found {ratio}.", "/min_success_ratio")
        options = ForeachOptions(
            window=window, break_on_error=_option(config, "break_on_error", bool, True), min_success_ratio=ratio
        )
        items = config.get("items", [])
        dataset = isinstance(items, Mapping) and "dataset" in items
        if not dataset and not isinstance(items, list) and not (isinstance(items, str) and "{{" in items):
            message = f"'items' is a list, a frame or a dataset ({{\"dataset\": path}}); found {items!r}."
            raise ConfigProblem(message, "/items")
        body = Body(name="loop", members=stage_list(config, "loop_stages"), loop=True, variables=variables)
        late = {"collect": config["collect"]} if config.get("collect") is not None else None
        return Shape(bodies=(body,), options=options, late=late)

    def decided(self, run: Run, scope: Scope, index: int, event: Success) -> None:
        """The items are known: open the first window."""
        facts = event.decision or {}
        count = int(facts["count"])
        loop = _Loop(items=event.value, count=count, indices=facts.get("indices"), results=[None] * count)
        assert scope.constructs is not None
        scope.constructs[index] = loop
        run.emit(LoopExpanded(at=run.now, path=event.path, count=count))
        self._advance(run, scope, index, loop)

    def _advance(self, run: Run, scope: Scope, index: int, loop: _Loop) -> None:
        options: ForeachOptions = scope.plan.stages[index].options
        while loop.next < loop.count and len(loop.open) < options.window:
            position = loop.next
            loop.next += 1
            key = position if loop.indices is None else loop.indices[position]
            loop.open[position] = run.open_iteration(scope, index, position=position, key=key, items=loop.items)
        if not loop.open and loop.next >= loop.count:
            self._finish(run, scope, index, loop)

    def iteration_ended(
        self, run: Run, scope: Scope, index: int, iteration: Scope, value: Any, failure: Failure | None
    ) -> None:
        """Keep the result or the error, and let the next item in."""
        assert scope.constructs is not None
        loop: _Loop = scope.constructs[index]
        position = iteration.position
        loop.open.pop(position, None)
        if loop.stopping and loop.broken_at is None:
            return  # the loop is failing
        key = position if loop.indices is None else loop.indices[position]
        run.emit(ItemEnded(at=run.now, path=scope.path(index), index=key, failure=failure))
        if failure is None:
            loop.results[position] = value
            loop.succeeded += 1
        elif scope.plan.stages[index].options.break_on_error:
            loop.stopping = True
            run.abort([(s, 0) for s in loop.open.values()], lambda: run.fail(scope, index, failure))
            return
        else:
            loop.errors.append(
                {
                    "index": key,
                    "code": failure.code,
                    "message": failure.message,
                    "stage": failure.stage,
                    "attempts": failure.attempts,
                }
            )
        if loop.broken_at is None:
            self._advance(run, scope, index, loop)
        elif position == loop.broken_at:
            del loop.results[loop.next :]
            others = [(s, 0) for s in loop.open.values()]
            run.abort(others, lambda: self._finish(run, scope, index, loop), early=True)

    def broken(self, run: Run, scope: Scope, index: int, iteration: Scope) -> None:
        """The first iteration to say so ends the loop: no other starts, and those in flight are stopped when it has ended."""
        assert scope.constructs is not None
        loop: _Loop = scope.constructs[index]
        if not loop.stopping:
            loop.stopping = True
            loop.broken_at = iteration.position

    def _finish(self, run: Run, scope: Scope, index: int, loop: _Loop) -> None:
        options: ForeachOptions = scope.plan.stages[index].options
        failed = len(loop.errors)
        loop.errors.sort(key=lambda e: e["index"])
        ended = loop.succeeded + failed
        if ended and loop.succeeded / ended < options.min_success_ratio:
            first = loop.errors[0]
            message = (
                f"{failed} of {ended} items failed; 'min_success_ratio' asks for {options.min_success_ratio:.0%} to succeed. "
                f"The first: item {first['index']}: {first['message']}"
            )
            details = {"errors": loop.errors[:100]}
            run.fail(
                scope, index, Failure(code="too_many_errors", message=message, stage=scope.path(index), details=details)
            )
            return
        head = {"total_items": loop.count, "succeeded_items": loop.succeeded, "errors": loop.errors}
        run.gather(scope, index, head, {"results": Each(loop.results)})
