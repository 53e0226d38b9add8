"""What coordinator and workers say to each other about attempts.

A *call* carries a tuple of attempts. They are independent of each other, or a chain: a later one's bindings may point at the
value of an earlier one of the same call, which then never leaves the worker. The worker runs them in order and gives one
report each.

These are named tuples and not dataclasses, and they are packed here: one of each is packed per call on the coordinator's event loop,
and Ray's own serializer, which has to find references in what it is given, takes ten times as long. (References are arguments of
their own; Ray hands bytes over as they are. Who can put bytes in a call of ours can start calls of their own.)
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from hashlib import blake2b
from pickle import HIGHEST_PROTOCOL, dumps, loads
from platform import node
from typing import Any, Literal, NamedTuple

import orjson

from flowmason_ray import __version__
from flowmason_ray.engine.digests import Contents
from flowmason_ray.engine.events import Event
from flowmason_ray.errors import Failure, PermanentError

Sender = Literal["driver", "worker"]


class ComponentRef(NamedTuple):
    """Where a worker finds a component, and what it must find there."""

    name: str
    module: str
    qualname: str
    version: str
    file: str | None = None
    """The source file of a project's own component; None: it is imported by its module's name."""
    content: str | None = None
    """The digest of what was in the file. Where the file lies may differ between machines, what is in it must not."""


class StageData(NamedTuple):
    """A stage as data, all of it JSON: what a worker needs to run an attempt of it. Packed once, by `ray_packing`."""

    id: str
    component: ComponentRef | None
    """None for a hidden stage."""
    template: Any
    fixed: Mapping[str, Any]
    when: str | None
    schema: Mapping[str, Any] | None
    memory_mib: float | None = None
    """By how much an attempt may grow its worker."""
    llm: Mapping[str, Any] | None = None
    """The effective `llm_settings`."""


class Binding(NamedTuple):
    """Where a value comes from."""

    source: Literal["value", "argument", "reference", "attempt"]
    """`value`: it is `of` itself; `argument`: argument number `of`, which Ray has brought along; `reference`: the first
    element of that argument is a reference to it; `attempt`: the value of attempt number `of` of the same call."""
    of: Any = None


class Bindings(NamedTuple):
    """Where everything comes from that a stage's templates read."""

    stages: Mapping[str, tuple[Binding, str, Mapping[str, Any] | None]] = {}  # never written to
    """By stage id: the output, the status, the error."""
    variables: Mapping[str, Binding] = {}
    """By name: the output of the stage that set it, a field of which it is."""
    loops: Mapping[str, tuple[Binding, int, bool]] = {}
    """By variable: (the items, position, whether it is the index that is wanted)."""
    input: Binding | None = None
    """The scope's input, if it is read."""


class AttemptData(NamedTuple):
    """One attempt as data."""

    digest: str
    """Identifies the stage's content, so that a worker compiles it once."""
    stage: bytes
    """The packed `StageData`; read by workers that do not know the digest yet."""
    bindings: Bindings
    path: str
    attempt: int
    first_started_at: float
    idempotency_key: str | None
    live: bool = True
    """Whether what it says is passed on while it runs; what is said by one that rides along comes with its report."""
    timed: bool = False
    """Whether the coordinator wants to be told when it begins: it has a time limit."""
    reads: tuple[int, ...] = ()
    """The attempts of the same call whose values it reads: it is not run unless they have succeeded."""


class CallData(NamedTuple):
    """What one call is to do."""

    run: bytes
    """The run's facts (`pack_run`): sent with every call, read once per worker, which beats a reference that every task would
    have to borrow (measured: 3 ms a task)."""
    attempts: tuple[AttemptData, ...]
    mailbox: tuple[str, str] | None = None
    """Where to post what attempts say while they run: the name of the mailbox and the box in it; None: nowhere."""


