"""How components are declared: `@node`, `@operator` and `@control_flow`.

A component is a class with an `Input` and an `Output` model and an `execute(self, input, context)`:

    @operator(effect="pure")
    class WordCount:
        \"\"\"Counts the words of a text.\"\"\"

        class Input(BaseModel):
            text: str

        class Output(BaseModel):
            words: int

        def execute(self, input: Input, context: Context) -> Output:
            return self.Output(words=len(input.text.split()))

A synchronous `execute` runs in a thread, an asynchronous one on an event loop. What takes long to get ready (a model, a
connection) goes into `setup(self, context)`, which is called once per instance before its first `execute`; `teardown(self)`
is called when the instance is not needed any more. Either may be `async def`. The decorator checks the class at once,
where the author sees it, and hangs a `ComponentSpec` on it; it changes nothing else.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar, cast, overload

from pydantic import BaseModel

from flowmason_ray.engine.component import Actors, ComponentSpec, Cost, Effect, Kind
from flowmason_ray.errors import FlowMasonError

C = TypeVar("C", bound=type)

SPEC_ATTRIBUTE = "__flowmason_component__"


class InvalidComponent(FlowMasonError):
    """A component class that does not keep to the contract. Raised by the decorators, at import."""

    code = "invalid_component"
    exit_code = 2


def normalise_name(name: str) -> str:
    """Return the canonical spelling of a component's name: kebab and snake case are the same."""
    return name.strip().replace("-", "_")


def _declare(
    cls: type,
    *,
    kind: Kind,
    name: str | None,
    version: str,
    effect: Effect | str,
    cost: Cost | str | None,
    category: str,
    description: str | None,
    tags: Iterable[str],
    resources: Mapping[str, Any] | None,
    expressions: Iterable[str],
    raw: Iterable[str],
    actors: Actors | None,
    prompts: Iterable[str],
) -> None:
    where = f"{cls.__module__}.{cls.__qualname__}"
    models = {part: getattr(cls, part, None) for part in ("Input", "Output")}
    for part, model in models.items():
        if not (isinstance(model, type) and issubclass(model, BaseModel)):
            raise InvalidComponent(
                f"Component {where!r} needs a nested class {part!r} that derives from pydantic.BaseModel."
            )
    execute = getattr(cls, "execute", None)
    if not inspect.isfunction(execute):
        raise InvalidComponent(f"Component {where!r} needs a method 'execute(self, input, context)'.")
    if len(inspect.signature(execute).parameters) != 3:
        raise InvalidComponent(
            f"'execute' of component {where!r} takes (self, input, context); found {inspect.signature(execute)}."
        )
    try:
        inspect.signature(cls).bind()
    except TypeError as exc:
        raise InvalidComponent(f"Component {where!r} must be constructible without arguments: {exc}.") from exc
    is_async = inspect.iscoroutinefunction(execute)
    input_model, output_model = cast("type[BaseModel]", models["Input"]), cast("type[BaseModel]", models["Output"])
    unknown = {*expressions, *raw} - set(input_model.model_fields)
    if unknown:
        raise InvalidComponent(
            f"Component {where!r} declares {sorted(unknown)} as expressions or raw, which its Input does not have."
        )
    try:
        chosen_effect = Effect(effect)
        chosen_cost = Cost(cost) if cost is not None else (Cost.IO if is_async else Cost.CPU)
    except ValueError as exc:
        raise InvalidComponent(f"Component {where!r}: {exc}.") from exc
    if chosen_cost is Cost.TRIVIAL and not is_async:
        raise InvalidComponent(
            f"Component {where!r} is declared 'trivial': its 'execute' must be 'async def', so that it can run in place."
        )
    has_setup, has_teardown = (_has_method(cls, where, name, takes) for name, takes in _LIFE.items())
    if chosen_cost is Cost.TRIVIAL and (has_setup or actors is not None):
        raise InvalidComponent(
            f"Component {where!r} is declared 'trivial', which runs in place: it can have neither 'setup' nor actors. "
            "Declare another cost, such as cost='io'."
        )
    if actors is not None and actors.concurrency > 1 and not is_async:
        raise InvalidComponent(
            f"Component {where!r} declares concurrency={actors.concurrency} for its actors: its 'execute' must be 'async def'."
        )
    spec = ComponentSpec(
        name=normalise_name(name or _snake_case(cls.__name__)),
        version=version,
        kind=kind,
        effect=chosen_effect,
        cost=chosen_cost,
        description=description or inspect.getdoc(cls) or "",
        category=category,
        input_model=input_model,
        output_model=output_model,
        create=cls,
        is_async=is_async,
        module=cls.__module__,
        qualname=cls.__qualname__,
        file=_project_file(cls),
        expression_fields=frozenset(expressions),
        raw_fields=frozenset(raw),
        prompts=tuple(prompts),
        resources=dict(resources or {}),
        tags=tuple(tags),
        has_setup=has_setup,
        has_teardown=has_teardown,
        actors=actors,
    )
    setattr(cls, SPEC_ATTRIBUTE, spec)


_LIFE = {"setup": "(self, context)", "teardown": "(self)"}
"""The methods around `execute`, and what they take."""


