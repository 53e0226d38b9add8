"""Every pipeline under `examples/` is valid, in canonical form, and gives what its description promises."""

from __future__ import annotations

import shutil
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from flowmason_ray import load_pipeline, run, validate
from flowmason_ray.spec.formatting import format_pipeline

EXAMPLES = Path(__file__).parents[2] / "examples"
ABSTRACT = ["family/base_import.pipeline.json"]
"""Examples that are there to be extended, not to be run."""
ALL = sorted(str(f.relative_to(EXAMPLES)) for f in EXAMPLES.rglob("*.pipeline.json"))
FILES = [name for name in ALL if name not in ABSTRACT and not name.startswith("ai/")]
"""What runs here; those of `ai/` need a model (`test_ai_examples.py`)."""

EXPECTED: dict[str, dict[str, Any]] = {
    "conditional.pipeline.json": {"branch": "true", "strongest": []},
    "custom_component/heat_waves.pipeline.json": {"count": 7, "longest_days": 6},
    "demo/flights.pipeline.json": {
        "report": "out/report.html",
        "flights": 20000,
        "late_percent": 22.8,
        "airports": 8,
        "routes": {"path": "out/routes.parquet", "rows": 2977},
    },
    "filter_and_transform.pipeline.json": {"valid": True, "left_out": 1},
    "foreach.pipeline.json": {"failed": 0},
    "http.pipeline.json": {"fetched": False, "rows": 0},
    "inputs_outputs.pipeline.json": {"period": "2014-01-01 to 2014-12-31", "days": 365},
    "hello/hello.pipeline.json": {"count": 3},
    "router.pipeline.json": {"route": "refund", "reply": "We pay you back."},
    "parallel.pipeline.json": {"words": 9, "letters": 35, "first_word": "brown"},
    "trycatch.pipeline.json": {"order": {"id": 7, "total": 12.5, "because": "invalid_data"}, "caught": True},
    "parts/price.pipeline.json": {"net": 7.5, "gross": 9.0},
    "subpipeline.pipeline.json": {"gross": 33.0},
    "family/oslo.pipeline.json": {"station": "Oslo", "readings": [{"at": "08:00", "celsius": 12.5}]},
    "family/dallas.pipeline.json": {"station": "Dallas", "readings": [{"at": "08:00", "celsius": 35.0}]},
    "family/parts/to_celsius.pipeline.json": {"celsius": 100.0},
    "family/region.pipeline.json": {
        "since": "08:00",
        "stations": ["Oslo", "Dallas, TX"],
        "readings": [{"at": "08:00", "celsius": -3.5}, {"at": "08:00", "celsius": 35.0}],
    },
    "leaving_loops.pipeline.json": {"readings": [{"scaled": 1.2}, {"ignored": -1}, {"scaled": 1.5}, {"alarm": 99}]},
    "early_return.pipeline.json": {"answer": 42, "from": "cache"},
    "approval.pipeline.json": {"state": "parked", "answered": False},
    "retry.pipeline.json": {"rates": {"EUR": 1.0}, "from_server": False, "notes_error": "file_not_found"},
    "tables.pipeline.json": {"months": 48, "written": "out/months.parquet", "chart": "out/rain.svg"},
    "variables.pipeline.json": {"label": "Summer 2015"},
}
"""What is known of each example's output for its `sample_input`."""


@pytest.fixture
def examples(tmp_path: Path) -> Path:
    """Return a copy of the examples, so that what they write stays out of the tree."""
    copy = tmp_path / "examples"
    shutil.copytree(EXAMPLES, copy, ignore=shutil.ignore_patterns("out", ".flowmason", "__pycache__"))
    return copy


def test_every_example_is_listed():
    assert sorted(EXPECTED) == FILES


@pytest.mark.parametrize("name", ALL)
def test_an_example_is_valid_and_canonical(name: str):
    file = EXAMPLES / name
    assert validate(file) == []
    assert format_pipeline(file.read_bytes()) == file.read_bytes()
    document = load_pipeline(file).data
    assert document["description"]
    assert "sample_input" in document


def output_of(file: Path, input: dict[str, Any] | None = None) -> dict[str, Any]:
    given = load_pipeline(file).data["sample_input"] if input is None else input
    result = run(file, given)
    assert result.status == "succeeded", result.failure
    return result.to_json()["output"]


@pytest.mark.parametrize("name", FILES)
def test_an_example_gives_what_it_promises(examples: Path, name: str):
    output = output_of(examples / name)
    assert {key: output[key] for key in EXPECTED[name]} == EXPECTED[name]


def test_the_demo_ends_in_a_report_with_a_chart_per_airport(examples: Path):
    output_of(examples / "demo/flights.pipeline.json", {"airports": 3})
    out = examples / "demo/out"
    page = (out / "report.html").read_text()
    assert page.count("<img src=") == 3 + 3
    assert sorted(p.name for p in (out / "airports").iterdir()) == ["ATL.svg", "DFW.svg", "ORD.svg"]
    routes = pl.read_parquet(out / "routes.parquet")
    flights = pl.read_csv(examples / "demo/data/flights.csv")
    airports = pl.read_csv(examples / "demo/data/airports.csv")
    known = flights.join(airports, left_on="origin", right_on="iata", how="semi")
    assert routes["flights"].sum() == known.height


def test_the_other_branch_of_the_conditional(examples: Path):
    output = output_of(examples / "conditional.pipeline.json", {"magnitude": 9.5})
    assert output == {"branch": "false", "strong": [], "strongest": [{"magnitude": 6.4}]}


def test_the_items_of_the_foreach_keep_their_order(examples: Path):
    kinds = ["snow", "fog", "sun"]
    output = output_of(examples / "foreach.pipeline.json", {"kinds": kinds})
    assert [(r["number"], r["kind"]) for r in output["kinds"]] == [(1, "snow"), (2, "fog"), (3, "sun")]
    weather = pl.read_csv(EXAMPLES / "data/seattle-weather.csv")["weather"].to_list()
    assert [r["days"] for r in output["kinds"]] == [weather.count(kind) for kind in kinds]


def test_the_http_example_with_its_server(examples: Path):
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(examples)))
    port = server.server_address[1]
    project = examples / "flowmason.json"
    project.write_text(project.read_text().replace("8765", str(port)))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        output = output_of(examples / "http.pipeline.json", {"url": f"http://localhost:{port}/data/earthquakes.ndjson"})
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
    assert output == {"fetched": True, "rows": 1707}


@pytest.mark.parametrize(
    ("file", "rows"),
    [
        ("demo/data/flights.csv", 20_000),
        ("demo/data/airports.csv", 3_376),
        ("data/seattle-weather.csv", 1_461),
        ("data/earthquakes.ndjson", 1_707),
    ],
)
def test_the_data_is_what_its_readme_says(file: str, rows: int):
    path = EXAMPLES / file
    table = pl.read_csv(path) if path.suffix == ".csv" else pl.read_ndjson(path, infer_schema_length=None)
    assert table.height == rows
    readme = (path.parent / "README.md").read_text()
    assert f"`{path.name}` | {rows:,}" in readme
    assert all(f"`{column}`" in readme for column in table.columns)


@pytest.mark.parametrize("name", FILES)
def test_an_example_gives_the_same_on_ray(examples: Path, name: str, ray_cluster: str):
    file = examples / name
    given = load_pipeline(file).data["sample_input"]
    here, there = run(file, given), run(file, given, on="ray")
    assert there.failure == here.failure
    assert there.to_json()["output"] == here.to_json()["output"]
    assert {path: s.status for path, s in there.stages.items()} == {path: s.status for path, s in here.stages.items()}
