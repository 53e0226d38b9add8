"""The way of a worker to an engine in an actor (`ray_engines`): asks the keeper for it, asks it directly, and stops what nobody waits for any more.

An actor that dies in the middle of an answer is a temporary error, and the next request asks the keeper for another one. Keys travel in calls, not in
what an actor is made with: Ray keeps and shows that.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from flowmason_ray.engine.models import Usage
from flowmason_ray.errors import StageError
from flowmason_ray.llm import errors
from flowmason_ray.llm.base import Provider
from flowmason_ray.llm.engines import Asked, EngineProvider, Piece
from flowmason_ray.llm.opening import digest_of, identity_of, opening_of
from flowmason_ray.settings import ProviderSettings

_ray: Any = ray  # under this name without types: those of Ray are partly unknown

STARTING_S = 60.0
"""After how long whoever waits for an engine is told so."""


def id_of(host: Any) -> str:
    """Return what identifies an actor."""
    return str(host._actor_id.hex())


async def result_of(reference: Any) -> Any:
    """Wait for what a reference stands for, on any event loop."""
    return await asyncio.wrap_future(reference.future())


class SharedEngines:
    """The engines behind a keeper (`llm.gateway.SharedEngines`)."""

    def __init__(self, name: str, wait_s: float) -> None:
        """
        Args:
            name: The keeper's.
            wait_s: How long the run waits for a node that the cluster does not have yet.
        """
        self._keeper = name
        self._wait_s = wait_s
        self.name = f"{name} {wait_s:g}"  # runs that wait for different times do not share the way

    def provider(self, name: str, settings: ProviderSettings, key: str | None, project_dir: Path) -> Provider:
        """Return the way to one."""
        opening = opening_of(name, settings, key, project_dir)
        return EngineProvider(opening, RemoteEngine(self._keeper, name, settings, key, project_dir, self._wait_s))


class RemoteEngine:
    """An engine in an actor (`llm.engines.Engine`). Belongs to one event loop."""

    def __init__(
        self,
        keeper: str,
        name: str,
        settings: ProviderSettings,
        key: str | None,
        project_dir: Path,
        wait_s: float,
    ) -> None:
        self._keeper = keeper
        self._wait_s = wait_s
        self._name = name
        self._settings = settings.model_dump(mode="json")
        self._key = key
        self._project_dir = str(project_dir)
        self._digest = digest_of(identity_of(settings, key)) + str(project_dir)
        self._host: Any = None
        self._ready = ""
        """The id of the actor whose engine has been started."""
        self._gone: str | None = None
        self._said: str | None = None

    async def ready(self, remark: Callable[[str], None]) -> None:
        """Wait for the engine."""
        if self._host is not None and self._ready == id_of(self._host):
            return
        reaching = asyncio.ensure_future(self._reach())
        try:
            await asyncio.wait([reaching], timeout=STARTING_S)
            if not reaching.done():
                remark(
                    f"The engine of model provider {self._name!r} is still being started, or waits for room on the cluster."
                )
            await reaching
            if self._said is not None:
                remark(self._said)
        finally:
            reaching.cancel()

    async def pieces(self, asked: Asked, request_id: str, *, live: bool) -> AsyncGenerator[Piece]:
        """Answer a request."""
        host = await self._reach()
        if not live:
            yield await self._of(host, host.whole.remote(asked, request_id))
            return
        answers = host.pieces.options(num_returns="streaming").remote(asked, request_id)
        try:
            async for reference in answers:
                yield await self._of(host, reference)
        except RayError as exc:
            raise self._failed(host, exc) from exc

    async def abort(self, request_id: str) -> Usage | None:
        """Stop answering; return what that has used."""
        if self._host is None:
            return None
        return await self._of(self._host, self._host.abort.remote(request_id))

    async def count_tokens(self, asked: Asked) -> int:
        """Count what the model would read."""
        host = await self._reach()
        return await self._of(host, host.count_tokens.remote(asked))

    async def embed(self, texts: Sequence[str], dimensions: int | None) -> tuple[list[tuple[float, ...]], int]:
        """Make vectors."""
        host = await self._reach()
        return await self._of(host, host.embed.remote(list(texts), dimensions))

    async def close(self) -> None:
        """Let go of it: it is not ours to end."""
        self._host = None

    async def _reach(self) -> Any:
        """Return the actor, with its engine started."""
        if self._host is None:
            try:
                keeper = _ray.get_actor(self._keeper)
                asked = keeper.host.remote(self._name, self._digest, self._settings, self._gone, self._wait_s)
                self._host, self._said = await result_of(asked)
            except (RayError, ValueError) as exc:  # ValueError: there is none of that name, the run is over
                raise _cause(exc) or errors.not_reached(self._name, exc) from exc
        host = self._host
        if self._ready != id_of(host):
            await self._of(host, host.ready.remote(self._name, self._settings, self._key, self._project_dir))
            self._ready = id_of(host)
        return host

    async def _of(self, host: Any, reference: Any) -> Any:
        """Return what an actor answers."""
        try:
            return await result_of(reference)
        except RayError as exc:
            raise self._failed(host, exc) from exc

    def _failed(self, host: Any, exc: RayError) -> StageError:
        """Return the error that a failed call means. An actor that has gone is asked for anew by the next request."""
        cause = _cause(exc)
        if cause is not None:
            return cause
        if self._host is host:
            self._host, self._gone = None, id_of(host)
        return errors.interrupted(self._name, "its engine's process on the cluster has gone")


def _cause(exc: BaseException) -> StageError | None:
    """Return the error that was raised in an actor."""
    cause = getattr(exc, "cause", None) if isinstance(exc, RayTaskError) else None
    return cause if isinstance(cause, StageError) else None
