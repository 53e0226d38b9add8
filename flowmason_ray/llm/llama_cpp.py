"""A model from a GGUF file, in this process, through llama.cpp: no server, no network, exact counts, answers held to a grammar.

One model is loaded once for each process and answers one request after the other, in a thread of its own. What a request shares with the one
before, from its beginning, is not read again (the engine's cache of keys and values), so requests that begin alike come together
(`llm.queueing`, by the single place that there is: `gateway`); what was spared is told as `cached_tokens`.

A schema becomes a grammar: the model cannot say anything else. Tools too: it either says which tool with which arguments, or answers.
"""

from __future__ import annotations

import codecs
import importlib
import json
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, cast

from flowmason_ray.engine.models import FinishReason, Usage
from flowmason_ray.errors import PermanentError
from flowmason_ray.llm import errors
from flowmason_ray.llm.base import Opening, Progress, Reply, Request, Unable
from flowmason_ray.llm.in_words import CHATML, answered, conversation, wants_tools, with_tools, words
from flowmason_ray.llm.queueing import PrefixQueue
from flowmason_ray.llm.structured import with_instruction

KIND = "A model file under llama.cpp"
CONTEXT_TOKENS = 4096
"""Where nothing is said. Memory for the whole of it is taken at once, so it is not as much as the model can."""
# By name, because types are checked where it is not installed too: it is compiled for minutes.
_library: Any = importlib.import_module("llama_cpp")
_chat_format: Any = importlib.import_module("llama_cpp.llama_chat_format")


def make(opening: Opening) -> LlamaProvider:
    """Return the provider; the file is read when the model is first asked."""
    return LlamaProvider(opening)


class LlamaProvider(Unable):
    """Answers with a model file."""

    kind = KIND

    def __init__(self, opening: Opening) -> None:
        if opening.model_path is None:
            message = f"Model provider {opening.name!r} has no 'model_path': say which GGUF file it is."
            raise PermanentError(message, code="provider_not_configured")
        self._opening = opening
        self._queue = PrefixQueue("flowmason-llama")
        self._model: Any = None
        self._embedder: Any = None
        self._format: Any = None

    async def close(self) -> None:
        """Give the memory back."""
        await self._queue.close(self._free)

    def _free(self) -> None:
        for each in (self._model, self._embedder):
            if each is not None:
                each.close()
        self._model = self._embedder = None

    async def ready(self, remark: Callable[[str], None], operation: str) -> None:
        """Load the file, unless that was done."""
        if operation == "embeddings":
            if self._embedder is None:
                await self._queue.ask(lambda _: self._embedding())
        elif self._model is None:
            await self._queue.ask(lambda _: self._llama())

    async def generate(self, request: Request, progress: Progress) -> Reply:
        """Answer one request."""
        progress.exact = True  # also before its turn: then it has used nothing
        text = "\n".join([request.system or "", *(words(message, KIND) for message in request.messages)])
        return await self._queue.ask(lambda stop: self._generate(request, progress, stop), text=text)

    async def count_tokens(self, request: Request) -> int:
        """Count them: they are ours."""
        return await self._queue.ask(lambda _: len(self._prompt(request)))

    async def embed(
        self, model: str, texts: Sequence[str], dimensions: int | None, progress: Progress
    ) -> list[tuple[float, ...]]:
        """Return a vector for each text."""

        def work(stop: threading.Event) -> list[tuple[float, ...]]:
            embedder = self._embedding()
            vectors: list[tuple[float, ...]] = []
            for text in texts:
                if stop.is_set():
                    break
                vector, total = embedder.embed(text, normalize=True, return_count=True)
                progress.usage = progress.usage + Usage(input_tokens=total)
                # Without pooling there is a vector for each token: their mean stands for the text.
                vectors.append(_mean(vector) if vector and isinstance(vector[0], list) else tuple(vector))
            return vectors

        progress.exact = True
        made = await self._queue.ask(work)
        if dimensions is not None and made and len(made[0]) != dimensions:
            message = f"Model {model!r} makes vectors of length {len(made[0])}; {dimensions} are asked for."
            raise PermanentError(message, code="provider_refused_request")
        return made

    # -- in the thread ------------------------------------------------------------------------------------------------

    def _load(self, **more: Any) -> Any:
        opening = self._opening
        options: dict[str, Any] = {
            "n_ctx": opening.context_tokens or CONTEXT_TOKENS,
            "verbose": False,
            **opening.options,
            **more,
        }
        try:
            return _library.Llama(model_path=str(opening.model_path), **options)
        except (ValueError, OSError, RuntimeError) as exc:
            message = f"The model file {opening.model_path!r} of provider {opening.name!r} cannot be loaded: {exc}."
            raise PermanentError(message, code="model_not_found") from exc

    def _llama(self) -> Any:
        if self._model is None:
            self._model = self._load()
        return self._model

    def _embedding(self) -> Any:
        if self._embedder is None:
            self._embedder = self._load(embedding=True)
        return self._embedder

    def _prompt(self, request: Request) -> list[int]:
        """Return the conversation as tokens."""
        llama = self._llama()
        if self._format is None:
            names = {token: _piece(llama, token) for token in (llama.token_eos(), llama.token_bos()) if token >= 0}
            self._format = _chat_format.Jinja2ChatFormatter(
                template=llama.metadata.get("tokenizer.chat_template") or CHATML,
                eos_token=names.get(llama.token_eos(), ""),
                bos_token=names.get(llama.token_bos(), ""),
            )
        try:
            text: str = self._format(messages=conversation(request, KIND)).prompt
        except ValueError as exc:  # the template refuses the conversation
            raise PermanentError(f"The model's template refuses this: {exc}.", code="provider_refused_request") from exc
        begins = bool(text.startswith(self._format.bos_token)) if self._format.bos_token else False
        return llama.tokenize(text.encode(), add_bos=not begins, special=True)

    def _generate(self, request: Request, progress: Progress, stop: threading.Event) -> Reply:
        llama = self._llama()
        request = with_tools(request)
        if request.schema is not None:
            request = with_instruction(request)
        prompt = self._prompt(request)
        room = llama.n_ctx() - len(prompt)
        if room < 1:
            why = f"it has {len(prompt)} tokens, and the model reads and writes {llama.n_ctx()} ('context_tokens')"
            raise errors.too_long(self._opening.name, request.model, why)
        grammar = None if request.schema is None else _grammar(request.schema)
        limit = min(request.max_tokens or room, room)
        known = _shared(llama, prompt)
        progress.usage = Usage(input_tokens=len(prompt), cached_tokens=known)
        if request.seed is not None:
            llama.set_seed(request.seed)
        # What is asked for as data about tools is no text for people.
        writing = _Writing(request.stop, progress, shows=not wants_tools(request))
        finish: FinishReason = "length"
        for count, token in enumerate(self._tokens(llama, prompt, request, grammar), 1):
            if stop.is_set():
                break
            if _library.llama_vocab_is_eog(_library.llama_model_get_vocab(llama.model), token):
                finish = "stop"
                break
            progress.usage = Usage(input_tokens=len(prompt), output_tokens=count, cached_tokens=known)
            if writing.add(llama.detokenize([token], special=False)):
                finish = "stop_sequence"
                break
            if count >= limit:
                break
        text = writing.end()
        return answered(request, text, finish)

    def _tokens(self, llama: Any, prompt: list[int], request: Request, grammar: Any) -> Iterator[int]:
        given = {"temp": request.temperature, "top_p": request.top_p}
        sampling = {name: value for name, value in given.items() if value is not None}
        try:
            yield from llama.generate(prompt, grammar=grammar, **sampling)
        except (RuntimeError, ValueError) as exc:
            raise errors.interrupted(self._opening.name, str(exc)) from exc


