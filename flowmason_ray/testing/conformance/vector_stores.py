"""What every vector store promises, as checks: for the project's own stores, and for those of third parties.

    from flowmason_ray.testing.conformance.vector_stores import VECTOR_STORE_CHECKS

    @pytest.mark.parametrize("name", VECTOR_STORE_CHECKS)
    def test_it_conforms(name, tmp_path):
        VECTOR_STORE_CHECKS[name](lambda: MyStore(tmp_path))

A check is given a function that makes a store that is not open: fresh and empty at its first call, the same again at every
other. Nothing here needs pytest.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from random import Random
from typing import Any

from flowmason_ray.components.vectors.filters import conditions, meets
from flowmason_ray.components.vectors.port import Entry, Hit, VectorStore
from flowmason_ray.errors import PermanentError

MakeStore = Callable[[], VectorStore]
Check = Callable[[MakeStore], None]

VECTOR_STORE_CHECKS: dict[str, Check] = {}
"""Every check by what it shows."""

ANIMALS = (
    Entry(id="cat", document="pets", text="The cat sleeps on the café's sofa.", vector=(1, 0, 0), metadata={"n": 1, "tags": ["soft"]}),
    Entry(id="dog", document="pets", text="A dog barks, and barks.", vector=(0.9, 0.1, 0), metadata={"n": 2, "wild": False}),
    Entry(id="wolf", document="forest", text="The WOLF howls; the dog answers.", vector=(0.5, 0.5, 0), metadata={"n": 3, "wild": True}),
    Entry(id="whale", document="sea", text="A whale's song is long.", vector=(0, 0, 2), metadata={"n": 4, "in": {"depth": 900}}),
)  # fmt: skip


def _check(body: Check) -> Check:
    VECTOR_STORE_CHECKS[body.__name__] = body
    return body


@contextmanager
def filled(make: MakeStore) -> Generator[VectorStore]:
    """Open a store whose collection `animals` holds `ANIMALS`."""
    with make() as store:
        store.create("animals", model="tiny", dimension=3)
        store.upsert("animals", ANIMALS)
        yield store


def ids(hits: Sequence[Hit]) -> list[str]:
    """Return the ids of hits, in order."""
    return [hit.id for hit in hits]


def refusal(call: Callable[[], Any]) -> PermanentError | None:
    """Return what a call is refused with, None when it is not."""
    try:
        call()
    except PermanentError as exc:
        return exc
    return None


def refused(call: Callable[[], Any]) -> str:
    """Return the code with which a call is refused; "" when it is not."""
    error = refusal(call)
    return "" if error is None else error.code


@_check
def a_collection_remembers_its_model_and_dimension(make: MakeStore) -> None:
    """And refuses another, now and after it was opened again."""
    with make() as store:
        assert store.collections() == []
        assert store.find("a") is None
        made = store.create("a", model="m", dimension=2)
        assert (made.name, made.model, made.dimension) == ("a", "m", 2)
    with make() as store:
        assert store.create("a", model="m", dimension=2) == made == store.find("a")
        assert refused(lambda: store.create("a", model="other", dimension=2)) == "collection_mismatch"
        assert refused(lambda: store.create("a", model="m", dimension=3)) == "collection_mismatch"
        store.create("b", model="other", dimension=3)
        assert [each.name for each in store.collections()] == ["a", "b"]


@_check
def vectors_of_another_length_are_refused(make: MakeStore) -> None:
    """Stored or asked for; and of several entries none is stored."""
    with make() as store:
        store.create("a", model="m", dimension=2)
        good = Entry(id="good", document="d", text="x", vector=(1, 2))
        bad = Entry(id="bad", document="d", text="x", vector=(1, 2, 3))
        assert refused(lambda: store.upsert("a", [good, bad])) == "collection_mismatch"
        assert refused(lambda: store.query("a", (1,), k=1)) == "collection_mismatch"
        assert store.count("a") == 0
        assert refused(lambda: store.create("c", model="m", dimension=0)) == "invalid_vector"


@_check
def a_collection_that_is_not_there_is_named(make: MakeStore) -> None:
    """With the nearest one; and odd names are refused."""
    with make() as store:
        store.create("manuals", model="m", dimension=2)
        error = refusal(lambda: store.count("manual"))
        assert error is not None
        assert error.code == "unknown_collection"
        assert "Did you mean 'manuals'?" in error.message
        for name in ("", "a b", "../x", "-a", "x" * 101):
            assert refused(lambda name=name: store.create(name, model="m", dimension=2)) == "invalid_collection"


@_check
def the_nearest_come_first_with_their_cosine(make: MakeStore) -> None:
    """Whatever the vectors' lengths are."""
    with filled(make) as store:
        hits = store.query("animals", (2, 0, 0), k=3)
        assert ids(hits) == ["cat", "dog", "wolf"]
        assert math.isclose(hits[0].score, 1, abs_tol=1e-5)
        assert math.isclose(hits[2].score, math.sqrt(0.5), abs_tol=1e-5)
        assert math.isclose(store.query("animals", (0, 0, -1), k=4)[-1].score, -1, abs_tol=1e-5)
        assert (hits[0].text, hits[0].document, dict(hits[0].metadata)) == (
            ANIMALS[0].text, "pets", {"n": 1, "tags": ["soft"]},
        )  # fmt: skip
        assert hits[0].vector == ()
        assert [round(x, 4) for x in store.query("animals", (2, 0, 0), k=2, with_vectors=True)[1].vector] == [
            0.9,
            0.1,
            0,
        ]


