"""Ten stories of two teams who change one pipeline, merged by real git: what they expect is what they get."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import pytest

from flowmason_ray.api import validate
from tests.git_kit import FILE, Repository
from tests.stories import PROMPT, Document, at, copies, log, renamed, support, variable, without


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository.create(tmp_path)


def merged(repository: Repository, ours: Document, theirs: Document, base: Document | None = None) -> Document:
    """Merge with git, cleanly, and return the pipeline, which can be run."""
    repository.fork(base or support(), ours, theirs)
    repository.git("merge", "-q", "side", "-m", "merge")
    assert repository.git("status", "--porcelain") == ""
    assert validate(repository.root / FILE) == []
    return repository.read()


def conflicting(repository: Repository, ours: Document, theirs: Document) -> list[Document]:
    """Merge with git, not cleanly, and return the conflicts that the file holds. Nothing takes it for a pipeline."""
    assert validate(support()) == validate(ours) == validate(theirs) == []
    repository.fork(support(), ours, theirs)
    assert "fm merge --continue" in repository.git("merge", "side", "-m", "merge", fails=True)
    done = repository.fm("validate", FILE)
    assert (done.code, "not finished" in done.err) == (2, True)
    return cast("list[Document]", repository.read()["$conflicts"]["open"])


def decided(repository: Repository, *options: str) -> Document:
    """Decide everything, finish the merge, and return the pipeline."""
    done = repository.fm("merge", "--continue", FILE, *options)
    assert done.code == 0, done.err
    repository.git("commit", "-aqm", "merge")
    assert validate(repository.root / FILE) == []
    return repository.read()


def config(document: Document, stage: str) -> Document:
    return cast("Document", at(document, stage)["config"])


def test_1_two_teams_add_a_stage_at_the_same_place(repository: Repository) -> None:
    _, ours, theirs = copies(support())
    ours["stages"].append(log("audit", "Seen: {{ stages.clean.value }}"))
    theirs["stages"].append(log("notify", "New: {{ stages.clean.value }}"))
    result = merged(repository, ours, theirs)
    assert [s["id"] for s in result["stages"]][-2:] == ["audit", "notify"]


def test_2_one_team_renames_a_stage_and_the_other_edits_it_and_reads_it(repository: Repository) -> None:
    _, ours, theirs = copies(support())
    ours = renamed(ours, "clean", "normalise")
    config(theirs, "clean")["value"] = "{{ input.ticket | trim | truncate(2000) }}"
    theirs["stages"].append(log("archive", "{{ stages.clean.value }} is kept"))
    result = merged(repository, ours, theirs)
    assert config(result, "normalise")["value"] == "{{ input.ticket | trim | truncate(2000) }}"
    assert config(result, "archive")["message"] == "{{ stages.normalise.value }} is kept"
    assert config(result, "file_bug")["message"] == "A bug: {{ stages.normalise.value }}"


def test_3_one_team_moves_everything_in_the_editor_and_the_other_changes_settings(repository: Repository) -> None:
    _, ours, theirs = copies(support())
    ours["stages"] = [{**s, "position": {"x": 10 * n, "y": 5}} for n, s in enumerate(reversed(ours["stages"]))]
    at(theirs, "report")["retry"] = {"max_attempts": 3}
    theirs["timeout_ms"] = 60_000
    result = merged(repository, ours, theirs)
    assert [s["id"] for s in result["stages"]] == [s["id"] for s in ours["stages"]]
    assert (at(result, "report")["retry"], result["timeout_ms"]) == ({"max_attempts": 3}, 60_000)


def test_4_both_teams_rewrite_the_same_prompt(repository: Repository) -> None:
    _, ours, theirs = copies(support())
    config(ours, "answer")["message"] = PROMPT.replace("short", "brief")
    config(theirs, "answer")["message"] = PROMPT.replace("a refund", "money back")
    conflicts = conflicting(repository, ours, theirs)
    assert [(c["kind"], c["path"]) for c in conflicts] == [("both_changed", "/stages/answer/config/message")]
    assert (conflicts[0]["base"], conflicts[0]["theirs"]) == (PROMPT, config(theirs, "answer")["message"])
    result = decided(repository, "--choose", "/stages/answer/config/message=theirs")
    assert config(result, "answer")["message"] == config(theirs, "answer")["message"]


def test_5_one_team_removes_what_the_other_begins_to_read(repository: Repository) -> None:
    _, ours, theirs = copies(support())
    ours = without(ours, "words")
    config(ours, "report")["message"] = "A ticket is done."
    theirs["stages"].append(log("bill", "{{ stages.words.value }} characters"))
    conflicts = conflicting(repository, ours, theirs)
    assert [(c["kind"], c["code"]) for c in conflicts] == [("semantic", "unknown_stage")]
    edits = conflicts[0]["edits"]
    assert (edits["ours"]["path"], edits["theirs"]["path"]) == ("/stages/words", "/stages/bill")
    result = decided(repository, "--theirs")
    assert {"words", "bill"} <= {s["id"] for s in result["stages"]}


def test_6_two_orders_that_close_a_circle(repository: Repository) -> None:
    _, ours, theirs = copies(support())
    at(ours, "words")["depends_on"] = ["report"]
    config(ours, "report")["message"] = "A ticket is done."
    at(theirs, "report")["depends_on"] = ["triage", "words"]
    config(theirs, "report")["level"] = "debug"
    conflicts = conflicting(repository, ours, theirs)
    assert [(c["kind"], c["code"]) for c in conflicts] == [("semantic", "cycle")]
    assert "report → words → report" in conflicts[0]["why"]
    result = decided(repository, "--ours")
    assert at(result, "words")["depends_on"] == ["report"]
    assert config(result, "report")["level"] == "debug"


def test_7_a_new_route_to_a_stage_that_the_other_team_removed(repository: Repository) -> None:
    _, ours, theirs = copies(support())
    ours = without(ours, "ask_back")
    del config(ours, "triage")["default_route"]
    config(theirs, "triage")["routes"]["unclear"] = ["ask_back"]
    config(theirs, "triage")["default_route"] = []
    conflicts = conflicting(repository, ours, theirs)
    assert [c["kind"] for c in conflicts] == ["changed_and_removed"]
    done = repository.fm("merge", "--continue", FILE, "--theirs")
    assert (done.code, "'ask_back' in its body, which is not in the pipeline" in done.err) == (1, True)


def test_8_schemas_tags_and_routes_grow_on_both_sides(repository: Repository) -> None:
    _, ours, theirs = copies(support())
    for side, name in ((ours, "language"), (theirs, "customer")):
        side["input_schema"]["properties"][name] = {"type": "string"}
        side["input_schema"]["required"].append(name)
        side["tags"].append(name)
        side["stages"].append(log(f"by_{name}", f"{{{{ input.{name} }}}}"))
        config(side, "triage")["routes"][name] = [f"by_{name}"]
    result = merged(repository, ours, theirs)
    assert set(result["input_schema"]["required"]) == {"ticket", "language", "customer"}
    assert set(result["tags"]) == {"support", "language", "customer"}
    assert set(config(result, "triage")["routes"]) == {"bug", "question", "language", "customer"}


def test_9_a_field_that_one_team_closes_off_and_the_other_reads(repository: Repository) -> None:
    """Nothing collides in the file; only the planner knows that it does not go together."""
    _, ours, theirs = copies(support())
    ours["input_schema"]["additionalProperties"] = False
    config(theirs, "report")["message"] = "From {{ input.customer }}: {{ stages.words.value }} characters."
    conflicts = conflicting(repository, ours, theirs)
    assert [(c["kind"], c["code"]) for c in conflicts] == [("semantic", "unknown_field")]
    edits = conflicts[0]["edits"]
    assert edits["ours"]["path"] == "/input_schema/additionalProperties"
    assert edits["theirs"]["path"] == "/stages/report/config/message"
    assert "additionalProperties" not in decided(repository, "--theirs")["input_schema"]


def test_10_one_team_works_in_older_spellings(repository: Repository) -> None:
    import json

    base, ours, theirs = copies(support())
    words = at(ours, "words")
    words["type"] = words.pop("component_type")
    words["inputs"] = {**words.pop("config"), "value": "{{ upstream.clean.value | length }}"}
    words["retry_config"] = {"max_retries": 2}
    at(theirs, "words")["description"] = "How long it is."
    theirs["stages"].append(variable("half", "{{ stages.words.value / 2 }}"))
    repository.fork(base, ours, theirs)
    repository.git("checkout", "-q", "main")
    (repository.root / FILE).write_text(json.dumps(ours), encoding="utf-8")  # on one line, as their tool writes it
    repository.git("commit", "-qam", "older", "--no-verify")
    repository.git("merge", "-q", "side", "-m", "merge")
    result = repository.read()
    assert validate(repository.root / FILE) == []
    assert at(result, "words") == {
        **at(base, "words"),
        "description": "How long it is.",
        "retry": {"max_attempts": 3},
    }


def test_the_stories_begin_and_are_renamed_in_valid_pipelines() -> None:
    assert validate(support()) == []
    assert validate(renamed(support(), "clean", "normalise")) == []
