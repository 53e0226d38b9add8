"""`fm run` on a terminal and under signals: real processes, a real pseudo-terminal."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import time
from collections.abc import Callable
from fcntl import ioctl
from pathlib import Path
from termios import TIOCSWINSZ
from typing import Any

import pytest

from tests.cli_kit import Fm, command, environment, pipeline, set_stage, stage
from tests.processes_kit import WAIT_S

ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")

GATED = """
import time
from pydantic import BaseModel
from flowmason_ray import TemporaryError, operator


@operator(effect="pure")
class Gated:
    class Input(BaseModel):
        fails: bool = False
        waits: bool = False

    class Output(BaseModel):
        pass

    def execute(self, input, context):
        gate = context.project_dir / "go"
        if input.fails and not gate.exists():
            raise TemporaryError("not yet", code="busy")
        while input.waits and not gate.exists():
            time.sleep(0.01)
        return {}
"""
"""A component that fails until the file `go` exists, or waits for it."""

LIVE = pipeline(
    stage("first", config={"say": "printed by a component"}),
    stage(
        "flaky",
        "gated",
        after=["first"],
        config={"fails": True},
        retry={"max_attempts": 100, "initial_delay_ms": 900, "max_delay_ms": 900},
    ),
    stage("each", "foreach", config={"items": "{{ input.items }}", "loop_stages": ["work"], "max_parallel": 2}),
    stage("work", "gated", config={"waits": "{{ index >= 20 }}"}),
    stage("last", after=["flaky", "each"]),
    output="{{ stages.each.total_items }}",
)


class OnTerminal:
    """An `fm` process whose stderr is a terminal of 20 lines."""

    def __init__(self, *arguments: str, cwd: Path, rows: int = 20) -> None:
        self._master, slave = pty.openpty()
        ioctl(slave, TIOCSWINSZ, struct.pack("HHHH", rows, 100, 0, 0))
        self.process = subprocess.Popen(
            command(*arguments), cwd=cwd, env=environment(), stdout=subprocess.PIPE, stderr=slave, stdin=slave
        )
        os.close(slave)
        self.screen = ""

    def read_until(self, done: Callable[[str], bool], timeout_s: float = WAIT_S) -> None:
        """Read what is drawn until `done(everything so far)`, or the process has closed the terminal."""
        deadline = time.monotonic() + timeout_s
        while not done(self.screen) and time.monotonic() < deadline:
            if select.select([self._master], [], [], 0.2)[0]:
                try:
                    content = os.read(self._master, 65536)
                except OSError:  # EIO: the other side is closed
                    return
                self.screen += content.decode("utf-8", "replace")

    def finish(self) -> tuple[int, str]:
        """Wait for the end; return the exit code and what was on stdout."""
        assert self.process.stdout is not None
        self.read_until(lambda _: False)
        out = self.process.stdout.read().decode()
        self.process.stdout.close()
        os.close(self._master)
        return self.process.wait(WAIT_S), out


def test_the_live_view_shows_the_stages_while_they_run(fm: Fm) -> None:
    (fm.directory / "components" / "gated.py").write_text(GATED)
    file = fm.write(LIVE)
    (fm.directory / "in.json").write_text(json.dumps({"items": list(range(40))}))
    view = OnTerminal("run", file, "-f", "in.json", cwd=fm.directory)

    def all_is_drawn(screen: str) -> bool:
        text = ESCAPES.sub("", screen)
        return all(word in text for word in ("the next in 0.", "of 40 items", "━", "waits for flaky, each"))

    view.read_until(all_is_drawn)
    (fm.directory / "go").touch()
    code, out = view.finish()
    text = ESCAPES.sub("", view.screen)
    assert (code, out) == (0, "40\n")
    assert "\x1b[?25l" in view.screen, "the cursor is hidden"
    assert view.screen.rindex("\x1b[?25h") > view.screen.rindex("\x1b[?25l"), "and shown again"
    assert "printed by a component" in text
    assert "━" in text
    assert "waits for flaky, each" in text
    assert "the next in 0." in text, "a countdown"
    final = text[text.rindex("✓ first") :]
    assert [
        word for word in ("✓ flaky", "attempt ", "✓ each", "40 items", "✓ last", "succeeded in") if word not in final
    ] == []


def test_more_stages_than_lines_do_not_flood_the_screen(fm: Fm) -> None:
    stages = [set_stage(f"s{n}", n, [f"s{n - 1}"] if n else []) for n in range(3000)]
    began = time.monotonic()
    view = OnTerminal("run", fm.write(pipeline(*stages, output="{{ 1 }}")), "--no-store", cwd=fm.directory)
    code, _ = view.finish()
    assert code == 0
    frames = view.screen.split("\r\x1b[2K")
    assert max(map(len, frames)) < 20 * 150, "no more than the terminal's lines"
    assert len(frames) <= 5 + 12 * (time.monotonic() - began), "and no more often than can be seen"
    assert "3,000 of 3,000 stages" in ESCAPES.sub("", view.screen)


def test_nothing_is_drawn_when_quiet(fm: Fm) -> None:
    view = OnTerminal("run", fm.write(pipeline(set_stage("x", 1))), "--quiet", cwd=fm.directory)
    assert view.finish() == (0, '{"v_x":1}\n')
    assert view.screen == ""


def test_problems_are_in_colour_on_a_terminal_only(fm: Fm) -> None:
    file = fm.write(pipeline(stage("a", "napp")))
    view = OnTerminal("validate", file, cwd=fm.directory)
    assert view.finish()[0] == 2
    assert "\x1b[31;1merror[unknown_component]" in view.screen
    assert "\x1b" not in fm("validate", file).err


SLOW = pipeline(stage("quick"), stage("slow", after=["quick"], config={"seconds": 30}))


def started(fm: Fm, *arguments: str) -> subprocess.Popen[str]:
    """Start a run and return its process when its slow stage is under way."""
    process = subprocess.Popen(
        command("run", fm.write(SLOW), *arguments),
        cwd=fm.directory,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    for line in process.stderr:
        if "quick" in line:
            break
    return process


@pytest.mark.parametrize(("number", "name"), [(signal.SIGINT, "Ctrl-C"), (signal.SIGTERM, "SIGTERM")])
def test_a_signal_cancels_the_run_properly(fm: Fm, number: signal.Signals, name: str) -> None:
    process = started(fm)
    process.send_signal(number)
    out, err = process.communicate(timeout=WAIT_S)
    assert (process.returncode, out) == (130, "")
    assert f"{name}: cancelling the run" in err
    assert "cancelled in" in err
    run: dict[str, Any] = fm("runs", "show", "last", "--json").json
    assert run["status"] == "cancelled"
    assert run["stages"]["quick"]["status"] == "succeeded"
    assert run["stages"]["slow"]["status"] == "cancelled"
    kinds = [json.loads(line)["kind"] for line in fm("runs", "events", "last").out.splitlines()]
    assert kinds[-1] == "run_cancelled"
    assert "cancel_requested" in kinds


def test_a_cancelled_run_is_one_json_document_too(fm: Fm) -> None:
    process = started(fm, "--json")
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=WAIT_S)
    assert process.returncode == 130
    assert json.loads(out)["status"] == "cancelled"


def test_a_second_signal_leaves_at_once_and_shows_the_cursor(fm: Fm) -> None:
    file = fm.write(pipeline(stage("stuck", "stubborn")))
    (fm.directory / "components" / "stubborn.py").write_text(
        "import ctypes\nfrom pydantic import BaseModel\nfrom flowmason_ray import operator\n\n"
        "@operator(effect='pure')\nclass Stubborn:\n    '''Sits in C code.'''\n"
        "    class Input(BaseModel):\n        pass\n    class Output(BaseModel):\n        pass\n"
        "    def execute(self, input, context):\n        print('sits down')\n        ctypes.CDLL(None).sleep(20)\n        return {}\n"
    )
    view = OnTerminal("run", file, cwd=fm.directory)
    view.read_until(lambda screen: "sits down" in screen)
    view.process.send_signal(signal.SIGINT)
    view.process.send_signal(signal.SIGINT)
    time.sleep(0.2)
    view.process.send_signal(signal.SIGINT)
    code, _ = view.finish()
    assert code == 130, view.screen
    assert view.screen.rindex("\x1b[?25h") > view.screen.rindex("\x1b[?25l")
