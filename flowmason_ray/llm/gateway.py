"""What an attempt reaches models through: `context.models` (`engine.models.Models`), over all providers.

Chooses provider and model, puts what the component says over the stage's settings, and hands the call to the hub; what was used
goes into the attempt's account. A `Gateway` is one run's; on Ray it is packed, and made again on the worker.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar

from flowmason_ray.engine.models import (
    Answer,
    Attempt,
    Audio,
    Embeddings,
    Message,
    Prompt,
    Speech,
    Text,
    Tool,
    Transcript,
    Usage,
    user,
)
from flowmason_ray.engine.secrecy import Secret
from flowmason_ray.errors import PermanentError
from flowmason_ray.llm import calling
from flowmason_ray.llm.account import Account
from flowmason_ray.llm.base import Progress, Provider, Reply, Request
from flowmason_ray.llm.choosing import Choices, default_model, own_model
from flowmason_ray.llm.hub import call, the_hub
from flowmason_ray.llm.limits import Limiter
from flowmason_ray.llm.opening import digest_of, identity_of, key_of, open_provider
from flowmason_ray.llm.pricing import CHARACTERS, SECONDS, TOKENS, is_priced
from flowmason_ray.llm.spending import Spending
from flowmason_ray.llm.structured import Expected, repair, unusable
from flowmason_ray.settings import ProviderLimits, ProviderSettings

Sound = TypeVar("Sound", Transcript, Speech)

EMBED_BATCH = 128
"""Texts in one request for vectors: well within what every service takes."""

SharedLimits = Callable[[str, ProviderLimits], Limiter]
"""Makes a limiter that several processes share, by what identifies provider and key."""


class SharedEngines(Protocol):
    """Makes ways to engines that several processes share."""

    @property
    def name(self) -> str:
        """What tells these engines from others of the same settings."""
        ...

    def provider(self, name: str, settings: ProviderSettings, key: str | None, project_dir: Path) -> Provider:
        """Return the way to one."""
        ...


class Gateway:
    """The providers of one run (`engine.models.ModelSource`)."""

    def __init__(
        self,
        choices: Choices,
        keys: Mapping[str, Secret],
        *,
        project_dir: Path,
        budget: Mapping[str, Any] | None = None,
        shared_limits: SharedLimits | None = None,
        shared_engines: SharedEngines | None = None,
    ) -> None:
        """
        Args:
            choices: The providers.
            keys: Their keys, by environment variable.
            project_dir: What model files are relative to.
            budget: What the run may spend (`engine.usage.Budget`). With one in dollars calls whose price is not known are refused.
            shared_limits: Makes limiters that other processes share.
            shared_engines: Makes ways to engines that other processes share; None: they are run in this process.
        """
        self.choices = choices
        self.keys = keys
        self.project_dir = project_dir
        self.budget = dict(budget or {})
        self.priced_only = "max_cost_usd" in self.budget
        self.spending = Spending(self.budget)
        self.shared_limits = shared_limits
        self.shared_engines = shared_engines

    def for_attempt(self, attempt: Attempt, settings: Mapping[str, Any] | None) -> AttemptGateway:
        """Return what one attempt uses."""
        return AttemptGateway(self, attempt, self.choices.settle([]) if settings is None else dict(settings))

    def packed(self) -> dict[str, Any]:
        """Return it as JSON, without keys."""
        choices = self.choices
        return {
            "providers": {name: each.model_dump(mode="json") for name, each in choices.providers.items()},
            "defaults": dict(choices.defaults),
            "built_in": sorted(choices.built_in),
            "unusable": dict(choices.unusable),
            "project_dir": str(self.project_dir),
            "budget": self.budget,
        }


def unpack(
    data: Mapping[str, Any],
    keys: Mapping[str, Secret],
    *,
    shared_limits: SharedLimits | None = None,
    shared_engines: SharedEngines | None = None,
) -> Gateway:
    """Return the gateway that `Gateway.packed` describes."""
    choices = Choices(
        providers={name: ProviderSettings.model_validate(each) for name, each in data["providers"].items()},
        defaults=data["defaults"],
        built_in=frozenset(data["built_in"]),
        unusable=data["unusable"],
    )
    return Gateway(
        choices,
        keys,
        project_dir=Path(data["project_dir"]),
        budget=data["budget"],
        shared_limits=shared_limits,
        shared_engines=shared_engines,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Target:
    """Who is asked."""

    name: str
    settings: ProviderSettings
    model: str
    key: str | None


class AttemptGateway:
    """The models as one attempt sees them (`engine.models.AttemptModels`)."""

    def __init__(self, gateway: Gateway, attempt: Attempt, settings: dict[str, Any]) -> None:
        self._gateway = gateway
        self._attempt = attempt
        self._settings = settings
        self._account = Account()
        self._calls = 0
        self._remarked: set[str] = set()

    @property
    def settings(self) -> Mapping[str, Any]:
        """The stage's effective settings."""
        return self._settings

    @property
    def configured(self) -> bool:
        """Whether a call would know whom to ask."""
        return "provider" in self._settings

    def usage(self) -> dict[str, Any] | None:
        """Return what has been used so far."""
        return self._account.usage()

    # -- text ---------------------------------------------------------------------------------------------------------

    async def generate(
        self,
        prompt: Prompt,
        *,
        system: str | None = None,
        schema: Mapping[str, Any] | None = None,
        tools: Sequence[Tool] = (),
        tool_choice: str | None = None,
        max_tokens: int | None = None,
        temperature: float | None = None,
        top_p: float | None = None,
        stop: Sequence[str] | None = None,
        seed: int | None = None,
        provider: str | None = None,
        model: str | None = None,
        live: bool = True,
    ) -> Answer:
        """Ask a model and wait for its whole answer."""
        target = self._target(provider, model)
        request = self._request(target, prompt, system, max_tokens, temperature, top_p, stop, seed)
        request = replace(request, schema=schema, tools=tuple(tools), tool_choice=tool_choice)
        expected = None if schema is None else Expected(schema)
        on_text = self._attempt.stream if live and self._attempt.watched else None
        return await call(self._generate(target, request, expected, on_text))

    async def stream(
        self,
        prompt: Prompt,
        *,
        system: str | None = None,
        max_tokens: int | None = None,
        temperature: float | None = None,
        top_p: float | None = None,
        stop: Sequence[str] | None = None,
        seed: int | None = None,
        provider: str | None = None,
        model: str | None = None,
    ) -> AsyncIterator[str | Answer]:
        """Ask a model; yield its words as they come, and last of all the whole answer."""
        target = self._target(provider, model)
        request = self._request(target, prompt, system, max_tokens, temperature, top_p, stop, seed)
        loop = asyncio.get_running_loop()
        words: asyncio.Queue[str | None] = asyncio.Queue()

        def on_text(text: str) -> None:
            self._attempt.stream(text)
            if not loop.is_closed():
                loop.call_soon_threadsafe(words.put_nowait, text)

        async def ask() -> Answer:
            try:
                return await self._generate(target, request, None, on_text)
            finally:
                if not loop.is_closed():
                    loop.call_soon_threadsafe(words.put_nowait, None)

        job = the_hub().submit(ask())
        try:
            while (text := await words.get()) is not None:
                yield text
            yield await job.result()
        finally:
            job.stop()

    async def _generate(
        self, target: _Target, request: Request, expected: Expected | None, on_text: Callable[[str], None] | None
    ) -> Answer:
        line = self._line(target, request)
        answered = await calling.generate(line, request, on_text)
        if expected is None or answered.value.tool_calls:
            return _answer(target, answered.value, answered.usage, answered.cost_usd, None)
        read = expected.read(answered.value.text)
        usage, cost = answered.usage, answered.cost_usd
        if read.problem is not None and answered.value.finish_reason != "length":
            again = await calling.generate(line, repair(request, answered.value, read.problem), on_text)
            usage = usage + again.usage
            cost = None if cost is None or again.cost_usd is None else cost + again.cost_usd
            answered, read = again, expected.read(again.value.text)
        if read.problem is not None:
            raise unusable(target.name, target.model, answered.value, read.problem)
        return _answer(target, answered.value, usage, cost, read.data)

    # -- other things -------------------------------------------------------------------------------------------------

    async def embed(
        self,
        texts: Sequence[str],
        *,
        dimensions: int | None = None,
        provider: str | None = None,
        model: str | None = None,
    ) -> Embeddings:
        """Return a vector for each text."""
        empty = next((position for position, text in enumerate(texts) if not text.strip()), None)
        if empty is not None:
            raise PermanentError(f"Text {empty} is empty: there is nothing to make a vector of.", code="invalid_prompt")
        target = self._target(provider, model, embedding=True)

        async def ask() -> Embeddings:
            line = self._line(target, None)
            vectors: list[tuple[float, ...]] = []
            usage, cost, known = Usage(), 0.0, True
            for start in range(0, len(texts), EMBED_BATCH):
                batch = tuple(texts[start : start + EMBED_BATCH])
                answered = await calling.embed(line, target.model, batch, dimensions)
                vectors += answered.value
                usage, known = usage + answered.usage, known and answered.cost_usd is not None
                cost += answered.cost_usd or 0.0
            return Embeddings(
                vectors=tuple(vectors),
                usage=usage,
                provider=target.name,
                model=target.model,
                cost_usd=cost if known else None,
            )

        return await call(ask())

    async def count_tokens(
        self, prompt: Prompt, *, system: str | None = None, provider: str | None = None, model: str | None = None
    ) -> int:
        """Return how many tokens the model would read."""
        target = self._target(provider, model)
        request = Request(model=target.model, messages=_messages(prompt), system=system)

        async def ask() -> int:
            return await self._line(target, None).provider.count_tokens(request)

        return await call(ask())

    async def transcribe(
        self,
        audio: Audio,
        *,
        language: str | None = None,
        prompt: str | None = None,
        provider: str | None = None,
        model: str | None = None,
    ) -> Transcript:
        """Return what is said in a recording."""
        target = self._target(provider, model, counted=(TOKENS, SECONDS))

        def ask(asked: Provider, progress: Progress) -> Awaitable[Transcript]:
            return asked.transcribe(target.model, audio, language, prompt, progress)

        return await call(self._of_sound(target, "transcription", ask))

    async def speak(
        self,
        text: str,
        *,
        voice: str = "alloy",
        format: str = "mp3",
        provider: str | None = None,
        model: str | None = None,
    ) -> Speech:
        """Return a text, spoken."""
        target = self._target(provider, model, counted=(CHARACTERS,))

        def ask(asked: Provider, progress: Progress) -> Awaitable[Speech]:
            return asked.speak(target.model, text, voice, format, progress)

        return await call(self._of_sound(target, "speech", ask))

    async def _of_sound(
        self, target: _Target, operation: str, ask: Callable[[Provider, Progress], Awaitable[Sound]]
    ) -> Sound:
        line = self._line(target, None)
        answered = await calling.other(
            line, target.model, lambda progress: ask(line.provider, progress), operation=operation
        )
        usage, cost = answered.usage, answered.cost_usd
        return replace(answered.value, provider=target.name, model=target.model, usage=usage, cost_usd=cost)

    # -- who is asked, and what ---------------------------------------------------------------------------------------

    def _target(
        self,
        provider: str | None,
        model: str | None,
        *,
        embedding: bool = False,
        counted: Sequence[Usage] = (TOKENS,),
    ) -> _Target:
        own = provider is None or provider == self._settings.get("provider")
        name, settings = self._gateway.choices.provider(provider or self._settings.get("provider"))
        if embedding:
            wanted = model or settings.embedding_model or own_model(settings)
        else:
            wanted = model or (self._settings.get("model") if own else None) or default_model(settings)
        if wanted is None:
            what = "embedding_model" if embedding else "default_model"
            hint = ", or name a model in 'llm_settings' or FLOWMASON_MODEL"
            if embedding:
                from_environment = name in self._gateway.choices.built_in and settings.type == "openai_compatible"
                hint = ", or name a model in FLOWMASON_EMBEDDING_MODEL" if from_environment else ""
            article = "an" if embedding else "a"
            message = f"Which model of provider {name!r} is meant is not said; give it {article} {what!r} in flowmason.json{hint}."
            raise PermanentError(message, code="provider_not_configured")
        if self._gateway.priced_only and not any(is_priced(settings, wanted, each) for each in counted):
            message = (
                f"The run has a budget in dollars, and the price of model {wanted!r} of provider {name!r} is not known. "
                "Say what it costs under the provider's 'prices' in flowmason.json, or give the budget in tokens."
            )
            raise PermanentError(message, code="price_unknown")
        return _Target(name=name, settings=settings, model=wanted, key=key_of(name, settings, self._gateway.keys))

    def _request(
        self,
        target: _Target,
        prompt: Prompt,
        system: str | None,
        max_tokens: int | None,
        temperature: float | None,
        top_p: float | None,
        stop: Sequence[str] | None,
        seed: int | None,
    ) -> Request:
        said = self._settings
        self._calls += 1

        def either(own: Any, name: str) -> Any:
            return said.get(name) if own is None else own

        batch = said.get("priority") == "batch"
        if batch and target.settings.type != "anthropic":
            self._remark(f"Provider {target.name!r} has no batches; it is asked at once.")
            batch = False
        return Request(
            model=target.model,
            messages=_messages(prompt),
            system=system or None,
            max_tokens=either(max_tokens, "max_tokens"),
            temperature=either(temperature, "temperature"),
            top_p=either(top_p, "top_p"),
            stop=tuple(either(stop, "stop_sequences") or ()),
            seed=either(seed, "seed"),
            batch=batch,
            key=f"{self._attempt.idempotency_key}-{self._calls}",
        )

    def _line(self, target: _Target, request: Request | None) -> calling.Line:
        """Return the way to a provider. On the hub's loop only."""
        hub, settings, gateway = the_hub(), target.settings, self._gateway
        identity = identity_of(settings, target.key)
        shared = gateway.shared_limits
        limited = settings.limits.rpm is not None or settings.limits.tpm is not None
        make_limiter = partial(shared, digest_of(identity)) if shared is not None and limited else None
        limits = settings.limits
        if settings.type == "llama_cpp":
            # It answers one after the other: who waits does so for a place, and no time of the model's runs meanwhile.
            limits = limits.model_copy(update={"concurrency": 1})
        return calling.Line(
            name=target.name,
            settings=settings,
            provider=self._provider(target, identity),
            gate=hub.gate(identity, limits, make_limiter),
            account=self._account,
            spending=gateway.spending,
            said={} if request is None else _said(request),
            remark=self._remark,
            mask=self._attempt.masked,
        )

    def _provider(self, target: _Target, identity: tuple[str, str]) -> Provider:
        """Return who answers: what is run here is run once for all that share it, where somebody does."""
        gateway = self._gateway
        # Of a project too: model files are relative to it, and notes of batches lie in it.
        key: tuple[str, ...] = (*identity, str(gateway.project_dir))
        shared, make = gateway.shared_engines, open_provider
        if shared is not None and target.settings.type == "vllm":
            key, make = (*key, shared.name), shared.provider
        return the_hub().provider(key, lambda: make(target.name, target.settings, target.key, gateway.project_dir))

    def _remark(self, text: str) -> None:
        if text not in self._remarked:
            self._remarked.add(text)
            self._attempt.log("warning", text)