class _Writing:
    """Makes text of tokens, and watches for the texts at which it is to end."""

    def __init__(self, stops: Sequence[str], progress: Progress, *, shows: bool) -> None:
        self._shows = shows
        self._stops = [each for each in stops if each]
        self._held = max((len(each) for each in self._stops), default=1) - 1
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._progress = progress
        self._text = ""
        self._shown = 0

    def add(self, piece: bytes) -> bool:
        """Take a token; return whether the text has come to its end."""
        self._progress.first()
        self._text += self._decoder.decode(piece)
        found = [at for each in self._stops if (at := self._text.find(each)) >= 0]
        if found:
            self._text = self._text[: min(found)]
            return True
        self._show(len(self._text) - self._held)
        return False

    def _show(self, end: int) -> None:
        if self._shows and end > self._shown:
            self._progress.text(self._text[self._shown : end])
            self._shown = end

    def end(self) -> str:
        """Show the rest; return all of it."""
        self._show(len(self._text))
        return self._text


def _shared(llama: Any, prompt: list[int]) -> int:
    """Return how many tokens of a prompt are in the model's cache from the request before; the last is always read."""
    before = [int(token) for token in llama.input_ids[: llama.n_tokens]]
    return min(llama.longest_token_prefix(before, prompt), len(prompt) - 1)


def _piece(llama: Any, token: int) -> str:
    return cast("bytes", llama.detokenize([token], special=True)).decode("utf-8", "replace")


def _grammar(schema: Mapping[str, Any]) -> Any:
    try:
        return _library.LlamaGrammar.from_json_schema(json.dumps(schema), verbose=False)
    except (ValueError, KeyError, AssertionError, RuntimeError) as exc:
        message = f"llama.cpp makes no grammar of this schema: {exc}."
        raise PermanentError(message, code="invalid_schema") from exc


def _mean(vectors: Sequence[Sequence[float]]) -> tuple[float, ...]:
    sums = [sum(column) for column in zip(*vectors, strict=True)]
    size = sum(each * each for each in sums) ** 0.5 or 1.0
    return tuple(each / size for each in sums)
