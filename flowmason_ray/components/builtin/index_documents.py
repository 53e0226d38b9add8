"""`index_documents`: brings documents into a collection, and keeps it up to date.

A chunk's id is made of its source and its words. So indexing a document again asks for vectors of new words only; chunks that
moved get their new place; chunks that are gone are removed. A run that is killed half way has what it has stored: vectors are
asked for and stored in batches.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from flowmason_ray.components.base import node
from flowmason_ray.components.builtin.chunker import Chunker, SourceDocument, chunk_id, sizes
from flowmason_ray.components.builtin.examples import closed
from flowmason_ray.components.connection_names import names_connection
from flowmason_ray.components.vectors.opening import store_of
from flowmason_ray.components.vectors.port import CollectionInfo, Entry, VectorStore, check_same
from flowmason_ray.engine.component import Context
from flowmason_ray.errors import PermanentError

BATCH = 64
"""Chunks whose vectors are asked for, and stored, together."""
PLACE = ("source", "index", "page", "page_end", "heading", "start", "end")
"""What a chunk's metadata says of its place; `metadata` of the chunk cannot say otherwise."""


class IndexedChunk(BaseModel):
    """A chunk as `chunker` returns it; its words and its source are needed."""

    model_config = ConfigDict(extra="ignore")

    text: str = Field(min_length=1)
    source: str | None = None
    index: int | None = None
    page: int | None = None
    page_end: int | None = None
    heading: str | None = None
    start: int | None = None
    end: int | None = None
    metadata: dict[str, Any] = {}


class IndexedDocument(SourceDocument):
    """A document as `document_reader` returns it, or a text with a name."""

    source: str | None = None


