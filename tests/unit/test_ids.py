"""Run ids: their form, that they differ, and that they sort by time."""

from __future__ import annotations

import re
import time

import pytest

from flowmason_ray import ids
from flowmason_ray.ids import new_run_id


def test_the_form() -> None:
    assert re.fullmatch(r"r_[0-9a-hjkmnp-tv-z]{20}", new_run_id())


def test_they_differ() -> None:
    assert len({new_run_id() for _ in range(2_000)}) == 2_000


def test_they_sort_by_the_time_of_creation(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []
    for milliseconds in (0, 1, 10**12, time.time_ns() // 10**6, 2**48 - 1):
        monkeypatch.setattr(ids.time, "time_ns", lambda ms=milliseconds: ms * 10**6)
        made.append(new_run_id())
    assert made == sorted(made)
