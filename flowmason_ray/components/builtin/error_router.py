"""`error_router`: tells people and systems of an error, by how bad it is, and not of the same one over and over.

Made for the catch branch of a `trycatch`: `"error": "{{ stages.load.error }}"`. Effectful, as its destinations may be.
"""

from __future__ import annotations

from hashlib import sha256
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from flowmason_ray.components.base import operator
from flowmason_ray.components.builtin.destinations import AnyDestination, Delivery, deliver, failed_delivery
from flowmason_ray.components.builtin.examples import closed
from flowmason_ray.components.builtin.seen_before import (
    forget_in_file,
    forget_in_redis,
    is_new_in_file,
    is_new_in_redis,
)
from flowmason_ray.components.connection_names import names_connection
from flowmason_ray.engine.component import Context
from flowmason_ray.errors import PermanentError

Severity = Literal["info", "warning", "error", "critical"]
SEVERITIES: tuple[Severity, ...] = ("info", "warning", "error", "critical")


class SeverityRule(BaseModel):
    """Says how bad some errors are."""

    model_config = ConfigDict(extra="forbid")

    codes: list[str] = Field(default=[], description="The codes that it is about; none: all.")
    stages: list[str] = Field(default=[], description="The stages that it is about; none: all.")
    severity: Severity = Field(description="How bad these are.")


class ErrorRoute(BaseModel):
    """A destination, and the errors that it is told of."""

    model_config = ConfigDict(extra="forbid")

    name: str | None = Field(
        default=None, description="What it is called in the results; default: its type and number."
    )
    min_severity: Severity = Field(default="info", description="It is told of errors that are at least this bad.")
    codes: list[str] = Field(default=[], description="It is told of errors with these codes; none: all.")
    destination: AnyDestination = Field(description="Who is told: webhook, email, queue, file, s3 or database.")


class Deduplication(BaseModel):
    """When an error counts as told."""

    model_config = ConfigDict(extra="forbid")

    window_seconds: float = Field(gt=0, le=2_592_000, description="For how long the same error is not told again.")
    by: list[Literal["pipeline", "stage", "code", "message"]] = Field(
        default=["pipeline", "stage", "code"], min_length=1, description="What makes two errors the same."
    )
    connection: str | None = Field(
        default=None,
        description="A connection of type redis, for several machines; default: files below .flowmason/.",
        json_schema_extra=names_connection("redis"),
    )


