"""Every law of the engine holds on thousands of simulated runs. A failure prints the seed and the command that replays it."""

from __future__ import annotations

import pytest

from flowmason_ray.testing.simulation.__main__ import main
from flowmason_ray.testing.simulation.pipelines import BRANCHINGS, CHAINS
from flowmason_ray.testing.simulation.runs import PIPELINES, crash_everywhere, first_wrong, simulate, subject
from flowmason_ray.testing.simulation.shapes import Stage

SEEDS = 4000
CRASHED_EVERYWHERE = range(0, 2000, 40)


def test_every_law_holds() -> None:
    found = first_wrong(range(SEEDS))
    assert found is None, f"{found.wrong} (python -m flowmason_ray.testing.simulation --seed {found.seed})"


def test_every_law_holds_after_a_crash_at_any_event() -> None:
    for seed in CRASHED_EVERYWHERE:
        found = crash_everywhere(seed).wrong
        assert found is None, f"{found} (python -m flowmason_ray.testing.simulation --seed {seed} --crash-everywhere)"


def test_every_construct_is_simulated_inside_every_other_to_depth_three() -> None:
    found: set[tuple[str, ...]] = set()
    for number in range(PIPELINES):
        found |= {_around(stage) for stage in subject(number).shape.stages.values()}
    assert {each for each in found if len(each) == 3} >= set(CHAINS)
    assert max(len(each) for each in found) >= 4


def _around(stage: Stage) -> tuple[str, ...]:
    """Return the kinds of a construct and of those around it, outermost first; at most the last three."""
    kinds: list[str] = []
    each: Stage | None = stage
    while each is not None:
        kinds.append("branching" if each.kind in BRANCHINGS else each.kind)
        each = each.body.owner
    return tuple(reversed(kinds))


def test_a_seed_always_tells_the_same_story() -> None:
    for seed in (3, 77, 1234):
        assert simulate(seed, keep_story=True).story == simulate(seed, keep_story=True).story


def test_the_command_says_that_nothing_was_found(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--seeds", "20"]) == 0
    assert capsys.readouterr().out.startswith("20 runs, ")


def test_the_command_replays_a_seed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--seed", "7", "--trace"]) == 0
    out = capsys.readouterr().out
    assert '"name": "simulated-7"' in out
    assert "run_created" in out
