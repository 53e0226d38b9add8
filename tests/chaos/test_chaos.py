"""The crash harness in the test suite, in its short form. `make chaos` kills a thousand and more."""

from __future__ import annotations

import os

import pytest

from tests.chaos.harness import play

KILLS = int(os.environ.get("CHAOS_KILLS", "50"))
SEED = int(os.environ.get("CHAOS_SEED", "1"))


@pytest.mark.timeout(60 + 3 * KILLS)
def test_runs_on_sqlite_survive_being_killed() -> None:
    tally = play(kills=KILLS, seed=SEED)
    assert tally.total >= KILLS
    assert tally.runs > 0
    assert all(tally.kills[how] for how in ("at a random moment", "before an fsync", "after an fsync"))
