"""What the project says about itself, in several places at once, is the same everywhere."""

from __future__ import annotations

import ast
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
TEXTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])


def named_extras() -> set[tuple[str, str]]:
    """Return (extra, file) of every call of `MissingExtra(extra="…")` and `needs(extra="…")` in the package."""
    found: set[tuple[str, str]] = set()
    for file in (ROOT / "flowmason_ray").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("MissingExtra", "needs"):
                for keyword in node.keywords:
                    match keyword:
                        case ast.keyword(arg="extra", value=ast.Constant(value=str(name))):
                            found.add((name, str(file.relative_to(ROOT))))
                        case _:
                            pass
    return found


def test_an_extra_that_an_error_names_can_be_installed() -> None:
    extras = set(PROJECT["optional-dependencies"])
    assert sorted((e, f) for e, f in named_extras() if e not in extras) == []


TOO_HEAVY = {"llama-cpp", "vllm"}
"""Extras that are asked for by name only: one is compiled for ten minutes, the other brings CUDA."""


def test_all_holds_every_extra() -> None:
    (everything,) = PROJECT["optional-dependencies"]["all"]
    inside = re.fullmatch(r"flowmason-ray\[(.+)\]", everything)
    assert inside is not None
    assert sorted(inside[1].split(",")) == sorted(set(PROJECT["optional-dependencies"]) - {"all", *TOO_HEAVY})


def test_every_direct_dependency_has_its_reason_written_down() -> None:
    reasons = (ROOT / "docs" / "adr" / "0002-dependencies.md").read_text(encoding="utf-8")
    extras = [r for name, rs in PROJECT["optional-dependencies"].items() if name != "all" for r in rs]
    names = {re.split(r"[^A-Za-z0-9-]", r, maxsplit=1)[0] for r in [*PROJECT["dependencies"], *extras]}
    assert sorted(n for n in names if n != "flowmason-ray" and f"| {n} |" not in reasons) == []


@pytest.mark.parametrize("text", TEXTS, ids=lambda t: t.relative_to(ROOT).as_posix())
def test_links_between_our_texts_lead_somewhere(text: Path) -> None:
    links = re.findall(r"\]\((?!https?:|#)([^)#\s]+)", text.read_text(encoding="utf-8"))
    assert [link for link in links if not (text.parent / link).exists()] == []
