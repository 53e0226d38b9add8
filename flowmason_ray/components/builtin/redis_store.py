"""`redis`: values, counters, hashes, lists, sets and streams in a Redis server.

Declared idempotent, and made so: what changes something is done once per idempotency key (`redis_client`), also what by
itself is not repeatable, such as `incr`, `push` or `pop`. Reading gives what is there at the time.

Values that are no texts are written as JSON and read back as such with `format: json`.
"""

from __future__ import annotations

import json
from typing import Any, Literal, cast

from pydantic import BaseModel, Field

from flowmason_ray.components.base import operator
from flowmason_ray.components.builtin.contents import json_bytes
from flowmason_ray.components.builtin.examples import closed
from flowmason_ray.components.builtin.redis_client import call, call_once, connected
from flowmason_ray.components.connection_names import names_connection
from flowmason_ray.engine.component import Context
from flowmason_ray.errors import PermanentError

Operation = Literal[
    "get", "set", "delete", "exists", "expire", "ttl", "incr", "keys",
    "hget", "hset", "hdel", "hgetall", "hincr",
    "push", "pop", "range", "length",
    "sadd", "srem", "smembers",
    "xadd", "xrange",
]  # fmt: skip

MAX_READ = 10_000
"""Items of a list, a set, a hash, a stream or a search that are read at most, unless `limit` says less."""


@operator(name="redis", effect="idempotent", cost="io", category="data", tags=("redis",))
class RedisStore:
    """Reads and writes values, counters, hashes, lists, sets and streams in Redis."""

    class Input(BaseModel):
        """What to do with which key."""

        model_config = closed(
            {
                "connection": "cache",
                "operation": "set",
                "key": "greeting",
                "value": {"text": "hello"},
                "ttl_seconds": 60,
            }
        )

        connection: str = Field(
            description="The connection of type redis in flowmason.json.", json_schema_extra=names_connection("redis")
        )
        operation: Operation = Field(
            description="What to do. Lists: push, pop, range, length. Hashes: h…; sets: s…; streams: x…; keys searches."
        )
        key: str = Field(min_length=1, description="The key; for keys a pattern such as 'user:*'.")
        value: Any = Field(
            default=None,
            description="For set, push, sadd, srem: the value, or a list of values (not for set). For hset and xadd: {field: value}.",
        )
        field: str | None = Field(default=None, description="For hget, hdel, hincr: the field; hset with one field.")
        amount: int = Field(default=1, description="For incr and hincr: by how much.")
        ttl_seconds: int | None = Field(
            default=None, ge=1, description="For set, expire: seconds until the key goes away."
        )
        only_if: Literal["missing", "present"] | None = Field(
            default=None, description="For set: only if the key is not there, or is there."
        )
        side: Literal["left", "right"] = Field(default="right", description="For push and pop: which end of the list.")
        start: int | str | None = Field(
            default=None, description="For range: the first index, from 0; for xrange: the first id."
        )
        stop: int | str | None = Field(
            default=None, description="For range: the last index, -1 is the end; xrange: an id."
        )
        limit: int = Field(default=1000, ge=1, le=MAX_READ, description="The most that is read; more is cut off.")
        max_length: int | None = Field(
            default=None, ge=1, description="For xadd: about how long the stream may get; older entries go."
        )
        format: Literal["json", "text"] = Field(
            default="json",
            description="How values are read: as JSON where they are JSON, or as the texts that they are.",
        )
        timeout: float = Field(default=10.0, gt=0, le=600, description="Seconds for each answer.")

    class Output(BaseModel):
        """What was found or done."""

        result: Any = Field(
            description="What was read; for what changes something the server's answer, such as the new length or number."
        )
        found: bool = Field(description="Whether there was something; for what changes something whether it did.")
        truncated: bool = Field(default=False, description="Whether there is more than 'limit'.")
        repeated: bool = Field(default=False, description="Whether an earlier attempt had done it already.")

    async def execute(self, input: Input, context: Context) -> Output:
        """Do it.

        Raises:
            PermanentError: `invalid_input`, `unknown_connection`, `redis_denied`, `redis_error`.
            TemporaryError: `redis_unavailable`.
        """
        command = _command(input)
        async with connected(context, input.connection, answer_s=input.timeout) as client:
            if input.operation == "keys":
                return await self._search(client, input)
            if input.operation in _READS:
                return self._read(input, await call(client, *command))
            answer, again = await call_once(client, context.idempotency_key, command)
        if input.operation == "pop":
            return self.Output(result=_value(answer, input), found=answer is not False, repeated=again)
        return self.Output(result=answer or None if answer is False else answer, found=bool(answer), repeated=again)

    async def _search(self, client: Any, input: Input) -> Output:
        found: list[str] = []
        async for key in client.scan_iter(match=input.key, count=500):
            found.append(key)
            if len(found) > input.limit:
                break
        return self.Output(result=sorted(found[: input.limit]), found=bool(found), truncated=len(found) > input.limit)

    def _read(self, input: Input, answer: Any) -> Output:
        match input.operation:
            case "exists":
                return self.Output(result=bool(answer), found=bool(answer))
            case "ttl":
                # -2: there is no such key, -1: it stays (Redis, command TTL).
                return self.Output(result=answer if answer >= 0 else None, found=answer != -2)
            case "length":
                return self.Output(result=answer, found=answer > 0)
            case "get" | "hget":
                return self.Output(result=_value(answer, input), found=answer is not None)
            case "hgetall":
                pairs = cast("dict[str, str]", answer)
                kept = dict(sorted(pairs.items())[: input.limit])
                result: Any = {name: _value(value, input) for name, value in kept.items()}
            case "smembers":
                pairs = sorted(cast("set[str]", answer))
                result = [_value(value, input) for value in pairs[: input.limit]]
            case "xrange":
                pairs = cast("list[tuple[str, dict[str, str]]]", answer)
                result = [
                    {"id": entry, "fields": {name: _value(value, input) for name, value in fields.items()}}
                    for entry, fields in pairs[: input.limit]
                ]
            case _:
                pairs = cast("list[str]", answer)
                result = [_value(value, input) for value in pairs[: input.limit]]
        return self.Output(result=result, found=bool(pairs), truncated=len(pairs) > input.limit)


