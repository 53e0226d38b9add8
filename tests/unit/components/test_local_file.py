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


def test_what_is_kept_for_runs_and_writes_is_not_listed(tmp_path: Path):
    do(tmp_path, "append", "data/a.log", content="1")
    do(tmp_path, "append", "data/b.log", content="1")
    do(tmp_path, "move", "data/b.log", destination="data/c.log")
    (tmp_path / "data" / "mine.appended").write_text("not ours")
    (tmp_path / "data" / ".mine.tmp").write_text("not ours")
    (tmp_path / "state").symlink_to(".flowmason")
    (tmp_path / "moves").symlink_to(".flowmason/moved.jsonl")
    during: list[list[str] | None] = []

    def look(temporary: Path) -> None:
        temporary.write_text("x")
        during.append(do(tmp_path, "list", ".", pattern="**/*").files)

    write_atomic(tmp_path / "data" / "new", look)
    assert during == [["data/.mine.tmp", "data/a.log", "data/c.log", "data/mine.appended"]]
    assert do(tmp_path, "list", ".", pattern="state/*").files == []


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


def test_what_must_not_be_replaced_is_done_when_it_was_written_already(tmp_path: Path):
    do(tmp_path, "write", "a", content="1")
    for operation, path, options in (("write", "b", {"content": "1"}), ("copy", "a", {"destination": "c"})):
        done = do(tmp_path, operation, path, overwrite=False, **options)
        again = do(tmp_path, operation, path, overwrite=False, **options)
        assert (done.changed, again.changed) == (True, False), "a crash came before the first attempt was recorded"
        assert (again.path, again.exists, again.size_bytes) == (done.path, True, 1)
        (tmp_path / done.path).write_text("2")
        assert refused(tmp_path, operation, path, overwrite=False, **options) == "file_exists"
        assert (tmp_path / done.path).read_text() == "2"


@pytest.mark.parametrize(
    ("content", "words"),
    [("[" * 100_000 + "]" * 100_000, "nest too deeply"), ("9" * 5000, "4300 digits"), ("{", "line 1, column 2")],
    ids=["deep", "digits", "torn"],
)
def test_json_that_cannot_be_read_is_told(tmp_path: Path, content: str, words: str):
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(PermanentError, match=rf"File 'a\.json' is not JSON.*{words}") as caught:
        do(tmp_path, "read", "a.json", format="json")
    assert caught.value.code == "invalid_json"


def test_json_that_cannot_be_written_is_told(tmp_path: Path):
    deep: Any = 1
    for _ in range(100_000):
        deep = [deep]
    for content, words in (
        (deep, "nest too deeply"),
        ([10**5000], "4300 digits"),
        ({"a": "\ud800"}, "surrogate"),
        ({"a": object()}, "Object of type object"),
    ):
        with pytest.raises(PermanentError, match=rf"'content' cannot be written as JSON: .*{words}") as caught:
            do(tmp_path, "write", "a.json", content=content, format="json")
        assert caught.value.code == "invalid_input"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("encoding", ["undefined", "zlib", "a\0", "idna"])
def test_an_encoding_that_is_none_for_texts_is_told(tmp_path: Path, encoding: str):
    (tmp_path / "a.txt").write_bytes(b"x" * 70 + b".")
    if encoding != "idna":
        assert refused(tmp_path, "read", "a.txt", encoding=encoding) == "encoding_error"
    assert refused(tmp_path, "write", "b.txt", content="x" * 70 + ".", encoding=encoding) == "encoding_error"


@pytest.mark.parametrize("overwrite", [True, False])
def test_moving_what_is_not_there_fails_although_the_destination_exists(tmp_path: Path, overwrite: bool):
    do(tmp_path, "write", "kept.txt", content="old")
    assert refused(tmp_path, "move", "nosuch.txt", destination="kept.txt", overwrite=overwrite) == "file_not_found"
    do(tmp_path, "write", "in.txt", content="new")
    assert do(tmp_path, "move", "in.txt", destination="out.txt", overwrite=overwrite, key="one").changed
    # The same attempt again, and not another one.
    assert not do(tmp_path, "move", "in.txt", destination="out.txt", overwrite=overwrite, key="one").changed
    with pytest.raises(PermanentError, match=r"no file 'in\.txt'"):
        do(tmp_path, "move", "in.txt", destination="out.txt", overwrite=overwrite, key="two")
    # Nor when something else lies there by now.
    do(tmp_path, "write", "out.txt", content="of another stage")
    with pytest.raises(PermanentError, match=r"no file 'in\.txt'"):
        do(tmp_path, "move", "in.txt", destination="out.txt", overwrite=overwrite, key="one")


def test_moves_are_remembered_for_a_while_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(append_module, "KEPT_RECORDS", 3)
    for n in range(20):
        do(tmp_path, "write", "a", content=str(n))
        do(tmp_path, "move", "a", destination=f"b{n}", key=f"k{n}")
    assert len((tmp_path / ".flowmason" / "moved.jsonl").read_text().splitlines()) <= 6
    assert not do(tmp_path, "move", "a", destination="b19", key="k19").changed


