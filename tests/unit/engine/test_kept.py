"""Large values of iterations leave memory when they are recorded, and are there all the same for whoever reads them."""

from __future__ import annotations

import asyncio
import gc
import json
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars
import pytest
from pydantic import BaseModel

from flowmason_ray import operator
from flowmason_ray.api import PreparedRun, RunResult
from flowmason_ray.engine.commands import Each, Several
from flowmason_ray.engine.component import Context
from flowmason_ray.engine.digests import content_of, part_of
from flowmason_ray.engine.events import StageSucceeded
from flowmason_ray.engine.kept import Kept, KeptList, Shelf, gathered, plain
from flowmason_ray.errors import StoreError
from flowmason_ray.spec.expressions import DictScope, parse_expression
from flowmason_ray.stores.blobs import LocalBlobs
from flowmason_ray.stores.encoding import Decoder, Encoder, event_from_json, event_to_json
from flowmason_ray.stores.sqlite import SqliteRunStore

SIZE = 100_000
"""Characters: more than what stays inline in the log."""
READ: list[Any] = []
"""What the component `look` was given."""


class Document(dict[str, Any]):
    """A value that can be watched: a plain dict has no weak references."""


def kept(blobs: LocalBlobs, value: Any, *, recent_bytes: int = 0, secrets: tuple[str, ...] = ()) -> Kept:
    """Return a handle whose value was recorded just now."""
    handle = Kept(Shelf(Decoder(blobs).packed, recent_bytes=recent_bytes), size_bytes=SIZE, value=value)
    Encoder(blobs, secrets=secrets).value(handle)
    return handle


def test_a_recorded_value_leaves_memory_and_comes_back(tmp_path: Path) -> None:
    value = Document(text="x" * SIZE)
    watched = weakref.ref(value)
    handle = kept(LocalBlobs(tmp_path), value)
    del value
    gc.collect()
    assert watched() is None
    assert handle.load() == {"text": "x" * SIZE}


def test_a_value_whose_blob_is_removed_before_it_is_referred_to_is_written_again(tmp_path: Path) -> None:
    blobs = LocalBlobs(tmp_path)
    encoder = Encoder(blobs)
    handle = Kept(Shelf(Decoder(blobs).packed), size_bytes=SIZE, value={"text": "x" * SIZE})
    _, text = encoder.value(handle)
    digests = set(encoder.digests)
    for file in [each for each in tmp_path.rglob("*") if each.is_file()]:
        file.unlink()
    assert blobs.confirm(digests) == digests
    encoder.value(handle)
    assert blobs.confirm(digests) == digests, "it is known by its digest"
    encoder.anew = True
    assert encoder.value(handle)[1] == text
    assert not blobs.confirm(digests)


def test_the_latest_values_stay_in_memory(tmp_path: Path) -> None:
    blobs = LocalBlobs(tmp_path)
    shelf = Shelf(Decoder(blobs).packed, recent_bytes=2 * SIZE)
    handles = [Kept(shelf, size_bytes=SIZE, value=Document(text=f"{n}" * SIZE)) for n in range(3)]
    watched = [weakref.ref(handle.load()) for handle in handles]
    for handle in handles:
        Encoder(blobs).value(handle)
    assert [each() is not None for each in watched] == [False, True, True]
    assert [handle.load()["text"][0] for handle in handles] == ["0", "1", "2"]


@pytest.mark.parametrize(
    ("value", "secrets"),
    [({"text": "x" * SIZE, "key": "my-secret"}, ("my-secret",)), ({"text": "x" * SIZE, "number": float("nan")}, ())],
    ids=["masked", "nan"],
)
def test_a_value_whose_record_is_not_exact_stays_in_memory(
    tmp_path: Path, value: Mapping[str, Any], secrets: tuple[str, ...]
) -> None:
    assert kept(LocalBlobs(tmp_path), value, secrets=secrets).load() is value


def test_a_null_does_not_keep_a_value_in_memory(tmp_path: Path) -> None:
    value = {"text": "x" * SIZE, "nothing": None, "list": [None, 1.5]}
    loaded = kept(LocalBlobs(tmp_path), value).load()
    assert loaded is not value
    assert loaded == value


def test_frames_come_back(tmp_path: Path) -> None:
    frame = polars.DataFrame({"n": range(50_000), "x": [float("nan")] * 50_000})
    loaded = kept(LocalBlobs(tmp_path), {"frame": frame, "rows": None}).load()
    assert loaded["frame"] is not frame
    assert loaded["frame"].equals(frame)


