"""The port through which components reach models: `context.models`, and the data that goes through it.

A component says what it wants (messages, a schema, tools); which provider and model answer, and with which settings, is
decided by the stage's `llm_settings`, the pipeline's defaults, the project and the environment. Waiting for the provider's
limits, retrying, counting and pricing happen behind the port (`flowmason_ray.llm`).

Everything here is plain data without a library, so that components can be written and tested without one.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

Role = Literal["user", "assistant"]

FinishReason = Literal["stop", "length", "stop_sequence", "tool_use"]
"""Why an answer ended: the model was done, reached `max_tokens`, met a stop sequence, or wants tools called.

A refusal is no answer: it is the error `content_refused`.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    """Words. `cache`: everything up to here is worth keeping by a provider that caches prompts when told to."""

    text: str
    cache: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """A picture: its bytes, or where the provider finds it."""

    data: bytes | None = None
    media_type: str = "image/png"
    url: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Audio:
    """A recording. `format` is what its file would end in: `wav`, `mp3`, …"""

    data: bytes
    format: str = "wav"


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCall:
    """The model wants a tool called. `arguments` fit the tool's schema only if the provider guarantees it: check them."""

    id: str
    name: str
    arguments: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolResult:
    """What a tool returned, for the model; stands in a `user` message."""

    call_id: str
    content: str
    is_error: bool = False


