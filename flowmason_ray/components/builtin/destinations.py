"""Where routers send things: each destination is one of the components, with the payload put into its place.

A destination gets an idempotency key of its own, made from the attempt's, so that its receiver can tell a repetition. What passes
by itself (no connection, a server that is busy) is tried again here, one destination at a time: failing the whole stage for it
would send everything once more to those that have it already.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Mapping
from hashlib import sha256
from typing import Annotated, Any, Literal, cast

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from flowmason_ray.components.builtin.contents import json_bytes
from flowmason_ray.components.connection_names import names_connection
from flowmason_ray.components.frames import is_frame
from flowmason_ray.engine.component import Context
from flowmason_ray.errors import FlowMasonError, PermanentError, TemporaryError

FIRST_DELAY_S = 0.5
LONGEST_DELAY_S = 30.0


class Destination(BaseModel):
    """What all destinations have."""

    model_config = ConfigDict(extra="forbid")

    attempts: int = Field(default=3, ge=1, le=10, description="How often what passes by itself is tried.")


class WebhookDestination(Destination):
    """A signed message to a URL."""

    type: Literal["webhook"] = Field(description="The kind of destination.")
    connection: str | None = Field(
        default=None, description="The connection of type webhook.", json_schema_extra=names_connection("webhook")
    )
    url: str | None = Field(default=None, description="Or a URL.")
    event_type: str | None = Field(default=None, description="What it is about.")
    headers: dict[str, str] = Field(default={}, description="Further headers.", repr=False)
    secret: str | None = Field(default=None, description="The key to sign with; {{secrets.NAME}}.", repr=False)
    timeout: float = Field(default=30.0, gt=0, le=600, description="Seconds for the exchange.")


class EmailDestination(Destination):
    """A mail."""

    type: Literal["email"] = Field(description="The kind of destination.")
    connection: str = Field(description="The connection of type smtp.", json_schema_extra=names_connection("smtp"))
    to: list[str] | str = Field(description="Addresses.")
    subject: str = Field(description="The subject.")
    body: str | None = Field(default=None, description="The text; default: the payload as JSON.")
    html: str | None = Field(default=None, description="The same as HTML.")
    from_address: str | None = Field(default=None, description="The sender; default: the connection's.")


class QueueDestination(Destination):
    """A message on a queue."""

    type: Literal["queue"] = Field(description="The kind of destination.")
    connection: str = Field(
        description="The connection of type redis or amqp.", json_schema_extra=names_connection("redis", "amqp")
    )
    queue: str = Field(description="The stream or queue; with `exchange` the routing key.")
    exchange: str | None = Field(default=None, description="AMQP: the exchange that shares the message out.")
    declare: bool = Field(default=False, description="AMQP: make the queue, durable, if it is not there.")
    message_type: str | None = Field(default=None, description="What kind of message it is.")
    headers: dict[str, str] = Field(default={}, description="Further facts about it.")


class FileDestination(Destination):
    """A file of the project."""

    type: Literal["file"] = Field(description="The kind of destination.")
    path: str = Field(description="The file.")
    mode: Literal["write", "append"] = Field(
        default="write", description="The payload as the file's JSON, or as one more line of JSON."
    )


class S3Destination(Destination):
    """An object in S3."""

    type: Literal["s3"] = Field(description="The kind of destination.")
    connection: str = Field(description="The connection of type s3.", json_schema_extra=names_connection("s3"))
    key: str = Field(description="The object's key.")
    bucket: str | None = Field(default=None, description="The bucket; default: the connection's.")


class DatabaseDestination(Destination):
    """A statement on a SQL database."""

    type: Literal["database"] = Field(description="The kind of destination.")
    connection: str | None = Field(
        default=None,
        description="The connection of type sql or postgres.",
        json_schema_extra=names_connection("sql", "postgres"),
    )
    database: str | None = Field(default=None, description="Or a SQLite file of the project.")
    statement: str = Field(
        description="One statement; `:name` stands for a field of the payload (objects and lists as JSON text)."
    )


AnyDestination = Annotated[
    WebhookDestination | EmailDestination | QueueDestination | FileDestination | S3Destination | DatabaseDestination,
    Field(discriminator="type"),
]


class Delivery(BaseModel):
    """What became of one destination."""

    destination: str = Field(description="Its name.")
    type: str = Field(description="Its kind.")
    status: Literal["delivered", "failed", "skipped"] = Field(description="What became of it.")
    attempts: int = Field(default=0, description="How often it was tried.")
    reason: str | None = Field(default=None, description="Why it was skipped.")
    error: dict[str, Any] | None = Field(default=None, description="For a failed one: `code` and `message`.")
    output: dict[str, Any] | None = Field(default=None, description="For a delivered one: the component's output.")


class PartContext:
    """The attempt's context, with an idempotency key for one of several things that the attempt does."""

    def __init__(self, whole: Context, part: str) -> None:
        self._whole = whole
        self.idempotency_key = sha256(f"{whole.idempotency_key}\0{part}".encode()).hexdigest()[:32]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._whole, name)


