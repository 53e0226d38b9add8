"""Every row of the guide's page "What happens when…" leads to a test that is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "guide" / "what-happens-when.md"
LINK = re.compile(r'\[[^\]]+\]\(([^ )]+) "(\w+)"\)')
ROWS = [
    line
    for line in PAGE.read_text(encoding="utf-8").splitlines()
    if line.startswith("| ") and not line.startswith("| when")
]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.split("|")[1].strip()[:60])
def test_a_row_is_a_test(row: str) -> None:
    links = LINK.findall(row)
    assert links, "the row names no test"
    for file, name in links:
        target = (PAGE.parent / file).resolve()
        assert target.is_file(), f"{file} is not there"
        assert f"def {name}(" in target.read_text(encoding="utf-8"), f"{file} has no {name}"


def test_there_are_rows() -> None:
    assert len(ROWS) > 40
