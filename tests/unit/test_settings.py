"""`flowmason.json`: where it is found, and what is said about one that cannot be read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from flowmason_ray.errors import InvalidCall, InvalidPipeline
from flowmason_ray.settings import ProjectSettings, RaySettings, find_project


def write(folder: Path, content: Any) -> Path:
    file = folder / "flowmason.json"
    file.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return file


def test_the_project_is_found_by_walking_up(tmp_path: Path) -> None:
    write(tmp_path, {"name": "outer", "$schema": "s", "x-mine": {"any": 1}, "env_allow": ["HOME"]})
    deep = tmp_path / "a" / "b"
    deep.mkdir(parents=True)
    for start in (tmp_path, deep, deep / "p.pipeline.json"):
        project = find_project(start)
        assert (project.root, project.settings.name) == (tmp_path.resolve(), "outer")
    write(tmp_path / "a", {"name": "inner"})
    assert find_project(deep).settings.name == "inner"


def test_a_directory_without_the_file_is_a_project_with_every_default(tmp_path: Path) -> None:
    file = tmp_path / "p.pipeline.json"
    file.write_text("{}")
    project = find_project(file)
    assert (project.root, project.settings) == (tmp_path.resolve(), ProjectSettings())
    assert project.settings.stores.runs == ".flowmason/runs.db"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ('{"name": }', [("invalid_json", "", 1)]),
        ("[]", [("invalid_value", "", None)]),
        ('{"nmae": "x"}', [("unknown_key", "/nmae", None)]),
        (
            '{"stores": {"run": "x"}, "env_allow": 3}',
            [("invalid_value", "/env_allow", None), ("unknown_key", "/stores/run", None)],
        ),
        ("[" * 100_000, [("too_deep", "", None)]),
    ],
)
def test_what_is_wrong_is_said(content: str, expected: list[Any], tmp_path: Path) -> None:
    file = write(tmp_path, content)
    with pytest.raises(InvalidPipeline) as caught:
        find_project(tmp_path)
    problems = caught.value.problems
    assert sorted((p.code, p.path, p.line) for p in problems) == expected
    assert {p.file for p in problems} == {str(file)}


def test_a_file_that_is_no_text_is_said_so(tmp_path: Path) -> None:
    (tmp_path / "flowmason.json").write_bytes(b"\xff\xfe")
    with pytest.raises(InvalidPipeline, match="Cannot read"):
        find_project(tmp_path)


def test_settings_are_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        ProjectSettings().name = "x"  # pyright: ignore[reportAttributeAccessIssue]  # that it cannot be set is the point


def test_the_environment_comes_before_what_the_project_says_of_ray() -> None:
    settings = RaySettings(region="eu", wait_for_resources_s=5)
    assert settings.in_environment({}) == settings
    said = settings.in_environment({"FLOWMASON_REGION": "us", "FLOWMASON_WAIT_FOR_RESOURCES_S": "1.5"})
    assert (said.region, said.wait_for_resources_s) == ("us", 1.5)


@pytest.mark.parametrize("seconds", ["-1", "soon", "nan", "1e9"])
def test_a_wait_that_is_no_number_of_seconds_is_refused(seconds: str) -> None:
    with pytest.raises(InvalidCall, match=r"number of seconds.*found"):
        RaySettings().in_environment({"FLOWMASON_WAIT_FOR_RESOURCES_S": seconds})
