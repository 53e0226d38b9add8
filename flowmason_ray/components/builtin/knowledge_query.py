"""`knowledge_query`: answers a question from a collection, and proves it by citations that are checked.

A model invents sources as easily as facts. So every citation is held against the chunks that it was shown: the number must be one
of them, and the quote must stand in it, word for word. What does not is reported, dropped, or fails the stage, as the stage
says. Where nothing was found no model is asked: there is no answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import BaseModel, Field

from flowmason_ray.components.base import node
from flowmason_ray.components.builtin.examples import closed
from flowmason_ray.components.builtin.model_node import Asking, ask, record, words
from flowmason_ray.components.builtin.retriever import Retrieved, SearchInput, numbered, retrieve
from flowmason_ray.components.citations import find_quote, is_telling, markers
from flowmason_ray.engine.component import Context
from flowmason_ray.errors import PermanentError


class Citation(BaseModel):
    """A place that the answer rests on."""

    number: int = Field(description="The number of the source, as it stands in the answer.")
    quote: str = Field(description="What the model says that the source says.")
    valid: bool = Field(description="Whether the source is among those found, and holds the quote.")
    problem: Literal["unknown_source", "quote_not_found", "quote_too_short", "no_quote"] | None = Field(
        description="What is wrong with it: no such source, the quote is not in it, or is a word or two that prove nothing, or the "
        "answer's number has no quote."
    )
    document_id: str | None = Field(default=None, description="The chunk's id.")
    source: str | None = Field(default=None, description="The document.")
    page: int | None = Field(default=None, description="The page on which the chunk begins.")
    heading: str | None = Field(default=None, description="The section in which the chunk begins.")
    start: int | None = Field(default=None, description="Where the quote begins in the document's text.")
    end: int | None = Field(default=None, description="Where it ends, exclusive.")


class _Cited(BaseModel):
    source: int
    quote: str


class _Reply(BaseModel):
    answer: str
    answered: bool
    citations: list[_Cited]


@node(effect="idempotent", cost="io", category="retrieval", prompts=("knowledge_query",), raw=("prompt_version",))
class KnowledgeQuery:
    """Answers a question from a collection, with citations whose sources and quotes are checked."""

    class Input(SearchInput, Asking):
        """The question, and how it is answered."""

        model_config = closed(
            {"collection": "handbook", "query": "How many days of leave are there?", "invalid_citations": "drop"}
        )

        invalid_citations: Literal["report", "drop", "fail"] = Field(
            default="report",
            description="What happens to citations that do not hold: they are marked, left out, or fail the stage "
            "(`invalid_citation`).",
        )
        require_citations: bool = Field(
            default=True,
            description="Whether an answer without a valid citation counts as none ('answered' is false); with "
            "invalid_citations 'fail' it fails the stage.",
        )
        instructions: str = Field(
            default="", description="Further instructions: tone, language, form. The rules for citations stay."
        )

    class Output(BaseModel):
        """The answer, and what it rests on."""

        answer: str = Field(description="The answer, with numbers like [1]; empty when nothing was found.")
        answered: bool = Field(description="Whether the sources answer the question, and a citation proves it.")
        citations: list[Citation] = Field(description="What the answer rests on, each checked.")
        invalid_citations: int = Field(description="How many citations did not hold, dropped ones included.")
        sources: list[Retrieved] = Field(
            description="The chunks that the model was shown, in the order of their numbers."
        )
        model: str | None = Field(description="The model that answered; null when none was asked.")
        tokens_used: int = Field(description="Tokens of the answer, input and output.")

    async def execute(self, input: Input, context: Context) -> Output:
        """Search, ask, and check.

        Raises:
            PermanentError: a citation does not hold, and that is to be a failure (`invalid_citation`, with the citations in
                the details); or as `retriever`.
        """
        found, _ = await retrieve(input, context)
        if not found:
            context.log("warning", f"Nothing in {input.collection!r} fits the question; no model was asked.")
            return self.Output(
                answer="", answered=False, citations=[], invalid_citations=0, sources=[], model=None, tokens_used=0
            )
        values = {"question": input.query, "sources": numbered(found), "instructions": input.instructions}
        said = await ask(context, input, "knowledge_query", values, _schema(len(found)))
        reply = _Reply.model_validate(said.data)
        citations = checked(reply.answer, [(c.source, c.quote) for c in reply.citations], found)
        invalid = [citation for citation in citations if not citation.valid]
        proven = len(invalid) < len(citations) or not input.require_citations
        if input.invalid_citations == "fail" and reply.answered and (invalid or not proven):
            raise _refusal(invalid)
        return self.Output(
            answer=reply.answer,
            answered=reply.answered and proven,
            citations=[c for c in citations if c.valid] if input.invalid_citations == "drop" else citations,
            invalid_citations=len(invalid),
            sources=found,
            model=said.model,
            tokens_used=said.usage.total_tokens,
        )


def _schema(count: int) -> dict[str, Any]:
    """Return the schema of the reply. The numbers are not limited by it: a wrong one is to be seen, not made impossible to
    write, which would turn it into a wrong one that looks right."""
    cited = record(
        source={"type": "integer", "description": f"The number of a source, 1 to {count}."},
        quote=words("Words of that source, copied exactly: a clause, not a single word."),
    )
    return record(
        answer=words("The answer, with the numbers of its sources like [1]."),
        answered={"type": "boolean", "description": "Whether the sources answer the question."},
        citations={"type": "array", "items": cited},
    )


def checked(answer: str, cited: Sequence[tuple[int, str]], found: Sequence[Retrieved]) -> list[Citation]:
    """Return the citations of an answer, each checked against the chunks; numbers in the answer without one are added.

    Args:
        answer: The answer.
        cited: What the model cites: the number of a chunk, from 1, and a quote.
        found: The chunks, in the order of their numbers.
    """
    citations = [_checked(number, quote, found) for number, quote in dict.fromkeys(cited)]
    quoted = {number for number, _ in cited}
    for number in markers(answer):
        if number not in quoted:
            there = 1 <= number <= len(found)
            place = _place(found[number - 1]) if there else {}
            problem: Literal["no_quote", "unknown_source"] = "no_quote" if there else "unknown_source"
            citations.append(Citation(number=number, quote="", valid=False, problem=problem, **place))
    return citations


def _checked(number: int, quote: str, found: Sequence[Retrieved]) -> Citation:
    if not 1 <= number <= len(found):
        return Citation(number=number, quote=quote, valid=False, problem="unknown_source")
    chunk = found[number - 1]
    span = find_quote(quote, chunk.content)
    if span is None:
        return Citation(number=number, quote=quote, valid=False, problem="quote_not_found", **_place(chunk))
    if not is_telling(quote, chunk.content):
        return Citation(number=number, quote=quote, valid=False, problem="quote_too_short", **_place(chunk))
    first = chunk.start
    where: dict[str, Any] = {} if first is None else {"start": first + span[0], "end": first + span[1]}
    return Citation(number=number, quote=quote, valid=True, problem=None, **_place(chunk), **where)


def _place(chunk: Retrieved) -> dict[str, Any]:
    return {"document_id": chunk.id, "source": chunk.source, "page": chunk.page, "heading": chunk.heading}


def _refusal(invalid: Sequence[Citation]) -> PermanentError:
    said = [f"[{c.number}] {c.problem}: {c.quote[:80]!r}" for c in invalid[:5]] or ["there is no citation at all"]
    return PermanentError(
        f"The answer rests on citations that do not hold: {'; '.join(said)}.",
        code="invalid_citation",
        details={"citations": [citation.model_dump() for citation in invalid]},
    )
