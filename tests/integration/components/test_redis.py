"""`redis` and `queue` against a real Redis server."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from typing import Any
from uuid import uuid4

import pytest
import redis

from flowmason_ray.components.builtin.queue_publish import QueuePublish
from flowmason_ray.components.builtin.redis_store import RedisStore
from flowmason_ray.errors import PermanentError, StageError, TemporaryError
from flowmason_ray.settings import ProjectSettings
from flowmason_ray.testing.context import RecordingContext
from tests.servers_kit import PASSWORD, free_port


@pytest.fixture
def context(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> RecordingContext:
    monkeypatch.setenv("REDIS_PASSWORD", PASSWORD)
    monkeypatch.setenv("WRONG_PASSWORD", "wrong-password")
    secret = {"secret": "REDIS_PASSWORD"}
    connections = {
        "cache": {"type": "redis", "url": redis_url, "password": secret},
        "wrong": {"type": "redis", "url": redis_url, "password": {"secret": "WRONG_PASSWORD"}},
        "without": {"type": "redis", "url": redis_url},
        "nowhere": {"type": "redis", "url": f"redis://127.0.0.1:{free_port()}/0", "password": secret},
        "odd": {"type": "redis", "url": "http://127.0.0.1/0"},
    }
    return RecordingContext(settings=ProjectSettings.model_validate({"connections": connections}), idempotency_key="")


@pytest.fixture
def server(redis_url: str) -> Any:
    client: Any = redis.Redis.from_url(redis_url, password=PASSWORD, decode_responses=True)  # pyright: ignore[reportUnknownMemberType]  # its options have no types
    client.flushdb()
    yield client
    client.close()


async def do(context: RecordingContext, operation: str, key: str = "k", **more: Any) -> RedisStore.Output:
    """Do an operation as an attempt of a stage of its own, unless the context has a key already."""
    if not context.idempotency_key:
        context = replace(context, idempotency_key=uuid4().hex)
    config = {"connection": "cache", "operation": operation, "key": key, **more}
    return await RedisStore().execute(RedisStore.Input.model_validate(config), context)


def test_values_and_their_life(context: RecordingContext, server: Any) -> None:
    async def story() -> None:
        assert (await do(context, "get")).found is False
        await do(context, "set", value={"a": [1, "ü"]}, ttl_seconds=100)
        assert server.get("k") == '{"a":[1,"ü"]}'
        assert (await do(context, "get")).result == {"a": [1, "ü"]}
        assert (await do(context, "get", format="text")).result == '{"a":[1,"ü"]}'
        assert 90 < (await do(context, "ttl")).result <= 100
        refused = await do(context, "set", value="other", only_if="missing")
        assert (refused.found, refused.result) == (False, None)
        assert (await do(context, "set", value="plain text", only_if="present")).found
        assert (await do(context, "get")).result == "plain text"
        assert (await do(context, "ttl")).result is None
        assert (await do(context, "exists")).result is True
        assert (await do(context, "expire", ttl_seconds=50)).found
        assert 0 < server.ttl("k") <= 50
        assert (await do(context, "delete")).result == 1
        assert (await do(context, "delete")).found is False
        assert (await do(context, "ttl")).found is False

    asyncio.run(story())


def test_counters_hashes_lists_sets_and_streams(context: RecordingContext, server: Any) -> None:
    async def story() -> None:
        assert [(await do(context, "incr", "n", amount=a)).result for a in (1, 5, -2)] == [1, 6, 4]
        server.set("big", 2**53 - 3)
        assert (await do(context, "incr", "big")).result == 2**53 - 2

        assert (await do(context, "hset", "h", value={"b": 2, "a": {"x": 1}})).result == 2
        assert (await do(context, "hset", "h", field="c", value="three")).result == 1
        assert (await do(context, "hget", "h", field="a")).result == {"x": 1}
        assert (await do(context, "hincr", "h", field="b", amount=3)).result == 5
        assert (await do(context, "hgetall", "h")).result == {"a": {"x": 1}, "b": 5, "c": "three"}
        assert (await do(context, "hdel", "h", field="c")).found
        assert (await do(context, "hgetall", "h", limit=1)).truncated

        assert (await do(context, "push", "l", value=["a", {"b": 1}, 3])).result == 3
        assert (await do(context, "push", "l", value="first", side="left")).result == 4
        assert (await do(context, "range", "l")).result == ["first", "a", {"b": 1}, 3]
        cut = await do(context, "range", "l", limit=2)
        assert (cut.result, cut.truncated) == (["first", "a"], True)
        assert (await do(context, "range", "l", start=-2)).result == [{"b": 1}, 3]
        assert (await do(context, "range", "l", start=1, stop=2)).result == ["a", {"b": 1}]
        assert (await do(context, "length", "l")).result == 4
        assert (await do(context, "pop", "l", side="left")).result == "first"
        empty = await do(context, "pop", "none")
        assert (empty.result, empty.found) == (None, False)

        assert (await do(context, "sadd", "s", value=["y", "x", "x"])).result == 2
        assert (await do(context, "srem", "s", value="y")).result == 1
        assert (await do(context, "smembers", "s")).result == ["x"]

        first = (await do(context, "xadd", "st", value={"n": 1})).result
        await do(context, "xadd", "st", value={"n": 2}, max_length=1000)
        entries = (await do(context, "xrange", "st")).result
        assert [e["fields"] for e in entries] == [{"n": 1}, {"n": 2}]
        assert entries[0]["id"] == first
        assert (await do(context, "xrange", "st", limit=1)).truncated
        assert (await do(context, "xrange", "st", start=f"({first}")).result == entries[1:]

        server.mset({"user:1": 1, "user:2": 2, "other": 3})
        assert (await do(context, "keys", "user:*")).result == ["user:1", "user:2"]
        assert (await do(context, "keys", "user:*", limit=1)).truncated

    asyncio.run(story())


@pytest.mark.parametrize("operation", ["incr", "hincr"])
def test_counters_beyond_what_a_double_holds_are_exact(operation: str, context: RecordingContext, server: Any) -> None:
    """Nanoseconds since 1970, for one: Lua's numbers keep 53 bits."""
    more = {} if operation == "incr" else {"field": "f"}
    for amount in (2**53 + 1, -(2**53) - 1, 2**63 - 1, -(2**63)):
        server.flushdb()
        once = replace(context, idempotency_key="the-same")
        first = asyncio.run(do(once, operation, amount=amount, **more))
        second = asyncio.run(do(once, operation, amount=amount, **more))
        assert (first.result, second.result, second.repeated) == (amount, amount, True)