def test_a_blob_that_is_gone_is_an_error_that_names_it(tmp_path: Path) -> None:
    handle = kept(LocalBlobs(tmp_path), {"text": "x" * SIZE})
    for file in tmp_path.rglob("*"):
        if file.is_file():
            file.unlink()
    with pytest.raises(StoreError, match="sha256:"):
        handle.load()


@pytest.fixture
def results(tmp_path: Path) -> KeptList:
    blobs = LocalBlobs(tmp_path)
    documents = [kept(blobs, {"n": n, "text": "x" * SIZE}) for n in range(4)]
    parts = gathered(Each([*documents, None, Several({"a": documents[0], "b": 1})]))
    assert isinstance(parts, KeptList)
    return parts


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("xs | length", 6),
        ("xs[1].n", 1),
        ("xs[-1].a.n", 0),
        ("xs[5].b", 1),
        ("xs[4]", None),
        ("xs[1:3] | map(attribute='n')", [1, 2]),
        ("xs[:4] | sum(attribute='n')", 6),
        ("xs[:4] | selectattr('n', 'gt', 1) | map(attribute='n')", [2, 3]),
        ("(xs | first).n", 0),
        ("(xs[:4] | sort(attribute='n', reverse=true) | first).n", 3),
        ("(xs + [7])[6]", 7),
        ("xs is sequence and xs is iterable and xs is not mapping", True),
        ("not xs", False),
        ("xs[:2] == xs[:2] and xs[:2] != xs[1:3]", True),
        ("none in xs", True),
        ("xs | jmespath('[*].n')", [0, 1, 2, 3]),
        ("xs[:0] | tojson", "[]"),
        ("{'list': xs[4:5]} | tojson", '{"list":[null]}'),
        ("xs[9].n | default('none')", "none"),
    ],
)
def test_a_lazy_list_is_a_list_to_expressions(results: KeptList, expression: str, expected: Any) -> None:
    assert plain(parse_expression(expression).evaluate(DictScope({"xs": results}))) == expected


def test_plain_loads_everything_at_any_depth(results: KeptList) -> None:
    loaded = plain({"inner": [{"results": results}], "n": 1})
    assert [each and each.get("n") for each in loaded["inner"][0]["results"]] == [0, 1, 2, 3, None, None]
    assert type(loaded["inner"][0]["results"]) is list
    untouched = {"a": [{"b": 1}]}
    assert plain(untouched) is untouched


def test_a_loops_value_is_recorded_by_reference_and_decoded_lazily(results: KeptList, tmp_path: Path) -> None:
    blobs = LocalBlobs(tmp_path)
    event = StageSucceeded(path="each", attempt=1, value={"results": results, "errors": []})
    recorded = json.loads(json.dumps(event_to_json(event, blobs)))
    assert len(json.dumps(recorded)) < 3000
    lazy, eager = (event_from_json(recorded, Decoder(blobs, lazy=lazy)) for lazy in (True, False))
    assert isinstance(lazy, StageSucceeded)
    assert isinstance(eager, StageSucceeded)
    assert isinstance(lazy.value["results"], KeptList)
    assert plain(lazy.value) == plain(event.value) == eager.value


def test_what_looks_like_a_reference_is_still_data(tmp_path: Path) -> None:
    blobs = LocalBlobs(tmp_path)
    fake = {"$blob": {"digest": "sha256:0", "media_type": "application/json"}}
    value = {"results": KeptList([fake, kept(blobs, {"text": "x" * SIZE}), Several({"fake": fake})])}
    recorded = event_to_json(StageSucceeded(path="each", attempt=1, value=value), blobs)
    back: Any = event_from_json(recorded, Decoder(blobs))
    assert back.value == {"results": [fake, {"text": "x" * SIZE}, {"fake": fake}]}


# -- whole runs ---------------------------------------------------------------------------------------------------------


