"""`fm plan --measured`: how the next run would go about it, by what earlier runs have taken."""

from __future__ import annotations

from typing import Any

from tests.cli_kit import Fm, pipeline, stage

SLOW = '''
"""A component that takes longer than it says."""

import time
from pydantic import BaseModel
from flowmason_ray import operator


@operator(effect="pure", cost="trivial")
class Slow:
    """Says that it is trivial, and takes 20 ms."""

    class Input(BaseModel):
        n: int

    class Output(BaseModel):
        n: int

    async def execute(self, input, context):
        time.sleep(0.02)
        return {"n": input.n}
'''


def loop(offset: int) -> dict[str, Any]:
    each = stage("each", "foreach", config={"items": list(range(40)), "loop_stages": ["one"]})
    return pipeline(each, stage("one", "slow", config={"n": f"{{{{ item + {offset} }}}}"}))


def planned(fm: Fm, *options: str) -> dict[str, Any]:
    """Return what the plan says of the loop's body."""
    done = fm("plan", "p.pipeline.json", "--format", "json", *options)
    assert done.code == 0, done.err
    [found] = [each for each in done.json["stages"] if each["id"] == "one"]
    return found


def test_the_next_run_counts_in_what_earlier_ones_have_taken(fm: Fm) -> None:
    (fm.directory / "components").mkdir(exist_ok=True)
    (fm.directory / "components" / "slow.py").write_text(SLOW, encoding="utf-8")
    fm.write(loop(0))
    declared = planned(fm)
    assert declared["typical_ms"] is None
    assert planned(fm, "--measured") == declared, "nothing was measured yet"

    done = fm("run", "p.pipeline.json", "-q")
    assert done.code == 0, done.err
    assert planned(fm) == declared, "it was not asked for"
    measured = planned(fm, "--measured")
    assert measured["typical_ms"] >= 20
    assert measured["fusion"]["way"] != declared["fusion"]["way"], "it leaves the coordinator"
    told = fm("plan", "p.pipeline.json", "--measured").out.splitlines()
    [line] = [each for each in told if each.strip().startswith("one ")]
    assert f"on Ray {measured['fusion']['why']}" in line

    fm.write(loop(1))
    assert planned(fm, "--measured")["typical_ms"] is None, "its config is another one"
