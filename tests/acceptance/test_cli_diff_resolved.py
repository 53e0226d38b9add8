"""`fm diff --resolved`: what a change in a base does to its children, with real git."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.cli_kit import Fm, command
from tests.git_kit import Repository

BASE: dict[str, Any] = {
    "name": "base",
    "version": "1.0.0",
    "abstract": True,
    "stages": [
        {"id": "load", "component_type": "logger", "config": {"message": "loading", "level": "info"}},
        {"id": "shape", "component_type": "abstract", "depends_on": ["load"]},
    ],
}


def child(name: str, extends: Any = "base", **more: Any) -> dict[str, Any]:
    return {
        "name": name,
        "extends": extends,
        "stages": [{"id": "shape", "component_type": "logger", "config": {"message": name}}],
        **more,
    }


def edited(**config: Any) -> dict[str, Any]:
    """Return the base with another way of loading."""
    base = json.loads(json.dumps(BASE))
    base["stages"][0]["config"].update(config)
    return base


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    made = Repository.create(tmp_path, drivers=False)
    made.write(BASE, "base.pipeline.json")
    made.write(child("plain"), "plain.pipeline.json")
    made.write(child("deaf", overrides={"load": {"config": {"message": "mine"}}}), "deaf.pipeline.json")
    made.write({"name": "other", "stages": BASE["stages"][:1]}, "other.pipeline.json")
    made.commit("one")
    made.git("tag", "one")
    return made


def titles(out: str) -> list[str]:
    return [line.partition(" (")[0] for line in out.splitlines() if ", resolved):" in line]


def test_a_base_that_changes_shows_in_the_children_that_hear_it(repository: Repository) -> None:
    repository.write(edited(message="reading"), "base.pipeline.json")
    raw = repository.fm("diff").out
    assert raw.startswith("base (")
    assert "plain (" not in raw
    done = repository.fm("diff", "--resolved")
    assert (done.code, titles(done.out)) == (0, ["base", "plain"])
    head = "plain (plain.pipeline.json at HEAD → plain.pipeline.json, resolved): 1 stage changed"
    assert head in done.out.splitlines()
    assert '    config.message (from base.pipeline.json:10): "loading" → "reading"' in done.out.splitlines()
    assert repository.fm("diff", "--resolved", "--exit-code").code == 1
    named = repository.fm("diff", "--resolved", "--exit-code", "deaf.pipeline.json")
    assert (named.code, named.out.splitlines()[0].endswith("resolved): no differences")) == (0, True)
    same = repository.fm("diff", "--resolved", "other.pipeline.json", "plain.pipeline.json")  # two files
    assert '    config.message (from base.pipeline.json:10): "loading" → "reading"' in same.out.splitlines()


def test_parents_are_those_of_the_revision(repository: Repository) -> None:
    repository.commit("two", edited(message="reading"), "base.pipeline.json")
    repository.commit("three", edited(message="reading", level="debug"), "base.pipeline.json")
    repository.write(edited(message="now"), "base.pipeline.json")
    for revisions in (("one", "HEAD~1"), ("one..HEAD~1",)):
        (told,) = repository.fm("diff", "--resolved", "--format", "json", *revisions, "--", "plain.pipeline.json").json[
            "files"
        ]
        assert told["changes"] == [{"path": "/stages/load/config/message", "old": "loading", "new": "reading"}]
        assert told["resolved"] is True
        source = {"stage": "load", "path": "config.message", "source": "from base.pipeline.json:10"}
        assert told["inherited"] == [source]
    assert '"loading" → "now"' in repository.fm("diff", "--resolved", "one", "--", "plain.pipeline.json").out
    assert repository.fm("diff", "--resolved", "HEAD", "HEAD").out == "No pipeline changed.\n"
    assert titles(repository.fm("diff", "--resolved", "one", "HEAD", "--", ".").out) == ["base", "deaf", "plain"]
    deeper = repository.root / "deeper"
    deeper.mkdir()
    there = repository.run(command("diff", "--resolved", "HEAD", "--", "../plain.pipeline.json"), cwd=deeper)
    assert '(from base.pipeline.json:10): "reading" → "now"' in there.out


def test_a_parent_in_a_file_of_any_name_and_settings_of_the_revision(repository: Repository) -> None:
    (repository.root / "lib").mkdir()
    repository.write(edited(message="old"), "lib/common.json")
    repository.write({**edited(message="shared"), "name": "shared"}, "lib/shared.pipeline.json")
    repository.write({"pipeline_dirs": ["lib"]}, "flowmason.json")
    repository.write(child("path", "./lib/common.json"), "path.pipeline.json")
    repository.write(child("named", "shared"), "named.pipeline.json")
    repository.commit("lib")
    repository.write(edited(message="new"), "lib/common.json")
    repository.git("mv", "lib/shared.pipeline.json", "shared.pipeline.json")
    repository.write({"pipeline_dirs": ["."]}, "flowmason.json")
    repository.commit("moved")
    done = repository.fm("diff", "--resolved", "HEAD~1", "HEAD", "--", "path.pipeline.json", "named.pipeline.json")
    assert '    config.message (from lib/common.json:10): "old" → "new"' in done.out.splitlines()
    assert "named.pipeline.json at HEAD, resolved): no differences" in done.out


def test_stages_that_a_parent_brings_and_takes(repository: Repository) -> None:
    check = {"id": "check", "component_type": "logger", "config": {"message": "checked"}, "depends_on": ["load"]}
    repository.commit("two", {**BASE, "stages": [*BASE["stages"], check]}, "base.pipeline.json")
    forth = repository.fm("diff", "--resolved", "one", "HEAD", "--", "plain.pipeline.json").out.splitlines()
    assert "+ stage check (logger) added, from base.pipeline.json:19" in forth
    assert '    config.message: + "checked"' in forth
    back = repository.fm("diff", "--resolved", "HEAD", "one", "--", "plain.pipeline.json").out.splitlines()
    assert "- stage check (logger) removed, was in base.pipeline.json:19" in back
    call = ("diff", "--resolved", "one", "HEAD", "--format")
    markdown = repository.fm(*call, "markdown", "--", "plain.pipeline.json").out
    assert "🟢 **Stage `check`** (logger) added, from base.pipeline.json:19" in markdown
    html = repository.fm(*call, "html", "--", "plain.pipeline.json").out
    assert "<small>logger, added, from base.pipeline.json:19</small>" in html
    assert 'data-change="added"' in html
    assert "+ check<br/>" in repository.fm(*call, "mermaid", "--", "plain.pipeline.json").out
    assert 'data-stage="check"' in repository.fm(*call, "svg", "--", "plain.pipeline.json").out


def test_what_cannot_be_put_together_names_revision_and_file(repository: Repository) -> None:
    repository.git("rm", "-q", "base.pipeline.json")
    repository.commit("lost")
    done = repository.fm("diff", "--resolved", "one", "HEAD")
    assert done.code == 2
    assert "error[pipeline_not_found]: There is no pipeline called 'base' in HEAD:pipelines, HEAD:" in done.err
    assert "--> HEAD:plain.pipeline.json:3:14 at /extends" in done.err
    assert titles(done.out) == ["base"]  # what can be compared is
    assert "fm-diff-" not in done.err
    left = repository.fm("diff", "--resolved", "HEAD")
    assert (left.code, left.out) == (0, "No pipeline changed.\n")
    assert "neither version can be put together: deaf.pipeline.json, plain.pipeline.json" in left.err
    assert repository.fm("diff", "--resolved", "HEAD", "--", "plain.pipeline.json").code == 2


def test_the_lock_of_the_revision_holds(repository: Repository) -> None:
    assert repository.fm("lock").code == 0
    repository.commit("locked")
    repository.commit("unlocked", edited(message="reading"), "base.pipeline.json")
    done = repository.fm("diff", "--resolved", "HEAD~1", "HEAD", "--", "plain.pipeline.json")
    assert done.code == 2
    assert "error[lock_mismatch]: 'base' (HEAD:base.pipeline.json) is not what the lock pins" in done.err
    assert "--> HEAD:plain.pipeline.json" in done.err
    assert repository.fm("lock").code == 0
    assert repository.fm("diff", "--resolved", "HEAD~1", "--", "plain.pipeline.json").code == 0


def test_a_slot_that_is_not_filled_any_more(repository: Repository) -> None:
    repository.commit("two", child("plain", stages=[]), "plain.pipeline.json")
    done = repository.fm("diff", "--resolved", "one", "HEAD")
    assert done.code == 2
    assert "error[unfilled_slot]: Slot 'shape', which HEAD:base.pipeline.json:14 leaves open" in done.err
    assert "--> HEAD:plain.pipeline.json" in done.err


def test_new_and_gone(repository: Repository) -> None:
    repository.write(child("new"), "new.pipeline.json")
    (repository.root / "plain.pipeline.json").unlink()
    added = repository.fm("diff", "--resolved", "new.pipeline.json").out.splitlines()
    assert added[0].endswith(", resolved): 2 stages added; about")
    assert "+ stage load (logger) added, from base.pipeline.json:6" in added
    assert "- stage load (logger) removed, was in base.pipeline.json:6" in repository.fm("diff", "--resolved").out


def test_links_and_what_is_broken_on_both_sides(repository: Repository) -> None:
    (repository.root / "link.pipeline.json").symlink_to("plain.pipeline.json")
    (repository.root / "odd.pipeline.json").write_text("{")
    repository.commit("two")
    repository.write(edited(message="reading"), "base.pipeline.json")
    done = repository.fm("diff", "--resolved", "link.pipeline.json")
    assert '(from base.pipeline.json:10): "loading" → "reading"' in done.out
    assert repository.fm("diff", "--resolved").code == 0  # what is broken on both sides is nobody's change
    assert repository.fm("diff", "--resolved", "odd.pipeline.json").code == 2


def test_two_files_are_each_put_together_where_they_lie(fm: Fm) -> None:
    for folder, message in (("one", "a"), ("two", "b")):
        fm.write(edited(message=message), f"{folder}/base.pipeline.json")
        fm.write("{}", f"{folder}/flowmason.json")
        fm.write(child("plain"), f"{folder}/plain.pipeline.json")
    pair = ("one/plain.pipeline.json", "two/plain.pipeline.json")
    assert fm("diff", *pair).out.endswith("): no differences\n")
    told = fm("diff", "--resolved", *pair).out.splitlines()
    assert any("(from two/base.pipeline.json:" in line and line.endswith('"a" → "b"') for line in told)
    missing = fm("diff", "--resolved", pair[0], "nothing.pipeline.json")
    assert (missing.code, "error[file_not_found]" in missing.err) == (2, True)
