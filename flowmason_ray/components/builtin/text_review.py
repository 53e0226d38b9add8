"""`critic` and `improver`: judging a text, and making it better by the judgement."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from pydantic import Field

from flowmason_ray.components.base import node
from flowmason_ray.components.builtin.examples import closed
from flowmason_ray.components.builtin.model_node import (
    Answered,
    Asking,
    ask,
    exactly,
    facts_of,
    listed,
    record,
    several,
    shown,
    whole,
    words,
)
from flowmason_ray.engine.component import Context


@node(cost="io", category="text", tags=("llm", "review"), prompts=("critic",), raw=("prompt_version",))
class Critic:
    """Judges a text: a score, feedback, strengths and improvements, and a score for each criterion."""

    class Input(Asking):
        """The text, and what it is judged by."""

        model_config = closed({"content": "Rain is wet.", "criteria": ["true", "short"], "threshold": 7})

        content: str = Field(description="The text.", min_length=1)
        criteria: list[str] | str = Field(
            default=[], description="What it is judged by; nothing: how clear, correct and complete it is."
        )
        context: str | None = Field(default=None, description="What the text is for, or answers.")
        scale: int = Field(default=10, ge=1, le=1000, description="The best score; 0 is the worst.")
        threshold: float | None = Field(default=None, description="The score from which on the text has `passed`.")

    class Output(Answered):
        """The judgement."""

        score: float = Field(description="The overall score, from 0 to `scale`.")
        feedback: str = Field(description="What is to be said about it, as a whole.")
        strengths: list[str] = Field(description="What is good.")
        improvements: list[str] = Field(description="What would make it better, the most important first.")
        criteria_scores: dict[str, float] = Field(description="Per criterion: its score; empty without criteria.")
        passed: bool | None = Field(description="Whether the score reaches `threshold`; null without one.")

    async def execute(self, input: Input, context: Context) -> Output:
        """Ask.

        Raises:
            StageError: there is no answer that fits.
        """
        criteria = [input.criteria] if isinstance(input.criteria, str) else input.criteria
        criteria = list(dict.fromkeys(each for each in criteria if each.strip()))
        keys = {f"criterion_{number}": criterion for number, criterion in enumerate(criteria, 1)}
        schema = record(
            feedback=words("What is to be said about the text, as a whole."),
            strengths=several("What is good."),
            improvements=several("What would make it better, the most important first."),
            **({"criteria_scores": exactly({k: whole(c, 0, input.scale) for k, c in keys.items()})} if keys else {}),
            score=whole("The overall score.", 0, input.scale),
        )
        values = {
            "content": input.content,
            "criteria": "\n".join(f"{number}. {each}" for number, each in enumerate(criteria, 1)),
            "context": input.context or "",
            "scale": input.scale,
        }
        answer = await ask(context, input, "critic", values, schema)
        said: dict[str, Any] = answer.data
        return self.Output(
            score=said["score"],
            feedback=said["feedback"],
            strengths=said["strengths"],
            improvements=said["improvements"],
            criteria_scores={keys[key]: score for key, score in said.get("criteria_scores", {}).items()},
            passed=None if input.threshold is None else said["score"] >= input.threshold,
            **facts_of(answer),
        )


@node(cost="io", category="text", tags=("llm", "review"), prompts=("improver",), raw=("prompt_version",))
class Improver:
    """Rewrites a text so that it answers the feedback on it, and says what was changed."""

    class Input(Asking):
        """The text, and the feedback on it."""

        model_config = closed({"content": "Rain is wet.", "feedback": "Say why it matters."})

        content: str = Field(description="The text.", min_length=1)
        feedback: str | list[str] | dict[str, Any] | None = Field(
            default=None, description="What is to be better: a text, a list, or the whole output of a `critic`."
        )
        instructions: str | None = Field(default=None, description="What else to heed.")

    class Output(Answered):
        """The better text."""

        content: str = Field(description="The improved text.")
        improved_content: str = Field(description="The same, as older pipelines call it.")
        changes: list[str] = Field(description="What was changed.")
        changes_made: list[str] = Field(description="The same, as older pipelines call it.")

    async def execute(self, input: Input, context: Context) -> Output:
        """Ask.

        Raises:
            StageError: there is no answer that fits.
        """
        schema = record(
            content=words("The whole improved text."), changes=several("What was changed, a sentence each.")
        )
        values = {
            "content": input.content,
            "feedback": _feedback(input.feedback),
            "instructions": input.instructions or "",
        }
        answer = await ask(context, input, "improver", values, schema)
        content, changes = answer.data["content"], answer.data["changes"]
        return self.Output(
            content=content, improved_content=content, changes=changes, changes_made=changes, **facts_of(answer)
        )


def _feedback(said: str | list[str] | dict[str, Any] | None) -> str:
    """Return feedback in words; of a critic's output, what it says and not what it cost."""
    if said is None or isinstance(said, str):
        return said or ""
    if isinstance(said, list):
        return listed(said)
    parts = [shown(said[name]) for name in ("feedback",) if said.get(name)]
    for name in ("improvements", "strengths"):
        if isinstance(items := said.get(name), list) and items:
            title = "To be improved" if name == "improvements" else "To be kept"
            parts.append(f"{title}:\n{listed(str(item) for item in cast('list[Any]', items))}")
    scores: Any = said.get("criteria_scores")
    if isinstance(scores, Mapping) and scores:
        parts.append("Scores:\n" + listed(f"{k}: {v}" for k, v in cast("Mapping[str, Any]", scores).items()))
    return "\n\n".join(parts) or shown(said)
