from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from flowmason_ray.components.builtin import append_once as append_module
from flowmason_ray.components.builtin.local_file import LocalFile
from flowmason_ray.components.files import write_atomic
from flowmason_ray.errors import PermanentError
from flowmason_ray.testing.context import RecordingContext


def do(folder: Path, operation: str, path: str, key: str = "k", **options: Any) -> LocalFile.Output:
    context = RecordingContext(project_dir=folder, idempotency_key=key)
    return LocalFile().execute(
        LocalFile.Input.model_validate({"operation": operation, "path": path, **options}), context
    )


def refused(folder: Path, operation: str, path: str, **options: Any) -> str:
    with pytest.raises(PermanentError) as caught:
        do(folder, operation, path, **options)
    return caught.value.code


def test_write_then_read_in_every_format(tmp_path: Path):
    do(tmp_path, "write", "deep/a.txt", content="grüße")
    assert do(tmp_path, "read", "deep/a.txt").content == "grüße"
    do(tmp_path, "write", "a.json", content={"x": [1, None]}, format="json")
    assert do(tmp_path, "read", "a.json", format="json").content == {"x": [1, None]}
    do(tmp_path, "write", "a.bin", content=base64.b64encode(b"\x00\xff").decode(), format="bytes")
    assert (tmp_path / "a.bin").read_bytes() == b"\x00\xff"
    assert do(tmp_path, "read", "a.bin", format="bytes").content == "AP8="
    assert do(tmp_path, "list", ".", pattern="**/*").files == ["a.bin", "a.json", "deep/a.txt"]


def test_absolute_paths_inside_the_project_are_fine(tmp_path: Path):
    assert do(tmp_path, "write", str(tmp_path / "x.txt"), content="x").path == "x.txt"


@pytest.mark.parametrize("operation", ["read", "write", "append", "list", "exists", "delete", "mkdir", "move", "copy"])
@pytest.mark.parametrize("path", ["../out.txt", "/etc/passwd", "link/out.txt", "a/../../out.txt"])
def test_nothing_leads_outside(tmp_path: Path, operation: str, path: str):
    project = tmp_path / "project"
    (project / "a").mkdir(parents=True)
    outside = tmp_path / "out.txt"
    outside.write_text("secret")
    (project / "link").symlink_to(tmp_path)
    assert refused(project, operation, path, content="x", destination="y.txt") == "path_outside_project"
    assert outside.read_text() == "secret"


@pytest.mark.parametrize(
    "path",
    [
        "components/evil.py",
        "out/../components/evil.py",
        "Components/evil.py",
        "link/evil.py",
        "code/evil.py",
        "own/evil.py",
        "prompts/summarizer/v1.md",
        "flowmason.json",
        "FLOWMASON.JSON",
        ".flowmason/runs.db",
        ".git/hooks/post-checkout",
        "data/runs.db-wal",
        "deep/x.pipeline.json",
        ".env",
    ],
)
def test_nothing_writes_what_the_project_executes_or_trusts(tmp_path: Path, path: str):
    settings = json.dumps({"components": ["own", "code"], "stores": {"runs": "data/runs.db"}})
    for folder in ("own", "lib", "out", "components"):
        (tmp_path / folder).mkdir()
    (tmp_path / "flowmason.json").write_text(settings)
    (tmp_path / "components" / "evil.py").write_text("kept")
    (tmp_path / "link").symlink_to("components")
    (tmp_path / "code").symlink_to("lib")
    (tmp_path / "a.txt").write_text("a")
    before = sorted(p for p in tmp_path.rglob("*"))
    for operation in ("write", "append", "delete", "mkdir"):
        assert refused(tmp_path, operation, path, content="x", missing_ok=True) == "path_protected"
    assert refused(tmp_path, "move", path, destination="b.txt") == "path_protected"
    for operation in ("copy", "move"):
        assert refused(tmp_path, operation, "a.txt", destination=path) == "path_protected"
    assert sorted(p for p in tmp_path.rglob("*")) == before
    assert (tmp_path / "flowmason.json").read_text() == settings


