"""Requests that may wait, gathered into Anthropic's message batches: half the price, done within a day.

What is asked within a moment goes into one batch, so that a loop over a thousand items makes a few batches and not a thousand. A batch is
polled until it has ended; a request whose attempt is cancelled is let go of, and a batch that nobody waits for any more is cancelled.

What an earlier process, or an earlier attempt, has put into a batch that was not read is not asked again: `batch_notes` tell of it, and its
answers are taken from there. The API lets nobody give a batch a name. So a batch of which only the intention is noted is looked for among
those that were made at that time with as many requests, and is ours if its answers are.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import anthropic as sdk

from flowmason_ray.llm import errors
from flowmason_ray.llm.base import Opening
from flowmason_ray.llm.batch_notes import BatchNotes, Note, digest_of

COLLECT_S = 1.0
"""How long more requests are waited for: attempts of a loop begin within milliseconds of each other."""
MOST_REQUESTS = 10_000
"""In one batch; the API allows ten times as many, but not of every size."""
POLL_S = 5.0
LONGEST_POLL_S = 60.0
"""Between two looks at a batch: often at first, since small ones are done in minutes."""
MOST_FAILED_POLLS = 20
"""In a row: a service that is away for a while costs no batch that takes hours."""
MADE_BEFORE, MADE_WITHIN = timedelta(minutes=2), timedelta(minutes=15)
"""Around the time of an intention: clocks differ, and sending ten thousand requests takes a while."""


@dataclass(frozen=True, slots=True)
class _Waiting:
    """A request, and who waits for its answer."""

    body: Mapping[str, Any]
    answer: asyncio.Future[dict[str, Any]]


_Gathered = Mapping[str, _Waiting]


class Batches:
    """Gathers requests. On the hub's loop."""

    def __init__(self, client: sdk.AsyncAnthropic, opening: Opening) -> None:
        self._client = client
        self._name = opening.name
        self._notes = BatchNotes(opening.project_dir, f"{opening.base_url or ''}\0{opening.key or ''}")
        self._collecting: dict[str, _Waiting] = {}
        self._sending: asyncio.Task[None] | None = None
        self._running: set[asyncio.Task[None]] = set()

    async def ask(self, body: dict[str, Any], key: str) -> dict[str, Any]:
        """Return the answer to one request, as the API's message.

        Raises:
            StageError: it was refused, or the batch was.
        """
        answer: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        extra: dict[str, Any] = body.get("extra_body") or {}
        plain = {name: value for name, value in body.items() if name != "extra_body"}
        self._collecting[self._id(key)] = _Waiting({**plain, **extra}, answer)
        if len(self._collecting) >= MOST_REQUESTS:
            self._send()
        elif self._sending is None:
            self._sending = asyncio.create_task(self._collect())
        return await answer

    def _id(self, key: str) -> str:
        """Return a name that the API takes (64 characters) and that no other request in the batch has."""
        name = "".join(c if c.isalnum() or c in "-_" else "_" for c in key)[-56:] or "request"
        count = sum(known.startswith(name) for known in self._collecting) if name in self._collecting else 0
        return f"{name}-{count}" if count else name

    async def _collect(self) -> None:
        await asyncio.sleep(COLLECT_S)
        self._send()

    def _send(self) -> None:
        gathered, self._collecting = self._collecting, {}
        self._sending = None
        self._begin(self._sort(gathered), gathered)

    def _begin(self, work: Any, gathered: _Gathered) -> None:
        task = asyncio.create_task(self._guarded(work, gathered))
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def _guarded(self, work: Any, gathered: _Gathered) -> None:
        """Do something for requests; whatever becomes of it, nobody waits for ever."""
        try:
            await work
        except Exception as exc:  # the service's errors, those of the transport, an answer that is not understood
            self._fail(gathered, exc)
        except BaseException:  # it is cancelled
            for each in gathered.values():
                each.answer.cancel()
            raise

    async def _sort(self, gathered: _Gathered) -> None:
        """Wait for earlier batches that hold some of the requests, and make a new one for the others."""
        wanted = _wanted(gathered)
        digests = {key: digest_of(each.body) for key, each in wanted.items()}
        known = await asyncio.to_thread(self._notes.known, digests)
        held = {key for _, keys in known for key in keys}
        for note, keys in known:
            some = {key: wanted[key] for key in keys}
            self._begin(self._take_up(note, some), some)
        new = {key: each for key, each in wanted.items() if key not in held}
        self._begin(self._make(new, digests), new)

    async def _make(self, wanted: _Gathered, digests: Mapping[str, str]) -> None:
        """Make a batch and see it through to its end."""
        if not wanted:
            return
        note = await asyncio.to_thread(self._notes.intend, {key: digests[key] for key in wanted})
        requests: Any = [{"custom_id": key, "params": each.body} for key, each in wanted.items()]
        try:
            batch = await self._client.messages.batches.create(requests=requests)
        except sdk.APIStatusError:
            await asyncio.to_thread(self._notes.forget, note)  # the service said no: there is no batch
            raise
        except Exception:
            self._notes.untaken(_unanswered(wanted))  # there may be one: who asks again looks for it
            raise
        try:
            if note is not None:
                await asyncio.to_thread(self._notes.made, note, batch.id)
            await self._see_through(batch, wanted, note)
        except Exception:
            self._notes.untaken(_unanswered(wanted))  # it goes on: who asks again takes it up
            raise
        self._give(wanted, errors.interrupted(self._name, "the batch has no answer to this request"))

    async def _take_up(self, note: Note, wanted: _Gathered) -> None:
        """Take the answers of an earlier batch; make a new one for what it does not answer."""
        try:
            batch = await self._found(note)
            if batch is not None:
                await self._see_through(batch, wanted, note, only_answers=True)
        except sdk.NotFoundError:
            batch = None
        except Exception:
            self._notes.untaken(_unanswered(wanted))
            raise
        left = _wanted(wanted)
        if batch is None or len(left) == len(wanted) == len(note.requests):
            await asyncio.to_thread(self._notes.forget, note)
        await self._make(left, {key: digest_of(each.body) for key, each in left.items()})

    async def _found(self, note: Note) -> Any:
        """Return the batch of a note; None: it was never made."""
        known = {each.file: each.batch for each in await asyncio.to_thread(lambda: list(self._notes.all()))}
        batch = note.batch or known.get(note.file)  # others who wait for it may have found it meanwhile
        if batch is not None:
            return await self._client.messages.batches.retrieve(batch)
        others = set(known.values())
        began = datetime.fromtimestamp(note.at, UTC)
        async for batch in self._client.messages.batches.list(limit=100):
            if batch.created_at < began - MADE_BEFORE:
                break  # the newest come first
            counts = batch.request_counts
            total = counts.processing + counts.succeeded + counts.errored + counts.canceled + counts.expired
            if batch.id in others or batch.created_at > began + MADE_WITHIN or total != len(note.requests):
                continue
            ended = await self._ended(batch)
            if await self._holds(ended.id, note):
                await asyncio.to_thread(self._notes.made, note, ended.id)
                return ended
        return None

    async def _holds(self, batch: str, note: Note) -> bool:
        """Tell whether a batch is the one of a note: by its first answer."""
        lines = await self._client.messages.batches.results(batch)
        try:
            async for line in lines:
                return line.custom_id in note.requests
            return False
        finally:
            await lines.close()

    async def _ended(self, batch: Any, wanted: _Gathered | None = None) -> Any:
        """Wait for the end of a batch; None: nobody waits for it any more."""
        delay, failed = POLL_S, 0
        while batch.processing_status != "ended":
            await asyncio.sleep(delay)
            delay = min(LONGEST_POLL_S, delay * 1.5)
            if wanted is not None and not _wanted(wanted):
                return None
            try:
                batch = await self._client.messages.batches.retrieve(batch.id)
                failed = 0
            except (sdk.APIConnectionError, sdk.RateLimitError, sdk.InternalServerError):
                failed += 1
                if failed > MOST_FAILED_POLLS:
                    raise
        return batch

    async def _see_through(
        self, batch: Any, wanted: _Gathered, note: Note | None, *, only_answers: bool = False
    ) -> None:
        """Wait for a batch and hand its results out; one that nobody waits for is cancelled.

        `only_answers`: what the batch has no answer to is left to be asked anew.
        """
        ended = await self._ended(batch, wanted)
        if ended is None:
            await self._client.messages.batches.cancel(batch.id)
            await asyncio.to_thread(self._notes.forget, note)
            return
        async for line in await self._client.messages.batches.results(ended.id):
            said: Any = line.to_dict()
            if not only_answers or said["result"]["type"] == "succeeded":
                self._answer(wanted, said)

    def _answer(self, wanted: _Gathered, line: Any) -> None:
        from flowmason_ray.llm.anthropic import error_of

        entry = wanted.get(line["custom_id"])
        if entry is None or entry.answer.done():
            return
        result = line["result"]
        if result["type"] == "succeeded":
            entry.answer.set_result(result["message"])
        elif result["type"] == "errored":
            model = str(entry.body["model"])
            entry.answer.set_exception(error_of(self._name, model, result["error"], 200, "the request failed"))
        else:
            entry.answer.set_exception(errors.interrupted(self._name, f"the batch has {result['type']} the request"))

    def _fail(self, wanted: _Gathered, exc: Exception) -> None:
        from flowmason_ray.llm.anthropic import error_of

        for each in _wanted(wanted).values():
            match exc:
                case sdk.APIStatusError():
                    model = str(each.body["model"])
                    error: Exception = error_of(self._name, model, exc.body, exc.status_code, exc.message)
                case sdk.APIConnectionError():
                    error = errors.not_reached(self._name, exc)
                case _:
                    error = errors.interrupted(
                        self._name, f"the batch is not told to its end ({type(exc).__name__}: {exc})"
                    )
            each.answer.set_exception(error)

    @staticmethod
    def _give(wanted: _Gathered, error: Exception) -> None:
        for each in _wanted(wanted).values():
            each.answer.set_exception(error)

    async def close(self) -> None:
        """Let go of everything."""
        tasks = [*self._running, *([self._sending] if self._sending else [])]
        for task in tasks:
            task.cancel()
        for task in tasks:
            with suppress(asyncio.CancelledError):
                await task


def _wanted(gathered: _Gathered) -> dict[str, _Waiting]:
    """Return those that somebody still waits for."""
    return {key: each for key, each in gathered.items() if not each.answer.done()}


def _unanswered(gathered: _Gathered) -> list[str]:
    """Return those that have got nothing, whether somebody still waits for them or not."""
    return [key for key, each in gathered.items() if not each.answer.done() or each.answer.cancelled()]