_READS = frozenset({"get", "exists", "ttl", "hget", "hgetall", "range", "length", "smembers", "xrange"})


_ONLY_FOR = {"ttl_seconds": ("set", "expire"), "only_if": ("set",), "max_length": ("xadd",)}
"""Fields that would be left undone by other operations, and by which."""


def _command(input: RedisStore.Input) -> list[str | int | float]:
    """Return the command that the server is sent.

    Raises:
        PermanentError: what the operation needs is not given, or what it would leave undone is (`invalid_input`).
    """
    for field, operations in _ONLY_FOR.items():
        if getattr(input, field) is not None and input.operation not in operations:
            raise PermanentError(
                f"{field!r} is for {' and '.join(map(repr, operations))}; operation {input.operation!r} knows nothing like it.",
                code="invalid_input",
            )
    key, value = input.key, input.value
    match input.operation:
        case "get" | "exists" | "ttl" | "hgetall" | "smembers":
            return [input.operation.upper(), key]
        case "keys":
            return []
        case "length":
            return ["LLEN", key]
        case "delete":
            return ["DEL", key]
        case "set":
            expiry = [] if input.ttl_seconds is None else ["EX", input.ttl_seconds]
            only = {None: [], "missing": ["NX"], "present": ["XX"]}[input.only_if]
            return ["SET", key, _text(_given(input, value, "value")), *expiry, *only]
        case "expire":
            return ["EXPIRE", key, _given(input, input.ttl_seconds, "ttl_seconds")]
        case "incr":
            return ["INCRBY", key, input.amount]
        case "hget" | "hdel":
            return [input.operation.upper(), key, _given(input, input.field, "field")]
        case "hincr":
            return ["HINCRBY", key, _given(input, input.field, "field"), input.amount]
        case "hset":
            pairs = value if input.field is None else {input.field: _given(input, value, "value")}
            return ["HSET", key, *_pairs(input, pairs)]
        case "xadd":
            trim = [] if input.max_length is None else ["MAXLEN", "~", input.max_length]
            return ["XADD", key, *trim, "*", *_pairs(input, value)]
        case "push":
            return [f"{input.side[0].upper()}PUSH", key, *_several(input)]
        case "pop":
            return [f"{input.side[0].upper()}POP", key]
        case "sadd" | "srem":
            return [input.operation.upper(), key, *_several(input)]
        case "range":
            start = _index(input, input.start, 0)
            # One more than is shown, so that a cut is noticed.
            stop = _index(input, input.stop, start + input.limit if start >= 0 else -1)
            return ["LRANGE", key, start, min(stop, start + input.limit) if 0 <= start <= stop else stop]
        case "xrange":
            return ["XRANGE", key, _or(input.start, "-"), _or(input.stop, "+"), "COUNT", input.limit + 1]


def _or(value: int | str | None, other: str) -> int | str:
    return other if value is None else value


def _index(input: RedisStore.Input, value: int | str | None, other: int) -> int:
    try:
        return other if value is None else int(value)
    except ValueError:
        raise PermanentError(f"For 'range' an index is a number; found {value!r}.", code="invalid_input") from None


def _given(input: RedisStore.Input, value: Any, name: str) -> Any:
    if value is None:
        raise PermanentError(f"Operation {input.operation!r} needs {name!r}.", code="invalid_input")
    return value


def _pairs(input: RedisStore.Input, value: Any) -> list[str]:
    if not isinstance(value, dict) or not value:
        raise PermanentError(
            f"Operation {input.operation!r} needs an object {{field: value}} in 'value'.", code="invalid_input"
        )
    return [text for name, each in cast("dict[str, Any]", value).items() for text in (name, _text(each))]


def _several(input: RedisStore.Input) -> list[str]:
    value = _given(input, input.value, "value")
    values = cast("list[Any]", value) if isinstance(value, list) else [value]
    if not values:
        raise PermanentError(f"Operation {input.operation!r} needs at least one value.", code="invalid_input")
    return [_text(each) for each in values]


def _text(value: Any) -> str:
    """Return a text as it is, anything else as JSON."""
    return value if isinstance(value, str) else json_bytes(value, "'value'", compact=True).decode()


def _value(text: Any, input: RedisStore.Input) -> Any:
    if text is False or text is None:
        return None
    if input.format == "text" or not isinstance(text, str):
        return text
    try:
        return json.loads(text)
    except (
        ValueError,
        RecursionError,
    ):  # no JSON, or more than Python reads; an item that was popped must not get lost here
        return text