def test_deleting_a_link_leaves_what_it_leads_to(tmp_path: Path):
    (tmp_path / "target.txt").write_text("t")
    (tmp_path / "folder").mkdir()
    for name, to in (("file", "target.txt"), ("folder/up", "../target.txt"), ("dir", "folder"), ("nowhere", "gone")):
        (tmp_path / name).symlink_to(to)
        done = do(tmp_path, "delete", name)
        assert (done.changed, done.exists, done.path) == (True, False, name)
        assert not (tmp_path / name).is_symlink()
    (tmp_path / "p.pipeline.json").symlink_to("target.txt")
    with pytest.raises(PermanentError) as caught:
        do(tmp_path, "delete", "p.pipeline.json")
    assert caught.value.code == "path_protected"
    (tmp_path / "file").symlink_to("target.txt")
    assert do(tmp_path, "delete", str(tmp_path / "file")).path == "file"
    assert (tmp_path / "target.txt").read_text() == "t"
    assert (tmp_path / "folder").is_dir()


def test_a_link_is_not_deleted_on_whose_way_a_store_lies(tmp_path: Path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "data").symlink_to("elsewhere")
    (tmp_path / "flowmason.json").write_text('{"stores": {"runs": "data/runs.db"}}')
    assert refused(tmp_path, "delete", "data") == "path_protected"
    assert (tmp_path / "data").is_symlink()
    assert do(tmp_path, "mkdir", "data").exists
    do(tmp_path, "write", "data/a.txt", content="a")
    assert do(tmp_path, "delete", "data/a.txt").changed


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


@pytest.mark.parametrize("leads_to", ["target.txt", "gone"])
def test_moving_a_link_moves_the_link_itself(tmp_path: Path, leads_to: str):
    (tmp_path / "target.txt").write_text("t")
    (tmp_path / "link").symlink_to(leads_to)
    moved = do(tmp_path, "move", "link", destination="other")
    assert (moved.path, moved.exists, moved.changed) == ("other", True, True)
    assert moved.size_bytes == (1 if leads_to == "target.txt" else None)
    assert (tmp_path / "other").readlink() == Path(leads_to)
    assert not (tmp_path / "link").is_symlink()
    assert (tmp_path / "target.txt").read_text() == "t"
    again = do(tmp_path, "move", "link", destination="other")
    assert (again.path, again.exists, again.changed) == ("other", True, False), "the same attempt again"
    assert refused(tmp_path, "move", "link", destination="other", key="another") == "file_not_found"


def test_a_link_is_not_moved_where_it_leads_outside_or_onto_what_it_leads_to(tmp_path: Path):
    project = tmp_path / "project"
    (project / "deep").mkdir(parents=True)
    (project / "a.txt").write_text("a")
    (project / "deep" / "up").symlink_to("../a.txt")
    assert refused(project, "move", "deep/up", destination="up") == "path_outside_project"
    assert refused(project, "move", "deep/up", destination="a.txt") == "invalid_input"
    assert refused(project, "move", "deep/up", destination="deep/x.pipeline.json") == "path_protected"
    assert refused(project, "move", "deep/up", destination="deep") == "is_a_directory"
    (project / "folder").symlink_to("deep")
    assert refused(project, "move", "folder", destination="moved") == "is_a_directory", "what lies in it may be trusted"
    (project / "p.pipeline.json").symlink_to("a.txt")
    assert refused(project, "move", "p.pipeline.json", destination="b.txt") == "path_protected"
    assert (project / "a.txt").read_text() == "a"
    assert (project / "deep" / "up").read_text() == "a"
    assert do(project, "move", "deep/up", destination="deep/b").size_bytes == 1


def test_moving_a_link_onto_another_to_the_same_file_names_the_file(tmp_path: Path):
    (tmp_path / "real.txt").write_text("r")
    for name in ("a", "b"):
        (tmp_path / name).symlink_to("real.txt")
    with pytest.raises(PermanentError, match=r"The link 'a' leads to 'real\.txt', which it would replace"):
        do(tmp_path, "move", "a", destination="b")
    assert (tmp_path / "a").is_symlink()


def test_moving_a_file_onto_another_name_of_it_takes_the_first_name_away(tmp_path: Path):
    (tmp_path / "a").write_text("1")
    (tmp_path / "b").hardlink_to(tmp_path / "a")
    assert refused(tmp_path, "move", "a", destination="b", overwrite=False) == "file_exists"
    assert do(tmp_path, "move", "a", destination="b").changed
    assert not (tmp_path / "a").exists()
    assert (tmp_path / "b").read_text() == "1"
    assert not do(tmp_path, "move", "a", destination="b").changed, "the same attempt again"
    (tmp_path / "c").hardlink_to(tmp_path / "b")
    do(tmp_path, "move", "b", destination="b", key="onto itself")
    assert (tmp_path / "b").read_text() == "1"
