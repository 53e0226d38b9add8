"""Engines that answer many requests at once, and the provider in front of one.

An engine takes requests whenever they come and works on all of them in every step. So it is worth most when everybody asks the same one: in-process
it lives in this process (`vllm_engine`), on Ray in an actor that all workers ask (`engine.executors.ray_engines`). The provider is the
same for both. This module knows neither, and is imported without either.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass, fields
from typing import Any, Protocol
from uuid import uuid4

from flowmason_ray.engine.models import FinishReason, Usage
from flowmason_ray.errors import PermanentError, nearest
from flowmason_ray.llm import errors
from flowmason_ray.llm.base import Opening, Progress, Reply, Request, Unable
from flowmason_ray.llm.in_words import answered, conversation, wants_tools, with_tools
from flowmason_ray.llm.structured import with_instruction

KIND = "A model under vLLM"
ABORT_WAIT_S = 0.15
"""How long an engine is waited for to say what a stopped answer has used: less than the hub waits (`hub.STOP_WAIT_S`)."""
STRUCTURED = {"backend": "guidance", "disable_any_whitespace": True}
"""How answers are held to a schema unless the options say otherwise: the backend that knows most keywords (vLLM 0.32), and no blanks between
values, because small models write nothing else once they are allowed to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A request as an engine takes it."""

    model: str
    conversation: list[dict[str, str]]
    sampling: dict[str, Any]
    """By the engine's names; what nobody has said is missing."""
    max_tokens: int | None
    schema: Mapping[str, Any] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """More of an answer."""

    text: str
    usage: Usage
    """Of the request so far."""
    finish: FinishReason | None = None
    """Why it ended; None: it goes on."""
    first_token_s: float | None = None
    """From the engine's taking of the request to its first token, where the pieces do not show it."""


class Engine(Protocol):
    """Answers requests. Errors are `StageError`s."""

    def pieces(self, asked: Asked, request_id: str, *, live: bool) -> AsyncGenerator[Piece]:
        """Answer a request. `live`: as it grows; else the whole answer may come as one piece."""
        ...

    async def ready(self, remark: Callable[[str], None]) -> None:
        """Wait for the engine to be able to answer. `remark` tells whoever runs the pipeline why that takes long."""
        ...

    async def abort(self, request_id: str) -> Usage | None:
        """Stop answering; return what that has used. None: it is over, or was never begun."""
        ...

    async def count_tokens(self, asked: Asked) -> int:
        """Return how many tokens the model would read."""
        ...

    async def embed(self, texts: Sequence[str], dimensions: int | None) -> tuple[list[tuple[float, ...]], int]:
        """Return a vector for each text, and how many tokens were read."""
        ...

    async def close(self) -> None:
        """Give everything back."""
        ...


class EngineProvider(Unable):
    """Answers with an engine (`llm.base.Provider`)."""

    kind = KIND

    def __init__(self, opening: Opening, engine: Engine) -> None:
        self._opening = opening
        self._engine = engine

    async def ready(self, remark: Callable[[str], None], operation: str) -> None:
        """Wait for the engine, which may load a model for minutes."""
        await self._engine.ready(remark)

    async def generate(self, request: Request, progress: Progress) -> Reply:
        """Answer one request."""
        self._check(request.model)
        asked = asked_of(request)
        # What is asked for as data about tools is no text for people.
        live = progress.watched and not wants_tools(request)
        progress.exact = True
        request_id = uuid4().hex
        text, finish = "", None
        try:
            async with aclosing(self._engine.pieces(asked, request_id, live=live)) as pieces:
                async for piece in pieces:
                    _take(progress, piece, live=live)
                    text, finish = text + piece.text, piece.finish
        except asyncio.CancelledError:
            with suppress(Exception):  # what was used is worth knowing, and not worth more than that
                used = await asyncio.wait_for(self._engine.abort(request_id), ABORT_WAIT_S)
                progress.usage = used or progress.usage
            raise
        if finish is None:
            raise errors.interrupted(self._opening.name, "the engine gave it up")
        return answered(request, text, finish)

    async def count_tokens(self, request: Request) -> int:
        """Count them: they are ours."""
        self._check(request.model)
        return await self._engine.count_tokens(asked_of(request))

    async def embed(
        self, model: str, texts: Sequence[str], dimensions: int | None, progress: Progress
    ) -> list[tuple[float, ...]]:
        """Return a vector for each text."""
        self._check(model)
        vectors, total = await self._engine.embed(texts, dimensions)
        progress.usage, progress.exact = Usage(input_tokens=total), True
        return vectors

    async def close(self) -> None:
        """Give the engine's memory back, if it is ours."""
        await self._engine.close()

    def _check(self, model: str) -> None:
        """Refuse to answer as another model than the one that was loaded."""
        if model not in self._opening.models:
            message = (
                f"Provider {self._opening.name!r} runs the model {self._opening.model_path!r} and no other; {model!r} was asked. "
                "Describe another provider for it."
            )
            raise PermanentError(message, code="model_not_found")


