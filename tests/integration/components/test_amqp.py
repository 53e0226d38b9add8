"""`queue` against a real RabbitMQ."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import aio_pika
import pytest

from flowmason_ray import run
from flowmason_ray.components.builtin.queue_publish import QueuePublish
from flowmason_ray.errors import PermanentError, StageError, TemporaryError
from flowmason_ray.settings import ProjectSettings
from flowmason_ray.testing.context import RecordingContext
from tests.amqp_kit import USER, Broker, rabbitmq
from tests.servers_kit import PASSWORD, free_port

pytestmark = [pytest.mark.amqp, pytest.mark.xdist_group("amqp")]  # one broker
WRONG = "wrong-password"


@pytest.fixture(scope="module")
def broker() -> Iterator[Broker]:
    yield from rabbitmq()


def connections(broker: Broker) -> dict[str, Any]:
    login = {"type": "amqp", "username": USER, "password": {"secret": "BROKER_PASSWORD"}}
    secure = f"amqps://127.0.0.1:{broker.tls_port}"
    return {
        "broker": {**login, "url": broker.url},
        "whole": {"type": "amqp", "url": {"secret": "BROKER_URL"}},
        "secure": {**login, "url": secure, "verify": False},
        "unproven": {**login, "url": secure},
        "wrong": {**login, "url": broker.url, "password": {"secret": "WRONG_PASSWORD"}},
        "elsewhere": {**login, "url": f"{broker.url}no-such-host"},
        "nowhere": {**login, "url": f"amqp://127.0.0.1:{free_port()}"},
        "odd": {**login, "url": "http://127.0.0.1/"},
        "cache": {"type": "redis", "url": "redis://127.0.0.1:1/0"},
        "mail": {"type": "smtp", "host": "127.0.0.1"},
    }


@pytest.fixture
def context(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> RecordingContext:
    monkeypatch.setenv("BROKER_PASSWORD", PASSWORD)
    monkeypatch.setenv("WRONG_PASSWORD", WRONG)
    monkeypatch.setenv("BROKER_URL", f"amqp://{USER}:{PASSWORD}@127.0.0.1:{broker.port}/%2F")
    settings = ProjectSettings.model_validate({"connections": connections(broker)})
    return RecordingContext(settings=settings, idempotency_key="the-key")


async def publish(context: RecordingContext, **config: Any) -> QueuePublish.Output:
    given = QueuePublish.Input.model_validate({"connection": "broker", "message": {"id": 7}, **config})
    return await QueuePublish().execute(given, context)


@asynccontextmanager
async def looking(broker: Broker) -> AsyncGenerator[Any]:
    """A channel of a consumer's."""
    opened = await aio_pika.connect(host="127.0.0.1", port=broker.port, login=USER, password=PASSWORD, timeout=60)
    async with opened:
        yield await opened.channel()


def told(broker: Broker, story: Callable[[Any], Awaitable[None]]) -> None:
    """Play a story with a consumer's channel."""

    async def play() -> None:
        async with looking(broker) as channel:
            await story(channel)

    asyncio.run(play())


def test_a_message_arrives_with_all_that_was_said_of_it(broker: Broker, context: RecordingContext) -> None:
    async def story(channel: Any) -> None:
        queue = await channel.declare_queue(uuid4().hex, durable=True)
        message = {"id": 7, "name": "ü", "large": "x" * 300_000}  # more than one frame holds
        sent = await publish(
            context, queue=queue.name, message=message, message_type="order.paid", headers={"tenant": "a"}, timeout=60
        )
        assert (sent.message_id, sent.queue, sent.repeated) == ("the-key", queue.name, False)
        got = await queue.get(timeout=60)
        assert json.loads(got.body) == message
        assert (got.message_id, got.type, got.headers) == ("the-key", "order.paid", {"tenant": "a"})
        assert (got.content_type, got.delivery_mode) == ("application/json", aio_pika.DeliveryMode.PERSISTENT)
        assert got.timestamp.timestamp() == int(context.started_at.timestamp())

    told(broker, story)


def test_a_repeated_attempt_can_be_told_by_the_message_id(broker: Broker, context: RecordingContext) -> None:
    async def story(channel: Any) -> None:
        queue = await channel.declare_queue(uuid4().hex)
        for attempt in (context, replace(context, attempt=2), replace(context, idempotency_key="another")):
            await publish(attempt, queue=queue.name, timeout=60)
        assert [(await queue.get(timeout=60)).message_id for _ in range(3)] == ["the-key", "the-key", "another"]

    told(broker, story)


def test_an_exchange_shares_messages_out(broker: Broker, context: RecordingContext) -> None:
    async def story(channel: Any) -> None:
        exchange = await channel.declare_exchange(uuid4().hex, "topic")
        queue = await channel.declare_queue(uuid4().hex)
        await queue.bind(exchange, "order.#")
        await publish(context, exchange=exchange.name, queue="order.paid.no", timeout=60)
        assert (await queue.get(timeout=60)).routing_key == "order.paid.no"
        with pytest.raises(PermanentError, match="'invoice'") as caught:
            await publish(context, exchange=exchange.name, queue="invoice", timeout=60)
        assert caught.value.code == "amqp_unroutable"
        assert "no queue bound" in caught.value.message

    told(broker, story)


