"""`combiner` and `selector`: one of several, by making it or by choosing it."""

from __future__ import annotations

from typing import Any, Literal, cast

from pydantic import Field

from flowmason_ray.components.base import node
from flowmason_ray.components.builtin.examples import closed
from flowmason_ray.components.builtin.model_node import (
    Answered,
    Asking,
    ask,
    facts_of,
    listed,
    record,
    several,
    tagged,
    whole,
    words,
)
from flowmason_ray.engine.component import Context

_STRATEGIES = {
    "integrate": "Integrate everything that they say into one text.",
    "summarize": "Say in short what they say together.",
    "compare": "Compare them: what they agree in, and where they differ.",
    "consensus": "Keep only what most of them agree in.",
}


@node(cost="io", category="text", tags=("llm",), prompts=("combiner",), raw=("prompt_version",))
class Combiner:
    """Makes one text of several, and says what they contradict each other in."""

    class Input(Asking):
        """The texts, and how they are combined."""

        model_config = closed({"inputs": {"north": "It rains.", "south": "It is dry."}, "strategy": "compare"})

        inputs: list[Any] | dict[str, Any] = Field(
            description="The texts: a list, or an object whose keys name them. Other values are shown as JSON.",
            min_length=1,
        )
        strategy: Literal["integrate", "summarize", "compare", "consensus"] = Field(
            default="integrate", description="What is made of them."
        )
        instructions: str | None = Field(default=None, description="What else to heed, such as form and length.")

    class Output(Answered):
        """The text."""

        content: str = Field(description="The combined text.")
        key_points: list[str] = Field(description="Its key points.")
        contradictions: list[str] = Field(description="What the sources contradict each other in.")
        sources: int = Field(description="How many there were.")

    async def execute(self, input: Input, context: Context) -> Output:
        """Ask.

        Raises:
            StageError: there is no answer that fits.
        """
        given = input.inputs
        names = list(given) if isinstance(given, dict) else list(range(1, len(given) + 1))
        items = list(given.values()) if isinstance(given, dict) else given
        schema = record(
            contradictions=several("What the sources contradict each other in."),
            key_points=several("The key points of the text."),
            content=words("The text."),
        )
        values = {
            "sources": tagged("source", items, names),
            "strategy": _STRATEGIES[input.strategy],
            "instructions": input.instructions or "",
        }
        answer = await ask(context, input, "combiner", values, schema)
        return self.Output(**answer.data, sources=len(items), **facts_of(answer))


@node(cost="io", category="text", tags=("llm",), prompts=("selector",), raw=("prompt_version",))
class Selector:
    """Chooses the best of several candidates, and says why."""

    class Input(Asking):
        """The candidates, and what decides."""

        model_config = closed({"candidates": ["Rain again", "Umbrellas up"], "criteria": "the livelier headline"})

        candidates: list[Any] = Field(
            description="What is chosen from: texts; other values are shown as JSON.", min_length=1, max_length=1000
        )
        criteria: list[str] | str = Field(default=[], description="What decides.")
        context: str | None = Field(default=None, description="What it is chosen for.")

    class Output(Answered):
        """The choice."""

        selected: Any = Field(description="The candidate that was chosen, as it was given.")
        index: int = Field(description="Its index, from 0.")
        selected_index: int = Field(description="The same, as older pipelines call it.")
        reasoning: str = Field(description="Why.")
        scores: list[float] = Field(description="Per candidate, in their order: from 0 to 100.")
        confidence: float = Field(description="The score of the chosen one, from 0 to 1.")

    async def execute(self, input: Input, context: Context) -> Output:
        """Ask.

        Raises:
            StageError: there is no answer that fits.
        """
        count = len(input.candidates)
        schema = record(
            reasoning=words("Why, in a few sentences."),
            scores=several("The score of each candidate, in their order.", whole("", 0, 100), count=count),
            index=whole("The index of the candidate that is chosen.", 0, count - 1),
        )
        criteria = input.criteria if isinstance(input.criteria, str) else "\n" + listed(input.criteria)
        values = {
            "candidates": tagged("candidate", input.candidates, range(count)),
            "criteria": criteria.rstrip(),
            "context": input.context or "",
            "last": count - 1,
        }
        answer = await ask(context, input, "selector", values, schema)
        said = cast("dict[str, Any]", answer.data)
        index: int = said["index"]
        return self.Output(
            selected=input.candidates[index],
            index=index,
            selected_index=index,
            reasoning=said["reasoning"],
            scores=said["scores"],
            confidence=said["scores"][index] / 100,
            **facts_of(answer),
        )
