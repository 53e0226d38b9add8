"""`analyzer`, `classifier` and `extractor`: what is in a text."""

from __future__ import annotations

from typing import Any, Literal, cast

from pydantic import Field

from flowmason_ray.components.base import node
from flowmason_ray.components.builtin.examples import closed
from flowmason_ray.components.builtin.model_node import (
    Answered,
    Asking,
    Schema,
    ask,
    exactly,
    facts_of,
    listed,
    one_of,
    record,
    several,
    whole,
    words,
)
from flowmason_ray.engine.component import Context
from flowmason_ray.errors import PermanentError

SURE = 10
"""What a model says when it is certain of a label: finer scales are not finer answers."""

_SENTIMENTS = ("positive", "negative", "neutral", "mixed")


@node(cost="io", category="text", tags=("llm",), prompts=("analyzer",), raw=("prompt_version",))
class Analyzer:
    """Analyses a text: its key points, its sentiment, and what it says about each aspect that is asked for."""

    class Input(Asking):
        """The text, and what is asked about it."""

        model_config = closed({"content": "We love the rain, but not the mud.", "aspects": ["mood", "weather"]})

        content: str = Field(description="The text.", min_length=1)
        instructions: str | None = Field(default=None, description="What to look for.")
        aspects: list[str] = Field(default=[], description="What something is to be said about, one by one.")

    class Output(Answered):
        """The analysis."""

        analysis: str = Field(description="The analysis, as a text.")
        key_points: list[str] = Field(description="What matters most.")
        sentiment: Literal["positive", "negative", "neutral", "mixed"] = Field(description="The text's sentiment.")
        findings: dict[str, str] = Field(description="Per aspect: what was found; empty without aspects.")

    async def execute(self, input: Input, context: Context) -> Output:
        """Ask.

        Raises:
            StageError: there is no answer that fits.
        """
        keys = {f"aspect_{n}": aspect for n, aspect in enumerate(dict.fromkeys(input.aspects), 1)}
        schema = record(
            **({"findings": exactly({key: words(aspect) for key, aspect in keys.items()})} if keys else {}),
            analysis=words("The analysis."),
            key_points=several("What matters most."),
            sentiment=one_of("The sentiment of the text.", _SENTIMENTS),
        )
        values = {
            "content": input.content,
            "instructions": input.instructions or "",
            "aspects": "\n".join(f"{n}. {aspect}" for n, aspect in enumerate(keys.values(), 1)),
        }
        answer = await ask(context, input, "analyzer", values, schema)
        said: dict[str, Any] = answer.data
        findings = {keys[key]: found for key, found in said.pop("findings", {}).items()}
        return self.Output(**said, findings=findings, **facts_of(answer))


@node(cost="io", category="text", tags=("llm",), prompts=("classifier",), raw=("prompt_version",))
class Classifier:
    """Says which of several labels fits a text, and how sure the model is of each."""

    class Input(Asking):
        """The text and the labels."""

        model_config = closed(
            {"text": "Where is my parcel?", "labels": {"delivery": "asks about a parcel", "other": "anything else"}}
        )

        text: str = Field(description="The text.", min_length=1)
        labels: list[str] | dict[str, str] = Field(
            description="The labels: a list, or an object that says for each what it means.", min_length=1
        )
        multi_label: bool = Field(default=False, description="Whether several labels may fit.")
        threshold: float = Field(
            default=0.5, ge=0, le=1, description="With `multi_label`: how sure the model must be of a label."
        )
        instructions: str | None = Field(default=None, description="What else to heed.")

    class Output(Answered):
        """The label."""

        label: str | None = Field(
            description="The label that fits best; null when several may fit and none reaches the threshold."
        )
        labels: list[str] = Field(description="The labels that fit, the surest first; without `multi_label` the one.")
        confidence: float = Field(description="How sure the model says it is of `label`, from 0 to 1.")
        scores: dict[str, float] = Field(description="Per label: how sure it says it is, from 0 to 1.")
        reasoning: str = Field(description="Why.")

    async def execute(self, input: Input, context: Context) -> Output:
        """Ask.

        Raises:
            StageError: there is no answer that fits.
        """
        meanings = input.labels if isinstance(input.labels, dict) else dict.fromkeys(input.labels, "")
        keys = {f"label_{n}": label for n, label in enumerate(meanings, 1)}
        sure = {key: whole(f"How sure you are of {label!r}.", 0, SURE) for key, label in keys.items()}
        best = {} if input.multi_label else {"label": one_of("The label that fits best.", meanings)}
        schema = record(reasoning=words("Why, in one or two sentences."), scores=exactly(sure), **best)
        values = {
            "text": input.text,
            "labels": listed(f"{label}: {meaning}" if meaning else label for label, meaning in meanings.items()),
            "several": input.multi_label,
            "instructions": input.instructions or "",
        }
        answer = await ask(context, input, "classifier", values, schema)
        said: dict[str, Any] = answer.data
        scores = {keys[key]: score / SURE for key, score in said["scores"].items()}
        if input.multi_label:
            fitting = sorted((each for each in scores if scores[each] >= input.threshold), key=lambda x: -scores[x])
        else:
            fitting = [said["label"]]
        label = fitting[0] if fitting else None
        return self.Output(
            label=label,
            labels=fitting,
            confidence=scores[label] if label is not None else 0.0,
            scores=scores,
            reasoning=said["reasoning"],
            **facts_of(answer),
        )


@node(cost="io", category="text", tags=("llm",), prompts=("extractor",), raw=("prompt_version",))
class Extractor:
    """Reads facts out of a text into the fields of a JSON Schema."""

    class Input(Asking):
        """The text, and the fields."""

        model_config = closed(
            {"text": "Invoice 17, due in June.", "fields": {"number": "the invoice's number", "due": "when it is due"}}
        )

        text: str = Field(description="The text.", min_length=1)
        schema_: dict[str, Any] | None = Field(
            default=None, alias="schema", description="A JSON Schema of what is read out; or say `fields`."
        )
        fields_: dict[str, str] | list[str] | None = Field(
            default=None,
            alias="fields",
            description="Instead of a schema: names of fields, or an object that says for each what it holds. Each is a text, "
            "or null where the text does not say.",
        )
        instructions: str | None = Field(default=None, description="What else to heed.")

    class Output(Answered):
        """What was read."""

        data: Any = Field(description="The facts; fits the schema.")
        missing: list[str] = Field(description="The fields that are null or empty: the text does not say them.")

    async def execute(self, input: Input, context: Context) -> Output:
        """Ask.

        Raises:
            PermanentError: `invalid_config`, not exactly one of `schema` and `fields` is given.
            StageError: there is no answer that fits.
        """
        schema = _schema(input)
        answer = await ask(
            context, input, "extractor", {"text": input.text, "instructions": input.instructions or ""}, schema
        )
        data: Any = answer.data
        found = cast("dict[str, Any]", data if isinstance(data, dict) else {})
        missing = [name for name, value in found.items() if value in (None, "", [])]
        return self.Output(data=data, missing=missing, **facts_of(answer))


def _schema(input: Extractor.Input) -> Schema:
    if (input.schema_ is None) == (input.fields_ is None):
        raise PermanentError("'extractor' needs either 'schema' or 'fields'.", code="invalid_config")
    if input.schema_ is not None:
        return input.schema_
    given = input.fields_ or {}
    meanings = given if isinstance(given, dict) else dict.fromkeys(given, "")
    stated = [{"type": "string"}, {"type": "null"}]
    return exactly({name: {"anyOf": stated, "description": about} for name, about in meanings.items()})
