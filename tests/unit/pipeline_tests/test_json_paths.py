from __future__ import annotations

from typing import Any

import pytest

from flowmason_ray.pipeline_tests.json_paths import MISSING, InvalidPath, parse_path
from flowmason_ray.pipeline_tests.stage_paths import fits, fits_stage, without_positions

DOCUMENT: dict[str, Any] = {
    "output": {"items": [{"id": 1, "late": True}, {"id": 2, "late": False}], "total": None},
    "stages": {"each[3]/extract": {"status": "succeeded"}},
}


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("$", DOCUMENT),
        ("$.output.items[1].id", 2),
        ("$.output.items[-1].id", 2),
        ("$.output.total", None),
        ("$.stages['each[3]/extract'].status", "succeeded"),
        ("$.output.items[*].id", [1, 2]),
        ("$.output.items[?@.late == true].id", [1]),
        ("$..id", [1, 2]),
        ("$.output.items[:1]", [{"id": 1, "late": True}]),
        ("$.output.none[*]", []),
    ],
)
def test_what_a_path_finds(path: str, found: Any):
    assert parse_path(path).find(DOCUMENT) == found


def test_a_path_of_names_finds_a_value_or_nothing():
    assert parse_path("$.output.items[2]").find(DOCUMENT) is MISSING
    assert parse_path("$.output.items.id").find(DOCUMENT) is MISSING


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("$.output.totl", "$.output has items, total. Did you mean 'total'?"),
        ("$.output.items[7].id", "$.output.items is a list of 2."),
        ("$.output.total.x", "$.output.total is null."),
        ("$.stages['each[3]/extract'].status.x", "$.stages['each[3]/extract'].status is 'succeeded'."),
    ],
)
def test_what_is_missing_is_explained(path: str, why: str):
    assert parse_path(path).why_missing(DOCUMENT) == why


@pytest.mark.parametrize("path", ["", "output.x", "$.", "$.a[", "$.a[?", "$.a & $.b", "$['a", "$.a[?@.x in [1]]"])
def test_what_is_no_path_is_refused_with_a_reason(path: str):
    with pytest.raises(InvalidPath) as caught:
        parse_path(path)
    assert str(caught.value).endswith(".")


@pytest.mark.parametrize(
    ("pattern", "path", "fitting"),
    [
        ("extract", "extract", True),
        ("extract", "each[3]/extract", True),
        ("extract", "sub/each[1]/inner[0]/extract", True),
        ("extract", "extract2", False),
        ("each/extract", "each[3]/extract", True),
        ("each/extract", "other/each[3]/extract", False),
        ("each[3]/extract", "each[3]/extract", True),
        ("each[3]/extract", "each[30]/extract", False),
        ("each/*", "each[3]/extract", True),
        ("each/*", "each[3]/inner[0]/x", False),
        ("ex*", "each[3]/extract", True),
        ("*", "a", True),
        ("a.b", "axb", False),
    ],
)
def test_which_stages_a_pattern_means(pattern: str, path: str, fitting: bool):
    assert fits(pattern, path) is fitting
    if fitting:
        assert fits_stage(pattern, without_positions(path))
