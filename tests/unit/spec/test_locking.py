"""The lock, installed distributions, and where names are looked for."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from flowmason_ray.errors import InvalidPipeline, Problem
from flowmason_ray.spec.installed import installed_folders
from flowmason_ray.spec.library import Library
from flowmason_ray.spec.locking import LOCK_FILE, digest_of, lock_bytes, read_lock
from tests.family_kit import Data, child, stage


def put(folder: Path, file: str, data: Data) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{file}.pipeline.json"
    path.write_text(json.dumps(data, indent=1), encoding="utf-8")
    return path


def version(number: str, name: str = "base", **more: Any) -> Data:
    return {"name": name, "version": number, "stages": [stage("a")], **more}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    put(tmp_path, "one", version("1.0.0"))
    put(tmp_path, "two", version("1.4.0"))
    put(tmp_path, "three", version("2.0.0"))
    put(tmp_path, "child", child(extends="base@^1"))
    return tmp_path


def library(root: Path, **more: Any) -> Library:
    return Library(root=root, folders=[root / "pipelines", root], **more)


def lock(root: Path) -> None:
    used = library(root, locked=False)
    used.resolve(used.read(root / "child.pipeline.json"))
    (root / LOCK_FILE).write_bytes(lock_bytes(used.used))


def parent_of(root: Path) -> str:
    made = library(root)
    return made.family(made.read(root / "child.pipeline.json")).member.parents[0].title


def problem(root: Path) -> Problem:
    with pytest.raises(InvalidPipeline) as caught:
        parent_of(root)
    (found,) = caught.value.problems
    return found


def test_the_lock_pins_the_version_that_was_found(project: Path) -> None:
    lock(project)
    assert list(read_lock(project / LOCK_FILE).pins) == ["base@^1"]
    put(project, "newer", version("1.5.0"))
    assert parent_of(project) == "base@1.4.0"
    (project / LOCK_FILE).unlink()
    assert parent_of(project) == "base@1.5.0"


def test_other_content_is_an_error_that_says_what_to_do(project: Path) -> None:
    lock(project)
    put(project, "two", version("1.4.0", tags=["changed"]))
    found = problem(project)
    assert (found.code, found.path, found.file) == ("lock_mismatch", "/extends", str(project / "child.pipeline.json"))
    assert "fm lock" in (found.hint or "")


def test_formatting_and_older_spellings_are_no_other_content(project: Path) -> None:
    lock(project)
    older = {"stages": [{"type": "logger", "id": "a"}], "version": "1.4.0", "name": "base"}
    (project / "two.pipeline.json").write_text(json.dumps(older), encoding="utf-8")
    assert parent_of(project) == "base@1.4.0"


def test_a_pinned_version_that_is_gone_is_an_error(project: Path) -> None:
    lock(project)
    (project / "two.pipeline.json").unlink()
    found = problem(project)
    assert found.code == "lock_mismatch"
    assert "1.0.0, 2.0.0" in found.message


def test_a_path_is_pinned_by_the_file_that_it_leads_to(project: Path) -> None:
    put(project, "child", child(extends="./one.pipeline.json"))
    put(project / "below", "other", child(extends="../one.pipeline.json", name="other"))
    lock(project)
    assert list(read_lock(project / LOCK_FILE).pins) == ["one.pipeline.json"]
    put(project, "one", version("1.0.1"))
    assert problem(project).code == "lock_mismatch"
    made = library(project)
    with pytest.raises(InvalidPipeline):
        made.resolve(made.read(project / "below" / "other.pipeline.json"))


def test_what_the_lock_does_not_know_is_a_warning(project: Path) -> None:
    lock(project)
    put(project, "child", child(extends="base@~1.0"))
    made = library(project)
    made.resolve(made.read(project / "child.pipeline.json"))
    (found,) = made.unlocked()
    assert (found.code, found.severity, found.found) == ("not_locked", "warning", "base@~1.0")


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{}",
        '{"lock_version": 2, "pipelines": {}}',
        '{"lock_version": 1, "pipelines": {"a": {"name": "a"}}}',
        "[" * 9999,
    ],
)
def test_a_lock_that_is_none_is_an_error(project: Path, content: str) -> None:
    (project / LOCK_FILE).write_text(content, encoding="utf-8")
    found = problem(project)
    assert (found.code, found.file) == ("invalid_lock", str(project / LOCK_FILE))


def test_a_lock_is_read_as_it_was_written(project: Path) -> None:
    lock(project)
    content = (project / LOCK_FILE).read_bytes()
    assert lock_bytes(read_lock(project / LOCK_FILE).pins) == content


def test_the_digest_does_not_depend_on_the_order_of_keys() -> None:
    assert digest_of({"a": 1, "b": {"c": 2, "d": 3}}) == digest_of({"b": {"d": 3, "c": 2}, "a": 1})
    assert digest_of({"a": 1}) != digest_of({"a": 1.5})


# -- installed distributions -------------------------------------------------------------------------------------------


def install(site: Path, name: str, package: str, *documents: Data, entry: str | None = None) -> None:
    """Lay a distribution out as an installer does."""
    folder = site.joinpath(*package.split("."))
    for number, data in enumerate(documents):
        put(folder, f"p{number}", data)
    # Importing it would fail: finding pipelines must not.
    (site / package.split(".")[0] / "__init__.py").write_text("raise RuntimeError('imported')", encoding="utf-8")
    info = site / f"{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n", encoding="utf-8")
    (info / "entry_points.txt").write_text(f"[flowmason.pipelines]\nx = {entry or package}\n", encoding="utf-8")


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "site-packages"
    folder.mkdir()
    monkeypatch.setattr(sys, "path", [str(folder), *sys.path])
    return folder


def test_what_the_project_does_not_have_comes_from_installed_distributions(site: Path, tmp_path: Path) -> None:
    install(site, "acme", "acme_pipelines.bases", version("3.0.0", "acme-base"), version("3.1.0", "acme-base"))
    root = tmp_path / "project"
    put(root, "child", child(extends="acme-base@^3"))
    made = library(root)
    assert made.family(made.read(root / "child.pipeline.json")).member.parents[0].title == "acme-base@3.1.0"
    assert made.used["acme-base@^3"].found == "acme:p1.pipeline.json"
    assert [each.distribution for each in installed_folders()] == ["acme"]


def test_a_name_that_the_project_has_is_never_taken_from_elsewhere(site: Path, tmp_path: Path) -> None:
    install(site, "evil", "evil_pipelines", version("9.0.0"))
    root = tmp_path / "project"
    put(root, "base", version("1.0.0"))
    put(root, "child", child(extends="base"))
    assert parent_of(root) == "base@1.0.0"
    put(root, "child", child(extends="base@^9"))
    assert problem(root).code == "pipeline_not_found"


def test_an_entry_point_that_leads_nowhere_is_passed_over(site: Path, tmp_path: Path) -> None:
    install(site, "broken", "broken_pipelines", version("1.0.0"), entry="not_there.at.all")
    root = tmp_path / "project"
    put(root, "child", child(extends="bsae"))
    assert problem(root).code == "pipeline_not_found"


def test_a_parent_of_another_directory_keeps_its_own_relative_paths(site: Path, tmp_path: Path) -> None:
    composed = {"id": "c", "pipeline": "./p0.pipeline.json"}
    calling = {"id": "s", "component_type": "subpipeline", "config": {"pipeline": "./p0.pipeline.json"}}
    install(
        site,
        "acme",
        "acme_pipelines",
        version("1.0.0", "part"),
        version("1.0.0", "whole", compositions=[composed], stages=[calling]),
    )
    root = tmp_path / "project"
    put(root, "child", child(extends="whole"))
    made = library(root)
    loaded = made.resolve(made.read(root / "child.pipeline.json"))
    for reference in (loaded.pipeline.compositions[0].pipeline, loaded.data["stages"][0]["config"]["pipeline"]):
        assert reference == "../site-packages/acme_pipelines/p0.pipeline.json"
        assert made(reference, str(root / "child.pipeline.json")).pipeline.name == "part"
