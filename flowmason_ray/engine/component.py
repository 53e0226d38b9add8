"""The port through which the engine sees components: what a component declares, and where components are looked up.

The engine never imports a component. It is handed a `Catalogue` and reads `ComponentSpec`s from it; the classes behind
them are made and called by executors (`engine.attempt`). The decorators that produce specs are in `components.base`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol
from uuid import UUID

from flowmason_ray.errors import FlowMasonError

if TYPE_CHECKING:
    from pydantic import BaseModel

    from flowmason_ray.connections import C
    from flowmason_ray.engine.models import Models


class Kind(StrEnum):
    """What a component is for."""

    NODE = "node"
    """Uses a model."""
    OPERATOR = "operator"
    """Does not use a model."""
    CONTROL_FLOW = "control_flow"
    """Decides which stages run."""


class Effect(StrEnum):
    """What repeating a component does to the world; retry, resume, reuse and cancellation obey it."""

    PURE = "pure"
    """Nothing: it may be cached and repeated."""
    IDEMPOTENT = "idempotent"
    """Nothing more than the first time, when it is given the same idempotency key."""
    EFFECTFUL = "effectful"
    """Something: it is never repeated silently."""


class Cost(StrEnum):
    """What running a component takes; decides where it runs and what it is grouped with."""

    TRIVIAL = "trivial"
    """Microseconds, never waits: runs in the coordinator itself."""
    CPU = "cpu"
    """Computes: occupies a core while it runs."""
    IO = "io"
    """Waits: for a network, a disk, a model behind an API."""
    GPU = "gpu"
    """Computes on an accelerator."""


class InvalidActors(FlowMasonError):
    """Bounds of actors that contradict each other."""

    code = "invalid_component"
    exit_code = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class Actors:
    """How many actors a component has on Ray, and for how long. Each holds one instance, which `setup()` has made ready.

    Their number follows the demand between the bounds: calls that wait or run, divided by `concurrency`.
    """

    min: int = 0
    """Kept as long as the run lasts, from the first call on, also when they have nothing to do, unless others need their room."""
    max: int | None = None
    """Never more than this. None: as many as the cluster has room for."""
    recycle_after: int | None = None
    """An actor is replaced when it has carried out this many calls. None: never for that reason."""
    recycle_at_mib: int | None = None
    """An actor is replaced when its process has this much memory for itself after a call: values that it reads in the object store do
    not count. None: never for that reason."""
    concurrency: int = 1
    """How many calls an actor carries out at once; more than 1 for an asynchronous `execute` only."""
    idle_s: float = 10.0
    """An actor without work for this long is released: longer than the pause between two batches, and short beside the time for
    which others would miss its cores. One that others wait for goes sooner."""
    setup_timeout_s: float | None = 600.0
    """A `setup()` that takes longer has failed, in-process too: models take minutes to load, and nobody is to wait for ever for one that
    hangs. None: it may take as long as it wants."""

    def __post_init__(self) -> None:
        highest = self.max if self.max is not None else max(self.min, 1)
        counts = (highest, self.recycle_after or 1, self.recycle_at_mib or 1, self.concurrency)
        zero = self.recycle_after == 0 or self.recycle_at_mib == 0
        hasty = self.setup_timeout_s is not None and not self.setup_timeout_s > 0
        if self.min < 0 or highest < max(self.min, 1) or min(counts) < 1 or zero or self.idle_s < 0 or hasty:
            raise InvalidActors(
                f"{self!r} is impossible: 0 <= min <= max, idle_s >= 0, setup_timeout_s > 0, and everything else is at least 1."
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class ComponentSpec:
    """What a component declares about itself. Made by the decorators of `components.base`; never by hand."""

    name: str
    version: str
    kind: Kind
    effect: Effect
    cost: Cost
    description: str
    category: str
    input_model: type[BaseModel]
    output_model: type[BaseModel]
    create: Callable[[], Any]
    """Makes an instance: an object with `execute(input, context)`, synchronous or not."""
    is_async: bool
    module: str
    """Where a worker imports the class from."""
    qualname: str
    file: Path | None = None
    """The source file of a project's own component; None for installed ones, which are imported by module."""
    expression_fields: frozenset[str] = frozenset()
    """Input fields that hold an expression of our language over the component's own variables; not rendered as templates."""
    raw_fields: frozenset[str] = frozenset()
    """Input fields that are passed on as they are written: neither rendered nor searched for references."""
    prompts: tuple[str, ...] = ()
    """The prompts that it asks models with, by name; which text each stands for is settled when a plan is made."""
    resources: Mapping[str, Any] = field(default_factory=dict[str, Any])
    tags: tuple[str, ...] = ()
    has_setup: bool = False
    """Whether instances have a `setup(context)`, which is called once before their first `execute`."""
    has_teardown: bool = False
    """Whether instances have a `teardown()`, which is called when they are not needed any more."""
    actors: Actors | None = None
    """What the component says about its actors; None: nothing."""

    @property
    def setup_timeout_s(self) -> float | None:
        """How long a `setup()` may take, in seconds; None: as long as it wants."""
        return (self.actors or Actors()).setup_timeout_s


