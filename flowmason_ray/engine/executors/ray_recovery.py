"""Brings values back that are gone from the object store, so that who reads them need not know.

A value of a run is lost with its node, or with its owner. Ray makes it again by itself when a task that it may repeat made it
(lineage: pure stages). For the others this module does, in this order: from the copy that the run log refers to (a blob); by
running the stage that made it once more, if that does no harm and gives the recorded value (`engine.remaking`), first bringing
back what that stage reads. Otherwise the attempt that wanted the value fails, with code `value_lost`.

An attempt that lacks an input has not begun: Ray and the worker fetch inputs before the component is called. So it is begun again
under the same number, whatever its effect, and the state machine and the log see one attempt. The module stands between the
executor and the runner: `deliver` is what the executor reports to.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from time import time
from typing import Any
from weakref import WeakValueDictionary

import ray

from flowmason_ray.engine.commands import GatherResults, StartStage
from flowmason_ray.engine.component import Effect
from flowmason_ray.engine.events import Event, StageFailed, StageLogged, StageStopped, StageSucceeded
from flowmason_ray.engine.executor import Deliver, RunInfo
from flowmason_ray.engine.executors.holdings import Holdings
from flowmason_ray.engine.executors.placement import PURE_RETRIES
from flowmason_ray.engine.executors.ray_bindings import RemoteValue
from flowmason_ray.engine.executors.ray_copies import Copies
from flowmason_ray.engine.executors.ray_copying import read_copy
from flowmason_ray.engine.executors.ray_losses import LOST, ValueLost
from flowmason_ray.engine.remaking import MOST_LOSSES, is_the_same, why_not_again
from flowmason_ray.errors import Failure, FlowMasonError
from flowmason_ray.stores.encoding import is_lossy

_ray: Any = ray  # its types are partly unknown

DEATHS_OUTLIVED = PURE_RETRIES
"""How many deaths of workers an attempt outlives that may be repeated: as many as Ray lets a pure one outlive."""

Command = StartStage | GatherResults


_remote_read: Any = _ray.remote(read_copy)


def _copy_of(value: RemoteValue) -> bytes | None:
    """Return how the log refers to a value's copy; None: there is none yet, or it says less than the value did."""
    try:
        packed = None if value.pending else value.settled()
    except FlowMasonError:
        return None
    return None if packed is None or is_lossy(packed) else packed


@dataclass(slots=True, kw_only=True, eq=False)
class _Return:
    """A value that is being brought back, and who waits for it."""

    value: RemoteValue
    maker: Command | None
    commands: dict[str, Command] = field(default_factory=dict[str, Command])
    futures: list[asyncio.Future[None]] = field(default_factory=list["asyncio.Future[None]"])


