"""`retriever`: finds the chunks of a collection that say something about a question.

By meaning (vectors), by words (full-text search), or by both (`hybrid`), which finds names and numbers that vectors blur, and
meanings that words miss. The question's vector is made with the collection's own model.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from flowmason_ray.components.base import node
from flowmason_ray.components.builtin.examples import closed
from flowmason_ray.components.connection_names import names_connection
from flowmason_ray.components.vectors.filters import Condition, conditions
from flowmason_ray.components.vectors.opening import store_of
from flowmason_ray.components.vectors.port import MAX_K, CollectionInfo, Hit, VectorStore, missing
from flowmason_ray.components.vectors.ranking import diverse, fused
from flowmason_ray.engine.component import Context
from flowmason_ray.errors import PermanentError

CANDIDATES = 4
"""So many times `top_k` are looked at when rankings are joined or thinned out."""


class SearchInput(BaseModel):
    """What is searched for, and where: shared by everything that searches a collection."""

    model_config = ConfigDict(extra="forbid")

    query: str = Field(min_length=1, max_length=100_000, description="The question, in words.")
    collection: str = Field(default="default", description="The collection.")
    top_k: int = Field(default=5, ge=1, le=MAX_K, description="How many chunks are returned at most.")
    filters: dict[str, Any] = Field(
        default={},
        description="Conditions on metadata: {team: 'hr', page: {gte: 3}, source: ['a.pdf', 'b.pdf']} with eq, ne, in, not_in, "
        "gt, gte, lt, lte, contains, exists. All must hold.",
    )
    mode: Literal["vector", "text", "hybrid"] = Field(
        default="vector", description="By meaning, by words (full-text search, which asks no model), or by both."
    )
    min_score: float | None = Field(
        default=None,
        description="Chunks that are less like the question are left out: a cosine, -1 to 1. Not for mode 'text'.",
    )
    diversity: float = Field(
        default=0,
        ge=0,
        le=1,
        description="How much chunks that repeat each other are avoided: 0 not at all, 0.3 is usual. Not for mode 'text'.",
    )
    embedding_provider: str | None = Field(
        default=None, description="The provider of the collection's embedding model, if it is not the stage's."
    )
    connection: str | None = Field(
        default=None,
        description="A connection of the project of type 'postgres' (with pgvector); null: as the project says, by default "
        "a file.",
        json_schema_extra=names_connection("postgres"),
    )


class Retrieved(BaseModel):
    """A chunk that was found."""

    id: str = Field(description="The chunk's id.")
    content: str = Field(description="Its words.")
    score: float = Field(
        description="vector: the cosine to the question; hybrid: 1 is first by meaning and by words; text: the search "
        "engine's, which says nothing from one question to another."
    )
    source: str = Field(description="The document that it is from.")
    page: int | None = Field(default=None, description="The page on which it begins.")
    page_end: int | None = Field(default=None, description="The page on which it ends.")
    heading: str | None = Field(default=None, description="The section in which it begins.")
    start: int | None = Field(default=None, description="Where it begins in the document's text.")
    end: int | None = Field(default=None, description="Where it ends, exclusive.")
    metadata: dict[str, Any] = Field(default={}, description="What else was stored with it.")


@node(effect="idempotent", cost="io", category="retrieval")
class Retriever:
    """Finds the chunks of a collection that are nearest to a question, by meaning, by words, or both."""

    class Input(SearchInput):
        """The question."""

        model_config = closed({"collection": "handbook", "query": "How many days of leave are there?", "top_k": 3})

    class Output(BaseModel):
        """What was found."""

        documents: list[Retrieved] = Field(description="The chunks, the best first.")
        count: int = Field(description="How many there are.")
        context: str = Field(description="Their words, numbered and with their sources, as prompts want them.")
        collection: str = Field(description="The collection.")
        embedding_model: str = Field(description="The collection's embedding model.")

    async def execute(self, input: Input, context: Context) -> Output:
        """Search.

        Raises:
            PermanentError: there is no such collection, or a filter is none.
        """
        found, info = await retrieve(input, context)
        return self.Output(
            documents=found,
            count=len(found),
            context=numbered(found),
            collection=info.name,
            embedding_model=info.model,
        )


async def retrieve(input: SearchInput, context: Context) -> tuple[list[Retrieved], CollectionInfo]:
    """Search a collection; return what was found, and the collection.

    Raises:
        PermanentError: there is no such collection, or a filter is none.
    """
    where = conditions(input.filters)
    if input.mode == "text" and (input.min_score is not None or input.diversity):
        raise PermanentError(
            "'min_score' and 'diversity' compare vectors, which mode 'text' has not.", code="invalid_input"
        )
    store = await asyncio.to_thread(store_of(context, input.connection).__enter__)
    try:
        info = await asyncio.to_thread(_known, store, input.collection)
        vector: Sequence[float] = ()
        if input.mode != "text":
            # The collection's own model: with another one the search would find nonsense.
            made = await context.models.embed([input.query], provider=input.embedding_provider, model=info.model)
            vector = made.vectors[0]
        ranked = await asyncio.to_thread(_ranked, store, input, vector, where)
    finally:
        await asyncio.to_thread(store.__exit__, None, None, None)
    return [_retrieved(hit, score) for hit, score in ranked], info


def _known(store: VectorStore, collection: str) -> CollectionInfo:
    found = store.find(collection)
    if found is None:
        raise missing(collection, store.collections())
    return found


def _ranked(
    store: VectorStore, input: SearchInput, vector: Sequence[float], where: Sequence[Condition]
) -> list[tuple[Hit, float]]:
    if input.mode == "text":
        return [(hit, hit.score) for hit in store.search(input.collection, input.query, k=input.top_k, where=where)]
    many = input.mode == "hybrid" or input.diversity > 0
    count = min(input.top_k * CANDIDATES, MAX_K) if many else input.top_k
    near = store.query(input.collection, vector, k=count, where=where, with_vectors=input.diversity > 0)
    if input.min_score is not None:
        near = [hit for hit in near if hit.score >= input.min_score]
    ranked = [(hit, hit.score) for hit in near]
    if input.mode == "hybrid":
        worded = store.search(input.collection, input.query, k=count, where=where, with_vectors=input.diversity > 0)
        if input.min_score is not None:  # what is far by meaning stays out, whatever words it shares
            close = {hit.id for hit in near}
            worded = [hit for hit in worded if hit.id in close]
        ranked = fused([near, worded])
    if input.diversity > 0:
        return diverse(ranked, k=input.top_k, diversity=input.diversity)
    return ranked[: input.top_k]


def _retrieved(hit: Hit, score: float) -> Retrieved:
    metadata = dict(hit.metadata)
    place: dict[str, Any] = {key: metadata.pop(key, None) for key in ("page", "page_end", "heading", "start", "end")}
    metadata.pop("source", None)
    metadata.pop("index", None)
    return Retrieved(id=hit.id, content=hit.text, score=score, source=hit.document, metadata=metadata, **place)


def numbered(found: Sequence[Retrieved]) -> str:
    """Return chunks as a text for a prompt: each with its number, from 1, and its place."""
    return "\n\n".join(f"[{n}] {place_of(each)}\n{each.content}" for n, each in enumerate(found, start=1))


def place_of(chunk: Retrieved) -> str:
    """Return where a chunk is from, in words: `handbook.pdf, page 3, Leave > Parental`."""
    words = [chunk.source]
    if chunk.page is not None:
        more = chunk.page_end is not None and chunk.page_end != chunk.page
        words.append(f"pages {chunk.page}-{chunk.page_end}" if more else f"page {chunk.page}")
    if chunk.heading:
        words.append(chunk.heading)
    return ", ".join(words)
