"""`queue`: puts messages on a queue, a Redis stream.

An entry has the fields `payload` (JSON), `idempotency_key`, `message_type` when one is given, and the headers as
`header:<name>`. It is put there once per idempotency key, also when the attempt is repeated after a crash (`redis_client`);
consumers that read at least once, as consumer groups do, tell by the same key what they have seen.
"""

from __future__ import annotations

import json
from typing import Any

from pydantic import BaseModel, Field

from flowmason_ray.components.base import operator
from flowmason_ray.components.builtin.examples import closed
from flowmason_ray.components.builtin.redis_client import call_once, connected
from flowmason_ray.engine.component import Context


@operator(name="queue", effect="idempotent", cost="io", category="delivery", tags=("redis", "delivery"))
class QueuePublish:
    """Puts a message on a queue (a Redis stream), once."""

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

        connection: str = Field(description="The connection of type redis in flowmason.json.")
        queue: str = Field(min_length=1, description="The stream's name; it is made with its first message.")
        message: Any = Field(description="The message, any JSON value.")
        message_type: str | None = Field(default=None, description="What kind of message it is, for consumers.")
        headers: dict[str, str] = Field(default={}, description="Further facts about it, for consumers.")
        max_length: int | None = Field(
            default=None,
            ge=1,
            description="About how many messages the stream may hold; the oldest go. Default: all stay.",
        )
        timeout: float = Field(default=10.0, gt=0, le=600, description="Seconds for the server's answer.")

    class Output(BaseModel):
        """Where the message is."""

        message_id: str = Field(description="The entry's id in the stream.")
        queue: str = Field(description="The stream's name.")
        repeated: bool = Field(description="Whether an earlier attempt had put it there already.")

    async def execute(self, input: Input, context: Context) -> Output:
        """Put it there.

        Raises:
            PermanentError: `unknown_connection`, `redis_denied`, `redis_error`.
            TemporaryError: `redis_unavailable`.
        """
        key = context.idempotency_key
        fields = {
            "payload": json.dumps(input.message, ensure_ascii=False, separators=(",", ":")),
            "idempotency_key": key,
        }
        if input.message_type is not None:
            fields["message_type"] = input.message_type
        fields |= {f"header:{name}": value for name, value in input.headers.items()}
        trim: list[str | int] = [] if input.max_length is None else ["MAXLEN", "~", input.max_length]
        command = ["XADD", input.queue, *trim, "*", *(part for pair in fields.items() for part in pair)]
        async with connected(context, input.connection, answer_s=input.timeout) as client:
            message_id, again = await call_once(client, key, command)
        return self.Output(message_id=message_id, queue=input.queue, repeated=again)
