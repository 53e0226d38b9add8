"""Finding a pipeline by path, by name, and by name and version."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from flowmason_ray.errors import InvalidPipeline, Problem
from flowmason_ray.spec.finding import find_pipeline


def put(folder: Path, file: str, name: str = "report", version: str | None = "1.0.0") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{file}.pipeline.json"
    data = {"name": name, "stages": [{"id": "a", "component_type": "logger", "config": {"message": "m"}}]}
    path.write_text(json.dumps(data if version is None else {**data, "version": version}), encoding="utf-8")
    return path


def found(reference: str, folder: Path) -> str:
    loaded = find_pipeline(reference, folder, [folder / "pipelines", folder / "more"])
    assert loaded.source.file is not None
    return Path(loaded.source.file).name.removesuffix(".pipeline.json")


def problem(reference: str, folder: Path) -> Problem:
    with pytest.raises(InvalidPipeline) as caught:
        found(reference, folder)
    assert len(caught.value.problems) == 1
    return caught.value.problems[0]


def test_a_path_is_relative_to_the_pipeline_that_refers(tmp_path: Path) -> None:
    put(tmp_path / "parts", "x")
    assert found("parts/x.pipeline.json", tmp_path) == "x"
    assert found("./parts/x.pipeline.json", tmp_path) == "x"
    assert found("../parts/x.pipeline.json", tmp_path / "parts") == "x"


def test_a_missing_file_names_the_nearest_one(tmp_path: Path) -> None:
    put(tmp_path / "parts", "extract")
    said = problem("parts/extrct.pipeline.json", tmp_path)
    assert (said.code, said.nearest) == ("pipeline_not_found", "parts/extract.pipeline.json")
    assert problem("x.json", tmp_path).nearest is None


def test_a_name_is_looked_for_in_the_given_folders_and_not_below(tmp_path: Path) -> None:
    put(tmp_path / "pipelines", "any-file")
    put(tmp_path / "more", "b", name="other")
    put(tmp_path / "pipelines" / "deep", "c", name="hidden")
    assert found("report", tmp_path) == "any-file"
    assert found("other", tmp_path) == "b"
    assert problem("hidden", tmp_path).code == "pipeline_not_found"


def test_an_unknown_name_names_the_nearest_one(tmp_path: Path) -> None:
    put(tmp_path / "pipelines", "a")
    said = problem("reprot", tmp_path)
    assert (said.code, said.found, said.nearest) == ("pipeline_not_found", "reprot", "report")


def test_of_several_versions_the_highest_that_fits_wins(tmp_path: Path) -> None:
    for version in ("1.2.0", "1.10.0", "2.0.0", "3.0.0-rc.1"):
        put(tmp_path / "pipelines", f"v{version}", version=version)
    assert found("report", tmp_path) == "v2.0.0"
    assert found("report@^1", tmp_path) == "v1.10.0"
    assert found("report@~1.2", tmp_path) == "v1.2.0"
    assert found("report@3.0.0-rc.1", tmp_path) == "v3.0.0-rc.1"


def test_a_pre_release_is_found_without_a_range_when_there_is_nothing_else(tmp_path: Path) -> None:
    put(tmp_path / "pipelines", "rc", version="1.0.0-rc.1")
    assert found("report", tmp_path) == "rc"
    assert problem("report@^1", tmp_path).code == "pipeline_not_found"


def test_a_pipeline_that_says_no_version_is_1_0_0(tmp_path: Path) -> None:
    put(tmp_path / "pipelines", "a", version=None)
    assert found("report@1.0.0", tmp_path) == "a"


def test_a_version_that_is_not_there_lists_those_that_are_in_order(tmp_path: Path) -> None:
    put(tmp_path / "pipelines", "a", version="1.10.0")
    put(tmp_path / "pipelines", "b", version="1.9.0")
    assert problem("report@^2", tmp_path).message == (
        "No version of pipeline 'report' fits '^2'; there is: 1.9.0, 1.10.0."
    )


def test_what_is_no_range_is_said(tmp_path: Path) -> None:
    put(tmp_path / "pipelines", "a")
    assert problem("report@newest", tmp_path).code == "invalid_range"


def test_two_files_with_the_same_name_and_version_are_ambiguous(tmp_path: Path) -> None:
    put(tmp_path / "pipelines", "a")
    put(tmp_path / "more", "b")
    said = problem("report", tmp_path)
    assert said.code == "ambiguous_pipeline"
    assert "a.pipeline.json" in said.message
    assert "b.pipeline.json" in said.message
    put(tmp_path / "more", "c", version="1.1.0")
    assert found("report", tmp_path) == "c", "only the highest must be clear"


def test_files_that_cannot_be_read_do_not_hide_the_others(tmp_path: Path) -> None:
    folder = tmp_path / "pipelines"
    put(folder, "good")
    put(folder, "version", version="newest")
    for name, text in (("a", "{"), ("b", "[]"), ("c", '"x"'), ("d", "[" * 100_000), ("e", '{"name": 3}')):
        (folder / f"{name}.pipeline.json").write_text(text, encoding="utf-8")
    assert found("report", tmp_path) == "good"


def test_what_is_found_and_cannot_be_loaded_says_why(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text('{"name": "x", "stges": []}', encoding="utf-8")
    said = problem("./x.json", tmp_path)
    assert (said.code, said.nearest) == ("unknown_key", "stages")
    assert said.file is not None
    assert said.line == 1


def test_the_same_folder_given_twice_counts_once(tmp_path: Path) -> None:
    put(tmp_path, "a")
    assert find_pipeline("report", tmp_path, [tmp_path, tmp_path / "."]).pipeline.name == "report"
