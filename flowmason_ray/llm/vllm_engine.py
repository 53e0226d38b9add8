"""vLLM's engine in this process, or in the actor that this process is: continuous batching, exact counts, answers held to a schema.

The engine proper computes in a process of its own, which vLLM starts and watches; here are its queue, the tokenizer and the texts. It is started when
the model is first asked. What requests share from their beginning is read once (prefix caching) and told as `cached_tokens`.

An engine that has broken is given back, and started again for the next request.
"""

from __future__ import annotations

import asyncio
import atexit
import gc
import importlib
import os
import threading
from collections.abc import AsyncGenerator, Callable, Sequence
from concurrent.futures import Future
from contextlib import aclosing, suppress
from functools import lru_cache
from importlib.util import find_spec
from time import perf_counter
from typing import Any
from uuid import uuid4

from flowmason_ray.engine.models import Usage
from flowmason_ray.errors import PermanentError, StageError
from flowmason_ray.llm import errors
from flowmason_ray.llm.base import Opening
from flowmason_ray.llm.engines import Asked, EngineProvider, Piece, arguments_of, finish_of, sampling_of
from flowmason_ray.llm.in_words import CHATML

# Read when vLLM is imported. Its statistics and traces are off: usage is counted once, by us. Its words go where they do not mix with ours, and
# its processes are begun anew, because a fork of one that has threads may hang.
for _name, _value in {
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_LOGGING_STREAM": "ext://sys.stderr",
    "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
}.items():
    os.environ.setdefault(_name, _value)

END_S = 4.0
"""How long the engine's processes are given to end before they are killed: less than the hub waits (`Hub.close`)."""
_OF_SCHEMAS = ("schema", "grammar", "json", "guid", "structured")
"""Words of which one is in what vLLM says of a schema that it does not take."""

if find_spec("vllm") is None:
    raise ModuleNotFoundError("No module named 'vllm'", name="vllm")


class _Library:
    """What we use of vLLM. Importing it takes many seconds, so that happens in the thread that starts an engine.

    Without types: it is not installed where they are checked.
    """

    def __init__(self) -> None:
        load: Any = importlib.import_module
        sampling, failures = load("vllm.sampling_params"), load("vllm.v1.engine.exceptions")
        self.arguments: Any = load("vllm.engine.arg_utils").AsyncEngineArgs
        self.engine: Any = load("vllm.v1.engine.async_llm").AsyncLLM
        self.tokens: Any = load("vllm.inputs.engine").tokens_input
        self.sampling: Any = sampling.SamplingParams
        self.pooling: Any = load("vllm.pooling_params").PoolingParams
        self.structured: Any = sampling.StructuredOutputsParams
        self.delta: Any = sampling.RequestOutputKind.DELTA
        self.failures: tuple[type[Exception], ...] = (failures.EngineDeadError, failures.EngineGenerateError)


_library = lru_cache(maxsize=1)(_Library)


def make(opening: Opening) -> EngineProvider:
    """Return the provider; the engine is started when the model is first asked."""
    return EngineProvider(opening, VllmEngine(opening))