@_check
def search_is_exact(make: MakeStore) -> None:
    """It finds what comparing with every vector finds."""
    random = Random(7)
    entries = [
        Entry(id=f"e{n:03}", document="d", text="x", vector=[random.gauss(0, 1) for _ in range(8)], metadata={"n": n})
        for n in range(200)
    ]
    with make() as store:
        store.create("c", model="m", dimension=8)
        store.upsert("c", entries)
        for _ in range(5):
            wanted = [random.gauss(0, 1) for _ in range(8)]
            best = sorted(entries, key=lambda e: -_cosine(wanted, e.vector))
            assert ids(store.query("c", wanted, k=10)) == [e.id for e in best[:10]]
            few = [e.id for e in best if e.metadata["n"] < 20]
            assert ids(store.query("c", wanted, k=5, where=conditions({"n": {"lt": 20}}))) == few[:5]


def _cosine(a: Sequence[float], b: Sequence[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True)) / (math.hypot(*a) * math.hypot(*b))


@_check
def what_has_no_direction_comes_last(make: MakeStore) -> None:
    """Behind what is opposite, and k = 1 returns what is near; vectors that are no numbers are refused."""
    with make() as store:
        store.create("c", model="m", dimension=2)
        vectors = {"far": (-1, 0), "hit": (1, 0), "zero": (0, 0)}
        store.upsert("c", [Entry(id=n, document="d", text="x", vector=v) for n, v in vectors.items()])
        assert ids(store.query("c", (1, 0), k=3)) == ["hit", "far", "zero"]
        assert ids(store.query("c", (1, 0), k=1)) == ["hit"]
        for number in (math.nan, math.inf, -math.inf, 1e39):
            bad = Entry(id="bad", document="d", text="x", vector=(number, 1))
            assert refused(lambda bad=bad: store.upsert("c", [bad])) == "invalid_vector"
            assert refused(lambda number=number: store.query("c", (1, number), k=1)) == "invalid_vector"
        assert store.count("c") == 3


