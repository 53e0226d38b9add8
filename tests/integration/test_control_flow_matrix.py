"""Every construct inside every other: 9 × 9 cells, and three deep, each with its exact output and statuses.

`tests.matrix_kit` builds the pipelines and works out what must come of them. The table in the guide is made from `CELLS`.
"""

from __future__ import annotations

from itertools import product
from pathlib import Path

import pytest

from flowmason_ray.api import run, validate
from tests.engine_kit import Echo
from tests.matrix_kit import CONSTRUCTS, WITH_BODY, Boom, Case, case_of, kinds_of, refused_at

COMPONENTS = (Echo, Boom)
CELLS = list(product(CONSTRUCTS, CONSTRUCTS))
LEAVES = (*WITH_BODY, "return", "break_loop", "continue_loop", "variable_set")


def check(case: Case, folder: Path, on: str = "local") -> None:
    """Run a case with what does not leave (1) and with what does (2), and compare everything."""
    file = case.write(folder)
    for x in (1, 2):
        result = run(file, {"x": x}, on=on, components=COMPONENTS)
        output, statuses = case.expected(x)
        assert result.failure is None
        assert result.output == output
        found = {path: summary.status for path, summary in result.stages.items()}
        for path in found.keys() | statuses.keys():
            wanted = statuses.get(path, "untold")
            told = found.get(path, "untold")
            assert told in wanted if isinstance(wanted, frozenset) else told == wanted, path


def check_refused(case: Case, chain: tuple[str, ...], folder: Path) -> None:
    """The plan must refuse exactly what leaves a loop outside any."""
    problems = validate(case.write(folder), components=COMPONENTS)
    outside = [kind for kind in chain if kind in ("break_loop", "continue_loop")]
    assert {p.code for p in problems} == {"not_in_loop"}
    position = refused_at(chain)
    assert position is not None
    assert any(f"{chain[position]}{position + 1}" in p.message for p in problems)
    assert len(problems) <= len(outside)


@pytest.mark.parametrize(("outer", "inner"), CELLS, ids=lambda name: name)
def test_each_construct_inside_each_other(outer: str, inner: str, tmp_path: Path) -> None:
    for i, chain in enumerate(product(kinds_of(outer), kinds_of(inner))):
        folder = tmp_path / str(i)
        folder.mkdir()
        if refused_at(chain) is not None:
            check_refused(case_of(chain), chain, folder)
            chain = ("foreach", *chain)  # where it has a meaning
            if refused_at(chain) is not None:
                continue
        check(case_of(chain), folder)


@pytest.mark.parametrize("inner", LEAVES)
@pytest.mark.parametrize("place", ["catch", "finally"])
def test_the_other_bodies_of_a_trycatch_hold_every_construct_too(place: str, inner: str, tmp_path: Path) -> None:
    check(case_of(("foreach", "trycatch", inner), places={2: place}), tmp_path)


@pytest.mark.parametrize(("outer", "middle"), list(product(WITH_BODY, WITH_BODY)), ids=lambda name: name)
def test_three_deep(outer: str, middle: str, tmp_path: Path) -> None:
    for inner in LEAVES:
        chain = (outer, middle, inner)
        folder = tmp_path / inner
        folder.mkdir()
        if refused_at(chain) is not None:
            check_refused(case_of(chain), chain, folder)
        else:
            check(case_of(chain), folder)


@pytest.mark.ray
@pytest.mark.parametrize("outer", CONSTRUCTS)
def test_the_same_on_ray_with_every_leaf_on_a_worker(outer: str, ray_cluster: str, tmp_path: Path) -> None:
    for inner in CONSTRUCTS:
        chain = (kinds_of(outer)[0], kinds_of(inner)[0])
        if refused_at(chain) is not None:
            chain = ("foreach", *chain)
        if refused_at(chain) is None:
            folder = tmp_path / inner.replace("/", "-")
            folder.mkdir()
            check(case_of(chain, fuse="never"), folder, on="ray")