def test_what_is_protected_can_be_read_and_names_alike_written(tmp_path: Path):
    (tmp_path / "flowmason.json").write_text("{}")
    assert do(tmp_path, "read", "flowmason.json").content == "{}"
    assert do(tmp_path, "list", "components/..", pattern="*").files == ["flowmason.json"]
    for path in ("components.txt", "out/components/a.py", "data/flowmason.json", "x.json"):
        assert do(tmp_path, "write", path, content="x").changed


def test_components_in_the_projects_directory_itself_protect_its_code_only(tmp_path: Path):
    (tmp_path / "flowmason.json").write_text('{"components": ["."]}')
    assert refused(tmp_path, "write", "out/evil.py", content="x") == "path_protected"
    assert do(tmp_path, "write", "out/a.txt", content="x").changed


def test_a_destination_or_pattern_outside_is_refused_too(tmp_path: Path):
    project = tmp_path / "project"
    project.mkdir()
    (tmp_path / "secret.txt").write_text("s")
    (project / "a.txt").write_text("a")
    (project / "link").symlink_to(tmp_path)
    assert refused(project, "copy", "a.txt", destination="../b.txt") == "path_outside_project"
    assert refused(project, "list", ".", pattern="../*") == "path_outside_project"
    assert do(project, "list", ".", pattern="link/*.txt").files == []


def test_errors_say_what_is_wrong(tmp_path: Path):
    (tmp_path / "sales.csv").write_text("a")
    (tmp_path / "bad.json").write_text("{\n oops")
    (tmp_path / "latin.txt").write_bytes(b"\xff")
    with pytest.raises(PermanentError, match=r"'sale.csv' in the project. Did you mean 'sales.csv'\?"):
        do(tmp_path, "read", "sale.csv")
    with pytest.raises(PermanentError, match="line 2, column 2"):
        do(tmp_path, "read", "bad.json", format="json")
    assert refused(tmp_path, "read", "latin.txt") == "encoding_error"
    assert refused(tmp_path, "read", ".") == "is_a_directory"
    assert refused(tmp_path, "write", "x", content={"a": 1}) == "invalid_input"
    assert refused(tmp_path, "write", "sales.csv", content="", overwrite=False) == "file_exists"
    assert refused(tmp_path, "delete", "nope", missing_ok=False) == "file_not_found"
    assert refused(tmp_path, "read", "a\0b") == "invalid_path"
    assert refused(tmp_path, "write", "sales.csv/x", content="") in ("file_error", "file_exists")


def test_delete_copy_move_exists(tmp_path: Path):
    do(tmp_path, "write", "a", content="1")
    do(tmp_path, "copy", "a", destination="b")
    moved = do(tmp_path, "move", "b", destination="d/c")
    assert moved.path == "d/c"
    # A repeated attempt finds the work done.
    assert not do(tmp_path, "move", "b", destination="d/c").changed
    assert do(tmp_path, "exists", "d/c").exists
    assert not do(tmp_path, "exists", "b").exists
    assert do(tmp_path, "delete", "a").changed
    assert not do(tmp_path, "delete", "a").changed


def test_a_failed_write_leaves_the_old_content_and_no_litter(tmp_path: Path):
    file = tmp_path / "a"
    file.write_text("old")

    def fail(temporary: Path) -> None:
        temporary.write_text("half")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        write_atomic(file, fail)
    assert file.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_appending_again_with_the_same_key_changes_nothing(tmp_path: Path):
    for key in ("k1", "k2", "k1", "k3", "k2"):
        do(tmp_path, "append", "log.txt", key=key, content=f"{key}\n")
    assert (tmp_path / "log.txt").read_text() == "k1\nk2\nk3\n"


def test_an_append_torn_by_a_crash_is_repaired(tmp_path: Path):
    do(tmp_path, "append", "log.txt", key="a", content="first\n")
    do(tmp_path, "append", "log.txt", key="b", content="second\n")
    (tmp_path / "log.txt").write_text("first\nsec")
    assert do(tmp_path, "append", "log.txt", key="b", content="second\n").changed
    assert (tmp_path / "log.txt").read_text() == "first\nsecond\n"


def test_the_journal_of_appends_stays_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(append_module, "KEPT_RECORDS", 5)
    for n in range(40):
        append_module.append_once(tmp_path / "log", b"x", f"k{n}")
    assert (tmp_path / "log").read_text() == "x" * 40
    assert len((tmp_path / ".log.appended").read_text().splitlines()) <= 11
