"""`queue`: puts messages on a queue: a Redis stream, or a queue of an AMQP broker (RabbitMQ).

On a Redis stream an entry has the fields `payload` (JSON), `idempotency_key`, `message_type` when one is given, and the headers
as `header:<name>`. It is put there once per idempotency key, also when the attempt is repeated after a crash (`redis_client`).

To AMQP the message goes as JSON, persistent, with the idempotency key as `message_id`, the message's type as `type`, and the
headers as its headers (`amqp_client`). A broker does not look for repetitions: consumers do, by the `message_id`, as consumers
of anything that is delivered at least once have to.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, Field

from flowmason_ray.components.base import operator
from flowmason_ray.components.builtin.contents import json_bytes
from flowmason_ray.components.builtin.examples import closed
from flowmason_ray.components.connection_names import names_connection
from flowmason_ray.connections import AmqpConnection, RedisConnection
from flowmason_ray.engine.component import Context
from flowmason_ray.errors import PermanentError


@operator(name="queue", effect="idempotent", cost="io", category="delivery", tags=("redis", "amqp", "delivery"))
class QueuePublish:
    """Puts a message on a queue: a Redis stream, or a queue or exchange of an AMQP broker such as RabbitMQ."""

    class Input(BaseModel):
        """The queue and the message."""

        model_config = closed(
            {
                "connection": "cache",
                "queue": "orders",
                "message": {"id": 7, "total": 12.5},
                "message_type": "order.paid",
            }
        )

        connection: str = Field(
            description="The connection of type redis or amqp in flowmason.json.",
            json_schema_extra=names_connection("redis", "amqp"),
        )
        queue: str = Field(
            min_length=1,
            description="Redis: the stream, made with its first message. AMQP: the queue; with `exchange` the routing key.",
        )
        message: Any = Field(description="The message, any JSON value.")
        message_type: str | None = Field(default=None, description="What kind of message it is, for consumers.")
        headers: dict[str, str] = Field(default={}, description="Further facts about it, for consumers.")
        max_length: int | None = Field(
            default=None,
            ge=1,
            description="Redis: about how many messages the stream may hold; the oldest go. Default: all stay.",
        )
        exchange: str | None = Field(
            default=None,
            description="AMQP: the exchange that shares the message out. Default: it goes to the queue of that name.",
        )
        declare: bool = Field(
            default=False, description="AMQP: make the queue, durable, if it is not there. Without, that is an error."
        )
        timeout: float = Field(default=10.0, gt=0, le=600, description="Seconds for the server's answer.")

    class Output(BaseModel):
        """Where the message is."""

        message_id: str = Field(description="Redis: the entry's id in the stream. AMQP: the message's `message_id`.")
        queue: str = Field(description="The stream's or queue's name, or the routing key.")
        repeated: bool = Field(
            description="Redis: whether an earlier attempt had put it there already. AMQP: false, brokers do not tell."
        )

    async def execute(self, input: Input, context: Context) -> Output:
        """Put it there.

        Raises:
            PermanentError: `unknown_connection`, `connection_type`, `invalid_input`, `redis_denied`, `redis_error`, `amqp_denied`,
                `amqp_unroutable`, `amqp_error`.
            TemporaryError: `redis_unavailable`, `amqp_unavailable`.
        """
        found = context.connection(input.connection, (RedisConnection, AmqpConnection))
        payload = json_bytes(input.message, "'message'", compact=True).decode()
        if isinstance(found, RedisConnection):
            return await self._to_redis(input, payload, context)
        return await self._to_amqp(input, payload, found, context)

    async def _to_redis(self, input: Input, payload: str, context: Context) -> Output:
        from flowmason_ray.components.builtin.redis_client import call_once, connected

        if input.exchange is not None or input.declare:
            raise _not_of("redis", "exchange" if input.exchange is not None else "declare", input.connection)
        key = context.idempotency_key
        fields = {"payload": payload, "idempotency_key": key}
        if input.message_type is not None:
            fields["message_type"] = input.message_type
        fields |= {f"header:{name}": value for name, value in input.headers.items()}
        trim: list[str | int] = [] if input.max_length is None else ["MAXLEN", "~", input.max_length]
        command = ["XADD", input.queue, *trim, "*", *(part for pair in fields.items() for part in pair)]
        async with connected(context, input.connection, answer_s=input.timeout) as client:
            message_id, again = await call_once(client, key, command)
        return self.Output(message_id=message_id, queue=input.queue, repeated=again)

    async def _to_amqp(self, input: Input, payload: str, connection: AmqpConnection, context: Context) -> Output:
        from flowmason_ray.components.builtin.amqp_client import Outgoing, publish

        if input.max_length is not None:
            raise _not_of("amqp", "max_length", input.connection, "how long a queue may get is said where it is made.")
        if input.declare and input.exchange is not None:
            raise PermanentError(
                "'declare' makes a queue, and with 'exchange' no queue is named: bind it there, and leave 'declare' out.",
                code="invalid_input",
            )
        message = Outgoing(
            exchange=input.exchange or "",
            routing_key=input.queue,
            body=payload.encode(),
            message_id=context.idempotency_key,
            message_type=input.message_type,
            headers=input.headers,
            at=context.now(),
            declare=input.declare,
        )
        await publish(input.connection, connection, message, within_s=input.timeout)
        return self.Output(message_id=message.message_id, queue=input.queue, repeated=False)


def _not_of(kind: str, field: str, connection: str, hint: str = "leave it out.") -> PermanentError:
    return PermanentError(
        f"{field!r} says nothing to a connection of type {kind!r}, which {connection!r} is: {hint}",
        code="invalid_input",
    )