@pytest.mark.parametrize("operation", ["push", "sadd", "srem", "hset"])
def test_many_values_are_one_step(operation: str, context: RecordingContext, server: Any) -> None:
    """Lua hands over 8,000 arguments at once."""
    values = [f"v{n}" for n in range(20_001)]
    if operation == "srem":
        server.sadd("k", "stays", *values)
    done = asyncio.run(do(context, operation, value={v: v for v in values} if operation == "hset" else values))
    assert done.result == len(values)
    left = {
        "push": lambda: server.lrange("k", 0, -1) == values,
        "sadd": lambda: server.smembers("k") == set(values),
        "srem": lambda: server.smembers("k") == {"stays"},
        "hset": lambda: server.hgetall("k") == {v: v for v in values},
    }[operation]
    assert left()


def test_an_item_that_is_no_text_stays_in_the_list(context: RecordingContext, server: Any) -> None:
    for item in (b"\xff\xfe", b"a\xc3\xc3\xa4\xa4", b"\xed\xa0\x80", b"\xf5\x80\x80\x80", b"\xc0\x80", b"cut \xe2\x82"):
        server.delete("k")
        server.rpush("k", "left", item, "right")
        assert asyncio.run(do(context, "pop")).result == "right"
        with pytest.raises(PermanentError, match="no UTF-8") as caught:
            asyncio.run(do(context, "pop"))
        assert caught.value.code == "redis_error"
        assert asyncio.run(do(context, "pop", side="left")).result == "left"
        assert server.llen("k") == 1
    texts = ["plain", "Öl", "東京都", "a\0b", "\U0001f600\U0010ffff", "\ud7ff\ue000", ""]
    server.rpush("texts", *texts)
    assert [asyncio.run(do(context, "pop", "texts", side="left")).result for _ in texts] == texts


def test_json_that_nests_too_deeply_stays_a_text(context: RecordingContext, server: Any) -> None:
    deep = "[" * 100_000 + "]" * 100_000
    server.set("k", deep)
    server.rpush("l", deep)
    assert asyncio.run(do(context, "get")).result == deep
    assert asyncio.run(do(context, "pop", "l")).result == deep


async def _twice(context: RecordingContext, operation: str, more: dict[str, Any]) -> tuple[Any, Any, Any]:
    once = replace(context, idempotency_key="the-same")
    first = await do(once, operation, **more)
    second = await do(replace(once, attempt=2), operation, **more)
    other = await do(replace(once, idempotency_key="another"), operation, **more)
    return first, second, other