def _take(progress: Progress, piece: Piece, *, live: bool) -> None:
    progress.usage = piece.usage
    if piece.first_token_s is not None and progress.first_token_s is None:
        progress.first_token_s = piece.first_token_s
    if piece.usage.output_tokens and progress.first_token_s is None:
        progress.first()
    if live:
        progress.text(piece.text)
    else:
        progress.seen_chars += len(piece.text)


def asked_of(request: Request) -> Asked:
    """Return a request as an engine takes it.

    Raises:
        PermanentError: it holds pictures or recordings.
    """
    request = with_tools(request, closed=True)
    if request.schema is not None:
        request = with_instruction(request)
    given = {
        "temperature": request.temperature,
        "top_p": request.top_p,
        "seed": request.seed,
        "stop": [each for each in request.stop if each] or None,
    }
    return Asked(
        model=request.model,
        conversation=conversation(request, KIND),
        sampling={name: value for name, value in given.items() if value is not None},
        max_tokens=request.max_tokens,
        schema=request.schema,
    )


def sampling_of(asked: Asked, defaults: Mapping[str, Any], room: int) -> dict[str, Any]:
    """Return the sampling parameters of a request.

    Args:
        asked: The request.
        defaults: What the model's own files recommend.
        room: How many tokens there is room for after the prompt, at least 1.
    """
    wanted = asked.max_tokens or defaults.get("max_tokens") or room
    return {**defaults, **asked.sampling, "max_tokens": min(int(wanted), room)}


def finish_of(reason: str, stop_reason: object) -> FinishReason | None:
    """Return why an answer ended, from what vLLM says; None: it did not end by itself (`abort`, `error`)."""
    if reason == "stop":  # with the text that was met; without one, or with a token's number, the model was done
        return "stop_sequence" if isinstance(stop_reason, str) else "stop"
    if reason == "repetition":
        return "stop"
    return "length" if reason == "length" else None


def arguments_of(opening: Opening, known: type) -> dict[str, Any]:
    """Return what vLLM's engine is made with.

    Args:
        opening: The provider's settings.
        known: The dataclass that takes them.

    Raises:
        PermanentError: no model is named, or an option does not exist.
    """
    if opening.model_path is None:
        message = (
            f"Model provider {opening.name!r} has neither 'model_path' nor 'default_model': say which model it runs."
        )
        raise PermanentError(message, code="provider_not_configured")
    names = {field.name for field in fields(known)}
    for name in opening.options:
        if name not in names:
            near = nearest(name, names)
            hint = f" Did you mean {near!r}?" if near else ""
            message = f"Model provider {opening.name!r}: vLLM's engine has no option {name!r}.{hint}"
            raise PermanentError(message, code="provider_not_configured")
    made: dict[str, Any] = {
        "model": opening.model_path,
        "structured_outputs_config": STRUCTURED,
        "disable_log_stats": True,  # we count ourselves
    }
    if opening.options.get("runner") != "pooling":
        made["enable_prefix_caching"] = True
    if opening.context_tokens is not None:
        made["max_model_len"] = opening.context_tokens
    if opening.key is not None:
        made["hf_token"] = opening.key
    return {**made, **opening.options}
