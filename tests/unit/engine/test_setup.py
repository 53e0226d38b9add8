"""`setup()` and `teardown()`: once per run and component in this process, with clear words when they fail."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from flowmason_ray import Actors, Context, FlowMasonError, PermanentError, SetupContext, TemporaryError, operator, run
from flowmason_ray.api import PreparedRun
from flowmason_ray.components.base import InvalidComponent, spec_of
from flowmason_ray.engine.events import Event, StageFailed, StageLogged, StageRetrying
from flowmason_ray.engine.executors import in_process
from flowmason_ray.engine.executors.instances import Instance

told: list[str] = []


class _In(BaseModel):
    n: int = 0


class _Out(BaseModel):
    n: int
    made_in: str = ""


@pytest.fixture(autouse=True)
def _forget() -> None:  # pyright: ignore[reportUnusedFunction]  # pytest uses it
    told.clear()


@operator(name="synchronous", effect="pure", cost="cpu")
class Synchronous:
    Input, Output = _In, _Out

    def setup(self, context: SetupContext) -> None:
        time.sleep(0.02)
        context.log("info", "loading", pipeline=context.pipeline)
        told.append(f"setup in {context.project_dir.name}")
        self.offset = 100

    def teardown(self) -> None:
        told.append("teardown")

    def execute(self, input: _In, context: Context) -> _Out:
        told.append("execute")
        return _Out(n=input.n + self.offset)


@operator(name="asynchronous", effect="pure")
class Asynchronous:
    Input, Output = _In, _Out

    async def setup(self, context: SetupContext) -> None:
        told.append("setup")
        self.made_in = threading.current_thread().name

    async def teardown(self) -> None:
        told.append("teardown on the same loop" if threading.current_thread().name == self.made_in else "elsewhere")

    async def execute(self, input: _In, context: Context) -> _Out:
        return _Out(n=input.n, made_in=self.made_in)


@operator(name="mixed", effect="pure")
class Mixed:
    """Waits, but its setup blocks."""

    Input, Output = _In, _Out

    def setup(self, context: SetupContext) -> None:
        self.thread = threading.current_thread().name

    def teardown(self) -> None:
        told.append("teardown")

    async def execute(self, input: _In, context: Context) -> _Out:
        return _Out(n=input.n, made_in="elsewhere" if self.thread != threading.current_thread().name else "blocking")


class Scripted:
    """What `Failing.setup` does, in order; and then nothing."""

    acts: list[Callable[[], None]]


@operator(name="failing", effect="pure", cost="cpu")
class Failing:
    Input, Output = _In, _Out

    def setup(self, context: SetupContext) -> None:
        told.append("setup")
        if Scripted.acts:
            Scripted.acts.pop(0)()

    def teardown(self) -> None:
        raise OSError("the line is dead")

    def execute(self, input: _In, context: Context) -> _Out:
        return _Out(n=input.n)


def fails(error: Exception) -> Callable[[], None]:
    def act() -> None:
        raise error

    return act


def over(component: str, n: int = 4) -> dict[str, Any]:
    loop = {"items": list(range(n)), "loop_stages": ["a"], "max_parallel": n}
    return {
        "name": "setup",
        "stages": [
            {"id": "each", "component_type": "foreach", "config": loop},
            {"id": "a", "component_type": component, "config": {"n": "{{item}}"}},
        ],
    }


def one(component: str, **more: Any) -> dict[str, Any]:
    return {"name": "setup", "stages": [{"id": "a", "component_type": component, **more}]}


def watched(document: dict[str, Any], component: type) -> tuple[list[Event], str]:
    events: list[Event] = []
    prepared = PreparedRun(document, components=[component], observers=[events.append])
    return events, asyncio.run(prepared.run()).status


def test_setup_is_called_once_before_the_first_execute_and_teardown_at_the_end(project_dir: Path) -> None:
    result = run(over("synchronous"), components=[Synchronous])
    assert [each["n"] for each in result.output["results"]] == [100, 101, 102, 103]
    assert told == [f"setup in {project_dir.name}", "execute", "execute", "execute", "execute", "teardown"]
    run(one("synchronous"), components=[Synchronous])
    assert told.count(f"setup in {project_dir.name}") == 2, "every run has instances of its own"


def test_an_asynchronous_setup_shares_the_loop_of_execute() -> None:
    result = run(over("asynchronous"), components=[Asynchronous])
    assert {each["made_in"] for each in result.output["results"]} == {"flowmason-components"}
    assert told == ["setup", "teardown on the same loop"]


def test_a_setup_that_blocks_does_not_block_the_loop() -> None:
    assert run(one("mixed"), components=[Mixed]).output["made_in"] == "elsewhere"
    assert told == ["teardown"]


def test_what_setup_says_is_shown_with_the_stage() -> None:
    events, _ = watched(one("synchronous"), Synchronous)
    said = [(e.path, e.level, e.message, e.fields) for e in events if isinstance(e, StageLogged)]
    assert said == [("a", "info", "loading", {"pipeline": "setup"})]


def test_a_setup_that_fails_fails_everyone_who_waited_for_it_once(monkeypatch: pytest.MonkeyPatch) -> None:
    somebody_waits = threading.Event()
    really = Instance._must_wait  # pyright: ignore[reportPrivateUsage]  # nobody else knows who waits

    def noticed(self: Instance, me: Any, seen: int) -> bool:
        waits = really(self, me, seen)
        if waits:
            somebody_waits.set()
        return waits

    monkeypatch.setattr(Instance, "_must_wait", noticed)

    def slow_and_wrong() -> None:
        assert somebody_waits.wait(60)
        raise ValueError("no such model: 'm'")

    Scripted.acts = [slow_and_wrong] * 4
    events, status = watched(over("failing", 2), Failing)
    failed = [e.failure for e in events if isinstance(e, StageFailed)]
    assert status == "failed"
    assert {f.code for f in failed} == {"component_setup_failed"}
    assert failed[0].message == "setup() of component 'failing' failed. ValueError: no such model: 'm'"
    assert "slow_and_wrong" in (failed[0].traceback or "")
    assert told.count("setup") == 1


def test_the_next_attempt_sets_up_anew() -> None:
    Scripted.acts = [fails(TemporaryError("busy"))]
    retry = {"max_attempts": 2, "initial_delay_ms": 1}
    events, status = watched(one("failing", retry=retry), Failing)
    assert (status, told) == ("succeeded", ["setup", "setup"])
    assert [e.failure.code for e in events if isinstance(e, StageRetrying)] == ["component_setup_failed"]


def test_a_setup_that_can_never_succeed_is_not_repeated() -> None:
    Scripted.acts = [fails(PermanentError("wrong key")), fails(PermanentError("wrong key"))]
    _, status = watched(one("failing", retry={"max_attempts": 3, "initial_delay_ms": 1}), Failing)
    assert (status, told) == ("failed", ["setup"])


def test_a_teardown_that_fails_is_told_and_changes_nothing() -> None:
    Scripted.acts = []
    events, status = watched(one("failing"), Failing)
    assert status == "succeeded"
    warnings = [e.message for e in events if isinstance(e, StageLogged)]
    assert warnings == ["teardown() of component 'failing' failed. OSError: the line is dead"]


def test_the_time_of_setup_is_not_the_stages_time() -> None:
    status = ""
    for limit_ms in (200, 2_000, 20_000):  # the stage itself takes no time, but a busy machine may need some for it
        Scripted.acts = [lambda limit_s=limit_ms / 1000: time.sleep(limit_s + 0.2)]
        _, status = watched(one("failing", timeout_ms=limit_ms), Failing)
        if status == "succeeded":
            break
    assert status == "succeeded"


# -- setups that hang ---------------------------------------------------------------------------------------------------------


class Hanging:
    """What setups hang on, while there is something; and what was left behind."""

    left: int
    """How many setups hang yet."""
    over: threading.Event
    threads: list[threading.Thread]


@pytest.fixture
def hanging() -> Iterator[type[Hanging]]:
    Hanging.left, Hanging.over, Hanging.threads = 1, threading.Event(), []
    yield Hanging
    Hanging.over.set()


def hangs() -> bool:
    """Note that a setup has begun; tell whether it hangs."""
    told.append("setup")
    Hanging.threads.append(threading.current_thread())
    Hanging.left -= 1
    return Hanging.left >= 0


class _Hangs:
    Input, Output = _In, _Out

    def execute(self, input: _In, context: Context) -> _Out:
        told.append("execute")
        return _Out(n=input.n)


class _HangsAsync(_Hangs):
    async def execute(self, input: _In, context: Context) -> _Out:  # pyright: ignore[reportIncompatibleMethodOverride]  # components may be either
        told.append("execute")
        return _Out(n=input.n)


BRIEFLY = Actors(setup_timeout_s=0.5)
"""Long enough for a setup that does nothing, on a machine that is busy."""


@operator(name="spins", effect="pure", cost="cpu", actors=BRIEFLY)
class Spins(_Hangs):
    """Hangs in Python: it can be stopped."""

    def setup(self, context: SetupContext) -> None:
        if hangs():
            while not Hanging.over.is_set():
                time.sleep(0.01)


@operator(name="sits", effect="pure", cost="cpu", actors=BRIEFLY)
class Sits(_Hangs):
    """Hangs in a call that nobody can end."""

    def setup(self, context: SetupContext) -> None:
        if hangs():
            Hanging.over.wait(600)


@operator(name="awaits_in_thread", effect="pure", cost="cpu", actors=BRIEFLY)
class AwaitsInThread(_Hangs):
    async def setup(self, context: SetupContext) -> None:
        if hangs():
            await asyncio.sleep(600)


@operator(name="awaits", effect="pure", actors=BRIEFLY)
class Awaits(_HangsAsync):
    async def setup(self, context: SetupContext) -> None:
        if hangs():
            await asyncio.sleep(600)


@operator(name="sits_apart", effect="pure", actors=BRIEFLY)
class SitsApart(_HangsAsync):
    """Its setup is in a thread beside the loop."""

    def setup(self, context: SetupContext) -> None:
        if hangs():
            Hanging.over.wait(600)


@operator(name="blocks", effect="pure", actors=BRIEFLY)
class Blocks(_HangsAsync):
    """Its setup blocks the loop that it shares."""

    async def setup(self, context: SetupContext) -> None:
        if hangs():
            Hanging.over.wait(600)


HANGING = [Spins, Sits, AwaitsInThread, Awaits, SitsApart, Blocks]


@pytest.mark.parametrize("component", HANGING)
def test_a_setup_that_hangs_fails_the_attempt_and_is_not_waited_for(hanging: type[Hanging], component: type) -> None:
    spec = spec_of(component)
    assert spec is not None
    events, status = watched(one(spec.name), component)
    assert (status, told) == ("failed", ["setup"])
    [failed] = [e for e in events if isinstance(e, StageFailed)]
    assert (failed.failure.code, failed.final) == ("component_setup_failed", False)
    assert failed.failure.message == (
        f"setup() of component '{spec.name}' did not end within 0.5 s. If it needs longer, declare the component with "
        "actors=Actors(setup_timeout_s=…), in seconds; None sets no limit."
    )
    assert all(thread.daemon for thread in hanging.threads), "the process does not stay for it"
    hanging.over.set()
    for thread in hanging.threads:
        if component is not AwaitsInThread:  # it sleeps on
            thread.join(60)
            assert not thread.is_alive()
    assert told == ["setup"], "what is ready too late is not executed"


@pytest.mark.parametrize("component", HANGING)
def test_after_a_setup_that_hung_the_next_attempt_begins_anew(hanging: type[Hanging], component: type) -> None:
    spec = spec_of(component)
    assert spec is not None
    retry = {"max_attempts": 4, "initial_delay_ms": 1}
    events, status = watched(one(spec.name, retry=retry), component)
    assert status == "succeeded"
    assert {e.failure.code for e in events if isinstance(e, StageRetrying)} == {"component_setup_failed"}
    assert told.count("execute") == 1


@pytest.mark.parametrize("component", [Sits, Awaits, Blocks])
def test_who_waits_for_a_setup_that_hangs_fails_with_it(hanging: type[Hanging], component: type) -> None:
    spec = spec_of(component)
    assert spec is not None
    document = over(spec.name, 3)
    document["stages"][0]["config"]["break_on_error"] = False
    hanging.left = 100
    events, _ = watched(document, component)
    failed = {e.path: e.failure.code for e in events if isinstance(e, StageFailed) and e.path.endswith("/a")}
    assert failed == {f"each[{n}]/a": "component_setup_failed" for n in range(3)}
    assert "execute" not in told


def test_without_a_limit_a_setup_takes_as_long_as_it_does(hanging: type[Hanging]) -> None:
    @operator(name="patient", effect="pure", cost="cpu", actors=Actors(setup_timeout_s=None))
    class Patient(_Hangs):
        def setup(self, context: SetupContext) -> None:
            assert not Hanging.over.wait(0.2)

    assert run(one("patient"), components=[Patient]).status == "succeeded"


def test_a_setup_that_blocks_the_loop_is_called_that(hanging: type[Hanging], monkeypatch: pytest.MonkeyPatch) -> None:
    @operator(name="blocking_setup", effect="pure", actors=Actors(setup_timeout_s=None))
    class BlockingSetup(_HangsAsync):
        async def setup(self, context: SetupContext) -> None:
            Hanging.over.wait(60)

    warnings: list[str] = []

    def see(event: Event) -> None:
        if isinstance(event, StageLogged):
            warnings.append(event.message)
            hanging.over.set()

    monkeypatch.setattr(in_process, "HEARTBEAT_S", 0.05)
    asyncio.run(PreparedRun(one("blocking_setup"), components=[BlockingSetup], observers=[see]).run())
    assert "Its 'async def setup' blocks the event loop" in warnings[0]


# -- what the decorators refuse ---------------------------------------------------------------------------------------------


def declared(name: str = "x", **members: Any) -> Any:
    def execute(self: Any, input: Any, context: Any) -> None: ...

    return type(name, (), {"Input": _In, "Output": _Out, "execute": execute, **members})


def test_what_is_declared_is_in_the_spec() -> None:
    cls = declared(setup=lambda self, context: None, teardown=lambda self: None)  # pyright: ignore[reportUnknownLambdaType]
    spec = spec_of(operator(actors=Actors(max=2))(cls))
    assert spec is not None
    assert (spec.has_setup, spec.has_teardown, spec.actors) == (True, True, Actors(max=2))
    plain = spec_of(operator(declared()))
    assert plain is not None
    assert (plain.has_setup, plain.has_teardown, plain.actors) == (False, False, None)


async def waits(self: Any, input: Any, context: Any) -> None: ...


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(InvalidComponent, match=r"'setup' of component .* takes \(self, context\); found \(self\)"):
        operator(declared(setup=lambda self: None))  # pyright: ignore[reportUnknownLambdaType]
    with pytest.raises(InvalidComponent, match=r"'teardown' .* found 3"):
        operator(declared(teardown=3))
    with pytest.raises(InvalidComponent, match=r"declared 'trivial'.*neither 'setup' nor actors"):
        operator(cost="trivial")(declared(execute=waits, setup=lambda self, context: None))  # pyright: ignore[reportUnknownLambdaType]
    with pytest.raises(InvalidComponent, match=r"concurrency=3 .* must be 'async def'"):
        operator(actors=Actors(concurrency=3))(declared())


@pytest.mark.parametrize(
    "bounds",
    [
        {"min": -1},
        {"min": 3, "max": 2},
        {"max": 0},
        {"recycle_after": 0},
        {"recycle_at_mib": -5},
        {"concurrency": 0},
        {"setup_timeout_s": 0},
        {"setup_timeout_s": float("nan")},
    ],
)
def test_impossible_bounds_are_refused(bounds: dict[str, Any]) -> None:
    with pytest.raises(FlowMasonError, match="is impossible"):
        Actors(**bounds)
