"""What a loop on Ray is measured beside: the same work by `ray.data.map_batches`, and by Ray tasks in a window made by hand.

Neither records anything, repeats anything or knows one item's failure from another's; a failed item is a null in the result.
"""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter
from typing import Any


def spin(rounds: int) -> int:
    """Compute for a while: the work of an item."""
    total = 0
    for i in range(rounds):
        total += i & 7
    return total


def by_hand(items: list[dict[str, Any]], failing: int, rounds: int, window: int) -> float:
    """Run one Ray task per item, `window` at a time; return the seconds."""
    import ray

    plain: Any = ray

    @plain.remote
    def work(item: dict[str, Any]) -> Any:
        spin(rounds)
        return None if failing and item["number"] % failing == 0 else {"number": item["number"]}

    started = perf_counter()
    waiting: dict[Any, int] = {}
    results: list[Any] = [None] * len(items)
    position = 0
    while position < len(items) or waiting:
        while position < len(items) and len(waiting) < window:
            waiting[work.remote(items[position])] = position
            position += 1
        done, _ = plain.wait(list(waiting), num_returns=1, timeout=60)
        for reference in done:
            results[waiting.pop(reference)] = plain.get(reference)
    seconds = perf_counter() - started
    _check(results, failing)
    return seconds


def by_ray_data(items: list[dict[str, Any]], failing: int, rounds: int, window: int) -> float:
    """Run the items as a Ray dataset, in batches of its own choice; return the seconds."""
    import ray.data

    data: Any = ray.data
    context: Any = data.DataContext.get_current()
    context.enable_progress_bars = False

    def work(batch: dict[str, Any]) -> dict[str, list[Any]]:
        numbers = [int(number) for number in batch["number"]]
        for _ in numbers:
            spin(rounds)
        return {"number": [-1 if failing and number % failing == 0 else number for number in numbers]}

    started = perf_counter()
    rows = data.from_items(items).map_batches(work).take_all()
    results = sorted((row["number"] for row in rows), key=int)
    seconds = perf_counter() - started
    succeeded = [n for n in results if n >= 0]
    assert succeeded == [n for n in range(len(items)) if not failing or n % failing]
    return seconds


def _check(results: list[Any], failing: int) -> None:
    expected = [None if failing and n % failing == 0 else {"number": n} for n in range(len(results))]
    assert results == expected


REFERENCES: dict[str, Callable[[list[dict[str, Any]], int, int, int], float]] = {
    "ray.data": by_ray_data,
    "window by hand": by_hand,
}
