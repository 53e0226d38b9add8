"""Speaking to Redis: connecting, its errors in our words, and doing a command once per idempotency key.

A command that changes something runs inside a script that first looks for a marker, `flowmason:done:<key>`, and leaves one
with the command's answer. Redis runs a script alone, so the marker and the change are one step: an attempt that is repeated,
also after a crash between the two, gets the first answer and changes nothing. Markers last a day. Redis Cluster is not
served: marker and key would lie on different nodes.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import Any, cast

from flowmason_ray.components.extras import needs
from flowmason_ray.connections import RedisConnection
from flowmason_ray.engine.component import Context
from flowmason_ray.errors import PermanentError, TemporaryError

with needs("Redis", extra="redis"):
    import redis.asyncio as redis
    from redis import exceptions as errors

MARKER_TTL_S = 86_400
"""How long an answer is remembered: longer than anybody waits before resuming a run."""

_AT_ONCE = 7_900
"""Arguments that a script hands over at once: Lua takes about 8,000. Even, since HSET's are pairs."""
_IN_PARTS = {"LPUSH": "last", "RPUSH": "last", "SADD": "sum", "SREM": "sum", "HSET": "sum"}
"""Commands (`COMMAND key value…`) that may be done in parts, and how their answers become one."""
_MOST_ARGUMENTS = 1_000_000
"""Redis ends a connection that sends more than 1,048,576."""

# A number is written out by us: cjson keeps 14 digits. Lua's numbers keep 53 bits: a counter beyond them is read as a text.
# An item that is no text would be lost, popped by a client that reads texts: it is looked at first.
_ONCE = r"""
local done = redis.call('GET', KEYS[1])
if done then return {1, done} end

local function is_text(bytes)
    local tail = '[\128-\191]'
    local rest = bytes
    for _, valid in ipairs({
        '[\194-\223]' .. tail, '\224[\160-\191]' .. tail, '[\225-\236\238\239]' .. tail .. tail, '\237[\128-\159]' .. tail,
        '\240[\144-\191]' .. tail .. tail, '[\241-\243]' .. tail .. tail .. tail, '\244[\128-\143]' .. tail .. tail,
    }) do
        rest = string.gsub(rest, valid, ' ')
    end
    return not string.find(rest, '[\128-\255]')
end

local at_once, joined = tonumber(ARGV[2]), ARGV[3]
local name, key = ARGV[4], ARGV[5]
if name == 'LPOP' or name == 'RPOP' then
    local item = redis.pcall('LINDEX', key, name == 'LPOP' and 0 or -1)
    if type(item) == 'string' and not is_text(item) then return redis.error_reply('NOTEXT') end
end

local answer
if joined == 'all' then
    answer = redis.call(unpack(ARGV, 4))
else
    local total = 0
    for first = 6, #ARGV, at_once do
        answer = redis.call(name, key, unpack(ARGV, first, math.min(first + at_once - 1, #ARGV)))
        total = total + answer
    end
    if joined == 'sum' then answer = total end
end

if type(answer) == 'table' and answer['ok'] then answer = answer['ok'] end
local text
if type(answer) ~= 'number' then
    text = cjson.encode({answer})
elseif math.abs(answer) < 9007199254740992 then
    text = string.format('[%.0f]', answer)
elseif name == 'INCRBY' then
    text = '[' .. redis.call('GET', key) .. ']'
else
    text = '[' .. redis.call('HGET', key, ARGV[6]) .. ']'
end
redis.call('SET', KEYS[1], text, 'EX', ARGV[1])
return {0, text}
"""


@asynccontextmanager
async def connected(context: Context, name: str, *, answer_s: float) -> AsyncGenerator[redis.Redis]:
    """Connect to the connection `name` of the project; close it in the end.

    Raises:
        PermanentError: `redis_denied` for a wrong password or a missing right, `redis_error` for what the server refuses.
        TemporaryError: `redis_unavailable` when it cannot be reached, is loading, or takes longer than `answer_s` for an answer.
    """
    connection = context.connection(name, RedisConnection)
    options: dict[str, Any] = {"username": connection.username, "password": connection.password}
    try:
        client = redis.Redis.from_url(  # pyright: ignore[reportUnknownMemberType]  # its options have no types
            str(connection.url),
            decode_responses=True,
            socket_timeout=answer_s,
            socket_connect_timeout=min(answer_s, 10.0),
            **{key: value for key, value in options.items() if value is not None},
        )
    except ValueError as exc:
        raise PermanentError(
            f"The URL of connection {name!r} cannot be used: it starts with redis:// or rediss://, and has a host.",
            code="redis_error",
        ) from exc
    try:
        yield client
    except (errors.AuthenticationError, errors.NoPermissionError) as exc:
        raise PermanentError(
            f"Redis {name!r} refuses: {exc}. Check the connection's username and password.", code="redis_denied"
        ) from exc
    except errors.ResponseError as exc:
        if str(exc).startswith("NOTEXT"):
            raise _no_text(name) from exc
        if "NOAUTH" in str(exc) or "WRONGPASS" in str(exc):
            raise PermanentError(f"Redis {name!r} wants a password: {exc}.", code="redis_denied") from exc
        raise PermanentError(f"Redis {name!r} says: {exc}.", code="redis_error") from exc
    except errors.RedisError as exc:
        raise TemporaryError(f"Redis {name!r} cannot be used now: {exc}.", code="redis_unavailable") from exc
    except UnicodeDecodeError as exc:
        raise _no_text(name) from exc
    finally:
        await client.aclose()


def _no_text(name: str) -> PermanentError:
    return PermanentError(
        f"Redis {name!r} holds bytes there that are no UTF-8 text; this component reads texts.", code="redis_error"
    )


async def call(client: redis.Redis, *command: str | int | float) -> Any:
    """Send a command and return its answer, as the client decodes it."""
    return await cast("Any", client).execute_command(*command)


async def call_once(client: redis.Redis, key: str, command: Sequence[str | int | float]) -> tuple[Any, bool]:
    """Do a command, once per `key`.

    Returns:
        Its answer, as the server gave it (an empty answer is False), and whether it was done by an earlier attempt.

    Raises:
        PermanentError: it has more arguments than can be sent (`invalid_input`).
    """
    joined = _IN_PARTS.get(str(command[0]), "all")
    most = _AT_ONCE if joined == "all" else _MOST_ARGUMENTS
    if len(command) > most:
        raise PermanentError(
            f"{command[0]!r} with {len(command)} arguments is more than Redis takes at once; at most {most} can be sent.",
            code="invalid_input",
        )
    again, text = await cast("Any", client).eval(
        _ONCE, 1, f"flowmason:done:{key}", MARKER_TTL_S, _AT_ONCE, joined, *command
    )
    return json.loads(text)[0], bool(again)
