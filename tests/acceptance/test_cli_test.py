"""`fm test`, as somebody sees it."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from tests.cli_kit import Fm, command, environment, pipeline, run_process, stage

NAPPING = pipeline(
    stage("first", config={"say": "printed by a component"}),
    stage("second", after=["first"], when="input.twice"),
    output={"attempt": "{{stages.first.attempt}}"},
)
GOOD = {"name": "good", "input": {"twice": False}, "assertions": [{"path": "$.output.attempt", "value": 1}]}
BAD = {
    "name": "bad",
    "input": {"twice": False},
    "tags": ["bad"],
    "assertions": [{"path": "$.output", "value": {"attempt": 2}, "message": "It took two."}],
}
LATER = {"name": "later", "skip": "not yet"}


def write_tests(fm: Fm, *cases: dict[str, Any], name: str = "p") -> str:
    fm.write(NAPPING, f"{name}.pipeline.json")
    return fm.write(json.dumps({"cases": list(cases)}, indent=2), f"{name}.test.json")


def test_tests_that_pass(fm: Fm) -> None:
    write_tests(fm, GOOD, LATER)
    done = fm("test")
    assert done.code == 0
    lines = done.out.splitlines()
    assert lines[0] == "p.test.json"
    assert lines[1].startswith("  ✓ good")
    assert lines[2].startswith("  - later")
    assert "skipped: not yet" in lines[2]
    assert "p.pipeline.json  1/2 50%         1/2 50%" in done.out
    assert "not run: second" in done.out
    assert lines[-1].startswith("1 passed, 0 failed, 1 skipped in ")
    assert "printed by a component" in done.err  # never between the lines of the report


def test_a_failure_says_what_where_and_how_it_differs(fm: Fm) -> None:
    write_tests(fm, BAD)
    done = fm("test", "p.test.json")
    assert done.code == 1
    assert "  ✗ bad" in done.out
    block = done.out.partition("✗ bad")[2]
    assert "It took two." in block
    assert "~ attempt: expected 2; found 1" in block
    line = next(i for i, text in enumerate(Path("p.test.json").read_text().splitlines(), 1) if '"path"' in text) - 1
    assert f"--> p.test.json:{line}" in block


def test_a_failed_run_shows_the_component_s_own_lines(fm: Fm) -> None:
    fm.write(pipeline(stage("first", config={"raises": "what a day"})))
    fm.write(json.dumps({"cases": [{"name": "c"}]}), "p.test.json")
    done = fm("test")
    assert done.code == 1
    assert "Stage 'first': ValueError: what a day [component_error]" in done.out
    assert "nap.py" in done.out


def test_an_invalid_file_does_not_keep_the_others_from_being_run(fm: Fm) -> None:
    write_tests(fm, {**GOOD, "mocks": {"frist": {"error": {}}}}, name="a")
    write_tests(fm, GOOD, name="b")
    done = fm("test", ".")
    assert done.code == 2
    assert "error[unknown_stage]: The mock of 'frist' names no stage of the pipeline. Did you mean 'first'?" in done.out
    assert "  ✓ good" in done.out
    assert "1 passed, 0 failed, 0 skipped, 1 file invalid" in done.out


def test_json_tells_of_a_call_that_cannot_work(fm: Fm) -> None:
    done = fm("test", "--json")
    assert (done.code, done.json["status"], done.json["error"]["code"]) == (2, "invalid", "invalid_call")
    write_tests(fm, GOOD)
    nothing = fm("test", "--json", "-k", "nothing")
    assert (nothing.code, nothing.json["status"], nothing.json["files"][0]["left_out"]) == (2, "invalid", 1)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere"], "There is no file 'nowhere'"),
        (["empty"], "There is no '*.test.json' below the directory 'empty'"),
        (["lonely.pipeline.json"], "has no tests"),
        (["flowmason.json"], "neither a test file"),
        (["p.test.json", "-k", "nothing"], "No case was run"),
        (["p.test.json", "--on", "mars"], "Cannot run on 'mars'"),
        (["p.test.json", "--junit", "flowmason.json/x"], "Cannot write"),
    ],
)
def test_calls_that_cannot_work(fm: Fm, arguments: list[str], words: str) -> None:
    write_tests(fm, GOOD)
    Path("empty").mkdir()
    fm.write(NAPPING, "lonely.pipeline.json")
    done = fm("test", *arguments)
    assert done.code == 2
    assert words in done.out + done.err
    assert "Traceback" not in done.out + done.err


def test_cases_are_chosen(fm: Fm) -> None:
    write_tests(fm, GOOD, BAD, LATER)
    assert fm("test", "-t", "not bad").code == 0
    assert fm("test", "-k", "GOOD").code == 0
    chosen = fm("test", "--tag", "bad")
    assert chosen.code == 1
    assert "2 cases not asked for" in chosen.out
    stopped = fm("test", "-x", "--json", "p.pipeline.json")
    assert [case["status"] for case in stopped.json["files"][0]["cases"]] == ["passed", "failed", "skipped"]


def test_json_is_the_only_thing_on_stdout(fm: Fm) -> None:
    write_tests(fm, GOOD, BAD)
    done = run_process("test", "--json", "-j", "2", cwd=fm.directory)
    assert done.code == 1
    assert (done.json["status"], done.json["passed"], done.json["failed"]) == ("failed", 1, 1)
    assert [case["name"] for case in done.json["files"][0]["cases"]] == ["good", "bad"]
    assert done.json["coverage"]["total"]["stages"] == {"covered": 1, "total": 2, "percent": 50.0}
    assert "printed by a component" in done.err


def test_a_process_keeps_components_out_of_its_report(fm: Fm) -> None:
    write_tests(fm, GOOD)
    done = run_process("test", cwd=fm.directory)
    assert done.code == 0
    assert "printed by a component" not in done.out
    assert "printed by a component" in done.err
    assert "1 passed, 0 failed, 0 skipped" in done.out


def test_a_reader_that_leaves_changes_nothing(fm: Fm) -> None:
    write_tests(fm, GOOD, BAD)
    process = subprocess.Popen(
        command("test"), cwd=fm.directory, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    told = process.stderr.read().decode()
    process.stderr.close()
    assert process.wait(120) == 1
    assert "Traceback" not in told
    assert "BrokenPipe" not in told


def test_files_for_other_tools(fm: Fm) -> None:
    write_tests(fm, GOOD, BAD)
    done = fm("test", "--junit", "out/j.xml", "--coverage", "out/c.json", "--lcov", "out/c.info")
    assert done.code == 1
    assert ElementTree.parse("out/j.xml").getroot().attrib["failures"] == "1"
    assert json.loads(Path("out/c.json").read_text())["total"]["stages"]["percent"] == 50.0
    assert Path("out/c.info").read_text().startswith(f"TN:\nSF:{fm.directory / 'p.pipeline.json'}\n")


def test_too_little_coverage_fails(fm: Fm) -> None:
    write_tests(fm, GOOD)
    assert fm("test", "--min-coverage", "50").code == 0
    done = fm("test", "--min-coverage", "50.1")
    assert done.code == 1
    assert "50% of the stages were run; 50.1% is the least." in done.out
    Path("flowmason.json").write_text(json.dumps({"testing": {"min_coverage": 60}}))
    assert fm("test").code == 1
    assert fm("test", "--min-coverage", "0").code == 0


def test_the_examples_pass_their_tests(fm: Fm) -> None:
    import shutil

    examples = Path(__file__).parents[2] / "examples"
    ignored = shutil.ignore_patterns("out", ".flowmason", "__pycache__")
    shutil.copytree(examples, "examples", ignore=ignored)
    done = fm("test", "examples", "--min-coverage", "100")
    assert done.code == 0, done.out
    assert "flights.test.json" in done.out


# -- watching -------------------------------------------------------------------------------------------------------------


class Watching:
    """`fm test --watch` as a process on a terminal."""

    def __init__(self, directory: Path) -> None:
        self._master, slave = pty.openpty()
        arguments = command("test", "--watch")
        self.process = subprocess.Popen(arguments, cwd=directory, env=environment(), stdout=slave, stderr=slave)
        os.close(slave)
        self.screen = ""
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        while True:
            try:
                content = os.read(self._master, 65536)
            except OSError:  # EIO: the other side is closed
                return
            self.screen += content.decode("utf-8", "replace")

    def wait_for(self, done: Callable[[str], bool]) -> None:
        deadline = time.monotonic() + 120
        while not done(self.screen):
            assert time.monotonic() < deadline, self.screen
            time.sleep(0.02)

    def forget(self) -> None:
        self.screen = ""


@pytest.mark.timeout(900)  # longer than all that it waits for together
def test_watching_runs_again_on_every_change_and_ends_on_ctrl_c(fm: Fm) -> None:
    write_tests(fm, GOOD)
    watching = Watching(fm.directory)
    try:

        def rerun(word: str) -> None:
            watching.wait_for(lambda screen: word in screen and "Watching for changes" in screen)
            watching.forget()

        rerun("1 passed")
        write_tests(fm, BAD)
        watching.wait_for(lambda screen: "\x1b[2J" in screen)
        rerun("1 failed")
        fm.write(
            pipeline(
                stage("first", config={"failures": 1}, retry={"max_attempts": 2, "initial_delay_ms": 1}),
                output={"attempt": "{{stages.first.attempt}}"},
            )
        )
        rerun("1 passed")
        component = fm.directory / "components" / "nap.py"
        component.write_text(component.read_text().replace('{"attempt": context.attempt}', '{"attempt": 7}'))
        rerun("expected 2; found 7")
        write_tests(fm, GOOD, name="another")
        rerun("another.test.json")
        Path("p.test.json").write_text("{")
        rerun("invalid_json")
        watching.process.send_signal(signal.SIGINT)
        assert watching.process.wait(120) == 0
    finally:
        watching.process.kill()
        watching.process.wait()