@operator(effect="effectful", cost="io", category="delivery", tags=("delivery",))
class ErrorRouter:
    """Tells destinations of an error by its severity, once in a while."""

    class Input(BaseModel):
        """The error, how bad it is, and who is told."""

        model_config = closed(
            {
                "error": {
                    "code": "http_timeout",
                    "message": "No answer within 30 s.",
                    "stage": "load",
                    "attempts": 3,
                },
                "severity_rules": [{"codes": ["http_timeout"], "severity": "warning"}],
                "routes": [
                    {"min_severity": "error", "destination": {"type": "webhook", "connection": "orders_hook"}},
                    {"destination": {"type": "queue", "connection": "cache", "queue": "errors"}},
                ],
                "dedupe": {"window_seconds": 600},
            }
        )

        error: dict[str, Any] | str = Field(
            description="The error: `{{ stages.<id>.error }}`, an object with `code` and `message`, or a text."
        )
        severity: Severity = Field(default="error", description="How bad it is when no rule says otherwise.")
        severity_rules: list[SeverityRule] = Field(default=[], description="The first that fits says how bad it is.")
        routes: list[ErrorRoute] = Field(min_length=1, description="Who is told.")
        details: Any = Field(default=None, description="Whatever helps whoever is told; sent along.")
        dedupe: Deduplication | None = Field(default=None, description="Whether the same error is told again.")
        on_failure: Literal["fail", "continue"] = Field(
            default="continue",
            description="Whether a destination that failed fails the stage. Telling of an error should seldom be one itself.",
        )

    class Output(BaseModel):
        """Who was told."""

        severity: Severity = Field(description="How bad it is.")
        deduplicated: bool = Field(description="Whether nobody was told, because it was told a short while ago.")
        fingerprint: str = Field(description="What makes it the same error.")
        results: list[Delivery] = Field(description="What became of each destination, in order.")
        delivered: int = Field(description="How many were told.")
        failed: int = Field(description="How many could not be.")

    async def execute(self, input: Input, context: Context) -> Output:
        """Tell.

        Raises:
            PermanentError, TemporaryError: `delivery_failed`, if `on_failure` says so.
        """
        error: dict[str, Any] = {"message": input.error} if isinstance(input.error, str) else input.error
        report = _report(error, _severity(error, input), input.details, context)
        same = ("code", "stage", "pipeline") if input.dedupe is None else tuple(sorted(input.dedupe.by))
        fingerprint = sha256("\0".join(str(report[name]) for name in same).encode()).hexdigest()[:24]
        report["fingerprint"] = fingerprint
        facts: dict[str, Any] = {"severity": report["severity"], "fingerprint": fingerprint}
        if input.dedupe is not None and not await _is_new(input.dedupe, fingerprint, context):
            results = [
                Delivery(destination=n, type=r.destination.type, status="skipped", reason="told a short while ago")
                for n, r in _named(input.routes)
            ]
            return self.Output(**facts, deduplicated=True, results=results, delivered=0, failed=0)
        results = [await _told(route, name, report, context) for name, route in _named(input.routes)]
        failed = sum(r.status == "failed" for r in results)
        delivered = sum(r.status == "delivered" for r in results)
        if failed and not delivered and input.dedupe is not None:
            await _forget(input.dedupe, fingerprint, context)
        if failed and input.on_failure == "fail":
            raise failed_delivery(results)
        return self.Output(**facts, deduplicated=False, results=results, delivered=delivered, failed=failed)


def _severity(error: dict[str, Any], input: ErrorRouter.Input) -> Severity:
    for rule in input.severity_rules:
        code_fits = not rule.codes or error.get("code") in rule.codes
        # A stage inside a loop is `each[3]/load`: a rule about `load` is about all of them.
        stage = str(error.get("stage", ""))
        if code_fits and (not rule.stages or stage in rule.stages or stage.rpartition("/")[2] in rule.stages):
            return rule.severity
    return input.severity


def _report(error: dict[str, Any], severity: Severity, details: Any, context: Context) -> dict[str, Any]:
    return {
        "severity": severity,
        "code": error.get("code", "error"),
        "message": error.get("message", ""),
        "stage": error.get("stage", ""),
        "attempts": error.get("attempts", 1),
        "pipeline": context.pipeline,
        "run_id": context.run_id,
        "at": context.now().isoformat(),
        "details": details,
    }


def _named(routes: list[ErrorRoute]) -> list[tuple[str, ErrorRoute]]:
    names = [route.name or f"{route.destination.type} {number}" for number, route in enumerate(routes, 1)]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise PermanentError(f"Two routes are called {twice!r}.", code="invalid_input")
    return list(zip(names, routes, strict=True))


async def _told(route: ErrorRoute, name: str, report: dict[str, Any], context: Context) -> Delivery:
    bad_enough = SEVERITIES.index(report["severity"]) >= SEVERITIES.index(route.min_severity)
    if bad_enough and (not route.codes or report["code"] in route.codes):
        return await deliver(route.destination, name, report, context)
    reason = f"it is told of {', '.join(route.codes)}" if bad_enough else f"below {route.min_severity!r}"
    return Delivery(destination=name, type=route.destination.type, status="skipped", reason=reason)


async def _is_new(dedupe: Deduplication, fingerprint: str, context: Context) -> bool:
    if dedupe.connection is not None:
        return await is_new_in_redis(context, dedupe.connection, fingerprint, dedupe.window_seconds)
    return is_new_in_file(context, fingerprint, dedupe.window_seconds)


async def _forget(dedupe: Deduplication, fingerprint: str, context: Context) -> None:
    if dedupe.connection is not None:
        await forget_in_redis(context, dedupe.connection, fingerprint)
    else:
        forget_in_file(context, fingerprint)