@pytest.mark.parametrize(
    ("operation", "more", "kind"),
    [
        ("incr", {}, "string"),
        ("push", {"value": "x"}, "list"),
        ("xadd", {"value": {"n": 1}}, "stream"),
        ("hincr", {"field": "f"}, "hash"),
        ("set", {"value": "v", "only_if": "missing"}, "string"),
    ],
)
def test_a_repeated_attempt_changes_nothing_and_gets_the_first_answer(
    operation: str, more: dict[str, Any], kind: str, context: RecordingContext, server: Any
) -> None:
    first, second, other = asyncio.run(_twice(context, operation, more))
    assert (second.result, second.found) == (first.result, first.found)
    assert (first.repeated, second.repeated, other.repeated) == (False, True, False)
    assert server.type("k") == kind
    # The positive control: another stage's attempt does change it (or, for `only_if`, finds it there).
    assert (other.result, other.found) != (first.result, first.found)


def test_pop_gives_a_repeated_attempt_the_item_that_it_took(context: RecordingContext, server: Any) -> None:
    server.rpush("k", "a", "b", "c")
    first, second, other = asyncio.run(_twice(context, "pop", {"side": "left"}))
    assert (first.result, second.result, other.result) == ("a", "a", "b")
    assert server.lrange("k", 0, -1) == ["c"]


@pytest.mark.parametrize(
    ("config", "kind", "code", "words"),
    [
        ({"operation": "set"}, PermanentError, "invalid_input", "'set' needs 'value'"),
        ({"operation": "hset", "value": 3}, PermanentError, "invalid_input", "needs an object"),
        ({"operation": "expire"}, PermanentError, "invalid_input", "'ttl_seconds'"),
        (
            {"operation": "incr", "ttl_seconds": 60},
            PermanentError,
            "invalid_input",
            "'ttl_seconds' is for 'set' and 'expire'",
        ),
        (
            {"operation": "hset", "value": {"a": 1}, "only_if": "missing"},
            PermanentError,
            "invalid_input",
            "'only_if' is for 'set'",
        ),
        ({"operation": "push", "value": []}, PermanentError, "invalid_input", "at least one"),
        (
            {"operation": "xadd", "value": {str(n): n for n in range(4000)}},
            PermanentError,
            "invalid_input",
            "'XADD' with 8003 arguments",
        ),
        ({"operation": "range", "start": "x"}, PermanentError, "invalid_input", "an index is a number"),
        ({"operation": "incr", "key": "text"}, PermanentError, "redis_error", "not an integer"),
        ({"operation": "push", "key": "text", "value": 1}, PermanentError, "redis_error", "WRONGTYPE"),
        ({"operation": "get", "key": "bytes"}, PermanentError, "redis_error", "no UTF-8"),
        ({"operation": "get", "connection": "wrong"}, PermanentError, "redis_denied", "password"),
        ({"operation": "get", "connection": "without"}, PermanentError, "redis_denied", "password|refuses"),
        ({"operation": "get", "connection": "nowhere"}, TemporaryError, "redis_unavailable", "cannot be used now"),
        ({"operation": "get", "connection": "odd"}, PermanentError, "redis_error", "redis://"),
        ({"operation": "get", "connection": "cahce"}, PermanentError, "unknown_connection", "'cache'"),
    ],
)
def test_what_cannot_be_done_is_said(
    config: dict[str, Any], kind: type[StageError], code: str, words: str, context: RecordingContext, server: Any
) -> None:
    server.set("text", "no number")
    server.set("bytes", b"\xff\xfe")
    with pytest.raises(kind, match=words) as caught:
        asyncio.run(do(context, **config))
    assert caught.value.code == code
    assert PASSWORD not in caught.value.message
    assert "wrong-password" not in caught.value.message


def test_a_message_is_put_on_the_queue_once(context: RecordingContext, server: Any) -> None:
    async def publish(key: str, message: Any) -> QueuePublish.Output:
        config = {
            "connection": "cache", "queue": "orders", "message": message,
            "message_type": "order.paid", "headers": {"tenant": "a"},
        }  # fmt: skip
        return await QueuePublish().execute(
            QueuePublish.Input.model_validate(config), replace(context, idempotency_key=key)
        )

    async def story() -> list[QueuePublish.Output]:
        return [await publish("one", {"id": 1}), await publish("one", {"id": 1}), await publish("two", {"id": 2})]

    first, again, second = asyncio.run(story())
    assert (first.message_id, again.repeated) == (again.message_id, True)
    entries = server.xrange("orders")
    assert [(i, json.loads(f["payload"]), f["idempotency_key"]) for i, f in entries] == [
        (first.message_id, {"id": 1}, "one"),
        (second.message_id, {"id": 2}, "two"),
    ]
    assert entries[0][1]["message_type"] == "order.paid"
    assert entries[0][1]["header:tenant"] == "a"
