"""The executor port: who carries out what the state machine decides.

An executor serves one run. It begins attempts, puts together results and stops attempts, and reports with events. A report
may be returned at once (the attempt is over already) or delivered later through the callback given to `open`; either way
there is exactly one for every command. It decides nothing: no order, no retries, no time limits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Self, runtime_checkable

from flowmason_ray.engine.commands import CancelStage, GatherResults, StartStage
from flowmason_ray.engine.events import Event
from flowmason_ray.engine.pacing import Pacing
from flowmason_ray.engine.secrecy import Secret

if TYPE_CHECKING:
    from flowmason_ray.engine.plan import Plan

Deliver = Callable[[Event], None]
"""Takes a report, or a live event. Called on the runner's event loop only."""

STOP_GRACE_S = 0.5
"""How long an executor waits for a cancelled attempt to end by itself before it reports it as stopped and lets go of it.
Half of the second within which `engine.md` promises that cancellation takes effect."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunInfo:
    """What executors and attempts know about the run they serve."""

    run_id: str
    pipeline: str
    version: str
    started_at: float
    """Seconds since the epoch."""
    seed: int
    input: Any = None
    project_dir: Path = field(default_factory=Path.cwd)
    settings: Any = None
    env: Mapping[str, str] = field(default_factory=dict[str, str])
    """The environment variables that templates may read."""
    secrets: Mapping[str, Secret] = field(default_factory=dict[str, Secret])
    """The secrets that templates may read."""
    keys: Mapping[str, Secret] = field(default_factory=dict[str, Secret])
    """The keys of model providers, by the name of their environment variable: for models alone, templates cannot read them."""
    models: Any = None
    """Makes what attempts reach models through (`engine.models`, `llm.gateway.Gateway`); None: there are none."""
    budget: Mapping[str, Any] | None = None
    """What a new run may spend on models (`engine.usage.Budget`); a run that is taken up has it in its log."""
    streams: bool = False
    """Whether somebody wants to see texts as they grow."""
    region: str | None = None
    fingerprints: bool = False
    """Whether attempts get fingerprints, so that workers report the contents of the values that stay with them."""
    pacing: Pacing | None = None
    """What is known about how long attempts take, and learns more; None: only what is declared."""
    trace: str | None = None
    """The traceparent of the run's span (`flowmason_ray.telemetry`); None: nothing is traced."""
    listens: bool = False
    """Whether what components print is kept, as what they say is."""
    blobs: Any = None
    """Where workers put values that the log refers to (`stores.blobs.BlobStore`); None when nothing is kept."""

    @property
    def hidden(self) -> tuple[Secret, ...]:
        """Every text that must not leave the run: secrets and keys."""
        return (*self.secrets.values(), *self.keys.values())


class Executor(Protocol):
    """Carries out commands. An asynchronous context manager: whoever opens it closes it, and nothing of it is left."""

    tells_beginning: bool
    """Whether it delivers `StageBegan` when an attempt that had to queue gets its place; otherwise a time limit counts from
    `start`."""

    async def __aenter__(self) -> Self:
        """Take what is needed (threads, a cluster)."""
        ...

    async def __aexit__(self, *exc: object) -> None:
        """Stop whatever still runs and give everything back."""
        ...

    def open(self, run: RunInfo, deliver: Deliver) -> None:
        """Begin to serve a run; called once, before the first command."""
        ...

    def start(self, command: StartStage) -> Event | None:
        """Begin an attempt. Answer: `StageSucceeded`, `StageFailed`, `StageDeclined` or `StageStopped`."""
        ...

    def gather(self, command: GatherResults) -> Event | None:
        """Put a construct's value together. Answer: `StageSucceeded` or `StageFailed`."""
        ...

    def cancel(self, command: CancelStage) -> None:
        """Stop an attempt. Its answer comes within about a second: `StageStopped`, or what ended it before."""
        ...

    async def fetch(self, handle: Any) -> Any:
        """Return the value behind a handle, in this process."""
        ...


@runtime_checkable
class Digesting(Protocol):
    """What an executor can do besides, so that attempts get fingerprints and results can be reused.

    Neither brings a value into this process: a worker that keeps a value reports its contents (`engine.digests.contents_of`)
    when `RunInfo.fingerprints` asks for them. An executor without these methods runs everything and reuses nothing; so does
    one that is put in front of another and does not pass them on.
    """

    def part_content(self, handle: Any, key: str | None) -> bytes | None:
        """Return what stands for a field of a value, or with `key` None for all of it (`engine.digests.part_of`).

        None: it is not known.
        """
        ...

    def item_content(self, items: Any, position: int) -> bytes | None:
        """Return what stands for an item of a loop (`engine.digests.item_content`); None: it is not known."""
        ...


@runtime_checkable
class Preparing(Protocol):
    """What an executor can do besides, when it matters to it which stages are to come."""

    def prepare(self, plan: Plan, *, check: bool) -> None:
        """Take note of the plan; called once, after `open` and before the first command.

        Args:
            plan: What is to be run.
            check: Whether it runs from its beginning, so that a stage which cannot run is best refused now. Otherwise results
                may be known already.

        Raises:
            FlowMasonError: the run cannot come to its end; nothing of it was begun.
        """
        ...
