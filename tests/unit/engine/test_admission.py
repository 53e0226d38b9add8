"""What waits for room on a cluster: that it is asked for until it is there, and let go of when there can be none."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("ray")

from flowmason_ray.engine.commands import StartStage
from flowmason_ray.engine.events import Event, StageFailed, StageLogged
from flowmason_ray.engine.executor import RunInfo
from flowmason_ray.engine.executors import admission
from flowmason_ray.engine.executors.admission import Admission
from flowmason_ray.engine.executors.capacity import Demand, Node
from flowmason_ray.engine.executors.gangs import Member
from flowmason_ray.engine.scope import Scope, Status
from tests.engine_kit import plan_of, stage


class Asked:
    """A reference to what asks for room: `say` how it ends."""

    def __init__(self) -> None:
        self._future: Future[None] = Future()

    def future(self) -> Future[None]:
        """Return what ends with it."""
        return self._future

    def say(self, error: Exception | None = None) -> None:
        """End it."""
        if error is None:
            self._future.set_result(None)
        else:
            self._future.set_exception(error)


class Ray:
    """Stands for Ray: remembers what was asked and cancelled."""

    def __init__(self) -> None:
        self.asked: list[Asked] = []
        self.cancelled: list[Asked] = []

    def remote(self, *_: Any) -> Any:
        """Take a function, or a call of it."""
        if _:
            return self
        self.asked.append(Asked())
        return self.asked[-1]

    def options(self, **_: Any) -> Ray:
        """Take options."""
        return self

    def cancel(self, asked: Asked, *, force: bool) -> None:
        """Cancel a task."""
        self.cancelled.append(asked)


class FakeRoom:
    """Stands for a placement group, whose places the test loses."""

    lost: Collection[int] = ()

    def __init__(self, member: Member, bundles: list[Demand], name: str) -> None:
        self.ready = False
        self.over = False
        self.wanted = bundles
        self._member = member

    def belongs_to(self, member: Member) -> bool:
        """Tell whether it is that gang's."""
        return self._member.scope is member.scope

    def when_ready(self) -> Asked:
        """Ask for it."""
        return admission._ray.remote()  # pyright: ignore[reportPrivateUsage]  # the test's

    def options(self, member: Member, options: Mapping[str, Any]) -> dict[str, Any]:
        """Return the options of a call in it."""
        return dict(options)

    def gone(self) -> Collection[int]:
        """Return the places that were lost."""
        return self.lost

    def needs(self, member: Member, gone: Collection[int]) -> bool:
        """Tell whether a member needs one of them."""
        return member.bundle in gone

    def give_back(self) -> None:
        """Give it back."""


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> Ray:
    made = Ray()
    monkeypatch.setattr(admission, "_ray", made)
    monkeypatch.setattr(admission, "Room", FakeRoom)
    monkeypatch.setattr(FakeRoom, "lost", ())
    monkeypatch.setattr(admission, "LOOK_AGAIN_S", 0.01)
    monkeypatch.setattr(admission, "ASK_AGAIN_S", 0.01)
    return made


TWO_CORES = {"CPU": 2.0}
SMALL: list[Node] = [Node(id="n1", resources=TWO_CORES)]
LARGE: list[Node] = [*SMALL, Node(id="n2", resources=TWO_CORES)]


class World:
    """An admission that serves a run of a gang of two branches, and of a stage that needs as much as both."""

    def __init__(self, nodes: list[Node], wait_s: float = 0.0) -> None:
        self.nodes = nodes
        self.plan = plan_of(
            stage("gang", "parallel", config={"branches": [["left"], ["right"]]}, placement={"gang": True}),
            *(stage(id, resources={"num_cpus": 2}, placement={"fuse": "never"}) for id in ("left", "right")),
            stage("big", resources={"num_cpus": 4}),
        )
        self.scope = Scope(self.plan.root, parent=None, owner=-1, prefix="", input=None)
        self.scope.status[self.command("gang").stage.index] = Status.OPEN
        self.under_way: list[StartStage] = []
        self.submitted: list[str] = []
        self.told: list[Event] = []
        self.abandoned: list[StageFailed] = []
        self.too_young = 0
        self.admission = Admission(lambda: self.nodes)
        settings = SimpleNamespace(ray=SimpleNamespace(wait_for_resources_s=wait_s), datasets={})
        run = RunInfo(run_id="r_1", pipeline="p", version="1", started_at=0.0, seed=1, settings=settings)
        self.admission.open(run, self.submit, self.told.append, lambda: self.under_way, self.abandon)
        self.admission.prepare(self.plan, check=False)

    def command(self, id: str) -> StartStage:
        found = next(s for s in self.plan.root.stages if s.id == id)
        return StartStage(path=id, stage=found, scope=self.scope, attempt=1, first_started_at=0.0)

    def begin(self, *ids: str) -> None:
        for id in ids:
            command = self.command(id)
            self.under_way.append(command)
            assert self.admission.request(command) is None

    def submit(self, command: StartStage, options: Mapping[str, Any]) -> None:
        self.submitted.append(command.path)

    def abandon(self, event: StageFailed) -> bool:
        if self.too_young:
            self.too_young -= 1
            return False
        self.under_way = [command for command in self.under_way if command.path != event.path]
        self.abandoned.append(event)
        return True

    def refused(self) -> list[str]:
        return [event.path for event in self.told if isinstance(event, StageFailed)]