@_check
def storing_again_replaces(make: MakeStore) -> None:
    """Text, vector, metadata and words."""
    with filled(make) as store:
        store.upsert("animals", [Entry(id="cat", document="zoo", text="A tiger.", vector=(0, 0, 1), metadata={"n": 9})])
        assert store.count("animals") == 4
        hit = store.query("animals", (0, 0, 1), k=4)[0]
        assert (hit.id, hit.text, hit.document, dict(hit.metadata)) == ("cat", "A tiger.", "zoo", {"n": 9})
        assert ids(store.search("animals", "sofa", k=5)) == []
        assert ids(store.search("animals", "tiger", k=5)) == ["cat"]
        store.update_metadata("animals", {"cat": {"n": 10}, "nobody": {"n": 1}})
        assert store.ids("animals", "zoo") == {"cat": {"n": 10}}
        assert store.count("animals") == 4


@_check
def documents_are_listed_and_removed(make: MakeStore) -> None:
    """By id, by document, by condition; without anything, nothing is removed."""
    with filled(make) as store:
        assert store.documents("animals") == {"forest": 1, "pets": 2, "sea": 1}
        assert set(store.ids("animals", "pets")) == {"cat", "dog"}
        assert store.delete("animals") == 0
        assert store.delete("animals", ids=["cat", "nobody"]) == 1
        assert store.delete("animals", document="pets", ids=["wolf"]) == 0
        assert store.delete("animals", where=conditions({"wild": True})) == 1
        assert store.delete("animals", document="sea") == 1
        assert store.documents("animals") == {"pets": 1}
        assert ids(store.query("animals", (0, 0, 1), k=10)) == ["dog"]
        assert ids(store.search("animals", "whale wolf cat dog", k=10)) == ["dog"]


@_check
def a_collection_is_dropped_with_what_is_in_it(make: MakeStore) -> None:
    """And may then be made with another model; others stay."""
    with filled(make) as store:
        store.create("other", model="tiny", dimension=3)
        store.upsert("other", ANIMALS[:1])
        assert store.drop("animals") is True
        assert store.drop("animals") is False
        store.create("animals", model="huge", dimension=5)
        assert store.count("animals") == 0
        assert store.count("other") == 1
        assert ids(store.search("other", "sofa", k=3)) == ["cat"]


@_check
def words_are_found(make: MakeStore) -> None:
    """Whatever their case and accents; more of them first; what means something to a search engine means nothing."""
    with filled(make) as store:
        assert ids(store.search("animals", "DOG barks", k=5)) == ["dog", "wolf"]
        assert ids(store.search("animals", "wolf", k=5)) == ["wolf"]
        assert ids(store.search("animals", "cafe", k=5)) == ids(store.search("animals", "Café", k=5)) == ["cat"]
        assert ids(store.search("animals", "the", k=1)) != []
        for odd in ("", "  ", "?!", '"', "'"):
            assert store.search("animals", odd, k=5) == []
        for odd in ('"dog', "dog AND NOT (", "dog:*", "dog & !", "NEAR(dog", "text:dog", "dog\\", "dog' OR 1=1 --"):
            assert "dog" in ids(store.search("animals", odd, k=5)), odd
        assert store.search("animals", "dog", k=5)[0].score > 0


FILTERS: tuple[Mapping[str, Any], ...] = (
    {"a": 1}, {"a": 1.0}, {"a": "1"}, {"a": True}, {"a": False}, {"a": None}, {"a": 0}, {"a": ""},
    {"a": {"ne": 1}}, {"a": {"ne": None}}, {"a": {"exists": True}}, {"a": {"exists": False}},
    {"a": [1, "x", None]}, {"a": {"not_in": [1, "x"]}}, {"a": []}, {"a": {"not_in": []}},
    {"a": {"gt": 1}}, {"a": {"gte": 1, "lt": 2}}, {"a": {"lte": -0.5}}, {"a": {"gt": "x"}}, {"a": {"lte": "x"}},
    {"a": {"contains": 1}}, {"a": {"contains": "x"}}, {"a": {"contains": None}}, {"a": {"contains": True}},
    {"a.b": 1}, {"a.b.c": "deep"}, {"a.b": {"exists": True}}, {"a.b": {"ne": 1}}, {"b": "é", "a": 1}, {"a": {"gt": "é"}},
    {"odd key!": 1}, {"it's": {"exists": True}}, {"a": {"eq": "it's"}}, {"a": {"gt": 10**15}}, {"0": 1},
)  # fmt: skip
VALUES: tuple[Any, ...] = (
    1, 1.0, 2, 1.5, -1, 0, "1", "", "x", "xy", "é", "z", "it's", True, False, None, [], [1], ["x", None], [True, [1]], ["a x"],
    {}, {"b": 1}, {"b": {"c": "deep"}}, {"b": None}, 10**15 + 1, 1e300, "1.5",
)  # fmt: skip