def _has_method(cls: type, where: str, name: str, takes: str) -> bool:
    """Tell whether a class has one of the methods around `execute`.

    Raises:
        InvalidComponent: it is no method, or takes something else.
    """
    method = getattr(cls, name, None)
    if method is None:
        return False
    if not inspect.isfunction(method) or len(inspect.signature(method).parameters) != takes.count(",") + 1:
        found = inspect.signature(method) if callable(method) else repr(method)
        raise InvalidComponent(f"{name!r} of component {where!r} is a method that takes {takes}; found {found}.")
    return True


PROJECT_MODULE_PREFIX = "flowmason_project_"
"""Modules of a project's `components/` are imported under this prefix, by file."""


CONTENT_ATTRIBUTE = "__flowmason_content__"
"""What such a module says about the file that it was made of: the digest of its content."""


def _project_file(cls: type) -> Path | None:
    if not cls.__module__.startswith(PROJECT_MODULE_PREFIX):
        return None
    return Path(inspect.getfile(cls))


def _snake_case(name: str) -> str:
    name = re.sub(r"(Component|Operator|Node)$", "", name) or name
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()


def spec_of(cls: type) -> ComponentSpec | None:
    """Return what a decorator hung on this very class (not on a base of it), or None."""
    return cls.__dict__.get(SPEC_ATTRIBUTE)


def _decorator(kind: Kind, default_effect: Effect) -> Any:
    def decorate(
        cls: type | None = None,
        /,
        *,
        name: str | None = None,
        version: str = "1.0.0",
        effect: Effect | str = default_effect,
        cost: Cost | str | None = None,
        category: str = "custom",
        description: str | None = None,
        tags: Iterable[str] = (),
        resources: Mapping[str, Any] | None = None,
        expressions: Iterable[str] = (),
        raw: Iterable[str] = (),
        actors: Actors | None = None,
        prompts: Iterable[str] = (),
    ) -> Any:
        def apply(target: type) -> type:
            _declare(
                target,
                kind=kind,
                name=name,
                version=version,
                effect=effect,
                cost=cost,
                category=category,
                description=description,
                tags=tags,
                resources=resources,
                expressions=tuple(expressions),
                raw=tuple(raw),
                actors=actors,
                prompts=prompts,
            )
            return target

        return apply if cls is None else apply(cls)

    return decorate


class _Declare:
    """The type of the three decorators: usable bare (`@operator`) and with options (`@operator(effect="pure")`)."""

    def __init__(self, kind: Kind, default_effect: Effect, doc: str) -> None:
        self._decorate = _decorator(kind, default_effect)
        self.__doc__ = doc

    @overload
    def __call__(self, cls: C, /) -> C: ...
    @overload
    def __call__(
        self,
        /,
        *,
        name: str | None = None,
        version: str = "1.0.0",
        effect: Effect | str = ...,
        cost: Cost | str | None = None,
        category: str = "custom",
        description: str | None = None,
        tags: Iterable[str] = (),
        resources: Mapping[str, Any] | None = None,
        expressions: Iterable[str] = (),
        raw: Iterable[str] = (),
        actors: Actors | None = None,
        prompts: Iterable[str] = (),
    ) -> Callable[[C], C]: ...
    def __call__(self, *args: Any, **options: Any) -> Any:
        return self._decorate(*args, **options)


node = _Declare(
    Kind.NODE,
    Effect.IDEMPOTENT,
    """Declare a component that uses a model. Default effect: `idempotent`.

    Args: see `operator`.
    """,
)

operator = _Declare(
    Kind.OPERATOR,
    Effect.EFFECTFUL,
    """Declare a component that does not use a model.

    Default effect: `effectful`, because that is the safe guess about foreign code: it is never repeated silently. Say
    `effect="pure"` for what only computes, and it may be cached, repeated after a crash and grouped.

    Args:
        name: How pipelines call it; default: the class's name in snake case without Component/Operator/Node.
        version: The component's version (semver); part of what identifies a cached result.
        effect: `pure`, `idempotent` or `effectful`.
        cost: `trivial`, `cpu`, `io` or `gpu`; default: `io` for an asynchronous `execute`, else `cpu`.
        category, description, tags: For catalogues; the description defaults to the class's docstring.
        resources: Default resources of a stage, as in the format (`num_cpus`, `memory_mib`, …).
        expressions: Input fields that hold an expression over the component's own variables; not rendered.
        raw: Input fields that are passed on as written: neither rendered nor searched for references.
        actors: Bounds of the component's actors on Ray; a component with `setup` has actors also without this.
        prompts: The prompts that it asks models with (`components.prompting`), by name. Their content becomes part of what
            identifies a result; a field `prompt_version`, which must be among `raw`, says which version is meant.
    """,
)

control_flow = _Declare(
    Kind.CONTROL_FLOW,
    Effect.PURE,
    """Declare a component that chooses which of several branches runs.

    Every field of `Input` that is named `*_stages`, or `branches` ({name: [stage ids]}), names stages of the same
    pipeline: each is a branch whose stages this component owns. `Output` has a field `branch`: the name of the branch
    to take (the field's name without `_stages`, or the key in `branches`), or null for none.

    Args: see `operator`.
    """,
)
