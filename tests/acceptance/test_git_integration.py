"""`fm git install`: what git does with pipelines then, in real repositories, and that nothing of it stays behind."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.git_kit import FILE, Document, Repository
from tests.stories import at, copies, log, support, without


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository.create(tmp_path)


def with_stage(document: Document, name: str) -> Document:
    return {**document, "stages": [*document["stages"], log(name, f"I am {name}.")]}


def names(document: Document) -> set[str]:
    return {s["id"] for s in document["stages"]}


# -- ways to merge -------------------------------------------------------------------------------------------------------


def test_without_the_drivers_git_conflicts_where_nothing_does(tmp_path: Path) -> None:
    repository = Repository.create(tmp_path, drivers=False)
    repository.fork(support(), with_stage(support(), "a"), with_stage(support(), "b"))
    assert "CONFLICT" in repository.git("merge", "side", fails=True)


def test_rebase(repository: Repository) -> None:
    repository.fork(support(), with_stage(support(), "a"), with_stage(support(), "b"))
    repository.git("rebase", "-q", "main", "side")
    assert {"a", "b"} <= names(repository.read())


def test_cherry_pick(repository: Repository) -> None:
    repository.fork(support(), with_stage(support(), "a"), with_stage(support(), "b"))
    repository.git("cherry-pick", "side")
    assert {"a", "b"} <= names(repository.read())


def test_stash_pop(repository: Repository) -> None:
    repository.commit("base", support())
    repository.write(with_stage(support(), "a"))
    repository.git("stash", "-q")
    repository.commit("other", with_stage(support(), "b"))
    repository.git("stash", "pop", "-q")
    assert {"a", "b"} <= names(repository.read())


def test_both_sides_add_the_file(repository: Repository) -> None:
    repository.commit("root")  # the attributes
    repository.git("checkout", "-q", "-b", "side")
    repository.commit("theirs", support())
    repository.git("checkout", "-q", "main")
    repository.commit("ours", {**support(), "stages": list(reversed(support()["stages"]))})
    repository.git("merge", "-q", "side", "-m", "merge")
    assert names(repository.read()) == names(support())


@pytest.mark.parametrize("side", ["ours", "theirs"])
def test_one_side_renames_the_file(repository: Repository, side: str) -> None:
    repository.commit("base", support())
    repository.git("checkout", "-q", "-b", "side")
    repository.commit("theirs", with_stage(support(), "b"))
    if side == "theirs":
        repository.git("mv", FILE, "moved.pipeline.json")
        repository.commit("move")
    repository.git("checkout", "-q", "main")
    repository.commit("ours", with_stage(support(), "a"))
    if side == "ours":
        repository.git("mv", FILE, "moved.pipeline.json")
        repository.commit("move")
    repository.git("merge", "-q", "side", "-m", "merge")
    assert {"a", "b"} <= names(repository.read("moved.pipeline.json"))


def test_an_octopus_is_checked_before_it_is_committed(repository: Repository) -> None:
    """Git merges three heads by line and asks no driver; what comes out broken is stopped by the hook."""
    base, remover, reader = copies(support())
    remover = without(remover, "words")
    at(remover, "report")["config"]["message"] = "Done."
    at(reader, "file_bug")["config"]["message"] = "A bug in {{ stages.words.value }} characters."
    repository.commit("base", base)
    for name, document in (("describer", {**base, "description": "Other."}), ("remover", remover), ("reader", reader)):
        repository.git("checkout", "-q", "-b", name, "main")
        repository.commit(name, document)
    repository.git("checkout", "-q", "main")
    repository.git("commit", "-q", "--allow-empty", "-m", "apart")
    repository.git("merge", "-q", "describer", "reader", "-m", "clean")
    repository.git("reset", "-q", "--hard", "HEAD~1")
    told = repository.git("merge", "describer", "remover", "reader", "-m", "octopus", fails=True)
    assert "'words', which is not in the pipeline" in told
    assert "Not committing merge" in told


def test_a_criss_cross_history(repository: Repository) -> None:
    """The common ancestor is itself a merge that conflicts; git must not hand its marks to the driver as a base."""
    repository.fork(support(), _worded("ours"), _worded("theirs"))
    repository.git("checkout", "-q", "-b", "other", "main")
    repository.git("merge", "side", "-m", "x", fails=True)
    assert repository.fm("merge", "--continue", FILE, "--ours").code == 0
    repository.git("commit", "-qam", "as ours", "--no-verify")
    repository.git("checkout", "-q", "side")
    repository.git("merge", "main", "-m", "x", fails=True)
    assert repository.fm("merge", "--continue", FILE, "--theirs").code == 0
    repository.git("commit", "-qam", "as ours, from the other side", "--no-verify")
    repository.commit("more", with_stage(repository.read(), "b"))
    repository.git("checkout", "-q", "other")
    repository.commit("more", with_stage(repository.read(), "a"))
    repository.git("merge", "side", "-m", "y")
    assert {"a", "b"} <= names(repository.read())


def _worded(text: str) -> Document:
    _, document, _ = copies(support())
    at(document, "ask_back")["config"]["message"] = text
    return document


# -- conflicts -----------------------------------------------------------------------------------------------------------


def test_a_conflict_stops_the_merge_and_is_data_in_the_file(repository: Repository) -> None:
    repository.fork(support(), _worded("ours"), _worded("theirs"))
    told = repository.git("merge", "side", "-m", "merge", fails=True)
    assert "conflict /stages/ask_back/config/message" in told
    assert f"UU {FILE}" in repository.git("status", "--porcelain")
    assert next(iter(repository.read())) == "$conflicts"
    assert repository.fm("validate", FILE).code == 2
    assert repository.fm("run", FILE, "--sample").code == 2
    repository.git("add", FILE)
    assert "not finished" in repository.git("commit", "-m", "no", fails=True)


def test_a_side_that_is_no_pipeline_is_merged_by_line(repository: Repository) -> None:
    repository.fork(support(), with_stage(support(), "a"), {**support(), "stages": [{"id": "x"}]})
    told = repository.git("merge", "side", "-m", "merge", fails=True)
    assert "theirs is no valid pipeline, so it is merged by line" in told
    assert "<<<<<<< ours" in (repository.root / FILE).read_text(encoding="utf-8")


@pytest.mark.parametrize("crash", ["exit 1", "exit 139", "kill -9 $$", "no-such-program"])
def test_a_driver_that_crashes_leaves_gits_own_merge(repository: Repository, crash: str) -> None:
    program = repository.git("config", "merge.flowmason.driver").split(" git merge-driver")[0]
    broken = repository.git("config", "merge.flowmason.driver").replace(program, f"sh -c '{crash}' x", 1)
    repository.git("config", "merge.flowmason.driver", broken.strip())
    repository.fork(support(), _worded("ours"), {**support(), "description": "Other."})
    repository.git("merge", "-q", "side", "-m", "clean")
    assert (repository.read()["description"], at(repository.read(), "ask_back")["config"]["message"]) == (
        "Other.",
        "ours",
    )
    repository.git("checkout", "-q", "side")
    repository.commit("theirs", {**_worded("theirs"), "description": "Other."})
    repository.git("checkout", "-q", "main")
    repository.git("merge", "side", "-m", "conflict", fails=True)
    assert "<<<<<<< ours" in (repository.root / FILE).read_text(encoding="utf-8")


def test_a_module_in_the_repository_does_not_stand_in_for_pythons(repository: Repository) -> None:
    for name in ("json", "typing", "flowmason_ray"):
        (repository.root / f"{name}.py").write_text("raise SystemExit(0)\n", encoding="utf-8")
    repository.fork(support(), with_stage(support(), "a"), with_stage(support(), "b"))
    repository.git("merge", "-q", "side", "-m", "merge")
    assert {"a", "b"} <= names(repository.read())


# -- what git shows ------------------------------------------------------------------------------------------------------


def test_git_diff_shows_stages(repository: Repository) -> None:
    repository.commit("base", support())
    repository.write(with_stage(support(), "a"))
    assert "+ stage a (logger) added" in repository.git("diff")
    repository.write({**support(), "stages": [{**s, "position": {"x": 1}} for s in reversed(support()["stages"])]})
    assert "no differences" in repository.git("diff")
    (repository.root / FILE).write_text("{", encoding="utf-8")
    assert "\n+{" in repository.git("diff")


def test_git_log_compares_what_matters(repository: Repository) -> None:
    repository.commit("base", support())
    moved = {**support(), "stages": [{**s, "position": {"x": 1}} for s in reversed(support()["stages"])]}
    repository.commit("moved", moved)
    assert "@@" not in repository.git("log", "-p", "-1")
    repository.commit("worded", _worded("other"))
    assert '+        "message": "other"' in repository.git("log", "-p", "-1")


# -- hooks ---------------------------------------------------------------------------------------------------------------


def test_what_is_staged_is_checked_not_what_lies_around(repository: Repository) -> None:
    repository.write({**support(), "output_stage_id": "nobody"})
    repository.git("add", "-A")
    repository.write(support())
    assert "'nobody'" in repository.git("commit", "-m", "no", fails=True)
    repository.git("add", "-A")
    repository.write({**support(), "output_stage_id": "nobody"})
    repository.git("commit", "-q", "-m", "yes")


def family(repository: Repository) -> Document:
    """Commit a base, a child that overrides nothing and a pipeline that composes the child; return the base."""
    base: Document = {
        "name": "base",
        "stages": [{"id": "load", "component_type": "logger", "config": {"message": "loading"}}],
        "output": {"n": 1},
    }
    repository.write(base, "base.pipeline.json")
    repository.write({"name": "child", "extends": "base", "tags": ["x"]}, "child.pipeline.json")
    whole = {"name": "whole", "compositions": [{"id": "c", "pipeline": "child"}], "output": {"n": "{{ stages.c.n }}"}}
    repository.write(whole, "whole.pipeline.json")
    repository.git("add", "-A")
    repository.git("commit", "-q", "-m", "base")
    return base


def test_a_base_that_breaks_a_child_nobody_touched_is_stopped(repository: Repository) -> None:
    base = family(repository)
    repository.write({**base, "output": {"m": 1}}, "base.pipeline.json")  # `whole` keeps `n`
    told = repository.git("commit", "-qam", "other output", fails=True)
    assert "whole.pipeline.json" in told
    assert "1 pipeline cannot be run, so nothing is committed" in told
    repository.git("checkout", "-q", "base.pipeline.json", fails=False)
    repository.git("reset", "-q", "--hard")
    repository.git("rm", "-q", "base.pipeline.json")
    told = repository.git("commit", "-qm", "gone", fails=True)
    assert "There is no pipeline called 'base'" in told
    assert "child.pipeline.json" in told
    repository.git("reset", "-q", "--hard")
    repository.write({**base, "tags": ["fine"]}, "base.pipeline.json")
    repository.git("commit", "-qam", "harmless")


def test_a_merge_of_a_base_and_a_child_that_no_longer_fit_is_stopped_on_either_side(repository: Repository) -> None:
    """No file is changed by both, so no driver is asked; only together they are broken."""
    base = family(repository)
    repository.git("checkout", "-q", "-b", "side")
    overriding = {"name": "child", "extends": "base", "overrides": {"load": {"config": {"message": "mine"}}}}
    repository.write(overriding, "child.pipeline.json")
    repository.git("commit", "-qam", "override")
    repository.git("checkout", "-q", "main")
    base["stages"][0]["id"] = "fetch"
    repository.write(base, "base.pipeline.json")
    repository.git("commit", "-qam", "rename")
    for ours, theirs in (("main", "side"), ("side", "main")):
        repository.git("checkout", "-q", ours)
        told = repository.git("merge", "-m", "both", theirs, fails=True)
        assert "error[unknown_override]: No stage 'load' is inherited" in told
        repository.git("merge", "--abort")


def test_a_hook_that_is_there_is_run_first_and_comes_back(tmp_path: Path) -> None:
    repository = Repository.create(tmp_path, drivers=False)
    hook = repository.root / ".git" / "hooks" / "pre-commit"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text("#!/bin/sh\necho mine >> ran\nexit ${FAIL:-0}\n", encoding="utf-8")
    hook.chmod(0o750)
    assert repository.fm("git", "install").code == 0
    assert repository.fm("git", "install").code == 0
    repository.write(support())
    repository.git("add", FILE)
    repository.git("commit", "-q", "-m", "yes")
    assert (repository.root / "ran").read_text(encoding="utf-8") == "mine\n"
    assert repository.fm("git", "uninstall").code == 0
    assert (hook.read_text(encoding="utf-8")[:20], hook.stat().st_mode & 0o777) == ("#!/bin/sh\necho mine ", 0o750)
    assert [p.name for p in hook.parent.iterdir() if "flowmason" in p.name] == []


def test_a_foreign_hook_that_came_later_is_left_alone(repository: Repository) -> None:
    hook = repository.root / ".git" / "hooks" / "pre-commit"
    hook.write_text("#!/bin/sh\n", encoding="utf-8")
    assert repository.fm("git", "uninstall").code == 0
    assert hook.read_text(encoding="utf-8") == "#!/bin/sh\n"


def test_hooks_of_others_are_left_alone(tmp_path: Path) -> None:
    repository = Repository.create(tmp_path, drivers=False)
    shared = tmp_path / "shared"
    shared.mkdir()
    repository.git("config", "core.hooksPath", str(shared))
    assert "core.hooksPath" in repository.fm("git", "install").err
    assert list(shared.iterdir()) == []


# -- nothing stays behind ------------------------------------------------------------------------------------------------


def snapshot(root: Path) -> dict[str, tuple[bytes, int]]:
    """Return every file with its content and mode, but for what git itself keeps changing."""
    found: dict[str, tuple[bytes, int]] = {}
    for folder, _, files in os.walk(root):
        for name in files:
            file = Path(folder, name)
            found[str(file.relative_to(root))] = (file.read_bytes(), file.stat().st_mode)
    return found


ATTRIBUTES = [None, b"", b"*.png binary\n", b"*.png binary", b"*.png binary\r\n*.txt text", b"\n\n"]


@pytest.mark.parametrize("attributes", ATTRIBUTES)
def test_uninstall_leaves_every_byte_as_it_was(tmp_path: Path, attributes: bytes | None) -> None:
    repository = Repository.create(tmp_path, drivers=False)
    if attributes is not None:
        (repository.root / ".gitattributes").write_bytes(attributes)
    before = snapshot(tmp_path)
    for _ in range(2):
        assert repository.fm("git", "install").code == 0
    assert "merge: flowmason" in repository.git("check-attr", "merge", FILE)
    if attributes and b"png" in attributes:
        assert "diff: unset" in repository.git("check-attr", "diff", "a.png")
    assert repository.fm("git", "uninstall").code == 0
    assert snapshot(tmp_path) == before
    assert repository.fm("git", "uninstall").code == 0
    assert snapshot(tmp_path) == before


def test_everywhere(tmp_path: Path) -> None:
    repository = Repository.create(tmp_path, drivers=False)
    (tmp_path / "home" / ".gitconfig").write_text("[user]\n\tname = Me\n", encoding="utf-8")
    before = snapshot(tmp_path)
    assert "belongs to a repository" in repository.fm("git", "install", "--global").err
    repository.fork(support(), with_stage(support(), "a"), with_stage(support(), "b"))
    repository.git("merge", "-q", "side", "-m", "merge")
    assert {"a", "b"} <= names(repository.read())
    assert repository.fm("git", "uninstall", "--global").code == 0
    kept = {name: facts for name, facts in snapshot(tmp_path / "home").items()}
    assert {f"home/{name}": facts for name, facts in kept.items()} == {
        name: facts for name, facts in before.items() if name.startswith("home/")
    }


def test_outside_of_a_repository(tmp_path: Path) -> None:
    repository = Repository(tmp_path)
    done = repository.fm("git", "install")
    assert (done.code, "not a git repository" in done.err) == (2, True)