async def deliver(destination: AnyDestination, name: str, payload: Any, context: Context) -> Delivery:
    """Hand the payload over. What goes wrong is in the answer, and nothing is raised for it."""
    part = cast("Context", PartContext(context, name))
    facts: dict[str, Any] = {"destination": name, "type": destination.type}
    attempt = 0
    while True:
        attempt += 1
        try:
            component, config = _component(destination, payload)
            output = await _called(component, config, part)
            return Delivery(**facts, status="delivered", attempts=attempt, output=output)
        except TemporaryError as exc:
            error, delay = exc, exc.delay
            if attempt < destination.attempts:
                wait = max(FIRST_DELAY_S * 2 ** (attempt - 1), delay.total_seconds() if delay else 0.0)
                context.log("warning", f"{name}: {exc.message} It is tried again.")
                await asyncio.sleep(min(wait, LONGEST_DELAY_S))
                continue
        except FlowMasonError as exc:
            error = exc
        context.log("error", f"{name}: {error.message}")
        temporary = isinstance(error, TemporaryError)
        return Delivery(
            **facts,
            status="failed",
            attempts=attempt,
            error={"code": error.code, "message": error.message, "temporary": temporary},
        )


def _component(destination: AnyDestination, payload: Any) -> tuple[str, dict[str, Any]]:
    """Return the component that serves a destination, and its config."""
    given = destination.model_dump(exclude={"type", "attempts"}, exclude_none=True)
    match destination:
        case WebhookDestination():
            return "webhook", {**given, "payload": payload}
        case EmailDestination():
            text = {} if destination.body or destination.html else {"body": _text(payload, indent=2)}
            return "email", {**given, **text}
        case QueueDestination():
            return "queue", {**given, "message": payload}
        case S3Destination():
            return "s3", {**given, "operation": "put", "content": payload, "format": "json"}
        case FileDestination(mode="append"):
            return "local_file", {"operation": "append", "path": destination.path, "content": _text(payload) + "\n"}
        case FileDestination():
            return "local_file", {"operation": "write", "path": destination.path, "content": payload, "format": "json"}
        case DatabaseDestination():
            where = {k: v for k, v in given.items() if k != "statement"}
            return "sql_execute", {
                **where,
                "statements": [{"sql": destination.statement, "parameters": _fields(payload)}],
            }


def _fields(payload: Any) -> dict[str, Any]:
    if not isinstance(payload, dict):
        return {"payload": _text(payload)}
    return {
        name: _text(value) if isinstance(value, (dict, list)) else value
        for name, value in cast("dict[str, Any]", payload).items()
    }


def _text(payload: Any, indent: int | None = None) -> str:
    return json_bytes(payload, "The payload", indent=indent).decode()


async def _called(name: str, config: Mapping[str, Any], context: Context) -> dict[str, Any]:
    from flowmason_ray.components.registry import Registry

    spec = Registry(entry_points=False).get(name)
    assert spec is not None, f"{name} is built in"
    try:
        given = spec.input_model.model_validate(config)
    except ValidationError as exc:
        words = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in exc.errors(include_input=False))
        raise PermanentError(f"The destination cannot be used: {words}.", code="invalid_config") from None
    component = spec.create()
    if inspect.iscoroutinefunction(component.execute):
        done = await component.execute(given, context)
    else:
        done = await asyncio.to_thread(component.execute, given, context)
    return done.model_dump(mode="json")


def no_table(payload: Any) -> None:
    """Refuse a table as payload: it is no message.

    Raises:
        PermanentError: `invalid_input`.
    """
    if is_frame(payload):
        raise PermanentError(
            "A table cannot be delivered as it is; write it with table_write, and deliver where it is.",
            code="invalid_input",
        )


def failed_delivery(results: list[Delivery]) -> PermanentError | TemporaryError:
    """Return the error for destinations that failed: a temporary one when nothing was delivered and all may work later."""
    failed = [r for r in results if r.status == "failed"]
    words = "; ".join(f"{r.destination}: {(r.error or {}).get('message')}" for r in failed)
    reached = sum(r.status == "delivered" for r in results)
    details = {"results": [r.model_dump(mode="json") for r in results]}
    message = f"{len(failed)} of {len(failed) + reached} destinations failed: {words}"
    if not reached and all((r.error or {}).get("temporary") for r in failed):
        return TemporaryError(message, code="delivery_failed", details=details)
    return PermanentError(message, code="delivery_failed", details=details)
