"""The guide lists exactly the names that exist."""

from __future__ import annotations

import re
from pathlib import Path

from flowmason_ray.spec.language import budget, syntax
from flowmason_ray.spec.language.catalogue import (
    DRAWS,
    FILTERS,
    FORMS,
    FUNCTIONS,
    METHODS,
    MISSING_TESTS,
    TESTS,
)

GUIDE = Path(__file__).parents[3] / "docs" / "guide" / "expressions.md"


def section(title: str) -> str:
    text = GUIDE.read_text(encoding="utf-8")
    return text.split(f"\n## {title}\n", 1)[1].split("\n## ", 1)[0]


def rows(title: str) -> list[tuple[str, str]]:
    found = re.findall(r"^\| (.*?) \| (.*) \|$", section(title), re.MULTILINE)
    return found[1:]  # the first is the table's head


def listed(title: str) -> list[str]:
    return [name for first, _ in rows(title) for name in re.findall(r"`(\w+)", first)]


def test_filters() -> None:
    assert sorted(set(listed("Filters"))) == sorted({*FILTERS, *FORMS})


def test_functions() -> None:
    assert sorted(set(listed("Functions"))) == sorted({*FUNCTIONS, *DRAWS})


def test_tests() -> None:
    assert sorted(listed("Tests")) == sorted({*TESTS, *MISSING_TESTS})


def test_methods() -> None:
    found = {first: sorted(re.findall(r"`(\w+)`", second)) for first, second in rows("Methods")}
    assert found == {kind: sorted(methods) for kind, methods in METHODS.items()}


def test_limits() -> None:
    numbers = {int(n.replace(",", "")) for n in re.findall(r"\b\d[\d,]*\b", section("Limits"))}
    assert numbers == {
        budget.MAX_STEPS,
        budget.MAX_TEXT,
        budget.MAX_ITEMS,
        budget.MAX_INT_BITS,
        syntax.MAX_SOURCE,
        syntax.MAX_BRACKETS,
        syntax.MAX_DEPTH,
    }
