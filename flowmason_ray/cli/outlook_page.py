"""What going on under an edited pipeline will do, in words: printed before it does it."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from flowmason_ray.cli.terminal import painter
from flowmason_ray.cli.words import counted, signs

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from flowmason_ray.engine.reuse import InDoubt
    from flowmason_ray.reusing.outlook import Outlook, StageOutlook

MOST_TOLD = 40
"""Stages of each sort that are named; the others are counted."""


_DECIDED: Mapping[str, str] = {
    "ask": "Say what holds: --in-doubt retry|skip|fail",
    "retry": "It is done again, as you have said.",
    "skip": "It is left out, as you have said.",
    "fail": "It counts as failed, as you have said.",
}


def outlook_page(outlook: Outlook, run_id: str, pipeline: str, in_doubt: InDoubt) -> str:
    """Return the page; `in_doubt` is what was said about attempts of which it is not known whether they did their work."""
    paint, sign = painter(sys.stderr), signs(sys.stderr)
    reused = [stage for stage in outlook.stages if stage.reused]
    runs = [stage for stage in outlook.stages if not stage.reused]
    width = max((len(stage.path) for stage in outlook.stages), default=0)
    lines = [paint(f"Going on with run {run_id} under {pipeline}", "bold")]
    lines += _told(
        reused, lambda stage: f"{paint(sign['reused'], 'green')} {stage.path:{width}}  reused{_of_many(stage)}"
    )
    lines += _told(runs, lambda stage: _runs(stage, width, paint(sign["running"], "cyan")))
    if outlook.gone:
        lines.append(f"  no longer there: {', '.join(outlook.gone)}")
    repeated = [stage.path for stage in runs if stage.would_repeat]
    if repeated:
        options = " ".join(f"--force {path}" for path in repeated)
        lines.append(
            paint("Effects: ", "yellow", "bold")
            + f"{', '.join(repeated)} did this already in that run. With other inputs it fails instead of doing it again, "
            f"unless you say: {options}"
        )
    if outlook.doubtful:
        whose = "its" if len(outlook.doubtful) == 1 else "their"
        lines.append(
            paint("In doubt: ", "yellow", "bold")
            + f"whether {', '.join(outlook.doubtful)} did {whose} work is not known. {_DECIDED[in_doubt]}"
        )
    return "\n".join(lines)


def _told(stages: list[StageOutlook], line: Callable[[StageOutlook], str]) -> list[str]:
    told = [f"  {line(stage)}" for stage in stages[:MOST_TOLD]]
    if len(stages) > MOST_TOLD:
        told.append(f"    and {counted(len(stages) - MOST_TOLD, 'more stage')}")
    return told


def _runs(stage: StageOutlook, width: int, sign: str) -> str:
    perhaps = "; reused if that turns out the same" if stage.perhaps and not stage.why[0].startswith("decides") else ""
    return f"{sign} {stage.path:{width}}  {'; '.join(stage.why)}{perhaps}"


def _of_many(stage: StageOutlook) -> str:
    if stage.unfinished:
        return f" ({counted(stage.known, 'instance')}; {stage.unfinished:,} that did not finish will run)"
    return f" ({counted(stage.known, 'instance')})" if stage.known > 1 else ""
