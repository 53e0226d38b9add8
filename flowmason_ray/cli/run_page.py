"""A recorded run on a page: its events are fed to the same summary that a run makes while it goes on."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from flowmason_ray.cli.problem_report import shown_path
from flowmason_ray.cli.usage_words import usage_words
from flowmason_ray.cli.words import COLOURS, REASONS, counted, duration, reused_from, shortened, signs, when
from flowmason_ray.engine.events import RunCreated, RunSucceeded
from flowmason_ray.engine.summary import StageSummary, Summary
from flowmason_ray.engine.values import presentable
from flowmason_ray.errors import StoreError, place_of
from flowmason_ray.stores.encoding import Decoder, event_from_json

if TYPE_CHECKING:
    from flowmason_ray.cli.terminal import Paint
    from flowmason_ray.engine.run_log import RunRecord, RunStore

_POSITION = re.compile(r"\[\d+\]")
ITEMS_IN_FULL = 10
"""Loops of up to this many instances of a stage are shown in full, longer ones as one line for each stage."""

MEASURED_IN_FULL = 5
"""Stages that are named of those which earlier runs have moved to another pace."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedRun:
    """A run as its log tells it."""

    record: RunRecord
    summary: Summary
    output: Any
    output_missing: str | None
    """Why the output cannot be read, if it cannot."""
    trace: str | None = None
    """The traceparent of its span, if it was traced."""
    measured: Mapping[str, float]
    """The stages that ran elsewhere than declared, because earlier runs took so many seconds for them."""


async def read_run(store: RunStore, run: str) -> RecordedRun:
    """Read a run's events.

    Raises:
        RunNotFound: there is no such run.
    """
    record = await store.find(run)
    summary, output, missing = Summary(), None, None
    measured: Mapping[str, float] = {}
    trace: str | None = None
    async for recorded in store.read(record.run_id):
        event = event_from_json(recorded.event)
        summary(event)
        if isinstance(event, RunCreated):
            measured = event.options.get("measured", {})
            trace = event.options.get("trace")
        elif isinstance(event, RunSucceeded):
            try:
                output = Decoder(getattr(store, "blobs", None)).value(recorded.event)
            except (StoreError, ImportError) as exc:
                missing = str(exc)
    if record.status == "interrupted":
        summary.stand_still("interrupted")
    return RecordedRun(
        record=record, summary=summary, output=output, output_missing=missing, measured=measured, trace=trace
    )


def run_document(run: RecordedRun) -> dict[str, Any]:
    """Return the document of `fm runs show --json`: that of `fm run --json`, and what the log knows besides."""
    from flowmason_ray.cli.runs_commands import record_json

    about = record_json(run.record)
    return {
        **{key: about.pop(key) for key in ("run_id", "status")},
        "output": presentable(run.output),
        "usage": run.summary.usage,
        **about,
        **({"measured": run.measured} if run.measured else {}),
        **({"trace_id": run.trace.split("-")[1]} if run.trace else {}),
        "stages": {path: stage.to_json() for path, stage in run.summary.stages.items()},
    }


