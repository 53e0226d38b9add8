"""`chunker`: cuts a text into pieces that are small enough to be searched, shown to a model, and cited.

Every chunk says where it lies (`text[start:end]`, page, section), so that a citation of it can be looked up.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from hashlib import sha256
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from flowmason_ray.components.base import operator
from flowmason_ray.components.builtin.examples import closed
from flowmason_ray.components.documents.chunking import Piece, Unit, cut, estimated_tokens
from flowmason_ray.engine.component import Context
from flowmason_ray.errors import PermanentError

DEFAULT_SIZE = {"characters": 1000, "tokens": 256, "sentences": 5, "headings": 2000}
SMALLEST = {"characters": 32, "tokens": 16, "sentences": 1, "headings": 32}
MAX_CHUNKS = 200_000
"""More than this from one text means that the size is a mistake."""


class SourcePage(BaseModel):
    """Where a page lies in the text."""

    model_config = ConfigDict(extra="ignore")

    number: int
    start: int = Field(ge=0)
    end: int = Field(ge=0)


class SourceSection(BaseModel):
    """Where a section lies in the text."""

    model_config = ConfigDict(extra="ignore")

    heading: str | None
    level: int
    start: int = Field(ge=0)
    end: int = Field(ge=0)


class SourceDocument(BaseModel):
    """A document as `document_reader` returns it; only the text is needed."""

    model_config = ConfigDict(extra="ignore")

    text: str
    path: str | None = None
    pages: list[SourcePage] = []
    sections: list[SourceSection] = []
    metadata: dict[str, Any] = {}


class Chunk(BaseModel):
    """A piece of a text, and where it lies."""

    id: str = Field(description="Made of the source and the words: the same words of the same source have the same id.")
    index: int = Field(description="Its number in the text, from 0.")
    text: str = Field(description="Its words: text[start:end].")
    source: str | None = Field(description="What the text is called: the file, or what 'source' says.")
    start: int = Field(description="Where it begins in the text, counted in characters from 0.")
    end: int = Field(description="Where it ends, exclusive.")
    page: int | None = Field(description="The page on which it begins, if the text has pages.")
    page_end: int | None = Field(description="The page on which it ends.")
    heading: str | None = Field(description="The section in which it begins, with those around it: 'Leave > Parental'.")
    tokens: int = Field(description="About how many tokens it is; no two models count alike.")
    metadata: dict[str, Any] = Field(description="What 'metadata' says, the same for every chunk.")


def sizes(strategy: str, size: int | None, overlap: int | None) -> tuple[int, int]:
    """Return the size and the overlap that hold.

    Raises:
        ValueError: they cannot be; says why.
    """
    size = size or DEFAULT_SIZE[strategy]
    if size < SMALLEST[strategy]:
        raise ValueError(f"'chunk_size' is at least {SMALLEST[strategy]} for {strategy!r}")
    if overlap is None:
        overlap = 0 if strategy == "headings" else size // 10
    if overlap >= size:
        raise ValueError(f"'chunk_overlap' must be smaller than 'chunk_size', which is {size}")
    return size, overlap


@operator(effect="pure", cost="cpu", category="documents")
class Chunker:
    """Cuts a text into chunks by characters, tokens, sentences or headings, and says where each one lies."""

    class Input(BaseModel):
        """The text, and how it is cut."""

        model_config = closed(
            {
                "text": "Everybody has thirty days of leave. Parental leave lasts ninety days.",
                "source": "handbook",
                "strategy": "sentences",
                "chunk_size": 1,
            }
        )

        document: SourceDocument | None = Field(
            default=None,
            description="A document as document_reader returns it, with its pages and sections: {{ stages.read }}.",
            examples=["{{ stages.read }}"],
        )
        text: str | None = Field(default=None, description="Or a text by itself.")
        source: str | None = Field(
            default=None, description="What the text is called in citations; null: the document's path."
        )
        strategy: Literal["characters", "tokens", "sentences", "headings"] = Field(
            default="characters",
            description="What 'chunk_size' counts. 'headings': one chunk a section; one that is larger (in characters) is cut.",
        )
        chunk_size: int | None = Field(
            default=None,
            ge=1,
            description="The largest chunk, in the strategy's unit; null: 1000 characters, 256 tokens (estimated), "
            "5 sentences, 2000 characters of a section.",
        )
        chunk_overlap: int | None = Field(
            default=None,
            ge=0,
            description="How much of a chunk the next one repeats, in the same unit; null: a tenth of the size, "
            "none for headings.",
        )
        metadata: dict[str, Any] = Field(default={}, description="Put on every chunk, for filters of a search.")

        @model_validator(mode="after")
        def _one_text(self) -> Self:
            if (self.document is None) == (self.text is None):
                raise ValueError("give either 'document' or 'text'")
            sizes(self.strategy, self.chunk_size, self.chunk_overlap)
            return self

        @property
        def size(self) -> int:
            """The size that holds."""
            return sizes(self.strategy, self.chunk_size, self.chunk_overlap)[0]

        @property
        def overlap(self) -> int:
            """The overlap that holds."""
            return sizes(self.strategy, self.chunk_size, self.chunk_overlap)[1]

    class Output(BaseModel):
        """The chunks."""

        chunks: list[Chunk] = Field(description="The chunks, in the order of the text.")
        count: int = Field(description="How many there are.")
        source: str | None = Field(description="What the text is called.")

    def execute(self, input: Input, context: Context) -> Output:
        """Cut the text.

        Raises:
            PermanentError: there are no words in it (`invalid_input`), or it would be too many chunks (`too_many_chunks`).
        """
        document = input.document or SourceDocument(text=input.text or "")
        pieces = list(_pieces(document, input))
        if not pieces:
            raise PermanentError("The text to cut holds no words.", code="invalid_input")
        if len(pieces) > MAX_CHUNKS:
            raise PermanentError(
                f"The text would be cut into {len(pieces):,} chunks; up to {MAX_CHUNKS:,} are made. Use a larger 'chunk_size'.",
                code="too_many_chunks",
            )
        source = input.source or document.path
        places = _Places(document)
        seen: dict[str, int] = {}
        chunks: list[Chunk] = []
        for index, piece in enumerate(pieces):
            words = document.text[piece.start : piece.end]
            seen[words] = nth = seen.get(words, -1) + 1
            chunks.append(
                Chunk(
                    id=chunk_id(source, words, nth),
                    index=index,
                    text=words,
                    source=source,
                    start=piece.start,
                    end=piece.end,
                    page=places.page(piece.start),
                    page_end=places.page(piece.end - 1),
                    heading=places.heading(piece.start),
                    tokens=estimated_tokens(words),
                    metadata=input.metadata,
                )
            )
        return self.Output(chunks=chunks, count=len(chunks), source=source)


def chunk_id(source: str | None, words: str, nth: int = 0) -> str:
    """Return the id of a chunk: it depends on the source, the words, and how often the source has said them before."""
    return sha256(f"{source or ''}\0{words}\0{nth}".encode()).hexdigest()[:24]


def _pieces(document: SourceDocument, input: Chunker.Input) -> Iterator[Piece]:
    if input.strategy != "headings":
        unit: Unit = input.strategy
        yield from cut(document.text, size=input.size, overlap=input.overlap, unit=unit)
        return
    spans = [(s.start, min(s.end, len(document.text))) for s in document.sections] or [(0, len(document.text))]
    for start, end in spans:
        yield from cut(document.text, size=input.size, overlap=input.overlap, unit="characters", start=start, end=end)


class _Places:
    """Finds the page and the section of a position."""

    def __init__(self, document: SourceDocument) -> None:
        self._pages = sorted(document.pages, key=lambda page: page.start)
        self._page_starts = [page.start for page in self._pages]
        self._sections = sorted(document.sections, key=lambda section: section.start)
        self._section_starts = [section.start for section in self._sections]
        self._headings = list(_paths(self._sections))

    def page(self, position: int) -> int | None:
        found = bisect_right(self._page_starts, position) - 1
        return self._pages[found].number if found >= 0 else None

    def heading(self, position: int) -> str | None:
        found = bisect_right(self._section_starts, position) - 1
        return self._headings[found] if found >= 0 else None


def _paths(sections: Sequence[SourceSection]) -> Iterator[str | None]:
    """Yield for each section its heading with the headings that it stands under."""
    around: list[SourceSection] = []
    for section in sections:
        if section.heading is None:
            yield None
            continue
        while around and around[-1].level >= section.level:
            around.pop()
        around.append(section)
        yield " > ".join(each.heading or "" for each in around)
