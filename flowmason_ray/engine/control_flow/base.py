"""What a control-flow construct is to the engine: a rule on the plan, and a rule on the state.

The plan asks a construct which bodies its config names. The state machine tells it what happened to the construct's stage
and to its bodies, and the construct answers by calling the few verbs of `Run`. A construct keeps what it must remember in
`scope.constructs`; it never sees an executor, a log or a clock.

In the state rules, `scope` and `index` address the construct's own stage instance.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from flowmason_ray.engine.commands import Several
from flowmason_ray.engine.events import ApprovalAnswered, Event, SkipReason, Success
from flowmason_ray.errors import ExpressionError, Failure
from flowmason_ray.spec.expressions import DictScope, ExpressionSyntaxError, parse_expression
from flowmason_ray.spec.templates import parse_template

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
    concurrent: bool = False
    """Whether it runs at the same time as the construct's other bodies."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What a construct's config says when the plan is made."""

    bodies: tuple[Body, ...] = ()
    options: Any = None
    late: Mapping[str, Any] | None = None
    """Templates that are rendered inside the loop body's scope when an iteration ends: {"collect": template}."""
    always_leaves: bool = False
    """Whether the scope always ends with this stage, so that what waits for it never runs."""
    never: tuple[str, ...] = ()
    """The bodies that can never be opened, because what decides is written out; `decided_by` is the config field."""
    decided_by: str = ""
    one_of: bool = False
    """Whether exactly one of the bodies is opened, whatever is decided."""


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

    def make_scope(self, scope: Scope, index: int, *, prefix: str, input: Any, further: int = 0) -> Scope:
        """Make an instance of the scope that belongs to the construct, or of one `further` behind it in the plan.

        Nothing in it runs before its region 0 is opened.
        """
        ...

    def leave(self, scope: Scope, index: int, target: Scope, value: Any) -> None:
        """End `target`, a scope around the stage, with `value`; the stage itself has succeeded."""
        ...

    def abort(self, targets: Sequence[tuple[Scope, int]], then: Callable[[], None], *, early: bool = False) -> None:
        """Stop everything inside these (scope, region) pairs; go on with `then` when nothing of it runs any more.

        With `early`, what has not started is skipped (`SkipReason.ENDED_EARLY`) instead of cancelled.
        """
        ...

    def set_timer(self, scope: Scope, index: int, delay_s: float) -> None:
        """Have `Construct.timer_fired` called after a while, if the construct is still open then."""
        ...

    def await_answer(self, scope: Scope, index: int) -> None:
        """Have `Construct.answered` called when somebody answers."""
        ...

    def gather(
        self, scope: Scope, index: int, head: dict[str, Any], parts: dict[str, Any], *, base: Any = None
    ) -> None:
        """Have the construct's value put together (`commands.GatherResults`); `Construct.gathered` is called with it."""
        ...

    def end(self, scope: Scope, index: int, value: Any) -> None:
        """End the construct with success."""
        ...

    def fail(self, scope: Scope, index: int, failure: Failure) -> None:
        """End the construct with a failure; its `on_error` applies."""
        ...


class Construct:
    """The base of the constructs. The defaults suit one without bodies.

    A stage's `timeout_ms` and `retry` cover what its component does: finding the items, deciding on the branch. They never
    cover the bodies, which may run for days and must not be repeated by accident; `on_error` covers both.
    """

    bare_expressions: tuple[str, ...] = ()
    """Config fields in which a text without braces is an expression."""

    def shape(self, config: Mapping[str, Any]) -> Shape:
        """Read the config, as written, when the plan is made.

        Raises:
            ConfigProblem: it cannot be planned.
        """
        return Shape()

    def decided(self, run: Run, scope: Scope, index: int, event: Success) -> None:
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

    def broken(self, run: Run, scope: Scope, index: int, iteration: Scope) -> None:
        """One of the iterations is ending the loop."""
        raise AssertionError(f"{type(self).__name__} has no iterations")

    def timer_fired(self, run: Run, scope: Scope, index: int) -> None:
        """The time asked for by `Run.set_timer` is over."""
        raise AssertionError(f"{type(self).__name__} sets no timer")

    def answered(self, run: Run, scope: Scope, index: int, event: ApprovalAnswered) -> None:
        """Somebody has answered what the construct asked."""
        raise AssertionError(f"{type(self).__name__} asks nothing")

    def gathered(self, run: Run, scope: Scope, index: int, value: Any) -> None:
        """The value asked for by `Run.gather` is there."""
        run.end(scope, index, value)


def constant_truth(config: Mapping[str, Any], key: str) -> bool | None:
    """Return whether the condition under `key` holds, when that is written out; None: it is known at run time only.

    A text without braces is an expression, as `Construct.bare_expressions` says.
    """
    value = config.get(key, True)
    if not isinstance(value, str):
        return bool(value)
    try:
        if "{{" not in value:
            expression = parse_expression(value)
            return bool(expression.evaluate(DictScope({}))) if expression.constant else None
        template = parse_template(value)
        return bool(template.render(DictScope({}))) if template.constant else None
    except (ExpressionSyntaxError, ExpressionError):
        return None  # reported where it is parsed, or when it is evaluated


def stage_list(config: Mapping[str, Any], key: str, base: str = "") -> tuple[tuple[str, str], ...]:
    """Return the stage ids under `key` with their pointers; a missing key is an empty body.

    Args:
        config: What the key is looked up in.
        key: The key.
        base: The JSON pointer of `config`, below the stage's config.

    Raises:
        ConfigProblem: it is not a list of strings, or a template (bodies are fixed when the plan is made).
    """
    value = config.get(key)
    if value is None:
        return ()
    if not isinstance(value, list) or not all(isinstance(v, str) and "{{" not in v for v in value):  # pyright: ignore[reportUnknownVariableType]
        raise ConfigProblem(
            f"{key!r} is a list of stage ids, written out; found {value!r}.", f"{base}/{pointer_part(key)}"
        )
    return tuple((f"{base}/{pointer_part(key)}/{i}", v) for i, v in enumerate(value))  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]


def named_lists(value: Any, pointer: str) -> Iterator[tuple[str, tuple[tuple[str, str], ...]]]:
    """Yield (name, members) for {name: [stage ids]} or for a list of lists, whose names are their positions.

    Raises:
        ConfigProblem: it is neither.
    """
    if isinstance(value, Mapping):
        lists: dict[str, Any] = {str(name): members for name, members in value.items()}  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
    elif isinstance(value, list):
        lists = {str(i): members for i, members in enumerate(value)}  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
    else:
        raise ConfigProblem(f"Lists of stage ids are expected, written out; found {value!r}.", pointer)
    for name in lists:
        yield name, stage_list(lists, name, pointer)


def pointer_part(key: str) -> str:
    """Return a key as it stands in a JSON pointer (RFC 6901)."""
    return key.replace("~", "~0").replace("/", "~1")


def region_result(scope: Scope, region: int) -> Any:
    """Return what a body has come to: the handle of its only terminal stage, or an object of all of them."""
    terminals = scope.plan.regions[region].terminals
    if len(terminals) == 1:
        return scope.values[terminals[0]]
    return Several({scope.plan.stages[index].id: scope.values[index] for index in terminals})