class Recovery:
    """Brings back the lost values of one run."""

    def __init__(
        self,
        again: Callable[[Command], Event | None],
        put_again: Callable[[RemoteValue], bool],
        reads: Callable[[Command], Iterable[RemoteValue]],
    ) -> None:
        """
        Args:
            again: Begins an attempt, or a gathering, once more; returns its report if it is over already.
            put_again: Puts a value into the object store that came from this process; returns whether it did, raises a
                `FlowMasonError` if it could not.
            reads: Returns the values in the object store that an attempt, or a gathering, reads.
        """
        self._again = again
        self._put_again = put_again
        self._reads = reads
        self.holdings = Holdings()
        self.copies = Copies()
        self._any_absent = False
        """Whether something may be asked for that is not there: only after a first loss."""
        self._under_way: dict[str, Command] = {}
        self._values: WeakValueDictionary[str, RemoteValue] = WeakValueDictionary()
        """By all references that they have had."""
        self._deaths: dict[str, int] = {}
        """How often workers died over attempts that are under way."""
        self._returns: dict[int, _Return] = {}
        """By `id` of the value."""
        self._remaking: dict[str, _Return] = {}
        """By the path of what makes the value again."""

    def open(self, run: RunInfo, deliver: Deliver) -> Deliver:
        """Begin to serve a run; returns what the executor is to report to."""
        self._loop = asyncio.get_running_loop()
        self._run = run
        self._forward = deliver
        return self.deliver

    def under_way(self) -> Collection[Command]:
        """Return what was begun and has not ended."""
        return self._under_way.values()

    def may_begin(self, command: Command) -> bool:
        """Take note of what is to be begun; returns whether all that it reads is there. Otherwise it is begun when it is."""
        self._under_way[command.path] = command
        if self._any_absent:
            absent = next((value for value in self._reads(command) if value.reference is None), None)
            if absent is not None:
                self._entry(absent).commands[command.path] = command
                return False
        return True

    def answered(self, command: Command, event: Event) -> None:
        """Take note of a report that went to the runner directly."""
        self._under_way.pop(command.path, None)
        if type(event) is StageSucceeded and isinstance(event.value, RemoteValue):
            self.register(event.value, command)

    def register(self, value: RemoteValue, maker: Command | None) -> None:
        """Take note of a value, and of what made it; without that it is from here, and is not copied."""
        self._values[value.reference.hex()] = value
        if maker is not None:
            value.note_maker(maker)
            self.copies.write(value)
            if isinstance(maker, StartStage):
                self.holdings.note(maker, value)

    def deliver(self, event: Event) -> None:
        """Take what the executor reports; pass on what is not our affair."""
        path: str | None = getattr(event, "path", None)
        if path is None or event.live:
            self._forward(event)
            return
        remake = self._remaking.get(path)
        command = self._under_way.get(path)
        if isinstance(event, StageFailed) and event.failure.code == "value_lost" and command is not None:
            value = self._values.get(str((event.failure.details or {}).get(LOST)))
            if value is not None and command.attempt == event.attempt:
                self._lost(value, command, str((event.failure.details or {})[LOST]))
                return
        if command is not None and self._outlives(command, event):
            self._begin_again(command)
            return
        self._deaths.pop(path, None)
        if remake is not None:
            self._under_way.pop(path, None)
            del self._remaking[path]
            self._made(remake, event)
            return
        if command is not None and command.attempt == getattr(event, "attempt", None):
            self.answered(command, event)
        self._forward(event)

    def _outlives(self, command: Command, event: Event) -> bool:
        """Tell whether an attempt whose worker died is begun again under its number.

        Ray does so with tasks of pure stages. Here it is done for the rest of what may be repeated: what is idempotent (with
        its key), and what is pure and ran in an actor, of which Ray repeats nothing.
        """
        if (
            not isinstance(event, StageFailed)
            or event.failure.code != "worker_died"
            or event.attempt != command.attempt
        ):
            return False
        effect = command.stage.effect if isinstance(command, StartStage) else Effect.PURE
        in_actor = "Actor" in (event.failure.error_type or "")
        if effect is Effect.EFFECTFUL or (effect is Effect.PURE and not in_actor):
            return False
        deaths = self._deaths[command.path] = self._deaths.get(command.path, 0) + 1
        if deaths > DEATHS_OUTLIVED:
            return False
        message = "Its worker died; it is begun again on another one."
        self._forward(StageLogged(at=time(), path=command.path, level="warning", message=message))
        return True

    def cancel(self, path: str, attempt: int) -> bool:
        """Let go of an attempt that waits for a value; returns whether there was one. Its report follows."""
        for entry in self._returns.values():
            command = entry.commands.get(path)
            if command is not None and command.attempt == attempt:
                del entry.commands[path]
                self._under_way.pop(path, None)
                self._loop.call_soon(self._forward, StageStopped(at=time(), path=path, attempt=attempt))
                return True
        return False

    async def restored(self, value: RemoteValue) -> None:
        """Wait until a lost value is there again.

        Raises:
            ValueLost: it cannot be brought back.
        """
        self._any_absent = True
        future: asyncio.Future[None] = self._loop.create_future()
        self._entry(value).futures.append(future)
        await future

    # -- bringing back ------------------------------------------------------------------------------------------------

    def _lost(self, value: RemoteValue, command: Command, reference: str) -> None:
        """An attempt was not begun because a value is gone: of those it reads, or of those that what shared its call reads."""
        self._any_absent = True
        if value.reference is not None and value.reference.hex() == reference:
            value.let_go()
        self._begin_again(command)

    def _entry(self, value: RemoteValue) -> _Return:
        entry = self._returns.get(id(value))
        if entry is None:
            entry = self._returns[id(value)] = _Return(value=value, maker=value.maker)
            # Not from here: whoever asked is to be on the list of those that wait before there is an answer.
            self._loop.call_soon(self._begin, entry)
        return entry

    def _begin(self, entry: _Return) -> None:
        value = entry.value
        if value.losses >= MOST_LOSSES:
            message = f"A value of {value.size_bytes} bytes was lost {value.losses + 1} times; it is not brought back any more."
            self._failed(entry, message)
        elif (copy := _copy_of(value)) is not None and self._run.blobs is not None:
            self._from_copy(entry, copy)
        else:
            self._make_again(entry)

    def _from_copy(self, entry: _Return, packed: bytes) -> None:
        name = f"bring back {entry.maker.path if entry.maker else 'the input'} {self._run.run_id}"
        options = {"num_returns": 2, "num_cpus": 0, "max_retries": PURE_RETRIES, "name": name}
        found, value = _remote_read.options(**options).remote(packed, self._run.blobs.address)
        loop = self._loop

        def read(future: Any) -> None:  # on one of Ray's threads
            there = future.exception() is None and future.result()
            if not loop.is_closed():
                loop.call_soon_threadsafe(self._copied, entry, value if there else None)

        found.future().add_done_callback(read)

    def _copied(self, entry: _Return, reference: Any) -> None:
        if self._returns.get(id(entry.value)) is not entry:
            return
        if reference is None:
            self._make_again(entry)
        else:
            self._tell(entry, "Its value was lost with the node that had it, and was read from its copy.")
            self._restored(entry, reference)

    def _make_again(self, entry: _Return) -> None:
        maker = entry.maker
        if maker is None:
            message = f"A value of {entry.value.size_bytes} bytes is gone from the cluster."
            try:
                there = self._put_again(entry.value)
            except FlowMasonError as exc:
                there, message = False, f"{message} {exc.message}"
            if there:
                self._restored(entry, entry.value.reference)
            else:
                self._failed(entry, message)
            return
        if isinstance(maker, StartStage):
            refused = why_not_again(maker.stage, maker.path, entry.value.size_bytes)
            if refused is not None:
                self._failed(entry, refused)
                return
        self._tell(entry, "Its value was lost with the node that had it, and is made again.")
        self._remaking[maker.path] = entry
        self._begin_again(maker)

    def _begin_again(self, command: Command) -> None:
        event = self._again(command)
        if event is not None:
            self.deliver(event)

    def _made(self, entry: _Return, event: Event) -> None:
        assert entry.maker is not None
        old = entry.value
        made = event.value if type(event) is StageSucceeded else None
        if isinstance(made, RemoteValue):
            facts = [(_copy_of(each), each.contents, each.size_bytes) for each in (old, made)]
            if is_the_same(facts[0], facts[1]):
                self._restored(entry, made.reference)
                return
        if type(event) is StageSucceeded:
            message = (
                f"The value of {entry.maker.path!r} is gone from the cluster, and what it came to when it was made again is not "
                "what was recorded. Its component says that it is pure, or idempotent, but it is not."
            )
        else:
            why = event.failure.message if isinstance(event, StageFailed) else "it was stopped."
            message = f"The value of {entry.maker.path!r} is gone from the cluster, and could not be made again: {why}"
        self._failed(entry, message)

    def _restored(self, entry: _Return, reference: Any) -> None:
        del self._returns[id(entry.value)]
        entry.value.rebind(reference)
        self.register(entry.value, entry.maker)
        for future in entry.futures:
            if not future.done():
                future.set_result(None)
        for command in entry.commands.values():
            self._begin_again(command)

    def _failed(self, entry: _Return, message: str) -> None:
        del self._returns[id(entry.value)]
        for future in entry.futures:
            if not future.done():
                future.set_exception(ValueLost(message))
        for path, command in entry.commands.items():
            failure = Failure(code="value_lost", message=message, stage=path, attempts=command.attempt)
            self.deliver(StageFailed(at=time(), path=path, attempt=command.attempt, failure=failure, final=True))

    def _tell(self, entry: _Return, message: str) -> None:
        if entry.maker is not None:
            self._forward(StageLogged(at=time(), path=entry.maker.path, level="warning", message=message))
