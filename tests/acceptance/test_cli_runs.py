"""`fm runs`: what the run log tells afterwards."""

from __future__ import annotations

import json
import sqlite3
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from tests.cli_kit import Done, Fm, command, environment, pipeline, set_stage, stage

LOOP = pipeline(
    stage(
        "each",
        "foreach",
        config={"items": "{{ input.items }}", "loop_stages": ["work"], "break_on_error": False},
    ),
    stage(
        "work",
        config={"failures": "{{ item }}"},
        retry={"max_attempts": 2, "initial_delay_ms": 1},
    ),
    stage("maybe", when="false"),
    output={"errors": "{{ stages.each.errors | length }}"},
)


@pytest.fixture
def ran(fm: Fm) -> Done:
    """A run of three items: one at once, one at the second attempt, one never."""
    done = fm("run", fm.write(LOOP), "-i", '{"items": [0, 1, 2]}', "--json")
    assert (done.code, done.json["output"]) == (0, {"errors": 1})
    return done


def test_show_says_what_run_said(fm: Fm, ran: Done) -> None:
    shown = fm("runs", "show", "last", "--json").json
    for key in ("run_id", "status", "output", "usage"):
        assert shown[key] == ran.json[key]
    told = {path: (s["status"], s["attempts"], s["duration_ms"]) for path, s in shown["stages"].items()}
    assert told == {path: (s["status"], s["attempts"], s["duration_ms"]) for path, s in ran.json["stages"].items()}
    assert shown["stages"]["each[2]/work"]["error"] == ran.json["stages"]["each[2]/work"]["error"]


def test_show_is_a_page(fm: Fm, ran: Done) -> None:
    out = fm("runs", "show", ran.json["run_id"][:18]).out
    assert "✓ succeeded" in out
    assert "each[1]/work" in out
    assert "2 attempts" in out
    assert "its 'when' is false" in out


def test_show_of_a_long_loop_is_short(fm: Fm) -> None:
    fm("run", fm.write(LOOP), "-i", json.dumps({"items": [0] * 200}), "-q")
    out = fm("runs", "show", "last").out
    assert len(out.splitlines()) < 15
    assert "each[*]/work" in out
    assert "200 instances: 200 succeeded" in out


def test_the_story_is_in_order_and_can_be_narrowed(fm: Fm, ran: Done) -> None:
    out = fm("runs", "story", "last").out
    words = ["the run was accepted", "has 3 items", "each[0]/work  starts", "ended: succeeded", "the run succeeded"]
    found = [out.index(word) for word in words]
    assert found == sorted(found)
    one = fm("runs", "story", "last", "each[1]/work").out.splitlines()[1:]
    assert all("each[1]/work" in line for line in one)
    assert [line.split("work  ")[1].split(" after")[0].split(" in ")[0] for line in one] == [
        "starts",
        "attempt 1 failed",
        "will be tried again",
        "the delay is over",
        "attempt 2 starts",
        "succeeded",
    ]
    below = fm("runs", "story", "last", "each[1]").out
    assert below == fm("runs", "story", "last", "each[1]/work").out
    assert "each[2]" in fm("runs", "story", "last", "each").out


def test_the_story_as_json_lines(fm: Fm, ran: Done) -> None:
    lines = [json.loads(line) for line in fm("runs", "story", "last", "--json").out.splitlines()]
    assert [each["position"] for each in lines] == list(range(1, len(lines) + 1))
    assert all(each["text"] and each["offset_s"] >= 0 for each in lines)


@pytest.mark.parametrize(
    ("path", "near"), [("each[9]/work", "each[0]/work"), ("eech", "each"), ("each/work", "each[0]/work")]
)
def test_an_unknown_path_names_the_nearest(fm: Fm, ran: Done, path: str, near: str) -> None:
    done = fm("runs", "story", "last", path)
    assert done.code == 2
    assert done.out == ""
    assert f"Did you mean {near!r}?" in done.err


@pytest.mark.parametrize("follow", [False, True])
def test_events_are_json_lines(fm: Fm, ran: Done, follow: bool) -> None:
    lines = [json.loads(x) for x in fm("runs", "events", "last", *(["--follow"] if follow else [])).out.splitlines()]
    assert lines[0]["kind"] == "run_created"
    assert lines[-1]["kind"] == "run_succeeded"
    assert [each["position"] for each in lines] == list(range(1, len(lines) + 1))


