"""What a control-flow construct is to the engine: a rule on the plan, and a rule on the state.

The plan asks a construct which bodies its config names. The state machine tells it what happened to the construct's stage
and to its bodies, and the construct answers by calling the few verbs of `Run`. A construct keeps what it must remember in
`scope.constructs`; it never sees an executor, a log or a clock.

In the state rules, `scope` and `index` address the construct's own stage instance.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from flowmason_ray.engine.events import Event, SkipReason, StageSucceeded
from flowmason_ray.errors import Failure

if TYPE_CHECKING:
    from flowmason_ray.engine.scope import Scope


@dataclass(frozen=True, slots=True, kw_only=True)
class Body:
    """A body that a construct's config names."""

    name: str
    members: tuple[tuple[str, str], ...]
    """(JSON pointer below the config, stage id) of each member, in the order written."""
    loop: bool = False
    """Whether it runs once per item, in a scope of its own."""
    variables: tuple[str, ...] = ()
    """The variables that a loop gives to its body."""
    after: tuple[str, ...] = ()
    """Other bodies of the same construct that have always ended before this one starts, so that it may read them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What a construct's config says when the plan is made."""

    bodies: tuple[Body, ...] = ()
    options: Any = None
    late: Mapping[str, Any] | None = None
    """Templates that are rendered inside the loop body's scope when an iteration ends: {"collect": template}."""


class ConfigProblem(Exception):
    """Raised by `Construct.shape` for a config that cannot be planned; `pointer` is below the config."""

    def __init__(self, message: str, pointer: str) -> None:
        super().__init__(message)
        self.message, self.pointer = message, pointer


class Run(Protocol):
    """The verbs of the state machine that constructs use."""

    def emit(self, event: Event) -> None:
        """Narrate a consequence."""
        ...

    @property
    def now(self) -> float:
        """The time that the stimulus being handled carries."""
        ...

    def open_region(self, scope: Scope, region: int) -> None:
        """Let the stages of a body run."""
        ...

    def skip_region(self, scope: Scope, region: int, reason: SkipReason) -> None:
        """Decide that a body will not run."""
        ...

    def open_iteration(self, scope: Scope, index: int, *, position: int, key: int, items: Any) -> Scope:
        """Start one iteration of the loop at `index`: its `key` names it in paths, its `position` finds it in `items`."""
        ...

    def abort(self, targets: Sequence[tuple[Scope, int]], then: Callable[[], None]) -> None:
        """Stop everything inside these (scope, region) pairs; go on with `then` when nothing of it runs any more."""
        ...

    def gather(self, scope: Scope, index: int, head: dict[str, Any], parts: dict[str, list[Any]]) -> None:
        """Have the construct's value put together; `Construct.gathered` is called with it."""
        ...

    def end(self, scope: Scope, index: int, value: Any) -> None:
        """End the construct with success."""
        ...

    def fail(self, scope: Scope, index: int, failure: Failure) -> None:
        """End the construct with a failure; its `on_error` applies."""
        ...


class Construct:
    """The base of the constructs. The defaults suit one without bodies."""

    bare_expressions: tuple[str, ...] = ()
    """Config fields in which a text without braces is an expression."""

    def shape(self, config: Mapping[str, Any]) -> Shape:
        """Read the config, as written, when the plan is made.

        Raises:
            ConfigProblem: it cannot be planned.
        """
        return Shape()

    def decided(self, run: Run, scope: Scope, index: int, event: StageSucceeded) -> None:
        """The construct's own attempt has succeeded: its config was rendered and it has decided."""
        run.end(scope, index, event.value)

    def body_ended(self, run: Run, scope: Scope, index: int, region: int) -> None:
        """Every stage of a body has ended."""
        raise AssertionError(f"{type(self).__name__} has no bodies")

    def body_failed(self, run: Run, scope: Scope, index: int, region: int, failure: Failure) -> None:
        """A body failed, and nothing of it runs any more."""
        run.fail(scope, index, failure)

    def iteration_ended(
        self, run: Run, scope: Scope, index: int, iteration: Scope, value: Any, failure: Failure | None
    ) -> None:
        """An iteration has ended with a value or a failure."""
        raise AssertionError(f"{type(self).__name__} has no iterations")

    def gathered(self, run: Run, scope: Scope, index: int, value: Any) -> None:
        """The value asked for by `Run.gather` is there."""
        run.end(scope, index, value)


def stage_list(config: Mapping[str, Any], key: str) -> tuple[tuple[str, str], ...]:
    """Return the stage ids under `key` with their pointers; a missing key is an empty body.

    Raises:
        ConfigProblem: it is not a list of strings, or a template (bodies are fixed when the plan is made).
    """
    value = config.get(key)
    if value is None:
        return ()
    if not isinstance(value, list) or not all(isinstance(v, str) and "{{" not in v for v in value):  # pyright: ignore[reportUnknownVariableType]
        raise ConfigProblem(f"{key!r} is a list of stage ids, written out; found {value!r}.", f"/{key}")
    return tuple((f"/{key}/{i}", v) for i, v in enumerate(value))  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