class Report(NamedTuple):
    """How an attempt ended, for the coordinator. Small whatever the value."""

    status: Literal["succeeded", "failed", "declined", "stopped", "not_run"]
    """`not_run`: an attempt of the same call that it reads has not succeeded."""
    duration_s: float = 0.0
    decision: Mapping[str, Any] | None = None
    inline: bool = True
    """Whether `value` is the value; else it stays with the worker or in the object store, and `packed` is how the log records
    it."""
    value: Any = None
    packed: bytes | None = None
    size_bytes: int = 0
    contents: Contents | None = None
    """What stands for `value` in fingerprints, when it is not here and the run asks for it."""
    failure: Failure | None = None
    final: bool = False
    """Whether the component has said that repeating cannot help."""
    usage: Mapping[str, Any] | None = None
    """What it took of models."""
    told: tuple[tuple[int, Event], ...] = ()
    """What the attempt said lately (`ray_telling`), each with its number: what has come through the mailbox is known by it."""
    drew_time: bool = False
    """Whether it asked for the time at which it was started, which is not known yet for one that rides along."""


class CallReport(NamedTuple):
    """How a call ended: one report per attempt, in their order."""

    reports: tuple[Report, ...]
    node: str
    """The id of the node on which it ran."""
    rss_mib: float = 0.0
    """How much memory the worker occupies; of actors only."""


# Plain bytes before everything else: another version may have another idea of what follows.
_MARK = b"FlowMason "
_OURS = _MARK + __version__.encode() + b"\n"
_VERSION = re.compile(re.escape(_MARK) + rb"([!-~]{1,100})\n")


class VersionMismatch(PermanentError):
    """Coordinator and worker have different versions of FlowMason, and cannot read what the other says."""

    code = "version_mismatch"


def sealed(content: bytes) -> bytes:
    """Return a message's content with our version before it."""
    return _OURS + content


def unsealed(message: bytes, sender: Sender) -> memoryview:
    """Return the content of a message.

    Args:
        message: What `sealed` returned.
        sender: Who sent it, for what is said when that cannot be.

    Raises:
        VersionMismatch: it was sent by another version.
    """
    if message.startswith(_OURS):
        return memoryview(message)[len(_OURS) :]
    said = _VERSION.match(message)
    theirs = f"FlowMason {said[1].decode()!r}" if said else "a FlowMason that does not say its version"
    ours = f"FlowMason {__version__!r}"
    driver, worker = (ours, theirs) if sender == "worker" else (theirs, ours)
    where = f" on {node()!r}" if sender == "driver" else ""
    raise VersionMismatch(
        f"The driver has {driver}, the Ray worker{where} has {worker}. Install the same version of 'flowmason-ray' on every node of the "
        "cluster as where the run is started or coordinated."
    )


def pack_stage(stage: StageData, code: bytes = b"") -> tuple[str, bytes]:
    """Return a digest of a stage, and the packed stage.

    Args:
        stage: The stage.
        code: What its component consists of, if that travels by value: a worker may know a class of the same name with other content.
    """
    fields = [tuple(each) if isinstance(each, ComponentRef) else each for each in stage]  # orjson knows no named tuples
    content = sealed(orjson.dumps(fields))
    # Not SHA-256: of texts as short as these OpenSSL's takes ten times as long, once for each stage of each run.
    return blake2b(content + code, digest_size=20).hexdigest(), content


def unpack_stage(packed: bytes) -> StageData:
    """Return what `pack_stage` was given.

    Raises:
        VersionMismatch: it was packed by another version.
    """
    stage = StageData(*orjson.loads(unsealed(packed, "driver")))
    return stage if stage.component is None else stage._replace(component=ComponentRef(*stage.component))


def pack(message: CallData | CallReport) -> bytes:
    """Return a message as bytes."""
    return sealed(dumps(message, protocol=HIGHEST_PROTOCOL))


def unpack(packed: bytes, sender: Sender = "worker") -> Any:
    """Return what `pack` was given.

    Raises:
        VersionMismatch: it was packed by another version.
    """
    return loads(unsealed(packed, sender))
