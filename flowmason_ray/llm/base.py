"""The port that providers implement. All of it runs on the hub's event loop (`llm.hub`).

A provider makes one attempt at one request. It does not retry, count or price: that is the same for all (`llm.calling`).
What it meets while it reads an answer it tells to `Progress`, so that what was used is known however the answer ends.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any, Protocol

from flowmason_ray.engine.models import Audio, FinishReason, Message, Speech, Tool, ToolCall, Transcript, Usage
from flowmason_ray.errors import PermanentError


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One question to a model. None: what nobody has said is left to the provider."""

    model: str
    messages: tuple[Message, ...]
    system: str | None = None
    schema: Mapping[str, Any] | None = None
    tools: tuple[Tool, ...] = ()
    tool_choice: str | None = None
    """`auto`, `required`, `none`, or a tool's name."""
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    stop: tuple[str, ...] = ()
    seed: int | None = None
    batch: bool = False
    """Whether it may take hours if that is cheaper."""
    key: str = ""
    """Identifies it: the same when an attempt is repeated."""

    @property
    def beginning(self) -> str:
        """What is read, in the order in which services read it: requests are grouped by what they share of it."""
        tools = (f"{tool.name} {tool.description}" for tool in self.tools)
        said = (f"{message.role}: {message.text}" for message in self.messages)
        return "\n".join((self.model, *tools, self.system or "", *said))


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What came back."""

    text: str
    tool_calls: tuple[ToolCall, ...] = ()
    finish_reason: FinishReason = "stop"
    model: str = ""
    """As the provider names it; empty: as it was asked for."""


class Progress:
    """What is known about a request while it is under way. Filled by the provider, read by `llm.calling`."""

    def __init__(
        self,
        on_text: Callable[[str], None] | None = None,
        on_headers: Callable[[Mapping[str, str]], None] | None = None,
        on_remark: Callable[[str], None] | None = None,
    ) -> None:
        self.started = perf_counter()
        self.first_token_s: float | None = None
        """From the beginning to the first token; None: it was not seen (no stream)."""
        self.usage = Usage()
        """What the provider has told so far."""
        self.exact = False
        """Whether `usage` is right at any moment; else it is guessed when an answer breaks off."""
        self.seen_chars = 0
        """How much of the answer has come."""
        self.forwarded = False
        """Whether somebody has seen a part of the answer."""
        self._on_text = on_text
        self._on_headers = on_headers
        self._on_remark = on_remark

    @property
    def watched(self) -> bool:
        """Whether somebody wants to see the answer grow."""
        return self._on_text is not None

    def first(self) -> None:
        """Note that the answer has begun."""
        if self.first_token_s is None:
            self.first_token_s = perf_counter() - self.started

    def text(self, text: str) -> None:
        """Take more of the answer."""
        self.first()
        self.seen_chars += len(text)
        if self._on_text is not None and text:
            self.forwarded = True
            self._on_text(text)

    def headers(self, headers: Mapping[str, str]) -> None:
        """Take the headers of a response: they say what is left of the provider's limits."""
        if self._on_headers is not None:
            self._on_headers(headers)

    def remark(self, text: str) -> None:
        """Say something that whoever runs the pipeline should know, such as a setting that the model does not have."""
        if self._on_remark is not None:
            self._on_remark(text)


@dataclass(frozen=True, slots=True, kw_only=True)
class Opening:
    """What a provider is made with. `key` is never shown, logged or pickled with anything."""

    name: str
    base_url: str | None = None
    key: str | None = field(default=None, repr=False)
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    timeout_s: float = 600
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])
    model_path: str | None = None
    models: frozenset[str] = frozenset()
    """The names by which the model may be asked that is run here."""
    context_tokens: int | None = None
    """None: what is usual for the type."""
    concurrency: int = 16
    project_dir: Path | None = None
    """Where what must outlive a crash is remembered; None: nowhere."""


class Provider(Protocol):
    """Answers requests. Errors are `StageError`s (`llm.errors`)."""

    async def ready(self, remark: Callable[[str], None], operation: str) -> None:
        """Do what has to be done before the first answer and is no part of its time, such as loading a model.

        Args:
            remark: Tells whoever runs the pipeline why it takes long.
            operation: What will be asked for (`chat`, `embeddings`, …).
        """
        ...

    async def generate(self, request: Request, progress: Progress) -> Reply:
        """Answer one request."""
        ...

    async def embed(
        self, model: str, texts: Sequence[str], dimensions: int | None, progress: Progress
    ) -> list[tuple[float, ...]]:
        """Return a vector for each text. There are never more than `embed_batch` of them."""
        ...

    async def count_tokens(self, request: Request) -> int:
        """Return how many tokens the model would read."""
        ...

    async def transcribe(
        self, model: str, audio: Audio, language: str | None, prompt: str | None, progress: Progress
    ) -> Transcript:
        """Return what is said in a recording."""
        ...

    async def speak(self, model: str, text: str, voice: str, format: str, progress: Progress) -> Speech:
        """Return a text, spoken."""
        ...

    async def close(self) -> None:
        """Give everything back."""
        ...


class Unable:
    """A provider that can do nothing; real ones inherit what they cannot do."""

    kind = "This provider"

    async def ready(self, remark: Callable[[str], None], operation: str) -> None:
        """There is nothing to be done."""

    async def generate(self, request: Request, progress: Progress) -> Reply:
        """Refuse."""
        raise self._refusal("generate text")

    async def embed(
        self, model: str, texts: Sequence[str], dimensions: int | None, progress: Progress
    ) -> list[tuple[float, ...]]:
        """Refuse."""
        raise self._refusal("make vectors")

    async def count_tokens(self, request: Request) -> int:
        """Refuse."""
        raise self._refusal("count tokens")

    async def transcribe(
        self, model: str, audio: Audio, language: str | None, prompt: str | None, progress: Progress
    ) -> Transcript:
        """Refuse."""
        raise self._refusal("transcribe audio")

    async def speak(self, model: str, text: str, voice: str, format: str, progress: Progress) -> Speech:
        """Refuse."""
        raise self._refusal("speak")

    async def close(self) -> None:
        """There is nothing to give back."""

    def _refusal(self, what: str) -> PermanentError:
        message = f"{self.kind} cannot {what}; ask another provider for that (llm_settings.provider)."
        return PermanentError(message, code="not_supported_by_provider")
