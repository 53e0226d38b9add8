"""The Ray executor: attempts go to workers, values straight from producer to consumer.

Handles are values (small ones, which a worker's report carries) or `RemoteValue`s (references into Ray's object store). A
consumer's call gets the references as arguments, so Ray schedules it near its data and brings the data there. Trivial
stages whose inputs are all at hand run in the coordinator itself: a hop would cost a thousand times what they do; `fuse:
never` sends them to Ray nevertheless.

One call may serve several attempts: a chain (`ray_riding`), or cheap attempts of the same turn of the runner (`grouping`).
Ray repeats calls by itself only for pure stages (a lost worker, a lost object); every other repetition is the engine's
decision. A cancelled call gets `STOP_GRACE_S` to end, then its worker is killed.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterable, Mapping, Sequence
from time import time
from typing import Any, Self

import ray
from ray import cloudpickle
from ray.exceptions import RayError

from flowmason_ray.engine.commands import CancelStage, GatherResults, StartStage, resolve_part
from flowmason_ray.engine.component import ComponentSpec
from flowmason_ray.engine.digests import item_in, part_in
from flowmason_ray.engine.events import Event, StageBegan, StageFailed, StageStopped
from flowmason_ray.engine.executor import STOP_GRACE_S, Deliver, RunInfo
from flowmason_ray.engine.executors.admission import Admission
from flowmason_ray.engine.executors.grouping import Alone, Grouping, shares
from flowmason_ray.engine.executors.in_process import InProcessExecutor
from flowmason_ray.engine.executors.placement import PURE_RETRIES
from flowmason_ray.engine.executors.ray_actors import Pools, preferred_node, wants_actors
from flowmason_ray.engine.executors.ray_bindings import (
    Arguments,
    RemoteValue,
    bind,
    binding,
    reads_remote,
    remote_values,
    stage_data,
)
from flowmason_ray.engine.executors.ray_calls import Arrivals, Call, Member, end_of, lost, outcome_of, stopped, words_of
from flowmason_ray.engine.executors.ray_cluster import connect
from flowmason_ray.engine.executors.ray_frames import restore
from flowmason_ray.engine.executors.ray_inputs import Inputs
from flowmason_ray.engine.executors.ray_losses import ValueLost, lost_object
from flowmason_ray.engine.executors.ray_mailbox import Mailbox
from flowmason_ray.engine.executors.ray_messages import AttemptData, CallData, CallReport
from flowmason_ray.engine.executors.ray_recovery import Recovery
from flowmason_ray.engine.executors.ray_riding import Rides, may_ride, passengers
from flowmason_ray.engine.executors.ray_stages import pack_run
from flowmason_ray.engine.executors.ray_telling import Letter
from flowmason_ray.engine.executors.ray_worker import gather_results, run_call
from flowmason_ray.engine.plan import Plan, PlanStage
from flowmason_ray.engine.scope import Scope, Status


def _call_with(classes: Mapping[str, Any]) -> Any:
    """Return the remote function that carries out calls, with the classes that workers cannot import sent along once."""

    def attempt(call: CallData, *arguments: Any) -> tuple[Any, ...]:
        return run_call(classes, call, *arguments)

    return ray.remote(attempt)


_ray: Any = ray
_cloudpickle: Any = cloudpickle
# Under these names without types: those of Ray are partly unknown.

# Made once: Ray exports a remote function to the cluster again for every object that `ray.remote` returns.
_plain_call: Any = _call_with({})
_remote_gather: Any = ray.remote(gather_results)


class RayTasksExecutor:
    """Runs the stages of one run on Ray."""

    tells_beginning = True

    def __init__(self, *, address: str | None = None, grouping: Grouping | None = None) -> None:
        """
        Args:
            address: The cluster's; None: the one that `ray_cluster.connect` finds or starts.
            grouping: Decides which attempts share a call; None: what is known of their durations (`RunInfo.pacing`).
        """
        self._address = address
        self._grouping = grouping
        self._local = InProcessExecutor()
        self._calls: dict[str, Call] = {}
        """By the paths of their members that are waited for."""
        self._held: dict[str, list[StartStage]] = {}
        """Attempts that wait for the end of the runner's turn, to share a call with others of the same shape."""
        self._under_way = 0
        """Calls that Ray has not ended yet."""
        self._rides = Rides()
        self._heard: dict[tuple[str, int], int] = {}
        """How many messages of an attempt have been passed on."""
        self._stages: dict[int, tuple[str, bytes]] = {}
        self._admission = Admission()
        self._recovery = Recovery(self._again, self._put_again, _values_read)
        self._pools: Pools | None = None

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        self._arrivals = Arrivals(self._loop, self._arrived)
        await connect(self._address)
        await self._local.__aenter__()
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._held.clear()
        for call in set(self._calls.values()):
            if call.kill is not None:
                call.kill.cancel()
            call.cancel(force=True)
        self._calls.clear()
        self._admission.close()
        if self._pools is not None:
            await self._pools.close()
            await self._mailbox.close()
        await self._local.__aexit__(*exc)

    def open(self, run: RunInfo, deliver: Deliver) -> None:
        """Begin to serve a run."""
        self._run = run
        self._deliver = self._recovery.open(run, deliver)
        self._group: Grouping = self._grouping or run.pacing or Alone()
        self._local.open(run, deliver)
        self._packed_run = pack_run(run)
        self._inputs = Inputs(run.input, self._recovery.register)
        self._classes: dict[str, Any] = {}
        self._remote_call = _plain_call
        self._admission.open(run, self._submit, self._deliver, self._recovery.under_way, self._abandon)
        self._mailbox = Mailbox(run.run_id, self._letters, self._hear_no_more)
        self._pools = Pools(
            mailbox=self._mailbox.address,
            told=self._told,
            run_id=run.run_id,
            packed_run=self._packed_run,
            watch=self._arrivals.watch,
            ended=self._ended,
            deliver=self._deliver,
            nodes=self._admission.nodes,
            wanted_cores=lambda: max((call.cores for call in self._calls.values() if call.actor is None), default=0.0),
        )

    def prepare(self, plan: Plan, *, check: bool) -> None:
        """Take note of the plan, and refuse what the cluster can never run.

        Raises:
            InfeasibleRun: a stage asks for what no node has.
        """
        self._recovery.holdings.prepare(plan)
        self._admission.prepare(plan, check=check)

    async def fetch(self, handle: Any) -> Any:
        """Bring a value here.

        Raises:
            ValueLost: it is gone.
        """
        if not isinstance(handle, RemoteValue):
            return await self._local.fetch(handle)
        while True:
            try:
                if handle.reference is not None:
                    return restore(await handle.reference)
            except RayError as exc:
                if lost_object(exc) is None:
                    message = f"A value of {handle.size_bytes} bytes cannot be brought here: {words_of(exc)}"
                    raise ValueLost(message) from exc
            await self._recovery.restored(handle)

    def part_content(self, handle: Any, key: str | None) -> bytes | None:
        """Return what stands for a value in fingerprints."""
        if not isinstance(handle, RemoteValue):
            return self._local.part_content(handle, key)
        return None if handle.contents is None else part_in(handle.contents, key)

    def item_content(self, items: Any, position: int) -> bytes | None:
        """Return what stands for an item of a loop in fingerprints."""
        if not isinstance(items, RemoteValue):
            return self._local.item_content(items, position)
        return None if items.contents is None else item_in(items.contents, position)

    # -- attempts -----------------------------------------------------------------------------------------------------

    def start(self, command: StartStage) -> Event | None:
        """Begin an attempt: in place when it is trivial and its inputs are here, else on a worker."""
        known = self._rides.take(command)
        if known is not None:
            for event in known[:-1]:
                self._deliver(event)
            self._recovery.answered(command, known[-1])
            return known[-1]
        stage = command.stage
        if self._group.in_coordinator(stage) and not reads_remote(command.scope, stage):
            return self._local.start(command)
        return self._again(command)

    def _again(self, command: StartStage | GatherResults) -> Event | None:
        """Begin an attempt or a gathering on a worker, for the first time or because it lacked a value."""
        if not self._recovery.may_begin(command):
            return None
        if isinstance(command, GatherResults):
            self._send_gathering(command)
            return None
        event = self._admission.request(command)
        if event is not None:
            self._recovery.answered(command, event)
        return event

    def _put_again(self, value: RemoteValue) -> bool:
        """Put the run's input into the object store once more, if that is what `value` is."""
        return self._inputs.put_again(value)

    def _submit(self, command: StartStage, options: Mapping[str, Any]) -> None:
        shape = self._admission.placement.shape(options)
        if wants_actors(command.stage):
            shape = None  # its calls wait for an actor anyway
        if shape is not None and may_ride(command.stage) and self._group.limit(command.stage) > 1:
            self._hold(command, shape)
        else:
            self._send([command], options)

    def _hold(self, command: StartStage, shape: str) -> None:
        """Keep an attempt back until the runner's turn is over: others like it may come."""
        if not self._held:
            self._loop.call_soon(self._send_held)
        self._held.setdefault(shape, []).append(command)

    def _send_held(self) -> None:
        groups, self._held = list(self._held.values()), {}
        for group in groups:
            # An attempt of which few may share a call fills much of one: on average so many fit into one.
            limit = int(len(group) / sum(1 / self._group.limit(command.stage) for command in group))
            start = 0
            for share in shares(len(group), max(limit, 1), self._admission.cores() - self._under_way):
                shared = group[start : start + share]
                self._send(shared, self._admission.placement.options(shared[0]))
                start += share

    def _send(self, commands: Sequence[StartStage], options: Mapping[str, Any]) -> None:
        """Make one call of some attempts, and of what can ride along with them."""
        arguments = Arguments()
        attempts: list[AttemptData] = []
        members: list[Member] = []
        for command in commands:
            scope, before = command.scope, {command.stage.index: len(attempts)}
            members.append(Member(command.path, command.attempt, scope, command.stage))
            attempts.append(self._attempt(command, arguments))
            riders = self._group.riders(command.stage)
            for stage in passengers(command, riders) if riders else ():
                placed = self._admission.placement.carries(command.stage, stage)
                if wants_actors(stage) or not placed or _lacks_value(scope, stage):
                    break
                path = scope.path(stage.index)
                ride = StartStage(
                    path=path, stage=stage, scope=scope, attempt=1, first_started_at=command.first_started_at
                )
                attempt = self._attempt(ride, arguments, before)
                before[stage.index] = len(attempts)
                members.append(Member(path, 1, scope, stage, wanted=False))
                attempts.append(attempt)
        first = commands[0]
        name = first.path if len(commands) == 1 else f"{first.path} +{len(commands) - 1}"
        self._mailbox.open()
        call = CallData(self._packed_run, tuple(attempts), self._mailbox.address if self._mailbox.works else None)
        cores = float(options.get("num_cpus") or 0.0)
        component = first.stage.component
        if component is not None and self._pools is not None and wants_actors(first.stage):
            waiting = Call(members, name=name, near=preferred_node(options), cores=cores)
            self._note(waiting)
            self._pools.classes = self._classes
            reference = stage_data(first.stage).component
            self._pools.pool(component, options, reference).submit(waiting, call, arguments.given)
            return
        if not self._mailbox.works and first.stage.timeout_s is not None:
            self._deliver(StageBegan(path=first.path, attempt=first.attempt))
        report, *values = self._remote_call.options(num_returns=1 + len(attempts), name=name, **options).remote(
            call, *arguments.given
        )
        self._watch(Call(members, report, values, name=name, cores=cores))

    def _attempt(
        self, command: StartStage, arguments: Arguments, before: Mapping[int, int] | None = None
    ) -> AttemptData:
        stage = command.stage
        digest, packed = self._stage_data(stage)
        reads: tuple[int, ...] = ()
        if before:
            read = {target.index for target in stage.targets.values() if not target.levels}
            reads = tuple(position for index, position in before.items() if index in read or index in stage.waits_for)
        return AttemptData(
            digest,
            packed,
            bind(command.scope, stage, arguments, self._inputs.handle, before),
            command.path,
            command.attempt,
            command.first_started_at,
            command.idempotency_key,
            before is None,
            stage.timeout_s is not None and not wants_actors(stage),
            reads,
        )

    def _stage_data(self, stage: PlanStage) -> tuple[str, bytes]:
        key = id(stage)
        data = self._stages.get(key)
        if data is None:
            made = stage_data(stage)
            data = self._stages[key] = (made.digest, _cloudpickle.dumps(made))
            component = stage.component
            if component is not None and component.name not in self._classes and _travels_by_value(component):
                self._classes = {**self._classes, component.name: component.create}
                self._remote_call = _call_with(self._classes)
        return data

    # -- what comes back ----------------------------------------------------------------------------------------------

    def _watch(self, call: Call) -> None:
        self._note(call)
        self._under_way += 1
        self._arrivals.watch(call)

    def _note(self, call: Call) -> None:
        for member in call.members:
            if member.wanted:
                self._calls[member.path] = call

    def _arrived(self, call: Call, future: Any) -> None:
        if call.pool is not None:
            call.pool.arrived(call, outcome_of(future))
        else:
            self._under_way -= 1
            self._ended(call, outcome_of(future))

    def _ended(self, call: Call, outcome: CallReport | BaseException) -> None:
        if call.kill is not None:
            call.kill.cancel()
        missing = [member for member in call.waited_for() if self._calls.get(member.path) is call]
        for member in missing:
            del self._calls[member.path]
        if isinstance(outcome, BaseException):  # Ray's errors, and those that it makes of others'
            for member in missing:
                self._deliver(lost(call, member, outcome))
            return
        node = outcome.node
        values = call.values or [None] * len(call.members)
        for member, report, value in zip(call.members, outcome.reports, values, strict=True):
            if member.over or (member.wanted and member not in missing):
                continue
            event = end_of(member, report, value, node) if report.status != "not_run" else None
            if member.scope is not None and member.stage is not None:
                self._admission.placement.ended(member.path, member.stage, node)
            if report.status == "succeeded" and member.stage is not None:
                self._group.measured(member.stage, report.duration_s)
            if member.wanted:
                self._told(member.path, member.attempt, report.told)
                self._deliver(event or stopped(member))
            elif event is not None and not report.drew_time and _still_waits(member):
                assert member.scope is not None
                self._rides.keep(member.path, member.scope, (*(said for _, said in report.told), event))

    # -- what attempts say while they run -----------------------------------------------------------------------------

    def _letters(self, letters: list[Letter]) -> None:
        """Take what came through the mailbox."""
        for path, attempt, number, event in letters:
            call = self._calls.get(path)
            if attempt > 0 and (call is None or not call.waits_for(path, attempt)):
                continue  # its report is here, and has brought all of that
            if isinstance(event, StageBegan):
                self._deliver(event)
            else:
                self._hear(path, attempt, number, event)

    def _hear(self, path: str, attempt: int, number: int, event: Event) -> None:
        if number >= self._heard.get((path, attempt), 0):
            self._heard[path, attempt] = number + 1
            self._deliver(event)

    def _told(self, path: str, attempt: int, told: Sequence[tuple[int, Event]]) -> None:
        """Take what came with the report: what has not come before."""
        for number, event in told:
            self._hear(path, attempt, number, event)
        if attempt > 0:  # a setup's letters may still come
            self._heard.pop((path, attempt), None)

    def _hear_no_more(self) -> None:
        """The mailbox is gone: nobody will tell when attempts begin, so they are taken to have begun."""
        for call in set(self._calls.values()):
            for member in call.waited_for() if call.pool is None else ():
                self._deliver(StageBegan(path=member.path, attempt=member.attempt))

    # -- stopping -----------------------------------------------------------------------------------------------------

    def cancel(self, command: CancelStage) -> None:
        """Stop an attempt: Ray interrupts its call, and kills the worker if it does not end.

        One that shares its call with others is let go of, and they go on.
        """
        if self._forget_held(command):
            return
        if self._admission.cancel(command.path):
            event = StageStopped(at=time(), path=command.path, attempt=command.attempt)
            self._loop.call_soon(self._deliver, event)
            return
        if self._recovery.cancel(command.path, command.attempt):
            return
        call = self._calls.get(command.path)
        if call is None:
            self._local.cancel(command)
            return
        member = next(each for each in call.members if each.path == command.path)
        if member.attempt != command.attempt or call.cancelled:
            return
        if call.waited_for() == [member]:
            call.cancel(force=False)
            call.kill = self._loop.call_later(STOP_GRACE_S, self._kill, call)
        else:
            member.over = True
            del self._calls[command.path]
            self._loop.call_soon(self._deliver, stopped(member))

    def _abandon(self, event: StageFailed) -> None:
        """Let go of an attempt that can never run, and report that."""
        call = self._calls.pop(event.path, None)
        if call is not None:
            for member in call.members:
                member.over = member.over or member.path == event.path
            if not call.waited_for():
                call.cancel(force=True)
        self._deliver(event)

    def _forget_held(self, command: CancelStage) -> bool:
        for group in self._held.values():
            for held in group:
                if held.path == command.path and held.attempt == command.attempt:
                    group.remove(held)
                    event = StageStopped(at=time(), path=held.path, attempt=held.attempt)
                    self._loop.call_soon(self._deliver, event)
                    return True
        return False

    def _kill(self, call: Call) -> None:
        call.cancel(force=True)
        call.kill = self._loop.call_later(STOP_GRACE_S, self._give_up, call)

    def _give_up(self, call: Call) -> None:
        for member in call.waited_for():
            if self._calls.get(member.path) is call:
                del self._calls[member.path]
                self._deliver(stopped(member))

    # -- constructs ---------------------------------------------------------------------------------------------------

    def gather(self, command: GatherResults) -> Event | None:
        """Put a construct's value together: here when all is here, else on a worker."""
        if not _values_read(command):
            return self._local.gather(command)
        return self._again(command)

    def _send_gathering(self, command: GatherResults) -> None:
        arguments = Arguments()
        parts = {name: resolve_part(part, lambda h: binding(h, arguments)) for name, part in command.parts.items()}
        base = binding(command.base, arguments)
        options = {"num_returns": 2, "num_cpus": 0, "name": command.path, "max_retries": PURE_RETRIES}
        report, value = _remote_gather.options(**options).remote(
            command.head, parts, base, self._packed_run, *arguments.given
        )
        self._watch(Call([Member(command.path, command.attempt)], report, [value]))


