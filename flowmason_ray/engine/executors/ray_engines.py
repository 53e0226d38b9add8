"""Engines that all workers of a driver ask: one actor for each provider, so that a loop over many workers is answered in common batches.

Three processes have a part in it:

- The **driver** makes a keeper when a run begins whose project has such a provider, and ends it when the last such run of the process is over.
- The **keeper**, an actor that occupies nothing, makes an engine's actor when a worker first asks for it, with the resources that the provider
  says, and another one when that has gone. Ray ends an actor with its owner: so engines end with the keeper, the keeper with the driver, and neither
  depends on the worker that asked first.
- **Workers** ask the engine's actor directly (`ray_engine_asking`).
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from time import monotonic
from typing import Any
from uuid import uuid4

import ray
from ray.exceptions import RayError

from flowmason_ray.engine.executor import RunInfo
from flowmason_ray.engine.executors.capacity import ACCELERATOR, MIB, Demand, Node, for_ray, missing, nodes_from
from flowmason_ray.engine.executors.ray_engine_asking import id_of, result_of
from flowmason_ray.engine.models import Usage
from flowmason_ray.errors import PermanentError
from flowmason_ray.llm.engines import Asked, Piece
from flowmason_ray.llm.opening import module_of, opening_of
from flowmason_ray.settings import ProviderSettings

_ray: Any = ray  # under this name without types: those of Ray are partly unknown

PIECE_S = 0.02
"""How often an answer that somebody watches is sent on: as often as eyes notice. What comes meanwhile is put together."""
AT_ONCE = 10_000
"""Calls that an engine's actor takes at the same time: its queue is the engine's own, and stopping must get through."""
ROOM_S = 15.0
"""How long an engine waits for cores of its own. Stages that wait for it may have all that there are, and would never give them back: then it runs
without, because only GPUs must be its own."""
LOOK_AGAIN_S = 2.0
"""How often it is looked at whether a node has come that is waited for."""
CLOSE_S = 8.0
"""How long engines are given to end by themselves: they have processes of their own, whose memory is to be free when the run is over."""


# -- in the engine's actor ----------------------------------------------------------------------------------------------


class _Host:
    """Has an engine in it. The answers are those of `llm.engines.Engine`."""

    def __init__(self) -> None:
        self._engine: Any = None

    async def ready(self, name: str, settings: dict[str, Any], key: str | None, project_dir: str) -> None:
        """Start the engine, unless it runs."""
        if self._engine is None:
            read = ProviderSettings.model_validate(settings)
            module = module_of(name, read)
            self._engine = module.VllmEngine(opening_of(name, read, key, Path(project_dir)))
        await self._engine.ready(_unheard)

    async def pieces(self, asked: Asked, request_id: str) -> AsyncGenerator[Piece]:
        """Answer as it grows. While this sleeps, the engine puts together what comes."""
        async for piece in self._engine.pieces(asked, request_id, live=True):
            yield piece
            if piece.finish is None:
                await asyncio.sleep(PIECE_S)

    async def whole(self, asked: Asked, request_id: str) -> Piece:
        """Answer as one piece."""
        text, last = "", Piece(text="", usage=Usage())
        async for piece in self._engine.pieces(asked, request_id, live=False):
            text, last = text + piece.text, piece
        return Piece(text=text, usage=last.usage, finish=last.finish, first_token_s=last.first_token_s)

    async def abort(self, request_id: str) -> Usage | None:
        """Stop answering."""
        return await self._engine.abort(request_id)

    async def count_tokens(self, asked: Asked) -> int:
        """Count what the model would read."""
        return await self._engine.count_tokens(asked)

    async def embed(self, texts: list[str], dimensions: int | None) -> tuple[list[tuple[float, ...]], int]:
        """Make vectors."""
        return await self._engine.embed(texts, dimensions)

    async def facts(self) -> dict[str, int]:
        """Return what it has done so far, for whoever looks at the cluster."""
        import os

        engine = self._engine
        done = {} if engine is None else {"requests": engine.requests, "most_at_once": engine.most_at_once}
        return {"pid": os.getpid(), **done}

    async def close(self) -> None:
        """End the engine's processes."""
        if self._engine is not None:
            await self._engine.close()


