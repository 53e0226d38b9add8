"""`summarizer`, `rewriter` and `translator`: the same in other words."""

from __future__ import annotations

from typing import Literal

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
    words,
)
from flowmason_ray.engine.component import Context

_STYLES = {
    "paragraph": "as flowing text",
    "bullets": "as a list, a line for each point, each beginning with '- '",
    "headline": "as one headline",
}
_LENGTHS = {
    "same": "Keep about the same length.",
    "shorter": "Make it clearly shorter.",
    "longer": "Make it clearly longer, without adding facts.",
}


@node(cost="io", category="text", tags=("llm",), prompts=("summarizer",), raw=("prompt_version",))
class Summarizer:
    """Shortens a text, and lists its key points."""

    class Input(Asking):
        """The text, and what the summary is like."""

        model_config = closed({"text": "It rained all day. In the evening it rained harder.", "max_length": 10})

        text: str = Field(description="The text.", min_length=1)
        max_length: int = Field(
            default=100, ge=1, description="How long the summary may be, in words; the model is told."
        )
        style: Literal["paragraph", "bullets", "headline"] = Field(default="paragraph", description="Its form.")
        focus: str | None = Field(default=None, description="What it is to be about above all.")
        language: str | None = Field(default=None, description="The language to write in; null: that of the text.")

    class Output(Answered):
        """The summary."""

        summary: str = Field(description="The summary.")
        key_points: list[str] = Field(description="The key points.")
        word_count: int = Field(description="How many words the summary has.")

    async def execute(self, input: Input, context: Context) -> Output:
        """Ask.

        Raises:
            StageError: there is no answer that fits.
        """
        schema = record(key_points=several("The key points."), summary=words("The summary."))
        values = {
            "text": input.text,
            "length": f"in at most {input.max_length} words",
            "style": _STYLES[input.style],
            "focus": input.focus or "",
            "language": input.language or "",
        }
        answer = await ask(context, input, "summarizer", values, schema)
        count = len(answer.data["summary"].split())
        return self.Output(**answer.data, word_count=count, **facts_of(answer))


@node(cost="io", category="text", tags=("llm",), prompts=("rewriter",), raw=("prompt_version",))
class Rewriter:
    """Says the same in another tone or style, or for other readers."""

    class Input(Asking):
        """The text, and what it is to become."""

        model_config = closed({"text": "gimme the umbrella", "tone": "formal"})

        text: str = Field(description="The text.", min_length=1)
        tone: str | None = Field(default=None, description="Such as `formal`, `friendly`, `plain`.")
        style: str | None = Field(default=None, description="Such as `news report`, `e-mail`.")
        audience: str | None = Field(default=None, description="Who it is written for.")
        length: Literal["same", "shorter", "longer"] = Field(default="same", description="How long it becomes.")
        instructions: str | None = Field(default=None, description="What else to heed.")

    class Output(Answered):
        """The rewritten text."""

        content: str = Field(description="The rewritten text.")
        changes: list[str] = Field(description="What was changed.")

    async def execute(self, input: Input, context: Context) -> Output:
        """Ask.

        Raises:
            StageError: there is no answer that fits.
        """
        schema = record(content=words("The rewritten text."), changes=several("What was changed, a sentence each."))
        values = {
            "text": input.text,
            "tone": input.tone or "",
            "style": input.style or "",
            "audience": input.audience or "",
            "length": _LENGTHS[input.length],
            "instructions": input.instructions or "",
        }
        answer = await ask(context, input, "rewriter", values, schema)
        return self.Output(**answer.data, **facts_of(answer))


@node(cost="io", category="text", tags=("llm",), prompts=("translator",), raw=("prompt_version",))
class Translator:
    """Translates a text."""

    class Input(Asking):
        """The text and the languages."""

        model_config = closed({"text": "It rains.", "target_language": "German"})

        text: str = Field(description="The text.", min_length=1)
        target_language: str = Field(description="The language to translate into: a name, or a code such as `de`.")
        source_language: str | None = Field(default=None, description="The text's language; null: the model finds it.")
        glossary: dict[str, str] = Field(default={}, description="Terms, and what each is translated as.")
        tone: str | None = Field(default=None, description="Such as `formal`.")

    class Output(Answered):
        """The translation."""

        translation: str = Field(description="The translation.")
        source_language: str = Field(description="The language that the text was in, by the model.")
        target_language: str = Field(description="The language that was asked for.")

    async def execute(self, input: Input, context: Context) -> Output:
        """Ask.

        Raises:
            StageError: there is no answer that fits.
        """
        schema = record(
            source_language=words("The language that the text is in."), translation=words("The translation.")
        )
        values = {
            "text": input.text,
            "source_language": input.source_language or "",
            "target_language": input.target_language,
            "glossary": listed(f"{term}: {meaning}" for term, meaning in input.glossary.items()),
            "tone": input.tone or "",
        }
        answer = await ask(context, input, "translator", values, schema)
        return self.Output(**answer.data, target_language=input.target_language, **facts_of(answer))
