"""Versions in semver's order, ranges as npm reads them. The cases are worked out from npm's grammar (node-semver's README)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowmason_ray.spec.versions import in_range, version_key

ORDER = (
    # semver.org §11.4
    "1.0.0-alpha",
    "1.0.0-alpha.1",
    "1.0.0-alpha.beta",
    "1.0.0-beta",
    "1.0.0-beta.2",
    "1.0.0-beta.11",
    "1.0.0-rc.1",
    "1.0.0",
    "1.0.1",
    "1.2.0",
    "1.10.0",
    "2.0.0-0",
    "2.0.0",
)


def test_versions_are_in_the_order_of_semver() -> None:
    assert sorted(reversed(ORDER), key=version_key) == list(ORDER)


def test_build_metadata_does_not_count() -> None:
    assert version_key("1.2.3+build.7") == version_key("1.2.3")
    assert version_key("1.2.3-rc.1+7") == version_key("1.2.3-rc.1")


def test_what_is_left_out_is_zero() -> None:
    assert version_key("1") == version_key("1.0") == version_key("1.0.0")


@pytest.mark.parametrize(
    "text", ["", "v1.0.0", "1.x", "1.2.3.4", "01.2.3", "1.2.3-", "1.2.3-a..b", "latest", "1.2.3 ", "१.0.0"]
)
def test_what_is_no_version_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a version"):
        version_key(text)


RANGES = [
    # range, versions that fit, versions that do not
    ("1.2.3", "1.2.3 1.2.3+7", "1.2.4 1.2.2 1.2.3-rc.1"),
    ("=1.2.3", "1.2.3", "1.2.4"),
    ("v1.2.3", "1.2.3", "1.2.4"),
    ("1.2", "1.2.0 1.2.9", "1.3.0 1.1.9"),
    ("1", "1.0.0 1.9.9", "2.0.0 0.9.9"),
    ("1.x", "1.0.0 1.9.9", "2.0.0"),
    ("1.2.*", "1.2.0 1.2.9", "1.3.0"),
    ("*", "0.0.0 9.9.9", "1.0.0-rc.1"),
    ("", "0.0.0 9.9.9", "1.0.0-rc.1"),
    ("^1.2.3", "1.2.3 1.9.0", "2.0.0 1.2.2 2.0.0-rc.1"),
    ("^1.2", "1.2.0 1.9.0", "1.1.9 2.0.0"),
    ("^0.2.3", "0.2.3 0.2.9", "0.3.0 0.2.2"),
    ("^0.0.3", "0.0.3", "0.0.4 0.0.2"),
    ("^0.0", "0.0.0 0.0.9", "0.1.0"),
    ("^0", "0.0.0 0.9.9", "1.0.0"),
    ("^0.1.x", "0.1.0 0.1.7", "0.2.0"),
    ("~1.2.3", "1.2.3 1.2.9", "1.3.0 1.2.2"),
    ("~1.2", "1.2.0 1.2.9", "1.3.0"),
    ("~1", "1.0.0 1.9.9", "2.0.0"),
    ("~>1.2", "1.2.9", "1.3.0"),
    (">1.2.3", "1.2.4 9.0.0", "1.2.3"),
    (">1.2", "1.3.0", "1.2.0 1.2.9"),
    (">1", "2.0.0", "1.9.9"),
    (">=1.2", "1.2.0 3.0.0", "1.1.9"),
    ("<2", "1.9.9", "2.0.0 2.0.0-rc.1"),
    ("<1.2.3", "1.2.2", "1.2.3"),
    ("<=1.2", "1.2.9", "1.3.0"),
    ("<=1.2.3", "1.2.3", "1.2.4"),
    (">=1.2 <1.4", "1.2.0 1.3.9", "1.4.0 1.1.0"),
    (">= 1.2   < 1.4", "1.2.0 1.3.9", "1.4.0"),
    ("^1 || ^3", "1.5.0 3.1.0", "2.0.0 4.0.0"),
    ("1.2.3 - 2.3.4", "1.2.3 2.3.4", "2.3.5 1.2.2"),
    ("1.2 - 2.3", "1.2.0 2.3.9", "2.4.0"),
    (">*", "", "0.0.0 1.0.0"),
    ("<*", "", "0.0.0 1.0.0"),
    # pre-releases: only where the range names one of the same numbers
    ("^1.2.0-beta.1", "1.2.0-beta.1 1.2.0-beta.2 1.2.0 1.3.0", "1.2.0-alpha 1.2.1-beta.1 2.0.0"),
    (">=1.0.0-rc.1", "1.0.0-rc.1 1.0.0-rc.2 1.0.0 2.0.0", "2.0.0-rc.1"),
    ("1.0.0-rc.1", "1.0.0-rc.1", "1.0.0 1.0.0-rc.2"),
    ("~1.2.3-beta", "1.2.3-beta 1.2.3 1.2.4", "1.2.4-beta"),
    ("<1.0.0-rc.2", "1.0.0-rc.1 0.9.0", "1.0.0-rc.2 0.9.0-rc.1"),
    (">=1 || 2.0.0-rc.1", "2.0.0-rc.1 1.0.0", "2.0.0-rc.2"),
]


@pytest.mark.parametrize(("wanted", "fits", "fails"), RANGES)
def test_ranges_are_read_as_npm_does(wanted: str, fits: str, fails: str) -> None:
    assert [v for v in fits.split() if not in_range(v, wanted)] == []
    assert [v for v in fails.split() if in_range(v, wanted)] == []


@pytest.mark.parametrize("wanted", ["latest", "^", "1.2.3.4", ">=a", "1.2 -", "^^1", "|", "01"])
def test_what_is_no_range_is_refused(wanted: str) -> None:
    with pytest.raises(ValueError, match="not a version range"):
        in_range("1.0.0", wanted)


numbers = st.integers(0, 30)
versions = st.tuples(numbers, numbers, numbers).map(lambda v: ".".join(map(str, v)))


@given(versions, versions)
def test_a_caret_takes_what_is_not_lower_and_keeps_the_leftmost_number(low: str, version: str) -> None:
    above = version_key(version) >= version_key(low)
    wanted, found = low.split("."), version.split(".")
    fixed = next((i for i, n in enumerate(wanted) if n != "0"), 2)
    assert in_range(version, f"^{low}") == (above and wanted[: fixed + 1] == found[: fixed + 1])


@given(versions, versions)
def test_comparators_agree_with_the_order(a: str, b: str) -> None:
    x, y = version_key(a), version_key(b)
    assert [in_range(a, f"{sign}{b}") for sign in (">", ">=", "<", "<=", "=")] == [x > y, x >= y, x < y, x <= y, x == y]
