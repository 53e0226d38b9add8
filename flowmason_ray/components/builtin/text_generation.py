"""`generator` and `chat`: a model asked with a prompt that the pipeline writes."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any, Literal, cast

from pydantic import BaseModel, ConfigDict, Field

from flowmason_ray.components.base import node
from flowmason_ray.components.builtin.examples import closed
from flowmason_ray.components.builtin.model_node import Answered, facts_of
from flowmason_ray.engine.component import Context
from flowmason_ray.engine.models import Answer, Message, Text, assistant, user
from flowmason_ray.errors import PermanentError, TemporaryError

_FORMATS = {
    "text": "",
    "markdown": "Answer in Markdown.",
    "json": "Answer with one JSON object and nothing else: no fence around it, no words before or after.",
}


class Sampling(BaseModel):
    """How a model is asked whose prompt the pipeline writes itself."""

    model_config = ConfigDict(extra="forbid", populate_by_name=True)

    system_prompt: str | None = Field(default=None, description="Instructions that come before everything else.")
    max_tokens: int | None = Field(
        default=None, ge=1, description="The longest answer, in tokens; null: what `llm_settings` say."
    )
    temperature: float | None = Field(
        default=None, ge=0, le=2, description="Sampling temperature; null: what `llm_settings` say."
    )
    top_p: float | None = Field(
        default=None, gt=0, le=1, description="Nucleus sampling; null: what `llm_settings` say."
    )
    stop_sequences: list[str] | None = Field(
        default=None, description="Texts at which the answer ends; null: what `llm_settings` say."
    )
    seed: int | None = Field(default=None, description="Makes sampling repeatable, where the provider can.")

    def options(self) -> dict[str, Any]:
        """Return what `Models.generate` takes of it, but the system prompt."""
        return {
            "max_tokens": self.max_tokens,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "stop": self.stop_sequences,
            "seed": self.seed,
        }


@node(cost="io", category="text", tags=("llm",))
class Generator:
    """Asks a model and returns what it says: as text, or as data that fits a schema."""

    class Input(Sampling):
        """The prompt, and how it is asked."""

        model_config = closed(
            {"prompt": "Write one sentence about rain.", "system_prompt": "Be plain.", "max_tokens": 60}
        )

        prompt: str = Field(description="What the model is asked.", min_length=1)
        output_format: Literal["text", "markdown", "json"] = Field(
            default="text", description="The form of the answer; with `json` it is also parsed into `data`."
        )
        schema_: dict[str, Any] | None = Field(
            default=None,
            alias="schema",
            description="A JSON Schema that the answer must fit; implies the format `json`.",
        )

    class Output(Answered):
        """The answer."""

        content: str = Field(description="What the model said.")
        data: Any = Field(default=None, description="With the format `json` or a schema: the answer as data.")

    async def execute(self, input: Input, context: Context) -> Output:
        """Ask.

        Raises:
            StageError: there is no answer, or it does not fit after it was repaired once.
        """
        models, options = context.models, input.options()
        if input.schema_ is not None:
            answer = await models.generate(input.prompt, system=input.system_prompt, schema=input.schema_, **options)
            return self.Output(content=answer.text, data=answer.data, **facts_of(answer))
        system = "\n\n".join(filter(None, (input.system_prompt, _FORMATS[input.output_format]))) or None
        answer = await models.generate(input.prompt, system=system, **options)
        if input.output_format != "json":
            return self.Output(content=answer.text, **facts_of(answer))
        data, problem = _object_in(answer.text)
        if problem and answer.finish_reason != "length":
            talk = [user(input.prompt), assistant(answer.text or "(nothing)"), user(f"{problem} {_FORMATS['json']}")]
            answer = _together(answer, await models.generate(talk, system=system, **options))
            data, problem = _object_in(answer.text)
        if problem:
            why = "It was cut off at 'max_tokens'." if answer.finish_reason == "length" else problem
            message = f"Model {answer.model!r} was to answer with a JSON object. {why}"
            raise TemporaryError(message, code="bad_response", details={"text": answer.text[:4000]})
        return self.Output(content=answer.text, data=data, **facts_of(answer))


def _together(first: Answer, second: Answer) -> Answer:
    """Return the second answer with what both have taken."""
    costs = (first.cost_usd, second.cost_usd)
    cost = None if None in costs else sum(each for each in costs if each is not None)
    return replace(second, usage=first.usage + second.usage, cost_usd=cost)


def _object_in(text: str) -> tuple[Any, str]:
    """Return the object that a text is, and else why it is none."""
    bare = text.strip()
    if bare.startswith("```"):
        bare = bare.partition("\n")[2].rpartition("```")[0]
    try:
        data: Any = json.loads(bare)
    except (ValueError, RecursionError) as exc:
        return None, f"That is not JSON ({exc})."
    if not isinstance(data, dict):
        return None, f"That is JSON, but no object: {type(data).__name__}."
    return cast("dict[str, Any]", data), ""


class Turn(BaseModel):
    """One turn of a conversation."""

    model_config = ConfigDict(extra="forbid")

    role: Literal["user", "assistant", "system"] = Field(description="Who speaks.")
    content: str = Field(description="What is said.")


@node(cost="io", category="text", tags=("llm",))
class Chat:
    """Goes on with a conversation: returns the next turn, and the conversation with it."""

    class Input(Sampling):
        """The conversation so far, and how it goes on."""

        model_config = closed(
            {
                "message": "And in winter?",
                "messages": [
                    {"role": "user", "content": "How long is the day?"},
                    {"role": "assistant", "content": "In summer: long."},
                ],
            }
        )

        messages: list[Turn] = Field(
            default=[], description="The turns so far: `role` (`user`, `assistant`, `system`) and `content`."
        )
        message: str | None = Field(default=None, description="What the user says next; comes after `messages`.")

    class Output(Answered):
        """The next turn."""

        content: str = Field(description="What the model said.")
        messages: list[Turn] = Field(description="The conversation with it, ready to be handed over again.")

    async def execute(self, input: Input, context: Context) -> Output:
        """Ask.

        Raises:
            PermanentError: `invalid_prompt`, the conversation does not end with the user.
            StageError: there is no answer.
        """
        turns = list(input.messages)
        if input.message is not None:
            turns.append(Turn(role="user", content=input.message))
        spoken = [turn for turn in turns if turn.role != "system"]
        if not spoken or spoken[-1].role != "user":
            message = "There is nothing to answer: a conversation ends with a message of the user."
            raise PermanentError(f"{message} Give 'message', or end 'messages' with one.", code="invalid_prompt")
        told = [turn.content for turn in turns if turn.role == "system"]
        system = "\n\n".join(filter(None, (input.system_prompt, *told))) or None
        answer = await context.models.generate(_conversation(spoken), system=system, **input.options())
        turns.append(Turn(role="assistant", content=answer.text))
        return self.Output(content=answer.text, messages=turns, **facts_of(answer))


def _conversation(turns: list[Turn]) -> list[Message]:
    """Return the turns as messages; turns of the same speaker in a row become one, as providers want them to alternate."""
    made: list[Message] = []
    for turn in turns:
        part = Text(text=turn.content)
        if made and made[-1].role == turn.role:
            made[-1] = replace(made[-1], parts=(*made[-1].parts, Text(text="\n\n"), part))
        else:
            made.append(user(part) if turn.role == "user" else assistant(part))
    return made