def _lacks_value(scope: Scope, stage: PlanStage) -> bool:
    return any(value.reference is None for value in remote_values(scope, stage))


def _values_read(command: StartStage | GatherResults) -> Iterable[RemoteValue]:
    """Return the values in the object store that an attempt, or a gathering, reads."""
    if isinstance(command, StartStage):
        return remote_values(command.scope, command.stage)
    return [handle for handle in _handles(command) if isinstance(handle, RemoteValue)]


def _handles(command: GatherResults) -> list[Any]:
    """Return the handles that a gathering puts together."""
    found: list[Any] = [command.base]
    for part in command.parts.values():
        resolve_part(part, found.append)
    return found


def _still_waits(member: Member) -> bool:
    scope, stage = member.scope, member.stage
    return scope is not None and stage is not None and scope.status[stage.index] == Status.WAITING


def _travels_by_value(component: ComponentSpec) -> bool:
    """Tell whether a component's class is sent to workers itself, because they may not be able to import it.

    So it is with classes of a script, a test or a notebook. Installed packages and a project's `components/` are imported.
    """
    module = sys.modules.get(component.module)
    file = str(getattr(module, "__file__", None) or "")
    if component.file is not None or (component.module.startswith("flowmason_ray.") or "site-packages" in file):
        return False
    if module is not None and component.module != "__main__":
        _cloudpickle.register_pickle_by_value(module)
    return True
