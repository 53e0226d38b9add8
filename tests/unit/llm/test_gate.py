"""The places at a provider: never more than there are, never one left empty, and those who begin alike together."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from flowmason_ray.llm.limits import Gate, LocalLimiter
from flowmason_ray.settings import ProviderLimits


class Crowd:
    """Calls that come, are let through, and end when they are told to."""

    def __init__(self, places: int) -> None:
        limits = ProviderLimits(concurrency=places)
        self.gate = Gate(limits, LocalLimiter(limits, asyncio.get_running_loop().time))
        self.inside: list[int] = []
        self.served: list[str] = []
        self.calls: list[asyncio.Task[None]] = []
        self._ends: list[asyncio.Event] = []

    @property
    def waiting(self) -> list[Any]:
        order: Any = getattr(self.gate, "_order")  # noqa: B009  # the moment that is tested is not seen from outside
        return list(order._waiting)

    def let_end(self, number: int) -> None:
        self._ends[number].set()

    async def comes(self, text: str) -> None:
        self._ends.append(asyncio.Event())
        self.calls.append(asyncio.create_task(self._call(len(self.calls), text)))
        await settle()

    async def _call(self, number: int, text: str) -> None:
        async with self.gate.ticket(0, text):
            self.inside.append(number)
            self.served.append(text)
            try:
                await self._ends[number].wait()
            finally:
                self.inside.remove(number)

    async def ends(self) -> None:
        """Let the one end who has been inside for longest."""
        if self.inside:
            self._ends[self.inside[0]].set()
        await settle()

    async def cancelled(self, number: int, *, in_the_same_moment: bool) -> None:
        """Cancel one; perhaps in the moment in which it is being let through, or would be."""
        if not self.calls:
            return
        if in_the_same_moment and self.inside:
            self._ends[self.inside[0]].set()
            await asyncio.sleep(0)
        self.calls[number % len(self.calls)].cancel()
        await settle()

    @property
    def alive(self) -> int:
        return sum(not call.done() for call in self.calls)


async def settle() -> None:
    """Let everything happen that can."""
    for _ in range(12):
        await asyncio.sleep(0)


STEPS = st.one_of(
    st.tuples(st.just("comes"), st.text(alphabet="ab", max_size=3)),
    st.tuples(st.just("ends"), st.none()),
    st.tuples(st.just("cancelled"), st.tuples(st.integers(0, 30), st.booleans())),
)


@settings(max_examples=150, deadline=None)
@given(places=st.integers(1, 3), steps=st.lists(STEPS, max_size=30))
def test_places_are_kept_full_and_everybody_is_served(places: int, steps: list[tuple[str, object]]) -> None:
    async def story() -> None:
        crowd = Crowd(places)
        for what, how in steps:
            match what, how:
                case "comes", str(text):
                    await crowd.comes(text)
                case "cancelled", (int(number), bool(same)):
                    await crowd.cancelled(number, in_the_same_moment=same)
                case _:
                    await crowd.ends()
            assert len(crowd.inside) == min(places, crowd.alive)
        while crowd.alive:
            await crowd.ends()
        uncancelled = sum(not call.cancelled() for call in crowd.calls)
        assert uncancelled <= len(crowd.served) <= len(crowd.calls)
        for _ in range(places + 1):  # every place was given back
            await crowd.comes("x")
        assert len(crowd.inside) == places
        while crowd.alive:
            await crowd.ends()
        await asyncio.gather(*crowd.calls, return_exceptions=True)

    asyncio.run(story())


def served(texts: list[str], places: int, then: Callable[[Crowd], object] = lambda _: None) -> list[str]:
    """Return the order in which calls that all wait for one that is inside are let through."""

    async def story() -> list[str]:
        crowd = Crowd(places)
        for text in texts:
            await crowd.comes(text)
        then(crowd)
        while crowd.alive:
            await crowd.ends()
        return crowd.served

    return asyncio.run(story())


def test_those_who_begin_alike_come_together() -> None:
    texts = [f"{group} {number}" for number in range(4) for group in ("north", "south", "east")]
    assert [text.split()[0] for text in served(texts, 1)] == ["north"] * 4 + ["south"] * 4 + ["east"] * 4


def test_those_who_share_nothing_keep_their_order() -> None:
    assert served(["a", "b", "c", "", "d"], 1) == ["a", "b", "c", "", "d"]


def test_who_has_gone_is_not_waited_for() -> None:
    """A cancelled call is not let through, and takes no place from those behind it."""
    assert served(["a", "a gone", "b"], 1, lambda crowd: crowd.calls[1].cancel()) == ["a", "b"]


def test_a_call_that_is_cancelled_while_it_is_let_through_gives_its_place_on() -> None:
    async def story() -> tuple[list[int], bool]:
        crowd = Crowd(1)
        for text in "abc":
            await crowd.comes(text)
        caller = crowd.waiting[0]
        crowd.let_end(0)
        while not caller.granted.done():  # noqa: ASYNC110  # step by step is the point
            await asyncio.sleep(0)
        crowd.calls[1].cancel()  # it has its place, and does not know yet
        await settle()
        inside, gone = list(crowd.inside), crowd.calls[1].cancelled()
        while crowd.alive:
            await crowd.ends()
        return inside, gone

    assert asyncio.run(asyncio.wait_for(story(), 60)) == ([2], True)
