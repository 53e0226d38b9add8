"""What begins alike comes together, and nobody is forgotten."""

from __future__ import annotations

import asyncio
import threading
from os.path import commonprefix

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowmason_ray.llm import queueing
from flowmason_ray.llm.queueing import MOST_PASSED_OVER, PrefixOrder, PrefixQueue, Waiting


def nothing(stop: threading.Event) -> None: ...


def order(texts: list[str]) -> list[str]:
    queue = PrefixQueue("test")
    for text in texts:
        queue.put(text, nothing)
    return [queue.choose().text for _ in texts]


def test_what_shares_a_beginning_comes_together() -> None:
    texts = ["north 1", "south 1", "north 2", "south 2", "north 3"]
    assert order(texts) == ["north 1", "north 2", "north 3", "south 1", "south 2"]


def test_what_shares_nothing_keeps_its_order() -> None:
    assert order(["a", "b", "c"]) == ["a", "b", "c"]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.sampled_from(["aa", "ab", "ba", "bb", ""]), max_size=30))
def test_each_comes_exactly_once(texts: list[str]) -> None:
    assert sorted(order(texts)) == sorted(texts)


BEGINNINGS = st.text(alphabet="ab", max_size=5)


@settings(max_examples=200, deadline=None)
@given(last=BEGINNINGS, texts=st.lists(BEGINNINGS, min_size=1, max_size=12))
def test_the_next_is_the_first_of_those_that_share_most_with_the_last(last: str, texts: list[str]) -> None:
    waiting = PrefixOrder[Waiting]()
    waiting.went(last)
    for text in texts:
        waiting.put(Waiting(text))
    shares = [len(commonprefix([last, text])) for text in texts]  # noqa: RUF071  # they are texts, not paths
    first = shares.index(max(shares))
    chosen = waiting.choose()
    assert (chosen.text, len(waiting)) == (texts[first], len(texts) - 1)


@settings(max_examples=200, deadline=None)
@given(steps=st.lists(st.one_of(BEGINNINGS, st.none()), max_size=60))
def test_nobody_is_passed_over_more_often_than_the_bound(steps: list[str | None]) -> None:
    """A text: somebody comes. None: somebody is served, if anybody is there. In the end all are."""
    waiting, come, gone = PrefixOrder[Waiting](), list[Waiting](), list[Waiting]()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(queueing, "MOST_PASSED_OVER", 3)
        for text in [*steps, *([None] * len(steps))]:
            if text is not None:
                come.append(Waiting(text))
                waiting.put(come[-1])
            elif len(waiting):
                gone.append(waiting.choose())
    assert {id(each) for each in gone} == {id(each) for each in come}
    assert len(gone) == len(come)
    for place, each in enumerate(come):
        later = {id(other) for other in come[place + 1 :]}
        assert sum(id(other) in later for other in gone[: gone.index(each)]) <= 3


def test_nobody_is_passed_over_for_ever() -> None:
    queue = PrefixQueue("test")
    queue.put("north", nothing)
    queue.choose()
    lonely = queue.put("south", nothing)
    taken = 0
    while True:
        queue.put("north", nothing)
        if queue.choose() is lonely:
            break
        taken += 1
    assert taken == MOST_PASSED_OVER


def test_what_is_cancelled_before_its_turn_never_begins_and_what_runs_is_told() -> None:
    async def story() -> list[str]:
        queue = PrefixQueue("test")
        begun = threading.Event()
        seen: list[str] = []

        def long(stop: threading.Event) -> None:
            begun.set()
            assert stop.wait(30)
            seen.append("told")

        first = asyncio.create_task(queue.ask(long))
        second = asyncio.create_task(queue.ask(lambda _: seen.append("never")))
        await asyncio.to_thread(begun.wait, 30)
        for task in (second, first):
            task.cancel()
        await asyncio.gather(first, second, return_exceptions=True)
        await queue.ask(lambda _: seen.append("last"))
        await queue.close(lambda: None)
        return seen

    assert asyncio.run(asyncio.wait_for(story(), 60)) == ["told", "last"]


def test_an_error_reaches_who_waits() -> None:
    def fails(stop: threading.Event) -> None:
        raise KeyError("no")

    with pytest.raises(KeyError):
        asyncio.run(PrefixQueue("test").ask(fails))
