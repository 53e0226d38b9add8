"""Bad input gets a clear error and nothing half-done, never a traceback: through the Python API."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from flowmason_ray import InvalidPipeline, Problem, load_pipeline, run, validate
from flowmason_ray.stores.memory import MemoryRunStore
from tests.engine_kit import Echo, pipeline, stage


def problems_in(content: bytes | str, folder: Path) -> list[Problem]:
    """Return what is wrong with a file; that running it raises the same is checked on the way."""
    file = folder / "bad.pipeline.json"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    store = MemoryRunStore()
    with pytest.raises(InvalidPipeline) as caught:
        run(file, store=store, components=[Echo])
    assert store.logs == {}, "nothing half-done"
    problems = validate(file, components=[Echo])
    assert [p for p in problems if p.severity == "error"] == list(caught.value.problems)
    assert all(p.file == str(file) for p in problems)
    assert "Traceback" not in str(caught.value)
    assert json.dumps(caught.value.to_json())
    return problems


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(InvalidPipeline, match=r"none\.pipeline\.json"):
        run(tmp_path / "none.pipeline.json")


def test_a_directory_instead_of_a_file(tmp_path: Path) -> None:
    with pytest.raises(InvalidPipeline):
        load_pipeline(tmp_path)


def test_json_that_does_not_parse_shows_the_place(tmp_path: Path) -> None:
    (problem,) = problems_in('{\n  "name": "p",\n  "stages": [}\n}', tmp_path)
    assert (problem.line, problem.column) == (3, 14)
    assert problem.excerpt is not None
    assert problem.excerpt.splitlines()[1].endswith("^")


@pytest.mark.parametrize(
    "content",
    ["[]", "3", '"x"', "null", "", "   ", "{", '{"name": NaN, "stages": []}', '{"name": "p", "stages": [Infinity]}'],
)
def test_what_is_no_pipeline(content: str, tmp_path: Path) -> None:
    problems = problems_in(content, tmp_path)
    assert problems
    assert problems[0].line is not None


@pytest.mark.parametrize("content", [b"\xff\xfe{\x00}\x00", b'{"name": "\xff"}', b"\x00" * 100])
def test_bytes_that_are_no_text(content: bytes, tmp_path: Path) -> None:
    assert problems_in(content, tmp_path)


def test_a_byte_order_mark_is_either_read_or_refused_with_words(tmp_path: Path) -> None:
    file = tmp_path / "bom.pipeline.json"
    file.write_bytes(b"\xef\xbb\xbf" + json.dumps(pipeline(stage("a"))).encode())
    for problem in validate(file, components=[Echo]):
        assert "byte" in problem.message.lower()


def test_fifty_megabytes(tmp_path: Path) -> None:
    data = json.dumps(pipeline(stage("a", config={"value": "x" * 50_000_000})))
    (problem,) = problems_in(data[:-1], tmp_path)
    assert problem.code == "invalid_json"
    assert len(str(problem)) < 2_000
    (problem,) = problems_in(data + " " * 20_000_000, tmp_path)
    assert "larger than 64 MiB" in problem.message


def test_deep_nesting(tmp_path: Path) -> None:
    deep = "[" * 100_000 + "]" * 100_000
    assert len(problems_in('{"name": "p", "stages": ' + deep + "}", tmp_path)) == 1


def test_unknown_keys_get_the_nearest_name_and_their_place(tmp_path: Path) -> None:
    text = '{\n  "name": "p",\n  "stagse": [],\n  "stages": [\n    {"id": "a", "component_type": "echo", "dependson": []}\n  ]\n}'
    problems = problems_in(text, tmp_path)
    assert [(p.code, p.line, p.nearest) for p in problems] == [
        ("unknown_key", 3, "stages"),
        ("unknown_key", 5, "depends_on"),
    ]


def test_duplicate_ids_and_duplicate_keys(tmp_path: Path) -> None:
    (problem,) = problems_in(json.dumps(pipeline(stage("a"), stage("a")), indent=1), tmp_path)
    assert problem.code == "duplicate_id"
    assert "line" in problem.message
    (problem,) = problems_in('{"name": "p", "name": "q", "stages": []}', tmp_path)
    assert problem.code == "duplicate_key"


def test_a_self_loop_and_a_cycle_of_forty(tmp_path: Path) -> None:
    (problem,) = problems_in(json.dumps(pipeline(stage("a", after="a"))), tmp_path)
    assert problem.code == "self_reference"
    ring = [stage(f"s{i}", after=f"s{(i + 1) % 40}") for i in range(40)]
    (problem,) = problems_in(json.dumps(pipeline(*ring), indent=1), tmp_path)
    assert problem.code == "cycle"
    assert all(f"s{i}" in problem.message for i in range(40))
    assert problem.line is not None


def chain(n: int) -> list[dict[str, Any]]:
    return [stage(f"s{i}", config={"value": 1 if i == 0 else f"{{{{stages.s{i - 1}.value}}}}"}) for i in range(n)]


def test_ten_thousand_stages_in_a_chain_run() -> None:
    result = run(pipeline(*chain(10_000)), components=[Echo])
    assert (result.status, result.output) == ("succeeded", {"value": 1})
    assert len(result.stages) == 10_000


def test_ten_thousand_mistakes_are_all_found(tmp_path: Path) -> None:
    data = pipeline(*(stage(f"s{i}", "ecoh") for i in range(10_000)))
    problems = problems_in(json.dumps(data, indent=0), tmp_path)
    assert len(problems) == 10_000
    assert {p.nearest for p in problems} == {"echo"}


def test_ten_thousand_wrong_references_do_not_take_for_ever() -> None:
    n = 10_000  # comparing each with each would take a quarter of an hour; the test's timeout is the bound
    problems = validate(pipeline(*(stage(f"stage{i}", after=f"stage{i}x") for i in range(n))), components=[Echo])
    assert len(problems) == n
    assert problems[0].nearest is not None


def test_a_component_that_cannot_be_imported_names_its_file(project_dir: Path) -> None:
    (project_dir / "components").mkdir()
    (project_dir / "components" / "mine.py").write_text("import nothing_like_this\n")
    (problem,) = validate(pipeline(stage("a", "mine")))
    assert problem.code == "invalid_component"
    assert "mine.py" in problem.message
    assert "nothing_like_this" in problem.message


def test_a_component_whose_import_exits_is_said_so(project_dir: Path) -> None:
    (project_dir / "components").mkdir()
    (project_dir / "components" / "mine.py").write_text("raise SystemExit(3)\n")
    (problem,) = validate(pipeline(stage("a", "mine")))
    assert problem.code == "invalid_component"


def test_a_project_file_that_is_broken_is_said_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "flowmason.json").write_text('{"nmae": "x", "env_allow": 3}')
    monkeypatch.chdir(tmp_path)
    problems = validate(pipeline(stage("a")))
    assert {(p.code, p.path, p.nearest) for p in problems} == {
        ("invalid_value", "/env_allow", None),
        ("unknown_key", "/nmae", "name"),
    }