def run_page(run: RecordedRun, paint: Paint) -> str:
    """Return the page."""
    import sys

    record = run.record
    sign = signs(sys.stdout)
    colour = COLOURS.get(record.status, "dim")
    took = "" if record.ended_at is None else f" in {duration(record.ended_at - record.created_at)}"
    lines = [
        f"{paint(f'{sign[record.status]} {record.status}', colour, 'bold')}{took}: {record.pipeline} {record.version}",
        f"run      {record.run_id}",
        f"started  {when(record.created_at)}",
    ]
    lines += [f"goes on with run {record.based_on}"] if record.based_on else []
    lines += [f"trace    {run.trace.split('-')[1]}"] if run.trace else []
    lines += [f"file     {shown_path(record.file)}"] if record.file else []
    lines += [f"used     {usage_words(run.summary.usage)}"] if run.summary.usage else []
    lines += [f"measured {_measured(run.measured)}"] if run.measured else []
    if record.status == "interrupted":
        lines.append(f"The process that ran it has gone without ending it. Go on with it: fm resume {record.run_id}")
    if record.status == "paused":
        lines.append(f"Go on with it: fm resume {record.run_id}")
    lines += ["", *_stages(run.summary, sign, paint)]
    failure = record.failure
    if failure:
        where = f" in {place_of(failure['stage'])}" if failure.get("stage") else ""
        code = f"error[{failure['code']}]"
        lines += ["", f"{paint(code, 'red', 'bold')}{where}: {failure['message']}"]
    if record.status == "succeeded":
        from flowmason_ray.cli.terminal import json_bytes

        output = run.output_missing or shortened(json_bytes(presentable(run.output)).decode(), 2000)
        lines += ["", f"output   {output}"]
    return "\n".join(lines) + "\n"


def _measured(measured: Mapping[str, float]) -> str:
    told = [f"{path} {duration(typical_s)}" for path, typical_s in list(measured.items())[:MEASURED_IN_FULL]]
    more = len(measured) - len(told)
    return f"before: {', '.join(told)}" + (f" and {counted(more, 'stage')} more" if more else "")


def _stages(summary: Summary, sign: dict[str, str], paint: Paint) -> list[str]:
    groups: dict[str, list[tuple[str, StageSummary]]] = {}
    for path, stage in summary.stages.items():
        groups.setdefault(_POSITION.sub("[*]", path), []).append((path, stage))
    names = [p for key, each in groups.items() for p in ([q for q, _ in each] if len(each) <= ITEMS_IN_FULL else [key])]
    width = min(60, max((len(name) for name in names), default=0))
    pad = max((9, *(len(stage.word) for stage in summary.stages.values())))
    lines: list[str] = []
    for key, each in groups.items():
        if len(each) <= ITEMS_IN_FULL:
            lines += [_stage(path, stage, (pad, width), sign, paint) for path, stage in each]
        else:
            lines.append(_group(key, [stage for _, stage in each], (pad, width), sign, paint))
    return lines


def _stage(path: str, stage: StageSummary, widths: tuple[int, int], sign: dict[str, str], paint: Paint) -> str:
    pad, width = widths
    status = paint(f"{sign[stage.word]} {stage.word:{pad}}", COLOURS[stage.word])
    if stage.reason is not None:
        return f"{status}  {path.ljust(width)}  {REASONS.get(stage.reason, stage.reason)}"
    if stage.reused is not None and stage.word == "reused":
        return f"{status}  {path.ljust(width)}  {reused_from(stage.reused)}"
    text = f"{status}  {path.ljust(width)}  {duration(stage.duration_s):>8}"
    if stage.attempts > 1:
        text += f"  {stage.attempts} attempts"
    if stage.failure is not None:
        text += f"  {shortened(stage.failure.message, 160)} [{stage.failure.code}]"
    return text


def _group(key: str, stages: list[StageSummary], widths: tuple[int, int], sign: dict[str, str], paint: Paint) -> str:
    counts: dict[str, int] = {}
    for stage in stages:
        counts[stage.word] = counts.get(stage.word, 0) + 1
    pad, width = widths
    order = ("running", "paused", "interrupted", "failed", "cancelled", "fallback", "succeeded", "reused", "skipped")
    worst = next(s for s in order if s in counts)
    told = ", ".join(f"{number:,} {status}" for status, number in counts.items())
    took = duration(sum(stage.duration_s for stage in stages))
    retried = sum(stage.attempts > 1 for stage in stages)
    again = f", {retried:,} in more than one attempt" if retried else ""
    text = f"{counted(len(stages), 'instance')}: {told}{again}"
    return f"{paint(f'{sign[worst]} {worst:{pad}}', COLOURS[worst])}  {key.ljust(width)}  {took:>8}  {text}"
