"""Lets attempts go to the Ray cluster when it can carry them; holds back or refuses the others.

An attempt that no node can ever run would wait in Ray for ever without a word. So the cluster is looked at first: before a
run begins, for every stage that it will surely come to, and before each attempt for the others, because nodes come and go. If
the project says so (`ray.wait_for_resources_s`), an attempt waits instead, with a warning; meanwhile an empty task with the
same wishes is queued in Ray, which an autoscaler sees as demand and which ends when there is room.

Members of a gang wait until room for all of it is reserved (a placement group), which is given back when the construct that
opened it has ended. A gang that loses a node keeps its name and its other places; Ray reserves the lost ones anew when there is
room, and if there can be none, the attempts that wait for them are let go of.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from time import monotonic, time
from typing import Any

import ray

from flowmason_ray.engine.commands import GatherResults, StartStage
from flowmason_ray.engine.context import LocalScope
from flowmason_ray.engine.events import Event, StageDeclined, StageFailed, StageLogged
from flowmason_ray.engine.executor import Deliver, RunInfo
from flowmason_ray.engine.executors.capacity import Demand, InfeasibleRun, Node, missing, missing_together, nodes_from
from flowmason_ray.engine.executors.gangs import Bundles, ConflictingLabels, Member, member_of, surely_run
from flowmason_ray.engine.executors.placement import Placement, runs_in_coordinator
from flowmason_ray.engine.executors.ray_bindings import reads_remote
from flowmason_ray.engine.executors.ray_calls import words_of
from flowmason_ray.engine.executors.ray_gangs import Room
from flowmason_ray.engine.plan import Plan, PlanStage
from flowmason_ray.errors import Failure, StageError

NODES_TTL_S = 10.0
"""How long the list of nodes is believed: nodes come and go, but asking takes milliseconds."""
LOOK_AGAIN_S = 5.0
"""How often it is looked at whether what waits in Ray can still be had. An attempt is let go of when it could not be had twice:
if it was running on a node that died, Ray has said so by then."""
ASK_AGAIN_S = 1.0
"""After how long Ray is asked for room again when the question has failed: a worker, or a node, died over it."""
GANG_CHECK_S = 0.25
"""How often it is looked at whether a gang's construct has ended, so that its room can be given back."""
SHOWN = 5

_ray: Any = ray  # its types are partly unknown

Submit = Callable[[StartStage, Mapping[str, Any]], None]
"""Hands an attempt to Ray, with the options of its call."""


def _nothing() -> None:
    """Do nothing: a task that only shows that there is room."""


@dataclass(slots=True, kw_only=True)
class _Queue:
    """Attempts that wait for the same thing."""

    said: str
    """What is missing."""
    ask: Callable[[], Any]
    """Asks Ray for the room; returns a reference that is there when the room is."""
    is_task: bool
    """Whether what asks is a task, to be cancelled when nobody waits any more. It has no arguments, so it may be at any age."""
    asked: Any = None
    failed: bool = False
    """Whether asking has failed before."""
    commands: dict[str, StartStage] = field(default_factory=dict[str, StartStage])
    limit: asyncio.TimerHandle | None = None


