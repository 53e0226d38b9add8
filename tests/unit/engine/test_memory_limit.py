"""An attempt that takes more memory than it may is ended; others notice nothing."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest

from flowmason_ray.engine.executors import memory_limit
from flowmason_ray.engine.executors.memory_limit import EXIT_CODE, MemoryExceeded, limited, own_bytes

MIB = 2**20


class Memory:
    """Memory that grows when the test says so."""

    def __init__(self) -> None:
        self.bytes = 100 * MIB
        self.looked = threading.Event()

    def __call__(self) -> int:
        self.looked.set()
        return self.bytes


def spin(until: Callable[[], bool]) -> None:
    """Work until something holds, as a component does: in bytecode, so that it can be interrupted."""
    while not until():
        pass


def stay(code: int) -> None:
    """What is done instead of ending the process."""


def attempt(memory: Memory, grown_mib: int, *, limit_mib: int, work: Callable[[], object], **more: Any) -> None:
    """Run what grows by so much and then works."""
    # Without `give_up` an attempt that is held up for longer than its grace would end the process of all these tests.
    chosen: dict[str, Any] = {"give_up": stay, **more}
    with limited(limit_mib, measure=memory, **chosen):
        memory.bytes += grown_mib * MIB
        work()


def test_growing_too_much_raises_in_the_attempt() -> None:
    with pytest.raises(MemoryExceeded, match=r"by 60 MiB of memory; its stage asks for 50 MiB"):
        attempt(Memory(), 60, limit_mib=50, work=lambda: spin(lambda: False))


def test_catching_exceptions_does_not_help() -> None:
    def careless() -> None:
        while True:
            with suppress(Exception):
                spin(lambda: False)

    with pytest.raises(MemoryExceeded):
        attempt(Memory(), 2, limit_mib=1, work=careless)


def test_what_stays_within_goes_on() -> None:
    memory = Memory()

    def work() -> None:
        memory.looked.clear()
        spin(memory.looked.is_set)

    attempt(memory, 49, limit_mib=50, work=work)


def test_an_attempt_that_goes_on_ends_with_its_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_limit, "GRACE_S", 0.0)
    gone, ended = list[int](), threading.Event()

    def give_up(code: int) -> None:
        gone.append(code)
        ended.set()

    with pytest.raises(MemoryExceeded):  # it waits in C: what was raised arrives when that returns
        attempt(Memory(), 2, limit_mib=1, work=lambda: ended.wait(30), give_up=give_up)
    assert gone == [EXIT_CODE]


def test_what_is_waited_for_is_stopped_and_however_it_answers_it_was_the_memory() -> None:
    class Answer(BaseException):
        """What comes of being stopped."""

    def work() -> None:
        assert stopped.wait(60)
        raise Answer

    stopped = threading.Event()
    with pytest.raises(MemoryExceeded, match=r"by 60 MiB"):
        attempt(Memory(), 60, limit_mib=50, work=work, stop=stopped.set)
    stopped.set()
    with pytest.raises(Answer):
        attempt(Memory(), 40, limit_mib=50, work=work, stop=stopped.set)


def test_without_a_limit_or_a_measure_nothing_is_watched() -> None:
    before = set(threading.enumerate())
    with limited(None):
        assert set(threading.enumerate()) <= before
    with limited(1, measure=lambda: None):
        assert set(threading.enumerate()) <= before


def test_own_memory_is_known_here() -> None:
    found = own_bytes()
    assert found is not None
    assert found > MIB


def test_a_process_can_be_profiled_after_an_attempt_was_stopped() -> None:
    """An exception that is taken back leaves the interpreter looking for it, and hangs it under a profiler."""
    code = """
import sys, time
from flowmason_ray.engine.executors.memory_limit import MemoryExceeded, limited
sizes = iter([0] + [2**30] * 1000)
try:
    with limited(1, measure=lambda: next(sizes), give_up=lambda code: None):
        until = time.monotonic() + 20
        while time.monotonic() < until:
            time.sleep(0.01)
except MemoryExceeded:
    sys.setprofile(lambda frame, event, arg: None)
    (lambda: None)()
    sys.setprofile(None)
    print("profiled")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=50, check=True)
    assert done.stdout == "profiled\n"