def test_a_queue_is_made_when_that_is_asked_for(broker: Broker, context: RecordingContext) -> None:
    async def story(channel: Any) -> None:
        name = uuid4().hex
        with pytest.raises(PermanentError, match="'declare': true") as caught:
            await publish(context, queue=name, timeout=60)
        assert caught.value.code == "amqp_unroutable"
        await publish(context, queue=name, declare=True, timeout=60)
        await publish(context, queue=name, declare=True, timeout=60)
        queue = await channel.declare_queue(name, durable=True)  # fails if it were another kind
        assert queue.declaration_result.message_count == 2
        other = await channel.declare_queue(uuid4().hex, durable=False)
        with pytest.raises(PermanentError, match="durable") as caught:
            await publish(context, queue=other.name, declare=True, timeout=60)
        assert caught.value.code == "amqp_error"

    told(broker, story)


def test_what_the_broker_does_not_take_is_no_success(broker: Broker, context: RecordingContext) -> None:
    async def story(channel: Any) -> None:
        full = {"x-max-length": 1, "x-overflow": "reject-publish"}
        queue = await channel.declare_queue(uuid4().hex, arguments=full)
        await publish(context, queue=queue.name, timeout=60)
        with pytest.raises(TemporaryError, match="may be full") as caught:
            await publish(context, queue=queue.name, timeout=60)
        assert caught.value.code == "amqp_unavailable"

    told(broker, story)


def test_tls(broker: Broker, context: RecordingContext) -> None:
    async def story(channel: Any) -> None:
        queue = await channel.declare_queue(uuid4().hex)
        await publish(context, connection="secure", queue=queue.name, timeout=60)
        assert (await queue.get(timeout=60)).message_id == "the-key"
        with pytest.raises(PermanentError, match="certificate") as caught:
            await publish(context, connection="unproven", queue=queue.name, timeout=60)
        assert caught.value.code == "amqp_error"

    told(broker, story)


@pytest.mark.parametrize(
    ("config", "kind", "code", "words"),
    [
        ({"connection": "wrong"}, PermanentError, "amqp_denied", "refuses the login"),
        ({"connection": "elsewhere"}, PermanentError, "amqp_denied", "virtual host"),
        ({"connection": "nowhere"}, TemporaryError, "amqp_unavailable", "cannot be used now"),
        ({"connection": "odd"}, PermanentError, "amqp_error", "amqp://"),
        ({"connection": "brokr"}, PermanentError, "unknown_connection", "'broker'"),
        ({"connection": "mail"}, PermanentError, "connection_type", "'redis' or 'amqp'"),
        ({"exchange": "no-such"}, PermanentError, "amqp_unroutable", "no-such"),
        ({"exchange": "amq.topic", "declare": True}, PermanentError, "invalid_input", "'declare'"),
        ({"max_length": 5}, PermanentError, "invalid_input", "'max_length'"),
        ({"connection": "cache", "exchange": "x"}, PermanentError, "invalid_input", "'exchange'"),
        ({"connection": "cache", "declare": True}, PermanentError, "invalid_input", "'declare'"),
        ({"queue": "ü" * 200}, PermanentError, "invalid_input", "255 bytes"),
        ({"headers": {"n" * 300: "x"}}, PermanentError, "invalid_input", "255 bytes"),
    ],
)
def test_what_cannot_be_done_is_said(
    config: dict[str, Any], kind: type[StageError], code: str, words: str, context: RecordingContext
) -> None:
    with pytest.raises(kind, match=words) as caught:
        asyncio.run(publish(context, **{"queue": "q", "timeout": 60, **config}))
    assert caught.value.code == code
    assert PASSWORD not in caught.value.message
    assert WRONG not in caught.value.message


def test_a_broker_that_says_nothing_is_given_up(context: RecordingContext) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        given = {"silent": {"type": "amqp", "url": f"amqp://127.0.0.1:{silent.getsockname()[1]}"}}
        there = replace(context, settings=ProjectSettings.model_validate({"connections": given}))
        with pytest.raises(TemporaryError, match=r"within 0\.3 s") as caught:
            asyncio.run(publish(there, connection="silent", queue="q", timeout=0.3))
    assert caught.value.code == "amqp_unavailable"


def test_a_run_puts_messages_there_also_by_way_of_a_router(
    broker: Broker, context: RecordingContext, project_dir: Path
) -> None:
    """`context`: for its environment. The connection is a URL that is secret as a whole."""
    name = uuid4().hex
    (project_dir / "flowmason.json").write_text(json.dumps({"connections": connections(broker)}))
    to = {"connection": "whole", "queue": name, "declare": True}
    stages = [
        {"id": "put", "component_type": "queue", "config": {**to, "message": "first", "timeout": 60}},
        {
            "id": "route",
            "component_type": "output_router",
            "depends_on": ["put"],
            "config": {"payload": "second", "routes": [{"destination": {"type": "queue", **to}}]},
        },
    ]
    result = run({"name": "Putting", "stages": stages})
    assert result.status == "succeeded", result.failure

    async def story(channel: Any) -> None:
        queue = await channel.declare_queue(name, durable=True)
        got = [await queue.get(timeout=60) for _ in range(2)]
        assert [json.loads(each.body) for each in got] == ["first", "second"]
        assert len({each.message_id for each in got}) == 2

    told(broker, story)
