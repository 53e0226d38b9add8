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

if TYPE_CHECKING:
    from pydantic import BaseModel

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


class Catalogue(Protocol):
    """Where components are looked up by name."""

    def get(self, name: str) -> ComponentSpec | None:
        """Return the component of that name (kebab and snake case are the same), or None."""
        ...

    def names(self) -> Sequence[str]:
        """Return the names of all components, sorted."""
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