def _unheard(text: str) -> None:
    """Workers say themselves that they wait."""


# -- in the keeper ------------------------------------------------------------------------------------------------------


class _Keeper:
    """Owns the engines' actors. Its calls about the same engine are answered one after the other."""

    def __init__(self) -> None:
        self._hosts: dict[str, Any] = {}
        self._said: dict[str, str | None] = {}
        """By engine: what whoever asks it should know."""
        self._turns: dict[str, asyncio.Lock] = {}
        """By engine: one that waits for a node keeps nobody from another."""

    async def host(
        self, name: str, digest: str, settings: dict[str, Any], gone: str | None, wait_s: float
    ) -> tuple[Any, str | None]:
        """Return the actor of an engine, made if there is none, and what whoever asks should know.

        Args:
            name: The provider's name, for errors.
            digest: What identifies provider, key and project.
            settings: The provider's.
            gone: The id of the actor that whoever asks has found dead.
            wait_s: How long whoever asks waits for a node that the cluster does not have yet.

        Raises:
            PermanentError: no node could ever give what it needs (code `infeasible_resources`).
        """
        async with self._turns.setdefault(digest, asyncio.Lock()):
            host = self._hosts.get(digest)
            if host is not None and gone != id_of(host):
                return host, self._said[digest]
            if host is not None:
                with suppress(RayError):
                    _ray.kill(host)
            demand = demand_of(ProviderSettings.model_validate(settings), await self._nodes())
            if wait_s <= 0:
                self._check(name, demand, await self._nodes())
            # What waits is what an autoscaler sees.
            self._hosts[digest], self._said[digest] = _ray.remote(_Host).options(**options_of(demand)).remote(), None
            if wait_s > 0:
                await self._node(name, digest, demand, wait_s)
            if demand.amounts["CPU"] > 0 and not await self._begun(digest):
                self._without_cores(name, digest, demand)
            return self._hosts[digest], self._said[digest]

    async def _begun(self, digest: str) -> bool:
        """Tell whether an actor has found room, after waiting for a while."""
        beginning = asyncio.wrap_future(self._hosts[digest].facts.remote().future())
        done, _ = await asyncio.wait([beginning], timeout=ROOM_S)
        beginning.add_done_callback(_seen)
        return bool(done)

    def _without_cores(self, name: str, digest: str, demand: Demand) -> None:
        """Make an actor again that asks for no cores."""
        with suppress(RayError):
            _ray.kill(self._hosts[digest])
        wanted = demand.amounts["CPU"]
        options = {**options_of(demand), "num_cpus": 0}
        self._hosts[digest] = _ray.remote(_Host).options(**options).remote()
        self._said[digest] = (
            f"The engine of model provider {name!r} is to have {wanted:g} CPU, which are not free: it runs without cores of its "
            "own. Stages that wait for it may occupy them; let fewer run at a time ('max_parallel'), or ask for less."
        )

    async def facts(self) -> list[dict[str, int]]:
        """Return what each engine has done so far."""
        return list(await asyncio.gather(*(host.facts.remote() for host in self._hosts.values())))

    async def close(self) -> None:
        """End the engines' own processes; Ray ends their actors with this one."""
        closing = [asyncio.wrap_future(host.close.remote().future()) for host in self._hosts.values()]
        if closing:
            await asyncio.wait(closing, timeout=CLOSE_S)

    async def _nodes(self) -> list[Node]:
        return nodes_from(await asyncio.to_thread(_ray.nodes))

    def _check(self, name: str, demand: Demand, nodes: Sequence[Node]) -> None:
        found = missing(demand, nodes)
        if found is not None:
            message = f"The engine of model provider {name!r} can never run on this cluster. {found}"
            raise PermanentError(message, code="infeasible_resources")

    async def _node(self, name: str, digest: str, demand: Demand, wait_s: float) -> None:
        until = monotonic() + wait_s
        while missing(demand, nodes := await self._nodes()) is not None:
            if monotonic() >= until:
                with suppress(RayError):
                    _ray.kill(self._hosts.pop(digest))
                self._check(name, demand, nodes)
            await asyncio.sleep(LOOK_AGAIN_S)


