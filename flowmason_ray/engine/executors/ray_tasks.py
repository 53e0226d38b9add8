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
from collections.abc import Iterable, Mapping, Sequence
from time import time
from typing import Any, Self

import ray
from ray.exceptions import RayError

from flowmason_ray.engine.commands import CancelStage, GatherResults, StartStage, resolve_part
from flowmason_ray.engine.component import Cost
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
    reference_to,
    remote_values,
)
from flowmason_ray.engine.executors.ray_calls import (
    Arrivals,
    Call,
    Member,
    end_of,
    lost,
    outcome_of,
    stopped,
    take_values,
    words_of,
)
from flowmason_ray.engine.executors.ray_cluster import connect
from flowmason_ray.engine.executors.ray_engines import Engines
from flowmason_ray.engine.executors.ray_frames import restore
from flowmason_ray.engine.executors.ray_hearing import Hearing
from flowmason_ray.engine.executors.ray_inputs import Inputs, StoreFull, told_when_full
from flowmason_ray.engine.executors.ray_losses import ValueLost, lost_object
from flowmason_ray.engine.executors.ray_messages import AttemptData, CallData, CallReport, pack
from flowmason_ray.engine.executors.ray_packing import Packing
from flowmason_ray.engine.executors.ray_recovery import Recovery
from flowmason_ray.engine.executors.ray_riding import Rides, may_ride, passengers
from flowmason_ray.engine.executors.ray_warm import Warm, WarmCall
from flowmason_ray.engine.executors.ray_worker import gather_results
from flowmason_ray.engine.plan import Plan, PlanStage
from flowmason_ray.engine.scope import Scope, Status
from flowmason_ray.errors import Failure

_ray: Any = ray
# Under this name without types: those of Ray are partly unknown.

