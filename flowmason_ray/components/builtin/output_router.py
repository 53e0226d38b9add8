"""`output_router`: sends a result where it belongs: to each destination whose condition holds.

Effectful, as its destinations may be.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from flowmason_ray.components.base import operator
from flowmason_ray.components.builtin.destinations import AnyDestination, Delivery, deliver, failed_delivery, no_table
from flowmason_ray.components.builtin.examples import closed
from flowmason_ray.engine.component import Context
from flowmason_ray.errors import ExpressionError, PermanentError
from flowmason_ray.spec.expressions import DictScope, ExpressionSyntaxError, parse_expression


class Route(BaseModel):
    """A destination with its condition."""

    model_config = ConfigDict(extra="forbid")

    name: str | None = Field(
        default=None, description="What it is called in the results; default: its type and number."
    )
    when: bool | str = Field(
        default=True,
        description="An expression over `payload`, without braces; or a template that gives true or false.",
    )
    destination: AnyDestination = Field(description="Where it goes: webhook, email, queue, file, s3 or database.")


@operator(effect="effectful", cost="io", category="delivery", tags=("delivery",))
class OutputRouter:
    """Sends a result to every destination whose condition holds, or to the first one."""

    class Input(BaseModel):
        """What is sent, and where."""

        model_config = closed(
            {
                "payload": {"id": 7, "total": 1250},
                "routes": [
                    {
                        "name": "large orders",
                        "when": "payload.total > 1000",
                        "destination": {
                            "type": "webhook",
                            "connection": "orders_hook",
                            "event_type": "order.large",
                        },
                    },
                    {"destination": {"type": "file", "path": "out/orders.ndjson", "mode": "append"}},
                ],
            }
        )

        payload: Any = Field(description="What is sent, any JSON value.")
        routes: list[Route] = Field(min_length=1, description="The destinations with their conditions, in order.")
        mode: Literal["all", "first"] = Field(
            default="all", description="Every route whose condition holds, or only the first one."
        )
        default: AnyDestination | None = Field(
            default=None, description="Where it goes when no condition holds; default: nowhere."
        )
        on_failure: Literal["fail", "continue"] = Field(
            default="fail",
            description="Whether a destination that failed fails the stage. All others are served in any case.",
        )

    class Output(BaseModel):
        """What became of each destination."""

        results: list[Delivery] = Field(description="What became of each, in order.")
        delivered: int = Field(description="How many have it.")
        failed: int = Field(description="How many do not.")
        routed_to: list[str] = Field(description="The names of those that have it.")

    async def execute(self, input: Input, context: Context) -> Output:
        """Send it.

        Raises:
            ExpressionError, PermanentError: a condition cannot be evaluated; then nothing is sent.
            PermanentError, TemporaryError: `delivery_failed`, with what became of each in its details.
        """
        no_table(input.payload)
        names = _names(input.routes)
        chosen = [_holds(route.when, name, input.payload) for route, name in zip(input.routes, names, strict=True)]
        results: list[Delivery] = []
        done = False
        for route, name, met in zip(input.routes, names, chosen, strict=True):
            if not met or (done and input.mode == "first"):
                reason = "another route came first" if met else "its condition does not hold"
                results.append(Delivery(destination=name, type=route.destination.type, status="skipped", reason=reason))
                continue
            results.append(await deliver(route.destination, name, input.payload, context))
            done = True
        if not done and input.default is not None:
            results.append(await deliver(input.default, "default", input.payload, context))
        failed = sum(r.status == "failed" for r in results)
        if failed and input.on_failure == "fail":
            raise failed_delivery(results)
        reached = [r.destination for r in results if r.status == "delivered"]
        return self.Output(results=results, delivered=len(reached), failed=failed, routed_to=reached)


def _names(routes: list[Route]) -> list[str]:
    """Return the routes' names; each is also part of what makes its idempotency key, so no two are alike.

    Raises:
        PermanentError: two are alike (`invalid_input`).
    """
    names = [route.name or f"{route.destination.type} {number}" for number, route in enumerate(routes, 1)]
    twice = next((name for name in [*names, "default"] if [*names, "default"].count(name) > 1), None)
    if twice is not None:
        raise PermanentError(f"Two routes are called {twice!r}; 'default' is taken, too.", code="invalid_input")
    return names


def _holds(when: bool | str, name: str, payload: Any) -> bool:
    if isinstance(when, bool):
        return when
    try:
        return bool(parse_expression(when).evaluate(DictScope({"payload": payload})))
    except ExpressionSyntaxError as exc:
        raise PermanentError(f"The condition {when!r} of {name!r}: {exc.message}", code=exc.code) from exc
    except ExpressionError as exc:
        raise ExpressionError(f"The condition {when!r} of {name!r}: {exc.message}", code=exc.code) from exc