Part = Text | Image | Audio | ToolCall | ToolResult


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One turn of a conversation."""

    role: Role
    parts: tuple[Part, ...]

    @property
    def text(self) -> str:
        """Its words, joined."""
        return "".join(part.text for part in self.parts if isinstance(part, Text))


def user(*parts: str | Part) -> Message:
    """Return a message from the user; plain texts become `Text`."""
    return Message(role="user", parts=_parts(parts))


def assistant(*parts: str | Part) -> Message:
    """Return a message from the model; plain texts become `Text`."""
    return Message(role="assistant", parts=_parts(parts))


def _parts(parts: Sequence[str | Part]) -> tuple[Part, ...]:
    return tuple(Text(text=part) if isinstance(part, str) else part for part in parts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tool:
    """Something that the model may ask for. `parameters` is a JSON Schema of an object."""

    name: str
    description: str
    parameters: Mapping[str, Any]
    strict: bool = True
    """Whether the provider is asked to guarantee the schema, where it can."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What one call, or several, took. Counts are the provider's own; `estimated` says that it gave none."""

    input_tokens: int = 0
    """All of the input, what came from the provider's cache included."""
    output_tokens: int = 0
    cached_tokens: int = 0
    """The part of the input that was read from the provider's cache."""
    cache_write_tokens: int = 0
    """The part of the input that was written into it."""
    reasoning_tokens: int = 0
    """The part of the output that was thinking, where the provider tells it."""
    audio_tokens: int = 0
    """The part of the input that was sound, where the provider tells it."""
    audio_s: float = 0.0
    """Seconds of sound that were listened to, for services that count these and no tokens."""
    characters: int = 0
    """Characters of text that were spoken."""
    estimated: bool = False

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            input_tokens=self.input_tokens + other.input_tokens,
            output_tokens=self.output_tokens + other.output_tokens,
            cached_tokens=self.cached_tokens + other.cached_tokens,
            cache_write_tokens=self.cache_write_tokens + other.cache_write_tokens,
            reasoning_tokens=self.reasoning_tokens + other.reasoning_tokens,
            audio_tokens=self.audio_tokens + other.audio_tokens,
            audio_s=self.audio_s + other.audio_s,
            characters=self.characters + other.characters,
            estimated=self.estimated or other.estimated,
        )

    @property
    def total_tokens(self) -> int:
        """Input and output together."""
        return self.input_tokens + self.output_tokens

    @property
    def measured(self) -> bool:
        """Whether anything was counted at all."""
        return bool(self.total_tokens or self.audio_s or self.characters)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a model said."""

    text: str
    data: Any = None
    """With a schema: the answer as data that fits it."""
    tool_calls: tuple[ToolCall, ...] = ()
    finish_reason: FinishReason = "stop"
    usage: Usage = field(default_factory=Usage)
    """Of everything that was asked to get this answer, a repair included."""
    provider: str = ""
    model: str = ""
    """The model that answered, as the provider names it."""
    cost_usd: float | None = None
    """None: the price is not known."""

    @property
    def message(self) -> Message:
        """The answer as a turn, to go on with the conversation."""
        said: tuple[Part, ...] = (Text(text=self.text),) if self.text else ()
        return Message(role="assistant", parts=(*said, *self.tool_calls))


@dataclass(frozen=True, slots=True, kw_only=True)
class Embeddings:
    """Vectors for texts, in their order; all of one length."""

    vectors: tuple[tuple[float, ...], ...]
    usage: Usage = field(default_factory=Usage)
    provider: str = ""
    model: str = ""
    cost_usd: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Transcript:
    """What is said in a recording."""

    text: str
    language: str | None = None
    duration_s: float | None = None
    usage: Usage = field(default_factory=Usage)
    provider: str = ""
    model: str = ""
    cost_usd: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Speech:
    """A text, spoken."""

    data: bytes
    format: str
    usage: Usage = field(default_factory=Usage)
    provider: str = ""
    model: str = ""
    cost_usd: float | None = None


Prompt = str | Message | Sequence[Message]
"""What is asked: a text (one user message), a message, or a conversation that ends with a user message."""


class Models(Protocol):
    """What `context.models` offers. The methods may be awaited on any event loop.

    What a call says comes before the stage's `llm_settings`; what neither says is left to the provider. Errors end the
    attempt as they are, so a component need not catch them: `provider_not_configured`, `unknown_provider`, `rate_limited`,
    `provider_overloaded`, `context_too_long`, `content_refused`, `bad_response`, … (docs/guide/errors.md).
    """

    @property
    def settings(self) -> Mapping[str, Any]:
        """The stage's effective `llm_settings`: `provider`, `model`, `temperature`, …; what nobody has set is missing."""
        ...

    @property
    def configured(self) -> bool:
        """Whether a call would know whom to ask."""
        ...

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
        """Ask a model and wait for its whole answer.

        Args:
            prompt: What is asked.
            system: Instructions that come before the conversation.
            schema: JSON Schema of the answer: it is sent to the provider where that can keep to it, the answer is held
                against it, repaired once by asking again, and returned as `Answer.data`.
            tools: What the model may ask for; calling them and going on is the component's affair.
            tool_choice: `auto` (the default), `required`, `none`, or a tool's name.
            max_tokens: The longest answer.
            temperature: Sampling temperature; passed over with a warning by models that have none.
            top_p: Nucleus sampling.
            stop: Texts at which the answer ends.
            seed: Makes sampling repeatable, where the provider can.
            provider: Another provider than the stage's.
            model: Another model than the stage's.
            live: Whether whoever watches the run sees the answer grow, if they asked to (`fm run --stream`).

        Raises:
            StageError: there is no answer; temporary or permanent, as `errors.py` tells them apart.
        """
        ...

    def stream(
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
        """Ask a model; yield its words as they come, and last of all the whole `Answer`.

        Once words were yielded nothing is retried: an error in the middle is raised (`stream_interrupted`).

        Args and errors as for `generate`.
        """
        ...

    async def embed(
        self,
        texts: Sequence[str],
        *,
        dimensions: int | None = None,
        provider: str | None = None,
        model: str | None = None,
    ) -> Embeddings:
        """Return a vector for each text. Long lists are asked for in batches.

        Args:
            texts: What is embedded; none may be empty.
            dimensions: The length of the vectors, where the model can choose it.
            provider: Another provider than the stage's.
            model: Another model than the provider's `embedding_model`.
        """
        ...

    async def count_tokens(
        self, prompt: Prompt, *, system: str | None = None, provider: str | None = None, model: str | None = None
    ) -> int:
        """Return how many tokens the model would read.

        Raises:
            PermanentError: the provider cannot count (`not_supported_by_provider`).
        """
        ...

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
        ...

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
        ...


class AttemptModels(Models, Protocol):
    """What an attempt gets: `Models`, and its account."""

    def usage(self) -> dict[str, Any] | None:
        """Return what the attempt has used so far, as it is recorded (`engine.usage`); None when it asked no model."""
        ...


class Attempt(Protocol):
    """What models know about the attempt that asks them."""

    @property
    def path(self) -> str:
        """The path of the stage instance."""
        ...

    @property
    def idempotency_key(self) -> str:
        """The same for every attempt of the stage instance."""
        ...

    @property
    def watched(self) -> bool:
        """Whether somebody wants to see texts as they grow."""
        ...

    def log(self, level: Literal["debug", "info", "warning", "error"], message: str, **fields: Any) -> None:
        """Say something to whoever follows the run."""
        ...

    def stream(self, text: str) -> None:
        """Show more of a growing text."""
        ...

    def masked(self, text: str) -> str:
        """Return a text with the run's secrets hidden."""
        ...


class ModelSource(Protocol):
    """Makes what attempts reach models through; one for a run (`RunInfo.models`)."""

    def for_attempt(self, attempt: Attempt, settings: Mapping[str, Any] | None) -> AttemptModels:
        """Return what one attempt uses.

        Args:
            attempt: Who asks.
            settings: The stage's effective `llm_settings`; None: the stage is not known to use models, and gets the
                project's.
        """
        ...

    def packed(self) -> dict[str, Any]:
        """Return it as JSON, keys excepted, so that a worker can make the same one (`llm.gateway.unpack`)."""
        ...