def play(work: Callable[[], Any]) -> None:
    """Do something within a loop."""

    async def played() -> None:
        await work()

    asyncio.run(played())


async def until(holds: Callable[[], Any]) -> None:
    """Wait until something is true."""
    async with asyncio.timeout(30):
        while not holds():  # noqa: ASYNC110  # what it waits for tells nobody
            await asyncio.sleep(0.005)


async def looks(world: World, times: int = 3) -> None:
    """Wait until the cluster was looked at so often."""
    seen: list[None] = []
    nodes = world.nodes
    world.admission._ask = lambda: (seen.append(None), nodes)[1]  # pyright: ignore[reportPrivateUsage]  # counts looks
    await until(lambda: len(seen) > times)


def test_room_for_a_stage_is_asked_for_again_when_the_question_fails(ray: Ray) -> None:
    async def work() -> None:
        world = World(SMALL, wait_s=60)
        world.begin("big")
        ray.asked[0].say(RuntimeError("its worker died"))
        await until(lambda: len(ray.asked) > 1)
        ray.asked[1].say(RuntimeError("its node died"))
        await until(lambda: len(ray.asked) > 2)
        assert world.submitted == []
        [_, told] = world.told
        assert isinstance(told, StageLogged)
        assert (told.path, told.message.endswith("it is asked again. its worker died")) == ("big", True), "said once"
        world.nodes = [Node(id="n3", resources={"CPU": 4.0})]
        ray.asked[2].say()
        await until(lambda: world.submitted)
        assert world.submitted == ["big"]
        assert ray.cancelled == []
        world.admission.close()

    play(work)


def test_room_for_a_gang_is_asked_for_again_when_the_question_fails(ray: Ray) -> None:
    async def work() -> None:
        world = World(LARGE)
        world.begin("left", "right")
        ray.asked[0].say(RuntimeError("it did not work"))
        await until(lambda: len(ray.asked) > 1)
        assert world.submitted == []
        ray.asked[1].say()
        await until(lambda: len(world.submitted) == 2)
        world.admission.close()

    play(work)


def test_who_does_not_wait_any_more_asks_no_more(ray: Ray) -> None:
    async def work() -> None:
        world = World(SMALL, wait_s=60)
        world.begin("big")
        assert world.admission.cancel("big")
        assert ray.cancelled == ray.asked
        ray.asked[0].say(RuntimeError("it was cancelled"))
        await looks(world)
        assert len(ray.asked) == 1
        world.admission.close()

    play(work)


def test_a_gang_that_waits_for_room_is_let_go_of_when_there_can_be_none(ray: Ray) -> None:
    async def work() -> None:
        world = World(LARGE)
        world.begin("left", "right")
        world.nodes = SMALL
        await until(lambda: len(world.refused()) == 2)
        assert world.abandoned == []
        world.admission.close()

    play(work)


def test_a_gang_that_waits_for_room_waits_no_longer_than_the_limit(ray: Ray) -> None:
    """It had a chance when it began to wait, so it has no limit from there."""

    async def work() -> None:
        world = World(LARGE, wait_s=0.05)
        world.begin("left", "right")
        world.nodes = SMALL
        await until(lambda: len(world.refused()) == 2)
        [warning, *_] = world.told
        assert (warning.kind, getattr(warning, "path", "")) == ("stage_logged", "gang")
        world.admission.close()

    play(work)


def test_who_lost_its_place_in_a_gang_is_let_go_of_when_there_can_be_none(
    ray: Ray, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work() -> None:
        world = World(LARGE)
        world.begin("left", "right")
        ray.asked[0].say()
        await until(lambda: len(world.submitted) == 2)
        await looks(world)
        assert world.abandoned == []
        monkeypatch.setattr(FakeRoom, "lost", {1})
        await looks(world)
        assert world.abandoned == [], "the nodes that are there could hold all of it"
        world.too_young = 2
        world.nodes = SMALL
        await looks(world, times=6)
        [event] = world.abandoned
        assert event.path == "right", "the other one has its place"
        assert event.failure.code == "infeasible_resources"
        assert "room for 2 at the same time" in event.failure.message
        world.admission.close()

    play(work)


def test_who_lost_its_place_in_a_gang_waits_as_long_as_is_wanted(ray: Ray, monkeypatch: pytest.MonkeyPatch) -> None:
    async def work() -> None:
        world = World(LARGE, wait_s=60)
        world.begin("left", "right")
        ray.asked[0].say()
        await until(lambda: len(world.submitted) == 2)
        monkeypatch.setattr(FakeRoom, "lost", {0})
        world.nodes = SMALL
        await looks(world)
        assert world.abandoned == []
        assert [(event.kind, getattr(event, "path", "")) for event in world.told] == [("stage_logged", "left")]
        world.admission.close()

    play(work)
