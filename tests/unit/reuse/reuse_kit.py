"""What the tests of reuse share: components that count their calls, and runs in a store in memory."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any
from zlib import crc32

import orjson
from pydantic import BaseModel

from flowmason_ray.api import PreparedRun, Reuse, RunResult
from flowmason_ray.components.base import node, operator
from flowmason_ray.engine.component import Context
from flowmason_ray.engine.events import Event, StageReused, StageStarted
from flowmason_ray.engine.reuse import InDoubt
from flowmason_ray.resuming import EditedRun, prepare_edited
from flowmason_ray.spec.loader import load_pipeline_data
from flowmason_ray.stores.memory import MemoryRunStore

CALLS: list[tuple[str, str]] = []
"""(path, idempotency key) of every call, in order; `World` clears it."""


class Given(BaseModel):
    c: Any = None
    see: Any = None
    boom: bool = False
    code: str = "component_error"


class Made(BaseModel):
    a: Any
    b: int
    xs: list[int] = []


def work(input: Given, context: Context) -> Made:
    CALLS.append((context.path, context.idempotency_key))
    if input.boom:
        raise ValueError("told to fail")
    seen = crc32(orjson.dumps([input.c, input.see], option=orjson.OPT_SORT_KEYS))
    return Made(a=seen, b=seen % 3, xs=[seen % 5, seen % 7, seen % 11])


@operator(name="calc", effect="pure", cost="trivial")
class Calc:
    """Returns a sum over what it is given."""

    Input, Output = Given, Made

    async def execute(self, input: Given, context: Context) -> Made:
        return work(input, context)


@operator(name="pay", effect="effectful", cost="trivial")
class Pay:
    """The same, with an effect."""

    Input, Output = Given, Made

    async def execute(self, input: Given, context: Context) -> Made:
        return work(input, context)


@operator(name="put", effect="idempotent", cost="trivial")
class Put:
    """The same, idempotent."""

    Input, Output = Given, Made

    async def execute(self, input: Given, context: Context) -> Made:
        return work(input, context)


@node(name="ask_model", cost="trivial")
class AskModel:
    """The same, as if a model had answered."""

    Input, Output = Given, Made

    async def execute(self, input: Given, context: Context) -> Made:
        return work(input, context)


COMPONENTS = (Calc, Pay, Put, AskModel)


def calc(id: str, c: Any = 0, see: Any = None, component: str = "calc", **keys: Any) -> dict[str, Any]:
    """Return a stage; `boom=True` makes it fail."""
    config: dict[str, Any] = {"c": c, **({"see": see} if see is not None else {})}
    if keys.pop("boom", False):
        config["boom"] = True
    return {"id": id, "component_type": component, "config": config, **keys}


def foreach(id: str, items: Any, body: str, collect: Any = None, **config: Any) -> dict[str, Any]:
    """Return a loop; `body` is ids with spaces between."""
    made = {"items": items, "loop_stages": body.split(), **config}
    if collect is not None:
        made["collect"] = collect
    return {"id": id, "component_type": "foreach", "config": made}


class World:
    """A store with runs in it."""

    def __init__(self) -> None:
        self.store = MemoryRunStore()
        self.events: list[Event] = []
        CALLS.clear()

    def run(
        self,
        stages: Sequence[Mapping[str, Any]],
        input: Mapping[str, Any] | None = None,
        *,
        reuse: Reuse | None = None,
        **keys: Any,
    ) -> RunResult:
        """Run a pipeline and forget the calls of what ran before."""
        CALLS.clear()
        self.events.clear()
        prepared = PreparedRun(
            pipeline(stages, **keys),
            input,
            store=self.store,
            components=COMPONENTS,
            observers=[self.events.append],
            reuse=reuse,
        )
        return asyncio.run(prepared.run())

    def prepare(
        self,
        run_id: str,
        stages: Sequence[Mapping[str, Any]],
        *,
        force: Sequence[str] = (),
        in_doubt: InDoubt = "ask",
        **keys: Any,
    ) -> EditedRun:
        """Make a run ready that goes on with another."""
        loaded = load_pipeline_data(pipeline(stages, **keys))
        return asyncio.run(
            prepare_edited(
                self.store,
                run_id,
                loaded,
                reuse=Reuse(force=tuple(force)),
                in_doubt=in_doubt,
                observers=[self.events.append],
                components=COMPONENTS,
            )
        )

    def go_on(self, run_id: str, stages: Sequence[Mapping[str, Any]], **keys: Any) -> RunResult:
        """Go on with a run under an edited pipeline."""
        CALLS.clear()
        self.events.clear()
        return asyncio.run(self.prepare(run_id, stages, **keys).run())

    @property
    def called(self) -> list[str]:
        """The paths of the calls of the last run, sorted."""
        return sorted(path for path, _ in CALLS)

    @property
    def keys(self) -> dict[str, str]:
        """The idempotency keys of the last run's calls."""
        return dict(CALLS)

    @property
    def reused(self) -> dict[str, Mapping[str, Any]]:
        """Where the results of the last run's stages come from, by path."""
        return {e.path: e.source for e in self.events if isinstance(e, StageReused)}

    @property
    def fingerprints(self) -> dict[str, str | None]:
        """The fingerprints of the last run, by path."""
        return {e.path: e.fingerprint for e in self.events if isinstance(e, StageStarted)}


def pipeline(stages: Sequence[Mapping[str, Any]], **keys: Any) -> dict[str, Any]:
    """Return a pipeline of these stages."""
    return {"name": "p", "stages": [dict(stage) for stage in stages], **keys}