class Catalogue(Protocol):
    """Where components are looked up by name."""

    def get(self, name: str) -> ComponentSpec | None:
        """Return the component of that name (kebab and snake case are the same), or None."""
        ...

    def names(self) -> Sequence[str]:
        """Return the names of all components, sorted."""
        ...


class SetupContext(Protocol):
    """What `setup(context)` may know and do: what holds for all attempts of a run."""

    @property
    def run_id(self) -> str:
        """The run's id."""
        ...

    @property
    def pipeline(self) -> str:
        """The pipeline's name."""
        ...

    @property
    def region(self) -> str | None:
        """Where the instance is, if regions are used."""
        ...

    @property
    def project_dir(self) -> Path:
        """The directory that files are relative to."""
        ...

    @property
    def settings(self) -> Any:
        """The project's settings (`flowmason_ray.settings.ProjectSettings`)."""
        ...

    def log(self, level: Literal["debug", "info", "warning", "error"], message: str, **fields: Any) -> None:
        """Say something to whoever follows the run. Live only."""
        ...


class Context(Protocol):
    """What an attempt may know and do besides its input. Handed to `execute(input, context)`.

    Values that differ from call to call (time, identifiers, randomness) are drawn through it, so that they are derived
    from what the run log records and a replay sees the same ones.
    """

    @property
    def run_id(self) -> str:
        """The run's id."""
        ...

    @property
    def pipeline(self) -> str:
        """The pipeline's name."""
        ...

    @property
    def version(self) -> str:
        """The pipeline's version."""
        ...

    @property
    def stage_id(self) -> str:
        """The stage's id as it is written."""
        ...

    @property
    def path(self) -> str:
        """The path of this stage instance, for example `each[3]/extract`."""
        ...

    @property
    def attempt(self) -> int:
        """Counts from 1."""
        ...

    @property
    def started_at(self) -> datetime:
        """When the run started (UTC)."""
        ...

    @property
    def region(self) -> str | None:
        """Where the attempt runs, if regions are used."""
        ...

    @property
    def idempotency_key(self) -> str:
        """The same for every attempt of this stage instance in this run, and for no other."""
        ...

    @property
    def project_dir(self) -> Path:
        """The directory that files named in a pipeline are relative to, and jailed to."""
        ...

    @property
    def settings(self) -> Any:
        """The project's settings (`flowmason_ray.settings.ProjectSettings`)."""
        ...

    def connection(self, name: str, wanted: type[C] | tuple[type[C], ...]) -> C:
        """A connection of the project (`flowmason_ray.connections`), of the kind that is wanted, with its secrets filled in.

        Raises:
            PermanentError: `unknown_connection`, `connection_type`, `missing_secret`.
        """
        ...

    def now(self) -> datetime:
        """The time at which this stage instance started (UTC); the same on every call and on replay."""
        ...

    def uuid(self) -> UUID:
        """A new identifier on every call; the same sequence on replay."""
        ...

    def random(self) -> float:
        """A number in [0, 1) on every call; the same sequence on replay."""
        ...

    def log(self, level: Literal["debug", "info", "warning", "error"], message: str, **fields: Any) -> None:
        """Say something to whoever follows the run. Live only: shown and recorded on request, never part of the result."""
        ...

    def progress(self, done: float, total: float | None = None) -> None:
        """Report how far this attempt is. Live only."""
        ...

    def stream(self, text: str) -> None:
        """Show a result as it grows, to whoever asked to see that. Live only, bounded; from any thread."""
        ...

    @property
    def models(self) -> Models:
        """The models: ask one, count, make vectors. What is used is counted and recorded."""
        ...
