"""Requests that may wait, gathered into Anthropic's message batches: half the price, done within a day.

What is asked within a moment goes into one batch, so that a loop over a thousand items makes a few batches and not a thousand. A batch is
polled until it has ended; a request whose attempt is cancelled is let go of, and a batch that nobody waits for any more is cancelled.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

import anthropic as sdk

from flowmason_ray.llm import errors
from flowmason_ray.llm.base import Opening

COLLECT_S = 1.0
"""How long more requests are waited for: attempts of a loop begin within milliseconds of each other."""
MOST_REQUESTS = 10_000
"""In one batch; the API allows ten times as many, but not of every size."""
POLL_S = 5.0
LONGEST_POLL_S = 60.0
"""Between two looks at a batch: often at first, since small ones are done in minutes."""


class Batches:
    """Gathers requests. On the hub's loop."""

    def __init__(self, client: sdk.AsyncAnthropic, opening: Opening) -> None:
        self._client = client
        self._name = opening.name
        self._collecting: dict[str, tuple[dict[str, Any], asyncio.Future[dict[str, Any]]]] = {}
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
        self._collecting[self._id(key)] = ({**plain, **extra}, answer)
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
        task = asyncio.create_task(self._carry(gathered))
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def _carry(self, gathered: dict[str, tuple[dict[str, Any], asyncio.Future[dict[str, Any]]]]) -> None:
        """See one batch through to its end."""
        wanted = {key: entry for key, entry in gathered.items() if not entry[1].done()}
        if not wanted:
            return
        requests: Any = [{"custom_id": key, "params": body} for key, (body, _) in wanted.items()]
        try:
            batch = await self._client.messages.batches.create(requests=requests)
            delay = POLL_S
            while batch.processing_status != "ended":
                await asyncio.sleep(delay)
                delay = min(LONGEST_POLL_S, delay * 1.5)
                if all(answer.done() for _, answer in wanted.values()):
                    await self._client.messages.batches.cancel(batch.id)
                    return
                batch = await self._client.messages.batches.retrieve(batch.id)
            async for line in await self._client.messages.batches.results(batch.id):
                self._answer(wanted, line.to_dict())
        except sdk.APIError as exc:
            self._fail(wanted, exc)
        except BaseException:
            for _, answer in wanted.values():
                answer.cancel()
            raise
        for _, answer in wanted.values():
            if not answer.done():
                answer.set_exception(errors.interrupted(self._name, "the batch has no answer to this request"))

    def _answer(self, wanted: dict[str, tuple[dict[str, Any], asyncio.Future[dict[str, Any]]]], line: Any) -> None:
        from flowmason_ray.llm.anthropic import error_of

        entry = wanted.get(line["custom_id"])
        if entry is None or entry[1].done():
            return
        body, answer = entry
        result = line["result"]
        if result["type"] == "succeeded":
            answer.set_result(result["message"])
        elif result["type"] == "errored":
            answer.set_exception(error_of(self._name, str(body["model"]), result["error"], 200, "the request failed"))
        else:
            answer.set_exception(errors.interrupted(self._name, f"the batch has {result['type']} the request"))

    def _fail(
        self, wanted: dict[str, tuple[dict[str, Any], asyncio.Future[dict[str, Any]]]], exc: sdk.APIError
    ) -> None:
        from flowmason_ray.llm.anthropic import error_of

        for body, answer in wanted.values():
            if answer.done():
                continue
            if isinstance(exc, sdk.APIStatusError):
                error = error_of(self._name, str(body["model"]), exc.body, exc.status_code, exc.message)
            else:
                error = errors.not_reached(self._name, exc)
            answer.set_exception(error)

    async def close(self) -> None:
        """Let go of everything."""
        tasks = [*self._running, *([self._sending] if self._sending else [])]
        for task in tasks:
            task.cancel()
        for task in tasks:
            with suppress(asyncio.CancelledError):
                await task