class VllmEngine:
    """One model (`llm.engines.Engine`). Belongs to one event loop."""

    def __init__(self, opening: Opening) -> None:
        self._opening = opening
        self._starting: asyncio.Future[None] | None = None
        self._llm: Any = None
        """The engine. Kept here alone: futures live on for a while, and it complains when it is collected by an interpreter that ends."""
        self._used: dict[str, Usage] = {}
        """By the id of requests that are under way."""
        self._writing = 0
        self.most_at_once = 0
        """How many answers were growing at the same time, at most."""
        self.requests = 0
        """How many were asked."""

    # -- the port -----------------------------------------------------------------------------------------------------

    async def pieces(self, asked: Asked, request_id: str, *, live: bool) -> AsyncGenerator[Piece]:
        """Answer a request, as it grows."""
        llm = await self._able("generate", "writes no text")
        prompt = await asyncio.to_thread(self._tokens, llm, asked)
        self.requests += 1
        self._used[request_id] = Usage()
        began, output, first_s = perf_counter(), 0, None
        try:
            parameters = self._parameters(llm, asked, len(prompt))
            async with aclosing(llm.generate(_library().tokens(prompt), parameters, request_id)) as outputs:
                async for each in outputs:
                    said = each.outputs[0]
                    output += len(said.token_ids)
                    if first_s is None:
                        first_s = perf_counter() - began
                        self._writing += 1
                        self.most_at_once = max(self.most_at_once, self._writing)
                    usage = Usage(
                        input_tokens=len(prompt), output_tokens=output, cached_tokens=each.num_cached_tokens or 0
                    )
                    self._used[request_id] = usage
                    finish = None if said.finish_reason is None else finish_of(said.finish_reason, said.stop_reason)
                    yield Piece(text=said.text, usage=usage, finish=finish, first_token_s=first_s)
        except StageError:
            raise
        except Exception as exc:  # foreign code runs here
            raise await self._failed(llm, exc, asked.schema is not None) from exc
        finally:
            self._used.pop(request_id, None)
            if first_s is not None:
                self._writing -= 1

    async def ready(self, remark: Callable[[str], None]) -> None:
        """Start the engine."""
        await self._started()

    async def abort(self, request_id: str) -> Usage | None:
        """Stop answering; return what that has used."""
        used = self._used.get(request_id)
        if used is not None:
            await (await self._started()).abort(request_id)
        return used

    async def count_tokens(self, asked: Asked) -> int:
        """Count them as the engine would."""
        llm = await self._started()
        return len(await asyncio.to_thread(self._tokens, llm, asked))

    async def embed(self, texts: Sequence[str], dimensions: int | None) -> tuple[list[tuple[float, ...]], int]:
        """Return a vector for each text, if the model makes vectors."""
        llm = await self._able("embed", "makes no vectors")
        found = await asyncio.gather(*(self._vector(llm, text, dimensions) for text in texts))
        return [vector for vector, _ in found], sum(count for _, count in found)

    async def close(self) -> None:
        """End the engine's process and give its memory back."""
        starting, self._starting = self._starting, None
        if starting is not None:
            with suppress(StageError):  # it never ran
                await starting
                await _elsewhere(self._end)
                gc.collect()

    # -- the engine ---------------------------------------------------------------------------------------------------

    async def _started(self) -> Any:
        """Return the engine, started if it is not: that takes from half a minute to many."""
        if self._starting is None:
            self._starting = asyncio.wrap_future(self._start())
        starting = self._starting
        try:
            # Shielded: who asked first may be stopped, while others wait for the same engine.
            await asyncio.shield(starting)
        except StageError:
            if self._starting is starting:  # the next request tries again
                self._starting = None
            raise
        llm = self._llm
        return llm if llm is not None else await self._started()  # None: it has broken meanwhile

    async def _able(self, task: str, otherwise: str) -> Any:
        """Return the engine, if its model is one for the task."""
        llm = await self._started()
        try:
            tasks = await llm.get_supported_tasks()
        except Exception as exc:  # foreign code runs here
            raise await self._failed(llm, exc, False) from exc
        if task not in tasks:
            message = (
                f"The model {self._opening.model_path!r} of provider {self._opening.name!r} {otherwise}; ask another provider for "
                "that, such as one of this type with another model."
            )
            raise PermanentError(message, code="not_supported_by_provider")
        return llm

    def _start(self) -> Future[None]:
        """Start it in a thread that nobody waits for when the process ends."""
        done: Future[None] = Future()

        def work() -> None:
            try:
                known = _library().arguments
                self._llm = _library().engine.from_engine_args(known(**arguments_of(self._opening, known)))
                # Now, so that it comes before what vLLM has registered: that ends the processes without a word to those who wait for them.
                atexit.register(self._end)
            except StageError as exc:
                done.set_exception(exc)
            except Exception as exc:  # foreign code runs here, which reads foreign files
                name, model = self._opening.name, self._opening.model_path
                message = f"vLLM cannot run the model {model!r} of provider {name!r}: {_in_one_line(exc)}."
                done.set_exception(PermanentError(errors.shortened(message), code="model_not_found"))
            else:
                done.set_result(None)

        threading.Thread(target=work, name="flowmason-vllm", daemon=True).start()
        return done

    async def _let_go(self, llm: Any) -> None:
        """Give back an engine that does not work any more."""
        if llm.errored and self._llm is llm:
            self._starting = None
            with suppress(Exception):  # it is broken
                await _elsewhere(self._end)

    def _end(self) -> None:
        """End the engine's processes."""
        atexit.unregister(self._end)
        llm, self._llm = self._llm, None
        if llm is None:
            return
        listening = llm.output_handler
        if listening is not None:  # or it says that the engine has died
            with suppress(RuntimeError):  # its loop has ended
                listening.get_loop().call_soon_threadsafe(listening.cancel)
        llm.shutdown(END_S)

    # -- requests -----------------------------------------------------------------------------------------------------

    def _tokens(self, llm: Any, asked: Asked) -> list[int]:
        """Return a conversation as tokens, as the model's template has it."""
        tokenizer = llm.get_tokenizer()
        own = getattr(tokenizer, "chat_template", None)
        template = {} if own else {"chat_template": CHATML}
        try:
            found: Any = tokenizer.apply_chat_template(
                asked.conversation, add_generation_prompt=True, tokenize=True, return_dict=False, **template
            )
        except Exception as exc:  # foreign code runs here: the model's own template, which may refuse a conversation
            raise PermanentError(f"The model's template refuses this: {exc}.", code="provider_refused_request") from exc
        return [int(token) for token in found]

    def _parameters(self, llm: Any, asked: Asked, prompt_tokens: int) -> Any:
        most = int(llm.model_config.max_model_len)
        room = most - prompt_tokens
        if room < 1:
            why = f"it has {prompt_tokens} tokens, and the model reads and writes {most} ('context_tokens')"
            raise errors.too_long(self._opening.name, asked.model, why)
        given = sampling_of(asked, llm.model_config.get_diff_sampling_param(), room)
        if asked.schema is not None:
            given["structured_outputs"] = _library().structured(json=dict(asked.schema))
        return _library().sampling(**given, output_kind=_library().delta)

    async def _vector(self, llm: Any, text: str, dimensions: int | None) -> tuple[tuple[float, ...], int]:
        parameters = _library().pooling(task="embed", dimensions=dimensions)
        tokens = await asyncio.to_thread(lambda: [int(token) for token in llm.get_tokenizer().encode(text)])
        try:
            *_, result = [each async for each in llm.encode(_library().tokens(tokens), parameters, uuid4().hex)]
        except Exception as exc:  # foreign code runs here
            raise await self._failed(llm, exc, False) from exc
        return tuple(float(each) for each in result.outputs.data.tolist()), len(tokens)

    async def _failed(self, llm: Any, exc: Exception, has_schema: bool) -> StageError:
        """Return the error for what the engine says. What it does not take it refuses before anything is computed."""
        name, model, said = self._opening.name, str(self._opening.model_path), _in_one_line(exc)
        if isinstance(exc, _library().failures):
            await self._let_go(llm)
            return errors.interrupted(name, "vLLM's engine has failed; what it wrote says why")
        if has_schema and any(sign in said.lower() for sign in _OF_SCHEMAS):
            return PermanentError(f"vLLM makes no grammar of this schema: {said}.", code="invalid_schema")
        return errors.from_status(name, model, 400, said)


async def _elsewhere(work: Callable[[], None]) -> None:
    """Do something that takes a while in another thread."""
    try:
        await asyncio.to_thread(work)
    except RuntimeError:  # this process ends, and lends no threads any more
        work()


def _in_one_line(exc: Exception) -> str:
    return " ".join(str(exc).split()).rstrip(".") or type(exc).__name__