# Made once: Ray exports a remote function to the cluster again for every object that `ray.remote` returns.
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
        self._admission = Admission()
        self._recovery = Recovery(self._again, self._put_again, _values_read)
        self._pools: Pools | None = None
        self._engines = Engines()

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        self._arrivals = Arrivals(self._loop, self._arrived)
        await connect(self._address)
        await self._local.__aenter__()
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._held.clear()
        calls = set(self._calls.values())
        self._calls.clear()
        for call in calls:
            if call.kill is not None:
                call.kill.cancel()
        if calls:
            await asyncio.sleep(max(call.settles_in() for call in calls))
        for call in calls:
            call.cancel(force=True)
        self._admission.close()
        self._recovery.copies.close()
        if self._pools is not None:
            await self._pools.close()
            await self._hearing.mailbox.close()
        await self._engines.close()
        await self._local.__aexit__(*exc)

    def open(self, run: RunInfo, deliver: Deliver) -> None:
        """Begin to serve a run."""
        self._run = run
        self._deliver = self._recovery.open(run, deliver)
        self._group: Grouping = self._grouping or run.pacing or Alone()
        self._local.open(run, deliver)
        self._packing = Packing(run, self._engines.open(run))
        self._recovery.copies.open(run, self._packing.run)
        self._inputs = Inputs(run.input, self._recovery.register)
        self._admission.open(run, self._submit, self._deliver, self._recovery.under_way, self._abandon)
        self._large: set[int] = set()
        self._hearing = Hearing(run.run_id, self._deliver, lambda: self._calls)
        self._pools = Pools(
            mailbox=self._hearing.address,
            told=self._hearing.told,
            run_id=run.run_id,
            packed_run=self._packing.run,
            watch=self._arrivals.watch,
            ended=self._ended,
            deliver=self._deliver,
            nodes=self._admission.nodes,
        )

        self._warm = Warm(self._pools.when_done, self._arrivals.watch, self._admission.cores)

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
        groups, self._held = [group for group in self._held.values() if group], {}  # all of one may be cancelled by now
        for group in groups:
            # An attempt of which few may share a call fills much of one: on average so many fit into one.
            limit = int(len(group) / sum(1 / self._group.limit(command.stage) for command in group))
            start = 0
            for share in shares(len(group), max(limit, 1), self._admission.cores() - self._under_way):
                shared = group[start : start + share]
                self._send(shared, self._admission.placement.options(shared[0]))
                start += share

    def _send(self, commands: Sequence[StartStage], options: Mapping[str, Any]) -> None:
        """Make one call of some attempts, and of what can ride along with them; say so if there is no room to send it."""
        try:
            self._make_call(commands, options)
        except StoreFull as exc:
            self._unsent(commands, exc)

    def _unsent(self, attempts: Iterable[StartStage | GatherResults | Member], error: StoreFull) -> None:
        """Say of attempts, or of a gathering, that they could not be sent."""
        for each in attempts:
            self._calls.pop(each.path, None)
            failure = Failure(code=error.code, message=error.message, stage=each.path, attempts=each.attempt)
            event = StageFailed(at=time(), path=each.path, attempt=each.attempt, failure=failure)
            self._loop.call_soon(self._deliver, event)

    def _make_call(self, commands: Sequence[StartStage], options: Mapping[str, Any]) -> None:
        """Make the call.

        Raises:
            StoreFull: there is no room to send it, and nothing is under way.
        """
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
                try:
                    attempt = self._attempt(ride, arguments, before)
                except StoreFull:
                    break  # it is said when its own turn comes
                before[stage.index] = len(attempts)
                members.append(Member(path, 1, scope, stage, wanted=False))
                attempts.append(attempt)
        first = commands[0]
        more = f" +{len(commands) - 1}" if len(commands) > 1 else ""
        name = f"{first.path}{more} {self._run.run_id}"
        self._hearing.mailbox.open()
        mailbox = self._hearing.address
        data = pack(CallData(self._packing.run, tuple(attempts), mailbox))
        cores = float(options.get("num_cpus") or 0.0)
        component = first.stage.component
        if component is not None and self._pools is not None and wants_actors(first.stage):
            waiting = Call(members, name=name, near=preferred_node(options), cores=cores)
            self._note(waiting)
            self._pools.classes = self._packing.classes
            reference = reference_to(component)
            self._pools.pool(component, options, reference).submit(waiting, data, arguments.given)
            return
        if mailbox is None and first.stage.timeout_s is not None:
            self._deliver(StageBegan(path=first.path, attempt=first.attempt))
        call = Call(members, name=name, cores=cores)
        lane = self._warm.lane() if self._is_cheap(commands, options, arguments) else None
        if lane is None:
            self._send_task(call, data, arguments.given, options)
            return
        warm = WarmCall(call, lane, data, arguments.given, options)
        self._warm.send(warm, self._packing.classes)
        self._note(warm)
        self._under_way += 1

    def _send_task(self, call: Call, data: bytes, arguments: Sequence[Any], options: Mapping[str, Any]) -> None:
        remote = self._packing.remote.options(num_returns=1 + len(call.members), name=call.name, **options)
        try:
            with told_when_full("The call"):  # Ray puts a large one into the object store
                call.report, *call.values = remote.remote(data, *arguments)
        except StoreFull as exc:
            self._unsent(call.waited_for(), exc)
        else:
            self._watch(call)

    def _is_cheap(self, commands: Sequence[StartStage], options: Mapping[str, Any], arguments: Arguments) -> bool:
        """Tell whether a call is one for warm workers: pure, quick, placed nowhere in particular, and not far from its data."""
        if options.keys() - {"num_cpus", "max_retries"} or (arguments.given and len(self._admission.nodes()) > 1):
            return False
        for command in commands:
            stage = command.stage
            quick = stage.cost is Cost.TRIVIAL or self._group.limit(stage) > 1
            if not (quick and may_ride(stage)) or stage.resources or id(stage) in self._large:
                return False
        return True

    def _attempt(
        self, command: StartStage, arguments: Arguments, before: Mapping[int, int] | None = None
    ) -> AttemptData:
        stage = command.stage
        digest, packed = self._packing.stage(stage)
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
            return
        self._under_way -= 1
        outcome = outcome_of(future)
        if not isinstance(call, WarmCall):
            self._ended(call, outcome)
        elif self._warm.arrived(call, outcome):
            again = Call(call.members, name=call.name, cores=call.cores)
            self._send_task(again, call.data, call.arguments, call.options)
        elif isinstance(outcome, CallReport) and any(not report.inline for report in outcome.reports):
            self._take(call, outcome)
        else:
            self._ended(call, outcome)

    def _take(self, call: WarmCall, report: CallReport) -> None:
        """Fetch the references to values that stayed in a warm worker; from now on the stages go as tasks, near their data."""
        assert self._pools is not None
        for member, each in zip(call.members, report.reports, strict=True):
            if not each.inline and member.stage is not None:
                self._large.add(id(member.stage))

        def taken(errors: list[BaseException | None]) -> None:
            self._ended(call, next((error for error in errors if error is not None), report))

        self._pools.when_all(take_values(call.lane.handle, call, report), taken)

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
                self._hearing.told(member.path, member.attempt, report.told)
                self._deliver(event or stopped(member))
            elif event is not None and not report.drew_time and _still_waits(member):
                assert member.scope is not None
                self._rides.keep(member.path, member.scope, (*(said for _, said in report.told), event))

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
            call.cancelled = True
            wait_s = call.settles_in()
            if wait_s:
                call.kill = self._loop.call_later(wait_s, self._interrupt, call)
            else:
                self._interrupt(call)
        else:
            member.over = True
            del self._calls[command.path]
            self._loop.call_soon(self._deliver, stopped(member))

    def _abandon(self, event: StageFailed) -> bool:
        """Let go of an attempt that can never run, and report that; returns False if its call is too young to be cancelled."""
        call = self._calls.get(event.path)
        if call is not None and call.settles_in():
            return False
        if call is not None:
            del self._calls[event.path]
            for member in call.members:
                member.over = member.over or member.path == event.path
            if not call.waited_for():
                call.cancel(force=True)
        self._deliver(event)
        return True

    def _forget_held(self, command: CancelStage) -> bool:
        for group in self._held.values():
            for held in group:
                if held.path == command.path and held.attempt == command.attempt:
                    group.remove(held)
                    event = StageStopped(at=time(), path=held.path, attempt=held.attempt)
                    self._loop.call_soon(self._deliver, event)
                    return True
        return False

    def _interrupt(self, call: Call) -> None:
        call.cancel(force=False)
        call.kill = self._loop.call_later(STOP_GRACE_S, self._kill, call)

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
        options = {
            "num_returns": 2,
            "num_cpus": 0,
            "max_retries": PURE_RETRIES,
            "name": f"{command.path} {self._run.run_id}",
        }
        try:
            with told_when_full("The parts of a value that is to be put together"):
                report, value = _remote_gather.options(**options).remote(
                    command.head, parts, base, self._packing.run, *arguments.given
                )
        except StoreFull as exc:
            self._unsent([command], exc)
            return
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
