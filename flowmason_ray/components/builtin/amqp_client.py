"""Handing a message to a broker that speaks AMQP 0-9-1 (RabbitMQ), and its errors in our words.

Only what the broker has confirmed was handed over: the channel is in confirm mode, so the broker answers each message when it has it
(on disk, for a durable queue), and every message is mandatory, so one that no queue takes comes back instead of being dropped.

A broker does not look whether it has seen a message before. One that is sent again, after a crash or a broken connection, carries
the same `message_id`, the attempt's idempotency key, and consumers tell a repetition by it.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import unquote, urlsplit

from flowmason_ray.components.builtin.tls import is_certificate, trust
from flowmason_ray.components.extras import needs
from flowmason_ray.connections import AmqpConnection
from flowmason_ray.errors import PermanentError, StageError, TemporaryError

with needs("AMQP", extra="amqp"):
    import aio_pika
    from aiormq import exceptions as errors

# What it logs it also raises; without a handler Python would print it as well.
logging.getLogger("aiormq").addHandler(logging.NullHandler())

_PORTS = {"amqp": 5672, "amqps": 5671}
SHORT_BYTES = 255
"""The most that names hold in AMQP (0-9-1 specification, 4.2.5.3, short strings)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outgoing:
    """A message, and where it goes. `declare`: make the queue, durable, if it is not there."""

    exchange: str
    routing_key: str
    body: bytes
    message_id: str
    message_type: str | None
    headers: dict[str, str]
    at: datetime
    declare: bool


async def publish(name: str, connection: AmqpConnection, message: Outgoing, *, within_s: float) -> None:
    """Hand a message over, and wait until the broker has it.

    Args:
        name: What the project calls the connection.
        connection: The broker, its secrets filled in.
        message: The message.
        within_s: For connecting, handing over and the confirmation together.

    Raises:
        PermanentError: `amqp_denied` for a wrong password or a missing right, `amqp_unroutable` when there is no such exchange or
            no queue takes the message, `amqp_error` for what cannot be said in AMQP or the broker refuses, `invalid_input`.
        TemporaryError: `amqp_unavailable` when it cannot be reached, takes longer, or does not take the message now.
    """
    _check_names(message)
    options = _address(name, connection)
    opened: Any = None
    try:
        async with asyncio.timeout(within_s):
            opened = await aio_pika.connect(timeout=within_s, **options)
            channel = await opened.channel(publisher_confirms=True, on_return_raises=True)
            if message.declare:
                await channel.declare_queue(message.routing_key, durable=True)
            exchange = (
                await channel.get_exchange(message.exchange, ensure=False)
                if message.exchange
                else channel.default_exchange
            )
            await exchange.publish(_letter(message), message.routing_key, mandatory=True)
    except TimeoutError as exc:
        raise TemporaryError(
            f"Broker {name!r} did not confirm within {within_s:g} s.", code="amqp_unavailable"
        ) from exc
    except (errors.AMQPError, OSError, RuntimeError) as exc:
        raise _said(exc, f"Broker {name!r}", message) from exc
    finally:
        if opened is not None:
            await _goodbye(opened)


def _address(name: str, connection: AmqpConnection) -> dict[str, Any]:
    """Return where and as whom to connect. User and password of the connection go before those in its URL."""
    try:
        url = urlsplit(str(connection.url))
        default = _PORTS[url.scheme]
        host, port = url.hostname, url.port
    except (ValueError, KeyError):
        host, port, default = None, None, 0
        url = urlsplit("")
    if not host:
        raise PermanentError(
            f"The URL of connection {name!r} cannot be used: it starts with amqp:// or amqps://, and has a host.",
            code="amqp_error",
        )
    secure = url.scheme == "amqps"
    return {
        "host": host,
        "port": port or default,
        "virtualhost": unquote(url.path.removeprefix("/")) or "/",
        "login": str(connection.username or unquote(url.username or "") or "guest"),
        "password": str(connection.password or unquote(url.password or "") or "guest"),
        "ssl": secure,
        "ssl_context": trust(connection.verify) if secure else None,
    }


def _check_names(message: Outgoing) -> None:
    names = {"queue": message.routing_key, "exchange": message.exchange, "message_type": message.message_type or ""}
    headers = {f"the name of the header {key[:40]!r}": key for key in message.headers}
    for what, text in {**names, **headers}.items():
        if len(text.encode()) > SHORT_BYTES:
            raise PermanentError(
                f"AMQP cannot carry {what}: it has more than {SHORT_BYTES} bytes.", code="invalid_input"
            )


def _letter(message: Outgoing) -> aio_pika.Message:
    return aio_pika.Message(
        message.body,
        content_type="application/json",
        content_encoding="utf-8",
        delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
        message_id=message.message_id,
        type=message.message_type,
        timestamp=message.at,
        headers=dict(message.headers),
        app_id="flowmason",
    )


async def _goodbye(opened: Any) -> None:
    """Take leave; nothing depends on it any more."""
    try:
        async with asyncio.timeout(2):
            await opened.close()
    except (errors.AMQPError, OSError, TimeoutError, RuntimeError):
        pass


def _said(exc: Exception, where: str, message: Outgoing) -> StageError:
    """Return what the broker, or the way to it, said, as an error of the stage."""
    if isinstance(exc, (errors.ProbableAuthenticationError, errors.AuthenticationError)):
        return PermanentError(
            f"{where} refuses the login. Check the connection's username and password.", code="amqp_denied"
        )
    if isinstance(exc, errors.PublishError):
        if message.exchange:
            hint = f"Exchange {message.exchange!r} has no queue bound for it."
        else:
            hint = "There is no queue of that name; 'declare': true makes it."
        return PermanentError(
            f"{where} has nobody for a message with the key {message.routing_key!r}. {hint}", code="amqp_unroutable"
        )
    if isinstance(exc, errors.DeliveryError):
        return TemporaryError(f"{where} did not take the message; its queue may be full.", code="amqp_unavailable")
    if isinstance(exc, errors.ChannelNotFoundEntity):
        return PermanentError(f"{where} says: {exc}. Make the exchange there first.", code="amqp_unroutable")
    if isinstance(exc, errors.ChannelAccessRefused):
        return PermanentError(f"{where} refuses: {exc}. The user needs the right to do that.", code="amqp_denied")
    if isinstance(exc, errors.ChannelClosed):
        return PermanentError(f"{where} says: {exc}.", code="amqp_error")
    if isinstance(exc, errors.ProtocolSyntaxError):
        # The broker ends a connection to a virtual host that is not there, or not for this user; the client shows no reason.
        return PermanentError(
            f"{where} does not open the virtual host that the connection's URL names ('/' if it names none): "
            "it is not there, or the user may not use it.",
            code="amqp_denied",
        )
    if is_certificate(exc):
        return PermanentError(
            f"{where} shows a certificate that is not valid: {exc}. 'verify': false in the connection accepts any.",
            code="amqp_error",
        )
    return TemporaryError(f"{where} cannot be used now: {str(exc) or type(exc).__name__}.", code="amqp_unavailable")