class Admission:
    """Decides for one run which attempts may go to the cluster now."""

    def __init__(self, nodes: Callable[[], list[Node]] | None = None) -> None:
        """
        Args:
            nodes: Returns the cluster's nodes; None: asks Ray.
        """
        self._ask = nodes or (lambda: nodes_from(_ray.nodes()))
        self._known: tuple[float, list[Node]] = (-NODES_TTL_S, [])
        self._missing: dict[tuple[Any, ...], str | None] = {}
        self._queues: dict[Any, _Queue] = {}
        self._gangs: dict[str, Room] = {}
        self._has_gangs = False
        self._checking: asyncio.TimerHandle | None = None
        self._looking: asyncio.TimerHandle | None = None
        self.placement = Placement(self.nodes)

    def open(
        self,
        run: RunInfo,
        submit: Submit,
        deliver: Deliver,
        under_way: Callable[[], Collection[StartStage | GatherResults]],
        abandon: Callable[[StageFailed], bool],
    ) -> None:
        """Begin to serve a run.

        Args:
            run: What is known about it.
            submit: Hands an attempt to Ray; called at once or later.
            deliver: Takes reports of attempts that were held back and cannot run.
            under_way: Returns what was begun and has not ended.
            abandon: Lets go of an attempt that was handed to Ray, and takes its report; False: it cannot be let go of yet.
        """
        self._run = run
        self._under_way = under_way
        self._abandon = abandon
        self._loop = asyncio.get_running_loop()
        self._submit = submit
        self._deliver = deliver
        self._wait_s: float = run.settings.ray.wait_for_resources_s if run.settings is not None else 0.0
        self._stuck: dict[str, float] = {}
        self._looking = self._loop.call_later(LOOK_AGAIN_S, self._look_again)
        self.placement.open(run)

    def prepare(self, plan: Plan, *, check: bool) -> None:
        """Take note of the plan; with `check`, look whether the cluster can run what it will surely come to.

        Raises:
            InfeasibleRun: it cannot, and is not to wait.
        """
        self.placement.prepare(plan)
        self._has_gangs = any(stage.gang for _, stage in plan.stages())
        self._bundles = Bundles(plan, self._gang_demand)
        if not check or self._wait_s > 0:
            return
        lacking: list[str] = []
        for stage in surely_run(plan):
            if stage.construct is None and not runs_in_coordinator(stage) and stage.cache is None:
                found = self._lacks(self.placement.demand(stage))
                if found is not None:
                    lacking.append(f"Stage {stage.id!r} can never run on this cluster. {found}")
        if lacking:
            more = f" And {len(lacking) - SHOWN} more stages ask for what is not there." if len(lacking) > SHOWN else ""
            raise InfeasibleRun("Nothing was run. " + " ".join(lacking[:SHOWN]) + more)

    def close(self) -> None:
        """Give everything back."""
        for queue in self._queues.values():
            self._drop(queue)
        self._queues.clear()
        for room in self._gangs.values():
            room.give_back()
        self._gangs.clear()
        for timer in (self._checking, self._looking):
            if timer is not None:
                timer.cancel()

    # -- the cluster --------------------------------------------------------------------------------------------------

    def nodes(self) -> list[Node]:
        """Return the cluster's nodes as they were lately."""
        if monotonic() - self._known[0] > NODES_TTL_S:
            self._known = (monotonic(), self._ask())
            self._missing.clear()
        return self._known[1]

    def cores(self) -> int:
        """Return how many CPU cores the cluster has, at least 1."""
        return max(1, int(sum(node.resources.get("CPU", 0.0) for node in self.nodes())))

    def _lacks(self, demand: Demand) -> str | None:
        nodes, key = self.nodes(), demand.key
        if key not in self._missing:
            found = missing(demand, nodes)
            if found is not None:  # before anything is refused it is looked at anew
                self._known = (monotonic(), self._ask())
                self._missing.clear()
                found = missing(demand, self._known[1])
            self._missing[key] = found
        return self._missing[key]

    def _look_again(self) -> None:
        """Let go of what waits in Ray for a node that has gone."""
        self._looking = self._loop.call_later(LOOK_AGAIN_S, self._look_again)
        waiting = [c for c in self._under_way() if isinstance(c, StartStage) and not self._is_held(c.path)]
        if not waiting and not self._gangs:
            self._stuck.clear()
            return
        self._known = (monotonic(), self._ask())
        self._missing.clear()
        crowded = {path: self._crowded(room) for path, room in self._gangs.items()}
        gone = {path: self._gangs[path].gone() for path, found in crowded.items() if found and self._gangs[path].ready}
        stuck: dict[str, tuple[str, StartStage | None]] = {
            path: (found, None)
            for path, found in crowded.items()
            if found and not self._gangs[path].ready and self._queues[path].limit is None
        }
        for command in waiting:
            found = self._lost_room(command) or self._lost_place(command, crowded, gone)
            if found is not None:
                stuck[command.path] = (f"{found} It had the room for it before.", command)
        since, now = self._stuck, monotonic()
        self._stuck = {path: since.get(path, now) for path in stuck}
        for path, (found, command) in stuck.items():
            if path not in since:
                if self._wait_s > 0:
                    self._warn(path, found)
            elif now - since[path] >= self._wait_s:
                if command is None:
                    self._give_up(path, found)
                elif not self._abandon(_refused(command, found)):
                    continue  # the next time
                del self._stuck[path]

    def _crowded(self, room: Room) -> str | None:
        """Tell why a gang could never have all of its room at the same time; None when it might."""
        return missing_together(room.wanted, self._known[1])

    def _lost_place(
        self, command: StartStage, crowded: Mapping[str, str | None], gone: Mapping[str, Collection[int]]
    ) -> str | None:
        """Tell why an attempt waits for a place in a gang that was lost with a node; None: it does not."""
        member = member_of(command.scope, command.stage.index) if gone else None
        if member is None or member.path not in gone or self._gang_demand(command.stage) is None:
            return None
        room = self._gangs[member.path]
        return crowded[member.path] if room.belongs_to(member) and room.needs(member, gone[member.path]) else None

    def _is_held(self, path: str) -> bool:
        return any(path in queue.commands for queue in self._queues.values())

    def _lost_room(self, command: StartStage) -> str | None:
        demand = self.placement.demand(command.stage)
        if demand.key not in self._missing:
            self._missing[demand.key] = missing(demand, self._known[1])
        return self._missing[demand.key]

    # -- attempts -----------------------------------------------------------------------------------------------------

    def request(self, command: StartStage) -> Event | None:
        """Hand an attempt to Ray: now, or when there is room. Returns how it ended if there never will be."""
        if self._has_gangs and self._gang_demand(command.stage) is not None:
            member = member_of(command.scope, command.stage.index)
            if member is not None:
                return self._request_in_gang(command, member)
        demand = self.placement.demand(command.stage)
        found = self._lacks(demand)
        if found is None:
            self._submit(command, self.placement.options(command))
            return None
        if _is_skipped(self._run, command):
            return StageDeclined(at=time(), path=command.path, attempt=command.attempt)
        if self._wait_s <= 0:
            return _refused(command, found)
        if demand.key not in self._queues:
            name = f"room for {command.path} {self._run.run_id}"
            options = dict(self.placement.options(command)) | {"max_retries": 0, "name": name}
            queue = _Queue(said=found, ask=_ray.remote(_nothing).options(**options).remote, is_task=True)
            self._hold(demand.key, command, queue, lambda: self._released(demand.key))
        self._queues[demand.key].commands[command.path] = command
        return None

    def cancel(self, path: str) -> bool:
        """Forget an attempt that is held back; returns whether it was."""
        for key, queue in self._queues.items():
            if queue.commands.pop(path, None) is not None:
                if not queue.commands and key not in self._gangs:
                    self._drop(self._queues.pop(key))
                return True
        return False

    def _hold(self, key: Any, command: StartStage, queue: _Queue, then: Callable[[], None]) -> None:
        self._queues[key] = queue
        if queue.said:
            queue.limit = self._loop.call_later(self._wait_s, self._give_up, key)
            self._warn(command.path, queue.said)
        self._ask_for(key, queue, then)

    def _ask_for(self, key: Any, queue: _Queue, then: Callable[[], None]) -> None:
        """Ask Ray for room, again and again until it says that there is some, and call `then`."""

        def failed(error: BaseException) -> None:
            if self._queues.get(key) is not queue:
                return
            if not queue.failed:
                queue.failed = True
                message = f"Asking for room has failed; it is asked again. {words_of(error)}"
                path = next(iter(queue.commands), "")
                self._deliver(StageLogged(at=time(), path=path, level="warning", message=message))
            self._loop.call_later(ASK_AGAIN_S, self._ask_for, key, queue, then)

        if self._queues.get(key) is queue:
            queue.asked = queue.ask()
            self._when_done(queue.asked, then, failed)

    def _warn(self, path: str, said: str) -> None:
        message = f"It waits for the cluster to grow, for {self._wait_s:g} s at most. {said}"
        self._deliver(StageLogged(at=time(), path=path, level="warning", message=message))

    def _when_done(self, reference: Any, then: Callable[[], None], failed: Callable[[BaseException], None]) -> None:
        loop = self._loop

        def done(future: Any) -> None:  # on one of Ray's threads
            error: BaseException | None = future.exception()
            with suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(then if error is None else partial(failed, error))

        reference.future().add_done_callback(done)

    def _released(self, key: Any) -> None:
        queue = self._queues.pop(key, None)
        if queue is None:
            return
        if queue.limit is not None:
            queue.limit.cancel()
        self._known = (-NODES_TTL_S, [])
        for command in queue.commands.values():
            report = self.request(command)
            if report is not None:
                self._deliver(report)

    def _give_up(self, key: Any, said: str | None = None) -> None:
        queue = self._queues.pop(key)
        self._drop(queue)
        gang = self._gangs.pop(key, None) if isinstance(key, str) else None
        if gang is not None:
            gang.give_back()
        said = said or f"{queue.said} It waited {self._wait_s:g} s for that to change."
        for command in queue.commands.values():
            self._deliver(_refused(command, said))

    @staticmethod
    def _drop(queue: _Queue) -> None:
        if queue.limit is not None:
            queue.limit.cancel()
        if queue.is_task:
            _ray.cancel(queue.asked, force=True)

    # -- gangs --------------------------------------------------------------------------------------------------------

    def _gang_demand(self, stage: PlanStage) -> Demand | None:
        """Return what an attempt needs of its gang's room; None: it needs none, it runs beside it."""
        demand = None if runs_in_coordinator(stage) else self.placement.demand(stage)
        return demand if demand is not None and any(n > 0 for n in demand.amounts.values()) else None

    def _request_in_gang(self, command: StartStage, member: Member) -> Event | None:
        path = member.path
        room = self._gangs.get(path)
        if room is not None and not room.belongs_to(member):
            self._close_gang(path)
            room = None
        if room is None:
            refused = self._open_gang(command, member)
            if refused is not None:
                return refused
            room = self._gangs[path]
        if room.ready:
            self._submit(command, room.options(member, self.placement.options(command)))
        else:
            self._queues[path].commands[command.path] = command
        return None

    def _open_gang(self, command: StartStage, member: Member) -> Event | None:
        scope, path = member.scope, member.path
        stage = scope.plan.stages[member.index]
        opened = scope.constructs.get(member.index) if scope.constructs else None
        window: int = getattr(stage.options, "window", 1)
        try:
            bundles = self._bundles.of(scope.plan, stage, min(window, getattr(opened, "count", window)))
        except ConflictingLabels as exc:
            return _refused(command, str(exc))
        found = self._lacks_together(bundles)
        if found is not None and self._wait_s <= 0:
            return _refused(command, found)
        room = self._gangs[path] = Room(member, bundles, f"{path} {self._run.run_id}")
        queue = _Queue(said=found or "", ask=room.when_ready, is_task=False)
        self._hold(path, command, queue, lambda: self._gang_ready(path, room))
        if self._checking is None:
            self._checking = self._loop.call_later(GANG_CHECK_S, self._check_gangs)
        return None

    def _lacks_together(self, bundles: Sequence[Demand]) -> str | None:
        wanted = [bundle for bundle in bundles if bundle.amounts]
        found = missing_together(wanted, self.nodes())
        if found is None:
            return None
        self._known = (monotonic(), self._ask())  # before anything is refused it is looked at anew
        return missing_together(wanted, self._known[1])

    def _gang_ready(self, path: str, room: Room) -> None:
        if self._gangs.get(path) is room:
            room.ready = True
            self._released(path)

    def _check_gangs(self) -> None:
        """Give back the room of gangs whose construct has ended."""
        for path in [path for path, room in self._gangs.items() if room.over]:
            self._close_gang(path)
        self._checking = self._loop.call_later(GANG_CHECK_S, self._check_gangs) if self._gangs else None

    def _close_gang(self, path: str) -> None:
        self._gangs.pop(path).give_back()
        queue = self._queues.pop(path, None)
        if queue is not None:
            self._drop(queue)


def _is_skipped(run: RunInfo, command: StartStage) -> bool:
    """Tell whether a stage's `when` is false, if that can be told here: then nothing has to be there for it."""
    scope, stage = command.scope, command.stage
    if stage.when is None or reads_remote(scope, stage):
        return False
    try:
        seen = LocalScope(run, scope, stage, command.path, command.attempt, command.first_started_at)
        return not stage.when.evaluate(seen)
    except StageError:
        return False  # it is said when the attempt is begun


def _refused(command: StartStage, found: str) -> StageFailed:
    message = f"Stage {command.stage.id!r} can never run on this cluster. {found}"
    failure = Failure(code="infeasible_resources", message=message, stage=command.path, attempts=command.attempt)
    return StageFailed(at=time(), path=command.path, attempt=command.attempt, failure=failure)