def test_runs_are_listed_newest_first_and_filtered(fm: Fm, ran: Done) -> None:
    fm("run", fm.write(pipeline(stage("x", config={"raises": "broken"}), name="Other"), "o.pipeline.json"), "-q")
    runs: list[dict[str, Any]] = fm("runs", "list", "--json").json["runs"]
    assert [(run["pipeline"], run["status"]) for run in runs] == [("Other", "failed"), ("P", "succeeded")]
    assert [run["status"] for run in fm("runs", "list", "--status", "failed", "--json").json["runs"]] == ["failed"]
    assert len(fm("runs", "list", "-n", "1", "--json").json["runs"]) == 1
    out = fm("runs", "list").out
    assert "x: ValueError: broken" in out
    assert fm("runs", "list", "--pipeline", "none of these").err == "There are no such runs here.\n"


def test_where_nothing_has_run_yet(fm: Fm) -> None:
    assert fm("runs", "list").err == "Nothing has run here yet.\n"
    done = fm("runs", "show", "last")
    assert done.code == 2
    assert "nothing has run here yet" in done.err


def test_an_unknown_run_and_an_unknown_status_are_errors(fm: Fm, ran: Done) -> None:
    assert fm("runs", "show", "r_nothing").code == 2
    done = fm("runs", "list", "--status", "faild")
    assert done.code == 2
    assert "Did you mean 'failed'?" in done.err
    assert fm("runs", "list", "--project", "nowhere").code == 2


def test_a_damaged_log_is_a_clear_error(fm: Fm, ran: Done) -> None:
    database = fm.directory / ".flowmason" / "runs.db"
    for file in database.parent.glob("runs.db*"):
        file.unlink()
    database.write_bytes(b"not a database" * 1000)
    done = fm("runs", "list")
    assert done.code == 1
    assert "not a FlowMason run log" in done.err


def test_an_interrupted_run_is_told_as_such(fm: Fm, ran: Done) -> None:
    database = sqlite3.connect(fm.directory / ".flowmason" / "runs.db")
    try:
        database.execute("UPDATE runs SET status = 'running', ended_at = NULL, pid_started = 'long ago'")
        database.commit()
    finally:
        database.close()
    assert "interrupted" in fm("runs", "list").out
    assert "has gone without ending it" in fm("runs", "show", "last").out


def test_values_that_are_large_come_back_whole(fm: Fm) -> None:
    fm("run", fm.write(pipeline(set_stage("big", "x" * 100_000))), "-q")
    assert fm("runs", "show", "last", "--json").json["output"] == {"v_big": "x" * 100_000}


# -- asking something of a run that is under way -----------------------------------------------------------------------

ASKING = pipeline(
    stage(
        "ask",
        "wait_for_approval",
        config={"message": "Pay?", "form": {"type": "object", "required": ["ok"]}, "timeout_ms": 60_000},
    ),
    output={"answer": "{{ stages.ask.data }}", "by": "{{ stages.ask.answered_by }}"},
)


@pytest.fixture
def asking(fm: Fm) -> Iterator[subprocess.Popen[str]]:
    """A run in another process that waits for a person."""
    process = subprocess.Popen(
        command("run", fm.write(ASKING)),
        cwd=fm.directory,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    assert any("asks: Pay?  Answer with: fm runs answer r_" in line for line in process.stderr)
    while "approval_requested" not in fm("runs", "events", "last").out:  # shown at once, written in groups
        pass
    yield process
    process.kill()
    process.communicate()


def test_a_stage_that_asks_can_be_answered_from_elsewhere(fm: Fm, asking: subprocess.Popen[str]) -> None:
    wrong = fm("runs", "answer", "last", "askk", "--data", "1")
    assert wrong.code == 2
    assert "Did you mean 'ask'?" in wrong.err
    assert "not JSON" in fm("runs", "answer", "last", "ask", "--data", "yes").err
    unfit = fm("runs", "answer", "last", "ask", "--data", "{}")
    assert unfit.code == 2
    assert "'ok'" in unfit.err
    done = fm("runs", "answer", "last", "ask", "--data", '{"ok": true}', "--by", "Ada")
    assert (done.code, done.err.startswith("Answered ask of run r_")) == (0, True)
    out, _ = asking.communicate(timeout=120)
    assert json.loads(out) == {"answer": {"ok": True}, "by": "Ada"}
    story = fm("runs", "story", "last").out
    assert "asks a person: Pay?" in story
    assert "is answered by Ada" in story
    late = fm("runs", "answer", "last", "ask")
    assert late.code == 2
    assert "is not under way: it is succeeded" in late.err


def test_a_run_can_be_cancelled_from_elsewhere(fm: Fm, asking: subprocess.Popen[str]) -> None:
    done = fm("runs", "cancel", "last")
    assert (done.code, done.err.strip().endswith("has ended: cancelled.")) == (0, True)
    asking.communicate(timeout=120)
    assert asking.returncode == 130
