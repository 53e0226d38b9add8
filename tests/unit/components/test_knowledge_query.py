"""knowledge_query: what a model cites is held against what it was shown."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowmason_ray.components.builtin.index_documents import IndexDocuments
from flowmason_ray.components.builtin.knowledge_query import KnowledgeQuery
from flowmason_ray.components.citations import find_quote, is_telling, markers
from flowmason_ray.errors import PermanentError
from flowmason_ray.testing.context import RecordingContext
from flowmason_ray.testing.llm_server import LlmServer
from tests.retrieval_kit import HANDBOOK, KITCHEN, context_for, is_completion, server

__all__ = ["server"]

QUESTION = "Parental leave lasts ninety days and is paid."


@pytest.fixture
def context(server: LlmServer, tmp_path: Path) -> RecordingContext:
    made = context_for(server, tmp_path)
    asyncio.run(
        IndexDocuments().execute(
            IndexDocuments.Input.model_validate({"documents": [HANDBOOK, KITCHEN], "strategy": "headings"}), made
        )
    )
    return made


def ask(context: RecordingContext, **more: Any) -> KnowledgeQuery.Output:
    given: dict[str, Any] = {"query": QUESTION, "top_k": 2, **more}
    return asyncio.run(KnowledgeQuery().execute(KnowledgeQuery.Input(**given), context))


def reply(server: LlmServer, answer: str, *cited: tuple[int, str], answered: bool = True) -> None:
    said = {"answer": answer, "answered": answered, "citations": [{"source": n, "quote": q} for n, q in cited]}
    server.says_json(said, match=is_completion)


def test_an_answer_with_a_citation_that_holds(server: LlmServer, context: RecordingContext) -> None:
    reply(server, "Ninety days [1].", (1, "Parental leave lasts  ninety days"))
    output = ask(context)
    assert (output.answer, output.answered, output.invalid_citations) == ("Ninety days [1].", True, 0)
    (citation,) = output.citations
    assert citation.valid
    assert (citation.source, citation.heading) == ("handbook.md", "Leave > Parental")
    assert citation.document_id == output.sources[0].id
    assert HANDBOOK["text"][citation.start : citation.end] == "Parental leave lasts ninety days"
    asked = server.requests[-1]
    assert "[1] handbook.md, Leave > Parental" in asked.last
    assert QUESTION in asked.last
    assert asked.schema is not None
    assert output.model == "gpt-test"
    assert output.tokens_used > 0


@pytest.mark.parametrize(
    ("cited", "problem"),
    [((7, "ninety days"), "unknown_source"), ((0, "ninety"), "unknown_source"), ((1, "ten days"), "quote_not_found"), ((1, ""), "quote_not_found"), ((1, "days"), "quote_too_short")],
)  # fmt: skip
def test_what_does_not_hold_is_reported(
    server: LlmServer, context: RecordingContext, cited: tuple[int, str], problem: str
) -> None:
    reply(server, "Ten days.", cited)
    output = ask(context)
    assert [(c.valid, c.problem) for c in output.citations] == [(False, problem)]
    assert (output.invalid_citations, output.answered) == (1, False)


def test_numbers_in_the_answer_are_checked_too(server: LlmServer, context: RecordingContext) -> None:
    reply(server, "Ninety [1], thirty [2], ten [9].", (1, "ninety days"))
    output = ask(context)
    assert [(c.number, c.problem) for c in output.citations] == [(1, None), (2, "no_quote"), (9, "unknown_source")]
    assert output.answered


def test_what_does_not_hold_can_be_dropped_or_refused(server: LlmServer, context: RecordingContext) -> None:
    for _ in range(2):
        reply(server, "Ninety [1].", (1, "ninety days"), (1, "invented words"))
    dropped = ask(context, invalid_citations="drop")
    assert ([c.quote for c in dropped.citations], dropped.invalid_citations) == (["ninety days"], 1)
    with pytest.raises(PermanentError, match="invented words") as caught:
        ask(context, invalid_citations="fail")
    assert caught.value.code == "invalid_citation"
    assert caught.value.details is not None
    assert caught.value.details["citations"][0]["problem"] == "quote_not_found"


def test_an_answer_without_citations(server: LlmServer, context: RecordingContext) -> None:
    for _ in range(3):
        reply(server, "Ninety days, trust me.")
    assert ask(context).answered is False
    assert ask(context, require_citations=False).answered is True
    with pytest.raises(PermanentError, match="no citation at all"):
        ask(context, invalid_citations="fail")


def test_no_answer_is_an_answer(server: LlmServer, context: RecordingContext) -> None:
    reply(server, "The sources do not say.", answered=False)
    output = ask(context, invalid_citations="fail")
    assert (output.answered, output.citations) == (False, [])


def test_nothing_found_asks_no_model(server: LlmServer, context: RecordingContext) -> None:
    before = sum(a.path.endswith("completions") for a in server.requests)
    output = ask(context, filters={"floor": 99})
    assert (output.answer, output.answered, output.model) == ("", False, None)
    assert sum(a.path.endswith("completions") for a in server.requests) == before
    assert context.messages("warning")


def test_instructions_are_added(server: LlmServer, context: RecordingContext) -> None:
    reply(server, "Neunzig [1].", (1, "ninety days"))
    ask(context, instructions="Answer in German.")
    assert server.requests[-1].system.endswith("Answer in German.")
    assert "word for word" in server.requests[-1].system


@pytest.mark.parametrize(
    ("quote", "text", "telling"),
    [
        ("the", "It is the law of the land.", False),
        ("of the … and the … is the", "It is the law of the land and the sea.", False),
        ("the law of the land", "It is the law of the land.", True),
        ("no", "No.", True),
        ("paid", "Paid leave.", False),
        ("有給休暇", "年次有給休暇は二十日です。", True),
        ("休暇", "年次有給休暇は二十日です。", False),
    ],
)
def test_a_word_that_stands_everywhere_proves_nothing(quote: str, text: str, telling: bool) -> None:
    assert is_telling(quote, text) == telling


@pytest.mark.parametrize(
    ("quote", "text", "found"),
    [
        ("ninety days", "It lasts ninety\n days.", "ninety\n days"),
        ("IT LASTS", "It lasts.", "It lasts"),
        ("“it’s” — fine", 'so "it\'s" - fine!', "it's\" - fine"),
        ("It … days", "It lasts ninety days.", None),
        ("the cat [...] the dog", "the cat and then the dog", "the cat and then the dog"),
        ("the dog ... the cat", "the cat and then the dog", None),
        ("rat", "separate", None),
        ("separate", "We separate.", "separate"),
        ("ab", "ab", None),
        ("", "text", None),
        ("...", "text", None),
        ("日本語", "これは日本語です", "日本語"),
        ("fi nal", "ﬁ nal", "ﬁ nal"),
        ("Straße", "die STRASSE", "STRASSE"),
    ],
)
def test_quotes(quote: str, text: str, found: str | None) -> None:
    span = find_quote(quote, text)
    assert (None if span is None else text[span[0] : span[1]]) == found


@settings(max_examples=200)
@given(words=st.lists(st.text(alphabet="abcäßİ中 .", min_size=3, max_size=8), min_size=1, max_size=12), data=st.data())
def test_every_run_of_words_is_a_quote_of_its_text(words: list[str], data: st.DataObject) -> None:
    words = [word for word in " ".join(words).split() if sum(c.isalnum() for c in word) >= 3] or ["abc"]
    text = "  ".join(words)
    first = data.draw(st.integers(0, len(words) - 1))
    last = data.draw(st.integers(first, len(words) - 1))
    quote = " ".join(words[first : last + 1])
    if ".." in quote:
        return
    span = find_quote(quote, text)
    assert span is not None
    assert text[span[0] : span[1]].casefold().split() == [w.casefold() for w in text[span[0] : span[1]].split()]


def test_markers() -> None:
    assert markers("a [1], b [2, 3] and [1] but [x] or [12345]") == [1, 2, 3]