@_check
def conditions_mean_what_they_say(make: MakeStore) -> None:
    """For values of every type under conditions of every kind, exactly what `filters.meets` says."""
    metadata: list[dict[str, Any]] = [{"a": value} for value in VALUES]
    metadata += [{}, {"b": "é", "a": 1}, {"odd key!": 1}, {"it's": None}, {"0": 1}]
    with make() as store:
        store.create("c", model="m", dimension=1)
        store.upsert(
            "c", [Entry(id=f"{n:02}", document="d", text="t", vector=(1,), metadata=m) for n, m in enumerate(metadata)]
        )
        for filters in FILTERS:
            where = conditions(filters)
            expected = [f"{n:02}" for n, each in enumerate(metadata) if meets(each, where)]
            found = sorted(ids(store.query("c", (1,), k=100, where=where)))
            shown = f"{filters}: {[metadata[int(n)] for n in {*found} ^ {*expected}]}"
            assert found == expected, shown
            assert store.count("c", where) == len(expected), shown
            assert sorted(ids(store.search("c", "t", k=100, where=where))) == expected, shown


@_check
def odd_texts_come_back(make: MakeStore) -> None:
    """Quotes, emoji, and long texts; a vector of zeros is near nothing, and no error."""
    texts = ["it's", '"quoted"', "🦆 duck", "%s {x} \\", "x" * 100_000, "line\nline\ttab"]
    with make() as store:
        store.create("c", model="m", dimension=2)
        store.upsert(
            "c",
            [Entry(id=str(n), document=t[:50], text=t, vector=(1, n), metadata={"t": t}) for n, t in enumerate(texts)],
        )
        found = {hit.id: hit for hit in store.query("c", (1, 0), k=10)}
        for n, text in enumerate(texts):
            assert (found[str(n)].text, found[str(n)].metadata["t"]) == (text, text)
            assert list(store.ids("c", text[:50])) == [str(n)]
        store.upsert("c", [Entry(id="zero", document="z", text="z", vector=(0, 0))])
        assert {hit.id: hit.score for hit in store.query("c", (1, 0), k=10)}["zero"] == 0


@_check
def several_write_and_read_at_a_time(make: MakeStore) -> None:
    """Each with a store object of its own: nothing is lost, nobody fails."""
    with make() as store:
        store.create("c", model="m", dimension=2)

    def write(number: int) -> int:
        with make() as store:
            for round in range(5):
                store.upsert(
                    "c",
                    [
                        Entry(id=f"{number}-{round}-{n}", document=str(number), text="word", vector=(1, n))
                        for n in range(5)
                    ]
                    + [Entry(id="shared", document="s", text="word", vector=(1, number))],
                )
            return len(store.query("c", (1, 0), k=1000))

    with ThreadPoolExecutor(4) as pool:
        counts = list(pool.map(write, range(4)))
    assert all(25 < count <= 101 for count in counts)
    with make() as store:
        assert store.count("c") == 101
        assert store.documents("c") == {"0": 25, "1": 25, "2": 25, "3": 25, "s": 1}
