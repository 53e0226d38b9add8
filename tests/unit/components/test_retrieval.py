"""index_documents and retriever, with a model server on the loopback and the embedded store."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from flowmason_ray.components.builtin.index_documents import BATCH, IndexDocuments, IndexedDocument
from flowmason_ray.components.builtin.retriever import Retriever
from flowmason_ray.components.vectors.port import Hit
from flowmason_ray.components.vectors.ranking import diverse, fused
from flowmason_ray.errors import PermanentError, StageError
from flowmason_ray.testing.context import RecordingContext
from flowmason_ray.testing.llm_server import Asked, LlmServer
from tests.retrieval_kit import HANDBOOK, KITCHEN, context_for, embedded, server

__all__ = ["server"]


def index(context: RecordingContext, **more: Any) -> IndexDocuments.Output:
    return asyncio.run(IndexDocuments().execute(IndexDocuments.Input(**more), context))


def find(context: RecordingContext, query: str, **more: Any) -> Retriever.Output:
    return asyncio.run(Retriever().execute(Retriever.Input(query=query, **more), context))


def code_of(call: Any) -> str:
    with pytest.raises(StageError) as caught:
        call()
    return caught.value.code


def test_what_is_indexed_is_found_with_its_place(server: LlmServer, tmp_path: Path) -> None:
    context = context_for(server, tmp_path)
    done = index(context, documents=[HANDBOOK, KITCHEN], strategy="headings")
    assert (done.indexed, done.unchanged, done.removed, done.total) == (3, 0, 0, 3)
    assert done.documents == ["handbook.md", "kitchen"]
    assert done.embedding_model == "embed-test"
    found = find(context, "Parental leave lasts ninety days and is paid.", top_k=2)
    best = found.documents[0]
    assert best.content.startswith("Parental\n\nParental leave lasts")
    assert (best.source, best.heading, best.page) == ("handbook.md", "Leave > Parental", None)
    assert best.start is not None
    assert HANDBOOK["text"][best.start : best.end] == best.content
    assert found.count == 2
    assert found.documents[0].score >= found.documents[1].score
    assert found.context.startswith("[1] handbook.md, Leave > Parental\nParental")
    assert (tmp_path / ".flowmason" / "vectors.db").exists()


def test_indexing_again_asks_for_new_words_only(server: LlmServer, tmp_path: Path) -> None:
    context = context_for(server, tmp_path)
    index(context, documents=[HANDBOOK, KITCHEN], strategy="sentences", chunk_size=1)
    before = len(embedded(server))
    again = index(context, documents=[HANDBOOK, KITCHEN], strategy="sentences", chunk_size=1)
    assert (again.indexed, again.unchanged, again.removed) == (0, before, 0)
    assert len(embedded(server)) == before
    edited = {**KITCHEN, "text": "Hello. The kitchen closes at nine."}
    done = index(context, documents=[edited], strategy="sentences", chunk_size=1)
    assert embedded(server)[before:] == ["Hello."]
    assert (done.indexed, done.unchanged, done.removed) == (1, 1, 1)
    moved = find(context, "kitchen closes nine", top_k=1).documents[0]
    assert (moved.content, moved.start) == ("The kitchen closes at nine.", 7)


def test_chunks_of_the_chunker_are_indexed(server: LlmServer, tmp_path: Path) -> None:
    context = context_for(server, tmp_path)
    chunks = [{"text": "One.", "source": "a", "page": 3, "metadata": {"x": 1}}, {"text": "Two.", "source": "a"}]
    assert index(context, chunks=chunks, metadata={"team": "hr"}).indexed == 2
    found = find(context, "One.", filters={"team": "hr", "page": {"gte": 3}}).documents
    assert [(d.content, d.page, d.metadata) for d in found] == [("One.", 3, {"team": "hr", "x": 1})]
    assert code_of(lambda: index(context, chunks=[{"text": "No source."}])) == "invalid_input"


def test_sync_removes_documents_that_are_gone(server: LlmServer, tmp_path: Path) -> None:
    context = context_for(server, tmp_path)
    index(context, documents=[HANDBOOK, KITCHEN])
    assert index(context, documents=[KITCHEN]).total == 2
    done = index(context, documents=[KITCHEN], sync=True)
    assert (done.removed, done.total) == (1, 1)
    assert index(context, sync=True).total == 0


def test_another_embedding_model_is_refused(server: LlmServer, tmp_path: Path) -> None:
    context = context_for(server, tmp_path)
    index(context, documents=[KITCHEN])
    assert code_of(lambda: index(context, documents=[KITCHEN], embedding_model="other")) == "collection_mismatch"
    providers = server.providers(max_retries=0)
    providers["openai"]["embedding_model"] = "other"
    changed = context_for(server, tmp_path, providers=providers)
    assert code_of(lambda: index(changed, documents=[HANDBOOK])) == "collection_mismatch"
    # A search uses the collection's own model, whatever the project says by now.
    assert find(changed, "kitchen").documents[0].source == "kitchen"
    assert [a.body["model"] for a in server.requests][-1] == "embed-test"
    done = index(changed, documents=[HANDBOOK], rebuild=True)
    assert (done.embedding_model, done.documents, done.total) == ("other", ["handbook.md"], 1)


def of_size(count: int) -> Callable[[Asked], bool]:
    return lambda asked: len(asked.body["input"]) == count


def test_what_was_stored_before_a_failure_is_not_asked_for_again(server: LlmServer, tmp_path: Path) -> None:
    context = context_for(server, tmp_path)
    chunks = [{"text": f"number {n}", "source": "a"} for n in range(BATCH + 10)]
    server.says("", match=of_size(BATCH))
    server.fails(500, match=of_size(10))
    assert code_of(lambda: index(context, chunks=chunks)) != ""
    before = len(embedded(server))
    done = index(context, chunks=chunks)
    assert (done.indexed, done.unchanged, done.total) == (10, BATCH, BATCH + 10)
    assert len(embedded(server)) == before + 10
    assert context.progressed == [(BATCH, BATCH + 10), (10, 10)]


def test_words_find_what_vectors_blur(server: LlmServer, tmp_path: Path) -> None:
    context = context_for(server, tmp_path)
    index(context, documents=[HANDBOOK, KITCHEN], strategy="headings")
    before = len(server.requests)
    found = find(context, "dishwasher", mode="text").documents
    assert [d.source for d in found] == ["kitchen"]
    assert len(server.requests) == before  # no model was asked
    both = find(context, "ninety days dishwasher", mode="hybrid", top_k=3).documents
    assert {d.source for d in both} == {"handbook.md", "kitchen"}
    assert all(0 < d.score <= 1 for d in both)
    assert code_of(lambda: find(context, "x", mode="text", min_score=0.5)) == "invalid_input"


def test_scores_below_the_least_are_left_out(server: LlmServer, tmp_path: Path) -> None:
    context = context_for(server, tmp_path)
    index(context, documents=[HANDBOOK, KITCHEN], strategy="headings")
    assert find(context, KITCHEN["text"], min_score=0.99).count == 1  # type: ignore[arg-type]
    assert find(context, KITCHEN["text"], min_score=0.99, mode="hybrid").count == 1  # type: ignore[arg-type]


def test_diversity_avoids_repetition(server: LlmServer, tmp_path: Path) -> None:
    context = context_for(server, tmp_path)
    chunks = [{"text": "cats purr softly", "source": f"copy{n}"} for n in range(3)] + [
        {"text": "cats hunt mice", "source": "other"}
    ]
    index(context, chunks=chunks)
    assert "other" not in {d.source for d in find(context, "cats purr softly", top_k=2).documents}
    assert "other" in {d.source for d in find(context, "cats purr softly", top_k=2, diversity=0.7).documents}


def test_what_is_missing_is_named(server: LlmServer, tmp_path: Path) -> None:
    context = context_for(server, tmp_path)
    assert code_of(lambda: find(context, "x", collection="nope")) == "unknown_collection"
    assert code_of(lambda: find(context, "x", filters={"a": {"gtt": 1}})) == "invalid_filter"
    assert code_of(lambda: find(context, "x", connection="nope")) == "unknown_connection"
    assert code_of(lambda: index(context, sync=True)) == "unknown_collection"
    outside = context_for(server, tmp_path, retrieval={"file": "../outside.db"})
    assert code_of(lambda: find(outside, "x")) == "path_outside_project"
    with pytest.raises(ValidationError, match="give 'documents' or 'chunks'"):
        IndexDocuments.Input()


def test_without_a_provider_nothing_is_pretended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "ANTHROPIC_API_KEY", "FLOWMASON_PROVIDER", "FLOWMASON_MODEL", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    context = RecordingContext(project_dir=tmp_path)
    with pytest.raises(PermanentError) as caught:
        index(context, documents=[KITCHEN])
    assert caught.value.code == "provider_not_configured"


def hit(id: str, *vector: float, score: float = 0) -> Hit:
    return Hit(id=id, document="d", text=id, metadata={}, score=score, vector=vector)


def test_rankings_are_joined() -> None:
    a, b, c = hit("a"), hit("b"), hit("c")
    joined = fused([[a, b], [b, c]])
    assert [each.id for each, _ in joined] == ["b", "a", "c"]
    assert fused([[a], [a]]) == [(a, 1.0)]
    assert fused([[], []]) == []


def test_variety_counts_as_much_as_it_should() -> None:
    ranked = [(hit("a", 1, 0), 1.0), (hit("b", 1, 0), 0.9), (hit("c", 0, 1), 0.2)]
    assert [h.id for h, _ in diverse(ranked, k=2, diversity=0)] == ["a", "b"]
    assert [h.id for h, _ in diverse(ranked, k=2, diversity=0.5)] == ["a", "c"]
    assert [h.id for h, _ in diverse(ranked, k=9, diversity=1)] == ["a", "c", "b"]


@pytest.mark.parametrize(
    ("sizes", "said"), [({"chunk_size": 5}, "at least"), ({"chunk_size": 100, "chunk_overlap": 100}, "smaller")]
)
def test_sizes_that_cannot_be_are_told_before_anything_is_cut(sizes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        IndexDocuments.Input(documents=[IndexedDocument(text="x", source="a")], **sizes)