def _said(request: Request) -> dict[str, Any]:
    """Return the settings that hold for a request, as the log keeps them."""
    names = ("max_tokens", "temperature", "top_p", "seed")
    said = {name: value for name in names if (value := getattr(request, name)) is not None}
    if request.stop:
        said["stop_sequences"] = list(request.stop)
    if request.batch:
        said["priority"] = "batch"
    return said


def _messages(prompt: Prompt) -> tuple[Message, ...]:
    """Return the conversation that a prompt means.

    Raises:
        PermanentError: nothing is asked.
    """
    if isinstance(prompt, str):
        prompt = (user(prompt),)
    messages = (prompt,) if isinstance(prompt, Message) else tuple(prompt)
    last = messages[-1] if messages else None
    if last is None or last.role != "user" or all(isinstance(p, Text) and not p.text.strip() for p in last.parts):
        raise PermanentError("There is nothing to ask: a prompt ends with words of the user.", code="invalid_prompt")
    return messages


def _answer(target: _Target, reply: Reply, usage: Usage, cost_usd: float | None, data: Any) -> Answer:
    return Answer(
        text=reply.text,
        data=data,
        tool_calls=reply.tool_calls,
        finish_reason=reply.finish_reason,
        usage=usage,
        provider=target.name,
        model=reply.model or target.model,
        cost_usd=cost_usd,
    )
