"""What an attempt prints is heard, whole and only its own; it goes where it went before."""

from __future__ import annotations

import asyncio
import io
import sys
import threading
from collections.abc import Generator
from contextlib import contextmanager, redirect_stdout
from typing import Any

import pytest

from flowmason_ray.engine.events import Event, StageLogged
from flowmason_ray.engine.executors.prints import LONGEST_LINE, MOST_LINES, close_ears, heard, open_ears


@contextmanager
def listening() -> Generator[io.StringIO]:
    """Listen to a stream that takes the place of stdout. No fixture: pytest changes stdout before each phase of a test."""
    with redirect_stdout(io.StringIO()) as stream:
        open_ears()
        yield stream
        close_ears()
        assert sys.stdout is stream, "the stream is as it was"


def words(told: list[Event]) -> list[tuple[str, Any, str]]:
    return [(e.path, e.fields.get("stream"), e.message) for e in told if isinstance(e, StageLogged)]


def test_lines_are_told_when_they_end() -> None:
    told: list[Event] = []
    with listening() as out:
        print("before")
        with heard(told.append, "a", 2):
            print("one", end="")
            assert told == []
            print(" and two\n\nthree")
            sys.stdout.write("rest")
        print("after")
    assert words(told) == [("a", "stdout", "one and two"), ("a", "stdout", "three"), ("a", "stdout", "rest")]
    assert all(isinstance(e, StageLogged) and (e.attempt, e.shown) == (2, True) for e in told)
    assert out.getvalue() == "before\none and two\n\nthree\nrestafter\n"


def test_threads_and_tasks_are_told_apart() -> None:
    told: list[Event] = []

    def work(name: str) -> None:
        with heard(told.append, name, 1):
            for i in range(20):
                print(f"{name}{i}")

    threads = [threading.Thread(target=work, args=(name,)) for name in "ab"]

    async def task(name: str) -> None:
        with heard(told.append, name, 1):
            for i in range(20):
                print(f"{name}{i}")
                await asyncio.sleep(0)

    async def both() -> None:
        await asyncio.gather(task("c"), task("d"))

    with listening():
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        asyncio.run(both())
    for name in "abcd":
        assert [w[2] for w in words(told) if w[0] == name] == [f"{name}{i}" for i in range(20)]


def test_a_line_without_an_end_and_a_flood_are_bounded() -> None:
    told: list[Event] = []
    with listening(), heard(told.append, "a", 1):
        print("x" * (2 * LONGEST_LINE + 1))
        print("y\n" * (MOST_LINES + 7), end="")
    assert [len(w[2]) for w in words(told)[:3]] == [LONGEST_LINE, LONGEST_LINE, 1]
    last = told[-1]
    assert isinstance(last, StageLogged)
    assert (len(told), last.dropped) == (MOST_LINES + 1, 10)


def test_what_others_put_in_place_of_a_stream_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = io.StringIO(), io.StringIO()
    monkeypatch.setattr(sys, "stdout", first)
    open_ears()
    open_ears()
    monkeypatch.setattr(sys, "stdout", second)
    close_ears()
    close_ears()
    assert sys.stdout is second
