"""What a run used of models, told apart by stage or by model: read from its log, failed attempts included."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from flowmason_ray.cli.terminal import columns, painter
from flowmason_ray.cli.usage_words import money, usage_words
from flowmason_ray.cli.words import duration
from flowmason_ray.engine.usage import Totals, entries_of

if TYPE_CHECKING:
    from flowmason_ray.engine.run_log import RunStore

_POSITION = re.compile(r"\[\d+\]")


@dataclass(slots=True)
class _Group:
    """The sums of one stage, or of one model."""

    totals: Totals = field(default_factory=Totals)
    duration_s: float = 0.0
    """What the attempts took in all."""


@dataclass(slots=True, kw_only=True)
class Costs:
    """What a run used."""

    run_id: str
    by: str
    total: Totals = field(default_factory=Totals)
    groups: dict[str, _Group] = field(default_factory=dict[str, _Group])


async def read_costs(store: RunStore, run: str, by: str) -> Costs:
    """Read what a run used.

    Raises:
        RunNotFound: there is no such run.
    """
    record = await store.find(run)
    costs = Costs(run_id=record.run_id, by=by)
    async for recorded in store.read(record.run_id):
        event = recorded.event
        usage = event.get("usage")
        if not isinstance(usage, Mapping):
            continue
        duration_s = float(event.get("duration_s") or 0.0)
        for entry in entries_of(usage):  # pyright: ignore[reportUnknownArgumentType]  # JSON
            costs.total.add(entry)
            name = f"{entry.get('provider')}/{entry.get('model')}"
            if by == "stage":
                name = _POSITION.sub("[*]", str(event.get("path")))
            group = costs.groups.setdefault(name, _Group())
            group.totals.add(entry)
            group.duration_s += duration_s
            duration_s = 0.0  # counted once, whatever many models the attempt asked
    return costs


def cost_document(costs: Costs) -> dict[str, Any]:
    """Return the document of `fm runs cost --json`. `framework_s`: what attempts took that was not the model's time."""
    groups = {name: _facts(group, costs.by) for name, group in costs.groups.items()}
    return {"run_id": costs.run_id, "total": costs.total.to_json(), f"by_{costs.by}": groups}


def _facts(group: _Group, by: str) -> dict[str, Any]:
    facts = group.totals.to_json()
    if by == "stage":
        model_s, wait_s = group.totals.times.get("model_s", 0.0), group.totals.times.get("wait_s", 0.0)
        facts["attempts_s"] = round(group.duration_s, 6)
        facts["framework_s"] = round(max(0.0, group.duration_s - model_s - wait_s), 6)
    return facts


def cost_page(costs: Costs) -> str:
    """Return the page."""
    if not costs.groups:
        return "The run asked no model.\n"
    of_sound = [name for name in _OF_SOUND if costs.total.counts.get(name) or costs.total.times.get(name)]
    titles = (_OF_SOUND[name] for name in of_sound)
    header = (costs.by.upper(), "CALLS", "FAILED", "IN", "CACHED", "OUT", *titles, "MODEL", "WAITED", "COST")
    rows = [_row(name, group.totals, of_sound) for name, group in costs.groups.items()]
    lines = columns(rows, header=header, paint=painter(sys.stdout), width=None)
    return "\n".join([*lines, "", f"in all: {usage_words(costs.total.to_json())}"]) + "\n"


_OF_SOUND = {"audio_s": "LISTENED", "characters": "SPOKEN"}
"""Columns that are shown when a service counts these."""


def _row(name: str, totals: Totals, of_sound: Sequence[str]) -> tuple[str, ...]:
    counts, times = totals.counts, totals.times
    numbers = (
        f"{counts.get(key, 0):,}" for key in ("calls", "failed_calls", "input_tokens", "cached_tokens", "output_tokens")
    )
    sound = (duration(times.get(each, 0.0)) if each in times else f"{counts.get(each, 0):,}" for each in of_sound)
    price = money(totals.cost_usd)
    if totals.cost_usd is not None and (unpriced := counts.get("unpriced_calls")):
        price += f" + {unpriced:,} of unknown price"
    return (name, *numbers, *sound, duration(times.get("model_s", 0.0)), duration(times.get("wait_s", 0.0)), price)
