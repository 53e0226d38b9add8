"""What a caller may ask a run to reuse, checked against its plan."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from flowmason_ray.engine.definitions import scope_prefixes
from flowmason_ray.engine.plan import Plan
from flowmason_ray.engine.reuse import ReuseRules, closure
from flowmason_ray.errors import InvalidCall, nearest

_POSITION = re.compile(r"\[\d+\]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Reuse:
    """What a new run takes from earlier ones. Stages are named by id, or by path (`each/extract`) where ids are not unique."""

    run: str | None = None
    """The run whose results are taken where the same work would be done again: its id, the beginning of it, or `last`."""
    from_stage: str | None = None
    """The stage from which on everything runs again; everything before it is taken from `run`, effects included."""
    force: tuple[str, ...] = ()
    """Stages that run again whatever is known."""
    cache: bool = True
    """Whether cached results are looked up and left."""


def rules_for(asked: Reuse, plan: Plan, *, continues: bool = False) -> ReuseRules:
    """Return the rules that a request means for a plan.

    Raises:
        InvalidCall: a stage is not in the plan, or what is asked contradicts itself.
    """
    if asked.from_stage is not None and asked.run is None and not continues:
        raise InvalidCall("To run from a stage on, say which run has the results of what comes before it: --reuse RUN.")
    force = frozenset(_found(plan, asked.force, "--force"))
    required: frozenset[str] = frozenset()
    if asked.from_stage is not None:
        below, required = closure(plan, _found(plan, [asked.from_stage], "--from"))
        force |= below
    return ReuseRules(continues=continues, force=force, required=required, cache=asked.cache)


def _found(plan: Plan, names: Iterable[str], option: str) -> list[str]:
    """Return the paths that names mean; a path with positions means that one instance."""
    prefixes = list(scope_prefixes(plan))
    paths = [prefixes[scope.index] + stage.id for scope, stage in plan.stages()]
    found: list[str] = []
    for name in names:
        plain = _POSITION.sub("", name)
        if plain in paths:
            found.append(name)
            continue
        same = [path for path in paths if path.rpartition("/")[2] == name]
        if len(same) != 1:
            close = nearest(plain, [*paths, *(path.rpartition("/")[2] for path in paths)])
            hint = f" Did you mean {close!r}?" if close else ""
            several = f" It is ambiguous: {', '.join(same)}." if same else hint
            raise InvalidCall(f"{option} {name!r}: there is no such stage in {plan.name!r}.{several}")
        found += same
    return found
