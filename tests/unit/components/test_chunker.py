from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from flowmason_ray.components.builtin.chunker import Chunker
from flowmason_ray.components.documents.chunking import Unit, cut, estimated_tokens, sentence_spans
from flowmason_ray.errors import PermanentError
from flowmason_ray.testing.context import RecordingContext

WORDS = st.lists(
    st.one_of(
        st.text(alphabet="abcDEäß.,!? \n\t。", max_size=60),
        st.sampled_from(["\n\n", " Dr. Who came. ", "x" * 100, "A sentence. ", "日本語のテキスト。"]),
    ),
    max_size=30,
).map("".join)


def chunks(**more: Any) -> Chunker.Output:
    return Chunker().execute(Chunker.Input(**more), RecordingContext())


@settings(max_examples=150)
@given(
    text=WORDS, size=st.integers(32, 200), overlap=st.integers(0, 31), unit=st.sampled_from(["characters", "tokens"])
)
def test_the_laws_of_cutting(text: str, size: int, overlap: int, unit: Unit) -> None:
    pieces = cut(text, size=size, overlap=overlap, unit=unit)
    covered = [False] * len(text)
    for piece in pieces:
        assert 0 <= piece.start < piece.end <= len(text)
        assert text[piece.start : piece.end] == text[piece.start : piece.end].strip()
        if unit == "characters":
            assert piece.end - piece.start <= max(size, 32)
        covered[piece.start : piece.end] = [True] * (piece.end - piece.start)
    assert all(seen or letter.isspace() for seen, letter in zip(covered, text, strict=True))
    for before, after in itertools.pairwise(pieces):
        assert before.start < after.start
        assert before.end < after.end
        if unit == "characters":
            assert before.end - after.start <= overlap


@settings(max_examples=100)
@given(text=WORDS)
def test_sentences_are_the_whole_text(text: str) -> None:
    spans = list(sentence_spans(text))
    assert "".join(text[a:b] for a, b in spans) == text


def test_sentences() -> None:
    text = "Dr. Who met A. B. Smith. Did he? “Yes!” He did, e.g. today.\n\nNo dot\n\nEnd"
    assert [text[a:b].strip() for a, b in sentence_spans(text)] == [
        "Dr. Who met A. B. Smith.",
        "Did he?",
        "“Yes!”",
        "He did, e.g. today.",
        "No dot",
        "End",
    ]


def test_chunks_end_where_thoughts_do() -> None:
    text = "One two three four five. Six seven eight nine ten. Eleven twelve thirteen fourteen."
    assert [c.text for c in chunks(text=text, chunk_size=60, chunk_overlap=0).chunks] == [
        "One two three four five. Six seven eight nine ten.",
        "Eleven twelve thirteen fourteen.",
    ]


def test_chunks_overlap_by_whole_words() -> None:
    text = " ".join(f"w{n:02}" for n in range(40))
    found = chunks(text=text, chunk_size=40, chunk_overlap=8).chunks
    assert found[0].text.split()[-2:] == found[1].text.split()[:2]
    assert found[0].text == text[found[0].start : found[0].end]


def test_sentences_as_units() -> None:
    found = chunks(text="Ab cd. Ef gh. Ij kl. Mn op.", strategy="sentences", chunk_size=2, chunk_overlap=1).chunks
    assert [c.text for c in found] == ["Ab cd. Ef gh.", "Ef gh. Ij kl.", "Ij kl. Mn op."]


def test_chunks_know_page_section_and_source() -> None:
    document = {
        "text": "Leave\n\nThirty days.\n\nParental\n\nNinety days.",
        "path": "handbook.pdf",
        "pages": [{"number": 1, "start": 0, "end": 20}, {"number": 2, "start": 21, "end": 43}],
        "sections": [
            {"heading": "Leave", "level": 1, "start": 0, "end": 21},
            {"heading": "Parental", "level": 2, "start": 21, "end": 43},
        ],
    }
    output = chunks(document=document, strategy="headings", metadata={"team": "hr"})
    assert [(c.text, c.page, c.page_end, c.heading) for c in output.chunks] == [
        ("Leave\n\nThirty days.", 1, 1, "Leave"),
        ("Parental\n\nNinety days.", 2, 2, "Leave > Parental"),
    ]
    assert output.source == "handbook.pdf"
    assert all(c.metadata == {"team": "hr"} for c in output.chunks)


def test_ids_stay_when_text_moves_and_differ_for_repeats() -> None:
    one = chunks(text="Alpha beta.\n\nSame.\n\nSame.", strategy="sentences", chunk_size=1, source="a").chunks
    two = chunks(text="New.\n\nAlpha beta.\n\nSame.", strategy="sentences", chunk_size=1, source="a").chunks
    assert len({c.id for c in one}) == 3
    assert [c.id for c in two[1:]] == [c.id for c in one[:2]]
    assert chunks(text="Same.", source="b").chunks[0].id != chunks(text="Same.", source="a").chunks[0].id


@pytest.mark.parametrize("text", ["." * 300_000, "a" * 300_000, "! " * 100_000, "\n" * 300_000 + "x"])
def test_odd_texts_end(text: str) -> None:
    assert chunks(text=text, chunk_size=1000).count >= 1


def test_estimates_are_about_right() -> None:
    text = "The quick brown fox jumps over the lazy dog, and nobody minds. " * 10
    assert 120 <= estimated_tokens(text) <= 240
    assert estimated_tokens("日本語") == 3


def test_what_is_refused() -> None:
    with pytest.raises(ValidationError, match="either 'document' or 'text'"):
        Chunker.Input()
    with pytest.raises(ValidationError, match="at least 32"):
        Chunker.Input(text="a", chunk_size=5)
    with pytest.raises(ValidationError, match="smaller than"):
        Chunker.Input(text="a", chunk_size=50, chunk_overlap=50)
    with pytest.raises(PermanentError, match="no words") as caught:
        chunks(text=" \n")
    assert caught.value.code == "invalid_input"
