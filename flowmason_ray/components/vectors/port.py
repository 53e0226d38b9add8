"""What a vector store offers. Methods block; components call them on a thread.

A store holds collections. A collection belongs to the embedding model that made its vectors: vectors of two models have
nothing to do with each other, and searching one with the other finds nonsense without any error. So a collection
remembers model and dimension, and refuses others.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, Self

from flowmason_ray.components.vectors.filters import Condition
from flowmason_ray.errors import PermanentError, nearest

Vector = Sequence[float]

MAX_K = 1000
"""The most that one search returns: more is an export, not an answer."""
MAX_DIMENSION = 16_000
"""What pgvector's type `vector` holds; models of 2025 make at most 4,096 numbers."""
LARGEST = 3.4028234e38
"""Stores keep the numbers of vectors with 32 bits."""
_WORD = re.compile(r"[^\W_]+")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")


@dataclass(frozen=True, kw_only=True, slots=True)
class CollectionInfo:
    """A collection, and what it is made with."""

    name: str
    model: str
    dimension: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """A chunk as it is stored. `id` is unique in its collection."""

    id: str
    document: str
    text: str
    vector: Vector
    metadata: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """JSON. Filters look here; the chunk's position is here, too."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Hit:
    """A chunk that was found."""

    id: str
    document: str
    text: str
    metadata: Mapping[str, Any]
    score: float
    """`query`: the cosine of the angle between the vectors, in [-1, 1]. `search`: the larger the better, within one answer."""
    vector: Vector = ()
    """Only where it was asked for."""


class VectorStore(Protocol):
    """Where collections are. Safe for several processes at a time; one object belongs to one thread at a time.

    Writing is atomic by call: readers see all of it or nothing.
    """

    def __enter__(self) -> Self:
        """Open it."""
        ...

    def __exit__(self, *exc: object) -> None:
        """Close it."""
        ...

    def collections(self) -> Sequence[CollectionInfo]:
        """Return all collections, by name."""
        ...

    def find(self, collection: str) -> CollectionInfo | None:
        """Return a collection, or None when there is none of that name."""
        ...

    def create(self, collection: str, *, model: str, dimension: int) -> CollectionInfo:
        """Return the collection, made if it is not there.

        Raises:
            PermanentError: it is there with another model or dimension (`collection_mismatch`).
        """
        ...

    def drop(self, collection: str) -> bool:
        """Remove a collection with all that is in it; return whether there was one."""
        ...

    def upsert(self, collection: str, entries: Sequence[Entry]) -> None:
        """Store entries; those whose id is there already replace what is there.

        Raises:
            PermanentError: no such collection (`unknown_collection`), a vector of another length (`collection_mismatch`), or
                with numbers that are not finite (`invalid_vector`).
        """
        ...

    def update_metadata(self, collection: str, metadata: Mapping[str, Mapping[str, Any]]) -> None:
        """Replace the metadata of entries, by id. Ids that are not there are passed over."""
        ...

    def ids(self, collection: str, document: str) -> Mapping[str, Mapping[str, Any]]:
        """Return what is stored of a document: metadata by id."""
        ...

    def documents(self, collection: str) -> Mapping[str, int]:
        """Return the documents of a collection, and how many entries each has."""
        ...

    def delete(
        self,
        collection: str,
        *,
        ids: Collection[str] = (),
        document: str | None = None,
        where: Sequence[Condition] = (),
    ) -> int:
        """Remove the entries of these ids; or those of a document, that meet all conditions. Without anything: none.

        Returns: how many were removed.
        """
        ...

    def count(self, collection: str, where: Sequence[Condition] = ()) -> int:
        """Return how many entries meet all conditions."""
        ...

    def query(
        self, collection: str, vector: Vector, *, k: int, where: Sequence[Condition] = (), with_vectors: bool = False
    ) -> Sequence[Hit]:
        """Return the `k` entries nearest to a vector among those that meet all conditions; the nearest first, exactly.

        A vector of zeros has no direction: it comes behind all others, with the score 0.

        Raises:
            PermanentError: no such collection, or a vector of another length or with numbers that are not finite.
        """
        ...

    def search(
        self, collection: str, words: str, *, k: int, where: Sequence[Condition] = (), with_vectors: bool = False
    ) -> Sequence[Hit]:
        """Return at most `k` entries that hold any of the words, the best first (full-text search).

        Case and accents do not count. A text without words finds nothing.
        """
        ...


def check_name(collection: str) -> None:
    """Refuse what cannot be a collection's name.

    Raises:
        PermanentError: `invalid_collection`.
    """
    if not _NAME.fullmatch(collection):
        raise PermanentError(
            f"{collection!r} cannot be the name of a collection: letters, digits, '_', '.', '-', at most 100, "
            "beginning with a letter or digit.",
            code="invalid_collection",
        )


def check_same(found: CollectionInfo, *, model: str, dimension: int) -> None:
    """Refuse another model or dimension than the collection's.

    Raises:
        PermanentError: `collection_mismatch`.
    """
    if found.model != model or found.dimension != dimension:
        raise PermanentError(
            f"Collection {found.name!r} was made with the embedding model {found.model!r} ({found.dimension} numbers); "
            f"now it is {model!r} ({dimension} numbers). Vectors of two models cannot be compared: use that model, "
            "another collection, or build the collection anew (index_documents with 'rebuild': true).",
            code="collection_mismatch",
        )


def check_vector(found: CollectionInfo, vector: Vector) -> None:
    """Refuse a vector that does not fit the collection.

    Raises:
        PermanentError: `collection_mismatch`; `invalid_vector` for numbers that are none, or that 32 bits do not hold.
    """
    if len(vector) != found.dimension:
        raise PermanentError(
            f"Collection {found.name!r} holds vectors of {found.dimension} numbers (model {found.model!r}); "
            f"found one of {len(vector)}.",
            code="collection_mismatch",
        )
    if not all(-LARGEST <= number <= LARGEST for number in vector):  # false for NaN, too
        at, number = next((i, n) for i, n in enumerate(vector) if not -LARGEST <= n <= LARGEST)
        raise PermanentError(
            f"A vector for collection {found.name!r} holds {number!r} at place {at}; its numbers must be finite, and fit "
            "into 32 bits. Look at what the embedding model returned.",
            code="invalid_vector",
        )


def missing(collection: str, there: Sequence[CollectionInfo]) -> PermanentError:
    """Return the error for a collection that is not there."""
    near = nearest(collection, [each.name for each in there])
    names = f"There are {', '.join(repr(c.name) for c in there[:20])}." if there else "There is none yet."
    return PermanentError(
        f"There is no collection {collection!r}.{f' Did you mean {near!r}?' if near else ''} {names} "
        "index_documents makes one.",
        code="unknown_collection",
    )


MAX_SEARCH_WORDS = 64
"""A question longer than this is searched for by its first words."""


def words_of(text: str) -> list[str]:
    """Return the words of a text in small letters: runs of letters and digits, nothing with a meaning to a search engine."""
    return [word.lower() for word in _WORD.findall(text)]


def search_words(text: str) -> list[str]:
    """Return the words that a full-text search looks for, each once."""
    return list(dict.fromkeys(words_of(text)))[:MAX_SEARCH_WORDS]