@operator(name="write_document", cost="cpu", effect="pure")
class WriteDocument:
    class Input(BaseModel):
        n: int

    class Output(BaseModel):
        n: int
        text: str

    def execute(self, input: Input, context: Context) -> Output:
        return self.Output(n=input.n, text=f"{input.n:05}" * (SIZE // 4))


@operator(name="look", cost="trivial", effect="pure")
class Look:
    class Input(BaseModel):
        given: Any

    class Output(BaseModel):
        kind: str
        length: int

    async def execute(self, input: Input, context: Context) -> Output:
        READ.append(input.given)
        return self.Output(kind=type(input.given).__name__, length=len(input.given))


def loop(stages: list[str], items: str = "{{input.items}}", **config: Any) -> dict[str, Any]:
    return {"items": items, "loop_stages": stages, "max_parallel": 2, **config}


def run(tmp_path: Path, stages: list[dict[str, Any]], output: Any) -> tuple[RunResult, list[dict[str, Any]]]:
    """Run over twelve documents with a shelf that holds two of them; return the result and what was recorded."""
    (tmp_path / "flowmason.json").write_text("{}")
    file = tmp_path / "p.pipeline.json"
    file.write_text(json.dumps({"name": "p", "stages": stages, "output": output}))
    store = SqliteRunStore(tmp_path / "runs.db", LocalBlobs(tmp_path / "blobs"))
    items = list(range(12))
    prepared = PreparedRun(file, {"items": items}, components=[WriteDocument, Look], store=store)

    async def go() -> tuple[RunResult, list[dict[str, Any]]]:
        result = (await prepared.run()).raise_for_status()
        return result, [dict(recorded.event) async for recorded in store.read(prepared.run_id)]

    return asyncio.run(go())


WRITE = {"id": "write", "component_type": "write_document", "config": {"n": "{{item}}"}}


def test_a_loop_after_a_loop_reads_the_documents_one_by_one(tmp_path: Path) -> None:
    stages = [
        {"id": "each", "component_type": "foreach", "config": loop(["write"])},
        WRITE,
        {"id": "again", "component_type": "foreach", "config": loop(["count"], "{{stages.each.results}}")},
        {"id": "count", "component_type": "look", "config": {"given": "{{item.text}}"}},
    ]
    output = {
        "lengths": "{{stages.again.results | map(attribute='length') | unique}}",
        "second": "{{stages.each.results[1].n}}",
    }
    result, events = run(tmp_path, stages, output)
    assert result.output == {"lengths": [5 * (SIZE // 4)], "second": 1}
    gathered_event = next(e for e in events if e["kind"] == "stage_succeeded" and e["path"] == "each" and "packed" in e)
    assert all("$blob" in part for part in gathered_event["packed"]["results"])


def test_a_component_and_the_result_get_plain_lists(tmp_path: Path) -> None:
    READ.clear()
    stages = [
        {"id": "each", "component_type": "foreach", "config": loop(["write"])},
        WRITE,
        {"id": "see", "component_type": "look", "config": {"given": "{{stages.each.results}}"}},
    ]
    result, _ = run(tmp_path, stages, {"all": "{{stages.each.results}}", "seen": "{{stages.see.kind}}"})
    assert result.output["seen"] == "list"
    assert [type(each) for each in READ[0]] == [dict] * 12
    assert type(result.output["all"]) is list
    assert [document["n"] for document in result.output["all"]] == list(range(12))


def test_constructs_inside_and_around_hand_the_values_on(tmp_path: Path) -> None:
    inner = loop(["tried"], "{{[outer * 3, outer * 3 + 1, outer * 3 + 2]}}")
    stages = [
        {
            "id": "each",
            "component_type": "foreach",
            "config": loop(
                ["inner", "keep"],
                "{{[0, 1, 2, 3]}}",
                item_variable="outer",
                collect={"all": "{{stages.inner.results}}", "kept": "{{vars.kept.n}}"},
            ),
        },
        {"id": "inner", "component_type": "foreach", "config": inner},
        {"id": "tried", "component_type": "trycatch", "config": {"try_stages": ["write"], "catch_stages": []}},
        WRITE,
        {
            "id": "keep",
            "component_type": "variable_set",
            "config": {"name": "kept", "value": "{{stages.inner.results[0].try_result}}"},
        },
    ]
    result, _ = run(tmp_path, stages, "{{stages.each.results}}")
    assert [each["kept"] for each in result.output] == [0, 3, 6, 9]
    assert [d["try_result"]["n"] for each in result.output for d in each["all"]] == list(range(12))


@pytest.mark.parametrize("count", [0, 1, 5, 40])
def test_the_content_of_a_lazy_list_is_that_of_the_list(tmp_path: Path, count: int) -> None:
    blobs = LocalBlobs(tmp_path)
    parts = [n if n % 2 else kept(blobs, {"n": n, "text": "é" * SIZE}) for n in range(count)]
    lazy = KeptList(parts)
    assert content_of(lazy) == content_of(plain(lazy))
    assert part_of({"results": lazy, "n": 1}, None) == part_of({"results": plain(lazy), "n": 1}, None)
    short = KeptList(list(range(count)))
    assert content_of(short) == content_of(list(range(count)))