@node(effect="idempotent", cost="io", category="retrieval")
class IndexDocuments:
    """Stores documents or chunks with their vectors in a collection; what is there unchanged is not asked for again."""

    class Input(BaseModel):
        """What is stored, and where."""

        model_config = closed(
            {
                "collection": "handbook",
                "documents": [{"source": "leave", "text": "Everybody has thirty days of leave."}],
            }
        )

        collection: str = Field(default="default", description="The collection; it is made if it is not there.")
        documents: list[IndexedDocument] = Field(
            default=[],
            description="Documents as document_reader returns them, or {text, source, metadata}; they are cut into chunks.",
            examples=[["{{ stages.read }}"]],
        )
        chunks: list[IndexedChunk] = Field(
            default=[], description="Or chunks as chunker returns them; all chunks of a source are given together."
        )
        strategy: Literal["characters", "tokens", "sentences", "headings"] = Field(
            default="characters", description="How documents are cut (see chunker)."
        )
        chunk_size: int | None = Field(default=None, ge=1, description="How large chunks are (see chunker).")
        chunk_overlap: int | None = Field(default=None, ge=0, description="How much chunks overlap (see chunker).")
        metadata: dict[str, Any] = Field(default={}, description="Put on every chunk, for filters.")
        sync: bool = Field(
            default=False, description="Whether documents of the collection that are not among these are removed."
        )
        rebuild: bool = Field(
            default=False,
            description="Whether the collection is emptied first: the way to another embedding model. All its documents go.",
        )
        embedding_model: str | None = Field(default=None, description="The embedding model; null: the provider's.")
        embedding_provider: str | None = Field(default=None, description="Another provider than the stage's.")
        connection: str | None = Field(
            default=None,
            description="A connection of the project of type 'postgres' (with pgvector); null: as the project says, "
            "by default a file.",
            json_schema_extra=names_connection("postgres"),
        )

        @model_validator(mode="after")
        def _something(self) -> Self:
            if not self.documents and not self.chunks and not self.sync:
                raise ValueError("give 'documents' or 'chunks'")
            sizes(self.strategy, self.chunk_size, self.chunk_overlap)
            return self

    class Output(BaseModel):
        """What was done."""

        collection: str = Field(description="The collection.")
        indexed: int = Field(description="Chunks that were new: their vectors were asked for and stored.")
        unchanged: int = Field(description="Chunks that were there already, in the same place or another.")
        removed: int = Field(description="Chunks that were removed: their words are no longer in their document.")
        documents: list[str] = Field(description="The documents that were given, by their sources.")
        total: int = Field(description="Chunks in the collection now.")
        embedding_model: str = Field(description="The collection's embedding model.")
        dimension: int = Field(description="The length of its vectors.")

    async def execute(self, input: Input, context: Context) -> Output:
        """Store what is new, and remove what is gone.

        Raises:
            PermanentError: the collection was made with another model (`collection_mismatch`), a chunk has no source
                (`invalid_input`), or the store cannot be used.
        """
        entries = await asyncio.to_thread(_entries, input, context)
        store = await asyncio.to_thread(store_of(context, input.connection).__enter__)
        try:
            return await self._index(input, context, store, entries)
        finally:
            await asyncio.to_thread(store.__exit__, None, None, None)

    async def _index(
        self, input: Input, context: Context, store: VectorStore, entries: Mapping[str, Mapping[str, _Planned]]
    ) -> Output:
        work = _Work()
        found = await asyncio.to_thread(_compare, store, input, entries, work)
        new = work.new
        for at in range(0, len(new), BATCH):
            batch = new[at : at + BATCH]
            made = await context.models.embed(
                [each.text for each in batch], provider=input.embedding_provider, model=input.embedding_model
            )
            found = await asyncio.to_thread(_store, store, input.collection, made.model, made.vectors, batch)
            context.progress(at + len(batch), len(new))
        if found is None:
            raise PermanentError(
                f"Collection {input.collection!r} is not there, and nothing was given to put into it.",
                code="unknown_collection",
            )
        removed, total = await asyncio.to_thread(_tidy, store, input, entries, work)
        return self.Output(
            collection=input.collection,
            indexed=len(new),
            unchanged=work.unchanged,
            removed=removed,
            documents=list(entries),
            total=total,
            embedding_model=found.model,
            dimension=found.dimension,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Planned:
    """A chunk that is to be in the collection."""

    id: str
    document: str
    text: str
    metadata: Mapping[str, Any]


@dataclass(kw_only=True, slots=True)
class _Work:
    """What has to be done."""

    new: list[_Planned] = field(default_factory=list[_Planned])
    moved: dict[str, Mapping[str, Any]] = field(default_factory=dict[str, Mapping[str, Any]])
    stale: list[str] = field(default_factory=list[str])
    unchanged: int = 0


def _entries(input: IndexDocuments.Input, context: Context) -> dict[str, dict[str, _Planned]]:
    """Return all chunks by document and id."""
    chunks = [*input.chunks]
    for document in input.documents:
        chunks += _cut(document, input, context)
    planned: dict[str, dict[str, _Planned]] = {}
    seen: dict[tuple[str, str], int] = {}
    for number, chunk in enumerate(chunks):
        if not chunk.source:
            raise PermanentError(
                f"Chunk {number} has no source: say 'source' where it is cut, so that it can be found and cited.",
                code="invalid_input",
            )
        if not chunk.text.strip():
            continue
        seen[chunk.source, chunk.text] = nth = seen.get((chunk.source, chunk.text), -1) + 1
        place = {key: value for key in PLACE if (value := getattr(chunk, key)) is not None}
        id = chunk_id(chunk.source, chunk.text, nth)
        planned.setdefault(chunk.source, {})[id] = _Planned(
            id=id, document=chunk.source, text=chunk.text, metadata={**input.metadata, **chunk.metadata, **place}
        )
    return planned


def _cut(document: IndexedDocument, input: IndexDocuments.Input, context: Context) -> Sequence[IndexedChunk]:
    source = document.source or document.path or f"text:{sha256(document.text.encode()).hexdigest()[:16]}"
    about = {key: document.metadata[key] for key in ("title", "author") if key in document.metadata}
    if document.path is None:
        about = document.metadata  # somebody's own, not a file's
    cutting = Chunker.Input(
        document=document, source=source, strategy=input.strategy, chunk_size=input.chunk_size,
        chunk_overlap=input.chunk_overlap, metadata=about,
    )  # fmt: skip
    cut = Chunker().execute(cutting, context)
    return [IndexedChunk.model_validate(chunk.model_dump()) for chunk in cut.chunks]


def _compare(
    store: VectorStore, input: IndexDocuments.Input, entries: Mapping[str, Mapping[str, _Planned]], work: _Work
) -> CollectionInfo | None:
    """Fill in what has to be done; return the collection if it is there."""
    if input.rebuild:
        store.drop(input.collection)
    found = store.find(input.collection)
    if found is not None and input.embedding_model is not None:
        check_same(found, model=input.embedding_model, dimension=found.dimension)
    for document, planned in entries.items():
        there: Mapping[str, Mapping[str, Any]] = {} if found is None else store.ids(input.collection, document)
        work.stale += [id for id in there if id not in planned]
        for id, each in planned.items():
            if id not in there:
                work.new.append(each)
                continue
            work.unchanged += 1
            if there[id] != each.metadata:
                work.moved[id] = each.metadata
    return found


def _store(
    store: VectorStore, collection: str, model: str, vectors: Sequence[Sequence[float]], batch: Sequence[_Planned]
) -> CollectionInfo:
    found = store.create(collection, model=model, dimension=len(vectors[0]))
    store.upsert(
        collection,
        [
            Entry(id=each.id, document=each.document, text=each.text, vector=vector, metadata=each.metadata)
            for each, vector in zip(batch, vectors, strict=True)
        ],
    )
    return found


def _tidy(
    store: VectorStore, input: IndexDocuments.Input, entries: Mapping[str, Mapping[str, _Planned]], work: _Work
) -> tuple[int, int]:
    """Put moved chunks in their new places and remove what is gone; return how many were removed, and are left."""
    if work.moved:
        store.update_metadata(input.collection, work.moved)
    removed = store.delete(input.collection, ids=work.stale)
    if input.sync:
        gone = [document for document in store.documents(input.collection) if document not in entries]
        removed += sum(store.delete(input.collection, document=document) for document in gone)
    return removed, store.count(input.collection)
