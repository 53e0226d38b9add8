"""What the text nodes share: the fields that they all have, and how a prompt becomes data.

Every field that a node promises comes from a structured answer: its JSON Schema is sent to the model, the answer is held
against it, repaired once by asking again, and otherwise the attempt fails (`bad_response`). Nothing is made up.

The schemas keep to what every provider can guarantee: closed objects whose properties are all required, and whole numbers
where a scale is meant.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from flowmason_ray.components.prompting import prompt_for
from flowmason_ray.engine.component import Context
from flowmason_ray.engine.models import Answer, Part, Usage, user

Schema = dict[str, Any]


class Tokens(BaseModel):
    """What an answer took, by the provider's count."""

    input_tokens: int = Field(description="The input, what the provider had cached included.")
    output_tokens: int = Field(description="The output.")
    cached_tokens: int = Field(description="The part of the input that the provider had cached.")


class Asking(BaseModel):
    """What every node that asks with a prompt of its own can be told."""

    model_config = ConfigDict(extra="forbid", populate_by_name=True)

    max_tokens: int | None = Field(
        default=None, ge=1, description="The longest answer, in tokens; null: what `llm_settings` say."
    )
    temperature: float | None = Field(
        default=None, ge=0, le=2, description="Sampling temperature; null: what `llm_settings` say."
    )
    prompt_version: str | None = Field(
        default=None,
        description="Which version of the node's prompt is used (`fm prompts list`); null: the newest, the project's before the "
        "built-in. As written: no templates.",
    )


class Answered(BaseModel):
    """What every node tells about the answer that it got."""

    tokens_used: int = Field(description="Input and output tokens together.")
    usage: Tokens = Field(description="The tokens, told apart.")
    cost_usd: float | None = Field(description="What it cost in US dollars; null: the price is not known.")
    finish_reason: str = Field(description="Why the answer ended: `stop`, `length`, `stop_sequence`.")
    model: str = Field(description="The model that answered, as the provider names it.")
    provider: str = Field(description="The provider that was asked.")


def facts_of(answer: Answer) -> dict[str, Any]:
    """Return the fields of `Answered`."""
    return {
        "tokens_used": answer.usage.total_tokens,
        "usage": tokens_of(answer.usage),
        "cost_usd": answer.cost_usd,
        "finish_reason": answer.finish_reason,
        "model": answer.model,
        "provider": answer.provider,
    }


def tokens_of(usage: Usage) -> Tokens:
    """Return the counts as an output shows them."""
    return Tokens(input_tokens=usage.input_tokens, output_tokens=usage.output_tokens, cached_tokens=usage.cached_tokens)


async def ask(
    context: Context,
    input: Asking,
    name: str,
    values: Mapping[str, Any],
    schema: Schema,
    *,
    beside: Iterable[Part] = (),
) -> Answer:
    """Ask with a prompt; return an answer whose `data` fits the schema.

    Args:
        context: The attempt's.
        input: What the stage says about how to ask.
        name: The prompt's name.
        values: What the prompt can read.
        schema: What the answer must fit.
        beside: What is shown with the words, such as pictures; it comes before them.

    Raises:
        StageError: there is no answer that fits.
    """
    said = prompt_for(context, name, input.prompt_version).render(values)
    return await context.models.generate(
        user(*beside, said.user),
        system=said.system,
        schema=schema,
        max_tokens=input.max_tokens,
        temperature=input.temperature,
    )


def record(**properties: Schema) -> Schema:
    """Return the schema of an object that has exactly these properties."""
    return exactly(properties)


def exactly(properties: Mapping[str, Schema]) -> Schema:
    """Return the schema of an object that has exactly these properties."""
    return {
        "type": "object",
        "properties": dict(properties),
        "required": list(properties),
        "additionalProperties": False,
    }


def words(description: str) -> Schema:
    """Return the schema of a text."""
    return {"type": "string", "description": description}


MOST_ITEMS = 20
"""The longest list that a model makes: who reads key points or changes reads no more."""


def several(description: str, items: Schema | None = None, *, count: int | None = None) -> Schema:
    """Return the schema of a list, of texts if nothing else is said."""
    made: Schema = {"type": "array", "description": description, "items": items or {"type": "string"}}
    bounds = {"maxItems": MOST_ITEMS} if count is None else {"minItems": count, "maxItems": count}
    return {**made, **bounds}


MOST_NUMBERS = 101
"""Up to so many whole numbers are listed: a list is kept to by providers that do not know bounds."""


def whole(description: str, lowest: int, highest: int) -> Schema:
    """Return the schema of a whole number within bounds."""
    if highest - lowest < MOST_NUMBERS:
        return {"type": "integer", "description": description, "enum": list(range(lowest, highest + 1))}
    return {"type": "integer", "description": description, "minimum": lowest, "maximum": highest}


def one_of(description: str, choices: Iterable[str]) -> Schema:
    """Return the schema of one of several texts."""
    return {"type": "string", "description": description, "enum": list(choices)}


def listed(items: Iterable[str]) -> str:
    """Return texts as a list, a line each."""
    return "\n".join(f"- {item}" for item in items)


def tagged(tag: str, items: Iterable[Any], names: Iterable[Any]) -> str:
    """Return values between tags, each with its name: `<source name="…">`."""
    parts = zip(names, items, strict=True)
    return "\n\n".join(f"<{tag} name={json.dumps(str(name))}>\n{shown(item)}\n</{tag}>" for name, item in parts)


def shown(value: Any) -> str:
    """Return a value as a model is shown it: a text as it is, anything else as JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, indent=1, default=str)