def _seen(done: asyncio.Future[Any]) -> None:
    """Look at how something ended that is of no interest any more, or asyncio complains."""
    if not done.cancelled():
        done.exception()


def demand_of(settings: ProviderSettings, nodes: Sequence[Node]) -> Demand:
    """Return what an engine's actor needs on one node."""
    asked = settings.resources
    gpus = None if asked is None else asked.num_gpus
    if gpus is None:
        parts = [settings.options.get(f"{kind}_parallel_size") for kind in ("tensor", "pipeline")]
        wanted = 1
        for part in parts:
            wanted *= part if isinstance(part, int) else 1
        gpus = wanted if any(node.resources.get("GPU", 0) > 0 for node in nodes) else 0
    amounts = {"CPU": 0.0 if asked is None else float(asked.num_cpus), "GPU": float(gpus)}
    if asked is not None and asked.memory_mib is not None:
        amounts["memory"] = asked.memory_mib * MIB
    if asked is not None and asked.accelerator_type is not None:
        amounts[f"{ACCELERATOR}{asked.accelerator_type}"] = 0.001
    return Demand(amounts=amounts, labels={} if asked is None else asked.labels)


def options_of(demand: Demand) -> dict[str, Any]:
    """Return the options of an engine's actor."""
    options: dict[str, Any] = {"num_cpus": demand.amounts["CPU"], "max_concurrency": AT_ONCE}
    if demand.amounts["GPU"]:
        options["num_gpus"] = demand.amounts["GPU"]
    if "memory" in demand.amounts:
        options["memory"] = demand.amounts["memory"]
    kinds = [name.removeprefix(ACCELERATOR) for name in demand.amounts if name.startswith(ACCELERATOR)]
    if kinds:
        options["accelerator_type"] = kinds[0]
    if demand.labels:
        options["label_selector"] = for_ray(demand.labels)
    return options


# -- in the driver ------------------------------------------------------------------------------------------------------

_lock = threading.Lock()
_users: set[int] = set()
_keepers: list[tuple[str, Any]] = []
"""The one that is there while anybody uses it."""


class Engines:
    """One run's part in the engines of its driver."""

    def __init__(self) -> None:
        self._entered = False

    def open(self, run: RunInfo) -> str | None:
        """Begin to use engines, if the run may; return the name of their keeper."""
        if run.models is None or not _may_use(run.models.packed()):
            return None
        with _lock:
            if not _keepers:
                name = f"flowmason-engines-{uuid4().hex[:16]}"
                made = _ray.remote(_Keeper).options(name=name, num_cpus=0, max_concurrency=AT_ONCE, max_restarts=-1)
                _keepers.append((name, made.remote()))
            _users.add(id(self))
            self._entered = True
            return _keepers[0][0]

    async def close(self) -> None:
        """Stop using them. The last one ends them, and waits a moment for their memory to be free."""
        if not self._entered:
            return
        self._entered = False
        with _lock:
            _users.discard(id(self))
            if _users:
                return
            _, keeper = _keepers.pop()
        with suppress(RayError, TimeoutError):
            await asyncio.wait_for(result_of(keeper.close.remote()), CLOSE_S + 1)
        with suppress(RayError):
            _ray.kill(keeper)


def _may_use(packed: Mapping[str, Any]) -> bool:
    return any(provider["type"] == "vllm" for provider in packed["providers"].values())
