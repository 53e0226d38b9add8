"""How the command line writes things down."""

from __future__ import annotations

from collections import deque
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowmason_ray.cli.component_page import type_words
from flowmason_ray.cli.problem_report import EXCERPT_WIDTH, ProblemReport
from flowmason_ray.cli.run_story import Narrator, is_at
from flowmason_ray.cli.tally import Row
from flowmason_ray.cli.terminal import columns, json_bytes, plain
from flowmason_ray.cli.words import duration, loop_progress, rate_of, shortened
from flowmason_ray.engine.events import EVENT_TYPES
from flowmason_ray.errors import Problem


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0.0 ms"), (0.0004, "0.4 ms"), (0.12, "120 ms"), (3.21, "3.2 s"), (125, "2 min 05 s"), (3725, "1 h 02 min")],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@given(st.floats(0, 1e6))
def test_durations_are_short(seconds: float) -> None:
    assert len(duration(seconds)) <= 12


def loop_row(done: int, total: int, failed: int = 0) -> Row:
    row = Row(key="e", id="e", depth=0, loop=None, construct=True, is_loop=True, waits_for=())
    row.items, row.items_done, row.items_failed = total, done, failed
    return row


def test_a_rate_is_told_when_there_is_one() -> None:
    row = loop_row(0, 1000)
    assert rate_of(row, 100.0) is None
    row.items_done = 300
    assert rate_of(row, 110.0) == (30.0, pytest.approx(700 / 30))
    assert loop_progress(row, 110.0) == "300 of 1,000 items, 30/s, 23.3 s left"


def test_the_rate_forgets_the_beginning() -> None:
    row = loop_row(0, 10_000)
    row.samples = deque(maxlen=3)
    for second in range(10):
        row.items_done = max(0, second - 6) * 100
        rate_of(row, float(second))
    row.items_done = 400
    rate = rate_of(row, 10.0)
    assert rate is not None
    assert rate[0] >= 50, "of all ten seconds it would be 40"


def test_failures_are_in_the_progress() -> None:
    assert loop_progress(loop_row(5, 5, failed=2), 0) == "5 of 5 items, 2 failed"


def test_only_the_first_line_is_told() -> None:
    assert shortened("one\ntwo", 10) == "one"
    assert shortened("x" * 20, 10) == "x" * 9 + "…"


@pytest.mark.parametrize(
    ("where", "path", "inside"),
    [
        ("each", "each", True),
        ("each[3]/load", "each", True),
        ("each[3]/load", "each[3]", True),
        ("each[31]/load", "each[3]", False),
        ("each_other", "each", False),
        ("eac", "each", False),
    ],
)
def test_what_is_below_a_path(where: str, path: str, inside: bool) -> None:
    assert is_at(where, path) is inside


def test_every_kind_of_event_has_words() -> None:
    facts = {
        "at": 1.0,
        "path": "a",
        "attempt": 2,
        "plan_digest": "d" * 64,
        "reason": "when",
        "delay_s": 1.0,
        "status": "failed",
        "branch": "true",
        "count": 3,
        "index": 1,
        "names": ["x"],
        "message": "OK?",
        "failure": {"code": "c", "message": "m"},
    }
    for kind in EVENT_TYPES:
        words = Narrator().words({"kind": kind, **facts})
        assert words
        assert "{" not in words


# -- problems ----------------------------------------------------------------------------------------------------------


def test_a_problem_is_shown_with_its_line(tmp_path: Path) -> None:
    file = tmp_path / "p.json"
    file.write_text('{\n  "confg": 1\n}\n')
    problem = Problem(
        code="unknown_key",
        message="Unknown key 'confg'.",
        file=str(file),
        line=2,
        column=3,
        nearest="config",
        hint="H.",
    )
    assert ProblemReport(plain, 120).text(problem).splitlines() == [
        "error[unknown_key]: Unknown key 'confg'. Did you mean 'config'?",
        f"  --> {file}:2:3",
        "   |",
        ' 2 |   "confg": 1',
        "   |   ^^^^^^^",
        "   = help: H.",
    ]


@given(st.text(max_size=400), st.integers(1, 500), st.integers(1, 6))
def test_any_place_in_any_text_can_be_shown(text: str, column: int, line: int) -> None:
    report = ProblemReport(plain, 120)
    report._lines["f"] = text.split("\n")  # pyright: ignore[reportPrivateUsage]  # instead of a file for each example
    shown = report.text(Problem(code="c", message="m", file="f", line=line, column=column))
    rows = shown.splitlines()
    assert rows[0] == "error[c]: m"
    assert all(len(row) < EXCERPT_WIDTH + 20 for row in rows)


def test_a_file_that_has_gone_is_no_obstacle() -> None:
    text = ProblemReport(plain, 120).text(Problem(code="c", message="m", file="/no/such/file", line=3, column=1))
    assert text == "error[c]: m\n  --> /no/such/file:3:1"


# -- the rest ----------------------------------------------------------------------------------------------------------


def test_json_takes_what_orjson_does_not() -> None:
    from datetime import date
    from decimal import Decimal

    assert json_bytes({"big": 2**70, "half": "\ud800"}) == b'{"big":1180591620717411303424,"half":"\\ud800"}'
    assert (
        json_bytes({"d": date(2026, 1, 2), "n": Decimal("1.5"), "b": b"x"})
        == b'{"d":"2026-01-02","n":"1.5","b":"b\'x\'"}'
    )


def test_columns_are_as_wide_as_they_must_be() -> None:
    lines = columns([("a", "long cell", "x"), ("bcd", "y", "z" * 50)], header=("N", "C", "L"), paint=plain, width=30)
    assert lines == ["N    C          L", "a    long cell  x", "bcd  y          " + "z" * 13 + "…"]


@pytest.mark.parametrize(
    ("annotation", "words"),
    [
        (str, "text"),
        (int | None, "integer or null"),
        (list[str], "list of text"),
        (dict[str, float], "object of number"),
        (list[dict[str, int]] | str, "list of object of integer or text"),
    ],
)
def test_types_in_the_words_of_json(annotation: object, words: str) -> None:
    assert type_words(annotation) == words
