"""`fm` on run logs: pruning, filtering, following, setting up a database, and addresses from the environment."""

from __future__ import annotations

import json
import subprocess
from contextlib import closing
from pathlib import Path

import pytest

from flowmason_ray.stores.sqlite_files import open_for_writing
from tests.cli_kit import Fm, command, environment, pipeline, set_stage, stage
from tests.postgres_kit import PASSWORD, Server
from tests.processes_kit import WAIT_S, wait_until


def aged(fm: Fm, seconds: float) -> None:
    """Make every run that there is look older."""
    with closing(open_for_writing(fm.directory / ".flowmason" / "runs.db")) as connection:
        connection.execute("UPDATE runs SET created_at = created_at - ?, ended_at = ended_at - ?", (seconds, seconds))


def ids(fm: Fm, *arguments: str) -> list[str]:
    return [run["run_id"] for run in fm("runs", "list", "--json", *arguments).json["runs"]]


def test_pruning_by_age_and_number(fm: Fm) -> None:
    name = fm.write(pipeline(set_stage("a", 1)))
    for _ in range(3):
        assert fm("run", name, "-q").code == 0
    aged(fm, 40 * 86_400)
    for _ in range(2):
        assert fm("run", name, "-q").code == 0
    assert len(ids(fm)) == 5
    assert len(ids(fm, "--since", "30d")) == 2
    assert fm("runs", "prune").out.startswith("Removed 0 runs,")
    would = fm("runs", "prune", "--older-than", "30d", "--keep", "4", "--dry-run", "--json").json
    assert (would["dry_run"], len(would["runs"])) == (True, 1)
    assert len(ids(fm)) == 5
    done = fm("runs", "prune", "--older-than", "30d", "--keep", "4", "--json").json
    assert (done["dry_run"], done["runs"]) == (False, would["runs"])
    assert (
        fm("runs", "prune", "--older-than", "4w").out
        == "Removed 2 runs, 0 cached results, 0 large values of 0 bytes.\n"
    )
    assert len(ids(fm)) == 2
    assert fm("runs", "prune", "--keep", "0").out.startswith("Removed 2 runs")
    assert fm("runs", "list").err == "Nothing has run here yet.\n"


@pytest.mark.parametrize(
    "arguments", [["prune", "--older-than", "30"], ["prune", "--older-than", "-1d"], ["list", "--since", "x"]]
)
def test_an_age_that_is_none_is_said_so(fm: Fm, arguments: list[str]) -> None:
    done = fm("runs", *arguments)
    assert done.code == 2
    assert "is no age. Write a number and a unit: 90s, 45m, 12h, 30d or 2w." in done.err


def test_following_prints_each_event_as_it_is_recorded(fm: Fm) -> None:
    name = fm.write(pipeline(stage("slow", config={"seconds": 1.5})))
    run = subprocess.Popen(command("run", name, "-q"), cwd=fm.directory, env=environment(), stdout=subprocess.DEVNULL)
    wait_until(lambda: fm("runs", "list", "--json").json["runs"] != [], "there is no run")
    done = subprocess.run(
        command("runs", "events", "last", "--follow"),
        cwd=fm.directory,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=WAIT_S,
    )
    run.wait(WAIT_S)
    kinds = [json.loads(line)["kind"] for line in done.stdout.splitlines()]
    assert kinds[0] == "run_created"
    assert kinds[-1] == "run_succeeded"


def test_a_database_from_the_environment(
    fm: Fm, postgres: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    name = fm.write(pipeline(set_stage("a", "x" * 100_000), output={"n": "{{ stages.a.v_a | length }}"}))
    monkeypatch.setenv("FLOWMASON_STORE", postgres.url(postgres.new_database()))
    monkeypatch.setenv("FLOWMASON_BLOBS", str(tmp_path / "values"))
    said = [fm("run", name, "-q"), fm("runs", "list"), fm("runs", "prune"), fm("resume", "last")]
    for each in said:
        assert each.code == 1
        assert "'fm db upgrade'" in each.err
        assert PASSWORD not in each.out + each.err
    status = fm("db", "status", "--json").json
    assert (status["revision"], status["status"]) == (0, "not set up")
    assert PASSWORD not in json.dumps(status)
    assert "up to date" in fm("db", "upgrade").out
    done = fm("run", name, "--json")
    assert done.json["output"] == {"n": 100_000}
    assert ids(fm) == [done.json["run_id"]]
    assert fm("runs", "show", "last").code == 0
    assert not (fm.directory / ".flowmason" / "runs.db").exists()
    assert any((tmp_path / "values").rglob("*")), "the large value"
    assert fm("runs", "prune", "--keep", "0", "--json").json["runs"] == [done.json["run_id"]]


def test_a_sqlite_file_looks_after_itself(fm: Fm) -> None:
    assert fm("db", "status").out.endswith("revision 0 of 3: not set up\n")
    fm("run", fm.write(pipeline(set_stage("a", 1))), "-q")
    assert fm("db", "status").out.endswith("revision 3 of 3: up to date\n")
    assert fm("db", "upgrade").out.endswith("revision 3 of 3: up to date\n")


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("mysql://u:not-the-secret@h/d", "cannot be kept at mysql://…"),
        ("postgresql://u:not-the-secret@127.0.0.1:1/d", "No server listens there"),
        ("postgresql://u:not-the-secret@h:x/d", "no valid URL"),
    ],
)
def test_a_wrong_address_is_an_error_with_words(
    fm: Fm, monkeypatch: pytest.MonkeyPatch, address: str, words: str
) -> None:
    name = fm.write(pipeline(set_stage("a", 1)))
    monkeypatch.setenv("FLOWMASON_STORE", address)
    for arguments in (["run", name], ["runs", "list"], ["runs", "prune"], ["db", "status"], ["db", "upgrade"]):
        done = fm(*arguments)
        assert done.code == 1, arguments
        assert words in done.err
        assert "not-the-secret" not in done.out + done.err
        assert "Traceback" not in done.err


def test_a_damaged_file_is_an_error_with_words(fm: Fm) -> None:
    name = fm.write(pipeline(set_stage("a", 1)))
    fm("run", name, "-q")
    file = fm.directory / ".flowmason" / "runs.db"
    with closing(open_for_writing(file)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    file.write_bytes(file.read_bytes()[:5_000])
    for arguments in (["run", name], ["runs", "list"], ["runs", "show", "last"], ["runs", "prune"]):
        done = fm(*arguments)
        assert done.code == 1
        assert "damaged" in done.err
        assert "Traceback" not in done.err
